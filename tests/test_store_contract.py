"""The store's verbs of sessions: one contract, kept on every engine through every driver."""

from collections.abc import Callable

import pytest

from sessionware import keys
from sessionware.errors import StoreUnavailable
from sessionware.record import TOMBSTONE_SECONDS, Lifetime, Record, new_revision
from sessionware.store import SessionStore
from tests.support.clock import Clock
from tests.support.rows import all_rows, new_record, put, put_many, random_digest, row_count

LAST_SECOND_OF_2037 = 2**31 - 1 - 1_641_599
YEAR_2040 = 2_208_988_800
YEAR_9999 = 253_402_300_799

Verb = Callable[[SessionStore, bytes, Record, int], object]


def _update(store: SessionStore, digest: bytes, seen: Record, now: int) -> object:
    return store.update(digest, new_record(now, '{"b":2}'), seen.revision, now)


def _rotate(store: SessionStore, digest: bytes, seen: Record, now: int) -> object:
    return store.rotate(digest, random_digest(), new_record(now, '{"b":2}'), seen.revision, now)


def _touch(store: SessionStore, digest: bytes, seen: Record, now: int) -> object:
    return store.touch(digest, seen._replace(expires_at=now + 5000), now)


def _touch_unseen(store: SessionStore, digest: bytes, seen: Record, now: int) -> object:
    return store.touch_unseen(digest, Lifetime(idle=5000, absolute=None), now)


VERBS = [
    pytest.param(_update, id="update"),
    pytest.param(_rotate, id="rotate"),
    pytest.param(_touch, id="touch"),
    pytest.param(_touch_unseen, id="touch_unseen"),
]


@pytest.fixture
def store(database: str, clock: Clock) -> SessionStore:
    """A store with an empty table."""
    store = SessionStore(database, clock=clock)
    store.create_table()
    return store


# Rows come and go


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="plain"),
        pytest.param({"data": None, "format": 0}, id="tombstone"),
        pytest.param({"data": "", "format": 32767}, id="empty-text"),
        pytest.param({"revision": 2**63 - 1, "expiry": -YEAR_9999}, id="largest"),
        pytest.param({"revision": 0, "expiry": 0, "created_at": 0, "used_at": 0, "expires_at": 1}, id="smallest"),
        pytest.param({"created_at": YEAR_2040, "used_at": YEAR_9999, "expires_at": YEAR_9999}, id="far"),
        pytest.param(
            {"user_id": "\u00fc\U0001f600 %s :x {} \\ ' \" ;--", "data": "%s %(a)s :b ? \\' \\u0000"}, id="sql"
        ),
        pytest.param({"user_id": "3 4 5"}, id="user-of-numbers"),
        pytest.param({"user_id": "7  8", "expiry": 600}, id="user-of-numbers-and-an-expiry"),
        pytest.param({"user_id": "x" * 255, "data": "\\" * 70_000}, id="long"),
    ],
)
def test_a_record_comes_back_as_it_was_stored(store: SessionStore, clock: Clock, changes: dict[str, object]) -> None:
    """Every field, with equal value and equal type: a driver's own types must not leak into sessions."""
    record = new_record(clock(), **changes)  # type: ignore[arg-type]
    digest = put(store, record)
    loaded = store.load(digest)
    (by_many,) = store.load_any([digest]).items()

    assert loaded == record
    assert [type(field) for field in loaded] == [type(field) for field in record]
    assert by_many == (digest, record)
    assert type(by_many[0]) is bytes


def test_an_unknown_digest_is_none(store: SessionStore) -> None:
    """Absence is not an error."""
    assert store.load(random_digest()) is None
    assert store.load_any([random_digest(), random_digest()]) == {}
    assert store.delete(random_digest()) is False
    assert row_count(store) == 0


def test_up_to_four_digests_are_looked_up_together(store: SessionStore, clock: Clock) -> None:
    """Each row stands under its own digest, and only those asked for come back."""
    records = [new_record(clock(), f'{{"n":{number}}}') for number in range(6)]
    digests = put_many(store, records)
    for wanted in ([0], [5, 1], [2, 0, 4], [3, 1, 2, 5]):
        found = store.load_any([digests[number] for number in wanted])

        assert found == {digests[number]: records[number] for number in wanted}


