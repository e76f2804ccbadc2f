"""Clients, a server and a nemesis; what the clients saw is checked against what a session store may answer.

The seed is printed with a failure; SESSIONWARE_TEST_SEED runs the same choices again.
"""

import http.client
import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.parse import urlencode

import pytest

from sessionware import SessionStore
from tests.broken import BREAKAGES
from tests.history import History, Operation
from tests.racing_app import settings
from tests.support.gunicorn import Gunicorn
from tests.support.isolation import PLACES, Address
from tests.support.proxy import ToxicProxy

SEED = int(os.environ.get("SESSIONWARE_TEST_SEED", random.randrange(2**32)))
CLIENTS = 6
STEPS = 40
LEAVING, LOGGING_IN, SHARED = "leaving", "logging-in", "shared"
WORK = 0.004

# A worker takes longer to start than the nemesis to come back: with more of them nobody would serve.
KILLS = 2


class Client:
    """One client: a seeded choice of requests, written down."""

    def __init__(self, number: int, port: int, keys: dict[str, str], history: History) -> None:
        self._number = number
        self._port = port
        self._keys = keys
        self._history = history
        self._random = random.Random(f"{SEED}.{number}")

    def run(self) -> None:
        """Make all requests, one after the other."""
        for step in range(STEPS):
            session = self._random.choice([SHARED, SHARED, LEAVING, LOGGING_IN])
            what = self._random.choice(["write", "write", "append", "read", "plain"])
            if step == STEPS // 2 and self._number < 2:
                session, what = (LEAVING, "logout") if self._number == 0 else (LOGGING_IN, "login")
            self._do(step, session, what)

    def _do(self, step: int, session: str, what: str) -> None:
        token = f"{session}.{self._number}.{step}" if what in ("write", "append") else ""
        slot = f"c{self._number}" if step % 2 else f"c{self._number}.{step}"
        slot = slot if what in ("write", "read") else ""
        operation = Operation(self._number, what, session, self._keys[session], token, slot, began=time.monotonic())
        with suppress(OSError, http.client.HTTPException):
            self._ask(operation)
        operation.ended = time.monotonic()
        self._history.operations.append(operation)

    def _ask(self, operation: Operation) -> None:
        words = {
            "write": {operation.slot: operation.token, "work": WORK},
            "append": {"token": operation.token},
            "login": {"user": "ann"},
        }.get(operation.what, {})
        path = "/" if operation.what == "plain" else f"/{operation.what}?{urlencode(words)}"
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        try:
            connection.request("GET", path, headers={"Cookie": f"sessionid={operation.key}"})
            reply = connection.getresponse()
            body = reply.read()
        finally:
            connection.close()
        operation.status = reply.status
        operation.result = {200: "ok", 400: "fail"}.get(reply.status, "unknown")  # type: ignore[assignment]  # all three are results
        cookie = reply.getheader("Set-Cookie")
        operation.cookie = None if cookie is None else cookie.split(";")[0].partition("=")[2]
        if reply.status == 200 and operation.what != "plain":
            seen = json.loads(body)
            operation.values = {"log": seen} if operation.what == "append" else seen


class Nemesis:
    """Does harm at random moments, until told to stop."""

    def __init__(self, harms: list[Callable[[], None]]) -> None:
        self._harms = harms
        self._random = random.Random(f"{SEED}.nemesis")
        self._peace = threading.Event()
        self._thread = threading.Thread(target=self._run, name="nemesis")

    def __enter__(self) -> "Nemesis":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._peace.set()
        self._thread.join()

    def _run(self) -> None:
        while self._harms and not self._peace.wait(self._random.uniform(0.05, 0.3)):
            self._random.choice(self._harms)()


def played(server: Gunicorn, store: SessionStore, harms: list[Callable[[], None]]) -> History:
    """Let the clients do their requests beside these harms, and return what came of it."""
    history = History()
    keys = {name: store.create({}) for name in (SHARED, LEAVING, LOGGING_IN)}
    with Nemesis(harms), ThreadPoolExecutor(CLIENTS) as pool:
        clients = [Client(number, server.port, keys, history) for number in range(CLIENTS)]
        for future in [pool.submit(client.run) for client in clients]:
            future.result()
    known = {operation.key for operation in history.operations}
    known |= {operation.cookie for operation in history.operations if operation.cookie}
    for key in known:
        values = store.read(key)
        if values is not None:
            history.final[key] = values
        elif store.exists(key):
            history.undecodable += 1
    return history


def serve(place: Address, folder: Path, breakage: str = "") -> Gunicorn:
    return Gunicorn(
        "tests.racing_app:application",
        folder,
        worker_class="gthread",
        workers=2,
        threads=4,
        environ=settings(place, breakage),
    )


@pytest.mark.parametrize(
    "place", [place for place in PLACES if place.level is None], ids=lambda place: place.id, indirect=True
)
def test_the_history_of_a_bad_day_breaks_no_invariant(place: Address, tmp_path: Path) -> None:
    """Workers are killed and connections break while clients write, log in and log out."""
    with ExitStack() as stack:
        url = place.url
        proxy = None if url.startswith("sqlite") else stack.enter_context(ToxicProxy(url))
        server = stack.enter_context(serve(Address(proxy.url if proxy else url, None), tmp_path))

        kills = iter(range(KILLS))

        def kill_a_worker() -> None:
            if next(kills, None) is not None:
                os.kill(server.workers[0], signal.SIGKILL)

        harms: list[Callable[[], None]] = [kill_a_worker]
        if proxy is not None:
            harms += [proxy.reset_all, proxy.drop_reply, proxy.drop_request]
        store = SessionStore(url)
        store.create_table()
        history = played(server, store, harms)

        assert history.violations() == [], f"seed {SEED}"
        done = [operation for operation in history.operations if operation.result == "ok"]
        assert len(done) > CLIENTS * STEPS / 2, f"seed {SEED}: hardly anything worked"
        assert ask_plainly(server) == 200, "it heals"


def ask_plainly(server: Gunicorn) -> int:
    for _ in range(100):
        with suppress(OSError, http.client.HTTPException):
            return server.request("/read")[0]
        time.sleep(0.05)
    return 0


EXPECTED = {
    "last_write_wins": "I1",
    "upsert": "I3",
    "early_acknowledgement": "I1",
    "old_key_lives_on": "I4",
    "shared_dictionary": "I5",
}


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_the_checker_fails_on_a_broken_store(sqlite: str, tmp_path: Path, breakage: str) -> None:
    """A checker that has never failed has shown nothing."""
    store = SessionStore(sqlite)
    with serve(Address(sqlite, None), tmp_path, breakage) as server:
        found: set[str] = set()
        for _ in range(60):  # a race that has to be met
            found |= {violation[:2] for violation in played(server, store, []).violations()}
            if EXPECTED[breakage] in found:
                break

    assert EXPECTED[breakage] in found, f"seed {SEED}"
