"""When a session ends: tables at the boundaries."""

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sessionware import ConfigurationError
from sessionware.record import FOREVER, LAST_MOMENT, Lifetime, Record, as_datetime, new_revision, purge_hour, tombstone

LIFETIME = Lifetime(idle=1000, absolute=5000)
DAY = 86400


def record(data: str | None = "{}", expires_at: int = 100, used_at: int = 0, expiry: int | None = None) -> Record:
    return Record(data, 1, 7, None, 0, used_at, expires_at, expiry)


def test_a_record_shows_no_values() -> None:
    """What reports errors may print the variables of each frame."""
    assert "secret" not in repr(record('{"card":"secret"}'))


@pytest.mark.parametrize(
    ("row", "now", "live", "tombstone"),
    [
        pytest.param(record(), 99, True, False, id="a second before its end"),
        pytest.param(record(), 100, False, False, id="at its end"),
        pytest.param(record(), 101, False, False, id="after it"),
        pytest.param(record(""), 99, True, False, id="empty text is text"),
        pytest.param(record(None), 99, False, True, id="a tombstone is never live"),
    ],
)
def test_a_row_is_live_until_its_end(row: Record, now: int, live: bool, tombstone: bool) -> None:
    """The end itself is over, in Python as in SQL."""
    assert row.is_live(now) is live
    assert row.is_tombstone() is tombstone


def test_the_defaults_are_two_weeks_and_three_months() -> None:
    """They are documented."""
    assert (Lifetime().idle, Lifetime().absolute, Lifetime().browser) == (14 * DAY, 90 * DAY, False)


@pytest.mark.parametrize(
    ("created", "used", "expiry", "expected"),
    [
        pytest.param(0, 0, None, 1000, id="new"),
        pytest.param(0, 3999, None, 4999, id="just before the limit matters"),
        pytest.param(0, 4000, None, 5000, id="both at once"),
        pytest.param(0, 4001, None, 5000, id="limited"),
        pytest.param(100, 4001, None, 5001, id="idle again"),
        pytest.param(0, 0, 0, 1000, id="until the browser closes"),
        pytest.param(0, 0, 1, 1, id="one second"),
        pytest.param(0, 10, 2000, 2010, id="longer than the idle timeout"),
        pytest.param(0, 10, 9000, 5000, id="longer than the limit"),
        pytest.param(0, 10, -1, 1, id="a moment, past"),
        pytest.param(0, 10, -3000, 3000, id="a moment"),
        pytest.param(0, 10, -5001, 5000, id="a moment beyond the limit"),
    ],
)
def test_the_end_of_a_session(created: int, used: int, expiry: int | None, expected: int) -> None:
    """What set_expiry asked for comes before the idle timeout, the absolute one before both."""
    assert LIFETIME.expires_at(created, used, expiry) == expected


def test_without_an_absolute_timeout_there_is_no_limit() -> None:
    """None means none."""
    endless = Lifetime(idle=1000, absolute=None)

    assert endless.expires_at(0, FOREVER, None) == FOREVER
    assert endless.expires_at(0, 10**9, None) == 10**9 + 1000
    assert LIFETIME.expires_at(7, 10**9, None) == 5007
    assert FOREVER < 2**63


@pytest.mark.parametrize(
    ("browser", "seconds", "expiry", "expected"),
    [
        pytest.param(False, 100, None, 100, id="as long as the session"),
        pytest.param(False, 1, None, 1, id="a second"),
        pytest.param(False, 0, None, 0, id="nothing left"),
        pytest.param(False, -5, None, 0, id="never negative"),
        pytest.param(False, 100, 0, None, id="asked to go with the browser"),
        pytest.param(True, 100, None, None, id="configured to go with the browser"),
        pytest.param(True, 100, 50, 100, id="asked to stay"),
        pytest.param(True, 100, -50, 100, id="asked to stay until a moment"),
    ],
)
def test_the_age_of_the_cookie(browser: bool, seconds: int, expiry: int | None, expected: int | None) -> None:
    """It is what is left of the session, unless it goes when the browser closes."""
    assert Lifetime(idle=1000, browser=browser).max_age(seconds, expiry) == expected


@pytest.mark.parametrize(
    ("used_at", "expiry", "now", "due"),
    [
        pytest.param(0, None, 49, False, id="49 of 1000"),
        pytest.param(0, None, 50, True, id="50 of 1000"),
        pytest.param(100, None, 149, False, id="since the last use"),
        pytest.param(100, None, 150, True, id="since the last use, due"),
        pytest.param(0, 0, 50, True, id="browser session"),
        pytest.param(0, 100, 4, False, id="a timeout of its own"),
        pytest.param(0, 100, 5, True, id="a timeout of its own, due"),
        pytest.param(0, -5000, 999, False, id="a fixed moment does not move"),
        pytest.param(0, -1, 999, False, id="a fixed moment, past"),
        pytest.param(100, None, 50, False, id="a clock that went back"),
    ],
)
def test_an_extension_is_due_after_a_twentieth(used_at: int, expiry: int | None, now: int, due: bool) -> None:
    """Often enough to be exact to 5 %, seldom enough to cost nothing."""
    assert LIFETIME.is_due(record(used_at=used_at, expiry=expiry), now) is due


