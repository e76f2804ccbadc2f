"""The table: made once while many processes start, complete, found by its indexes, never made again unasked."""

import logging
import subprocess
import sys
import time
from contextlib import suppress
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.schema import CreateIndex, CreateTable

from sessionware import ConfigurationError, SessionMiddleware, StoreUnavailable, make_table
from sessionware.database import repeatable
from sessionware.store import SessionStore
from sessionware.table import TABLE_NAME
from tests.support.apps import counting
from tests.support.clock import Clock
from tests.support.counting import statements
from tests.support.databases import dialect_of, held
from tests.support.driver import Call, Proceed, watching
from tests.support.faults import driver_error, every_call
from tests.support.first_start import store_of_round
from tests.support.rows import new_record, put, put_many, random_digest
from tests.support.wsgi import Browser

INDEXES = {f"ix_{TABLE_NAME}_user_id", f"ix_{TABLE_NAME}_purge_hour"}
PATIENCE = 120


# While many start


def test_eight_processes_that_start_together_all_find_a_table(database: str) -> None:
    """Whoever comes first makes it; nobody fails, neither at `create_table` nor at a first use."""
    rounds = 20 if dialect_of(database) == "sqlite" else 3
    _start_together(database, 8, rounds)

    for number in range(rounds):
        store = store_of_round(database, number)
        assert store.count() == 8
        assert {index["name"] for index in sa.inspect(store.database.engine).get_indexes(store.table.name)} == {
            f"ix_{store.table.name}_user_id",
            f"ix_{store.table.name}_purge_hour",
        }


def test_a_hundred_processes_that_start_together_all_find_a_table(any_engine: str) -> None:
    """A deployment on a large machine: all workers meet the empty database at once."""
    _start_together(any_engine, 100, 1)

    assert store_of_round(any_engine, 0).count() == 100


# What is made


def test_making_the_table_twice_changes_nothing(database: str) -> None:
    """`sessionware init` may run at each deployment."""
    store = SessionStore(database)
    store.create_table()
    key = store.create({"kept": True})
    store.create_table()
    SessionStore(database).create_table()

    assert SessionStore(database).read(key) == {"kept": True}


@pytest.mark.parametrize("missing", [pytest.param({name}, id=name[-10:]) for name in sorted(INDEXES)] + [INDEXES])
def test_missing_indexes_are_completed(database: str, missing: set[str]) -> None:
    """A process that died between the table and its indexes has left a table without them."""
    store = SessionStore(database)
    store.create_table()
    key = store.create({"kept": True})
    for index in store.table.indexes:
        if index.name in missing:
            index.drop(store.database.engine)
    store.create_table()

    assert _indexes(store) == INDEXES
    assert store.read(key) == {"kept": True}


