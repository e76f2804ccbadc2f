"""A connection that breaks at a change: it is made once, and what nobody can know is not guessed."""

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from sessionware import keys
from sessionware.database import ConnectionLost
from sessionware.record import Record, new_revision
from sessionware.store import SessionStore
from tests.support.clock import Clock
from tests.support.driver import Call
from tests.support.faults import Faults, driver_error
from tests.support.rows import new_record, put, random_digest

Change = Callable[["World"], Any]


class World:
    """A stored session, a change of it under way, and somebody else who changes it too."""

    def __init__(self, database: str, clock: Clock) -> None:
        self.store, self.rival = (SessionStore(database, clock=clock) for _ in range(2))
        self.store.create_table()
        self.now = int(clock())
        self.seen = new_record(clock())
        self.digest, self.new = put(self.store, self.seen), random_digest()
        self.mine = self.seen._replace(data='{"mine":1}', revision=new_revision())
        self.applied = 0

    def overtake(self) -> None:
        """Have somebody else save what is stored by then."""
        found = self.rival.load(self.digest)
        assert found is not None
        theirs = found._replace(data='{"theirs":1}', revision=new_revision())
        assert self.rival.update(self.digest, theirs, found.revision, self.now)

    def change(self, found: Record | None) -> Record:
        """Return what is to be stored over *found*, as `atomic` does under the row's lock."""
        assert found is not None
        self.applied += 1
        return found._replace(data=self.mine.data, revision=new_revision())


def insert(world: World) -> bool:
    return world.store.insert(world.new, world.mine)


def update(world: World) -> bool | None:
    return world.store.update(world.digest, world.mine, world.seen.revision, world.now)


def overwrite(world: World) -> bool | None:
    return world.store.update(world.digest, world.mine, world.seen.revision, world.now, later=True)


def rotate(world: World) -> bool | None:
    return world.store.rotate(world.digest, world.new, world.mine, world.seen.revision, world.now)


def modify(world: World) -> bool:
    world.store.modify(world.digest, world.change, world.now)
    return True


def move(world: World) -> bool:
    world.store.modify(world.digest, world.change, world.now, world.new)
    return True


# The statement at which the change is made: the only one, or the last of BEGIN ... COMMIT.
CHANGES = [
    pytest.param(insert, 1, id="insert"),
    pytest.param(update, 1, id="update"),
    pytest.param(overwrite, 1, id="overwrite"),
    pytest.param(rotate, 4, id="rotate"),
    pytest.param(modify, 4, id="modify"),
    pytest.param(move, 5, id="modify and rotate"),
]


def lost(engine: sa.Engine) -> BaseException:
    return driver_error(engine, "OperationalError")


class EachTime(Faults):
    """Strikes whenever something is changed."""

    def _is_due(self, call: Call) -> bool:
        due = call.sql.startswith(("INSERT", "UPDATE"))
        self.seen += due
        return due


@pytest.mark.parametrize("mode", ["before", "after"])
@pytest.mark.parametrize(("change", "at"), CHANGES)
def test_it_is_made_whether_the_question_or_the_answer_was_lost(
    database: str, clock: Clock, change: Change, at: int, mode: Any
) -> None:
    """And under the key that was meant: a second one would be that of another session."""
    world = World(database, clock)
    with Faults(at, lost, mode=mode, disconnect=True, only={"execute"}).on(world.store.database.engine) as faults:
        assert change(world) is True
    found = [world.rival.load(digest) for digest in (world.digest, world.new)]

    assert faults.fired is not None
    assert [row.data for row in found if row is not None].count(world.mine.data) == 1
    assert world.store.database.in_use() == 0


@pytest.mark.parametrize(("change", "at"), CHANGES[1:3])
def test_who_was_overtaken_then_cannot_tell(database: str, clock: Clock, change: Change, at: int) -> None:
    """Whether the other one built upon this change, or never saw it, is written nowhere."""
    world = World(database, clock)

    def overtaken(engine: sa.Engine) -> BaseException:
        world.overtake()
        return lost(engine)

    for mode in ("before", "after"):
        with Faults(at, overtaken, mode=mode, disconnect=True, only={"execute"}).on(world.store.database.engine):
            assert change(world) is None
        found = world.rival.load(world.digest)
        assert found is not None
        assert found.data == '{"theirs":1}'
        world.seen = found
        world.mine = found._replace(revision=new_revision())


def test_what_may_have_been_counted_is_not_counted_again(database: str, clock: Clock) -> None:
    """Under the lock a second try would find what somebody has made of the first, and change that once more."""
    world = World(database, clock)

    def overtaken(engine: sa.Engine) -> BaseException:
        world.overtake()
        return lost(engine)

    faults = Faults(4, overtaken, mode="after", disconnect=True, only={"execute"})
    with faults.on(world.store.database.engine), pytest.raises(ConnectionLost):
        modify(world)

    assert world.applied == 1


def revoke(world: World) -> None:
    assert world.rival.revoke(keys.handle(world.digest))


def rotate_away(world: World) -> None:
    assert world.rival.rotate(world.digest, random_digest(), world.seen, world.seen.revision, world.now)


@pytest.mark.parametrize(("end", "left"), [(revoke, 0), (rotate_away, 1)])
@pytest.mark.parametrize(("change", "at"), [CHANGES[1].values, CHANGES[3].values])
def test_who_lost_the_session_then_has_stored_nothing(
    database: str, clock: Clock, change: Change, at: int, end: Callable[[World], None], left: int
) -> None:
    """Nor is a session that is over brought back."""
    world = World(database, clock)

    def ended(engine: sa.Engine) -> BaseException:
        end(world)
        return lost(engine)

    with Faults(at, ended, disconnect=True, only={"execute"}).on(world.store.database.engine):
        assert change(world) is False
    assert world.rival.count() == left


@pytest.mark.parametrize(("change", "at"), CHANGES[:3])
def test_what_breaks_each_connection_is_told(database: str, clock: Clock, change: Change, at: int) -> None:
    """A server that has become read-only, say: nobody tries for ever."""
    world = World(database, clock)
    faults = EachTime(at, lost, disconnect=True)
    with faults.on(world.store.database.engine), pytest.raises(ConnectionLost):
        change(world)

    assert faults.seen == 2


def test_a_rotation_that_is_made_between_two_questions_is_known(
    database: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server finishes what was given up for lost just when it is asked for that."""
    world = World(database, clock)
    load, looks = world.store.load, []

    def look(digest: bytes) -> Record | None:
        looks.append(digest)
        if len(looks) == 2:
            assert world.rival.rotate(world.digest, world.new, world.mine, world.seen.revision, world.now)
        return load(digest)

    monkeypatch.setattr(world.store, "load", look)
    with Faults(4, lost, disconnect=True, only={"execute"}).on(world.store.database.engine):
        assert rotate(world) is True
    assert len(looks) == 2
