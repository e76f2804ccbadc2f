"""Changes made while the body is sent: the headers have left, but nothing is forgotten (W20, W21)."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sessionware import ResponseStarted, Session, SessionMiddleware, SessionStore, StoreUnavailable, UnstorableValue
from sessionware.session import ALONE
from tests.support.apps import KEY, PLAIN, ValidatedSite, answering
from tests.support.counting import statements
from tests.support.rows import all_rows
from tests.support.visit import Visit
from tests.support.wsgi import call, make_environ


class Slotted:
    """An iterable that cannot be referenced weakly."""

    __slots__ = ("action",)

    def __init__(self, action: Callable[[], object]) -> None:
        self.action = action

    def __iter__(self) -> Iterator[bytes]:
        self.action()
        return iter([b"end"])


def write(session: Session) -> None:
    session["a"] = 1


CHANGES = [
    pytest.param(lambda session: session.update(a=2), id="set"),
    pytest.param(lambda session: session.pop("a"), id="delete"),
    pytest.param(lambda session: session["items"].append(2), id="nested"),
    pytest.param(lambda session: next(iter(session.values())) and session.get("items").append(2), id="nested by view"),
    pytest.param(lambda session: session.set_expiry(60), id="expiry"),
    pytest.param(lambda session: session.clear(), id="clear"),
]


@pytest.mark.parametrize("read_before", [False, True], ids=["untouched before", "read before"])
@pytest.mark.parametrize("how", ["generator", "map", "slots"])
@pytest.mark.parametrize("change", CHANGES)
def test_changes_while_the_body_is_sent_are_stored(sqlite: str, change: Any, how: str, read_before: bool) -> None:
    """W21: no cookie is needed for a session that exists; whatever kind of iterable it is."""

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        session = environ[KEY]
        if environ["PATH_INFO"] == "/first":
            return answering(lambda: [b""], lambda session: session.update(a=1, items=[1]))(environ, start_response)
        if read_before:
            session.get("a")
        start_response("200 OK", list(PLAIN))

        def stream() -> Iterator[bytes]:
            yield b"a"
            change(session)
            yield b"b"

        if how == "map":
            return map(lambda late: b"b" if late and [change(session)] else b"a", [False, True])  # noqa: C417
        return stream() if how == "generator" else Slotted(lambda: change(session))

    site = ValidatedSite(sqlite, app, bare=True)
    site.browser.get("/first")
    (cookie,) = site.browser.jar.stored.values()
    expected: dict[str, Any] = {"a": 1, "items": [1]}
    if change is not CHANGES[4].values[0]:
        change(expected)
    call(site.middleware, cookie=f"{cookie.name}={cookie.value}")

    assert site.store.read(cookie.value) == expected
    if expected == {"a": 1, "items": [1]}:
        site.clock.advance(61)
        assert not site.store.exists(cookie.value)


@pytest.mark.parametrize("start_early", [False, True], ids=["late", "early"])
@pytest.mark.parametrize(
    "hold",
    [
        pytest.param(lambda session: session["items"], id="read"),
        pytest.param(lambda session: session.setdefault("new", []), id="setdefault"),
        pytest.param(lambda session: [session.update(new=(held := [])), held][1], id="update"),
        pytest.param(lambda session: [session.__setitem__("new", held := []), held][1], id="set"),
        pytest.param(lambda session: dict(session.items())["items"], id="view"),
    ],
)
@pytest.mark.parametrize("before", [False, True], ids=["held while sending", "held before the headers"])
@pytest.mark.parametrize("extra", [{}, {"b": 1}], ids=["alone", "with another"])
def test_changes_through_a_reference_are_stored(
    sqlite: str, hold: Any, before: bool, start_early: bool, extra: dict[str, int]
) -> None:
    """W21: a list that was handed out, or put in, before a save can still change after it."""

    def streaming(environ: dict[str, Any], start_response: Any, held: Any) -> Iterator[bytes]:
        if not start_early:
            start_response("200 OK", list(PLAIN))
        yield b"a"
        held = hold(environ[KEY]) if held is None else held
        for name, value in extra.items():
            environ[KEY][name] = value
        yield b"b"
        held.append(2)

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        if environ["PATH_INFO"] == "/first":
            return answering(lambda: [b""], lambda session: session.update(a=1, items=[1]))(environ, start_response)
        held = hold(environ[KEY]) if before else None
        if start_early:
            start_response("200 OK", list(PLAIN))
        return streaming(environ, start_response, held)

    site = ValidatedSite(sqlite, app, bare=True)
    site.browser.get("/first")
    (cookie,) = site.browser.jar.stored.values()
    expected: Any = {"a": 1, "items": [1], **extra}
    hold(expected).append(2)
    site.browser.get("/")

    assert site.store.read(cookie.value) == expected


def test_reading_while_the_body_is_sent_writes_nothing(sqlite: str) -> None:
    """W21: a mutable value that was looked at is compared, and found unchanged."""

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        session = environ[KEY]
        if environ["PATH_INFO"] == "/first":
            session["items"] = [1]
        start_response("200 OK", list(PLAIN))
        return (str(session.get("items")).encode() for _ in range(3))

    site = ValidatedSite(sqlite, app, bare=True)
    site.browser.get("/first")
    with statements(site.store.database.engine) as calls:
        site.browser.get("/")

    assert calls.verbs == ["SELECT"]


def test_a_stream_extends_its_session_once(sqlite: str) -> None:
    """At the headers, where the cookie is sent, and not again at the end of an hour of streaming."""

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        environ[KEY].setdefault("items", [1])
        start_response("200 OK", list(PLAIN))
        yield b"a"
        site.clock.advance(3600)
        assert environ[KEY]["items"] == [1]
        yield b"b"

    site = ValidatedSite(sqlite, app, bare=True, save_every_request=True, purge_interval=None)
    site.browser.get("/")
    site.clock.advance(60)
    with statements(site.store.database.engine) as calls:
        site.browser.get("/")

    assert calls.verbs == ["SELECT", "UPDATE"]


@pytest.mark.parametrize("read_before", [False, True], ids=["untouched before", "read before"])
@pytest.mark.parametrize("status", ["200 OK", "500 Internal Server Error"])
def test_a_body_that_fails_stores_no_late_change(sqlite: str, status: str, read_before: bool) -> None:
    """S6: neither one that raises nor one that was announced as an error."""

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        session = environ[KEY]
        if environ["PATH_INFO"] == "/first":
            return answering(lambda: [b""], write)(environ, start_response)
        if read_before:
            session.get("a")
        start_response(status, list(PLAIN))

        def stream() -> Iterator[bytes]:
            yield b"a"
            if read_before or status.startswith("5"):
                session["a"] = 2
            if status.startswith("2"):
                raise LookupError("broken")

        return stream()

    site = ValidatedSite(sqlite, app, bare=True)
    site.browser.get("/first")
    (cookie,) = site.browser.jar.stored.values()
    try:
        site.browser.get("/")
    except LookupError:
        assert status == "200 OK"

    assert site.store.read(cookie.value) == {"a": 1}


def test_a_client_that_goes_away_loses_nothing(sqlite: str) -> None:
    """W20: what was changed until then is stored, whether before the headers or after."""

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        session = environ[KEY]
        session["before"] = 1
        start_response("200 OK", list(PLAIN))
        session["between"] = 2
        yield b"a"
        session["after"] = 3
        yield b"b"
        session["never"] = 4

    site = ValidatedSite(sqlite, app, bare=True)
    site.browser.get(stop_after=2)
    (cookie,) = site.browser.jar.stored.values()

    assert site.store.read(cookie.value) == {"before": 1, "between": 2, "after": 3}


def test_who_has_the_whole_body_finds_what_it_has_stored(sqlite: str) -> None:
    """The client may ask again before the server gets to close(), and some test clients never do."""

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        session = environ[KEY]
        session["a"] = session.get("a", 0)
        start_response("200 OK", list(PLAIN))

        def stream() -> Iterator[bytes]:
            yield b"a"
            session["a"] += 1

        return stream()

    site = ValidatedSite(sqlite, app, bare=True)
    site.browser.get("/")
    (cookie,) = site.browser.jar.stored.values()
    body = site.middleware(make_environ(cookie=f"{cookie.name}={cookie.value}"), lambda *_: print)

    assert list(body) == [b"a"]
    assert site.store.read(cookie.value) == {"a": 2}
    with statements(site.store.database.engine) as calls:
        body.close()  # type: ignore[attr-defined]  # ours has one
    assert len(calls) == 0


def test_a_late_change_that_cannot_be_stored_breaks_the_response_off_once(sqlite: str) -> None:
    """The client must not take it for complete; and what has failed is not tried again when it is closed."""

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        session = environ[KEY]
        session["a"] = 1
        start_response("200 OK", list(PLAIN))

        def stream() -> Iterator[bytes]:
            yield b"a"
            session["a"] = object()

        return stream()

    site = ValidatedSite(sqlite, app, bare=True)
    body = site.middleware(make_environ(), lambda *_: print)
    with pytest.raises(UnstorableValue):
        list(body)
    body.close()  # type: ignore[attr-defined]  # ours has one

    assert [row["data"] for row in all_rows(site.store).values()] == ['{"a":1}']


def test_an_expiry_that_is_set_late_costs_no_look(sqlite: str) -> None:
    """No header can tell of it any more."""

    def streamed(environ: dict[str, Any], start: Any) -> Iterator[bytes]:
        session = environ[KEY]
        session.get("a")
        start("200 OK", list(PLAIN))
        yield b"one"
        session.set_expiry(60)
        yield b"two"

    site = ValidatedSite(sqlite, streamed)
    key = site.store.create({"a": 1})
    with statements(site.store.database.engine) as calls:
        call(site.middleware, cookie=f"__Host-sessionid={key}")

    assert calls.verbs == ["SELECT", "UPDATE"]


def test_modified_after_the_headers_is_told_or_stored(sqlite: str) -> None:
    """Also of a session that nobody has looked at: nothing is lost without a word."""
    middleware = SessionMiddleware(lambda *_: [], sqlite)
    visit = Visit(middleware, middleware.store.create({"a": 1}))
    visit.end()
    visit.session.stage = ALONE
    with statements(middleware.store.database.engine) as calls:
        visit.session.modified = True
    nobody = Visit(middleware)
    nobody.end()

    assert calls.verbs == ["SELECT", "UPDATE"]
    with pytest.raises(ResponseStarted):
        nobody.session.modified = True


def test_a_late_page_that_was_answered_with_503_stores_nothing_later(sqlite: str) -> None:
    """What it had set was not stored, and is not with the next change behind it."""
    store = SessionStore(sqlite)
    key = store.create({"a": 1})
    sessions = []

    def late(environ: dict[str, Any], start: Any) -> Iterator[bytes]:
        sessions.append(environ[KEY])
        environ[KEY]["x"] = 1
        yield from fail()

    def fail() -> Iterator[bytes]:
        raise StoreUnavailable

    reply = call(SessionMiddleware(late, store), cookie=f"__Host-sessionid={key}")
    sessions[0]["later"] = 1

    assert reply.status == 503
    assert store.read(key) == {"a": 1}
