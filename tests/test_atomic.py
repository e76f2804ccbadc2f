"""Read-modify-write: counters and lists that many requests change at once."""

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from sessionware import (
    Session,
    SessionEvent,
    SessionInterrupted,
    SessionMiddleware,
    SessionStore,
    SessionTooLarge,
    SessionwareError,
    UnstorableValue,
    get_session,
)
from sessionware.saving import Outcome
from tests.support.clock import Clock
from tests.support.counting import statements
from tests.support.crowd import SIZE, all_at_once, crowd
from tests.support.faults import belated_change, driver_error, every_call
from tests.support.isolation import PLACES, Address
from tests.support.proxy import ToxicProxy
from tests.support.visit import Visit
from tests.support.wsgi import call

EACH = 50
OTHERS = ("postgresql-serializable", "mariadb-read-committed")
VALUES = {"count": 1, "list": ["a"], "deep": {"x": [1]}}


# The default of each engine, and of the other levels those that fail in ways of their own.
COUNTED = [place for place in PLACES if place.level is None or place.id in OTHERS]


def middleware_on(database: str, **options: Any) -> SessionMiddleware:
    return SessionMiddleware(lambda *_: [], database, purge_interval=None, **{"clock": Clock(), **options})


def increment(values: dict[str, Any]) -> int:
    values["count"] = values.get("count", 0) + 1
    return int(values["count"])


@pytest.fixture(scope="module")
def processes() -> Iterator[ProcessPoolExecutor]:
    """Eight processes."""
    with crowd() as pool:
        yield pool


def counting_app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    def change(values: dict[str, Any]) -> int:
        values.setdefault("list", []).append(environ["QUERY_STRING"])
        return increment(values)

    body = str(get_session(environ).atomic(change)).encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


def count_up(number: int, address: Address, key: str) -> list[int]:
    app = SessionMiddleware(counting_app, address.open())
    cookie = f"{app.cookie.name}={key}"
    replies = [call(app, f"/?{number}.{i}", cookie=cookie, url="https://example.test") for i in range(EACH)]
    app.store.database.engine.dispose()
    return [int(reply.text) for reply in replies]


@pytest.mark.parametrize("place", COUNTED, ids=lambda place: place.id, indirect=True)
def test_no_increment_of_eight_processes_is_lost(place: Address, processes: ProcessPoolExecutor) -> None:
    """A counter that is read, raised and saved loses most of what parallel requests do to it."""
    store = SessionStore(place.url)
    key = store.create({})
    seen = all_at_once(processes, count_up, place, key)
    values = store.read(key) or {}
    tokens = [f"{number}.{i}" for number in range(SIZE) for i in range(EACH)]

    assert values["count"] == SIZE * EACH
    assert sorted(values["list"]) == sorted(tokens), "each of them once"
    assert sorted(number for numbers in seen for number in numbers) == list(range(1, SIZE * EACH + 1))
    for numbers in seen:
        assert numbers == sorted(numbers), "nobody sees the counter go back"


class Refusal(Exception):
    """What an application raises."""


def refuse(values: dict[str, Any]) -> None:
    values["list"].append("half done")
    values["deep"]["x"].clear()
    values["new"] = 1
    raise Refusal


def unstorable(values: dict[str, Any]) -> None:
    values["list"].append("half done")
    values["new"] = object()


def too_large(values: dict[str, Any]) -> None:
    values["list"].append("half done")
    values["new"] = "x" * 2000


@pytest.mark.parametrize(
    ("change", "error"), [(refuse, Refusal), (unstorable, UnstorableValue), (too_large, SessionTooLarge)]
)
@pytest.mark.parametrize("stored", [True, False], ids=["stored", "new"])
def test_a_change_that_fails_leaves_all_as_it_was(
    database: str, change: Callable[[dict[str, Any]], None], error: type[Exception], stored: bool
) -> None:
    """A change is made whole or not at all, in the table and in the request."""
    middleware = middleware_on(database, max_bytes=1000)
    key = middleware.store.create(VALUES) if stored else None
    visit = Visit(middleware, key)
    if not stored:
        visit.session.update({"count": 1, "list": ["a"], "deep": {"x": [1]}})
    with pytest.raises(error):
        visit.session.atomic(change)

    assert dict(visit.session) == VALUES
    assert middleware.store.count() == int(stored)
    visit.end()
    assert middleware.store.read(str(visit.cookie if key is None else key)) == VALUES


