"""What went wrong elsewhere, where S01-S72 do not ask for it; tests/README.md has the whole list."""

import ast
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

import sessionware
from sessionware import Session
from tests.support.site import Site, look

PACKAGE = Path(sessionware.__file__).parent
PROJECT = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]


def test_cve_2024_42353_webob_is_recent_and_we_send_nobody_elsewhere(sqlite: str) -> None:
    """WebOb before 1.8.10 turns some paths into redirects to other hosts; no answer of ours has a Location."""
    (needed,) = (wanted for wanted in map(Requirement, PROJECT["dependencies"]) if wanted.name == "webob")
    site = Site(sqlite)
    key = site.begin(a=1)

    def superseded(session: Session) -> None:
        session["a"] = 2
        site.store.revoke_all()

    reply = site.visit(superseded, key, path="//evil.test/\t\n/..").reply

    assert "1.8.10" in needed.specifier
    assert not [old for old in ("1.8.7", "1.8.8", "1.8.9") if old in needed.specifier]
    assert reply.status == 400
    assert reply.header("Location") is None
    assert not [path for path in PACKAGE.rglob("*.py") if "location" in path.read_text().lower()]


def calls_of(tree: ast.AST, names: set[str]) -> list[ast.Call]:
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [node for node in calls if getattr(node.func, "attr", getattr(node.func, "id", "")) in names]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.stem)
def test_cve_2019_7164_no_sql_is_put_together_from_text(path: Path) -> None:
    """ORDER BY, LIMIT and the like took strings as SQL in SQLAlchemy 1.x: nothing here is given to them as text."""
    tree = ast.parse(path.read_text())
    texts = [*calls_of(tree, {"order_by", "group_by", "limit", "offset", "literal_column", "column"})]
    pasted = [node for node in calls_of(tree, {"text", "exec_driver_sql"}) if node.args]

    assert not [call for call in texts for word in call.args if isinstance(word, ast.JoinedStr | ast.BinOp)]
    assert not [call for call in pasted if isinstance(call.args[0], ast.JoinedStr | ast.BinOp)]


def test_cve_2016_4423_a_huge_user_name_is_refused_and_not_stored(sqlite: str) -> None:
    """Symfony kept the last name that somebody tried to log in with, however long, in his session."""
    site = Site(sqlite)

    def page(session: Session) -> None:
        with pytest.raises(ValueError, match="user_id must have 1 to 255"):
            session.login("x" * 5_000_000)

    visit = site.visit(page)

    assert visit.set_cookie is None
    assert site.rows() == []


def test_cve_2023_20862_an_emptied_session_is_stored_as_empty(database: str) -> None:
    """Spring did not save the empty context, so that a logout by emptying had no effect."""
    site = Site(database)
    for act in (lambda session: session.clear(), lambda session: [session.pop(name) for name in list(session)]):
        key = site.begin(user="ada", admin=True)
        site.visit(act, key)

        assert site.values(key) == {}
        assert "ada" not in str([row["data"] for row in site.rows()])


@pytest.mark.parametrize("before", [None, "eve"], ids=["anonymous before", "another user before"])
def test_cve_2014_0482_a_login_takes_over_no_other_users_values(database: str, before: str | None) -> None:
    """Django kept the values of the user who had been logged in when the next one logged in on top."""
    site = Site(database)
    key = site.begin(cart=[1])
    if before is not None:
        key = site.log_in(before, key)
        site.visit(lambda session: session.update(secret=1), key)
        site.visit(lambda session: session.set_expiry(60), key)
    new = site.log_in("ada", key)
    again = site.log_in("ada", new)

    assert site.values(again) == ({"cart": [1]} if before is None else {})
    assert site.visit(lambda session: session.get_expiry_age(), again).value > 60
    assert [site.values(old) for old in (key, new)] == [{}, {}]


def test_cve_2015_3982_those_who_logged_out_share_nothing(sqlite: str) -> None:
    """In Django 1.8 flush left an empty key behind, and all who had it shared one session."""
    site = Site(sqlite)

    def page(session: Session) -> Any:
        session.flush()
        session["mine"] = len(site.rows())
        return session.session_key

    visits = [site.visit(page, site.begin(a=1)) for _ in range(3)]
    made = [visit.key or "" for visit in visits]

    assert [visit.value for visit in visits] == [None] * 3
    assert len(set(made)) == 3
    assert len({site.values(key)["mine"] for key in made}) == 3


def test_cve_2018_11385_privileges_are_never_gained_by_a_planted_key(sqlite: str) -> None:
    """Symfony kept the key at the login through one kind of form; here a login cannot be had without a new key."""
    site = Site(sqlite)
    planted = site.begin(a=1)

    def page(session: Session) -> None:
        session.login("ada")
        session.save()
        session["after"] = 1

    new = site.visit(page, planted).key

    assert new not in (None, planted)
    assert site.values(planted) == {}
    assert site.visit(look, new).value == {"a": 1, "after": 1}


def test_cve_2026_24894_a_worker_forgets_one_request_before_the_next(sqlite: str) -> None:
    """FrankenPHP's workers kept session data of the request before; here a new request knows only its cookie."""
    site = Site(sqlite)
    key = site.begin(a=1)
    kept: list[Session] = []
    site.visit(lambda session: (look(session), kept.append(session)), key)

    assert site.visit(look).value == {}
    assert site.visit(lambda session: session.session_key).value is None
    assert len(kept) == 1
