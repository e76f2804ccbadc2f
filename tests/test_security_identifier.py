"""S01-S09: the session key and what of it is stored."""

import base64
import multiprocessing
import random
import secrets
import threading
import warnings
import zlib
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
import sqlalchemy as sa

from sessionware import SessionStore, StoreUnavailable, keys
from sessionware.record import Record
from tests.support.site import NAME, Site, ignore, look

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def chi_squared(counts: Counter[str], symbols: int) -> float:
    expected = counts.total() / symbols
    seen = sum((count - expected) ** 2 / expected for count in counts.values())
    return seen + (symbols - len(counts)) * expected


def test_s01_keys_are_256_uniform_random_bits() -> None:
    """Whoever can predict a key has the session; a bias in any position is lost entropy."""
    made = [keys.new_key() for _ in range(200_000)]

    assert len(set(made)) == len(made)
    assert len({key[:8] for key in made}) > len(made) - 5  # 48 bits of prefix hardly ever meet
    assert all(keys.is_key(key) for key in made)
    assert {len(base64.urlsafe_b64decode(f"{key}=")) for key in made} == {32}
    for position in range(43):
        symbols = 64 if position < 42 else 16  # the last character carries four bits
        counts = Counter(key[position] for key in made)

        assert set(counts) <= set(ALPHABET)
        assert chi_squared(counts, symbols) < 175  # less likely than one in 10**11


def test_s01_the_predictable_random_module_has_no_part_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Mersenne Twister can be computed from its outputs."""
    for name in ("random", "getrandbits", "randbytes", "choice", "choices", "uniform", "randint"):
        monkeypatch.setattr(random, name, lambda *_, **__: pytest.fail("random was used"))

    assert keys.new_key() != keys.new_key()


def test_s01_keys_come_from_the_operating_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bits are those of the operating system's generator, all 256 of them."""
    monkeypatch.setattr(secrets, "token_bytes", lambda size: bytes(range(size)))

    assert base64.urlsafe_b64decode(f"{keys.new_key()}=") == bytes(range(32))


MALFORMED = [
    pytest.param(lambda key: f"{key}=", id="padded"),
    pytest.param(lambda key: f"{key}A", id="longer"),
    pytest.param(lambda key: key[:-1], id="shorter"),
    pytest.param(lambda key: "", id="empty"),
    pytest.param(lambda key: f" {key}", id="space before"),
    pytest.param(lambda key: f"{key}\x0b", id="vertical tab after"),
    pytest.param(lambda key: f"{key}\n", id="line feed after"),
    pytest.param(lambda key: f'"{key}"', id="quoted"),
    pytest.param(lambda key: f"{key[:-1]}%{ord(key[-1]):02X}", id="percent-encoded"),
    pytest.param(lambda key: "".join(f"%{ord(c):02X}" for c in key), id="percent-encoded whole"),
    pytest.param(lambda key: f"{key[:20]}+{key[21:]}", id="the other base64"),
    pytest.param(lambda key: f"{key[:20]}/{key[21:]}", id="the other base64, slash"),
    pytest.param(lambda key: f"{key[:20]}\u0661{key[21:]}", id="a digit that is not ASCII"),
    pytest.param(lambda key: key.encode().hex(), id="hex"),
    pytest.param(lambda key: keys.digest(key).hex(), id="digest in hex"),
    pytest.param(lambda key: keys.handle(keys.digest(key)), id="handle"),
]


@pytest.mark.parametrize("spell", MALFORMED)
def test_s02_another_spelling_of_a_live_key_is_refused_without_sql(sqlite: str, spell: Any) -> None:
    """A key has one spelling; every other is untrusted input that has no business in the database."""
    site = Site(sqlite)
    key = site.begin(a=1)

    with site.counted() as calls:
        visit = site.visit(look, cookie=f"{NAME}={spell(key)}")

    assert visit.value == {}
    assert len(calls) == 0
    assert site.values(key) == {"a": 1}


