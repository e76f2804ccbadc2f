"""S56-S62: what a visitor can make us spend."""

import threading
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from sessionware import Session, SessionTooLarge, UnstorableValue, keys
from tests.support.site import NAME, Site, ignore, look

CAP = 65_536

Act = Callable[[Session], Any]

READING: dict[str, Act] = {
    "ignore": ignore,
    "test": lambda session: "user" in session,
    "truth": bool,
    "read": look,
    "get": lambda session: session.get("user"),
    "user": lambda session: session.user_id,
    "key": lambda session: session.session_key,
}


@pytest.mark.parametrize("act", READING.values(), ids=READING)
@pytest.mark.parametrize("cookie", [None, "theme=dark", f"x{NAME}=1"])
def test_s56_visitors_without_a_cookie_cost_nothing(sqlite: str, act: Act, cookie: str | None) -> None:
    """A crawler that reads a thousand pages leaves no row, gets no cookie and causes no SQL (CVE-2015-5143)."""
    site = Site(sqlite)
    with site.counted() as calls:
        replies = [site.visit(act, cookie=cookie).reply for _ in range(200)]

    assert not [reply for reply in replies if reply.set_cookies]
    assert len(calls) == 0
    assert site.rows() == []


def set_and_delete(session: Session) -> None:
    session["x"] = 1
    del session["x"]


def set_and_clear(session: Session) -> None:
    session["x"] = 1
    session.clear()


EMPTYING: dict[str, Act] = {
    "logout": lambda session: session.logout(),
    "flush twice": lambda session: (session.flush(), session.flush()),
    "clear": lambda session: session.clear(),
    "pop": lambda session: session.pop("x", None),
    "set and delete": set_and_delete,
    "set and clear": set_and_clear,
    "set and flush": lambda session: (session.update(x=1), session.flush()),
    "empty update": lambda session: session.update({}),
    "rotate": lambda session: session.cycle_key(),
    "expiry": lambda session: session.set_expiry(60),
    "modified": lambda session: setattr(session, "modified", True),
    "test cookie": lambda session: session.test_cookie_worked(),
    "atomic": lambda session: session.atomic(lambda values: values.pop("x", None)),
    "set and emptied by atomic": lambda session: (session.update(x=1), session.atomic(dict.clear)),
}


@pytest.mark.parametrize("act", EMPTYING.values(), ids=EMPTYING)
@pytest.mark.parametrize("cookie", [None, f"{NAME}={'x' * 43}", f"{NAME}=junk"], ids=["none", "unknown", "junk"])
def test_s57_nothing_to_keep_is_no_row(sqlite: str, act: Act, cookie: str | None) -> None:
    """Robots that visit /logout must not fill the table (CVE-2015-5963, CVE-2015-5964)."""
    site = Site(sqlite)
    for _ in range(20):
        visit = site.visit(act, cookie=cookie)

        assert visit.key is None
        assert visit.clears is (cookie is not None)
    assert site.rows() == []


@pytest.mark.parametrize("expiry", [None, 600], ids=["default lifetime", "a short one, set at the first write"])
def test_s58_minted_sessions_are_bounded_counted_and_go(sqlite: str, expiry: int | None) -> None:
    """Sessions that nobody comes back to end by their own idle timeout, which an application may set low."""
    site = Site(sqlite, idle_timeout=86_400)

    def page(session: Session) -> None:
        if session.is_empty():
            session.set_expiry(expiry)
        session["seen"] = session.get("seen", 0) + 1

    def trusted(session: Session) -> None:
        session.set_expiry(None)

    minted = [site.visit(page).key for _ in range(300)]
    returned = minted[0]
    site.visit(trusted, returned)

    assert site.kinds() == ["created"] * 300
    site.clock.advance((expiry or 86_400) + 3600)
    assert site.store.count() == (1 if expiry else 0)
    assert site.store.purge() == (299 if expiry else 300)
    assert len(site.rows()) == (1 if expiry else 0)


