"""Flask and Pyramid: their own session objects, flash messages and CSRF tokens are the middleware's session."""

import copy
import sys
from collections.abc import Callable
from typing import Any

import flask
import pytest
from flask import Flask, flash, get_flashed_messages, render_template_string
from markupsafe import Markup
from pyramid.config import Configurator
from pyramid.interfaces import ISession
from pyramid.request import Request
from pyramid.response import Response
from pyramid_retry import RetryableException
from webtest import TestApp  # type: ignore[import-untyped]
from zope.interface.verify import verifyObject

from sessionware import (
    ConfigurationError,
    Session,
    SessionConflict,
    SessionInterrupted,
    SessionMiddleware,
    SessionStore,
    StoreUnavailable,
)
from sessionware.frameworks.flask import use_sessions
from sessionware.frameworks.pyramid import PyramidSession
from tests.support.wsgi import Browser, call, validated

NAME = "__Host-sessionid"
NOWHERE = "postgresql+psycopg://somebody:hunter2@127.0.0.1:1/nothing"


def session_of_flask() -> Any:
    """Return flask.session, typed as what it is: a proxy of our session."""
    return flask.session


def flask_app(name: str = "shop") -> Flask:
    """Return an application with a page for everything."""
    app = Flask(name)

    @app.get("/plain")
    def plain() -> str:
        return render_template_string("plain")

    @app.get("/count")
    def count() -> str:
        session = session_of_flask()
        session["count"] = session.get("count", 0) + 1
        return f"{name} {session['count']}"

    @app.get("/append")
    def append() -> str:
        session_of_flask().setdefault("cart", {}).setdefault("items", []).append("x")
        return "appended"

    @app.get("/cart")
    def cart() -> str:
        return str(session_of_flask().get("cart"))

    @app.get("/flash")
    def flash_() -> str:
        flash("saved", "info")
        flash("<twice>")
        return "flashed"

    @app.get("/flashed")
    def flashed() -> str:
        return str(get_flashed_messages(with_categories=True))

    @app.get("/template")
    def template() -> str:
        return render_template_string("{{ session.count }}")

    @app.get("/login")
    def login() -> str:
        session_of_flask().login(7)
        return "in"

    @app.get("/logout")
    def logout() -> str:
        session_of_flask().logout()
        return "out"

    return app


@pytest.fixture
def shop(sqlite: str) -> tuple[SessionMiddleware, Browser]:
    """A Flask application with sessions, and a visitor."""
    app = flask_app()
    middleware = use_sessions(app, sqlite)
    return middleware, Browser(validated(app))


def test_flask_session_counts_on_every_engine(any_engine: str) -> None:
    """What flask.session is told at one request it knows at the next."""
    app = flask_app()
    use_sessions(app, any_engine)
    browser = Browser(validated(app))

    assert [browser.get("/count").text for _ in range(3)] == ["shop 1", "shop 2", "shop 3"]
    assert browser.get("/template").text == "3"


def test_flask_notices_nested_changes(shop: tuple[SessionMiddleware, Browser]) -> None:
    """Without session.modified = True, which Flask's own session needs."""
    _, browser = shop
    for _ in range(2):
        browser.get("/append")

    assert browser.get("/cart").text == "{'items': ['x', 'x']}"


def test_flask_messages_are_flashed_once(shop: tuple[SessionMiddleware, Browser]) -> None:
    """Shown at the next page, in order, with their categories; then gone."""
    _, browser = shop
    browser.get("/flash")

    assert browser.get("/flashed").text == "[('info', 'saved'), ('message', '<twice>')]"
    assert browser.get("/flashed").text == "[]"


def test_flask_messages_of_markup_come_back_as_markup(sqlite: str) -> None:
    """As with Flask's own sessions: marked as safe they are not escaped, and what is not marked still is."""
    app = Flask("shop")
    show = "{{ get_flashed_messages() | join(' ') }}"
    app.add_url_rule("/", "flash", lambda: flash(Markup("<b>saved</b>")) or flash("<b>") or "flashed")
    app.add_url_rule("/show", "show", lambda: render_template_string(show))
    use_sessions(app, sqlite)
    browser = Browser(app)
    browser.get("/")

    assert browser.get("/show").text == "<b>saved</b> &lt;b&gt;"


