"""Pieces of code that stop before each of their statements, so that an interleaving is an order of statements.

for order in merges("LLL", "RRR"):
    play(order, {"L": Actor(engine, login), "R": Actor(other_engine, revoke)})
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from sqlalchemy import Engine

from tests.support.driver import Call, Proceed, watching

# How long a statement may take before it counts as waiting for a lock. One that is merely slow makes
# the order less strict, never the test wrong.
STUCK = 0.02
GLANCE = 0.001
SLOW = 0.5
PATIENCE = 30.0


class Actor:
    """One piece of code in a thread of its own; its engine is nobody else's.

    It stops before each statement that begins with one of *stops*. *result* is what *work* returned or
    raised.
    """

    def __init__(self, engine: Engine, work: Callable[[], Any], stops: Sequence[str]) -> None:
        self.engine = engine
        self.result: Any = None
        self.stopped_at: list[str] = []
        self._work = work
        self._stops = tuple(stops)
        self._change = threading.Condition()
        self._standing = False
        self._go = False
        self._setting = False
        self.done = False
        self._thread = threading.Thread(target=self._run, name="actor")

    def start(self) -> None:
        """Run to the first stop."""
        self._thread.start()
        self._settle(SLOW)

    def step(self) -> None:
        """Make the statement it stands before, and run to the next stop, to the end, or into a lock."""
        with self._change:
            if not self._standing and not self.done:
                self._settle(GLANCE)
            if not self._standing:
                return
            self._go, self._standing = True, False
            self._change.notify_all()
            self._settle(STUCK)

    def join(self) -> None:
        """Wait for its end."""
        self._thread.join(PATIENCE)

    def around(self, call: Call, proceed: Proceed) -> Any:
        """Stop, if this is where."""
        if call.name == "execute" and self._is_stop(call.sql.lstrip().upper()):
            with self._change:
                self.stopped_at.append(call.sql.split(maxsplit=1)[0])
                self._standing = True
                self._change.notify_all()
                if not self._change.wait_for(lambda: self._go, PATIENCE):
                    raise AssertionError("nobody let this actor go on")
                self._go = False
        return proceed()

    def _is_stop(self, sql: str) -> bool:
        # SQLAlchemy gives PyMySQL's connections their level back with SET and COMMIT: no step of ours.
        setting, self._setting = self._setting, sql.startswith("SET")
        return not setting and sql.startswith(self._stops)

    def _settle(self, patience: float) -> None:
        with self._change:
            self._change.wait_for(lambda: self._standing or self.done, patience)

    def _run(self) -> None:
        try:
            self.result = self._work()
        except Exception as error:
            self.result = error
        with self._change:
            self.done = True
            self._change.notify_all()


def play(order: Sequence[str], actors: Mapping[str, Actor]) -> None:
    """Let *actors* take their steps in *order*, and then to their ends.

    One that waits for a lock misses its turn; what it has left to do comes at the end.
    """
    with ExitStack() as stack:
        for actor in actors.values():
            stack.enter_context(watching(actor.engine, actor.around))
            actor.start()
        for name in order:
            actors[name].step()
        deadline = time.monotonic() + PATIENCE
        while not all(actor.done for actor in actors.values()):
            assert time.monotonic() < deadline, "the actors wait for each other"
            for actor in actors.values():
                actor.step()
        for actor in actors.values():
            actor.join()