def test_s58_twenty_thousand_robots_leave_the_table_as_it_was() -> None:
    """Each begins a session and never shows its key; a hook that counts sees the flood while it comes."""
    site = Site("sqlite://", unconfirmed_timeout=600)
    visitor = site.begin(seen=1)
    site.visit(look, visitor)
    site.events.clear()
    for _ in range(20_000):
        site.visit(lambda session: session.update(seen=1))

    assert (site.store.count(), site.kinds()) == (20_001, ["created"] * 20_000)
    site.clock.advance(600)
    assert site.store.purge() == 20_000
    assert len(site.rows()) == 1
    assert site.values(visitor) == {"seen": 1}
    site.engine.dispose()


@pytest.mark.parametrize("pause", [0, 1, 599])
def test_s58_rows_of_robots_go_before_those_of_visitors(sqlite: str, pause: int) -> None:
    """A robot gets a session at each visit and never shows its key: its rows need not live as long as a visitor's."""
    site = Site(sqlite, unconfirmed_timeout=600)

    def write(session: Session) -> None:
        session["seen"] = 1

    def read(session: Session) -> None:
        dict(session)

    robots = [site.visit(write).key for _ in range(100)]
    visitor, user = site.visit(write).key, site.visit(lambda session: session.login("ada")).key
    site.clock.advance(pause)
    site.visit(read, visitor)
    site.clock.advance(600 - pause)

    assert site.store.purge() == len(robots)
    assert site.store.count() == 2
    site.clock.advance(13 * 86_400)
    assert site.store.exists(visitor)
    assert site.store.exists(user)


@pytest.mark.parametrize(
    "begin",
    [
        pytest.param(lambda session: (session.update(a=1), session.save()), id="save"),
        pytest.param(lambda session: (session.update(a=1), session.save(), session.update(b=1)), id="save and change"),
        pytest.param(lambda session: (session.update(a=1), session.save(), session.cycle_key()), id="save and rotate"),
        pytest.param(lambda session: session.atomic(lambda values: values.update(a=1)), id="atomic"),
        pytest.param(
            lambda session: [session.atomic(lambda values, n=n: values.update(a=n)) for n in (1, 2)],
            id="atomic twice",
        ),
    ],
)
@pytest.mark.parametrize("always", [False, True], ids=["", "save_every_request"])
def test_s58_no_way_to_begin_a_session_confirms_it(sqlite: str, begin: Any, always: bool) -> None:
    """However often a robot's first request writes: only a key that comes back makes a visitor of it."""
    site = Site(sqlite, unconfirmed_timeout=600, save_every_request=always)
    robot, visitor = site.visit(begin).key, site.visit(begin).key
    site.visit(look, visitor)
    site.clock.advance(600)

    assert not site.store.exists(str(robot))
    assert site.store.exists(str(visitor))


def test_s58_a_user_who_logs_in_at_once_is_none_of_them(sqlite: str) -> None:
    """Also where the session was stored before the login."""
    site = Site(sqlite, unconfirmed_timeout=600)
    user = site.visit(lambda session: (session.update(a=1), session.save(), session.login("ada"))).key
    site.clock.advance(600)

    assert site.store.exists(str(user))


SIZES = [
    pytest.param({"a": "x" * (CAP - 7)}, id="one byte too many"),
    pytest.param({"a": "x" * 1_000_000}, id="1 MB"),
    pytest.param({"a": "x" * 17_000_000}, id="17 MB"),
    pytest.param({"a": "\0" * 2_000_000}, id="12 MB once escaped"),
    pytest.param({"a": ["x" * 1000] * 100, "b": 1}, id="a list"),
    pytest.param({"a": "\U0001f600" * 6000}, id="many bytes a character"),
    pytest.param({"a": {str(number): number for number in range(100_000)}}, id="many keys"),
    pytest.param({"a" * 1_000_000: 1}, id="a huge key"),
    pytest.param({"a": b"x" * 60_000}, id="bytes, longer when encoded"),
]


