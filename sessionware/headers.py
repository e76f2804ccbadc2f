"""What a response must say to caches about sessions. Lists in, lists out; nothing passed in is altered."""

import re
from operator import itemgetter

Headers = list[tuple[str, str]]

_name_of = itemgetter(0)

VARY = ("Vary", "Cookie")
NO_STORE = ("Cache-Control", "no-store")
CLEAR_SITE_DATA = ("Clear-Site-Data", '"cache", "cookies", "storage"')

# What stands in quotes is no directive: private="x, no-store" lets caches store.
_quoted = re.compile(r'"(?:[^"\\]|\\.)*(?:"|$)')


def are_plain(headers: Headers) -> bool:
    """Return whether *headers* say nothing yet of what the functions below look for: then ours can just be added."""
    names = "\n".join(map(_name_of, headers)).lower()
    return not ("vary" in names or "set-cookie" in names or "control" in names)


def vary_on_cookie(headers: Headers) -> Headers:
    """Return *headers* with ``Cookie`` in Vary, once (RFC 9110); an existing ``*`` says more and stays alone.

    Without it a cache gives one visitor's page to another (CVE-2014-1418, CVE-2026-27205).
    """
    for name, _ in headers:
        if name.lower() == "vary":
            return _with_cookie_in_vary(headers)
    return [*headers, VARY]


def _with_cookie_in_vary(headers: Headers) -> Headers:
    rest = [pair for pair in headers if pair[0].lower() != "vary"]
    lines = [value for name, value in headers if name.lower() == "vary"]
    fields = [field.strip() for line in lines for field in line.split(",") if field.strip()]
    if "*" in fields:
        return [*rest, ("Vary", "*")]
    if "cookie" not in (field.lower() for field in fields):
        fields.append("Cookie")
    return [*rest, ("Vary", ", ".join(fields))]


def set_cookie(headers: Headers, name: str, value: str) -> Headers:
    """Return *headers* with this Set-Cookie last, no other for the cookie *name*, and closed to caches.

    One response has one cookie of a name (RFC 6265bis, 4.1.1).
    """
    ours = f"{name}="
    kept = [pair for pair in headers if not (pair[1].startswith(ours) and pair[0].lower() == "set-cookie")]
    kept.append(("Set-Cookie", value))
    return forbid_storing(kept)


def forbid_storing(headers: Headers) -> Headers:
    """Return *headers* such that no cache may store the response.

    A Set-Cookie alone does not keep a shared cache from storing and replaying it (RFC 9111, 7.3), and
    the headers addressed to CDNs override Cache-Control (RFC 9213).
    """
    kept, forbidden = [], []
    for pair in headers:
        name = pair[0].lower()
        if not name.endswith(("cache-control", "surrogate-control")):
            kept.append(pair)
        elif name == "cache-control" and _forbids(pair[1]):
            forbidden.append(pair)
    return [*kept, *(forbidden or [NO_STORE])]


def _forbids(value: str) -> bool:
    directives = [directive.strip().lower() for directive in _quoted.sub("", value).split(",")]
    # RFC 9111, 5.2.2.3: a cache that knows must-understand ignores no-store beside it.
    return "no-store" in directives and "must-understand" not in directives
