"""S51-S55: no cache may serve one visitor what was made for another."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from sessionware import Session, SessionMiddleware
from tests.support.cache import SharedCache, directives
from tests.support.clock import Clock
from tests.support.site import HTTPS, NAME, Site, ignore, look
from tests.support.wsgi import Browser, call

Act = Callable[[Session], Any]


def missing_pop(session: Session) -> Any:
    return session.pop("missing", None)


ACCESSES: dict[str, Act] = {
    "in": lambda session: "a" in session,
    "not in": lambda session: "missing" not in session,
    "has_key": lambda session: session.has_key("a"),
    "len": len,
    "bool": bool,
    "iter": lambda session: next(iter(session), None),
    "list": list,
    "item": lambda session: session.get("a") and session["a"],
    "get": lambda session: session.get("a"),
    "get of what is missing": lambda session: session.get("missing"),
    "keys": lambda session: list(session.keys()),
    "keys, unused": lambda session: session.keys(),
    "values": lambda session: list(session.values()),
    "items": lambda session: session.items(),
    "equality": lambda session: session == {"a": 1},
    "inequality": lambda session: session != {"a": 1},
    "dict": dict,
    "unpacking": lambda session: {**session},
    "pop of what is missing": missing_pop,
    "setdefault of what is there": lambda session: session.setdefault("a", 1),
    "session_key": lambda session: session.session_key,
    "handle": lambda session: session.handle,
    "user_id": lambda session: session.user_id,
    "created_at": lambda session: session.created_at,
    "is_empty": lambda session: session.is_empty(),
    "expiry age": lambda session: session.get_expiry_age(),
    "expiry date": lambda session: session.get_expiry_date(),
    "browser close": lambda session: session.get_expire_at_browser_close(),
    "test cookie": lambda session: session.test_cookie_worked(),
    "set_expiry(None)": lambda session: session.set_expiry(None),
}

CHANGES: dict[str, Act] = {
    "set": lambda session: session.update(b=2),
    "delete": lambda session: session.pop("a", None),
    "clear": lambda session: session.clear(),
    "flush": lambda session: session.flush(),
    "logout": lambda session: session.logout(),
    "rotate": lambda session: session.cycle_key(),
    "login": lambda session: session.login("ada"),
    "save": lambda session: session.save(),
    "atomic": lambda session: session.atomic(lambda values: values.update(c=3)),
    "expiry": lambda session: session.set_expiry(60),
    "modified": lambda session: setattr(session, "modified", True),
}


@pytest.mark.parametrize("act", (ACCESSES | CHANGES).values(), ids=ACCESSES | CHANGES)
@pytest.mark.parametrize("cookie", ["none", "live", "unknown", "another"])
def test_s51_every_access_varies(sqlite: str, act: Act, cookie: str) -> None:
    """Whatever a page learns of the session, even that there is none, its answer holds for this cookie only."""
    site = Site(sqlite)
    key = site.begin(a=1)
    header = {"none": None, "live": f"{NAME}={key}", "unknown": f"{NAME}={'x' * 43}", "another": "theme=dark"}[cookie]
    reply = site.visit(act, cookie=header, headers=[("Cache-Control", "public, max-age=60")]).reply

    assert reply.all("Vary") == ["Cookie"]


def refused(act: Act) -> Act:
    """Return a page that tries *act*, which is to say that it cannot be done, and returns the words of that."""

    def page(session: Session) -> str:
        with pytest.raises(TypeError) as refusal:
            act(session)
        return str(refusal.value)

    return page


TELLING_NOTHING: dict[str, Act] = {
    "repr": repr,
    "str": str,
    "identity": lambda session: session is None,
    "copy": refused(copy.copy),
    "deep copy": refused(copy.deepcopy),
    "pickle": refused(pickle.dumps),
    "hash": refused(hash),
}


@pytest.mark.parametrize("act", TELLING_NOTHING.values(), ids=TELLING_NOTHING)
def test_s51_what_does_not_vary_tells_nothing(sqlite: str, act: Act) -> None:
    """A session that nobody has looked into reads the same for everybody, and cannot be copied to look there."""
    site = Site(sqlite)
    key = site.begin(a=1)
    with site.counted() as calls:
        visits = [site.visit(act, cookie=cookie) for cookie in (None, f"{NAME}={key}", f"{NAME}=junk")]

    assert len({visit.value for visit in visits}) == 1
    assert [visit.reply.all("Vary") for visit in visits] == [[]] * 3
    assert len(calls) == 0


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        pytest.param([], "Cookie", id="none"),
        pytest.param(["Accept-Encoding"], "Accept-Encoding, Cookie", id="another"),
        pytest.param(["accept-encoding, COOKIE"], "accept-encoding, COOKIE", id="there in capitals"),
        pytest.param(["Accept", "Accept-Language"], "Accept, Accept-Language, Cookie", id="two lines"),
        pytest.param(["Accept", "cookie"], "Accept, cookie", id="there in the second line"),
        pytest.param(["*"], "*", id="everything"),
        pytest.param(["Accept, *"], "*", id="everything, in a list"),
        pytest.param(["X-Cookie, Cookie2"], "X-Cookie, Cookie2, Cookie", id="similar names"),
        pytest.param([""], "Cookie", id="empty"),
        pytest.param([" , ,Accept,, "], "Accept, Cookie", id="empty elements"),
    ],
)
def test_s51_vary_is_merged_once(sqlite: str, lines: list[str], expected: str) -> None:
    """What the application said of Vary still holds, and Cookie stands there once."""
    site = Site(sqlite)
    spellings = ["Vary", "vary", "VARY"]
    headers = list(zip(spellings, lines, strict=False))
    reply = site.visit(look, site.begin(a=1), headers=headers).reply

    assert reply.all("Vary") == [expected]


GENEROUS = [
    pytest.param([], id="nothing said"),
    pytest.param([("Cache-Control", "public, max-age=600")], id="public"),
    pytest.param([("cache-control", "PUBLIC, S-MaxAge=600")], id="shared, in odd letters"),
    pytest.param([("Cache-Control", "Private, max-age=600")], id="private"),
    pytest.param([("Cache-Control", "max-age=600"), ("Cache-Control", "immutable")], id="two lines"),
    pytest.param([("Cache-Control", 'private="x, no-store, y", max-age=600')], id="no-store within quotes"),
    pytest.param([("Cache-Control", "x-no-store, max-age=600")], id="a similar word"),
    pytest.param([("Cache-Control", "no-store-but-not-really, public")], id="another similar word"),
    pytest.param([("Cache-Control", 'no-cache="Set-Cookie", public')], id="no-cache for the header"),
    pytest.param([("Expires", "Thu, 01 Jan 2037 00:00:00 GMT")], id="expires"),
    pytest.param([("Surrogate-Control", "max-age=600")], id="surrogate"),
    pytest.param([("CDN-Cache-Control", "max-age=600"), ("Cache-Control", "no-store")], id="CDN overrides"),
    pytest.param([("Cloudflare-CDN-Cache-Control", "max-age=600")], id="one CDN"),
    pytest.param([("Surrogate-Control", "max-age=600"), ("Cache-Control", "no-store")], id="surrogate overrides"),
    pytest.param([("Cache-Control", "no-store, max-age=0, must-revalidate")], id="forbidden already"),
    pytest.param([("Cache-Control", "public"), ("Cache-Control", "no-store")], id="forbidden in the second line"),
    pytest.param([("Cache-Control", "public, must-understand, no-store")], id="no-store for old caches only"),
]

CARRIERS: dict[str, tuple[Act, bool]] = {
    "creation": (lambda session: session.update(a=1), False),
    "save": (lambda session: session.update(b=1), True),
    "rotation": (lambda session: session.cycle_key(), True),
    "logout": (lambda session: session.flush(), True),
}


@pytest.mark.parametrize(("act", "known"), CARRIERS.values(), ids=CARRIERS)
@pytest.mark.parametrize("headers", GENEROUS)
def test_s52_no_cache_may_store_an_answer_with_our_cookie(
    sqlite: str, headers: list[tuple[str, str]], act: Act, known: bool
) -> None:
    """Set-Cookie does not keep a cache from storing (RFC 9111, 7.3), and CDN headers override Cache-Control."""
    site = Site(sqlite)
    cache = SharedCache(site.middleware, site.clock)
    reply = site.visit(act, site.begin(a=1) if known else None, headers=headers).reply
    said = directives(reply.all("Cache-Control"))
    addressed = [name for name, _ in reply.headers if "control" in name.lower() and name.lower() != "cache-control"]

    assert len(reply.set_cookies) == 1
    assert "no-store" in said
    assert "must-understand" not in said  # a cache that knows it ignores no-store (RFC 9111, 5.2.2.3)
    assert not addressed
    site.middleware.app = lambda environ, start: (start("200 OK", reply.headers), [b"page"])[1]
    call(cache, url=HTTPS)
    assert cache.replies == []


@pytest.mark.parametrize("act", [ignore, look])
def test_s53_an_extension_varies_and_is_not_stored(sqlite: str, act: Act) -> None:
    """A page that never looked may still carry the extended cookie (CVE-2023-30861, CVE-2026-35192)."""
    site = Site(sqlite, idle_timeout=1000, save_every_request=True)
    key = site.begin(a=1)
    site.clock.advance(100)
    reply = site.visit(act, key, headers=[("Cache-Control", "public, max-age=60")]).reply

    assert reply.cookies == {NAME: key}
    assert reply.all("Vary") == ["Cookie"]
    assert reply.all("Cache-Control") == ["no-store"]


def test_s53_a_live_session_that_needs_no_extension_makes_no_difference(sqlite: str) -> None:
    """With save_every_request a visitor without a session gets a page that can be stored."""
    site = Site(sqlite, save_every_request=True)
    headers = [("Cache-Control", "public, max-age=60")]

    assert site.visit(ignore, headers=headers).reply.headers[1:] == headers
    assert site.visit(ignore, "x" * 43, headers=headers).reply.set_cookies == []


BODIES: dict[str, Callable[[], Any]] = {
    "list": lambda: [b"one", b"two"],
    "tuple": lambda: (b"one",),
    "empty": lambda: [],
    "generator": lambda: (chunk for chunk in (b"one", b"two")),
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("cookie", [None, f"{NAME}={'x' * 43}", f"{NAME}=junk", "x" * 9000])
def test_s54_an_untouched_route_is_what_it_is_without_us(
    sqlite: str, body: Callable[[], Any], cookie: str | None
) -> None:
    """The very headers and the very iterable, and not one statement."""
    headers = [("Content-Type", "text/css"), ("Vary", "accept"), ("Set-Cookie", "theme=dark"), ("ETag", '"1"')]
    made: list[Any] = []

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", headers)
        made.append(body())
        return made[-1]

    site = Site(sqlite)
    key = site.begin(a=1)
    middleware = SessionMiddleware(app, site.store, clock=site.clock)
    with site.counted() as calls:
        reply = call(middleware, cookie=cookie or f"{NAME}={key}", url=HTTPS)
        bare = call(app, cookie=cookie or f"{NAME}={key}", url=HTTPS)

    assert (reply.status, reply.headers, reply.body) == (bare.status, bare.headers, bare.body)
    assert reply.headers is not headers
    assert reply.iterable is made[0]
    assert len(calls) == 0


def shop(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """A shop whose pages all say that every cache may keep them."""
    session, path = environ["sessionware.session"], environ["PATH_INFO"]
    if path.startswith("/login/"):
        session.login(path.removeprefix("/login/"))
    if path == "/cart":
        session["cart"] = session.get("cart", 0) + 1
    if path == "/logout":
        session.flush()
    body = b"" if path == "/static" else f"{path} for {session.user_id}, {session.get('cart')}".encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Cache-Control", "public, max-age=600")])
    return [body]


@pytest.mark.parametrize("always", [False, True], ids=["when due", "save_every_request"])
def test_s55_a_shared_cache_gives_nobody_what_is_anothers(sqlite: str, always: bool) -> None:
    """Two users and a crawler share a cache that stores all it may: each sees what is theirs."""
    clock = Clock()
    middleware = SessionMiddleware(
        shop, sqlite, clock=clock, purge_interval=None, save_every_request=always, idle_timeout=1000
    )
    cache = SharedCache(middleware, clock)
    ada, bob, crawler = (Browser(cache, clock=clock) for _ in range(3))
    users = {"ada": ada, "bob": bob}
    keys = {}
    for name, browser in users.items():
        browser.get(f"/login/{name}")
        keys[name] = browser.jar.get(NAME).value  # type: ignore[union-attr]
    for step in range(6):
        for path in ("/", "/cart", "/static", "/", "/static"):
            for name, browser in users.items():
                reply = browser.get(path)

                assert path == "/static" or f"for {name}," in reply.text
                assert browser.jar.get(NAME).value == keys[name]  # type: ignore[union-attr]
            stranger = crawler.get(path) if path != "/cart" else crawler.get("/")

            assert path == "/static" or stranger.text == "/ for None, None"
            assert crawler.jar.get(NAME) is None
        clock.advance(60 if step % 2 else 120)
    ada.get("/logout")

    assert cache.hits > 20
    assert ada.jar.get(NAME) is None
    assert bob.get("/").text.startswith("/ for bob")
    assert not [reply for reply in cache.replies for line in reply.set_cookies if NAME in line]


def test_s55_the_cache_of_this_test_does_mix_up_visitors_of_a_naive_application(sqlite: str) -> None:
    """The control: without Vary and no-store, the second visitor gets the first one's cookie."""

    def naive(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Cache-Control", "public, max-age=600"), ("Set-Cookie", f"sid={id(environ)}")])
        return [b"page"]

    cache = SharedCache(naive, Clock())
    first, second = call(cache, url=HTTPS), call(cache, url=HTTPS)

    assert first.set_cookies == second.set_cookies
