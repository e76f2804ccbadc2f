"""S10-S21: the cookie that goes to the browser, and that it is the only way back."""

import itertools
import logging
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import pytest

from sessionware import ConfigurationError, Session, SessionMiddleware, SessionStore, StoreUnavailable, keys
from sessionware.cookie import MAX_AGE_LIMIT, MAX_HEADER_BYTES
from tests.support.clock import Clock
from tests.support.databases import closing_connections, wanted
from tests.support.jar import Jar
from tests.support.site import HTTPS, NAME, Site, ignore, look
from tests.support.wsgi import call

DAY = 86400

# RFC 6265bis, section 4.1.1, written down anew.
TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
VALUE = r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*"
DATE = r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d (Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) \d{4} \d\d:\d\d:\d\d GMT"
ATTRIBUTES = {
    "Expires": DATE,
    "Max-Age": r"0|[1-9]\d*",
    "Domain": r"\.?[0-9A-Za-z]([0-9A-Za-z.-]*[0-9A-Za-z])?",
    "Path": r"/[\x21-\x3a\x3c-\x7e]*",
    "Secure": None,
    "HttpOnly": None,
    "SameSite": "Strict|Lax|None",
    "Partitioned": None,
}


SAFE = {"Path": "/", "Secure": None, "HttpOnly": None, "SameSite": "Lax"}


def attributes_of(line: str) -> dict[str, str | None]:
    """Return the attributes of a Set-Cookie header; whatever the grammar does not know fails."""
    pair, *parts = line.split("; ")
    assert re.fullmatch(f"{TOKEN}={VALUE}", pair, re.ASCII), pair
    found: dict[str, str | None] = {}
    for part in parts:
        name, equals, value = part.partition("=")
        pattern = ATTRIBUTES[name]
        assert name not in found, f"{name} twice"
        assert bool(equals) == (pattern is not None), part
        assert pattern is None or re.fullmatch(pattern, value, re.ASCII), part
        found[name] = value or None
    return found


def write(session: Any) -> None:
    session["a"] = session.get("a", 0) + 1


def leave(session: Any) -> None:
    session.logout()


def test_s10_the_cookie_is_safe_without_any_configuration(sqlite: str) -> None:
    """Nobody has to know that a session cookie wants a prefix and three attributes."""

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ["sessionware.session"]["a"] = 1
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"ok"]

    line = call(SessionMiddleware(app, sqlite), url=HTTPS).header("Set-Cookie") or ""
    pair, rest = line.split("; ", 1)

    assert rest == f"Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age={14 * DAY}"
    assert keys.is_key(pair.removeprefix("__Host-sessionid="))


@pytest.mark.parametrize(
    ("options", "name"),
    [
        pytest.param({}, "__Host-sessionid", id="nothing"),
        pytest.param({"cookie_domain": "example.test"}, "__Secure-sessionid", id="domain"),
        pytest.param({"cookie_path": "/app"}, "__Secure-sessionid", id="path"),
        pytest.param({"cookie_secure": False}, "sessionid", id="not secure"),
        pytest.param(
            {"cookie_secure": False, "cookie_path": "/app", "cookie_domain": "example.test"},
            "sessionid",
            id="nothing left",
        ),
    ],
)
def test_s10_the_cookie_has_the_strongest_prefix_that_it_can(options: dict[str, Any], name: str) -> None:
    """The prefix keeps a sibling domain from planting a cookie."""
    assert Site("sqlite://", **options).middleware.cookie.name == name


def test_s10_the_cookie_never_outlives_the_session(sqlite: str) -> None:
    """Near the absolute limit the cookie is as short as what is left; on request it goes with the browser."""
    site = Site(sqlite, idle_timeout=10 * DAY, absolute_timeout=12 * DAY)
    key = site.begin(a=1)
    site.clock.advance(9 * DAY)
    line = site.visit(write, key).set_cookie
    brief = Site(sqlite, expire_at_browser_close=True)

    assert line is not None
    assert attributes_of(line)["Max-Age"] == str(3 * DAY)
    assert attributes_of(brief.visit(write).set_cookie or "") == SAFE


