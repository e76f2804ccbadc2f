"""A real failover: a primary dies under load, its standby is promoted, and nothing acknowledged is lost."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import make_url

from sessionware import Session, SessionStore
from tests.history import History
from tests.racing import CLIENTS, Client, read_all
from tests.racing_app import settings
from tests.support.apps import ValidatedSite
from tests.support.databases import closing_connections
from tests.support.gunicorn import Gunicorn
from tests.support.isolation import Address
from tests.support.proxy import Proxy
from tests.support.servers import Server, start_standby

DATABASE = "failover"
ENOUGH = 40
PATIENCE = 10.0


@dataclass
class Pair:
    """A primary and its streaming standby, with an empty database."""

    primary: Server
    standby: Server

    def url(self, driver: str, first: str) -> str:
        """Return the URL that leads to whichever of the two takes writes; *first* is asked first."""
        servers = [self.primary, self.standby] if first == "primary" else [self.standby, self.primary]
        hosts = [f"127.0.0.1:{server.port}" for server in servers]
        url = make_url(self.primary.url(driver, DATABASE)).set(host=None, port=None)
        url = url.update_query_dict({"host": hosts, "target_session_attrs": "read-write"})
        return url.render_as_string(hide_password=False)

    def synchronize(self) -> None:
        """Have the primary acknowledge no commit that the standby has not got."""
        self.primary.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        self.primary.execute("SELECT pg_reload_conf()")
        until(lambda: self.primary.execute("SELECT sync_state FROM pg_stat_replication") == [("sync",)])

    def catch_up(self) -> None:
        """Wait until the standby shows all that the primary has."""
        position = self.primary.execute("SELECT pg_current_wal_lsn()")[0][0]
        until(lambda: self.standby.execute(f"SELECT pg_last_wal_replay_lsn() >= '{position}'") == [(True,)])

    def fail_over(self) -> None:
        """Make the standby the primary."""
        self.standby.execute("SELECT pg_promote()")

    def return_fenced(self) -> None:
        """Start the old primary again, as careful people do: it takes no writes. Everybody has to connect anew."""
        command = self.primary.command
        assert command is not None
        self.primary.command = lambda port: [*command(port), "-c", "default_transaction_read_only=on"]
        self.primary.start()
        self.primary.command = command
        self.standby.execute(f"SELECT pg_terminate_backend(pid) {VISITORS}")


VISITORS = f"FROM pg_stat_activity WHERE datname = '{DATABASE}'"


def until(reached: Callable[[], bool]) -> None:
    """Wait for what will be."""
    deadline = time.monotonic() + PATIENCE
    while not reached():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.01)


@pytest.fixture
def pair(private_postgresql: Server) -> Iterator[Pair]:
    """A primary as it was at first, and a standby that follows it."""
    primary = private_postgresql
    primary.start()
    primary.execute("ALTER SYSTEM RESET ALL")
    primary.stop()
    primary.start()
    primary.create_database(DATABASE)
    standby = start_standby(primary)
    if isinstance(standby, str):
        pytest.skip(standby)
    with closing_connections():
        yield Pair(primary, standby)
    standby.close()


@contextmanager
def writing(clients: dict[str, Client]) -> Iterator[None]:
    """Have *clients* write all the time, each in the session it is named for, and ask for a page without one."""
    over = threading.Event()

    def write(session: str) -> None:
        while not over.is_set():
            clients[session].do("write", session)
            clients[session].do("plain", session)

    with ThreadPoolExecutor(len(clients)) as pool:
        futures = [pool.submit(write, session) for session in clients]
        try:
            yield
        finally:
            over.set()
    for future in futures:
        future.result()


@pytest.mark.parametrize(("driver", "first"), [("psycopg", "primary"), ("psycopg2", "standby")])
def test_a_failover_loses_nothing_that_was_acknowledged(pair: Pair, tmp_path: Path, driver: str, first: str) -> None:
    """The primary is killed: 503 and no word of cookies until the standby is promoted, then all goes on by itself."""
    pytest.importorskip(driver)
    url = pair.url(driver, first)
    store = SessionStore(url)
    store.create_table()
    history, keys = History(), {f"session-{number}": store.create({}) for number in range(CLIENTS)}
    pair.synchronize()
    with serving(url, tmp_path) as server:
        clients = {name: Client(number, server.port, keys, history) for number, name in enumerate(keys)}
        with writing(clients):
            more_answers(history, 200)
            pair.primary.kill()
            more_answers(history, 503)
            pair.fail_over()
            more_answers(history, 200)
            errors = answers(history, 503)
            pair.return_fenced()
            more_answers(history, 200)
    read_all(store, history, set(keys.values()))

    assert {operation.status for operation in history.operations} == {200, 503}, server.stderr
    assert answers(history, 503) == errors, "the old primary that is back is in nobody's way"
    assert history.violations() == []
    assert len(history.final) == CLIENTS


def serving(url: str, folder: Path) -> Gunicorn:
    environ = settings(Address(url, None))
    return Gunicorn("tests.racing_app:application", folder, worker_class="gthread", threads=4, environ=environ)


def answers(history: History, status: int) -> int:
    return sum(operation.what == "write" and operation.status == status for operation in list(history.operations))


def more_answers(history: History, status: int) -> None:
    """Wait for some more writes to be answered like this."""
    enough = answers(history, status) + ENOUGH
    until(lambda: answers(history, status) >= enough)


def count(session: Session) -> int:
    session["n"] = session.get("n", 0) + 1
    return int(session["n"])


def read(session: Session) -> object:
    return session.get("n")


def test_connections_to_a_server_that_takes_no_writes_are_thrown_away(pair: Pair) -> None:
    """The address led to the standby and leads to the primary again: who has read from the one writes to the other."""
    primary, standby = (server.url(database=DATABASE) for server in (pair.primary, pair.standby))
    with Proxy(primary) as address:
        site = ValidatedSite(address.url, purge_interval=None)
        site.visit(count)
        pair.catch_up()
        address.lead_to(standby)
        address.reset_all()
        replies = [site.visit(action) for action in (read, count, read, count, read)]
        address.lead_to(primary)
        written = site.visit(count)

        assert [(reply.status, reply.text) for reply in replies[::2]] == [(200, "1")] * 3
        assert [(reply.status, reply.set_cookies) for reply in replies[1::2]] == [(503, [])] * 2
        assert (written.status, written.text) == (200, "2")
        until(lambda: pair.standby.execute(f"SELECT 1 {VISITORS}") == [])
        site.store.database.engine.dispose()
