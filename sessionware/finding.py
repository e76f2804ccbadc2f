"""Which session the cookies of a request name: none, one, or several of which nobody can tell the right one."""

from typing import Any

from . import keys
from .codec import Undecodable
from .events import EventKind
from .record import Record
from .settings import SessionSettings

Values = dict[str, Any]
Event = tuple[EventKind, str | None, str | None, str]  # kind, handle, user_id, reason
Found = tuple[str, bytes, Record]  # a session key, its digest, and the live row


class Finding:
    """What one request offers, and what there is of it.

    *offered* is None where no cookie of ours was sent, else the distinct session keys in it. *record* is the
    row as this request last saw it, None if there is no live session; *key* and *digest* belong to it.
    *settled* means that all this is known, or was given up. *superseded* means that the session lives on under
    a key that this request does not have: nothing is stored then, and no cookie sent.
    """

    def __init__(self, settings: SessionSettings, header: str | None) -> None:
        self._settings = settings
        self._store = settings.store
        self.offered = settings.read_cookie(header)
        self.record: Record | None = None
        self.key: str | None = None
        self.digest = b""
        self.settled = False
        self.superseded = False
        self.unreadable = b""  # the digest of a live row that does not decode here
        self.stale = False  # a cookie of ours was sent, and names no live session
        self.rivals: tuple[bytes, ...] = ()  # all digests offered, where nobody can tell which is the visitor's
        self._news: Event | None = None  # told once all is known: who hears of it may look at the session

    def now(self) -> int:
        """Return the present in whole epoch seconds."""
        return int(self._settings.clock())

    def find(self) -> Values:
        """Look up what is offered, in one statement; return the values, empty if that is no live session.

        Raises StoreUnavailable.
        """
        offered = self.offered
        if not offered:
            return self._nothing_offered()
        found = self._find_one(offered[0]) if len(offered) == 1 else self._find_among(offered)
        if found is None:
            return {}
        key, digest, record = found
        try:
            values = self.decode(record)
        except Undecodable as error:
            self.stale, self.unreadable = True, digest
            self._news = ("corrupt", keys.handle(digest), record.user_id, str(error))
            return {}
        if self.settled:
            return {}  # while a slow codec was at it
        self.key, self.digest, self.record = key, digest, record
        return values

    def decode(self, record: Record) -> Values:
        """Return the values of *record*. Raises Undecodable."""
        if record.format != self._settings.codec.format:
            raise Undecodable(f"format {record.format}")
        assert record.data is not None, "a tombstone has no values"
        if len(record.data) > self._settings.max_bytes:
            raise Undecodable("larger than max_bytes")
        return self._settings.codec.decode(record.data)

    def is_ambiguous(self) -> bool:
        """Return whether several keys were offered: what they name has to be looked up before one is believed."""
        return self.offered is not None and len(self.offered) > 1

    def is_shut(self) -> bool:
        """Return whether this request may store nothing: neither in a session that is not its own, nor beside it."""
        return self.superseded or bool(self.rivals)

    def _nothing_offered(self) -> Values:
        if self.offered is not None:
            self.stale = True
            self._news = ("malformed", None, None, "a cookie that is no session key")
        return {}

    def _find_one(self, key: str) -> Found | None:
        digest = keys.digest(key)
        record = self._store.load(digest)
        if self.settled:
            return None  # by another thread of the request while this one was waiting
        if record is not None and record.is_live(self.now()):
            return key, digest, record
        self._nothing_live({digest: key}, {} if record is None else {digest: record})
        return None

    def _find_among(self, offered: tuple[str, ...]) -> Found | None:
        digests = {keys.digest(key): key for key in offered}
        if len(offered) > keys.MAX_LOOKED_UP:
            self.rivals = tuple(digests)
            self._news = ("duplicate", None, None, "more session keys than are looked up")
            return None
        now, records = self.now(), self._store.load_any(list(digests))
        if self.settled:
            return None
        live = [digest for digest, record in records.items() if record.is_live(now)]
        if not live:
            self._nothing_live(digests, records)
            return None
        if len(live) > 1:
            # Somebody planted a cookie. Clearing ours would leave the browser with the planted one.
            self.rivals = tuple(digests)
            self._news = ("duplicate", keys.handle(live[0]), None, f"{len(live)} live sessions")
            return None
        return digests[live[0]], live[0], records[live[0]]

    def _nothing_live(self, digests: dict[bytes, str], records: dict[bytes, Record]) -> None:
        now = self.now()
        if any(record.is_tombstone() and record.expires_at > now for record in records.values()):
            self.superseded = True
            return
        self.stale = True
        for digest, record in records.items():
            if not record.is_tombstone():
                self._news = ("ended", keys.handle(digest), record.user_id, "expired")
                return
        self._news = ("unknown", keys.handle(next(iter(digests))), None, "no such session")
