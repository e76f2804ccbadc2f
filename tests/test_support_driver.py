"""The watch on the driver: it sees every call of every driver, and each of them can be made to fail."""

from typing import Any

import pytest
from sqlalchemy import Engine, NullPool, create_engine, event, text
from sqlalchemy.exc import OperationalError

from tests.support.counting import statements
from tests.support.faults import Faults, driver_error, every_call


@pytest.fixture
def engine(database: str) -> Engine:
    """An engine with a table of one row, connected once before."""
    engine = create_engine(database)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE kept (a INTEGER)"))
        connection.execute(text("INSERT INTO kept VALUES (1)"))
    return engine


def test_statements_of_sqlalchemy_are_seen(engine: Engine) -> None:
    """Text, parameters and the end of the transaction, as the driver gets them."""
    with statements(engine) as calls, engine.begin() as connection:
        connection.execute(text("UPDATE kept SET a = :a"), {"a": 7})
        assert connection.execute(text("SELECT a FROM kept")).scalar_one() == 7

    assert calls.verbs == ["UPDATE", "SELECT"]
    assert 7 in _values(calls.parameters[0])
    assert "commit" in calls.names


def test_statements_past_sqlalchemy_are_seen(engine: Engine) -> None:
    """A cursor of a raw connection fires no event of SQLAlchemy, and costs the same."""
    with statements(engine) as calls:
        connection = engine.raw_connection()
        cursor = connection.cursor()
        cursor.execute("SELECT a FROM kept")
        assert [tuple(row) for row in cursor.fetchall()] == [(1,)]
        cursor.close()
        connection.commit()
        connection.close()

    assert len(calls) == 1
    assert calls.sql == ["SELECT a FROM kept"]
    assert calls.names[:2] == ["execute", "commit"]


def test_many_rows_and_values_are_seen(engine: Engine) -> None:
    """executemany of each driver, whatever it makes of it."""
    with statements(engine) as calls, engine.begin() as connection:
        connection.execute(text("INSERT INTO kept VALUES (:a)"), [{"a": 2}, {"a": 3}])
        assert connection.execute(text("SELECT count(*) FROM kept")).scalar_one() == 3

    assert calls.verbs == ["INSERT", "SELECT"]


def test_new_connections_are_seen(database: str) -> None:
    """Connecting is a cost too, and must be seen from the first connection on."""
    engine = create_engine(database, poolclass=NullPool)
    with statements(engine) as calls, engine.connect() as connection:
        connection.execute(text("SELECT 1"))

    assert calls.names[0] == "connect"
    assert calls.names[-1] == "close"
    assert "SELECT 1" in calls.sql


def test_ping_is_seen(database: str) -> None:
    """A ping before each use is a round trip."""
    engine = create_engine(database, pool_pre_ping=True)
    with engine.connect():
        pass
    with statements(engine) as calls, engine.connect():
        pass

    assert calls.names[0] == "ping"


def test_nothing_is_seen_afterwards(engine: Engine) -> None:
    """The engine is left as it was found."""
    with statements(engine) as calls:
        pass
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))

    assert calls.all == []
    assert "connect" not in vars(engine.dialect)
    assert not [name for name in vars(engine.dialect) if name in ("do_ping", "do_close", "is_disconnect")]


@pytest.mark.parametrize(("mode", "kept"), [("before", 1), ("after", 7)])
def test_fault_strikes_before_or_after_a_commit(engine: Engine, mode: Any, kept: int) -> None:
    """ "after" is the lost acknowledgement: an error to the caller, and committed all the same."""
    faults = Faults(1, lambda found: driver_error(found, "OperationalError"), mode=mode, only={"commit"})
    with faults.on(engine), pytest.raises(OperationalError, match="injected"):
        _write(engine)

    assert faults.fired is not None
    assert _value(engine) == kept


def test_every_call_fails_once(engine: Engine) -> None:
    """The loop reaches each call of the code under test, and then stops."""
    struck = []
    for faults in every_call(lambda found: driver_error(found, "OperationalError")):
        with faults.on(engine):
            try:
                _write(engine)
            except OperationalError:
                struck.append(faults.fired)

    assert [call.sql.split()[0] or call.name for call in struck if call and call.sql] == ["UPDATE"]
    assert "commit" in [call.name for call in struck if call]
    assert _value(engine) == 7


def test_disconnect_is_real(engine: Engine) -> None:
    """SQLAlchemy throws the connection away, and the next one works."""
    faults = Faults(1, lambda found: driver_error(found, "OperationalError"), disconnect=True, only={"execute"})
    with faults.on(engine), pytest.raises(OperationalError) as caught:
        _write(engine)
    with statements(engine) as calls:
        assert _value(engine) == 1

    assert caught.value.connection_invalidated
    assert calls.names[0] == "connect"


def test_watch_survives_a_second_listener(engine: Engine) -> None:
    """The application's own listeners on the pool go on working."""
    checkouts: list[object] = []
    event.listen(engine, "checkout", lambda *words: checkouts.append(words))
    with statements(engine) as calls:
        assert _value(engine) == 1
    assert _value(engine) == 1

    assert len(checkouts) == 2
    assert len(calls) == 1


def _write(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE kept SET a = 7"))


def _value(engine: Engine) -> object:
    with engine.connect() as connection:
        return connection.execute(text("SELECT a FROM kept")).scalar_one()


def _values(parameters: Any) -> list[object]:
    return list(parameters.values()) if isinstance(parameters, dict) else list(parameters)
