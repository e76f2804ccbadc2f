"""The shared cache: it must leak where the standard lets it leak, or it would prove nothing."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.cache import SharedCache, directives
from tests.support.clock import Clock
from tests.support.wsgi import call

Headers = list[tuple[str, str]]


def counter(*headers: tuple[str, str], status: str = "200 OK") -> Callable[..., Any]:
    """Return an application whose body is the number of the request."""
    served = 0

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        nonlocal served
        served += 1
        start_response(status, [("Content-Type", "text/plain"), *headers])
        return [str(served).encode()]

    return app


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param([], id="nothing said"),
        pytest.param([("Set-Cookie", "s=secret")], id="set-cookie"),
        pytest.param([("Cache-Control", "max-age=60")], id="max-age"),
        pytest.param([("Cache-Control", "max-age=0, s-maxage=60")], id="s-maxage wins"),
        pytest.param([("Expires", "Fri, 15 Jan 2027 08:01:00 GMT")], id="expires"),
        pytest.param([("Cache-Control", "no-store"), ("CDN-Cache-Control", "max-age=60")], id="targeted wins"),
        pytest.param([("Vary", "Accept")], id="vary on another header"),
    ],
)
def test_stores(headers: Headers, clock: Clock) -> None:
    """A visitor sees what another one was sent."""
    cache = SharedCache(counter(*headers), clock)
    first, second = call(cache, cookie="a=1"), call(cache, cookie="b=2")

    assert first.body == second.body == b"1"
    assert second.set_cookies == [value for name, value in headers if name == "Set-Cookie"]
    assert (cache.hits, cache.misses) == (1, 1)


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param([("Cache-Control", "no-store")], id="no-store"),
        pytest.param([("Cache-Control", "Private")], id="private"),
        pytest.param([("Cache-Control", 'private="set-cookie"')], id="private field"),
        pytest.param([("Cache-Control", "public"), ("Cache-Control", "no-cache")], id="no-cache in a second line"),
        pytest.param([("Cache-Control", "max-age=0")], id="max-age 0"),
        pytest.param([("Cache-Control", "max-age=soon")], id="nonsense"),
        pytest.param([("Expires", "0")], id="expires nonsense"),
        pytest.param([("Vary", "*")], id="vary all"),
        pytest.param([("Vary", "Accept, Cookie")], id="vary on cookie"),
        pytest.param([("Cache-Control", "max-age=60"), ("CDN-Cache-Control", "no-store")], id="targeted wins"),
    ],
)
def test_keeps_apart(headers: Headers, clock: Clock) -> None:
    """Two visitors, two responses."""
    cache = SharedCache(counter(*headers), clock)

    assert [call(cache, cookie="a=1").body, call(cache, cookie="b=2").body] == [b"1", b"2"]


def test_absent_differs_from_empty(clock: Clock) -> None:
    """A request without a Cookie header must not share with one whose header is empty."""
    cache = SharedCache(counter(("Vary", "Cookie")), clock)
    bodies = [call(cache).body, call(cache, cookie="").body, call(cache).body, call(cache, cookie="").body]

    assert bodies == [b"1", b"2", b"1", b"2"]


def test_time_makes_stale(clock: Clock) -> None:
    """To the second; and a hit tells its age."""
    cache = SharedCache(counter(("Cache-Control", "max-age=60")), clock)
    call(cache)
    clock.advance(59)
    assert call(cache).header("Age") == "59"
    clock.advance(1)

    assert call(cache).body == b"2"


@pytest.mark.parametrize("path", ["/other", "/?q=1"])
def test_another_url_is_another_response(path: str, clock: Clock) -> None:
    """Path and query are the key."""
    cache = SharedCache(counter(), clock)

    assert [call(cache, "/").body, call(cache, path).body] == [b"1", b"2"]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_unsafe_method_goes_through_and_forgets(method: str, clock: Clock) -> None:
    """RFC 9111 section 4.4."""
    cache = SharedCache(counter(), clock)
    bodies = [call(cache).body, call(cache, method=method).body, call(cache).body]

    assert bodies == [b"1", b"2", b"3"]


@pytest.mark.parametrize(
    ("status", "stored"),
    [
        ("404 Not Found", True),
        ("302 Found", False),
        ("503 Service Unavailable", False),
        ("206 Partial", False),
    ],
)
def test_silent_status(status: str, stored: bool, clock: Clock) -> None:
    """Without a word on its lifetime, only some statuses are kept."""
    cache = SharedCache(counter(status=status), clock)
    call(cache)

    assert bool(cache.replies) is stored


@pytest.mark.parametrize(("extra", "stored"), [("", False), (", public", True)])
def test_authorization_needs_a_permission(extra: str, stored: bool, clock: Clock) -> None:
    """RFC 9111 section 3.5."""
    cache = SharedCache(counter(("Cache-Control", f"max-age=60{extra}")), clock)
    call(cache, headers={"Authorization": "Basic eA=="})

    assert bool(cache.replies) is stored


@pytest.mark.parametrize("asked", ["no-store", "no-cache"])
def test_request_may_ask_for_the_origin(asked: str, clock: Clock) -> None:
    """A reload reaches the application."""
    cache = SharedCache(counter(), clock)
    call(cache)

    assert call(cache, headers={"Cache-Control": asked}).body == b"2"


def test_directives() -> None:
    """Case, quotes, blanks, lists in one line or several."""
    assert directives(['Max-Age = 5, private="a, b" , NO-STORE', "max-age=9"]) == {
        "max-age": "5",
        "private": "a, b",
        "no-store": "",
    }
