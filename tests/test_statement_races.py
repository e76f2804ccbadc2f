"""Two writers of one session and what may happen to it, in every order of their statements at the driver.

Step by step, a save is whole before the next one begins; here it is interrupted between its look and its change.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from sessionware import SessionMiddleware
from tests.support.clock import Clock
from tests.support.isolation import Address, Place
from tests.support.rows import new_record, put_many
from tests.support.stepping import Actor, play
from tests.support.visit import Visit, merges

DAY = 24 * 3600
OTHERS = {"other": "untouched"}
NAMES = "abx"

# A writer stops before its look and before its change.
WRITER = ("SELECT", "UPDATE")

Happening = Callable[[SessionMiddleware, str], Visit | None]


def logout(middleware: SessionMiddleware, key: str) -> Visit:
    visit = Visit(middleware, key)
    visit.session.flush()
    return visit.end()


def login(middleware: SessionMiddleware, key: str) -> Visit:
    visit = Visit(middleware, key)
    visit.session.login("ann")
    return visit.end()


def purge(middleware: SessionMiddleware, key: str) -> None:
    assert middleware.store.purge() >= 1, "there is something to remove"


def touch(middleware: SessionMiddleware, key: str) -> Visit:
    visit = Visit(middleware, key)
    visit.load()
    return visit.end()


def second_writer(middleware: SessionMiddleware, key: str) -> Visit:
    return written(middleware, key, "x")


def written(middleware: SessionMiddleware, key: str, name: str) -> Visit:
    visit = Visit(middleware, key)
    visit.session[name] = f"written by {name}"
    return visit.end()


# What happens stops before what counts: a rotation also between its change and its commit.
STOPS: dict[Happening, tuple[str, ...]] = {
    logout: ("DELETE",),
    login: ("UPDATE", "COMMIT"),
    purge: ("DELETE",),
    touch: ("SELECT", "UPDATE"),
    second_writer: ("SELECT", "UPDATE"),
}


@dataclass
class Race:
    """Three requests on engines of their own: writers a and b, and x, which is what happens."""

    middlewares: dict[str, SessionMiddleware]
    clock: Clock
    sparse: bool

    def orders(self, happening: Happening) -> list[list[str]]:
        """Return the orders of all statements; of two that differ only in the names of the writers, one."""
        every = merges(*(name * self._steps(name, happening) for name in NAMES))
        found = [order for order in every if order.index("a") < order.index("b")]
        return found[::3] if self.sparse else found

    def run(self, order: list[str], happening: Happening) -> tuple[str, dict[str, Any]]:
        """Play one order on a new session; return its key and what came of a, b and x."""
        key = self._new_key()
        actors = self._actors(happening, key)
        play(order, actors)
        for actor in actors.values():
            if isinstance(actor.result, BaseException):
                raise actor.result
        return key, {name: actor.result for name, actor in actors.items()}

    def _steps(self, name: str, happening: Happening) -> int:
        actor = self._actors(happening, self._new_key())[name]
        play([], {name: actor})
        return len(actor.stopped_at)

    def _new_key(self) -> str:
        store = self.middlewares["a"].store
        store.revoke_all()
        key = store.create(OTHERS)
        put_many(store, [new_record(self.clock(), lives=-5)])
        self.clock.advance(DAY)  # enough for a touch
        return key

    def _actors(self, happening: Happening, key: str) -> dict[str, Actor]:
        works = {
            "a": partial(written, key=key, name="a"),
            "b": partial(written, key=key, name="b"),
            "x": partial(happening, key=key),
        }
        stops = {"a": WRITER, "b": WRITER, "x": STOPS[happening]}
        return {
            name: Actor(middleware.store.database.engine, partial(works[name], middleware), stops[name])
            for name, middleware in self.middlewares.items()
        }


@pytest.fixture
def race(place: Address) -> Race:
    clock = Clock()
    made = {name: SessionMiddleware(lambda *_: [], place.open(), clock=clock, purge_interval=None) for name in NAMES}
    made["a"].store.create_table()
    for middleware in made.values():
        middleware.store.count()  # connected
    # The levels hardly differ from the defaults: a third of the orders will do, unless rounds are counted.
    return Race(made, clock, place.level is not None and "SESSIONWARE_TEST_ROUNDS" not in os.environ)


@pytest.mark.parametrize("happening", [purge, touch, second_writer])
def test_no_order_of_statements_loses_a_key(race: Race, happening: Happening) -> None:
    """Whoever comes between the look and the change of another is seen, and merged."""
    for order in race.orders(happening):
        key, visits = race.run(order, happening)
        expected = {**OTHERS, "a": "written by a", "b": "written by b"}
        expected |= {"x": "written by x"} if happening is second_writer else {}

        assert race.middlewares["a"].store.read(key) == expected, order
        assert [visits[name].cookie for name in "ab"] == [key, key], order


def test_no_order_of_statements_undoes_a_logout(race: Race) -> None:
    """Who comes too late is told, or begins a session of its own; nothing lives under the old key."""
    store = race.middlewares["a"].store
    for order in race.orders(logout):
        key, visits = race.run(order, logout)
        begun = {name: visits[name].cookie for name in "ab" if visits[name].cookie not in ("", key)}
        again = Visit(race.middlewares["a"], key)

        assert visits["x"].cookie == "", order
        assert (dict(again.session), again.end().cookie) == ({}, ""), order
        assert store.count() == len(begun), order
        for name, cookie in begun.items():
            assert store.read(str(cookie)) == {name: f"written by {name}"}, order


def test_no_order_of_statements_lets_the_old_key_into_a_login(race: Race) -> None:
    """A write is stored before the login or not at all, and its answer leaves the new cookie alone."""
    store = race.middlewares["a"].store
    for order in race.orders(login):
        key, visits = race.run(order, login)
        stored = {name: f"written by {name}" for name in "ab" if visits[name].cookie == key}
        again = Visit(race.middlewares["a"], key)

        assert visits["x"].interrupted is None, order
        assert {visits[name].cookie for name in "ab"} <= {None, key}, order
        assert store.read(str(visits["x"].cookie)) == {**OTHERS, **stored}, order
        assert (dict(again.session), again.end().cookie) == ({}, None), order
        assert store.count() == 1, order


@pytest.mark.parametrize("place", [Place("sqlite")], ids=lambda place: place.id, indirect=True)
def test_no_order_is_forgotten(race: Race) -> None:
    """An enumeration that forgot some would prove nothing. With its mirror images there are twice as many."""
    assert {happening: len(race.orders(happening)) for happening in STOPS} == {
        **dict.fromkeys([logout, purge], 15),
        **dict.fromkeys([login, touch, second_writer], 45),
    }
