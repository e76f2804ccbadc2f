"""A strict WSGI server in one function, and a browser that keeps cookies.

The server does what PEP 3333 demands of servers and refuses what it forbids applications.
"""

import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit
from wsgiref.util import FileWrapper, is_hop_by_hop
from wsgiref.validate import validator

from webtest import lint  # type: ignore[import-untyped]

from tests.support.clock import Clock
from tests.support.jar import Jar

WSGIApp = Callable[[dict[str, Any], Any], Iterable[bytes]]
ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]

STATUS = re.compile(r"[1-5]\d\d [\x20-\x7e]*\S")
TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
FORBIDDEN_IN_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


class BrokenRule(AssertionError):
    """The application broke a rule of WSGI."""


@dataclass
class Reply:
    """What the client got. *iterable* is the very object the application returned."""

    status: int = 0
    reason: str = ""
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    closed: bool = False
    iterable: Iterable[bytes] | None = None
    errors: str = ""

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def set_cookies(self) -> list[str]:
        """The values of all Set-Cookie headers, as sent."""
        return self.all("Set-Cookie")

    @property
    def cookies(self) -> dict[str, str]:
        """Name to value of the cookies set; setting one name twice is refused, as RFC 6265bis does."""
        pairs = [line.split(";")[0].split("=", 1) for line in self.set_cookies]
        names = [pair[0] for pair in pairs]
        assert len(set(names)) == len(names), f"one name set twice: {names}"
        return {pair[0]: pair[1] for pair in pairs}

    def header(self, name: str) -> str | None:
        """Return the one value of a header, None without it; two are refused."""
        values = self.all(name)
        assert len(values) < 2, f"{name} was sent {len(values)} times"
        return values[0] if values else None

    def all(self, name: str) -> list[str]:
        """Return every value of a header, in order."""
        return [value for found, value in self.headers if found.lower() == name.lower()]


def call(
    app: WSGIApp,
    path: str = "/",
    *,
    environ: Mapping[str, Any] | None = None,
    stop_after: int | None = None,
    **request: Any,
) -> Reply:
    """Serve one request and return the reply; what the application raises comes out, after close().

    *path* and *request* are those of make_environ(). *environ* is laid over the rest; a value of None
    removes the key. *stop_after* chunks the client goes away.

    Raises:
        BrokenRule: the application broke a rule of WSGI.
    """
    full = make_environ(path, **request)
    full.update(environ or {})
    return serve(app, {name: value for name, value in full.items() if value is not None}, stop_after)


def serve(app: WSGIApp, environ: dict[str, Any], stop_after: int | None = None) -> Reply:
    """Serve the request that *environ* describes; see call()."""
    return _Exchange(environ).run(app, stop_after)


def make_environ(
    path: str = "/",
    *,
    cookie: str | None = None,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
    url: str = "http://localhost",
) -> dict[str, Any]:
    """Return a complete environ. *path* may have a query, *cookie* is the raw header."""
    site, where = urlsplit(url), urlsplit(path)
    port = site.port or (443 if site.scheme == "https" else 80)
    environ: dict[str, Any] = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(where.path).decode("latin-1"),
        "QUERY_STRING": where.query,
        "CONTENT_LENGTH": str(len(body)) if body else "",
        "SERVER_NAME": site.hostname,
        "SERVER_PORT": str(port),
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_HOST": site.netloc,
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": site.scheme,
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "wsgi.file_wrapper": FileWrapper,
    }
    environ |= {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in (headers or {}).items()}
    return environ if cookie is None else {**environ, "HTTP_COOKIE": cookie}


def validated(app: WSGIApp) -> WSGIApp:
    """Return *app* under the standard library's validator and WebTest's, which see different faults."""
    return validator(lint.middleware(app))


class Body:
    """A response body that counts how often it was closed."""

    def __init__(self, chunks: Iterable[bytes] = (b"body",)) -> None:
        self.closes = 0
        self._chunks = iter(chunks)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return next(self._chunks)

    def close(self) -> None:
        self.closes += 1


class Browser:
    """A visitor: sends the cookies it was given, on a clock of its own."""

    def __init__(self, app: WSGIApp, url: str = "https://example.test", clock: Clock | None = None) -> None:
        self.jar = Jar()
        self.url = url
        self.clock = clock or Clock()
        self._app = app

    def get(self, path: str = "/", **options: Any) -> Reply:
        """Ask for *path*."""
        return self.request("GET", path, **options)

    def post(self, path: str = "/", **options: Any) -> Reply:
        """Post to *path*."""
        return self.request("POST", path, **options)

    def request(self, method: str, path: str, **options: Any) -> Reply:
        """Send one request and keep the cookies of the reply; *options* are those of call()."""
        target = f"{options.get('url', self.url)}{path}"
        cookie = self.jar.header_for(target, self.clock())
        reply = call(self._app, path, **{"cookie": cookie, "method": method, "url": self.url, **options})
        self.jar.set_from_headers(target, reply.headers, self.clock())
        return reply


