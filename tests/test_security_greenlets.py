"""S69 under gevent: a server full of greenlets, some of which are ended in the middle of what they do."""

import http.client
import json
import random
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from sessionware import SessionStore
from tests.greenlets_app import CHUNK, DATABASE, PATIENCE, VISITORS
from tests.support.gunicorn import Gunicorn

NUMBER = 24
REQUESTS = 20

# What the application does, and whether its token is stored then; None: nobody can tell.
ENDINGS: dict[str, bool | None] = {
    "/plain": True,
    "/stream": True,
    "/abandoned": True,
    "/fail": False,
    "/killed": False,
    "/late": False,
    "/killed-in-database": None,
    "/late-in-database": True,
}


@dataclass
class Visitor:
    """One browser, that now and then goes away in the middle of an answer."""

    server: Gunicorn
    number: int
    key: str = ""
    stored: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)
    wrong: list[Any] = field(default_factory=list)

    @property
    def tag(self) -> str:
        """What the visitor's session may hold, and no other."""
        return f"visitor {self.number}"

    def run(self) -> None:
        """Meet all others, and then do one thing after the other, in an order of its own."""
        chance = random.Random(self.number)
        self.visit("/meet", "first", stored=True)
        for turn in range(REQUESTS):
            way = chance.choice(list(ENDINGS))
            leaves = way == "/stream" and chance.random() < 0.5
            self.visit(way, f"{way} {turn}", ENDINGS[way], calls=chance.randrange(2), leaves=leaves)

    def visit(self, way: str, token: str, stored: bool | None, *, calls: int = 0, leaves: bool = False) -> None:
        """Make one request and judge its answer; *leaves*: in the middle of it."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=PATIENCE)
        words = {"tag": self.tag, "token": token, "calls": calls} | ({"leaves": 1} if leaves else {})
        headers = {"Cookie": f"sessionid={self.key}"} if self.key else {}
        try:
            connection.request("GET", f"{way}?{urlencode(words)}", headers=headers)
            response = connection.getresponse()
            succeeded = response.status == 200
            self._take_key(response.getheader("Set-Cookie"))
            body = response.read(len(CHUNK) if leaves else None)
        except (http.client.HTTPException, ConnectionError):
            succeeded, body = False, b""
        finally:
            connection.close()
        self._judge(way, token, stored, succeeded, body)

    def _take_key(self, set_cookie: str | None) -> None:
        if set_cookie is not None and set_cookie.startswith("sessionid="):
            self.key = set_cookie.split(";")[0].removeprefix("sessionid=")

    def _judge(self, way: str, token: str, stored: bool | None, succeeded: bool, body: bytes) -> None:
        if stored is not None and succeeded is not stored:
            self.wrong.append((way, succeeded))
        if succeeded:
            self.stored.add(token)
        elif stored is None:
            self.unknown.add(token)
        if succeeded and body.rstrip(b".") not in (self.tag.encode(), b"abandoned"):
            self.wrong.append((way, body[:100]))


def settled(server: Gunicorn) -> dict[str, Any]:
    """Return what the server has seen, when the last of those whose visitor has gone has noticed."""
    deadline = time.monotonic() + PATIENCE
    while (state := json.loads(server.request()[2]))["under_way"]:
        assert time.monotonic() < deadline, state
        time.sleep(0.01)
    return dict(state)


def test_s69_greenlets_see_their_own_sessions_however_they_end(any_engine: str, tmp_path: Path) -> None:
    """Killed at a wait of their own or of the driver, timed out, left by their client: none disturbs another."""
    with Gunicorn(
        "tests.greenlets_app:application",
        tmp_path,
        worker_class="gevent",
        environ={DATABASE: any_engine, VISITORS: str(NUMBER)},
        options=("--keep-alive", "0"),  # else whoever asked a greenlet that is killed waits for two seconds
    ) as server:
        visitors = [Visitor(server, number) for number in range(NUMBER)]
        threads = [threading.Thread(target=visitor.run) for visitor in visitors]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        state = settled(server)
    store = SessionStore(any_engine)
    values = [store.read(visitor.key) for visitor in visitors]

    assert [visitor.wrong for visitor in visitors if visitor.wrong] == []
    assert (state["mixed"], state["lent"], state["under_way"]) == ([], 0, 0)
    assert min(state["struck"], state["left"]) > 0
    assert (state["met"], store.count()) == (NUMBER, NUMBER)
    for visitor, found in zip(visitors, values, strict=True):
        assert found is not None
        assert set(found.values()) == {visitor.tag}
        assert visitor.stored <= set(found) <= visitor.stored | visitor.unknown
