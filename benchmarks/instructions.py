"""Instructions of one request in the client process, counted by callgrind.

Two runs are compared that differ by a known number of requests only, so that imports, connecting and
warming up cancel out. Run inside valgrind as `python -m benchmarks.instructions NAME URL WORKLOAD`.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

from . import client, contestants
from .runner import WARM_UP, Runner
from .servers import Database
from .workloads import WORKLOADS

COUNTED = ("W1", "W2", "W3")
REQUESTS = 2000
PATIENCE = 600.0  # seconds for one run
BASELINE = "none"

_collected = re.compile(r"Collected *: *(\d+)").search


def count_all(
    names: Sequence[str], database: Database, advance: Callable[[int], None], say: Callable[[str], None]
) -> dict[str, dict[str, int]]:
    """Return contestant -> workload -> instructions; nothing where valgrind is not installed."""
    if shutil.which("valgrind") is None:
        say("instructions are skipped: valgrind is not installed")
        return {}
    counted = {}
    for name in names:
        try:
            counted[name] = _count(name, database.url(name), advance)
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            say(f"{name} has no instructions counted: {error}")
    return counted


def steps(names: Sequence[str]) -> int:
    """Return how many times `count_all` will advance."""
    return sum(1 + len(_asked(name)) for name in names)


def _asked(name: str) -> Sequence[str]:
    return COUNTED if contestants.has_sessions(name) else COUNTED[:1]


def _count(name: str, url: str, advance: Callable[[int], None]) -> dict[str, int]:
    collected = {}
    for workload in (BASELINE, *_asked(name)):
        collected[workload] = _collect(name, url, workload)
        advance(1)
    baseline = collected.pop(BASELINE)
    return {workload: round((total - baseline) / REQUESTS) for workload, total in collected.items()}


def _collect(name: str, url: str, workload: str) -> int:
    valgrind = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]
    done = subprocess.run(
        [*valgrind, sys.executable, "-m", __name__, name, url, workload],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=os.environ | {"PYTHONHASHSEED": "0"},
        check=True,
    )
    found = _collected(done.stderr)
    if found is None:
        raise ValueError("callgrind told no count")
    return int(found[1])


def rows(counted: dict[str, dict[str, int]]) -> list[list[str]]:
    """Return the lines of the table: thousands of instructions, and the ratio to the limit."""
    limit = counted.get(contestants.LIMIT, {})
    return [[name, *(_cell(by.get(w), limit.get(w), w) for w in COUNTED)] for name, by in counted.items()]


def _cell(count: int | None, limit: int | None, workload: str) -> str:
    if count is None:
        return ""
    thousands = f"{count / 1000:,.0f}"
    return f"{thousands} ({count / limit:.2f})" if limit and WORKLOADS[workload].touches else thousands


def main(name: str, url: str, workload: str) -> None:
    """Warm up all workloads, then make the requests of one."""
    runner = Runner(name, url)
    for each in _asked(name):
        runner.verify(each)
        runner.run(each, WARM_UP, PATIENCE)
    if workload != BASELINE:
        asked: Any = WORKLOADS[workload]
        client.timed(runner.app, asked.path, runner.cookie(asked), REQUESTS, PATIENCE)


if __name__ == "__main__":
    main(*sys.argv[1:])
