"""The session as the application sees it: a dictionary with Django's names, and Django's rules of what counts."""

import copy
import pickle
import secrets
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest

from sessionware import Session, TaggedJSON, Undecodable, UnstorableValue
from tests.support.apps import NOWHERE, ValidatedSite, opened
from tests.support.clock import START
from tests.support.counting import statements

NAME = "__Host-sessionid"

READ, WRITE, DELETE = "SELECT", "UPDATE", "DELETE"


@pytest.fixture
def site(sqlite: str) -> ValidatedSite:
    return ValidatedSite(sqlite)


@pytest.fixture
def key(site: ValidatedSite) -> str:
    """The key of a stored session."""
    return site.store.create({"a": 1, "items": [1]})


def raises(error: type[Exception], action: Any) -> Any:
    def check(session: Session) -> None:
        with pytest.raises(error):
            action(session)

    return check


OPERATIONS = [
    # what it does, accessed, modified, statements
    pytest.param(lambda s: s["a"], True, False, [READ], id="get item"),
    pytest.param(raises(KeyError, lambda s: s["x"]), True, False, [READ], id="get missing item"),
    pytest.param(lambda s: s.get("a"), True, False, [READ], id="get"),
    pytest.param(lambda s: s.get("x", default=0), True, False, [READ], id="get missing"),
    pytest.param(lambda s: "a" in s, True, False, [READ], id="in"),
    pytest.param(lambda s: s.has_key("a"), True, False, [READ], id="has_key"),
    pytest.param(lambda s: list(s.keys()), True, False, [READ], id="keys"),
    pytest.param(lambda s: list(s.values()), True, False, [READ], id="values"),
    pytest.param(lambda s: list(s.items()), True, False, [READ], id="items"),
    pytest.param(lambda s: list(s), True, False, [READ], id="iter"),
    pytest.param(len, True, False, [READ], id="len"),
    pytest.param(bool, True, False, [READ], id="bool"),
    pytest.param(lambda s: s == {}, True, False, [READ], id="equal"),
    pytest.param(dict, True, False, [READ], id="dict"),
    pytest.param(lambda s: s["items"], True, False, [READ], id="get a list"),
    pytest.param(lambda s: s["items"].append(2), True, True, [READ], id="change a list"),
    pytest.param(lambda s: s.__setitem__("a", 2), True, True, [READ], id="set"),
    pytest.param(lambda s: s.__setitem__("a", 1), True, True, [READ], id="set to the same"),
    pytest.param(lambda s: s.__delitem__("a"), True, True, [READ], id="delete"),
    pytest.param(raises(KeyError, lambda s: s.__delitem__("x")), True, False, [READ], id="delete missing"),
    pytest.param(lambda s: s.pop("a"), True, True, [READ], id="pop"),
    pytest.param(lambda s: s.pop("x", default=0), True, False, [READ], id="pop missing with default"),
    pytest.param(raises(KeyError, lambda s: s.pop("x")), True, False, [READ], id="pop missing"),
    pytest.param(lambda s: s.popitem(), True, True, [READ], id="popitem"),
    pytest.param(lambda s: s.setdefault("a", 2), True, False, [READ], id="setdefault"),
    pytest.param(lambda s: s.setdefault("x", 2), True, True, [READ], id="setdefault missing"),
    pytest.param(lambda s: s.update({"b": 1}), True, True, [READ], id="update"),
    pytest.param(lambda s: s.update({}), True, True, [READ], id="update with nothing"),
    pytest.param(lambda s: s.__ior__({"b": 1}), True, True, [READ], id="|="),
    pytest.param(lambda s: s.clear(), True, True, [], id="clear"),
    pytest.param(lambda s: s.is_empty(), False, False, [], id="is_empty"),
    pytest.param(lambda s: s.session_key, False, False, [], id="session_key"),
    pytest.param(repr, False, False, [], id="repr"),
    pytest.param(lambda s: s.outcome, False, False, [], id="outcome"),
    pytest.param(lambda s: (s.accessed, s.modified), False, False, [], id="flags"),
    pytest.param(lambda s: s.set_test_cookie(), True, True, [READ], id="set_test_cookie"),
    pytest.param(lambda s: s.test_cookie_worked(), True, False, [READ], id="test_cookie_worked"),
    pytest.param(raises(KeyError, lambda s: s.delete_test_cookie()), True, False, [READ], id="delete_test_cookie"),
    pytest.param(lambda s: s.flush(), True, True, [DELETE], id="flush"),
    pytest.param(lambda s: s.logout(), True, True, [DELETE], id="logout"),
    pytest.param(lambda s: s.cycle_key(), True, True, [READ], id="cycle_key"),
    pytest.param(lambda s: s.login("ann"), True, True, [READ], id="login"),
    pytest.param(lambda s: s.save(), True, False, [READ], id="save"),
    pytest.param(lambda s: s.atomic(lambda values: None), True, False, [READ], id="atomic"),
    pytest.param(lambda s: s.get_expiry_age(), True, False, [READ], id="get_expiry_age"),
    pytest.param(lambda s: s.get_expiry_date(), True, False, [READ], id="get_expiry_date"),
    pytest.param(lambda s: s.get_expire_at_browser_close(), True, False, [READ], id="get_expire_at_browser_close"),
    pytest.param(lambda s: s.get_expiry_age(expiry=60), False, False, [], id="get_expiry_age of something"),
    pytest.param(lambda s: s.get_expiry_date(expiry=None), False, False, [], id="get_expiry_date of something"),
    pytest.param(lambda s: s.set_expiry(60), True, True, [READ], id="set_expiry"),
    pytest.param(lambda s: s.set_expiry(None), True, False, [READ], id="set_expiry to what it is"),
    pytest.param(lambda s: s.user_id, True, False, [READ], id="user_id"),
    pytest.param(lambda s: s.created_at, True, False, [READ], id="created_at"),
    pytest.param(lambda s: s.handle, True, False, [READ], id="handle"),
]