def test_a_table_that_took_long_to_make_is_used(sqlite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever had to make it has no patience left, and needs none."""
    store = SessionStore(sqlite)
    began, made = time.monotonic(), []
    monkeypatch.setattr("sessionware.database.time.monotonic", lambda: began + 100 * len(made))
    monkeypatch.setattr(store.database, "_create_missing", lambda: made.append(store.create_table()))

    assert store.read(store.create({"a": 1})) == {"a": 1}


def test_a_creation_that_is_cut_off_leaves_no_table_without_indexes(any_engine: str) -> None:
    """Whoever comes next finds a table, and would not look whether it is complete."""
    for faults in every_call(KeyboardInterrupt(), mode="after", only={"execute"}):
        store = SessionStore(any_engine)
        with suppress(KeyboardInterrupt), faults.on(store.database.engine):
            store.create_table()
        assert held(any_engine) == []  # a server may take a moment to see that a connection is closed
        store.create({})

        assert _indexes(store) == INDEXES
        store.table.drop(store.database.engine)


def test_a_creation_whose_connection_breaks_is_made_again(any_engine: str) -> None:
    """At whichever statement: what was made already is found, and what is missing is added."""
    for faults in every_call(
        lambda engine: driver_error(engine, "OperationalError"), mode="after", disconnect=True, only={"execute"}
    ):
        store = SessionStore(any_engine)
        with faults.on(store.database.engine):
            store.create_table()

        assert _indexes(store) == INDEXES
        store.table.drop(store.database.engine)


def test_a_migration_tool_makes_the_same_table(database: str) -> None:
    """`make_table` in the application's own metadata, created by SQLAlchemy, serves a store that creates nothing."""
    metadata = sa.MetaData()
    table = make_table(metadata)
    engine = sa.create_engine(database)
    metadata.create_all(engine)
    store = SessionStore(database, create_table=False)
    key = store.create({"a": 1}, "bob")

    assert metadata.tables[TABLE_NAME] is table
    assert store.read(key) == {"a": 1}
    assert _ddl(table, engine.dialect) == _ddl(store.table, engine.dialect)
    assert _indexes(store) == INDEXES


@pytest.mark.parametrize("name", ["", "a b", 's"; DROP TABLE x;--', "x.y", "9lives", "é", "a" * 41, "a\n", None, 7])
def test_a_table_name_is_a_plain_name(name: Any) -> None:
    """It goes into statements as text."""
    with pytest.raises(ConfigurationError, match="table_name"):
        make_table(sa.MetaData(), name)
    with pytest.raises(ConfigurationError, match="table_name"):
        SessionStore("sqlite://", name)


@pytest.mark.parametrize("name", ["a" * 40, "_x", "Select", "Sessions_2"])
def test_a_table_of_another_name_works_alike(any_engine: str, name: str) -> None:
    """Reserved words and capitals are quoted; index names fit the shortest limit of any engine."""
    store = SessionStore(any_engine, name)
    key = store.create({"a": 1}, "bob")
    digest = random_digest()
    seen = new_record(store.clock())
    store.insert(digest, seen)

    assert SessionStore(any_engine, name).read(key) == {"a": 1}
    assert store.rotate(digest, random_digest(), new_record(store.clock()), seen.revision, int(store.clock()))
    assert store.revoke_user("bob") == 1
    assert store.purge() == 0


def test_a_migration_tool_that_makes_it_meanwhile_is_no_trouble(networked: str) -> None:
    """It takes no turn: between our look and our step the table may come to be there."""
    store = SessionStore(networked)
    engine = sa.create_engine(networked)

    def make(call: Call, proceed: Proceed) -> Any:
        if "CREATE TABLE" in str(call.sql) and not sa.inspect(engine).has_table(TABLE_NAME):
            store.table.create(engine)
        return proceed()

    with watching(store.database.engine, make):
        store.create_table()

    assert store.create({"a": 1})
    engine.dispose()


@pytest.mark.parametrize("engine_of_server", ["MyISAM", "Aria"])
def test_the_table_has_transactions_whatever_the_default(mariadb: str, engine_of_server: str) -> None:
    """A rotation that breaks between its two statements is undone, or the session is lost."""
    url = f"{mariadb}?init_command=SET%20default_storage_engine%3D{engine_of_server}"
    store = SessionStore(url)
    store.create_table()
    with store.database.engine.connect() as connection:
        found = connection.exec_driver_sql(
            "SELECT engine, row_format FROM information_schema.tables WHERE table_schema = DATABASE()"
        ).all()

    assert [tuple(row) for row in found] == [("InnoDB", "Dynamic")]


def test_a_role_that_may_use_no_language_makes_the_table(postgresql: str) -> None:
    """The better compression is an option: what asks for it is a block of code."""
    admin = sa.create_engine(postgresql, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        for statement in (
            "DROP ROLE IF EXISTS plain_role",
            "CREATE ROLE plain_role LOGIN",
            "GRANT ALL ON SCHEMA public TO plain_role",
            "REVOKE USAGE ON LANGUAGE plpgsql FROM PUBLIC",
        ):
            connection.exec_driver_sql(statement)
    store = SessionStore(sa.make_url(postgresql).set(username="plain_role"))
    try:
        assert store.read(store.create({"a": 1})) == {"a": 1}
    finally:
        store.database.connections.drop_all()
        with admin.connect() as connection:
            connection.exec_driver_sql("GRANT USAGE ON LANGUAGE plpgsql TO PUBLIC")
            connection.exec_driver_sql("DROP OWNED BY plain_role")
            connection.exec_driver_sql("DROP ROLE plain_role")
        admin.dispose()


def test_a_table_that_is_altered_meanwhile_is_used_on(networked: str) -> None:
    """A migration widens a column: statements prepared before it are prepared anew, and nobody gets a 503."""
    store = SessionStore(networked)
    key = store.create({"a": 1})
    for _ in range(10):
        assert store.read(key) == {"a": 1}
    admin = sa.create_engine(networked)
    kind = "ALTER COLUMN user_id TYPE text" if admin.dialect.name == "postgresql" else "MODIFY user_id VARCHAR(300)"
    with admin.begin() as connection:
        connection.exec_driver_sql(f"ALTER TABLE {TABLE_NAME} {kind}")
    admin.dispose()

    assert store.read(key) == {"a": 1}
    assert store.create({"b": 1})


def test_a_table_whose_index_has_another_owner_is_not_said_to_be_there(postgresql: str) -> None:
    """The old table was renamed, and its indexes kept their names, which belong to the schema."""
    store = SessionStore(postgresql)
    store.create_table()
    with store.database.engine.connect() as connection:
        connection.exec_driver_sql(f"ALTER TABLE {TABLE_NAME} RENAME TO kept")
    with pytest.raises(StoreUnavailable, match="taken"):
        SessionStore(postgresql).create_table()


# Where there is none


def test_without_leave_no_table_is_made(database: str, caplog: pytest.LogCaptureFixture) -> None:
    """Session pages answer 503 and the log says what to do; all other pages do not notice."""
    app = SessionMiddleware(counting, database, create_table=False)
    with caplog.at_level(logging.INFO, "sessionware"):
        replies = [
            Browser(app).get("/static"),
            Browser(app).get("/"),
            Browser(app).get("/"),
            Browser(app).get("/static"),
        ]
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]

    assert [reply.status for reply in replies] == [200, 503, 503, 200]
    assert replies[1].header("Retry-After")
    assert replies[1].set_cookies == []
    assert "sessionware init" in record.getMessage()
    assert not sa.inspect(app.store.database.engine).has_table(TABLE_NAME)


def test_the_service_resumes_when_the_table_is_made(database: str) -> None:
    """By `sessionware init`, without a restart."""
    app = SessionMiddleware(counting, database, create_table=False)
    browser = Browser(app)
    assert browser.get("/").status == 503
    SessionStore(database).create_table()

    assert [browser.get("/").text for _ in range(2)] == ["1", "2"]


def test_a_table_that_vanishes_is_not_made_again(database: str) -> None:
    """It may be away for a migration: an empty one in its place would log everybody out for good."""
    app = SessionMiddleware(counting, database)
    engine = sa.create_engine(database)
    browser = Browser(app)
    browser.get("/")
    with engine.begin() as connection:
        connection.execute(sa.text(f"ALTER TABLE {TABLE_NAME} RENAME TO away"))
    during = [browser.get("/"), Browser(app).get("/"), browser.get("/static")]
    assert not sa.inspect(engine).has_table(TABLE_NAME)
    with engine.begin() as connection:
        connection.execute(sa.text(f"ALTER TABLE away RENAME TO {TABLE_NAME}"))

    assert [reply.status for reply in during] == [503, 503, 200]
    assert [reply.set_cookies for reply in during] == [[], [], []]
    assert browser.get("/").text == "2"


def test_a_table_that_was_only_written_to_is_not_made_again_either(sqlite: str) -> None:
    """A process that has begun sessions and read none knows that it was there."""
    store = SessionStore(sqlite)
    store.create({})
    with store.database.engine.connect() as connection:
        connection.exec_driver_sql(f"DROP TABLE {TABLE_NAME}")

    with pytest.raises(StoreUnavailable):
        store.create({})


def test_a_table_that_cannot_be_made_is_a_fault_of_the_database(sqlite: str) -> None:
    """A database that may only be read: 503 with a log line, no crash."""
    SessionStore(sqlite, "other").create_table()
    path = sa.make_url(sqlite).database
    store = SessionStore(f"sqlite:///file:{path}?mode=ro&uri=true")

    with pytest.raises(StoreUnavailable) as caught:
        store.create_table()
    assert str(path) not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


# How its rows are found


def test_rows_are_found_by_their_indexes(database: str, clock: Clock) -> None:
    """Each statement of a request by the primary key, a user's by the user, the purge's by the hour."""
    store = SessionStore(database, clock=clock)
    store.create_table()
    _fill(store, clock)
    digest = random_digest()
    seen = new_record(clock())
    now = int(clock())
    with statements(store.database.engine) as calls:
        store.load(digest)
        store.load_any([digest, random_digest()])
        store.update(digest, seen, 1, now)
        store.touch(digest, seen, now)
        store.touch_unseen(digest, store.lifetime, now)
        store.delete(digest)
        store.revoke("0" * 32)
        store.revoked_since("7", 0.0, [])
        by_key = len(calls)
        store.sessions_of("7")
        store.database.write(
            store._sql.delete_user, {"user_id": "7", "low": b"\xff" * 32, "high": b"\x00" * 32}, repeatable
        )
        by_user = len(calls)
        store.database.read(store._sql.list_due, {"hour": now // 3600, "now": now, "size": 1000})
    put(store, seen, digest)  # MariaDB has no plan for a key that is not there
    plans = [_plan(store, call.sql, call.parameters) for call in calls.statements]

    assert by_key == 9
    assert [_key_used(plan, store) for plan in plans[:by_key]] == ["primary"] * by_key
    assert [_key_used(plan, store) for plan in plans[by_key:by_user]] == ["user_id"] * 2
    assert [_key_used(plan, store) for plan in plans[by_user:]] == ["purge_hour"]


def _start_together(url: str, processes: int, rounds: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.first_start", url, str(processes), str(rounds)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )

    assert done.returncode == 0, f"{done.returncode} failed:\n{done.stderr[-3000:]}"


def _indexes(store: SessionStore) -> set[str | None]:
    return {index["name"] for index in sa.inspect(store.database.engine).get_indexes(store.table.name)}


def _ddl(table: sa.Table, dialect: sa.Dialect) -> list[str]:
    indexes = sorted(table.indexes, key=lambda index: str(index.name))
    return [str(ddl.compile(dialect=dialect)) for ddl in (CreateTable(table), *map(CreateIndex, indexes))]


def _fill(store: SessionStore, clock: Clock) -> None:
    """Put so many rows there that no planner prefers to read them all."""
    records = [new_record(clock(), user_id=str(number), lives=number * 100 - 2000) for number in range(3000)]
    put_many(store, records)
    analyze = "ANALYZE TABLE {}" if dialect_of(str(store.database.engine.url)) == "mariadb" else "ANALYZE {}"
    with store.database.engine.connect() as connection:
        connection.exec_driver_sql(analyze.format(store.table.name))


def _plan(store: SessionStore, sql: str, parameters: Any) -> str:
    explain = "EXPLAIN QUERY PLAN " if store.database.dialect.name == "sqlite" else "EXPLAIN "
    connection = store.database.engine.raw_connection()
    try:
        cursor = connection.cursor()
        cursor.execute(explain + sql, parameters)
        return "\n".join(str(tuple(row)) for row in cursor.fetchall())
    finally:
        connection.close()


def _key_used(plan: str, store: SessionStore) -> str:
    name = store.table.name
    marks = {
        "user_id": f"ix_{name}_user_id",
        "purge_hour": f"ix_{name}_purge_hour",
        "primary": {"sqlite": f"sqlite_autoindex_{name}_1", "postgresql": f"{name}_pkey"}.get(
            store.database.dialect.name, "'PRIMARY', '"
        ),
    }
    # MariaDB lists the keys it might use before the one it uses.
    used = [key for key, mark in marks.items() if mark in plan.replace("'PRIMARY,", "'")]
    return ", ".join(used) if used else plan
