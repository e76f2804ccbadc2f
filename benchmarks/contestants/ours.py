"""Sessionware, with its default options; only the purge is left to the scale run."""

from collections.abc import Iterable
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from sessionware import SessionMiddleware

from ..workloads import UNTOUCHED, act


def build(name: str, url: str) -> WSGIApplication:
    """Return the application wrapped once."""
    return SessionMiddleware(application, url, purge_interval=None)


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Do what the path asks for."""
    path = environ["PATH_INFO"]
    body = b"ok" if path == UNTOUCHED else act(path, environ["sessionware.session"]).encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
