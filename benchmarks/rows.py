"""The sessions table seen from the driver's side: loaded in bulk, weighed, its updates counted.

Rows are copies of one that sessionware made, under keys that can be told from their number. Odd ones
have expired; of the others every second one is due to be extended at its next use.
"""

import contextlib
import hashlib
import time
from collections.abc import Iterator
from typing import Any

import sqlalchemy

from .console import progress
from .workloads import SMALL

HOUR = 3600
DAYS_AGO = 2 * 24 * HOUR  # long enough to be due for extension, not long enough to expire
LOAD_AT_ONCE = 20_000


def key_of(number: int) -> str:
    """Return the session key of row *number*: 43 characters, as good as any other."""
    return f"{number:043d}"


def user_of(number: int, size: int) -> str:
    """Return the user of row *number* of *size*: ten rows each."""
    return f"user-{number % max(1, size // 10)}"


class Table:
    """The sessions table, seen from the driver's side."""

    def __init__(self, url: str, store: Any) -> None:
        self._engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
        self._is_postgresql = self._engine.dialect.name == "postgresql"
        store.create(dict(SMALL), user_id="user-0")
        with self._engine.connect() as connection:
            name = sqlalchemy.inspect(connection).get_table_names()[0]
            row = connection.exec_driver_sql(f"SELECT * FROM {name}").mappings().one()
            self.name, self._model = name, dict(row)
            self._indexes = [index["name"] for index in sqlalchemy.inspect(connection).get_indexes(name)]

    def load(self, size: int) -> float:
        """Insert *size* rows; return the seconds that took."""
        begin = time.perf_counter()
        insert = self._copy if self._is_postgresql else self._insert
        label = f"{self._engine.dialect.name}: {size:,} rows"
        with (
            progress(size, label) as advance,
            contextlib.closing(self._engine.raw_connection()) as connection,
        ):
            for first in range(0, size, LOAD_AT_ONCE):
                count = min(LOAD_AT_ONCE, size - first)
                insert(connection, self._rows(first, count, size))
                advance(count)
            connection.commit()
        self.settle()
        return time.perf_counter() - begin

    def _rows(self, first: int, count: int, size: int) -> Iterator[tuple[Any, ...]]:
        model = self._model
        for number in range(first, first + count):
            changed = {
                "digest": hashlib.sha256(key_of(number).encode()).digest(),
                "revision": model["revision"] ^ number,
                "user_id": user_of(number, size),
            } | _moments(model, number)
            yield tuple((model | changed).values())

    def _copy(self, connection: Any, rows: Iterator[tuple[Any, ...]]) -> None:
        with connection.cursor().copy(f"COPY {self.name} ({', '.join(self._model)}) FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)

    def _insert(self, connection: Any, rows: Iterator[tuple[Any, ...]]) -> None:
        connection.cursor().execute("PRAGMA cache_size = -500000")  # KiB: loading is not what is measured
        marks = ", ".join("?" * len(self._model))
        connection.cursor().executemany(f"INSERT INTO {self.name} VALUES ({marks})", rows)

    def settle(self) -> None:
        """Do what the database's own maintenance would have done by now."""
        with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            if self._is_postgresql:
                connection.exec_driver_sql(f"VACUUM ANALYZE {self.name}")
                connection.exec_driver_sql("CHECKPOINT")
            else:
                connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").close()

    def weights(self, size: int) -> dict[str, float]:
        """Return bytes per row of the table and of each index."""
        with self._engine.connect() as connection:
            if self._is_postgresql:
                found = connection.exec_driver_sql(
                    "SELECT relname, pg_total_relation_size(oid) FROM pg_class WHERE oid IN"
                    f" (SELECT indexrelid FROM pg_index WHERE indrelid = '{self.name}'::regclass)"
                    f" UNION ALL SELECT '{self.name}', pg_table_size('{self.name}')"
                )
                return {str(name): total / size for name, total in found}
            return _sqlite_weights(connection, size)

    def updates(self) -> tuple[int, int]:
        """Return how many updates PostgreSQL has made, and how many of them in place (HOT)."""
        time.sleep(1.0)  # a session that has ended is still reporting
        with self._engine.connect() as connection:
            row = connection.exec_driver_sql(
                f"SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = '{self.name}'"
            ).one()
            return int(row[0]), int(row[1])

    @property
    def counts_updates(self) -> bool:
        return self._is_postgresql


def _moments(model: dict[str, Any], number: int) -> dict[str, Any]:
    """Return the times of row *number*: expired if odd; used two days ago if every second even one."""
    if number % 2:
        earlier = model["expires_at"] - int(time.time()) + (1 + number % 500) * HOUR
    else:
        earlier = DAYS_AGO if number % 4 else 0
    shifted = {name: model[name] - earlier for name in ("created_at", "used_at", "expires_at")}
    return shifted | {"purge_hour": model["purge_hour"] - earlier // HOUR}


def _sqlite_weights(connection: sqlalchemy.Connection, size: int) -> dict[str, float]:
    try:
        found = connection.exec_driver_sql("SELECT name, SUM(pgsize) FROM dbstat GROUP BY name")
        return {str(name): total / size for name, total in found if total / size >= 1}
    except sqlalchemy.exc.OperationalError:  # dbstat is not compiled in
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar() or 0
        return {"all": pages * (connection.exec_driver_sql("PRAGMA page_size").scalar() or 0) / size}
