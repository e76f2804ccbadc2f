"""A new key for a session: all of it or nothing, and the old one dead at once."""

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Literal

import pytest

from sessionware import Session, SessionInterrupted, SessionMiddleware, SessionwareError, get_session, keys
from sessionware.record import Record
from tests.support.clock import Clock
from tests.support.counting import statements
from tests.support.driver import Call, Proceed, watching
from tests.support.faults import driver_error, every_call
from tests.support.isolation import Address
from tests.support.stepping import Actor, play
from tests.support.visit import Visit
from tests.support.wsgi import Browser, call

VALUES = {"cart": [1, 2], "name": "Ann"}


def log_in(session: Session) -> None:
    session.login("ann")


def log_in_as_another(session: Session) -> None:
    session.login("bob")


def cycle_key(session: Session) -> None:
    session.cycle_key()


ROTATIONS = [cycle_key, log_in]


def middleware_on(database: str, clock: Clock | None = None) -> SessionMiddleware:
    return SessionMiddleware(lambda *_: [], database, clock=clock or Clock(), purge_interval=None)


def rotating(middleware: SessionMiddleware, key: str, rotate: Callable[[Session], None] = cycle_key) -> Visit:
    visit = Visit(middleware, key)
    visit.load()
    rotate(visit.session)
    return visit


@pytest.mark.parametrize("rotate", ROTATIONS)
def test_a_rotation_is_stored_with_the_save(database: str, rotate: Callable[[Session], None]) -> None:
    """Two steps would leave a moment, or a crash, with two keys or none."""
    middleware = middleware_on(database)
    key = middleware.store.create(VALUES)
    visit = rotating(middleware, key, rotate)
    visit.session["new"] = True

    assert middleware.store.read(key) == VALUES, "nothing happens before the save"
    with statements(middleware.store.database.engine) as calls:
        visit.end()
    assert calls.verbs == ["BEGIN", "UPDATE", "INSERT", "COMMIT", "SELECT"]
    assert not middleware.store.exists(key)
    assert middleware.store.read(str(visit.cookie)) == {**VALUES, "new": True}


@pytest.mark.parametrize("rotate", ROTATIONS)
@pytest.mark.parametrize("mode", ["before", "after"])
@pytest.mark.parametrize("disconnect", [False, True], ids=["error", "disconnect"])
def test_a_failing_call_leaves_exactly_one_of_old_and_new(
    database: str, rotate: Callable[[Session], None], mode: Literal["before", "after"], disconnect: bool
) -> None:
    """Whichever call fails, before or after it was done, the user has one session and all of its values."""
    middleware = middleware_on(database)
    store = middleware.store
    struck = 0
    for faults in every_call(lambda engine: driver_error(engine, "OperationalError"), mode=mode, disconnect=disconnect):
        key = store.create(VALUES, None)
        visit = rotating(middleware, key, rotate)
        visit.session["new"] = True
        new_key = str(visit.session.session_key)
        failed = False
        with faults.on(store.database.engine):
            try:
                visit.end()
            except SessionwareError:
                failed = True
        struck += faults.fired is not None

        alive = {name: store.read(name) for name in (key, new_key) if store.exists(name)}
        assert list(alive.values()) in ([VALUES], [{**VALUES, "new": True}]), faults
        assert failed or list(alive) == [visit.cookie] == [new_key], faults
        assert store.count() == 1, faults
        store.revoke_all()
    assert struck >= 5


@pytest.mark.parametrize("rotate", [*ROTATIONS, log_in_as_another])
def test_a_failed_request_changes_nothing(sqlite: str, rotate: Callable[[Session], None]) -> None:
    """The key is part of what the request stores: with a status from 500 on it stores nothing."""
    middleware = middleware_on(sqlite)
    key = middleware.store.create(VALUES, "ann")
    visit = rotating(middleware, key, rotate)
    visit.end("500 Internal Server Error")

    assert visit.cookie is None
    assert middleware.store.read(key) == VALUES
    assert middleware.store.count() == 1


def write(session: Session) -> None:
    session["late"] = True


def save(session: Session) -> None:
    session["late"] = True
    session.save()


def atomic(session: Session) -> None:
    session.atomic(lambda values: values.update(late=True))


def read(session: Session) -> None:
    len(session)