@pytest.mark.parametrize(("action", "accessed", "modified", "sql"), OPERATIONS)
def test_what_counts(
    site: ValidatedSite, key: str, action: Any, accessed: bool, modified: bool, sql: list[str]
) -> None:
    """Django's table of what sets `accessed` and `modified` and what loads, with the rest of a dictionary added."""
    session = opened(site, key)
    with statements(site.store.database.engine) as calls:
        action(session)

    assert (session.accessed, session.modified) == (accessed, modified)
    assert calls.verbs == sql


@pytest.mark.parametrize(("action", "accessed", "modified", "sql"), OPERATIONS)
def test_without_a_cookie_nothing_is_asked(
    site: ValidatedSite, action: Any, accessed: bool, modified: bool, sql: list[str]
) -> None:
    """A visitor without a cookie costs no statement, until something is stored."""
    session = opened(site, None)
    storing = any(action is param.values[0] for param in OPERATIONS if param.id == "save")
    absent = suppress(KeyError, pytest.fail.Exception)  # there is neither "a" nor a list in this one
    with statements(site.store.database.engine) as calls, absent:
        action(session)

    assert session.accessed is accessed
    assert (len(calls) == 0) is not storing


@pytest.mark.parametrize("name", [name for name in dir(MutableMapping) if not name.startswith("_")])
def test_has_every_method_of_a_mapping(name: str) -> None:
    """What works on a dict works here."""
    assert callable(getattr(Session, name))


def test_behaves_as_a_dictionary(site: ValidatedSite, key: str) -> None:
    """Equality, order, views, |= and popitem."""
    session = opened(site, key)
    session |= {"b": 2}
    session.update([("c", 3)], d=4)

    assert isinstance(session, Mapping)
    assert session == {"a": 1, "items": [1], "b": 2, "c": 3, "d": 4}
    assert list(session) == list(session.keys()) == ["a", "items", "b", "c", "d"]
    assert list(session.items())[-1] == ("d", 4)
    assert session.popitem() is not None
    assert len(session) == 4
    assert {**session} == dict(session)
    session.clear()
    assert not session


