"""The session key: the secret in the cookie, and the digest that stands for it in the table."""

import hashlib
import re
import secrets
from collections.abc import Callable
from typing import TypeVar

from .errors import StoreUnavailable

T = TypeVar("T")

KEY_LENGTH = 43
KEY_PATTERN = rf"[A-Za-z0-9_-]{{{KEY_LENGTH}}}"

_matches = re.compile(KEY_PATTERN).fullmatch

HANDLE_BYTES = 16

# More keys than that in one request are no accident. Those in front are not looked up either: they would
# be chosen by their position, which is an attacker's to choose.
MAX_LOOKED_UP = 4

# A second new key that exists already is no chance: the random source is broken.
ATTEMPTS = 5


class KeyTaken(Exception):
    """A new session key exists already; the session that has it is untouched."""


def new_key() -> str:
    """Return a new session key: 256 random bits from the operating system in 43 URL-safe characters."""
    return secrets.token_urlsafe(32)


def under_free_key(session_key: str | None, place: Callable[[str], T]) -> tuple[str, T]:
    """Call *place* with *session_key*, None: a new one, and with new ones while that raises KeyTaken.

    Returns the key that was free, and what *place* returned. Raises StoreUnavailable.
    """
    for _ in range(ATTEMPTS):
        key = session_key or new_key()
        try:
            return key, place(key)
        except KeyTaken:
            session_key = None
    raise StoreUnavailable("Every new session key existed already: the random source is broken.")


def is_key(value: str) -> bool:
    """Return whether *value* has the one shape that a session key can have (OWASP: untrusted input)."""
    return _matches(value) is not None


def digest(session_key: str) -> bytes:
    """Return the 32 bytes under which the session of *session_key* is stored.

    A plain SHA-256 suffices: nobody can search 256 random bits. Whoever reads the table gets no
    usable cookie (CVE-2019-16782), and the index never compares a secret.
    """
    return hashlib.sha256(session_key.encode("ascii")).digest()


def handle(row_digest: bytes) -> str:
    """Return the public name of a session: half of its digest, in 32 hexadecimal characters."""
    return row_digest[:HANDLE_BYTES].hex()


def handle_range(name: str) -> tuple[bytes, bytes] | None:
    """Return the lowest and highest digest that the handle *name* can stand for; None if it is no handle."""
    if not isinstance(name, str) or re.fullmatch(r"[0-9a-f]{32}", name) is None:
        return None
    prefix = bytes.fromhex(name)
    rest = 32 - HANDLE_BYTES
    return prefix + b"\x00" * rest, prefix + b"\xff" * rest


def as_handle(name: str | None) -> str | None:
    """Return *name*, a handle or a session key, as a handle; None if it is None."""
    return handle(digest(name)) if isinstance(name, str) and is_key(name) else name


def checked_user_id(user_id: str | int) -> str:
    """Return *user_id* as the text under which its sessions are stored and found.

    Surrounding blanks are refused because MariaDB would not tell them apart. Raises ValueError for
    what cannot be stored, TypeError for what is neither text nor a whole number.
    """
    if type(user_id) is int:
        user_id = str(user_id)
    if type(user_id) is not str:
        raise TypeError("user_id must be str or int.")
    if not 0 < len(user_id) <= 255 or user_id != user_id.strip() or not user_id.isprintable():
        raise ValueError("user_id must have 1 to 255 printable characters and no blanks around them.")
    return user_id
