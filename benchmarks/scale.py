"""Many rows: lookup, save, list by user and purge, who waits meanwhile, and what the rows weigh.

Lookup should not know how many rows there are; a purge should cost what it removes, and no request
much of its time.
"""

import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import sqlalchemy

from . import client, report
from .console import database_of, heading, say, show
from .rows import Table, key_of, user_of
from .servers import Database
from .waiting import WHEN, at_work

KINDS = ("sqlite", "postgresql")
LOOKUPS, SAVES, LISTS, UPDATES = 2000, 1000, 300, 10_000
QUIET = 30.0  # seconds of requests before the purge begins: what they wait then is the machine's doing


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


def run(kind: str, sizes: Sequence[int], purge_seconds: float) -> dict[str, Any]:
    """Measure every size; print the tables, return the values. A purge that takes too long is cut short."""
    results = []
    with database_of(kind) as database:
        heading(database.version(), "many rows, half of them expired")
        try:
            for size in sizes:
                results.append(_measure(database, size, purge_seconds))
                say(f"{size:,} rows: {results[-1].purged:,} purged in {results[-1].purge_seconds:.1f} s")
        except ImportError as error:
            say(f"scale is skipped: {error}")
            return {}
    _show(results)
    return {str(result.rows): asdict(result) for result in results}


def _measure(database: Database, size: int, purge_seconds: float) -> Scale:
    from sessionware import SessionStore

    url = database.url(f"scale_{size}")
    store = SessionStore(url)
    store.create_table()
    table = Table(url, store)
    result = Scale(size, load_seconds=table.load(size))
    result.bytes_per_row = table.weights(size)
    ask = Asking(url, size)
    result.lookup, result.save = ask.median("/read", LOOKUPS), ask.median("/write", SAVES)
    result.list_by_user = _median(lambda: store.sessions_of(user_of(random.randrange(size), size)), LISTS)
    _add_hot(result, table, ask, "as loaded")
    _add_purge(result, store, ask, purge_seconds)
    _add_hot(result, table, ask, "after purge and vacuum")
    return result


class Asking:
    """Requests for the live rows of a table that has *size* of them."""

    def __init__(self, url: str, size: int) -> None:
        from sessionware import SessionMiddleware

        from .contestants import ours

        self.url, self._size = url, size
        self._engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT")
        self._app = SessionMiddleware(ours.application, self._engine, purge_interval=None)
        self._cookie_name = client.seed(self._app, "/seed/small").partition("=")[0]
        self._due = random.sample(range(2, size, 4), len(range(2, size, 4)))

    def median(self, path: str, times: int) -> float:
        """Return the median microseconds of *path* for random sessions that are not due for extension."""
        return _median(lambda: self._ask(path, random.randrange(0, self._size, 4)), times)

    def touch(self, times: int) -> None:
        """Read *times* sessions that are due for extension, each of them for the first time."""
        for _ in range(times):
            self._ask("/read", self._due.pop())

    def save(self, times: int) -> None:
        """Change *times* sessions that were used a moment ago."""
        for _ in range(times):
            self._ask("/write", random.randrange(0, self._size, 4))

    def hang_up(self) -> None:
        """Close the connections: a server counts a session's updates for certain when it ends."""
        self._engine.dispose()

    def cookie(self, number: int) -> str:
        """Return the cookie of row *number*."""
        return f"{self._cookie_name}={key_of(number)}"

    def _ask(self, path: str, number: int) -> None:
        client.get(self._app, path, self.cookie(number))


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
    table.settle()
    for deed in (ask.touch, ask.save):
        before = table.updates()
        deed(min(UPDATES, result.rows // 10))
        ask.hang_up()
        updates, hot = (now - then for now, then in zip(table.updates(), before, strict=True))
        result.hot[f"{deed.__name__}, {when}"] = hot / updates if updates else 0.0


def _add_purge(result: Scale, store: Any, ask: Asking, seconds: float) -> None:
    """Purge while one reader and one writer are at work."""
    reading, writing = at_work(ask.url, "/read", ask.cookie(0)), at_work(ask.url, "/write", ask.cookie(4))
    with reading as reader, writing as writer:
        time.sleep(QUIET)
        for each in (reader, writer):
            each.purging.set()
        begin = time.perf_counter()
        result.purged = _purge(store, seconds)
        result.purge_seconds = time.perf_counter() - begin
        result.waits = {"reader": reader.stop(), "writer": writer.stop()}


def _purge(store: Any, seconds: float) -> int:
    """Purge until nothing is left or *seconds* have passed; return how many rows went."""
    total, deadline = 0, time.monotonic() + seconds
    while time.monotonic() < deadline and (removed := store.purge(max_batches=20)):
        total += removed
    return total


def _show(results: Sequence[Scale]) -> None:
    head = ["rows", "lookup us", "save us", "list by user us", "purged", "purge s", "rows purged a second"]
    show("Times (medians):", head, [_times(result) for result in results])
    of_waits = ("median", "p99.9", "longest")
    head = ["rows", "client", *(f"{wait} {when}" for wait in of_waits for when in WHEN)]
    rows = [_waits(result, who) for result in results for who in result.waits]
    show("Waits of a concurrent client in ms:", [*head, *(f"requests {when}" for when in WHEN), "refused"], rows)
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
    times = [report.number(waits[f"{name}_{when}"]) for name in ("median", "thousandth", "longest") for when in WHEN]
    counts = [f"{waits[f'requests_{when}']:,}" for when in WHEN]
    return [f"{result.rows:,}", who, *times, *counts, str(waits["refused"])]


def _named(results: Sequence[Scale], attribute: str, layout: str) -> list[list[str]]:
    return [
        [f"{result.rows:,}", name, layout.format(value)]
        for result in results
        for name, value in getattr(result, attribute).items()
    ]
