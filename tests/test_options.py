"""Wrong options are refused when the middleware is made, by name; and making it does nothing else."""

import os
import threading
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from sessionware import (
    ConfigurationError,
    Lifetime,
    SessionEvent,
    SessionMiddleware,
    SessionStore,
    SessionwareError,
    TaggedJSON,
)
from tests.support.apps import NOWHERE, as_list, nothing

APP = as_list(nothing)


class Foreign:
    """A codec of another kind that takes the number of ours."""

    format = 1
    encode = staticmethod(repr)
    decode = staticmethod(dict)


def numbered(number: Any) -> Any:
    """Return a codec of this format."""
    codec = TaggedJSON()
    codec.format = number
    return codec


def store(**options: Any) -> SessionStore:
    return SessionStore(NOWHERE, **options)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *[("app", value) for value in (None, "module:app", 7)],
        *[("cookie_secure", value) for value in (None, 1, "yes", "False")],
        *[("cookie_httponly", value) for value in (None, 1, "no")],
        *[("cookie_partitioned", value) for value in (None, 0, "no")],
        *[("idle_timeout", value) for value in (None, 0, -1, 3.5, "99", True, timedelta(0), timedelta.max, 10**10)],
        *[("absolute_timeout", value) for value in (0, -1, 3.5, "99", True, timedelta(days=-1), timedelta.max, 2**63)],
        *[("purge_interval", value) for value in (0, -1, 0.5, "5", False, timedelta(microseconds=1), timedelta.max)],
        *[("expire_at_browser_close", value) for value in (None, 1, "True")],
        *[("save_every_request", value) for value in (None, 1, "True")],
        *[("create_table", value) for value in (None, 1, "True")],
        *[("max_bytes", value) for value in (None, 0, 1, -1, 1e6, "1MB", True)],
        *[("on_conflict", value) for value in ("mine", 1, {})],
        *[("on_event", value) for value in ("log", 1, [])],
        *[("clock", value) for value in (None, 12345, "now")],
        *[
            ("clock", value)
            for value in (dict, lambda: None, lambda: True, lambda: float("nan"), lambda x: x, datetime.now)
        ],
        *[("environ_key", value) for value in (None, "", 7, b"key", "HTTP_COOKIE", "PATH_INFO", "wsgi.input")],
        *[("codec", value) for value in ("json", TaggedJSON, object(), 1, Foreign())],
        *[("codec", numbered(number)) for number in (-1, 40_000, 20_260_101, 1.0, True, None)],
        *[("database", value) for value in (None, "", "nonsense", 7, "oracle://x/y", object(), APP)],
    ],
    ids=lambda value: repr(value).partition(" at 0x")[0][:40],  # workers must agree
)
def test_a_wrong_option_is_refused_by_name(option: str, value: Any) -> None:
    """A ValueError at the start, in the process that was configured wrongly, and not at the first visitor."""
    given: dict[str, Any] = {"app": APP, "database": NOWHERE, option: value}

    with pytest.raises(ConfigurationError, match=option) as caught:
        SessionMiddleware(**given)

    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, SessionwareError)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *[("create_table", value) for value in (None, 1, "no")],
        *[("lifetime", value) for value in (5, "1 day", timedelta(days=1), Lifetime)],
        *[("on_event", value) for value in ("log", 5)],
        *[("clock", value) for value in (None, 5)],
        *[("codec", value) for value in ("json", TaggedJSON, numbered(32_768))],
        *[("table_name", value) for value in (None, "", "a; b", 5)],
        *[("database", value) for value in (None, "nonsense", 5)],
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_wrong_option_of_a_store_is_refused_by_name(option: str, value: Any) -> None:
    """A store that scripts and workers make by themselves is checked as the middleware's is."""
    with pytest.raises(ConfigurationError, match=f"^{option} must be"):
        SessionStore(**{"database": NOWHERE, option: value})