@pytest.mark.parametrize("path", ["/plain", "/nowhere"])
def test_flask_pages_without_sessions_are_untouched(path: str) -> None:
    """No SQL even where there is no database, and nothing said to caches: a template alone is no use."""
    app = flask_app()
    use_sessions(app, NOWHERE)
    reply = call(validated(app), path, cookie=f"{NAME}={'a' * 43}", url="https://example.test")

    assert reply.status == (200 if path == "/plain" else 404)
    assert reply.all("Vary") + reply.set_cookies + reply.all("Cache-Control") == []


def test_flask_pages_that_read_vary(shop: tuple[SessionMiddleware, Browser]) -> None:
    """CVE-2026-27205: a cached page must not go to the next visitor."""
    _, browser = shop

    assert browser.get("/cart").all("Vary") == ["Cookie"]
    assert browser.get("/template").all("Vary") == ["Cookie"]


def test_flask_login_and_logout(shop: tuple[SessionMiddleware, Browser]) -> None:
    """Our own methods are there: a new key at the login, the end at the logout."""
    middleware, browser = shop
    browser.get("/count")
    before = browser.jar.get(NAME)
    browser.get("/login")
    after = browser.jar.get(NAME)

    assert before is not None
    assert after is not None
    assert before.value != after.value
    assert [info.user_id for info in middleware.store.sessions_of(7)] == ["7"]
    browser.get("/logout")
    assert browser.jar.get(NAME) is None
    assert middleware.store.count() == 0


def test_flask_test_client_has_session_transactions(sqlite: str) -> None:
    """Tests of applications prepare and examine sessions in Flask's own way."""
    app = flask_app()
    middleware = use_sessions(app, sqlite)
    client = app.test_client()
    with client.session_transaction() as session:
        session["count"] = 41

    assert client.get("/count").text == "shop 42"
    with client.session_transaction() as session:
        assert session["count"] == 42
        session["nested"] = [1]
    with client.session_transaction() as session:
        session["nested"].append(2)
    with client.session_transaction() as session:
        assert session["nested"] == [1, 2]
    assert middleware.store.count() == 1


def test_flask_session_transaction_that_raises_stores_nothing(sqlite: str) -> None:
    """As Flask's own."""
    app = flask_app()
    middleware = use_sessions(app, sqlite)
    client = app.test_client()
    with pytest.raises(LookupError), client.session_transaction() as session:  # noqa: PT012
        session["count"] = 41
        raise LookupError

    assert client.get("/count").text == "shop 1"
    assert middleware.store.count() == 1


def test_flask_test_request_context_has_a_session(sqlite: str) -> None:
    """Functions that use flask.session are tested without a request; nothing is stored."""
    app = flask_app()
    middleware = use_sessions(app, sqlite)
    with app.test_request_context("/"):
        session_of_flask()["count"] = 1

        assert flask.session["count"] == 1
    assert middleware.store.count() == 0


def test_flask_session_has_the_attributes_of_flask(sqlite: str) -> None:
    """Code written for Flask reads new and permanent; permanent is whether the cookie outlives the window."""
    app = Flask("attributes")
    use_sessions(app, sqlite)

    @app.get("/<int:permanent>")
    def set_permanent(permanent: int) -> list[bool]:
        session = session_of_flask()
        new = session.new
        session["seen"] = True
        session.permanent = bool(permanent)
        return [new, session.permanent]

    browser = Browser(validated(app))
    first, second, third = (browser.get(path) for path in ("/1", "/0", "/1"))

    assert [reply.text for reply in (first, second, third)] == ["[true,true]\n", "[false,false]\n", "[false,true]\n"]
    assert ["Max-Age=" in reply.set_cookies[0] for reply in (first, second, third)] == [True, False, True]


