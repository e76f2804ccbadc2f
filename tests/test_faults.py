"""Fault at call N: every driver call of every operation fails once before and once after it happened.

Whatever fails: nothing is left lent, open or locked, the next request works, the stored state is the old
or the new one, the new one if the answer was a success, and no cookie names a session that is not there.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import sqlalchemy
from packaging.version import parse
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.exc import TimeoutError as PoolTimeout

from sessionware import SessionMiddleware, StoreUnavailable, keys
from sessionware.store import SessionStore
from tests.support.apps import counting
from tests.support.clock import Clock
from tests.support.databases import held
from tests.support.faults import Faults, Mode, driver_error, every_call
from tests.support.rows import new_record, put_many
from tests.support.wsgi import Browser, Reply, call

NAME = "__Host-sessionid"
SECRET = "secret-secret-secret"


class Killed(BaseException):
    """What gevent and gunicorn throw into a request that is to end: nobody's Exception."""


@dataclass
class World:
    """A visitor with a session in which n is 1, and somebody who looks at the table past the faults."""

    app: SessionMiddleware
    observer: SessionStore
    clock: Clock
    browser: Browser
    key: str

    def stored(self, key: str | None = None) -> Any:
        """Return n as it is stored, None without a session."""
        values = self.observer.read(key or self.key)
        return None if values is None else values["n"]


Check = Callable[[World, Reply | None], None]


def _check_first_write(world: World, reply: Reply | None) -> None:
    assert _succeeded(reply) == bool(_new_key(reply))
    if _succeeded(reply):
        assert world.stored(_new_key(reply)) == 1


def _check_change(world: World, reply: Reply | None) -> None:
    assert world.stored() in ({2} if _succeeded(reply) else {1, 2})


def _check_unchanged(world: World, reply: Reply | None) -> None:
    assert world.stored() == 1


def _check_rotation(world: World, reply: Reply | None) -> None:
    new = _new_key(reply)
    if _succeeded(reply):
        assert (world.stored(), world.stored(new)) == (None, 2)
    else:
        assert world.stored() in (1, None)
        assert world.observer.count() == 1  # exactly one of old and new


def _check_logout(world: World, reply: Reply | None) -> None:
    assert world.stored() in ({None} if _succeeded(reply) else {1, None})
    if reply is not None:
        assert reply.cookies == {NAME: ""}  # who asked to be logged out is, in the browser at least


def _check_revocation(world: World, reply: Reply | None) -> None:
    left = len(world.observer.sessions_of("ann"))
    assert left == 0 if _succeeded(reply) else left in (0, 2)
    assert world.stored() == 1


def _check_end(world: World, reply: Reply | None) -> None:
    assert world.stored() in ({None} if _succeeded(reply) else {1, None})


def _check_two_logouts(world: World, reply: Reply | None) -> None:
    if _succeeded(reply):
        assert world.observer.count() == 0


def _check_purge(world: World, reply: Reply | None) -> None:
    # A server may take a moment to see that a connection is closed; until then it holds the cleaner's lock.
    assert held(world.observer.database.engine.url.render_as_string(hide_password=False)) == []
    put_many(world.observer, [new_record(world.clock(), lives=-5)])
    assert world.observer.purge() >= 1
    assert (world.observer.count_expired(), world.stored()) == (0, 1)


def _as_request(path: str) -> Callable[[World], Reply]:
    return lambda world: world.browser.get(path)


def _first_write(world: World) -> Reply:
    return Browser(world.app, clock=world.clock).get("/count")


def _touch(world: World) -> Reply:
    world.clock.advance(86400)
    return world.browser.get("/read")


def _revoke(world: World) -> Reply:
    world.observer.create({"n": 5}, "ann")
    world.observer.create({"n": 5}, "ann")
    return _as_reply(lambda: world.app.store.revoke_user("ann"))


def _purge(world: World) -> Reply:
    put_many(world.observer, [new_record(world.clock(), lives=-5) for _ in range(3)])
    return _as_reply(lambda: world.app.store.purge(batch_size=2))


def _touch_unseen(world: World) -> Reply:
    world.clock.advance(86400)
    app = SessionMiddleware(counting, world.app.store, clock=world.clock, purge_interval=None, save_every_request=True)
    return call(app, "/static", cookie=f"{NAME}={world.key}", url="https://example.test")


def _log_out_twice(world: World) -> Reply:
    """Log out with two live keys: one of them was planted."""
    cookie = f"{NAME}={world.key}; {NAME}={world.observer.create({'n': 5})}"
    return call(world.app, "/log_out", cookie=cookie, url="https://example.test")


