"""Records to rows and back, by their digests: one statement, or one transaction, for each verb.

What became of it if a connection broke is asked here, since only the rows can tell.

The verbs that sessions use. They take ``now`` and read no clock.
"""

from collections.abc import Callable, Sequence
from functools import partial

import sqlalchemy as sa

from . import keys
from .database import NOT_MADE, ConnectionLost, Database, DuplicateKey, repeatable
from .engine import in_memory
from .errors import StoreUnavailable
from .record import FOREVER, Lifetime, Record, tombstone
from .schema import create_table
from .statement import Execute
from .table import Statements, make_table, numbered, row_of, row_over, values_over

MOST_AT_ONCE = 1000  # digests that one statement takes


class Rows:
    """The rows of one sessions table. With *create_missing* the table is created when it is first needed."""

    _seen = False  # the table was there once

    def __init__(self, database: str | sa.URL | sa.Engine, table_name: str, *, create_missing: bool) -> None:
        self.database = Database(database, self._create_missing if create_missing else None)
        self.table = make_table(sa.MetaData(), table_name)
        self._sql = Statements(self.table, self.database.dialect, in_memory=in_memory(self.database.engine.url))

    def create_table(self) -> None:
        """Create the table and its indexes unless they exist; safe in a race of processes. Raises StoreUnavailable."""
        create_table(self.database, self.table)

    def load(self, digest: bytes) -> Record | None:
        """Return the record under *digest*, dead or alive; None if there is none. Raises StoreUnavailable."""
        rows = self.database.read(self._sql.load, {"digest": digest})
        self._seen = True
        return self._sql.as_record(rows[0]) if rows else None

    def load_any(self, digests: Sequence[bytes]) -> dict[bytes, Record]:
        """Return the records under up to four *digests*, in one statement. Raises StoreUnavailable."""
        rows = self.database.read(self._sql.load_any, numbered(digests, keys.MAX_LOOKED_UP))
        return {bytes(row[0]): self._sql.as_record(row[1:]) for row in rows}

    def insert(self, digest: bytes, record: Record) -> bool:
        """Store *record* as a new row; return False, with nothing changed, if *digest* is taken already."""

        def if_lost() -> bool:
            found = self.load(digest)
            return NOT_MADE if found is None else found.revision == record.revision

        try:
            inserted = self.database.write(self._sql.insert, row_of(digest, record), if_lost)
        except DuplicateKey:
            inserted = if_lost()
        if inserted is NOT_MADE:
            raise StoreUnavailable("The database refused a new row: a constraint of the table forbids it.")
        self._seen = True
        return bool(inserted)

    def update(
        self, digest: bytes, record: Record, base: int, now: int, *, later: bool = False, aside: bool = False
    ) -> bool | None:
        """Store *record* over the live row whose revision is *base*; return whether that row was still there.

        *later*: only the values and the end are new, and the end is not earlier than it was. Then no
        indexed column is touched: the purge finds the row in its old hour, and puts it off. *aside*: a touch,
        which leaves the revision as it is, may have written later times since; then those stay.

        None: the connection broke and the row has moved on since, so that nobody can tell whether this
        change was part of it. Raises StoreUnavailable.
        """
        if later:
            statement = self._sql.overwrite_aside if aside else self._sql.overwrite
            values = values_over(digest, record, base, now)
        else:
            statement, values = self._sql.update, row_over(digest, digest, record, base, now)
        hit: int | None = self.database.write(statement, values, partial(self._was_made, digest, record, base))
        return None if hit is None else hit == 1

    def rotate(self, digest: bytes, new_digest: bytes, record: Record, base: int, now: int) -> bool | None:
        """Move the live row whose revision is *base* to *new_digest*, and store *record* in it.

        A tombstone takes the old place, in the same transaction. Returns as `update` does; raises
        KeyTaken, with nothing changed, if there is a row under *new_digest*, and StoreUnavailable.
        """

        def if_lost() -> bool | None:
            here = self._was_made(digest, record, base)
            moved = self.load(new_digest)  # asked last: in the other order it may be made between the two questions
            return (moved is not None and moved.revision == record.revision) or here

        def move(run: Execute) -> bool:
            return self._move(run, digest, new_digest, record, base, now)

        try:
            return self.database.transaction(move, if_lost)
        except DuplicateKey:
            raise keys.KeyTaken from None

    def modify(
        self,
        digest: bytes,
        change: Callable[[Record | None], Record],
        now: int,
        new_digest: bytes | None = None,
    ) -> Record:
        """Store ``change(record)`` over the row under *digest*, which is locked meanwhile; return what is stored.

        *new_digest*: the row is rotated to it. *change* gets None if there is no row and must raise then; what
        it raises leaves the row as it was. It is called again after a deadlock. Raises KeyTaken; ConnectionLost
        where the outcome stays unknown; StoreUnavailable.
        """
        before: int | None = None  # the revision that the last try found
        draft: Record | None = None  # what it stored, as far as it came

        def work(run: Execute) -> bool:
            nonlocal before, draft
            # Who waited for a rotation finds the row moved away, and the tombstone only when looking again.
            rows = run(self._sql.lock, {"digest": digest}) or run(self._sql.lock, {"digest": digest})
            found = self._sql.as_record(rows[0]) if rows else None
            if draft is not None and self._holds(run, draft.revision, found, new_digest):
                return True  # by a try that was given up for lost, and was not
            draft, before = change(found), 0 if found is None else found.revision
            if new_digest is not None:
                return self._move(run, digest, new_digest, draft, before, now)
            return bool(run(self._sql.update, row_over(digest, digest, draft, before, now)))

        def if_lost() -> bool | None:
            here, there = self.load(digest), None if new_digest is None else self.load(new_digest)
            revisions = {found.revision for found in (here, there) if found is not None}
            if draft is not None and draft.revision in revisions:
                return True
            return NOT_MADE if draft is None or before in revisions else None

        try:
            made = self.database.transaction(work, if_lost)
        except DuplicateKey:
            raise keys.KeyTaken from None
        if made is None or draft is None:
            raise ConnectionLost("The connection to the database broke; whether the change was stored nobody can tell.")
        return draft

    def touch(self, digest: bytes, record: Record, now: int) -> bool:
        """Extend the session from *record*, as it was loaded, to what its lifetime gives at *now*.

        One narrow statement that overwrites nothing: it does not hit if another request has saved,
        touched, rotated or ended the session since. Returns whether it hit. Raises StoreUnavailable.
        """
        end = record.expires_at
        values = {"p_used_at": now, "p_expires_at": end, "digest": digest}
        values |= {"now": now, "base": record.revision, "seen_at": record.used_at}
        return self.database.write(self._sql.touch, values, repeatable) == 1

    def touch_unseen(self, digest: bytes, lifetime: Lifetime, now: int) -> bool:
        """Extend a live session by the idle timeout of *lifetime* without reading it; return whether it hit.

        It does not where the absolute timeout comes before, or the session has another expiry.
        """
        absolute = FOREVER if lifetime.absolute is None else lifetime.absolute
        values = {"digest": digest, "now": now, "idle": lifetime.idle, "absolute": absolute}
        return self.database.write(self._sql.touch_unseen, values, repeatable) == 1

    def delete(self, digest: bytes) -> bool:
        """Delete the session under *digest*; return whether there was one. Raises StoreUnavailable."""
        return self.database.write(self._sql.delete, {"digest": digest}, repeatable) == 1

    def delete_any(self, digests: Sequence[bytes]) -> int:
        """Delete the sessions under up to a thousand *digests*, in one statement; return how many there were."""
        # In the order of the primary key, as others lock: or MariaDB ends one of two in a deadlock.
        values = numbered(sorted(digests), MOST_AT_ONCE)
        return self.database.write(self._sql.delete_all_of(MOST_AT_ONCE), values, repeatable)

    def any_moved(self, digests: Sequence[bytes], now: int) -> bool:
        """Return whether one of up to a thousand *digests* was a session that lives on under a new key."""
        values = numbered(digests, MOST_AT_ONCE) | {"now": now}
        return bool(self.database.read(self._sql.find_moved_of(MOST_AT_ONCE), values))

    def _create_missing(self) -> None:
        if not self._seen:  # a table that was there and is not is being migrated
            self.create_table()

    def _move(self, run: Execute, digest: bytes, new_digest: bytes, record: Record, base: int, now: int) -> bool:
        # The row itself moves, so that a revocation of the user's sessions waits for it and then meets it; the mark
        # says where to, for the revocation of a handle.
        if run(self._sql.rotate, row_over(digest, new_digest, record, base, now)) != 1:
            return False
        run(self._sql.insert, row_of(digest, tombstone(now)._replace(user_id=keys.handle(new_digest))))
        return True

    def _holds(self, run: Execute, revision: int, found: Record | None, new_digest: bytes | None) -> bool:
        """Return whether *found*, or the row under *new_digest*, has this *revision*."""
        moved = [] if new_digest is None else run(self._sql.load, {"digest": new_digest})
        return any(
            record is not None and record.revision == revision for record in (found, *map(self._sql.as_record, moved))
        )

    def _was_made(self, digest: bytes, mine: Record, base: int) -> bool | None:
        """Return whether *mine* was stored over the revision *base*; None: nobody can tell any more."""
        found = self.load(digest)
        if found is None or found.is_tombstone():
            return False
        return NOT_MADE if found.revision == base else found.revision == mine.revision or None
