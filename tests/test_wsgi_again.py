"""Environs that are served again, changes after the answer was handed over, and threads of one request."""

import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
from webob import Request

from sessionware import Session, SessionMiddleware, StoreUnavailable
from sessionware.database import PATIENCE_SECONDS
from sessionware.keys import new_key
from tests.support.site import NAME, Site, ignore, look
from tests.support.wsgi import call, make_environ

PATIENCE = 30.0


@pytest.fixture
def site(sqlite: str) -> Site:
    return Site(sqlite)


def counting(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    session = environ["sessionware.session"]
    session["n"] = session.get("n", 0) + 1
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(session["n"]).encode()]


def changed_on_the_way_out(site: Site, key: str, act: Callable[[Session], Any], status: str) -> None:
    """Serve a page, and set a value behind it."""

    def outer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        body = app(environ, start_response)
        environ["sessionware.session"]["late"] = 1
        return body

    def inner(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        act(environ["sessionware.session"])
        start_response(status, [("Content-Type", "text/plain")])
        return [b"ok"]

    app = SessionMiddleware(inner, site.store)
    call(outer, cookie=f"{NAME}={key}")


def test_an_environ_that_is_served_again_is_a_request_of_its_own(sqlite: str) -> None:
    """Tests and proxies keep a Request: what was in it of the request before decides nothing."""
    app = SessionMiddleware(counting, sqlite)
    key, other = app.store.create({}), app.store.create({"n": 50})
    request = Request.blank("/", headers={"Cookie": f"{NAME}={key}"})
    seen = [(request.get_response(app).text, app.store.read(key)) for _ in range(3)]
    request.headers["Cookie"] = f"{NAME}={other}"

    assert seen == [(str(n), {"n": n}) for n in (1, 2, 3)]
    assert request.get_response(app).text == "51"
    app.store.revoke_all()
    assert "Set-Cookie" in (answer := request.get_response(app)).headers
    assert answer.text == "1"


def test_an_environ_that_is_served_again_without_an_answer_before_is_one_too(site: Site) -> None:
    """A WebSocket's application answers with an empty list and never calls start_response."""
    environ = make_environ(cookie=f"{NAME}={site.begin(name='ada')}")
    seen = []

    def hijacked(environ: dict[str, Any], _start: Any) -> list[bytes]:
        seen.append(environ["sessionware.session"].get("name"))
        return []

    site.middleware.app = hijacked
    site.middleware(environ, lambda *_: None)
    environ["HTTP_COOKIE"] = f"{NAME}={new_key()}"
    site.middleware(environ, lambda *_: None)

    assert seen == ["ada", None]


@pytest.mark.parametrize("page", [ignore, look], ids=["untouched", "read"])
def test_a_change_after_the_answer_was_handed_over_is_stored(site: Site, page: Any) -> None:
    """An outer middleware may change the session on the way out: nobody comes after it, so it is stored at once."""
    key = site.begin(n=1)
    changed_on_the_way_out(site, key, page, "200 OK")

    assert site.values(key) == {"n": 1, "late": 1}


@pytest.mark.parametrize("page", [ignore, look], ids=["untouched", "read"])
def test_a_change_after_an_error_page_is_not_stored(site: Site, page: Any) -> None:
    """From 500 on nothing of the request is."""
    key = site.begin(n=1)
    changed_on_the_way_out(site, key, page, "500 Oops")

    assert site.values(key) == {"n": 1}


@pytest.mark.parametrize("page", [ignore, look], ids=["untouched", "read"])
def test_an_error_page_extends_nothing(sqlite: str, page: Any) -> None:
    """Also with save_every_request (Django S4): no write and no cookie."""
    site = Site(sqlite, save_every_request=True)
    key = site.begin(n=1)
    before = site.rows()
    site.clock.advance(1000)
    visit = site.visit(page, key, status="500 Oops")

    assert (visit.reply.status, visit.set_cookie) == (500, None)
    assert site.rows() == before


def test_threads_of_one_request_share_its_session(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that come to it first at the same moment: neither writes into a copy that nobody stores."""
    key = site.begin(a=0)
    together = threading.Barrier(2, timeout=1)
    read = site.middleware.cookie.read

    def meet(header: str | None) -> Any:
        with suppress(threading.BrokenBarrierError):  # where only one comes they share already
            together.wait()
        return read(header)

    object.__setattr__(site.middleware._settings, "read_cookie", meet)

    def page(session: Any) -> None:
        in_threads(*(partial(session.__setitem__, f"k{i}", i) for i in range(2)))

    site.visit(page, key)

    assert site.values(key) == {"a": 0, "k0": 0, "k1": 1}


def test_an_environ_that_is_served_again_after_an_error_is_a_request_of_its_own(sqlite: str) -> None:
    """A middleware that tries again, as for a deadlock: the second run begins with what is stored, and is stored."""
    runs: list[Any] = []

    def inner(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        body = counting(environ, start_response)
        runs.append(body)
        if len(runs) % 2:
            raise ConnectionError
        return body

    def again(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        with suppress(ConnectionError):
            return app(environ, start_response)
        return app(environ, start_response)

    app = SessionMiddleware(inner, sqlite)
    key = call(again).cookies[NAME]
    reply = call(again, cookie=f"{NAME}={key}")

    assert (reply.text, app.store.read(key)) == ("2", {"n": 2})
    assert runs == [[b"1"], [b"1"], [b"2"], [b"2"]]


def test_an_environ_that_is_served_again_after_an_outage_is_a_request_of_its_own(sqlite: str) -> None:
    """The 503 was an answer too."""
    outages = iter([StoreUnavailable("The database cannot be reached.")])

    def inner(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        body = counting(environ, start_response)
        for outage in outages:
            raise outage
        return body

    app = SessionMiddleware(inner, sqlite)
    key = app.store.create({})
    request = Request.blank("/", headers={"Cookie": f"{NAME}={key}"})

    assert request.get_response(app).status_code == 503
    assert request.get_response(app).text == "1"


def test_a_slow_codec_does_not_bring_back_what_another_thread_has_ended(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row was read before the logout, and is opened after it."""
    key = site.begin(a=1)
    asked, acted = threading.Event(), threading.Event()
    decode = site.store.codec.decode

    def slow(text: str) -> Any:
        asked.set()
        assert acted.wait(PATIENCE)
        return decode(text)

    def page(session: Session) -> Any:
        looking = threading.Thread(target=session.keys)
        monkeypatch.setattr(site.store.codec, "decode", slow)
        looking.start()
        assert asked.wait(PATIENCE)
        session.flush()
        acted.set()
        looking.join(PATIENCE)
        return dict(session)

    visit = site.visit(page, key)

    assert (visit.reply.status, visit.value, visit.clears) == (200, {}, True)
    assert site.rows() == []


class Broken(Exception):
    """What goes wrong in a body."""


def _raising(_start: Any) -> Iterator[bytes]:
    raise Broken
    yield b""


@pytest.mark.parametrize("discarded", [False, True], ids=["that raises", "that is discarded"])
def test_an_environ_that_is_served_again_after_a_body(sqlite: str, discarded: bool) -> None:
    """An error page after a generator that came to nothing has a session of its own."""

    def inner(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/error":
            return counting(environ, start_response)
        environ["sessionware.session"]["lost"] = 1
        return _raising(start_response)

    def again(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        body = app(environ, start_response)
        with suppress(Broken):
            if not discarded:
                list(body)
        body.close()  # type: ignore[attr-defined]  # a generator
        environ["PATH_INFO"] = "/error"
        return app(environ, start_response)

    app = SessionMiddleware(inner, sqlite)
    reply = call(again)

    assert reply.text == "1"
    assert app.store.read(reply.cookies[NAME]) == {"n": 1}


@pytest.mark.parametrize(
    ("act", "user"),
    [
        pytest.param(lambda session: session.login("ann"), "ann", id="login"),
        pytest.param(lambda session: session.flush(), None, id="logout"),
    ],
)
@pytest.mark.parametrize("verb", ["load", "load_any"], ids=["one key", "with a planted one"])
def test_a_thread_that_looks_the_session_up_does_not_undo_what_another_does(
    site: Site, act: Callable[[Session], Any], user: str | None, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A login would be lost without a word, and a logout interrupted, by a look that had begun before."""
    key = site.begin(a=1)
    cookie = f"{NAME}={key}" if verb == "load" else f"{NAME}={new_key()}; {NAME}={key}"
    asked, acted = threading.Event(), threading.Event()
    ask = getattr(site.store, verb)

    def slow(digests: Any) -> Any:
        monkeypatch.undo()
        found = ask(digests)
        asked.set()
        assert acted.wait(PATIENCE)
        return found

    def page(session: Session) -> Any:
        looking = threading.Thread(target=session.keys)
        acting = threading.Thread(target=lambda: (act(session), acted.set()))
        monkeypatch.setattr(site.store, verb, slow)
        looking.start()
        assert asked.wait(PATIENCE)
        acting.start()
        acting.join(PATIENCE)
        looking.join(PATIENCE)
        return session.user_id

    visit = site.visit(page, cookie=cookie)

    assert (visit.reply.status, visit.value) == (200, user)
    assert site.store.read(key) is None
    assert len(site.store.sessions_of("ann")) == site.store.count() == (user is not None)


@pytest.mark.parametrize("body", [iter, lambda items: iter(tuple(items))], ids=["of a list", "of a tuple"])
def test_a_bare_iterator_is_handed_over_as_it_is(sqlite: str, body: Any) -> None:
    """No code of the application runs in it: untouched is untouched."""
    own = body([b"ok"])

    def app(_environ: Any, start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return own  # type: ignore[no-any-return]  # an iterator of bytes

    assert SessionMiddleware(app, sqlite)({"REQUEST_METHOD": "GET"}, lambda *_: None) is own  # type: ignore[arg-type,return-value]  # nothing is written


def test_writers_of_one_process_do_not_wait_in_a_row(sqlite: str) -> None:
    """Behind a lock of somebody else's each has its own patience, not that of all before it."""
    site = Site(sqlite)
    site.store.create_table()
    lock = sqlite3.connect(sqlite.removeprefix("sqlite:///"), isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    refused: list[bool] = []

    def write() -> None:
        try:
            site.store.create({})
        except StoreUnavailable as error:
            refused.append(error.busy)

    writers = [threading.Thread(target=write) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(3 * PATIENCE_SECONDS)
    finished = [not writer.is_alive() for writer in writers]
    lock.execute("ROLLBACK")
    lock.close()
    for writer in writers:
        writer.join(PATIENCE)

    assert finished == [True] * 4
    assert refused == [True] * 4


def in_threads(*works: Callable[[], Any]) -> None:
    """Run each of *works* in a thread of its own, all from the same moment on; return when all have come to an end."""
    together = threading.Barrier(len(works), timeout=PATIENCE)

    def run(work: Callable[[], Any]) -> None:
        together.wait()
        work()

    with ThreadPoolExecutor(len(works)) as pool:
        list(pool.map(run, works))  # and raise what one of them has raised


@pytest.mark.parametrize("known", [False, True], ids=["new", "stored"])
def test_threads_of_one_request_lose_no_increment(site: Site, known: bool) -> None:
    """Each atomic counts, one session is begun, and the end of the request takes nothing back."""

    def increment(values: dict[str, Any]) -> None:
        values["n"] = values.get("n", 0) + 1

    def page(session: Session) -> None:
        session["seen"] = True
        in_threads(*[lambda: [session.atomic(increment) for _ in range(5)]] * 4)

    key = site.begin(n=0) if known else None
    key = site.visit(page, key).key or key
    assert key is not None

    assert site.values(key) == {"n": 20, "seen": True}
    assert site.store.count() == 1


def test_threads_of_one_request_make_one_session_of_a_login(site: Site) -> None:
    """A twin would be a live session of the user whose key nobody has."""

    def page(session: Session) -> None:
        session.login("ann")
        in_threads(session.save, session.save, session.save)

    site.visit(page)

    assert len(site.store.sessions_of("ann")) == 1


def test_a_logout_ends_what_another_thread_of_the_request_stores_meanwhile(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for the login that is under way: no cookie of it is sent, and no row of it stays."""
    site.store.create_table()
    under_way, leaving = threading.Event(), threading.Event()
    insert = site.store.insert

    def slow(*values: Any) -> bool:
        under_way.set()
        leaving.wait(PATIENCE)
        return insert(*values)

    def page(session: Session) -> None:
        session.login("ann")
        storing = threading.Thread(target=session.save)
        storing.start()
        under_way.wait(PATIENCE)
        ending = threading.Thread(target=session.logout)
        ending.start()
        leaving.set()
        for thread in (storing, ending):
            thread.join(PATIENCE)

    monkeypatch.setattr(site.store, "insert", slow)
    visit = site.visit(page)

    assert (visit.key, site.store.sessions_of("ann")) == (None, [])


def test_a_session_marked_as_modified_after_the_answer_is_stored(site: Site) -> None:
    """Nobody comes after it: what ``modified`` says is stored when it is said."""
    key = site.begin(cart=[])

    def page(session: Session) -> Any:
        return session, session["cart"]

    session, cart = site.visit(page, key).value
    cart.append(1)
    session.modified = True

    assert site.store.read(key) == {"cart": [1]}
