"""What a piece of code costs at the driver: its statements and its transactions."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine

from tests.support.driver import Call, Proceed, watching

STATEMENTS = {"execute", "executemany", "executescript", "callproc", "query"}


class Calls:
    """The driver calls of a block, in order; its length is the number of statements."""

    def __init__(self) -> None:
        self.all: list[Call] = []

    def __len__(self) -> int:
        return len(self.statements)

    def __repr__(self) -> str:
        return f"<{', '.join(call.sql or call.name for call in self.all)}>"

    @property
    def names(self) -> list[str]:
        """What was called: connect, ping, execute, commit, rollback, close and so on."""
        return [call.name for call in self.all]

    @property
    def statements(self) -> list[Call]:
        """The calls that carry SQL."""
        return [call for call in self.all if call.name in STATEMENTS]

    @property
    def sql(self) -> list[str]:
        """The SQL texts, blanks folded."""
        return [" ".join(call.sql.split()) for call in self.statements]

    @property
    def verbs(self) -> list[str]:
        """The verb of each statement, as `Call.verb`."""
        return [call.verb for call in self.statements if call.verb]

    @property
    def parameters(self) -> list[Any]:
        """The parameters of each statement, as the driver got them."""
        return [call.parameters for call in self.statements]

    def reset(self) -> None:
        """Forget what was recorded so far."""
        self.all.clear()


@contextmanager
def statements(engine: Engine) -> Iterator[Calls]:
    """Record every driver call of *engine* in this block, whether SQLAlchemy knows of it or not."""
    calls = Calls()

    def record(call: Call, proceed: Proceed) -> Any:
        calls.all.append(call)
        return proceed()

    with watching(engine, record):
        yield calls