IN_FLIGHT = [
    pytest.param(write, False, id="write"),
    pytest.param(read, False, id="read"),
    pytest.param(save, True, id="save"),
    pytest.param(atomic, True, id="atomic"),
    pytest.param(cycle_key, False, id="cycle_key"),
    pytest.param(Session.flush, True, id="flush"),
]


@pytest.mark.parametrize(("operation", "refused"), IN_FLIGHT)
@pytest.mark.parametrize("loaded_before", [True, False], ids=["loaded-before", "started-after"])
def test_a_request_with_the_old_key_does_nothing_and_sends_no_cookie(
    database: str, operation: Callable[[Session], None], refused: bool, loaded_before: bool
) -> None:
    """It belongs to a browser that has, or is about to get, the new cookie."""
    middleware = middleware_on(database)
    key = middleware.store.create(VALUES, "ann")
    late = Visit(middleware, key)
    if loaded_before:
        late.load()
    new_key = rotating(middleware, key).end().cookie
    try:
        if not loaded_before:
            assert dict(late.session) == {}, "it sees nothing of the session"
            assert late.session.user_id is None
        operation(late.session)
        late.end()
    except SessionInterrupted as error:
        late.interrupt(error)

    assert late.cookie is None
    assert middleware.store.read(str(new_key)) == VALUES
    assert middleware.store.count() == 1
    if refused:
        assert late.interrupted is not None
        assert not late.interrupted.ended


def test_a_login_that_a_rotation_overtakes_is_interrupted(database: str) -> None:
    """It was to be of the session that lives on under the other key."""
    middleware = middleware_on(database)
    late = Visit(middleware, middleware.store.create(VALUES, "ann"))
    late.load()
    new_key = rotating(middleware, late.session.session_key or "").end().cookie
    log_in(late.session)
    late.end()

    assert late.interrupted is not None
    assert not late.interrupted.ended
    assert late.cookie is None
    assert middleware.store.read(str(new_key)) == VALUES
    assert middleware.store.count() == 1


def test_a_login_whose_answer_was_lost_can_be_made_again(database: str) -> None:
    """The browser holds the old key still; what lives under the new one, which it never got, stays what it is."""
    middleware = middleware_on(database)
    key = middleware.store.create(VALUES)
    lost = rotating(middleware, key, log_in).end().cookie
    again = rotating(middleware, key, log_in).end().cookie

    assert len({key, lost, again}) == 3
    assert middleware.store.read(str(again)) == {}
    assert middleware.store.read(str(lost)) == VALUES
    assert middleware.store.read(key) is None
    assert Visit(middleware, str(again)).session.user_id == Visit(middleware, str(lost)).session.user_id is not None


def test_such_a_login_keeps_what_its_request_has_set(sqlite: str) -> None:
    """As one without any cookie does: a cart, and that the session is to end with the browser."""
    middleware = middleware_on(sqlite)
    key = middleware.store.create({})
    rotating(middleware, key, log_in).end()
    again = Visit(middleware, key)
    again.session["cart"] = ["book"]
    again.session.set_expiry(0)
    log_in(again.session)
    again.end()

    assert middleware.store.read(str(again.cookie)) == {"cart": ["book"]}
    assert not any("Max-Age" in value for name, value in again.headers if name == "Set-Cookie")


def test_what_a_request_with_the_old_key_wanted_is_reported(sqlite: str) -> None:
    """What is dropped without an error must be found in the log."""
    events: list[Any] = []
    middleware = SessionMiddleware(lambda *_: [], sqlite, on_event=events.append)
    key = middleware.store.create(VALUES)
    rotating(middleware, key).end()
    late = Visit(middleware, key)
    late.session["late"] = True
    late.end()

    assert [event.kind for event in events][-1] == "dropped"


def test_the_old_key_is_a_stranger_when_the_tombstone_is_gone(database: str) -> None:
    """Its place is kept for requests under way, not for ever."""
    clock = Clock()
    middleware = middleware_on(database, clock)
    key = middleware.store.create(VALUES)
    rotating(middleware, key).end()
    clock.advance(timedelta(minutes=5))

    assert Visit(middleware, key).end().cookie is None
    late = Visit(middleware, key)
    assert dict(late.session) == {}
    assert late.end().cookie == "", "such a cookie is cleared"
    leaving = Visit(middleware, key)
    leaving.session.logout()  # of nothing: no session lives on that it could not reach
    assert leaving.end().cookie == ""
    clock.advance(timedelta(hours=1))
    assert middleware.store.purge() == 1


