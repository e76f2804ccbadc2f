"""Applications of every shape that WSGI allows, all doing the same, and the middleware between validators."""

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from sessionware import Session, SessionEvent, SessionMiddleware
from tests.support.clock import Clock
from tests.support.wsgi import Body, Browser, Reply, WSGIApp, make_environ, validated

KEY = "sessionware.session"
PLAIN = [("Content-Type", "text/plain")]
NOWHERE = "sqlite:////nowhere/at/all/sessions.db"

Action = Callable[[Session], object]
Shape = Callable[..., WSGIApp]


def nothing(_session: Session) -> None:
    """Leave the session alone."""


def _add_one(session: Session) -> None:
    session["n"] = session.get("n", 0) + 1


# What a page of the counting application does to its session before it says how far the count is.
_WAYS_TO_COUNT: dict[str, Callable[[Session], object]] = {
    "/": _add_one,
    "/count": _add_one,
    "/atomic": lambda session: session.atomic(lambda values: values.update(n=values["n"] + 1)),
    "/cycle": lambda session: (session.cycle_key(), _add_one(session)),
    "/log_in": lambda session: (session.login("bob"), _add_one(session)),
    "/log_out": lambda session: session.logout(),
    "/read": nothing,
    "/static": nothing,
}


def counting(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """Count visits, in one of several ways; /static does not look at its session."""
    session, path = environ[KEY], environ["PATH_INFO"]
    _WAYS_TO_COUNT[path](session)
    start_response("200 OK", [])
    return [b"static" if path == "/static" else str(session.get("n")).encode()]


def as_list(action: Action, status: str = "200 OK", headers: Any = PLAIN) -> WSGIApp:
    """Answer at once, with a list."""

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        text = _text(action(environ[KEY]))
        start_response(status, list(headers))
        return [text]

    return app


def as_tuple(action: Action, status: str = "200 OK", headers: Any = PLAIN) -> WSGIApp:
    """Answer at once, with a tuple."""

    def app(environ: dict[str, Any], start_response: Any) -> tuple[bytes, ...]:
        start_response(status, list(headers))
        return (_text(action(environ[KEY])),)

    return app


def as_object(action: Action, status: str = "200 OK", headers: Any = PLAIN) -> WSGIApp:
    """Answer at once, with an iterable that has a close()."""

    def app(environ: dict[str, Any], start_response: Any) -> Body:
        start_response(status, list(headers))
        return Body([b"", _text(action(environ[KEY]))])

    return app


def early(action: Action, status: str = "200 OK", headers: Any = PLAIN) -> WSGIApp:
    """Answer at once, and stream."""

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        text = _text(action(environ[KEY]))
        start_response(status, list(headers))
        return iter([b"", text])

    return app


def late(action: Action, status: str = "200 OK", headers: Any = PLAIN) -> WSGIApp:
    """Do everything, start_response included, when the body is asked for."""

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        text = _text(action(environ[KEY]))
        start_response(status, list(headers))
        yield text

    return app


def writing(action: Action, status: str = "200 OK", headers: Any = PLAIN) -> WSGIApp:
    """Send the body by write()."""

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        write = start_response(status, list(headers))
        text = _text(action(environ[KEY]))
        write(text)
        return []

    return app


def restarting(action: Action, status: str = "200 OK", headers: Any = PLAIN) -> WSGIApp:
    """Think better of a first answer, by start_response with exc_info."""

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [*PLAIN, ("X-First", "1")])
        text = _text(action(environ[KEY]))
        try:
            raise LookupError
        except LookupError:
            start_response(status, list(headers), sys.exc_info())
        return [text]

    return app


def answering(body: Callable[[], Any], action: Action = nothing, status: str = "200 OK") -> Any:
    """Return an application that does *action* and answers with *body*."""

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        action(environ[KEY])
        start_response(status, list(PLAIN))
        return body()

    return app


SHAPES: dict[str, Shape] = {
    "list": as_list,
    "tuple": as_tuple,
    "object": as_object,
    "early": early,
    "late": late,
    "write": writing,
    "restart": restarting,
}


class ValidatedSite:
    """The middleware between validators; *bare*: without those inside, which wrap every body.

    *app* None: visits say what happens in them.
    """

    def __init__(
        self,
        url: str,
        app: WSGIApp | None = None,
        *,
        shape: Shape = as_list,
        bare: bool = False,
        clock: Clock | None = None,
        **options: Any,
    ) -> None:
        self.clock = clock or Clock()
        self.events: list[SessionEvent] = []
        self._shape = shape
        self._answer: WSGIApp = shape(nothing)
        inner = app or self._run
        options = {"clock": self.clock, "on_event": self.events.append, **options}
        self.middleware = SessionMiddleware(inner if bare else validated(inner), url, **options)
        self.app = validated(self.middleware)
        self.store = self.middleware.store
        self.browser = self.visitor()

    def visitor(self) -> Browser:
        """Return a new browser, on the clock of the site."""
        return Browser(self.app, clock=self.clock)

    def visit(
        self, action: Action = nothing, status: str = "200 OK", headers: Any = PLAIN, path: str = "/", **request: Any
    ) -> Reply:
        """Have *action* done in a request of the site's own browser, and its result answered as text."""
        self._answer = self._shape(action, status, headers)
        return self.browser.request(request.pop("method", "GET"), path, **request)

    def look(self, action: Action) -> Any:
        """Return what *action* finds in a request of its own."""
        found: list[Any] = []
        self.visit(lambda session: found.append(action(session)))
        return found[0]

    def kinds(self) -> list[str]:
        """Return the kinds of the events so far."""
        return [event.kind for event in self.events]

    def _run(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        return self._answer(environ, start_response)


def opened(site: ValidatedSite, key: str | None) -> Session:
    """Return the session of a new request with this key; nobody answers it."""
    cookie = None if key is None else f"{site.middleware.cookie.name}={key}"
    return site.middleware.process_request(make_environ(cookie=cookie))


def _text(found: object) -> bytes:
    return str(found).encode()
