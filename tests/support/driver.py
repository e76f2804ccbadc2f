"""Every call that reaches a database driver, on any engine, through SQLAlchemy or past it.

A statement run on the cursor of a raw connection fires none of SQLAlchemy's cursor events, so the
cursor itself is watched: whoever checks a connection out of the pool gets one that reports each call.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from sqlalchemy import Engine, event

from sessionware.database import _databases

CURSOR_CALLS = {"execute", "executemany", "executescript", "callproc"}
CONNECTION_CALLS = CURSOR_CALLS | {"commit", "rollback", "begin", "autocommit", "ping", "query"}
DIALECT_CALLS = {"connect": "connect", "do_ping": "ping", "do_close": "close"}


@dataclass(frozen=True)
class Call:
    """One call of a driver: its name, the SQL and parameters of a statement, the connection it went to.

    *name* is connect, ping, execute, executemany, commit, rollback, close, or another of CONNECTION_CALLS.
    """

    name: str
    sql: str = ""
    parameters: Any = None
    connection: Any = None

    @property
    def verb(self) -> str:
        """The first word of its SQL: SELECT, INSERT, UPDATE and so on; BEGIN for each beginning, "" for none."""
        word = "".join(self.sql.split(maxsplit=1)[:1]).upper()
        return "BEGIN" if word == "START" else word


Proceed = Callable[[], Any]
Around = Callable[[Call, Proceed], Any]


@contextmanager
def watching(engine: Engine, around: Around) -> Iterator[None]:
    """Hand every driver call of *engine* to *around*, which makes it with proceed() or does not.

    A connection is watched from its next checkout on; one that is out already is not, unless it lies idle
    between two statements of the package.
    """
    watcher = _Watcher(around)
    _give_back_idle(engine)
    event.listen(engine, "checkout", watcher.checkout)
    saved = watcher.watch_dialect(engine.dialect)
    try:
        yield
    finally:
        watcher.active = False
        event.remove(engine, "checkout", watcher.checkout)
        for name in saved:
            delattr(engine.dialect, name)


class _Watcher:
    """Stands between the users of one engine and its driver."""

    def __init__(self, around: Around) -> None:
        self.active = True
        self._around = around
        self._thread = threading.local()

    def checkout(self, connection: Any, record: object, fairy: Any) -> None:
        """Lend a watched connection; the pool's own record keeps the real one."""
        if self.active:
            fairy.dbapi_connection = _Connection(self, connection)

    def watch_dialect(self, dialect: Any) -> list[str]:
        """Report also what the pool asks of the dialect: connect, ping and close."""
        for method, name in DIALECT_CALLS.items():
            setattr(dialect, method, self._dialect_call(getattr(dialect, method), name))
        return list(DIALECT_CALLS)

    def report(self, call: Call, proceed: Proceed) -> Any:
        """Pass one call on to the test, but not the calls a driver makes of itself within it."""
        if not self.active or getattr(self._thread, "inside", False):
            return proceed()
        self._thread.inside = True
        try:
            return self._around(call, proceed)
        finally:
            self._thread.inside = False

    def wrapped(self, target: Any, name: str, connection: Any) -> Callable[..., Any]:
        """Return the method *name* of a cursor or connection, reporting."""
        method = getattr(target, name)

        def reporting(*words: Any, **options: Any) -> Any:
            sql = words[0] if words and name in CURSOR_CALLS | {"query"} else ""
            call = Call(name, _text(sql), words[1] if len(words) > 1 else None, connection)
            return self.report(call, lambda: method(*words, **options))

        return reporting

    def _dialect_call(self, method: Callable[..., Any], name: str) -> Callable[..., Any]:
        def reporting(*words: Any, **options: Any) -> Any:
            connection = words[0] if words and name != "connect" else None
            return self.report(Call(name, connection=connection), lambda: method(*words, **options))

        return reporting


class _Stand:
    """Behaves as the driver's own object, but for the calls it reports."""

    _calls: ClassVar[set[str]] = set()

    def __init__(self, watcher: _Watcher, target: Any, connection: Any = None) -> None:
        object.__setattr__(self, "_watcher", watcher)
        object.__setattr__(self, "_target", target)
        object.__setattr__(self, "_connection", target if connection is None else connection)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        if name in self._calls and callable(value):
            return self._watcher.wrapped(self._target, name, self._connection)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._target, name, value)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._target)

    def __enter__(self) -> Any:
        self._target.__enter__()
        return self

    def __exit__(self, *error: Any) -> Any:
        return self._target.__exit__(*error)


class _Cursor(_Stand):
    _calls = CURSOR_CALLS

    def __next__(self) -> Any:
        return next(self._target)


class _Connection(_Stand):
    _calls = CONNECTION_CALLS

    def cursor(self, *words: Any, **options: Any) -> _Cursor:
        """Return a watched cursor."""
        return _Cursor(self._watcher, self._target.cursor(*words, **options), self._target)


def _give_back_idle(engine: Engine) -> None:
    """Have the package give the connections it keeps at hand back to the pool."""
    for database in list(_databases):
        while database.engine is engine and database.connections.idle:
            database.connections.idle.pop().close()


def _text(sql: Any) -> str:
    return sql.decode("utf-8", "replace") if isinstance(sql, bytes) else str(sql)
