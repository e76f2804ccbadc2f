"""What is stored comes back exactly, however the database is set up: collation, character set, time zone, mode."""

import time
from collections.abc import Iterator

import pytest
from sqlalchemy import make_url

from sessionware import SessionMiddleware, SessionTooLarge, keys
from sessionware.record import Lifetime
from sessionware.store import SessionStore
from tests.support import databases
from tests.support.clock import Clock
from tests.support.databases import dialect_of
from tests.support.rows import all_rows, new_record, put, row_count
from tests.support.servers import Server
from tests.support.wsgi import Browser

PLANES = "".join(chr(plane * 0x10000 + offset) for plane in range(17) for offset in (0x0041, 0x00E9, 0xFFFD))
ODD_TEXT = "\x00\x01\x1a\x7f\x85\u2028\ufeff\ufffe\ud800-\udfff \\ \" ' %s %(a)s :x ? {} \r\n\t"
VALUES = {"planes": PLANES, "odd": ODD_TEXT, PLANES: 1, ODD_TEXT: [ODD_TEXT], "bytes": bytes(range(256))}

HOSTILE = [
    pytest.param("CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci", "", id="general_ci"),
    pytest.param("CHARACTER SET latin1 COLLATE latin1_swedish_ci", "", id="latin1"),
    pytest.param("CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci", "SET SESSION sql_mode=''", id="lenient"),
    pytest.param("CHARACTER SET latin1", "SET SESSION sql_mode='ANSI,NO_BACKSLASH_ESCAPES'", id="no-backslashes"),
    pytest.param("CHARACTER SET utf8mb4", "SET SESSION sql_mode='PAD_CHAR_TO_FULL_LENGTH'", id="padding"),
]


@pytest.fixture
def hostile(request: pytest.FixtureRequest, mariadb: str) -> Iterator[str]:
    """The URL of a MariaDB database made with the words and the session mode of the parameter."""
    words, mode = request.param
    server = _server("mariadb")
    name = f"{make_url(mariadb).database}_hostile"
    server.drop_database(name)
    server.execute(f"CREATE DATABASE {name} {words}")
    url = make_url(server.url(database=name))
    yield (url.update_query_dict({"init_command": mode}) if mode else url).render_as_string(hide_password=False)
    server.drop_database(name)


