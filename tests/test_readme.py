"""The README tells the truth: its code runs, and what it names is there."""

import inspect
import re
import shlex
import tomllib
from collections.abc import Callable, Iterator
from datetime import timedelta
from importlib.metadata import files
from pathlib import Path
from typing import Any

import click
import pytest

import sessionware
from sessionware import Session, SessionMiddleware, SessionStore
from sessionware.cli import main
from sessionware.events import EventKind
from sessionware.table import make_table
from tests.support.clock import Clock
from tests.support.wsgi import Browser, call, validated

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
UNITS = {"days": 86400, "minutes": 60, "seconds": 1, "bytes": 1}


def section(title: str) -> str:
    """Return what stands under a heading."""
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL)
    assert found is not None, title
    return found[1]


def code_blocks(text: str = README) -> list[str]:
    """Return the Python blocks."""
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def in_code(text: str) -> list[str]:
    """Return what stands between backticks outside of blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))


def commands() -> list[str]:
    """Return the indented lines that begin with a virtual environment."""
    return re.findall(r"^(python3 -m venv .*)$", README, re.MULTILINE)


def test_first_code_runs_and_counts(any_engine: str) -> None:
    """With another database and nothing else changed; on each engine, whose driver the README names."""
    code = code_blocks()[0]
    url = re.search(r'"(\w+\+\w+://[^"]+)"', code)
    assert url is not None
    names: dict[str, Any] = {}
    exec(compile(code.replace(url[1], any_engine), "README.md", "exec"), names)
    browser = Browser(validated(names["application"]))

    assert [browser.get().text for _ in range(3)] == ["count=1", "count=2", "count=3"]


def test_first_code_is_the_counter_of_the_examples() -> None:
    """What one reads first is what one then tries."""
    readme = re.search(r"^    session = .*?^    return .*?$", code_blocks()[0], re.MULTILINE | re.DOTALL)

    assert readme is not None
    assert readme[0] in (ROOT / "examples" / "counter.py").read_text()


def test_all_code_compiles() -> None:
    """The blocks for frameworks are fragments, but whole ones."""
    for block in code_blocks():
        compile(block, "README.md", "exec")


def settings() -> Iterator[tuple[str, str]]:
    """Yield each option of the table and its default, as written."""
    for names, defaults in re.findall(r"^\| (`[^|]+) \|([^|]*)\|", section("Settings"), re.MULTILINE):
        options = re.findall(r"`(\w+)`", names)
        written = defaults.split(",") if len(options) > 1 else [defaults]
        yield from zip(options, (default.strip() for default in written), strict=True)


def value_of(default: str) -> Any:
    """Return the value that a default in the table stands for."""
    if amount := re.fullmatch(r"([\d ]+) (\w+)", default.replace("\u00a0", " ")):
        return int(amount[1].replace(" ", "")) * UNITS[amount[2]]
    return default.strip("`").strip('"')


def as_written(value: Any) -> Any:
    """Return the default of a parameter in the same terms."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    if callable(value):
        return f"{value.__module__}.{value.__name__}"
    return value if type(value) is int else str(value)


def test_table_has_every_option_with_its_default() -> None:
    """In both directions: nothing left out, nothing made up, no default of yesterday."""
    parameters = dict(inspect.signature(SessionMiddleware).parameters)
    del parameters["app"]
    required = {name for name, parameter in parameters.items() if parameter.default is parameter.empty}
    table = dict(settings())

    assert table.keys() == parameters.keys()
    assert {name for name, default in table.items() if not default} == required
    for name, default in table.items():
        if name not in required:
            assert value_of(default) == as_written(parameters[name].default), name


def test_table_has_the_options_in_the_order_of_the_signature() -> None:
    """One is read beside the other, the one of the docstring's promise that the README has them all."""
    names = [name for name, _ in settings()]

    assert names == [name for name in inspect.signature(SessionMiddleware).parameters if name in names]


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\btests/\w+\.py\b", README))))
def test_every_test_file_named_is_there(path: str) -> None:
    """The promises give them as evidence."""
    assert (ROOT / path).is_file()
    assert "def test_" in (ROOT / path).read_text()


