"""The ``sessionware`` command: what it does, what it says, and what it never says."""

import os
import pty
import re
import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result

from sessionware import SessionStore
from sessionware.cli import main
from sessionware.keys import new_key
from tests.support.clock import Clock
from tests.support.rows import all_rows, new_record, put_many, row_count

ROOT = Path(__file__).parents[1]
SECRET = "hunter2"
PATIENCE = 20.0
COMMAND = [sys.executable, "-c", "from sessionware.cli import main; main(prog_name='sessionware')"]
NOWHERE = f"postgresql+psycopg://somebody:{SECRET}@127.0.0.1:1/nothing"

Command = Callable[..., Result]


@pytest.fixture
def command() -> Command:
    """The command in this process; stdin is what *typed* says, and no terminal."""

    def run(*words: str, database: str | None = None, typed: str = "") -> Result:
        environ = {"SESSIONWARE_DATABASE": database}
        return CliRunner().invoke(main, words, input=typed, env=environ, prog_name="sessionware")

    return run


@pytest.fixture
def store(any_engine: str) -> SessionStore:
    """A store whose table is there, on each engine."""
    store = SessionStore(any_engine)
    store.create_table()
    return store


def url_of(store: SessionStore) -> str:
    """Return the URL to be put on the command line, password and all."""
    return store.database.engine.url.render_as_string(hide_password=False)


def test_init_creates_table_and_indexes_once(any_engine: str, command: Command) -> None:
    """For roles that may not create tables themselves; a deployment script runs it every time."""
    first, second = (command("init", database=any_engine) for _ in range(2))
    inspector = sa.inspect(SessionStore(any_engine).database.engine)

    assert (first.exit_code, first.output) == (0, "The table sessionware_session is there.\n")
    assert (second.exit_code, second.output) == (0, first.output)
    assert {index["column_names"][0] for index in inspector.get_indexes("sessionware_session")} >= {
        "user_id",
        "purge_hour",
    }


def test_the_option_wins_over_the_environment(sqlite: str, command: Command) -> None:
    """What stands on the command line was meant."""
    result = command("--database", sqlite, "--table", "visits", "init", database=NOWHERE)

    assert (result.exit_code, result.output) == (0, "The table visits is there.\n")
    assert sa.inspect(SessionStore(sqlite).database.engine).get_table_names() == ["visits"]


def test_options_may_stand_after_the_command(sqlite: str, command: Command) -> None:
    """Where most people write them; what comes last wins."""
    after = command("init", "--database", sqlite, "--table", "visits", database=NOWHERE)
    both = command("--database", NOWHERE, "--table", "x", "purge", "--table=visits", "--database", sqlite)

    assert (after.exit_code, after.output) == (0, "The table visits is there.\n")
    assert (both.exit_code, both.stdout) == (0, "0 expired rows removed.\n")


def test_version_is_that_of_the_package(command: Command) -> None:
    """The first question of whoever reads a report of a defect."""
    result = command("--version")

    assert (result.exit_code, result.output) == (0, f"sessionware, version {version('sessionware')}\n")


def test_the_package_runs_as_the_command(sqlite: str) -> None:
    """Where the folder of scripts is not on the PATH."""
    command = [sys.executable, "-m", "sessionware", "init", "--database", sqlite]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)

    assert (result.returncode, result.stdout, result.stderr) == (0, "The table sessionware_session is there.\n", "")


def test_purge_removes_what_has_expired_and_nothing_else(store: SessionStore, command: Command) -> None:
    """In batches; without a terminal there is no bar in the log of cron, only its label and the result."""
    now = store.clock()
    put_many(store, [new_record(now - 9000, lives=1000) for _ in range(5)])
    (alive,) = put_many(store, [new_record(now)])
    result = command("purge", "--batch-size", "2", database=url_of(store))

    assert result.exit_code == 0
    assert result.stdout == "5 expired rows removed.\n"
    assert result.stderr == "Purging\n"
    assert set(all_rows(store)) == {alive}


