"""A shared HTTP cache that stores whatever RFC 9111 lets it store, Set-Cookie and all."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any
from wsgiref.util import request_uri

from tests.support.wsgi import Reply, WSGIApp, serve

HEURISTIC_STATUSES = {200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501}
UNDERSTOOD_STATUSES = HEURISTIC_STATUSES | {302, 303, 307, 400, 401, 403, 500, 502, 503}
SAFE_METHODS = {"GET", "HEAD", "OPTIONS", "TRACE"}
DIRECTIVE = re.compile(r'([^\s,=;]+)\s*(?:=\s*("(?:[^"\\]|\\.)*"|[^\s,;]+))?')

Directives = dict[str, str]


@dataclass
class _Stored:
    reply: Reply
    vary: dict[str, str | None]
    at: float
    lifetime: float


class SharedCache:
    """A WSGI application in front of another: one visitor's response may be served to all.

    *default_lifetime* is for responses that say nothing of theirs; common caches take two minutes.
    """

    def __init__(self, app: WSGIApp, clock: Callable[[], float], default_lifetime: float = 120.0) -> None:
        self.hits = 0
        self.misses = 0
        self._app = app
        self._clock = clock
        self._default_lifetime = default_lifetime
        self._stored: dict[str, list[_Stored]] = {}

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        found = self._find(environ)
        reply = self._fetch(environ) if found is None else self._hit(found)
        start_response(f"{reply.status} {reply.reason}", reply.headers)
        return [reply.body]

    @property
    def replies(self) -> list[Reply]:
        """Everything that is stored."""
        return [stored.reply for variants in self._stored.values() for stored in variants]

    def _find(self, environ: dict[str, Any]) -> _Stored | None:
        asked = directives([environ.get("HTTP_CACHE_CONTROL", "")])
        if environ["REQUEST_METHOD"] != "GET" or asked.keys() & {"no-cache", "no-store"}:
            return None
        for stored in reversed(self._stored.get(request_uri(environ), [])):
            fresh = self._clock() < stored.at + stored.lifetime
            if fresh and all(_field(environ, name) == value for name, value in stored.vary.items()):
                return stored
        return None

    def _hit(self, stored: _Stored) -> Reply:
        self.hits += 1
        age = str(int(self._clock() - stored.at))
        headers = [pair for pair in stored.reply.headers if pair[0].lower() != "age"]
        return Reply(stored.reply.status, stored.reply.reason, [*headers, ("Age", age)], stored.reply.body)

    def _fetch(self, environ: dict[str, Any]) -> Reply:
        self.misses += 1
        reply = serve(self._app, environ)
        url = request_uri(environ)
        if environ["REQUEST_METHOD"] not in SAFE_METHODS and reply.status < 400:
            self._stored.pop(url, None)
        if self._may_store(environ, reply):
            vary = {name: _field(environ, name) for name in _listed(reply, "Vary")}
            self._stored.setdefault(url, []).append(_Stored(reply, vary, self._clock(), self._lifetime(reply)))
        return reply

    def _may_store(self, environ: dict[str, Any], reply: Reply) -> bool:
        asked, said = directives([environ.get("HTTP_CACHE_CONTROL", "")]), _said(reply)
        if environ["REQUEST_METHOD"] != "GET" or reply.status not in UNDERSTOOD_STATUSES:
            return False
        if "no-store" in asked or said.keys() & {"no-store", "private", "no-cache"}:
            return False  # no-cache would have to be validated at each use, which is as good as not stored
        if "*" in _listed(reply, "Vary"):
            return False
        if "HTTP_AUTHORIZATION" in environ and not said.keys() & {"public", "s-maxage", "must-revalidate"}:
            return False
        return self._lifetime(reply) > 0

    def _lifetime(self, reply: Reply) -> float:
        said = _said(reply)
        for name in ("s-maxage", "max-age"):
            if name in said:
                return float(said[name]) if said[name].isdecimal() else 0.0  # nonsense counts as stale
        if reply.all("Expires") and not reply.all("CDN-Cache-Control"):
            return self._until(reply.all("Expires")[0])
        if reply.status in HEURISTIC_STATUSES or "public" in said:
            return self._default_lifetime
        return 0.0

    def _until(self, expires: str) -> float:
        date = _date(expires)
        return 0.0 if date is None else date.timestamp() - self._clock()


def directives(values: Iterable[str]) -> Directives:
    """Return the directives of Cache-Control headers, names in lower case; the first of a name counts."""
    found: Directives = {}
    for name, value in DIRECTIVE.findall(",".join(values)):
        found.setdefault(name.lower(), value.strip('"'))
    return found


def _said(reply: Reply) -> Directives:
    """What the reply says to us: a header aimed at shared caches takes the place of the general one."""
    return directives(reply.all("CDN-Cache-Control") or reply.all("Cache-Control"))


def _listed(reply: Reply, header: str) -> list[str]:
    names = ",".join(reply.all(header)).split(",")
    return [name.strip().lower() for name in names if name.strip()]


def _field(environ: dict[str, Any], name: str) -> str | None:
    key = name.upper().replace("-", "_")
    value = environ.get(key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}")
    return None if value is None else str(value)


def _date(text: str) -> datetime | None:
    try:
        return parsedate_to_datetime(text)
    except ValueError:
        return None
