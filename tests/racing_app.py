"""The application that the tests run in gunicorn; the environment says on which database."""

import json
import os
import time
from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qsl

from sessionware import SessionMiddleware, get_session
from tests.support.isolation import Address
from tests.support.meeting import wait_at

DATABASE = "RACING_DATABASE"
LEVEL = "RACING_LEVEL"
BREAKAGE = "RACING_BREAKAGE"


def settings(address: Address, breakage: str = "") -> dict[str, str]:
    """Return the environment that has the application use *address*."""
    return {DATABASE: address.url, LEVEL: address.level or "", BREAKAGE: breakage}


def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Do to the session what the path says; the answer is what the session holds then, as JSON."""
    words = dict(parse_qsl(environ["QUERY_STRING"]))
    answer = HANDLERS[environ["PATH_INFO"]](environ, words)
    body = json.dumps(answer).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


def plain(environ: dict[str, Any], words: dict[str, str]) -> Any:
    return "plain"


def read(environ: dict[str, Any], words: dict[str, str]) -> Any:
    return dict(get_session(environ))


def write(environ: dict[str, Any], words: dict[str, str]) -> Any:
    session = get_session(environ)
    work, meeting = float(words.pop("work", "0")), words.pop("meeting", "")
    session.update(words)
    seen = dict(session)
    time.sleep(work)
    if meeting:
        wait_at(int(meeting))
    return seen


def append(environ: dict[str, Any], words: dict[str, str]) -> Any:
    def change(values: dict[str, Any]) -> list[str]:
        values.setdefault("log", []).append(words["token"])
        return list(values["log"])

    return get_session(environ).atomic(change)


def login(environ: dict[str, Any], words: dict[str, str]) -> Any:
    session = get_session(environ)
    session.login(words["user"])
    return dict(session)


def logout(environ: dict[str, Any], words: dict[str, str]) -> Any:
    get_session(environ).logout()
    return {}


def purge(environ: dict[str, Any], words: dict[str, str]) -> Any:
    return application.store.purge(batch_size=10)


def lent(environ: dict[str, Any], words: dict[str, str]) -> Any:
    return [os.getpid(), application.store.database.in_use()]


HANDLERS = {
    **{"/": plain, "/read": read, "/write": write, "/append": append, "/login": login, "/logout": logout},
    **{"/purge": purge, "/lent": lent},
}


def _made() -> Any:
    address = Address(os.environ[DATABASE], os.environ[LEVEL] or None)
    if os.environ.get(BREAKAGE):
        from tests.broken import BREAKAGES  # they change the package: only where it is asked for

        BREAKAGES[os.environ[BREAKAGE]]()
    return SessionMiddleware(app, address.open(), cookie_secure=False)


if DATABASE in os.environ:
    application = _made()
