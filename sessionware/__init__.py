"""Server-side sessions for any WSGI application, kept in the SQL database it already has.

The way of a request, in the order of the files:

    middleware   WSGI in, WSGI out: process_request, process_response
    exchange     one call of the application, its answer held back until the session is decided
    responses    the 400 and 503 that the middleware answers itself
    headers      what a response must say to caches
    session      the lazy mapping that the application sees
    lifecycle    what the application asks of it: changed at once, logged in, rotated, extended
    saving       what is stored of it, merged with what others have stored, and how it ends
    finding      which session the cookies of a request name
    settings     what all sessions of one middleware share
    merge        what I changed and what the other request changed, both kept
    cookie       the Cookie header -> session keys; a session key -> Set-Cookie
    store        the verbs for people: create, list, revoke, purge
    marks        what a revocation leaves for the logins that are under way
    purge        removing expired rows in batches
    rows         records <-> rows, one statement or transaction for each verb
    table        the table and its statements
    schema       creating it while many processes start
    database     statements and transactions run until done, and their errors made ours
    connections  lent for one step, and given back
    statement    SQL compiled once, run on a driver's cursor
    engine       the engine made for a URL
    trouble      what a driver's error means
    codec        values <-> text
    record       one row, and when it ends
    keys         the secret, and its digest
    events       what happened, for logs and hooks
    options      checks of single options
    errors       everything that can go wrong, as one tree

Words: the *session key* is the secret in the cookie; its *digest* is the primary key of the row; the
*values* are the dictionary; a *record* is one row; its *revision* is what a save must find unchanged;
a *handle* names a session in lists and is no credential; the *outcome* is what a request did to it.
"""

from .codec import Codec, TaggedJSON, Undecodable
from .errors import (
    ConfigurationError,
    ResponseStarted,
    SessionConflict,
    SessionInterrupted,
    SessionTooLarge,
    SessionwareError,
    StoreUnavailable,
    UnstorableValue,
)
from .events import SessionEvent
from .merge import MISSING
from .middleware import SessionMiddleware
from .record import Lifetime
from .session import Session, get_session
from .store import SessionInfo, SessionStore
from .table import make_table

__all__ = [
    "MISSING",
    "Codec",
    "ConfigurationError",
    "Lifetime",
    "ResponseStarted",
    "Session",
    "SessionConflict",
    "SessionEvent",
    "SessionInfo",
    "SessionInterrupted",
    "SessionMiddleware",
    "SessionStore",
    "SessionTooLarge",
    "SessionwareError",
    "StoreUnavailable",
    "TaggedJSON",
    "Undecodable",
    "UnstorableValue",
    "get_session",
    "make_table",
]
