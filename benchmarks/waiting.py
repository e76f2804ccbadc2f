"""Clients at work while something else happens: how long they wait before it and during it."""

import contextlib
import multiprocessing
import statistics
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

from . import client, contestants
from .contestants import OURS

PATIENCE = 120.0
WHEN = ("before", "during")  # the purge


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
def at_work(url: str, path: str, cookie: str) -> Iterator[Client]:
    """Give a client that asks for *path* until the end."""
    started = Client(url, path, cookie)
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
    summary: dict[str, float] = {}
    for when, spent in zip(WHEN, (waits[False], waits[True]), strict=True):
        spent = sorted(spent) or [0.0]
        summary[f"median_{when}"] = statistics.median(spent)
        summary[f"thousandth_{when}"] = spent[-(1 + len(spent) // 1000)]
        summary[f"longest_{when}"] = spent[-1]
        summary[f"requests_{when}"] = len(spent)
    return summary
