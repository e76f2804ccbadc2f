"""S63-S72: what is stored, what leaks, who sees whose, and what time does to it."""

import ast
import base64
import logging
import os
import pickle
import random
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from http.client import IncompleteRead
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

import sessionware
from sessionware import Session, SessionMiddleware, SessionStore, UnstorableValue
from sessionware.keys import digest
from tests.support.clock import Clock
from tests.support.driver import Call, Proceed, watching
from tests.support.faults import driver_error
from tests.support.gunicorn import Gunicorn
from tests.support.site import HTTPS, NAME, Site, ignore, look
from tests.support.wsgi import call, make_environ

Act = Callable[[Session], Any]

SECRET = "SECRET-078-05-1120"
PACKAGE = Path(sessionware.__file__).parent

FORBIDDEN_MODULES = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "yaml", "dill", "cloudpickle", "jsonpickle"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.stem)
def test_s63_no_module_can_turn_data_into_code(path: Path) -> None:
    """Neither pickle nor a relative of it, nor eval, stands anywhere in the package (CVE-2013-7489)."""
    tree = ast.parse(path.read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}

    assert not imported & FORBIDDEN_MODULES
    assert not called & FORBIDDEN_CALLS


class Evil:
    """Runs code where it is unpickled."""

    def __reduce__(self) -> Any:
        return (os.system, ("exit 1",))


seen_by_audit: list[str] = []
watched = threading.Event()


def audit(event: str, _arguments: Any) -> None:
    if watched.is_set() and event.startswith(("pickle.", "os.system", "marshal.", "exec", "compile", "subprocess.")):
        seen_by_audit.append(event)


sys.addaudithook(audit)  # there is no way to take it off again, so it has a switch

MALICIOUS = [
    pytest.param(pickle.dumps(Evil(), 0).decode("latin-1"), id="pickle as text"),
    pytest.param(base64.b64encode(pickle.dumps(Evil())).decode(), id="pickle in base64"),
    pytest.param(f'{{"a":{{"~bytes":"{base64.b64encode(pickle.dumps(Evil())).decode()}"}}}}', id="pickle as bytes"),
    pytest.param('{"a":{"~pickle":"gASVHwAAAAAAAACMBXBvc2l4"}}', id="a tag for it"),
    pytest.param("__import__('os').system('true')", id="an expression"),
    pytest.param('!!python/object/apply:os.system ["true"]', id="YAML"),
    pytest.param('{"py/object":"os.system","py/reduce":[]}', id="jsonpickle"),
]


@pytest.mark.parametrize("text", MALICIOUS)
@pytest.mark.parametrize("number", [0, 1, 2, 255])
def test_s63_no_row_runs_code(sqlite: str, text: str, number: int) -> None:
    """There is one decoder and no fallback (CVE-2026-39324), whatever the row says of its format."""
    site = Site(sqlite)
    key = site.begin(a=1)
    site.change_row(key, data=text, format=number)
    site.visit(look, key)
    site.change_row(key, data=text, format=number)
    del seen_by_audit[:]
    watched.set()
    try:
        visit = site.visit(look, key)
    finally:
        watched.clear()

    assert visit.reply.status == 200
    assert seen_by_audit == []
    assert not isinstance(visit.value.get("a"), Evil | int)


def test_s63_the_audit_of_this_test_does_see_code_run() -> None:
    """The control."""
    del seen_by_audit[:]
    watched.set()
    try:
        pickle.loads(pickle.dumps(UUID(int=0)))
    finally:
        watched.clear()

    assert "pickle.find_class" in seen_by_audit


WHOLE = '{"cart":[1,2,{"~decimal":"19.90"}],"when":{"~datetime":"2030-01-01T00:00:00+00:00"},"who":{"~uuid":"x"}}'

