"""S70: what happened can be seen: one log record and one call of the hook for each event, no secret in any."""

import logging
import re
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest

from sessionware import Session, SessionEvent, SessionInterrupted, keys
from sessionware.events import EventKind
from tests.support.driver import watching
from tests.support.faults import driver_error
from tests.support.site import NAME, Site, look

SECRET = "SECRET-4111"
ALARMING = {"duplicate", "corrupt", "dropped"}


def site_with(database: str, **options: Any) -> tuple[Site, str]:
    site = Site(database, idle_timeout=1000, **options)
    return site, site.log_in("ada", site.begin(card=SECRET))


def write(session: Session) -> None:
    session["b"] = SECRET


def during(site: Site, key: str, meanwhile: Callable[[], Any]) -> None:
    def page(session: Session) -> None:
        look(session)
        meanwhile()
        session["card"] = "mine"

    site.visit(page, key)


def late_extension(site: Site, key: str) -> None:
    site.clock.advance(500)
    error = driver_error(site.engine, "OperationalError")

    def fail_updates(call: Any, proceed: Callable[[], Any]) -> Any:
        if call.sql.startswith("UPDATE"):
            raise error
        return proceed()

    with watching(site.engine, fail_updates):
        site.visit(look, key)


def purged(site: Site) -> None:
    site.clock.advance(10_000)
    site.store.purge()


def expired(site: Site, key: str) -> None:
    site.clock.advance(1000)
    site.visit(look, key)


def bent(site: Site, key: str) -> None:
    site.change_row(key, data=f'{{"card":"{SECRET}')
    site.visit(look, key)


def listed(site: Site) -> str:
    return site.store.sessions_of("ada")[0].handle


CASES: dict[str, tuple[Callable[[Site, str], Any], list[tuple[str, str, bool, str | None]]]] = {
    "created": (lambda site, key: site.begin(a=1), [("created", "", True, None)]),
    "created, logged in": (lambda site, key: site.log_in("bob"), [("created", "", True, "bob")]),
    "rotated": (
        lambda site, key: site.visit(lambda s: s.cycle_key(), key),
        [("rotated", "was [0-9a-f]{32}", True, "ada")],
    ),
    "login": (lambda site, key: site.log_in("ada", key), [("rotated", "was [0-9a-f]{32}", True, "ada")]),
    "logout": (lambda site, key: site.visit(lambda s: (look(s), s.flush()), key), [("ended", "logout", True, "ada")]),
    "expired": (expired, [("ended", "expired", True, "ada")]),
    "one revoked": (lambda site, key: site.store.revoke(listed(site)), [("ended", "revoked", True, None)]),
    "a user revoked": (
        lambda site, key: site.store.revoke_user("ada"),
        [("ended", "revoked: 1 of the user's sessions", False, "ada")],
    ),
    "all revoked": (lambda site, key: site.store.revoke_all(), [("ended", r"revoked: all \d+ sessions", False, None)]),
    "merged": (
        lambda site, key: during(site, key, lambda: site.visit(write, key)),
        [("merged", "0 keys changed on both sides", True, "ada")],
    ),
    "conflict": (
        lambda site, key: during(site, key, lambda: site.visit(lambda s: s.update(card="yours"), key)),
        [("merged", "1 keys? changed on both sides", True, "ada")],
    ),
    "unknown": (lambda site, key: site.visit(look, keys.new_key()), [("unknown", "no such session", True, None)]),
    "malformed": (
        lambda site, key: site.visit(look, f"{key}{SECRET}"),
        [("malformed", "a cookie that is no session key", False, None)],
    ),
    "duplicate": (
        lambda site, key: site.visit(look, cookie=f"{NAME}={key}; {NAME}={site.store.create({})}"),
        [("duplicate", "2 live sessions", True, None)],
    ),
    "crowd": (
        lambda site, key: site.visit(look, cookie="; ".join(f"{NAME}={keys.new_key()}" for _ in range(5))),
        [("duplicate", "more session keys than are looked up", False, None)],
    ),
    "logout of several": (
        lambda site, key: site.visit(lambda s: s.flush(), cookie=f"{NAME}={key}; {NAME}={site.store.create({})}"),
        [("duplicate", "2 live sessions", True, None), ("ended", "logout: 2 sessions that .*", False, None)],
    ),
    "corrupt": (bent, [("corrupt", "[A-Za-z]+", True, "ada")]),
    "dropped, logged out": (
        lambda site, key: during(site, key, lambda: site.visit(lambda s: (look(s), s.flush()), key)),
        [("ended", "logout", True, "ada"), ("dropped", "ended by another request", True, "ada")],
    ),
    "dropped, rotated": (
        lambda site, key: during(site, key, lambda: site.visit(lambda s: s.cycle_key(), key)),
        [("rotated", "was .*", True, "ada"), ("dropped", "given a new key by another request", True, "ada")],
    ),
    "dropped extension": (late_extension, [("dropped", "not extended: .*", True, "ada")]),
    "purged": (lambda site, key: purged(site), [("purged", r"\d+ rows", False, None)]),
}


