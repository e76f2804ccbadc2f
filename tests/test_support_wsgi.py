"""The strict server: it refuses each thing that WSGI forbids, and serves the rest."""

import sys
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from tests.support.wsgi import Body, BrokenRule, Browser, call, make_environ, validated

PLAIN = [("Content-Type", "text/plain")]


def respond(status: Any = "200 OK", headers: Any = PLAIN, body: Any = (b"body",)) -> Any:
    """Return an application that always answers the same."""

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response(status, headers)
        return body

    return app


def late(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    yield b""
    start_response("200 OK", PLAIN)
    yield b"late"


def silent(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    return []


def twice(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", PLAIN)
    start_response("200 OK", PLAIN)
    return []


def writer_of_text(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", PLAIN)("text")
    return []


@pytest.mark.parametrize(
    "app",
    [
        pytest.param(late, id="chunk before start_response"),
        pytest.param(silent, id="no start_response"),
        pytest.param(twice, id="start_response twice"),
        pytest.param(writer_of_text, id="write() of text"),
        pytest.param(respond(status="200"), id="status without a reason"),
        pytest.param(respond(status=b"200 OK"), id="status in bytes"),
        pytest.param(respond(headers=tuple(PLAIN)), id="headers in a tuple"),
        pytest.param(respond(headers=[["A", "b"]]), id="header in a list"),
        pytest.param(respond(headers=[("A b", "c")]), id="space in a header name"),
        pytest.param(respond(headers=[("A", "b\r\nC: d")]), id="line break in a header"),
        pytest.param(respond(headers=[("A", "\u20ac")]), id="header not latin-1"),
        pytest.param(respond(headers=[("A", b"b")]), id="header in bytes"),
        pytest.param(respond(headers=[("Connection", "close")]), id="hop-by-hop header"),
        pytest.param(respond(headers=[("Status", "200")]), id="status as header"),
        pytest.param(respond(headers=[*PLAIN, ("Content-Length", "9")]), id="wrong length"),
        pytest.param(respond(body=["text"]), id="text chunk"),
        pytest.param(respond(body=b"bytes"), id="bytes for an iterable"),
    ],
)
def test_refuses(app: Any) -> None:
    """Each of these once broke a real server or client."""
    with pytest.raises(BrokenRule):
        call(app)


def test_serves_what_is_right() -> None:
    """Status, headers, body, cookies and the end."""
    body = Body([b"", b"a", b"b"])
    headers = [*PLAIN, ("Set-Cookie", "s=1; Path=/"), ("Set-Cookie", "t=2")]
    reply = call(respond("404 Not Found", headers, body))

    assert (reply.status, reply.reason, reply.body) == (404, "Not Found", b"ab")
    assert reply.cookies == {"s": "1", "t": "2"}
    assert reply.header("content-type") == "text/plain"
    assert reply.iterable is body
    assert (reply.closed, body.closes) == (True, 1)


def test_write_goes_before_the_iterable() -> None:
    """The old imperative way."""

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        write = start_response("200 OK", PLAIN)
        write(b"first ")
        return [b"second"]

    assert call(app).body == b"first second"


@pytest.mark.parametrize("sent", [False, True], ids=["headers pending", "headers sent"])
def test_exc_info_replaces_what_was_not_sent(sent: bool) -> None:
    """Before the first byte the error page wins, after it the error itself."""

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [*PLAIN, ("Set-Cookie", "s=1")])
        yield b"byte" if sent else b""
        try:
            raise LookupError("broken")
        except LookupError:
            start_response("500 Internal Server Error", PLAIN, sys.exc_info())
        yield b"sorry"

    if sent:
        with pytest.raises(LookupError):
            call(app)
    else:
        assert (call(app).status, call(app).cookies) == (500, {})


def test_closes_also_after_an_error() -> None:
    """An exception while iterating must not lose the close."""

    def chunks() -> Iterable[bytes]:
        yield b"a"
        raise LookupError

    body = Body(chunks())
    with pytest.raises(LookupError):
        call(respond(body=body))

    assert body.closes == 1


@pytest.mark.parametrize(("after", "received"), [(0, b""), (1, b"a")])
def test_client_goes_away(after: int, received: bytes) -> None:
    """The rest is not asked for, and close() is called."""
    body = Body([b"a", b"b"])
    reply = call(respond(body=body), stop_after=after)

    assert reply.body == received
    assert body.closes == 1


def test_head_has_no_body() -> None:
    """The server drops it, whatever its length was said to be."""
    reply = call(respond(headers=[*PLAIN, ("Content-Length", "4")]), method="HEAD")

    assert reply.body == b""


def test_environ_is_complete_and_can_be_changed() -> None:
    """A query, a header, a cookie, a body; None removes."""
    seen: dict[str, Any] = {}

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.update(environ)
        start_response("200 OK", PLAIN)
        return [environ["wsgi.input"].read()]

    changes = {"REMOTE_ADDR": None, "X": 1}
    reply = call(app, "/%C3%A4?q=1", method="POST", body=b"x=1", headers={"X-A": "b"}, environ=changes)

    assert reply.body == b"x=1"
    assert (seen["PATH_INFO"], seen["QUERY_STRING"], seen["HTTP_X_A"]) == ("/\xc3\xa4", "q=1", "b")
    assert (seen["X"], "REMOTE_ADDR" in seen, "HTTP_COOKIE" in seen) == (1, False, False)


def test_validators_accept_the_environ_and_catch_faults() -> None:
    """The validators must be quiet on a good application, and must not be quiet on a bad one."""
    assert call(validated(validated(respond(body=[b"fine"])))).body == b"fine"
    with pytest.raises(AssertionError):
        call(validated(respond(headers=[("Content-Type", "text/plain\n")])))


def test_browser_keeps_cookies() -> None:
    """What was set comes back at the next request, until it expires."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        start_response("200 OK", [*PLAIN, ("Set-Cookie", "__Host-s=1; Path=/; Secure; Max-Age=60")])
        return [environ.get("HTTP_COOKIE", "none").encode()]

    browser = Browser(app)
    first, second = browser.get("/"), browser.get("/deep")
    browser.clock.advance(60)

    assert (first.text, second.text, browser.get("/").text) == ("none", "__Host-s=1", "none")


def test_make_environ_speaks_of_the_url() -> None:
    """Scheme, host and port come from one place."""
    environ = make_environ(url="https://example.test:8443")

    assert (environ["wsgi.url_scheme"], environ["SERVER_PORT"]) == ("https", "8443")
    assert environ["HTTP_HOST"] == "example.test:8443"
