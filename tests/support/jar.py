"""A browser's cookie jar, after RFC 6265bis section 5 and the partitions of CHIPS."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from urllib.parse import SplitResult, urlsplit

MAX_PAIR = 4096
MAX_ATTRIBUTE = 1024
MAX_AGE = 400 * 24 * 3600

CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
SPACE = " \t"
ADDRESS = re.compile(r"[\d.]+|\[.*\]")
DELIMITER = re.compile(r"[\x09\x20-\x2f\x3b-\x40\x5b-\x60\x7b-\x7e]+")
TIME = re.compile(r"(\d{1,2}):(\d{1,2}):(\d{1,2})(?!\d)")
DAY = re.compile(r"(\d{1,2})(?!\d)")
YEAR = re.compile(r"(\d{2,4})(?!\d)")
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")

Key = tuple[str, str, bool, str, str | None]


@dataclass
class Cookie:
    """One cookie as stored; *expires* None: it lives as long as the browser's window."""

    name: str
    value: str
    domain: str
    host_only: bool
    path: str
    secure: bool
    http_only: bool
    same_site: str
    partition: str | None
    expires: float | None
    created: int

    @property
    def key(self) -> Key:
        return (self.name, self.domain, self.host_only, self.path, self.partition)


@dataclass
class Jar:
    """The cookies of one browser, and why it threw others away."""

    stored: dict[Key, Cookie] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    _order: "count[int]" = field(default_factory=count)

    def set_from_headers(
        self,
        url: str,
        headers: Iterable[tuple[str, str]],
        now: float,
        top_level_site: str | None = None,
    ) -> None:
        """Take the Set-Cookie headers of a response from *url*; *top_level_site* None: its own."""
        for name, value in headers:
            if name.lower() == "set-cookie":
                self._set(urlsplit(url), value, now, top_level_site)

    def header_for(
        self,
        url: str,
        now: float,
        top_level_site: str | None = None,
        *,
        method: str = "GET",
        embedded: bool = False,
    ) -> str | None:
        """Return the Cookie header for a request to *url*, None without a cookie for it.

        *top_level_site* is the site whose page asks, None the target's own; *embedded* tells a request
        made by the page from a click on a link.
        """
        target = urlsplit(url)
        self._drop_expired(now)
        cross = top_level_site is not None and top_level_site != site_of(target)
        sent = [
            cookie
            for cookie in self.stored.values()
            if _matches(cookie, target)
            and cookie.partition in (None, top_level_site or site_of(target))
            and _same_site_allows(cookie, cross, method, embedded)
        ]
        sent.sort(key=lambda cookie: (-len(cookie.path), cookie.created))
        return "; ".join(f"{cookie.name}={cookie.value}" for cookie in sent) or None

    def get(self, name: str) -> Cookie | None:
        """Return the one cookie of that name, None without it; two are refused."""
        found = [cookie for cookie in self.stored.values() if cookie.name == name]
        assert len(found) < 2, f"{len(found)} cookies are called {name}"
        return found[0] if found else None

    def end_of_session(self) -> None:
        """Close the window: forget what has no expiry."""
        self.stored = {key: cookie for key, cookie in self.stored.items() if cookie.expires is not None}

    def _set(self, url: SplitResult, line: str, now: float, top_level_site: str | None) -> None:
        try:
            cookie = self._parse(url, line, now, top_level_site or site_of(url))
        except _Refused as refusal:
            self.refused.append(f"{refusal}: {line!r}")
            return
        old = self.stored.get(cookie.key)
        if old is not None:
            cookie.created = old.created
        self.stored[cookie.key] = cookie
        self._drop_expired(now)

    def _parse(self, url: SplitResult, line: str, now: float, top_level_site: str) -> Cookie:
        _refuse(bool(CONTROL.search(line)), "control character")
        pair, *rest = line.split(";")
        name, value = _name_and_value(pair)
        attributes = dict(_attributes(rest))  # of two with one name, the last one counts
        host = _host(url)
        domain = _domain(attributes, host)
        path = attributes.get("path", "")
        cookie = Cookie(
            name=name,
            value=value,
            domain=domain or host,
            host_only=not domain,
            path=path if path.startswith("/") else _default_path(url),
            secure="secure" in attributes,
            http_only="httponly" in attributes,
            same_site=_same_site(attributes),
            partition=top_level_site if "partitioned" in attributes else None,
            expires=_expires(attributes, now),
            created=next(self._order),
        )
        _check_security(cookie, attributes, url)
        _refuse(_overlays_secure(cookie, url, self.stored.values()), "overlays a secure cookie")
        return cookie

    def _drop_expired(self, now: float) -> None:
        self.stored = {
            key: cookie for key, cookie in self.stored.items() if cookie.expires is None or cookie.expires > now
        }


def site_of(url: SplitResult) -> str:
    """Return scheme and registrable domain, taken to be the last two labels."""
    host = _host(url)
    labels = host if ADDRESS.fullmatch(host) else ".".join(host.split(".")[-2:])
    return f"{url.scheme}://{labels}"


