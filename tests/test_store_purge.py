"""The purge: what is dead goes, in batches that keep nobody waiting; what lives stays, whatever happens meanwhile."""

import random
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from sessionware import ConfigurationError, StoreUnavailable, keys
from sessionware import purge as purge_module
from sessionware.events import SessionEvent
from sessionware.record import TOMBSTONE_SECONDS, Lifetime
from sessionware.store import SessionStore
from tests.support.clock import Clock
from tests.support.counting import statements
from tests.support.databases import dialect_of, held
from tests.support.driver import Call, Proceed, watching
from tests.support.faults import Faults, driver_error
from tests.support.rows import all_rows, new_record, put, put_many, random_digest, row_count

HOUR = 3600
PATIENCE = 10.0


@pytest.fixture
def store(database: str, clock: Clock) -> SessionStore:
    """A store with an empty table."""
    store = SessionStore(database, clock=clock, lifetime=Lifetime(idle=1000, absolute=5000))
    store.create_table()
    return store


@pytest.mark.parametrize(
    ("rows", "max_batches", "expected"),
    [
        pytest.param(0, None, [], id="none"),
        pytest.param(1, None, [1], id="one"),
        pytest.param(9, None, [9], id="less-than-a-batch"),
        pytest.param(20, None, [10, 10], id="whole-batches"),
        pytest.param(25, None, [10, 10, 5], id="a-rest"),
        pytest.param(25, 2, [10, 10], id="bounded"),
        pytest.param(20, 2, [10, 10], id="bounded-by-what-there-is"),
    ],
)
def test_dead_rows_go_in_batches(
    store: SessionStore, clock: Clock, rows: int, max_batches: int | None, expected: list[int]
) -> None:
    """Each batch is reported as it is done; the rest stays for later."""
    put_many(store, [new_record(clock(), lives=-number * 700) for number in range(rows)])
    live = put_many(store, [new_record(clock()) for _ in range(3)])
    sizes: list[int] = []

    assert store.purge(batch_size=10, max_batches=max_batches, on_batch=sizes.append) == sum(expected)
    assert sizes == expected
    assert row_count(store) == rows - sum(expected) + len(live)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *[("batch_size", value) for value in (0, -1, 10_001, 2.0, "10", True, None)],
        *[("max_batches", value) for value in (0, -1, 2.0, "1", True)],
        ("on_batch", 5),
    ],
)
def test_a_purge_that_would_get_nowhere_is_refused_by_name(sqlite: str, option: str, value: Any) -> None:
    """A batch of no rows is never less than full, so that it never was the last; and before any statement."""
    store = SessionStore(sqlite)
    with statements(store.database.engine) as calls, pytest.raises(ConfigurationError, match=f"^{option} must be"):
        store.purge(**{option: value})

    assert calls.all == []


@pytest.mark.parametrize(("max_batches", "rests"), [(1, 0), (2, 1), (3, 2), (None, 2)])
def test_a_purge_rests_only_between_two_batches(
    sqlite: str, clock: Clock, monkeypatch: pytest.MonkeyPatch, max_batches: int | None, rests: int
) -> None:
    """A rest after the last one is for nobody: at the close of a response it only holds a worker."""
    store = SessionStore(sqlite, clock=clock)
    store.create_table()
    put_many(store, [new_record(clock(), lives=-1) for _ in range(25)])
    rested: list[float] = []
    monkeypatch.setattr(purge_module, "time", SimpleNamespace(monotonic=time.monotonic, sleep=rested.append))

    store.purge(batch_size=10, max_batches=max_batches)

    assert len(rested) == rests


@pytest.mark.parametrize("into_the_hour", [0, 1, 1800, HOUR - 1])
def test_nothing_is_removed_before_its_second(store: SessionStore, clock: Clock, into_the_hour: int) -> None:
    """The index knows hours only; the statement must know the second."""
    clock.now = 500_000 * HOUR + into_the_hour
    ends = [-HOUR, -HOUR + 1, -2, -1, 0, 1, 2, HOUR - 1, HOUR, 2 * HOUR]
    digests = put_many(store, [new_record(clock(), lives=end) for end in ends])

    assert store.purge() == 5
    assert set(all_rows(store)) == set(digests[5:])


def test_only_the_dead_are_ever_removed(store: SessionStore, clock: Clock) -> None:
    """Over many random ends and a moving clock, what is left is always exactly what lives."""
    chance = random.Random(7)
    ends = [chance.randrange(-3 * HOUR, 3 * HOUR) for _ in range(300)]
    digests = put_many(store, [new_record(clock(), lives=end) for end in ends])
    start = clock()
    for _ in range(8):
        store.purge(batch_size=37)
        elapsed = clock() - start
        assert set(all_rows(store)) == {d for d, end in zip(digests, ends, strict=True) if end > elapsed}
        clock.advance(chance.randrange(1, HOUR))


