"""start_response in all its forms, and what leaves the application before and after it (PEP 3333: W6-W16, W21, W22)."""

import gc
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from sessionware import ResponseStarted, Session, SessionMiddleware
from tests.support.apps import KEY, PLAIN, SHAPES, ValidatedSite, nothing
from tests.support.wsgi import call, make_environ

ERROR = "500 Internal Server Error"


def read(session: Session) -> Any:
    return session.get("a")


def write(session: Session) -> None:
    session["a"] = 1


class Server:
    """A server's start_response that notes each call as it was made."""

    def __init__(self, on_start: Callable[[], object] = lambda: None) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.written: list[bytes] = []
        self._on_start = on_start

    def __call__(self, *arguments: Any) -> Callable[[bytes], object]:
        self.calls.append(arguments)
        self._on_start()
        return self.written.append


def with_error(start_response: Any, status: str = ERROR, headers: Any = PLAIN) -> Any:
    """Start again, as an error page does."""
    try:
        raise LookupError("broken")
    except LookupError:
        return start_response(status, list(headers), sys.exc_info())


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_the_row_is_there_before_the_server_hears_of_the_response(sqlite: str, shape: Any) -> None:
    """W22: the client may come back with the cookie before the body has ended: a redirect does."""
    counts: list[int] = []
    middleware = SessionMiddleware(shape(write), sqlite)
    server = Server(lambda: counts.append(middleware.store.count()))
    body = middleware(make_environ(), server)
    list(body)

    assert counts == [1]
    assert dict(server.calls[0][1])["Set-Cookie"].startswith("__Host-sessionid=")


