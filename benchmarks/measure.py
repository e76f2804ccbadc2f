"""Rounds: every contestant once a round, in a new order each time; ratios within the round.

A round's ratio compares two numbers taken within a second of each other, so what the machine does
to both cancels out; the median and the quartiles of these ratios are what is reported.
"""

import os
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from . import contestants
from .client import WrongAnswer
from .process import Contestant, Unavailable
from .servers import Database
from .workloads import WORKLOADS

Say = Callable[[str], None]


@dataclass(frozen=True)
class Pace:
    """How long to measure."""

    rounds: int
    share: float  # of the requests that a workload states
    budget: float  # seconds one contestant may take for one round of one workload


FULL = Pace(rounds=15, share=1.0, budget=0.5)
QUICK = Pace(rounds=5, share=0.3, budget=0.15)


def pace(*, quick: bool, rounds: int | None) -> Pace:
    """Return the pace that the options ask for."""
    chosen = QUICK if quick else FULL
    return chosen if rounds is None else replace(chosen, rounds=rounds)


@dataclass
class Samples:
    """Microseconds per request, by contestant and workload, one for each round."""

    times: dict[tuple[str, str], list[float]] = field(default_factory=dict)

    def add(self, name: str, workload: str, microseconds: float) -> None:
        self.times.setdefault((name, workload), []).append(microseconds)

    def median(self, name: str, workload: str) -> float | None:
        times = self.times.get((name, workload))
        return statistics.median(times) if times else None

    def ratios(self, name: str, workload: str, base: str = contestants.LIMIT) -> list[float]:
        """Return the ratio to *base* in each round."""
        pairs = zip(self.times.get((name, workload), ()), self.times.get((base, workload), ()), strict=False)
        return [mine / theirs for mine, theirs in pairs]

    def above(self, name: str, workload: str, base: str, base_workload: str) -> float | None:
        """Return the median of the microseconds above *base*, round by round."""
        pairs = zip(self.times.get((name, workload), ()), self.times.get((base, base_workload), ()), strict=False)
        differences = [mine - theirs for mine, theirs in pairs]
        return statistics.median(differences) if differences else None


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return lower quartile, median and upper quartile."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def core_to_pin() -> int | None:
    """Return the core that client and server share; None where a process cannot be pinned."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    return max(os.sched_getaffinity(0))


def start(names: Sequence[str], database: Database, core: int | None, say: Say) -> list[Contestant]:
    """Start every contestant that can be had; say a line for each that cannot."""
    ready = []
    for name in names:
        try:
            ready.append(Contestant(name, database.url(name), core))
        except Unavailable as error:
            say(f"{name} is skipped: {error}")
        except WrongAnswer as error:
            say(f"{name} is left out: {error}")
    return ready


def verified(ready: Sequence[Contestant], workloads: Sequence[str], say: Say) -> dict[str, list[Contestant]]:
    """Return who takes part in each workload: those that did it right once."""
    taking_part: dict[str, list[Contestant]] = {workload: [] for workload in workloads}
    for workload in workloads:
        for contestant in ready:
            if WORKLOADS[workload].touches and not contestants.has_sessions(contestant.name):
                continue
            try:
                contestant.verify(workload)
            except WrongAnswer as error:
                say(f"{contestant.name} is left out of {workload}: {error}")
            else:
                taking_part[workload].append(contestant)
    return taking_part


def measure(taking_part: dict[str, list[Contestant]], pace: Pace, advance: Callable[[int], None]) -> Samples:
    """Run all rounds; *advance* is told of each step done."""
    samples = Samples()
    for _round in range(pace.rounds):
        for workload, several in taking_part.items():
            requests = max(10, round(WORKLOADS[workload].requests * pace.share))
            for contestant in random.sample(several, len(several)):
                samples.add(contestant.name, workload, contestant.run(workload, requests, pace.budget))
                advance(1)
    return samples


def steps(taking_part: dict[str, list[Contestant]], pace: Pace) -> int:
    """Return how many times `measure` will advance."""
    return pace.rounds * sum(len(several) for several in taking_part.values())
