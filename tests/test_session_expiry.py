"""When a session ends: what set_expiry takes, what the getters answer, and that cookie and row agree."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from sessionware.keys import digest
from tests.support.apps import KEY, PLAIN, ValidatedSite, as_list, opened
from tests.support.clock import START, Clock

IDLE = 1000
ABSOLUTE = 5000
NOW = datetime.fromtimestamp(START, UTC)


@pytest.fixture
def site(sqlite: str) -> ValidatedSite:
    return ValidatedSite(sqlite, idle_timeout=IDLE, absolute_timeout=ABSOLUTE)


def age_of_cookie(site: ValidatedSite, value: Any, **changes: Any) -> int | None:
    """Store a session with this expiry; return the Max-Age of its cookie."""
    line = site.visit(lambda session: (session.update(a=1, **changes), session.set_expiry(value))).set_cookies[0]
    return int(line.partition("Max-Age=")[2].partition(";")[0]) if "Max-Age=" in line else None


def alive(site: ValidatedSite) -> bool:
    return bool(site.look(lambda session: "a" in session))


def moment(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("value", "max_age", "lives", "slides"),
    [
        pytest.param(None, IDLE, IDLE, True, id="None"),
        pytest.param(300, 300, 300, True, id="seconds"),
        pytest.param(300.9, 300, 300, True, id="seconds and a fraction"),
        pytest.param(0.5, 1, 1, False, id="half a second"),
        pytest.param(0, None, IDLE, True, id="until the browser closes"),
        pytest.param(0.0, None, IDLE, True, id="the same as a float"),
        pytest.param(timedelta(seconds=300), 300, 300, False, id="timedelta"),
        pytest.param(moment(300), 300, 300, False, id="moment"),
        pytest.param(moment(300).astimezone(timezone(timedelta(hours=9))), 300, 300, False, id="moment elsewhere"),
        pytest.param(IDLE * 3, IDLE * 3, IDLE * 3, True, id="longer than the idle timeout"),
        pytest.param(timedelta(seconds=IDLE * 3), IDLE * 3, IDLE * 3, False, id="a moment after the idle timeout"),
        pytest.param(ABSOLUTE * 2, ABSOLUTE, ABSOLUTE, False, id="longer than the absolute timeout"),
        pytest.param(timedelta(days=999), ABSOLUTE, ABSOLUTE, False, id="a moment after the absolute timeout"),
    ],
)
def test_every_form(site: ValidatedSite, value: Any, max_age: int | None, lives: int, slides: bool) -> None:
    """Cookie and row say the same; only what is counted from the last use moves with it."""
    assert age_of_cookie(site, value) == max_age
    session = opened(site, _key(site))
    assert session.get_expiry_age() == lives
    assert session.get_expiry_date() == moment(lives)
    assert session.get_expire_at_browser_close() is (max_age is None)

    site.clock.advance(lives - 1)
    cookie = {"cookie": f"{site.middleware.cookie.name}={_key(site)}"}
    assert site.visit(lambda s: s["a"], **cookie).text == "1"
    site.clock.advance(1)
    assert site.visit(lambda s: s.get("a"), **cookie).text == ("1" if slides else "None")


@pytest.mark.parametrize(
    "value", [-1, -1.5, -(10**9), timedelta(seconds=-1), moment(0), moment(-5), timedelta(0)], ids=str
)
def test_a_moment_that_has_passed_ends_the_session(site: ValidatedSite, value: Any) -> None:
    """The row goes and the cookie is cleared: also the browser that keeps it is logged out."""
    site.visit(lambda session: session.update(a=1))
    assert site.store.count() == 1
    key = _key(site)
    reply = site.visit(lambda session: session.set_expiry(value))

    assert "Max-Age=0;" in reply.set_cookies[0]
    assert not site.store.exists(key)
    assert site.kinds()[-1] == "ended"


def test_a_new_session_that_has_ended_already_is_not_stored(site: ValidatedSite) -> None:
    """There is no row to remove and no cookie to clear."""
    assert site.visit(lambda session: (session.update(a=1), session.set_expiry(-1))).set_cookies == []
    assert site.store.count() == 0


@pytest.mark.parametrize("value", ["60", True, False, float("nan"), b"60", [60], {}, NOW.date()], ids=repr)
def test_other_types_are_refused_where_they_are_given(site: ValidatedSite, value: Any) -> None:
    """Django accepts some of them, and fails when the response is made."""
    with pytest.raises(TypeError, match="An expiry"):
        opened(site, None).set_expiry(value)


@pytest.mark.parametrize(
    "value",
    [
        10**12,
        10**400,
        1e300,
        float("inf"),
        timedelta.max,
        datetime(9999, 12, 31, 23, 59, 59, tzinfo=timezone(timedelta(hours=-12))),
        datetime(2030, 1, 1),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_impossible_moments_are_refused_where_they_are_given(site: ValidatedSite, value: Any) -> None:
    """After the year 9999, or without a time zone; nothing overflows later."""
    session = opened(site, site.store.create({"a": 1}))
    with pytest.raises(ValueError, match="An expiry"):
        session.set_expiry(value)

    assert not session.modified


def test_the_last_moment_there_is_can_be_meant(sqlite: str) -> None:
    """The usual "never": its microseconds round up to the year 10000."""
    site = ValidatedSite(sqlite, absolute_timeout=None)
    site.visit(lambda session: (session.update(a=1), session.set_expiry(datetime.max.replace(tzinfo=UTC))))

    assert opened(site, _key(site)).get_expiry_date() == datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


@pytest.mark.parametrize("value", [float("-inf"), -(10**400), timedelta.min, datetime.min.replace(tzinfo=UTC)], ids=str)
def test_the_far_past_is_only_the_past(site: ValidatedSite, value: Any) -> None:
    """As any other moment that has gone by."""
    session = opened(site, site.store.create({"a": 1}))
    session.set_expiry(value)
    session.commit()

    assert site.store.count() == 0


def test_the_configured_lifetime_comes_back(site: ValidatedSite) -> None:
    """None takes the wish back."""
    assert age_of_cookie(site, 60) == 60
    assert age_of_cookie(site, None) == IDLE


def test_a_wish_alone_is_stored(site: ValidatedSite) -> None:
    """Without any change of the values."""
    site.visit(lambda session: session.update(a=1))
    reply = site.visit(lambda session: session.set_expiry(60))

    assert "Max-Age=60" in reply.set_cookies[0]
    assert site.look(lambda session: session.get_expiry_age()) == 60


def test_a_wish_alone_begins_no_session(site: ValidatedSite) -> None:
    """There is nothing yet that could end."""
    assert site.visit(lambda session: session.set_expiry(60)).set_cookies == []
    assert site.store.count() == 0


@pytest.mark.parametrize(
    ("arguments", "age"),
    [
        pytest.param({}, 300, id="as stored"),
        pytest.param({"modification": moment(100)}, 300, id="from another moment on"),
        pytest.param({"modification": moment(-100)}, 300, id="from the past on"),
        pytest.param({"modification": moment(4900)}, 100, id="but never beyond the absolute timeout"),
        pytest.param({"expiry": 60}, 60, id="with other seconds"),
        pytest.param({"expiry": None}, IDLE, id="as configured"),
        pytest.param({"expiry": 0}, IDLE, id="until the browser closes"),
        pytest.param({"expiry": timedelta(seconds=70)}, 70, id="a timedelta"),
        pytest.param({"expiry": moment(80)}, 80, id="a moment"),
        pytest.param({"expiry": moment(80), "modification": moment(50)}, 30, id="a moment, seen from another"),
        pytest.param({"expiry": moment(-80)}, -80, id="a moment that has passed"),
        pytest.param({"expiry": 10**6}, ABSOLUTE, id="too many seconds"),
    ],
)
def test_the_getters_take_Djangos_arguments(site: ValidatedSite, arguments: dict[str, Any], age: int) -> None:
    """Asked of a session that was told 300 seconds; age and date always agree."""
    age_of_cookie(site, 300)
    session = opened(site, _key(site))

    assert session.get_expiry_age(**arguments) == age
    assert session.get_expiry_date(**arguments) == arguments.get("modification", NOW) + timedelta(seconds=age)


def test_the_getters_answer_without_a_session(site: ValidatedSite) -> None:
    """What it would live if it began now."""
    session = opened(site, None)

    assert session.get_expiry_age() == IDLE
    assert session.get_expiry_date() == moment(IDLE)
    assert session.get_expiry_date().tzinfo is UTC
    session.set_expiry(60)
    assert (session.get_expiry_age(), session.get_expire_at_browser_close()) == (60, False)


def test_browser_length_by_default(sqlite: str) -> None:
    """An explicit number beats the option, as in Django."""
    site = ValidatedSite(sqlite, expire_at_browser_close=True)
    session = opened(site, None)

    assert session.get_expire_at_browser_close()
    session.set_expiry(60)
    assert not session.get_expire_at_browser_close()


def test_without_a_limit_dates_end_with_the_calendar(sqlite: str) -> None:
    """A hundred years from the end of it must not overflow."""
    site = ValidatedSite(sqlite, absolute_timeout=None, clock=Clock(253_402_300_000.0))
    session = opened(site, None)

    assert session.get_expiry_date() == datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


def test_idle_timeout_at_its_boundary(site: ValidatedSite) -> None:
    """The row decides, whatever cookie the browser still has."""
    site.visit(lambda session: session.update(a=1))
    key = _key(site)
    site.clock.advance(IDLE - 1)
    assert site.store.exists(key)
    site.clock.advance(1)
    assert not site.store.exists(key)
    assert dict(opened(site, key)) == {}
    assert "ended" in site.kinds()


def test_use_extends_until_the_absolute_timeout(site: ValidatedSite) -> None:
    """However busy it is; and a rotation changes nothing of that."""
    site.visit(lambda session: session.update(a=1))
    for _ in range(ABSOLUTE // 500 - 1):
        site.clock.advance(500)
        assert alive(site)
    site.visit(lambda session: session.cycle_key())
    site.clock.advance(499)
    assert alive(site)
    site.clock.advance(1)
    assert not alive(site)


def test_login_begins_the_absolute_timeout_anew(site: ValidatedSite) -> None:
    """The user has just proved who they are."""
    site.visit(lambda session: session.update(a=1))
    for _ in range(ABSOLUTE // 500 - 1):
        site.clock.advance(500)
        assert alive(site)
    site.visit(lambda session: session.login("ann"))
    site.clock.advance(900)

    assert alive(site)


@pytest.mark.parametrize(("passed", "extends"), [(49, False), (50, True)], ids=["4.9 %", "5 %"])
def test_use_is_written_down_from_five_per_cent_on(site: ValidatedSite, passed: int, extends: bool) -> None:
    """And then the cookie is sent again, with no-store; between, a read is only a read."""
    site.visit(lambda session: session.update(a=1))
    site.clock.advance(passed)
    reply = site.visit(lambda session: session.get("a"))

    assert [f"Max-Age={IDLE}" in line for line in reply.set_cookies] == [True] * extends
    assert reply.header("Cache-Control") == ("no-store" if extends else None)
    assert site.look(lambda session: session.get_expiry_date()) == moment(passed + IDLE)


def _count(values: Any) -> None:
    values["n"] = values.get("n", 0) + 1


def _count_in_the_stream(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
    session = environ[KEY]
    session.setdefault("n", 0)
    start_response("200 OK", list(PLAIN))
    yield b"a"
    _count(session)


WITHOUT_COOKIE = {
    "save": as_list(lambda session: (_count(session), session.save())),
    "atomic": as_list(lambda session: session.atomic(_count)),
    "in a stream": _count_in_the_stream,
}


@pytest.mark.parametrize("app", WITHOUT_COOKIE.values(), ids=WITHOUT_COOKIE)
def test_a_save_without_a_cookie_does_not_put_off_the_next_cookie(sqlite: str, app: Any) -> None:
    """Else who comes every few minutes is logged out, since only their row is extended."""
    site = ValidatedSite(sqlite, app, bare=True, idle_timeout=IDLE, absolute_timeout=None, purge_interval=None)
    for visits in range(300):
        reply = site.browser.get("/")

        assert site.store.read(_key(site)) == {"n": visits + 1}
        assert len(reply.set_cookies) == (visits % 5 == 0)
        site.clock.advance(IDLE // 100)


SAVES = {
    "save": lambda session: (session.update(a=2), session.save()),
    "atomic": lambda session: session.atomic(lambda values: values.update(a=2)),
}


@pytest.mark.parametrize("save", SAVES.values(), ids=SAVES)
def test_a_save_without_a_cookie_extends_the_row(site: ValidatedSite, save: Any) -> None:
    """A cookie that goes with the browser has no end: there the row alone says that the session is in use."""
    site.visit(lambda session: session.login("ann"))
    site.clock.advance(10)
    site.visit(save)
    (live,) = site.store.sessions_of("ann")

    assert live.expires_at == moment(10 + IDLE)


@pytest.mark.parametrize("save", SAVES.values(), ids=SAVES)
@pytest.mark.parametrize("first", [None, 60], ids=["confirmed", "unconfirmed"])
def test_a_save_without_a_cookie_takes_back_no_use_by_another_request(
    any_engine: str, save: Any, first: int | None
) -> None:
    """A slow page has loaded the session before the other one extended it, or was the first to bring its key back."""
    site = ValidatedSite(any_engine, idle_timeout=IDLE, unconfirmed_timeout=first)
    site.visit(lambda session: session.update(a=1))
    key = _key(site)
    slow = opened(site, key)
    assert slow["a"] == 1
    site.clock.advance(50)
    site.visit(lambda session: session.get("a"))
    extended = site.store.load(digest(key))
    site.clock.advance(1)
    save(slow)
    found = site.store.load(digest(key))

    assert extended is not None
    assert found is not None
    assert found.used_at == extended.used_at
    assert found.expires_at >= extended.expires_at
    assert site.store.read(key) == {"a": 2}


@pytest.mark.parametrize("use", [lambda other: other.get("a"), lambda other: other.update(b=1)], ids=["read", "write"])
def test_a_first_request_that_goes_on_takes_back_no_confirmation(sqlite: str, use: Any) -> None:
    """It has saved early, the browser came back with the key meanwhile, and it saves again."""
    site = ValidatedSite(sqlite, unconfirmed_timeout=60)
    session = opened(site, None)
    session["a"] = 1
    session.save()
    key = str(session.session_key)
    other = opened(site, key)
    use(other)
    other.commit()
    session["a"] = 2
    session.commit()
    site.clock.advance(60)

    assert (site.store.read(key) or {}).get("a") == 2


def test_a_session_that_comes_back_on_304s_only_is_confirmed(sqlite: str) -> None:
    """Its key has come back; the longer cookie waits for the next page."""
    site = ValidatedSite(sqlite, unconfirmed_timeout=60)
    site.visit(lambda session: session.update(a=1))
    key = _key(site)
    site.clock.advance(30)
    site.visit(lambda session: session.get("a"), "304 Not Modified", [])
    site.clock.advance(60)

    assert site.store.exists(key)


def test_a_save_while_the_body_is_sent_confirms_no_session(sqlite: str) -> None:
    """What confirms it is the use for which the longer cookie can be sent."""
    site = ValidatedSite(sqlite, _count_in_the_stream, bare=True, unconfirmed_timeout=60)
    site.browser.get("/")
    site.clock.advance(59)
    assert site.store.exists(_key(site))
    site.clock.advance(1)

    assert not site.store.exists(_key(site))


def test_a_clock_set_back_takes_nothing(site: ValidatedSite) -> None:
    """Neither the session, nor what it had left."""
    site.clock.advance(400)
    site.visit(lambda session: session.update(a=1))
    key = _key(site)
    site.clock.advance(-300)
    site.visit(lambda session: session.update(b=1))
    site.clock.advance(300 + IDLE - 1)

    assert site.store.exists(key)


def test_a_clock_set_back_takes_nothing_where_each_use_extends(sqlite: str) -> None:
    """With save_every_request too, a look in the past shortens nothing."""
    site = ValidatedSite(sqlite, save_every_request=True)
    site.visit(lambda session: session.update(a=1))
    before = site.store.load(digest(_key(site)))
    site.clock.advance(-1000)
    site.visit(lambda session: session.get("a"))

    assert site.store.load(digest(_key(site))) == before


def _key(site: ValidatedSite) -> str:
    (cookie,) = site.browser.jar.stored.values()
    return cookie.value
