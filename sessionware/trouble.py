"""What an error of a database driver means for us, whatever the driver calls it.

The text of these errors is never shown: psycopg2 puts parameter values into it.
"""

import re
from enum import Enum, auto
from typing import Any, NamedTuple

import sqlalchemy as sa


class Kind(Enum):
    """What to do about an error."""

    TRANSIENT = auto()  # the database undid it and says: again
    NO_ROOM = auto()  # all connections of the pool were lent for as long as it waits
    LOST = auto()  # the connection is of no more use: broken, its server read-only, or its statements outdated
    DUPLICATE = auto()  # a key, or a table, that exists
    NO_TABLE = auto()
    UNREACHABLE = auto()
    FATAL = auto()


class Trouble(NamedTuple):
    """The kind of an error, and a code for people: the driver's class and number, no text of its own."""

    kind: Kind
    code: str

    def at_connecting(self) -> "Trouble":
        """Return what this means where it came instead of a connection."""
        return self._replace(kind=Kind.UNREACHABLE) if self.kind is Kind.FATAL else self


_POSTGRESQL = {
    "40001": Kind.TRANSIENT,  # serialization failure
    "40P01": Kind.TRANSIENT,  # deadlock
    "55P03": Kind.TRANSIENT,  # lock timeout
    "57P01": Kind.LOST,  # ended by an administrator
    "57P02": Kind.LOST,  # the server is going down
    "25006": Kind.LOST,  # read-only: this server was the primary until a failover
    "0A000": Kind.LOST,  # its prepared statements are of a table that has been altered since
    "23505": Kind.DUPLICATE,
    "42P07": Kind.DUPLICATE,  # a table that exists
    "42P01": Kind.NO_TABLE,
}

_MYSQL = {
    1213: Kind.TRANSIENT,  # deadlock
    1205: Kind.TRANSIENT,  # lock wait timeout
    1020: Kind.TRANSIENT,  # record has changed (innodb_snapshot_isolation)
    1040: Kind.TRANSIENT,  # too many connections
    1203: Kind.TRANSIENT,  # too many of this user
    1226: Kind.TRANSIENT,  # more than this user's share
    1290: Kind.LOST,  # read-only: this server was the primary until a failover
    1792: Kind.LOST,  # read-only transaction
    1836: Kind.LOST,  # read-only
    1062: Kind.DUPLICATE,
    1050: Kind.DUPLICATE,  # a table that exists
    1146: Kind.NO_TABLE,
}

_SQLITE = {
    5: Kind.TRANSIENT,  # SQLITE_BUSY
    6: Kind.TRANSIENT,  # SQLITE_LOCKED
    1555: Kind.DUPLICATE,  # SQLITE_CONSTRAINT_PRIMARYKEY; other constraints are not ours
    2067: Kind.DUPLICATE,  # SQLITE_CONSTRAINT_UNIQUE
}


def diagnose(error: Exception, dialect: sa.Dialect, connection: Any = None) -> Trouble:
    """Return what *error* means; *connection* is the driver's connection it happened on, if there was one."""
    code = _code(error, dialect.name)
    return Trouble(_kind(error, code, dialect, connection), _name(error, code))


def _kind(error: Exception, code: Any, dialect: sa.Dialect, connection: Any) -> Kind:
    if isinstance(error, sa.exc.TimeoutError):
        return Kind.NO_ROOM
    if not isinstance(error, dialect.loaded_dbapi.Error):
        return Kind.LOST if isinstance(error, OSError) else Kind.FATAL
    if dialect.name == "sqlite" and "no such table" in str(error):
        return Kind.NO_TABLE  # SQLite has no number for it
    known = _KINDS[dialect.name].get(code)
    if known is not None:
        return known
    if connection is None and code is None and _has_no_slot(str(error)):
        return Kind.TRANSIENT  # PostgreSQL tells no number to who is not let in
    lost = dialect.is_disconnect(error, connection, None) or _is_of_libpq(error, code, dialect, connection)
    return Kind.LOST if lost else Kind.FATAL


_has_no_slot = re.compile("too many (clients|connections)|connection slots").search


def _is_of_libpq(error: Exception, code: Any, dialect: sa.Dialect, connection: Any) -> bool:
    """Return whether libpq itself failed on a connection: its errors have no code, and may leave it half open."""
    if dialect.name != "postgresql" or connection is None or code is not None:
        return False
    return isinstance(error, dialect.loaded_dbapi.OperationalError)


_KINDS: dict[str, dict[Any, Kind]] = {
    "postgresql": _POSTGRESQL,
    "mysql": _MYSQL,
    "mariadb": _MYSQL,
    "sqlite": _SQLITE,
}


def _code(error: Any, dialect_name: str) -> Any:
    if dialect_name == "postgresql":
        return getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    if dialect_name == "sqlite":
        number = getattr(error, "sqlite_errorcode", None)
        return number if number is None or number in _SQLITE else number & 0xFF  # without the extended part
    number = getattr(error, "errno", None) or next(iter(error.args), None)
    return number if isinstance(number, int) else None


def _name(error: Exception, code: Any) -> str:
    name = f"{type(error).__module__.partition('.')[0]}.{type(error).__name__}"
    return name if code is None else f"{name} {code}"
