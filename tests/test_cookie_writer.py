"""The Set-Cookie header: attributes, refusals, and a browser's jar that ends as we meant it."""

import re
from datetime import timedelta
from itertools import product
from typing import Any

import pytest

from sessionware import ConfigurationError, SessionMiddleware
from sessionware.cookie import MAX_AGE_LIMIT, MAX_HEADER_BYTES, SessionCookie
from tests.support.clock import START, Clock
from tests.support.jar import Jar
from tests.support.wsgi import Browser, call

KEY = "K" * 43
NOWHERE = "sqlite:////nowhere/at/all.db"
SITE = "https://shop.example.test"

# RFC 6265bis, 4.1.1, with the names of its rules; IMF-fixdate from RFC 9110.
TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
OCTETS = r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*"
DATE = r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d (Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) \d{4} \d\d:\d\d:\d\d GMT"
DOMAIN = r"\.?[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?"
ATTRIBUTE = (
    rf"(Expires={DATE}|Max-Age=(0|[1-9]\d*)|Domain={DOMAIN}|Path=/[\x21-\x3a\x3c-\x7e]*|Secure|HttpOnly"
    r"|SameSite=(Strict|Lax|None)|Partitioned)"
)
SET_COOKIE = re.compile(rf"{TOKEN}={OCTETS}(; {ATTRIBUTE})*", re.ASCII)


def possible() -> list[Any]:
    """Return every combination of options that is allowed, with names of every prefix."""
    found = []
    for name, domain, path, secure, httponly, samesite, partitioned in product(
        [None, "sid", "__Secure-sid", "__Host-sid", "__Http-sid", "__Host-Http-sid"],
        [None, "example.test", ".shop.example.test"],
        ["/", "/app"],
        [True, False],
        [True, False],
        ["Lax", "strict", "NONE"],
        [True, False],
    ):
        options = {"domain": domain, "path": path, "secure": secure, "httponly": httponly, "samesite": samesite}
        try:
            cookie = SessionCookie(name, partitioned=partitioned, **options)  # type: ignore[arg-type]
        except ConfigurationError:
            continue
        found.append(cookie)
    return found


POSSIBLE = possible()


def jar_after(*lines: str, now: float = START) -> Jar:
    jar = Jar()
    for line in lines:
        jar.set_from_headers(f"{SITE}/app/page", [("Set-Cookie", line)], now)
    return jar


def attributes(line: str) -> list[str]:
    """Return what follows the pair, without what only a deletion has."""
    return [part for part in line.split("; ")[1:] if not part.startswith(("Max-Age", "Expires"))]


def test_safe_by_default() -> None:
    """S10: with no option at all, every protection a browser has."""
    cookie = SessionCookie()

    assert cookie.issue(KEY, 60) == f"__Host-sessionid={KEY}; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=60"
    assert cookie.issue(KEY, None) == f"__Host-sessionid={KEY}; Path=/; Secure; HttpOnly; SameSite=Lax"


@pytest.mark.parametrize(
    ("options", "name"),
    [
        pytest.param({}, "__Host-sessionid", id="nothing"),
        pytest.param({"domain": "example.test"}, "__Secure-sessionid", id="domain"),
        pytest.param({"path": "/app"}, "__Secure-sessionid", id="path"),
        pytest.param({"secure": False}, "sessionid", id="not secure"),
        pytest.param({"secure": False, "path": "/app", "domain": "example.test"}, "sessionid", id="nothing left"),
    ],
)
def test_takes_the_strongest_prefix_it_can(options: dict[str, Any], name: str) -> None:
    """S10: the prefix keeps a sibling domain from planting a cookie."""
    assert SessionCookie(**options).name == name