DIGESTS = [
    b"\x00" * 32,
    b"\xff" * 32,
    b"a" * 31 + b" ",
    b"a" * 31 + b"\x00",
    b"'\\\"%s%%:x?\x1a\n\r" + b"\x80" * 19,
    bytes(range(224, 256)),
]


def test_a_digest_is_matched_byte_for_byte(store: SessionStore, clock: Clock) -> None:
    """No collation, no padding, no escape stands between two keys."""
    for digest in DIGESTS:
        near = {bytes([*digest[:-1], digest[-1] ^ bit]) for bit in (1, 32, 128)} | {digest.swapcase(), digest[::-1]}
        near -= set(DIGESTS)
        record = new_record(clock())
        put(store, record, digest)

        assert store.load(digest) == record
        assert all(store.load(other) is None for other in near)
        assert all(store.delete(other) is False for other in near)
        assert store.load_any([digest, *sorted(near)[:3]]) == {digest: record}
    assert set(all_rows(store)) == set(DIGESTS)


def test_insert_never_touches_a_row_that_is_there(store: SessionStore, clock: Clock) -> None:
    """A new key that exists already belongs to somebody else, dead or alive."""
    live, dead, tombstone = new_record(clock()), new_record(clock(), lives=-10), new_record(clock(), None)
    digests = put_many(store, [live, dead, tombstone])
    before = all_rows(store)

    assert [store.insert(digest, new_record(clock(), "{}", user_id="eve")) for digest in digests] == [False] * 3
    assert all_rows(store) == before


def test_insert_knows_its_own_row(store: SessionStore, clock: Clock) -> None:
    """An INSERT whose acknowledgement was lost is found again by its revision and not reported as taken."""
    record = new_record(clock())
    digest = put(store, record)

    assert store.insert(digest, record) is True
    assert row_count(store) == 1


# Nothing is changed but what was seen, and lives


@pytest.mark.parametrize("verb", VERBS)
def test_a_live_row_is_changed_until_the_second_of_its_end(store: SessionStore, clock: Clock, verb: Verb) -> None:
    """`expires_at` is the first second in which the session is dead, for every verb alike."""
    end = int(clock()) + 1000
    records = [new_record(clock(), lives=1000) for _ in range(3)]
    digests = put_many(store, records)
    before = all_rows(store)
    hits = [
        verb(store, digest, record, end + offset)
        for digest, record, offset in zip(digests, records, (-1, 0, 1), strict=True)
    ]
    after = all_rows(store)

    assert hits == [True, False, False]
    assert after[digests[0]] != before[digests[0]]
    assert [after[digest] for digest in digests[1:]] == [before[digest] for digest in digests[1:]]
    assert len(after) == (4 if verb is _rotate else 3)


@pytest.mark.parametrize("verb", VERBS)
def test_what_has_ended_stays_ended(store: SessionStore, clock: Clock, verb: Verb) -> None:
    """Deleted, rotated away, expired: no verb brings a session back."""
    seen = new_record(clock())
    gone, rotated, expired = put_many(store, [seen, seen, seen._replace(expires_at=int(clock()))])
    store.delete(gone)
    store.rotate(rotated, random_digest(), new_record(clock()), seen.revision, int(clock()))
    before = all_rows(store)

    assert not verb(store, gone, seen, int(clock()) + 1)
    assert not verb(store, rotated, seen, int(clock()) + 1)
    assert not verb(store, expired, seen, int(clock()) + 1)
    assert all_rows(store) == before


@pytest.mark.parametrize("verb", VERBS[:3])
def test_a_row_that_has_moved_on_is_not_overwritten(store: SessionStore, clock: Clock, verb: Verb) -> None:
    """The revision must be the one that was seen: the other request's save is kept."""
    seen = new_record(clock())
    digest = put(store, seen)
    theirs = new_record(clock(), '{"theirs":1}')
    assert store.update(digest, theirs, seen.revision, int(clock()))

    assert verb(store, digest, seen, int(clock()) + 1) is False
    assert store.load(digest) == theirs
    assert row_count(store) == 1


