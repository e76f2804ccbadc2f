"""The examples in a real gunicorn, as people run them: in a browser, and with curl."""

import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from sessionware import SessionStore
from tests.support.databases import wanted
from tests.support.gunicorn import Gunicorn
from tests.support.jar import Jar

NAME = "__Host-sessionid"
COUNTER = "examples.counter:application"
SHOP = "examples.shop:application"
NOWHERE = "postgresql+psycopg://somebody:hunter2@127.0.0.1:1/nothing"
AWAY = "/no-such-page"  # of the shop: leaves its session alone
SET_COOKIE = rf"^Set-Cookie: {NAME}=([\w-]{{43}}); Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=1209600\r?$"
HOSTILE = """<script>alert("x")</script>&'"""

Shop = tuple[Gunicorn, SessionStore]


class Person:
    """Somebody at a browser: keeps cookies, follows redirects, fills in forms."""

    def __init__(self, server: Gunicorn) -> None:
        self.server = server
        self.jar = Jar()
        self.headers: list[tuple[str, str]] = []

    @property
    def key(self) -> str | None:
        """The session key in the browser."""
        cookie = self.jar.get(NAME)
        return None if cookie is None else cookie.value

    def get(self, path: str = "/", *, method: str = "GET", body: bytes | None = None) -> str:
        """Ask for a page and return its text."""
        status, text = self._ask(path, method, body)
        assert status == 200, (status, text)
        return text

    def status(self, path: str, *, method: str = "GET") -> int:
        """Ask for a page and return its status."""
        return self._ask(path, method, None)[0]

    def fill_in(self, path: str, **fields: str) -> str:
        """Send a form and return the page it leads to."""
        status, _ = self._ask(path, "POST", urlencode(fields).encode())
        assert status == 303
        return self.get(dict(self.headers)["Location"].removeprefix(self.server.url))

    def _ask(self, path: str, method: str, body: bytes | None) -> tuple[int, str]:
        target, now = f"{self.server.url}{path}", time.time()
        headers = {"Content-Type": "application/x-www-form-urlencoded"} if body else {}
        cookie = self.jar.header_for(target, now)
        status, self.headers, content = self.server.request(
            path, cookie=cookie, method=method, headers=headers, body=body
        )
        self.jar.set_from_headers(target, self.headers, now)
        return status, content.decode()


def counts(person: Person, times: int) -> list[int]:
    """Return what the counter says to one visitor at the next visits."""
    return [int(person.get().removeprefix("count=")) for _ in range(times)]


def counter(database: str, folder: Path, **kind: Any) -> Gunicorn:
    """Return a server of the counter. It counts for whom asks whether it is ready, too: as for a stranger."""
    return Gunicorn(COUNTER, folder, environ={"SESSIONWARE_DATABASE": database}, **kind)


def test_counter_counts_across_workers_and_a_restart(any_engine: str, tmp_path: Path) -> None:
    """The session is in the database: any worker, and a new gunicorn, knows what the last one stored."""
    with counter(any_engine, tmp_path, workers=2) as server:
        person, other = Person(server), Person(server)
        before = counts(person, 3)
        server.stop()
        server.start()

        assert before + counts(person, 2) == [1, 2, 3, 4, 5]
        assert counts(other, 1) == [1]


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param({"worker_class": "gthread", "threads": 4}, id="gthread"),
        pytest.param({"worker_class": "gevent"}, id="gevent"),
        pytest.param({"workers": 2, "preload": True}, id="preload"),
    ],
)
def test_counter_counts_in_every_kind_of_worker(sqlite: str, tmp_path: Path, kind: dict[str, Any]) -> None:
    """Nothing but the command line of gunicorn changes."""
    with counter(sqlite, tmp_path, **kind) as server:
        assert counts(Person(server), 3) == [1, 2, 3]


def test_counter_counts_under_gevent_on_servers(any_server: str, tmp_path: Path) -> None:
    """psycopg 3 and PyMySQL wait by the sockets that gevent has replaced."""
    with counter(any_server, tmp_path, worker_class="gevent") as server:
        assert counts(Person(server), 3) == [1, 2, 3]


def test_counter_with_curl_and_its_cookie_jar(sqlite: str, tmp_path: Path) -> None:
    """The lines of the README: curl keeps Secure cookies of the loopback host."""
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("no curl on this machine")
    with counter(sqlite, tmp_path, workers=2) as server:

        def visit() -> str:
            command = [curl, "-sS", "-i", "-c", "jar", "-b", "jar", f"{server.url}/"]
            return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True, timeout=60).stdout

        first, second = visit(), visit()

    keys = [re.findall(SET_COOKIE, answer, re.MULTILINE) for answer in (first, second)]
    assert first.startswith("HTTP/1.1 200 OK")
    assert len(keys[0]) == 1
    assert keys[0] == keys[1], "sent again as its life is longer now, as in Django"
    assert first.endswith("count=1")
    assert second.endswith("count=2")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """The shop, on two workers."""
    if not wanted("sqlite"):
        pytest.skip("sqlite is not wanted")
    folder = tmp_path_factory.mktemp("shop")
    url = f"sqlite:///{folder / 'sessions.db'}"
    with Gunicorn(SHOP, folder, environ={"SESSIONWARE_DATABASE": url}, workers=2, ready=AWAY) as server:
        yield server, SessionStore(url)


