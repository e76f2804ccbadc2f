"""Many rows: lookup, save, list by user and purge, who waits meanwhile, and what the rows weigh.

Rows are copies of one that sessionware made, loaded by the driver under keys that can be told from
their number. Every second one has expired; every second live one is due to be extended.
"""

import contextlib
import hashlib
import multiprocessing
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from typing import Any
from wsgiref.types import WSGIApplication

import sqlalchemy

from . import client, contestants, report
from .console import database_of, heading, progress, say, show
from .contestants import OURS
from .servers import Database
from .workloads import SMALL

KINDS = ("sqlite", "postgresql")
HOUR = 3600
DAYS_AGO = 2 * 24 * HOUR  # long enough to be due for extension, not long enough to expire
LOAD_AT_ONCE = 20_000
LOOKUPS, SAVES, LISTS, UPDATES = 2000, 1000, 300, 10_000
QUIET = 1.5  # seconds of requests before the purge begins
PATIENCE = 120.0


@dataclass
class Scale:
    """What one size of table gave; times in microseconds unless named otherwise."""

    rows: int
    load_seconds: float = 0.0
    lookup: float = 0.0
    save: float = 0.0
    list_by_user: float = 0.0
    purge_seconds: float = 0.0
    purged: int = 0
    waits: dict[str, dict[str, float]] = field(default_factory=dict)  # milliseconds
    hot: dict[str, float] = field(default_factory=dict)  # share of updates, PostgreSQL only
    bytes_per_row: dict[str, float] = field(default_factory=dict)


def run(kind: str, sizes: Sequence[int]) -> dict[str, Any]:
    """Measure every size; print the tables, return the values."""
    results = []
    with database_of(kind) as database:
        heading(database.version(), "many rows, half of them expired")
        try:
            for size in sizes:
                results.append(_measure(database, size))
        except ImportError as error:
            say(f"scale is skipped: {error}")
            return {}
    _show(results)
    return {str(result.rows): asdict(result) for result in results}


def _measure(database: Database, size: int) -> Scale:
    from sessionware import SessionStore

    url = database.url(f"scale_{size}")
    store = SessionStore(url)
    store.create_table()
    table = Table(url, store)
    result = Scale(size, load_seconds=table.load(size))
    result.bytes_per_row = table.weights(size)
    app = contestants.build(OURS, url)
    cookie_name = client.seed(app, "/seed/small").partition("=")[0]
    ask = Asking(app, cookie_name, size)
    result.lookup, result.save = ask.median("/read", LOOKUPS), ask.median("/write", SAVES)
    result.list_by_user = _median(lambda: store.sessions_of(_user(random.randrange(size), size)), LISTS)
    _add_hot(result, table, ask, "as loaded")
    _add_purge(result, store, url, cookie_name)
    _add_hot(result, table, ask, "after purge and vacuum")
    return result


def key_of(number: int) -> str:
    """Return the session key of row *number*: 43 characters, as good as any other."""
    return f"{number:043d}"


def _user(number: int, size: int) -> str:
    return f"user-{number % max(1, size // 10)}"  # ten rows a user


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
                "user_id": _user(number, size),
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
        time.sleep(1.5)  # a session reports its counts at most once a second
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


class Asking:
    """Requests for the live rows of a table that has *size* of them."""

    def __init__(self, app: WSGIApplication, cookie_name: str, size: int) -> None:
        self._app, self._cookie_name, self._size = app, cookie_name, size

    def median(self, path: str, times: int) -> float:
        """Return the median microseconds of *path* for random sessions that are not due for extension."""
        return _median(lambda: self._ask(path, random.randrange(0, self._size, 4)), times)

    def extend_or_save(self, path: str, times: int) -> None:
        """Ask *path* once for each of some sessions that are due for extension."""
        due = range(2, self._size, 4)
        for number in random.sample(due, min(times, len(due))):
            self._ask(path, number)

    def _ask(self, path: str, number: int) -> None:
        client.get(self._app, path, f"{self._cookie_name}={key_of(number)}")


def _median(call: Callable[[], Any], times: int) -> float:
    spent = []
    for _ in range(times):
        begin = time.perf_counter()
        call()
        spent.append(time.perf_counter() - begin)
    return statistics.median(spent) * 1e6