@pytest.mark.parametrize("values", SIZES)
@pytest.mark.parametrize("known", [True, False], ids=["stored", "new"])
@pytest.mark.parametrize("how", ["end of the request", "save", "atomic"])
def test_s59_what_is_too_large_is_refused_before_sql(sqlite: str, values: Any, known: bool, how: str) -> None:
    """Nothing is cut and nothing is sent; the message names the largest key (CVE-2016-4423, CVE-2016-3171)."""
    site = Site(sqlite, max_bytes=CAP)
    key = site.begin(z=1) if known else None
    before = site.rows()

    def page(session: Session) -> None:
        if how == "atomic":
            session.atomic(lambda stored: stored.update(values))
        session.update(values)
        if how == "save":
            session.save()

    with site.counted() as calls, pytest.raises(SessionTooLarge, match="largest key is 'a") as refusal:
        site.visit(page, key)

    assert calls.verbs == (["SELECT"] if known else [])
    assert site.rows() == before
    assert len(str(refusal.value)) < 250
    assert "xxxx" not in str(refusal.value)


def test_s59_the_limit_itself_is_allowed(database: str) -> None:
    """A session of exactly max_bytes, one mebibyte by default, comes back whole on every engine."""
    site = Site(database)
    value = "x" * (1_048_576 - len('{"a":""}'))
    key = site.begin(a=value)

    assert site.values(key) == {"a": value}
    with pytest.raises(SessionTooLarge, match="1048577"):
        site.visit(lambda session: session.update(a=f"{value}x"), key)
    assert site.values(key) == {"a": value}


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def cycle() -> Any:
    value: list[Any] = []
    value.append(value)
    return value