def _list(world: World) -> Reply:
    world.observer.create({"n": 5}, "ann")
    return _as_reply(lambda: world.app.store.sessions_of("ann"))


def _revoke_one(world: World) -> Reply:
    return _as_reply(lambda: world.app.store.revoke(keys.handle(keys.digest(world.key))))


OPERATIONS: dict[str, tuple[Callable[[World], Reply], Check]] = {
    "first-write": (_first_write, _check_first_write),
    "read": (_as_request("/read"), _check_unchanged),
    "change": (_as_request("/count"), _check_change),
    "touch": (_touch, _check_unchanged),
    "cycle": (_as_request("/cycle"), _check_rotation),
    "login": (_as_request("/log_in"), _check_rotation),
    "logout": (_as_request("/log_out"), _check_logout),
    "atomic": (_as_request("/atomic"), _check_change),
    "touch-unseen": (_touch_unseen, _check_unchanged),
    "logout-of-two": (_log_out_twice, _check_two_logouts),
    "list": (_list, _check_unchanged),
    "revoke": (_revoke, _check_revocation),
    "revoke-one": (_revoke_one, _check_end),
    "revoke-all": (lambda world: _as_reply(world.app.store.revoke_all), _check_end),
    "purge": (_purge, _check_purge),
}


def _code(postgresql: str, mysql: int, sqlite: int | None, *, kind: str) -> Callable[[Engine], BaseException]:
    """What a driver raises when its server says this code, each in its own way."""

    def make(engine: Engine) -> BaseException:
        if engine.dialect.name == "postgresql":
            dbapi: Any = engine.dialect.loaded_dbapi
            return getattr(dbapi.errors, postgresql)(SECRET)  # type: ignore[no-any-return]
        if engine.dialect.name == "mysql":
            return driver_error(engine, kind, mysql, SECRET)
        error = driver_error(engine, kind, SECRET)
        if sqlite is not None:
            error.sqlite_errorcode = sqlite  # type: ignore[attr-defined]
        return error

    return make


# The server has become a replica.
_read_only = _code("ReadOnlySqlTransaction", 1290, None, kind="OperationalError")
# The database has undone the work of the one to let another through.
_deadlock = _code("DeadlockDetected", 1213, 5, kind="OperationalError")
# A constraint, where nobody expects one: an application may add its own.
_duplicate = _code("UniqueViolation", 1062, 2067, kind="IntegrityError")


def _driver(name: str) -> Callable[[Engine], BaseException]:
    return lambda engine: driver_error(engine, name, SECRET)


@dataclass(frozen=True)
class Kind:
    """One kind of error; *heals*: a single one is not noticed; *passes*: it goes through to the server."""

    make: Callable[[Engine], BaseException]
    disconnect: bool = False
    heals: bool = False
    passes: bool = False


# Early releases of SQLAlchemy 2.0 lose a place in the pool to what is killed in the pool's own ROLLBACK.
KILLED_IN_ANY_POOL = ("killed",) if parse(sqlalchemy.__version__) >= parse("2.0.58") else ()
BEFORE_ONLY = {"deadlock", "integrity"}  # the database has undone it: it has not happened
ON_SERVERS = {
    "operational",
    "disconnect",
    "deadlock",
    "integrity",
    "read-only",
    "killed",
}  # the rest is the same on every engine
KINDS = {
    "operational": Kind(_driver("OperationalError")),
    "disconnect": Kind(_driver("OperationalError"), disconnect=True, heals=True),
    "reset": Kind(lambda engine: ConnectionResetError(104, SECRET), heals=True),
    "deadlock": Kind(_deadlock, heals=True),
    "integrity": Kind(_duplicate),
    "programming": Kind(_driver("ProgrammingError")),
    "read-only": Kind(_read_only),
    "pool": Kind(lambda engine: PoolTimeout(SECRET)),
    "memory": Kind(lambda engine: MemoryError(SECRET)),
    "recursion": Kind(lambda engine: RecursionError(SECRET)),
    "interrupt": Kind(lambda engine: KeyboardInterrupt(SECRET), passes=True),
    "killed": Kind(lambda engine: Killed(SECRET), passes=True),
}


@pytest.fixture
def observer(any_engine: str, clock: Clock) -> SessionStore:
    """A store of its own pool, past the faults."""
    observer = SessionStore(any_engine, clock=clock)
    _hurry(observer.database.engine)
    observer.create_table()
    return observer


