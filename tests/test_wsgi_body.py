"""The body: passed on as the object it is, closed exactly once, and changes made while it is sent (W1-W4, W17-W21)."""

import gc
import inspect
import io
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from wsgiref.util import FileWrapper

import pytest
import sqlalchemy as sa

from sessionware import ResponseStarted, Session, SessionMiddleware
from tests.support.apps import KEY, NOWHERE, PLAIN, SHAPES, ValidatedSite, answering, nothing
from tests.support.clock import Clock
from tests.support.wsgi import Body, call, make_environ

HIJACKED = object()


class ListWithClose(list[bytes]):
    """What another middleware may return."""

    closes = 0

    def close(self) -> None:
        self.closes += 1


class Falsy(Body):
    """An iterable that is false."""

    def __bool__(self) -> bool:
        return False


class Fresh:
    """An iterable whose iterator is another object, without a close()."""

    def __init__(self, chunks: Callable[[], Iterable[bytes]] = lambda: [b"a", b"b"]) -> None:
        self.closes = 0
        self._chunks = chunks

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._chunks())

    def close(self) -> None:
        self.closes += 1


def generator() -> Iterator[bytes]:
    yield b"a"
    yield b"b"


def read(session: Session) -> Any:
    return session.get("a")


def write(session: Session) -> None:
    session["a"] = 1


COMPLETE = [
    pytest.param(lambda: [b"a"], id="list"),
    pytest.param(lambda: [], id="empty list"),
    pytest.param(lambda: (b"a", b"b"), id="tuple"),
    pytest.param(lambda: ListWithClose([b"a"]), id="list with close"),
    pytest.param(lambda: FileWrapper(io.BytesIO(b"file")), id="file wrapper"),
    pytest.param(lambda: HIJACKED, id="sentinel"),
]
STREAMS = [
    pytest.param(generator, id="generator"),
    pytest.param(lambda: Body([b"a"]), id="object"),
    pytest.param(lambda: Falsy([b"a"]), id="false object"),
    pytest.param(Fresh, id="object with an iterator"),
]


def start(_status: str, _headers: Any, _exc_info: Any = None) -> Callable[[bytes], object]:
    return lambda chunk: None


@pytest.mark.parametrize("body", [*COMPLETE, *STREAMS])
def test_an_untouched_body_is_passed_on_as_the_same_object(body: Any) -> None:
    """W1: servers count lists, send files by sendfile and know sentinels by identity; the database is nowhere."""
    made = body()
    middleware = SessionMiddleware(answering(lambda: made), NOWHERE)

    assert middleware(make_environ(cookie="__Host-sessionid=" + "x" * 43), start) is made


@pytest.mark.parametrize("action", [read, write], ids=["read", "changed"])
@pytest.mark.parametrize("body", COMPLETE)
def test_a_body_that_runs_no_code_is_passed_on_even_if_the_session_was_used(
    sqlite: str, body: Any, action: Any
) -> None:
    """W2-W4: everything is decided by then; a wrapper would switch off sendfile and Content-Length."""
    made = body()

    assert SessionMiddleware(answering(lambda: made, action), sqlite)(make_environ(), start) is made


def test_a_file_wrapper_that_cannot_be_iterated_is_passed_on(sqlite: str) -> None:
    """W2: gunicorn's had no __iter__ for years."""

    class Wrapper:
        def __init__(self, file: Any) -> None:
            self.file = file

        def __getitem__(self, index: int) -> bytes:
            raise AssertionError("nobody may read it")

    made = Wrapper(io.BytesIO(b"file"))
    environ = make_environ() | {"wsgi.file_wrapper": Wrapper}

    assert SessionMiddleware(answering(lambda: made, write), sqlite)(environ, start) is made


