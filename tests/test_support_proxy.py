"""The two proxies, on the wire of every driver: they count right, and what they break is broken."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import Engine, create_engine, make_url, text
from sqlalchemy.exc import DBAPIError

from tests.support.processes import free_port
from tests.support.proxy import FlightCounter, Proxy, ToxicProxy

SECRET = "mallory-must-not-read-this"


@contextmanager
def engine_on(url: str) -> Iterator[Engine]:
    engine = create_engine(url, isolation_level="AUTOCOMMIT", pool_reset_on_return=None)
    try:
        yield engine
    finally:
        engine.dispose()


@pytest.fixture
def kept(networked: str) -> str:
    """A database with a table of one row."""
    with engine_on(networked) as engine, engine.connect() as connection:
        connection.execute(text("CREATE TABLE kept (a INTEGER)"))
        connection.execute(text("INSERT INTO kept VALUES (0)"))
    return networked


@pytest.fixture
def counter(kept: str) -> Iterator[FlightCounter]:
    with FlightCounter(kept) as proxy:
        yield proxy


@pytest.fixture
def toxic(kept: str) -> Iterator[ToxicProxy]:
    with ToxicProxy(kept) as proxy:
        yield proxy


def test_a_statement_is_one_flight(counter: FlightCounter) -> None:
    """In autocommit nothing else is sent, and the text can be read."""
    with engine_on(counter.url) as engine, engine.connect() as connection:
        counter.reset()
        for number in range(3):
            connection.execute(text(f"SELECT {number} -- {SECRET}"))

        assert counter.count == 3
        assert all(SECRET.encode() in flight for flight in counter.flights)
        assert b"COMMIT" not in counter.sent.upper()


def test_a_transaction_shows(counter: FlightCounter) -> None:
    """What a test wants to rule out must be visible where it happens."""
    with engine_on(counter.url) as engine, engine.connect() as connection:
        connection.execution_options(isolation_level="READ COMMITTED")
        counter.reset()
        connection.execute(text("UPDATE kept SET a = 1"))
        connection.commit()

        assert b"COMMIT" in counter.sent.upper()
        assert counter.count > 1


def test_count_begins_again(counter: FlightCounter) -> None:
    """After reset() nothing of before is left, in either direction."""
    with engine_on(counter.url) as engine, engine.connect():
        counter.reset()

        assert (counter.count, counter.sent, counter.received) == (0, b"", b"")


def test_big_statement_is_one_flight(counter: FlightCounter) -> None:
    """Many chunks, one wait."""
    with engine_on(counter.url) as engine, engine.connect() as connection:
        counter.reset()
        connection.exec_driver_sql(f"SELECT 1 -- {'x' * 300_000}")

        assert counter.count == 1
        assert len(counter.sent) > 300_000


def test_lost_reply_is_done_all_the_same(toxic: ToxicProxy) -> None:
    """An acknowledgement lost: an error to the caller, and the row changed."""
    with engine_on(toxic.url) as engine:
        toxic.drop_reply(b"UPDATE")
        assert _value(engine) == 0
        with pytest.raises(DBAPIError) as caught:
            _write(engine)

        assert caught.value.connection_invalidated
        assert toxic.losses == 1
        assert _value(engine) == 1


def test_lost_request_is_not_done(toxic: ToxicProxy) -> None:
    """The other half of the same error."""
    with engine_on(toxic.url) as engine:
        toxic.drop_request(b"UPDATE")
        with pytest.raises(DBAPIError):
            _write(engine)

        assert toxic.losses == 1
        assert _value(engine) == 0


def test_reset_breaks_what_is_open(toxic: ToxicProxy) -> None:
    """The pooled connection is dead, the next one lives."""
    with engine_on(toxic.url) as engine:
        assert _value(engine) == 0
        toxic.reset_all()
        assert toxic.connections == 0
        with pytest.raises(DBAPIError):
            _value(engine)

        assert _value(engine) == 0


def test_refusal_leaves_open_connections_alone(toxic: ToxicProxy) -> None:
    """Only new ones are refused, at once, and only until it heals."""
    with engine_on(toxic.url) as engine, engine.connect() as connection:
        toxic.refuse()
        with pytest.raises(DBAPIError), engine.connect():
            pass
        assert connection.execute(text("SELECT 1")).scalar_one() == 1
        toxic.heal()

        assert _value(engine) == 0


def test_hanging_answers_nobody(toxic: ToxicProxy) -> None:
    """A connection is accepted, and then nothing: only a timeout of the driver ends it."""
    toxic.hang()
    url = make_url(toxic.url)
    limits = {"connect_timeout": "2"} | ({} if "postgresql" in url.drivername else {"read_timeout": "2"})
    begin = time.monotonic()
    with engine_on(str(url.update_query_dict(limits))) as engine, pytest.raises(DBAPIError):
        _value(engine)

    assert time.monotonic() - begin > 0.9


def test_hanging_ends_with_healing(toxic: ToxicProxy) -> None:
    """What was held back arrives."""
    with engine_on(toxic.url) as engine:
        toxic.hang()
        toxic.heal()

        assert _value(engine) == 0


def test_latency_delays_replies(toxic: ToxicProxy) -> None:
    """Each reply comes so much later, and none is lost."""
    with engine_on(toxic.url) as engine, engine.connect() as connection:
        toxic.latency(0.1)
        begin = time.monotonic()
        assert connection.execute(text("SELECT 1")).scalar_one() == 1
        assert time.monotonic() - begin >= 0.1
        toxic.heal()

        assert connection.execute(text("SELECT 2")).scalar_one() == 2


@pytest.mark.parametrize("size", [0, 1, 7])
def test_limit_cuts_in_the_middle_of_a_reply(toxic: ToxicProxy, size: int) -> None:
    """The client sees the beginning of an answer and then a reset."""
    with engine_on(toxic.url) as engine:
        assert _value(engine) == 0
        toxic.limit(size)
        with pytest.raises(DBAPIError):
            _value(engine)
        toxic.heal()
        engine.dispose()  # libpq may have left the connection half open, and SQLAlchemy thinks it good then

        assert toxic.losses == 1
        assert _value(engine) == 0


def test_limit_once_spares_the_next_connection(toxic: ToxicProxy) -> None:
    """For code that tries again by itself."""
    with engine_on(toxic.url) as engine:
        toxic.limit(0, once=True)
        with pytest.raises(DBAPIError):
            _value(engine)
        engine.dispose()

        assert _value(engine) == 0


def test_dead_server_is_a_reset() -> None:
    """Nobody behind the proxy: the client is told, and does not wait."""
    url = f"postgresql+psycopg://nobody@127.0.0.1:{free_port()}/none"
    with ToxicProxy(url) as toxic, engine_on(toxic.url) as engine, pytest.raises(DBAPIError):
        _value(engine)


def _value(engine: Engine) -> object:
    with engine.connect() as connection:
        return connection.execute(text("SELECT a FROM kept")).scalar_one()


def _write(engine: Engine) -> None:
    with engine.connect() as connection:
        connection.execute(text("UPDATE kept SET a = 1"))


def test_an_address_that_moves_keeps_its_connections(kept: str) -> None:
    """Who is connected notices nothing; who connects is led elsewhere, here to a port where nobody listens."""
    with Proxy(kept) as proxy, engine_on(proxy.url) as engine, engine.connect() as connection:
        proxy.lead_to(make_url(kept).set(port=free_port()))

        assert connection.execute(text("SELECT a FROM kept")).scalar_one() == 0
        with pytest.raises(DBAPIError):
            engine.connect()
        proxy.lead_to(kept)
        with engine.connect() as other:
            assert other.execute(text("SELECT a FROM kept")).scalar_one() == 0
