"""HTTP through the middleware: methods and statuses, headers of the application, mounts and threads (W23-W35)."""

import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from sessionware import ConfigurationError, Session, SessionMiddleware, get_session
from tests.support.apps import KEY, PLAIN, ValidatedSite, as_list, late, nothing
from tests.support.wsgi import Browser, Reply, call, make_environ, validated

NAME = "__Host-sessionid"
DEAD = "x" * 43
BODILESS = ["204 No Content", "304 Not Modified"]


@pytest.fixture
def site(sqlite: str) -> ValidatedSite:
    return ValidatedSite(sqlite)


def read(session: Session) -> Any:
    return session.get("a")


def write(session: Session) -> None:
    session["a"] = session.get("a", 0) + 1


def cookie_of(site: ValidatedSite) -> str:
    return str(site.browser.jar.header_for(site.browser.url, site.clock()))


@pytest.mark.parametrize("shape", [as_list, late], ids=["list", "late"])
def test_HEAD_stores_and_sends_as_GET_does(sqlite: str, shape: Any) -> None:
    """W23: only the body is left out, by the server."""
    site = ValidatedSite(sqlite, shape=shape)
    reply = site.visit(write, method="HEAD")

    assert (reply.status, reply.body, len(reply.set_cookies), site.store.count()) == (200, b"", 1, 1)


@pytest.mark.parametrize("status", BODILESS)
@pytest.mark.parametrize("body", [[], [b""]], ids=["empty", "empty chunk"])
def test_answers_without_a_body_store_a_new_session(sqlite: str, status: str, body: list[bytes]) -> None:
    """W14, W23: the headers must leave although no byte follows."""

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        environ[KEY]["a"] = 1
        start_response(status, [])
        yield from body

    site = ValidatedSite(sqlite, app)
    reply = site.browser.get()

    assert (reply.status, len(reply.set_cookies), site.store.count()) == (int(status[:3]), 1, 1)