def test_shop_sells(shop: Shop) -> None:
    """From the catalogue through the cart to the login and out again."""
    server, store = shop
    person = Person(server)
    catalogue = person.get("/")

    assert catalogue.count("Add to cart") == 4
    assert "Cart (0)" in catalogue
    assert person.key is None, "looking around costs no session"
    person.fill_in("/add", item="beans")
    cart = person.fill_in("/add", item="beans")
    assert "2 x 9.80 €" in cart
    assert "19.60 €" in cart
    assert "Cart (2)" in cart

    before = person.key
    account = person.fill_in("/login", name=f" {HOSTILE} ")
    after = person.key
    assert "2 x 9.80 €" in account, "the cart survives the login"
    assert HOSTILE not in account
    assert "&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;&amp;&#x27;" in account
    assert before is not None
    assert after is not None
    assert before != after
    assert not store.exists(before), "a key from before the login is dead"
    assert store.exists(after)
    assert_rejected(server, before)

    assert "Log in" in person.fill_in("/logout")
    assert person.key is None
    assert not store.exists(after)
    assert_rejected(server, after)
    assert "It is empty" in person.get("/cart")


def assert_rejected(server: Gunicorn, key: str) -> None:
    """Whoever still has *key* has nothing by it."""
    _, _, page = server.request("/cart", cookie=f"{NAME}={key}")

    assert "It is empty" in page.decode()


def test_shop_logs_out_everywhere(shop: Shop) -> None:
    """One click ends the sessions on all devices of this person, and of nobody else."""
    server, store = shop
    phone, laptop, other = (Person(server) for _ in range(3))
    for person, name in ((phone, "ada"), (laptop, "ada"), (other, "bob")):
        person.fill_in("/login", name=name)
    page = phone.fill_in("/logout", everywhere="")

    assert "Log in" in page
    assert "ada" not in laptop.get("/")
    assert "bob" in other.get("/")
    assert store.sessions_of("ada") == []


def test_shop_refuses_nonsense(shop: Shop) -> None:
    """And answers HEAD as GET, without a body."""
    server, _ = shop
    person = Person(server)

    assert person.status(AWAY) == 404
    assert person.status("/%ff") == 404, "a path that is no text"
    assert person.status("/add") == 404, "adding is a POST"
    assert person.get("/", method="HEAD") == ""
    assert dict(person.headers)["Content-Type"].startswith("text/html")
    assert server.request("/add", method="POST", body=b"item=yacht")[0] == 400
    assert server.request("/login", method="POST", body=f"name={'x' * 300}".encode())[0] == 400
    assert person.fill_in("/login", name=" ").count("<form") == 1, "a name is asked for again"
    assert person.key is None
    person.fill_in("/add", item="cup")
    assert "It is empty" in person.fill_in("/empty")


FILE = b'--X\r\nContent-Disposition: form-data; name="%s"; filename="a"\r\n\r\nhi\r\n--X--\r\n'
PARTS = b'--X\r\nContent-Type: multipart/mixed; boundary=Y\r\nContent-Disposition: form-data; name="%s"\r\n\r\n' + (
    b"--Y\r\n\r\nhi\r\n--Y--\r\n--X--\r\n"
)


@pytest.mark.parametrize(("path", "field", "empty"), [("/login", b"name", 303), ("/add", b"item", 400)])
@pytest.mark.parametrize(
    ("kind", "body", "readable"),
    [
        pytest.param("multipart/form-data; boundary=X", FILE, True, id="a file"),
        pytest.param("multipart/form-data; boundary=X", PARTS, True, id="parts within a part"),
        pytest.param("multipart/form-data; boundary=X", b"%s", True, id="no form at all"),
        pytest.param("application/x-www-form-urlencoded", b"%s", True, id="no value"),
        pytest.param("multipart/form-data", FILE, False, id="no boundary"),
        pytest.param("application/x-www-form-urlencoded; charset=nonsense", b"%s=a", False, id="charset"),
    ],
)
def test_shop_takes_no_odd_form_for_a_fault_of_its_own(
    shop: Shop, path: str, field: bytes, empty: int, kind: str, body: bytes, readable: bool
) -> None:
    """Anybody can send a file where the page asks for a name: it is as if nothing was filled in, and no 500."""
    server, _ = shop
    headers = {"Content-Type": kind}
    status, _, _ = server.request(path, method="POST", headers=headers, body=body % field)

    assert status == (empty if readable else 400)


def test_shop_without_its_database(tmp_path: Path) -> None:
    """It starts, pages that need no session answer, the others say when to come again; nobody loses a cookie."""
    with Gunicorn(SHOP, tmp_path, environ={"SESSIONWARE_DATABASE": NOWHERE}, ready=AWAY) as server:
        unused = server.request(AWAY)
        status, headers, body = server.request("/cart", cookie=f"{NAME}={'a' * 43}")
        log = server.stderr

    assert unused[0] == 404
    assert status == 503
    assert dict(headers)["Retry-After"] == "5"
    assert "Set-Cookie" not in dict(headers)
    assert b"psycopg" not in body
    assert "hunter2" not in log