FOREIGN = [
    *["", " ", "null", "[]", '"x"', "1", "true", "{", "}", "garbage", "\0", "{}{}", '{"a":}', "{'a':1}", '{"a":NaN}'],
    *['{"a":{"~nothing":1}}', '{"a":{"~datetime":5}}', '{"a":{"~uuid":5}}', '{"a":{"~uuid":null}}', '{"~tuple":[]}'],
    *['{"a":{"~set":[[]]}}', '{"a":{"~map":[[1]]}}', '{"a":{"~map":5}}', '{"a":{"~decimal":"x"}}', '{"a":{"~time":1}}'],
    *['{"a":{"~timedelta":[1e300]}}', '{"a":{"~bytes":"!"}}', '{"a":{"~bytes":[1]}}', '{"a":{"~~":[1,2,3]}}'],
    *['{"a":{"~datetime":"2020-01-01T00:00:00[../../etc/passwd]"}}', '{"a":{"~datetime":"2020-01-01T00:00:00[]"}}'],
    "gAN9cQBYAQAAAGFxAUsBcwe.",
]


@pytest.mark.parametrize("text", FOREIGN, ids=lambda text: repr(text)[:30])
def test_s64_a_foreign_row_is_a_fresh_session(sqlite: str, text: str) -> None:
    """Nobody's page fails for a row that something else wrote; it is reported, and left for inspection."""
    site = Site(sqlite)
    key = site.begin(a=1)
    site.change_row(key, data=text)
    before = site.row(key)
    site.kinds()
    read, untouched = site.visit(look, key), site.visit(ignore, key)
    events = list(site.events)
    new = site.visit(lambda session: session.update(b=2), key).key

    assert (read.reply.status, read.value) == (200, {})
    assert untouched.reply.headers == [("Content-Type", "text/plain")]
    assert [event.kind for event in events] == ["corrupt"]
    assert len(text) < 8 or text not in str(events)
    assert new not in (None, key)
    assert site.values(new or "") == {"b": 2}
    assert site.row(key) == before


def test_s64_wherever_a_row_is_cut_or_bent_no_page_fails(sqlite: str) -> None:
    """Truncated at every byte, and with two hundred bits flipped."""
    site = Site(sqlite)
    key = site.begin(a=1)
    chance = random.Random(7)
    bent = [WHOLE[:at] for at in range(len(WHOLE))]
    for _ in range(200):
        raw = bytearray(WHOLE.encode())
        raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(7)
        bent.append(raw.decode())
    for text in bent:
        site.change_row(key, data=text)
        visit = site.visit(look, key)

        assert visit.reply.status == 200
        assert type(visit.value) is dict
    assert {event.kind for event in site.events} == {"created", "corrupt"}


@pytest.mark.parametrize("number", [0, 2, 3, -1, 32_767])
def test_s64_a_row_of_another_format_is_not_guessed_at(sqlite: str, number: int) -> None:
    """What another codec wrote is not decoded by this one, though it might look alike."""
    site = Site(sqlite)
    key = site.begin(a=1)
    site.change_row(key, format=number)

    assert site.values(key) == {}
    assert site.store.read(key) is None


FAITHFUL: dict[str, Any] = {
    "int": 2**100,
    "bool": True,
    "float": -0.0,
    "none": None,
    "tuple": (1, (2, [3])),
    "bytes": bytes(range(256)),
    "aware": datetime(2030, 5, 1, 12, tzinfo=UTC),
    "naive": datetime(2030, 5, 1, 12),
    "delta": timedelta(days=-1, microseconds=1),
    "decimal": Decimal("19.900"),
    "set": {1, "1", (2, 3)},
    "frozen": frozenset({1}),
    "keys": {1: "int", "1": "text", None: "none", (1, 2): "tuple", 1.5: "float"},
    "uuid": UUID(int=7),
    "text": "\0\x7f\u20ac\U0001f600\ud800",
}


def test_s65_what_comes_back_is_what_was_stored(database: str) -> None:
    """Equal and of equal type, on every engine; 1 and "1" are two keys."""
    site = Site(database)
    values = site.values(site.visit(lambda session: session.update(FAITHFUL)).key or "")

    assert values == FAITHFUL
    assert [type(value) for value in values.values()] == [type(value) for value in FAITHFUL.values()]
    assert repr(values["float"]) == "-0.0"
    assert [type(key) for key in values["keys"]] == [int, str, type(None), tuple, float]


