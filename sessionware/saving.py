"""Storing and ending one session: what is to be stored, and what becomes of it where others store too.

Knows rows as records and values as a dictionary; knows no SQL, no cookie syntax and no HTTP.
"""

import random
import threading
import time
from collections.abc import Callable
from enum import Enum
from typing import NoReturn, TypeVar

from . import keys
from .codec import TaggedJSON, Undecodable
from .errors import SessionInterrupted, SessionTooLarge, StoreUnavailable, UnstorableValue
from .finding import Finding, Values
from .merge import adopt, merge, same
from .record import Record, new_revision
from .settings import SessionSettings

T = TypeVar("T")

# How often a save competes freely before it asks for the row's lock.
FREE_ATTEMPTS = 4
PAUSE_SECONDS = 0.004


class Outcome(Enum):
    """What a request did to its session."""

    UNTOUCHED = "untouched"
    READ = "read"
    CREATED = "created"
    SAVED = "saved"
    TOUCHED = "touched"
    ROTATED = "rotated"
    ENDED = "ended"


# Members by a name of their own: a look into an Enum goes through its metaclass, and costs ten times as much.
_, READ, CREATED, SAVED, TOUCHED, ROTATED, ENDED = Outcome


class Saving(Finding):
    """One session during one request, as far as it is stored. *values* is None until they are needed."""

    def __init__(self, settings: SessionSettings, header: str | None) -> None:
        super().__init__(settings, header)
        self.values: Values | None = None
        self.user_id: str | None = None
        self.expiry: int | None = None
        self.next_key: str | None = None  # set while a rotation or a login waits for the save
        self.admitted_at: float | None = None  # when cycle_key or login was called
        self._conflicts: int | None = None  # keys that both sides had changed, of a merge that is not stored yet
        self.restarts = False  # a login: the absolute timeout begins anew
        self.new = False  # begun by this request: its key has not come back yet
        self.cleared = False  # everything stored is to go, whatever other requests have added
        self.forced = False  # the application says that it has changed something
        self.outcome = READ
        self.cookie_due = False  # the response is to carry the key
        self.cookie_owed = False  # it is to, if the key is still good when the response leaves
        self._unchecked: tuple[float, list[str], bool] | None = None  # a login that is stored, and may be revoked
        self._aside = False  # a save is under way for which no cookie is sent
        self.turn = threading.RLock()  # one thread of the request at a time stores the session, or ends it

    def open(self) -> Values:
        """Return the values, loading them at the first call; one statement, none without a key."""
        if self.values is None:
            self.resolve()
        assert self.values is not None, "resolve gives the values"
        return self.values

    def resolve(self) -> None:
        """Find out, once, which session the cookie names. Raises StoreUnavailable, and may be called again then."""
        if self.settled:
            return
        loaded = self.find()
        if self.settled:
            return  # by another thread of the request, which may have gone on
        if self.values is None:
            self.values = loaded
        if self.record is not None:
            self.user_id, self.expiry = self.record.user_id, self.record.expiry
        self.settled = True
        if self._news is not None:
            news, self._news = self._news, None
            self._settings.events.emit(*news)

    def known_key(self) -> str | None:
        """Return the key the session has or gets with the save; before it is found, the one the cookie offers."""
        offered = self.offered[0] if self.offered and not self.settled else None
        return self.next_key or self.key or offered

    def pending(self, *, dirty: bool, demanded: bool = False) -> str | None:
        """Return the text to be stored, or None if nothing is to be.

        *dirty*: the values may have changed. *demanded*: the application asks for a row even if it is empty.
        """
        self.resolve()
        record, values = self.record, self.open()
        if record is None:
            wanted = demanded or bool(values) or self.user_id is not None
            return self._encode(values) if wanted and not self.is_shut() else None
        decided = self.forced or self.cleared or self.next_key is not None or self.expiry != record.expiry
        if not decided and not dirty:
            return None
        text = self._encode(values)
        return text if decided or self._differs(text, values, record) else None

    def _differs(self, text: str, values: Values, record: Record) -> bool:
        if text == record.data:
            return False
        # A codec that encrypts gives equal values another text each time.
        return type(self._settings.codec) is TaggedJSON or not same(values, self.decode(record))

    def save(self, text: str) -> None:
        """Store *text*, the encoded values, and whatever else waits: a new key, a login, an expiry.

        Raises SessionInterrupted if another request has ended or rotated the session, and StoreUnavailable.
        """
        self.refuse_if_shut()
        if self.expiry is not None and self._draft(text).expires_at <= self.now():
            self.end("expired")
        elif self.record is None:
            self._create(text)
        else:
            self._overwrite(text)

    def refuse_if_shut(self) -> None:
        """Raise SessionInterrupted where this request may store nothing."""
        if self.superseded:
            raise SessionInterrupted(ended=False)
        if self.rivals:
            raise SessionInterrupted("Several sessions were offered, and nobody can tell which is the visitor's.")

    def save_aside(self, text: str) -> None:
        """Store as `save` does, while the request goes on or after its headers have left.

        No cookie is sent for that unless the key changes: by the time the response leaves, the browser may
        have got a newer one. So the use is not noted either, or the next one, which can have the cookie sent,
        would not be due. A new expiry is noted, and whether the cookie can tell of it is asked in the end.
        """
        stored, due = self.record if self.next_key is None else None, self.cookie_due
        self._aside = stored is not None and self.expiry == stored.expiry
        try:
            self.save(text)
        finally:
            self._aside = False
        if stored is not None and self.cookie_due and not due:
            self.cookie_due, self.cookie_owed = False, True

    def send_owed_cookie(self) -> None:
        """Have the response tell of what was stored aside, unless another request has changed that since."""
        self.cookie_owed = False
        try:
            self.resolve()
            found = self._store.load(self.digest)
        except StoreUnavailable:
            self.cookie_due = True  # nobody can tell; a browser that never heard of it would lose the session for sure
            return
        self.cookie_due = found is not None and found.is_live(self.now()) and found.expiry == self.expiry

    def _encode(self, values: Values) -> str:
        text = self._settings.codec.encode(values)
        if len(text) > self._settings.max_bytes:
            self._refuse_size(values, len(text))
        if not text.isascii():
            raise UnstorableValue(
                "The codec must encode to ASCII: max_bytes counts bytes, and the column holds no other."
            )
        return text

    def _refuse_size(self, values: Values, size: int) -> NoReturn:
        encode = self._settings.codec.encode
        sizes = {name: len(encode({name: value})) for name, value in values.items()}
        largest = max(sizes, key=sizes.__getitem__, default="")
        raise SessionTooLarge(
            f"The session takes {size} bytes, max_bytes is {self._settings.max_bytes}; "
            f"its largest key is {largest[:60]!r} with {sizes.get(largest, 0)} bytes."
        )

    def _draft(self, text: str) -> Record:
        now, old = self.now(), self.record
        if old is not None:
            now = max(now, old.used_at)  # a clock that was set back takes nothing from the session
        created = now if old is None or self.restarts else old.created_at
        end = self._settings.lifetime.expires_at(created, now, self.expiry)
        if old is not None and self._aside:
            now, end = old.used_at, self._end_aside(old, end)
        draft = Record(text, self._settings.codec.format, new_revision(), self.user_id, created, now, end, self.expiry)
        if (old is None or self.new) and self._settings.lifetime.unconfirmed is not None:
            return draft._replace(expires_at=self._settings.lifetime.first_end(draft))
        return draft

    def _end_aside(self, old: Record, end: int) -> int:
        """Return when a session that is stored aside ends: at *end*, or as before while its key has not come back."""
        return old.expires_at if self._settings.lifetime.is_unconfirmed(old) else end

    def _create(self, text: str) -> None:
        draft = self._draft(text)
        self.key, self.digest = self._store.insert_new(draft, self.next_key)
        self._stored(draft, CREATED)
        self.new = True
        self._settings.events.emit("created", keys.handle(self.digest), self.user_id)
        if draft.user_id is not None:
            self._admit([keys.handle(self.digest)], moved=False)

    def _overwrite(self, text: str) -> None:
        for attempt in range(FREE_ATTEMPTS):
            draft = self._draft(text)
            if self._write(draft):
                return self._overwritten(draft)
            self._accept(self._store.load(self.digest))
            text = self._encode(self.open())
            time.sleep(random.uniform(0, PAUSE_SECONDS * attempt))
        return self._overwrite_locked()

    def _write(self, draft: Record) -> bool | None:
        assert self.record is not None, "only a stored session is overwritten"
        old, base, now = self.record, self.record.revision, self.now()
        if self.next_key is None:
            later = draft.expires_at >= old.expires_at and draft.expiry == old.expiry
            return self._store.update(self.digest, draft, base, now, later=later, aside=self._aside or self.new)
        return self._with_next_key(lambda new: self._store.rotate(self.digest, new, draft, base, now))

    def _overwrite_locked(self) -> None:
        def change(found: Record | None) -> Record:
            self._accept(found)
            return self._draft(self._encode(self.open()))

        now = self.now()
        if self.next_key is None:
            draft = self._store.modify(self.digest, change, now)
        else:
            draft = self._with_next_key(lambda new: self._store.modify(self.digest, change, now, new))
        self._overwritten(draft)

    def _with_next_key(self, move: Callable[[bytes], T]) -> T:
        self.next_key, moved = keys.under_free_key(self.next_key, lambda key: move(keys.digest(key)))
        return moved

    def _accept(self, found: Record | None) -> None:
        """Make the row *found* the new base: what others have stored meanwhile is merged into our values."""
        if found is None or not found.is_live(self.now()):
            self._interrupt(found)
        assert self.record is not None, "only a stored session has a base"
        if found.revision == self.record.revision:
            return
        try:
            theirs = self.decode(found)
            base = theirs if self.cleared else self.decode(self.record)
        except Undecodable:
            self._interrupt(None)
        self._conflicts = (self._conflicts or 0) + self._go_on_from(found, base, theirs)
        self.new = False  # another request, to which its key came back, has written this

    def _go_on_from(self, record: Record, base: Values, theirs: Values) -> int:
        """Make *record* our base, and merge *theirs*, its values, into ours; return how many keys both had changed."""
        assert self.record is not None, "only a stored session has a base"
        # As they would come back: what the codec alone has changed, such as the name of a zone, is nobody's change.
        mine = self._settings.codec.decode(self._encode(self.open()))
        merged = merge(base, mine, theirs, self._settings.on_conflict)
        adopt(self.open(), merged.values)
        of_another = self.record.user_id not in (None, self.user_id)  # this is a login: nothing is inherited
        if self.expiry == self.record.expiry and not of_another:
            self.expiry = record.expiry
        self.record = record
        return len(merged.conflicts)

    def _report_merge(self, conflicts: int) -> None:
        reason = f"{conflicts} key{'s' * (conflicts != 1)} changed on both sides"
        self._settings.events.emit("merged", keys.handle(self.digest), self.user_id, reason)

    def _interrupt(self, found: Record | None) -> NoReturn:
        ended = found is None or not found.is_tombstone()
        reason = "ended by another request" if ended else "given a new key by another request"
        self._settings.events.emit("dropped", keys.handle(self.digest), self.user_id, reason)
        self._forget()
        self.superseded, self.stale = not ended, ended
        raise SessionInterrupted(ended=ended)

    def _overwritten(self, draft: Record) -> None:
        if self._conflicts is not None:
            self._report_merge(self._conflicts)
            self._conflicts = None
        if self.next_key is None:
            return self._stored(draft, SAVED)
        old_handle, moved = keys.handle(self.digest), not self.restarts
        self.key, self.digest = self.next_key, keys.digest(self.next_key)
        self._stored(draft, ROTATED)
        new_handle = keys.handle(self.digest)
        self._settings.events.emit("rotated", new_handle, self.user_id, f"was {old_handle}")
        return self._admit([old_handle, new_handle], moved=moved)

    def _stored(self, draft: Record, outcome: Outcome) -> None:
        self.record, self.next_key = draft, None
        self.restarts = self.cleared = self.forced = self.stale = False
        self.outcome, self.cookie_due = outcome, self.cookie_due or not self._aside

    def _admit(self, handles: list[str], *, moved: bool) -> None:
        """End the session again if its user was revoked while the login or rotation was under way."""
        if self.admitted_at is not None:
            self._unchecked = self.admitted_at, handles, moved
            self.confirm_admission()

    def confirm_admission(self) -> None:
        """Ask what is still to be asked of a login that is stored. Raises SessionInterrupted and StoreUnavailable."""
        if self._unchecked is None:
            return
        since, handles, moved = self._unchecked
        self.cookie_due = False  # until this is answered nobody gets the key: its user may have been revoked
        revoked = self._store.revoked_since(self.user_id, since, handles, moved=moved)
        self._unchecked, self.cookie_due = None, True
        if not revoked:
            return
        self._store.delete(self.digest)
        self._settings.events.emit("ended", keys.handle(self.digest), self.user_id, "revoked")
        self._forget()
        self.stale = True
        raise SessionInterrupted(ended=True)

    def drop(self, reason: str) -> None:
        """Report that changes of this request are not stored."""
        handle = keys.handle(self.digest) if self.digest else None
        self._settings.events.emit("dropped", handle, self.user_id, reason)

    def end(self, reason: str) -> None:
        """Delete the session at once; what is left is an empty one without a key.

        Where nobody can tell which of several sessions is the visitor's, all that the request offers end.
        Raises SessionInterrupted if it lives on under another key, and StoreUnavailable; in both cases
        this request is rid of it.
        """
        try:
            if self.is_ambiguous():
                self.resolve()
            offered = self.offered[0] if self.offered and not self.settled else None
            key, user_id, rivals, superseded = self.key or offered, self.user_id, self.rivals, self.superseded
            digests = [digest for digest in (self.unreadable, key and keys.digest(key)) if digest]
        finally:
            self._forget()
            self.outcome = ENDED
        if superseded:
            self._leave_to_its_new_key()
        for digest in digests:
            self._delete(digest, user_id, reason)
        if rivals:
            self._delete_rivals(rivals, reason)

    def _delete_rivals(self, rivals: tuple[bytes, ...], reason: str) -> None:
        ended = self._store.delete_any(rivals)
        if ended:
            self._settings.events.emit("ended", reason=f"{reason}: {ended} sessions that one request offered")
        if self._store.any_moved(rivals, self.now()):
            self._leave_to_its_new_key()  # it may have been the visitor's, and no logout is told done that is not

    def _delete(self, digest: bytes, user_id: str | None, reason: str) -> None:
        if self._store.delete(digest):
            self._settings.events.emit("ended", keys.handle(digest), user_id, reason)
            return
        found = self._store.load(digest)
        if found is not None and found.is_tombstone() and found.expires_at > self.now():
            self._leave_to_its_new_key()

    def _leave_to_its_new_key(self) -> NoReturn:
        self.superseded, self.outcome = True, READ
        raise SessionInterrupted(ended=False)

    def _forget(self) -> None:
        self.values, self.settled = {}, True
        self.record = self.key = self.user_id = self.expiry = self.next_key = self._conflicts = None
        self.digest, self.unreadable, self.rivals, self._unchecked = b"", b"", (), None
        self.cookie_due = self.cookie_owed = self.restarts = self.cleared = self.forced = False
        self.superseded = self.stale = self.new = False
