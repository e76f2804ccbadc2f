"""What happened to sessions, for logs and for the application's own hook."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

logger = logging.getLogger("sessionware")

EventKind = Literal[
    "created",  # a first row was stored
    "rotated",  # the session got a new key
    "ended",  # the reason begins with logout, login, revoked or expired
    "merged",  # two requests changed the session at once
    "unknown",  # a well-formed key that names no row
    "malformed",  # a cookie of our name that is no key
    "duplicate",  # one request, two live sessions, or more keys than are looked up
    "corrupt",  # a row that does not decode; it is left for inspection
    "dropped",  # a change that could not be stored
    "purged",  # expired rows were removed
]

_WARNINGS = frozenset({"duplicate", "corrupt", "dropped"})


@dataclass(frozen=True, slots=True)
class SessionEvent:
    """One thing that happened to a session.

    *handle* is the session's public name (None where there is no session), *user_id* the user it was
    logged in as (None for nobody, or not known), *reason* a short text, *at* epoch seconds.
    """

    kind: EventKind
    handle: str | None
    user_id: str | None
    reason: str
    at: float


class Events:
    """Send each event to the log, and to *on_event* if there is one."""

    def __init__(self, on_event: Callable[[SessionEvent], object] | None, clock: Callable[[], float]) -> None:
        self._on_event = on_event
        self._clock = clock

    def with_hook(self, on_event: Callable[[SessionEvent], object] | None, clock: Callable[[], float]) -> "Events":
        """Return these events, or, if *on_event* is another hook, ones that call it."""
        if on_event in (None, self._on_event) and clock is self._clock:
            return self
        return Events(on_event or self._on_event, clock)

    def emit(self, kind: EventKind, handle: str | None = None, user_id: str | None = None, reason: str = "") -> None:
        """Log the event and call the hook; a hook that raises is logged and has no other effect."""
        level = logging.WARNING if kind in _WARNINGS else logging.INFO
        if self._on_event is None and not logger.isEnabledFor(level):
            return
        event = SessionEvent(kind, handle, user_id, reason, self._clock())
        logger.log(level, "session %s (handle %s): %s", kind, handle, reason or "-", extra={"event": event})
        if self._on_event is not None:
            self._call(self._on_event, event)

    def _call(self, hook: Callable[[SessionEvent], object], event: SessionEvent) -> None:
        # CVE-2021-34428: a listener that raises must never keep a session from ending.
        try:
            hook(event)
        except Exception as error:
            logger.error("on_event raised %s for a %s event", type(error).__name__, event.kind)
