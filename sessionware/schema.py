"""Creating the table, once, while many processes start."""

from contextlib import nullcontext
from functools import partial
from typing import Any

import sqlalchemy as sa

from .database import (
    MYSQL_LOCK,
    MYSQL_UNLOCK,
    PATIENCE_SECONDS,
    POSTGRESQL_LOCK,
    Database,
    DuplicateKey,
    repeatable,
)
from .errors import StoreUnavailable
from .statement import Execute, Failed, Statement, ended_by


def create_table(database: Database, table: sa.Table) -> None:
    """Create *table* and its indexes unless they exist; processes that start together take turns.

    ``CREATE TABLE IF NOT EXISTS`` is no help: in a race it fails on PostgreSQL, and it says nothing
    of indexes. Raises StoreUnavailable.
    """
    schema = _Schema(database, table)
    try:
        if schema.missing(database.read(schema.look, schema.names)):  # who comes late need not wait for a turn
            database.transaction(schema.create_in_turn, repeatable)
        return
    except DuplicateKey:
        # A migration tool, which does not take turns, was faster; or a table of another name has an index of ours.
        trouble = StoreUnavailable("Its name or that of an index is taken.")
        if not schema.missing(database.read(schema.look, schema.names)):
            return
    except StoreUnavailable as error:
        trouble = error
    raise StoreUnavailable(f"The sessions table could not be created. {trouble}", busy=trouble.busy)


class _Schema:
    """The table and its indexes by name, and the statements that make them."""

    def __init__(self, database: Database, table: sa.Table) -> None:
        name = database.dialect.name
        self.names = {"name": f"create {table.name}", "table": table.name}
        self.look = Statement(sa.text(_LOOK[name]), database.dialect)
        self._begin, self._end = (Statement(sa.text(text), database.dialect) if text else None for text in _TURN[name])
        self._steps = _steps(table, database.dialect)
        self._whole = _with_keys(self._steps[0][1], table) if name in ("mysql", "mariadb") else None

    def missing(self, found: list[Any]) -> list[str]:
        """Return the statements that make what is not among the rows *found*."""
        there = {row[0] for row in found}
        if not there and self._whole is not None:
            return [self._whole]
        return [text for name, text in self._steps if name not in there]

    def create_in_turn(self, run: Execute) -> None:
        """Make what is missing, alone."""
        if self._begin is not None and not run(self._begin, self.names)[0][0]:
            raise StoreUnavailable("Another process is at it, and does not come to an end.", busy=True)
        with nullcontext() if self._end is None else ended_by(partial(run, self._end, self.names)):
            for text in self.missing(run(self.look, self.names)):
                _make(run, text)


def _make(run: Execute, text: str) -> None:
    """Run one step; a block of code is optional, and some roles may use no language for it."""
    if not text.startswith("DO "):
        return run.plain(text)
    run.plain("SAVEPOINT before_code")
    try:
        run.plain(text)
    except Failed:
        run.plain("ROLLBACK TO SAVEPOINT before_code")


def _steps(table: sa.Table, dialect: sa.Dialect) -> list[tuple[str, str]]:
    """Return name and statement for the table, its comments where they are separate, and each index."""
    made: list[Any] = []
    table.create(sa.create_mock_engine(f"{dialect.name}://", lambda ddl, *_, **__: made.append(ddl)), checkfirst=False)
    return [(_belongs_to(ddl, table), str(ddl.compile(dialect=dialect))) for ddl in made]


def _with_keys(create: str, table: sa.Table) -> str:
    """Return *create* with the indexes in it.

    MySQL commits each statement that makes something: who is killed after the first of several would leave a
    table without indexes, and nobody would notice.
    """
    keys = (f", KEY {index.name} ({index.columns[0].name})" for index in table.indexes)
    head, primary, rest = create.partition("PRIMARY KEY (digest)")
    return head + primary + "".join(sorted(keys)) + rest


def _belongs_to(ddl: Any, table: sa.Table) -> str:
    element = getattr(ddl, "element", table)
    return str(element.name if isinstance(element, sa.Index) else table.name)


_MYSQL_LOOK = """
    SELECT IF(index_name = 'PRIMARY', :table, index_name) FROM information_schema.statistics
    WHERE table_schema = DATABASE() AND table_name = :table
"""
_LOOK = {
    "sqlite": "SELECT name FROM sqlite_master WHERE tbl_name = :table",
    "postgresql": """
        SELECT relname FROM pg_class WHERE pg_table_is_visible(oid) AND (relname = :table OR oid IN
            (SELECT indexrelid FROM pg_index JOIN pg_class t ON t.oid = indrelid WHERE t.relname = :table))
    """,
    "mysql": _MYSQL_LOOK,
    "mariadb": _MYSQL_LOOK,
}

_MYSQL_TURN = (f"SELECT GET_LOCK({MYSQL_LOCK}, {PATIENCE_SECONDS})", MYSQL_UNLOCK)
_TURN = {
    "sqlite": (None, None),  # BEGIN IMMEDIATE is its turn
    "postgresql": (f"SELECT 1 FROM pg_advisory_xact_lock({POSTGRESQL_LOCK})", None),  # ends with the transaction
    "mysql": _MYSQL_TURN,
    "mariadb": _MYSQL_TURN,
}