def test_flask_session_that_closes_with_the_browser_can_be_permanent(sqlite: str) -> None:
    """Remember me."""
    app = Flask("attributes")
    use_sessions(app, sqlite, expire_at_browser_close=True)

    @app.get("/")
    def remember() -> str:
        session = session_of_flask()
        before = session.permanent
        session["seen"] = session.permanent = True
        return str(before)

    reply = Browser(validated(app)).get("/")

    assert reply.text == "False"
    assert "Max-Age=1209600" in reply.set_cookies[0]


def test_flask_permanent_leaves_another_expiry_alone(sqlite: str) -> None:
    """Many applications set it at every request: an hour that was asked for stays an hour."""
    app = Flask("attributes")
    use_sessions(app, sqlite)

    @app.get("/")
    def an_hour() -> str:
        session = session_of_flask()
        session["seen"] = True
        session.set_expiry(3600)
        session.permanent = True
        return "set"

    assert "Max-Age=3600" in Browser(validated(app)).get("/").set_cookies[0]


FAULTS = [
    pytest.param(SessionInterrupted(ended=False), 400, id="interrupted"),
    pytest.param(StoreUnavailable("down"), 503, id="unavailable"),
    pytest.param(SessionConflict("no turn"), 503, id="conflict"),
]


def plain_app(action: Callable[[Session], None]) -> Callable[..., list[bytes]]:
    """Return a WSGI application that does *action*."""

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        action(environ["sessionware.session"])
        start_response("200 OK", [])
        return [b"done"]

    return app


def flask_doing(action: Callable[[Session], None], database: str) -> Flask:
    """Return a Flask application that does *action*, in a blueprint."""
    app = Flask("doing")
    part = flask.Blueprint("part", "part")

    @part.get("/")
    def page() -> str:
        action(session_of_flask())
        return "done"

    app.register_blueprint(part)
    use_sessions(app, database)
    return app


@pytest.mark.parametrize(("error", "status"), FAULTS)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("logout", [False, True])
def test_flask_answers_faults_as_the_middleware_does(
    sqlite: str, error: Exception, status: int, method: str, logout: bool
) -> None:
    """Flask would answer 500: same status, headers, cookie and body, and nothing of the request is stored."""

    def act(session: Session) -> None:
        session["count"] = 2
        if logout:
            session.logout()
        raise error

    store = SessionStore(sqlite)
    apps = [flask_doing(act, sqlite), SessionMiddleware(plain_app(act), sqlite)]
    keys = [store.create({"count": 1}) for _ in apps]
    replies = [
        call(app, method=method, cookie=f"{NAME}={key}", url="https://example.test")  # type: ignore[arg-type]
        for app, key in zip(apps, keys, strict=True)
    ]
    ours, plain = ((reply.status, sorted(reply.headers), reply.body) for reply in replies)

    assert ours == plain
    assert ours[0] == status
    assert replies[0].cookies == ({NAME: ""} if logout else {})
    assert [store.read(key) for key in keys] == [None if logout else {"count": 1}] * 2


def test_flask_leaves_real_faults_of_the_database_to_the_middleware() -> None:
    """A dead database: 503 on pages that use the session, and when to come again; no cookie is cleared."""
    app = flask_app()
    use_sessions(app, NOWHERE)
    reply = call(validated(app), "/count", cookie=f"{NAME}={'a' * 43}", url="https://example.test")

    assert (reply.status, reply.header("Retry-After"), reply.set_cookies) == (503, "5", [])


def test_flask_responses_of_another_class_leave_faults_to_the_middleware() -> None:
    """An application may make all its answers of a class of its own; Flask turns every other one into that."""
    app = flask_app()
    app.response_class = type("Answer", (flask.Response,), {"default_mimetype": "application/json"})
    use_sessions(app, NOWHERE)
    reply = call(validated(app), "/count", cookie=f"{NAME}={'a' * 43}", url="https://example.test")

    assert (reply.status, reply.header("Retry-After"), reply.set_cookies) == (503, "5", [])
    assert "try again" in reply.text.lower()


