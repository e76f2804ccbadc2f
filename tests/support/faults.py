"""The database failing at each of its calls, one after the other.

    for faults in every_call(lambda engine: driver_error(engine, "OperationalError"), mode="after"):
        with faults.on(engine):
            ...

The loop ends by itself with the first run in which nothing failed any more.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Literal

from sqlalchemy import Engine, create_engine

from tests.support.driver import Call, Proceed, watching

Mode = Literal["before", "after"]
ErrorMaker = Callable[[Engine], BaseException]
LIMIT = 500
INJECTED = "injected by a test"


class Faults:
    """One fault: the driver's call number *at*, counted from 1, fails.

    "before": it never happened. "after": it happened and the answer was lost. *error* is raised as it is,
    or made from the engine. *disconnect*: the connection is really closed, and the dialect says so.
    *only*: the names of the calls that count, such as {"commit"}; None: all.
    """

    def __init__(
        self,
        at: int,
        error: BaseException | ErrorMaker,
        *,
        mode: Mode = "before",
        disconnect: bool = False,
        only: set[str] | None = None,
    ) -> None:
        self.at = at
        self.mode = mode
        self.fired: Call | None = None
        self.seen = 0
        self._error = error
        self._disconnect = disconnect
        self._only = only

    def __repr__(self) -> str:
        struck = f"struck {self.fired.sql or self.fired.name}" if self.fired else "did not strike"
        return f"<fault {self.mode} call {self.at}: {struck}>"

    @contextmanager
    def on(self, engine: Engine) -> Iterator["Faults"]:
        """Let the fault strike *engine* in this block."""

        def strike(call: Call, proceed: Proceed) -> Any:
            if not self._is_due(call):
                return proceed()
            self.fired = call
            if self.mode == "after":
                proceed()
            self._cut(call)
            raise self._new_error(engine)

        with _disconnecting(engine, self._disconnect), watching(engine, strike):
            yield self

    def _new_error(self, engine: Engine) -> BaseException:
        # Made when it strikes and kept nowhere: with its traceback it would keep cursors open.
        error = self._error if isinstance(self._error, BaseException) else self._error(engine)
        error.add_note(INJECTED)
        return error

    def _is_due(self, call: Call) -> bool:
        if self._only is not None and call.name not in self._only:
            return False
        self.seen += 1
        return self.seen == self.at

    def _cut(self, call: Call) -> None:
        if self._disconnect and call.connection is not None:
            with suppress(Exception):  # the call itself may have closed it
                call.connection.close()


def every_call(
    error: BaseException | ErrorMaker,
    *,
    mode: Mode = "before",
    disconnect: bool = False,
    only: set[str] | None = None,
) -> Iterator[Faults]:
    """Yield a fault for call 1, 2, 3 and so on, the last one being the first that does not strike."""
    for number in range(1, LIMIT):
        faults = Faults(number, error, mode=mode, disconnect=disconnect, only=only)
        yield faults
        if faults.fired is None:
            return
    raise AssertionError(f"still calling the database after {LIMIT} faults")


def driver_error(engine: Engine, name: str, *words: object) -> BaseException:
    """Return an error of the engine's own driver, by its DB-API name: OperationalError and so on."""
    made = getattr(engine.dialect.loaded_dbapi, name)(*(words or ("injected fault",)))
    assert isinstance(made, BaseException)
    return made


@contextmanager
def _disconnecting(engine: Engine, disconnect: bool) -> Iterator[None]:
    if not disconnect:
        yield
        return
    dialect: Any = engine.dialect
    genuine = dialect.is_disconnect

    def is_disconnect(found: BaseException, *words: Any) -> bool:
        return INJECTED in getattr(found, "__notes__", ()) or bool(genuine(found, *words))

    dialect.is_disconnect = is_disconnect
    try:
        yield
    finally:
        del dialect.is_disconnect


@contextmanager
def belated_change(engine: Engine) -> Iterator[list[str]]:
    """Lose the connection at the first change, and have the server finish that just before it is tried again.

    As where the lost statement still waited for a lock, or its COMMIT for a standby. Yields the verbs of
    what was finished so, empty before.
    """
    lost: list[Call] = []
    finished: list[str] = []
    state = {"within": False, "lost": False}

    def strike(call: Call, proceed: Callable[[], Any]) -> Any:
        verb = call.verb
        if call.name != "execute" or finished:
            return proceed()
        if state["lost"]:
            if verb in ("BEGIN", "UPDATE"):
                finished.extend(_finish(engine, lost))
            return proceed()
        state["within"] |= verb == "BEGIN"
        if verb in ("UPDATE", "INSERT"):
            lost.append(call)
        if verb != "COMMIT" and (state["within"] or not lost):
            return proceed()
        state["lost"] = True
        call.connection.close()
        error = driver_error(engine, "OperationalError")
        error.add_note(INJECTED)
        raise error

    with _disconnecting(engine, disconnect=True), watching(engine, strike):
        yield finished


def _finish(engine: Engine, calls: list[Call]) -> list[str]:
    other = create_engine(engine.url)
    connection = other.raw_connection()
    cursor = connection.cursor()
    for call in calls:
        cursor.execute(call.sql, call.parameters)
    connection.commit()
    connection.close()
    other.dispose()
    return [call.verb for call in calls]
