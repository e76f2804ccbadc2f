"""Clients of the racing application, what harms them, and the peace after it; all of it written down."""

import http.client
import json
import os
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from urllib.parse import urlencode

from sessionware import SessionMiddleware, SessionStore
from tests.history import History, Operation, Peace
from tests.support.clock import Clock
from tests.support.databases import held
from tests.support.gunicorn import Gunicorn
from tests.support.meeting import Meeting
from tests.support.rows import all_rows, new_record, put
from tests.support.visit import Visit

SEED = int(os.environ.get("SESSIONWARE_TEST_SEED", random.randrange(2**32)))
CLIENTS = 6
STEPS = 40
LEAVING, LOGGING_IN, SHARED, ALONE, AFTER = "leaving", "logging-in", "shared", "alone", "after"
WORK = 0.004
TEN_DAYS = 10 * 24 * 3600
PATIENCE = 20.0

# What happens between the load and the save of a write.
BETWEEN = ("write", "append", "login", "logout")

Harms = list[Callable[[], None]]


class Client:
    """One client: the requests it makes are written down."""

    def __init__(self, number: int, port: int, keys: dict[str, str], history: History) -> None:
        self._number = number
        self._port = port
        self._keys = keys
        self._history = history
        self._random = random.Random(f"{SEED}.{number}")
        self._made = 0

    def run(self) -> None:
        """Make a seeded choice of requests, one after the other."""
        for step in range(STEPS):
            session = self._random.choice([SHARED, SHARED, LEAVING, LOGGING_IN])
            what = self._random.choice(["write", "write", "append", "read", "plain"])
            if step == STEPS // 2 and self._number < 2:
                session, what = (LEAVING, "logout") if self._number == 0 else (LOGGING_IN, "login")
            # A place of its own by turns: there the next write finds the last one.
            self.do(what, session, f"c{self._number}" if step % 2 else "", work=WORK)

    def do(self, what: str, session: str, slot: str = "", **words: object) -> Operation:
        """Make one request; *slot* is where a write goes, unless to a new place."""
        self._made += 1
        mark = f"{self._number}.{self._made}"
        token = f"{session}.{mark}" if what in ("write", "append") else ""
        slot = (slot or f"c{mark}") if what == "write" else ""
        operation = Operation(self._number, what, session, self._keys[session], token, slot, began=time.monotonic())
        with suppress(OSError, http.client.HTTPException):
            self._ask(operation, words if what == "write" else {})
        operation.ended = time.monotonic()
        self._history.operations.append(operation)
        return operation

    def _ask(self, operation: Operation, words: dict[str, object]) -> None:
        sent = {
            "write": {operation.slot: operation.token, **words},
            "append": {"token": operation.token},
            "login": {"user": "ann"},
        }.get(operation.what, {})
        path = "/" if operation.what == "plain" else f"/{operation.what}?{urlencode(sent)}"
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

    def __init__(self, harms: Harms) -> None:
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


def played(server: Gunicorn, store: SessionStore, harms: Harms, heal: Callable[[], object] = lambda: None) -> History:
    """Let clients meet, let them do their requests beside *harms*, and return what came of it when all is healed."""
    history = History()
    names = [SHARED, LEAVING, LOGGING_IN, ALONE, AFTER, *(f"met-by-{what}" for what in BETWEEN)]
    keys = {name: store.create({}) for name in names}
    clients = [Client(number, server.port, keys, history) for number in range(CLIENTS + 2)]
    meet(*clients[CLIENTS:])
    with Nemesis(harms), ThreadPoolExecutor(CLIENTS) as pool:
        for future in [pool.submit(client.run) for client in clients[:CLIENTS]]:
            future.result()
    heal()
    statuses = served_again(server, clients[CLIENTS], keys)
    read_all(store, history, set(keys.values()))
    history.peace = Peace(
        statuses,
        lent_by_worker(server),
        held(store.database.engine.url.render_as_string(hide_password=False)),
        all_rows(store),
        set(),
    )
    history.peace.left = left_by_a_late_purge(store, history)
    return history


def meet(writer: Client, other: Client) -> None:
    """Have a write stand between its load and its save while something else happens; and write often, alone."""
    for what in BETWEEN:
        session = f"met-by-{what}"
        with ThreadPoolExecutor(1) as pool, Meeting() as meeting:
            writing = pool.submit(writer.do, "write", session, meeting=meeting.port)
            with meeting.attend():
                other.do(what, session)
            writing.result()
    for _ in range(STEPS // 4):
        writer.do("write", ALONE)
        writer.do("read", ALONE)


def served_again(server: Gunicorn, client: Client, keys: dict[str, str]) -> list[int]:
    """Ask for everything once, and have what has expired removed; return the answers."""
    asked = [client.do(what, AFTER) for what in ("plain", "read", "write", "append", "read")]
    login = client.do("login", AFTER)
    keys[AFTER] = login.cookie or ""
    asked += [login, *(client.do(what, AFTER) for what in ("read", "write", "logout"))]
    return [operation.status for operation in asked] + [server.request("/purge")[0]]


def read_all(store: SessionStore, history: History, known: set[str]) -> None:
    """Write down what lives in the end under the *known* keys and those that anybody has sent or got."""
    known |= {operation.key for operation in history.operations}
    known |= {operation.cookie for operation in history.operations if operation.cookie}
    for key in known:
        values = store.read(key)
        if values is not None:
            history.final[key] = values
        elif store.exists(key):
            history.undecodable += 1


def lent_by_worker(server: Gunicorn) -> dict[int, int]:
    """Return how many connections are lent in each worker; None of them is asked to be the one that answers."""
    found: dict[int, int] = {}
    deadline = time.monotonic() + PATIENCE
    while not found.keys() >= set(server.workers) and time.monotonic() < deadline:
        worker, count = json.loads(server.request("/lent")[2])
        found[worker] = count
    return found


def left_by_a_late_purge(store: SessionStore, history: History) -> set[bytes]:
    """Use what lives, now and then, until what nobody uses is over, and purge; return the digests of what is left."""
    clock = Clock(time.time())
    later = SessionMiddleware(lambda *_: [], store.database.engine, clock=clock, purge_interval=None)
    for _ in range(2):
        clock.advance(TEN_DAYS)
        for key in history.final:
            visit = Visit(later, key)
            visit.load()
            visit.end()
    later.store.purge()
    return set(all_rows(store))


def expired_rows_for(server: Gunicorn, store: SessionStore) -> Callable[[], None]:
    """Return the harm of a cleaner: expired rows, and a worker that is told to remove them."""

    def clean() -> None:
        for _ in range(20):
            put(store, new_record(time.time(), lives=-5))
        with suppress(OSError, http.client.HTTPException):
            server.request("/purge")

    return clean
