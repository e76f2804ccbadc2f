"""What travels between session and table: the record, and the rule of when it ends.

All times are whole epoch seconds, UTC: no time zones, no 2038, one comparison on every database.
"""

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from . import options

HOUR = 3600
FOREVER = 2**53
FIRST_MOMENT = -62_135_596_800  # the beginning of the year 1
LAST_MOMENT = 253_402_300_799  # the end of the year 9999

# How long the place of a rotated session is kept, so that requests still under way with the old key
# can be told from strangers. Longer than any request should run.
TOMBSTONE_SECONDS = 300


class Record(NamedTuple):
    """One row, without its digest.

    *data* is the encoded values, or None in a tombstone. *revision* is the random number that a save
    must find unchanged. *expiry* is what ``set_expiry`` asked for, in one number:

    =========  ==========================================================
    None       the lifetime of the middleware
    0          until the browser closes
    n > 0      n seconds after the last use
    n < 0      at the moment ``-n``, however often it is used
    =========  ==========================================================
    """

    data: str | None
    format: int
    revision: int
    user_id: str | None
    created_at: int
    used_at: int
    expires_at: int
    expiry: int | None

    def __repr__(self) -> str:
        """Say nothing of *data*: what reports errors may print the variables of each frame."""
        return f"<Record expires_at={self.expires_at}>"

    def is_tombstone(self) -> bool:
        """Return whether this is the place of a session that lives on under another key."""
        return self.data is None

    def is_live(self, now: int) -> bool:
        """Return whether this authenticates a request at *now*."""
        return self.data is not None and self.expires_at > now


@dataclass(frozen=True, slots=True)
class Lifetime:
    """When a session ends: *idle* seconds after its last use, *absolute* seconds after its creation or login.

    *absolute* None means no such limit. *browser* True means that the cookie goes when the browser closes.
    *unconfirmed*: how many seconds a new session of nobody lives until its key comes back; None: as any other.
    """

    idle: int = 14 * 24 * HOUR
    absolute: int | None = 90 * 24 * HOUR
    browser: bool = False
    unconfirmed: int | None = None

    def __post_init__(self) -> None:
        """Take whole seconds or timedelta, and keep seconds. Raises ConfigurationError."""
        options.flag("browser", self.browser)
        for name in ("idle", "absolute", "unconfirmed"):
            value = getattr(self, name)
            if name == "idle" or value is not None:
                object.__setattr__(self, name, options.seconds(name, value))

    def expires_at(self, created_at: int, used_at: int, expiry: int | None) -> int:
        """Return the moment from which the session is dead if it is not used again."""
        wanted = -expiry if expiry is not None and expiry < 0 else used_at + (expiry or self.idle)
        limit = FOREVER if self.absolute is None else created_at + self.absolute
        return wanted if wanted < limit else limit

    def first_end(self, record: Record) -> int:
        """Return when a session that is stored for the first time ends if its key does not come back.

        A robot that gets a session at each visit never shows its key again: its rows can go early.
        """
        confirmed = record.user_id is not None or record.expiry is not None
        if confirmed or self.unconfirmed is None:
            return record.expires_at
        return min(record.expires_at, record.created_at + self.unconfirmed)

    def max_age(self, seconds: int, expiry: int | None) -> int | None:
        """Return how many of the *seconds* that are left the cookie may live; None: until the browser closes."""
        ends_with_browser = self.browser if expiry is None else expiry == 0
        return None if ends_with_browser else max(seconds, 0)

    def is_due(self, record: Record, now: int) -> bool:
        """Return whether a use is worth a write: 5 % of the idle timeout have passed, or the key is back at last."""
        if record.expiry is not None and record.expiry < 0:
            return False
        if (now - record.used_at) * 20 >= (record.expiry or self.idle):
            return True
        return self.is_unconfirmed(record)

    def is_unconfirmed(self, record: Record) -> bool:
        """Return whether the key of *record* had not come back when it was last written."""
        return self.unconfirmed is not None and record.expires_at < self.expires_at(
            record.created_at, record.used_at, record.expiry
        )


def tombstone(now: int) -> Record:
    """Return what takes the place of a session that lives on under another key."""
    return Record(None, 0, new_revision(), None, now, now, now + TOMBSTONE_SECONDS, None)


def new_revision() -> int:
    """Return a random revision: what a save leaves behind, and by which it knows itself again.

    From the operating system: servers fork without telling Python, and two workers that make the same
    revisions would each take the save of the other for their own.
    """
    return int.from_bytes(os.urandom(8), "big") >> 1


def purge_hour(expires_at: int) -> int:
    """Return the hour, counted from the epoch, in which a row that ends at *expires_at* may be removed.

    The index stands on this coarse number: on the exact moment it would cost PostgreSQL the cheap
    in-page updates (HOT) of every save and touch.
    """
    return expires_at // HOUR


def as_datetime(moment: int) -> datetime:
    """Return epoch seconds as an aware datetime in UTC; the first or last representable one if they lie beyond."""
    return datetime.fromtimestamp(max(min(moment, LAST_MOMENT), FIRST_MOMENT), UTC)
