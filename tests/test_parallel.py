"""Crowds on one session: in gunicorn over HTTP, and in threads that all run at once.

SESSIONWARE_TEST_ROUNDS says how often the races are run; unset, as often as takes a few seconds.
"""

import json
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from sessionware import SessionInterrupted, SessionMiddleware, SessionStore
from tests.racing_app import settings
from tests.support.gunicorn import Gunicorn
from tests.support.isolation import PLACES, Address
from tests.support.visit import Visit

CLIENTS = 8
EACH = 50
CROWD = 32
ROUNDS = int(os.environ.get("SESSIONWARE_TEST_ROUNDS", "5"))

OTHER_DEFAULTS = ("postgresql-repeatable-read", "mariadb-read-committed")

# The default of each engine, and the level that is the other one's default.
SERVED = [place for place in PLACES if place.level is None or place.id in OTHER_DEFAULTS]
on_every_default = pytest.mark.parametrize(
    "place", [place for place in PLACES if place.level is None], ids=lambda place: place.id, indirect=True
)


@pytest.fixture(params=["sync", "gthread"])
def server(place: Address, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Gunicorn]:
    """A worker for each client, forked after the application was loaded; or two with threads."""
    kinds: dict[str, Any] = {
        "sync": {"workers": CLIENTS, "preload": True},
        "gthread": {"workers": 2, "threads": 4},
    }
    app, kind = "tests.racing_app:application", request.param
    with Gunicorn(app, tmp_path, worker_class=kind, environ=settings(place), **kinds[kind]) as running:
        yield running


def ask(server: Gunicorn, path: str, key: str) -> tuple[int, Any]:
    status, _, body = server.request(path, cookie=f"sessionid={key}")
    return status, json.loads(body) if status == 200 else None


def by_clients(work: Callable[[int], list[tuple[int, Any]]]) -> list[tuple[int, Any]]:
    barrier = threading.Barrier(CLIENTS)

    def client(number: int) -> list[tuple[int, Any]]:
        barrier.wait(30)
        return work(number)

    with ThreadPoolExecutor(CLIENTS) as pool:
        return [reply for replies in pool.map(client, range(CLIENTS)) for reply in replies]


@pytest.mark.parametrize("place", SERVED, ids=lambda place: place.id, indirect=True)
def test_eight_clients_lose_nothing(place: Address, server: Gunicorn) -> None:
    """One page makes many requests: each writes its own key of the one session, and counts in it."""
    store = SessionStore(place.url)
    key = store.create({})

    def work(number: int) -> list[tuple[int, Any]]:
        replies = []
        for i in range(EACH):
            replies.append(ask(server, f"/write?k{number}.{i}=v{i}", key))
            replies.append(ask(server, f"/append?token={number}.{i}", key))
        return replies

    statuses = {status for status, _ in by_clients(work)}
    values = store.read(key) or {}
    log = values.pop("log")

    assert statuses == {200}, server.stderr
    assert values == {f"k{number}.{i}": f"v{i}" for number in range(CLIENTS) for i in range(EACH)}
    assert len(log) == len(set(log)) == CLIENTS * EACH


class Crowd:
    """Requests that have all loaded one session, and go on together."""

    def __init__(self, place: Address, pool: ThreadPoolExecutor) -> None:
        self.middleware = SessionMiddleware(lambda *_: [], place.open(), purge_interval=None)
        self._pool = pool

    def run(self, key: str, happening: Callable[[Visit], None]) -> tuple[Visit, list[tuple[Visit, bool]]]:
        """Let *happening* race CROWD requests; return its visit, and the others with whether they ended after it."""
        barrier, over = threading.Barrier(CROWD + 1), threading.Event()

        def other(number: int) -> tuple[Visit, bool]:
            visit = Visit(self.middleware, key)
            visit.load()
            barrier.wait(30)
            late = over.is_set()
            try:
                OPERATIONS[number % len(OPERATIONS)](visit, number)
                if visit.session.modified:  # what was stored before the end may still say so after it
                    late = over.is_set()
                visit.end()
            except SessionInterrupted as error:
                visit.interrupt(error)
            return visit, late

        def first() -> Visit:
            visit = Visit(self.middleware, key)
            visit.load()
            barrier.wait(30)
            happening(visit)
            visit.end()
            over.set()
            return visit

        others = [self._pool.submit(other, number) for number in range(CROWD)]
        return self._pool.submit(first).result(), [future.result() for future in others]


def write_own(visit: Visit, number: int) -> None:
    visit.session[f"k{number}"] = number


def only_read(visit: Visit, number: int) -> None:
    list(visit.session.items())


def count(visit: Visit, number: int) -> None:
    visit.session.atomic(lambda values: values.update(count=values.get("count", 0) + 1))


def save_twice(visit: Visit, number: int) -> None:
    visit.session[f"k{number}"] = number
    visit.session.save()
    visit.session[f"l{number}"] = number


OPERATIONS = [write_own, only_read, count, save_twice]


@pytest.fixture
def crowd(place: Address) -> Iterator[Crowd]:
    """Threads for a crowd on one middleware."""
    with ThreadPoolExecutor(CROWD + 1) as pool:
        yield Crowd(place, pool)


@on_every_default
def test_a_logout_is_final_against_a_crowd(crowd: Crowd) -> None:
    """Readers and writers that were running when the user left may not bring anything back."""
    store = crowd.middleware.store
    for _ in range(ROUNDS):
        key = store.create({"secret": 1}, "ann")
        visit, others = crowd.run(key, lambda visit: visit.session.logout())

        assert visit.cookie == ""
        assert not store.exists(key)
        assert store.count() == 0
        for other, late in others:
            assert other.cookie in ((None, "") if late else (None, "", key))
        again = Visit(crowd.middleware, key)
        assert (dict(again.session), again.end().cookie) == ({}, "")


@on_every_default
def test_a_login_is_kept_from_a_crowd_with_the_old_key(crowd: Crowd) -> None:
    """Whoever holds the key of before sees nothing of the login, does nothing to it, and takes no cookie away."""
    store = crowd.middleware.store
    for _ in range(ROUNDS):
        key = store.create({"cart": 1})
        visit, others = crowd.run(key, lambda visit: visit.session.login("ann"))

        assert visit.cookie not in (None, "", key)
        new = Visit(crowd.middleware, visit.cookie)
        assert (new.session["cart"], new.session.user_id) == (1, "ann")
        assert not store.exists(key)
        assert store.count() == 1
        for other, late in others:
            assert other.session.user_id is None
            assert other.cookie in ((None,) if late else (None, key))
        again = Visit(crowd.middleware, key)
        assert (dict(again.session), again.session.user_id, again.end().cookie) == ({}, None, None)
        store.revoke_all()
