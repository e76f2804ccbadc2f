"""What an application does to its session as a whole: save, clear, rotate, log in and out, change atomically."""

from datetime import UTC, datetime
from typing import Any

import pytest

from sessionware import Session, SessionInterrupted, SessionTooLarge, UnstorableValue
from tests.support.apps import ValidatedSite, opened
from tests.support.clock import START
from tests.support.counting import statements


@pytest.fixture
def site(sqlite: str) -> ValidatedSite:
    return ValidatedSite(sqlite)


@pytest.fixture
def key(site: ValidatedSite) -> str:
    """The key of a stored session."""
    return site.store.create({"a": 1, "items": [1]})


def test_save_stores_at_once(site: ValidatedSite, key: str) -> None:
    """For what must be there although the request may fail; `modified` stays what it was, as in Django."""
    session = opened(site, key)
    session["a"] = 2
    session.save()

    assert site.store.read(key) == {"a": 2, "items": [1]}
    assert session.modified
    with statements(site.store.database.engine) as calls:
        session.save()
        session.commit()
    assert calls.verbs == []


def test_save_begins_a_session_even_an_empty_one(site: ValidatedSite) -> None:
    """Who asks for a row gets one."""
    session = opened(site, None)
    session.save()

    assert site.store.exists(str(session.session_key))
    assert (session.outcome.value, session.is_empty()) == ("created", False)


@pytest.mark.parametrize(
    ("value", "error"),
    [(object(), UnstorableValue), ("x" * 5000, SessionTooLarge)],
    ids=["unstorable", "too large"],
)
@pytest.mark.parametrize("store", [Session.save, Session.commit], ids=["save", "commit"])
def test_what_cannot_be_stored_leaves_the_row_as_it_was(sqlite: str, value: Any, error: Any, store: Any) -> None:
    """Neither truncated nor half; the key is named, the value is not."""
    site = ValidatedSite(sqlite, max_bytes=4096)
    key = site.store.create({"a": 1})
    session = opened(site, key)
    session["good"] = 2
    session["bad"] = value
    with pytest.raises(error, match="'bad'") as caught:
        store(session)

    assert "xxx" not in str(caught.value)
    assert site.store.read(key) == {"a": 1}


def test_the_largest_session_is_stored(sqlite: str) -> None:
    """One character more is refused."""
    overhead = len('{"a":""}')
    site = ValidatedSite(sqlite, max_bytes=4096)
    session = opened(site, None)
    session["a"] = "x" * (4096 - overhead)
    session.save()
    session["a"] += "x"

    with pytest.raises(SessionTooLarge, match="4097 bytes, max_bytes is 4096"):
        session.save()


def test_clear_keeps_key_and_row(site: ValidatedSite, key: str) -> None:
    """Nothing is loaded for it, and whatever others have stored meanwhile goes too."""
    session = opened(site, key)
    session.clear()
    other = opened(site, key)
    other["b"] = 2
    other.commit()
    session.commit()

    assert site.store.read(key) == {}
    assert session.session_key == key


def test_session_key_before_and_after(site: ValidatedSite, key: str) -> None:
    """What the cookie says; the new one after cycle_key; none without a session."""
    session = opened(site, key)
    assert session.session_key == key
    session.cycle_key()
    assert session.session_key not in (None, key)
    session.commit()
    assert site.store.exists(str(session.session_key))
    assert not site.store.exists(key)
    session.flush()
    assert session.session_key is None
    assert opened(site, None).session_key is None
    assert opened(site, "bogus").session_key is None


def test_an_unknown_key_is_never_adopted(site: ValidatedSite) -> None:
    """Fixation: who brings a key gets another one."""
    session = opened(site, "x" * 43)
    session["a"] = 1
    session.commit()

    assert session.session_key != "x" * 43
    assert site.store.count() == 1
    assert not site.store.exists("x" * 43)


def test_cycle_key_keeps_the_values(site: ValidatedSite, key: str) -> None:
    """And handle and created_at follow."""
    session = opened(site, key)
    before = (session.created_at, session.handle)
    session["b"] = 2
    session.cycle_key()
    session.commit()
    again = opened(site, session.session_key)

    assert again == {"a": 1, "items": [1], "b": 2}
    assert again.created_at == before[0]
    assert again.handle == session.handle != before[1]
    assert opened(site, key) == {}


def test_cycle_key_twice_makes_one_new_key(site: ValidatedSite, key: str) -> None:
    """What was never sent to anybody leaves no trace."""
    session = opened(site, key)
    session.cycle_key()
    session.cycle_key()
    session.commit()

    assert site.store.count() == 1
    assert site.kinds().count("rotated") == 1


def test_cycle_key_without_a_session_begins_none(site: ValidatedSite) -> None:
    """There is no key to be fixated."""
    session = opened(site, None)
    session.cycle_key()
    session.commit()

    assert site.store.count() == 0


@pytest.mark.parametrize("user_id", ["ann", 7])
def test_login_takes_the_session_over(site: ValidatedSite, key: str, user_id: Any) -> None:
    """The cart of the anonymous visitor stays; key and age are new; the user can be found by it."""
    site.clock.advance(3600)
    session = opened(site, key)
    session.login(user_id)
    session.commit()
    again = opened(site, session.session_key)

    assert (again["a"], again.user_id) == (1, str(user_id))
    assert again.created_at == datetime.fromtimestamp(START + 3600, UTC)
    assert [info.handle for info in site.store.sessions_of(user_id)] == [again.handle]
    assert not site.store.exists(key)