@pytest.mark.parametrize(
    ("options", "named"),
    [
        pytest.param({"idle_timeout": 100, "absolute_timeout": 99}, "absolute_timeout", id="idle beyond absolute"),
        pytest.param({"idle_timeout": timedelta(days=91)}, "absolute_timeout", id="idle beyond the default"),
        pytest.param(
            {"idle_timeout": timedelta(days=14), "absolute_timeout": timedelta(days=1)},
            "absolute_timeout",
            id="idle beyond absolute, and as by default",
        ),
        pytest.param({"idle_timeout": 60, "unconfirmed_timeout": 61}, "unconfirmed_timeout", id="first beyond idle"),
        pytest.param(
            {"absolute_timeout": 3600, "unconfirmed_timeout": 7200}, "unconfirmed_timeout", id="first beyond absolute"
        ),
        pytest.param({"database": store(), "codec": TaggedJSON()}, "codec", id="codec beside a store"),
        pytest.param({"database": store(), "create_table": False}, "create_table", id="create_table beside a store"),
        pytest.param({"cookie_samesite": "None", "cookie_secure": False}, "cookie_samesite", id="none on http"),
        pytest.param({"cookie_partitioned": True, "cookie_secure": False}, "cookie_partitioned", id="CHIPS on http"),
        pytest.param({"cookie_name": "__Host-s", "cookie_domain": "a.test"}, "cookie_domain", id="host and domain"),
    ],
)
def test_contradictions_are_refused_by_name(options: dict[str, Any], named: str) -> None:
    """Each of the two is right by itself; which one is meant cannot be guessed."""
    with pytest.raises(ConfigurationError, match=named):
        SessionMiddleware(**{"app": APP, "database": NOWHERE, **options})


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"idle_timeout": 60}, id="whole seconds"),
        pytest.param({"idle_timeout": 100, "absolute_timeout": 100}, id="equal timeouts"),
        pytest.param({"absolute_timeout": timedelta(days=1)}, id="absolute below the default of idle"),
        pytest.param({"absolute_timeout": None, "idle_timeout": timedelta(days=36525)}, id="no limit, a hundred years"),
        pytest.param({"purge_interval": None}, id="no purge"),
        pytest.param({"cookie_samesite": "strict"}, id="samesite in lower case"),
        pytest.param({"codec": TaggedJSON()}, id="codec"),
        pytest.param({"database": sa.make_url(NOWHERE)}, id="URL object"),
        pytest.param({"database": store()}, id="store"),
        pytest.param({"max_bytes": 2}, id="the smallest session"),
        pytest.param({"clock": lambda: 1_800_000_000}, id="a clock of whole seconds"),
        pytest.param({"environ_key": "session"}, id="a key of one word"),
        pytest.param({"absolute_timeout": 3600, "unconfirmed_timeout": 600}, id="a first hour"),
        pytest.param({"codec": numbered(32_767)}, id="the largest format"),
    ],
)
def test_what_is_right_is_taken(options: dict[str, Any]) -> None:
    """The refusals above must not go too far."""
    assert SessionMiddleware(**{"app": APP, "database": NOWHERE, **options}).store.table.name == "sessionware_session"


def test_an_engine_is_taken() -> None:
    """The application's own."""
    engine = sa.create_engine(NOWHERE)

    assert SessionMiddleware(APP, engine).store.database.engine is engine


@pytest.mark.parametrize("option", ["session_name", "secure", "table_name"])
def test_an_unknown_option_is_refused(option: str) -> None:
    """By Python itself: there are no loose keywords."""
    with pytest.raises(TypeError, match=option):
        SessionMiddleware(APP, NOWHERE, **{option: "x"})  # type: ignore[arg-type]


def test_a_refusal_holds_no_password() -> None:
    """The message ends in logs."""
    with pytest.raises(ConfigurationError) as caught:
        SessionMiddleware(APP, "postgresql+nodriver://ann:hunter2@host/db")

    assert "hunter2" not in str(caught.value)
    assert caught.value.__context__ is None or "hunter2" not in str(caught.value.__context__)


def test_making_it_connects_to_nothing_and_starts_nothing(tmp_path: Path) -> None:
    """It may be made before a server forks its workers: what is open then is open in each of them."""
    threads, files = set(threading.enumerate()), len(os.listdir("/proc/self/fd"))
    middleware = SessionMiddleware(APP, f"sqlite:///{tmp_path}/sessions.db", purge_interval=1)

    assert set(threading.enumerate()) == threads
    assert len(os.listdir("/proc/self/fd")) == files
    assert list(tmp_path.iterdir()) == []
    assert middleware.store.database.engine.pool.checkedin() == 0  # type: ignore[attr-defined]


def test_a_store_that_was_passed_is_used(sqlite: str) -> None:
    """With its own hook for events; the middleware's is called in its place for what requests do."""
    of_store: list[SessionEvent] = []
    of_middleware: list[SessionEvent] = []
    shared = SessionStore(sqlite, "shop_session", on_event=of_store.append)
    middleware = SessionMiddleware(APP, shared, on_event=of_middleware.append)
    session = middleware.process_request({})
    session["a"] = 1
    session.commit()

    assert middleware.store is shared
    assert shared.count() == 1
    assert ([event.kind for event in of_middleware], of_store) == (["created"], [])
    shared.revoke_all()
    assert [event.kind for event in of_store] == ["ended"]


def test_the_clock_of_a_store_that_was_passed_is_that_of_its_middleware() -> None:
    """What one takes for alive the other must not purge."""
    shared = SessionStore("sqlite://", clock=lambda: 4_000_000_000.0)
    middleware = SessionMiddleware(APP, shared)
    session = middleware.process_request({})
    session["a"] = 1
    session.commit()

    assert shared.count() == 1
    assert shared.purge() == 0
    shared.database.engine.dispose()