def test_local_changes_outlive_atomic_and_wait_for_the_save(database: str) -> None:
    """atomic works on what is stored; what the request has changed besides is stored when it ends."""
    middleware = middleware_on(database)
    key = middleware.store.create(VALUES)
    visit = Visit(middleware, key)
    visit.session["mine"] = 1
    inner = visit.session["deep"]
    inner["x"].append(2)

    assert visit.session.atomic(increment) == 2
    assert middleware.store.read(key) == {**VALUES, "count": 2}, "not stored yet"
    assert visit.session["count"] == 2
    inner["y"] = 3
    visit.end()
    assert middleware.store.read(key) == {"count": 2, "list": ["a"], "deep": {"x": [1, 2], "y": 3}, "mine": 1}


def test_an_expiry_that_another_request_has_set_outlives_atomic(database: str) -> None:
    """What atomic did not change is not its to store."""
    middleware = middleware_on(database)
    key = middleware.store.create(VALUES)
    visit = Visit(middleware, key)
    visit.load()
    other = Visit(middleware, key)
    other.session.set_expiry(60)
    other.end()
    visit.session["mine"] = 1
    visit.session.atomic(increment)
    visit.end()

    assert Visit(middleware, key).session.get_expiry_age() == 60


def test_atomic_alone_costs_one_read_and_one_write(database: str) -> None:
    """Who meets nobody pays nothing for those who do."""
    middleware = middleware_on(database)
    key = middleware.store.create(VALUES)
    visit = Visit(middleware, key)
    with statements(middleware.store.database.engine) as calls:
        visit.session.atomic(increment)
        visit.end()

    assert calls.verbs == ["SELECT", "UPDATE"]


def test_the_change_runs_again_when_another_request_came_between(database: str) -> None:
    """Each run begins with the newest stored values."""
    middleware = middleware_on(database)
    key = middleware.store.create({"count": 0})
    runs: list[int] = []

    def contended(values: dict[str, Any]) -> int:
        runs.append(values["count"])
        if len(runs) < 4:
            Visit(middleware, key).session.atomic(increment)
        return increment(values)

    visit = Visit(middleware, key)

    assert visit.session.atomic(contended) == 4
    assert runs == [0, 1, 2, 3]


def test_atomic_on_a_session_that_was_ended_changes_nothing(database: str) -> None:
    """Not even the change is run on values that are gone."""
    middleware = middleware_on(database)
    key = middleware.store.create(VALUES)
    visit = Visit(middleware, key)
    visit.load()

    def ended_meanwhile(values: dict[str, Any]) -> int:
        Visit(middleware, key).session.flush()
        return increment(values)

    with pytest.raises(SessionInterrupted) as caught:
        visit.session.atomic(ended_meanwhile)

    assert caught.value.ended
    assert middleware.store.count() == 0


@pytest.mark.parametrize("mode", ["before", "after"])
@pytest.mark.parametrize("disconnect", [False, True], ids=["error", "disconnect"])
def test_a_change_is_made_at_most_once(database: str, mode: Any, disconnect: bool) -> None:
    """Repeating what may have been done would count it twice: an answer that was lost is looked up."""
    middleware = middleware_on(database)
    for faults in every_call(lambda engine: driver_error(engine, "OperationalError"), mode=mode, disconnect=disconnect):
        key = middleware.store.create({"count": 0})
        visit = Visit(middleware, key)
        counted = None
        with faults.on(middleware.store.database.engine), suppress(SessionwareError):
            counted = visit.session.atomic(increment)
        stored = (middleware.store.read(key) or {})["count"]

        assert stored in (0, 1), faults
        assert counted in (None, stored), faults
        if disconnect:
            assert counted == 1, f"{faults}: one lost connection is made good"


def test_an_acknowledgement_lost_on_the_wire_is_not_counted_twice(any_server: str) -> None:
    """The server has done it, the answer never came: the revision in the row tells."""
    with ToxicProxy(any_server) as proxy:
        middleware = middleware_on(proxy.url)
        key = middleware.store.create({"count": 0})
        for number in range(1, 4):
            visit = Visit(middleware, key)
            visit.load()
            proxy.drop_reply(b"")

            assert visit.session.atomic(increment) == number
        assert proxy.losses == 3
        assert middleware.store.read(key) == {"count": 3}
        middleware.store.database.engine.dispose()


@pytest.mark.parametrize("locked", [False, True], ids=["freely", "under the lock"])
def test_a_change_that_was_given_up_for_lost_and_was_not_is_made_once(database: str, locked: bool) -> None:
    """It waited for a lock when its connection broke, and came to its end before it was tried again."""
    middleware = middleware_on(database)
    key = middleware.store.create({"count": 0})
    visit = Visit(middleware, key)
    visit.load()
    life = visit.session.life
    assert life is not None
    with belated_change(middleware.store.database.engine) as finished:
        counted = life._atomic_locked(increment) if locked else visit.session.atomic(increment)

    assert finished == ["UPDATE"]
    assert counted == 1
    assert middleware.store.read(key) == {"count": 1}


