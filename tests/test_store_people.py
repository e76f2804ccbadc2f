"""The store's verbs for people: create, read, list, count and revoke, on every engine through every driver."""

import time
from datetime import UTC, datetime
from typing import Any

import pytest

from sessionware import StoreUnavailable, keys
from sessionware import store as store_module
from sessionware.record import TOMBSTONE_SECONDS, Lifetime
from sessionware.store import SessionInfo, SessionStore
from tests.support.clock import Clock
from tests.support.counting import statements
from tests.support.rows import all_rows, new_record, put, put_many, random_digest, row_count

# Text that collations like to call equal: case, accents, width, ligatures, and what sorts as nothing at all.
ALIKE = ["bob", "Bob", "BOB", "b\u00f3b", "bo\u0301b", "\uff42\uff4f\uff42", "stra\u00dfe", "strasse", "\ufb01n", "fin"]
NO_HANDLES = ["", "x", "0" * 31, "0" * 33, "0" * 32 + "\n", "G" * 32, "AB" * 16, "%", "\x00" * 32, "\uff10" * 32]


def type_name(value: object) -> str:
    """Return how a value is called in the name of a test."""
    return type(value).__name__


@pytest.fixture
def store(database: str, clock: Clock) -> SessionStore:
    """A store with an empty table."""
    store = SessionStore(database, clock=clock, lifetime=Lifetime(idle=1000, absolute=5000))
    store.create_table()
    return store


def test_what_was_created_is_there(store: SessionStore, clock: Clock) -> None:
    """Values, owner and lifetime, under a key of the one shape a key has."""
    key = store.create({"cart": [1, ("a", None)], "é": "\u0000\ud800"}, "bob")
    record = store.load(keys.digest(key))

    assert keys.is_key(key)
    assert store.read(key) == {"cart": [1, ("a", None)], "é": "\u0000\ud800"}
    assert store.exists(key)
    assert store.count() == 1
    assert record is not None
    assert (record.user_id, record.created_at, record.expires_at) == ("bob", int(clock()), int(clock()) + 1000)
    assert key not in str(all_rows(store))


@pytest.mark.parametrize(("offset", "lives"), [(-1, True), (0, False), (1, False)])
def test_all_verbs_agree_on_the_second_of_death(store: SessionStore, clock: Clock, offset: int, lives: bool) -> None:
    """At `expires_at` the session is dead for everybody at once."""
    key = store.create({"a": 1}, "bob")
    clock.advance(1000 + offset)

    assert store.exists(key) is lives
    assert (store.read(key) is not None) is lives
    assert store.count() == lives
    assert len(store.sessions_of("bob")) == lives
    assert store.revoke(keys.as_handle(key) or "") is lives


@pytest.mark.parametrize(
    "row",
    [
        pytest.param({"data": "not json"}, id="garbage"),
        pytest.param({"data": "[]"}, id="no-dictionary"),
        pytest.param({"data": ""}, id="empty"),
        pytest.param({"format": 2}, id="another-codec"),
    ],
)
def test_a_row_that_does_not_decode_reads_as_nothing(store: SessionStore, clock: Clock, row: dict[str, object]) -> None:
    """It is there, but nobody can tell what it says; it stays for inspection."""
    key = keys.new_key()
    put(store, new_record(clock(), **row), keys.digest(key))  # type: ignore[arg-type]

    assert store.read(key) is None
    assert store.exists(key)
    assert row_count(store) == 1


def test_what_is_no_key_costs_no_statement(store: SessionStore) -> None:
    """Text that no session key can be does not reach the database."""
    with statements(store.database.engine) as calls:
        assert not store.exists("x")
        assert store.read("' OR 1=1 --") is None
        assert [store.revoke(name) for name in NO_HANDLES] == [False] * len(NO_HANDLES)

    assert calls.all == []


