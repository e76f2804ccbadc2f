"""S35-S50: fixation, logout, timeouts, and the sessions of a user."""

import itertools
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from sessionware import Session, SessionEvent, SessionInterrupted, StoreUnavailable, keys
from sessionware.record import TOMBSTONE_SECONDS
from tests.support.driver import Call, Proceed, watching
from tests.support.faults import driver_error, every_call
from tests.support.site import NAME, Site, Visited, ignore, look

IDLE, ABSOLUTE = 1000, 5000

Act = Callable[[Session], Any]


def write(session: Session) -> None:
    session["late"] = True


def rotate(session: Session) -> None:
    session.cycle_key()


def leave(session: Session) -> None:
    session.flush()


def timed(database: str, **options: Any) -> Site:
    return Site(database, **{"idle_timeout": IDLE, "absolute_timeout": ABSOLUTE, **options})


def during(site: Site, key: str, before: Act, meanwhile: Callable[[], Any], after: Act) -> Visited:
    """Serve a request that loads its session, then *meanwhile* happens, then it goes on to its end."""

    def page(session: Session) -> None:
        before(session)
        meanwhile()
        after(session)

    return site.visit(page, key)


ADOPTING = [
    pytest.param(write, id="write"),
    pytest.param(lambda session: session.save(), id="save"),
    pytest.param(lambda session: session.login("ada"), id="login"),
    pytest.param(lambda session: (session.cycle_key(), session.update(a=1)), id="rotate"),
    pytest.param(lambda session: (session.clear(), session.update(a=1)), id="clear"),
    pytest.param(lambda session: session.atomic(lambda values: values.update(a=1)), id="atomic"),
    pytest.param(lambda session: (session.session_key, session.update(a=1)), id="look at the key"),
    pytest.param(lambda session: (session.set_expiry(60), session.update(a=1)), id="set an expiry"),
]


@pytest.mark.parametrize("act", ADOPTING)
def test_s35_a_key_that_we_did_not_issue_is_never_adopted(sqlite: str, act: Act) -> None:
    """Else an attacker hands his victim a key, waits for the login, and is in (CVE-2024-38513)."""
    site, planted = Site(sqlite), keys.new_key()
    visit = site.visit(act, planted)

    assert visit.key not in (None, planted)
    assert site.row(planted) is None
    assert site.values(planted) == {}


@pytest.mark.parametrize("act", ADOPTING)
@pytest.mark.parametrize("state", ["expired", "revoked", "rotated away, long ago"])
def test_s36_nor_is_one_that_is_over(sqlite: str, act: Act, state: str) -> None:
    """A dead session stays dead, whether its row is still there or not (CVE-2024-35220)."""
    site = timed(sqlite)
    old = site.log_in("eve")
    if state == "revoked":
        site.store.revoke_user("eve")
    if state.startswith("rotated"):
        site.visit(rotate, old)
    site.clock.advance(IDLE if state == "expired" else TOMBSTONE_SECONDS)
    before = site.row(old)
    visit = site.visit(act, old)

    assert visit.key not in (None, old)
    assert site.row(old) == before
    assert site.values(old) == {}


def test_s36_a_key_just_rotated_away_mints_nothing_at_all(sqlite: str) -> None:
    """The browser has, or gets, the new cookie: this request must not put another one over it."""
    site = Site(sqlite)
    old = site.begin(a=1)
    new = site.visit(rotate, old).key
    rows = site.rows()
    site.kinds()
    for act in (look, write, lambda session: session.clear()):
        visit = site.visit(act, old)

        assert (visit.reply.status, visit.set_cookie) == (200, None)
    assert site.rows() == rows
    assert site.kinds() == ["dropped", "dropped"]
    for act in (rotate_and_write, leave, lambda session: session.save()):
        visit = site.visit(act, old)

        assert (visit.reply.status if act is not rotate_and_write else 400, visit.set_cookie) == (400, None)
    assert site.values(new or "") == {"a": 1}