@pytest.mark.parametrize("mode", ["before", "after"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_no_single_fault_does_harm(observer: SessionStore, clock: Clock, name: str, mode: Mode) -> None:
    """Each call of the operation, each kind of error; a lost connection and a deadlock are not even noticed."""
    app = SessionMiddleware(counting, str(observer.database.engine.url), clock=clock, purge_interval=None)
    _hurry(app.store.database.engine)
    labels = KINDS.keys() if app.store.database.dialect.name == "sqlite" else ON_SERVERS
    for label in sorted(labels - (BEFORE_ONLY if mode == "after" else set())):
        assert sum(_strikes(app, observer, name, KINDS[label], mode)) >= 1, label


@pytest.mark.parametrize("name", ["read", "change", "first-write", "logout"])
def test_no_fault_at_connecting_does_harm(observer: SessionStore, clock: Clock, name: str) -> None:
    """As above, with a cold pool: the first call is the one that connects."""
    app = SessionMiddleware(counting, str(observer.database.engine.url), clock=clock, purge_interval=None)
    for kind in (KINDS["operational"], KINDS["disconnect"], KINDS["reset"], KINDS["memory"], KINDS["killed"]):
        assert sum(_strikes(app, observer, name, kind, "before", cold=True, only={"connect"})) >= 1


@pytest.mark.parametrize("name", ["change", "cycle", "logout", "first-write"])
def test_no_fault_on_an_engine_of_the_application_does_harm(observer: SessionStore, clock: Clock, name: str) -> None:
    """There are more calls that may fail: into autocommit, back from it, and the pool's own rollback."""
    engine = create_engine(observer.database.engine.url)
    _hurry(engine)
    app = SessionMiddleware(counting, engine, clock=clock, purge_interval=None)
    for label in ("operational", "disconnect", *KILLED_IN_ANY_POOL):
        assert sum(_strikes(app, observer, name, KINDS[label], "after")) >= 1
    engine.dispose()


def _strikes(
    app: SessionMiddleware,
    observer: SessionStore,
    name: str,
    kind: Kind,
    mode: Mode,
    *,
    cold: bool = False,
    **words: Any,
) -> Iterator[bool]:
    """Let each call of the operation fail once; yield whether one was struck."""
    act, check = OPERATIONS[name]
    for faults in every_call(kind.make, mode=mode, disconnect=kind.disconnect, **words):
        world = _new_world(app, observer)
        if cold:
            app.store.database.connections.drop_all()
        reply = _act(act, world, faults, kind)
        check(world, reply)
        _check_sound(world, reply, faults, kind)
        yield faults.fired is not None


def _new_world(app: SessionMiddleware, observer: SessionStore) -> World:
    clock = app.store.clock
    assert isinstance(clock, Clock)
    observer.revoke_all()
    browser = Browser(app, clock=clock)
    key = browser.get("/count").cookies[NAME]
    return World(app, observer, clock, browser, key)


def _act(act: Callable[[World], Reply], world: World, faults: Faults, kind: Kind) -> Reply | None:
    engine = world.app.store.database.engine
    with faults.on(engine):
        if not kind.passes:
            return act(world)
        try:
            return act(world)
        except (KeyboardInterrupt, Killed):
            return None


def _check_sound(world: World, reply: Reply | None, faults: Faults, kind: Kind) -> None:
    assert world.app.store.database.in_use() == 0, faults
    for key in (_new_key(reply),):
        assert key is None or world.observer.exists(key), faults
    if reply is not None:
        assert reply.status in (200, 503), faults
        assert SECRET not in reply.text
    if faults.fired is None or kind.heals:
        assert _succeeded(reply), faults
    assert Browser(world.app, clock=world.clock).get("/count").text == "1", faults
    _touch_the_row(world)


def _touch_the_row(world: World) -> None:
    """Change the visitor's row from elsewhere: a transaction that was left open would be in the way."""
    digest = keys.digest(world.key)
    seen = world.observer.load(digest)
    if seen is not None and not seen.is_tombstone():
        assert world.observer.update(digest, seen, seen.revision, int(world.clock()))


def _new_key(reply: Reply | None) -> str | None:
    return None if reply is None else reply.cookies.get(NAME) or None


def _succeeded(reply: Reply | None) -> bool:
    return reply is not None and reply.status == 200


def _as_reply(work: Callable[[], object]) -> Reply:
    try:
        work()
    except StoreUnavailable as error:
        return Reply(503, body=str(error).encode())
    return Reply(200)


def _hurry(engine: Engine) -> None:
    """Have SQLite wait for no disk: these files need not outlive the machine."""

    @event.listens_for(engine, "connect")
    def connect(connection: Any, _record: object) -> None:
        if engine.dialect.name == "sqlite":
            connection.execute("PRAGMA synchronous=OFF").close()
