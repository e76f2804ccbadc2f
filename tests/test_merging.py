"""What a merge calls and reports, seen from a request."""

from datetime import datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from sessionware import MISSING, SessionEvent, SessionMiddleware, UnstorableValue
from tests.support.visit import Visit

DAY = 86400

Conflict = tuple[str, Any, Any, Any]


def collided(middleware: SessionMiddleware, base: dict[str, Any], mine: Any, theirs: Any) -> dict[str, Any] | None:
    """Store *base*, have two requests change "k" of it, and return what is stored in the end; None deletes."""
    key = middleware.store.create(base)
    first, second = Visit(middleware, key), Visit(middleware, key)
    for visit, value in ((first, mine), (second, theirs)):
        if value is None:
            del visit.session["k"]
        else:
            visit.session["k"] = value
    second.end()
    first.end()
    return middleware.store.read(key)


def test_without_a_handler_the_later_save_wins_and_an_event_says_so(database: str) -> None:
    """Somebody has to win, and nobody should have to guess who did."""
    events: list[SessionEvent] = []
    middleware = SessionMiddleware(lambda *_: [], database, on_event=events.append)

    assert collided(middleware, {"k": 0}, 1, 2) == {"k": 1}
    (event,) = [event for event in events if event.kind == "merged"]
    assert event.reason == "1 key changed on both sides"
    assert event.handle is not None


@pytest.mark.parametrize(
    ("base", "mine", "theirs", "called"),
    [
        pytest.param({"k": 0}, 1, 2, [("k", 0, 1, 2)], id="both-changed"),
        pytest.param({}, 1, 2, [("k", MISSING, 1, 2)], id="both-new"),
        pytest.param({"k": 0}, None, 2, [("k", 0, MISSING, 2)], id="deleted-against-changed"),
        pytest.param({"k": 0}, 1, 1, [], id="changed-alike"),
        pytest.param({"k": {"x": 1}}, {"x": 1, "y": 2}, {"x": 1, "z": 3}, [], id="different-places-inside"),
        pytest.param({"k": {"x": 1}}, {"x": 2}, {"x": 3}, [("x", 1, 2, 3)], id="one-place-inside"),
    ],
)
def test_the_handler_is_asked_about_conflicts_alone(
    sqlite: str, base: dict[str, Any], mine: Any, theirs: Any, called: list[Conflict]
) -> None:
    """It knows what the application means; it is not bothered with what is no conflict."""
    seen: list[Conflict] = []

    def decide(*conflict: Any) -> Any:
        seen.append(conflict)
        return "decided"

    stored = collided(SessionMiddleware(lambda *_: [], sqlite, on_conflict=decide), base, mine, theirs)

    assert seen == called
    assert ("decided" in str(stored)) is bool(called)


def test_a_handler_that_returns_missing_deletes(sqlite: str) -> None:
    """Neither of two values may be the right answer."""
    middleware = SessionMiddleware(lambda *_: [], sqlite, on_conflict=lambda *_: MISSING)

    assert collided(middleware, {"k": 0, "other": 1}, 1, 2) == {"other": 1}


def test_references_the_application_holds_stay_good_after_a_merge(sqlite: str) -> None:
    """A save in the middle of a request must not leave it with a copy that nobody stores."""
    middleware = SessionMiddleware(lambda *_: [], sqlite)
    key = middleware.store.create({"deep": {"x": 1}})
    visit = Visit(middleware, key)
    inner = visit.session["deep"]
    inner["mine"] = 1
    other = Visit(middleware, key)
    other.session["deep"]["theirs"] = 2
    other.end()
    visit.session.save()
    inner["late"] = 3
    visit.end()

    assert middleware.store.read(key) == {"deep": {"x": 1, "mine": 1, "theirs": 2, "late": 3}}


def test_a_value_that_stands_twice_takes_part_in_a_merge_twice(sqlite: str) -> None:
    """As with "billing is the same as shipping": the other request's change of one of them is not lost for that."""
    middleware = SessionMiddleware(lambda *_: [], sqlite)
    key = middleware.store.create({"shipping": {"street": "A"}, "billing": {"street": "A"}})
    visit = Visit(middleware, key)
    visit.session["billing"] = visit.session["shipping"]
    other = Visit(middleware, key)
    other.session["shipping"]["phone"] = "1"
    other.end()
    visit.session["more"] = 1
    visit.end()

    shipping = {"street": "A", "phone": "1"}
    assert middleware.store.read(key) == {"shipping": shipping, "billing": {"street": "A"}, "more": 1}


