"""Logins and rotations beside a revocation, in every order of their statements."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import Engine

from sessionware import Session, SessionMiddleware, SessionStore, StoreUnavailable, keys
from sessionware.record import TOMBSTONE_SECONDS
from tests.support.clock import Clock
from tests.support.counting import statements
from tests.support.driver import Call, Proceed, watching
from tests.support.faults import driver_error
from tests.support.isolation import PLACES, Address
from tests.support.stepping import Actor, play
from tests.support.visit import Visit, merges

# The INSERT of a first login counts; that of a tombstone, between UPDATE and COMMIT, shows nobody anything.
STOPS = ("UPDATE", "COMMIT", "SELECT")
REVOCATION_STOPS = ("UPDATE", "DELETE")

Revocation = Callable[[SessionStore], object]


def revoke_user(store: SessionStore) -> object:
    return store.revoke_user("ann")


def revoke_all(store: SessionStore) -> object:
    return store.revoke_all()


class Digests:
    """Decides whether new keys have a high or a low digest."""

    def __init__(self) -> None:
        self.high = True
        self._new_key = keys.new_key

    def new_key(self) -> str:
        return next(key for key in iter(self._new_key, "") if (keys.digest(key)[0] > 127) is self.high)


@pytest.fixture
def digests(monkeypatch: pytest.MonkeyPatch) -> Digests:
    """The digests of new keys, at the test's command."""
    made = Digests()
    monkeypatch.setattr(keys, "new_key", made.new_key)
    return made


def first_login(middleware: SessionMiddleware) -> Visit:
    visit = Visit(middleware)
    visit.session.login("ann")
    return visit


def login_of_a_visitor(middleware: SessionMiddleware) -> Visit:
    visit = Visit(middleware, middleware.store.create({"cart": [1]}))
    visit.session.login("ann")
    return visit


@dataclass
class Race:
    """A request and a revocation, each on connections of its own."""

    ours: SessionMiddleware
    theirs: SessionMiddleware
    revocation: Revocation

    def run_in_every_order(self, new_work: Callable[[], Callable[[], Visit]], stops: Sequence[str] = STOPS) -> None:
        """Play work and revocation in all orders of their statements; none may leave ann a session."""
        self.revocation(self.theirs.store)  # the first one takes a statement more
        actors = [Actor(self._engine(self.ours), new_work(), stops), self._revocation()]
        for actor in actors:
            play([], {"alone": actor})
        for order in merges(*(name * len(actor.stopped_at) for name, actor in zip("LR", actors, strict=True))):
            actors = [Actor(self._engine(self.ours), new_work(), stops), self._revocation()]
            play(order, dict(zip("LR", actors, strict=True)))
            for actor in actors:
                if isinstance(actor.result, Exception):
                    raise actor.result

            told = f"order {''.join(order)}, cookie {actors[0].result.cookie!r}"
            assert self.theirs.store.sessions_of("ann") == [], told
            assert_anonymous(self.ours, actors[0].result)

    def _revocation(self) -> Actor:
        return Actor(self._engine(self.theirs), lambda: self.revocation(self.theirs.store), REVOCATION_STOPS)

    def _engine(self, middleware: SessionMiddleware) -> Engine:
        return middleware.store.database.engine


@pytest.fixture(params=[revoke_user, revoke_all])
def race(place: Address, request: pytest.FixtureRequest) -> Race:
    """A race of a request with each kind of revocation."""
    made = [SessionMiddleware(lambda *_: [], place.open(), purge_interval=None) for _ in range(2)]
    made[0].store.create_table()
    return Race(made[0], made[1], request.param)


# At READ COMMITTED, PostgreSQL's default, a DELETE may miss rows; at the others it may fail and be repeated.
SOME_PLACES = [
    place
    for place in PLACES
    if place.level is None or place.id in ("mariadb-read-committed", "postgresql-serializable")
]
everywhere = pytest.mark.parametrize("place", SOME_PLACES, ids=lambda place: place.id, indirect=True)


@everywhere
def test_no_first_login_that_began_before_a_revocation_survives_it(race: Race) -> None:
    """The row of such a login is stored when the DELETE has perhaps gone by."""
    race.run_in_every_order(lambda: first_login(race.ours).end, ("INSERT", "SELECT"))


@everywhere
def test_no_login_that_began_before_a_revocation_survives_it(race: Race) -> None:
    """Before it a visitor's row is nobody's: the DELETE does not wait for it."""
    race.run_in_every_order(lambda: login_of_a_visitor(race.ours).end)


