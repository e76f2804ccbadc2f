"""Lost updates: several processes write their own keys into one session at the same time."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from . import contestants
from .client import WrongAnswer
from .console import database_of, heading, progress, say, show
from .process import Contestant, Unavailable, running
from .servers import Database

WRITERS = 8
REQUESTS = 50
KEYS = WRITERS * REQUESTS


@dataclass(frozen=True)
class Loss:
    """What is missing after all writers are done."""

    keys: int
    refused: int  # requests that were not answered with 200
    seconds: float


def run(kind: str, names: Sequence[str]) -> dict[str, Any]:
    """Let every contestant lose what it loses; print the table, return the values."""
    losses: dict[str, Loss] = {}
    with database_of(kind) as database:
        heading(database.version(), f"{WRITERS} processes write {REQUESTS} keys each into one session")
        able = [name for name in names if contestants.has_sessions(name)]
        with progress(len(able), f"{kind}: lost updates") as advance:
            for name in able:
                _add(losses, name, database)
                advance(1)
    head = ["", f"keys lost of {KEYS}", "requests refused", "seconds"]
    show("Keys missing at the end:", head, [_row(name, loss) for name, loss in losses.items()])
    return {name: asdict(loss) for name, loss in losses.items()}


def _add(losses: dict[str, Loss], name: str, database: Database) -> None:
    try:
        losses[name] = _lose(name, database.url(name))
    except (Unavailable, WrongAnswer) as error:
        say(f"{name} is skipped: {error}")


def _row(name: str, loss: Loss) -> list[str]:
    return [name, str(loss.keys), str(loss.refused), f"{loss.seconds:.2f}"]


def _lose(name: str, url: str) -> Loss:
    with running(name, url) as observer:
        cookie = observer.seed("/seed/small")
        writers = [Contestant(name, url) for _ in range(WRITERS)]
        try:
            refused, seconds = _write_at_once(writers, cookie)
        finally:
            for writer in writers:
                writer.stop()
        return Loss(KEYS - int(observer.get("/keys", cookie)), refused, seconds)


def _write_at_once(writers: Sequence[Contestant], cookie: str) -> tuple[int, float]:
    for number, writer in enumerate(writers):
        writer.begin_to_write(cookie, str(number), REQUESTS)
    answers = [writer.written() for writer in writers]
    return sum(refused for refused, _ in answers), max(seconds for _, seconds in answers)