@pytest.mark.parametrize(
    ("action", "on_204", "on_304"),
    [
        pytest.param(read, True, False, id="extended"),
        pytest.param(write, True, True, id="changed"),
        pytest.param(lambda session: session.cycle_key(), True, True, id="rotated"),
        pytest.param(lambda session: session.flush(), True, True, id="ended"),
    ],
)
def test_a_304_gets_no_cookie_for_a_mere_touch(site: ValidatedSite, action: Any, on_204: bool, on_304: bool) -> None:
    """W23: a cache writes the headers of a 304 into what it has stored; what merely lives longer can wait."""
    seen = []
    for status in BODILESS:
        site.visit(write)
        site.clock.advance(30 * 24 * 3600 // 4)
        seen.append(len(site.visit(action, status, []).set_cookies) == 1)

    assert seen == [on_204, on_304]


def test_a_304_does_not_put_off_the_cookie_of_the_next_page(sqlite: str) -> None:
    """Who polls with conditional requests between two pages is logged out else, by a browser that had no cookie."""
    site = ValidatedSite(sqlite, idle_timeout=1000, absolute_timeout=None)
    site.visit(write)
    for _ in range(100):
        for seconds, status in ((25, "304 Not Modified"), (25, "304 Not Modified"), (1, "200 OK")):
            site.clock.advance(seconds)
            reply = site.visit(read, status, PLAIN if status == "200 OK" else [])

        assert len(reply.set_cookies) == 1
    assert site.look(read) == 1


def test_a_304_extends_what_is_extended_always(sqlite: str) -> None:
    """With save_every_request the next page sends the cookie anyway."""
    site = ValidatedSite(sqlite, idle_timeout=1000, save_every_request=True)
    site.visit(lambda session: session.login("ann"))
    site.clock.advance(10)
    site.visit(read, "304 Not Modified", [])
    (live,) = site.store.sessions_of("ann")

    assert live.expires_at.timestamp() == site.clock() + 1000


def test_a_change_behind_a_304_is_stored(site: ValidatedSite) -> None:
    """W23: a response without a body is not one without a row."""
    site.visit(write)
    site.visit(write, "304 Not Modified", [])

    assert site.look(read) == 2


def test_early_hints_pass_by(sqlite: str) -> None:
    """W24: they carry no cookie."""
    hints: list[Any] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ[KEY]["a"] = 1
        environ["wsgi.early_hints"]([("Link", "</style.css>")])
        return as_list(nothing)(environ, start_response)  # type: ignore[return-value]

    ValidatedSite(sqlite, app).browser.get(environ={"wsgi.early_hints": hints.append})

    assert hints == [[("Link", "</style.css>")]]


def test_cookies_of_the_application_survive_in_order(site: ValidatedSite) -> None:
    """W26: Set-Cookie headers are never merged."""
    theirs = [("Set-Cookie", "a=1; Path=/"), ("Set-Cookie", "b=2"), ("set-cookie", "a=3; Path=/x")]
    reply = site.visit(write, headers=[*PLAIN, *theirs])

    assert reply.set_cookies[:3] == [value for _, value in theirs]
    assert reply.set_cookies[3].startswith(f"{NAME}=")
    assert site.visit(nothing, headers=[*PLAIN, *theirs]).headers == [*PLAIN, *theirs]


@pytest.mark.parametrize(
    ("action", "ends"),
    [
        pytest.param(write, False, id="set"),
        pytest.param(lambda session: session.flush(), True, id="cleared"),
        pytest.param(
            lambda session: (session.cycle_key(), session.save(), session.cycle_key(), session.update(b=1)),
            False,
            id="rotated twice",
        ),
        pytest.param(
            lambda session: (session.update(b=1), session.save(), session.flush()), True, id="saved and ended"
        ),
        pytest.param(lambda session: (session.flush(), session.update(b=1)), False, id="ended and begun"),
    ],
)
def test_one_cookie_of_our_name_and_the_last_word_is_ours(site: ValidatedSite, action: Any, ends: bool) -> None:
    """W26, S13: whatever happened in the request, and also if the application sets that name itself."""
    site.visit(write)
    reply = site.visit(action, headers=[*PLAIN, ("Set-Cookie", f"{NAME}=theirs; Path=/"), ("Set-Cookie", f"{NAME}x=1")])
    ours = [line for line in reply.set_cookies if line.startswith(f"{NAME}=")]

    assert len(ours) == 1
    assert ours[0].startswith(f"{NAME}=;") is ends
    assert reply.cookies[f"{NAME}x"] == "1"
    assert site.store.count() == (0 if ends else 1)
    if not ends:
        assert site.store.exists(reply.cookies[NAME])


@pytest.mark.parametrize(
    ("said", "vary"),
    [
        pytest.param([], "Cookie", id="nothing"),
        pytest.param(["Accept-Encoding"], "Accept-Encoding, Cookie", id="another"),
        pytest.param(["accept", "Origin"], "accept, Origin, Cookie", id="two headers"),
        pytest.param(["accept, Origin"], "accept, Origin, Cookie", id="two fields"),
        pytest.param(["COOKIE"], "COOKIE", id="there already"),
        pytest.param(["Accept, cookie"], "Accept, cookie", id="there already in a list"),
        pytest.param(["*"], "*", id="all"),
        pytest.param(["Accept", "*"], "*", id="all and more"),
        pytest.param(["", " , "], "Cookie", id="empty"),
        pytest.param(["X-Cookie"], "X-Cookie, Cookie", id="a name that ends alike"),
    ],
)
def test_Vary_is_merged(site: ValidatedSite, said: list[str], vary: str) -> None:
    """W27: once, in one header, whatever the application has said before."""
    reply = site.visit(read, headers=[*PLAIN, *(("vary", value) for value in said)])

    assert reply.header("Vary") == vary
    assert reply.header("Content-Type") == "text/plain"


ACCESSES: dict[str, Callable[[Session], object]] = {
    "in": lambda session: "a" in session,
    "len": len,
    "iter": list,
    "bool": bool,
    "get": lambda session: session.get("a"),
    "keys": lambda session: session.keys(),
    "values": lambda session: session.values(),
    "items": lambda session: session.items(),
    "==": lambda session: session == {},
    "dict": dict,
    "pop missing": lambda session: session.pop("a", None),
    "session_key": lambda session: session.session_key,
    "is_empty": lambda session: session.is_empty(),
    "handle": lambda session: session.handle,
    "user_id": lambda session: session.user_id,
    "created_at": lambda session: session.created_at,
    "get_expiry_age": lambda session: session.get_expiry_age(),
    "test_cookie_worked": lambda session: session.test_cookie_worked(),
    "has_key": lambda session: session.has_key("a"),
    "clear": lambda session: session.clear(),
    "flush": lambda session: session.flush(),
    "modified": lambda session: (session.values(), session.modified),
}


@pytest.mark.parametrize("action", ACCESSES.values(), ids=ACCESSES.keys())
def test_every_access_varies(site: ValidatedSite, action: Any) -> None:
    """W27: CVE-2026-27205 was one kind of access forgotten: a cache then gives one visitor's page to all."""
    assert site.visit(action).header("Vary") == "Cookie"
    site.visit(write)
    assert site.visit(action).header("Vary") == "Cookie"


@pytest.mark.parametrize(
    "action", [repr, lambda session: session.outcome, lambda s: s.accessed], ids=["repr", "outcome", "accessed"]
)
def test_what_tells_nothing_of_the_session_does_not_vary(site: ValidatedSite, action: Any) -> None:
    """W27: a debugger or a log must not make a page private."""
    site.visit(write)

    assert site.visit(action).headers == PLAIN


@pytest.mark.parametrize(
    ("said", "sent"),
    [
        pytest.param([], ["no-store"], id="nothing"),
        pytest.param([("Cache-Control", "public, max-age=600")], ["no-store"], id="public"),
        pytest.param([("cache-control", "s-maxage=600")], ["no-store"], id="shared age"),
        pytest.param([("Cache-Control", "Private, No-Store")], ["Private, No-Store"], id="forbidden already"),
        pytest.param([("Cache-Control", "private"), ("Cache-Control", "no-store")], ["no-store"], id="in two"),
        pytest.param([("Cache-Control", 'private="no-store"')], ["no-store"], id="only in a name"),
        pytest.param([("Surrogate-Control", "max-age=600")], ["no-store"], id="for a surrogate"),
        pytest.param([("CDN-Cache-Control", "public"), ("X-CDN-Cache-Control", "x")], ["no-store"], id="for a CDN"),
    ],
)
def test_nothing_with_our_cookie_may_be_stored(
    site: ValidatedSite, said: list[tuple[str, str]], sent: list[str]
) -> None:
    """W28: over any other wish of the application; without our cookie its wish stands."""
    with_cookie, without = (site.visit(action, headers=[*PLAIN, *said]) for action in (write, nothing))

    assert with_cookie.all("Cache-Control") == sent
    assert not [name for name, _ in with_cookie.headers if name.lower() in ("surrogate-control", "cdn-cache-control")]
    assert without.headers == [*PLAIN, *said]


@pytest.mark.parametrize(
    "around",
    [
        pytest.param('{0}; o="\xe9"', id="bad byte"),
        pytest.param("(illegal)=1; {0}", id="illegal name"),
        pytest.param("x; =y; ;; {0}", id="no pairs"),
        pytest.param(f"{NAME}={DEAD}; {{0}}", id="a dead one before"),
        pytest.param(f"{{0}}; {NAME}={DEAD}", id="a dead one behind"),
        pytest.param(f"{NAME}=short; {{0}}; {NAME}=", id="malformed ones around"),
        pytest.param(f"{NAME}={DEAD}; {{0}}; {NAME}={'y' * 43}; {NAME}={'z' * 43}", id="four"),
    ],
)
def test_our_cookie_is_found_among_others(site: ValidatedSite, around: str) -> None:
    """W29: the one that names a live session counts, wherever it stands."""
    site.visit(write)
    found: list[Any] = []
    reply = site.visit(lambda session: found.append(dict(session)), cookie=around.format(cookie_of(site)))

    assert found == [{"a": 1}]
    assert reply.set_cookies == []


def test_a_header_joined_by_commas_is_nobody(site: ValidatedSite) -> None:
    """W30: some servers join repeated headers so; guessing where a value ends is how attacks begin."""
    site.visit(write)

    assert site.visit(read, cookie=f"a=1,{cookie_of(site)}").text == "None"


def test_a_mount_does_not_change_the_path_of_the_cookie(sqlite: str) -> None:
    """W32: it is an option; SCRIPT_NAME comes from the request."""
    for path, options in {"/": {}, "/shop": {"cookie_path": "/shop"}}.items():
        site = ValidatedSite(sqlite, **options)
        reply = site.visit(write, environ={"SCRIPT_NAME": "/mount;x"})

        assert f"; Path={path};" in reply.set_cookies[0]


def test_wrapped_twice_works_as_wrapped_once(sqlite: str) -> None:
    """W32: the inner one finds a session there, and is inert."""
    inner = SessionMiddleware(as_list(write), sqlite)
    outer = validated(SessionMiddleware(validated(inner), sqlite))
    browser = Browser(outer)
    first, second = browser.get(), browser.get()

    assert [len(first.set_cookies), len(second.set_cookies)] == [1, 1]
    assert first.cookies == second.cookies
    assert inner.store.count() == 1


def test_two_middlewares_with_names_of_their_own_do_not_meet(sqlite: str) -> None:
    """W32: say, one for the shop and one for its administration."""

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        for key in (KEY, "shop.admin"):
            write(get_session(environ, key))
        return as_list(lambda _: environ["shop.admin"]["a"])(environ, start_response)  # type: ignore[return-value]

    inner = SessionMiddleware(validated(app), sqlite, environ_key="shop.admin", cookie_name="__Host-admin")
    browser = Browser(validated(SessionMiddleware(validated(inner), sqlite)))
    replies = [browser.get(), browser.get()]

    assert [set(reply.cookies) for reply in replies] == [{NAME, "__Host-admin"}] * 2
    assert (replies[1].text, inner.store.count()) == ("2", 2)


def test_werkzeug_finds_no_fault_either(sqlite: str) -> None:
    """W33: a third validator, of other authors."""
    from werkzeug.middleware.lint import LintMiddleware

    middleware = SessionMiddleware(LintMiddleware(as_list(write)), sqlite)

    assert call(LintMiddleware(middleware), url="https://shop.example.test").status == 200


def test_nothing_of_a_request_stays_on_the_middleware(site: ValidatedSite) -> None:
    """W34: what one request leaves there, another thread finds."""
    site.visit(write)
    before = dict(vars(site.middleware))
    for action in (nothing, read, write, lambda session: session.login("ann"), lambda session: session.flush()):
        site.visit(action)

    assert vars(site.middleware) == before


def test_threads_see_their_own_session_only(sqlite: str) -> None:
    """W34: sixteen visitors at once, each meeting all others in the middle of the request."""
    crowd = 16
    barrier = threading.Barrier(crowd, timeout=30)

    def meet(session: Session) -> object:
        session["seen"] = [*session.get("seen", []), threading.current_thread().name]
        barrier.wait()
        return session["seen"]

    site = ValidatedSite(sqlite, as_list(meet))
    replies: dict[str, list[Reply]] = {}

    def visit() -> None:
        browser = site.visitor()
        replies[threading.current_thread().name] = [browser.get() for _ in range(3)]

    threads = [threading.Thread(target=visit, name=f"visitor {number}") for number in range(crowd)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(replies) == crowd
    for name, answers in replies.items():
        assert [reply.text for reply in answers] == [str([name] * count) for count in (1, 2, 3)]


@pytest.mark.parametrize("copy", [dict.copy, lambda environ: environ], ids=["copied environ", "same environ"])
def test_a_request_within_a_request_has_the_same_session(sqlite: str, copy: Any) -> None:
    """W35: found in the copied environ by its key, and stored once, by the outer request."""

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        if environ["PATH_INFO"] == "/inner":
            environ[KEY]["inner"] = 1
            return as_list(nothing)(environ, start_response)
        environ[KEY]["outer"] = 1
        inner: list[Any] = []
        body = middleware(copy(environ) | {"PATH_INFO": "/inner"}, lambda *answer: inner.append(answer))
        assert (list(body), inner[0][1]) == ([b"None"], PLAIN)
        return as_list(lambda session: dict(session))(environ, start_response)

    middleware = SessionMiddleware(app, sqlite)
    reply = call(middleware)

    assert reply.text == "{'outer': 1, 'inner': 1}"
    assert len(reply.set_cookies) == 1
    assert middleware.store.read(reply.cookies[NAME]) == {"outer": 1, "inner": 1}


@pytest.mark.parametrize("name", ["environ", "env"])
def test_get_session_takes_an_environ_or_a_request(site: ValidatedSite, name: str) -> None:
    """What frameworks hand around has the environ as an attribute; Falcon calls it env."""
    environ = make_environ()
    session = site.middleware.process_request(environ)

    assert get_session(environ) is get_session(SimpleNamespace(**{name: environ})) is session


@pytest.mark.parametrize(
    "given",
    [None, 5, "environ", object(), SimpleNamespace(environ=None), SimpleNamespace(env="production"), [("a", 1)]],
    ids=lambda given: type(given).__name__,
)
def test_get_session_says_what_it_takes(given: Any) -> None:
    """An AttributeError from inside would say nothing of what to pass."""
    with pytest.raises(ConfigurationError, match=r"^get_session takes a WSGI environ, or a request that has one"):
        get_session(given)


@pytest.mark.parametrize("environ", [{}, {KEY: {}}, {KEY: None}], ids=["nothing", "a dictionary", "None"])
def test_get_session_says_what_is_missing(environ: dict[str, Any]) -> None:
    """A KeyError would say nothing of what to do."""
    with pytest.raises(ValueError, match="wrap the application in SessionMiddleware"):
        get_session(environ)


def test_process_request_and_process_response_work_without_a_call(site: ValidatedSite) -> None:
    """Adapters for frameworks use the two halves; the headers passed in stay as they were."""
    environ, headers = make_environ(), list(PLAIN)
    site.middleware.process_request(environ)["a"] = 1
    sent = site.middleware.process_response(environ, "200 OK", headers)

    assert headers == PLAIN
    assert [name for name, _ in sent] == ["Content-Type", "Vary", "Set-Cookie", "Cache-Control"]
    assert site.store.count() == 1


def test_process_request_gives_the_session_that_is_there(site: ValidatedSite) -> None:
    """An application that calls it again gets what the middleware will store, whatever its body is."""
    environ = make_environ()
    session = site.middleware.process_request(environ)

    assert site.middleware.process_request(environ) is session
    site.middleware.process_response(environ, "200 OK", [])
    assert site.middleware.process_request(environ) is not session  # served again, it is another request


def test_process_response_returns_the_very_headers_of_an_untouched_session(site: ValidatedSite) -> None:
    """Nothing to say, nothing to copy."""
    environ, headers = make_environ(), list(PLAIN)
    site.middleware.process_request(environ)

    assert site.middleware.process_response(environ, "200 OK", headers) is headers
    assert site.middleware.process_response(make_environ(), "200 OK", headers) is headers
    assert site.middleware.redress(make_environ(), "200 OK", headers) is headers
