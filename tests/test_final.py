"""Over means over: no verb of the store and no operation of a session undoes an ending."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Engine

from sessionware import SessionInterrupted, SessionMiddleware, SessionStore, keys
from sessionware.record import Record, new_revision
from sessionware.session import SENT
from tests.support.clock import Clock
from tests.support.counting import statements
from tests.support.visit import Visit

IDLE = 14 * 24 * 3600
SECRET = {"secret": "of ann"}

Ending = Callable[[SessionMiddleware, str], None]
Verb = Callable[[SessionStore, bytes, Record], object]


def middleware_on(database: str | Engine, clock: Clock | None = None) -> SessionMiddleware:
    return SessionMiddleware(lambda *_: [], database, clock=clock or Clock())


def flush(middleware: SessionMiddleware, key: str) -> None:
    visit = Visit(middleware, key)
    visit.session.flush()
    visit.end()


def revoke(middleware: SessionMiddleware, key: str) -> None:
    middleware.store.revoke(keys.handle(keys.digest(key)))


def revoke_user(middleware: SessionMiddleware, key: str) -> None:
    middleware.store.revoke_user("ann")


def revoke_all(middleware: SessionMiddleware, key: str) -> None:
    middleware.store.revoke_all()


def expiry(middleware: SessionMiddleware, key: str) -> None:
    clock: Any = middleware.store.clock
    clock.advance(IDLE)


def expiry_and_purge(middleware: SessionMiddleware, key: str) -> None:
    expiry(middleware, key)
    middleware.store.purge()


def rotation(middleware: SessionMiddleware, key: str) -> None:
    visit = Visit(middleware, key)
    visit.session.cycle_key()
    visit.end()


ENDINGS = [flush, revoke, revoke_user, revoke_all, expiry, expiry_and_purge, rotation]


def now(store: SessionStore) -> int:
    return int(store.clock())


def changed(store: SessionStore, record: Record) -> Record:
    return record._replace(data='{"secret": "back"}', revision=new_revision(), expires_at=now(store) + IDLE)


# What each verb does at its worst, given the record as it was loaded before the end.
WRITERS: dict[str, Verb] = {
    "update": lambda store, digest, record: store.update(digest, changed(store, record), record.revision, now(store)),
    "rotate": lambda store, digest, record: store.rotate(
        digest, keys.digest(keys.new_key()), changed(store, record), record.revision, now(store)
    ),
    "modify": lambda store, digest, record: (
        store.modify(digest, lambda found: changed(store, record), now(store)),
        store.modify(digest, lambda found: changed(store, record), now(store), keys.digest(keys.new_key())),
    ),
    "touch": lambda store, digest, record: store.touch(
        digest, record._replace(expires_at=now(store) + IDLE), now(store)
    ),
    "touch_unseen": lambda store, digest, record: store.touch_unseen(digest, store.lifetime, now(store)),
    "delete": lambda store, digest, record: store.delete(digest),
    "delete_any": lambda store, digest, record: store.delete_any([digest]),
    "revoke": lambda store, digest, record: store.revoke(keys.handle(digest)),
    "revoke_user": lambda store, digest, record: store.revoke_user("ann", keep=keys.handle(digest)),
    "revoke_all": lambda store, digest, record: store.revoke_all(),
    "purge": lambda store, digest, record: store.purge(),
    "purge_some": lambda store, digest, record: store.purge_some(10),
    "create_table": lambda store, digest, record: store.create_table(),
}
READERS: dict[str, Verb] = {
    "load": lambda store, digest, record: store.load(digest),
    "load_any": lambda store, digest, record: store.load_any([digest]),
    "any_moved": lambda store, digest, record: store.any_moved([digest], now(store)),
    "revoked_since": lambda store, digest, record: store.revoked_since("ann", 0.0, []),
    "exists": lambda store, digest, record: store.exists("x" * 43),
    "read": lambda store, digest, record: store.read("x" * 43),
    "sessions_of": lambda store, digest, record: store.sessions_of("ann"),
    "count_expired": lambda store, digest, record: store.count_expired(),
    "count": lambda store, digest, record: store.count(),
}

# Verbs that make a row: a session may only ever give them a key that is new, see below.
MAKERS = {"insert", "insert_new", "create"}


def verbs_of_the_store() -> set[str]:
    members = inspect.getmembers(SessionStore, callable)
    return {name for name, _ in members if not name.startswith("_")}


def test_every_verb_of_the_store_is_tested_here() -> None:
    """A verb that is added to the store must not be able to escape these tests."""
    assert verbs_of_the_store() == set(WRITERS) | set(READERS) | MAKERS


@pytest.mark.parametrize("verb", READERS)
def test_a_verb_that_is_said_to_read_does_only_that(sqlite: str, verb: str) -> None:
    """Else it would belong among those that are tried against every ending."""
    store = middleware_on(sqlite).store
    digest = keys.digest(store.create(SECRET, "ann"))
    record = store.load(digest)
    assert record is not None
    with statements(store.database.engine) as calls:
        READERS[verb](store, digest, record)

    assert set(calls.verbs) == {"SELECT"}


@pytest.mark.parametrize("verb", WRITERS)
def test_no_verb_brings_an_ended_session_back(database: str, verb: str) -> None:
    """The condition "live" stands in every statement, so that no caller can forget it."""
    middleware = middleware_on(database)
    store = middleware.store
    for ending in ENDINGS:
        key = store.create(SECRET, "ann")
        digest = keys.digest(key)
        record = store.load(digest)
        assert record is not None
        ending(middleware, key)
        before = rows(store)
        WRITERS[verb](store, digest, record)

        found = store.load(digest)
        assert found is None or not found.is_live(now(store)), ending.__name__
        assert not store.exists(key), ending.__name__
        after = rows(store)
        if verb not in ("revoke", "revoke_user", "revoke_all", "purge", "purge_some", "delete", "delete_any"):
            assert after == before, f"{verb} changed something after {ending.__name__}"
        assert [row for row in after if row["data"] is not None and row not in before] == [], ending.__name__
        store.revoke_all()


def rows(store: SessionStore) -> list[dict[str, Any]]:
    with store.database.engine.connect() as connection:
        found = connection.execute(store.table.select().order_by(store.table.c.digest)).mappings().all()
    return [dict(row) for row in found]


def plain_save(visit: Visit) -> None:
    visit.session["late"] = True


def change_inside(visit: Visit) -> None:
    visit.session.setdefault("secret", "")
    visit.session.modified = True


def saved_at_once(visit: Visit) -> None:
    visit.session["late"] = True
    visit.session.save()


def atomically(visit: Visit) -> None:
    visit.session.atomic(lambda values: values.update(late=True))


def rotated(visit: Visit) -> None:
    visit.session.cycle_key()


def logged_in_again(visit: Visit) -> None:
    visit.session.login("ann")


def other_expiry(visit: Visit) -> None:
    visit.session.set_expiry(3600)


def cleared(visit: Visit) -> None:
    visit.session.clear()


def flushed(visit: Visit) -> None:
    visit.session.flush()


def read_only(visit: Visit) -> None:
    visit.load()


def late_close(visit: Visit) -> None:
    visit.end()
    visit.session.stage = SENT
    visit.session["late"] = True
    visit.session.commit_late()


def retried(visit: Visit) -> None:
    visit.session["late"] = True
    with pytest.raises(SessionInterrupted):
        visit.session.save()
    visit.end()


OPERATIONS = [
    plain_save,
    change_inside,
    saved_at_once,
    atomically,
    rotated,
    logged_in_again,
    other_expiry,
    cleared,
    flushed,
    read_only,
    late_close,
    retried,
]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_no_late_operation_brings_the_session_or_its_cookie_back(
    database: str, operation: Callable[[Visit], None]
) -> None:
    """A request that was already running may do what it likes: it has lost."""
    for ending, visit, key, clock in ended_under_a_request(database):
        store = visit.middleware.store
        with statements(store.database.engine) as calls:
            try:
                operation(visit)
                visit.end()
            except SessionInterrupted as error:
                visit.interrupt(error)

        assert not store.exists(key), ending
        assert store.count() == (1 if ending == "rotation" else 0), ending
        assert visit.cookie in (("", None) if ending != "rotation" else (None,)), ending
        made = [row for sql, row in zip(calls.sql, calls.parameters, strict=True) if sql.startswith("INSERT")]
        assert made == [], f"{ending}: a row was made"
        clock.advance(60)
        again = Visit(visit.middleware, key)
        assert dict(again.session) == {}, ending
        store.revoke_all()


def ended_under_a_request(database: str) -> Iterator[tuple[str, Visit, str, Clock]]:
    """Yield a request that has loaded its session, with a day gone by and the session ended since."""
    clock = Clock()
    middleware = middleware_on(database, clock)
    for ending in ENDINGS:
        key = middleware.store.create(SECRET, "ann")
        visit = Visit(middleware, key)
        visit.load()
        clock.advance(24 * 3600)
        ending(middleware, key)
        yield ending.__name__, visit, key, clock


def test_a_request_that_extends_unused_sessions_revives_none(database: str) -> None:
    """With save_every_request every request writes, also those that come after the end."""
    clock = Clock()
    middleware = SessionMiddleware(lambda *_: [], database, clock=clock, save_every_request=True)
    for ending in ENDINGS:
        key = middleware.store.create(SECRET, "ann")
        clock.advance(24 * 3600)
        ending(middleware, key)
        visit = Visit(middleware, key).end()

        assert visit.cookie is None, ending.__name__
        assert not middleware.store.exists(key), ending.__name__
        assert middleware.store.count() == (1 if ending is rotation else 0), ending.__name__
        middleware.store.revoke_all()
