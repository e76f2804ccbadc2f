"""What becomes of a session when the response is decided: Django's branches S1-S11, for every shape of application."""

from typing import Any

import pytest

from sessionware import Session, UnstorableValue
from tests.support.apps import KEY, NOWHERE, PLAIN, SHAPES, Action, ValidatedSite, nothing
from tests.support.counting import statements
from tests.support.wsgi import Reply

UNKNOWN = "__Host-sessionid=" + "x" * 43
ERRORS = ["500 Internal Server Error", "599 Odd"]


# Validators inside wrap each body: a list is one only without them.
MODES = [(name, False) for name in ("object", "late", "write", "restart")] + [("list", True), ("late", True)]


@pytest.fixture(params=SHAPES)
def shape(request: pytest.FixtureRequest) -> Any:
    return SHAPES[request.param]


@pytest.fixture(params=MODES, ids=lambda mode: f"{mode[0]}-bare" if mode[1] else mode[0])
def site(request: pytest.FixtureRequest, sqlite: str) -> ValidatedSite:
    name, bare = request.param
    return ValidatedSite(sqlite, shape=SHAPES[name], bare=bare)


def write(session: Session) -> None:
    session["a"] = 1


def rewrite(session: Session) -> None:
    session["a"] = 2


def read(session: Session) -> Any:
    return session.get("a")


def clears(reply: Reply) -> bool:
    return len(reply.set_cookies) == 1 and "; Max-Age=0;" in reply.set_cookies[0]


def sets(reply: Reply) -> bool:
    return len(reply.set_cookies) == 1 and "; Max-Age=0;" not in reply.set_cookies[0]