@pytest.mark.parametrize("act", [ignore, look], ids=["unused", "used"])
@pytest.mark.parametrize(("pauses", "max_age"), [([39], 60), ([40], 60), ([41], 59), ([50, 49], 1)])
def test_s10_nor_does_one_that_each_response_brings(sqlite: str, act: Any, pauses: list[int], max_age: int) -> None:
    """Also where the session was not even read, with save_every_request."""
    site = Site(sqlite, idle_timeout=60, absolute_timeout=100, save_every_request=True)
    key = site.begin(a=1)
    for pause in pauses:
        site.clock.advance(pause)
        line = site.visit(act, key).set_cookie

    assert line is not None
    assert attributes_of(line)["Max-Age"] == str(max_age)


IMPOSSIBLE = [
    pytest.param({"cookie_name": "__Host-a", "cookie_domain": "example.test"}, "__Host-", id="host prefix, domain"),
    pytest.param({"cookie_name": "__Host-a", "cookie_path": "/x"}, "__Host-", id="host prefix, path"),
    pytest.param({"cookie_name": "__Host-a", "cookie_secure": False}, "cookie_secure", id="host prefix, insecure"),
    pytest.param({"cookie_name": "__Secure-a", "cookie_secure": False}, "cookie_secure", id="secure prefix, insecure"),
    pytest.param({"cookie_name": "__Http-a", "cookie_httponly": False}, "cookie_httponly", id="http prefix"),
    pytest.param({"cookie_name": "__Http-a", "cookie_secure": False}, "cookie_secure", id="http prefix, insecure"),
    pytest.param({"cookie_name": "__Host-Http-a", "cookie_httponly": False}, "cookie_httponly", id="host-http prefix"),
    pytest.param({"cookie_name": "__Host-Http-a", "cookie_path": "/x"}, "cookie_path", id="host-http prefix, path"),
    pytest.param({"cookie_name": "__HOST-a"}, "__Host-", id="prefix in capitals"),
    pytest.param({"cookie_name": "__secure-a"}, "__Secure-", id="prefix in small letters"),
    pytest.param({"cookie_name": "__http-a"}, "__Http-", id="http prefix in small letters"),
    pytest.param({"cookie_name": "__host-http-a"}, "__Host-Http-", id="double prefix in small letters"),
    pytest.param({"cookie_samesite": "None", "cookie_secure": False}, 'cookie_samesite="None"', id="cross-site"),
    pytest.param({"cookie_partitioned": True, "cookie_secure": False}, "cookie_partitioned", id="partitioned"),
    pytest.param({"cookie_samesite": "Sometimes"}, "cookie_samesite", id="unknown SameSite"),
    pytest.param({"cookie_samesite": None}, "cookie_samesite", id="the browser's own SameSite"),
    pytest.param({"cookie_samesite": ""}, "cookie_samesite", id="empty SameSite"),
    pytest.param({"cookie_samesite": False}, "cookie_samesite", id="SameSite switched off"),
    pytest.param({"cookie_samesite": "Lax; x=y"}, "cookie_samesite", id="SameSite and more"),
    pytest.param({"cookie_secure": "no"}, "cookie_secure", id="a word for a switch"),
    pytest.param({"cookie_httponly": 1}, "cookie_httponly", id="a number for a switch"),
    *(
        pytest.param({"cookie_name": name}, "cookie_name", id=f"name {name!r}")
        for name in ["", "a=b", "a,b", '"a"', "a/b", 7, b"a"]
    ),
    *(
        pytest.param({"cookie_domain": domain}, "cookie_domain", id=f"domain {domain!r}")
        for domain in ["", ".", "\xe9.test", "a..b", "-a.test", "a/b", 7]
    ),
    *(pytest.param({"cookie_path": path}, "cookie_path", id=f"path {path!r}") for path in ["", "app", 7, None]),
]


@pytest.mark.parametrize(("options", "named"), IMPOSSIBLE)
def test_s11_impossible_combinations_are_refused_at_construction(options: dict[str, Any], named: str) -> None:
    """A browser would throw such a cookie away without a word: nobody could log in."""
    with pytest.raises(ConfigurationError, match=re.escape(named)):
        Site("sqlite://", **options)