def test_every_link_leads_somewhere() -> None:
    """To a file of the project or to a heading of the README."""
    headings = {title.lower().replace(" ", "-") for title in re.findall(r"^## (.+)$", README, re.MULTILINE)}
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert target.removeprefix("#") in headings if target.startswith("#") else (ROOT / target).exists(), target


def test_every_method_of_a_session_named_is_there() -> None:
    """The table of methods, and any session.something in the text."""
    using = section("Using it")
    table = re.findall(r"^\| (`.*?) \|", using, re.MULTILINE)
    words = [word for row in table for word in re.findall(r"`(?:session\.)?(\w+)", row)]
    words += [name for code in in_code(README) for name in re.findall(r"\bsession\.(\w+)", code)]

    assert len(words) > 15
    assert [word for word in words if not hasattr(Session, word)] == []


def test_every_method_of_the_store_named_is_there() -> None:
    """It takes as many arguments as are shown, and those by name that are named."""
    sentence = re.search(r"^`middleware\.store` is .*?\n\n", section("Using it"), re.MULTILINE | re.DOTALL)
    assert sentence is not None
    calls = re.findall(r"`(\w+)\(([^`]*)\)`", sentence[0])

    assert len(calls) > 8
    for name, shown in calls:
        words = shown.split(", ") if shown else []
        named = {word.partition("=")[0]: word for word in words if "=" in word}
        others = [word for word in words if "=" not in word]
        inspect.signature(getattr(SessionStore, name)).bind("self", *others, **named)


def test_every_column_of_the_table_is_named() -> None:
    """For who reads the database, or has it made by Alembic."""
    import sqlalchemy as sa

    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", section("Operations"), re.MULTILINE)
    names = [name for row in rows for name in re.findall(r"\w+", row)]

    assert names == [column.name for column in make_table(sa.MetaData()).columns]


def test_every_event_is_named() -> None:
    """For who writes an on_event."""
    sentence = re.search(r"^Events .*?\n\n", section("Operations"), re.MULTILINE | re.DOTALL)

    assert sentence is not None
    assert set(re.findall(r"`(\w+)`", sentence[0])) - {"on_event"} == set(EventKind.__args__)


def test_every_command_named_is_there() -> None:
    """And none is missing."""
    named = re.findall(r"^    sessionware (\w+) ", section("Operations"), re.MULTILINE)

    assert isinstance(main, click.Group)
    assert set(named) == set(main.commands)


def test_the_second_command_is_that_of_the_checks() -> None:
    """What anybody runs is what is run before a release."""
    demo, test = commands()

    assert test in (ROOT / ".ci" / "run").read_text().splitlines()
    assert "examples.shop:application" in demo
    assert (ROOT / "examples" / "shop.py").is_file()


def test_every_extra_named_is_there() -> None:
    """pip only warns of one that is not, and the first command then fails at its end."""
    texts = [*commands(), *in_code(README)]
    extras = {extra for text in texts for extra in re.findall(r"\.\[(\w+)\]", text)}
    extras |= set(re.findall(r"\(extra `(\w+)`\)", README))

    assert extras == {"demo", "test", "bench", "postgresql", "mysql"}
    assert extras <= PROJECT["optional-dependencies"].keys()


def test_the_demonstration_brings_what_it_runs() -> None:
    """gunicorn from its extra, the driver (SQLite) from Python, the shop's WebOb from the package."""
    program = next(word for word in shlex.split(commands()[0]) if word.endswith("gunicorn"))
    brought = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["demo"]

    assert {Path(program).name, "webob"} <= {re.split(r"[^\w-]", name)[0] for name in brought}


