"""Engines: the application's own is used and left as it was; a wrong URL is told at once; a fork shares nothing."""

import ctypes
import os
import signal
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import NullPool, SingletonThreadPool, StaticPool

from sessionware import ConfigurationError, SessionMiddleware, StoreUnavailable, keys
from sessionware import database as database_module
from sessionware import engine as engine_module
from sessionware.record import Lifetime, new_revision
from sessionware.statement import Statement
from sessionware.store import SessionStore
from tests.support.apps import counting
from tests.support.clock import Clock
from tests.support.databases import dialect_of
from tests.support.rows import new_record, put, random_digest
from tests.support.wsgi import Browser

# Python 3.12 warns of a fork beside other threads, which is what some tests here are about.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")

SECRET = "hunter2-hunter2"
PATIENCE = 20.0


class Base(DeclarativeBase):
    """The application's own models."""


class Order(Base):
    """A row of the application's."""

    __tablename__ = "app_order"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(50))


# Every way an application may have set up its engine, in SQLAlchemy's words or in its driver's.


def _by_option(level: str) -> Callable[[str], sa.Engine]:
    return lambda url: sa.create_engine(url, isolation_level=level)


def _own_events_on_sqlite(url: str) -> sa.Engine:
    """SQLAlchemy's own recipe for savepoints: the driver does not begin, the engine does."""
    engine = sa.create_engine(url)

    @sa.event.listens_for(engine, "connect")
    def connect(connection: Any, _record: object) -> None:
        connection.isolation_level = None

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    return engine


def _own_session_setting(url: str) -> sa.Engine:
    """A connect listener that speaks to the server itself."""
    statements = {
        "postgresql": "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ",
        "mariadb": "SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        "sqlite": "PRAGMA read_uncommitted = 1",
    }
    engine = sa.create_engine(url)

    @sa.event.listens_for(engine, "connect")
    def connect(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        cursor.execute(statements[dialect_of(url)])
        cursor.close()
        connection.commit()

    return engine


def _by_driver(url: str) -> sa.Engine:
    """A connect listener that speaks to the driver."""
    engine = sa.create_engine(url)

    @sa.event.listens_for(engine, "connect")
    def connect(connection: Any, _record: object) -> None:
        if engine.driver == "psycopg2":
            connection.set_session(isolation_level="SERIALIZABLE")
        elif engine.driver == "psycopg":
            from psycopg import IsolationLevel

            connection.isolation_level = IsolationLevel.SERIALIZABLE
        elif engine.dialect.name == "sqlite":
            connection.isolation_level = "IMMEDIATE"
        else:
            connection.autocommit(True)

    return engine


ENGINES = [
    pytest.param(sa.create_engine, id="default"),
    pytest.param(_by_option("SERIALIZABLE"), id="serializable"),
    pytest.param(_by_option("AUTOCOMMIT"), id="autocommit"),
    pytest.param(lambda url: sa.create_engine(url, poolclass=NullPool), id="null-pool"),
    pytest.param(lambda url: sa.create_engine(url, pool_pre_ping=True, pool_size=1, max_overflow=0), id="pre-ping"),
    pytest.param(_own_session_setting, id="own-session-setting"),
    pytest.param(_by_driver, id="own-driver-setting"),
]


@pytest.mark.parametrize("make", ENGINES)
def test_an_engine_of_the_application_is_left_as_it_was(
    database: str, clock: Clock, make: Callable[[str], sa.Engine]
) -> None:
    """Its connections begin and isolate as before, on the server and in the driver, after every verb of ours."""
    engine = make(database)
    _check_left_alone(engine, clock)
    engine.dispose()


def test_a_repeatable_read_engine_is_left_as_it_was(networked: str, clock: Clock) -> None:
    """As above; SQLite knows no such level."""
    engine = sa.create_engine(networked, isolation_level="REPEATABLE READ")
    _check_left_alone(engine, clock)
    engine.dispose()


def test_an_engine_with_the_savepoint_recipe_is_left_as_it_was(sqlite: str, clock: Clock) -> None:
    """What SQLAlchemy's documentation recommends for SQLite."""
    engine = _own_events_on_sqlite(sqlite)
    _check_left_alone(engine, clock)
    engine.dispose()


@pytest.mark.parametrize("make", ENGINES[:3])
def test_an_open_transaction_of_the_application_is_not_touched(
    any_engine: str, clock: Clock, make: Callable[[str], sa.Engine]
) -> None:
    """Its pending objects are neither committed nor rolled back while sessions come and go."""
    engine = make(any_engine)
    Base.metadata.create_all(engine)
    store = SessionStore(engine, clock=clock)
    store.create_table()
    with Session(engine) as orm:
        orm.add(Order(id=1, name="pending"))
        if engine.dialect.name != "sqlite":
            orm.flush()  # on SQLite an open write would keep our writes waiting
        _use_every_verb(store, clock)

        assert orm.in_transaction() or engine.dialect.name == "sqlite"
        assert len(orm.new) == (1 if engine.dialect.name == "sqlite" else 0)
        orm.rollback()
    with Session(engine) as orm:
        kept = orm.get(Order, 1)
        assert (kept is not None) == (make is ENGINES[2].values[0] and engine.dialect.name != "sqlite")
    engine.dispose()


def _one_for_all(_url: str) -> sa.Engine:
    return sa.create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})


