"""SQL on a driver's cursor: statements compiled once by SQLAlchemy, their values bound by name at each run."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import itemgetter
from typing import Any

import sqlalchemy as sa

from .trouble import Kind, Trouble

Connection = Any  # of the driver


class Failed(Exception):
    """Carries an error of the driver to where it is examined; `Database` lets none pass.

    No variable may keep it: with its traceback that is a cycle, and the request would stay in memory.
    """

    unsafe = False  # the connection may still hold a lock, or a transaction

    def __init__(self, error: Exception, trouble: Trouble | None = None) -> None:
        super().__init__()  # without the driver's text: should closing the connection fail too, both are logged
        self.error = error
        self.trouble = trouble or Trouble(Kind.FATAL, type(error).__name__)


def positional(dialect: sa.Dialect) -> sa.Dialect:
    """Return a dialect to compile for, with values by position: psycopg takes 2 us to sort names at each run."""
    kind: Any = type(dialect)  # its signature has no types
    return kind(paramstyle="format") if dialect.paramstyle == "pyformat" else dialect


class Statement:
    """A statement compiled once for a dialect."""

    def __init__(self, clause: sa.ClauseElement, dialect: sa.Dialect) -> None:
        compiled: Any = clause.compile(dialect=dialect)
        self.text = str(compiled)
        constants = {name: value for name, value in compiled.params.items() if value is not None}
        self.bind = _binder(compiled.positiontup, constants)
        self.selects = isinstance(clause, sa.Select | sa.TextClause)

    def run(self, connection: Connection, values: Mapping[str, Any]) -> Any:
        """Return the rows of a SELECT, or how many rows a change hit."""
        cursor: Any = None
        try:
            cursor = connection.cursor()
            cursor.execute(self.text, self.bind(values))
            return cursor.fetchall() if self.selects else cursor.rowcount  # the cursor goes with this frame
        except Exception as error:
            raise Failed(error) from None
        except BaseException:
            # A request is being killed. Whoever keeps the error keeps this frame: with an open cursor in it,
            # SQLite would not end the transaction.
            if cursor is not None:
                cursor.close()
            raise


def _binder(order: Sequence[str] | None, constants: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], Any]:
    """Return what brings named values into the form that the driver takes: as they are, or in *order*."""
    if constants:
        bind = _binder(order, {})
        return lambda values: bind({**constants, **values})
    if order is None:
        return lambda values: values
    if not order:
        return lambda values: ()
    if len(order) > 1:
        return itemgetter(*order)
    (name,) = order
    return lambda values: (values[name],)


@contextmanager
def ended_by(step: Callable[[], object]) -> Iterator[None]:
    """Run *step* after the block, unless that is killed: the connection is closed then, and what it held is free."""
    try:
        yield
    except Exception:
        step()
        raise
    step()


class Execute:
    """Runs statements on one lent connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __call__(self, statement: Statement, values: Mapping[str, Any]) -> Any:
        """Return the rows of a SELECT, or how many rows a change hit."""
        return statement.run(self._connection, values)

    def plain(self, text: str) -> None:
        """Run SQL that has neither values nor rows."""
        try:
            cursor = self._connection.cursor()
            cursor.execute(text)
            cursor.close()
        except Exception as error:
            raise Failed(error) from None