def test_views_are_live(site: ValidatedSite, key: str) -> None:
    """As a dict's are."""
    session = opened(site, key)
    keys, items = session.keys(), session.items()
    session["b"] = 2

    assert "b" in keys
    assert ("b", 2) in items


@pytest.mark.parametrize("take", [pickle.dumps, copy.copy, copy.deepcopy], ids=["pickle", "copy", "deepcopy"])
def test_cannot_be_copied(site: ValidatedSite, key: str, take: Any) -> None:
    """A copy would outlive its request; dict(session) says what is meant."""
    with pytest.raises(TypeError, match=r"dict\(session\)"):
        take(opened(site, key))


def test_repr_tells_no_secret(site: ValidatedSite, key: str) -> None:
    """It ends in logs and on error pages."""
    session = opened(site, key)
    session["password"] = "hunter2"

    assert repr(session) == "<Session read>"
    assert repr(opened(site, None)) == "<Session untouched>"


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda s: s["items"].append(2), id="list"),
        pytest.param(lambda s: s["deep"]["b"]["c"].add(2), id="set in dictionaries"),
        pytest.param(lambda s: s["deep"]["b"].pop("c"), id="delete deep inside"),
        pytest.param(lambda s: s["pair"][0].append(1), id="list in a tuple"),
        pytest.param(lambda s: s.get("items").clear(), id="get"),
        pytest.param(lambda s: s.setdefault("items", []).append(2), id="setdefault"),
        pytest.param(lambda s: [item.append(3) for item in s.values() if item == [1]], id="values"),
        pytest.param(lambda s: dict(s.items())["items"].append(2), id="items"),
        pytest.param(lambda s: dict(s)["items"].append(2), id="dict"),
        pytest.param(lambda s: {**s}["items"].append(2), id="unpacking"),
        pytest.param(lambda s: s.pop("items").append(2), id="pop"),
        pytest.param(lambda s: [x := [], s.update(new=x), x.append(1)], id="after update"),
    ],
)
def test_changes_inside_of_values_are_stored(site: ValidatedSite, change: Any) -> None:
    """No modified = True: Django, Flask and Beaker forget these in silence."""
    values: dict[str, Any] = {"items": [1], "deep": {"b": {"c": {1}}}, "pair": ([],)}
    key = site.store.create(values)
    session = opened(site, key)
    assert not session.modified
    change(session)

    assert session.modified
    session.commit()
    change(values)
    assert site.store.read(key) == values


def test_a_change_that_was_taken_back_is_none(site: ValidatedSite, key: str) -> None:
    """What counts is what would be stored."""
    session = opened(site, key)
    session["items"].append(2)
    session["items"].pop()
    with statements(site.store.database.engine) as calls:
        session.commit()

    assert not session.modified
    assert calls.verbs == []


def test_modified_can_be_set(site: ValidatedSite, key: str) -> None:
    """True stores in any case, also what is equal; False forgets what was noticed so far."""
    session = opened(site, key)
    session["a"] = 1
    session.modified = True
    with statements(site.store.database.engine) as calls:
        session.commit()

    assert calls.verbs == [WRITE]

    session = opened(site, key)
    session["a"] = 2
    session["items"].append(2)
    session.modified = False
    session.commit()

    assert site.store.read(key) == {"a": 1, "items": [1]}


def test_modified_set_on_an_untouched_session_stores_it(site: ValidatedSite, key: str) -> None:
    """The application knows best: it is stored, and so extended."""
    site.clock.advance(60)
    session = opened(site, key)
    session.modified = True
    session.commit()

    assert session.outcome.value == "saved"
    assert opened(site, key).get_expiry_date() == datetime.fromtimestamp(START + 60, UTC) + site_idle(site)