@pytest.mark.parametrize("name", [None, 5, b"k" * 43, b"0" * 32, ["0" * 32], object()], ids=type_name)
def test_what_is_no_text_names_no_session(sqlite: str, name: Any) -> None:
    """`revoke(session.handle)` of a visitor without a session is `revoke(None)`: there is nothing to end."""
    store = SessionStore(sqlite)
    with statements(store.database.engine) as calls:
        assert store.exists(name) is False
        assert store.read(name) is None
        assert store.revoke(name) is False

    assert calls.all == []


@pytest.mark.parametrize("keep", [5, b"0" * 32, ["0" * 32]], ids=type_name)
def test_what_is_no_text_cannot_be_kept(store: SessionStore, keep: Any) -> None:
    """As any other slip, and with nothing ended."""
    key = store.create({}, "bob")

    with pytest.raises(ValueError, match="keep must be a handle or a session key"):
        store.revoke_user("bob", keep=keep)

    assert store.exists(key)


@pytest.mark.parametrize("values", [None, 5, "text", [("a", 1)], {"a"}], ids=type_name)
def test_only_a_dictionary_is_a_session(sqlite: str, values: Any) -> None:
    """A slip in a script is told in its own words, before any statement."""
    store = SessionStore(sqlite)
    with statements(store.database.engine) as calls, pytest.raises(TypeError, match=r"^values must be a dict\.$"):
        store.create(values)

    assert calls.all == []


def test_a_tombstone_is_no_session(store: SessionStore, clock: Clock) -> None:
    """Neither read, listed, counted nor revoked."""
    key = keys.new_key()
    put(store, new_record(clock(), None, user_id="bob"), keys.digest(key))

    assert (store.exists(key), store.read(key), store.count()) == (False, None, 0)
    assert store.sessions_of("bob") == []
    assert store.revoke(keys.as_handle(key) or "") is False
    assert store.revoke_user("bob") == 0
    assert store.revoke_all() == 0


def test_sessions_are_listed_with_the_last_used_first(store: SessionStore, clock: Clock) -> None:
    """What a page "where am I logged in" shows: handles and times in UTC, no credentials."""
    start = int(clock())
    records = [new_record(start, user_id="7", used_at=start + used) for used in (30, 10, 20)]
    digests = put_many(store, [*records, new_record(start, user_id="8"), new_record(start, lives=0, user_id="7")])
    listed = store.sessions_of(7)

    assert [info.handle for info in listed] == [digests[at].hex()[:32] for at in (0, 2, 1)]
    assert listed[1] == SessionInfo(
        handle=digests[2].hex()[:32],
        user_id="7",
        created_at=datetime.fromtimestamp(start, UTC),
        last_used_at=datetime.fromtimestamp(start + 20, UTC),
        expires_at=datetime.fromtimestamp(start + 1000, UTC),
    )


def test_users_that_look_alike_are_not_the_same(store: SessionStore) -> None:
    """Whose session it is must not depend on the collation of the database."""
    made = {user: store.create({}, user) for user in ALIKE}

    assert [[info.user_id for info in store.sessions_of(user)] for user in ALIKE] == [[user] for user in ALIKE]
    assert store.revoke_user("bob") == 1
    assert [user for user, key in made.items() if not store.exists(key)] == ["bob"]


@pytest.mark.parametrize(
    "user_id", ["", " bob", "bob ", "bob\t", "b\x00b", "\ud800", "x" * 256, "a\u200bb", 3.0, True, None, b"bob"]
)
def test_a_user_that_cannot_be_kept_exactly_is_refused(sqlite: str, user_id: object) -> None:
    """Before any statement: MariaDB pads with blanks, PostgreSQL knows no NUL, nobody stores half a surrogate."""
    store = SessionStore(sqlite)
    with statements(store.database.engine) as calls:
        with pytest.raises((TypeError, ValueError)):
            store.sessions_of(user_id)  # type: ignore[arg-type]
        with pytest.raises((TypeError, ValueError)):
            store.revoke_user(user_id)  # type: ignore[arg-type]

    assert calls.all == []


def test_revoke_ends_the_session_that_is_named(store: SessionStore) -> None:
    """Only that one, and only once."""
    key, other = store.create({}, "bob"), store.create({}, "bob")
    (handle,) = [info.handle for info in store.sessions_of("bob") if info.handle == keys.as_handle(key)]

    assert store.revoke(handle) is True
    assert store.revoke(handle) is False
    assert (store.exists(key), store.exists(other)) == (False, True)