def _one_a_thread(_url: str) -> sa.Engine:
    return sa.create_engine("sqlite://")


@pytest.mark.parametrize("make", [_one_for_all, _one_a_thread])
def test_a_database_in_memory_of_the_application_is_shared(clock: Clock, make: Callable[[str], sa.Engine]) -> None:
    """It has one connection, perhaps with a transaction of the application on it, which stays the application's."""
    engine = make("")
    Base.metadata.create_all(engine)
    store = SessionStore(engine, clock=clock)
    store.create_table()
    _check_left_alone(engine, clock)
    with Session(engine) as orm:
        orm.add(Order(id=1, name="pending"))
        orm.flush()
        key = store.create({"a": 1})
        assert store.read(key) == {"a": 1}
        orm.rollback()
    with Session(engine) as orm:
        assert orm.get(Order, 1) is None
    engine.dispose()


def test_a_database_in_memory_serves_threads(clock: Clock) -> None:
    """A URL of ours: all threads take turns with the one connection there is."""
    app = SessionMiddleware(counting, "sqlite://", clock=clock, purge_interval=None)
    browsers = [Browser(app, clock=clock) for _ in range(8)]
    threads = [threading.Thread(target=lambda b=b: [b.get("/") for _ in range(20)]) for b in browsers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)

    assert [browser.get("/").text for browser in browsers] == ["21"] * 8
    assert app.store.count() == 8
    app.store.database.engine.dispose()


# What is wrong is told at construction


@pytest.mark.parametrize(
    ("url", "says"),
    [
        pytest.param("", "database URL", id="empty"),
        pytest.param("no url at all", "database URL", id="text"),
        pytest.param(f"postgresql://bob:{SECRET}@host:port/x", "database URL", id="port"),
        pytest.param(f"oracle://bob:{SECRET}@host/x", "must be one of", id="dialect"),
        pytest.param(f"mssql+pyodbc://bob:{SECRET}@host/x", "must be one of", id="other-dialect"),
        pytest.param(f"unheard://bob:{SECRET}@host/x", "must be one of", id="unknown"),
        pytest.param(f"postgresql+nodriver://bob:{SECRET}@host/x", "driver", id="unknown-driver"),
        pytest.param(f"postgresql+pg8000://bob:{SECRET}@host/x", "not installed", id="missing-driver"),
        pytest.param(f"mysql+mysqlconnector://bob:{SECRET}@host/x", "not installed", id="missing-mysql-driver"),
        pytest.param(f"postgresql+asyncpg://bob:{SECRET}@host/x", "not installed", id="asynchronous"),
        pytest.param("sqlite:///x.db?timeout=soon", "option", id="option"),
        pytest.param(f"mysql+pymysql://bob:{SECRET}@host/x?charset=utf8", "utf8mb4", id="charset"),
        pytest.param(None, "database URL", id="none"),
        pytest.param(7, "database URL", id="number"),
        pytest.param(object(), "database URL", id="object"),
    ],
)
def test_a_wrong_database_is_told_at_once(url: Any, says: str) -> None:
    """Which rule it breaks, and never its password."""
    with pytest.raises(ConfigurationError, match=says) as caught:
        SessionMiddleware(counting, url)

    assert SECRET not in _everything_of(caught.value)