def test_s36_a_login_with_a_key_just_rotated_away_gets_another(sqlite: str) -> None:
    """The answer with the new key may have been lost. Neither the old key nor the session under the new one serves."""
    site = Site(sqlite)
    old = site.begin(a=1)
    new = site.visit(rotate, old).key
    again = site.log_in("eve", old)

    assert len({old, new, again}) == 3
    assert (site.values(old), site.values(again), site.values(new or "")) == ({}, {}, {"a": 1})
    assert [info.user_id for info in site.store.sessions_of("eve")] == ["eve"]


def rotate_and_write(session: Session) -> None:
    session.cycle_key()
    session["late"] = True


def test_s37_a_rotation_kills_the_old_key_at_once(sqlite: str) -> None:
    """A key that was planted before the login opens nothing after it (WSTG-SESS-03)."""
    site = Site(sqlite)
    planted = site.begin(cart=[1])
    fresh = site.log_in("ada", planted)
    again = site.visit(rotate, fresh).key or ""

    assert len({planted, fresh, again}) == 3
    assert (site.values(planted), site.values(fresh)) == ({}, {})
    assert site.values(again) == {"cart": [1]}
    assert site.visit(lambda session: session.user_id, planted).value is None
    assert site.visit(lambda session: session.user_id, again).value == "ada"
    assert site.store.count() == 1


@pytest.mark.parametrize("mode", ["before", "after"])
@pytest.mark.parametrize("disconnect", [False, True], ids=["error", "connection lost"])
def test_s38_a_rotation_is_whole_or_has_not_happened(database: str, mode: Any, disconnect: bool) -> None:
    """Whatever statement fails, one of the two keys is alive, with the data; no success with a dead cookie."""
    site = Site(database)
    site.begin(a=0)
    faults_seen = 0
    for faults in every_call(
        lambda engine: driver_error(engine, "OperationalError"), mode=mode, disconnect=disconnect, only={"execute"}
    ):
        old = site.begin(a=1)
        before = site.store.count()
        with faults.on(site.engine):
            visit = site.visit(rotate_and_write, old)
        faults_seen += faults.fired is not None

        assert site.store.count() == before
        assert site.values(old) in ({}, {"a": 1})
        if visit.reply.status == 200:
            assert visit.key
            assert site.values(visit.key) == {"a": 1, "late": True}
            assert site.values(old) == {}
        else:
            assert (visit.reply.status, visit.set_cookie) == (503, None)
    assert faults_seen >= 4


def rotate_until_killed(database: str, key: str, moment: int) -> None:
    """Rotate, and die by kill -9 at a moment: even ones are before a call of the driver, odd ones behind it."""
    site, calls = Site(database), itertools.count()

    def die(call: Call, proceed: Proceed) -> Any:
        number = next(calls)
        if number == moment // 2 and moment % 2 == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        result = proceed()
        if number == moment // 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    with watching(site.engine, die):
        site.visit(rotate_and_write, key)
    os._exit(0)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_s38_a_process_that_is_killed_leaves_a_rotation_whole_or_undone(any_engine: str) -> None:
    """Before and behind each call of the driver; the key that is alive can be used at once, no lock is left."""
    site = Site(any_engine)
    site.begin(a=0)
    alive = []
    for moment in itertools.count():
        old = site.begin(a=1)
        child = multiprocessing.get_context("fork").Process(target=rotate_until_killed, args=(any_engine, old, moment))
        child.start()
        child.join()
        if child.exitcode == 0:
            break
        alive.append("old" if site.values(old) else "new")
        kept = [row["data"] for row in site.rows() if row["data"] is not None]

        assert child.exitcode == -signal.SIGKILL
        assert len(kept) == site.store.count() == moment + 2
        assert sum('"late":true' in data for data in kept) == alive.count("new")
        if alive[-1] == "old":
            assert site.values(old) == {"a": 1}
            assert site.visit(lambda session: session.update(b=1), old).reply.status == 200
    assert len(alive) >= 8
    assert alive == sorted(alive, reverse=True)
    assert {*alive} == {"old", "new"}