def test_a_handle_names_one_session_alone(store: SessionStore, clock: Clock) -> None:
    """A handle is half a digest: its neighbours on both sides stay."""
    middle = random_digest()[:16]
    number = int.from_bytes(middle)
    before, after = (number - 1).to_bytes(16) + b"\xff" * 16, (number + 1).to_bytes(16) + b"\x00" * 16
    named = middle + b"\x80" * 16
    for digest in (before, named, after):
        put(store, new_record(clock()), digest)

    assert store.revoke(middle.hex())
    assert set(all_rows(store)) == {before, after}


@pytest.mark.parametrize("form", ["key", "handle"])
def test_all_sessions_of_a_user_end_but_the_one_that_is_kept(store: SessionStore, form: str) -> None:
    """ "Log me out everywhere else": the kept one is named by its key or its handle."""
    mine = [store.create({"n": number}, "bob") for number in range(4)]
    theirs, nobodys = store.create({}, "eve"), store.create({"a": 1})
    keep = mine[2] if form == "key" else keys.as_handle(mine[2])

    assert store.revoke_user("bob", keep=keep) == 3
    assert [store.exists(key) for key in (*mine, theirs, nobodys)] == [False, False, True, False, True, True]
    assert store.read(mine[2]) == {"n": 2}
    assert store.revoke_user("bob") == 1
    assert store.revoke_user("bob") == 0


@pytest.mark.parametrize("keep", ["", "bob", "0" * 31, "G" * 32])
def test_what_is_no_session_cannot_be_kept(store: SessionStore, keep: str) -> None:
    """A slip must not log the caller out with all the others."""
    key = store.create({}, "bob")

    with pytest.raises(ValueError, match="keep must be a handle or a session key"):
        store.revoke_user("bob", keep=keep)

    assert store.exists(key)


@pytest.mark.parametrize("keep", [None, "0" * 32, "k" * 43], ids=["nobody", "a-handle", "a-key"])
def test_keeping_nobody_ends_them_all(store: SessionStore, keep: str | None) -> None:
    """A kept session that is not there keeps no other."""
    made = [store.create({}, "bob") for _ in range(3)]

    assert store.revoke_user("bob", keep) == 3
    assert not any(store.exists(key) for key in made)


def test_nothing_can_be_stored_over_what_was_revoked(store: SessionStore, clock: Clock) -> None:
    """Final for requests in flight: their save, touch and rotation find nothing to hit."""
    digest = put(store, new_record(clock(), user_id="bob"))
    seen = store.load(digest)
    assert seen is not None
    store.revoke_user("bob")
    now = int(clock()) + 1

    assert store.update(digest, new_record(now), seen.revision, now) is False
    assert store.touch(digest, seen, now) is False
    assert store.touch_unseen(digest, Lifetime(), now) is False
    assert store.rotate(digest, random_digest(), new_record(now), seen.revision, now) is False
    assert store.count() == 0


