"""What one request does to its session, as the application asks for it: changed, rotated, extended.

What that leads to in the table is in `saving`.
"""

import random
import time
from collections.abc import Callable
from typing import TypeVar

from . import keys
from .codec import Undecodable
from .errors import SessionConflict, SessionInterrupted, StoreUnavailable
from .finding import Values
from .merge import adopt, same
from .record import Record, new_revision
from .saving import ENDED, FREE_ATTEMPTS, PAUSE_SECONDS, READ, SAVED, TOUCHED, Saving

T = TypeVar("T")


class Lifecycle(Saving):
    """One session during one request."""

    def second_run(self) -> "Lifecycle | None":
        """Return what a second run of the request begins with; None: with the cookie, as the first did."""
        life = Lifecycle(self._settings, None)
        if self.record is not None and (self.cookie_due or self.cookie_owed):
            assert self.key is not None, "a stored session has a key"
            life.offered, life.cookie_owed = (self.key,), True  # which the browser has not got yet
        elif self.outcome is ENDED:
            life._forget()
            life.offered, life.outcome = self.offered, ENDED
        else:
            return None
        return life

    # Changed

    def atomic(self, change: Callable[[Values], T], *, newest: bool = False) -> T:
        """Run *change* on the newest stored values and store the result, again until nobody came between.

        *newest*: the values were loaded for this. If they were not, and *change* changes nothing, they are
        loaded again before that is believed.
        """
        self.resolve()
        self.refuse_if_shut()
        if self.record is not None and (self.cleared or self.next_key is not None):
            self._store_first()
        if self.record is None:
            return self._atomic_new(change)
        self._encode(self.open())  # what cannot be stored is refused now, and not after the change is made
        found: Record | None = self.record
        if not self.record.is_live(self.now()):
            found, newest = self._store.load(self.digest), True  # it may have been extended since
        for attempt in range(FREE_ATTEMPTS):
            done = self._atomic_over(self._newest(found), change, newest=newest)
            if done is not None:
                return done[0]
            time.sleep(random.uniform(0, PAUSE_SECONDS * attempt))
            found, newest = self._store.load(self.digest), True
        return self._atomic_locked(change)

    def _atomic_over(self, live: Record, change: Callable[[Values], T], *, newest: bool) -> tuple[T] | None:
        """Return what *change* of *live* returned, once it is stored; None if it has to be made of a newer record."""
        try:
            draft, result = self._changed(live, change)
        except Exception as error:
            if newest or isinstance(error, SessionInterrupted):
                raise
            return None  # what it objected to may be different by now
        made = newest if draft is live else self._store_over(live, draft)
        if not made:
            return None
        self._rebase(draft)
        return (result,)

    def _store_over(self, live: Record, draft: Record) -> bool:
        later = draft.expires_at >= live.expires_at
        stored = self._store.update(self.digest, draft, live.revision, self.now(), later=later, aside=True)
        if stored is None:
            raise StoreUnavailable("The connection broke, and whether the change was stored cannot be told.")
        if stored:
            self._note_saved()
        return stored

    def _note_saved(self) -> None:
        self.outcome = SAVED if self.outcome is READ else self.outcome

    def _store_first(self) -> None:
        """Let go what is to go before a change can see it, and the old key before it can see the change."""
        expiry = self.expiry
        self.save_aside(self._encode(self.open()))
        if self.record is None:
            self.expiry = expiry  # one in the past has ended it, and holds for what follows

    def _atomic_new(self, change: Callable[[Values], T]) -> T:
        decode, text = self._settings.codec.decode, self._encode(self.open())
        values = decode(text)
        result = change(values)
        if same(values, decode(text)):
            return result
        text = self._encode(values)
        kept = bool(values) or self.user_id is not None
        if kept:
            self.save(text)
        if not kept or self.record is not None:
            adopt(self.open(), decode(text))
        return result

    def _atomic_locked(self, change: Callable[[Values], T]) -> T:
        done: list[tuple[Record, T]] = []

        def under_lock(found: Record | None) -> Record:
            done.append(self._changed(self._newest(found), change))
            return done[-1][0]

        busy = False
        try:
            self._store.modify(self.digest, under_lock, self.now())
        except StoreUnavailable as error:
            if not error.busy:
                raise
            busy = True
        if busy:  # raised out here, it remembers no error whose frames hold values
            raise SessionConflict("Other requests kept this session busy; the change was not stored.")
        draft, result = done[-1]
        self._note_saved()
        self._rebase(draft)
        return result

    def _newest(self, found: Record | None) -> Record:
        if found is None or not found.is_live(self.now()):
            self._interrupt(found)
        return found

    def _changed(self, found: Record, change: Callable[[Values], T]) -> tuple[Record, T]:
        """Return what *change* makes of *found*, which is *found* itself if nothing differs, and what it returned."""
        try:
            values = self.decode(found)
        except Undecodable:
            self._interrupt(None)  # another release has rewritten it meanwhile
        result = change(values)
        text = self._encode(values)
        if not self._differs(text, values, found):
            return found, result
        now = max(self.now(), found.used_at)
        end = self._end_aside(found, self._settings.lifetime.expires_at(found.created_at, now, found.expiry))
        return found._replace(data=text, revision=new_revision(), expires_at=end), result

    def _rebase(self, draft: Record) -> None:
        """Go on from *draft*, which is stored; what this request has changed besides waits for its save."""
        assert self.record is not None, "only a stored session is rebased"
        if draft.revision == self.record.revision:
            return
        conflicts = self._go_on_from(draft, self.decode(self.record), self.decode(draft))
        if conflicts:
            self._report_merge(conflicts)

    def cycle_key(self) -> None:
        """Have the session stored under a new key at its next save; one that is not stored gets a new key anyway."""
        self.resolve()
        self.admitted_at = time.time()  # an order of events between processes, so not the injected clock
        if self.record is not None:
            self.next_key = keys.new_key()

    def login(self, user_id: str) -> None:
        """Make the session *user_id*'s: another user's values go, the key is cycled, its age begins anew."""
        self.resolve()
        values, expiry = self.open(), self.expiry
        if self.superseded:
            self._forget()  # its answer may have been lost on the way; who may log in now can have a new session
        if self.unreadable:
            digest, self.unreadable = self.unreadable, b""
            self._delete(digest, None, "login")
        if self.rivals:
            self.end("login")  # whichever was the visitor's: the browser is to have one session from now on
        self.values, self.expiry = values, expiry  # what this request has set itself
        if self.user_id not in (None, user_id):
            values.clear()
            self.cleared = True
            self.expiry = None
        self.user_id = user_id
        self.restarts = True
        self.cycle_key()
        self.next_key = self.next_key or keys.new_key()  # known before it is stored: revoke_user may keep it

    def clear(self) -> None:
        """Drop all values, also those that other requests add before the save, without loading them."""
        if self.values is None:
            self.values = {}
        self.values.clear()
        self.cleared = True

    # Used

    def is_over(self) -> bool:
        """Return whether the browser has a cookie of ours that is of no more use."""
        return (self.stale or self.outcome is ENDED) and self.offered is not None

    def max_age(self) -> int | None:
        """Return how many seconds the cookie may live from now; None: until the browser closes."""
        lifetime, record = self._settings.lifetime, self.record
        if record is None:  # extended unseen: of default lifetime
            return lifetime.max_age(lifetime.idle, None)
        return lifetime.max_age(record.expires_at - record.used_at, record.expiry)

    def touch(self) -> None:
        """Extend the session if its use is worth a write.

        A database that fails here fails nobody: the values have been read, and the next use tries again.
        """
        record, now, lifetime = self.record, self.now(), self._settings.lifetime
        if record is None or self.new or now < record.used_at:
            return
        if not (self._settings.extend_always or lifetime.is_due(record, now)):
            return
        end = lifetime.expires_at(record.created_at, now, record.expiry)
        try:
            hit = self._store.touch(self.digest, record._replace(expires_at=end), now)
        except StoreUnavailable as error:
            self._settings.events.emit("dropped", keys.handle(self.digest), self.user_id, f"not extended: {error}")
            return
        if hit:
            self.record = record._replace(used_at=now, expires_at=end)
            self.outcome = TOUCHED if self.outcome is READ else self.outcome
            self.cookie_due = True

    def touch_unseen(self) -> None:
        """Extend the session that the cookie names, used or not; in one statement where its lifetime is the default."""
        try:
            self._touch_unseen()
        except StoreUnavailable as error:
            self._settings.events.emit("dropped", keys.as_handle(self.known_key()), reason=f"not extended: {error}")

    def _touch_unseen(self) -> None:
        lifetime = self._settings.lifetime
        if self.offered and not self.is_ambiguous():
            key = self.offered[0]
            if self._store.touch_unseen(keys.digest(key), lifetime, self.now()):
                self.key, self.outcome, self.cookie_due = key, TOUCHED, True
                return
        self.resolve()
        self.touch()