@pytest.mark.parametrize("kind", [list, dict])
def test_a_handler_may_keep_both_sides(sqlite: str, kind: Any) -> None:
    """What is made of both holds what the application holds, and must not come to hold itself."""

    def both(_key: str, _base: Any, mine: Any, theirs: Any) -> Any:
        return [mine, theirs] if kind is list else {"mine": mine, "theirs": theirs}

    middleware = SessionMiddleware(lambda *_: [], sqlite, on_conflict=both)
    key = middleware.store.create({"k": [0], "other": 1})
    here, there = Visit(middleware, key), Visit(middleware, key)
    here.session["k"].append("a")
    there.session["k"].append("b")
    there.end()
    here.end()

    kept = [[0, "a"], [0, "b"]]
    assert middleware.store.read(key) == {
        "k": kept if kind is list else {"mine": kept[0], "theirs": kept[1]},
        "other": 1,
    }


def test_a_merge_that_cannot_be_stored_is_not_reported(sqlite: str) -> None:
    """An event says what has happened."""
    events: list[SessionEvent] = []
    middleware = SessionMiddleware(lambda *_: [], sqlite, on_event=events.append, on_conflict=lambda *_: object())
    with pytest.raises(UnstorableValue):
        collided(middleware, {"k": 0}, 1, 2)

    assert [event.kind for event in events] == []


@pytest.mark.parametrize("loaded", [{"form": 1}, {}], ids=["the same as before", "empty as before"])
@pytest.mark.parametrize("early", [False, True], ids=["at the end", "by save"])
def test_clear_drops_what_others_have_added_though_nothing_else_differs(
    database: str, loaded: dict[str, Any], early: bool
) -> None:
    """What this request stores may equal what it has loaded; what the other has stored goes all the same."""
    middleware = SessionMiddleware(lambda *_: [], database)
    key = middleware.store.create(loaded, "ann")
    first, second = Visit(middleware, key), Visit(middleware, key)
    first.load()
    second.session["secret"] = "second"
    second.end()
    first.session.clear()
    first.session.update(loaded)
    if early:
        first.session.save()
    first.end()

    assert middleware.store.read(key) == loaded


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(datetime(2026, 11, 27, 12, tzinfo=timezone(timedelta(hours=1), "CET")), id="a zone with a name"),
        pytest.param(
            datetime(2026, 11, 27, 12, tzinfo=ZoneInfo("Europe/Berlin"), fold=1), id="a fold that tells nothing"
        ),
    ],
)
def test_what_a_request_has_stored_itself_is_no_change_of_it_any_more(sqlite: str, value: Any) -> None:
    """The codec may give it another form: the other request's newer value is not overwritten for that."""
    middleware = SessionMiddleware(lambda *_: [], sqlite)
    key = middleware.store.create({"at": None})
    first, second = Visit(middleware, key), Visit(middleware, key)
    first.session["at"] = value
    first.session.save()
    second.session["at"] = "newer"
    second.end()
    first.session["other"] = 1
    first.end()

    assert middleware.store.read(key) == {"at": "newer", "other": 1}


def test_a_login_inherits_no_expiry_of_the_user_before(sqlite: str) -> None:
    """Not even one that is set while it is under way."""
    middleware = SessionMiddleware(lambda *_: [], sqlite)
    key = middleware.store.create({"a": 1}, "ann")
    first, second = Visit(middleware, key), Visit(middleware, key)
    first.load()
    first.session.login("bob")
    second.session.set_expiry(60 * DAY)
    second.end()
    first.end()

    assert Visit(middleware, first.cookie).session.get_expiry_age() == 14 * DAY


def test_clear_and_a_login_of_the_same_user_keep_what_another_request_sets(sqlite: str) -> None:
    """The values go; the expiry is the same user's wish."""
    middleware = SessionMiddleware(lambda *_: [], sqlite)
    key = middleware.store.create({"a": 1}, "ann")
    first, second = Visit(middleware, key), Visit(middleware, key)
    first.load()
    first.session.clear()
    first.session.login("ann")
    second.session.set_expiry(7200)
    second.end()
    first.end()

    assert Visit(middleware, first.cookie).session.get_expiry_age() == 7200
