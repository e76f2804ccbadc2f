"""Fault at call N where others keep coming between: saves, rotations and counters that end under the row's lock."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import Engine

from sessionware import SessionMiddleware, SessionStore, StoreUnavailable, keys
from sessionware.record import Record, new_revision
from tests.support import databases
from tests.support.clock import Clock
from tests.support.counting import statements
from tests.support.faults import Faults, Mode, driver_error, every_call
from tests.support.proxy import ToxicProxy
from tests.support.visit import Visit

# So often a save competes freely; then it asks for the lock.
OFTEN = 4
MINE = "mine"


class Killed(BaseException):
    """What gevent and gunicorn throw into a request that is to end."""


class Rival:
    """Another request, past the faults, that changes the session OFTEN times, each time before a save."""

    def __init__(self, url: str, clock: Clock) -> None:
        self.store = SessionStore(url, clock=clock)
        self.key = ""
        self._left = 0

    def begin(self) -> str:
        """Return the key of a new session."""
        self.store.revoke_all()
        self.key, self._left = self.store.create({"n": "old"}), OFTEN
        return self.key

    def come_between(self) -> None:
        if self._left:
            self._left -= 1
            self.store.modify(keys.digest(self.key), self._change, int(self.store.clock()))

    def decide(self, name: str, base: Any, mine: Any, theirs: Any) -> Any:
        """Let the request have its way, and come again."""
        self.come_between()
        return mine

    def stored(self, key: str | None) -> Any:
        """Return n as it is stored, None without a session."""
        values = self.store.read(key or "")
        return None if values is None else values["n"]

    def _change(self, found: Record | None) -> Record:
        assert found is not None
        return found._replace(data=f'{{"n":"rival {self._left}"}}', revision=new_revision())


def save(visit: Visit, rival: Rival) -> None:
    visit.session["n"] = MINE
    rival.come_between()
    visit.end()


def rotate(visit: Visit, rival: Rival) -> None:
    visit.session.cycle_key()
    save(visit, rival)


def atomic(visit: Visit, rival: Rival) -> None:
    def change(values: dict[str, Any]) -> None:
        rival.come_between()
        values["n"] = MINE

    visit.session.atomic(change)
    visit.end()


Operation = Callable[[Visit, Rival], None]

FAULTS: dict[str, Callable[[Engine], BaseException]] = {
    "error": lambda engine: driver_error(engine, "OperationalError"),
    "disconnect": lambda engine: driver_error(engine, "OperationalError"),
    "killed": lambda engine: Killed(),
}


@pytest.fixture
def rival(any_engine: str, clock: Clock) -> Rival:
    return Rival(any_engine, clock)


@pytest.fixture
def middleware(rival: Rival, any_engine: str, clock: Clock) -> SessionMiddleware:
    return SessionMiddleware(lambda *_: [], any_engine, clock=clock, on_conflict=rival.decide, purge_interval=None)


@pytest.mark.parametrize("operation", [save, rotate, atomic])
def test_who_is_always_too_late_gets_the_lock(
    middleware: SessionMiddleware, rival: Rival, operation: Operation
) -> None:
    """Else a slow request would never be done; and the faults below would not strike where they should."""
    visit = Visit(middleware, rival.begin())
    with statements(middleware.store.database.engine) as calls:
        operation(visit, rival)

    begins = calls.verbs.count("BEGIN")
    assert begins == (OFTEN + 1 if operation is rotate else 1)
    assert rival.stored(visit.session.session_key) == MINE


@pytest.mark.parametrize("mode", ["before", "after"])
@pytest.mark.parametrize("operation", [save, rotate, atomic])
@pytest.mark.parametrize("kind", FAULTS)
def test_no_fault_on_the_way_to_the_lock_does_harm(
    middleware: SessionMiddleware, rival: Rival, operation: Operation, kind: str, mode: Mode
) -> None:
    """Old or new, new if it was acknowledged; nothing stays locked or lent, and a lost connection costs nothing."""
    engine = middleware.store.database.engine
    for faults in every_call(FAULTS[kind], mode=mode, disconnect=kind == "disconnect"):
        visit = Visit(middleware, rival.begin())
        visit.load()  # connected, too
        done = False
        with faults.on(engine), suppress(StoreUnavailable, Killed):
            operation(visit, rival)
            done = True
        found = [n for n in map(rival.stored, {rival.key, visit.session.session_key}) if n is not None]

        assert len(found) == 1, f"{faults}: one session"
        assert found == [MINE] or not done, faults
        assert done or faults.fired, faults
        assert done or kind != "disconnect" or operation is atomic, faults
        assert middleware.store.database.in_use() == 0, faults
        assert found[0] in {MINE, "old", *(f"rival {n}" for n in range(OFTEN))}, faults
        assert visit.interrupted is None, faults


@pytest.mark.parametrize("what", ["reply", "request"])
@pytest.mark.parametrize("operation", [save, rotate, atomic])
def test_a_commit_lost_on_the_wire_is_made_good(any_server: str, clock: Clock, operation: Operation, what: str) -> None:
    """Done but not acknowledged, or never done: who had the lock finds out, and does it once."""
    rival = Rival(any_server, clock)
    with ToxicProxy(any_server) as wire:
        middleware = SessionMiddleware(
            lambda *_: [], wire.url, clock=clock, on_conflict=rival.decide, purge_interval=None
        )
        visit = Visit(middleware, rival.begin())
        visit.load()
        (wire.drop_reply if what == "reply" else wire.drop_request)(b"COMMIT")
        operation(visit, rival)

        assert wire.losses == 1
        assert visit.interrupted is None
        assert rival.stored(visit.session.session_key) == MINE
        assert rival.store.count() == 1
        middleware.store.database.engine.dispose()


def test_an_error_that_somebody_keeps_keeps_no_lock(any_engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reporters of errors keep them, with all that their frames refer to: SQLite ends no transaction under a cursor."""
    monkeypatch.setattr(databases, "PATIENCE", 0.2)
    store = SessionStore(any_engine)
    digest = keys.digest(store.create({}))
    faults = Faults(2, lambda _: Killed(), mode="after", only={"execute"})
    with faults.on(store.database.engine), pytest.raises(Killed) as kept:
        store.modify(digest, lambda found: found or pytest.fail("no row"), int(store.clock()))

    assert faults.fired is not None
    assert faults.fired.sql.startswith("SELECT")
    assert databases.held(any_engine) == [], f"as long as {kept.value!r} is kept"