class Number(int):
    """A number of a type of its own."""


@pytest.mark.parametrize("value", [object(), Number(1), 1j, range(3), bytearray(b"x"), memoryview(b"x"), Exception()])
def test_s65_what_could_not_come_back_the_same_is_refused(sqlite: str, value: Any) -> None:
    """Loudly, at the request that stores it."""
    site = Site(sqlite)

    with pytest.raises(UnstorableValue, match=r"session\['a'\]\['b'\]\[0\] is of type"):
        site.visit(lambda session: session.update(a={"b": [value]}))
    assert site.rows() == []


class Leaks(logging.Handler):
    """Keeps all that any logger says, formatted as a careless application would."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        event = getattr(record, "event", None)
        self.said.append(f"{record.getMessage()} {record.args} {event} {self.format(record)}")


@pytest.fixture
def leaks() -> Iterator[Leaks]:
    """Everything that is logged, at DEBUG, by anybody."""
    handler, root = Leaks(), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield handler
    root.removeHandler(handler)
    root.setLevel(level)


def attempted(leaks: Leaks, act: Callable[[], Any]) -> Any:
    """Run *act*; what it raises is told in full, with its causes, as an error page would."""
    try:
        result = act()
    except Exception as error:
        leaks.said += [str(error), repr(error), "".join(traceback.format_exception(error))]
        return None
    leaks.said.append(repr(result))
    return result


def spellings(key: str) -> list[str]:
    return [key, key.encode().hex(), base64.b64encode(key.encode()).decode().rstrip("=")]


def test_s66_s67_neither_key_nor_value_is_ever_told(database: str, leaks: Leaks) -> None:
    """Not in logs at DEBUG with echo, not in events, reprs, errors and their causes, whatever goes wrong."""
    engine = sa.create_engine(database, echo="debug", echo_pool="debug")
    try:
        used = trouble_of_every_kind(Site(engine, max_bytes=1000, idle_timeout=1000), Site(database), leaks)
    finally:
        engine.dispose()
    said = "\n".join(leaks.said)

    assert len(leaks.said) > 40
    assert not [word for key in used for word in spellings(key) if word in said]
    assert SECRET not in said
    assert "StoreUnavailable" in said
    assert "SessionTooLarge" in said


def trouble_of_every_kind(site: Site, quiet: Site, leaks: Leaks) -> list[str]:
    """Go through every failure that can be had; return the keys that were used. *quiet* does what tests do."""
    key = site.begin(ssn=SECRET)
    used = [key]

    def told(session: Session) -> str:
        return f"{session!r} {session} {session.keys()!r} {session.handle} {session.created_at} {vars(session).keys()}"

    acts: list[Act] = [
        told,
        look_quietly,
        lambda session: session.update(ssn=SECRET * 100),
        lambda session: session.update(ssn={SECRET: object()} and object()),
        lambda session: session.update(ssn=[SECRET, object()]),
        lambda session: session.atomic(lambda values: values.update(ssn=SECRET * 99)),
        lambda session: session.atomic(lambda values: 1 / 0),
        lambda session: (session.update(x=SECRET), site.store.revoke_all(), session.save()),
    ]
    for act in acts:
        key = site.begin(ssn=SECRET)
        used.append(key)
        attempted(leaks, lambda act=act, key=key: site.visit(act, key).reply.headers[:1])  # type: ignore[misc]
    for error in ("OperationalError", "IntegrityError", "ProgrammingError", "DataError", "InternalError"):
        for act in (look_quietly, lambda session: session.update(x=SECRET), lambda session: session.flush()):
            key = site.begin(ssn=SECRET)
            used.append(key)
            with failing(site, driver_error(site.engine, error, f"DETAIL: ({SECRET})")):
                attempted(leaks, lambda act=act, key=key: site.visit(act, key).reply.status)  # type: ignore[misc]
                attempted(leaks, lambda key=key: site.store.read(key))  # type: ignore[misc]
    for cookie in (f"{NAME}={used[0]}; {NAME}={used[-1]}", f"{NAME}={used[0]}x", f"{NAME}={'y' * 43}"):
        site.visit(look_quietly, cookie=cookie)
    key = site.begin(ssn=SECRET)
    used.append(key)
    quiet.change_row(key, data=f'{{"a": "{SECRET}')
    site.visit(look_quietly, key)
    with quiet.engine.begin() as connection:  # a real refusal by the server, with its own words
        connection.exec_driver_sql(f"ALTER TABLE {site.store.table.name} RENAME COLUMN data TO gone")
    for act in (look_quietly, lambda session: session.update(ssn=SECRET), lambda session: session.flush()):
        attempted(leaks, lambda act=act: site.visit(act, used[0]).reply.status)  # type: ignore[misc]
        attempted(leaks, lambda act=act: site.visit(act).reply.status)  # type: ignore[misc]
    attempted(leaks, lambda: site.store.create({"ssn": SECRET}))
    leaks.said += [repr(site.events), repr(site.store), repr(site.middleware)]
    return used


TROUBLED = """
import logging, os
from sessionware import SessionMiddleware