def _add_hot(result: Scale, table: Table, ask: Asking, when: str) -> None:
    if not table.counts_updates:
        return
    if when != "as loaded":
        table.settle()
    for deed, path in (("touch", "/read"), ("save", "/write")):
        before = table.updates()
        ask.extend_or_save(path, min(UPDATES, result.rows // 10))
        updates, hot = (now - then for now, then in zip(table.updates(), before, strict=True))
        result.hot[f"{deed}, {when}"] = hot / updates if updates else 0.0


def _add_purge(result: Scale, store: Any, url: str, cookie_name: str) -> None:
    """Purge while one reader and one writer are at work."""
    with _client(url, "/read", cookie_name, 0) as reader, _client(url, "/write", cookie_name, 4) as writer:
        time.sleep(QUIET)
        for each in (reader, writer):
            each.purging.set()
        begin = time.perf_counter()
        result.purged = _purge(store)
        result.purge_seconds = time.perf_counter() - begin
        result.waits = {"reader": reader.stop(), "writer": writer.stop()}


def _purge(store: Any) -> int:
    total = 0
    while removed := store.purge():
        total += removed
    return total


class Client:
    """A closed loop of requests in its own process."""

    def __init__(self, url: str, path: str, cookie: str) -> None:
        spawn = multiprocessing.get_context("spawn")
        self.purging, self._over = spawn.Event(), spawn.Event()
        self._pipe, far = spawn.Pipe()
        arguments = (url, path, cookie, self.purging, self._over, far)
        self.process = spawn.Process(target=_ask_on, args=arguments, daemon=True)
        self.process.start()
        self._pipe.recv()  # connected

    def stop(self) -> dict[str, float]:
        """Return the milliseconds it waited, before and during the purge."""
        self._over.set()
        if not self._pipe.poll(PATIENCE):
            raise client.WrongAnswer("a client of the purge did not come back")
        waits: dict[str, float] = self._pipe.recv()
        return waits


@contextlib.contextmanager
def _client(url: str, path: str, cookie_name: str, number: int) -> Iterator[Client]:
    started = Client(url, path, f"{cookie_name}={key_of(number)}")
    try:
        yield started
    finally:
        started.process.kill()


def _ask_on(url: str, path: str, cookie: str, purging: Any, over: Any, pipe: Connection) -> None:
    app = contestants.build(OURS, url)
    client.get(app, path, cookie)
    pipe.send(None)
    waits: dict[bool, list[float]] = {False: [], True: []}
    refused = 0
    while not over.is_set():
        begin = time.perf_counter()
        try:
            client.get(app, path, cookie)
        except Exception:
            refused += 1
        waits[purging.is_set()].append((time.perf_counter() - begin) * 1000)
    pipe.send(_summary(waits) | {"refused": refused})


def _summary(waits: dict[bool, list[float]]) -> dict[str, float]:
    return {
        "median_before": statistics.median(waits[False] or [0.0]),
        "longest_before": max(waits[False], default=0.0),
        "median_during": statistics.median(waits[True] or [0.0]),
        "longest_during": max(waits[True], default=0.0),
        "requests_during": len(waits[True]),
    }


def _show(results: Sequence[Scale]) -> None:
    head = ["rows", "lookup us", "save us", "list by user us", "purged", "purge s", "rows purged a second"]
    show("Times (medians):", head, [_times(result) for result in results])
    head = ["rows", "client", "median before", "median during", "longest before", "**longest during**"]
    rows = [_waits(result, who) for result in results for who in result.waits]
    show("Waits of a concurrent client in ms:", [*head, "requests during", "refused"], rows)
    show("Bytes per row:", ["rows", "what", "bytes"], _named(results, "bytes_per_row", "{:,.0f}"))
    if any(result.hot for result in results):
        show("Updates in place (HOT):", ["rows", "what", "share"], _named(results, "hot", "{:.1%}"))


def _times(result: Scale) -> list[str]:
    times = (result.lookup, result.save, result.list_by_user)
    rate = result.purged / result.purge_seconds if result.purge_seconds else 0.0
    counts = [f"{result.purged:,}", f"{result.purge_seconds:.2f}", f"{rate:,.0f}"]
    return [f"{result.rows:,}", *(report.number(value) for value in times), *counts]


def _waits(result: Scale, who: str) -> list[str]:
    waits = result.waits[who]
    names = ("median_before", "median_during", "longest_before", "longest_during")
    times = [report.number(waits[name]) for name in names]
    return [f"{result.rows:,}", who, *times, f"{waits['requests_during']:,}", str(waits["refused"])]


def _named(results: Sequence[Scale], attribute: str, layout: str) -> list[list[str]]:
    return [
        [f"{result.rows:,}", name, layout.format(value)]
        for result in results
        for name, value in getattr(result, attribute).items()
    ]