@pytest.mark.parametrize("spell", [str.swapcase, str.upper, str.lower, lambda key: key[::-1]])
def test_s02_a_well_formed_neighbour_is_a_miss(sqlite: str, spell: Any) -> None:
    """What looks like a key is hashed as it stands: no case is folded."""
    site = Site(sqlite)
    key = site.begin(a=1)

    assert spell(key) != key
    assert site.visit(look, spell(key)).value == {}


def test_s02_unused_bits_of_the_last_character_count(sqlite: str) -> None:
    """Four strings decode to the same 32 bytes; only the one we sent is the key."""
    site = Site(sqlite)
    key = site.begin(a=1)
    place = ALPHABET.index(key[-1])
    twins = [key[:-1] + ALPHABET[place & ~3 | low] for low in range(4)]

    assert sum(site.visit(look, twin).value == {"a": 1} for twin in twins) == 1


def spellings(key: str) -> list[str]:
    raw = base64.urlsafe_b64decode(f"{key}=")
    return [key, key[:22], key.encode().hex(), base64.b64encode(key.encode()).decode(), raw.hex(), repr(raw)[2:-1]]


def test_s03_no_statement_holds_the_key(database: str) -> None:
    """What the database never sees it cannot log, dump or replicate (CVE-2019-16782, CVE-2020-26228)."""
    site = Site(database, idle_timeout=1000)
    with site.counted() as calls:
        used = [key := site.begin(a=1)]
        site.visit(lambda session: session.update(b=2), key)
        site.clock.advance(100)
        site.visit(look, key)
        site.visit(lambda session: session.atomic(lambda values: values.update(c=3)), key)
        used.append(key := site.log_in("ada", key))
        site.visit(lambda session: session.cycle_key(), used[0])
        rotated = site.visit(lambda session: session.cycle_key(), key).key
        assert rotated is not None
        used.append(rotated)
        site.visit(look, cookie=f"{NAME}={used[0]}; {NAME}={rotated}")
        always = Site(site.store, site.clock, save_every_request=True)
        always.visit(ignore, rotated)
        assert site.store.exists(rotated)
        assert site.store.read(rotated) == {"a": 1, "b": 2, "c": 3}
        used.append(site.store.create({"a": 1}, user_id="ada"))
        site.store.sessions_of("ada")
        site.store.revoke(site.store.sessions_of("ada")[0].handle)
        site.store.revoke_user("ada", keep=rotated)
        site.visit(lambda session: session.flush(), rotated)
        crowd = [site.begin(a=1), *(keys.new_key() for _ in range(keys.MAX_LOOKED_UP))]
        used += crowd
        site.visit(lambda session: session.flush(), cookie="; ".join(f"{NAME}={key}" for key in crowd))
        used.append(key := site.begin(a=1))
        site.store.modify(keys.digest(key), lambda found: found._replace(revision=1), int(site.clock()))
        site.store.revoke_all()
        site.clock.advance(100_000)
        site.store.purge()
    traffic = "".join(repr((call.sql, call.parameters)) for call in calls.all)

    assert len(calls) > 30
    assert not [word for key in used for word in spellings(key) if word in traffic]
    assert repr(keys.digest(used[0]))[2:20] in traffic or keys.digest(used[0]).hex() in traffic  # the digest is


def candidates_in(value: Any) -> list[str]:
    raw = bytes(value) if isinstance(value, bytes | memoryview) else str(value).encode()
    texts = [raw.decode("latin-1"), raw.hex(), base64.b64encode(raw).decode(), base64.urlsafe_b64encode(raw).decode()]
    stripped = [text.rstrip("=") for text in texts]
    return [text[at : at + 43] for text in {*texts, *stripped} for at in range(max(1, min(len(text) - 42, 40)))]


