"""Marks of revocations: from them a login that was under way learns that its user has been revoked meanwhile.

A mark is a row without values, under a digest that no session key has. Its revision says when the revocation
began, in microseconds, its expiry when it was complete, its user_id which session it kept, as a handle. A user
has two at most: of what ended all sessions, and of what ended all but one. They go with the purge.
"""

import hashlib
import random
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from . import keys
from .database import PATIENCE_SECONDS, Database, DuplicateKey, repeatable
from .errors import StoreUnavailable
from .record import TOMBSTONE_SECONDS, Record, tombstone
from .statement import Execute
from .table import Statements, numbered, row_of

_PAUSE_SECONDS = 0.1

# A mark from a clock so many microseconds ahead is none: nobody of its user could log in until then.
_MOST_AHEAD = TOMBSTONE_SECONDS * 1_000_000


class Marks:
    """The marks in one table. Times between processes are the machine's; *clock* tells when a mark may go."""

    def __init__(self, database: Database, sql: Statements, clock: Callable[[], float]) -> None:
        self._database = database
        self._sql = sql
        self._clock = clock

    def revoked_since(self, user_id: str | None, moment: float, handles: Sequence[str], *, moved: bool = False) -> bool:
        """Return whether the sessions of *user_id*, or all, were revoked since *moment*, but for one of *handles*.

        A login that races `revoke_user` asks this after it has stored its row. Either the revocation saw
        that row and deleted it, or the mark was there before the question. A row that *moved* to a new key
        may have slipped past a revocation that had begun before: then those count that went on at *moment*.
        """
        since, now = _microseconds(moment), int(self._clock())
        for began, ended, expires_at, kept in self._of(user_id):
            going_on = expires_at > now if ended is None else ended >= since
            counts = (began >= since or (moved and going_on)) and kept not in handles
            if counts and began <= _microseconds(time.time()) + _MOST_AHEAD:
                return True
        return False

    def leave(self, user_id: str | None, kept: str | None) -> int:
        """Note that a revocation begins, and return its time, by which `finish` knows it. Raises StoreUnavailable."""
        stamp = _microseconds(time.time())
        mark = tombstone(int(self._clock()))._replace(revision=stamp, user_id=kept)
        for _ in range(keys.ATTEMPTS):
            try:
                self._database.transaction(partial(self._leave, user_id, mark), repeatable)
                return stamp
            except DuplicateKey:
                continue  # another revocation was first
        raise StoreUnavailable("The revocation could not be recorded.")

    def _leave(self, user_id: str | None, mark: Record, run: Execute) -> None:
        digests = _digests_of(user_id)
        rows = run(self._sql.lock_marks, numbered(sorted(digests), 2))
        found = {bytes(row[0]): self._sql.as_record(row[1:]) for row in rows}
        whole, others = map(found.get, digests)
        for digest, old, new in zip(digests, (whole, others), _with_mark(whole, others, mark), strict=True):
            if new is None or new == old:
                continue
            values = row_of(digest, new)
            if old is None:
                run(self._sql.insert, values)
            else:
                run(self._sql.renew_mark, values | {"digest": digest})

    def finish(self, user_id: str | None, stamp: int) -> None:
        """Note that the revocation of that time is complete, whichever mark it has become part of."""
        values = numbered(_digests_of(user_id), 2) | {"base": stamp, "p_expiry": _microseconds(time.time())}
        self._database.write(self._sql.finish_mark, values, repeatable)

    def _of(self, user_id: str | None) -> list[Any]:
        """Return the marks of what was revoked of *user_id*, and of everybody.

        A database that is gone may come back within our patience: the session of who asks has its new key
        already, and the visitor gets that only with the answer.
        """
        everybody, _ = _digests_of(None)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return self._database.read(self._sql.find_marks, numbered((everybody, *_digests_of(user_id)), 3))
            except StoreUnavailable:
                if time.monotonic() > deadline:
                    raise
            time.sleep(random.uniform(0, _PAUSE_SECONDS))


def _with_mark(whole: Record | None, others: Record | None, new: Record) -> tuple[Record | None, Record | None]:
    """Return the mark of what ended all of a user's sessions, and of what ended all but one, when *new* has come.

    Of two that kept different sessions the earlier one counts for all of them from then on: the session that it
    kept is ended by the later one.
    """
    if new.user_id is None:
        return _later(whole, new), others
    if others is None or others.user_id == new.user_id or others.revision > new.revision + _MOST_AHEAD:
        return whole, _later(others, new)
    earlier, later = sorted((others, new), key=lambda mark: mark.revision)
    return _later(whole, earlier._replace(user_id=None)), later


def _later(old: Record | None, new: Record) -> Record:
    if old is not None and new.revision <= old.revision <= new.revision + _MOST_AHEAD:
        return old
    return new


def _digests_of(user_id: str | None) -> tuple[bytes, bytes]:
    """Return the digests of two marks: of what ended all sessions of a user, or of all, and of what ended all but one.

    No session key, having no space, can lead to them.
    """
    subjects = ("all", "all but one") if user_id is None else (f"user {user_id}", f"others of {user_id}")
    whole, others = (hashlib.sha256(f"revoked {subject}".encode()).digest() for subject in subjects)
    return whole, others


def _microseconds(moment: float) -> int:
    return int(moment * 1_000_000)