def test_flask_session_ended_meanwhile_is_interrupted(sqlite: str) -> None:
    """400 as in Django, and the useless cookie goes."""
    store = SessionStore(sqlite)
    key = store.create({"count": 1})

    def act(session: Session) -> None:
        session["count"] = 2
        handle = session.handle
        assert handle is not None
        store.revoke(handle)

    reply = call(flask_doing(act, sqlite), cookie=f"{NAME}={key}", url="https://example.test")

    assert (reply.status, reply.cookies) == (400, {NAME: ""})


def test_flask_application_may_answer_faults_itself(sqlite: str) -> None:
    """A page of its own for an outage, by Flask's own means."""
    app = Flask("own")
    use_sessions(app, NOWHERE)

    @app.get("/")
    def page() -> str:
        return str(len(session_of_flask()))

    @app.errorhandler(StoreUnavailable)
    def sorry(error: StoreUnavailable) -> tuple[str, int]:
        return "We are sorry.", 503

    reply = call(app, cookie=f"{NAME}={'a' * 43}", url="https://example.test")

    assert (reply.status, reply.text, reply.cookies) == (503, "We are sorry.", {})


def test_flask_stores_nothing_of_a_view_that_fails(sqlite: str) -> None:
    """Flask answers 500; the middleware keeps the session as it was."""

    def act(session: Session) -> None:
        session["count"] = 2
        raise LookupError

    store = SessionStore(sqlite)
    key = store.create({"count": 1})
    app = flask_doing(act, sqlite)
    app.logger.disabled = True
    reply = call(app, cookie=f"{NAME}={key}", url="https://example.test")

    assert reply.status == 500
    assert store.read(key) == {"count": 1}


def test_two_flask_applications_keep_their_sessions_apart(sqlite: str, tmp_path: Any) -> None:
    """Two in one process, each with a database and a cookie of its own."""
    first, second = flask_app("first"), flask_app("second")
    use_sessions(first, sqlite)
    use_sessions(second, f"sqlite:///{tmp_path / 'second.db'}", cookie_name="__Host-second")
    browsers = Browser(validated(first)), Browser(validated(second))
    for browser in browsers:
        browser.get("/count")
    cookies = "; ".join(str(browser.jar.header_for(browser.url, 0)) for browser in browsers)

    assert call(first, "/count", cookie=cookies).text == "first 2"
    assert call(second, "/count", cookie=cookies).text == "second 2"


def test_flask_within_another_middleware_shares_its_session(sqlite: str) -> None:
    """The outer one stores: one session, one cookie."""
    app = flask_app()
    use_sessions(app, sqlite)
    outer = SessionMiddleware(app, sqlite)
    browser = Browser(validated(outer))

    assert [browser.get("/count").text for _ in range(2)] == ["shop 1", "shop 2"]
    assert outer.store.count() == 1


def test_flask_within_another_middleware_has_what_flask_has(sqlite: str) -> None:
    """``permanent`` and ``new``: without them a setting would be lost without a word."""
    app = Flask("mounted")
    use_sessions(app, sqlite)

    @app.get("/")
    def page() -> str:
        new = session_of_flask().new
        session_of_flask().permanent = False
        return f"{new} {session_of_flask().permanent}"

    reply = call(validated(SessionMiddleware(app, sqlite)))

    assert reply.text == "True False"


def test_flask_streams_with_the_session(sqlite: str) -> None:
    """stream_with_context keeps flask.session, and a change of a stored session in it is stored."""
    app = Flask("stream")
    use_sessions(app, sqlite)

    @app.get("/")
    def stream() -> Any:
        @flask.stream_with_context
        def chunks() -> Any:
            yield "before "
            session_of_flask()["count"] += 1
            yield str(flask.session["count"])

        return app.response_class(chunks())

    store = SessionStore(sqlite)
    key = store.create({"count": 1})

    assert call(app, cookie=f"{NAME}={key}").text == "before 2"
    assert store.read(key) == {"count": 2}


