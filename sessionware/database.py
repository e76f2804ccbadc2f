"""One database: statements and transactions run until they are done, and the driver's errors made ours.

Statements are compiled once by SQLAlchemy and run on the driver's cursor in autocommit: no BEGIN,
COMMIT or ROLLBACK travels for a single statement, and nothing is held while application code runs.
Building a ``select()`` at each request would cost several times as much as the statement itself.
"""

import mmap
import os
import random
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import sqlalchemy as sa

from .connections import Connections
from .engine import SUPPORTED, in_memory, open_engine
from .errors import ConfigurationError, StoreUnavailable
from .events import logger
from .statement import Connection, Execute, Failed, Statement, ended_by
from .trouble import Kind, Trouble

T = TypeVar("T")
V = TypeVar("V")

# Asked of a change whose connection broke: what it would have returned, or NOT_MADE if it was not made.
IfLost = Callable[[], Any]
NOT_MADE: Any = object()

# No wait is without end: neither for a lock nor for a server that comes back.
PATIENCE_SECONDS = 5

# The most that is slept between two tries. On SQLite only one thread of a process tries at a time, and each try
# waits a little itself: who slept longer would hardly find the lock free where others write all the time.
_LONGEST_PAUSE = 0.25
_LONGEST_PAUSE_SQLITE = 0.001

# A transaction of ours always writes: SQLite must take its lock first, since a reader that becomes
# a writer is refused at once, whatever its busy timeout. In MariaDB's Oracle mode BEGIN begins a block.
_BEGIN = {"sqlite": "BEGIN IMMEDIATE", "mysql": "START TRANSACTION", "mariadb": "START TRANSACTION"}

# A server may be set to begin a new transaction after each COMMIT (completion_type): nobody commits what is written
# in that.
_END = dict.fromkeys(("mysql", "mariadb"), " AND NO CHAIN NO RELEASE")

# One lock for each schema or database, as there is one table in each.
POSTGRESQL_LOCK = "hashtext(concat(current_schema(), ' ', CAST(:name AS text)))"
MYSQL_LOCK = "SHA1(CONCAT(DATABASE(), :name))"
MYSQL_UNLOCK = f"SELECT RELEASE_LOCK({MYSQL_LOCK})"

_MYSQL_LOCKS = (f"SELECT GET_LOCK({MYSQL_LOCK}, 0)", MYSQL_UNLOCK)
_LOCKS = {
    "postgresql": (
        f"SELECT pg_try_advisory_lock({POSTGRESQL_LOCK})",
        f"SELECT pg_advisory_unlock({POSTGRESQL_LOCK})",
    ),
    "mysql": _MYSQL_LOCKS,
    "mariadb": _MYSQL_LOCKS,
}


class DuplicateKey(StoreUnavailable):
    """An INSERT or a change of key met a row that has this key already, or CREATE TABLE a table."""


class TableMissing(StoreUnavailable):
    """The sessions table does not exist."""


class ConnectionLost(StoreUnavailable):
    """The connection broke while a change was under way: it may have been stored, or not."""


def repeatable() -> Any:
    """Say of a read, or of a change that does no harm when it is made twice, that nothing became of it."""
    return NOT_MADE