def test_purge_beside_another_one_says_so(any_server: str, command: Command) -> None:
    """A zero in the log of cron would look as if there were nothing to do."""
    store = SessionStore(any_server)
    store.create_table()
    put_many(store, [new_record(store.clock() - 9000, lives=1000) for _ in range(5)])
    result = store.database.elected(store.table.name, lambda _: command("purge", database=any_server))

    assert result is not None
    assert (result.exit_code, result.stdout) == (0, "0 expired rows removed. Another process is at it.\n")


def test_purge_of_nothing(store: SessionStore, command: Command) -> None:
    """The usual case is no special case."""
    assert command("purge", database=url_of(store)).stdout == "0 expired rows removed.\n"


@pytest.mark.parametrize("size", ["0", "10001", "many"])
def test_purge_refuses_odd_batches(sqlite: str, command: Command, size: str) -> None:
    """Before anything is asked of the database."""
    assert command("purge", "--batch-size", size, database=sqlite).exit_code == 2


def test_show_prints_values_and_not_the_key(store: SessionStore, command: Command) -> None:
    """The output may be pasted into a ticket: the key must not be in it."""
    key = store.create({"cart": {"beans": 2}, "since": (1, "x")}, "ada")
    result = command("show", database=url_of(store), typed=f" {key}\n")

    assert result.exit_code == 0
    assert result.output == "{'cart': {'beans': 2}, 'since': (1, 'x')}\n"


@pytest.mark.parametrize(
    "typed",
    [
        pytest.param("", id="nothing"),
        pytest.param("\n", id="an empty line"),
        pytest.param("no key at all\n", id="malformed"),
        pytest.param(f"{new_key()}\n", id="unknown"),
    ],
)
def test_show_of_no_session_says_so_without_the_key(sqlite: str, command: Command, typed: str) -> None:
    """A typing error may be one letter away from a secret."""
    SessionStore(sqlite).create_table()
    result = command("show", database=sqlite, typed=typed)

    assert result.exit_code == 1
    assert result.output == "Error: There is no live session with this key, or its row cannot be decoded.\n"


def test_show_of_an_expired_session_is_of_none(sqlite: str, command: Command) -> None:
    """Over means over, for administrators too."""
    key = SessionStore(sqlite, clock=Clock(1_000_000_000)).create({"a": 1})

    assert command("show", database=sqlite, typed=key).exit_code == 1


@pytest.mark.parametrize("name", ["purge", "show"])
def test_a_missing_table_is_named_with_its_remedy(any_engine: str, command: Command, name: str) -> None:
    """The first thing to go wrong in a deployment; and looking creates nothing."""
    SessionStore(any_engine, "other_session").create_table()
    result = command(name, database=any_engine, typed=new_key())

    assert result.exit_code == 1
    assert result.output == "Error: The table sessionware_session does not exist: `sessionware init` creates it.\n"
    assert sa.inspect(SessionStore(any_engine).database.engine).get_table_names() == ["other_session"]


@pytest.mark.parametrize("name", ["purge", "show"])
@pytest.mark.parametrize("form", ["sqlite:///{}", "sqlite:///file:{}?uri=true"])
def test_looking_at_a_database_that_is_not_there_makes_none(
    tmp_path: Path, command: Command, form: str, name: str
) -> None:
    """A path with a typing error would be an empty file, and a purge that is content every night."""
    path = tmp_path / "mistyped.db"
    result = command(name, database=form.format(path), typed=new_key())

    assert result.exit_code == 1
    assert result.output == f"Error: There is no database {path}: `sessionware init` creates one.\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", ["sqlite:///{}", "sqlite:///file:{}?uri=true"])