@pytest.fixture
def ascii_postgresql(request: pytest.FixtureRequest, postgresql: str) -> Iterator[str]:
    """The URL of a PostgreSQL database that knows no characters, only bytes; a C locale makes them."""
    server = _server("postgresql")
    name = f"{make_url(postgresql).database}_ascii"
    server.drop_database(name)
    server.execute(
        f"CREATE DATABASE {name} ENCODING '{request.param[1]}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    )
    yield server.url(request.param[0], name)
    server.drop_database(name)


@pytest.mark.parametrize("hostile", [pytest.param(tuple(p.values), id=p.id) for p in HOSTILE], indirect=True)
def test_no_setting_of_mariadb_changes_what_is_stored(hostile: str, clock: Clock) -> None:
    """The columns carry their own character sets; nothing is cut, folded, padded or unescaped."""
    store = SessionStore(hostile, clock=clock)
    _check_exactness(store, clock)
    long = {"text": "x" * 70_000}

    assert store.read(store.create(long)) == long


@pytest.mark.parametrize(
    "ascii_postgresql",
    [(driver, code) for driver in ("psycopg", "psycopg2") for code in ("SQL_ASCII", "UTF8")],
    indirect=True,
    ids="-".join,
)
def test_no_encoding_of_postgresql_changes_what_is_stored(ascii_postgresql: str, clock: Clock) -> None:
    """A database made under a C locale has no encoding at all, and drivers then return bytes for text."""
    _check_exactness(SessionStore(ascii_postgresql, clock=clock), clock)


def test_all_planes_of_unicode_survive(database: str, clock: Clock) -> None:
    """In keys and values, with NUL and lone surrogates, on every driver."""
    store = SessionStore(database, clock=clock)
    key = store.create(VALUES)
    (row,) = all_rows(store).values()

    assert store.read(key) == VALUES
    assert row["data"].isascii()


@pytest.mark.parametrize("size", [65_535, 65_536, 1_048_576])
def test_a_session_of_max_bytes_is_stored_whole(database: str, clock: Clock, size: int) -> None:
    """The last byte counts, and one more is refused with nothing stored."""
    middleware = SessionMiddleware(_storing, database, max_bytes=size, clock=clock, purge_interval=None)
    browser = Browser(middleware)
    frame = len('{"x":""}')
    browser.get(f"/?{size - frame}")
    (row,) = all_rows(middleware.store).values()

    assert len(row["data"]) == size
    assert browser.get("/").text == str(size - frame)
    with pytest.raises(SessionTooLarge):
        browser.get(f"/?{size - frame + 1}")
    assert browser.get("/").text == str(size - frame)
    assert row_count(middleware.store) == 1


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Tokyo", "UTC"])
def test_time_zones_move_nothing(database: str, zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the process's, nor the connection's, nor an hour that a clock passes twice."""
    url = _in_zone(database, zone, monkeypatch)
    fall_back = 1_793_511_000  # half past one at night in New York, for the first time that night
    clock = Clock(fall_back)
    store = SessionStore(url, clock=clock, lifetime=Lifetime(idle=3600, absolute=None))
    key = store.create({"a": 1}, "bob")
    (info,) = store.sessions_of("bob")

    assert info.created_at.timestamp() == fall_back
    assert all_rows(store)[keys.digest(key)]["expires_at"] == fall_back + 3600
    for offset, lives in [(3599, True), (3600, False)]:
        clock.now = fall_back + offset
        assert store.exists(key) is lives
        assert store.count() == lives
    assert store.purge() == 1


def _check_exactness(store: SessionStore, clock: Clock) -> None:
    users = ["bob", "Bob", "b\u00f3b", "\U0001f600", "\u00df", "ss", "'\\\"%_"]
    made = {user: store.create(VALUES, user) for user in users}
    digest = b"aA \\'\"%\x00\xff\x80" + b"x" * 22
    put(store, new_record(clock()), digest)

    assert [store.read(key) for key in made.values()] == [VALUES] * len(users)
    assert [[info.user_id for info in store.sessions_of(user)] for user in users] == [[user] for user in users]
    assert store.load(digest) is not None
    assert [store.load(other) for other in (digest.lower(), digest.upper(), digest[:-1] + b" ")] == [None] * 3
    assert store.revoke_user("bob") == 1
    assert store.count() == len(users)


def _in_zone(url: str, zone: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("TZ", zone)
    monkeypatch.setenv("PGTZ", zone)
    time.tzset()
    offset = {"America/New_York": "-05:00", "Asia/Tokyo": "+09:00", "UTC": "+00:00"}[zone]
    if dialect_of(url) != "mariadb":
        return url
    return make_url(url).update_query_dict({"init_command": f"SET time_zone='{offset}'"}).render_as_string(False)


@pytest.fixture(autouse=True)
def own_time_zone() -> Iterator[None]:
    """Leave the process in the zone it was in."""
    with pytest.MonkeyPatch.context():
        yield
    time.tzset()


def _storing(environ: dict[str, object], start_response: object) -> list[bytes]:
    session = environ["sessionware.session"]
    if environ["QUERY_STRING"]:
        session["x"] = "x" * int(str(environ["QUERY_STRING"]))  # type: ignore[index]
    start_response("200 OK", [])  # type: ignore[operator]
    return [str(len(session.get("x", ""))).encode()]  # type: ignore[attr-defined]


def _server(dialect: str) -> Server:
    server = databases.running(dialect)
    assert isinstance(server, Server)
    return server
