"""One call of a WSGI application (PEP 3333): its answer held back until the session is decided.

Knows when headers leave; knows nothing of what a session is.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from .headers import Headers

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

ExcInfo = Any
Write = Callable[[bytes], object]
Begin = Callable[[Iterator[bytes]], Iterator[bytes]]


class Responder(Protocol):
    """What decides a response."""

    def process_response(self, environ: "WSGIEnvironment", status: str, headers: Headers) -> Headers:
        """Return the headers to be sent; called once, before the first byte can leave. May raise."""

    def fail(self, environ: "WSGIEnvironment") -> None:
        """Hear that the answer has become an error after its headers were decided."""

    def redress(self, environ: "WSGIEnvironment", status: str, headers: Headers) -> Headers:
        """Return the headers to be sent instead of those already decided."""


class Exchange:
    """Stands between the application's ``start_response`` and the server's."""

    status = ""  # what the application has answered, once it has
    headers: Headers
    _exc_info: ExcInfo = None
    _server_write: Write

    def __init__(self, server_start: "StartResponse", responder: Responder, environ: "WSGIEnvironment") -> None:
        self.server_start = server_start
        self._responder = responder
        self._environ = environ
        self.started = False  # the application has called start_response
        self.decided = False  # the headers have gone to the server
        self.waits = False  # the application's answer is there, without exc_info, and has not been decided

    def start_response(self, status: str, headers: Headers, exc_info: ExcInfo = None) -> Write:
        """Take the application's status and headers; they go to the server with `send_headers`."""
        if self.decided:
            return self._start_again(status, headers, exc_info)
        if self.started and exc_info is None:
            raise AssertionError("start_response was called twice without exc_info (PEP 3333)")
        self.status, self.headers = status, headers
        self.started = self.waits = True
        if exc_info is not None:
            self._exc_info, self.waits = exc_info, False
        return self._write

    @property
    def failed(self) -> bool:
        """Return whether the application has answered with a status from 500 on."""
        return self.status >= "5"

    def send_headers(self) -> None:
        """Have the response decided and start it at the server, once."""
        if self.decided:
            return
        headers = self._responder.process_response(self._environ, self.status, self.headers)
        self.decided, self.waits = True, False
        if self._exc_info is None:
            self._server_write = self.server_start(self.status, headers)
            return
        exc_info, self._exc_info = self._exc_info, None  # kept longer, it would tie up its frames
        self._server_write = self.server_start(self.status, headers, exc_info)

    def _start_again(self, status: str, headers: Headers, exc_info: ExcInfo) -> Write:
        # The server raises if the first headers are gone; else these replace them, session headers and all.
        if exc_info is None:
            return self.server_start(status, headers)
        write = self.server_start(status, self._responder.redress(self._environ, status, headers), exc_info)
        if not self.failed:  # a failure before counts: nothing was stored for it
            self.status = status
        if self.failed:
            self._responder.fail(self._environ)
        return write

    def _write(self, data: bytes) -> None:
        self.send_headers()
        self._server_write(data)


class Body:
    """An application's iterable, with something to be done at its beginning and after its end.

    *begin* gets the iterator before its first item is taken, and returns the one to go on with. *at_last* is
    called when there is no further item, before the server, and so the client, can know. *at_end* is called
    when the server is done, and told whether the iterable did well, as far as the client wanted it.

    A class and not a generator: a generator turns the StopIteration by which applications hand a
    hijacked connection to gunicorn into a RuntimeError (PEP 479).
    """

    def __init__(
        self,
        iterable: Iterable[bytes],
        at_last: Callable[[], object],
        at_end: Callable[[bool], object],
        begin: Begin | None = None,
    ) -> None:
        self._iterable = iterable
        self._iterator: Iterator[bytes] | None = None
        self._at_last: Callable[[], object] | None = at_last
        self._at_end: Callable[[bool], object] | None = at_end
        self._begin = begin
        self._raised = False

    def __iter__(self) -> "Body":
        return self

    def __next__(self) -> bytes:
        try:
            if self._iterator is None:
                self._iterator = iter(self._iterable)
            if self._begin is not None:
                begin, self._begin = self._begin, None
                self._iterator = begin(self._iterator)
            return next(self._iterator)
        except StopIteration:
            self._finish()
            raise
        except BaseException:
            self._raised = True
            raise

    def _finish(self) -> None:
        at_last, self._at_last = self._at_last, None
        if at_last is None:
            return
        self._raised = True
        at_last()
        self._raised = False

    def close(self) -> None:
        """Close the application's iterable and do what is to be done at the end, each exactly once."""
        at_end, self._at_end = self._at_end, None
        if at_end is None:
            return
        try:
            close = getattr(self._iterable, "close", None)
            if close is not None:
                close()
        finally:
            self._iterable, self._iterator = (), None
            at_end(not self._raised)


class ClosingList(list[bytes]):
    """A list body with a close: servers that count its items, to send a Content-Length, still can."""

    def __init__(self, items: Iterable[bytes], at_end: Callable[[], object]) -> None:
        super().__init__(items)
        self._at_end = at_end

    def close(self) -> None:
        """Do what is to be done at the end."""
        self._at_end()


def can_be_watched(body: Iterable[bytes]) -> bool:
    """Return whether a weak reference can tell the end of *body*: not of ``map()`` and the like."""
    return type(body).__weakrefoffset__ != 0


_SIZED = (list, tuple)
_BARE_ITERATORS: tuple[type, ...] = (type(iter([])), type(iter(())))


def is_complete(body: Any, file_wrapper: Any) -> bool:
    """Return whether no application code runs while *body* is sent.

    Such a body is passed on as it is: servers count the items of lists, send wrapped files by
    sendfile, and know their own sentinels by identity.
    """
    if isinstance(body, _SIZED) or not hasattr(body, "__iter__"):
        return True
    return isinstance(file_wrapper, type) and isinstance(body, file_wrapper)


def is_bare_iterator(body: object) -> bool:
    """Return whether *body* is the iterator of a list or tuple: no code of the application runs in it either."""
    return type(body) in _BARE_ITERATORS