@pytest.mark.parametrize("body", [*COMPLETE[:2], *STREAMS])
@pytest.mark.parametrize("purge_interval", [None, 1], ids=["no purge", "purge due"])
def test_no_wrapper_claims_a_length_that_is_not_its_own(sqlite: str, body: Any, purge_interval: Any) -> None:
    """W3: a server makes a Content-Length of it."""
    clock = Clock()
    middleware = SessionMiddleware(answering(body, read), sqlite, purge_interval=purge_interval, clock=clock)
    clock.advance(60)
    result: Any = middleware(make_environ(), start)
    length = len(result) if hasattr(result, "__len__") else None

    assert length in (None, len(list(result)))


@pytest.mark.parametrize("late", [False, True], ids=["early", "late"])
def test_the_application_runs_when_it_is_called(sqlite: str, late: bool) -> None:
    """W17: the middleware is no generator itself, which would put the call off until the first chunk."""
    seen: list[str] = []

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        seen.append("called")
        return generator() if late else answering(generator, write)(environ, start_response)

    result = SessionMiddleware(app, sqlite)(make_environ(), start)

    assert seen == ["called"]
    assert not inspect.isgenerator(result)


@pytest.mark.parametrize("action", [nothing, read, write], ids=["untouched", "read", "changed"])
def test_StopIteration_passes_through(sqlite: str, action: Any) -> None:
    """W17: so applications tell gunicorn that they have hijacked the connection; a generator makes it an error."""

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        action(environ[KEY])
        raise StopIteration

    with pytest.raises(StopIteration):
        SessionMiddleware(app, sqlite)(make_environ(), start)


def hijack_by_sentinel() -> object:
    return HIJACKED


def hijack_by_exception() -> object:
    raise StopIteration


@pytest.mark.parametrize("hijack", [hijack_by_sentinel, hijack_by_exception])
def test_a_hijacked_connection_may_change_its_session(sqlite: str, hijack: Any) -> None:
    """W25: start_response is never called and no cookie can be sent, but an existing session is stored."""

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        if environ["PATH_INFO"] == "/first":
            return answering(lambda: [b""], write)(environ, start_response)
        environ[KEY]["a"] = 2
        return hijack()

    site = ValidatedSite(sqlite, app, bare=True)
    site.browser.get("/first")
    (cookie,) = site.browser.jar.stored.values()
    for header in (f"{cookie.name}={cookie.value}", None):
        environ = make_environ(cookie=header)
        try:
            assert site.middleware(environ, _never) is HIJACKED
        except StopIteration:
            assert hijack is hijack_by_exception
    with pytest.raises(ResponseStarted):
        environ[KEY]["b"] = 1  # no cookie can be sent any more, and nothing is lost without a word

    assert site.store.read(cookie.value) == {"a": 2}
    assert site.store.count() == 1
    assert "dropped" in site.kinds()


@pytest.mark.parametrize("body", [[], [b"a"], ()], ids=["empty list", "list", "tuple"])
def test_an_application_that_forgets_to_answer_stores_nothing(sqlite: str, body: Any) -> None:
    """W6: it is a mistake, and the server says so."""

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        if environ["PATH_INFO"] == "/first":
            return answering(lambda: [b""], write)(environ, start_response)
        environ[KEY]["a"] = 2
        return body

    site = ValidatedSite(sqlite, app, bare=True)
    site.browser.get("/first")
    (cookie,) = site.browser.jar.stored.values()
    result = site.middleware(make_environ(cookie=f"{cookie.name}={cookie.value}"), _never)

    assert result is body
    assert site.store.read(cookie.value) == {"a": 1}


def test_no_connection_is_held_while_a_hijacked_connection_lasts(sqlite: str) -> None:
    """W25: it may last for hours."""
    out: list[int] = []

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        environ[KEY].get("a")
        out.append(engine.pool.checkedout())  # type: ignore[attr-defined]
        return HIJACKED

    engine = sa.create_engine(sqlite)
    middleware = SessionMiddleware(app, engine)
    middleware(make_environ(cookie="__Host-sessionid=" + "x" * 43), _never)

    assert out == [0]


