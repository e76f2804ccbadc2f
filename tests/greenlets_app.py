"""The application that the tests run under gevent: its requests end in every way that greenlets end."""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import repeat
from typing import Any
from urllib.parse import parse_qsl

import gevent
from gevent.event import Event
from gevent.local import local

from sessionware import Session, SessionMiddleware, get_session
from tests.support.driver import Call, Proceed, watching

DATABASE = "GREENLETS_DATABASE"
VISITORS = "GREENLETS_VISITORS"
PATIENCE = 30

CHUNK = b"." * 4096

TEXT = [("Content-Type", "text/plain")]


class Impatient(gevent.Timeout):
    """The application's own patience has come to its end."""


class Watch:
    """What the test asks for at the end."""

    def __init__(self) -> None:
        self.under_way = self.struck = self.left = self.met = 0
        self.mixed: list[Any] = []
        self.all_here = Event()

    def compare(self, session: Session, tag: str) -> None:
        """Take note of a session that holds anything but *tag*."""
        found = dict(session)
        if set(found.values()) - {tag}:
            self.mixed.append((tag, found))


watch = Watch()
fate = local()


def strike(call: Call, proceed: Proceed) -> Any:
    """End the greenlet whose hour has come in this call: where the driver waits, or else right behind."""
    fate.calls_left = getattr(fate, "calls_left", -1) - 1
    if fate.calls_left != -1:
        return proceed()
    gevent.getcurrent().kill(fate.end, block=False)
    try:
        answer = proceed()
        gevent.sleep(0)
        return answer
    except (gevent.GreenletExit, gevent.Timeout):
        watch.struck += 1
        raise


def doom(calls: int, end: Any) -> None:
    """Have this greenlet end at that driver call, counted from 0; with -1: at its next wait."""
    fate.calls_left, fate.end = calls, end
    if calls < 0:
        gevent.getcurrent().kill(end, block=False)


def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Keep a token of the visitor's, look away, and look whether the session is still his alone."""
    words = dict(parse_qsl(environ["QUERY_STRING"]))
    return WAYS[environ["PATH_INFO"]](get_session(environ), words["tag"], words, start_response)


def plain(session: Session, tag: str, words: dict[str, str], start_response: Any) -> Iterable[bytes]:
    _keep(session, tag, words)
    start_response("200 OK", list(TEXT))
    return [tag.encode()]


def meet(session: Session, tag: str, words: dict[str, str], start_response: Any) -> Iterable[bytes]:
    """Wait for all visitors, each with a session in hand."""
    _keep(session, tag, words)
    watch.met += 1
    if watch.met == int(os.environ[VISITORS]):
        watch.all_here.set()
    assert watch.all_here.wait(PATIENCE)
    return plain(session, tag, words, start_response)


def stream(session: Session, tag: str, words: dict[str, str], start_response: Any) -> Iterator[bytes]:
    """Answer piece by piece, without end if it is for somebody who leaves."""
    _keep(session, tag, words)
    start_response("200 OK", list(TEXT))
    yield tag.encode()
    try:
        for _ in repeat(CHUNK) if "leaves" in words else range(3):
            gevent.sleep(0)
            watch.compare(session, tag)
            yield CHUNK
    except GeneratorExit:
        watch.left += 1
        raise


def fail(session: Session, tag: str, words: dict[str, str], start_response: Any) -> Iterable[bytes]:
    _keep(session, tag, words)
    raise ZeroDivisionError


def killed(session: Session, tag: str, words: dict[str, str], start_response: Any) -> Iterable[bytes]:
    """Die in the application, with a changed session in hand."""
    session[words["token"]] = tag
    doom(-1, gevent.GreenletExit)
    return plain(session, tag, words, start_response)


def late(session: Session, tag: str, words: dict[str, str], start_response: Any) -> Iterable[bytes]:
    session[words["token"]] = tag
    doom(-1, Impatient())
    return plain(session, tag, words, start_response)


def killed_in_database(session: Session, tag: str, words: dict[str, str], start_response: Any) -> Iterable[bytes]:
    """Die while the driver waits for its answer: to the reading, or to the writing."""
    doom(int(words["calls"]), gevent.GreenletExit)
    return plain(session, tag, words, start_response)


def late_in_database(session: Session, tag: str, words: dict[str, str], start_response: Any) -> Iterable[bytes]:
    """Have enough of the database, and try again."""
    doom(0, Impatient())
    with suppress(Impatient):
        _keep(session, tag, words)
    return plain(session, tag, words, start_response)


Way = Callable[[Session, str, dict[str, str], Any], Iterable[bytes]]

WAYS: dict[str, Way] = {
    "/plain": plain,
    "/meet": meet,
    "/stream": stream,
    "/abandoned": stream,
    "/fail": fail,
    "/killed": killed,
    "/late": late,
    "/killed-in-database": killed_in_database,
    "/late-in-database": late_in_database,
}


def _keep(session: Session, tag: str, words: dict[str, str]) -> None:
    session[words["token"]] = tag
    gevent.sleep(0)
    watch.compare(session, tag)


class Counted:
    """A body that counts its request out when it is closed."""

    def __init__(self, body: Iterable[bytes]) -> None:
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._body)

    def close(self) -> None:
        """Close the body, whatever becomes of that."""
        try:
            getattr(self._body, "close", lambda: None)()
        finally:
            watch.under_way -= 1


def _counted(middleware: SessionMiddleware) -> Any:
    def outermost(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/":
            found = {"lent": middleware.store.database.in_use(), **vars(watch), "all_here": None}
            start_response("200 OK", [("Content-Type", "application/json")])
            return [json.dumps(found).encode()]
        watch.under_way += 1
        try:
            if environ["PATH_INFO"] == "/abandoned":
                next(iter(middleware(dict(environ), lambda *_: None)))
                start_response("200 OK", list(TEXT))
                return Counted([b"abandoned"])
            return Counted(middleware(environ, start_response))
        except BaseException:
            watch.under_way -= 1
            raise

    return outermost


if DATABASE in os.environ:
    _middleware = SessionMiddleware(app, os.environ[DATABASE], cookie_secure=False)
    _watching = watching(_middleware.store.database.engine, strike)
    _watching.__enter__()
    application = _counted(_middleware)
