"""The answers that the middleware gives itself, from WebOb: fixed texts, nothing of what went wrong."""

from typing import TYPE_CHECKING

from webob.exc import HTTPBadRequest, HTTPServiceUnavailable

from .headers import Headers

if TYPE_CHECKING:
    from webob.exc import WSGIHTTPException

RETRY_AFTER_SECONDS = 5


class Answer:
    """A complete small response: status line, headers and body."""

    def __init__(self, response: "WSGIHTTPException") -> None:
        response.text = f"{response.status}\n\n{response.detail}\n"
        response.content_type = "text/plain"
        self.status: str = response.status
        self.headers: Headers = list(response.headerlist)
        self.body: bytes = response.body


def interrupted() -> Answer:
    """Return the 400 for a request whose session another request has ended or rotated (as in Django)."""
    return Answer(HTTPBadRequest("Your session changed while this request was running. Please try again."))


def unavailable() -> Answer:
    """Return the 503 for a request that needed its session while the database did not answer."""
    answer = Answer(HTTPServiceUnavailable("Please try again in a moment."))
    answer.headers.append(("Retry-After", str(RETRY_AFTER_SECONDS)))
    return answer
