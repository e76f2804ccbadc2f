"""The checker of histories finds each wrong in a history made by hand, and nothing in one that may be."""

from collections.abc import Callable
from typing import Any

import pytest

from sessionware.keys import digest
from tests.history import ABSOLUTE, History, Operation, Peace, Result

NOW = 1_800_000_000
DAY = 24 * 3600

Change = Callable[[History], object]


def good() -> History:
    """Return a day on which nothing went wrong: two at one session, a login, a logout, and a write after it."""
    history = History(
        [
            done(0, "write", "shared", "k-shared", token="a1", slot="c0", values={"c0": "a1"}),
            done(0, "append", "shared", "k-shared", token="a2", values={"log": ["a2"]}),
            done(1, "append", "shared", "k-shared", token="a3", values={"log": ["a2", "a3"]}),
            done(0, "read", "shared", "k-shared", values={"c0": "a1", "log": ["a2", "a3"]}),
            done(0, "plain", "shared", "k-shared"),
            done(0, "write", "in", "k-in", token="b1", slot="c0", values={"c0": "b1"}),
            done(1, "login", "in", "k-in", cookie="k-new", values={"c0": "b1"}),
            done(0, "read", "in", "k-in", values={}),
            done(0, "write", "out", "k-out", token="c1", slot="c0", values={"c0": "c1"}),
            done(1, "logout", "out", "k-out", cookie="", values={}),
            done(0, "write", "out", "k-out", token="c2", slot="c0", values={"c0": "c2"}, cookie="k-anew"),
        ],
        final={"k-shared": {"c0": "a1", "log": ["a2", "a3"]}, "k-new": {"c0": "b1"}, "k-anew": {"c0": "c2"}},
    )
    for number, operation in enumerate(history.operations):
        operation.began, operation.ended = number, number + 0.5
    rows = {digest(key): row_of("{}") for key in history.final} | {digest("k-in"): row_of(None)}
    history.peace = Peace([200, 200], {1: 0, 2: 0}, [], rows, {digest(key) for key in history.final})
    return history


def done(client: int, what: str, session: str, key: str, **words: Any) -> Operation:
    return Operation(client, what, session, key, result="ok", status=200, **words)