@pytest.mark.parametrize("locked", [False, True], ids=["freely", "under the lock"])
def test_a_rotation_that_was_given_up_for_lost_and_was_not_sends_its_key(
    database: str, locked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the session stands under a key that nobody has."""
    monkeypatch.setattr("sessionware.saving.FREE_ATTEMPTS", 0 if locked else 4)
    middleware = middleware_on(database)
    key = middleware.store.create({"count": 0})
    visit = Visit(middleware, key)
    visit.session.cycle_key()
    visit.session["count"] = 1
    with belated_change(middleware.store.database.engine) as finished:
        visit.end()

    assert finished == ["UPDATE", "INSERT"]
    assert visit.interrupted is None
    assert middleware.store.read(str(visit.cookie)) == {"count": 1}


@pytest.mark.parametrize("rotated", [False, True], ids=["extended", "rotated"])
def test_atomic_asks_the_row_and_not_what_was_loaded_whether_it_has_ended(sqlite: str, rotated: bool) -> None:
    """A long request beside others that keep the session alive: their new cookie must not be cleared."""
    clock = Clock()
    middleware = middleware_on(sqlite, idle_timeout=600, clock=clock)
    key = middleware.store.create({"count": 0})
    visit, other = Visit(middleware, key), Visit(middleware, key)
    visit.load()
    clock.advance(400)
    other.load()
    if rotated:
        other.session.cycle_key()
    other.end()
    clock.advance(300)
    if not rotated:
        assert visit.session.atomic(increment) == 1
        return
    with pytest.raises(SessionInterrupted) as caught:
        visit.session.atomic(increment)
    visit.interrupt(caught.value)

    assert not caught.value.ended
    assert visit.cookie is None


GOING = {
    "clear": lambda session: session.clear(),
    "login of another user": lambda session: session.login("bob"),
    "clear after a login": lambda session: (session.login("ann"), session.clear()),
}


@pytest.mark.parametrize("go", GOING.values(), ids=GOING)
def test_a_change_sees_nothing_of_what_is_to_go(database: str, go: Callable[[Session], object]) -> None:
    """Else one user's values are shown to the next (CVE-2014-0482), and the change is thrown away with them."""
    middleware = middleware_on(database)
    key = middleware.store.create({**VALUES, "secret": "ann's"}, "ann")
    seen: list[dict[str, Any]] = []

    def change(values: dict[str, Any]) -> None:
        seen.append(dict(values))
        increment(values)

    visit = Visit(middleware, key)
    go(visit.session)
    visit.session.atomic(change)
    visit.session["late"] = True
    stored = visit.end().cookie or key

    assert seen == [{}]
    assert middleware.store.read(stored) == {"count": 1, "late": True}
    assert middleware.store.count() == 1


def test_nothing_of_one_user_is_left_in_the_session_of_another(sqlite: str) -> None:
    """Not by a page that fails after its login either: what was stored is the new user's, under a new key."""
    middleware = middleware_on(sqlite)
    key = middleware.store.create(VALUES, "ann")
    visit = Visit(middleware, key)
    visit.session.login("bob")
    visit.session.atomic(increment)
    cookie = visit.end(status="500 Oops").cookie

    assert middleware.store.read(key) is None
    assert middleware.store.read(str(cookie)) == {"count": 1}
    assert middleware.store.sessions_of("ann") == []


@pytest.mark.parametrize("stored", [True, False], ids=["stored", "new"])
def test_a_session_that_has_ended_already_is_not_stored(sqlite: str, stored: bool) -> None:
    """An expiry in the past ends it, whichever way it was to be stored."""
    middleware = middleware_on(sqlite)
    visit = Visit(middleware, middleware.store.create(VALUES) if stored else None)
    visit.session.clear()
    visit.session.set_expiry(-1)
    visit.session.atomic(increment)

    assert not visit.end().cookie
    assert middleware.store.count() == 0


def test_a_conflict_with_what_was_stored_meanwhile_is_told(sqlite: str) -> None:
    """The later save wins, and an event says so, also where atomic was the first to meet the other one."""
    events: list[SessionEvent] = []
    middleware = middleware_on(sqlite, on_event=events.append)
    key = middleware.store.create({"name": "base"})
    visit = Visit(middleware, key)
    visit.session["name"] = "mine"
    other = Visit(middleware, key)
    other.session["name"] = "theirs"
    other.end()
    visit.session.atomic(increment)
    visit.end()

    assert middleware.store.read(key) == {"name": "mine", "count": 1}
    assert [event.reason for event in events if event.kind == "merged"] == ["1 key changed on both sides"]


def test_a_list_the_application_holds_stays_good(sqlite: str) -> None:
    """As dictionaries do: what is added to it after atomic is stored."""
    middleware = middleware_on(sqlite)
    key = middleware.store.create({"list": [1], "set": {1, 2}})
    visit = Visit(middleware, key)
    items, numbers = visit.session["list"], visit.session["set"]
    visit.session.atomic(lambda values: (values["list"].append(2), values["set"].symmetric_difference_update({2, 3})))
    items.append(3)
    numbers.add(4)
    visit.end()

    assert middleware.store.read(key) == {"list": [1, 2, 3], "set": {1, 3, 4}}


def test_a_change_that_changes_nothing_writes_nothing(database: str) -> None:
    """A page that looks for messages at each visit; what it looked at is the newest, and nothing but a question."""
    middleware = middleware_on(database)
    key = middleware.store.create(VALUES)
    reading, fresh = Visit(middleware, key), Visit(middleware, key)
    reading.load()
    with statements(middleware.store.database.engine) as calls:
        assert fresh.session.atomic(lambda values: values.get("messages")) is None
        fresh.end()
    assert calls.verbs == ["SELECT"]
    other = Visit(middleware, key)
    other.session["messages"] = ["hello"]
    other.end()
    with statements(middleware.store.database.engine) as calls:
        assert reading.session.atomic(lambda values: values.get("messages")) == ["hello"]
        reading.end()

    assert calls.verbs == ["SELECT"]
    assert reading.session["messages"] == ["hello"]
    assert (reading.session.outcome, reading.cookie) == (Outcome.READ, None)


def test_what_a_change_objects_to_is_looked_at_anew(database: str) -> None:
    """Seats that were sold out when the request began may have come back."""
    middleware = middleware_on(database)
    key = middleware.store.create({"seats": 0})
    visit, other = Visit(middleware, key), Visit(middleware, key)
    visit.load()
    other.session["seats"] = 5
    other.end()

    def take(values: dict[str, Any]) -> None:
        if values["seats"] == 0:
            raise LookupError("sold out")
        values["seats"] = 0

    visit.session.atomic(take)
    assert middleware.store.read(key) == {"seats": 0}
    with pytest.raises(LookupError):
        visit.session.atomic(take)


@pytest.mark.parametrize("rotate", [lambda s: s.login("ann"), lambda s: s.cycle_key()], ids=["login", "cycle_key"])
@pytest.mark.parametrize("status", ["200 OK", "500 Oops"])
def test_the_old_key_sees_nothing_of_a_change_after_a_rotation(
    database: str, rotate: Callable[[Session], None], status: str
) -> None:
    """Somebody may have planted it: what is stored after the login is the new session's, and so is the answer's key."""
    middleware = middleware_on(database)
    key = middleware.store.create({"count": 1})
    visit = Visit(middleware, key)
    rotate(visit.session)
    visit.session.atomic(increment)

    assert dict(Visit(middleware, key).session) == {}
    visit.end(status)
    assert visit.cookie not in (None, key)
    assert middleware.store.read(str(visit.cookie)) == {"count": 2}
    assert not middleware.store.exists(key)


@pytest.mark.parametrize("bad", ["in itself", "too deep", "no value"])
def test_atomic_stores_nothing_beside_what_cannot_be_stored(sqlite: str, bad: str) -> None:
    """Refused before the change is made: who tries again would make it twice."""
    middleware = middleware_on(sqlite)
    key = middleware.store.create({"count": 1})
    session = Visit(middleware, key).session
    deep: list[Any] = []
    if bad == "in itself":
        deep.append(deep)
    for _ in range(600 if bad == "too deep" else 0):
        deep = [deep]
    session["bad"] = object() if bad == "no value" else deep

    with pytest.raises(UnstorableValue):
        session.atomic(increment)
    assert middleware.store.read(key) == {"count": 1}


def test_what_atomic_returns_of_a_new_session_is_a_copy_as_of_any(sqlite: str) -> None:
    """Or a change of it would show in this request, and be stored by none."""
    middleware = middleware_on(sqlite)
    visit = Visit(middleware)
    cart = visit.session.atomic(lambda values: values.setdefault("cart", []))
    cart.append("apple")

    assert visit.session["cart"] == []
    assert middleware.store.read(str(visit.end().cookie)) == {"cart": []}


def test_atomic_without_a_change_begins_no_session_whatever_the_codec_makes_of_values(sqlite: str) -> None:
    """A zone without a name comes back as an offset; that is no change of the application."""
    middleware = middleware_on(sqlite)
    visit = Visit(middleware)
    visit.session["at"] = datetime(2026, 11, 27, 12, tzinfo=timezone(timedelta(hours=1), "CET"))
    visit.session.atomic(len)
    visit.end("500 Oops")

    middleware.store.create_table()
    assert middleware.store.count() == 0