@everywhere
def test_no_session_escapes_a_revocation_by_a_rotation(race: Race, digests: Digests) -> None:
    """Whoever was logged in when the revocation began is out, also if the rotation began after it."""

    def new_work() -> Callable[[], Visit]:
        digests.high = True
        key = race.ours.store.create({"cart": [1]}, "ann")
        digests.high = False
        return lambda: rotated(race.ours, key)

    race.run_in_every_order(new_work)


@everywhere
def test_no_session_escapes_the_revocation_of_its_handle_by_a_rotation(place: Address) -> None:
    """Who logs one device out names it as it was listed; it may have another key, and so another handle, by then."""
    ours, theirs = (SessionMiddleware(lambda *_: [], place.open(), purge_interval=None) for _ in range(2))
    keys_made = [ours.store.create({})]

    def revoke_the_last(store: SessionStore) -> object:
        return store.revoke(keys.handle(keys.digest(keys_made[-1])))

    def new_work() -> Callable[[], Visit]:
        keys_made.append(ours.store.create({"cart": [1]}, "ann"))
        return lambda: rotated(ours, keys_made[-1])

    Race(ours, theirs, revoke_the_last).run_in_every_order(new_work)


def test_the_revocation_of_a_handle_follows_its_session(sqlite: str) -> None:
    """Through several rotations, and tells whether it ended one."""
    middleware = SessionMiddleware(lambda *_: [], sqlite)
    first = key = middleware.store.create({"cart": [1]}, "ann")
    for _ in range(3):
        key = str(rotated(middleware, key).cookie)

    assert middleware.store.revoke(keys.handle(keys.digest(first))) is True
    assert not middleware.store.exists(key)
    assert middleware.store.revoke(keys.handle(keys.digest(first))) is False


def test_no_session_slips_past_a_delete_that_waits(mariadb: str, digests: Digests) -> None:
    """A DELETE does not look back, and at READ COMMITTED nothing keeps a row from moving behind it."""
    address = Address(mariadb, "READ COMMITTED")
    ours, theirs = (SessionMiddleware(lambda *_: [], address.open(), purge_interval=None) for _ in range(2))
    gate, key = sorted((ours.store.create({}, "ann") for _ in range(2)), key=keys.digest)
    theirs.store.count()
    digests.high = False
    table = ours.store.table
    revocation = Actor(theirs.store.database.engine, lambda: theirs.store.revoke_user("ann"), ["DELETE"])
    with ours.store.database.engine.begin() as connection, watching(revocation.engine, revocation.around):
        connection.execute(table.select().where(table.c.digest == keys.digest(gate)).with_for_update())
        revocation.start()
        revocation.step()
        waits = not revocation.done
        visit = rotated(ours, key)
        connection.rollback()
        revocation.join()

    assert (waits, revocation.result) == (True, 1), "the DELETE met only the row that it had waited for"
    assert theirs.store.sessions_of("ann") == []
    assert_anonymous(ours, visit)


def rotated(middleware: SessionMiddleware, key: str) -> Visit:
    visit = Visit(middleware, key)
    visit.session.cycle_key()
    return visit.end()


def assert_anonymous(middleware: SessionMiddleware, visit: Visit) -> None:
    if visit.cookie:
        again = Visit(middleware, visit.cookie)
        assert (dict(again.session), again.session.user_id) == ({}, None)


def test_a_revocation_in_the_same_request_spares_the_login_after_it(place: Address) -> None:
    """Changing a password ends all sessions and begins one."""
    middleware = SessionMiddleware(lambda *_: [], place.open())
    old = middleware.store.create({}, "ann")
    for key in (None, old, middleware.store.create({"cart": [1]})):
        visit = Visit(middleware, key)
        visit.load()
        middleware.store.revoke_user("ann")
        visit.session.flush()
        visit.session.login("ann")
        visit.end()

        assert Visit(middleware, visit.cookie).session.user_id == "ann"
        assert middleware.store.exists(str(visit.cookie))
        assert not middleware.store.exists(old)
        assert len(middleware.store.sessions_of("ann")) == 1


def by_handle(visit: Visit) -> str | None:
    return visit.session.handle


def by_key(visit: Visit) -> str | None:
    return visit.session.session_key