class _Exchange:
    """The server's side of one request."""

    def __init__(self, environ: dict[str, Any]) -> None:
        self._environ = environ
        self._pending: tuple[str, list[tuple[str, str]]] | None = None
        self._sent = False
        self._chunks: list[bytes] = []
        self._reply = Reply()

    def run(self, app: WSGIApp, stop_after: int | None) -> Reply:
        iterable = app(self._environ, self._start_response)
        self._reply.iterable = iterable
        try:
            self._send_all(iterable, stop_after)
        finally:
            self._close(iterable)
        errors = self._environ.get("wsgi.errors")
        self._reply.errors = errors.getvalue() if isinstance(errors, io.StringIO) else ""
        return self._finish(gone=stop_after is not None)

    def _start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: ExcInfo | None = None
    ) -> Callable[[bytes], None]:
        if exc_info is not None:
            self._restart(exc_info)
        elif self._pending is not None:
            raise BrokenRule("start_response was called twice without exc_info")
        _check_status(status)
        _check_headers(headers)
        self._pending = (status, list(headers))
        return self._write

    def _restart(self, exc_info: ExcInfo) -> None:
        _refuse(type(exc_info) is not tuple or len(exc_info) != 3, "exc_info is not sys.exc_info()")
        if self._sent:
            raise exc_info[1].with_traceback(exc_info[2])

    def _write(self, chunk: bytes) -> None:
        _refuse(type(chunk) is not bytes, f"write() got {type(chunk).__name__}, not bytes")
        self._send(chunk)

    def _send_all(self, iterable: Iterable[bytes], stop_after: int | None) -> None:
        _refuse(isinstance(iterable, str | bytes), "the application returned a string, not an iterable")
        if stop_after == 0:
            return
        for number, chunk in enumerate(iterable, start=1):
            _refuse(type(chunk) is not bytes, f"a chunk is {type(chunk).__name__}, not bytes")
            self._send(chunk)
            if number == stop_after:
                return
        self._send_headers()

    def _send(self, chunk: bytes) -> None:
        _refuse(self._pending is None, "a chunk came before start_response")
        if chunk:
            self._send_headers()
            self._chunks.append(chunk)

    def _send_headers(self) -> None:
        if self._sent:
            return
        if self._pending is None:
            raise BrokenRule("start_response was never called")
        status, self._reply.headers = self._pending
        self._reply.status, self._reply.reason = int(status[:3]), status[4:]
        self._sent = True

    def _close(self, iterable: Iterable[bytes]) -> None:
        close = getattr(iterable, "close", None)
        if close is not None:
            close()
            self._reply.closed = True

    def _finish(self, *, gone: bool) -> Reply:
        body = b"".join(self._chunks)
        length = self._reply.header("Content-Length")
        bodiless = self._environ["REQUEST_METHOD"] == "HEAD" or self._reply.status in (204, 304)
        if length is not None and not bodiless and not gone:
            _refuse(int(length) != len(body), f"Content-Length is {length}, the body has {len(body)} bytes")
        self._reply.body = b"" if bodiless else body
        return self._reply


def _check_status(status: str) -> None:
    _refuse(type(status) is not str, "the status is not a str")
    _refuse(not STATUS.fullmatch(status), f"not a status: {status!r}")


def _check_headers(headers: list[tuple[str, str]]) -> None:
    _refuse(type(headers) is not list, "the headers are not a list")
    for pair in headers:
        _refuse(type(pair) is not tuple or len(pair) != 2, f"not a header: {pair!r}")
        _check_header(*pair)


def _check_header(name: str, value: str) -> None:
    _refuse(type(name) is not str or type(value) is not str, f"not strings: {name!r}: {value!r}")
    _refuse(not TOKEN.fullmatch(name), f"not a header name: {name!r}")
    _refuse(bool(FORBIDDEN_IN_VALUE.search(value)), f"a control character in {name}: {value!r}")
    _refuse(any(ord(character) > 255 for character in value), f"{name} is not latin-1: {value!r}")
    _refuse(is_hop_by_hop(name), f"{name} is the server's to send")
    _refuse(name.lower() == "status", "Status is no header")


def _refuse(broken: bool, rule: str) -> None:
    if broken:
        raise BrokenRule(rule)