@pytest.mark.parametrize("path", ["/dict", "/gone"])
def test_S1_an_application_that_takes_the_session_away_is_in_charge(sqlite: str, path: str) -> None:
    """S1: whatever it has put in its place, or nothing, the response goes out as it is."""

    def replacing(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ.pop(KEY)["a"] = 1
        if path == "/dict":
            environ[KEY] = {"mine": 1}
        start_response("200 OK", list(PLAIN))
        return [b"done"]

    site = ValidatedSite(sqlite, replacing)

    assert site.browser.get(path).headers == PLAIN
    assert site.store.count() == 0


@pytest.mark.parametrize("status", ["200 OK", *ERRORS])
def test_S2_an_ended_session_clears_the_cookie(site: ValidatedSite, status: str) -> None:
    """S2: whatever the status is: the row is gone already."""
    site.visit(write)
    reply = site.visit(lambda session: session.flush(), status)

    assert clears(reply)
    assert (reply.header("Vary"), reply.header("Cache-Control")) == ("Cookie", "no-store")
    assert (site.browser.jar.stored, site.store.count()) == ({}, 0)


@pytest.mark.parametrize("key", ["x" * 43, "", "abc"], ids=["unknown", "empty", "short"])
def test_S2_a_cookie_that_names_nothing_is_cleared_when_it_is_looked_at(site: ValidatedSite, key: str) -> None:
    """S2: Django clears a malformed one also unseen; here an untouched request is never touched."""
    cookie = f"__Host-sessionid={key}"

    assert clears(site.visit(read, cookie=cookie))
    assert site.visit(nothing, cookie=cookie).headers == PLAIN


@pytest.mark.parametrize("status", ["200 OK", *ERRORS])
def test_S3_reading_varies(site: ValidatedSite, status: str) -> None:
    """S3: with and without a session, and also on an error page; nothing else is said."""
    varied = [*PLAIN, ("Vary", "Cookie")]

    assert site.visit(read, status).headers == varied
    site.visit(write)
    assert site.visit(read, status).headers == varied


def test_S3_not_reading_does_not_vary(site: ValidatedSite) -> None:
    """S3: a page that everybody shares stays shared."""
    assert site.visit(nothing).headers == PLAIN
    site.visit(write)
    assert site.visit(nothing).headers == PLAIN


@pytest.mark.parametrize("status", ["200 OK", "302 Found", "404 Not Found", "499 Odd"])
def test_S4b_a_change_is_stored_and_the_cookie_sent(site: ValidatedSite, status: str) -> None:
    """S4b: also with a redirect and with an error of the client; the cookie comes again with each change."""
    first, second = site.visit(write, status), site.visit(rewrite, status)

    assert sets(first)
    assert sets(second)
    assert first.cookies == second.cookies
    assert first.header("Cache-Control") == "no-store"
    assert site.look(read) == 2


@pytest.mark.parametrize("status", ERRORS)
def test_S4c_an_error_stores_nothing(site: ValidatedSite, status: str) -> None:
    """S4c: half a request is no request; it varies nevertheless."""
    first = site.visit(write, status)

    assert (first.set_cookies, first.header("Vary"), site.store.count()) == ([], "Cookie", 0)

    site.visit(write)

    assert site.visit(rewrite, status).set_cookies == []
    assert site.look(read) == 1


@pytest.mark.parametrize(
    "action",
    [
        pytest.param(lambda session: (session.update(a=2), session.save(), session.update(b=3)), id="save"),
        pytest.param(lambda session: (session.atomic(lambda v: v.update(a=2)), session.update(b=3)), id="atomic"),
    ],
)
def test_S4c_what_was_already_done_stays_done(site: ValidatedSite, action: Action) -> None:
    """S4c: the application asked for it itself, before it failed; the cookie of a new session says so."""
    assert sets(site.visit(action, ERRORS[0]))
    assert site.look(dict) == {"a": 2}
    assert site.visit(action, ERRORS[0]).set_cookies == []


@pytest.mark.parametrize("action", [lambda s: s.cycle_key(), lambda s: s.login("ann")], ids=["cycle_key", "login"])
def test_S4c_a_new_key_waits_for_success(site: ValidatedSite, action: Action) -> None:
    """S4c: Django has rotated by then; here a failed request changes nothing, and the old key lives on."""
    site.visit(write)

    assert site.visit(action, ERRORS[0]).set_cookies == []
    assert site.look(lambda session: (session["a"], session.user_id)) == (1, None)


def test_S4d_a_session_ended_meanwhile_is_400(site: ValidatedSite) -> None:
    """S4d: the response is thrown away; unlike Django's, this 400 clears the useless cookie."""

    def write_after_logout(session: Session) -> None:
        session["a"] = 2
        assert site.store.revoke(str(session.handle))

    site.visit(write)
    reply = site.visit(write_after_logout)

    assert (reply.status, clears(reply), reply.header("Cache-Control")) == (400, True, "no-store")
    assert site.store.count() == 0


def test_S4d_a_session_rotated_meanwhile_is_400_and_sets_no_cookie(site: ValidatedSite) -> None:
    """S4d: the browser has a newer cookie by then, or will have; it must not lose it."""
    site.visit(write)
    old = site.browser.jar.header_for(site.browser.url, site.clock())
    other = ValidatedSite(str(site.middleware.store.database.engine.url), clock=site.clock)

    def write_after_rotation(session: Session) -> None:
        session["a"] = 2
        other.visit(lambda session: session.cycle_key(), cookie=old)

    reply = site.visit(write_after_rotation)

    assert (reply.status, reply.set_cookies, reply.header("Vary")) == (400, [], "Cookie")
    assert site.store.count() == 1


def test_S4d_reading_with_an_outdated_key_sets_no_cookie(site: ValidatedSite) -> None:
    """S4d: it reads as empty; a clearing cookie could meet the new one in the browser and take it away."""
    site.visit(write)
    old = site.browser.jar.header_for(site.browser.url, site.clock())
    site.visit(lambda session: session.cycle_key())

    for action in (read, rewrite):
        reply = site.visit(action, cookie=old)
        assert (reply.set_cookies, reply.header("Vary")) == ([], "Cookie")
    assert site.look(read) == 1


def test_S4e_what_cannot_be_stored_is_an_error_of_the_application(site: ValidatedSite) -> None:
    """S4e: it comes out of the middleware as it is, before any byte has left."""
    with pytest.raises(UnstorableValue, match="'a'"):
        site.visit(lambda session: session.update(a=object()))

    assert site.store.count() == 0


def test_S6_an_exception_stores_nothing(site: ValidatedSite) -> None:
    """S6: it passes through; what the request had changed so far is dropped."""
    site.visit(write)

    def fail(session: Session) -> None:
        session["a"] = 2
        session["b"] = [1]
        raise LookupError("broken")

    with pytest.raises(LookupError, match="broken"):
        site.visit(fail)

    assert site.look(dict) == {"a": 1}


def test_S8_reading_stores_nothing_and_sets_no_cookie(site: ValidatedSite) -> None:
    """S8: until enough of the idle timeout has passed for the use to be worth a write."""
    site.visit(write)
    site.clock.advance(3600)

    assert site.visit(read).set_cookies == []


def test_S9_save_every_request_creates_nothing(sqlite: str, shape: Any) -> None:
    """S9: there is nothing to extend, and a bot must not cost a row."""
    site = ValidatedSite(sqlite, shape=shape, save_every_request=True)
    plain, unknown = site.visit(nothing), site.visit(nothing, cookie=UNKNOWN)

    assert plain.headers == unknown.headers == PLAIN
    assert (site.visit(read).set_cookies, site.store.count()) == ([], 0)


@pytest.mark.parametrize("action", [nothing, read], ids=["untouched", "read"])
def test_S9_save_every_request_extends_and_sends_the_cookie(sqlite: str, shape: Any, action: Action) -> None:
    """S4, S9: every request with a live session, also one that does not look at it."""
    site = ValidatedSite(sqlite, shape=shape, save_every_request=True)
    site.visit(write)
    site.clock.advance(10)
    reply = site.visit(action)

    assert sets(reply)
    assert (reply.header("Vary"), reply.header("Cache-Control")) == ("Cookie", "no-store")
    assert site.look(lambda session: session.get_expiry_date() - session.created_at).total_seconds() == 1209610


def test_S10_an_emptied_session_stays(site: ValidatedSite) -> None:
    """S10: the key is kept, so it is stored as empty."""
    site.visit(write)

    assert sets(site.visit(lambda session: session.pop("a")))
    assert (site.store.count(), site.look(lambda session: (len(session), session.is_empty()))) == (1, (0, False))


def test_S10_set_and_deleted_again_is_no_session(site: ValidatedSite) -> None:
    """S10: no row, no cookie, only Vary."""
    reply = site.visit(lambda session: (session.update(a=1), session.pop("a")))

    assert (reply.headers, site.store.count()) == ([*PLAIN, ("Vary", "Cookie")], 0)


def test_S11_what_follows_a_flush_is_a_new_session(site: ValidatedSite) -> None:
    """S11: one cookie, the new one, and the old session is gone."""
    first = site.visit(write)
    second = site.visit(lambda session: (session.flush(), session.update(b=2)))

    assert sets(second)
    assert first.cookies != second.cookies
    assert (site.look(dict), site.store.count()) == ({"b": 2}, 1)


def test_S11_flushing_twice_is_safe(site: ValidatedSite) -> None:
    """S11: also without a session, where no cookie has to be cleared."""
    twice: Action = lambda session: (session.flush(), session.flush())  # noqa: E731
    site.visit(write)

    assert clears(site.visit(twice))
    assert site.visit(twice).set_cookies == []


def test_browser_length_cookies_have_no_age(sqlite: str, shape: Any) -> None:
    """S4a: as an option, or as this session wishes."""
    usual, short = (ValidatedSite(sqlite, shape=shape, expire_at_browser_close=value) for value in (False, True))

    assert "Max-Age=1209600" in usual.visit(write).set_cookies[0]
    assert "Max-Age" not in usual.visit(lambda session: session.set_expiry(0)).set_cookies[0]
    assert "Max-Age" not in short.visit(write).set_cookies[0]
    assert "Max-Age=60" in short.visit(lambda session: session.set_expiry(60)).set_cookies[0]


@pytest.mark.parametrize(
    ("action", "verbs"),
    [
        pytest.param(nothing, [], id="untouched"),
        pytest.param(read, ["SELECT"], id="read"),
        pytest.param(write, ["SELECT"], id="set to the same"),
        pytest.param(rewrite, ["SELECT", "UPDATE"], id="change"),
        pytest.param(lambda session: (rewrite(session), session.save()), ["SELECT", "UPDATE"], id="save and end"),
        pytest.param(lambda session: session.clear(), ["SELECT", "UPDATE"], id="clear"),
        pytest.param(lambda session: session.flush(), ["DELETE"], id="flush"),
    ],
)
def test_statements_of_a_request(site: ValidatedSite, action: Action, verbs: list[str]) -> None:
    """No statement is spent on what did not change, in any shape of application."""
    site.visit(write)
    with statements(site.store.database.engine) as calls:
        site.visit(action)

    assert calls.verbs == verbs


def test_a_page_without_a_session_needs_no_database(shape: Any) -> None:
    """Untouched means untouched: the database may be anywhere."""
    site = ValidatedSite(NOWHERE, shape=shape)

    assert site.visit(nothing, cookie=UNKNOWN).headers == PLAIN
    assert site.visit(nothing).status == 200