def test_s39_a_request_with_the_old_key_neither_revives_nor_alters(sqlite: str) -> None:
    """Request A loads; B logs in, which rotates; A writes: nothing of A is kept, and the login is."""
    site = Site(sqlite)
    old = site.begin(a=1)
    new: list[str] = []
    visit = during(site, old, look, lambda: new.append(site.log_in("ada", old)), write)
    row = site.row(old)

    assert (visit.reply.status, visit.set_cookie) == (400, None)
    assert row is None or row["data"] is None
    assert site.values(new[0]) == {"a": 1}
    assert site.visit(lambda session: session.user_id, new[0]).value == "ada"


LATE_WRITERS = [
    pytest.param(write, id="write"),
    pytest.param(lambda session: session["list"].append(2), id="change inside"),
    pytest.param(rotate, id="rotate"),
    pytest.param(lambda session: session.login("ada"), id="login"),
    pytest.param(lambda session: session.clear(), id="clear"),
    pytest.param(lambda session: session.set_expiry(60), id="expiry"),
    pytest.param(lambda session: setattr(session, "modified", True), id="modified"),
    pytest.param(lambda session: (write(session), session.save()), id="save"),
    pytest.param(lambda session: session.atomic(lambda values: values.update(a=2)), id="atomic"),
]


@pytest.mark.parametrize("act", LATE_WRITERS)
def test_s40_a_logout_is_final_against_late_writers(sqlite: str, act: Act) -> None:
    """Request A loads; B logs out; A changes something: the session stays ended, and A is told (CVE-2025-46336)."""
    site = Site(sqlite)
    key = site.begin(a=1, list=[1])
    visit = during(site, key, look, lambda: site.visit(leave, key), act)

    assert visit.reply.status == 400
    assert visit.key is None
    assert site.row(key) is None
    assert site.store.count() == 0


