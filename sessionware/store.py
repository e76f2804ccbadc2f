"""SessionStore: the verbs for people, on the rows that sessions use.

They take session keys, users and handles, and read the clock.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from . import keys, options
from .codec import Codec, TaggedJSON, Undecodable
from .database import TableMissing, repeatable
from .errors import ConfigurationError, StoreUnavailable
from .events import Events, SessionEvent
from .marks import Marks
from .purge import MOST_A_BATCH, Run, remove_expired
from .record import TOMBSTONE_SECONDS, Lifetime, Record, as_datetime, new_revision, purge_hour
from .rows import MOST_AT_ONCE, Rows
from .statement import Execute
from .table import TABLE_NAME

_PAGE = MOST_AT_ONCE  # what is listed at once is deleted at once

# More than a handful of new keys in the five minutes that the old ones are remembered is no visitor's doing.
_MOVES = 20

_NOBODY = (b"\xff" * 32, b"\x00" * 32)  # an empty range of digests


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """One live session as people may see it. *handle* names it for `revoke` and is no credential; times are UTC.

    *last_used_at* is the last use that was noted: up to 5 % of the idle timeout ago.
    """

    handle: str
    user_id: str | None
    created_at: datetime
    last_used_at: datetime
    expires_at: datetime


class SessionStore(Rows):
    """The sessions table of one database.

    *database* is a URL (``postgresql+psycopg://...``), or an Engine of the application, used through its
    pool. With *create_table* a missing table is created at the first use. *lifetime* and *codec* serve
    `create` and `read`. Nothing connects here. Raises ConfigurationError.
    """

    def __init__(
        self,
        database: str | sa.URL | sa.Engine,
        table_name: str = TABLE_NAME,
        *,
        lifetime: Lifetime | None = None,
        codec: Codec | None = None,
        create_table: bool = True,
        on_event: Callable[[SessionEvent], object] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        options.flag("create_table", create_table)
        options.instance("lifetime", lifetime, Lifetime)
        options.function("on_event", on_event)
        options.clock("clock", clock)
        super().__init__(database, table_name, create_missing=create_table)
        self.codec: Codec = TaggedJSON() if codec is None else codec
        options.codec("codec", self.codec)
        if self.codec.format == TaggedJSON.format and not isinstance(self.codec, TaggedJSON):
            raise ConfigurationError("codec: format 1 is that of TaggedJSON; one of your own takes from 2 to 32767.")
        self.lifetime = lifetime or Lifetime()
        self.events = Events(on_event, clock)
        self.clock = clock
        self._marks = Marks(self.database, self._sql, clock)

    def exists(self, session_key: str) -> bool:
        """Return whether *session_key* is the key of a live session. Raises StoreUnavailable."""
        return self._live(session_key) is not None

    def read(self, session_key: str) -> dict[str, Any] | None:
        """Return the values of a live session; None if there is none, or its row does not decode."""
        record = self._live(session_key)
        if record is None or record.data is None or record.format != self.codec.format:
            return None
        try:
            return self.codec.decode(record.data)
        except Undecodable:
            return None

    def create(self, values: dict[str, Any], user_id: str | int | None = None) -> str:
        """Store a new session of the store's own lifetime and return its key; for tests and scripts.

        Raises UnstorableValue and StoreUnavailable. max_bytes does not bound it; a row beyond the middleware's
        reads as corrupt.
        """
        if not isinstance(values, dict):
            raise TypeError("values must be a dict.")
        now = int(self.clock())
        end = self.lifetime.expires_at(now, now, None)
        data = self.codec.encode(values)
        user_id = None if user_id is None else keys.checked_user_id(user_id)
        record = Record(data, self.codec.format, new_revision(), user_id, now, now, end, None)
        session_key, _ = self.insert_new(record)
        return session_key

    def insert_new(self, record: Record, session_key: str | None = None) -> tuple[str, bytes]:
        """Store *record* under a new key, *session_key* if that is free; return key and digest. A taken key is left."""

        def place(key: str) -> bytes:
            digest = keys.digest(key)
            if not self.insert(digest, record):
                raise keys.KeyTaken
            return digest

        return keys.under_free_key(session_key, place)

    def sessions_of(self, user_id: str | int) -> list[SessionInfo]:
        """Return the live sessions of *user_id*, the last used first. Raises StoreUnavailable."""
        values = {"user_id": keys.checked_user_id(user_id), "now": int(self.clock())}
        return [
            SessionInfo(keys.handle(bytes(digest)), user, *map(as_datetime, times))
            for digest, user, *times in self.database.read(self._sql.list_by_user, values)
        ]

    def count(self) -> int:
        """Return how many sessions are live. Raises StoreUnavailable."""
        return int(self.database.read(self._sql.count, {"now": int(self.clock())})[0][0])

    def count_expired(self) -> int:
        """Return how many rows `purge` would remove now. Raises StoreUnavailable."""
        now = int(self.clock())
        return int(self.database.read(self._sql.count_expired, {"hour": purge_hour(now), "now": now})[0][0])

    def revoke(self, handle: str) -> bool:
        """End the session that *handle* names; return whether it was live. Final for requests in flight too.

        Where it has got a new key not long ago, or is getting it just now, it ends under that. False after a
        connection was lost on the way may mean that it was live and has been ended before the second try.
        """
        name: str | None = handle
        for _ in range(_MOVES):
            span = None if name is None else keys.handle_range(name)
            if span is None:
                return False
            values = {"low": span[0], "high": span[1], "now": int(self.clock())}
            if self.database.write(self._sql.delete_range, values, repeatable):
                self.events.emit("ended", name, reason="revoked")
                return True
            moved = self.database.read(self._sql.find_successor, values)
            name = moved[0][0] if moved else None
        return False

    def revoke_user(self, user_id: str | int, keep: str | None = None) -> int:
        """End all sessions of *user_id* but *keep*; return how many were stored.

        *keep* is a handle (``session.handle``, also while that session is getting a new key) or a session key.

        Final also for requests in flight and for logins that began before. Raises ValueError for a *keep*
        that is neither, with nothing ended, and StoreUnavailable.
        """
        user = keys.checked_user_id(user_id)
        kept = keys.as_handle(keep)
        if kept is not None and keys.handle_range(kept) is None:
            raise ValueError("keep must be a handle or a session key.")
        stamp = self._marks.leave(user, kept)
        ended = self._delete_user(user, kept)
        self._marks.finish(user, stamp)
        self.events.emit("ended", user_id=user, reason=f"revoked: {ended} of the user's sessions")
        return ended

    def _delete_user(self, user: str, kept: str | None) -> int:
        def delete(run: Execute) -> int:
            # Locked, where it is now: a rotation of it would make of it a session that is not kept.
            low, high = _NOBODY if kept is None else self._lock_newest(run, kept)
            return int(run(self._sql.delete_user, {"user_id": user, "low": low, "high": high}))

        return self.database.transaction(delete, repeatable)

    def _lock_newest(self, run: Execute, handle: str) -> tuple[bytes, bytes]:
        """Lock the session that *handle* names, if it is stored; return the range of its present digest."""
        low, high = keys.handle_range(handle) or _NOBODY
        for _ in range(_MOVES):
            moved = [name for (name, data) in run(self._sql.lock_range, {"low": low, "high": high}) if data is None]
            span = keys.handle_range(moved[0]) if moved else None
            if span is None:
                break
            low, high = span
        return low, high

    def revoke_all(self) -> int:
        """End every session, page by page; return how many were stored. Raises StoreUnavailable."""
        stamp, marked_at = self._marks.leave(None, None), self.clock()
        ended, last = 0, b"\0"  # not b"", which is null in one mode of MariaDB
        while page := self.database.read(self._sql.list_page, {"after": last, "size": _PAGE}):
            if self.clock() - marked_at > TOMBSTONE_SECONDS / 2:  # or it would be over before we are
                stamp, marked_at = self._marks.leave(None, None), self.clock()
            digests = [bytes(row[0]) for row in page]
            ended += self.delete_any(digests)
            last = digests[-1]
        self._marks.finish(None, stamp)
        self.events.emit("ended", reason=f"revoked: all {ended} sessions")
        return ended

    def revoked_since(self, user_id: str | None, moment: float, handles: Sequence[str], *, moved: bool = False) -> bool:
        """Return whether the sessions of *user_id*, or all, were revoked since *moment*; see `Marks.revoked_since`."""
        return self._marks.revoked_since(user_id, moment, handles, moved=moved)

    def purge(
        self,
        *,
        batch_size: int = 1000,
        max_batches: int | None = None,
        on_batch: Callable[[int], object] | None = None,
    ) -> int:
        """Remove expired rows in batches, and return how many; 0 if another process is at it.

        Between two batches it rests for as long as the first took, so that requests get their turn.
        *max_batches* None: until none is left. *on_batch* is called with the size of each batch.
        Raises ConfigurationError for less than one row or batch, and StoreUnavailable.
        """
        options.count("batch_size", batch_size, most=MOST_A_BATCH)
        if max_batches is not None:
            options.count("max_batches", max_batches)
        options.function("on_batch", on_batch)
        removed, _ = self._purge(batch_size, max_batches, on_batch)
        return removed

    def purge_some(self, size: int) -> bool:
        """Remove one batch of expired rows; return whether more may wait. Raises StoreUnavailable."""
        _, more = self._purge(size, 1, None)
        return more

    def _purge(self, size: int, max_batches: int | None, on_batch: Callable[[int], object] | None) -> tuple[int, bool]:
        removed = 0

        def note(count: int) -> None:
            nonlocal removed
            removed += count  # also of a run that broke off, and was begun anew
            if on_batch is not None:
                on_batch(count)

        def work(run: Run) -> bool:
            return remove_expired(run, self._sql, int(self.clock()), size, max_batches, note)

        try:
            more = self._elected_while(work, lambda: removed if max_batches is None else 0)
        except TableMissing:
            more = False
        if removed:
            self.events.emit("purged", reason=f"{removed} rows")
        return removed, more

    def _elected_while(self, work: Callable[[Run], bool], progress: Callable[[], int]) -> bool:
        """Run *work* again after a fault as long as *progress* grows: a long purge meets more than one, far apart."""
        while True:
            before = progress()
            try:
                return self.database.elected(self.table.name, work) or False
            except StoreUnavailable:
                if progress() == before:
                    raise

    def _live(self, session_key: str) -> Record | None:
        if not isinstance(session_key, str) or not keys.is_key(session_key):
            return None
        record = self.load(keys.digest(session_key))
        return record if record is not None and record.is_live(int(self.clock())) else None
