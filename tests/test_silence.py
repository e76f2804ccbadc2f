"""Nothing that goes wrong shows a session key, a value, or a driver's text, which may hold both."""

import logging
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from sessionware import SessionMiddleware, StoreUnavailable, keys
from sessionware.events import SessionEvent
from sessionware.store import SessionStore
from tests.support.clock import Clock
from tests.support.counting import statements
from tests.support.databases import dialect_of
from tests.support.wsgi import Browser, Reply

NAME = "__Host-sessionid"
SECRET = "my-secret-diagnosis"
FORBIDDEN = "forbidden"

# A rule that the table's owner may have added: drivers tell which row breaks it, with all its values.
# (The word is broken up because the log shows the rule as well.)
RULES = {
    "postgresql": ["ALTER TABLE sessionware_session ADD CHECK (data NOT LIKE '%forb' || 'idden%')"],
    "mariadb": ["ALTER TABLE sessionware_session ADD CHECK (data NOT LIKE CONCAT('%forb', 'idden%'))"],
    "sqlite": [
        f"CREATE TRIGGER no_{verb} BEFORE {verb} ON sessionware_session WHEN NEW.data LIKE '%forb' || 'idden%' "
        "BEGIN SELECT RAISE(ABORT, 'against the rule'); END"
        for verb in ("INSERT", "UPDATE")
    ],
}

Texts = list[str]


@pytest.fixture
def shown(caplog: pytest.LogCaptureFixture) -> Iterator[Texts]:
    """All that anybody gets to see: the log of everything at its finest, and what a test adds."""
    texts: Texts = []
    with caplog.at_level(logging.DEBUG), caplog.at_level(logging.DEBUG, "sqlalchemy"):
        yield texts
    formatter = logging.Formatter("%(name)s %(levelname)s %(message)s %(args)s")
    log = [formatter.format(record) + repr(record.__dict__.get("event")) for record in caplog.records]

    assert [line for line in (*texts, *log) if SECRET in line or FORBIDDEN in line] == []


@pytest.mark.parametrize("borrowed", [False, True], ids=["url", "echoing-engine"])
@pytest.mark.parametrize("path", ["/save", "/commit", "/cycle", "/atomic"])
def test_a_refused_row_is_not_shown(database: str, clock: Clock, shown: Texts, path: str, borrowed: bool) -> None:
    """A constraint of the table fails a save: 503, and not a word of what was to be saved."""
    events: list[SessionEvent] = []
    engine = create_engine(database, echo="debug", echo_pool="debug") if borrowed else database
    app = SessionMiddleware(_pages(shown), engine, clock=clock, purge_interval=None, on_event=events.append)
    browser = Browser(app, clock=clock)
    key = browser.get("/begin").cookies[NAME]
    _add_rules(app.store)
    for visitor in (browser, Browser(app, clock=clock)):
        _note(visitor.get(path), shown)
    shown.extend(map(repr, events))

    assert key not in "".join(shown)
    assert keys.digest(key).hex() not in "".join(shown)
    assert browser.get("/read").text == SECRET[::-1]


def test_an_error_of_the_store_has_no_history(database: str, clock: Clock, shown: Texts) -> None:
    """Neither cause nor context: error reporters follow both, and show the locals of every frame."""
    store = SessionStore(database, clock=clock)
    key = store.create({"x": SECRET})
    _add_rules(store)
    digest = keys.digest(key)
    seen = store.load(digest)
    assert seen is not None
    bad = seen._replace(data=f'{{"x":"{FORBIDDEN} {SECRET}"}}')
    for attempt in (
        lambda: store.create({"x": f"{FORBIDDEN} {SECRET}"}),
        lambda: store.update(digest, bad, seen.revision, int(clock())),
        lambda: store.rotate(digest, bytes(32), bad, seen.revision, int(clock())),
        lambda: store.modify(digest, lambda _: bad, int(clock())),
    ):
        with pytest.raises(StoreUnavailable) as caught:
            attempt()
        shown.append("".join(traceback.format_exception(caught.value)))

        assert _history(caught.value) == []
        assert key not in shown[-1]


def test_statements_never_carry_a_key(database: str, clock: Clock) -> None:
    """Neither SQL nor parameters of any request hold what is in the cookie."""
    app = SessionMiddleware(_pages([]), database, clock=clock, purge_interval=None)
    app.store.create_table()
    browser = Browser(app, clock=clock)
    seen: set[str] = set()
    with statements(app.store.database.engine) as calls:
        for path in ("/begin", "/read", "/commit", "/cycle", "/atomic", "/read", "/log_out"):
            seen |= {value for value in browser.get(path).cookies.values() if value}
    sent = repr(calls.sql) + repr(calls.parameters)

    assert len(seen) == 2
    assert [key for key in seen if key in sent] == []
    assert FORBIDDEN in sent  # the values do travel, as parameters
    assert FORBIDDEN not in repr(calls.sql)


def _pages(shown: Texts) -> Callable[..., list[bytes]]:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        session, path = environ["sessionware.session"], environ["PATH_INFO"]
        bad = f"{FORBIDDEN} {SECRET}"
        if path == "/begin":
            session["kept"] = SECRET[::-1]
        elif path == "/atomic":
            session.atomic(lambda values: values.update(text=bad))
        elif path == "/log_out":
            session.logout()
        elif path != "/read":
            session["text"] = bad
        if path == "/cycle":
            session.cycle_key()
        if path == "/save":
            _save(session, shown)
        start_response("200 OK", [])
        return [str(session.get("kept")).encode()]

    return app


def _save(session: Any, shown: Texts) -> None:
    try:
        session.save()
    except StoreUnavailable as error:
        shown.append("".join(traceback.format_exception(error)) + repr(session))
        assert _history(error) == []  # noqa: PT017  # it goes on to the middleware
        raise


def _history(error: BaseException) -> list[BaseException]:
    """Return every error that *error* remembers."""
    found = [other for other in (error.__cause__, error.__context__) if other is not None]
    return [*found, *(older for other in found for older in _history(other))]


def _note(reply: Reply, shown: Texts) -> None:
    assert reply.status == 503
    shown.append(reply.text + repr(reply.headers) + reply.errors)


def _add_rules(store: SessionStore) -> None:
    with store.database.engine.begin() as connection:
        for rule in RULES[dialect_of(str(store.database.engine.url))]:
            connection.execute(text(rule))