# Pyramid


def act(request: Request) -> Any:
    """Do what the query asks for."""
    return ACTIONS[request.params["do"]](request)


def count(request: Request) -> int:
    """Count up."""
    request.session["count"] = request.session.get("count", 0) + 1
    return int(request.session["count"])


def flash_three(request: Request) -> None:
    """Flash into two queues, one message twice."""
    request.session.flash("saved")
    request.session.flash("saved", allow_duplicate=False)
    request.session.flash("<late>", queue="errors")


def checked(request: Request) -> bool:
    """Have the implementation of Pyramid's interface checked."""
    return bool(verifyObject(ISession, request.session))


def dictionary(request: Request) -> list[Any]:
    """Use it as a dictionary."""
    session = request.session
    session.update(a=1, b=2)
    del session["a"]
    session |= {"d": 4}
    assert session == {"b": 2, "d": 4}
    del session["d"]
    with pytest.raises(TypeError):
        copy.copy(session)
    return ["a" in session, list(session), len(session), session.pop("b"), session.setdefault("c", 3), dict(session)]


def mark_changed(request: Request) -> bool:
    """Tell it that it has changed, in both ways."""
    request.session.changed()
    request.session.modified = True
    return bool(request.session.modified)


ACTIONS: dict[str, Callable[[Any], Any]] = {
    "nothing": lambda request: type(request.session).__name__,
    "count": count,
    "flash": flash_three,
    "peek": lambda request: request.session.peek_flash(),
    "pop": lambda request: [request.session.pop_flash(queue) for queue in ("", "errors")],
    "token": lambda request: request.session.get_csrf_token(),
    "new token": lambda request: request.session.new_csrf_token(),
    "invalidate": lambda request: request.session.invalidate(),
    "age": lambda request: f"{request.session.new} {request.session.created}",
    "login": lambda request: request.session.login("ada"),
    "user": lambda request: request.session.user_id,
    "dictionary": dictionary,
    "changed": mark_changed,
    "verify": checked,
}


def change_address(request: Request) -> Response:
    """A form that needs a CSRF token."""
    return Response("changed")


def pyramid_app(database: str) -> SessionMiddleware:
    """Return a Pyramid application with sessions."""
    with Configurator() as config:
        config.include("sessionware.frameworks.pyramid")
        config.add_route("act", "/")
        config.add_route("form", "/form")
        config.add_view(act, route_name="act", renderer="string")
        config.add_view(change_address, route_name="form", require_csrf=True)
        config.add_view(lambda request: Response("plain"), name="plain")
        return SessionMiddleware(config.make_wsgi_app(), database)


@pytest.fixture
def visitor(sqlite: str) -> TestApp:
    """A visitor of a Pyramid application, under WebTest."""
    return TestApp(pyramid_app(sqlite), extra_environ={"wsgi.url_scheme": "https"})


def do(visitor: TestApp, name: str) -> str:
    """Have one action done; return what came of it."""
    return str(visitor.get("/", {"do": name}).text)


def test_pyramid_session_counts_on_every_engine(any_engine: str) -> None:
    """What request.session is told at one request it knows at the next."""
    browser = Browser(validated(pyramid_app(any_engine)))

    assert [browser.get("/?do=count").text for _ in range(3)] == ["1", "2", "3"]


def test_pyramid_finds_its_own_interface(visitor: TestApp) -> None:
    """Every method of ISession, with its arguments."""
    assert do(visitor, "verify") == "True"


def test_pyramid_session_is_a_dictionary(visitor: TestApp) -> None:
    """With all that dictionaries have."""
    assert do(visitor, "dictionary") == "[False, ['b'], 1, 2, 3, {'c': 3}]"


