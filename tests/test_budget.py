"""What a request costs: its statements at the driver, its flights on the wire, and its hold on connections."""

import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, make_url

from sessionware import SessionMiddleware, keys
from tests.support.clock import Clock
from tests.support.counting import statements
from tests.support.databases import dialect_of
from tests.support.proxy import FlightCounter
from tests.support.wsgi import Browser, Reply, call

THREADS = 20
PATIENCE = 20.0

WAL_HEADER, FRAME_HEADER, PAGE = 32, 24, 4096  # of SQLite, in bytes

Page = Callable[[Any], object]


def touch_nothing(session: Any) -> None:
    """A page that does not know of sessions."""


def read(session: Any) -> object:
    """A page that shows who is there."""
    return session.get("n")


def read_nested(session: Any) -> object:
    """A page that is handed something it could change, and does not."""
    return len(session["cart"])


def change(session: Any) -> None:
    """A page that counts."""
    session["n"] = session.get("n", 0) + 1


def change_nested(session: Any) -> None:
    """A page that changes what it was handed."""
    session["cart"].append("more")


def change_unread(session: Any) -> None:
    """A page that sets without looking."""
    session["n"] = 7


def change_nothing(session: Any) -> None:
    """A page that sets what is there already."""
    session["n"] = session["n"]


def start(session: Any) -> None:
    """The first write of a visit."""
    session.update(n=1, cart=["a"])


def log_in(session: Any) -> None:
    session.login("bob")


def log_out(session: Any) -> None:
    session.logout()


def save_early(session: Any) -> None:
    """A new session that is stored before the page is done."""
    session["n"] = 1
    session.save()


def clear(session: Any) -> None:
    session.clear()


def cycle(session: Any) -> None:
    session.cycle_key()


def look_at_key(session: Any) -> object:
    return session.session_key


PAGES: dict[str, Page] = {
    f"/{page.__name__}": page
    for page in (
        *(touch_nothing, read, read_nested, change, change_nested, change_unread, change_nothing),
        *(start, save_early, log_in, log_out, clear, cycle, look_at_key),
    )
}


