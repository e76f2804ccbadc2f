"""Stores that break a promise each, as stores in the wild do: what checks promises must fail on them."""

import os
from collections.abc import Callable, Mapping
from typing import Any

from sessionware import SessionStore
from sessionware.lifecycle import Lifecycle
from sessionware.record import Record


def last_write_wins() -> None:
    """Save the whole of what was loaded over whatever is there by now."""

    def update(self: SessionStore, digest: bytes, record: Record, base: int, now: int, **how: bool) -> bool | None:
        found = self.load(digest)
        return found is not None and genuine(self, digest, record, found.revision, now, **how)

    genuine = SessionStore.update
    SessionStore.update = update  # type: ignore[method-assign]


def upsert() -> None:
    """Store a session that is not there as if it were new."""

    def update(self: SessionStore, digest: bytes, record: Record, base: int, now: int, **how: bool) -> bool | None:
        if genuine(self, digest, record, base, now, **how):
            return True
        found = self.load(digest)
        return self.insert(digest, record) if found is None else False

    genuine = SessionStore.update
    SessionStore.update = update  # type: ignore[method-assign]


def early_acknowledgement() -> None:
    """Answer before the commit, which some commits do not outlive."""
    turns = {"taken": 0}

    def update(self: SessionStore, digest: bytes, record: Record, base: int, now: int, **how: bool) -> bool | None:
        turns["taken"] += 1
        return True if turns["taken"] % 5 == 0 else genuine(self, digest, record, base, now, **how)

    genuine = SessionStore.update
    SessionStore.update = update  # type: ignore[method-assign]


def old_key_lives_on() -> None:
    """Give a session a new key and leave it under the old one, too."""

    def rotate(self: SessionStore, digest: bytes, new: bytes, record: Record, base: int, now: int) -> bool | None:
        return self.load(digest) is not None and self.insert(new, record)

    SessionStore.rotate = rotate  # type: ignore[method-assign]


def shared_dictionary() -> None:
    """Keep the values of all sessions in one dictionary of the process."""
    shared: dict[str, Any] = {}

    def find(self: Lifecycle) -> dict[str, Any]:
        found = genuine(self)
        shared.update(found)
        return found if self.record is None else shared

    genuine = Lifecycle.find
    Lifecycle.find = find  # type: ignore[method-assign]


def kept_connection() -> None:
    """Take a connection for a request and forget to give it back."""
    kept: list[Any] = []

    def load(self: SessionStore, digest: bytes) -> Record | None:
        if not kept:
            kept.append(self.database.engine.connect())
        return genuine(self, digest)

    genuine = SessionStore.load
    SessionStore.load = load  # type: ignore[method-assign]


def rows_of_nobody() -> None:
    """Leave a row behind at each save, under a key that nobody has been given."""

    def update(self: SessionStore, digest: bytes, record: Record, base: int, now: int, **how: bool) -> bool | None:
        self.insert(os.urandom(32), record)
        return genuine(self, digest, record, base, now, **how)

    genuine = SessionStore.update
    SessionStore.update = update  # type: ignore[method-assign]


BREAKAGES: Mapping[str, Callable[[], None]] = {
    breakage.__name__: breakage
    for breakage in (
        *(last_write_wins, upsert, early_acknowledgement, old_key_lives_on, shared_dictionary),
        *(kept_connection, rows_of_nobody),
    )
}