logging.basicConfig(level=logging.DEBUG)
secret = os.environ["SECRET"]

def app(environ, start_response):
    session, path = environ["sessionware.session"], environ["PATH_INFO"]
    if path != "/":
        session["ssn"] = {"/size": secret * 999, "/type": [secret, object()]}.get(path, secret)
    if path == "/interrupted":
        session.setdefault("more", 1)
        application.store.revoke_all()
    if path == "/raise":
        raise LookupError(path)
    if path == "/renamed":
        with application.store.database.engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE sessionware_session RENAME COLUMN data TO gone")
    start_response("200 OK", [("Content-Type", "text/plain")])
    return body(session, path)

def body(session, path):
    yield b"begun"
    if path == "/late":
        session["ssn"] = [secret, object()]
        raise LookupError(path)

application = SessionMiddleware(app, os.environ["DATABASE"], max_bytes=1000, cookie_secure=False)
"""


def test_s66_s67_nor_does_a_server_tell_them(any_engine: str, tmp_path: Path) -> None:
    """gunicorn logs whatever a request raises, with its traceback; here at DEBUG, and beside all other loggers."""
    (tmp_path / "troubled.py").write_text(TROUBLED)
    environ = {"DATABASE": any_engine, "SECRET": SECRET, "PYTHONPATH": str(PACKAGE.parent)}
    paths = ["/size", "/type", "/raise", "/late", "/interrupted", "/renamed", "/size", "/read"]
    with Gunicorn(
        "troubled:application", tmp_path, cwd=tmp_path, environ=environ, options=("--log-level", "debug")
    ) as server:
        used = [dict(server.request("/begin")[1])["Set-Cookie"][len("sessionid=") :][:43] for _ in paths]
        statuses = []
        for path, key in zip(paths, used, strict=True):
            with suppress(IncompleteRead):
                status, _, answer = server.request(path, cookie=f"sessionid={key}")
                statuses.append(status)

                assert SECRET.encode() not in answer
    log = server.stderr

    assert statuses == [500, 500, 500, 400, 503, 503, 503], "and one is torn off"
    assert all(word in log for word in ("Traceback", "SessionTooLarge", "UnstorableValue", "LookupError", "503"))
    assert not [word for key in used for word in spellings(key) if word in log]
    assert SECRET not in log


def look_quietly(session: Session) -> None:
    session.get("ssn")


def failing(site: Site, error: BaseException) -> Any:
    """Have each statement fail with *error*, and every other call of the driver too."""
    other = driver_error(site.engine, "OperationalError", "no more")

    def fail(call: Call, proceed: Proceed) -> Any:
        raise error if call.name == "execute" else other

    return watching(site.engine, fail)


@pytest.mark.parametrize(
    "error", ["OperationalError", "ProgrammingError", "DataError", "InterfaceError", "IntegrityError"]
)
def test_s68_our_own_error_pages_say_nothing(database: str, error: str) -> None:
    """No SQL, no host, no driver, no version: one sentence for people."""
    site = Site(database)
    key = site.begin(a=1)
    with failing(site, driver_error(site.engine, error, "host db.internal, SELECT secret FROM x")):
        down = site.visit(look, key).reply
    interrupted = site.visit(lambda session: (session.update(a=2), site.store.revoke_all()), key).reply

    assert (down.status, down.text) == (503, "503 Service Unavailable\n\nPlease try again in a moment.\n")
    assert interrupted.status == 400
    assert interrupted.text.startswith("400 Bad Request\n\nYour session changed while this request was running.")
    for reply in (down, interrupted):
        names = {name.lower() for name, _ in reply.headers} - {"set-cookie"}
        assert names <= {"content-type", "content-length", "retry-after", "vary", "cache-control"}


def test_s69_no_request_sees_anothers_session(any_engine: str) -> None:
    """Threads at once, errors, bodies half read, close() left out: each sees only its own (CVE-2026-24894)."""
    mixed: list[Any] = []

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        session, tag = environ["sessionware.session"], environ["test.tag"]
        if session.setdefault("tag", tag) != tag:
            mixed.append((tag, dict(session)))
        session.setdefault("seen", []).append(tag)
        if environ["test.way"] == "raise":
            raise ZeroDivisionError
        start_response("200 OK", [("Content-Type", "text/plain")])
        return body(session, tag) if environ["test.way"] != "list" else [tag.encode()]

    def body(session: Session, tag: str) -> Iterator[bytes]:
        for _ in range(3):
            if session["tag"] != tag or set(session["seen"]) != {tag}:
                mixed.append((tag, dict(session)))
            yield tag.encode()

    middleware = SessionMiddleware(app, any_engine)
    start = threading.Barrier(32)

    def visitor(number: int) -> None:
        tag, key, chance = f"visitor {number}", None, random.Random(number)
        start.wait()
        for _ in range(100):
            way = chance.choice(["list", "stream", "half", "no close", "raise"]) if key else "list"
            environ = {"test.tag": tag, "test.way": way}
            cookie = f"{NAME}={key}" if key else None
            if way == "raise":
                with pytest.raises(ZeroDivisionError):
                    call(middleware, cookie=cookie, url=HTTPS, environ=environ)
                continue
            if way == "no close":
                iterable = middleware({**make_environ(cookie=cookie, url=HTTPS), **environ}, lambda *_: None)
                next(iter(iterable))
                continue
            reply = call(middleware, cookie=cookie, url=HTTPS, environ=environ, stop_after=1 if way == "half" else None)
            key = reply.cookies.get(NAME, key)
            if set(re.findall(r"visitor \d+", reply.text)) != {tag}:
                mixed.append((tag, reply.text))

    threads = [threading.Thread(target=visitor, args=(number,)) for number in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert mixed == []
    assert middleware.store.count() == 32
    assert middleware.store.database.in_use() == 0


ZONES = ["UTC", "America/New_York", "Asia/Tokyo", "Asia/Kathmandu", "Pacific/Kiritimati"]
IN_ZONE = {"postgresql": "SET TIME ZONE '{}'", "mysql": "SET time_zone = '{}'", "mariadb": "SET time_zone = '{}'"}
OFFSETS = {"America/New_York": "-05:00", "Asia/Tokyo": "+09:00"}


@pytest.fixture
def zone() -> Iterator[Callable[[str], None]]:
    """Set the time zone of this process."""
    saved = os.environ.get("TZ")

    def put(name: str | None) -> None:
        os.environ.pop("TZ", None)
        if name is not None:
            os.environ["TZ"] = name
        time.tzset()

    yield put
    put(saved)


@pytest.mark.parametrize("start", [1_793_509_200.0, 1_772_953_200.0, 1_800_000_000.0], ids=["fall", "spring", "plain"])
def test_s71_an_hour_is_an_hour_in_every_time_zone(database: str, zone: Callable[[str], None], start: float) -> None:
    """Workers and database connections in different zones, over the hours that summer time takes and gives."""
    clock = Clock(start)
    engines, sites = [], []
    try:
        for name in ("America/New_York", "Asia/Tokyo"):
            engine = sa.create_engine(database)
            engines.append(engine)
            statement = IN_ZONE.get(engine.dialect.name, "").format(
                name if engine.dialect.name == "postgresql" else OFFSETS[name]
            )
            sa.event.listen(engine, "connect", lambda made, _, statement=statement: run(made, statement))
            sites.append((name, Site(engine, clock, idle_timeout=3600)))
        zone("Asia/Kathmandu")
        key = sites[0][1].begin(a=1)
        for step in (179, 3600 - 179 - 1):  # too early for an extension, then the last second
            clock.advance(step)
            for name, site in sites:
                zone(name)
                assert site.store.exists(key)
                info = site.visit(lambda session: session.created_at, key).value if step == 179 else None
                assert info in (None, datetime.fromtimestamp(start, UTC))
        clock.advance(1)
        for name, site in sites:
            zone(name)
            assert site.values(key) == {}
    finally:
        for engine in engines:
            engine.dispose()


def run(connection: Any, statement: str) -> None:
    if statement:
        cursor = connection.cursor()
        cursor.execute(statement)
        cursor.close()
        connection.commit()


@pytest.mark.parametrize("year", [2037, 2038, 2040, 2106, 2200])
def test_s72_sessions_work_in_every_year(database: str, year: int) -> None:
    """MariaDB's TIMESTAMP ends in 2038, 32 bits without sign in 2106."""
    clock = Clock(datetime(year, 12, 31, tzinfo=UTC).timestamp())
    site = Site(database, clock)
    key = site.log_in("ada")
    clock.advance(timedelta(days=10))
    visit = site.visit(look, key)
    (info,) = site.store.sessions_of("ada")

    assert "Max-Age=1209600" in (visit.set_cookie or "")
    assert info.created_at == datetime(year, 12, 31, tzinfo=UTC)
    clock.advance(timedelta(days=15))
    assert site.store.purge() == 1


