"""The browser's side: WSGI calls inside this process, timed or looked at."""

import io
import time
from collections.abc import Iterable
from dataclasses import dataclass
from http.cookies import SimpleCookie
from typing import Any
from wsgiref.types import WSGIApplication, WSGIEnvironment

OTHER_COOKIES = "theme=dark; consent=2026-11-02T10%3A00%3A00Z"


@dataclass(frozen=True)
class Response:
    """What came back of one request."""

    status: str
    headers: list[tuple[str, str]]
    body: str

    @property
    def cookies(self) -> list[str]:
        return [value for name, value in self.headers if name.lower() == "set-cookie"]


class WrongAnswer(Exception):
    """A contestant did not do what the workload asks for."""


def environ_for(path: str, cookie: str | None = None) -> WSGIEnvironment:
    """Return the environ of a GET of *path*; *cookie* is a `name=value` pair or None."""
    environ: dict[str, Any] = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": "",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "443",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_HOST": "localhost",
        "HTTP_USER_AGENT": "Mozilla/5.0",
        "HTTP_ACCEPT": "text/html,*/*;q=0.8",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "https",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": False,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    if cookie is not None:
        environ["HTTP_COOKIE"] = f"{OTHER_COOKIES}; {cookie}"
    return environ


def get(app: WSGIApplication, path: str, cookie: str | None = None) -> Response:
    """Ask *app* for *path* and return all of the answer."""
    seen: list[Any] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        seen[:] = [status, headers]

    body = app(environ_for(path, cookie), start_response)
    text = b"".join(body).decode()
    _close(body)
    response = Response(seen[0], seen[1], text)
    if not response.status.startswith("200"):
        raise WrongAnswer(f"{path} answered {response.status}")
    return response


def seed(app: WSGIApplication, path: str) -> str:
    """Start a session by asking for *path*; return its cookie as `name=value`."""
    return session_cookie(get(app, path))


def session_cookie(response: Response) -> str:
    """Return the one cookie that *response* sets, as `name=value`."""
    if len(response.cookies) != 1:
        raise WrongAnswer(f"{len(response.cookies)} cookies were set instead of one")
    ((name, morsel),) = SimpleCookie(response.cookies[0]).items()
    return f"{name}={morsel.value}"


def timed(app: WSGIApplication, path: str, cookie: str | None, requests: int, budget: float) -> float:
    """Return the microseconds one request takes, over *requests* of them or *budget* seconds."""
    template = environ_for(path, cookie)
    failures: list[str] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        if not status.startswith("200"):
            failures.append(status)

    done, part, spent = 0, max(1, requests // 10), 0.0
    while done < requests and spent < budget:
        spent += _burst(app, template, start_response, part)
        done += part
    if failures:
        raise WrongAnswer(f"{path} answered {failures[0]} {len(failures)} times")
    return spent / done * 1e6


def _burst(app: WSGIApplication, template: WSGIEnvironment, start_response: Any, requests: int) -> float:
    clock = time.perf_counter
    begin = clock()
    for _ in range(requests):
        body = app(template.copy(), start_response)
        for _chunk in body:
            pass
        _close(body)
    return clock() - begin


def _close(body: Iterable[bytes]) -> None:
    close = getattr(body, "close", None)
    if close is not None:
        close()