def test_an_update_stores_everything_but_owner_and_birth(store: SessionStore, clock: Clock) -> None:
    """A plain save does not know of logins: owner and age change with a rotation only."""
    seen = new_record(clock(), user_id="bob")
    digest = put(store, seen)
    draft = new_record(clock() + 7200, '{"b":"\\u00e9"}', lives=9000, format=2, expiry=0, user_id="eve")

    assert store.update(digest, draft, seen.revision, int(clock()) + 1)
    assert store.load(digest) == draft._replace(user_id="bob", created_at=seen.created_at)
    assert all_rows(store)[digest]["purge_hour"] == draft.expires_at // 3600


def test_an_update_to_what_is_there_already_counts_as_done(store: SessionStore, clock: Clock) -> None:
    """MariaDB counts rows that change, unless told otherwise: the same values again must not look like a loss."""
    seen = new_record(clock())
    digest = put(store, seen)

    assert store.update(digest, seen, seen.revision, int(clock())) is True


def test_rotate_moves_the_row_and_leaves_a_tombstone(store: SessionStore, clock: Clock) -> None:
    """The old key is dead from then on, and can be told apart from a stranger's for some minutes."""
    seen = new_record(clock())
    old, new = put(store, seen), random_digest()
    draft = new_record(clock() + 5, '{"in":true}', user_id="bob", expiry=60)

    assert store.rotate(old, new, draft, seen.revision, int(clock()) + 5) is True
    assert store.load(new) == draft
    tombstone = store.load(old)
    assert tombstone is not None
    assert tombstone.is_tombstone()
    assert tombstone.user_id == keys.handle(new), "so that a revocation by the old handle finds it"
    assert tombstone.expires_at == int(clock()) + 5 + TOMBSTONE_SECONDS
    assert row_count(store) == 2


def test_rotate_never_takes_a_key_that_exists(store: SessionStore, clock: Clock) -> None:
    """Whoever has the new key keeps the session, and the old one is as it was."""
    mine, theirs = new_record(clock()), new_record(clock(), '{"theirs":1}')
    old, taken = put_many(store, [mine, theirs])
    before = all_rows(store)

    with pytest.raises(keys.KeyTaken):
        store.rotate(old, taken, new_record(clock()), mine.revision, int(clock()))
    with pytest.raises(keys.KeyTaken):
        store.modify(old, lambda found: new_record(clock()), int(clock()), taken)
    assert all_rows(store) == before


def test_modify_stores_what_becomes_of_the_newest_row(store: SessionStore, clock: Clock) -> None:
    """Under the row's lock there is nothing to lose a race against."""
    first = new_record(clock())
    digest, new = put(store, first), random_digest()
    second = new_record(clock(), '{"n":2}')
    third = new_record(clock(), '{"n":3}')
    found: list[Record | None] = []

    store.modify(digest, lambda row: found.append(row) or second, int(clock()))  # type: ignore[func-returns-value]
    store.modify(digest, lambda row: found.append(row) or third, int(clock()), new)  # type: ignore[func-returns-value]

    assert found == [first, second]
    assert store.load(new) == third
    assert store.load(digest).is_tombstone()  # type: ignore[union-attr]


@pytest.mark.parametrize("exists", [True, False])
def test_modify_leaves_the_row_alone_when_the_change_refuses(store: SessionStore, clock: Clock, exists: bool) -> None:
    """An error of the application rolls back, and comes out as it is."""
    digest = put(store, new_record(clock())) if exists else random_digest()
    before = all_rows(store)
    found: list[Record | None] = []

    def refuse(row: Record | None) -> Record:
        found.append(row)
        raise LookupError("no")

    with pytest.raises(LookupError, match="no"):
        store.modify(digest, refuse, int(clock()))

    assert [row is not None for row in found] == [exists]
    assert all_rows(store) == before