REFUSED = [
    pytest.param(lambda: nested(100_000), r"session\['k'\].*nested deeper", id="depth"),
    pytest.param(lambda: {"in": nested(200)}, r"session\['k'\]\['in'\].*nested deeper", id="depth within"),
    pytest.param(cycle, r"session\['k'\].*contains itself", id="cycle"),
    pytest.param(lambda: 10**5000, r"session\['k'\].*digits", id="5000 digits"),
    pytest.param(lambda: [0, {"x": -(10**4400)}], r"session\['k'\]\[1\]\['x'\].*digits", id="4400 digits within"),
    pytest.param(object, r"session\['k'\].*type object", id="object"),
    pytest.param(lambda: (n for n in ()), r"session\['k'\].*type generator", id="generator"),
    pytest.param(lambda: [print], r"session\['k'\]\[0\].*type", id="function"),
    pytest.param(lambda: {"a": {1j}}, r"session\['k'\]\['a'\].*complex", id="complex"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED)
def test_s60_values_that_could_not_be_read_again_are_refused_by_path(
    sqlite: str, make: Callable[[], Any], message: str
) -> None:
    """The error belongs to the request that made it, never to all that come after (CVE-2020-10735)."""
    site = Site(sqlite)
    key = site.begin(z=1)
    value = make()
    with site.counted() as calls, pytest.raises(UnstorableValue, match=message):
        site.visit(lambda session: session.update(k=value), key)

    assert calls.verbs == ["SELECT"]
    assert site.values(key) == {"z": 1}


def test_s60_a_million_keys_are_one_refusal(sqlite: str) -> None:
    """Of keys too there can be too many, and the message names one of them, not all."""
    site = Site(sqlite)
    key = site.begin(z=1)
    with pytest.raises(SessionTooLarge, match="max_bytes is 1048576") as refusal:
        site.visit(lambda session: session.update({f"k{number}": 1 for number in range(1_000_000)}), key)

    assert len(str(refusal.value)) < 250
    assert site.values(key) == {"z": 1}


def test_s60_a_key_that_is_no_text_is_refused(sqlite: str) -> None:
    """1 and "1" would be one key in JSON."""
    site = Site(sqlite)
    odd: Any = {1: "a", "1": "b"}

    with pytest.raises(UnstorableValue, match="keys must be str"):
        site.visit(lambda session: session.update(odd))
    assert site.rows() == []


def test_s60_odd_values_that_can_be_kept_are_kept(database: str) -> None:
    """PostgreSQL's jsonb refuses some of these, MariaDB's utf8 others; text in ASCII holds them all."""
    odd = {
        "wide": 2**63,
        "wider": -(10**4000),
        "surrogate": "\ud800",
        "NUL": "a\0b",
        "emoji": "\U0001f600",
        "infinite": float("-inf"),
        "": "empty key",
        "\ud800": "surrogate key",
        "~int": "a key like a tag",
    }
    site = Site(database)
    key = site.visit(lambda session: session.update(odd)).key

    assert site.values(key or "") == odd
    assert site.visit(lambda session: session.update(nan=float("nan")), key).reply.status == 200
    assert site.values(key or "")["nan"] != site.values(key or "")["nan"]


BOMBS = [
    pytest.param('{"a":"' + "x" * 50_000_000 + '"}', id="50 MB"),
    pytest.param('{"a":"' + "x" * CAP + '"}', id="just beyond the limit"),
    pytest.param('{"a":' + "[" * 30_000 + "]" * 30_000 + "}", id="deep lists"),
    pytest.param('{"~map":' * 7000 + "[]" + "}" * 7000, id="deep tags"),
    pytest.param('{"a":{"~tuple":' * 3000 + "[]" + "}}" * 3000, id="deep tuples"),
    pytest.param('{"a":{"~int":"' + "9" * 60_000 + '"}}', id="huge number, tagged"),
    pytest.param('{"a":' + "9" * 60_000 + "}", id="huge number"),
    pytest.param("x\x9c\x03\x00\x00", id="compressed"),
]


@pytest.mark.parametrize("text", BOMBS)
def test_s61_a_row_that_would_explode_is_corrupt(sqlite: str, text: str) -> None:
    """Who can write rows still cannot stop the site: decoding is bounded and never an error."""
    site = Site(sqlite, max_bytes=CAP)
    key = site.begin(a=1)
    site.change_row(key, data=text)
    site.kinds()
    visit = site.visit(look, key)

    assert (visit.reply.status, visit.value) == (200, {})
    assert site.kinds() == ["corrupt"]


@pytest.mark.parametrize("unit", ["[],", "{},", "0,", '"",', '{"~tuple":[]},', "1.5,", "[[]],"])
def test_s61_decoding_takes_memory_in_proportion(sqlite: str, unit: str) -> None:
    """The worst text within the limit becomes so much more of Python's objects, and no more."""
    site = Site(sqlite, max_bytes=CAP)
    key = site.begin(a=1)
    site.change_row(key, data='{"a":[' + unit * ((CAP - 10) // len(unit)) + "0]}")
    tracemalloc.start()
    try:
        site.visit(lambda session: session.get("a") is None, key)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 16 << 20  # eight of them are the parser's own, taken once


def test_s62_an_unknown_key_costs_one_read_by_primary_key(database: str) -> None:
    """Guessing is as cheap as it can be for us, changes nothing, and is reported."""
    site = Site(database)
    for _ in range(30):
        site.store.create({})
    before = site.rows()
    with site.counted() as calls:
        visit = site.visit(look, keys.new_key())

    assert visit.value == {}
    assert calls.verbs == ["SELECT"]
    assert site.kinds() == ["unknown"]
    assert site.rows() == before
    # MariaDB looks the key up while it plans, and says that nothing is there.
    plan = site.explained(calls).lower()
    assert any(word in plan for word in ("_pkey", "primary", "sqlite_autoindex", "impossible where", "no matching"))


def test_s62_a_flood_of_unknown_keys_leaves_nothing_behind(sqlite: str) -> None:
    """Eight threads, thousands of keys: no rows, and no memory that grows with their number."""
    site = Site(sqlite, on_event=None)
    site.begin(a=1)

    def flood(count: int) -> int:
        threads = [threading.Thread(target=guess, args=(count,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return tracemalloc.get_traced_memory()[0]

    def guess(count: int) -> None:
        for _ in range(count):
            assert site.visit(look, keys.new_key()).value == {}

    tracemalloc.start()
    try:
        start = flood(50)
        grown = flood(200) - start
    finally:
        tracemalloc.stop()

    assert grown < 200_000, "more than a hundred bytes for each key"
    assert len(site.rows()) == 1