def test_what_init_has_made_is_found(tmp_path: Path, command: Command, form: str) -> None:
    """However its file is written."""
    url = form.format(tmp_path / "sessions.db")

    assert [command(name, database=url).exit_code for name in ("init", "purge")] == [0, 0]


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "sqlite:///file:x?mode=memory&uri=true"])
def test_a_database_in_memory_is_no_file_that_is_missing(command: Command, url: str) -> None:
    """It is of no use here, but the message must be true."""
    assert "The table sessionware_session does not exist" in command("purge", database=url).output


@pytest.mark.parametrize("name", ["init", "purge", "show"])
def test_an_unreachable_database_is_one_line(command: Command, name: str) -> None:
    """For cron's mail: no traceback, no password."""
    result = command(name, database=NOWHERE, typed=new_key())

    assert result.exit_code == 1
    assert re.fullmatch(r"Error: The [^\n]+\n", result.output)
    assert SECRET not in result.output


@pytest.mark.parametrize(
    "url",
    [
        pytest.param(f"somebody:{SECRET}@host/shop", id="no scheme"),
        pytest.param(f"oracle://somebody:{SECRET}@host/shop", id="unknown database"),
        pytest.param(f"postgresql+nosuch://somebody:{SECRET}@host/shop", id="unknown driver"),
        pytest.param(f"postgresql+psycopg://somebody:{SECRET}@host:port/shop", id="port"),
        pytest.param("", id="empty"),
        pytest.param(None, id="none at all"),
    ],
)
def test_a_wrong_url_is_a_usage_error_without_the_password(command: Command, url: str | None) -> None:
    """It may stand in the log of a deployment."""
    result = command("purge", database=url)

    assert result.exit_code == 2
    assert "Error: " in result.output
    assert "atabase" in result.output
    assert SECRET not in result.output
    assert isinstance(result.exception, SystemExit)
    assert "--database" in result.output
    assert not re.search("Engine|SessionStore|create_table", result.output), "that is how Python passes it"


def test_a_wrong_table_name_is_a_usage_error(sqlite: str, command: Command) -> None:
    """It would otherwise be SQL."""
    result = command("--table", "a; drop table b", "init", database=sqlite)

    assert result.exit_code == 2
    assert "Error: --table must be letters, digits and underscores, at most 40 of them.\n" in result.output


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["init", "--help"], ["purge", "-h"], ["show", "--help"]])
def test_help_needs_no_database(command: Command, words: list[str]) -> None:
    """Who asks for help has not set it up yet."""
    result = command(*words)

    assert result.exit_code == 0
    assert result.output.startswith("Usage: sessionware ")


def test_help_names_the_commands(command: Command) -> None:
    """One line each."""
    output = command("--help").output

    assert all(re.search(rf"^  {name}  +\S", output, re.MULTILINE) for name in ("init", "purge", "show"))
    assert "SESSIONWARE_DATABASE" in output


def run_process(
    words: list[str], database: str, typed: str = "", command: list[str] = COMMAND, **environment: str
) -> "subprocess.CompletedProcess[str]":
    """Run the command as a process of its own."""
    return subprocess.run(
        [*command, *words],
        input=typed,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "SESSIONWARE_DATABASE": database, **environment},
        timeout=60,
    )


def test_as_a_process(any_engine: str) -> None:
    """The command as cron and people run it."""
    assert run_process(["init"], any_engine).returncode == 0
    key = SessionStore(any_engine).create({"count": 1})
    shown, purged = run_process(["show"], any_engine, typed=f"{key}\n"), run_process(["purge"], any_engine)

    assert (shown.returncode, shown.stdout, shown.stderr) == (0, "{'count': 1}\n", "")
    assert (purged.returncode, purged.stdout) == (0, "0 expired rows removed.\n")


def test_show_in_a_terminal_that_cannot_print_it(sqlite: str) -> None:
    """What it has no letters for is written as Python writes it."""
    key = SessionStore(sqlite).create({"name": "\u6f22"})
    shown = run_process(["show"], sqlite, typed=f"{key}\n", PYTHONIOENCODING="latin-1")

    assert (shown.returncode, shown.stdout) == (0, "{'name': '\\u6f22'}\n")