def possible(store: SessionStore) -> Iterator[Site]:
    """Yield a site with every combination of options that is allowed, with names of every prefix."""
    choices = {
        "cookie_name": [None, "sid", "__Secure-sid", "__Host-sid", "__Http-sid", "__Host-Http-sid"],
        "cookie_domain": [None, "example.test", ".shop.example.test"],
        "cookie_path": ["/", "/app"],
        "cookie_secure": [True, False],
        "cookie_httponly": [True, False],
        "cookie_samesite": ["Lax", "strict", "NONE"],
        "cookie_partitioned": [True, False],
    }
    for values in itertools.product(*choices.values()):
        with suppress(ConfigurationError):
            yield Site(store, **dict(zip(choices, values, strict=True)))


@dataclass
class Conversation:
    """The visits of one browser to one site: its session begins, gets a new key, and ends."""

    site: Site
    jar: Jar
    lines: list[str]
    sent: list[str | None]


def converse(site: Site) -> Conversation:
    jar, url = Jar(), "https://www.shop.example.test/app/page"
    talk = Conversation(site, jar, [], [])
    for act in (write, lambda session: session.cycle_key(), leave):
        reply = site.visit(act, cookie=jar.header_for(url, site.clock())).reply
        jar.set_from_headers(url, reply.headers, site.clock())
        talk.lines += reply.set_cookies
        talk.sent.append(jar.header_for(url, site.clock()))
    return talk


@pytest.fixture(scope="module")
def conversations(tmp_path_factory: pytest.TempPathFactory) -> list[Conversation]:
    """A conversation with every combination of options that is possible."""
    if not wanted("sqlite"):
        pytest.skip("sqlite is not wanted")
    store = SessionStore(f"sqlite:///{tmp_path_factory.mktemp('cookies') / 'sessions.db'}", clock=Clock())
    with closing_connections():
        found = [converse(site) for site in possible(store)]

    assert len(found) > 200
    assert store.count() == 0
    return found


def test_s12_a_browser_keeps_every_cookie_and_drops_it_at_the_logout(conversations: list[Conversation]) -> None:
    """A deletion whose attributes differ from those of creation leaves the cookie where it is."""
    for talk in conversations:
        pairs = [line.split(";")[0] for line in talk.lines]

        assert talk.jar.refused == []
        assert talk.sent == [*pairs[:2], None], talk.lines
        assert talk.jar.stored == {}


def test_s12_creation_renewal_and_deletion_have_the_same_attributes(conversations: list[Conversation]) -> None:
    """In the same order even; only the lifetime differs."""
    for talk in conversations:
        issued, renewed, cleared = (line.split("; ") for line in talk.lines)
        name = talk.site.middleware.cookie.name

        assert issued[-1] == renewed[-1] == f"Max-Age={14 * DAY}"
        assert cleared[-2:] == ["Max-Age=0", "Expires=Thu, 01 Jan 1970 00:00:00 GMT"]
        assert issued[1:-1] == renewed[1:-1] == cleared[1:-2]
        assert cleared[0] == f"{name}="


def test_s12_the_deletion_says_so_in_both_ways(sqlite: str) -> None:
    """Old browsers know Expires only, and 1970 is the past on any clock."""
    site = Site(sqlite)
    line = site.visit(leave, site.begin(a=1)).set_cookie
    attributes = attributes_of(line or "")

    assert attributes["Max-Age"] == "0"
    assert parsedate_to_datetime(attributes["Expires"] or "").timestamp() == 0


def turmoil(session: Any) -> None:
    session["a"] = 1
    session.save()
    session.cycle_key()
    session.save()
    session.cycle_key()
    session.login("ada")


def turmoil_to_the_end(session: Any) -> None:
    turmoil(session)
    session.save()
    session.flush()


