"""Expired rows are removed after a response has been sent, now and then, and nobody has to wait for it."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sessionware import Session
from tests.support.apps import KEY, PLAIN, SHAPES, Action, ValidatedSite, nothing
from tests.support.clock import Clock
from tests.support.counting import statements
from tests.support.rows import new_record, put_many
from tests.support.wsgi import call, make_environ

INTERVAL = 300
BATCH = 1000


def read(session: Session) -> Any:
    return session.get("a")


@pytest.fixture(params=["list", "tuple", "object", "early", "late"])
def site(request: pytest.FixtureRequest, sqlite: str) -> ValidatedSite:
    return ValidatedSite(sqlite, shape=SHAPES[request.param], bare=True, idle_timeout=60, purge_interval=INTERVAL)


def rows(site: ValidatedSite) -> int:
    """Return how many rows there are, dead or alive."""
    with site.store.database.engine.connect() as connection:
        return len(connection.execute(site.store.table.select()).all())


def leave_behind(site: ValidatedSite, count: int) -> None:
    """Store sessions that will be long dead when the purge comes: its index counts in hours."""
    for _ in range(count):
        site.store.create({})
    site.clock.advance(2 * 3600)


def test_removes_what_has_expired(site: ValidatedSite) -> None:
    """And an event tells how many."""
    leave_behind(site, 3)
    site.visit(read)

    assert rows(site) == 0
    assert [event.reason for event in site.events if event.kind == "purged"] == ["3 rows"]


def test_leaves_what_lives(site: ValidatedSite) -> None:
    """Whatever else it does."""
    leave_behind(site, 3)
    site.visit(lambda session: session.update(a=1))

    assert rows(site) == 1
    assert site.look(read) == 1


def test_a_page_that_does_not_use_its_session_never_pays_for_it(site: ValidatedSite) -> None:
    """Untouched is untouched."""
    leave_behind(site, 1)
    with statements(site.store.database.engine) as calls:
        site.visit(nothing)

    assert calls.verbs == []
    assert rows(site) == 1


@pytest.mark.parametrize("shape", ["list", "early", "late"])
def test_the_client_has_its_answer_before(sqlite: str, shape: str) -> None:
    """It begins in close(), when the last byte has left."""
    site = ValidatedSite(sqlite, shape=SHAPES[shape], bare=True, idle_timeout=60, purge_interval=INTERVAL)
    leave_behind(site, 1)
    site._answer = SHAPES[shape](read)
    result: Any = site.middleware(make_environ(), lambda *_: lambda chunk: None)
    chunks = list(result)

    assert (b"".join(chunks), rows(site)) == (b"None", 1)
    result.close()
    assert rows(site) == 0
    result.close()
    assert [event.kind for event in site.events].count("purged") == 1


def test_once_in_an_interval(site: ValidatedSite) -> None:
    """Rows that expire meanwhile can wait."""
    leave_behind(site, 1)
    site.visit(read)
    site.store.create({})
    site.clock.advance(INTERVAL - 1)
    with statements(site.store.database.engine) as calls:
        site.visit(read)
    site.clock.advance(1)
    with statements(site.store.database.engine) as due:
        site.visit(read)

    assert (calls.verbs, due.verbs[:1]) == ([], ["SELECT"])


def test_a_full_batch_means_another_soon(sqlite: str) -> None:
    """A backlog is worked off in small steps, not in one that blocks."""
    site = ValidatedSite(sqlite, bare=True, idle_timeout=60, purge_interval=INTERVAL)
    leave_behind(site, 1)
    (row,) = _copies(site, 1)
    with site.store.database.engine.begin() as connection:
        connection.execute(site.store.table.insert(), [row | {"digest": n.to_bytes(32)} for n in range(BATCH)])
    site.visit(read)
    assert rows(site) == 1
    site.visit(read)
    assert rows(site) == 1
    site.clock.advance(1)
    site.visit(read)
    assert rows(site) == 0


def test_workers_do_not_begin_together(sqlite: str) -> None:
    """Each starts somewhere within the interval, so that short-lived ones get their turn and no two meet."""
    sites = [ValidatedSite(sqlite, purge_interval=INTERVAL) for _ in range(8)]
    starts = [site.middleware._purge._next - site.clock() for site in sites]

    assert len(set(starts)) == len(starts)
    assert all(0 < start <= INTERVAL for start in starts)


def test_it_can_be_left_to_a_cron_job(sqlite: str) -> None:
    """purge_interval=None."""
    site = ValidatedSite(sqlite, bare=True, idle_timeout=60, purge_interval=None)
    leave_behind(site, 1)
    site.visit(read)

    assert rows(site) == 1


def test_a_full_batch_means_another_soon_whatever_was_in_it(sqlite: str) -> None:
    """A batch with one session in it that is still used, as there is always on a busy site, is not the last one."""
    site = ValidatedSite(sqlite, bare=True, purge_interval=INTERVAL)
    site.visit(lambda session: session.update(a=2))
    with site.store.database.engine.begin() as connection:
        connection.execute(site.store.table.update().values(purge_hour=1))  # that of its creation, long ago
    put_many(site.store, [new_record(site.clock(), lives=3600) for _ in range(3 * BATCH)])
    site.clock.advance(2 * 3600)
    left = []
    for _ in range(4):
        site.visit(read)
        left.append(rows(site))
        site.clock.advance(1)

    assert left == [2 * BATCH + 2, BATCH + 2, 2, 1]
    assert site.look(read) == 2


def test_a_clock_that_is_put_right_does_not_stop_the_purge(sqlite: str) -> None:
    """A machine that started years ahead must not wait for those years."""
    clock = Clock()
    clock.advance(10 * 365 * 86_400)
    site = ValidatedSite(sqlite, bare=True, idle_timeout=60, purge_interval=INTERVAL, clock=clock)
    clock.advance(-10 * 365 * 86_400)
    leave_behind(site, 3)
    site.visit(read)

    assert rows(site) == 0


def test_a_purge_that_fails_hurts_nobody(sqlite: str, caplog: pytest.LogCaptureFixture) -> None:
    """The answer has left; a line in the log tells, and the next interval tries again."""
    site = ValidatedSite(sqlite, bare=True, purge_interval=INTERVAL)
    folder = Path(sqlite.removeprefix("sqlite:///")).parent
    site = ValidatedSite(f"sqlite:///{folder}/missing/sessions.db", bare=True, purge_interval=INTERVAL)
    site.clock.advance(INTERVAL)
    with caplog.at_level(logging.WARNING, "sessionware"):
        replies = [site.visit(read), site.visit(read)]

    assert [reply.status for reply in replies] == [200, 200]
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["Expired sessions could not be removed"]


@pytest.mark.parametrize("action", [read, lambda s: s.update(a=1)], ids=["read", "changed"])
def test_a_list_still_has_its_length(sqlite: str, action: Action) -> None:
    """W3: a server makes the Content-Length of it, also when a purge is due."""
    site = ValidatedSite(sqlite, bare=True, purge_interval=INTERVAL)
    site.clock.advance(INTERVAL)
    site._answer = SHAPES["list"](action)
    result: Any = site.middleware(make_environ(), lambda *_: lambda chunk: None)

    assert isinstance(result, list)
    assert len(result) == 1


def test_a_stream_that_fails_still_purges(sqlite: str) -> None:
    """close() is close()."""

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        environ[KEY].get("a")
        start_response("200 OK", list(PLAIN))
        yield b"a"
        raise LookupError

    site = ValidatedSite(sqlite, app, bare=True, idle_timeout=60, purge_interval=INTERVAL)
    leave_behind(site, 1)
    with pytest.raises(LookupError):
        call(site.middleware)

    assert rows(site) == 0


def _copies(site: ValidatedSite, count: int) -> list[dict[str, Any]]:
    with site.store.database.engine.connect() as connection:
        return [dict(row._mapping) for row in connection.execute(site.store.table.select()).all()][:count]
