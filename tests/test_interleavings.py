"""Two requests on one session, in every order of their steps, beside everything that can happen to it."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from sessionware import SessionEvent, SessionInterrupted, SessionMiddleware, keys
from tests.support.clock import Clock
from tests.support.counting import statements
from tests.support.isolation import Address
from tests.support.visit import Visit, merges

HOUR = 3600
IDLE = 14 * 24 * HOUR
WRITES = {"INSERT", "UPDATE", "DELETE"}
OTHERS = {"other": "untouched", "user": "ann"}

Step = tuple[str, str]
WRITER_A = (("a", "load"), ("a", "change"), ("a", "save"))
WRITER_B = (("b", "load"), ("b", "change"), ("b", "save"))


@dataclass
class World:
    """One database, one clock, and what has happened to the session of the present round."""

    middleware: SessionMiddleware
    clock: Clock
    events: list[SessionEvent]
    orders: list[list[Step]]
    key: str = ""
    visits: dict[str, Visit] = field(default_factory=dict)
    ended: bool = False
    new_key: str | None = None
    interrupted: SessionInterrupted | None = None
    late: dict[str, bool] = field(default_factory=dict)

    def begin(self) -> "World":
        """Start a round with a session of its own."""
        self.clock.now += 2 * IDLE
        store = self.middleware.store
        self.key, self.visits, self.ended, self.new_key, self.late = store.create(OTHERS, "ann"), {}, False, None, {}
        self.interrupted = None
        return self

    def take(self, step: Step, happening: Callable[["World"], None]) -> None:
        """Do one step of the order."""
        who, what = step
        if who == "x":
            return happening(self)
        if what == "load":
            self.visits[who] = Visit(self.middleware, self.key)
            self.visits[who].load()
        elif what == "change":
            self.visits[who].session[who] = f"written by {who}"
        else:
            self.late[who] = self.ended or self.new_key is not None
            self.visits[who].end()
        return None

    def values(self, key: str) -> dict[str, Any] | None:
        """Return what is stored under *key*."""
        return self.middleware.store.read(key)

    def finished(self, visit: Visit) -> Visit:
        """End a request of the happening itself."""
        visit.end()
        self.interrupted = visit.interrupted
        return visit


def logout(world: World) -> None:
    visit = Visit(world.middleware, world.key)
    visit.session.flush()
    world.finished(visit)
    world.ended = True


def login(world: World) -> None:
    visit = Visit(world.middleware, world.key)
    visit.session.login("ann")
    world.new_key = world.finished(visit).cookie


def purge(world: World) -> None:
    world.middleware.store.purge()


def touch(world: World) -> None:
    world.clock.advance(HOUR * 24)
    visit = Visit(world.middleware, world.key)
    visit.load()

    assert world.finished(visit).cookie == world.key, "a day is enough for a touch"


def second_writer(world: World) -> None:
    visit = Visit(world.middleware, world.key)
    visit.session["x"] = "written by x"
    world.finished(visit)


def revoke(world: World) -> None:
    world.ended = world.middleware.store.revoke(keys.handle(keys.digest(world.key)))


def revoke_user(world: World) -> None:
    world.ended = world.middleware.store.revoke_user("ann") > 0


def expiry(world: World) -> None:
    world.clock.advance(IDLE)
    world.ended = True


def expiry_and_purge(world: World) -> None:
    expiry(world)
    purge(world)


KEEPING = [purge, touch, second_writer]
ENDING = [logout, revoke, revoke_user, expiry, expiry_and_purge]
HAPPENING = (("x", "x"),)

# The two writers are alike: the orders in which b begins are those in which a does.
ORDERS = [
    order for order in merges(WRITER_A, WRITER_B, HAPPENING) if order.index(WRITER_A[0]) < order.index(WRITER_B[0])
]


@pytest.fixture
def world(place: Address) -> World:
    """A world in which nothing has happened yet."""
    clock, events = Clock(), []
    middleware = SessionMiddleware(lambda *_: [], place.open(), clock=clock, on_event=events.append)
    # Step by step the levels hardly differ: where the rounds are not counted, a fifth of the orders will do.
    orders = ORDERS if place.level is None or "SESSIONWARE_TEST_ROUNDS" in os.environ else ORDERS[::5]
    return World(middleware, clock, events, orders)


def told(order: list[Step]) -> str:
    return " ".join(f"{who}.{what}" for who, what in order)


def test_there_are_seventy_orders() -> None:
    """An enumeration that forgot some would prove nothing."""
    assert len({told(order) for order in ORDERS}) == 70


@pytest.mark.parametrize("happening", KEEPING)
def test_both_writers_keep_their_keys(world: World, happening: Callable[[World], None]) -> None:
    """Saving the whole of what was loaded loses what another request stored in between."""
    for order in world.orders:
        world.begin()
        for step in order:
            world.take(step, happening)

        expected = {**OTHERS, "a": "written by a", "b": "written by b"}
        expected |= {"x": "written by x"} if happening is second_writer else {}
        assert world.values(world.key) == expected, told(order)
        assert [visit.cookie for visit in world.visits.values()] == [world.key] * 2, told(order)
        assert not any(visit.interrupted for visit in world.visits.values()), told(order)


@pytest.mark.parametrize("happening", ENDING)
def test_what_was_ended_has_no_row_no_data_and_no_cookie(world: World, happening: Callable[[World], None]) -> None:
    """A logout that a request already under way can undo is none."""
    for order in world.orders:
        world.begin()
        for step in order:
            world.take(step, happening)
        begun_anew = [visit.cookie for visit in world.visits.values() if visit.cookie not in ("", world.key)]
        after = Visit(world.middleware, world.key)

        assert world.ended, told(order)
        assert (dict(after.session), after.end().cookie) == ({}, ""), told(order)
        assert world.values(world.key) is None, told(order)
        assert world.middleware.store.count() == len(begun_anew), told(order)
        for who, visit in world.visits.items():
            if order.index(("x", "x")) < order.index((who, "load")):
                assert world.values(str(visit.cookie)) == {who: f"written by {who}"}, f"{who} in {told(order)}"
            else:
                assert visit.cookie == ("" if world.late[who] else world.key), f"{who} in {told(order)}"


def test_the_old_key_never_sees_a_login(world: World) -> None:
    """Who planted a key before the login must not be in the session after it, and may not throw the user out."""
    for order in world.orders:
        world.begin()
        for step in order:
            world.take(step, login)
        if world.interrupted is not None:
            pytest.fail(f"the login itself was interrupted in {told(order)}")

        assert world.new_key not in (None, "", world.key), told(order)
        saved = {who: f"written by {who}" for who in "ab" if not world.late[who]}
        assert world.values(str(world.new_key)) == {**OTHERS, **saved}, told(order)
        assert not world.middleware.store.exists(world.key), told(order)
        for who, visit in world.visits.items():
            assert visit.cookie == (None if world.late[who] else world.key), f"{who} in {told(order)}"
        after = Visit(world.middleware, world.key)
        assert (dict(after.session), after.session.user_id) == ({}, None), told(order)
        assert after.end().cookie is None, f"{told(order)}: it would take the new cookie from the browser"


READERS = [*KEEPING, *ENDING, login]


@pytest.mark.parametrize("happening", [purge, second_writer, logout, revoke, revoke_user, login])
def test_a_request_that_only_reads_writes_nothing(world: World, happening: Callable[[World], None]) -> None:
    """A reader that stores what it saw undoes what others have done since."""
    reader = (("a", "load"), ("a", "read"), ("a", "save"))
    world.middleware.store.create_table()
    for order in merges(reader, HAPPENING):
        world.begin()
        verbs: list[str] = []
        for step in order:
            with statements(world.middleware.store.database.engine) as calls:
                if step == ("a", "read"):
                    list(world.visits["a"].session.items())
                else:
                    world.take(step, happening)
            verbs += calls.verbs if step[0] == "a" else []

        assert not WRITES.intersection(verbs), f"{verbs} in {told(order)}"


def test_a_reader_that_extends_its_session_changes_nothing_else(world: World) -> None:
    """A touch is narrow: in no order may it bring back what it has read, or a session that has ended."""
    reader = (("a", "load"), ("a", "save"))
    for happening in READERS:
        for order in merges(reader, HAPPENING):
            world.begin()
            world.clock.advance(24 * HOUR)
            for step in order:
                world.take(step, happening)

            key = world.new_key or world.key
            expected = {**OTHERS, "x": "written by x"} if happening is second_writer else OTHERS
            assert world.values(key) == (None if world.ended else expected), f"{happening.__name__}: {told(order)}"


def test_a_merge_is_reported(world: World) -> None:
    """Whoever wonders where a value came from finds the merge among the events."""
    world.begin()
    for step in [WRITER_A[0], WRITER_B[0], WRITER_A[1], WRITER_B[1], WRITER_A[2], WRITER_B[2]]:
        world.take(step, purge)

    assert [event.kind for event in world.events] == ["merged"]
    assert world.events[0].handle == keys.handle(keys.digest(world.key))


def test_without_contention_a_save_is_one_statement(world: World) -> None:
    """The care for parallel requests must cost nobody anything who is alone."""
    world.begin()
    with statements(world.middleware.store.database.engine) as calls:
        for step in WRITER_A:
            world.take(step, purge)

    # An Engine that has a level of its own gets it back each time: that is its owner's to pay.
    assert [verb for verb in calls.verbs if verb not in ("SET", "COMMIT")] == ["SELECT", "UPDATE"]
