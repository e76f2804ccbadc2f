"""A WSGI application without sessions: what no contestant can go below."""

from collections.abc import Iterable
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment


def build(name: str, url: str) -> WSGIApplication:
    """Return an application that answers every request alike."""
    return application


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer 200."""
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
    return [b"ok"]