@pytest.mark.parametrize("query", ["", "?charset=utf8mb4", "?charset=UTF8MB4"])
def test_a_character_set_that_holds_all_characters_is_taken(query: str) -> None:
    """However it is written."""
    SessionStore(f"mysql+pymysql://bob@127.0.0.1:1/x{query}")


def test_an_asynchronous_engine_is_refused() -> None:
    """WSGI waits for nobody's event loop."""
    engine = sa.create_engine("sqlite://")
    engine.dialect.is_async = True

    with pytest.raises(ConfigurationError, match="WSGI"):
        SessionStore(engine)


@pytest.mark.parametrize("wrap", [str, sa.make_url, sa.create_engine], ids=["text", "url", "engine"])
def test_no_password_in_what_is_shown_of_a_store(wrap: Callable[[str], Any]) -> None:
    """Neither in its repr nor in what an unreachable database leads to."""
    store = SessionStore(wrap(f"postgresql+psycopg://bob:{SECRET}@127.0.0.1:1/x"))
    with pytest.raises(StoreUnavailable) as caught:
        store.count()

    assert SECRET not in _everything_of(caught.value)
    assert SECRET not in repr((store, store.database, store.database.engine))


@pytest.mark.parametrize("event", ["connect", "checkout"])
@pytest.mark.parametrize("pool", [sa.QueuePool, NullPool], ids=["queue", "null"])
def test_a_listener_that_begins_a_transaction_takes_no_write_with_it(
    database: str, clock: Clock, event: str, pool: type[sa.Pool]
) -> None:
    """One SET, or one line of an audit, without a commit: the pool would roll back what we had stored after it."""
    engine = sa.create_engine(database, poolclass=pool)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE audit (n INTEGER)")

    def listen(connection: Any, *_rest: object) -> None:
        cursor = connection.cursor()
        cursor.execute("INSERT INTO audit VALUES (1)")
        cursor.close()

    sa.event.listen(engine, event, listen)
    store = SessionStore(engine, clock=clock)
    made = [store.create({"a": n}) for n in range(3)]
    sa.event.remove(engine, event, listen)

    assert [SessionStore(database, clock=clock).read(key) for key in made] == [{"a": 0}, {"a": 1}, {"a": 2}]
    engine.dispose()


@pytest.mark.parametrize("pool", [StaticPool, SingletonThreadPool])
def test_a_connection_that_is_shared_is_refused(database: str, pool: type[sa.Pool]) -> None:
    """A look at a session would commit what the application has under way, or a save would go with its rollback."""
    engine = sa.create_engine(database, poolclass=pool)

    with pytest.raises(ConfigurationError, match="database must have a pool"):
        SessionStore(engine)


@pytest.mark.parametrize("make", [sa.create_engine, _one_for_all], ids=["default", "static"])
def test_an_error_takes_no_database_in_memory_with_it(clock: Clock, make: Callable[[str], sa.Engine]) -> None:
    """Closing the connection on which it happened would be the end of all tables of the application."""
    engine = make("sqlite://")
    store = SessionStore(engine, clock=clock)
    store.create_table()
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE orders (n INTEGER)")
        connection.exec_driver_sql(f"ALTER TABLE {store.table.name} DROP COLUMN expiry")
    with pytest.raises(StoreUnavailable):
        store.create({})

    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM orders").scalar_one() == 0
    engine.dispose()


def test_a_purge_within_a_transaction_of_the_application_is_part_of_it(clock: Clock) -> None:
    """In memory there is one connection, and no log that could be copied back."""
    engine = _one_for_all("sqlite://")
    store = SessionStore(engine, clock=clock)
    store.create({})
    clock.advance(30 * 86_400)
    with engine.connect() as connection:
        connection.exec_driver_sql("CREATE TABLE orders (n INTEGER)")
        connection.exec_driver_sql("INSERT INTO orders VALUES (1)")

        assert store.purge() == 1
        connection.rollback()
    assert store.count_expired() == 1
    engine.dispose()


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_a_file_that_may_only_be_read_is_read(sqlite: str, clock: Clock, journal: str) -> None:
    """Whatever its journal: its mode cannot be changed, and need not be."""
    path = sqlite.removeprefix("sqlite:///")
    writer = SessionStore(sqlite, clock=clock)
    key = writer.create({"a": 1})
    writer.database.connections.drop_all()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute(f"PRAGMA journal_mode = {journal}").fetchall() == [(journal,)]
    store = SessionStore(f"sqlite:///file:{path}?mode=ro&uri=true", clock=clock)

    assert store.read(key) == {"a": 1}
    with pytest.raises(StoreUnavailable):
        store.create({})
    store.database.engine.dispose()