@pytest.mark.parametrize("action", [nothing, read, write], ids=["untouched", "read", "changed"])
@pytest.mark.parametrize("make", [Body, Falsy, lambda chunks: Fresh(lambda: chunks)], ids=["object", "false", "fresh"])
@pytest.mark.parametrize("taken", [0, 1, 9])
def test_close_is_called_exactly_once(sqlite: str, action: Any, make: Any, taken: int) -> None:
    """W18, W20: on the iterable, not on its iterator; read to the end, in part, or not at all; and again by mistake."""
    body = make([b"a", b"b"])
    result: Any = SessionMiddleware(answering(lambda: body, action), sqlite)(make_environ(), start)
    chunks = iter(result) if taken else iter([])
    for _ in range(taken):
        next(chunks, None)

    assert body.closes == 0
    result.close()
    assert body.closes == 1
    if result is not body:
        result.close()
        assert body.closes == 1


@pytest.mark.parametrize("purge_interval", [None, 1], ids=["no purge", "purge due"])
def test_a_list_with_a_close_is_closed(sqlite: str, purge_interval: Any) -> None:
    """W18: also when the middleware has something to do at the end itself."""
    clock, body = Clock(), ListWithClose([b"a"])
    middleware = SessionMiddleware(answering(lambda: body, read), sqlite, clock=clock, purge_interval=purge_interval)
    clock.advance(60)

    assert call(middleware).body == b"a"
    assert body.closes == 1


@pytest.mark.parametrize("action", [nothing, read, write], ids=["untouched", "read", "changed"])
def test_close_is_called_when_the_iterable_raises(sqlite: str, action: Any) -> None:
    """W18: the error comes out, and the application still cleans up."""

    def failing() -> Iterator[bytes]:
        yield b"a"
        raise LookupError("broken")

    body = Body(failing())
    with pytest.raises(LookupError):
        call(SessionMiddleware(answering(lambda: body, action), sqlite))

    assert body.closes == 1


def test_close_is_called_when_our_own_save_fails() -> None:
    """W18: a body that is thrown away for a 503 was made nevertheless."""
    body = Body()

    assert call(SessionMiddleware(answering(lambda: body, write), NOWHERE)).status == 503
    assert body.closes == 1


def test_close_is_called_when_a_value_cannot_be_stored(sqlite: str) -> None:
    """W18: and when the save fails through the application's fault."""
    body = Body()
    app = answering(lambda: body, lambda session: session.update(a=object()))
    with pytest.raises(TypeError):
        call(SessionMiddleware(app, sqlite))

    assert body.closes == 1


def test_our_save_runs_when_their_close_fails(sqlite: str) -> None:
    """W18: the other way round."""

    class Failing(Body):
        def close(self) -> None:
            raise LookupError("broken")

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        environ[KEY].setdefault("items", []).append(0)
        start_response("200 OK", list(PLAIN))

        def stream() -> Iterator[bytes]:
            yield b"a"
            environ[KEY]["items"].append(1)

        return Failing(stream())

    middleware = SessionMiddleware(app, sqlite)
    server = _Cookies()
    result: Any = middleware(make_environ(), server)
    list(result)
    with pytest.raises(LookupError):
        result.close()

    assert middleware.store.read(server.key) == {"items": [0, 1]}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("action", [nothing, write], ids=["untouched", "changed"])
def test_nothing_is_kept_alive_after_the_end(sqlite: str, action: Any, shape: Any) -> None:
    """W19: without a cycle, what a request held is free when it ends, and not when the collector comes by."""

    class Mark:
        pass

    mark = Mark()
    middleware = SessionMiddleware(shape(action), sqlite)
    middleware.store.create_table()
    gone = weakref.ref(mark)
    gc.disable()
    try:
        call(middleware, environ={"mark": mark})
        del mark

        assert gone() is None
    finally:
        gc.enable()


def _never(*_: Any) -> Any:
    raise AssertionError("start_response was called")


class _Cookies:
    """A server's start_response that keeps the session key."""

    key = ""

    def __call__(self, _status: str, headers: Any, _exc_info: Any = None) -> Callable[[bytes], object]:
        self.key = dict(headers)["Set-Cookie"].split("=", 1)[1].split(";")[0]
        return lambda chunk: None