def test_pyramid_flash_queues(visitor: TestApp) -> None:
    """Peeking leaves them, popping takes them; a duplicate is left out where it is not wanted."""
    do(visitor, "flash")

    assert do(visitor, "peek") == "['saved']"
    assert do(visitor, "peek") == "['saved']"
    assert do(visitor, "pop") == "[['saved'], ['<late>']]"
    assert do(visitor, "pop") == "[[], []]"


def test_pyramid_flash_adds_to_what_is_there(visitor: TestApp) -> None:
    """Duplicates are allowed unless it is said otherwise."""
    do(visitor, "flash")
    do(visitor, "flash")

    assert do(visitor, "pop") == "[['saved', 'saved'], ['<late>', '<late>']]"


def test_pyramid_csrf_tokens(visitor: TestApp) -> None:
    """One a session until a new one is asked for; Pyramid checks forms against it."""
    first, same, new = (do(visitor, name) for name in ("token", "token", "new token"))

    assert first == same != new
    assert len(first) >= 43
    assert do(visitor, "token") == new
    headers = {"Referer": "https://localhost/"}
    assert visitor.post("/form", {"csrf_token": new}, headers=headers).text == "changed"
    assert visitor.post("/form", {"csrf_token": first}, headers=headers, status=400).status_int == 400


def test_pyramid_invalidate_ends_the_session(visitor: TestApp) -> None:
    """At once, and the cookie goes; what follows is another session."""
    do(visitor, "count")
    key = visitor.cookies[NAME]
    do(visitor, "invalidate")

    assert NAME not in visitor.cookies
    assert not visitor.app.store.exists(key)
    assert do(visitor, "count") == "1"
    assert visitor.cookies[NAME] != key


def test_pyramid_created_and_new(visitor: TestApp) -> None:
    """New until it is stored; created in whole epoch seconds."""
    before = do(visitor, "age")
    do(visitor, "count")
    new, created = do(visitor, "age").split()

    assert before == "True 0"
    assert new == "False"
    assert abs(int(created) - visitor.app.store.clock()) < 60


def test_pyramid_changed_has_the_session_stored(visitor: TestApp) -> None:
    """For code written for other sessions; here it is needed for nothing."""
    do(visitor, "count")
    (before,) = (row.revision for row in rows(visitor))

    assert do(visitor, "changed") == "True"
    assert [row.revision for row in rows(visitor)] != [before]


def test_pyramid_has_our_own_methods(visitor: TestApp) -> None:
    """What Pyramid does not know goes through."""
    do(visitor, "login")

    assert do(visitor, "user") == "ada"


def test_pyramid_pages_without_sessions_are_untouched() -> None:
    """request.session alone is no use; no page needs a database for it."""
    app = pyramid_app(NOWHERE)
    replies = [call(validated(app), path, cookie=f"{NAME}={'a' * 43}") for path in ("/plain", "/?do=nothing")]

    assert [reply.text for reply in replies] == ["plain", "PyramidSession"]
    assert [reply.all("Vary") + reply.set_cookies for reply in replies] == [[], []]


def test_pyramid_faults_reach_the_middleware() -> None:
    """503 where the session is used while there is no database."""
    reply = call(validated(pyramid_app(NOWHERE)), "/?do=count", cookie=f"{NAME}={'a' * 43}")

    assert (reply.status, reply.header("Retry-After"), reply.set_cookies) == (503, "5", [])


def retried(view: Any) -> Any:
    """Return a Pyramid application of one page, which is tried up to three times."""
    with Configurator(settings={"retry.attempts": 3}) as config:
        config.include("pyramid_retry")
        config.include("sessionware.frameworks.pyramid")
        config.add_route("page", "/")
        config.add_view(view, route_name="page")
        return config.make_wsgi_app()