@pytest.mark.parametrize("action", [nothing, read, write], ids=["untouched", "read", "changed"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_headers_of_the_application_are_never_altered(sqlite: str, shape: Any, action: Any) -> None:
    """W11: applications pass constants; what the server gets is a list of pairs of exactly these types."""
    headers = (("Content-Type", "text/plain"), ("Set-Cookie", "other=1"), ("Vary", "Accept"))
    kept: list[Any] = []

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        def keeping(status: str, found: Any, *more: Any) -> Any:
            kept.append(found)
            return start_response(status, found, *more)

        return shape(action, headers=headers)(environ, keeping)  # type: ignore[no-any-return]

    server = Server()
    list(SessionMiddleware(app, sqlite)(make_environ(), server))

    assert tuple(kept[-1]) == headers
    assert type(server.calls[-1][1]) is list
    assert {type(pair) for pair in server.calls[-1][1]} == {tuple}
    assert (server.calls[-1][1] == list(headers)) is (action is nothing)


@pytest.mark.parametrize("action", [nothing, write], ids=["untouched", "changed"])
def test_arguments_reach_the_server_as_they_were_given(sqlite: str, action: Any) -> None:
    """W8: by position, two of them or three, and exc_info itself."""
    given: list[Any] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        action(environ[KEY])
        if environ["PATH_INFO"] == "/error":
            try:
                raise LookupError
            except LookupError:
                given.append(sys.exc_info())
                start_response("404 Not Found", list(PLAIN), given[0])
        else:
            start_response("200 OK", list(PLAIN), None)
        return []

    middleware, plain, error = SessionMiddleware(app, sqlite), Server(), Server()
    middleware(make_environ("/"), plain)
    middleware(make_environ("/error"), error)

    assert [len(arguments) for arguments in plain.calls] == [2]
    assert [len(arguments) for arguments in error.calls] == [3]
    assert (error.calls[0][0], error.calls[0][2]) == ("404 Not Found", given[0])


@pytest.mark.parametrize("status", ["404 Not Found", ERROR])
def test_a_second_answer_before_the_first_byte_replaces_the_first(sqlite: str, status: str) -> None:
    """W9: its status decides what is stored, and our headers stand in it once."""
    site = ValidatedSite(sqlite, shape=SHAPES["restart"])
    reply = site.visit(write, status)
    stored = status != ERROR

    assert reply.header("X-First") is None
    assert reply.header("Vary") == "Cookie"
    assert (len(reply.set_cookies), site.store.count()) == (stored, stored)


@pytest.mark.parametrize("status", ["404 Not Found", ERROR])
def test_a_second_answer_after_an_empty_chunk_has_our_headers_once(sqlite: str, status: str) -> None:
    """W9, W15: an empty chunk sends nothing, so the server still takes another answer; the row is stored already."""

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        environ[KEY]["a"] = 1
        start_response("200 OK", [*PLAIN, ("X-First", "1")])
        yield b""
        with_error(start_response, status)
        yield b"sorry"

    site = ValidatedSite(sqlite, app)
    reply = site.browser.get()

    assert (reply.status, reply.body, reply.header("X-First")) == (int(status[:3]), b"sorry", None)
    assert (reply.header("Vary"), len(reply.set_cookies), site.store.count()) == ("Cookie", 1, 1)


def test_a_late_change_before_a_late_error_page_is_not_stored(sqlite: str) -> None:
    """W9: the status that the client sees decides, whenever it was said."""

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        environ[KEY].setdefault("a", 1)
        start_response("200 OK", list(PLAIN))
        yield b""
        if environ["PATH_INFO"] == "/error":
            environ[KEY]["a"] = 2
            with_error(start_response)
        yield b"end"

    site = ValidatedSite(sqlite, app, bare=True)
    site.browser.get("/")

    assert site.browser.get("/error").status == 500
    assert [values["a"] for values in _stored(site)] == [1]


@pytest.mark.parametrize("action", [nothing, write], ids=["untouched", "changed"])
def test_an_error_after_the_first_byte_comes_out(sqlite: str, action: Any) -> None:
    """W9: the server raises it again; nobody swallows it on the way."""

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        action(environ[KEY])
        start_response("200 OK", list(PLAIN))
        yield b"byte"
        with_error(start_response)

    with pytest.raises(LookupError, match="broken"):
        ValidatedSite(sqlite, app).browser.get()


@pytest.mark.parametrize("act", [lambda s: s.login("bob"), lambda s: s.get("a")], ids=["login", "look"])
def test_what_failed_before_its_headers_stores_nothing_after_them(sqlite: str, act: Any) -> None:
    """A login whose page became an error sent no cookie: stored late, it would leave its user with a dead key."""

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        act(environ[KEY])
        start_response(ERROR, list(PLAIN))
        return recovered(environ[KEY], start_response)

    def recovered(session: Any, start_response: Any) -> Iterator[bytes]:
        yield b""
        with_error(start_response, "200 OK")
        session["n"] = 1
        yield b"fine"

    middleware = SessionMiddleware(app, sqlite)
    key = middleware.store.create({"a": 1})
    reply = call(middleware, cookie=f"__Host-sessionid={key}")

    assert (reply.status, reply.set_cookies) == (200, [])
    assert middleware.store.read(key) == {"a": 1}


@pytest.mark.parametrize(
    "act", [write, lambda session: session["items"].append(1)], ids=["change", "inside of a value"]
)
def test_what_becomes_an_error_after_its_headers_stores_nothing(sqlite: str, act: Any) -> None:
    """Also where the session is used while the body is sent, and nobody stands between body and server."""

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", list(PLAIN))
        return stream(environ, start_response)

    def stream(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        held = environ[KEY].get("items")
        with_error(start_response)
        act(environ[KEY])
        yield b"sorry"
        held.append(2)

    middleware = SessionMiddleware(app, sqlite)
    key = middleware.store.create({"items": [0]})
    reply = call(middleware, cookie=f"__Host-sessionid={key}")
    reply.iterable = None
    gc.collect()  # what was handed out is looked at once more when the body has gone

    assert reply.status == 500
    assert middleware.store.read(key) == {"items": [0]}


def test_an_error_that_the_server_refuses_leaves_the_answer_as_it_is(sqlite: str) -> None:
    """The headers are gone: the 200 stands, and what is changed in it is stored."""

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", list(PLAIN))
        return stream(environ, start_response)

    def stream(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        yield b"a"
        with pytest.raises(LookupError):
            with_error(start_response)
        environ[KEY]["a"] = 1
        yield b"b"

    middleware = SessionMiddleware(app, sqlite)
    key = middleware.store.create({})
    reply = call(middleware, cookie=f"__Host-sessionid={key}")

    assert (reply.status, reply.text) == (200, "ab")
    assert middleware.store.read(key) == {"a": 1}


@pytest.mark.parametrize("later", ["save", "atomic"])
@pytest.mark.parametrize("act", [Session.cycle_key, lambda session: session.login("ann")], ids=["rotation", "login"])
def test_no_key_is_changed_after_the_headers_of_an_error(sqlite: str, act: Any, later: str) -> None:
    """It waited for a save that did not come; carried out now, it would leave the browser with a dead key."""

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        session = environ[KEY]
        act(session)
        start_response(ERROR, list(PLAIN))
        yield b"sorry"
        with pytest.raises(ResponseStarted):
            session.save() if later == "save" else session.atomic(lambda values: values.update(b=1))

    middleware = SessionMiddleware(app, sqlite)
    key = middleware.store.create({"a": 1})
    call(middleware, cookie=f"__Host-sessionid={key}")

    assert middleware.store.read(key) == {"a": 1}


def test_a_hijacked_connection_changes_no_key(sqlite: str) -> None:
    """Nobody could tell the browser."""

    def app(environ: dict[str, Any], _start_response: Any) -> Iterator[bytes]:
        environ[KEY].cycle_key()
        raise StopIteration

    middleware = SessionMiddleware(app, sqlite)
    key = middleware.store.create({"a": 1})
    with pytest.raises(StopIteration):
        middleware(make_environ(cookie=f"__Host-sessionid={key}", url="https://a.test"), Server())

    assert middleware.store.read(key) == {"a": 1}


@pytest.mark.parametrize("shape", ["early", "late"])
@pytest.mark.parametrize("action", [nothing, write], ids=["untouched", "changed"])
def test_a_second_answer_without_exc_info_is_an_error(sqlite: str, action: Any, shape: str) -> None:
    """W10: as servers have it."""

    def again(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        yield from SHAPES["late"](action)(environ, start_response)
        start_response("200 OK", list(PLAIN))

    def at_once(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", list(PLAIN))
        return SHAPES["list"](action)(environ, start_response)

    with pytest.raises(AssertionError, match="twice"):
        call(SessionMiddleware(again if shape == "late" else at_once, sqlite))


def test_what_was_written_comes_first(sqlite: str) -> None:
    """W12: write() and iterable together, the headers with the first of them."""

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ[KEY]["a"] = 1
        write = start_response("200 OK", list(PLAIN))
        write(b"one ")
        write(b"two ")
        return [b"three"]

    site = ValidatedSite(sqlite, app)
    reply = site.browser.get()

    assert (reply.body, len(reply.set_cookies), site.store.count()) == (b"one two three", 1, 1)


@pytest.mark.parametrize("bare", [False, True], ids=["validated", "bare"])
@pytest.mark.parametrize("read_before", [False, True], ids=["untouched before", "read before"])
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda session: session.update(a=2), id="set"),
        pytest.param(lambda session: session["items"].append(2), id="nested"),
    ],
)
def test_changes_after_write_are_stored(sqlite: str, change: Any, read_before: bool, bare: bool) -> None:
    """W21: the headers have left with the first write(), but the application goes on."""

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        session = environ[KEY]
        if environ["PATH_INFO"] == "/first":
            session.update(a=1, items=[1])
        if read_before:
            session.get("a")
        start_response("200 OK", list(PLAIN))(b"sent ")
        if environ["PATH_INFO"] == "/change":
            change(session)
        return [b"end"]

    site = ValidatedSite(sqlite, app, bare=bare)
    site.browser.get("/first")
    before = _stored(site)
    change(before[0])

    assert site.browser.get("/change").set_cookies == []
    assert _stored(site) == before


def test_a_change_after_write_of_an_error_page_is_not_stored(sqlite: str) -> None:
    """W21, S4c: late or not, an error stores nothing."""

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        status = ERROR if environ["PATH_INFO"] == "/error" else "200 OK"
        if status != ERROR:
            environ[KEY]["a"] = 1
        start_response(status, list(PLAIN))(b"sent")
        if status == ERROR:
            environ[KEY]["a"] = 2
        return []

    site = ValidatedSite(sqlite, app, bare=True)
    site.browser.get("/")
    site.browser.get("/error")

    assert _stored(site) == [{"a": 1}]


@pytest.mark.parametrize("read_before", [False, True], ids=["untouched before", "read before"])
@pytest.mark.parametrize("how", ["write", "early", "late"])
@pytest.mark.parametrize(
    "begin",
    [
        pytest.param(lambda session: session.update(a=1), id="update"),
        pytest.param(lambda session: session.setdefault("a", 1), id="setdefault"),
        pytest.param(lambda session: session.__setitem__("a", 1), id="set"),
        pytest.param(lambda session: session.clear(), id="clear"),
        pytest.param(lambda session: session.save(), id="save"),
        pytest.param(lambda session: session.atomic(lambda values: None), id="atomic"),
        pytest.param(lambda session: session.cycle_key(), id="cycle_key"),
        pytest.param(lambda session: session.login("ann"), id="login"),
        pytest.param(lambda session: session.set_expiry(60), id="set_expiry"),
    ],
)
def test_a_session_cannot_begin_after_the_headers(sqlite: str, begin: Any, how: str, read_before: bool) -> None:
    """W21: no cookie can be sent any more: the line that makes the change hears of it, nothing is lost in silence."""
    caught: list[ResponseStarted] = []

    def later(session: Session) -> None:
        with pytest.raises(ResponseStarted) as raised:
            begin(session)
        caught.append(raised.value)

    def streaming(environ: dict[str, Any], start_response: Any, start: bool) -> Iterator[bytes]:
        if start:
            start_response("200 OK", list(PLAIN))
        yield b"sent"
        later(environ[KEY])

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if read_before:
            len(environ[KEY])
        if how == "late":
            return streaming(environ, start_response, start=True)
        write = start_response("200 OK", list(PLAIN))
        if how == "early":
            return streaming(environ, start_response, start=False)
        write(b"sent")
        later(environ[KEY])
        return []

    site = ValidatedSite(sqlite, app, bare=True)
    site.browser.get()

    assert len(caught) == 1
    assert site.store.count() == 0


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_no_header_is_added_that_belongs_to_the_server(sqlite: str, shape: Any) -> None:
    """W5, W16: Vary, Set-Cookie and Cache-Control, and nothing of the application's is changed."""
    headers = [*PLAIN, ("ETag", '"x"'), ("Location", "../relative"), ("Content-Length", "4")]
    reply = ValidatedSite(sqlite, shape=shape).visit(write, "302 Found", headers)

    assert reply.headers[:4] == headers
    assert sorted(name for name, _ in reply.headers[4:]) == ["Cache-Control", "Set-Cookie", "Vary"]


@pytest.mark.parametrize("start", [False, True], ids=["before start_response", "after start_response"])
@pytest.mark.parametrize("late", [False, True], ids=["early", "late"])
def test_an_exception_before_the_first_byte_stores_and_sends_nothing(sqlite: str, start: bool, late: bool) -> None:
    """W13: the server shall hear of no response at all."""

    def fail(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ[KEY]["a"] = 1
        if start:
            start_response("200 OK", list(PLAIN))
        raise LookupError("broken")

    def fail_late(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        yield from fail(environ, start_response)

    server = Server()
    middleware = SessionMiddleware(fail_late if late else fail, sqlite)
    with pytest.raises(LookupError, match="broken"):
        _serve(middleware, server)

    assert server.calls == []
    assert middleware.store.count() == 0


def test_changes_between_start_response_and_the_first_byte_count(sqlite: str) -> None:
    """W14: the answer is held back until then, so there is still time for a cookie."""

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", list(PLAIN))
        environ[KEY]["a"] = 1
        return [b"body"]

    def late(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", list(PLAIN))
        environ[KEY]["a"] = 1
        yield b"body"

    for application in (app, late):
        site = ValidatedSite(sqlite, application)

        assert len(site.browser.get().set_cookies) == 1
        assert site.browser.get().text == "body"


def test_streams_are_not_held_back(sqlite: str) -> None:
    """W7: each chunk reaches the server before the next one is made, and boundaries stay."""
    made: list[int] = []

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        environ[KEY]["a"] = 1
        start_response("200 OK", list(PLAIN))
        for number in range(3):
            made.append(number)
            yield b"" if number == 1 else str(number).encode()

    chunks = iter(SessionMiddleware(app, sqlite)(make_environ(), Server()))

    assert made == []
    for number, chunk in enumerate([b"0", b"", b"2"]):
        assert next(chunks) == chunk
        assert made == list(range(number + 1))
    assert next(chunks, None) is None


def _serve(middleware: SessionMiddleware, server: Server) -> None:
    body = middleware(make_environ(), server)
    try:
        list(body)
    finally:
        close = getattr(body, "close", None)
        if close is not None:
            close()


def _stored(site: ValidatedSite) -> list[dict[str, Any]]:
    """Return the values of the one browser's session, read past the middleware."""
    cookies = [cookie.value for cookie in site.browser.jar.stored.values()]
    return [values for values in map(site.store.read, cookies) if values is not None]