def test_login_as_another_drops_the_values(site: ValidatedSite) -> None:
    """CVE-2014-0482: the next user at this browser must not find the last one's."""
    key = site.store.create({"secret": 1}, user_id="ann")
    session = opened(site, key)
    session.set_expiry(60)
    session.login("bob")
    session["b"] = 2
    session.commit()
    again = opened(site, session.session_key)

    assert (again, again.user_id, again.get_expiry_age()) == ({"b": 2}, "bob", 1209600)


def test_login_as_another_drops_what_is_added_meanwhile(site: ValidatedSite) -> None:
    """CVE-2014-0482: merging must not bring it back."""
    key = site.store.create({"secret": 1}, user_id="ann")
    session, other = opened(site, key), opened(site, key)
    session.login("bob")
    other["late"] = 2
    other.commit()
    session["b"] = 3
    session.commit()

    assert opened(site, session.session_key) == {"b": 3}


def test_login_as_the_same_keeps_the_values(site: ValidatedSite) -> None:
    """A password asked for again."""
    key = site.store.create({"cart": [1]}, user_id="ann")
    session = opened(site, key)
    session.login("ann")
    session.commit()

    assert opened(site, session.session_key) == {"cart": [1]}
    assert session.session_key != key


def test_login_of_an_empty_session_is_stored(site: ValidatedSite) -> None:
    """To be logged in is reason enough for a row."""
    session = opened(site, None)
    session.login("ann")
    session.commit()

    assert opened(site, session.session_key).user_id == "ann"


@pytest.mark.parametrize("user_id", ["", " ann", "ann\n", "a" * 256, "\x00"], ids=repr)
def test_login_refuses_what_cannot_be_found_again(site: ValidatedSite, user_id: Any) -> None:
    """Before anything has changed."""
    session = opened(site, None)
    with pytest.raises(ValueError, match="user_id"):
        session.login(user_id)

    assert not session.modified


@pytest.mark.parametrize("user_id", [None, 1.5, True, b"ann"], ids=repr)
def test_login_refuses_other_types(site: ValidatedSite, user_id: Any) -> None:
    """True is no user number 1."""
    with pytest.raises(TypeError, match="user_id"):
        opened(site, None).login(user_id)


def test_flush_ends_it_at_once(site: ValidatedSite, key: str) -> None:
    """The row is gone before the response is made; what follows begins a new session."""
    session = opened(site, key)
    assert session["a"] == 1
    session.login("ann")
    session.flush()

    assert not site.store.exists(key)
    assert (dict(session), session.user_id, session.created_at, session.handle) == ({}, None, None, None)
    session["b"] = 2
    session.commit()
    assert opened(site, session.session_key) == {"b": 2}


def test_atomic_changes_the_newest_values(site: ValidatedSite, key: str) -> None:
    """Not those this request has loaded; what it changes besides is kept for the end."""
    session = opened(site, key)
    session["mine"] = 1
    other = opened(site, key)
    other.update(a=41, theirs=1)
    other.commit()

    assert session.atomic(lambda values: values.update(a=values["a"] + 1) or "done") == "done"
    assert site.store.read(key) == {"a": 42, "items": [1], "theirs": 1}
    assert session == {"a": 42, "items": [1], "theirs": 1, "mine": 1}
    session.commit()
    assert site.store.read(key) == {"a": 42, "items": [1], "theirs": 1, "mine": 1}


def test_atomic_begins_a_session(site: ValidatedSite) -> None:
    """A counter has to start somewhere."""
    session = opened(site, None)
    session.atomic(lambda values: values.update(n=1))

    assert site.store.read(str(session.session_key)) == {"n": 1}


def test_atomic_that_raises_changes_nothing(site: ValidatedSite, key: str) -> None:
    """The error comes out, and the session goes on."""
    session = opened(site, key)

    def fail(values: dict[str, Any]) -> None:
        values["a"] = 2
        raise LookupError

    with pytest.raises(LookupError):
        session.atomic(fail)

    assert session == {"a": 1, "items": [1]}
    session.commit()
    assert site.store.read(key) == {"a": 1, "items": [1]}


@pytest.mark.parametrize(
    "act",
    [
        pytest.param(lambda s: s.save(), id="save"),
        pytest.param(lambda s: s.atomic(lambda values: None), id="atomic"),
        pytest.param(lambda s: s.flush(), id="flush"),
    ],
)
def test_a_request_with_an_outdated_key_is_interrupted(site: ValidatedSite, key: str, act: Any) -> None:
    """The session lives on under a key that this request does not have; it reads as empty, and stores nothing."""
    rotating = opened(site, key)
    rotating.cycle_key()
    rotating.commit()
    session = opened(site, key)

    assert dict(session) == {}
    with pytest.raises(SessionInterrupted) as caught:
        act(session)
    assert not caught.value.ended
    assert site.store.read(str(rotating.session_key)) == {"a": 1, "items": [1]}
    assert site.store.count() == 1


def test_a_plain_write_with_an_outdated_key_is_dropped(site: ValidatedSite, key: str) -> None:
    """An event says so; the browser has the new cookie by then, or will have."""
    rotating = opened(site, key)
    rotating.cycle_key()
    rotating.commit()
    session = opened(site, key)
    session["b"] = 2
    session.commit()

    assert site.kinds().count("dropped") == 1
    assert site.store.count() == 1


def test_test_cookie(site: ValidatedSite) -> None:
    """Set, come back, deleted: with Django's names."""
    site.visit(lambda session: session.set_test_cookie())

    assert site.look(lambda session: (session.test_cookie_worked(), session.delete_test_cookie())) == (True, None)
    assert not site.look(lambda session: session.test_cookie_worked())