BRIEF = Lifetime(idle=1000, absolute=5000, unconfirmed=60)


@pytest.mark.parametrize(
    ("lifetime", "changes", "end"),
    [
        pytest.param(BRIEF, {}, 160, id="of nobody"),
        pytest.param(BRIEF, {"expires_at": 150}, 150, id="at its end already"),
        pytest.param(BRIEF, {"user_id": "ada"}, 1100, id="of somebody"),
        pytest.param(BRIEF, {"expiry": 500}, 1100, id="with an end of its own"),
        pytest.param(BRIEF, {"expiry": 0}, 1100, id="until the browser closes"),
        pytest.param(BRIEF, {"user_id": "ada", "expiry": 500}, 1100, id="of somebody, with an end of its own"),
        pytest.param(LIFETIME, {}, 1100, id="as any other"),
        pytest.param(LIFETIME, {"user_id": "ada"}, 1100, id="as any other, of somebody"),
    ],
)
def test_the_first_end_of_a_session_of_nobody_is_early(lifetime: Lifetime, changes: dict[str, Any], end: int) -> None:
    """Its key may never come back; who has logged in, or been given an end, is no robot."""
    new = record(used_at=100, expires_at=1100)._replace(created_at=100, **changes)

    assert lifetime.first_end(new) == end


@pytest.mark.parametrize(
    ("created", "used", "expiry", "end", "due"),
    [
        pytest.param(0, 0, None, 60, True, id="the key is back"),
        pytest.param(0, 0, None, 1000, False, id="it was back before"),
        pytest.param(0, 0, None, 999, True, id="a second short of its lifetime"),
        pytest.param(0, 4500, None, 5000, False, id="as long as its limit allows"),
        pytest.param(600, 4700, None, 5599, True, id="shorter than its limit allows"),
        pytest.param(0, 0, 2000, 2000, False, id="with a timeout of its own"),
        pytest.param(0, 0, 2000, 1999, True, id="a second short of that"),
        pytest.param(4000, 4500, 2000, 6500, False, id="with a timeout of its own, late"),
    ],
)
def test_a_key_that_is_back_makes_an_extension_due(
    created: int, used: int, expiry: int | None, end: int, due: bool
) -> None:
    """The first use after the creation gives a session the lifetime of any other, at once."""
    row = record(used_at=used, expires_at=end, expiry=expiry)._replace(created_at=created)

    assert BRIEF.is_due(row, used + 1) is due
    assert not LIFETIME.is_due(row, used + 1)


def test_revisions_are_random_and_fit_every_column() -> None:
    """63 bits: the largest number that all engines hold, and chance enough."""
    made = {new_revision() for _ in range(1000)}

    assert len(made) == 1000
    assert min(made) >= 0
    assert 2**62 < max(made) < 2**63


def test_revisions_have_nothing_of_a_seed_that_the_application_sets() -> None:
    """Workers that seed alike would take the save of another for their own."""
    made = []
    for _ in range(2):
        random.seed(7)
        made.append(new_revision())

    assert made[0] != made[1]


@pytest.mark.parametrize(("moment", "hour"), [(0, 0), (3599, 0), (3600, 1), (7199, 1), (7200, 2)])
def test_the_hour_of_the_purge(moment: int, hour: int) -> None:
    """Whole hours since the epoch, in which the row may go once it is over."""
    assert purge_hour(moment) == hour


def test_moments_become_dates_in_utc_until_the_calendar_ends() -> None:
    """FOREVER lies beyond the year 9999, which no datetime holds."""
    assert as_datetime(0) == datetime(1970, 1, 1, tzinfo=UTC)
    assert as_datetime(LAST_MOMENT) == datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
    assert as_datetime(LAST_MOMENT + 1) == as_datetime(FOREVER) == as_datetime(LAST_MOMENT)
    assert as_datetime(0).tzinfo is UTC


@pytest.mark.parametrize(
    ("options", "named"),
    [
        *[({"idle": value}, "idle") for value in (None, 0, -5, "x", 1.5, timedelta(0))],
        *[({"absolute": value}, "absolute") for value in (0, -1, "x")],
        *[({"unconfirmed": value}, "unconfirmed") for value in (0, "x")],
        *[({"browser": value}, "browser") for value in (None, 1, "x")],
    ],
    ids=str,
)
def test_a_wrong_lifetime_is_refused_by_name(options: dict[str, Any], named: str) -> None:
    """And not at the first session that is dead at its birth."""
    with pytest.raises(ConfigurationError, match=f"^{named} must"):
        Lifetime(**options)


def test_a_lifetime_takes_durations_as_the_middleware_does() -> None:
    """Whole seconds or timedelta."""
    of_durations: Any = Lifetime(timedelta(days=7), timedelta(days=9), True, timedelta(minutes=5))  # type: ignore[arg-type]  # as people write it

    assert of_durations == Lifetime(7 * 86_400, 9 * 86_400, True, 300)
    assert Lifetime(absolute=None).absolute is None


def test_a_tombstone_holds_the_place_for_five_minutes() -> None:
    """It is no session, and has nothing of the one that was there."""
    left = tombstone(1000)

    assert left == Record(None, 0, left.revision, None, 1000, 1000, 1300, None)
    assert left.is_tombstone()