def test_touch_moves_nothing_but_the_clock_hands(store: SessionStore, clock: Clock) -> None:
    """Values, revision and owner stay: a touch can overwrite nobody's save. No indexed column moves (HOT)."""
    seen = new_record(clock(), user_id="bob", expiry=77)
    digest = put(store, seen)
    clock.advance(500)

    assert store.touch(digest, seen._replace(expires_at=int(clock()) + 9000, data="x", user_id="eve"), int(clock()))
    assert store.load(digest) == seen._replace(used_at=int(clock()), expires_at=int(clock()) + 9000)
    assert all_rows(store)[digest]["purge_hour"] == seen.expires_at // 3600


def test_touch_yields_to_another_touch(store: SessionStore, clock: Clock) -> None:
    """Of two requests at once only one extends; the later second is never taken back."""
    seen = new_record(clock())
    digest = put(store, seen)

    assert store.touch(digest, seen._replace(expires_at=seen.expires_at + 50), int(clock()) + 50)
    assert not store.touch(digest, seen._replace(expires_at=seen.expires_at + 40), int(clock()) + 40)
    assert store.load(digest).used_at == int(clock()) + 50  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("absolute", "expected"),
    [
        pytest.param(None, 10_000 + 3600, id="unlimited"),
        pytest.param(13_600, 13_600, id="equal"),
        pytest.param(13_601, 13_600, id="one-above"),
    ],
)
def test_touch_unseen_computes_the_end_as_the_lifetime_does(
    store: SessionStore, clock: Clock, absolute: int | None, expected: int
) -> None:
    """The database's arithmetic and Python's are one: the idle timeout from now."""
    born = int(clock())
    digest = put(store, new_record(born, lives=20_000))
    lifetime = Lifetime(idle=3600, absolute=absolute)
    now = born + 10_000

    assert store.touch_unseen(digest, lifetime, now)
    loaded = store.load(digest)
    assert loaded is not None
    assert loaded.expires_at == born + expected == lifetime.expires_at(born, now, None)
    assert loaded.used_at == now


@pytest.mark.parametrize("absolute", [13_599, 9_999])
def test_touch_unseen_leaves_sessions_whose_absolute_timeout_is_near(
    store: SessionStore, clock: Clock, absolute: int
) -> None:
    """The cookie is to last as long as the row, and its end would not be known."""
    seen = new_record(clock(), lives=20_000)
    digest = put(store, seen)

    assert not store.touch_unseen(digest, Lifetime(idle=3600, absolute=absolute), int(clock()) + 10_000)
    assert store.load(digest) == seen


@pytest.mark.parametrize("expiry", [0, 60, -(YEAR_2040)])
def test_touch_unseen_leaves_sessions_with_an_expiry_of_their_own(
    store: SessionStore, clock: Clock, expiry: int
) -> None:
    """Their end depends on what only the row knows: they are read first."""
    seen = new_record(clock(), expiry=expiry)
    digest = put(store, seen)

    assert not store.touch_unseen(digest, Lifetime(), int(clock()) + 10)
    assert store.load(digest) == seen


def test_delete_ends_sessions_and_nothing_else(store: SessionStore, clock: Clock) -> None:
    """A tombstone outlives the logout of a request with an old key: it is what tells that key from a stranger's."""
    live, expired, tombstone = put_many(
        store, [new_record(clock()), new_record(clock(), lives=-5), new_record(clock(), None)]
    )

    assert [store.delete(digest) for digest in (live, expired, tombstone)] == [True, True, False]
    assert store.delete(live) is False
    assert set(all_rows(store)) == {tombstone}


def test_deleting_many_is_the_same_for_each(store: SessionStore, clock: Clock) -> None:
    """Sessions that were offered go, dead or alive; marks stay, and so does who was not offered."""
    live, other, expired, tombstone = put_many(
        store, [new_record(clock()), new_record(clock()), new_record(clock(), lives=-5), new_record(clock(), None)]
    )
    offered = [random_digest(), live, expired, tombstone, live]

    assert [store.delete_any(offered) for _ in range(2)] == [2, 0]
    assert set(all_rows(store)) == {tombstone, other}