def pages(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    """The application: one page for each thing to do with a session."""
    found = PAGES[environ["PATH_INFO"]](environ["sessionware.session"])
    start_response("200 OK", [])
    return [str(found).encode()]


@pytest.fixture
def app(database: str, clock: Clock) -> SessionMiddleware:
    """The application on a database with a table."""
    return _app(database, clock)


def _app(database: Any, clock: Clock, **options: Any) -> SessionMiddleware:
    app = SessionMiddleware(pages, database, clock=clock, purge_interval=None, **options)
    app.store.create_table()
    return app


def _cost(app: SessionMiddleware, request: Callable[[], Reply]) -> list[str]:
    """Return the verbs of the statements of one request, and nothing but statements may there be."""
    with statements(app.store.database.engine) as calls:
        assert request().status == 200
    assert calls.names == ["execute"] * len(calls)
    return calls.verbs


def _visitor(app: SessionMiddleware, clock: Clock) -> Browser:
    browser = Browser(app, clock=clock)
    assert browser.get("/start").cookies
    return browser


def test_requests_with_a_session_cost(app: SessionMiddleware, clock: Clock) -> None:
    """One statement to read, one more to write, none for what did not change; a rotation is one transaction."""
    rotation = ["SELECT", "BEGIN", "UPDATE", "INSERT", "COMMIT", "SELECT"]
    expected = {
        "/touch_nothing": [],
        "/look_at_key": [],
        "/read": ["SELECT"],
        "/read_nested": ["SELECT"],
        "/change_nothing": ["SELECT"],
        "/change": ["SELECT", "UPDATE"],
        "/change_nested": ["SELECT", "UPDATE"],
        "/change_unread": ["SELECT", "UPDATE"],
        "/cycle": rotation,
        "/log_in": rotation,
        "/log_out": ["DELETE"],
    }
    browser = _visitor(app, clock)

    assert {path: _cost(app, lambda path=path: browser.get(path)) for path in expected} == expected


@pytest.mark.parametrize("cookie", [None, "__Host-sessionid=tooshort", "__Host-sessionid=", "other=1"])
def test_visitors_without_a_session_cost(app: SessionMiddleware, cookie: str | None) -> None:
    """Nothing until there is something to store, whatever nonsense the browser sends for a cookie."""
    expected = {
        "/touch_nothing": [],
        "/look_at_key": [],
        "/read": [],
        "/clear": [],
        "/log_out": [],
        "/cycle": [],
        "/start": ["INSERT"],
        "/log_in": ["INSERT", "SELECT"],
    }

    assert {path: _cost(app, lambda path=path: call(app, path, cookie=cookie)) for path in expected} == expected


@pytest.mark.parametrize("names", [1, 4, 9])
def test_unknown_keys_cost(app: SessionMiddleware, names: int) -> None:
    """One look, by the primary key, at up to four keys; none where they are too many to be ours, but for a logout."""
    look = ["SELECT"] if names < 9 else []
    expected = {
        "/touch_nothing": [],
        "/read": look,
        "/clear": look,
        "/start": [*look, "INSERT"] if look else [],  # nothing is written where nobody can tell whose it is
        "/log_out": look if names == 4 else ["DELETE", "SELECT"],
    }
    cookie = "; ".join(f"__Host-sessionid={keys.new_key()}" for _ in range(names))

    assert {path: _cost(app, lambda path=path: call(app, path, cookie=cookie)) for path in expected} == expected


def test_a_second_live_cookie_costs_one_look(app: SessionMiddleware, clock: Clock) -> None:
    """Both are found in one statement, and neither is written."""
    cookies = [_visitor(app, clock).jar.header_for("https://example.test/", clock()) for _ in range(2)]
    with statements(app.store.database.engine) as calls:
        reply = call(app, "/read", cookie="; ".join(str(cookie) for cookie in cookies))

    assert reply.text == "None"
    assert calls.verbs == ["SELECT"]


def test_a_use_is_noted_no_more_often_than_it_matters(app: SessionMiddleware, clock: Clock) -> None:
    """A twentieth of the idle timeout passes between two extensions of a session that is only read."""
    browser = _visitor(app, clock)
    twentieth = timedelta(days=14) / 20
    found = []
    for step in (twentieth - timedelta(seconds=1), timedelta(seconds=1), timedelta(seconds=1)):
        clock.advance(step)
        with statements(app.store.database.engine) as calls:
            found.append((bool(browser.get("/read").cookies), calls.verbs))

    assert found == [(False, ["SELECT"]), (True, ["SELECT", "UPDATE"]), (False, ["SELECT"])]


def test_requests_cost_with_save_every_request(database: str, clock: Clock) -> None:
    """An unused session is extended in one statement, without being loaded; one that is stored needs no other."""
    expected = {
        "/touch_nothing": ["UPDATE"],
        "/read": ["SELECT", "UPDATE"],
        "/change": ["SELECT", "UPDATE"],
        "/log_out": ["DELETE"],
    }
    app = _app(database, clock, save_every_request=True)
    browser = _visitor(app, clock)

    def visit(path: str) -> Reply:
        clock.advance(1)
        return browser.get(path)

    assert {path: _cost(app, lambda path=path: visit(path)) for path in expected} == expected
    with statements(app.store.database.engine) as calls:
        call(app, "/save_early")
    assert calls.verbs == ["INSERT"]


def test_with_save_every_request_a_visitor_without_a_session_costs_nothing(any_engine: str, clock: Clock) -> None:
    """There is nothing to extend."""
    app = _app(any_engine, clock, save_every_request=True)
    with statements(app.store.database.engine) as calls:
        replies = [call(app, "/touch_nothing", cookie=cookie) for cookie in (None, "__Host-sessionid=x")]

    assert [reply.set_cookies for reply in replies] == [[], []]
    assert calls.verbs == []


# On the wire


def test_a_request_is_as_many_flights_as_statements(networked: str, clock: Clock) -> None:
    """Nothing travels beside the statements: no BEGIN, no COMMIT, no ROLLBACK, no ping, no SET."""
    expected = {"/touch_nothing": 0, "/read": 1, "/change": 2, "/change_nested": 2, "/change_nothing": 1}
    with FlightCounter(networked) as wire:
        app = _app(wire.url, clock)
        visitors = [_visitor(app, clock) for _ in range(8)]
        for visitor in visitors[:6]:  # psycopg prepares a statement at its fifth use, once a connection
            for path in (*expected, "/log_out"):
                visitor.get(path)
        visitors = [_visitor(app, clock) for _ in range(8)]
        wire.reset()
        starts = [_flights(wire, Browser(app, clock=clock), "/start") for _ in range(8)]
        rounds = [{path: _flights(wire, visitors[0], path) for path in expected} for _ in range(8)]
        ends = [_flights(wire, visitor, "/log_out") for visitor in visitors]
        sent = wire.sent.upper()
        app.store.database.engine.dispose()

    assert starts == [1] * 8
    assert rounds == [expected] * 8
    assert ends == [1] * 8
    assert [word for word in (b"BEGIN", b"COMMIT", b"ROLLBACK", b"START TRANSACTION") if word in sent] == []


def _flights(wire: FlightCounter, browser: Browser, path: str) -> int:
    before = wire.count
    assert browser.get(path).status == 200
    return wire.count - before


# The hold on connections


def test_no_connection_is_held_while_the_application_runs(any_engine: str, clock: Clock) -> None:
    """Twenty requests that are all in the middle of their work share a pool of one."""
    engine = create_engine(any_engine, pool_size=1, max_overflow=0, pool_timeout=5)
    together = threading.Barrier(THREADS)

    def meet(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        session = environ["sessionware.session"]
        session["n"] = session.get("n", 0) + 1
        together.wait(PATIENCE)
        start_response("200 OK", [])
        return [b""]

    app = SessionMiddleware(meet, engine, clock=clock, purge_interval=None)
    app.store.create_table()
    replies: list[Reply] = []
    threads = [threading.Thread(target=lambda: replies.append(call(app))) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)

    assert [reply.status for reply in replies] == [200] * THREADS
    assert app.store.count() == THREADS
    assert app.store.database.in_use() == 0


@pytest.mark.parametrize("borrowed", [False, True], ids=["url", "engine"])
def test_nothing_is_left_open_by_any_page(any_engine: str, clock: Clock, borrowed: bool) -> None:
    """Neither a connection nor a transaction, in the middle of a request or after it."""
    engine = create_engine(any_engine) if borrowed else any_engine
    held: list[int] = []

    def watched(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        body = pages(environ, start_response)
        held.append(app.store.database.in_use())
        return body

    app = SessionMiddleware(watched, engine, clock=clock, purge_interval=None)
    browser = Browser(app, clock=clock)
    for path in PAGES:
        browser.get("/start")
        browser.get(path)
        held.append(app.store.database.in_use())

    assert set(held) == {0}
    _assert_nothing_locks(any_engine)


def _assert_nothing_locks(url: str) -> None:
    """Another connection can change the whole table at once."""
    engine = create_engine(url)
    with engine.begin() as connection:
        if dialect_of(url) == "postgresql":
            connection.exec_driver_sql("SET lock_timeout = '1s'")
        connection.exec_driver_sql("ALTER TABLE sessionware_session RENAME TO away")
    engine.dispose()


@pytest.mark.parametrize("length", [10, 20_000])
def test_a_save_on_sqlite_writes_the_one_page_that_has_changed(sqlite: str, clock: Clock, length: int) -> None:
    """What follows the values in a row lies on the last of their pages: nothing that a save changes may."""
    app = _app(sqlite, clock)
    cookie = f"__Host-sessionid={app.store.create({'n': 1_000_000, 'long': 'x' * length})}"
    with app.store.database.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    assert call(app, "/change", cookie=cookie).body == b"None"

    assert Path(f"{make_url(sqlite).database}-wal").stat().st_size == WAL_HEADER + FRAME_HEADER + PAGE
