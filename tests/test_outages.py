"""Outages: lost answers, killed connections, restarts, failovers, locks and a database that is not there.

No fault of the database takes anybody's login, doubles a change, or outlasts its cause.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event, make_url
from sqlalchemy.exc import DBAPIError

from sessionware import SessionMiddleware, StoreUnavailable, keys
from sessionware import database as database_module
from sessionware import engine as engine_module
from sessionware.database import repeatable
from sessionware.statement import Execute
from sessionware.store import SessionStore
from tests.support.apps import counting
from tests.support.clock import Clock
from tests.support.counting import statements
from tests.support.databases import KILL, OTHERS, closing_connections, dialect_of
from tests.support.driver import Call, Proceed, watching
from tests.support.faults import Faults, driver_error
from tests.support.proxy import ToxicProxy
from tests.support.rows import new_record, random_digest
from tests.support.servers import Server
from tests.support.wsgi import Browser, Reply, call

NAME = "__Host-sessionid"
PATIENCE = 20.0


def _app(database: Any, clock: Clock) -> SessionMiddleware:
    return SessionMiddleware(counting, database, clock=clock, purge_interval=None)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten every wait; what is tested is that they end."""
    monkeypatch.setattr(database_module, "PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr(engine_module, "_LOCK_SECONDS", 1)


@pytest.fixture(autouse=True)
def no_connections_left() -> Iterator[None]:
    """The connections to servers of our own are closed here; those of the `database` fixture are closed there."""
    with closing_connections():
        yield


# An answer that is lost


@pytest.mark.parametrize(
    ("path", "lost"),
    [
        pytest.param("/count", b"UPDATE", id="update"),
        pytest.param("/atomic", b"UPDATE", id="atomic"),
        pytest.param("/cycle", b"COMMIT", id="rotation"),
        pytest.param("/cycle", b"INSERT", id="tombstone"),
        pytest.param("/log_out", b"DELETE", id="logout"),
    ],
)
@pytest.mark.parametrize("what", ["reply", "request"])
def test_a_change_is_made_once_whatever_is_lost_on_the_wire(
    networked: str, clock: Clock, path: str, lost: bytes, what: str
) -> None:
    """Done but not acknowledged, or never done: the session's nonce tells, and the visitor notices neither."""
    with ToxicProxy(networked) as wire:
        app = _app(wire.url, clock)
        browser = Browser(app, clock=clock)
        browser.get("/count")
        (wire.drop_reply if what == "reply" else wire.drop_request)(lost)
        reply = browser.get(path)
        after = browser.get("/read").text

        assert wire.losses == 1
        assert reply.status == 200
        assert after == ("None" if path == "/log_out" else "2")
        assert app.store.count() == (path != "/log_out")
        app.store.database.engine.dispose()


@pytest.mark.parametrize("what", ["reply", "request"])
def test_a_session_begins_once_whatever_is_lost_on_the_wire(networked: str, clock: Clock, what: str) -> None:
    """An INSERT that was not acknowledged leaves no second row, and no key that is taken by itself."""
    with ToxicProxy(networked) as wire:
        app = _app(wire.url, clock)
        app.store.create_table()
        (wire.drop_reply if what == "reply" else wire.drop_request)(b"INSERT")
        browser = Browser(app, clock=clock)
        first = browser.get("/count")

        assert wire.losses == 1
        assert (first.text, browser.get("/count").text) == ("1", "2")
        assert app.store.count() == 1
        app.store.database.engine.dispose()


def test_a_connection_may_be_cut_at_any_byte(networked: str, clock: Clock) -> None:
    """Within any reply to any statement of a request: it succeeds all the same, and counts once."""
    with ToxicProxy(networked) as wire:
        app = _app(wire.url, clock)
        browser = Browser(app, clock=clock)
        browser.get("/count")
        expected = 1
        for size in range(0, 400, 11):
            wire.limit(size, once=True)
            reply = browser.get("/count")
            wire.heal()
            expected += 1

            assert (size, reply.status, reply.text) == (size, 200, str(expected))
        assert wire.losses > 10
        app.store.database.engine.dispose()


# Connections that die in the pool


def test_connections_killed_between_requests_are_not_noticed(networked: str, clock: Clock) -> None:
    """As by a firewall, `wait_timeout` or a restart: fifty rounds, all sorts of requests, no error."""
    _check_killing(_app(networked, clock), networked, 50)


def test_connections_of_the_application_that_are_killed_are_not_noticed(any_server: str, clock: Clock) -> None:
    """Its own Engine has no way of checking them before their use, unless it wants one."""
    engine = create_engine(any_server)
    _check_killing(_app(engine, clock), any_server, 20)
    engine.dispose()


def test_many_stale_connections_are_not_noticed(networked: str, clock: Clock) -> None:
    """After a restart all that lie in the pool are dead; a request must not try them one by one."""
    app = _app(networked, clock)
    browsers = [Browser(app, clock=clock) for _ in range(12)]
    killer = create_engine(networked, isolation_level="AUTOCOMMIT")
    for _ in range(3):
        _lend_at_once(app.store, 10)
        _kill_others(killer)

        assert [browser.get("/count").status for browser in browsers] == [200] * 12
    assert [browser.get("/read").text for browser in browsers] == ["3"] * 12
    killer.dispose()


def test_a_connection_that_is_out_when_all_are_given_up_is_not_kept(any_engine: str) -> None:
    """It is as old as those that were found broken: kept for later, it would be the next that fails."""
    store = SessionStore(any_engine)
    store.create_table()
    engine = store.database.engine
    closed: list[Any] = []
    event.listen(engine, "close", lambda connection, _: closed.append(connection))

    def work(execute: Execute) -> Any:
        broken = partial(driver_error, name="OperationalError")
        with Faults(1, broken, disconnect=True, only={"execute"}).on(engine):
            store.count()
        return execute._connection

    out = store.database.transaction(work, repeatable)

    assert out in closed
    assert store.database.in_use() == 0


# A server that goes and comes back


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_postgresql_may_go_and_come_back(private_postgresql: Server, clock: Clock, end: str) -> None:
    """503 meanwhile, and nothing is forgotten."""
    _check_restart(private_postgresql, clock, end)


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_mariadb_may_go_and_come_back(private_mariadb: Server, clock: Clock, end: str) -> None:
    """503 meanwhile, and nothing is forgotten."""
    _check_restart(private_mariadb, clock, end)


def test_postgresql_may_become_read_only(private_postgresql: Server, clock: Clock) -> None:
    """The server was the primary until a failover: its connections are thrown away, not kept for ever."""
    _check_failover(
        private_postgresql,
        clock,
        lambda on: [
            f"ALTER SYSTEM SET default_transaction_read_only = {'on' if on else 'off'}",
            "SELECT pg_reload_conf()",
        ],
    )


def test_mariadb_may_become_read_only(private_mariadb: Server, clock: Clock) -> None:
    """As above, for a user who is no administrator."""
    server = private_mariadb
    server.execute("CREATE USER IF NOT EXISTS clerk@'127.0.0.1'")
    server.execute("GRANT ALL ON *.* TO clerk@'127.0.0.1'")
    server.execute("REVOKE SUPER, READ_ONLY ADMIN ON *.* FROM clerk@'127.0.0.1'")
    _check_failover(server, clock, lambda on: [f"SET GLOBAL read_only = {int(on)}"], user="clerk")


def test_a_packet_that_the_server_refuses_is_no_endless_retry(private_mariadb: Server, clock: Clock) -> None:
    """MariaDB breaks the connection on what exceeds `max_allowed_packet`, each time anew."""
    server = private_mariadb
    server.start()
    server.create_database("packets")
    server.execute("SET GLOBAL max_allowed_packet = 65536")
    try:
        store = SessionStore(server.url(database="packets"), clock=clock)
        key = store.create({"n": 1})
        digest, large = keys.digest(key), new_record(clock(), '{"x":"%s"}' % ("x" * 300_000))
        seen = store.load(digest)
        assert seen is not None
        for attempt in (
            lambda: store.insert(random_digest(), large),
            lambda: store.update(digest, large, seen.revision, int(clock())),
            lambda: store.rotate(digest, random_digest(), large, seen.revision, int(clock())),
            lambda: store.modify(digest, lambda _: large, int(clock())),
        ):
            with pytest.raises(StoreUnavailable):
                attempt()

        assert store.read(key) == {"n": 1}
        store.database.engine.dispose()
    finally:
        server.execute("SET GLOBAL max_allowed_packet = 16777216")


def test_a_table_that_takes_long_to_create_is_used_at_once(
    any_engine: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Our patience may be at its end by then; but who has waited for the table need not go without it."""
    monkeypatch.setattr(database_module, "PATIENCE_SECONDS", 0)

    assert Browser(_app(any_engine, clock), clock=clock).get("/count").text == "1"


def test_a_database_that_is_down_at_the_start(any_server: str, clock: Clock) -> None:
    """The application starts and serves what needs no session; the rest comes by itself."""
    with ToxicProxy(any_server) as wire:
        wire.refuse()
        app = _app(wire.url, clock)
        browser = Browser(app, clock=clock)
        while_down = [browser.get("/static"), browser.get("/count"), browser.get("/read")]
        with_cookie = [_with_cookie(app, path) for path in ("/static", "/read", "/count", "/cycle")]
        wire.heal()

        assert [reply.status for reply in while_down] == [200, 503, 200]
        assert [reply.status for reply in with_cookie] == [200, 503, 503, 503]
        assert [reply.set_cookies for reply in (*while_down, *with_cookie)] == [[]] * 7
        assert [bool(reply.header("Retry-After")) for reply in with_cookie] == [False, True, True, True]
        assert [browser.get("/count").text for _ in range(2)] == ["1", "2"]
        app.store.database.engine.dispose()


def test_a_logout_that_does_not_reach_the_database_is_told(any_server: str, clock: Clock) -> None:
    """The browser is logged out; the answer says that more could not be done."""
    with ToxicProxy(any_server) as wire:
        app = _app(wire.url, clock)
        browser = Browser(app, clock=clock)
        browser.get("/count")
        wire.refuse()
        wire.reset_all()
        reply = browser.get("/log_out")
        wire.heal()

        assert reply.status == 503
        assert reply.cookies == {NAME: ""}
        app.store.database.engine.dispose()


def test_an_outage_takes_nobodys_login(any_server: str, clock: Clock) -> None:
    """Forty visitors, an outage, and all are back where they were: not one cookie was touched."""
    with ToxicProxy(any_server) as wire:
        app = _app(wire.url, clock)
        browsers = [Browser(app, clock=clock) for _ in range(40)]
        assert {browser.get("/count").status for browser in browsers} == {200}
        wire.refuse()
        wire.reset_all()
        replies = [browser.get("/count") for browser in browsers]
        wire.heal()

        assert {reply.status for reply in replies} == {503}
        assert [reply for reply in replies if reply.set_cookies] == []
        assert {browser.get("/count").text for browser in browsers} == {"2"}
        app.store.database.engine.dispose()


# Locks


def test_a_lock_that_does_not_go_is_a_bounded_503(any_engine: str, clock: Clock, impatient: None) -> None:
    """Another program holds the row: the request gives up within its patience, and later all is well."""
    url = f"{any_engine}?timeout=0.1" if dialect_of(any_engine) == "sqlite" else any_engine
    app = _app(url, clock)
    browser = Browser(app, clock=clock)
    browser.get("/count")
    with _Hold(any_engine):
        replies = [browser.get("/count"), browser.get("/cycle")]
        reads = browser.get("/read")

    assert [reply.status for reply in replies] == [503, 503]
    assert [reply.set_cookies for reply in replies] == [[], []]
    assert (reads.status, reads.text) == (200, "1")
    assert app.store.database.in_use() == 0
    assert browser.get("/count").text == "2"


def test_a_lock_that_goes_is_waited_for(any_engine: str, clock: Clock) -> None:
    """A backup, a migration, a slow neighbour: the request takes longer, that is all."""
    app = _app(any_engine, clock)
    browser = Browser(app, clock=clock)
    browser.get("/count")
    replies: list[Reply] = []
    asked = threading.Event()

    def tell(call: Call, proceed: Proceed) -> Any:
        if call.sql.startswith("UPDATE"):
            asked.set()
        return proceed()

    thread = threading.Thread(target=lambda: replies.append(browser.get("/count")))
    with watching(app.store.database.engine, tell):
        with _Hold(any_engine):
            thread.start()
            assert asked.wait(PATIENCE)
        thread.join(PATIENCE)

    assert [(reply.status, reply.text) for reply in replies] == [(200, "2")]


def test_a_pool_without_a_free_connection_is_a_bounded_503(any_engine: str, clock: Clock) -> None:
    """The application holds them all: it is told so, and the page that needs no session does not notice."""
    engine = create_engine(any_engine, pool_size=1, max_overflow=0, pool_timeout=0.05)
    app = _app(engine, clock)
    app.store.create_table()
    browser = Browser(app, clock=clock)
    with engine.connect():
        replies = [browser.get("/count"), browser.get("/static")]
        with pytest.raises(StoreUnavailable) as caught:
            app.store.count()

    assert [reply.status for reply in replies] == [503, 200]
    assert caught.value.busy
    assert browser.get("/count").text == "1"


def test_a_server_that_does_not_answer_is_a_bounded_503(
    mariadb: str, clock: Clock, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes the question and says nothing; on PostgreSQL no client can set such a bound."""
    monkeypatch.setattr(engine_module, "_ANSWER_SECONDS", 1)
    with ToxicProxy(mariadb) as wire:
        app = _app(wire.url, clock)
        browser = Browser(app, clock=clock)
        browser.get("/count")
        wire.hang()
        reply = browser.get("/count")
        wire.heal()

        assert (reply.status, reply.set_cookies) == (503, [])
        assert browser.get("/count").text == "2"
        app.store.database.engine.dispose()


def test_a_server_that_hangs_is_waited_for_once(
    mariadb: str, clock: Clock, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has not been answered in its time is not tried again; of a change is asked once what became of it."""
    monkeypatch.setattr(engine_module, "_ANSWER_SECONDS", 1)
    with ToxicProxy(mariadb) as wire:
        store = SessionStore(wire.url, clock=clock)
        store.create_table()
        works: list[tuple[Callable[[], object], int]] = [
            (lambda: store.load(random_digest()), 1),
            (lambda: store.delete(random_digest()), 1),
            (lambda: store.update(random_digest(), new_record(clock()), 1, int(clock())), 2),
        ]
        wire.hang()
        for work, waits in works:
            with statements(store.database.engine) as calls, pytest.raises(StoreUnavailable):
                work()
            assert len([call for call in calls.all if call.name in ("connect", "execute")]) == waits
        wire.heal()
        store.database.engine.dispose()


def test_a_connection_that_the_server_has_not_is_waited_for(any_server: str, clock: Clock) -> None:
    """It lets no more of us in: one that another request gives back soon will do."""
    app = _app(_for_one_connection(any_server), clock)
    app.store.create_table()
    refused = threading.Event()
    replies: list[Reply] = []

    def tell(call: Call, proceed: Proceed) -> Any:
        try:
            return proceed()
        except Exception:
            refused.set()
            raise

    engine = app.store.database.engine
    app.store.database.connections.drop_all()
    with engine.connect() as lent, watching(engine, tell):
        thread = threading.Thread(target=lambda: replies.append(Browser(app, clock=clock).get("/count")))
        thread.start()
        assert refused.wait(PATIENCE)
        lent.close()
        thread.join(PATIENCE)

    assert [reply.status for reply in replies] == [200]


def _for_one_connection(url: str) -> str:
    """Return *url* for a user whom the server allows one connection at a time."""
    engine, user = create_engine(url, isolation_level="AUTOCOMMIT"), f"one_{make_url(url).database}"[:32]
    words = {
        "postgresql": [
            f"CREATE ROLE {user} LOGIN PASSWORD 'x' CONNECTION LIMIT 1",
            f"GRANT ALL ON SCHEMA public TO {user}",
        ],
        "mariadb": [
            f"CREATE USER {user} IDENTIFIED BY 'x' WITH MAX_USER_CONNECTIONS 1",
            f"GRANT ALL ON *.* TO {user}",
        ],
    }
    with engine.connect() as connection:
        for sql in words[dialect_of(url)]:
            connection.exec_driver_sql(sql)
    engine.dispose()
    return make_url(url).set(username=user, password="x").render_as_string(hide_password=False)


def test_a_server_that_lets_nobody_in_is_a_bounded_503(
    any_server: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It accepts the connection and does not greet."""
    monkeypatch.setattr(engine_module, "_CONNECT_SECONDS", 1)
    monkeypatch.setattr(engine_module, "_ANSWER_SECONDS", 1)
    with ToxicProxy(any_server) as wire:
        app = _app(wire.url, clock)
        wire.hang()
        reply = Browser(app, clock=clock).get("/count")
        wire.heal()

        assert (reply.status, reply.set_cookies) == (503, [])
        assert Browser(app, clock=clock).get("/count").text == "1"
        app.store.database.engine.dispose()


def test_a_full_disk_keeps_nobody_from_reading_or_leaving(sqlite: str, clock: Clock) -> None:
    """New sessions are 503; those that are there can be read and ended, and room brings all back."""
    app = _app(sqlite, clock)
    here, leaving = Browser(app, clock=clock), Browser(app, clock=clock)
    assert [here.get("/count").status, leaving.get("/count").status] == [200, 200]
    with app.store.database.engine.connect() as connection:
        pages_now = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
    event.listen(app.store.database.engine, "connect", _at_most(pages_now))
    app.store.database.engine.dispose()
    app.store.database.connections.drop_all()
    found = [Browser(app, clock=clock).get("/count").status for _ in range(60)]

    assert found[-1] == 503
    assert (here.get("/read").text, leaving.get("/log_out").status) == ("1", 200)
    assert app.store.database.in_use() == 0
    roomy = _app(sqlite, clock)
    assert [call(roomy, "/count").status for _ in range(60)] == [200] * 60


def _at_most(number: int) -> Callable[[Any, object], None]:
    def connect(connection: Any, _record: object) -> None:
        connection.execute(f"PRAGMA max_page_count={number}").close()

    return connect


class _Hold:
    """Somebody who has changed the session's row and does not commit."""

    def __init__(self, url: str) -> None:
        self._engine = create_engine(url)

    def __enter__(self) -> "_Hold":
        self._connection = self._engine.connect()
        begin = {"sqlite": "BEGIN IMMEDIATE"}.get(self._engine.dialect.name)
        if begin:
            self._connection.exec_driver_sql(begin)
        else:
            self._connection.exec_driver_sql("SELECT digest FROM sessionware_session FOR UPDATE").fetchall()
        return self

    def __exit__(self, *error: object) -> None:
        self._connection.rollback()
        self._connection.close()
        self._engine.dispose()


def _with_cookie(app: SessionMiddleware, path: str) -> Reply:
    return call(app, path, cookie=f"{NAME}={keys.new_key()}")


def _kill_others(killer: Engine) -> None:
    """End every other connection to the database."""
    dialect = dialect_of(killer.url.render_as_string())
    with killer.connect() as connection:
        for (number,) in connection.exec_driver_sql(OTHERS[dialect]).fetchall():
            with suppress(DBAPIError):  # it may have gone by itself
                connection.exec_driver_sql(KILL[dialect].format(number))


def _check_killing(app: SessionMiddleware, url: str, rounds: int) -> None:
    browser = Browser(app)
    browser.get("/count")
    killer = create_engine(url, isolation_level="AUTOCOMMIT")
    paths = ["/count", "/read", "/atomic", "/cycle", "/read"]
    found = []
    for number in range(rounds):
        _kill_others(killer)
        found.append(browser.get(paths[number % 5]).status)
    killer.dispose()

    assert found == [200] * rounds
    assert browser.get("/read").text == str(1 + rounds * 3 // 5)


def _lend_at_once(store: SessionStore, count: int) -> None:
    """Have so many connections open at the same time, and given back."""
    together = threading.Barrier(count)
    threads = [
        threading.Thread(target=store.database.transaction, args=[lambda _: together.wait(PATIENCE), repeatable])
        for _ in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)


def _check_restart(server: Server, clock: Clock, end: str) -> None:
    server.start()
    server.create_database("restart")
    app = _app(server.url(database="restart"), clock)
    browser = Browser(app, clock=clock)
    browser.get("/count")
    _lend_at_once(app.store, 5)
    getattr(server, end)()
    down = [browser.get(path) for path in ("/count", "/read", "/static", "/cycle")]
    server.start()

    assert [reply.status for reply in down] == [503, 503, 200, 503]
    assert [reply.set_cookies for reply in down] == [[]] * 4
    assert [browser.get("/count").text for _ in range(2)] == ["2", "3"]
    assert app.store.count() == 1
    app.store.database.engine.dispose()


def _check_failover(
    server: Server, clock: Clock, statements: Callable[[bool], list[str]], user: str | None = None
) -> None:
    server.start()
    server.create_database("failover")
    url = make_url(server.url(database="failover"))
    app = _app(url if user is None else url.set(username=user), clock)
    browser, other = Browser(app, clock=clock), Browser(app, clock=clock)
    assert [browser.get("/count").status, other.get("/count").status] == [200, 200]
    _lend_at_once(app.store, 5)
    try:
        _switch_read_only(server, statements, on=True)
        down = [browser.get(path) for path in ("/count", "/atomic", "/cycle", "/read", "/log_out")]
        fresh = Browser(app, clock=clock).get("/count")
    finally:
        _switch_read_only(server, statements, on=False)

    assert [reply.status for reply in (*down, fresh)] == [503, 503, 503, 200, 503, 503]
    assert [bool(reply.set_cookies) for reply in (*down, fresh)] == [False] * 4 + [True, False]
    assert [other.get("/count").text for _ in range(2)] == ["2", "3"]
    assert app.store.count() == 2
    app.store.database.engine.dispose()


def _switch_read_only(server: Server, statements: Callable[[bool], list[str]], *, on: bool) -> None:
    for statement in statements(on):
        server.execute(statement)
    asked = {"PostgreSQL": "SHOW default_transaction_read_only", "MariaDB": "SELECT @@read_only"}[server.kind.name]
    wanted = ("on", "1") if on else ("off", "0")
    deadline = time.monotonic() + PATIENCE
    while str(server.execute(asked)[0][0]) not in wanted:  # a reload takes its time
        assert time.monotonic() < deadline
