"""The connections to one database: lent for one step, given back before application code runs again.

An engine of ours keeps a few out of SQLAlchemy's pool between two steps: a way through the pool costs
5 us, half of what a bare driver needs to read a session from SQLite.
"""

import threading
from collections import deque
from collections.abc import Callable
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy.pool import Pool, PoolProxiedConnection, QueuePool, SingletonThreadPool, StaticPool

from .engine import commit_what_listeners_began, enter_autocommit, in_memory
from .statement import Connection, Failed
from .trouble import Kind, diagnose

T = TypeVar("T")
V = TypeVar("V")
Restore = Callable[[], object] | None

_MOST_IDLE = 5


class Connections:
    """Lends the connections of one engine. *borrowed*: the engine is the application's, to be left as it was."""

    def __init__(self, engine: sa.Engine, *, borrowed: bool) -> None:
        self._engine = engine
        self._borrowed = borrowed
        self.shared = isinstance(engine.pool, StaticPool | SingletonThreadPool)
        self._most_idle = self._choose_most_idle()
        self._start_empty()

    def lend(self, step: Callable[[Connection, V], T], value: V) -> T:
        """Run *step* with a driver's connection and *value*; return what it returned. Raises Failed."""
        pool = self._engine.pool
        try:
            connection = self.idle.pop()
        except IndexError:
            connection = self._connect(pool)
        restore: Restore = None
        try:
            if self._borrowed:
                restore = self._borrow(connection)
            result = step(connection.dbapi_connection, value)
        except Failed as failed:
            failed.trouble = diagnose(failed.error, self._engine.dialect, connection.dbapi_connection)
            self._return_after(failed, connection, pool, restore)
            raise
        except Exception:
            self._give_back(connection, pool, restore)
            raise
        except BaseException:
            connection.invalidate()  # a greenlet or worker is being killed: nobody knows what is under way here
            raise
        self._give_back(connection, pool, restore)
        return result

    def drop_all(self) -> None:
        """Close what lies idle: it may be of no more use."""
        while (connection := self._idle_one()) is not None:
            connection.invalidate()
        self._engine.dispose()

    def in_use(self) -> int:
        """Return how many connections are lent at this moment."""
        pool = self._engine.pool
        return pool.checkedout() - len(self.idle) if isinstance(pool, QueuePool) else 0

    def leave_to_parent(self) -> object:
        """Start a forked child with no connection; return what must be kept alive there.

        Two processes on one socket read each other's answers, and some drivers close what is collected,
        for the parent too.
        """
        inherited = (self._engine.pool, self.idle)
        self._start_empty()
        if not in_memory(self._engine.url):
            self._engine.dispose(close=False)
        return inherited

    def _choose_most_idle(self) -> int:
        if isinstance(self._engine.pool, StaticPool):
            return 1  # given back, its one connection would be rolled back, with what the application has on it
        # A database in memory has one connection, and whoever asks the engine for it must get it.
        return 0 if self._borrowed or in_memory(self._engine.url) else _MOST_IDLE

    def _start_empty(self) -> None:
        # A new lock: in a forked child the old one may be held by a thread that is not there.
        self.idle: deque[PoolProxiedConnection] = deque()
        self._lock = threading.Lock()
        self._waiting = 0

    def _connect(self, pool: Pool) -> PoolProxiedConnection:
        with self._lock:
            self._waiting += 1
        try:
            # Looked at again: who gave one back just now may not have seen that somebody waits.
            return self._idle_one() or pool.connect()
        except Exception as error:
            # SQLAlchemy's pool does keep it in a variable.
            raise Failed(error.with_traceback(None), diagnose(error, self._engine.dialect).at_connecting()) from None
        finally:
            with self._lock:
                self._waiting -= 1

    def _idle_one(self) -> PoolProxiedConnection | None:
        try:
            return self.idle.pop()
        except IndexError:
            return None

    def _borrow(self, connection: PoolProxiedConnection) -> Restore:
        try:
            if not self.shared:
                commit_what_listeners_began(connection.dbapi_connection, self._engine.dialect)
            return enter_autocommit(connection.dbapi_connection, self._engine.dialect)
        except Exception as error:
            raise Failed(error) from None

    def _give_back(self, connection: PoolProxiedConnection, pool: Pool, restore: Restore) -> None:
        if restore is not None and not _restored(connection, restore):
            return
        if self._engine.pool is not pool:
            connection.invalidate()  # all were given up while this one was out: it is as old as they were
            return
        if self._waiting or len(self.idle) >= self._most_idle:
            connection.close()
            return
        self.idle.append(connection)
        if self._waiting and (kept := self._idle_one()) is not None:
            kept.close()  # who began to wait meanwhile waits at the pool

    def _return_after(self, failed: Failed, connection: PoolProxiedConnection, pool: Pool, restore: Restore) -> None:
        kind = failed.trouble.kind
        harmless = kind in (Kind.TRANSIENT, Kind.DUPLICATE, Kind.NO_TABLE) or in_memory(self._engine.url)
        if harmless and not failed.unsafe:
            self._give_back(connection, pool, restore)
            return
        connection.invalidate()
        if kind is Kind.LOST and self._engine.pool is pool:
            self.drop_all()  # what broke this connection has broken those that lie idle


def _restored(connection: PoolProxiedConnection, restore: Callable[[], object]) -> bool:
    try:
        restore()
        return True
    except BaseException as error:
        connection.invalidate()  # what was done on it is done, but nobody should get it like this
        if not isinstance(error, Exception):
            raise
    return False
