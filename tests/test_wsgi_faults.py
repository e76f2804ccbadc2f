"""What the middleware answers itself: 503 while the database is away, 400 where a session has changed meanwhile."""

import gc
import logging
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sessionware import Session, SessionInterrupted, SessionMiddleware, StoreUnavailable
from tests.support.apps import KEY, PLAIN, SHAPES, Action, ValidatedSite, as_list, nothing
from tests.support.wsgi import Reply, call, make_environ

NAME = "__Host-sessionid"
COOKIE = f"{NAME}={'x' * 43}"
RETRY_AFTER = "5"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that is not there: SQLite cannot open a file in it."""
    return tmp_path / "missing"


@pytest.fixture
def url(folder: Path) -> str:
    return f"sqlite:///{folder}/sessions.db"


@pytest.fixture(params=SHAPES)
def broken(request: pytest.FixtureRequest, url: str) -> ValidatedSite:
    """A site without its database, in every shape of application."""
    return ValidatedSite(url, shape=SHAPES[request.param])


def read(session: Session) -> Any:
    return session.get("a")


def write(session: Session) -> None:
    session["a"] = 1


def assert_unavailable(reply: Reply, *, clears: bool = False) -> None:
    __tracebackhide__ = True
    assert reply.status == 503
    assert reply.header("Retry-After") == RETRY_AFTER
    assert (reply.header("Vary"), reply.header("Cache-Control")) == ("Cookie", "no-store")
    assert reply.header(
        "Content-Type",
    ).startswith("text/plain")  # type: ignore[union-attr]
    assert [line.startswith(f"{NAME}=;") for line in reply.set_cookies] == [True] * clears


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize(
    "action", [read, len, lambda s: s.user_id, lambda s: s.login("ann")], ids=["get", "len", "user", "login"]
)
def test_503_where_a_known_visitor_needs_the_session(broken: ValidatedSite, action: Action, method: str) -> None:
    """The fault is ours and passes: nobody loses the cookie, and no cache keeps the answer."""
    reply = broken.visit(action, method=method, cookie=COOKIE)

    assert_unavailable(reply)
    assert reply.header("Content-Length") == str(len(b"503 Service Unavailable\n\nPlease try again in a moment.\n"))
    assert reply.body == (b"" if method == "HEAD" else b"503 Service Unavailable\n\nPlease try again in a moment.\n")


def test_503_where_a_new_session_cannot_be_stored(broken: ValidatedSite) -> None:
    """No cookie is promised for a row that is not there."""
    assert_unavailable(broken.visit(write))


def test_the_rest_of_the_site_goes_on(broken: ValidatedSite) -> None:
    """Without a look at the session, and for visitors without a cookie also with one, no database is needed."""
    assert broken.visit(nothing, cookie=COOKIE).headers == PLAIN
    assert broken.visit(read).status == 200
    assert broken.visit(lambda session: (session.update(a=1), session.clear())).status == 200


def test_a_logout_that_did_not_happen_is_not_reported_as_done(broken: ValidatedSite) -> None:
    """503, but the browser at least forgets the key: the next visitor at this machine is not logged in."""
    assert_unavailable(broken.visit(lambda session: session.flush(), cookie=COOKIE), clears=True)
    assert_unavailable(broken.visit(lambda session: session.logout(), cookie=COOKIE), clears=True)


@pytest.mark.parametrize("shape", SHAPES)
def test_an_application_may_answer_itself(url: str, shape: str) -> None:
    """It can catch the error and go on without a session; what it does then is its own."""

    def careful(session: Session) -> object:
        try:
            return session["a"]
        except StoreUnavailable as error:
            return error.busy

    reply = ValidatedSite(url, shape=SHAPES[shape]).visit(careful, cookie=COOKIE)

    assert (reply.status, reply.text, reply.set_cookies) == (200, "False", [])


def test_service_resumes_by_itself(broken: ValidatedSite, folder: Path) -> None:
    """The next request tries again."""
    assert broken.visit(write).status == 503
    folder.mkdir()

    assert broken.visit(write).status == 200
    assert broken.look(read) == 1


def test_an_outage_costs_no_session(sqlite: str) -> None:
    """The cookie that got a 503 is good again afterwards."""
    path = Path(sqlite.removeprefix("sqlite:///"))
    before, after = ValidatedSite(sqlite), ValidatedSite(sqlite)
    before.visit(write)
    after.browser.jar = before.browser.jar
    away = path.rename(path.with_suffix(".away"))
    path.mkdir()

    assert [after.visit(action).status for action in (read, write)] == [503, 503]
    path.rmdir()
    away.rename(path)
    assert after.look(read) == 1


def test_an_outage_is_logged_once_a_minute(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """A thousand requests a second need no thousand lines; and no line holds the key or the path."""
    site = ValidatedSite(url)
    with caplog.at_level(logging.DEBUG, "sessionware"):
        for _ in range(5):
            site.visit(read, cookie=COOKIE)
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]

    assert len(errors) == 1
    assert "503" in errors[0].getMessage()
    assert "x" * 43 not in caplog.text
    assert "missing" not in caplog.text


def test_the_answer_tells_nothing_of_the_fault(url: str) -> None:
    """No driver's text, no host, no SQL."""
    reply = ValidatedSite(url).visit(read, cookie=COOKIE)

    assert not {"sqlite", "select", "missing", "operational"} & set(reply.text.lower().split())