@pytest.mark.parametrize(("act", "expected"), CASES.values(), ids=CASES)
def test_s70_each_event_is_one_record_and_one_call(
    sqlite: str, caplog: pytest.LogCaptureFixture, act: Callable[[Site, str], Any], expected: list[Any]
) -> None:
    """Log and hook tell the same: what, whose, why and when; neither tells a key or a value."""
    site, key = site_with(sqlite)
    site.kinds()
    with caplog.at_level(logging.DEBUG, "sessionware"):
        act(site, key)
    records = [record for record in caplog.records if record.name == "sessionware"]
    told = [(event.kind, event.reason, event.handle is not None, event.user_id) for event in site.events]

    assert [(kind, handle, user) for kind, _, handle, user in told] == [
        (kind, handle, user) for kind, _, handle, user in expected
    ]
    assert all(re.fullmatch(wanted[1], found[1]) for wanted, found in zip(expected, told, strict=True)), told
    assert [record.event for record in records] == site.events  # type: ignore[attr-defined]
    for record, event in zip(records, site.events, strict=True):
        assert event.kind in record.getMessage()
        assert record.levelno == (logging.WARNING if event.kind in ALARMING else logging.INFO)
        assert event.at <= site.clock()
        told_of = f"{record.getMessage()} {record.args} {event!r} {asdict(event)}"
        assert SECRET not in told_of
        assert key not in told_of


def test_s70_every_kind_of_event_is_in_the_table_above() -> None:
    """A new kind needs a case."""
    assert {kind for _, expected in CASES.values() for kind, *_ in expected} == set(EventKind.__args__)  # type: ignore[attr-defined]


@pytest.mark.parametrize("act", [case[0] for case in CASES.values()], ids=CASES)
@pytest.mark.parametrize("error", [RuntimeError("x"), SessionInterrupted(ended=True)], ids=["its own", "one of ours"])
def test_s70_a_hook_that_raises_breaks_nothing(
    sqlite: str, caplog: pytest.LogCaptureFixture, act: Callable[[Site, str], Any], error: Exception
) -> None:
    """The rows are those of a site without a hook, and the log says whose fault it was."""

    def hook(event: SessionEvent) -> None:
        raise error

    results = []
    for on_event in (None, hook):
        site, key = site_with(f"{sqlite}{'' if on_event else 'x'}", on_event=on_event)
        caplog.clear()
        act(site, key)
        results.append([(row["data"], row["data"] and row["user_id"], row["used_at"]) for row in site.rows()])
    complaints = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]

    assert sorted(results[0], key=str) == sorted(results[1], key=str)
    assert complaints
    assert all(type(error).__name__ in complaint for complaint in complaints)
    assert SECRET not in caplog.text


def test_s70_nobody_listens_nothing_is_made(sqlite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a hook and with the log off, an event costs nothing."""
    monkeypatch.setattr("sessionware.events.SessionEvent", lambda *_: pytest.fail("an event was made"))
    monkeypatch.setattr(logging.getLogger("sessionware"), "disabled", True)
    site = Site(sqlite, on_event=None)

    assert site.values(site.begin(a=1)) == {"a": 1}


@pytest.mark.parametrize("offered", ["unknown", "malformed", "two live", "corrupt"])
def test_s70_who_hears_of_a_cookie_may_look_at_the_session(sqlite: str, offered: str) -> None:
    """A filter that adds the user to every record: one look, one event, and no recursion for whoever sends a cookie."""
    heard: list[str] = []
    request: list[Session] = []

    def hook(event: SessionEvent) -> None:
        heard.append(f"{event.kind} {request[0].get('name')}")

    site = Site(sqlite, on_event=hook)
    key, other = site.store.create({"name": "ann"}), site.store.create({"name": "bob"})
    if offered == "corrupt":
        site.change_row(key, data="{")
    cookies = {
        "unknown": f"{NAME}={'a' * 43}",
        "malformed": f"{NAME}=short",
        "two live": f"{NAME}={key}; {NAME}={other}",
        "corrupt": f"{NAME}={key}",
    }

    def page(session: Session) -> None:
        request.append(session)
        session.get("name")

    with site.counted() as calls:
        site.visit(page, cookie=cookies[offered])

    assert len(calls.statements) == (0 if offered == "malformed" else 1)
    assert [line.split()[1] for line in heard] == ["None"]
