"""A contestant inside its own process: built, verified, timed there."""

import gc
import time
import warnings
from typing import Any

from . import client, contestants
from .client import WrongAnswer
from .workloads import SMALL, WORKLOADS, Workload

WARM_UP = 12  # requests: more than the five after which psycopg prepares a statement


class Runner:
    """A contestant inside its own process."""

    def __init__(self, name: str, url: str) -> None:
        warnings.simplefilter("ignore")
        self.app = contestants.build(name, url)
        self.has_sessions = contestants.has_sessions(name)
        self._cookies: dict[str, str] = {}

    def verify(self, workload: str) -> None:
        """Do *workload* once by hand and look at everything it should have done."""
        verify(self.app, WORKLOADS[workload], self.cookie(WORKLOADS[workload]))

    def run(self, workload: str, requests: int, budget: float) -> float:
        """Return the microseconds of one request of *workload*."""
        path, cookie = WORKLOADS[workload].path, self.cookie(WORKLOADS[workload])
        client.timed(self.app, path, cookie, WARM_UP, budget / 10)
        gc.collect()
        return client.timed(self.app, path, cookie, requests, budget)

    def cookies_set(self, workload: str) -> int:
        """Return how many cookies one response of *workload* sets."""
        asked = WORKLOADS[workload]
        return len(client.get(self.app, asked.path, self.cookie(asked)).cookies)

    def seed(self, path: str) -> str:
        """Return the cookie of a new session."""
        return client.seed(self.app, path)

    def get(self, path: str, cookie: str) -> str:
        """Return the body that *path* answers."""
        return client.get(self.app, path, cookie).body

    def write(self, cookie: str, prefix: str, requests: int) -> tuple[int, float]:
        """Write a key in each request; return how many were refused and the seconds they all took."""
        client.get(self.app, "/counter", cookie)  # connect first
        refused, begin = 0, time.perf_counter()
        for number in range(requests):
            try:
                client.get(self.app, f"/set/{prefix}-{number}", cookie)
            except Exception:
                refused += 1
        return refused, time.perf_counter() - begin

    def cookie(self, workload: Workload) -> str | None:
        """Return the cookie that a request of *workload* brings."""
        if workload.seed is None:
            return None
        if not self.has_sessions:
            return "sid=none"
        if workload.seed not in self._cookies:
            self._cookies[workload.seed] = client.seed(self.app, workload.seed)
        return self._cookies[workload.seed]


def verify(app: Any, workload: Workload, cookie: str | None) -> None:
    """Refuse a contestant that does not do what *workload* asks for.

    Raises:
        WrongAnswer: what was wrong.
    """
    response = client.get(app, workload.path, cookie)
    if not workload.touches:
        _expect(response.body, "ok")
    elif not workload.writes:
        _expect(response.body, str(SMALL["locale"]))
    elif cookie is None:
        _expect(response.body, "1")
        _expect(client.get(app, "/counter", client.session_cookie(response)).body, "1")
    else:
        _expect(client.get(app, "/counter", cookie).body, response.body)
        _expect(client.get(app, workload.path, cookie).body, str(int(response.body) + 1))
        _expect(client.get(app, "/counter", cookie).body, str(int(response.body) + 1))


def _expect(seen: str, wanted: str) -> None:
    if seen != wanted:
        raise WrongAnswer(f"answered {seen!r} instead of {wanted!r}")