def test_s04_a_stolen_database_logs_nobody_in(database: str) -> None:
    """Every value of every column of every table, as it is, in hex, in base64 and in slices, opens nothing."""
    site = Site(database)
    key = site.log_in("ada", site.begin(a=1))
    with site.engine.connect() as connection:
        tables = sa.MetaData()
        tables.reflect(connection)
        rows = [row for table in tables.sorted_tables for row in connection.execute(sa.select(table))]

    dumped = [value for row in rows for value in row]

    assert len(dumped) >= 20
    for value in dumped:
        for text in candidates_in(value):
            cookie = f"{NAME}={text}".replace("\r", "").replace("\n", "")
            assert site.visit(look, cookie=cookie).value == {}, "a stored value opened a session"
    assert site.values(key) == {"a": 1}


def make_keys(monkeypatch: pytest.MonkeyPatch, *made: str) -> None:
    queue = list(made)
    monkeypatch.setattr(keys, "new_key", lambda: queue.pop(0) if len(queue) > 1 else queue[0])


def test_s05_a_new_session_never_takes_over_a_stored_one(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a new key exists already another one is drawn (tower-sessions 0.10.4)."""
    site = Site(database)
    taken, fresh = site.begin(owner="ada"), keys.new_key()
    before = site.row(taken)
    make_keys(monkeypatch, taken, taken, fresh)

    assert site.begin(owner="bob") == fresh
    assert site.row(taken) == before
    assert site.values(fresh) == {"owner": "bob"}


def test_s05_a_rotation_never_takes_over_a_stored_session(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for a session that changes its key (tower-sessions 0.11)."""
    site = Site(database)
    taken, mine, fresh = site.begin(owner="ada"), site.begin(owner="bob"), keys.new_key()
    before = site.row(taken)
    make_keys(monkeypatch, taken, taken, fresh)

    assert site.visit(lambda session: session.cycle_key(), mine).key == fresh
    assert site.row(taken) == before
    assert site.values(fresh) == {"owner": "bob"}


@pytest.mark.parametrize("rotating", [False, True], ids=["creation", "rotation"])
def test_s05_endless_collisions_end_in_an_error(sqlite: str, monkeypatch: pytest.MonkeyPatch, rotating: bool) -> None:
    """A broken random source stops the site; it neither loops nor gives anybody another's session."""
    site = Site(sqlite)
    taken, mine = site.begin(owner="ada"), site.begin(owner="bob")
    before = site.rows()
    make_keys(monkeypatch, taken)

    with site.counted() as calls:
        visit = site.visit(
            lambda session: session.cycle_key() if rotating else session.update(a=1), mine if rotating else None
        )

    assert visit.reply.status == 503
    assert visit.set_cookie is None
    assert len(calls) < 40
    assert site.rows() == before
    with pytest.raises(StoreUnavailable, match="random source"):
        site.store.create({})


def draw(count: int) -> list[str]:
    return [keys.new_key() for _ in range(count)]


def send_keys(pipe: Any) -> None:
    pipe.send(draw(10_000))


def test_s06_forked_processes_draw_different_keys() -> None:
    """A generator whose state is copied by fork would give all workers the same keys."""
    keys.new_key()
    fork, children = multiprocessing.get_context("fork"), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 on fork beside threads
        for _ in range(8):
            ours, theirs = fork.Pipe(duplex=False)
            children.append((fork.Process(target=send_keys, args=[theirs]), ours))
            children[-1][0].start()
    made = []
    for child, pipe in children:
        made += pipe.recv()
        child.join()

    assert len(set(made)) == 80_000


def test_s06_threads_draw_different_keys() -> None:
    """No key is drawn twice by threads that draw at once."""
    made: list[str] = []
    start = threading.Barrier(16)

    def work() -> None:
        start.wait()
        made.extend(draw(1000))

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(set(made)) == 16_000


def test_s07_malformed_unknown_expired_and_revoked_keys_get_one_answer(sqlite: str) -> None:
    """A difference would tell a guesser which keys had once been good (CVE-2019-25025)."""
    site = Site(sqlite, idle_timeout=1000)
    expired = site.begin(a=1)
    site.clock.advance(1001)
    revoked, ended = site.log_in("eve"), site.begin(a=2)
    site.store.revoke_user("eve")
    site.visit(lambda session: session.flush(), ended)
    answers, costs = set(), []
    for key in (keys.new_key(), expired, revoked, ended, "malformed"):
        with site.counted() as calls:
            reply = site.visit(look, key).reply
        answers.add((reply.status, tuple(reply.headers), reply.body))
        costs.append(len(calls))

    assert len(answers) == 1
    assert costs == [1, 1, 1, 1, 0]


def test_s08_keys_carry_no_meaning(sqlite: str) -> None:
    """Neither time nor user nor order shows in a key: a thousand of them do not compress."""
    site = Site(sqlite)
    same = [site.store.create({}, user_id="ada") for _ in range(500)]
    site.clock.advance(10_000_000)
    other = [site.store.create({"a": 1}, user_id="bob") for _ in range(500)]
    made = sorted(same + other)
    raw = b"".join(base64.urlsafe_b64decode(f"{key}=") for key in made)
    shared = [next(i for i, (a, b) in enumerate(zip(*pair, strict=True)) if a != b) for pair in pairwise(made)]

    assert len(zlib.compress(raw, 9)) >= len(raw)
    assert max(shared) <= 6


def record(data: str) -> Record:
    return Record(data, 1, 1, None, 0, 0, 10**10, None)


def test_s09_digests_match_byte_for_byte(database: str) -> None:
    """Bytes that differ by case, accent or trailing blank only are different rows on every engine."""
    store = SessionStore(database)
    stem = b"x" * 30
    ends = [b"Aa", b"aA", b"aa", b"AA", b"a ", b"a\0", b"a\t", b"\xc0a", b"\xe0a", b"  ", b"\0\0", b" \0"]
    for number, end in enumerate(ends):
        assert store.insert(stem + end, record(str(number)))
    found = [store.load(stem + end) for end in ends]

    assert [None if row is None else row.data for row in found] == [str(number) for number in range(len(ends))]
    assert store.load(stem) is None


COLLATIONS = [
    pytest.param("utf8mb4", "utf8mb4_general_ci", id="ignores case, accents and blanks"),
    pytest.param("utf8mb4", "utf8mb4_bin", id="ignores trailing blanks"),
    pytest.param("latin1", "latin1_swedish_ci", id="latin1"),
]


@pytest.mark.parametrize(("charset", "collation"), COLLATIONS)
def test_s09_a_lax_collation_equates_nothing(mariadb: str, charset: str, collation: str) -> None:
    """MariaDB's default collations match `KEY`, `key ` and `kéy`; keys and users stay apart all the same."""
    site = Site(mariadb)
    with site.engine.connect() as connection:
        default = connection.exec_driver_sql(
            "SELECT default_character_set_name, default_collation_name FROM information_schema.schemata"
            " WHERE schema_name = DATABASE()"
        ).one()
        connection.exec_driver_sql(f"ALTER DATABASE CHARACTER SET {charset} COLLATE {collation}")
    try:
        key = site.log_in("Ada")
        others = [site.log_in(name) for name in ("ada", "Ad\xe0", "Ad\u0430")]
        for lure in (key.swapcase(), f"{key}\xa0", f"{key[:-1]}\xc0", key.lower()):
            assert site.visit(lambda session: session.user_id, cookie=f"{NAME}={lure}").value is None
        assert site.store.revoke_user("Ada") == 1

        users = [site.visit(lambda session: session.user_id, other).value for other in others]
        site.visit(lambda session: session.update(smile="\U0001f600\u0661"), others[0])

        assert users == ["ada", "Ad\xe0", "Ad\u0430"]
        assert site.values(others[0]) == {"smile": "\U0001f600\u0661"}
    finally:
        with site.engine.connect() as connection:
            connection.exec_driver_sql(f"ALTER DATABASE CHARACTER SET {default[0]} COLLATE {default[1]}")
