"""One database: connections lent for a statement or a transaction, and the driver's errors made ours.

Statements are compiled once by SQLAlchemy and run on the driver's cursor in autocommit: no BEGIN,
COMMIT or ROLLBACK travels for a single statement, and nothing is held while application code runs.
Against a bare driver a read costs 1.4 times as much; ``select()`` at each request costs 8 times.
"""

import os
import random
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from operator import itemgetter
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.pool import Pool, PoolProxiedConnection, QueuePool, StaticPool

from .engine import SUPPORTED, enter_autocommit, in_memory, open_engine
from .errors import ConfigurationError, StoreUnavailable
from .trouble import Kind, Trouble, diagnose

T = TypeVar("T")
V = TypeVar("V")
Connection = Any  # of the driver
Restore = Callable[[], object] | None

# No wait is without end: neither for a lock nor for a server that comes back.
PATIENCE_SECONDS = 5

_IDLE_CONNECTIONS = 5

# A transaction of ours always writes: SQLite must take its lock first, since a reader that becomes
# a writer is refused at once, whatever its busy timeout.
_BEGIN = {"sqlite": "BEGIN IMMEDIATE"}

_MYSQL_LOCKS = (
    "SELECT GET_LOCK(SHA1(CONCAT(DATABASE(), :name)), 0)",
    "SELECT RELEASE_LOCK(SHA1(CONCAT(DATABASE(), :name)))",
)
_LOCKS = {
    "postgresql": (
        "SELECT pg_try_advisory_lock(hashtext(:name))",
        "SELECT pg_advisory_unlock(hashtext(:name))",
    ),
    "mysql": _MYSQL_LOCKS,
    "mariadb": _MYSQL_LOCKS,
}


class DuplicateKey(StoreUnavailable):
    """An INSERT or a change of key met a row that has this key already."""


class TableMissing(StoreUnavailable):
    """The sessions table does not exist."""


class ConnectionLost(StoreUnavailable):
    """The connection broke while a change was under way: it may have been stored, or not."""


class _Failed(Exception):
    """Carries an error of the driver to where it is examined; never leaves this module.

    No variable may keep it: with its traceback that is a cycle, and the request would stay in memory.
    """

    unsafe = False  # the connection may still hold a lock, or a transaction

    def __init__(self, error: Exception, trouble: Trouble | None = None) -> None:
        super().__init__()  # without the driver's text: should closing the connection fail too, both are logged
        self.error = error
        self.trouble = trouble or Trouble(Kind.FATAL, type(error).__name__)


class Statement:
    """A statement compiled once for a dialect; its values are bound by name at each run."""

    def __init__(self, clause: sa.ClauseElement, dialect: sa.Dialect) -> None:
        compiled: Any = clause.compile(dialect=dialect)
        self._dialect = dialect
        self._text = str(compiled)
        self._bind = _binder(compiled.positiontup)
        self._constants = {name: value for name, value in compiled.params.items() if value is not None}
        self.selects = isinstance(clause, sa.Select | sa.TextClause)

    def run(self, connection: Connection, values: Mapping[str, Any]) -> Any:
        """Return the rows of a SELECT, or how many rows a change hit."""
        if self._constants:
            values = {**self._constants, **values}
        try:
            cursor = connection.cursor()
            self._dialect.do_execute(cursor, self._text, self._bind(values))
            found = cursor.fetchall() if self.selects else cursor.rowcount
            cursor.close()
            return found
        except Exception as error:
            raise _Failed(error) from None


def _binder(order: Sequence[str] | None) -> Callable[[Mapping[str, Any]], Any]:
    """Return what brings named values into the form that the driver takes: as they are, or in *order*."""
    if order is None:
        return lambda values: values
    if len(order) == 1:
        return lambda values: (values[order[0]],)
    return itemgetter(*order)


class Execute:
    """Runs statements on one lent connection."""

    def __init__(self, connection: Connection, dialect: sa.Dialect) -> None:
        self._connection = connection
        self._dialect = dialect

    def __call__(self, statement: Statement, values: Mapping[str, Any]) -> Any:
        """Return the rows of a SELECT, or how many rows a change hit."""
        return statement.run(self._connection, values)

    def plain(self, text: str) -> None:
        """Run SQL that has neither values nor rows."""
        try:
            cursor = self._connection.cursor()
            self._dialect.do_execute_no_params(cursor, text)
            cursor.close()
        except Exception as error:
            raise _Failed(error) from None


