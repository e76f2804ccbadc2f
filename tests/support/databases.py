"""An empty database for each test, and what a test left open in it.

One database a worker and server, emptied between tests: creating one anew would cost more than the tests.
"""

import importlib.util
import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event, make_url
from sqlalchemy.pool import Pool

from sessionware.database import _databases
from sessionware.engine import in_memory
from tests.support.servers import MARIADB, POSTGRESQL, Kind, Server, attach, find_mariadb, find_postgresql

RESTRICTION = "SESSIONWARE_TEST_DATABASES"
KINDS = {"postgresql": POSTGRESQL, "mariadb": MARIADB}
PATIENCE = 3.0
PAUSE = 0.02

# information_schema.innodb_trx answers from a copy up to 0.1 s old; the status report never does.
INNODB_TRANSACTION = re.compile(r"---TRANSACTION \S+ ACTIVE .*?thread id (\d+)", re.DOTALL)


@dataclass(frozen=True)
class Flavour:
    """One engine through one driver; its id names it in the test's id."""

    dialect: str
    driver: str
    module: str

    @property
    def id(self) -> str:
        return self.dialect if self.dialect == "sqlite" else f"{self.dialect}-{self.driver}"


SQLITE = Flavour("sqlite", "pysqlite", "sqlite3")
FLAVOURS = [
    SQLITE,
    Flavour("postgresql", "psycopg", "psycopg"),
    Flavour("postgresql", "psycopg2", "psycopg2"),
    Flavour("mariadb", "pymysql", "pymysql"),
    Flavour("mariadb", "mysqlclient", "MySQLdb"),
]


def installed_flavours() -> list[Flavour]:
    """Return the flavours whose driver can be imported."""
    return [flavour for flavour in FLAVOURS if importlib.util.find_spec(flavour.module)]


def server_flavours() -> list[Flavour]:
    """Return those of them that a server answers."""
    return [flavour for flavour in installed_flavours() if flavour is not SQLITE]


def dialect_of(url: str) -> str:
    """Return "sqlite", "postgresql" or "mariadb" for the URL of a database."""
    name = make_url(url).get_backend_name()
    return "mariadb" if name == "mysql" else name


def wanted(dialect: str) -> bool:
    """Tell whether $SESSIONWARE_TEST_DATABASES leaves *dialect* in; unset, it leaves everything in."""
    restriction = os.environ.get(RESTRICTION, "")
    return not restriction.strip() or dialect in {name.strip() for name in restriction.split(",")}


def start_servers() -> list[Server]:
    """Start the servers of this test run and leave their addresses in the environment, for every worker."""
    found = []
    for dialect, find in {"postgresql": find_postgresql, "mariadb": find_mariadb}.items():
        if _address(dialect) in os.environ:
            continue  # a run inside a run shares its servers
        server = find() if wanted(dialect) else f"not in {RESTRICTION}"
        os.environ[_address(dialect)] = server if isinstance(server, str) else f"url {server.url()}"
        if isinstance(server, Server):
            found.append(server)
    return found


def forget_servers() -> None:
    """Take the addresses out of the environment."""
    for dialect in KINDS:
        os.environ.pop(_address(dialect), None)


def running(dialect: str) -> Server | str:
    """Return the server of this test run, or why there is none."""
    answer = os.environ.get(_address(dialect), "no server was started")
    return attach(KINDS[dialect], answer.removeprefix("url ")) if answer.startswith("url ") else answer


def report() -> list[str]:
    """Return one line for each database: what runs, or why it is skipped."""
    sqlite = sqlite3.sqlite_version if wanted("sqlite") else f"skipped, not in {RESTRICTION}"
    return [f"SQLite: {sqlite}", *(_report(dialect, kind) for dialect, kind in KINDS.items())]


class Room:
    """The database of one worker on one server."""

    def __init__(self, dialect: str, server: Server, worker: str) -> None:
        self.dialect = dialect
        self.server = server
        self.name = f"sessionware_{worker}"
        server.create_database(self.name)
        self._engine: Engine = create_engine(
            server.url(database=self.name), isolation_level="AUTOCOMMIT", pool_size=1, pool_pre_ping=True
        )

    def url(self, driver: str) -> str:
        """Return the URL of the database through *driver*."""
        return self.server.url(driver, self.name)

    def open_transactions(self) -> list[str]:
        """Return what others still have open or locked here, after some patience with connections that are closing."""
        return _patiently(lambda: _open_at(self.dialect, self._ask))

    def clear(self) -> None:
        """Disconnect everybody and drop every table."""
        for number in self._others():
            with suppress(Exception):  # it may have gone by itself
                self._ask(KILL[self.dialect].format(number))
        tables = [row[0] for row in self._ask(TABLES[self.dialect])]
        if tables:
            self._ask(DROP[self.dialect].format(", ".join(tables)))

    def close(self) -> None:
        """Give the database up."""
        self._engine.dispose()
        self.server.drop_database(self.name)

    def _others(self) -> list[int]:
        return [row[0] for row in self._ask(OTHERS[self.dialect])]

    def _ask(self, statement: str) -> Sequence[Any]:
        return _asked(self._engine, statement)