def test_a_key_counts_as_moved_while_its_mark_is_valid(store: SessionStore, clock: Clock) -> None:
    """Sessions have not moved, alive or expired, and after some minutes nobody holds an old key any more."""
    live, expired, tombstone = put_many(
        store, [new_record(clock()), new_record(clock(), lives=-5), new_record(clock(), None, lives=10)]
    )
    now = int(clock())

    assert store.any_moved([random_digest(), tombstone], now)
    assert not store.any_moved([live, expired, random_digest()], now)
    assert not store.any_moved([tombstone], now + 10)


# A new key that exists


def test_a_new_key_that_exists_is_not_used(store: SessionStore, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """First an existing key, then a fresh one: a new row, and the old one byte for byte as it was."""
    victim = store.create({"owner": "victim"}, "victim")
    before = all_rows(store)
    fresh = keys.new_key()
    offered = iter([victim, victim, fresh])
    monkeypatch.setattr(keys, "new_key", lambda: next(offered))

    assert store.create({"owner": "other"}) == fresh
    after = all_rows(store)
    assert after.pop(keys.digest(fresh))["user_id"] is None
    assert after == before


def test_a_broken_random_source_is_an_error_and_not_a_loop(
    store: SessionStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Always the same key: bounded attempts, a plain error, the row untouched."""
    victim = store.create({"owner": "victim"}, "victim")
    before = all_rows(store)
    asked: list[str] = []
    monkeypatch.setattr(keys, "new_key", lambda: asked.append(victim) or victim)  # type: ignore[func-returns-value]

    with pytest.raises(StoreUnavailable, match="random source") as caught:
        store.create({"owner": "other"})
    assert 1 < len(asked) <= 10
    assert victim not in str(caught.value)
    assert all_rows(store) == before


# Times far off


@pytest.mark.parametrize("now", [LAST_SECOND_OF_2037, 2**31 - 1, 2**31, YEAR_2040, 2**32], ids=str)
def test_the_year_2038_is_a_year_like_others(store: SessionStore, clock: Clock, now: int) -> None:
    """Whole epoch seconds in 64 bits: no TIMESTAMP type that ends."""
    clock.now = now
    key = store.create({"a": 1}, "bob")
    digest = keys.digest(key)
    seen = store.load(digest)
    assert seen is not None

    assert store.exists(key)
    assert store.update(digest, new_record(now + 5, lives=86400), seen.revision, now + 5)
    assert store.touch_unseen(digest, Lifetime(), now + 9)
    assert store.touch_unseen(digest, Lifetime(absolute=None), now + 9)
    assert [info.last_used_at.timestamp() for info in store.sessions_of("bob")] == [now + 9]
    assert store.purge() == 0
    clock.advance(200 * 86400)
    assert not store.exists(key)
    assert store.purge() == 1


def test_the_limit_of_no_limit_fits_the_columns(store: SessionStore, clock: Clock) -> None:
    """Sessions without an absolute timeout add a number to their age that no engine may overflow on."""
    digest = put(store, new_record(YEAR_9999 - 10, lives=9))

    assert store.touch_unseen(digest, Lifetime(idle=5, absolute=None), YEAR_9999 - 8)
    assert store.load(digest).expires_at == YEAR_9999 - 3  # type: ignore[union-attr]


def test_a_clock_that_steps_back_takes_nothing_and_gives_nothing(store: SessionStore, clock: Clock) -> None:
    """A touch from a worker whose clock is behind changes nothing: the end only ever moves on."""
    digest = put(store, new_record(clock(), lives=1000))
    behind = int(clock()) - 3600

    assert not store.touch_unseen(digest, Lifetime(idle=5000), behind)
    assert store.load(digest).expires_at == int(clock()) + 1000  # type: ignore[union-attr]


def test_revisions_are_random() -> None:
    """Two requests that save at once must never leave the same mark."""
    assert len({new_revision() for _ in range(10_000)}) == 10_000