@pytest.mark.parametrize("step", [-86_400, -3600, 3600, 2 * 3600])
def test_s72_a_clock_that_steps_takes_and_gives_no_more_than_its_step(database: str, step: int) -> None:
    """Set back, the limit is late by the step and no more; no cookie ever has a negative age."""
    site = Site(database, idle_timeout=10_000, absolute_timeout=20_000)
    key = site.begin(a=1)
    site.clock.advance(step)
    row, before = site.row(key) or {}, site.clock()
    for _ in range(6):
        visit = site.visit(lambda session: session.update(b=site.clock()), key)
        age = re.search(r"Max-Age=(-?\d+)", visit.set_cookie or "")

        assert visit.reply.status == 200
        assert age is not None
        assert 0 <= int(age[1]) <= 20_000 + 86_400
        site.clock.advance(3000)
    after = site.row(key) or {}

    assert after["created_at"] == row["created_at"]
    assert row["expires_at"] <= after["expires_at"] <= row["created_at"] + 20_000
    site.clock.now = before + 20_000 + abs(step)
    assert site.values(key) == {}


def test_s72_workers_whose_clocks_differ_agree_on_who_is_there(database: str) -> None:
    """Five minutes apart, in turns: the session lives, does not flap, and ends once for all."""
    clocks = [Clock(), Clock()]
    clocks[0].advance(300)
    sites = [Site(database, clock, idle_timeout=1000, absolute_timeout=5000) for clock in clocks]
    key = sites[0].begin(count=0)

    def count(session: Session) -> None:
        session["count"] += 1

    for step in range(18):
        visit = sites[step % 2].visit(count, key)

        assert visit.reply.status == 200
        assert re.search(r"Max-Age=\d+;|Max-Age=\d+$", visit.set_cookie or "")
        for clock in clocks:
            clock.advance(250)
    assert sites[1].values(key) == {"count": 18}
    for clock in clocks:
        clock.advance(500)
    assert [site.values(key) for site in sites] in ([{}, {}], [{}, {"count": 18}])
    clocks[1].advance(300)
    assert [site.values(key) for site in sites] == [{}, {}]
    assert sites[0].store.table.c.digest.primary_key
    assert SessionStore(sites[0].engine).load(digest(key)) is not None