def test_pyramid_retries_begin_anew(sqlite: str) -> None:
    """pyramid_retry runs the view again on the same environ: what the attempts that failed have done is gone."""
    attempts = []

    def buy(request: Any) -> Any:
        attempts.append(request.session.setdefault("count", 0))
        request.session["count"] += 1
        request.session.flash("bought")
        if len(attempts) < 3:
            raise RetryableException
        return Response(f"{request.session['count']} {request.session.peek_flash()}")

    app = retried(buy)
    middleware = SessionMiddleware(app, sqlite)
    visitor = TestApp(middleware, extra_environ={"wsgi.url_scheme": "https"})

    assert visitor.get("/").text == "1 ['bought']"
    assert attempts == [0, 0, 0]
    assert visitor.get("/").text == "2 ['bought', 'bought']"


@pytest.mark.parametrize("rotate", ["cycle_key", "login"])
@pytest.mark.parametrize("known", [False, True], ids=["new", "stored"])
def test_pyramid_retries_go_on_from_what_is_stored(sqlite: str, rotate: str, known: bool) -> None:
    """A new key that an attempt has stored is the visitor's: the old one is dead, and no other session begins."""
    attempts = []

    def enter(request: Any) -> Any:
        session = request.session
        if "start" in request.params:
            session["a"] = 1
            return Response("started")
        attempts.append(dict(session))
        session.cycle_key() if rotate == "cycle_key" else session.login("ann")
        session["b"] = len(attempts)
        session.save()
        if len(attempts) < 3:
            raise RetryableException
        return Response("entered")

    app = retried(enter)
    middleware = SessionMiddleware(app, sqlite)
    browser = Browser(validated(middleware))
    if known:
        browser.get("/?start=1")
    reply = browser.get("/")

    first = {"a": 1} if known else {}
    assert (reply.text, attempts) == ("entered", [first, first | {"b": 1}, first | {"b": 2}])
    assert middleware.store.read(reply.cookies[NAME]) == first | {"b": 3}
    assert middleware.store.count() == 1


def test_pyramid_retries_keep_a_logout(sqlite: str) -> None:
    """The session has ended, whatever the next attempt does: its cookie goes."""
    attempts = []

    def leave(request: Any) -> Any:
        attempts.append(1)
        if len(attempts) == 1:
            request.session.invalidate()
            raise RetryableException
        return Response("left")

    app = retried(leave)
    middleware = SessionMiddleware(app, sqlite)
    key = middleware.store.create({"a": 1})
    reply = call(validated(middleware), cookie=f"{NAME}={key}", url="https://example.test")

    assert (reply.text, reply.cookies, middleware.store.count()) == ("left", {NAME: ""}, 0)


def test_pyramid_retries_without_the_middleware_are_none_of_ours() -> None:
    """Tests and scripts of Pyramid run without it; a page that needs no session is retried as ever."""
    attempts = []

    def work(request: Any) -> Any:
        attempts.append(1)
        if len(attempts) < 2:
            raise RetryableException
        return Response("done")

    app = retried(work)

    assert TestApp(app).get("/").text == "done"


def test_pyramid_without_retries_needs_no_package(sqlite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """pyramid_retry is looked for, not demanded."""
    monkeypatch.setitem(sys.modules, "pyramid_retry", None)

    assert do(TestApp(pyramid_app(sqlite)), "count") == "1"


def test_pyramid_without_the_middleware_says_so() -> None:
    """At the first use, by name."""
    with pytest.raises(ConfigurationError, match="SessionMiddleware"):
        PyramidSession(Request.blank("/"))


def test_pyramid_with_another_key_in_the_environ(sqlite: str) -> None:
    """Told in Pyramid's own settings."""
    with Configurator(settings={"sessionware.environ_key": "shop.session"}) as config:
        config.include("sessionware.frameworks.pyramid")
        config.add_route("act", "/")
        config.add_view(act, route_name="act", renderer="string")
        app = SessionMiddleware(config.make_wsgi_app(), sqlite, environ_key="shop.session")
    browser = Browser(app)

    assert [browser.get("/?do=count").text for _ in range(2)] == ["1", "2"]


def rows(visitor: TestApp) -> Any:
    """Return the rows of the table."""
    store = visitor.app.store
    with store.database.engine.connect() as connection:
        return connection.execute(store.table.select()).all()