def test_a_file_whose_mode_somebody_keeps_is_read_as_it_is(
    sqlite: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backup reads a file without a log, which cannot get one meanwhile: no session has to wait for its end."""
    naps: list[float] = []
    monkeypatch.setattr(engine_module, "time", SimpleNamespace(monotonic=lambda: sum(naps), sleep=naps.append))
    store = SessionStore(sqlite, clock=clock)
    key = store.create({"a": 1})
    store.database.connections.drop_all()
    with closing(sqlite3.connect(sqlite.removeprefix("sqlite:///"), isolation_level=None)) as backup:
        assert backup.execute("PRAGMA journal_mode = delete").fetchall() == [("delete",)]
        backup.execute("BEGIN")
        backup.execute(f"SELECT * FROM {store.table.name}").fetchone()

        assert store.read(key) == {"a": 1}
        assert 0 < sum(naps) < 1
        backup.execute("COMMIT")
        assert store.create({}) is not None
    store.database.connections.drop_all()
    assert store.database.read(Statement(sa.text("PRAGMA journal_mode"), store.database.dialect), {}) == [("wal",)]


@pytest.mark.parametrize(
    "mode", ["", "ANSI_QUOTES", "EMPTY_STRING_IS_NULL", "NO_BACKSLASH_ESCAPES", "ORACLE", "PAD_CHAR_TO_FULL_LENGTH"]
)
def test_mariadb_may_speak_another_sql(mariadb: str, clock: Clock, mode: str) -> None:
    """In Oracle's, BEGIN begins a block and not a transaction; where no text is null, one is no filler for a null."""
    store = SessionStore(f"{mariadb}?init_command=SET%20sql_mode%3D%27{mode}%27", clock=clock)
    key = store.create({"a": "\\'"}, 42)
    digest, new = keys.digest(key), random_digest()
    seen = store.load(digest)
    assert seen is not None
    assert store.rotate(digest, new, seen, seen.revision, int(clock()))
    nobody = keys.digest(store.create({"b": 1}))

    assert store.load(new) == seen
    assert (seen.user_id, seen.expiry) == ("42", None)
    assert [info.user_id for info in store.sessions_of("42")] == ["42"]
    assert store.revoke_user("42") == 1
    assert store.revoke_all() == 1
    assert store.load(nobody) is None


def test_mariadb_waits_for_no_lock_longer_than_for_a_row(mariadb: str) -> None:
    """A backup locks tables, and by default a statement waits a day for that: long after its request was answered."""
    store = SessionStore(mariadb)
    values = store.database.read(
        Statement(sa.text("SELECT @@lock_wait_timeout, @@innodb_lock_wait_timeout"), store.database.dialect), {}
    )

    assert [tuple(row) for row in values] == [(5, 5)]


def test_what_a_server_begins_after_a_commit_keeps_nothing_back(mariadb: str, clock: Clock) -> None:
    """With completion_type=CHAIN each COMMIT begins a transaction: all that is written after it would be lost."""
    store = SessionStore(f"{mariadb}?init_command=SET%20completion_type%3D1", clock=clock)
    digest = keys.digest(store.create({"a": 1}))
    seen = store.load(digest)
    assert seen is not None
    new = random_digest()
    assert store.rotate(digest, new, seen, seen.revision, int(clock()))
    key = store.create({"b": 1})
    elsewhere = SessionStore(mariadb, clock=clock)

    assert elsewhere.load(new) == seen
    assert elsewhere.read(key) == {"b": 1}


def test_a_pooler_that_parts_a_lock_from_its_release_is_told_of(
    any_server: str, caplog: pytest.LogCaptureFixture
) -> None:
    """In transaction mode each statement may go to another connection of the server, and the lock stays on one."""
    store = SessionStore(any_server)
    lost = {"postgresql": "SELECT pg_advisory_unlock_all()"}.get(
        store.database.dialect.name, "SELECT RELEASE_ALL_LOCKS()"
    )
    with caplog.at_level("WARNING", "sessionware"):
        store.database.elected("purge", lambda run: run(Statement(sa.text(lost), store.database.dialect), {}))
    (record,) = caplog.records

    assert "pooler" in record.getMessage()
    caplog.clear()
    store.create_table()
    store.purge()
    assert caplog.records == []


def test_the_threads_of_a_forked_child_start_it_anew_once(sqlite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as come first together: a second start would take from the first what it lends."""
    store = SessionStore(sqlite)
    store.create_table()
    leave, left = store.database.leave_to_parent, []
    together = threading.Barrier(2, timeout=PATIENCE)

    def slow() -> object:
        left.append(1)
        with suppress(threading.BrokenBarrierError):
            together.wait(0.2)  # for another one that comes to it too
        return leave()

    monkeypatch.setattr(store.database, "leave_to_parent", slow)
    monkeypatch.setattr(database_module, "_birthmark", bytearray(1))
    threads = [threading.Thread(target=store.count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)

    assert left == [1]


@pytest.mark.parametrize("where", ["file::memory:?uri=true", "file:shop?mode=memory&cache=shared&uri=true"])
def test_sqlite_memory_by_uri_is_one_database_for_all_threads(where: str, clock: Clock) -> None:
    """Each connection of its own would see a database of its own, or be the last that keeps it."""
    store = SessionStore(f"sqlite:///{where}", clock=clock)
    key = store.create({"a": 1})
    seen: list[Any] = []
    threads = [threading.Thread(target=lambda: seen.append(store.read(key))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)

    assert seen == [{"a": 1}] * 4
    store.database.engine.dispose()


def test_sqlite_that_cannot_open_its_log_is_told_at_once(sqlite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk, for instance: only for a lock it is worth to wait."""
    store = SessionStore(sqlite)
    store.create_table()
    store.database.connections.drop_all()
    path = sqlite.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = delete").fetchall()
    with open(path, "r+b") as file:
        file.write(b"no database at all")
    waits: list[float] = []
    monkeypatch.setattr("sessionware.engine.time.sleep", waits.append)
    with pytest.raises(StoreUnavailable):
        store.count()

    assert waits == []


# Forks


@pytest.mark.parametrize("borrowed", [False, True], ids=["url", "engine"])
@pytest.mark.parametrize("fork", [os.fork, ctypes.PyDLL(None).fork], ids=["python", "c"])
@pytest.mark.parametrize("advice", [database_module._MADV_WIPEONFORK, 9999], ids=["this kernel", "another system"])
def test_a_forked_child_uses_connections_of_its_own(
    database: str,
    clock: Clock,
    fork: Callable[[], int],
    advice: int,
    borrowed: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Four children of a process with open connections ask at once; nobody reads another's answers.

    uWSGI forks in C, and Python hears nothing of it.
    """
    monkeypatch.setattr(database_module, "_MADV_WIPEONFORK", advice)
    monkeypatch.setattr(database_module, "_birthmark", database_module._new_birthmark())
    store = SessionStore(sa.create_engine(database) if borrowed else database, clock=clock)
    made = {number: store.create({"number": number}) for number in range(5)}

    def ask(number: int) -> bool:
        if number % 2:
            store.create({})
        return all(store.read(made[number]) == {"number": number} for _ in range(50))

    children = [_fork(lambda n=n: ask(n), fork) for n in range(4)]
    mine = ask(4)

    assert [_join(child) for child in children] == [True] * 4
    assert mine
    assert ask(0)
    assert store.create({}) is not None
    store.database.engine.dispose()


def test_forked_children_make_revisions_of_their_own() -> None:
    """Or two workers would leave the same mark, and one would take the save of the other for its own."""
    reading, writing = os.pipe()
    for _ in range(3):
        assert _join(_fork(lambda: os.write(writing, b"%d\n" % new_revision()) > 0))
    os.close(writing)
    with os.fdopen(reading) as told:
        made = {*map(int, told), new_revision()}

    assert len(made) == 4


def test_a_forked_child_may_write_while_its_parent_does(sqlite: str, clock: Clock) -> None:
    """The queue of writers is held by a thread of the parent that the child does not have."""
    store = SessionStore(f"{sqlite}?timeout=10", clock=clock)
    store.create_table()
    with store.database.turn:
        held = threading.Thread(target=lambda: None)
        held.start()
        held.join()
        child = _fork(lambda: bool(store.create({"a": 1})))

        assert _join(child)
    assert store.count() == 1


def test_a_fork_from_a_thread_that_does_not_hold_the_queue(sqlite: str, clock: Clock) -> None:
    """As above, with the queue held by another thread: the one that will never release it in the child."""
    store = SessionStore(f"{sqlite}?timeout=10", clock=clock)
    store.create_table()
    holds, done = threading.Event(), threading.Event()

    def hold() -> None:
        with store.database.turn:
            holds.set()
            done.wait(PATIENCE)

    holder = threading.Thread(target=hold)
    holder.start()
    assert holds.wait(PATIENCE)
    child = _fork(lambda: bool(store.create({"a": 1})))
    found = _join(child)
    done.set()
    holder.join()

    assert found


def _use_every_verb(store: SessionStore, clock: Clock) -> None:
    now = int(clock())
    seen = new_record(now, user_id="bob")
    digest, new = put(store, seen), random_digest()
    assert store.touch_unseen(digest, Lifetime(), now)
    assert store.update(digest, seen, seen.revision, now)
    assert store.rotate(digest, new, seen, seen.revision, now)
    store.modify(new, lambda found: seen, now)
    assert not store.insert(new, new_record(now))
    assert store.load_any([new, digest])
    with pytest.raises(keys.KeyTaken):
        store.rotate(new, digest, seen, seen.revision, now)
    with pytest.raises(LookupError):
        store.modify(new, _refuse, now)
    assert store.sessions_of("bob")
    assert store.revoke_user("bob") == 1
    store.purge()
    store.revoke_all()


def _refuse(_found: object) -> Any:
    raise LookupError


def _check_left_alone(engine: sa.Engine, clock: Clock) -> None:
    before = _manners(engine)
    store = SessionStore(engine, clock=clock)
    store.create_table()
    assert _manners(engine) == before
    _use_every_verb(store, clock)

    assert _manners(engine) == before
    assert store.database.in_use() == 0


def _manners(engine: sa.Engine) -> dict[str, Any]:
    """Return how a connection of *engine* behaves, as the server, SQLAlchemy and the driver tell it."""
    with engine.connect() as connection:
        driver: Any = connection.connection.dbapi_connection
        found: dict[str, Any] = {
            "level": connection.get_isolation_level(),
            "default": connection.default_isolation_level,
        }
        if engine.dialect.name == "sqlite":
            found["driver"] = driver.isolation_level
        elif engine.dialect.name == "postgresql":
            found["driver"] = (driver.autocommit, driver.isolation_level)
            found["session"] = connection.exec_driver_sql("SHOW default_transaction_isolation").scalar_one()
            found["now"] = connection.exec_driver_sql("SHOW transaction_isolation").scalar_one()
        else:
            found["driver"] = bool(driver.get_autocommit())
            found["session"] = tuple(connection.exec_driver_sql("SELECT @@autocommit, @@tx_isolation").one())
        return found


def _everything_of(error: BaseException | None) -> str:
    """Return all that a traceback could show of an error, with its causes and the locals of its frames."""
    shown = []
    while error is not None:
        shown.append(repr(error) + str(error) + repr(vars(error)))
        assert error.__cause__ is None
        error = error.__context__
    return "\n".join(shown)


def _fork(work: Callable[[], bool], fork: Callable[[], int] = os.fork) -> int:
    child = fork()
    if child == 0:
        signal.alarm(int(PATIENCE))  # two on one connection may wait for ever
        try:
            os._exit(0 if work() else 1)
        finally:
            os._exit(2)
    return child


def _join(child: int) -> bool:
    return os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize(
    ("options", "milliseconds"),
    [
        pytest.param("", 5, id="ours"),
        pytest.param("?timeout=10", 10_000, id="theirs"),
        pytest.param("?uri=true&mode=memory&cache=shared", 5000, id="no log"),
        pytest.param("?uri=true&mode=memory&cache=shared&timeout=10", 10_000, id="no log, theirs"),
    ],
)
def test_sqlite_itself_waits_for_a_lock_as_long_as_this(sqlite: str, options: str, milliseconds: int) -> None:
    """Between two looks it sleeps up to 100 ms; only without a log it has to, to keep new readers out meanwhile."""
    url = f"{sqlite.replace(':///', ':///file:')}{options}" if "uri" in options else f"{sqlite}{options}"
    store = SessionStore(url)
    connection = store.database.engine.raw_connection()
    try:
        assert connection.cursor().execute("PRAGMA busy_timeout").fetchall() == [(milliseconds,)]
    finally:
        connection.close()
        store.database.engine.dispose()
