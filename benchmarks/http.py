"""The HTTP run: gunicorn under wrk on the loopback, repetitions interleaved.

Server, database and load generator share the machine, so only shares of the limit within one
repetition say anything.
"""

import contextlib
import http.client
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from http.cookies import SimpleCookie
from typing import Any
from wsgiref.types import WSGIApplication

from . import contestants
from .child import free_port, serving
from .client import WrongAnswer
from .console import database_of, heading, progress, say, show
from .load import CONNECTIONS, Load, installed, loaded
from .process import Unavailable, running
from .servers import Database
from .workloads import WORKLOADS

CLASSES = {
    "sync, 2 workers": ["--workers", "2", "--worker-class", "sync"],
    "gthread, 2 x 8": ["--workers", "2", "--worker-class", "gthread", "--threads", "8"],
}
ASKED = ("W1", "W2", "W3")
SESSIONS = 64  # requests go round these, so that writers rarely meet on one
PATIENCE = 20.0  # seconds for a server to answer first


def application(name: str, url: str) -> WSGIApplication:
    """Return what a gunicorn worker serves."""
    return contestants.build(name, url)


@dataclass(frozen=True)
class Case:
    """One contestant under one kind of worker with one workload."""

    worker: str
    name: str
    workload: str


Loads = dict[Case, list[Load]]


def run(kind: str, names: Sequence[str], repetitions: int, seconds: int) -> dict[str, Any]:
    """Measure all; print the tables, return the values."""
    if not installed():
        say("http is skipped: wrk is not installed")
        return {}
    loads: Loads = {}
    with database_of(kind) as database:
        heading(database.version(), f"gunicorn under wrk, {CONNECTIONS} connections, {seconds} s each")
        able = _able(names, database)
        rounds = [(worker, name) for worker in CLASSES for name in able] * repetitions
        with progress(len(rounds), f"{kind}: http") as advance:
            for _repetition in range(repetitions):
                for worker in CLASSES:
                    for name in random.sample(able, len(able)):
                        _measure(loads, worker, name, database, seconds)
                        advance(1)
    for worker in CLASSES:
        text = f"{worker}: requests a second (share of limit), p99 in ms (share of limit):"
        show(text, ["", *ASKED], _rows(loads, worker, able))
    return _plain(loads)


def _able(names: Sequence[str], database: Database) -> list[str]:
    """Return who can be had; this also makes their tables before several workers would at once."""
    able = []
    for name in names:
        try:
            with running(name, database.url(name)) as contestant:
                contestant.verify("W3" if contestants.has_sessions(name) else "W1")
            able.append(name)
        except (Unavailable, WrongAnswer) as error:
            say(f"{name} is skipped: {error}")
    return able


def _measure(loads: Loads, worker: str, name: str, database: Database, seconds: int) -> None:
    """Serve *name* once and load it with each workload; one that does not answer is left out with a line."""
    try:
        with _served(worker, name, database) as port:
            cookies = _cookies(port) if contestants.has_sessions(name) else ["sid=none"]
            for workload in ASKED if contestants.has_sessions(name) else ASKED[:1]:
                load = loaded(port, WORKLOADS[workload].path, cookies, seconds, database.directory)
                loads.setdefault(Case(worker, name, workload), []).append(load)
    except (OSError, http.client.HTTPException, WrongAnswer, subprocess.SubprocessError) as error:
        say(f"{name}, {worker}: {type(error).__name__}: {error}")


@contextlib.contextmanager
def _served(worker: str, name: str, database: Database) -> Iterator[int]:
    port = free_port()
    place = f"{__name__}:application({name!r}, {database.url(name)!r})"
    options = [*CLASSES[worker], "--bind", f"127.0.0.1:{port}", "--log-level", "error"]
    command = [sys.executable, "-m", "gunicorn", *options, place]
    with serving(command, database.directory / "gunicorn.log", None, signal.SIGTERM) as process:
        _wait_for(port, process)
        yield port


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError):
            _get(port, "/")
            return
        time.sleep(0.05)
    raise WrongAnswer("gunicorn did not answer")


def _get(port: int, path: str) -> str:
    """Return the Set-Cookie of the answer to *path*."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    with contextlib.closing(connection):
        connection.request("GET", path)
        response = connection.getresponse()
        response.read()
    if response.status != 200:
        raise WrongAnswer(f"{path} answered {response.status}")
    return response.getheader("Set-Cookie", "")


def _cookies(port: int) -> list[str]:
    found = []
    for _ in range(SESSIONS):
        ((name, morsel),) = SimpleCookie(_get(port, "/seed/small")).items()
        found.append(f"{name}={morsel.value}")
    return found


def _rows(loads: Loads, worker: str, names: Sequence[str]) -> list[list[str]]:
    return [[name, *(_cell(loads, Case(worker, name, workload)) for workload in ASKED)] for name in names]


def _cell(loads: Loads, case: Case) -> str:
    mine = loads.get(case)
    if not mine:
        return ""
    limit = loads.get(Case(case.worker, contestants.LIMIT, case.workload), [])
    rate, p99 = (statistics.median(load.per_second for load in mine), statistics.median(x.p99 for x in mine))
    refused = sum(load.refused for load in mine)
    return (
        f"{rate:,.0f}{_share([load.per_second for load in mine], [load.per_second for load in limit])}, "
        f"{p99:.1f}{_share([load.p99 for load in mine], [load.p99 for load in limit])}"
        + (f", {refused} refused" if refused else "")
    )


def _share(mine: Sequence[float], limit: Sequence[float]) -> str:
    if not limit:
        return ""
    shares = [one / other for one, other in zip(mine, limit, strict=False)]
    return f" (**{statistics.median(shares):.2f}** [{min(shares):.2f} {max(shares):.2f}])"


def _plain(loads: Loads) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for case, several in loads.items():
        by_name = plain.setdefault(case.worker, {}).setdefault(case.name, {})
        by_name[case.workload] = [asdict(load) for load in several]
    return plain