@pytest.mark.parametrize("keep", [by_handle, by_key])
@pytest.mark.parametrize("revoked_first", [True, False], ids=["revoke-first", "login-first"])
def test_a_login_can_keep_its_own_session(
    place: Address, keep: Callable[[Visit], str | None], revoked_first: bool
) -> None:
    """To log in and to log out everywhere else belongs into one request, in whatever order."""
    middleware = SessionMiddleware(lambda *_: [], place.open())
    others = [middleware.store.create({}, "ann") for _ in range(3)]
    visit = Visit(middleware, middleware.store.create({"cart": [1]}))
    visit.load()
    if not revoked_first:
        visit.session.login("ann")
    middleware.store.revoke_user("ann", keep=keep(visit))
    if revoked_first:
        visit.session.login("ann")

    assert_kept(visit.end(), others)


@pytest.mark.parametrize(
    "rotate", [Session.cycle_key, lambda session: session.login("ann")], ids=["cycle_key", "login"]
)
def test_the_current_session_can_be_kept_while_it_is_rotated(place: Address, rotate: Callable[[Session], None]) -> None:
    """A new password means a new key, and the end of the user's other sessions."""
    middleware = SessionMiddleware(lambda *_: [], place.open())
    others = [middleware.store.create({}, "ann") for _ in range(3)]
    visit = Visit(middleware, middleware.store.create({"cart": [1]}, "ann"))
    rotate(visit.session)
    middleware.store.revoke_user("ann", keep=visit.session.handle)

    assert_kept(visit.end(), others)


def test_a_first_login_can_keep_itself(sqlite: str) -> None:
    """A visitor without a session logs in and has all other devices logged out: not this one."""
    middleware = SessionMiddleware(lambda *_: [], sqlite)
    others = [middleware.store.create({}, "ann") for _ in range(2)]
    visit = Visit(middleware, None)
    visit.session.login("ann")
    visit.session["cart"] = [1]
    middleware.store.revoke_user("ann", keep=visit.session.handle)

    assert_kept(visit.end(), others)


def assert_kept(visit: Visit, others: list[str]) -> None:
    store = visit.middleware.store

    assert visit.interrupted is None
    assert dict(Visit(visit.middleware, visit.cookie).session) == {"cart": [1]}
    assert len(store.sessions_of("ann")) == 1
    assert not any(map(store.exists, others))


