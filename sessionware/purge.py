"""Removing expired rows: in small batches, each a statement of its own, with a rest between two."""

import random
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from .errors import StoreUnavailable
from .events import logger
from .record import purge_hour
from .statement import Statement
from .table import Statements, numbered

# What one statement may have as parameters is limited; SQLite is the strictest, with 32 766.
MOST_A_BATCH = 10_000

# What is purged lies anywhere in the table: a thousand rows are two thousand pages. On SQLite nobody else writes
# for the 20 ms that they take, and the disk is busy for 30 ms more. So a batch is deleted in parts.
_MOST_AT_ONCE = 50

_LONGEST_REST = 0.05  # seconds: most of what took longer was spent on waiting for others

_BATCH = 1000
_SOON_SECONDS = 1

Run = Callable[[Statement, Mapping[str, Any]], Any]


def remove_expired(
    run: Run,
    sql: Statements,
    now: int,
    batch_size: int,
    max_batches: int | None,
    on_batch: Callable[[int], object],
) -> bool:
    """Delete what had expired at *now*, in one to *max_batches* batches (None: all); return whether more may wait.

    *run* runs one statement in autocommit; *on_batch* is told how many each batch has removed.
    """
    batches = 0
    while True:
        began = time.monotonic()
        looked_at, deleted = _remove_batch(run, sql, now, batch_size)
        batches += 1
        if looked_at:
            on_batch(deleted)
        if looked_at < batch_size or batches == max_batches:
            return looked_at == batch_size
        _rest_since(began)


class Schedule:
    """When one process removes expired rows: every *interval* seconds (None: never), sooner after a full batch.

    *purge_some* removes up to so many and returns whether more may wait.
    """

    def __init__(self, purge_some: Callable[[int], bool], interval: int | None, clock: Callable[[], float]) -> None:
        self._purge_some = purge_some
        self._interval = interval
        self._clock = clock
        # Workers start together and may not live long: each begins somewhere within the interval.
        self._next = clock() + (interval or 0) * random.uniform(0.02, 1)

    def is_due(self) -> bool:
        """Return whether the time has come."""
        if self._interval is None:
            return False
        remaining = self._next - self._clock()
        return remaining <= 0 or remaining > self._interval  # the clock was set back

    def take_turn(self) -> None:
        """Remove one batch, if it is due; what goes wrong is logged."""
        if self._interval is None or not self.is_due():
            return
        self._next = self._clock() + self._interval
        try:
            more = self._purge_some(_BATCH)
        except StoreUnavailable as error:
            logger.warning("Expired sessions could not be removed: %s", error)
            return
        if more:
            self._next = self._clock() + _SOON_SECONDS


def _remove_batch(run: Run, sql: Statements, now: int, size: int) -> tuple[int, int]:
    """Remove one batch of rows whose hour has come; return how many were looked at, and how many removed.

    A use moves a session's end but not its purge hour, so that PostgreSQL updates the row in place (HOT):
    who is found alive here gets its new hour now.
    """
    due = run(sql.list_due, {"hour": purge_hour(now), "now": now, "size": size})
    # In the order of the primary key, as requests lock: the order of the index would deadlock on MariaDB.
    dead = sorted(bytes(digest) for digest, end in due if end <= now)
    used = sorted(bytes(digest) for digest, end in due if end > now)
    deleted = 0
    at_once = min(size, _MOST_AT_ONCE)
    for part in _parts(dead, at_once):
        deleted += run(sql.delete_expired_of(at_once), numbered(part, at_once) | {"now": now})
        if sql.checkpoint is not None:
            run(sql.checkpoint, {})
    if used:
        run(sql.postpone_all_of(size), numbered(used, size))
    return len(due), deleted


def _parts(digests: list[bytes], size: int) -> Iterator[list[bytes]]:
    for start in range(0, len(digests), size):
        began = time.monotonic()
        yield digests[start : start + size]
        if start + size < len(digests):
            _rest_since(began)


def _rest_since(began: float) -> None:
    """Leave the database to others for as long as it was kept busy."""
    time.sleep(min(time.monotonic() - began, _LONGEST_REST))