@pytest.mark.parametrize("always", [False, True], ids=["when due", "save_every_request"])
@pytest.mark.parametrize("act", [ignore, look, lambda session: session.get("list")])
def test_s41_a_logout_is_final_against_late_readers(sqlite: str, act: Act, always: bool) -> None:
    """A late extension must not bring the row back, as express-session's resave does."""
    site = timed(sqlite, save_every_request=always)
    key = site.begin(a=1, list=[1])
    site.clock.advance(IDLE // 2)
    visit = during(site, key, act, lambda: site.visit(leave, key), act)

    assert visit.reply.status == 200
    assert visit.key is None
    assert site.row(key) is None


@pytest.mark.parametrize("always", [False, True], ids=["when due", "save_every_request"])
def test_s42_late_answers_bring_no_cookie_back(sqlite: str, always: bool) -> None:
    """The browser has dropped its cookie: an extension that arrives later would put it there again."""
    site = timed(sqlite, save_every_request=always)
    for act in (look, write, lambda session: session.get("list")):
        key = site.begin(a=1, list=[1])
        site.clock.advance(IDLE // 2)
        visit = during(site, key, look, lambda key=key: site.visit(leave, key), act)  # type: ignore[misc]

        assert visit.key is None
        if visit.reply.status == 200:
            assert visit.set_cookie is None


@contextmanager
def outage(site: Site) -> Iterator[None]:
    """Have every call of the driver fail."""
    error = driver_error(site.engine, "OperationalError")

    def fail(call: Call, proceed: Proceed) -> Any:
        raise error

    with watching(site.engine, fail):
        yield


@pytest.mark.parametrize("planted", [0, 1, 4])
def test_s43_a_logout_that_did_not_reach_the_database_is_no_success(sqlite: str, planted: int) -> None:
    """The visitor must not believe that he is logged out; in this browser, at least, he is."""
    site = Site(sqlite)
    key = site.begin(a=1)
    with outage(site):
        cookie = "; ".join(f"{NAME}={offered}" for offered in [*(keys.new_key() for _ in range(planted)), key])
        visit = site.visit(leave, cookie=cookie)
        reader = site.visit(look, key)

    assert visit.reply.status == 503
    assert visit.clears
    assert (reader.reply.status, reader.set_cookie) == (503, None)
    assert site.values(key) == {"a": 1}


def test_s43_an_application_can_see_it_too(sqlite: str) -> None:
    """StoreUnavailable comes at the line of the logout."""
    site = Site(sqlite)
    key = site.begin(a=1)

    def page(session: Session) -> None:
        with pytest.raises(StoreUnavailable):
            session.flush()

    with outage(site):
        visit = site.visit(page, key)

    assert visit.clears


def test_s44_a_hook_that_raises_keeps_no_session_alive(sqlite: str) -> None:
    """The listener of CVE-2021-34428 raised, and the session stayed."""

    def hook(event: SessionEvent) -> None:
        raise RuntimeError(event.kind)

    site = Site(sqlite, on_event=hook)
    key, other = site.begin(a=1), site.log_in("ada")
    visit = site.visit(leave, key)
    site.store.revoke_user("ada")

    assert (visit.reply.status, visit.clears) == (200, True)
    assert site.store.count() == 0
    assert site.values(other) == {}


def test_s44_an_application_that_raises_after_its_logout_does_not_undo_it(sqlite: str) -> None:
    """A page that fails is saved nowhere, but what is over is over."""
    site = Site(sqlite)
    key = site.begin(a=1)

    def page(session: Session) -> None:
        session.flush()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        site.visit(page, key)

    assert site.row(key) is None
    key = site.begin(a=1)
    assert site.visit(leave, key, status="500 Oops").clears
    assert site.row(key) is None


def test_s45_an_idle_session_dies_on_the_second(sqlite: str) -> None:
    """The server counts, whatever the browser keeps."""
    site = timed(sqlite)
    early, late = site.begin(a=1), site.begin(a=1)
    site.clock.advance(IDLE - 1)

    assert site.values(early) == {"a": 1}
    site.clock.advance(1)
    assert site.values(late) == {}
    site.clock.advance(IDLE - 2)
    assert site.values(early) == {"a": 1}


@pytest.mark.parametrize("always", [False, True], ids=["when due", "save_every_request"])
@pytest.mark.parametrize("act", [look, write, lambda session: session.set_expiry(IDLE * 99), rotate])
def test_s46_no_activity_carries_a_session_past_its_absolute_limit(database: str, act: Act, always: bool) -> None:
    """A stolen key must not be kept alive for ever by using it."""
    site = timed(database, save_every_request=always)
    key, before = site.begin(a=1), site.clock()
    while site.clock() < before + ABSOLUTE - 1:
        key = site.visit(act, key).key or key
        site.clock.advance(min(IDLE // 2, before + ABSOLUTE - 1 - site.clock()))

    assert "a" in site.values(key)
    key = site.visit(rotate, key).key or ""

    assert "a" in site.values(key)
    site.clock.advance(1)
    assert site.values(key) == {}


def test_s46_only_a_login_begins_the_absolute_limit_anew(sqlite: str) -> None:
    """Who has just proved who he is starts a new session."""
    site = timed(sqlite)
    key, other = site.begin(a=1), site.begin(a=2)
    site.clock.advance(IDLE - 1)
    key = site.log_in("ada", key)
    site.visit(write, other)
    ends = [row["expires_at"] - int(site.clock()) for row in (site.row(key), site.row(other)) if row]
    created = [row["created_at"] - int(site.clock()) for row in (site.row(key), site.row(other)) if row]

    assert ends == [IDLE, IDLE]
    assert created == [0, 1 - IDLE]


@pytest.mark.parametrize("purging", [False, True], ids=["row still there", "row purged"])
@pytest.mark.parametrize("act", [look, *LATE_WRITERS])
def test_s47_what_expires_during_a_request_stays_dead(database: str, act: Act, purging: bool) -> None:
    """Loaded a moment before its end and stored after it: every write asks whether the row is alive."""
    site = timed(database)
    key = site.begin(a=1, list=[1])
    site.clock.advance(IDLE - 1)

    def meanwhile() -> None:
        site.clock.advance(1)
        if purging:
            site.clock.advance(3600)
            assert site.store.purge() == 1

    visit = during(site, key, look, meanwhile, act)

    assert visit.reply.status == (200 if act is look else 400)
    assert visit.key is None
    assert site.values(key) == {}
    assert site.store.count() == 0
    assert len(site.rows()) == (0 if purging else 1)


def test_s47_the_unused_are_not_extended_beyond_death(database: str) -> None:
    """save_every_request extends unseen; the condition is in that very statement."""
    site = timed(database, save_every_request=True)
    key = site.begin(a=1)
    site.clock.advance(IDLE - 1)
    alive = site.visit(ignore, key)
    site.clock.advance(IDLE)
    dead = site.visit(ignore, key)

    assert alive.key == key
    assert dead.set_cookie is None
    assert site.values(key) == {}


def test_s48_all_other_sessions_of_a_user_can_be_ended(database: str) -> None:
    """After a change of password this browser stays and all others go, also those with a request under way."""
    site = Site(database)
    mine, *others = [site.log_in("ada") for _ in range(5)]
    stranger = site.log_in("bob")

    def revoke() -> None:
        handle = site.visit(lambda session: session.handle, mine).value
        assert site.store.revoke_user("ada", keep=handle) in (4, 0)

    writer = during(site, others[0], look, revoke, write)
    reader = during(site, others[1], look, revoke, look)

    assert (writer.reply.status, writer.key, reader.key) == (400, None, None)
    assert [site.store.exists(key) for key in (mine, stranger, *others)] == [True, True, *[False] * 4]
    assert len(site.rows()) == 2 + 1  # and the mark of the revocation
    assert [info.user_id for info in site.store.sessions_of("ada")] == ["ada"]


@pytest.mark.parametrize("everybody", [False, True], ids=["the user", "everybody"])
@pytest.mark.parametrize("stored", [False, True], ids=["no session yet", "a session"])
def test_s48_a_login_under_way_does_not_slip_through(database: str, everybody: bool, stored: bool) -> None:
    """The old password was checked before the revocation, the session is stored after it."""
    site = Site(database)
    key = site.begin(a=1) if stored else keys.new_key()

    def revoke() -> None:
        if everybody:
            site.store.revoke_all()
        else:
            site.store.revoke_user("ada")

    visit = during(site, key, lambda session: session.login("ada"), revoke, write)

    assert visit.reply.status == 400
    assert visit.key is None
    assert site.store.sessions_of("ada") == []
    assert site.log_in("ada")


@pytest.mark.parametrize("revoke", ["revoke", "revoke_user", "revoke_all"])
def test_s48_a_revocation_is_final_however_it_is_told(database: str, revoke: str) -> None:
    """One session, one user, everybody: what was live then never is again."""
    site = Site(database)
    key = site.log_in("ada")
    handle = site.store.sessions_of("ada")[0].handle
    words = {"revoke": [handle], "revoke_user": ["ada"], "revoke_all": []}[revoke]
    visit = during(site, key, look, lambda: getattr(site.store, revoke)(*words), write)

    assert visit.reply.status == 400
    assert site.values(key) == {}
    assert site.store.count() == 0


def test_s48_the_sessions_of_a_user_are_found_by_an_index(database: str) -> None:
    """A site with a million sessions must be able to do this at every change of a password."""
    site = Site(database)
    for number in range(50):
        site.store.create({}, user_id=f"user {number}")
    with site.counted() as listing:
        site.store.sessions_of("user 7")
    with site.counted() as ending:
        site.store.revoke_user("user 7")
    ending.all = [call for call in ending.all if call.sql.startswith("DELETE")]

    for calls in (listing, ending):
        assert "ix_sessionware_session_user_id" in site.explained(calls)


def test_s49_what_a_list_shows_opens_nothing(sqlite: str) -> None:
    """A page "my sessions" shows handles, and a handle is no key (CVE-2020-5224)."""
    site = Site(sqlite)
    key = site.log_in("ada")
    (info,) = site.store.sessions_of("ada")
    shown = [info.handle, info.handle.upper(), info.handle + info.handle[:11], *map(str, (info, info.user_id))]
    shown += [str(moment.timestamp()) for moment in (info.created_at, info.last_used_at, info.expires_at)]

    assert all(site.visit(look, cookie=f"{NAME}={text}; x=y").value == {} for text in shown)
    assert not [text for text in shown if key[:12] in text]
    assert [site.store.revoke(text) for text in (key, keys.digest(key).hex(), "", "%", "' OR 1=1")] == [False] * 5
    assert site.store.revoke(info.handle)
    assert site.store.count() == 0


@pytest.mark.parametrize("value", ["", "None", "null", "0", '""', "deleted", " "])
def test_s50_an_empty_key_is_nobodys_session(sqlite: str, value: str) -> None:
    """In CVE-2015-3982 all who had logged out shared the session of the empty key."""
    site = Site(sqlite)
    keys_made = [site.visit(write, cookie=f"{NAME}={value}").key for _ in range(2)]

    assert len(set(keys_made)) == 2
    assert site.visit(look, cookie=f"{NAME}={value}").value == {}


AFTER_LOGOUT = [
    pytest.param(leave, None, id="logout again"),
    pytest.param(look, None, id="read"),
    pytest.param(rotate, None, id="rotate"),
    pytest.param(lambda session: session.clear(), None, id="clear"),
    pytest.param(lambda session: session.pop("a", None), None, id="pop"),
    pytest.param(write, {"late": True}, id="write"),
    pytest.param(lambda session: session.login("ada"), {}, id="login"),
    pytest.param(lambda session: session.save(), {}, id="save"),
    pytest.param(lambda session: session.atomic(lambda values: values.update(b=1)), {"b": 1}, id="atomic"),
]


@pytest.mark.parametrize(("act", "expected"), AFTER_LOGOUT)
def test_s50_after_a_logout_only_an_explicit_change_begins_a_session(sqlite: str, act: Act, expected: Any) -> None:
    """And that is a new one, which has nothing of the old."""
    site = Site(sqlite)
    key = site.log_in("eve", site.begin(a=1))

    def page(session: Session) -> None:
        session.flush()
        assert session.session_key is None
        act(session)

    visit = site.visit(page, key)

    assert visit.reply.status == 200
    assert site.row(key) is None
    if expected is None:
        assert visit.clears
        assert site.rows() == [row for row in site.rows() if row["data"] is None]
    else:
        assert visit.key not in (None, key)
        assert site.values(visit.key or "") == expected
        assert site.visit(lambda session: session.user_id, visit.key).value != "eve"


def test_s50_requests_of_one_browser_that_log_out_twice_agree(sqlite: str) -> None:
    """Two clicks on the button are one logout."""
    site = Site(sqlite)
    key = site.begin(a=1)
    visit = during(site, key, look, lambda: site.visit(leave, key), leave)

    assert (visit.reply.status, visit.clears) == (200, True)
    assert site.store.count() == 0


def test_the_interruption_says_whether_a_session_is_left(sqlite: str) -> None:
    """An application that catches it may answer a logout and a rotation differently."""
    site = Site(sqlite)
    told = []

    def page(session: Session) -> None:
        session["x"] = 1
        try:
            session.save()
        except SessionInterrupted as error:
            told.append(error.ended)

    for act in (leave, rotate):
        key = site.begin(a=1)
        during(site, key, look, lambda key=key, act=act: site.visit(act, key), page)  # type: ignore[misc]

    assert told == [True, False]


@pytest.mark.parametrize(
    "act",
    [
        pytest.param(lambda session: (dict(session), session.flush()), id="read, then logout"),
        pytest.param(leave, id="logout"),
        pytest.param(lambda session: session.login("bob"), id="login"),
    ],
)
def test_s40_a_logout_ends_what_this_process_cannot_read(sqlite: str, act: Act) -> None:
    """Another release has written it, or one with a larger max_bytes: its key opens it there."""
    larger = Site(sqlite)
    smaller = Site(larger.store, max_bytes=100)
    key = larger.begin(a="x" * 1000)
    assert smaller.values(key) == {}
    assert larger.values(key) != {}, "who only looks ends nothing"
    visit = smaller.visit(act, key)

    assert visit.reply.status == 200
    assert larger.values(key) == {}
    assert larger.store.count() == (not visit.clears)


@pytest.mark.parametrize("saved", [False, True], ids=["", "saved before"])
@pytest.mark.parametrize("go", [leave, lambda session: session.login("bob")], ids=["logout", "login"])
def test_s40_what_cannot_be_read_takes_nothing_from_the_session_beside_it(sqlite: str, go: Act, saved: bool) -> None:
    """A login keeps what its visitor has put in; the unreadable row goes in any case."""
    larger = Site(sqlite)
    smaller = Site(larger.store, max_bytes=100)
    key = larger.begin(a="x" * 1000)

    def page(session: Session) -> None:
        session["next"] = "/x"
        if saved:
            session.save()
        go(session)

    visit = smaller.visit(page, key)

    assert larger.row(key) is None
    assert larger.store.count() == (go is not leave)
    if go is not leave:
        assert smaller.values(str(visit.key)) == {"next": "/x"}


def _fail_with(act: Act) -> Act:
    def page(session: Session) -> None:
        act(session)
        raise StoreUnavailable("The database cannot be reached.")

    return page


@pytest.mark.parametrize(
    ("act", "user"),
    [
        pytest.param(lambda session: (session.update(a=1), session.save()), None, id="saved"),
        pytest.param(lambda session: (session.login("ada"), session.save()), "ada", id="logged in"),
    ],
)
@pytest.mark.parametrize("known", [True, False], ids=["known", "new"])
def test_an_outage_after_a_save_takes_nobodys_key(sqlite: str, act: Act, user: str | None, known: bool) -> None:
    """What is stored under a new key is lost to its visitor unless the 503 brings that key."""
    site = Site(sqlite)
    key = site.begin(a=1) if known else None
    visit = site.visit(_fail_with(act), key)

    assert visit.reply.status == 503
    assert visit.reply.header("Cache-Control") == "no-store"
    assert site.visit(lambda session: (session.get("a"), session.user_id), visit.key or key).value == (
        None if user and not known else 1,
        user,
    )
    assert site.store.count() == 1


@pytest.mark.parametrize("act", [write, rotate, look], ids=["write", "rotate", "look"])
def test_an_outage_before_any_save_sends_no_key(sqlite: str, act: Act) -> None:
    """There is none that would open anything."""
    site = Site(sqlite)
    key = site.begin(a=1)

    assert site.visit(_fail_with(act), key).set_cookie is None
    assert site.visit(_fail_with(act)).set_cookie is None
    assert site.values(key) == {"a": 1}


@pytest.mark.parametrize("look_at", ["session_key", "handle", "is_empty", "accessed", "outcome", "user_id", "nothing"])
def test_save_every_request_extends_whatever_was_looked_at(sqlite: str, look_at: str) -> None:
    """An application that logs the key of each request must not log its users out by that."""
    site = timed(sqlite, save_every_request=True)
    key = site.begin(a=1)

    def page(session: Session) -> None:
        found = getattr(session, look_at, None)
        if callable(found):
            found()

    for _ in range(3):
        site.clock.advance(IDLE - 1)
        assert site.visit(page, key).key == key
    assert site.store.exists(key)
