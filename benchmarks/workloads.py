"""What is asked of every contestant: the values, the deeds of the application, the workloads.

Knows nothing of databases, cookies or frameworks.
"""

import json
import random
import string
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

Values = MutableMapping[str, Any]

UNTOUCHED = "/"
READS = frozenset({"/read", "/counter", "/keys"})
SMALL_BYTES = 427
LARGE_BYTES = 20_190


def payload(size: int) -> dict[str, Any]:
    """Return values that are *size* bytes of compact ASCII JSON; the same ones at every call."""
    chance = random.Random(size)
    values: dict[str, Any] = {
        "counter": 100_000,  # six digits, so that counting up does not change the size
        "user": {"id": 48_213, "name": "Ada Lovelace", "roles": ["editor", "reviewer"]},
        "locale": "en_GB",
        "csrf": _text(chance, 32),
        "flags": {"beta": True, "newsletter": False, "theme": None},
        "recent": [chance.randrange(10_000) for _ in range(12)],
        "cart": [],
        "note": "",
    }
    while size - _json_size(values) > 150:
        values["cart"].append(_item(chance))
    values["note"] = _text(chance, size - _json_size(values))
    return values


def _item(chance: random.Random) -> dict[str, Any]:
    return {
        "sku": _text(chance, 8),
        "title": f"Notebook, ruled, {_text(chance, 48)}",
        "quantity": chance.randrange(1, 9),
        "price": f"{chance.randrange(100, 9999) / 100:.2f}",
        "gift": chance.random() < 0.5,
    }


def _text(chance: random.Random, length: int) -> str:
    return "".join(chance.choices(string.ascii_lowercase + "     ", k=length))


def _json_size(values: dict[str, Any]) -> int:
    return len(json.dumps(values, separators=(",", ":")))


SMALL = payload(SMALL_BYTES)
LARGE = payload(LARGE_BYTES)


def act(path: str, session: Values) -> str:
    """Do to *session* what *path* asks for and return the body of the response."""
    if path == "/read":
        return str(session["locale"])
    if path == "/write":
        session["counter"] = session.get("counter", 0) + 1
        return str(session["counter"])
    return _rare(path, session)


def _rare(path: str, session: Values) -> str:
    if path == "/counter":
        return str(session.get("counter", 0))
    if path == "/keys":
        keys = session.keys()  # Django's session cannot be iterated itself
        return str(sum(1 for key in keys if key.startswith("own-")))
    if path in ("/seed/small", "/seed/large"):
        session.update(SMALL if path.endswith("small") else LARGE)
        return "seeded"
    session["own-" + path.rpartition("/")[2]] = 1
    return "set"


@dataclass(frozen=True)
class Workload:
    """One kind of request, and how many of them make a round."""

    name: str
    title: str
    path: str
    requests: int
    seed: str | None = None  # the path that prepares the session; None: the request brings no session cookie

    @property
    def touches(self) -> bool:
        return self.path != UNTOUCHED

    @property
    def writes(self) -> bool:
        return self.path == "/write"


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("W0", "no cookie, session untouched", UNTOUCHED, 4000),
        Workload("W1", "cookie, session untouched", UNTOUCHED, 4000, "/seed/small"),
        Workload("W2", "read one key of 427 bytes", "/read", 500, "/seed/small"),
        Workload("W3", "increment a counter in 427 bytes", "/write", 150, "/seed/small"),
        Workload("W4", "first visit creates a session", "/write", 150),
        Workload("W5", "read one key of 20,190 bytes", "/read", 200, "/seed/large"),
        Workload("W6", "increment a counter in 20,190 bytes", "/write", 60, "/seed/large"),
    )
}