def test_nothing_is_needed_to_make_a_session() -> None:
    """Neither a database nor a look at the header."""
    session = opened(ValidatedSite(NOWHERE), "x" * 43)

    assert session.life is None


def test_two_live_keys_are_nobody(site: ValidatedSite, key: str) -> None:
    """Somebody planted a cookie; neither session is read or written, and neither cookie is cleared."""
    planted = site.store.create({"evil": 1})
    reply = site.visit(
        lambda session: (dict(session), session.session_key, session.is_empty()),
        cookie=f"{NAME}={planted}; {NAME}={key}",
    )

    assert (reply.text, reply.set_cookies) == ("({}, None, True)", [])
    assert "duplicate" in site.kinds()


def test_is_empty_means_neither_key_nor_values(site: ValidatedSite, key: str) -> None:
    """Django's word: an emptied session still has its key."""
    fresh, stored = opened(site, None), opened(site, key)
    assert (fresh.is_empty(), stored.is_empty()) == (True, False)
    fresh["a"] = 1
    stored.clear()
    assert (fresh.is_empty(), stored.is_empty()) == (False, False)
    fresh.clear()
    stored.flush()
    assert (fresh.is_empty(), stored.is_empty()) == (True, True)


def site_idle(site: ValidatedSite) -> Any:
    return opened(site, None).get_expiry_date() - datetime.fromtimestamp(site.clock(), UTC)


def test_a_commit_of_an_untouched_session_does_nothing(site: ValidatedSite, key: str) -> None:
    """Not even the cookie is read."""
    session = opened(site, key)
    with statements(site.store.database.engine) as calls:
        session.commit()

    assert session.life is None
    assert calls.verbs == []


class Sealed(TaggedJSON):
    """As an encryption does, give equal values another text each time."""

    format = 7

    def encode(self, values: dict[str, Any]) -> str:
        return secrets.token_hex(8) + super().encode(values)

    def decode(self, text: str) -> dict[str, Any]:
        return super().decode(text[16:])


def test_a_codec_that_encrypts_makes_no_change_of_a_look(sqlite: str) -> None:
    """Each read of a list would be a write, and could be interrupted as one."""
    site = ValidatedSite(sqlite, codec=Sealed())
    key = site.store.create({"items": [1], "a": 1})
    session = opened(site, key)
    with statements(site.store.database.engine) as calls:
        assert session["items"] == [1]
        assert not session.modified
        session["a"] = 1
        session.commit()

    assert calls.verbs == ["SELECT"]
    session["items"].append(2)
    session.commit()
    assert site.store.read(key) == {"items": [1, 2], "a": 1}


def test_an_update_that_fails_half_way_has_happened_half_way(site: ValidatedSite, key: str) -> None:
    """What the request sees is what is stored."""
    session = opened(site, key)
    with pytest.raises(TypeError):
        session.update([("a", 2), 5])
    session.commit()

    assert dict(session) == site.store.read(key) == {"a": 2, "items": [1]}


class Opaque(TaggedJSON):
    """A codec whose key was changed, or whose text is no ASCII."""

    format = 8

    def encode(self, values: dict[str, Any]) -> str:
        return super().encode(values).replace("u", "\u00fc")

    def decode(self, text: str) -> dict[str, Any]:
        raise Undecodable("the key was changed")


def test_what_a_codec_cannot_read_is_nobodys_session(sqlite: str) -> None:
    """Undecodable is how it says so: a visitor must not get an error at every page for it."""
    site = ValidatedSite(sqlite, codec=Opaque())
    session = opened(site, site.store.create({"a": 1}))

    assert dict(session) == {}
    assert site.kinds() == ["corrupt"]


def test_a_codec_must_give_ascii(sqlite: str) -> None:
    """MariaDB would refuse it at each save as a fault of its own, and max_bytes would count something else."""
    session = opened(ValidatedSite(sqlite, codec=Opaque()), None)
    session["u"] = 1
    with pytest.raises(UnstorableValue, match="ASCII"):
        session.commit()