class Database:
    """The engine of one database, and all that touches its connections.

    *database* is a URL (text or SQLAlchemy's) or an Engine of the application, which is used through
    its own pool and left as it was. Nothing connects here. Raises ConfigurationError.
    """

    def __init__(self, database: str | sa.URL | sa.Engine) -> None:
        self._borrowed = isinstance(database, sa.Engine)
        self.engine = database if isinstance(database, sa.Engine) else open_engine(database)
        self.dialect = self.engine.dialect
        if self.dialect.name not in SUPPORTED:
            raise ConfigurationError(f"database must be one of {', '.join(SUPPORTED)}, not {self.dialect.name}.")
        if self.dialect.is_async:
            raise ConfigurationError(f"database must have a driver for WSGI, which {self.dialect.driver} is not.")
        self._most_idle = self._choose_most_idle()
        self._start_empty()
        _databases.add(self)

    def read(self, statement: Statement, values: Mapping[str, Any]) -> list[Any]:
        """Return the rows of a SELECT. Raises StoreUnavailable."""
        rows: list[Any] = self._insist(statement.run, values, repeatable=True)
        return rows

    def write(self, statement: Statement, values: Mapping[str, Any], *, repeatable: bool = False) -> int:
        """Run one change and return how many rows it hit.

        With *repeatable* it is simply run again if the connection breaks; else that raises
        ConnectionLost, and the caller finds out what became of it. Raises DuplicateKey, StoreUnavailable.
        """
        with self._turn:
            hit: int = self._insist(statement.run, values, repeatable=repeatable)
        return hit

    def transaction(self, work: Callable[[Execute], T]) -> T:
        """Run *work* between BEGIN and COMMIT and return what it returned; roll back if it raises.

        *work* starts anew after a deadlock. Raises as `write` does.
        """
        with self._turn:
            return self._insist(self._within, work, repeatable=False)

    def elected(self, name: str, work: Callable[[Callable[[Statement, Mapping[str, Any]], Any]], T]) -> T | None:
        """Run *work* if no other process is at the work called *name*; return None if one is.

        *work* gets a function that runs statements, each on its own in autocommit, and starts anew if the
        connection breaks. Raises as `write` does.
        """
        if self.dialect.name == "sqlite":
            return work(self._run_alone)  # writers of a file take turns anyway
        return self._insist(partial(self._while_locked, name), work, repeatable=True)

    def turn(self) -> AbstractContextManager[object]:
        """Return the queue of this process's writers.

        SQLite's own busy handler is unfair and sleeps up to 100 ms between two looks: threads of one
        process wait here instead. Elsewhere nobody waits.
        """
        return self._turn

    def in_use(self) -> int:
        """Return how many connections are lent at this moment."""
        pool = self.engine.pool
        return pool.checkedout() - len(self._idle) if isinstance(pool, QueuePool) else 0

    def leave_to_parent(self) -> object:
        """Start a forked child with no connection: two processes on one socket read each other's answers.

        Returns what has to be kept alive: some drivers close what is collected, for the parent too.
        """
        inherited = (self.engine.pool, self._idle)
        self._start_empty()
        if not in_memory(self.engine.url):
            self.engine.dispose(close=False)
        return inherited

    def _choose_most_idle(self) -> int:
        if isinstance(self.engine.pool, StaticPool):
            return 1  # given back, its one connection would be rolled back, with what the application has on it
        # A database in memory has one connection, and whoever asks the engine for it must get it.
        return 0 if self._borrowed or in_memory(self.engine.url) else _IDLE_CONNECTIONS

    def _start_empty(self) -> None:
        # New locks: in a forked child the old ones may be held by a thread that is not there.
        self._turn: AbstractContextManager[object] = (
            threading.RLock() if self.dialect.name == "sqlite" else nullcontext()
        )
        self._idle: list[PoolProxiedConnection] = []
        self._idle_lock = threading.Lock()
        self._waiting = 0

    def _within(self, connection: Connection, work: Callable[[Execute], T]) -> T:
        execute = Execute(connection, self.dialect)
        begin, commit, rollback = _bounds(connection, self.dialect)
        execute.plain(begin)
        try:
            result = work(execute)
            execute.plain(commit)
        except Exception:
            # After a lock timeout MariaDB keeps the earlier statements of a transaction pending.
            if not _is_over(connection):
                _surely(partial(execute.plain, rollback))
            raise
        return result

    def _run_alone(self, statement: Statement, values: Mapping[str, Any]) -> Any:
        return self.read(statement, values) if statement.selects else self.write(statement, values, repeatable=True)

    def _while_locked(self, name: str, connection: Connection, work: Callable[[Execute], T]) -> T | None:
        execute = Execute(connection, self.dialect)
        try_lock, unlock = (Statement(sa.text(text), self.dialect) for text in _LOCKS[self.dialect.name])
        if not execute(try_lock, {"name": name})[0][0]:
            return None
        try:
            return work(execute)
        finally:
            _surely(partial(execute, unlock, {"name": name}))

    def _insist(self, step: Callable[[Connection, V], T], value: V, *, repeatable: bool) -> T:
        """Run *step* with *value* once, or as often as its troubles allow within our patience."""
        deadline = time.monotonic() + PATIENCE_SECONDS  # counted from here: who has waited long does not begin anew
        try:
            return self._lend(step, value)
        except _Failed as failed:
            trouble = failed.trouble
        return self._insist_after(trouble, step, value, deadline, repeatable=repeatable)

    def _insist_after(
        self, trouble: Trouble, step: Callable[[Connection, V], T], value: V, deadline: float, *, repeatable: bool
    ) -> T:
        pause = 0.002
        while trouble.kind is Kind.TRANSIENT or (trouble.kind is Kind.LOST and repeatable):
            if time.monotonic() > deadline:
                break
            # The pool is new after a loss: a second one is the server's.
            repeatable = repeatable and trouble.kind is not Kind.LOST
            time.sleep(random.uniform(0, pause))
            pause = min(pause * 2, 0.25)
            try:
                return self._lend(step, value)
            except _Failed as failed:
                trouble = failed.trouble
        raise _as_ours(trouble)

    def _lend(self, step: Callable[[Connection, V], T], value: V) -> T:
        pool = self.engine.pool
        connection = self._take(pool)
        restore: Restore = None
        try:
            if self._borrowed:
                restore = self._borrow(connection)
            result = step(connection.dbapi_connection, value)
        except _Failed as failed:
            failed.trouble = diagnose(failed.error, self.dialect, connection.dbapi_connection)
            self._return_after(failed, connection, pool, restore)
            raise
        except Exception:
            self._give_back(connection, restore)
            raise
        except BaseException:
            connection.invalidate()  # a greenlet or worker is being killed: nobody knows what is under way here
            raise
        self._give_back(connection, restore)
        return result

    def _take(self, pool: Pool) -> PoolProxiedConnection:
        """Return a connection: the one that was given back last, else one from the pool.

        Ours keep a few checked out between two statements: a way through the pool costs 5 us, half of
        what a bare driver needs to read a session from SQLite.
        """
        with self._idle_lock:
            if self._idle:
                return self._idle.pop()
            self._waiting += 1
        try:
            return pool.connect()
        except Exception as error:
            # SQLAlchemy's pool does keep it in a variable.
            raise _Failed(error.with_traceback(None), diagnose(error, self.dialect).at_connecting()) from None
        finally:
            with self._idle_lock:
                self._waiting -= 1

    def _borrow(self, connection: PoolProxiedConnection) -> Restore:
        try:
            return enter_autocommit(connection.dbapi_connection, self.dialect)
        except Exception as error:
            raise _Failed(error) from None

    def _give_back(self, connection: PoolProxiedConnection, restore: Restore) -> None:
        if restore is not None and not _restored(connection, restore):
            return None
        with self._idle_lock:
            # Who waits, waits at the pool.
            if not self._waiting and len(self._idle) < self._most_idle:
                self._idle.append(connection)
                return None
        return connection.close()

    def _return_after(self, failed: _Failed, connection: PoolProxiedConnection, pool: Pool, restore: Restore) -> None:
        kind = failed.trouble.kind
        if kind in (Kind.TRANSIENT, Kind.DUPLICATE, Kind.NO_TABLE) and not failed.unsafe:
            return self._give_back(connection, restore)
        connection.invalidate()
        if kind is Kind.LOST and self.engine.pool is pool:
            self._drop_all()  # what broke this connection has broken those that lie idle
        return None

    def _drop_all(self) -> None:
        with self._idle_lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.invalidate()
        self.engine.dispose()


