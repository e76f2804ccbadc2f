"""Everything that can go wrong, as one tree.

    SessionwareError
    ├── ConfigurationError (ValueError)   a wrong or contradictory option, or no middleware around the application
    ├── SessionInterrupted                another request ended or rotated this session meanwhile: 400
    ├── SessionTooLarge (ValueError)      the encoded values exceed ``max_bytes``
    ├── UnstorableValue (TypeError)       a value that JSON with type tags cannot hold
    ├── SessionConflict                   ``atomic`` could not get its turn: 503
    ├── ResponseStarted                   a new session was needed after the headers had left
    └── StoreUnavailable                  the database did not answer: 503

Absent, expired, malformed and unknown sessions are not errors: they read as an empty session.
No message holds a session key, a stored value or a driver's text.
"""


class SessionwareError(Exception):
    """The base of every error this package raises on purpose."""


class ConfigurationError(SessionwareError, ValueError):
    """A wrong or contradictory option; the message names the rule it breaks."""


class SessionInterrupted(SessionwareError):
    """The session was ended or given a new key by another request while this one was running.

    *ended* is True where no session is left (logged out, revoked, expired): the browser's cookie is
    then cleared. It is False where the session goes on under a new key that the browser may hold already.
    """

    def __init__(self, message: str | None = None, *, ended: bool = False) -> None:
        self.ended = ended
        how = "was ended" if ended else "was given a new key"
        super().__init__(message or f"The session {how} by another request; nothing of this one was stored.")


class SessionTooLarge(SessionwareError, ValueError):
    """The encoded values are larger than ``max_bytes``; nothing was stored."""


class UnstorableValue(SessionwareError, TypeError):
    """A value cannot be stored faithfully; the message names the path to it. Nothing was stored."""


class SessionConflict(SessionwareError):
    """``atomic`` did not get its turn within its bounds; nothing was stored."""


class ResponseStarted(SessionwareError):
    """A new session cannot begin: the headers, and with them the cookie, have already been sent."""


class StoreUnavailable(SessionwareError):
    """The database did not do what it was asked, or did not say whether it had.

    *busy* is True where it answers, but a lock or a free connection did not come within our patience.
    """

    def __init__(self, message: str = "The database does not answer.", *, busy: bool = False) -> None:
        self.busy = busy
        super().__init__(message)


ANSWERED = (SessionInterrupted, StoreUnavailable, SessionConflict)
"""What the middleware answers itself, with 400 or 503, where the application lets it pass."""
