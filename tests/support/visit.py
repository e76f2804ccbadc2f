"""One request, driven step by step: each step is one call, so that an interleaving is an order of calls."""

from collections.abc import Hashable, Iterator, Sequence
from typing import TypeVar

from sessionware import SessionInterrupted, SessionMiddleware
from tests.support.wsgi import make_environ

Step = TypeVar("Step", bound=Hashable)


class Visit:
    """A request that holds *key*, between process_request and process_response.

    *interrupted* is what ended it, if anything did; *headers* are those of its response.
    """

    def __init__(self, middleware: SessionMiddleware, key: str | None = None) -> None:
        name = middleware.cookie.name
        self.middleware = middleware
        self.environ = make_environ(cookie=None if key is None else f"{name}={key}", url="https://example.test")
        self.session = middleware.process_request(self.environ)
        self.interrupted: SessionInterrupted | None = None
        self.headers: list[tuple[str, str]] = []

    def load(self) -> None:
        """Read the session."""
        len(self.session)

    def end(self, status: str = "200 OK") -> "Visit":
        """Decide the response, as the middleware does."""
        try:
            self.headers = self.middleware.process_response(self.environ, status, [])
        except SessionInterrupted as error:
            self.interrupt(error)
        return self

    def interrupt(self, error: SessionInterrupted) -> None:
        """Answer as the middleware answers a request that another one has interrupted."""
        self.interrupted = error
        self.headers = self.middleware.redress(self.environ, "400 Bad Request", [])

    @property
    def cookie(self) -> str | None:
        """The session key that the response sets; "" where it clears the cookie, None where it does neither."""
        values = [value for name, value in self.headers if name == "Set-Cookie"]
        assert len(values) < 2, f"{len(values)} cookies"
        return values[0].split(";")[0].partition("=")[2] if values else None


def merges(*parties: Sequence[Step]) -> Iterator[list[Step]]:
    """Yield every order of all steps that keeps the order of each party."""
    if not any(parties):
        yield []
    for number, party in enumerate(parties):
        if party:
            rest = [*parties[:number], party[1:], *parties[number + 1 :]]
            for order in merges(*rest):
                yield [party[0], *order]
