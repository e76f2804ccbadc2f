"""One process for each contestant, asked for one round at a time.

A process of its own keeps Django's settings, caches, garbage and connections of one contestant away
from the others; only one of them runs at any moment.
"""

import contextlib
import importlib
import multiprocessing
import os
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

from .client import WrongAnswer
from .runner import Runner

PATIENCE = 120.0  # seconds for one answer of a contestant


class Unavailable(Exception):
    """What the contestant needs is not installed."""


class Contestant:
    """The near end of a Runner: the same methods, asked over a pipe."""

    def __init__(self, name: str, url: str, core: int | None = None, prepare: str | None = None) -> None:
        """Start the process, on *core*; *prepare* is a `module:function` called there before anything."""
        self.name = name
        spawn = multiprocessing.get_context("spawn")
        self._pipe, far = spawn.Pipe()
        self._process = spawn.Process(target=serve, args=(far, name, url, core, prepare), daemon=True)
        self._process.start()
        far.close()
        self._answer()

    def verify(self, workload: str) -> None:
        self._ask("verify", workload)

    def run(self, workload: str, requests: int, budget: float) -> float:
        return float(self._ask("run", workload, requests, budget))

    def cookies_set(self, workload: str) -> int:
        return int(self._ask("cookies_set", workload))

    def seed(self, path: str) -> str:
        return str(self._ask("seed", path))

    def get(self, path: str, cookie: str) -> str:
        return str(self._ask("get", path, cookie))

    def begin_to_write(self, cookie: str, prefix: str, requests: int) -> None:
        """Start Runner.write without waiting for it."""
        self._pipe.send(("write", (cookie, prefix, requests)))

    def written(self) -> tuple[int, float]:
        """Wait for what `begin_to_write` started."""
        refused, seconds = self._answer()
        return refused, seconds

    def taken(self) -> int:
        """Return what the module named by *prepare* counted since the last call."""
        return int(self._ask("taken"))

    def stop(self) -> None:
        self._pipe.close()
        self._process.join(2)
        self._process.kill()

    def _ask(self, method: str, *arguments: Any) -> Any:
        self._pipe.send((method, arguments))
        return self._answer()

    def _answer(self) -> Any:
        if not self._pipe.poll(PATIENCE):
            self._process.kill()
            raise WrongAnswer(f"no answer in {PATIENCE:.0f} s")
        try:
            error, value = self._pipe.recv()
        except EOFError:
            raise WrongAnswer("the process ended") from None
        if error is not None:
            raise error
        return value


@contextlib.contextmanager
def running(name: str, url: str, core: int | None = None) -> Iterator[Contestant]:
    """Give a Contestant that is stopped at the end."""
    contestant = Contestant(name, url, core)
    try:
        yield contestant
    finally:
        contestant.stop()


def serve(pipe: Connection, name: str, url: str, core: int | None, prepare: str | None) -> None:
    """Build the contestant and answer until the pipe is closed."""
    if core is not None:
        os.sched_setaffinity(0, {core})
    methods: dict[str, Any] = {}
    try:
        if prepare is not None:
            module, _, function = prepare.partition(":")
            methods["taken"] = getattr(importlib.import_module(module), function)()
        runner = Runner(name, url)
    except ImportError as error:
        pipe.send((Unavailable(str(error)), None))
        return
    except Exception as error:
        pipe.send((WrongAnswer(f"{type(error).__name__}: {error}"), None))
        return
    pipe.send((None, None))
    _answer_all(pipe, runner, methods)


def _answer_all(pipe: Connection, runner: Runner, methods: dict[str, Any]) -> None:
    with contextlib.suppress(EOFError, OSError):
        while True:
            method, arguments = pipe.recv()
            try:
                pipe.send((None, (methods.get(method) or getattr(runner, method))(*arguments)))
            except Exception as error:
                pipe.send((WrongAnswer(f"{method} {arguments}: {type(error).__name__}: {error}"), None))
