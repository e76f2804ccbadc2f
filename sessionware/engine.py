"""The engine we make for a database URL: its pool, its waits, its SQLite mode."""

import random
import sqlite3
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy.pool import QueuePool

from .errors import ConfigurationError

SUPPORTED = ("sqlite", "postgresql", "mysql", "mariadb")

_CONNECT_SECONDS = 5
_LOCK_SECONDS = 5
_BUSY_SECONDS = 0.005  # then `Database` tries again: left alone, SQLite sleeps up to 100 ms between two looks
_ANSWER_SECONDS = 15
_POOL_SECONDS = 10
_MODE_SECONDS = 0.25

_INSTALL = {
    "postgresql": "pip install 'sessionware[postgresql]' and write postgresql+psycopg://",
    "mysql": "pip install 'sessionware[mysql]' and write mysql+pymysql://",
    "mariadb": "pip install 'sessionware[mysql]' and write mariadb+pymysql://",
}


def open_engine(database: str | sa.URL) -> sa.Engine:
    """Return an engine in autocommit for *database*; it connects at its first use.

    Raises ConfigurationError for a URL that cannot be read, an unknown database or a missing driver.
    """
    url = _url(database)
    name = url.get_backend_name()
    if name not in SUPPORTED:
        raise ConfigurationError(f"database must be one of {', '.join(SUPPORTED)}, not {name}.")
    try:
        engine = sa.create_engine(
            url,
            isolation_level="AUTOCOMMIT",
            pool_reset_on_return=None,
            connect_args=_connect_args(url),
            **_pool(url),
        )
    except (sa.exc.ArgumentError, ValueError, TypeError):
        problem = "database: this URL has an option that its driver does not know, or no such driver exists."
    except ImportError as error:
        module = error.name or url.get_driver_name()
        problem = f"database: the driver module {module} is not installed; {_INSTALL.get(name, 'install it')}."
    else:
        sa.event.listen(engine, "connect", _SET_UP[name])
        return engine
    raise ConfigurationError(problem)


def _url(database: str | sa.URL) -> sa.URL:
    try:
        return sa.make_url(database)
    except (sa.exc.ArgumentError, ValueError, TypeError):
        pass  # its text may hold a password: not even the traceback shows it
    raise ConfigurationError("database must be a database URL, an Engine or a SessionStore.")


def in_memory(url: sa.URL) -> bool:
    """Return whether *url* is of a SQLite database that lives in its connection."""
    named = url.database in (None, "", ":memory:", "file::memory:") or url.query.get("mode") == "memory"
    return url.get_backend_name() == "sqlite" and named


def commit_what_listeners_began(connection: Any, dialect: sa.Dialect) -> None:
    """Commit what listeners of the application's pool have begun on *connection*, which is lent to us alone.

    On SQLite our writes would be part of that, and go with the pool's rollback; psycopg would refuse autocommit.
    """
    if dialect.name in ("sqlite", "postgresql"):
        connection.commit()


def enter_autocommit(connection: Any, dialect: sa.Dialect) -> Callable[[], object] | None:
    """Switch a driver's *connection* to autocommit; return what switches it back exactly, None if nothing need.

    Not by SQLAlchemy's isolation levels: the way back from those loses what the application has told
    its driver or server itself.
    """
    if dialect.name == "sqlite" and getattr(connection, "autocommit", True) is not False:
        level = connection.isolation_level
        if level is None or connection.in_transaction:  # leaving the mode would commit what is not ours
            return None
        connection.isolation_level = None
        return partial(setattr, connection, "isolation_level", level)
    if hasattr(connection, "get_autocommit"):
        return _switch(connection.get_autocommit(), connection.autocommit)
    return _switch(connection.autocommit, partial(setattr, connection, "autocommit"))


def _switch(is_on: bool, turn: Callable[[bool], object]) -> Callable[[], object] | None:
    if is_on:
        return None
    turn(True)
    return partial(turn, False)


def _pool(url: sa.URL) -> dict[str, Any]:
    if in_memory(url):
        # A database in memory lives in its connection: all threads take turns with the one.
        return {"poolclass": QueuePool, "pool_size": 1, "max_overflow": 0, "pool_timeout": _POOL_SECONDS}
    return {"poolclass": QueuePool, "pool_timeout": _POOL_SECONDS}


def _connect_args(url: sa.URL) -> dict[str, Any]:
    """Return what bounds the waits and how text travels, except where the URL sets it itself."""
    wanted: dict[str, Any] = {"connect_timeout": _CONNECT_SECONDS}
    if url.get_backend_name() == "sqlite":
        wanted = {"check_same_thread": False, "timeout": _BUSY_SECONDS}
    elif url.get_backend_name() == "postgresql":
        # A database made under a C locale has no encoding: its text would arrive as bytes.
        wanted["client_encoding"] = "utf8"
    elif url.get_driver_name() in ("pymysql", "mysqldb"):
        wanted |= {"read_timeout": _ANSWER_SECONDS, "write_timeout": _ANSWER_SECONDS, "charset": "utf8mb4"}
    return {name: value for name, value in wanted.items() if name not in url.query}


def _set_up_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    """Let readers and the writer work side by side (WAL); durability stays SQLite's default."""
    deadline = time.monotonic() + _MODE_SECONDS
    while True:
        try:
            ((mode,),) = connection.execute("PRAGMA journal_mode=WAL").fetchall()
            break
        except sqlite3.OperationalError as error:
            code = error.sqlite_errorcode & 0xFF  # without the extended part
            if code == sqlite3.SQLITE_READONLY:
                mode = "unchanged"  # a file that may only be read
                break
            if code not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise
            # The change of mode needs the file alone and does not wait for it: another worker starts too.
            if time.monotonic() > deadline:
                mode = "unchanged"  # a backup or a report reads it: sessions are read as well, and later ones try again
                break
        time.sleep(random.uniform(0, 0.02))
    ((milliseconds,),) = connection.execute("PRAGMA busy_timeout").fetchall()
    if mode != "wal" and milliseconds == _BUSY_SECONDS * 1000:
        # Without it a writer waits for all readers, and only SQLite itself can keep new ones out meanwhile.
        connection.execute(f"PRAGMA busy_timeout = {_LOCK_SECONDS * 1000}").close()


def _set_up_postgresql(connection: Any, _record: object) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"SET lock_timeout = '{_LOCK_SECONDS}s'; SET statement_timeout = '{_ANSWER_SECONDS}s'")


def _set_up_mysql(connection: Any, _record: object) -> None:
    with connection.cursor() as cursor:
        # The second is for what mysqldump and ALTER TABLE lock; it would be a day, on MySQL a year.
        cursor.execute(f"SET SESSION innodb_lock_wait_timeout = {_LOCK_SECONDS}, lock_wait_timeout = {_LOCK_SECONDS}")


_SET_UP = {
    "sqlite": _set_up_sqlite,
    "postgresql": _set_up_postgresql,
    "mysql": _set_up_mysql,
    "mariadb": _set_up_mysql,
}