def a_key_of_nobody(middleware: SessionMiddleware) -> str:
    return keys.new_key()


def a_session_of_the_attacker(middleware: SessionMiddleware) -> str:
    return middleware.store.create({"planted": True})


def a_login_of_the_attacker(middleware: SessionMiddleware) -> str:
    return middleware.store.create({"planted": True}, "mallory")


@pytest.mark.parametrize("plant", [a_key_of_nobody, a_session_of_the_attacker, a_login_of_the_attacker])
def test_a_fixated_key_is_never_authenticated(database: str, plant: Callable[[SessionMiddleware], str]) -> None:
    """Session fixation: the attacker has the victim log in with a key that both know."""
    middleware = middleware_on(database)
    key = plant(middleware)
    attacker = Visit(middleware, key)
    attacker.load()
    victim = rotating(middleware, key, log_in).end()
    attacker.session["evil"] = True
    attacker.end()
    again = Visit(middleware, key)

    assert victim.cookie not in (None, "", key)
    assert (dict(again.session), again.session.user_id) == ({}, None)
    assert Visit(middleware, victim.cookie).session.user_id == "ann"
    stored = middleware.store.read(str(victim.cookie))
    assert stored == ({"planted": True} if plant is a_session_of_the_attacker else {})


def site(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    session = get_session(environ)
    path = environ["PATH_INFO"]
    if path == "/login":
        session.login("ann")
    elif path == "/logout":
        session.logout()
    elif path == "/write":
        session["x"] = 1
    body = str(session.user_id).encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


@pytest.mark.parametrize(("path", "status"), [("/read", 200), ("/write", 200), ("/logout", 400)])
def test_the_browser_keeps_the_new_cookie_when_a_late_answer_arrives(database: str, path: str, status: int) -> None:
    """The answer to a request with the old key may come in after that to the login."""
    app = SessionMiddleware(site, database)
    browser = Browser(app)
    browser.get("/write")
    target = f"{browser.url}{path}"
    old = browser.jar.header_for(target, browser.clock())
    browser.post("/login")
    new = browser.jar.header_for(target, browser.clock())
    late = call(app, path, cookie=old, url=browser.url)
    browser.jar.set_from_headers(target, late.headers, browser.clock())

    assert new != old
    assert late.status == status
    assert browser.jar.header_for(target, browser.clock()) == new
    assert browser.get("/read").text == "ann"


def test_a_request_that_waited_for_the_rotation_is_told_of_it(place: Address) -> None:
    """Taken for ended, it would clear the browser's new cookie: PostgreSQL does not show it the tombstone at once."""
    ours, theirs = (SessionMiddleware(lambda *_: [], place.open(), purge_interval=None) for _ in range(2))
    key = ours.store.create(VALUES)
    visit = rotating(ours, key)
    digest = keys.digest(key)
    found: list[Record | None] = []

    def modify() -> None:
        def change(record: Record | None) -> Record:
            found.append(record)
            raise SessionInterrupted(ended=record is None)

        theirs.store.modify(digest, change, int(theirs.store.clock()))

    theirs.store.count()
    rotation = Actor(ours.store.database.engine, visit.end, ["COMMIT"])
    waiting = Actor(theirs.store.database.engine, modify, ["SELECT"])
    play("WR", {"R": rotation, "W": waiting})

    assert visit.cookie
    assert isinstance(waiting.result, SessionInterrupted)
    assert found[-1] is not None
    assert found[-1].is_tombstone()


def test_two_logins_at_once_leave_one_session(database: str) -> None:
    """A double click on "log in" is two requests with one old key."""
    middleware = middleware_on(database)
    key = middleware.store.create(VALUES)
    first, second = (rotating(middleware, key, log_in) for _ in range(2))
    first.end()
    second.end()

    assert second.interrupted is not None
    assert (second.interrupted.ended, second.cookie) == (False, None)
    assert middleware.store.read(str(first.cookie)) == VALUES
    assert middleware.store.count() == 1


@pytest.mark.parametrize("operation", [save, atomic])
def test_a_save_before_the_rotation_sends_no_cookie_after_it(sqlite: str, operation: Callable[[Session], None]) -> None:
    """A slow request that has saved early ends after the login: its cookie would replace the new one."""
    middleware = middleware_on(sqlite)
    key = middleware.store.create(VALUES)
    slow = Visit(middleware, key)
    operation(slow.session)
    rotating(middleware, key, log_in).end()

    assert slow.end().cookie is None


@pytest.mark.parametrize("rotate", ROTATIONS)
def test_a_database_that_goes_after_a_rotation_and_comes_back_logs_nobody_out(
    database: str, rotate: Callable[[Session], None]
) -> None:
    """The new key is stored, and its visitor gets it only when it is known that nobody was revoked meanwhile."""
    middleware = middleware_on(database)
    engine = middleware.store.database.engine
    key = middleware.store.create(VALUES, "ann")
    failures = [driver_error(engine, "OperationalError") for _ in range(3)]
    stored: list[str] = []

    def strike(call: Call, proceed: Proceed) -> Any:
        if stored and failures and call.name in ("connect", "execute"):
            raise failures.pop()
        if call.sql.startswith("COMMIT"):
            stored.append(call.sql)
        return proceed()

    visit = rotating(middleware, key, rotate)
    with watching(engine, strike):
        visit.end()

    assert failures == []
    assert middleware.store.read(str(visit.cookie)) == VALUES


@pytest.mark.parametrize(
    "operation",
    [
        pytest.param(lambda s: s.save(), id="save"),
        pytest.param(lambda s: (s.clear(), s.atomic(lambda values: values.update(b=1))), id="clear and atomic"),
    ],
)
@pytest.mark.parametrize("status", ["200 OK", "500 Oops"])
@pytest.mark.parametrize("rotated", [False, True], ids=["as it was", "rotated"])
def test_an_expiry_stored_before_the_rotation_sends_no_cookie_after_it(
    database: str, operation: Callable[[Session], None], rotated: bool, status: str
) -> None:
    """The cookie has to tell of a new expiry, but not with a key that is dead by then: the browser has a newer one."""
    middleware = middleware_on(database)
    key = middleware.store.create({"a": 1})
    first, second = Visit(middleware, key), Visit(middleware, key)
    first.session.set_expiry(3600)
    operation(first.session)
    if rotated:
        second.session.login("ann")
        second.end()
    first.end(status)

    assert first.interrupted is None
    assert first.cookie == (None if rotated else key)
    assert "; Max-Age=3600" in str(first.headers) or rotated


def test_an_expiry_that_is_stored_fails_nobody_when_the_database_goes(sqlite: str) -> None:
    """All is stored, and the cookie tells of it: a browser that never heard of it would lose the session for sure."""
    middleware = middleware_on(sqlite)
    visit = Visit(middleware, middleware.store.create({"a": 1}))
    visit.session.set_expiry(3600)
    visit.session.save()
    engine = middleware.store.database.engine

    def strike(_call: Call, _proceed: Proceed) -> Any:
        raise driver_error(engine, "OperationalError")

    with watching(engine, strike):
        visit.end()

    assert visit.interrupted is None
    assert visit.cookie == visit.session.session_key


def test_an_expiry_that_another_request_has_changed_since_is_not_told(sqlite: str) -> None:
    """Who asked to be forgotten with the browser must not get a cookie of thirty days by an answer that is late."""
    middleware = middleware_on(sqlite)
    key = middleware.store.create({"a": 1})
    first, second = Visit(middleware, key), Visit(middleware, key)
    first.session.set_expiry(30 * 86400)
    first.session.save()
    second.session.set_expiry(0)

    assert (second.end().cookie, first.end().cookie) == (key, None)


@pytest.mark.parametrize("rotate", ROTATIONS)
def test_a_rotation_whose_answer_is_lost_late_is_asked_for_all_the_same(
    networked: str, rotate: Callable[[Session], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy that gives up, a log that is slow to flush: it is stored, and its key must reach the visitor."""
    middleware = middleware_on(networked)
    engine = middleware.store.database.engine
    key = middleware.store.create(VALUES, "ann")
    began = time.monotonic()
    later = [0.0]
    monkeypatch.setattr("sessionware.database.time.monotonic", lambda: began + sum(later))

    def strike(call: Call, proceed: Proceed) -> Any:
        if not call.sql.startswith("COMMIT") or len(later) > 1:
            return proceed()
        proceed()
        later.append(60.0)
        raise driver_error(engine, "OperationalError", 2013, "lost")

    visit = rotating(middleware, key, rotate)
    with watching(engine, strike):
        visit.end()

    assert len(later) == 2
    assert visit.interrupted is None
    assert middleware.store.read(str(visit.cookie)) == VALUES