@pytest.mark.parametrize("with_key", [True, False], ids=["with a session", "without"])
def test_s13_one_cookie_a_response_and_it_is_of_the_last_state(sqlite: str, with_key: bool) -> None:
    """Which of two cookies of one name a browser keeps is anybody's guess (RFC 6265bis, 4.1.1)."""
    site = Site(sqlite)
    own = [("Set-Cookie", f"{NAME}=planted; Path=/"), ("set-cookie", f"{NAME}=again"), ("Set-Cookie", "theme=dark")]

    def key() -> str | None:
        return site.begin(z=0) if with_key else None

    alive = site.visit(turmoil, key(), headers=own).reply
    ended = site.visit(turmoil_to_the_end, key(), headers=own).reply

    assert [line.split("=")[0] for line in alive.set_cookies] == ["theme", NAME]
    assert site.values(alive.cookies[NAME])["a"] == 1
    if with_key:
        assert ended.cookies == {"theme": "dark", NAME: ""}
    else:
        assert ended.set_cookies == [line for _, line in own], "we have nothing to say, and the application its own"


def test_s13_a_response_started_anew_has_one_cookie(sqlite: str) -> None:
    """start_response may be called again with exc_info; the headers of the first call are gone then."""

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ["sessionware.session"].flush()
        start_response("200 OK", [("Content-Type", "text/plain")])
        try:
            raise ZeroDivisionError
        except ZeroDivisionError as error:
            start_response("500 Oops", [("Content-Type", "text/plain")], (type(error), error, None))
        return [b"ok"]

    middleware = SessionMiddleware(app, sqlite)
    key = middleware.store.create({"a": 1})
    reply = call(middleware, url=HTTPS, cookie=f"{NAME}={key}")

    assert reply.status == 500
    assert reply.cookies == {NAME: ""}


def test_s14_no_combination_of_options_needs_more_than_the_grammar_has(conversations: list[Conversation]) -> None:
    """For servers it is stricter than what browsers take; no lifetime makes a header long, and nothing is quoted."""
    for talk in conversations:
        cookie, key = talk.site.middleware.cookie, keys.new_key()
        for line in (*talk.lines, cookie.issue(key, None), cookie.issue(key, 10**18)):
            assert attributes_of(line)["Path"]
            assert len(line) <= MAX_HEADER_BYTES == 512


LONG = ("a" * 60 + ".") * 3 + "test"


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="defaults"),
        pytest.param({"cookie_name": "s"}, id="short name"),
        pytest.param({"cookie_name": "!#$%&'*+-.^_`|~09azAZ"}, id="every character of a token"),
        pytest.param({"cookie_name": "n" * 80, "cookie_domain": LONG, "cookie_partitioned": True}, id="long"),
        pytest.param({"cookie_path": "/ab,c'\"=@~%20"}, id="odd path"),
        pytest.param({"cookie_domain": ".example.test"}, id="domain with a dot"),
        pytest.param({"cookie_samesite": "none"}, id="small letters"),
        pytest.param({"idle_timeout": timedelta(days=36500), "absolute_timeout": None}, id="a century"),
    ],
)
def test_s14_headers_keep_to_the_grammar_and_to_the_limits(sqlite: str, options: dict[str, Any]) -> None:
    """What is sent parses by the ABNF of RFC 6265bis, needs no quotes, and is far below 4096 octets."""
    site = Site(sqlite, **options)
    lines = []
    for act in (write, leave):
        cookie = lines[0].split(";")[0] if lines else None
        lines += site.visit(act, cookie=cookie).reply.set_cookies
    name = site.middleware.cookie.name

    assert len(lines) == 2
    for line in lines:
        attributes_of(line)

        assert line.isascii()
        assert len(line) <= 512
    assert keys.is_key(lines[0].split(";")[0].removeprefix(f"{name}="))


@pytest.mark.parametrize(
    "options",
    [{"cookie_name": "n" * 500}, {"cookie_path": "/" + "p" * 500}, {"cookie_domain": "d" * 500 + ".test"}],
    ids=["name", "path", "domain"],
)
def test_s14_a_cookie_beyond_the_limit_is_refused_at_construction(options: dict[str, Any]) -> None:
    """Better no start than a cookie that some proxy drops."""
    with pytest.raises(ConfigurationError, match="512"):
        Site("sqlite://", **options)