def test_revoke_all_ends_every_session_page_by_page(
    store: SessionStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether or not they fill the last page; what is no session stays for those who ask for it."""
    tombstone = put(store, new_record(clock(), None))
    for page, count in [(10, 0), (10, 1), (10, 10), (10, 11), (10, 25), (1000, 1001)]:
        monkeypatch.setattr(store_module, "_PAGE", page)
        put_many(store, [new_record(clock(), user_id="bob") for _ in range(count)])

        assert store.revoke_all() == count
        assert store.count() == 0
    assert tombstone in all_rows(store)


def test_a_login_that_began_before_a_revocation_hears_of_it(store: SessionStore, clock: Clock) -> None:
    """The mark is what a login asks for after it has stored its row; the kept session is not meant."""
    began = 1_000_000_000.0  # before this test, whatever the clock of the machine
    kept = store.create({}, "bob")
    handle = str(keys.as_handle(kept))
    assert not store.revoked_since("bob", began, [])
    store.revoke_user("bob", keep=kept)

    assert store.revoked_since("bob", began, [])
    assert store.revoked_since("bob", began, ["0" * 32])
    assert not store.revoked_since("bob", began, ["0" * 32, handle])
    assert not store.revoked_since("Bob", began, [])
    assert not store.revoked_since(None, began, [])
    assert not store.revoked_since("bob", 4_000_000_000.0, [])


def test_a_later_revocation_counts_for_those_who_were_kept_before(store: SessionStore) -> None:
    """There are two marks a user at most, one of revocations that kept a session."""
    kept = store.create({}, "bob")
    store.revoke_user("bob", keep=kept)
    store.revoke_user("bob")

    assert store.revoked_since("bob", 1_000_000_000.0, [str(keys.as_handle(kept))])
    assert row_count(store) == 2


@pytest.mark.parametrize("first", ["whole", "but for another"])
def test_an_earlier_revocation_counts_for_those_who_are_kept_later(store: SessionStore, first: str) -> None:
    """A login with the old password must not survive its change by logging out all other devices itself."""
    other, late = store.create({}, "bob"), store.create({}, "bob")
    handle = str(keys.as_handle(late))
    store.revoke_user("bob", keep=None if first == "whole" else other)
    between = time.time()
    store.revoke_user("bob", keep=handle)
    store.revoke_user("bob", keep=handle)

    assert store.revoked_since("bob", 1_000_000_000.0, [handle])
    assert not store.revoked_since("bob", between, [handle])
    assert not store.revoked_since("bob", between, [handle], moved=True), "what is complete is not going on"
    assert store.revoked_since("bob", between, ["0" * 32])
    assert row_count(store) == 2


def test_who_is_kept_twice_is_kept(store: SessionStore) -> None:
    """Only another session that was kept before is not any more."""
    handle = str(keys.as_handle(store.create({}, "bob")))
    for _ in range(2):
        store.revoke_user("bob", keep=handle)

    assert not store.revoked_since("bob", 1_000_000_000.0, [handle])
    assert store.count() == row_count(store) - 1 == 1


def test_a_revocation_does_not_put_back_the_time_of_a_later_one(store: SessionStore) -> None:
    """Of two that ended everything for a login the later one counts."""
    store.revoke_user("bob", keep=store.create({}, "bob"))
    store.revoke_user("bob")
    between = time.time()
    store.revoke_user("bob")
    store.revoke_user("bob", keep=(kept := store.create({}, "bob")))

    assert store.revoked_since("bob", between, [str(keys.as_handle(kept))])


def test_times_that_nobody_can_have_written_are_shown_as_the_first_and_the_last(
    store: SessionStore, clock: Clock
) -> None:
    """A row that was bent by hand must not hide the others of its user."""
    put_many(store, [new_record(clock(), user_id="bob")._replace(created_at=at) for at in (-9 * 10**18, 9 * 10**18)])

    assert {live.created_at.year for live in store.sessions_of("bob")} == {1, 9999}


def test_everybody_hears_of_the_revocation_of_all(store: SessionStore) -> None:
    """Also a session without an owner."""
    store.revoke_all()

    assert store.revoked_since("bob", 1_000_000_000.0, [])
    assert store.revoked_since(None, 1_000_000_000.0, [])


def test_a_revocation_that_cannot_be_noted_is_none(store: SessionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its mark a login under way would slip through: nothing is ended, and the caller hears of it."""
    store.create({}, "bob")
    monkeypatch.setattr(keys, "ATTEMPTS", 0)
    with pytest.raises(StoreUnavailable, match="recorded"):
        store.revoke_user("bob")

    assert store.count() == 1


def test_marks_go_with_the_purge(store: SessionStore, clock: Clock) -> None:
    """What was left for logins under way is no use minutes later."""
    store.revoke_user("bob")
    store.revoke_all()
    assert row_count(store) == 2
    clock.advance(TOMBSTONE_SECONDS - 1)
    assert store.purge() == 0
    clock.advance(1)

    assert store.purge() == 2
    assert row_count(store) == 0