def test_a_fault_after_the_headers_comes_out(sqlite: str, tmp_path: Path) -> None:
    """No other answer can be given any more: the server must end the connection, not the body."""

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", list(PLAIN))
        yield b"sent"
        environ[KEY]["a"] = 1

    with pytest.raises(StoreUnavailable):
        call(SessionMiddleware(app, f"sqlite:///{tmp_path}/missing/x.db"), cookie=COOKIE)


def test_a_fault_after_write_comes_out(tmp_path: Path) -> None:
    """W12: the same where the headers left early; the iterable is closed."""

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", list(PLAIN))(b"sent")
        return [str(environ[KEY]["a"]).encode()]

    with pytest.raises(StoreUnavailable):
        call(SessionMiddleware(app, f"sqlite:///{tmp_path}/missing/x.db"), cookie=COOKIE)


def test_late_changes_that_cannot_be_stored_are_reported(sqlite: str) -> None:
    """Where nobody is left to hear of an error, in the end of an untouched stream, an event tells of it."""

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        if environ["PATH_INFO"] == "/first":
            return as_list(lambda session: session.update(items=[1]))(environ, start_response)
        start_response("200 OK", list(PLAIN))

        def stream() -> Iterator[bytes]:
            yield b"a"
            environ[KEY]["items"].append(object())

        return stream()

    site = ValidatedSite(sqlite, app, bare=True)
    site.browser.get("/first")
    site.browser.get("/")

    assert [event.reason for event in site.events if event.kind == "dropped"] != []
    assert "object" in site.events[-1].reason


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_400_where_the_session_was_ended_meanwhile(sqlite: str, shape: str, method: str) -> None:
    """As in Django, and the cookie is cleared: it is of no more use."""
    site = ValidatedSite(sqlite, shape=SHAPES[shape])
    site.visit(write)

    def late_write(session: Session) -> None:
        session["a"] = 2
        site.store.revoke_all()

    reply = site.visit(late_write, method=method)

    assert reply.status == 400
    assert (reply.header("Vary"), reply.header("Cache-Control")) == ("Cookie", "no-store")
    assert [line.startswith(f"{NAME}=;") for line in reply.set_cookies] == [True]
    assert reply.header("Retry-After") is None
    assert (b"try again" in reply.body) is (method == "GET")
    assert site.store.count() == 0


def test_an_application_may_answer_an_interruption_itself(sqlite: str) -> None:
    """A save that it asks for itself raises where it stands."""
    site = ValidatedSite(sqlite)
    site.visit(write)

    def careful(session: Session) -> object:
        session["a"] = 2
        site.store.revoke_all()
        try:
            session.save()
        except SessionInterrupted as error:
            return error.ended
        return None

    reply = site.visit(careful)

    assert (reply.status, reply.text) == (200, "True")
    assert [line.startswith(f"{NAME}=;") for line in reply.set_cookies] == [True]


@pytest.mark.parametrize("late", [False, True], ids=["early", "late"])
@pytest.mark.parametrize("error", [SessionInterrupted(ended=True), StoreUnavailable("x")], ids=["400", "503"])
def test_an_answer_never_follows_another(sqlite: str, error: Exception, late: bool) -> None:
    """An error raised by the application after the first byte is not ours to answer."""

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", list(PLAIN))(b"sent")
        raise error

    def app_late(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        yield from app(environ, start_response)

    with pytest.raises(type(error)):
        call(SessionMiddleware(app_late if late else app, sqlite))


def test_the_answer_to_HEAD_has_no_body(url: str) -> None:
    """Not every server drops it."""
    environ = make_environ(method="HEAD", cookie=COOKIE)
    body = SessionMiddleware(as_list(read), url)(environ, lambda *_: lambda chunk: None)

    assert list(body) == []


@pytest.mark.parametrize("action", [read, write], ids=["503 at the load", "503 at the save"])
def test_nothing_is_kept_alive_by_a_fault(url: str, action: Callable[[Session], object]) -> None:
    """W19: an outage under load must not fill the memory with the requests it has turned away."""

    class Mark:
        pass

    mark = Mark()
    site = SessionMiddleware(as_list(action), url)
    call(site, cookie=COOKIE)
    gone = weakref.ref(mark)
    gc.disable()
    try:
        reply = call(site, cookie=COOKIE, environ={"mark": mark})
        del mark

        assert (reply.status, gone()) == (503, None)
    finally:
        gc.enable()