def _bounds(connection: Connection, dialect: sa.Dialect) -> tuple[str, str, str]:
    """Return the words that begin, commit and roll back.

    In SQLite's memory there may be one connection for everybody, with a transaction of the application on it.
    """
    if dialect.name == "sqlite" and connection.in_transaction:
        return "SAVEPOINT sessionware", "RELEASE sessionware", "ROLLBACK TO sessionware"
    return _BEGIN.get(dialect.name, "BEGIN"), "COMMIT", "ROLLBACK"


def _surely(step: Callable[[], object]) -> None:
    """Run the *step* that ends a transaction or lets a lock go; nobody gets the connection if it fails."""
    try:
        step()
    except _Failed as failed:
        failed.unsafe = True
        raise


def _is_over(connection: Connection) -> bool:
    """Return whether SQLite has ended the transaction itself, as on a full disk; a ROLLBACK is an error then."""
    try:
        return not getattr(connection, "in_transaction", True)
    except Exception:
        return False


def _restored(connection: PoolProxiedConnection, restore: Callable[[], object]) -> bool:
    try:
        restore()
        return True
    except BaseException as error:
        connection.invalidate()  # what was done on it is done, but nobody should get it like this
        if not isinstance(error, Exception):
            raise
    return False


def _as_ours(trouble: Trouble) -> Exception:
    if trouble.kind is Kind.DUPLICATE:
        return DuplicateKey("A row that has this key stands in the way.")
    if trouble.kind is Kind.NO_TABLE:
        return TableMissing("The sessions table does not exist: run `sessionware init`, or pass create_table=True.")
    if trouble.kind is Kind.LOST:
        return ConnectionLost(f"The connection to the database broke ({trouble.code}).")
    if trouble.kind is Kind.UNREACHABLE:
        return StoreUnavailable(f"The database cannot be reached ({trouble.code}).")
    busy = trouble.kind in (Kind.TRANSIENT, Kind.NO_ROOM)
    return StoreUnavailable(f"The database did not do what it was asked ({trouble.code}).", busy=busy)


_databases: "weakref.WeakSet[Database]" = weakref.WeakSet()
_inherited: list[object] = []


def _in_child() -> None:
    _inherited.extend(database.leave_to_parent() for database in _databases)


os.register_at_fork(after_in_child=_in_child)