def parse_date(text: str) -> float | None:
    """Return the seconds of a cookie date by the forgiving rules of section 5.1.1, None where it is none."""
    time = day = month = year = None
    for token in DELIMITER.split(text):
        if time is None and (match := TIME.match(token)):
            time = [int(digits) for digits in match.groups()]
        elif day is None and (match := DAY.match(token)):
            day = int(match[1])
        elif month is None and token[:3].lower() in MONTHS:
            month = MONTHS.index(token[:3].lower()) + 1
        elif year is None and (match := YEAR.match(token)):
            year = int(match[1])
    if time is None or day is None or month is None or year is None:
        return None
    year += (1900 if year >= 70 else 2000) if year < 100 else 0
    if year < 1601:
        return None
    try:
        return datetime(year, month, day, time[0], time[1], time[2], tzinfo=UTC).timestamp()
    except ValueError:
        return None


class _Refused(Exception):
    """The whole cookie is thrown away."""


def _refuse(broken: bool, rule: str) -> None:
    if broken:
        raise _Refused(rule)


def _name_and_value(pair: str) -> tuple[str, str]:
    before, equals, after = pair.partition("=")
    name, value = (before, after) if equals else ("", before)
    name, value = name.strip(SPACE), value.strip(SPACE)
    _refuse(not name and not value, "empty")
    _refuse(len((name + value).encode("latin-1")) > MAX_PAIR, "too long")
    # A nameless cookie is sent back as its bare value, which must not read like a prefixed one.
    _refuse(not name and value.lower().startswith(("__secure-", "__host-")), "nameless and prefixed")
    return name, value


def _attributes(parts: list[str]) -> Iterable[tuple[str, str]]:
    for part in parts:
        name, _, value = (text.strip(SPACE) for text in part.partition("="))
        if len(value.encode("latin-1")) <= MAX_ATTRIBUTE:
            yield name.lower(), value


def _domain(attributes: dict[str, str], host: str) -> str:
    domain = attributes.get("domain", "").removeprefix(".").lower()
    if not domain:
        return ""
    # Without the public suffix list, a single label stands for all public suffixes.
    if "." not in domain:
        _refuse(domain != host, "public suffix")
        return ""
    _refuse(not _domain_matches(host, domain), "foreign domain")
    return domain


def _same_site(attributes: dict[str, str]) -> str:
    value = attributes.get("samesite", "").lower()
    return value.capitalize() if value in ("strict", "lax", "none") else "Default"


def _expires(attributes: dict[str, str], now: float) -> float | None:
    age = attributes.get("max-age", "")
    if re.fullmatch(r"-?\d+", age, re.ASCII):
        return now + min(int(age), MAX_AGE) if int(age) > 0 else float("-inf")
    date = parse_date(attributes.get("expires", ""))
    return None if date is None else min(date, now + MAX_AGE)


def _check_security(cookie: Cookie, attributes: dict[str, str], url: SplitResult) -> None:
    name = cookie.name.lower()
    _refuse(cookie.secure and not _is_secure(url), "Secure over an insecure connection")
    _refuse(cookie.same_site == "None" and not cookie.secure, "SameSite=None without Secure")
    _refuse(cookie.partition is not None and not cookie.secure, "Partitioned without Secure")
    _refuse(name.startswith(("__secure-", "__host-")) and not cookie.secure, "prefix without Secure")
    if name.startswith("__host-"):
        _refuse(not cookie.host_only, "__Host- with a Domain")
        _refuse(attributes.get("path") != "/", "__Host- without Path=/")


def _overlays_secure(cookie: Cookie, url: SplitResult, stored: Iterable[Cookie]) -> bool:
    if cookie.secure or _is_secure(url):
        return False
    return any(
        old.secure
        and old.name == cookie.name
        and (_domain_matches(old.domain, cookie.domain) or _domain_matches(cookie.domain, old.domain))
        and _path_matches(cookie.path, old.path)
        for old in stored
    )


def _matches(cookie: Cookie, url: SplitResult) -> bool:
    host = _host(url)
    if host != cookie.domain and (cookie.host_only or not _domain_matches(host, cookie.domain)):
        return False
    return _path_matches(url.path or "/", cookie.path) and (not cookie.secure or _is_secure(url))


def _same_site_allows(cookie: Cookie, cross: bool, method: str, embedded: bool) -> bool:
    if not cross or cookie.same_site == "None":
        return True
    return cookie.same_site != "Strict" and not embedded and method in ("GET", "HEAD", "OPTIONS", "TRACE")


def _domain_matches(host: str, domain: str) -> bool:
    return host == domain or (host.endswith(f".{domain}") and not ADDRESS.fullmatch(host))


def _path_matches(path: str, of_cookie: str) -> bool:
    return path == of_cookie or (
        path.startswith(of_cookie) and (of_cookie.endswith("/") or path[len(of_cookie)] == "/")
    )


def _default_path(url: SplitResult) -> str:
    return url.path.rpartition("/")[0] or "/"


def _is_secure(url: SplitResult) -> bool:
    # Browsers trust the loopback as they trust TLS.
    return url.scheme == "https" or _host(url) in ("localhost", "127.0.0.1", "[::1]")


def _host(url: SplitResult) -> str:
    host = url.hostname or ""
    return f"[{host}]" if ":" in host else host