WRONG_DURATIONS = [0, -1, 10**10, 10**12, 2**63, 3.5, "99", True]
WRONG_DURATIONS += [timedelta.max, timedelta(0), timedelta(days=-1), timedelta.min]


@pytest.mark.parametrize("value", WRONG_DURATIONS, ids=str)
@pytest.mark.parametrize("option", ["idle_timeout", "absolute_timeout", "unconfirmed_timeout", "purge_interval"])
def test_s15_durations_that_make_no_sense_are_refused_at_construction(option: str, value: Any) -> None:
    """An overflow at request time would be a site that cannot log anybody in (RUSTSEC-2017-0005)."""
    with pytest.raises(ConfigurationError, match=option):
        Site("sqlite://", **{option: value})


def test_s15_a_session_without_an_idle_timeout_is_refused_at_construction() -> None:
    """The other three durations may be None, each with a meaning of its own; this one has none."""
    with pytest.raises(ConfigurationError, match="idle_timeout"):
        Site("sqlite://", idle_timeout=None)


@pytest.mark.parametrize(
    ("options", "age"),
    [
        pytest.param({"idle_timeout": 1}, 1, id="one second"),
        pytest.param({"idle_timeout": 400 * DAY, "absolute_timeout": None}, 400 * DAY, id="400 days"),
        pytest.param({"idle_timeout": 400 * DAY + 1, "absolute_timeout": None}, 400 * DAY, id="a second more"),
        pytest.param({"idle_timeout": 2**31, "absolute_timeout": None}, 400 * DAY, id="2**31"),
        pytest.param({"idle_timeout": timedelta(seconds=90.9)}, 90, id="a fraction"),
        pytest.param({"absolute_timeout": 60}, 60, id="absolute first"),
    ],
)
def test_s15_max_age_is_whole_and_at_most_400_days(sqlite: str, options: dict[str, Any], age: int) -> None:
    """Browsers cut at 400 days; a header that says so itself surprises nobody."""
    site = Site(sqlite, **options)

    assert attributes_of(site.visit(write).set_cookie or "")["Max-Age"] == str(age)
    assert MAX_AGE_LIMIT == 34_560_000


EXPIRIES = [0, 1, 0.5, -1, 2**31, 250_000_000_000, -(10**400), float("-inf")]
EXPIRIES += [timedelta(days=800_000), timedelta(0), timedelta.min]


@pytest.mark.parametrize("value", EXPIRIES, ids=lambda value: str(value)[:20])
def test_s15_no_expiry_that_an_application_sets_overflows(sqlite: str, value: Any) -> None:
    """set_expiry takes what the calendar can hold; no request fails over it later."""
    site = Site(sqlite)
    visit = site.visit(lambda session: (session.update(a=1), session.set_expiry(value), session.get_expiry_date()))
    age = re.search(r"Max-Age=(-?\d+)", visit.set_cookie or "Max-Age=0")

    assert visit.reply.status == 200
    assert age is None or 0 <= int(age[1]) <= MAX_AGE_LIMIT


NO_EXPIRIES = [10**12, 10**30, 10**400, float("inf"), float("nan"), True, "99", timedelta.max, b"1"]


@pytest.mark.parametrize("value", NO_EXPIRIES, ids=lambda value: str(value)[:20])
def test_s15_an_expiry_beyond_the_calendar_is_refused_where_it_is_set(sqlite: str, value: Any) -> None:
    """The error belongs to the line that made it, and the session goes on without it."""
    site = Site(sqlite)
    key = site.begin(a=1)
    before = site.row(key)

    def page(session: Any) -> None:
        with pytest.raises((ValueError, TypeError), match="An expiry"):
            session.set_expiry(value)

    assert site.visit(page, key).reply.status == 200
    assert site.row(key) == before


HOSTILE = ["\r", "\n", "\0", ";", "\x7f", "\x1f", "\xe9", "\u2000", " ", "\r\nSet-Cookie: evil=1", "; Domain=evil.test"]


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
@pytest.mark.parametrize(
    ("option", "start"), [("cookie_name", "sid"), ("cookie_domain", "example.test"), ("cookie_path", "/app")]
)
def test_s16_nothing_in_the_configuration_breaks_out_of_the_header(option: str, start: str, text: str) -> None:
    """A path taken from the environment must not become a second header (CVE-2016-9964, CVE-2026-53878)."""
    for value in (f"{start}{text}", f"{start}{text}x"):
        with pytest.raises(ConfigurationError, match=option):
            Site("sqlite://", **{option: value})