def row_of(data: str | None) -> dict[str, Any]:
    end = NOW + 14 * DAY
    return {"data": data, "created_at": NOW, "used_at": NOW, "expires_at": end, "purge_hour": end // 3600}


def at(number: int, **changes: Any) -> Change:
    """Change one operation of the good day."""

    def change(history: History) -> None:
        for name, value in changes.items():
            setattr(history.operations[number], name, value)

    return change


def finally_(key: str, values: dict[str, Any] | None) -> Change:
    """Change what is found under *key* in the end; None: nothing is."""

    def change(history: History) -> None:
        history.final.pop(key, None)
        history.final.update({} if values is None else {key: values})
        settle(history)

    return change


def settle(history: History) -> None:
    """Have the table agree with the final read."""
    peace = at_peace(history)
    peace.left = {digest(key) for key in history.final}
    peace.rows = {digest(key): row_of("{}") for key in history.final} | {digest("k-in"): row_of(None)}


def at_peace(history: History) -> Peace:
    assert history.peace is not None
    return history.peace


def with_row(key: str, row: dict[str, Any]) -> Change:
    return lambda history: at_peace(history).rows.update({digest(key): row})


WRITE, APPEND, OTHER_APPEND, READ, PLAIN, WRITE_IN, LOGIN, READ_IN, WRITE_OUT, LOGOUT, ANEW = range(11)
SHARED = {"c0": "a1", "log": ["a2", "a3"]}

WRONGS: dict[str, tuple[str, Change]] = {
    "a write is lost": ("I1", finally_("k-shared", {"log": ["a2", "a3"]})),
    "a session is lost": ("I1", finally_("k-shared", None)),
    "a session begun anew is lost": ("I1", finally_("k-anew", None)),
    "a write before a login is lost": ("I1", finally_("k-new", {"log": ["b2"]})),
    "a ghost is stored": ("I2", finally_("k-shared", {**SHARED, "c9": "ghost"})),
    "a ghost is shown": ("I2", at(READ, values={**SHARED, "c9": "ghost"})),
    "a refused write is stored": ("I2", at(WRITE, result="fail")),
    "data after a logout": ("I3", at(ANEW, values={"c0": "c2", "c1": "c1"})),
    "life after a logout": ("I3", finally_("k-out", {"c0": "c1"})),
    "data with an old key": ("I4", at(READ_IN, values={"c0": "b1"})),
    "life of an old key": ("I4", finally_("k-in", {"c0": "b1"})),
    "no new key": ("I4", at(LOGIN, cookie=None)),
    "no session after a login": ("I4", finally_("k-new", None)),
    "data of others is shown": ("I5", at(READ, values={**SHARED, "c9": "b1"})),
    "data of others is stored": ("I5", finally_("k-new", {"c0": "b1", "c9": "a1"})),
    "data of others in a session begun anew": ("I5", finally_("k-anew", {"c0": "c2", "c9": "c1"})),
    "an own write is not there yet": ("I6", at(READ, values={"log": ["a2", "a3"]})),
    "an own append is not there yet": ("I6", at(READ, values={"c0": "a1", "log": []})),
    "two orders of a list": ("I7", at(READ, values={"c0": "a1", "log": ["a3", "a2"]})),
    "more than the last of a list": ("I7", finally_("k-shared", {"c0": "a1", "log": ["a2"]})),
    "twice in a list": ("I7", finally_("k-shared", {"c0": "a1", "log": ["a2", "a3", "a3"]})),
    "a plain page fails": ("I8", at(PLAIN, status=503)),
    "a long wait": ("I9", at(READ, ended=100.0)),
    "a cookie is taken away": ("I10", at(READ, cookie="")),
    "a cookie is replaced": ("I10", at(WRITE, cookie="k-anew")),
    "a cookie is taken before the logout": ("I10", at(WRITE_OUT, cookie="")),
    "an error after the harm": ("I11", lambda history: at_peace(history).statuses.append(503)),
    "a connection is kept": ("I11", lambda history: at_peace(history).lent.update({2: 1})),
    "a lock is kept": ("I11", lambda history: at_peace(history).held.append("connection 7, advisory lock")),
    "a row of nobody": ("I11", with_row("k-nobody", row_of("{}"))),
    "too many tombstones": ("I11", with_row("k-nobody", row_of(None))),
    "a row that is not there": ("I11", lambda history: at_peace(history).rows.pop(digest("k-new"))),
    "a row that never goes": ("I11", lambda history: at_peace(history).left.add(digest("k-in"))),
    "a live row that goes": ("I11", lambda history: at_peace(history).left.discard(digest("k-new"))),
    "a row that does not decode": ("I12", lambda history: setattr(history, "undecodable", 1)),
    "a row without an end": ("I12", with_row("k-new", row_of("{}") | {"expires_at": NOW + ABSOLUTE + 1})),
    "a row that is purged too late": ("I12", with_row("k-new", row_of("{}") | {"purge_hour": NOW})),
}

UNKNOWN: Result = "unknown"


def lost_login(history: History) -> None:
    """Its answer never came: the session lives under a key that nobody knows."""
    at(LOGIN, result=UNKNOWN, cookie=None, values=None)(history)
    finally_("k-new", None)(history)
    with_row("k-new", row_of("{}"))(history)


def overwritten(history: History) -> None:
    history.operations[READ] = done(
        0, "write", "shared", "k-shared", token="a4", slot="c0", values={**SHARED, "c0": "a4"}
    )
    at(READ, began=3, ended=3.5)(history)
    finally_("k-shared", {"c0": "a4", "log": ["a2", "a3"]})(history)


ALLOWED: dict[str, Change] = {
    "a good day": lambda history: None,
    "a write that is unknown and was made": at(WRITE, result=UNKNOWN, status=503, values=None),
    "an unknown login that was made": lost_login,
    "an unknown logout that was made": at(LOGOUT, result=UNKNOWN, status=0, values=None, cookie=None),
    "a refused login": at(READ_IN, what="login", result="fail", status=400),
    "a value that was overwritten": overwritten,
    "a server that does not answer": at(PLAIN, status=0),
}


@pytest.mark.parametrize("wrong", WRONGS)
def test_each_wrong_is_found(wrong: str) -> None:
    """An invariant that cannot be broken checks nothing."""
    invariant, spoil = WRONGS[wrong]
    history = good()
    spoil(history)

    assert invariant in {violation.partition(":")[0] for violation in history.violations()}, history.violations()


@pytest.mark.parametrize("day", ALLOWED)
def test_what_may_be_is_no_violation(day: str) -> None:
    """A checker that cries without a reason is soon not listened to."""
    history = good()
    ALLOWED[day](history)

    assert history.violations() == []


def test_every_invariant_has_a_wrong() -> None:
    """One that is added must be shown to fail."""
    assert {invariant for invariant, _ in WRONGS.values()} == {f"I{number}" for number in range(1, 13)}
