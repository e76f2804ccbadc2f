"""Creating the table, once, while many processes start."""

from typing import Any

import sqlalchemy as sa

from .database import Database
from .errors import StoreUnavailable
from .trouble import diagnose


def create_table(database: Database, table: sa.Table) -> None:
    """Create *table* and its indexes unless they exist; processes that start together take turns.

    ``CREATE TABLE IF NOT EXISTS`` is no help: in a race it fails on PostgreSQL, and it says nothing
    of indexes. Raises StoreUnavailable.
    """
    with database.turn():
        try:
            with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                if not _is_complete(connection, table):  # who comes late need not wait for a turn
                    _create_or_let_go(connection, table)
            return
        except sa.exc.DBAPIError as error:
            trouble = diagnose(error.orig or error, database.dialect)
        except (sa.exc.SQLAlchemyError, OSError) as error:
            trouble = diagnose(error, database.dialect)
    raise StoreUnavailable(f"The sessions table could not be created ({trouble.code}).")


def _is_complete(connection: sa.Connection, table: sa.Table) -> bool:
    inspector = sa.inspect(connection)
    if not inspector.has_table(table.name):
        return False
    found = {index["name"] for index in inspector.get_indexes(table.name)}
    return found.issuperset(index.name for index in table.indexes)


def _create_or_let_go(connection: sa.Connection, table: sa.Table) -> None:
    try:
        _create_in_turn(connection, table)
    except BaseException:
        connection.invalidate()  # back in the pool it could keep the turn, or a transaction, for ever
        raise


def _create_in_turn(connection: sa.Connection, table: sa.Table) -> None:
    begin, end = _TURN[connection.dialect.name]
    connection.execute(sa.text(begin), _named(table))
    try:
        table.create(connection, checkfirst=True)
        for index in table.indexes:  # a process that died between the two has left a table without them
            index.create(connection, checkfirst=True)
    finally:
        connection.execute(sa.text(end), _named(table))


def _named(table: sa.Table) -> dict[str, Any]:
    return {"name": f"create {table.name}"}


_MYSQL_TURN = (
    "SELECT GET_LOCK(SHA1(CONCAT(DATABASE(), :name)), 60)",
    "SELECT RELEASE_LOCK(SHA1(CONCAT(DATABASE(), :name)))",
)
_TURN = {
    "sqlite": ("BEGIN IMMEDIATE", "COMMIT"),
    "postgresql": ("SELECT pg_advisory_lock(hashtext(:name))", "SELECT pg_advisory_unlock(hashtext(:name))"),
    "mysql": _MYSQL_TURN,
    "mariadb": _MYSQL_TURN,
}