def held(url: str) -> list[str]:
    """Return what anybody holds open or locked in the database at *url*, after some patience."""
    dialect = dialect_of(url)
    if dialect == "sqlite":
        return ["the write lock"] if locked(Path(make_url(url).database or "")) else []
    engine = create_engine(url, isolation_level="AUTOCOMMIT", pool_size=1)
    try:
        return _patiently(lambda: _open_at(dialect, partial(_asked, engine)))
    finally:
        engine.dispose()


def locked(path: Path) -> bool:
    """Tell whether somebody still holds a write lock on the SQLite database at *path*."""
    if not path.exists():
        return False
    connection = sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")
    except sqlite3.Error as error:
        return "locked" in str(error)
    finally:
        connection.close()
    return False


@contextmanager
def closing_connections() -> Iterator[None]:
    """Close in the end every connection that any pool opened meanwhile.

    A pool that is forgotten with its connections makes psycopg warn, long after, in another test.
    """
    opened: list[Any] = []

    def keep(connection: Any, record: object) -> None:
        opened.append(connection)

    event.listen(Pool, "connect", keep)
    try:
        yield
    finally:
        event.remove(Pool, "connect", keep)
        _close_pools()
        for connection in opened:
            with suppress(Exception):  # some drivers refuse to close what is closed
                connection.close()


def _patiently(look: Callable[[], list[str]]) -> list[str]:
    deadline = time.monotonic() + PATIENCE
    while (found := look()) and time.monotonic() < deadline:
        time.sleep(PAUSE)
    return found


def _asked(engine: Engine, statement: str) -> Sequence[Any]:
    with engine.connect() as connection:
        result = connection.exec_driver_sql(statement)
        return result.fetchall() if result.returns_rows else ()


def _open_at(dialect: str, ask: Callable[[str], Sequence[Any]]) -> list[str]:
    if dialect == "postgresql":
        return [row[0] for row in ask(OPEN_ON_POSTGRESQL)]
    status = ask("SHOW ENGINE INNODB STATUS")[0][2]
    # A transaction without a thread stands alone: cut the report so that it borrows nobody's number.
    blocks = re.split(r"(?=---TRANSACTION )", status)
    active = {int(match[1]) for block in blocks if (match := INNODB_TRANSACTION.match(block))}
    others = {row[0] for row in ask(OTHERS[dialect])}
    found = [f"connection {number}, active" for number in active & others]
    return found + [f"connection {number}, user lock" for (number,) in ask(CLEANER_ON_MARIADB) if number is not None]


def _close_pools() -> None:
    """Have the package close its connections itself: a pool that finds one closed, when it is collected, logs that."""
    for database in list(_databases):
        if not in_memory(database.engine.url):
            while database.connections.idle:
                database.connections.idle.pop().close()
            database.engine.dispose()


def _address(dialect: str) -> str:
    return f"SESSIONWARE_TEST_RUNNING_{dialect.upper()}"


def _report(dialect: str, kind: Kind) -> str:
    server = running(dialect)
    return f"{kind.name}: {f'skipped, {server}' if isinstance(server, str) else server.version()}"


OPEN_ON_POSTGRESQL = """
    SELECT 'connection ' || pid || ', ' || state || ', ' || left(query, 100) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start IS NOT NULL
      AND backend_type = 'client backend'
    UNION ALL
    SELECT 'connection ' || pid || ', advisory lock' FROM pg_locks
    WHERE locktype = 'advisory'
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""

# MariaDB lists user locks only with a plugin; the one of the cleaner can be asked for by its name.
CLEANER_ON_MARIADB = "SELECT IS_USED_LOCK(SHA1(CONCAT(DATABASE(), 'sessionware_session')))"
OTHERS = {
    "postgresql": """
        SELECT pid FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
    """,
    "mariadb": """
        SELECT id FROM information_schema.processlist
        WHERE db = DATABASE() AND id <> CONNECTION_ID()
    """,
}
KILL = {"postgresql": "SELECT pg_terminate_backend({})", "mariadb": "KILL {}"}
TABLES = {
    "postgresql": """
        SELECT quote_ident(schemaname) || '.' || quote_ident(tablename) FROM pg_tables
        WHERE schemaname NOT IN ('pg_catalog', 'information_schema')
    """,
    "mariadb": """
        SELECT CONCAT('`', table_name, '`') FROM information_schema.tables
        WHERE table_schema = DATABASE() AND table_type = 'BASE TABLE'
    """,
}
DROP = {"postgresql": "DROP TABLE {} CASCADE", "mariadb": "DROP TABLE IF EXISTS {}"}