def test_a_session_that_was_used_gets_its_new_hour_from_the_purge(store: SessionStore, clock: Clock) -> None:
    """A use leaves the indexed hour alone, so the purge meets sessions that live on: it puts them off, once."""
    seen = new_record(clock(), lives=HOUR)
    digests = put_many(store, [seen for _ in range(25)])
    for digest in digests:
        assert store.touch(digest, seen._replace(expires_at=seen.expires_at + 5 * HOUR), int(clock()) + 1)
    clock.advance(2 * HOUR)

    assert store.purge(batch_size=10) == 0
    assert {row["purge_hour"] for row in all_rows(store).values()} == {(seen.expires_at + 5 * HOUR) // HOUR}
    clock.advance(5 * HOUR)
    assert store.purge(batch_size=10) == 25


def test_tombstones_stay_while_they_are_of_use(store: SessionStore, clock: Clock) -> None:
    """A request that still holds the old key is told apart from a stranger for some minutes."""
    seen = new_record(clock(), lives=9000)
    digest = put(store, seen)
    store.rotate(digest, random_digest(), new_record(clock(), lives=9000), seen.revision, int(clock()))
    clock.advance(TOMBSTONE_SECONDS - 1)
    assert store.purge() == 0
    clock.advance(1)

    assert store.purge() == 1
    assert digest not in all_rows(store)
    assert row_count(store) == 1


def test_a_session_used_at_the_last_moment_survives_the_purge(store: SessionStore, clock: Clock) -> None:
    """Between the list and the deletion a request on a slower clock extends one: it keeps its row and its values."""
    key, dead = store.create({"kept": True}), put(store, new_record(clock()))
    clock.advance(2000)
    listed: list[bool] = []

    def extend(call: Call, proceed: Proceed) -> Any:
        if call.sql.startswith("DELETE") and not listed:
            listed.append(True)
            assert other.touch_unseen(keys.digest(key), Lifetime(), int(clock()) - 1500)
        return proceed()

    other = SessionStore(store.database.engine.url, clock=clock)
    with watching(store.database.engine, extend):
        removed = store.purge()

    assert listed
    assert removed == 1
    assert store.read(key) == {"kept": True}
    assert dead not in all_rows(store)


def test_a_purge_beside_another_does_nothing_and_harms_nothing(
    database: str, store: SessionStore, clock: Clock
) -> None:
    """One cleaner at a time where the database has a lock for it; SQLite's writers take turns anyway."""
    put_many(store, [new_record(clock(), lives=-1) for _ in range(30)])
    other = SessionStore(database, clock=clock)
    meanwhile: list[int] = []

    def purge_too(_size: int) -> None:
        thread = threading.Thread(target=lambda: meanwhile.append(other.purge(batch_size=10)))
        thread.start()
        thread.join(PATIENCE)

    removed = store.purge(batch_size=10, on_batch=purge_too)

    if dialect_of(database) == "sqlite":
        assert removed + sum(meanwhile) == 30
    else:
        assert (removed, meanwhile) == (30, [0, 0, 0])
    assert row_count(store) == 0
    put(store, new_record(clock(), lives=-1))
    assert other.purge() == 1


def test_purgers_of_two_tables_do_not_wait_for_each_other(database: str, store: SessionStore, clock: Clock) -> None:
    """Two applications may share a database."""
    other = SessionStore(database, "other_session", clock=clock)
    other.create_table()
    for each in (store, other):
        put_many(each, [new_record(clock(), lives=-1) for _ in range(3)])
    removed: list[int] = []

    assert store.purge(on_batch=lambda _: removed.append(other.purge())) == 3
    assert removed == [3]


def test_a_purge_that_is_broken_off_leaves_the_way_free(database: str, store: SessionStore, clock: Clock) -> None:
    """A progress bar that raises must not keep the lock in a pooled connection."""
    put_many(store, [new_record(clock(), lives=-1) for _ in range(20)])

    def stop(_size: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.purge(batch_size=10, on_batch=stop)

    assert held(database) == []  # a server may take a moment to see that a connection is closed
    assert SessionStore(database, clock=clock).purge() == 10
    assert store.purge() == 0


def test_without_a_table_there_is_nothing_to_purge(database: str, clock: Clock) -> None:
    """A purge from cron may run before the first request; it makes the table only where a request would."""
    store = SessionStore(database, clock=clock, create_table=False)

    assert store.purge() == 0
    assert not sa.inspect(store.database.engine).has_table(store.table.name)
    assert SessionStore(database, clock=clock).purge() == 0


def test_a_purge_says_what_it_removed(database: str, clock: Clock) -> None:
    """One event for all batches, none for nothing."""
    events: list[SessionEvent] = []
    store = SessionStore(database, clock=clock, on_event=events.append)
    store.create_table()
    store.purge()
    put_many(store, [new_record(clock(), lives=-1) for _ in range(12)])
    store.purge(batch_size=5)

    assert [(event.kind, event.reason) for event in events] == [("purged", "12 rows")]


def test_a_batch_goes_in_parts_that_nobody_waits_for_long(store: SessionStore, clock: Clock) -> None:
    """On SQLite, where one writes at a time, each copies its part of the log back: the next writer would have to."""
    part = ["DELETE", "PRAGMA"] if store.database.dialect.name == "sqlite" else ["DELETE"]
    put_many(store, [new_record(clock(), lives=-1) for _ in range(250)])
    removed: list[int] = []

    with statements(store.database.engine) as calls:
        assert store.purge(on_batch=removed.append) == 250

    assert [verb for verb in calls.verbs if verb != "SELECT"] == part * 5
    assert removed == [250]


class Killed(BaseException):
    """As gevent.Timeout and Ctrl-C."""


def test_a_purge_that_is_killed_in_a_statement_is_killed(networked: str, clock: Clock) -> None:
    """To let its lock go on a connection in the middle of a statement fails, and that must not be all that is heard."""
    store = SessionStore(networked, clock=clock)
    put(store, new_record(clock() - 9000))
    engine = store.database.engine

    def kill(call: Call, proceed: Proceed) -> Any:
        if "DELETE" in call.sql:
            call.connection.close()  # nothing more can be asked on it
            raise Killed
        return proceed()

    with watching(engine, kill), pytest.raises(Killed):
        store.purge()
    assert store.database.in_use() == 0
    assert held(networked) == []
    assert store.purge() == 1


def test_a_long_purge_goes_on_after_a_loss(networked: str, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it has been at it; and all that it removed is told."""
    store = SessionStore(networked, clock=clock)
    store.create_table()
    put_many(store, [new_record(clock() - 9000) for _ in range(6)])

    def lost(engine: sa.Engine) -> BaseException:
        assert held(networked) == []  # else the one who tries again meets the lock of the lost one
        return driver_error(engine, "OperationalError")

    faults = Faults(5, lost, disconnect=True, only={"execute"})
    batches: list[int] = []
    began = time.monotonic()
    monkeypatch.setattr("sessionware.database.time.monotonic", lambda: began + 100 * len(batches))
    with faults.on(store.database.engine):
        removed = store.purge(batch_size=2, on_batch=batches.append)

    assert faults.fired is not None
    assert removed == sum(batches) == 6


def test_a_long_purge_goes_on_after_several_losses(
    networked: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each after some progress: a server that is restarted twice in an hour ends no purge."""
    store = SessionStore(networked, clock=clock)
    store.create_table()
    put_many(store, [new_record(clock() - 9000) for _ in range(8)])
    engine = store.database.engine
    deletes: list[str] = []
    monkeypatch.setattr("sessionware.database.random.uniform", lambda *_: 0)

    def lose_every_second(call: Call, proceed: Proceed) -> Any:
        if "DELETE" not in call.sql:
            return proceed()
        deletes.append(call.sql)
        if len(deletes) % 2:
            return proceed()
        call.connection.close()
        assert held(networked) == []
        raise driver_error(engine, "OperationalError", 2013, "lost")

    began = time.monotonic()
    monkeypatch.setattr("sessionware.database.time.monotonic", lambda: began + 100 * len(deletes))
    with watching(engine, lose_every_second):
        assert store.purge(batch_size=2) == 8

    assert len(deletes) == 7


def test_a_table_that_goes_in_the_middle_does_not_take_the_number(database: str, clock: Clock) -> None:
    """What was removed until then is told."""
    store = SessionStore(database, clock=clock, create_table=False)
    store.create_table()
    put_many(store, [new_record(clock() - 9000) for _ in range(6)])
    other = sa.create_engine(database)

    assert store.purge(batch_size=2, on_batch=lambda _: store.table.drop(other, checkfirst=True)) == 2
    other.dispose()


def test_a_purge_in_another_schema_is_not_waited_for(postgresql: str, clock: Clock) -> None:
    """Tenants may have a table each, of one name."""
    stores = []
    for tenant in ("one", "two"):
        engine = sa.create_engine(postgresql, connect_args={"options": f"-csearch_path={tenant}"})
        with engine.begin() as connection:
            connection.exec_driver_sql(f"CREATE SCHEMA {tenant}")
        stores.append(SessionStore(engine, clock=clock))
        stores[-1].create_table()
        put_many(stores[-1], [new_record(clock() - 9000)])

    assert stores[0].database.elected(stores[0].table.name, lambda _: stores[1].purge()) == 1


def test_a_purge_in_a_request_is_one_batch_whatever_fails(
    store: SessionStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no place to go on for as long as something can be removed."""
    put_many(store, [new_record(clock(), lives=-1) for _ in range(20)])
    elected = store.database.elected

    def fail_afterwards(*words: Any) -> Any:
        elected(*words)
        raise StoreUnavailable("the lock was not let go")

    monkeypatch.setattr(store.database, "elected", fail_afterwards)
    with pytest.raises(StoreUnavailable):
        store.purge_some(5)

    assert row_count(store) == 15
