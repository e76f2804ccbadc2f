"""Clients, a server and a nemesis; what the clients saw is checked against what a session store may answer.

The seed is printed with a failure; SESSIONWARE_TEST_SEED runs the same choices again.
"""

import os
import signal
from contextlib import ExitStack
from pathlib import Path

import pytest

from sessionware import SessionStore
from tests.broken import BREAKAGES
from tests.racing import SEED, Harms, expired_rows_for, played
from tests.racing_app import settings
from tests.support.gunicorn import Gunicorn
from tests.support.isolation import PLACES, Address
from tests.support.proxy import ToxicProxy

# A worker takes longer to start than the nemesis to come back: with more of them nobody would serve.
KILLS = 2


def serve(place: Address, folder: Path, breakage: str = "", workers: int = 2) -> Gunicorn:
    return Gunicorn(
        "tests.racing_app:application",
        folder,
        worker_class="gthread",
        workers=workers,
        threads=4,
        environ=settings(place, breakage),
    )


@pytest.mark.parametrize(
    "place", [place for place in PLACES if place.level is None], ids=lambda place: place.id, indirect=True
)
def test_the_history_of_a_bad_day_breaks_no_invariant(place: Address, tmp_path: Path) -> None:
    """Workers are killed and connections break while clients write, log in and log out, and cleaners clean."""
    with ExitStack() as stack:
        url = place.url
        proxy = None if url.startswith("sqlite") else stack.enter_context(ToxicProxy(url))
        server = stack.enter_context(serve(Address(proxy.url if proxy else url, None), tmp_path))
        store = SessionStore(url)
        store.create_table()

        kills = iter(range(KILLS))

        def kill_a_worker() -> None:
            if next(kills, None) is not None:
                os.kill(server.workers[0], signal.SIGKILL)

        harms: Harms = [kill_a_worker, expired_rows_for(server, store)]
        if proxy is not None:
            harms += [proxy.reset_all, proxy.drop_reply, proxy.drop_request]
        history = played(server, store, harms, proxy.heal if proxy else lambda: None)

        assert history.violations() == [], f"seed {SEED}"
        assert history.peace is not None
        assert history.peace.lent.keys() >= set(server.workers), "a worker could not be asked"
        done = [operation for operation in history.operations if operation.result == "ok"]
        assert len(done) > len(history.operations) / 2, f"seed {SEED}: hardly anything worked"


EXPECTED = {
    "last_write_wins": "I1",
    "upsert": "I3",
    "early_acknowledgement": "I1",
    "old_key_lives_on": "I4",
    "shared_dictionary": "I5",
    "kept_connection": "I11",
    "rows_of_nobody": "I11",
}


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_the_checker_fails_on_a_broken_store(sqlite: str, tmp_path: Path, breakage: str) -> None:
    """A checker that has never failed has shown nothing. All requests meet in one worker, as each breakage needs."""
    with serve(Address(sqlite, None), tmp_path, breakage, workers=1) as server:
        history = played(server, SessionStore(sqlite), [])

    assert EXPECTED[breakage] in {violation.partition(":")[0] for violation in history.violations()}, f"seed {SEED}"