def _at(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Have revocations and logins take place at this moment."""
    monkeypatch.setattr("sessionware.store.time.time", lambda: 1_800_000_000.0 + seconds)


def _login_at(middleware: SessionMiddleware, monkeypatch: pytest.MonkeyPatch, seconds: float) -> Visit:
    _at(monkeypatch, seconds)
    visit = Visit(middleware)
    visit.session.login("ann")
    visit.session["a"] = 1
    return visit


KEEPING = {"all": None, "all but one": "0" * 32, "all but another": "1" * 32, "all but the login": "login"}


@pytest.mark.parametrize("first", KEEPING)
@pytest.mark.parametrize("second", KEEPING)
@pytest.mark.parametrize("began", [0, 15], ids=["before both", "between"])
@pytest.mark.parametrize("order", ["in order", "the later one first"])
def test_a_login_meets_each_revocation_that_began_after_it(
    sqlite: str, first: str, second: str, began: int, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever another one kept or ended since, and in whatever order two come to leave their marks."""
    middleware = SessionMiddleware(lambda *_: [], sqlite)
    visit = _login_at(middleware, monkeypatch, began)
    handles = {name: visit.session.handle if handle == "login" else handle for name, handle in KEEPING.items()}
    revocations = [(10, first), (20, second)]
    for seconds, name in revocations if order == "in order" else revocations[::-1]:
        _at(monkeypatch, seconds)
        middleware.store.revoke_user("ann", keep=handles[name])
    visit.end()
    kept = second == "all but the login" and (began > 10 or first == second)
    later = _login_at(middleware, monkeypatch, 30).end()

    assert (visit.interrupted is None) is kept
    assert later.interrupted is None
    assert len(middleware.store.sessions_of("ann")) == 1 + kept


def test_overlapping_revocations_leave_the_sessions_after_them_alone(
    any_engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is complete once, also where the mark of one became part of another's."""
    middleware = SessionMiddleware(lambda *_: [], any_engine)
    store, other = middleware.store, SessionStore(any_engine)
    delete = store._delete_user

    def overlapped(user: str, kept: str | None) -> int:
        other.revoke_user(user, keep="1" * 32)
        return delete(user, kept)

    monkeypatch.setattr(store, "_delete_user", overlapped)
    store.revoke_user("ann", keep="0" * 32)
    visit = Visit(middleware)
    visit.session.login("ann")
    cookie = visit.end().cookie

    assert cookie
    assert rotated(middleware, cookie).interrupted is None


def test_the_current_session_can_be_kept_while_another_request_rotates_it(
    any_engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is followed to where it is when the others go."""
    middleware = SessionMiddleware(lambda *_: [], any_engine)
    store = middleware.store
    key = store.create({}, "ann")
    rotating, here = Visit(middleware, key), Visit(middleware, key)
    rotating.session.cycle_key()
    delete = store._delete_user
    monkeypatch.setattr(store, "_delete_user", lambda *words: (rotating.end(), delete(*words))[1])

    assert store.revoke_user("ann", keep=here.session.handle) == 0
    assert store.exists(str(rotating.cookie))


def test_a_mark_from_the_future_locks_nobody_out_for_long(sqlite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that was an hour ahead and is put right: users log in, and revocations end what they should."""
    middleware = SessionMiddleware(lambda *_: [], sqlite)
    _at(monkeypatch, 3600)
    middleware.store.revoke_user("ann")
    middleware.store.revoke_all()
    assert _login_at(middleware, monkeypatch, 0).end().interrupted is None
    visit = _login_at(middleware, monkeypatch, 10)
    middleware.store.revoke_user("ann")

    assert visit.end().interrupted is not None
    assert middleware.store.count() == 0
    assert _login_at(middleware, monkeypatch, 20).end().interrupted is None


def test_a_mark_from_the_future_does_not_change_whom_a_revocation_keeps(
    sqlite: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What nobody may rely on is nothing to be merged with."""
    middleware = SessionMiddleware(lambda *_: [], sqlite)
    _at(monkeypatch, 3600)
    middleware.store.revoke_user("ann", keep="0" * 32)
    kept, other = (_login_at(middleware, monkeypatch, 0) for _ in range(2))
    _at(monkeypatch, 10)
    middleware.store.revoke_user("ann", keep=kept.session.handle)

    assert kept.end().interrupted is None
    assert other.end().interrupted is not None


def test_no_session_slips_past_a_revocation_of_all_that_takes_long(
    sqlite: str, clock: Clock, digests: Digests, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its mark must not be over before it is."""
    monkeypatch.setattr("sessionware.store._PAGE", 1)
    middleware = SessionMiddleware(lambda *_: [], sqlite, clock=clock)
    visit = Visit(middleware, middleware.store.create({}))
    digests.high = False
    others = [middleware.store.create({}) for _ in range(3)]
    delete, pages = middleware.store.delete_any, itertools.count(1)

    def slow(page: Sequence[bytes]) -> int:
        deleted = delete(page)
        clock.advance(0.6 * TOMBSTONE_SECONDS)
        if next(pages) == 2:
            visit.session.cycle_key()
            visit.end()
        return deleted

    monkeypatch.setattr(middleware.store, "delete_any", slow)
    middleware.store.revoke_all()

    assert visit.interrupted is not None
    assert not any(map(middleware.store.exists, others))
    assert middleware.store.count() == 0


def _failing(middleware: SessionMiddleware) -> Any:
    """Have the question for marks fail."""
    engine = middleware.store.database.engine

    def fail(call: Call, proceed: Proceed) -> Any:
        if call.sql.startswith("SELECT revision, expiry"):
            raise driver_error(engine, "OperationalError")
        return proceed()

    return watching(engine, fail)


def test_a_login_asks_for_its_admission_once(sqlite: str) -> None:
    """However often the request saves after it."""
    middleware = SessionMiddleware(lambda *_: [], sqlite)
    middleware.store.create_table()
    visit = Visit(middleware)
    visit.session.login("ann")
    with statements(middleware.store.database.engine) as calls:
        visit.session.save()
        visit.session["a"] = 1
        visit.end()

    assert calls.verbs == ["INSERT", "SELECT", "UPDATE"]


@pytest.mark.parametrize("revoked", [False, True], ids=["admitted", "revoked"])
@pytest.mark.parametrize("known", [False, True], ids=["first login", "of a visitor"])
def test_a_login_whose_admission_could_not_be_asked_is_asked_again(sqlite: str, revoked: bool, known: bool) -> None:
    """The application tries again, or goes on: the key is sent once it is known to be good, and only then."""
    middleware = SessionMiddleware(lambda *_: [], sqlite)
    visit = Visit(middleware, middleware.store.create({"cart": 1}) if known else None)
    visit.session.login("ann")
    if revoked:
        middleware.store.revoke_user("ann")
    with _failing(middleware), pytest.raises(StoreUnavailable):
        visit.session.save()
    visit.session["late"] = 1
    visit.end()

    assert (visit.interrupted is not None) is revoked
    assert bool(visit.cookie) is not revoked
    assert len(middleware.store.sessions_of("ann")) == (not revoked)