class Database:
    """The engine of one database, and all that is run on it.

    *database* is a URL (text or SQLAlchemy's) or an Engine of the application, which is used through
    its own pool and left as it was. *create_missing* is called when the table is found missing, and
    what found it runs again. Nothing connects here. Raises ConfigurationError.
    """

    def __init__(self, database: str | sa.URL | sa.Engine, create_missing: Callable[[], object] | None = None) -> None:
        self.engine = database if isinstance(database, sa.Engine) else open_engine(database)
        _check(self.engine)
        self.dialect = self.engine.dialect
        self.connections = Connections(self.engine, borrowed=isinstance(database, sa.Engine))
        if self.connections.shared and not in_memory(self.engine.url):
            raise ConfigurationError(
                "database must have a pool that gives us a connection of our own: on one that is shared, each "
                "statement of a session would be part of the application's transaction, or end it."
            )
        self._create_missing = create_missing
        self.turn = self._new_turn()
        _databases.add(self)

    def read(self, statement: Statement, values: Mapping[str, Any]) -> list[Any]:
        """Return the rows of a SELECT. Raises StoreUnavailable."""
        rows: list[Any] = self._repeat(statement.run, values, repeatable, time.monotonic() + PATIENCE_SECONDS)
        return rows

    def write(self, statement: Statement, values: Mapping[str, Any], if_lost: IfLost) -> int:
        """Run one change and return how many rows it hit, or what *if_lost* says became of it.

        That is asked if the connection broke. On NOT_MADE the change is made once more; see also `repeatable`.
        Raises DuplicateKey, ConnectionLost if that is lost as well, and StoreUnavailable.
        """
        hit: int = self._insist(statement.run, values, if_lost)
        return hit

    def transaction(self, work: Callable[[Execute], T], if_lost: IfLost) -> T:
        """Run *work* between BEGIN and COMMIT and return what it returned; roll back if it raises.

        *work* starts anew after a deadlock. Otherwise as `write`.
        """
        return self._insist(self._within, work, if_lost)

    def elected(self, name: str, work: Callable[[Callable[[Statement, Mapping[str, Any]], Any]], T]) -> T | None:
        """Run *work* if no other process is at the work called *name*; return None if one is.

        *work* gets a function that runs statements, each on its own in autocommit, and starts anew if the
        connection breaks. Raises as `write` does.
        """
        if self.dialect.name == "sqlite":
            return work(self._run_alone)  # writers of a file take turns anyway
        return self._repeat(partial(self._while_locked, name), work, repeatable)

    def in_use(self) -> int:
        """Return how many connections are lent at this moment."""
        return self.connections.in_use()

    def leave_to_parent(self) -> object:
        """Start a forked child with nothing of its parent's; return what must be kept alive there."""
        self.turn = self._new_turn()  # the old one may be held by a thread that is not there
        return self.connections.leave_to_parent()

    def _new_turn(self) -> Any:
        """Return what the writers of this process queue at, on SQLite: its own busy handler knows no queue."""
        return threading.RLock() if self.dialect.name == "sqlite" else None

    def _within(self, connection: Connection, work: Callable[[Execute], T]) -> T:
        execute = Execute(connection)
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
        return self.read(statement, values) if statement.selects else self.write(statement, values, repeatable)

    def _while_locked(self, name: str, connection: Connection, work: Callable[[Execute], T]) -> T | None:
        execute = Execute(connection)
        try_lock, unlock = (Statement(sa.text(text), self.dialect) for text in _LOCKS[self.dialect.name])
        if not execute(try_lock, {"name": name})[0][0]:
            return None
        with ended_by(partial(_surely, partial(self._unlock, execute, unlock, name))):
            return work(execute)

    def _unlock(self, execute: Execute, unlock: Statement, name: str) -> None:
        if not execute(unlock, {"name": name})[0][0]:
            logger.warning(
                "The lock of the purge was taken on one connection of the server, and not released on another: "
                "a pooler in transaction mode stands between. Pass purge_interval=None, and run "
                "`sessionware purge` past the pooler."
            )

    def _insist(self, step: Callable[[Connection, V], T], value: V, if_lost: IfLost) -> T:
        """Run *step* with *value*, which writes, once it has its turn, and as often as its troubles allow."""
        if not _birthmark[0]:
            _in_child()  # before a look at the turn, which a thread of the parent may hold
        turn, deadline = self.turn, time.monotonic() + PATIENCE_SECONDS
        if turn is not None and not turn.acquire(timeout=PATIENCE_SECONDS):
            raise StoreUnavailable("The database is busy: other writers did not come to an end.", busy=True)
        try:
            return self._repeat(step, value, if_lost, deadline)
        finally:
            if turn is not None:
                turn.release()

    def _repeat(
        self, step: Callable[[Connection, V], T], value: V, if_lost: IfLost, deadline: float | None = None
    ) -> T:
        """Run *step* with *value* as often as its troubles allow, until *deadline*; None: our patience from the first.

        What has waited long for a lock is not to begin anew; a purge that has been at it for long may.
        """
        if not _birthmark[0]:
            _in_child()  # uWSGI forks without telling Python
        try:
            return self.connections.lend(step, value)
        except Failed as failed:
            trouble = failed.trouble
        deadline = deadline or time.monotonic() + PATIENCE_SECONDS
        if trouble.kind is Kind.NO_TABLE and self._create_missing is not None:
            self._create_missing()
            trouble = Trouble(Kind.TRANSIENT, trouble.code)
            deadline = max(deadline, time.monotonic() + _LONGEST_PAUSE)  # creating it may have used up our patience
        return self._try_again(trouble, step, value, if_lost, deadline)

    def _try_again(
        self, trouble: Trouble, step: Callable[[Connection, V], T], value: V, if_lost: IfLost, deadline: float
    ) -> T:
        longest = _LONGEST_PAUSE_SQLITE if self.dialect.name == "sqlite" else _LONGEST_PAUSE
        pause, lost = min(0.002, longest), False
        while trouble.kind is Kind.LOST or (trouble.kind is Kind.TRANSIENT and time.monotonic() <= deadline):
            if trouble.kind is Kind.LOST:
                answer: T = if_lost()
                if answer is not NOT_MADE:
                    return answer
                if lost or time.monotonic() > deadline:
                    break  # the pool is new after a loss: a second one is the server's; a late one may have hung
                lost = True
            time.sleep(random.uniform(0, pause))
            pause = min(pause * 2, longest)
            try:
                made = self.connections.lend(step, value)
            except Failed as failed:
                trouble = failed.trouble
                continue
            if made or not lost:
                return made
            answer = if_lost()  # a miss may have met the lost change, with which the server went on
            return made if answer is NOT_MADE else answer
        raise _as_ours(trouble)