@pytest.mark.parametrize(
    ("options", "named"),
    [
        pytest.param({"name": "__Host-s", "domain": "example.test"}, "cookie_domain", id="host with domain"),
        pytest.param({"name": "__Host-s", "path": "/x"}, "cookie_path", id="host with path"),
        pytest.param({"name": "__Host-s", "secure": False}, "cookie_secure", id="host without secure"),
        pytest.param({"name": "__Secure-s", "secure": False}, "cookie_secure", id="secure without secure"),
        pytest.param({"name": "__Http-s", "httponly": False}, "cookie_httponly", id="http without httponly"),
        pytest.param({"name": "__Http-s", "secure": False}, "cookie_secure", id="http without secure"),
        pytest.param({"name": "__Host-Http-s", "httponly": False}, "cookie_httponly", id="both without httponly"),
        pytest.param({"name": "__Host-Http-s", "path": "/x"}, "cookie_path", id="both with path"),
        pytest.param({"name": "__HOST-s"}, "__Host-", id="prefix in upper case"),
        pytest.param({"name": "__secure-s"}, "__Secure-", id="prefix in lower case"),
        pytest.param({"name": "__http-s"}, "__Http-", id="http prefix in lower case"),
        pytest.param({"samesite": "None", "secure": False}, "cookie_samesite", id="none without secure"),
        pytest.param({"partitioned": True, "secure": False}, "cookie_partitioned", id="partitioned without secure"),
        pytest.param({"samesite": "Loose"}, "cookie_samesite", id="unknown samesite"),
        pytest.param({"samesite": None}, "cookie_samesite", id="samesite None, not a string"),
        pytest.param({"samesite": False}, "cookie_samesite", id="samesite False"),
        pytest.param({"samesite": "Lax; x=y"}, "cookie_samesite", id="samesite with more"),
        *[
            pytest.param({"name": name}, "cookie_name", id=f"name {name!r}")
            for name in ["", "a b", "a=b", "a;b", "a,b", "a\r\nb", "a\x00", "é", "a\n", '"a"', "a\x7f", 7, b"a", "a/b"]
        ],
        *[
            pytest.param({"domain": domain}, "cookie_domain", id=f"domain {domain!r}")
            for domain in ["", ".", "a;b", "a b", "a\r\nb", "a\x00", "é.test", "a..b", "-a.test", "a.test\n", 7, "a/b"]
        ],
        *[
            pytest.param({"path": path}, "cookie_path", id=f"path {path!r}")
            for path in ["", "app", "/a;b", "/a\r\nb", "/a\x00", "/é", "/a b", "/a\n", 7, None]
        ],
        pytest.param({"name": "n" * 500}, "512", id="giant name"),
        pytest.param({"path": "/" + "p" * 500}, "512", id="giant path"),
        pytest.param({"domain": "d" * 500 + ".test"}, "512", id="giant domain"),
    ],
)
def test_refuses_at_construction(options: dict[str, Any], named: str) -> None:
    """S11, S16: what a browser would throw away, or what could break out of the header, in words that help."""
    through_middleware = {f"cookie_{name}": value for name, value in options.items()}

    with pytest.raises(ConfigurationError, match=re.escape(named)):
        SessionCookie(**options)
    with pytest.raises(ConfigurationError, match=re.escape(named)):
        SessionMiddleware(lambda environ, start_response: [], NOWHERE, **through_middleware)


def test_the_jar_keeps_and_deletes_every_combination() -> None:
    """S12, S17: a deletion that lacks an attribute leaves a prefixed or partitioned cookie where it is."""
    for cookie in POSSIBLE:
        jar = jar_after(cookie.issue(KEY, 60))

        assert jar.refused == []
        assert jar.header_for(f"{SITE}/app/page", START) == f"{cookie.name}={KEY}"

        jar = jar_after(cookie.issue(KEY, 60), cookie.clear())

        assert (jar.stored, jar.refused) == ({}, [])


def test_a_new_key_takes_the_place_of_the_old() -> None:
    """S13: two cookies of one name would be two sessions."""
    for cookie in POSSIBLE:
        jar = jar_after(cookie.issue(KEY, None), cookie.issue("L" * 43, 60))

        assert jar.header_for(f"{SITE}/app/page", START) == f"{cookie.name}={'L' * 43}"


