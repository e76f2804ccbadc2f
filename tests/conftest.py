"""The servers of a test run, and the fixtures every test may ask for."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import databases
from tests.support.clock import Clock
from tests.support.databases import KINDS, SQLITE, Flavour, Room
from tests.support.isolation import PLACES, Address, Place
from tests.support.servers import Server, start_mariadb, start_postgresql

SERVERS = pytest.StashKey[list[Server]]()
THREAD_PATIENCE = 3.0

# Threads that stay for the whole run, by choice.
LASTING_THREADS = ("process-starter",)


def pytest_configure(config: pytest.Config) -> None:
    """Start the servers, once a run: here in the process that also starts the workers, if any."""
    if hasattr(config, "workerinput") or config.option.collectonly:
        return
    config.stash[SERVERS] = databases.start_servers()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop the servers that this process started."""
    if SERVERS not in config.stash:
        return
    for server in config.stash[SERVERS]:
        server.close()
    databases.forget_servers()


def pytest_report_header() -> list[str]:
    """Say which databases the tests run on."""
    return databases.report()


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still until advanced."""
    return Clock()


@pytest.fixture(params=databases.installed_flavours(), ids=lambda flavour: flavour.id)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database, on every engine through every driver."""
    with _fresh_database(request.param, request, tmp_path) as url:
        yield url


@pytest.fixture(params=["sqlite", *sorted(KINDS)])
def any_engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database on each engine, through its primary driver."""
    with _fresh_database(_primary(request.param), request, tmp_path) as url:
        yield url


@pytest.fixture
def sqlite(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an SQLite file that is not there yet."""
    with _fresh_database(SQLITE, request, tmp_path) as url:
        yield url


@pytest.fixture
def postgresql(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database on PostgreSQL, through psycopg."""
    with _fresh_database(_primary("postgresql"), request, tmp_path) as url:
        yield url


@pytest.fixture
def mariadb(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database on MariaDB, through PyMySQL."""
    with _fresh_database(_primary("mariadb"), request, tmp_path) as url:
        yield url


@pytest.fixture(params=sorted(KINDS))
def any_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database on each engine that is reached over a network."""
    with _fresh_database(_primary(request.param), request, tmp_path) as url:
        yield url


@pytest.fixture(params=PLACES, ids=lambda place: place.id)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Address]:
    """An empty database on every engine, and at every isolation level through an application's Engine."""
    wanted: Place = request.param
    flavour = SQLITE if wanted.dialect == "sqlite" else _primary(wanted.dialect)
    with _fresh_database(flavour, request, tmp_path) as url:
        yield Address(url, wanted.level)


@pytest.fixture(params=databases.server_flavours(), ids=lambda flavour: flavour.id)
def networked(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database as `database` gives it, but only where there is a network between."""
    with _fresh_database(request.param, request, tmp_path) as url:
        yield url


@pytest.fixture(scope="module")
def private_postgresql() -> Iterator[Server]:
    """A PostgreSQL server for this module alone, to stop, kill and start again."""
    yield from _private("postgresql", start_postgresql)


@pytest.fixture(scope="module")
def private_mariadb() -> Iterator[Server]:
    """A MariaDB server for this module alone, to stop, kill and start again."""
    yield from _private("mariadb", start_mariadb)


@pytest.fixture(scope="session")
def rooms() -> Iterator[dict[str, Room]]:
    """The databases this worker has made so far, by dialect."""
    made: dict[str, Room] = {}
    yield made
    for room in made.values():
        room.close()


@pytest.fixture(autouse=True)
def no_threads_left() -> Iterator[None]:
    """Fail a test that leaves a thread running."""
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + THREAD_PATIENCE
    while (left := _new_threads(before)) and time.monotonic() < deadline:
        left[0].join(0.05)

    assert not left, f"still running: {', '.join(thread.name for thread in left)}"


@contextmanager
def _fresh_database(flavour: Flavour, request: pytest.FixtureRequest, folder: Path) -> Iterator[str]:
    _skip_unwanted(flavour.dialect)
    fresh = _sqlite_file(folder) if flavour is SQLITE else _server_database(flavour, request)
    with fresh as url:
        yield url


@contextmanager
def _sqlite_file(folder: Path) -> Iterator[str]:
    path = folder / "sessions.db"
    with databases.closing_connections():
        yield f"sqlite:///{path}"

        assert not databases.locked(path), "a transaction was left open"


@contextmanager
def _server_database(flavour: Flavour, request: pytest.FixtureRequest) -> Iterator[str]:
    room = _room(flavour.dialect, request.getfixturevalue("rooms"))
    try:
        with databases.closing_connections():
            yield room.url(flavour.driver)

            assert not (left := room.open_transactions()), f"left open: {'; '.join(left)}"
    finally:
        room.clear()


def _room(dialect: str, rooms: dict[str, Room]) -> Room:
    if dialect not in rooms:
        server = databases.running(dialect)
        if isinstance(server, str):
            pytest.skip(server)
        rooms[dialect] = Room(dialect, server, os.environ.get("PYTEST_XDIST_WORKER", "main"))
    return rooms[dialect]


def _primary(dialect: str) -> Flavour:
    return next(flavour for flavour in databases.FLAVOURS if flavour.dialect == dialect)


def _private(dialect: str, start: Callable[[], Server | str]) -> Iterator[Server]:
    _skip_unwanted(dialect)
    server = start()
    if isinstance(server, str):
        pytest.skip(server)
    yield server
    server.close()


def _skip_unwanted(dialect: str) -> None:
    if not databases.wanted(dialect):
        pytest.skip(f"{dialect} is not in {databases.RESTRICTION}")


def _new_threads(before: set[threading.Thread]) -> list[threading.Thread]:
    new = [thread for thread in threading.enumerate() if thread not in before]
    return [thread for thread in new if not thread.name.startswith(LASTING_THREADS)]