def _check(engine: sa.Engine) -> None:
    dialect = engine.dialect
    if dialect.name not in SUPPORTED:
        raise ConfigurationError(f"database must be one of {', '.join(SUPPORTED)}, not {dialect.name}.")
    if dialect.is_async:
        raise ConfigurationError(f"database must have a driver for WSGI, which {dialect.driver} is not.")
    if dialect.name in ("mysql", "mariadb") and str(engine.url.query.get("charset", "utf8mb4")).lower() != "utf8mb4":
        raise ConfigurationError(
            "database must have charset=utf8mb4, or no charset: in another one several users become one."
        )


def _bounds(connection: Connection, dialect: sa.Dialect) -> tuple[str, str, str]:
    """Return the words that begin, commit and roll back.

    In SQLite's memory there may be one connection for everybody, with a transaction of the application on it.
    """
    if dialect.name == "sqlite" and connection.in_transaction:
        return "SAVEPOINT sessionware", "RELEASE sessionware", "ROLLBACK TO sessionware"
    end = _END.get(dialect.name, "")
    return _BEGIN.get(dialect.name, "BEGIN"), f"COMMIT{end}", f"ROLLBACK{end}"


def _surely(step: Callable[[], object]) -> None:
    """Run the *step* that ends a transaction or lets a lock go; nobody gets the connection if it fails."""
    try:
        step()
    except Failed as failed:
        failed.unsafe = True
        raise


def _is_over(connection: Connection) -> bool:
    """Return whether SQLite has ended the transaction itself, as on a full disk; a ROLLBACK is an error then."""
    try:
        return not getattr(connection, "in_transaction", True)
    except Exception:
        return False


def _as_ours(trouble: Trouble) -> Exception:
    if trouble.kind is Kind.DUPLICATE:
        return DuplicateKey("A row that has this key stands in the way.")
    if trouble.kind is Kind.NO_TABLE:
        return TableMissing("The sessions table does not exist: run `sessionware init`, or pass create_table=True.")
    if trouble.kind is Kind.LOST:
        return ConnectionLost(
            f"The connection to the database broke, or its server takes no changes any more ({trouble.code})."
        )
    if trouble.kind is Kind.UNREACHABLE:
        return StoreUnavailable(f"The database cannot be reached ({trouble.code}).")
    busy = trouble.kind in (Kind.TRANSIENT, Kind.NO_ROOM)
    return StoreUnavailable(f"The database did not do what it was asked ({trouble.code}).", busy=busy)


class _Asked:
    """Tells by its first item whether this is still the process that made it; for systems without such pages."""

    def __init__(self) -> None:
        self[0] = 1

    def __getitem__(self, _index: int) -> int:
        return int(self._process == os.getpid())

    def __setitem__(self, _index: int, value: int) -> None:
        self._process = os.getpid() if value else 0


def _new_birthmark() -> Any:
    """Return memory that a child finds blank, however it was forked.

    A look at it costs 0.03 us, at every statement; to ask for the number of the process is a call of the
    kernel, and ten times as dear.
    """
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        page.madvise(_MADV_WIPEONFORK)
    except (AttributeError, OSError):  # another system, or an older kernel
        return _Asked()
    page[0] = 1
    return page


_MADV_WIPEONFORK = 18  # Linux 4.14; Python has no name for it
_birthmark = _new_birthmark()
_databases: "weakref.WeakSet[Database]" = weakref.WeakSet()
_inherited: list[object] = []
_starting: dict[int, threading.Lock] = {}  # by process: a parent's may be held for ever


def _in_child() -> None:
    """Start what the parent had anew, once, whichever thread of the child comes first."""
    with _starting.setdefault(os.getpid(), threading.Lock()):
        if not _birthmark[0]:
            _inherited.extend(database.leave_to_parent() for database in _databases)
            _birthmark[0] = 1


def _after_fork() -> None:
    _birthmark[0] = 0  # also where it is not blank, as under an emulator that knows no such pages
    _in_child()


os.register_at_fork(after_in_child=_after_fork)