def test_creation_and_deletion_have_the_same_attributes() -> None:
    """S12: and each of them once."""
    for cookie in POSSIBLE:
        issued, cleared = cookie.issue(KEY, 60), cookie.clear()

        assert attributes(issued) == attributes(cleared) == attributes(cookie.issue(KEY, None))
        assert len({part.split("=")[0] for part in cleared.split("; ")}) == len(cleared.split("; "))
        assert cleared.startswith(f"{cookie.name}=; ")
        assert cleared.endswith("; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT")


def test_the_grammar_is_that_of_the_standard() -> None:
    """S14: for servers, stricter than what browsers take; no quoting is ever needed."""
    for cookie in POSSIBLE:
        for line in (cookie.issue(KEY, 60), cookie.issue(KEY, None), cookie.issue(KEY, 10**18), cookie.clear()):
            assert SET_COOKIE.fullmatch(line), line
            assert len(line) <= MAX_HEADER_BYTES


def test_combinations_are_many() -> None:
    """The tests above must not run on an empty list."""
    assert len(POSSIBLE) > 200


@pytest.mark.parametrize(
    ("age", "sent"),
    [(1, 1), (60, 60), (MAX_AGE_LIMIT, MAX_AGE_LIMIT), (MAX_AGE_LIMIT + 1, MAX_AGE_LIMIT), (10**12, MAX_AGE_LIMIT)],
)
def test_no_cookie_lives_longer_than_browsers_allow(age: int, sent: int) -> None:
    """S15: 400 days, cut here so that header and server agree; nothing overflows."""
    assert SessionCookie().issue(KEY, age).endswith(f"; Max-Age={sent}")
    assert timedelta(days=400).total_seconds() == MAX_AGE_LIMIT


def test_partitioned_cookies_stay_in_their_partition() -> None:
    """S17: embedded in two sites there are two sessions, and one logout ends one."""
    cookie = SessionCookie(samesite="None", partitioned=True)
    jar = Jar()
    for site, key in {"https://one.test": KEY, "https://two.test": "L" * 43}.items():
        jar.set_from_headers(SITE, [("Set-Cookie", cookie.issue(key, 60))], START, site)
    jar.set_from_headers(SITE, [("Set-Cookie", cookie.clear())], START, "https://one.test")

    assert jar.header_for(SITE, START, "https://one.test", embedded=True) is None
    assert jar.header_for(SITE, START, "https://two.test", embedded=True) == f"{cookie.name}={'L' * 43}"


def counting(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    session = environ["sessionware.session"]
    if environ["PATH_INFO"] == "/write":
        session["n"] = session.get("n", 0) + 1
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(session.get("n")).encode()]


def test_a_hundred_reads_set_no_cookie(sqlite: str) -> None:
    """S18: a cookie in every response defeats caches, and each may overwrite a newer one."""
    clock = Clock()
    browser = Browser(SessionMiddleware(counting, sqlite, clock=clock), clock=clock)
    browser.get("/write")

    assert [browser.get("/read").set_cookies for _ in range(100)] == [[]] * 100


def test_secure_over_http_warns_once(sqlite: str, caplog: pytest.LogCaptureFixture) -> None:
    """S19: the commonest mistake behind a proxy is told once, with the remedy; a header changes nothing."""
    middleware = SessionMiddleware(counting, sqlite)
    replies = [
        call(middleware, "/write", url=url, headers={"X-Forwarded-Proto": "https"})
        for url in ["http://shop.example.test"] * 3
    ]

    assert all("; Secure;" in reply.set_cookies[0] for reply in replies)
    assert [record.levelname for record in caplog.records if "plain http" in record.message] == ["WARNING"]


def test_secure_over_https_does_not_warn(sqlite: str, caplog: pytest.LogCaptureFixture) -> None:
    """S19: nor does a cookie that is not Secure."""
    call(SessionMiddleware(counting, sqlite), "/write", url="https://shop.example.test")
    call(SessionMiddleware(counting, sqlite, cookie_secure=False), "/write")

    assert not [record for record in caplog.records if record.levelname == "WARNING"]
