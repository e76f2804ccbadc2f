"""Counts beside times: statements, round trips, bytes and cookies of one request.

SQLite tells every statement to a trace callback. PostgreSQL and MariaDB are reached through a relay
on the loopback that counts flights (the client speaks, then the server) and bytes.
"""

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import make_url

from . import contestants
from .client import WrongAnswer
from .measure import Say
from .process import Contestant, Unavailable
from .relay import Relay
from .runner import WARM_UP
from .servers import Database
from .workloads import WORKLOADS

REPEATS = 5


@dataclass(frozen=True)
class Count:
    """What one request cost; None where this database does not show it."""

    cookies: int
    statements: int | None = None
    round_trips: int | None = None
    bytes_up: int | None = None
    bytes_down: int | None = None

    def plain(self) -> dict[str, int]:
        return {name: value for name, value in asdict(self).items() if value is not None}


def count_all(names: Sequence[str], database: Database, workloads: Sequence[str], say: Say) -> dict[str, Any]:
    """Return contestant -> workload -> Count."""
    counts: dict[str, Any] = {}
    for name in names:
        if not contestants.has_sessions(name):
            continue
        try:
            counts[name] = _count(name, database, workloads)
        except (Unavailable, WrongAnswer) as error:
            say(f"{name} is not counted: {error}")
    return counts


def _count(name: str, database: Database, workloads: Sequence[str]) -> dict[str, Count]:
    if database.kind == "sqlite":
        contestant = Contestant(name, database.url(name), prepare=f"{__name__}:trace_sqlite")
        return _with(contestant, workloads, lambda workload: _statements(contestant, workload))
    url = make_url(database.url(name))
    with Relay(str(url.host), int(url.port or 0)) as relay:
        through = url.set(port=relay.port).render_as_string(hide_password=False)
        contestant = Contestant(name, through)
        return _with(contestant, workloads, lambda workload: _flights(contestant, relay, workload))


def _with(contestant: Contestant, workloads: Sequence[str], count: Callable[[str], Count]) -> dict[str, Count]:
    try:
        return {workload: _warm(contestant, workload, count) for workload in workloads}
    finally:
        contestant.stop()


def _warm(contestant: Contestant, workload: str, count: Callable[[str], Count]) -> Count:
    contestant.verify(workload)
    contestant.run(workload, WARM_UP, 5.0)
    several = sorted((count(workload) for _ in range(REPEATS)), key=str)
    return several[REPEATS // 2]


def _statements(contestant: Contestant, workload: str) -> Count:
    contestant.taken()
    cookies = contestant.cookies_set(workload)
    return Count(cookies, statements=contestant.taken())


def _flights(contestant: Contestant, relay: Relay, workload: str) -> Count:
    relay.reset()
    cookies = contestant.cookies_set(workload)
    return Count(cookies, round_trips=relay.flights, bytes_up=relay.up, bytes_down=relay.down)


def trace_sqlite() -> Callable[[], int]:
    """Count every statement of every later connection of this process; return the reader of the count."""
    seen: list[str] = []
    connect: Any = sqlite3.dbapi2.connect

    def traced(*arguments: Any, **options: Any) -> Any:
        connection = connect(*arguments, **options)
        connection.set_trace_callback(seen.append)
        return connection

    def taken() -> int:
        count = len(seen)
        seen.clear()
        return count

    for module in (sqlite3, sqlite3.dbapi2):
        vars(module)["connect"] = traced
    return taken


def rows(counts: dict[str, Any], workloads: Sequence[str]) -> list[list[str]]:
    """Return the lines of the table of counts."""
    return [[name, *(_cell(by_workload[workload]) for workload in workloads)] for name, by_workload in counts.items()]


def _cell(count: Count) -> str:
    calls = count.statements if count.round_trips is None else count.round_trips
    size = "" if count.bytes_up is None else f", {count.bytes_up:,}/{count.bytes_down:,} B"
    return f"{calls}{size}{', cookie' if count.cookies else ''}"


def touching(workloads: Sequence[str]) -> list[str]:
    """Return the workloads worth counting: all that bring a cookie or touch the session."""
    return [name for name in workloads if WORKLOADS[name].seed or WORKLOADS[name].touches]
