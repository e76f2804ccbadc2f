"""The session cookie: session keys out of a request's header, and the header that sets or clears it.

Reading is our own: WebOb's and the standard library's parsers take quadratic time, let disguised names
override a ``__Host-`` cookie, and raise on a bad byte in anybody's cookie. Writing is WebOb's.
"""

import re
from typing import Any

from webob.cookies import make_cookie

from .errors import ConfigurationError
from .keys import KEY_LENGTH, is_key, new_key

# Browsers keep 180 to 600 cookies for a host, and common servers take 8 KB in a header: a request with
# more keys was written by hand, and has no visitor to log out.
MAX_OFFERED = 1000

# RFC 6265bis 5.5: browsers cut every lifetime to 400 days.
MAX_AGE_LIMIT = 34_560_000

MAX_HEADER_BYTES = 512

_is_token = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
_is_domain = re.compile(
    r"\.?[0-9A-Za-z]([0-9A-Za-z-]*[0-9A-Za-z])?(\.[0-9A-Za-z]([0-9A-Za-z-]*[0-9A-Za-z])?)*"
).fullmatch
_is_path = re.compile(r"/[!-:<-~]*").fullmatch


# Between two pairs, as browsers write it.
_BEFORE_A_PAIR = ("", "; ")
_AFTER_A_PAIR = ("", ";")


class SessionCookie:
    """Name and attributes of the session cookie, checked once; every cookie of ours has the same ones.

    *name* None takes the strongest prefix that the other options allow. Raises ConfigurationError for
    what a browser would refuse (RFC 6265bis) or what could break out of the header.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        domain: str | None = None,
        path: str = "/",
        secure: bool = True,
        httponly: bool = True,
        samesite: str = "Lax",
        partitioned: bool = False,
    ) -> None:
        if name is None:
            name = default_name(domain=domain, path=path, secure=secure)
        _check_parts(name, domain, path, samesite)
        _check_prefix(name, domain=domain, path=path, secure=secure, httponly=httponly)
        _check_secure(secure=secure, samesite=samesite, partitioned=partitioned)
        self.name = name
        self.secure = secure
        self._wanted = f"{name}="
        self._attributes = _attributes(domain, path, secure, httponly, samesite, partitioned)
        if len(self.issue(new_key(), MAX_AGE_LIMIT)) > MAX_HEADER_BYTES:
            raise ConfigurationError(
                f"cookie_name, cookie_domain and cookie_path: the header exceeds {MAX_HEADER_BYTES} bytes."
            )

    def read(self, header: str | None) -> tuple[str, ...] | None:
        """Return the distinct session keys in the ``Cookie`` *header*, in its order; empty if ours hold no key.

        None: there is no header, or no cookie of ours in it. A pair counts if it stands between semicolons
        as exactly ``name=key``, but for spaces and tabs around it. Nothing is unquoted or decoded, nothing
        raises, and the time is linear.
        """
        if header is None:
            return None
        wanted = self._wanted
        before, found, rest = header.partition(wanted)
        if not found:
            return None
        # The one good cookie that nearly every request brings, in a third of the time.
        key, after = rest[:KEY_LENGTH], rest[KEY_LENGTH:]
        if before[-2:] in _BEFORE_A_PAIR and after[:1] in _AFTER_A_PAIR and wanted not in after and is_key(key):
            return (key,)
        pairs = [pair.strip(" \t") for pair in header.split(";") if wanted in pair]
        values = [pair[len(wanted) :] for pair in pairs if pair.startswith(wanted)]
        return tuple(dict.fromkeys(filter(is_key, values)))[:MAX_OFFERED] if values else None

    def issue(self, session_key: str, max_age: int | None) -> str:
        """Return the ``Set-Cookie`` value for *session_key*; *max_age* in seconds, None: until the browser closes."""
        if max_age is None:
            return f"{self._wanted}{session_key}{self._attributes}"
        return f"{self._wanted}{session_key}{self._attributes}; Max-Age={min(max_age, MAX_AGE_LIMIT)}"

    def clear(self) -> str:
        """Return the ``Set-Cookie`` value that removes the cookie.

        It has the attributes of creation: without them browsers keep a prefixed or partitioned cookie.
        """
        return f"{self._wanted}{self._attributes}; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT"


def default_name(*, domain: str | None, path: str, secure: bool) -> str:
    """Return ``sessionid`` with the strongest prefix that these attributes allow."""
    if not secure:
        return "sessionid"
    return "__Host-sessionid" if domain is None and path == "/" else "__Secure-sessionid"


def _attributes(domain: str | None, path: str, secure: bool, httponly: bool, samesite: Any, partitioned: bool) -> str:
    """Return what follows ``name=value``: the same in every header, so that WebOb writes it once."""
    placeholder = make_cookie("n", "v", path="/", domain=domain, secure=secure, httponly=httponly, samesite=samesite)
    written = placeholder.removeprefix("n=v").replace("; secure", "; Secure")
    written = re.sub("samesite=[a-z]+", f"SameSite={samesite.capitalize()}", written, flags=re.IGNORECASE)
    written = written.replace("; Path=/", f"; Path={path}")  # WebOb escapes what browsers take as it stands
    return f"{written}; Partitioned" if partitioned else written


def _check_parts(name: str, domain: str | None, path: str, samesite: str) -> None:
    if not isinstance(name, str) or not _is_token(name):
        raise ConfigurationError("cookie_name must be a token (RFC 6265): letters, digits and !#$%&'*+-.^_`|~.")
    if domain is not None and (not isinstance(domain, str) or not _is_domain(domain)):
        raise ConfigurationError("cookie_domain must be a host name in ASCII, or None.")
    if not isinstance(path, str) or not _is_path(path):
        raise ConfigurationError("cookie_path must begin with / and be printable ASCII without semicolons.")
    if not isinstance(samesite, str) or samesite.lower() not in ("lax", "strict", "none"):
        raise ConfigurationError('cookie_samesite must be "Lax", "Strict" or "None" (a string).')


_PREFIXES = ("__Host-Http-", "__Host-", "__Http-", "__Secure-")


def _check_prefix(name: str, *, domain: str | None, path: str, secure: bool, httponly: bool) -> None:
    prefix = next((prefix for prefix in _PREFIXES if name.lower().startswith(prefix.lower())), None)
    if prefix is None:
        return
    if not name.startswith(prefix):
        raise ConfigurationError(f"cookie_name: the prefix must be written {prefix} exactly (RFC 6265bis).")
    if not secure:
        raise ConfigurationError(f"cookie_name with {prefix} needs cookie_secure=True (RFC 6265bis).")
    if "Host" in prefix and (domain is not None or path != "/"):
        raise ConfigurationError(
            f'cookie_name with {prefix} allows no cookie_domain and only cookie_path="/" (RFC 6265bis).'
        )
    if "Http" in prefix and not httponly:
        raise ConfigurationError(f"cookie_name with {prefix} needs cookie_httponly=True (RFC 6265bis).")


def _check_secure(*, secure: bool, samesite: str, partitioned: bool) -> None:
    if not secure and samesite.lower() == "none":
        raise ConfigurationError('cookie_samesite="None" needs cookie_secure=True (RFC 6265bis).')
    if not secure and partitioned:
        raise ConfigurationError("cookie_partitioned needs cookie_secure=True (CHIPS).")