def test_s16_the_mount_point_has_no_part_in_the_cookie(sqlite: str) -> None:
    """SCRIPT_NAME comes with the request, and so may be anything."""
    site = Site(sqlite)
    line = site.visit(write, environ={"SCRIPT_NAME": "/x; Domain=evil.test\x7f"}).set_cookie

    assert attributes_of(line or "")["Path"] == "/"


@pytest.mark.parametrize("partitioned", [True, False])
def test_s17_a_partitioned_cookie_lives_and_dies_in_its_partition(sqlite: str, partitioned: bool) -> None:
    """Each site that embeds us has a jar of its own; extension and deletion must reach that very jar."""
    site = Site(sqlite, cookie_partitioned=partitioned, cookie_samesite="None")
    browser, hosts = Jar(), ("https://one.test", "https://two.test")
    url = f"{HTTPS}/"

    def visit(act: Any, host: str) -> None:
        cookie = browser.header_for(url, site.clock(), host, embedded=True)
        reply = site.visit(act, cookie=cookie).reply
        browser.set_from_headers(url, reply.headers, site.clock(), host)

    for host in hosts:
        visit(write, host)
    kept = len(browser.stored)
    site.clock.advance(2 * DAY)
    visit(look, hosts[0])
    extended = {cookie.partition: cookie.expires for cookie in browser.stored.values()}
    visit(leave, hosts[0])

    assert kept == (2 if partitioned else 1)
    assert not browser.refused
    if partitioned:
        assert (extended[hosts[0]] or 0) - (extended[hosts[1]] or 0) == 2 * DAY
        assert [cookie.partition for cookie in browser.stored.values()] == [hosts[1]]
        assert site.store.count() == 1
    else:
        assert not browser.stored


def test_s18_reading_sets_no_cookie_until_an_extension_is_due(sqlite: str) -> None:
    """Each needless Set-Cookie spoils a cached page and is a chance for a race."""
    site = Site(sqlite, idle_timeout=1000)
    key = site.begin(a=1)
    quiet = [site.visit(look, key).set_cookie for _ in range(100)]
    site.clock.advance(49)
    quiet.append(site.visit(look, key).set_cookie)
    site.clock.advance(1)

    assert set(quiet) == {None}
    assert f"{NAME}={key};" in (site.visit(look, key).set_cookie or "")
    assert site.visit(look, key).set_cookie is None