def test_the_demonstration_brings_what_gevent_workers_import() -> None:
    """gunicorn requires packaging for them in an extra only: with gevent beside it alone they would not start."""
    (worker,) = (path.read_text() for path in files("gunicorn") or [] if path.match("workers/ggevent.py"))
    brought = {re.split(r"[^\w-]", name)[0] for name in PROJECT["optional-dependencies"]["demo"]}

    assert "from packaging" in worker
    assert "packaging" in brought


def test_versions_are_those_of_the_project() -> None:
    """Of Python and of the two libraries it stands on."""
    wanted = dict(re.findall(r"^(\w+)>=([\d.]+)", "\n".join(PROJECT["dependencies"]), re.MULTILINE))

    assert f"Python {PROJECT['requires-python'].removeprefix('>=')} and later" in README
    assert f"SQLAlchemy {wanted['sqlalchemy']} and later" in README
    assert f"WebOb {wanted['webob']} and later" in README


def test_frameworks_as_shown(sqlite: str) -> None:
    """The two lines for Flask, and those for Pyramid, with another database and nothing else changed."""
    from flask import Flask, session
    from pyramid.config import Configurator
    from pyramid.response import Response

    app, config = Flask("shown"), Configurator()
    app.add_url_rule("/", view_func=lambda: str(session.setdefault("count", 1)))
    config.add_view(lambda request: Response(str(request.session.setdefault("count", 1))))
    (block,) = (block for block in code_blocks() if "use_sessions" in block)
    code = re.sub(r'"postgresql\+psycopg://[^"]+"', repr(sqlite), block)
    names: dict[str, Any] = {"app": app, "config": config, "SessionMiddleware": SessionMiddleware}
    exec(compile(code, "README.md", "exec"), names)
    replies = [Browser(validated(application), clock=Clock()).get() for application in (app, names["application"])]

    assert [(reply.text, len(reply.set_cookies)) for reply in replies] == [("1", 1), ("1", 1)]


def bottle_app(work: Callable[[Session], str]) -> Any:
    """Return an application on Bottle whose page does *work*."""
    bottle = pytest.importorskip("bottle")
    app = bottle.Bottle()
    app.get("/")(lambda: work(sessionware.get_session(bottle.request)))
    return app


def falcon_app(work: Callable[[Session], str]) -> Any:
    """Return an application on Falcon whose page does *work*."""
    falcon = pytest.importorskip("falcon")

    class Page:
        def on_get(self, request: Any, response: Any) -> None:
            response.text = work(sessionware.get_session(request))

    app = falcon.App()
    app.add_route("/", Page())
    return app


def as_shown(app: Any, words: str) -> Any:
    """Return *app* after the one block of the README that has *words*."""
    (block,) = (block for block in code_blocks() if words in block)
    exec(compile(block, "README.md", "exec"), {**vars(sessionware), "app": app})
    return app


@pytest.mark.parametrize(("made", "words"), [(bottle_app, "# Bottle"), (falcon_app, "# Falcon")])
def test_faults_reach_the_middleware_as_shown(
    sqlite: str, tmp_path: Path, made: Callable[[Callable[[Session], str]], Any], words: str
) -> None:
    """A database that is down and a session that was ended meanwhile, in a framework that catches everything."""

    def count(session: Session) -> str:
        session["count"] = session.get("count", 0) + 1
        return str(session["count"])

    def late(session: Session) -> str:
        count(session)
        assert up.store.revoke_all() == 1
        session.save()
        return "saved"

    up = SessionMiddleware(as_shown(made(count), words), sqlite)
    raced = SessionMiddleware(as_shown(made(late), words), up.store)
    down = SessionMiddleware(as_shown(made(count), words), f"sqlite:///{tmp_path}/no/such/folder.db")
    key = up.store.create({"count": 1})
    replies = [call(app, cookie=f"__Host-sessionid={key}") for app in (up, raced, down)]

    assert [reply.status for reply in replies] == [200, 400, 503]
    assert replies[0].text == "2"