def test_show_with_its_input_closed_says_so_in_one_line(sqlite: str) -> None:
    """As of a job that was started so."""
    SessionStore(sqlite).create_table()
    shown = run_process(["show"], sqlite, command=["sh", "-c", 'exec "$@" <&-', "sh", *COMMAND])

    assert (shown.returncode, shown.stderr.count("\n")) == (1, 1)


class Terminal:
    """The command with a terminal for stdin and stderr; stdout is a pipe."""

    def __init__(self, words: list[str], database: str) -> None:
        self._near, far = pty.openpty()
        self._process = subprocess.Popen(
            [*COMMAND, *words],
            stdin=far,
            stdout=subprocess.PIPE,
            stderr=far,
            cwd=ROOT,
            env={**os.environ, "SESSIONWARE_DATABASE": database, "TERM": "xterm"},
            start_new_session=True,
            text=True,
        )
        os.close(far)
        self.screen = ""

    def wait_for(self, text: str) -> None:
        """Read what appears on the screen until *text* has."""
        while text not in self.screen:
            self.screen += self._read() or pytest.fail(f"{text!r} did not appear in {self.screen!r}")

    def type(self, text: str) -> None:
        """Type *text*."""
        os.write(self._near, text.encode())

    def end(self) -> str:
        """Return what was printed, when the process has ended."""
        output, _ = self._process.communicate(timeout=60)
        while read := self._read():
            self.screen += read
        os.close(self._near)
        assert self._process.returncode == 0
        return output

    def _read(self) -> str:
        if not select.select([self._near], [], [], PATIENCE)[0]:
            self._process.kill()
            pytest.fail(f"nothing more appeared after {self.screen!r}")
        try:
            return os.read(self._near, 4096).decode()
        except OSError:  # so Linux says that the other side is closed
            return ""


@pytest.fixture
def terminal(sqlite: str) -> Iterator[Callable[..., Terminal]]:
    """Start a command at a terminal."""

    def start(*words: str) -> Terminal:
        return Terminal(list(words), sqlite)

    return start


def test_a_key_typed_at_a_terminal_is_not_echoed(sqlite: str, terminal: Callable[..., Terminal]) -> None:
    """Who looks over the shoulder, or at the recording of the screen, would have the session."""
    key = SessionStore(sqlite).create({"count": 1})
    session = terminal("show")
    session.wait_for("Session key: ")
    session.type(f"{key}\n")

    assert session.end() == "{'count': 1}\n"
    assert key not in session.screen


def test_purge_at_a_terminal_has_a_bar(sqlite: str, terminal: Callable[..., Terminal]) -> None:
    """The first purge of a table that was never purged takes a while."""
    store = SessionStore(sqlite)
    store.create_table()
    put_many(store, [new_record(store.clock() - 9000, lives=1000) for _ in range(3)])
    session = terminal("purge")

    assert session.end() == "3 expired rows removed.\n"
    assert "100%" in session.screen
    assert row_count(store) == 0


def test_looking_at_a_file_leaves_its_mode_alone(sqlite: str, command: Command) -> None:
    """On a network file system somebody keeps the rollback journal on purpose: WAL would be unsafe there."""
    SessionStore(sa.create_engine(sqlite)).create_table()
    results = [command("purge", database=sqlite), command("show", database=sqlite, typed="x")]
    with sa.create_engine(sqlite).connect() as connection:
        mode = connection.exec_driver_sql("PRAGMA journal_mode").scalar_one()

    assert [result.exit_code for result in results] == [0, 1]
    assert mode == "delete"


def test_show_of_bytes_that_are_no_text_is_of_no_session(sqlite: str) -> None:
    """One line, as for any other key that is none."""
    SessionStore(sqlite).create_table()
    environ = os.environ | {"SESSIONWARE_DATABASE": sqlite, "PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run([*COMMAND, "show"], input=b"\xff\n", capture_output=True, env=environ, timeout=PATIENCE)

    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.count(b"\n") == 1