def test_s19_a_secure_cookie_over_plain_http_warns_once_and_stays_secure(
    sqlite: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The cookie is never weakened for a request; who forgot https, or a proxy's setting, reads what to do."""
    site = Site(sqlite)
    with caplog.at_level(logging.WARNING, "sessionware"):
        lines = [site.visit(write, url="http://example.test").set_cookie or "" for _ in range(3)]
    warned = [record for record in caplog.records if "plain http" in record.message]

    assert all("; Secure" in line for line in lines)
    assert len(warned) == 1
    assert "cookie_secure=False" in warned[0].message
    assert "forwarded-allow-ips" in warned[0].message


def test_s19_nobody_is_warned_where_there_is_nothing_to_do(sqlite: str, caplog: pytest.LogCaptureFixture) -> None:
    """Over https, or with a cookie that was never to be Secure."""
    Site(sqlite).visit(write)
    Site(sqlite, cookie_secure=False).visit(write, url="http://example.test")

    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("secure", [True, False])
def test_s19_a_forwarded_scheme_that_anybody_can_send_changes_nothing(sqlite: str, scheme: str, secure: bool) -> None:
    """Only the server knows which proxy it trusts; X-Forwarded-Proto is a visitor's word."""
    site = Site(sqlite, cookie_secure=secure)
    spoofed = {"X-Forwarded-Proto": "https" if scheme == "http" else "http", "Forwarded": "proto=https"}
    line = site.visit(write, url=f"{scheme}://example.test", **{"environ": as_environ(spoofed)}).set_cookie or ""

    assert ("Secure" in attributes_of(line)) is secure


def as_environ(headers: dict[str, str]) -> dict[str, str]:
    return {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in headers.items()}


@pytest.mark.parametrize(
    "smuggle",
    [
        pytest.param(lambda key: {"path": f"/?{NAME}={key}&sessionid={key}&sid={key}"}, id="query"),
        pytest.param(lambda key: {"path": f"/page;{NAME}={key};jsessionid={key}"}, id="path parameter"),
        pytest.param(lambda key: {"path": f"/(S({key}))/page"}, id="path"),
        pytest.param(
            lambda key: {
                "method": "POST",
                "body": f"{NAME}={key}&sessionid={key}".encode(),
                "environ": {"CONTENT_TYPE": "application/x-www-form-urlencoded"},
            },
            id="body",
        ),
        pytest.param(lambda key: {"environ": as_environ({"X-Session-Id": key, "Session": key})}, id="header"),
        pytest.param(lambda key: {"environ": as_environ({"Authorization": f"Bearer {key}"})}, id="authorization"),
        pytest.param(lambda key: {"environ": as_environ({"Set-Cookie": f"{NAME}={key}"})}, id="Set-Cookie"),
        pytest.param(lambda key: {"environ": as_environ({"Cookie2": f"{NAME}={key}"})}, id="Cookie2"),
        pytest.param(lambda key: {"environ": as_environ({"Referer": f"{HTTPS}/?{NAME}={key}"})}, id="referrer"),
    ],
)
def test_s20_the_cookie_is_the_only_channel(sqlite: str, smuggle: Any) -> None:
    """A key that a link can carry is a key that an attacker can hand out (CVE-2007-5380)."""
    site = Site(sqlite)
    key = site.begin(a=1)
    with site.counted() as calls:
        visit = site.visit(look, **smuggle(key))

    assert visit.value == {}
    assert len(calls) == 0


def test_s21_a_logout_can_clear_what_the_browser_keeps(sqlite: str) -> None:
    """The next user of a shared computer finds neither pages in the cache nor data in the storage."""
    site = Site(sqlite)
    reply = site.visit(lambda session: session.logout(clear_site_data=True), site.begin(a=1)).reply
    plain = site.visit(leave, site.begin(a=1)).reply

    assert reply.header("Clear-Site-Data") == '"cache", "cookies", "storage"'
    for answer in (reply, plain):
        assert answer.header("Cache-Control") == "no-store"
        assert answer.cookies == {NAME: ""}
    assert plain.header("Clear-Site-Data") is None


def test_s21_a_fault_after_the_logout_takes_nothing_of_it_back(sqlite: str) -> None:
    """The session has ended: the browser clears what it keeps, whatever is answered."""
    site = Site(sqlite)

    def leave_and_fail(session: Session) -> None:
        session.logout(clear_site_data=True)
        raise StoreUnavailable("down")

    reply = site.visit(leave_and_fail, site.begin(a=1)).reply

    assert (reply.status, reply.cookies) == (503, {NAME: ""})
    assert reply.header("Clear-Site-Data") == '"cache", "cookies", "storage"'


@pytest.mark.parametrize("path", ["/a,b", '/a"b', "/a\\b", "/ab,c'\"=@~%20", "/samesite=x"])
def test_s14_a_path_is_sent_as_it_stands(sqlite: str, path: str) -> None:
    """Browsers decode nothing in it (RFC 6265, 5.2.4): an escaped one would match no page, and no cookie come back."""
    reply = Site(sqlite, cookie_path=path).visit(write).reply

    assert f"; Path={path}; Secure" in reply.set_cookies[0]


def test_s21_an_untouched_page_says_nothing_of_cookies(sqlite: str) -> None:
    """The control for all of the above: whoever leaves the session alone gets no header."""
    site = Site(sqlite)

    assert site.visit(ignore, site.begin(a=1)).reply.headers == [("Content-Type", "text/plain")]
