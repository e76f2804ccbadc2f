"""The ``sessionware`` command: create the table, remove what has expired, look at one session."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pprint import pformat
from urllib.parse import unquote, urlsplit

import click
import sqlalchemy as sa

from .database import TableMissing
from .engine import in_memory
from .errors import ConfigurationError, StoreUnavailable
from .purge import MOST_A_BATCH
from .store import SessionStore
from .table import TABLE_NAME

Function = Callable[..., None]
Options = dict[str, str]

_DATABASE_HELP = "Such as postgresql+psycopg://localhost/shop. Default: $SESSIONWARE_DATABASE."


def _note(context: click.Context, option: click.Parameter, value: str | None) -> None:
    """Keep an option for the command; what comes last wins."""
    if value is not None:
        context.ensure_object(dict)[str(option.name)] = value


def _with_options(command: Function) -> Function:
    """Give *command* the options that may stand before and after the name of a command."""
    table = click.option("--table", metavar="NAME", expose_value=False, callback=_note, help=f"Default: {TABLE_NAME}.")
    database = click.option("--database", metavar="URL", expose_value=False, callback=_note, help=_DATABASE_HELP)
    return database(table(command))


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@_with_options
@click.version_option(package_name="sessionware")
@click.pass_context
def main(context: click.Context) -> None:
    """Look after the sessions of a WSGI application."""
    context.ensure_object(dict)


@main.command()
@_with_options
@click.pass_obj
def init(options: Options) -> None:
    """Create the table and its indexes, unless they exist."""
    store = _open(options)
    with _explained(store):
        store.create_table()
    click.echo(f"The table {store.table.name} is there.")


@main.command()
@_with_options
@click.option(
    "--batch-size", default=1000, show_default=True, type=click.IntRange(1, MOST_A_BATCH), help="Rows a batch."
)
@click.pass_obj
def purge(options: Options, batch_size: int) -> None:
    """Remove expired sessions, in batches that block nobody; for cron."""
    store = _open_existing(options)
    with _explained(store), click.progressbar(length=store.count_expired(), label="Purging", file=sys.stderr) as bar:
        removed = store.purge(batch_size=batch_size, on_batch=bar.update)
    busy = " Another process is at it." if bar.length and not removed else ""
    click.echo(f"{removed} expired rows removed.{busy}")


@main.command()
@_with_options
@click.pass_obj
def show(options: Options) -> None:
    """Print the values of the session whose key is typed or piped in."""
    store = _open_existing(options)
    session_key = _ask_key()
    with _explained(store):
        values = store.read(session_key)
    if values is None:
        raise click.ClickException("There is no live session with this key, or its row cannot be decoded.")
    click.echo(pformat(values).encode(getattr(sys.stdout, "encoding", "ascii"), "backslashreplace"))


def _open(options: Options) -> SessionStore:
    database = options.get("database", os.environ.get("SESSIONWARE_DATABASE"))
    if not database:
        raise click.UsageError("Which database? Pass --database or set SESSIONWARE_DATABASE.")
    try:
        url = sa.make_url(database)
    except (sa.exc.ArgumentError, ValueError):
        raise click.UsageError("--database must be a URL, such as postgresql+psycopg://localhost/shop.") from None
    try:
        return SessionStore(url, options.get("table", TABLE_NAME), create_table=False)
    except ConfigurationError as error:
        raise click.UsageError(_in_words_of_ours(str(error))) from None


def _open_existing(options: Options) -> SessionStore:
    """Open a store to look into it; SQLite would create a file whose name is mistyped."""
    store = _open(options)
    url = store.database.engine.url
    path = _file_of(url)
    if path is None:
        return store
    if not os.path.exists(path):
        raise click.ClickException(f"There is no database {path}: `sessionware init` creates one.")
    return SessionStore(sa.create_engine(url), store.table.name, create_table=False)  # the file's mode stays as it is


def _file_of(url: sa.URL) -> str | None:
    if url.get_backend_name() != "sqlite" or in_memory(url):
        return None
    if "uri" not in url.query:
        return url.database
    path = unquote(urlsplit(str(url.database)).path)
    return None if path == ":memory:" or url.query.get("mode") == "memory" else path


def _in_words_of_ours(message: str) -> str:
    """Return what a store says of its options, with the names that they have here."""
    for name, ours in (("database", "--database"), ("table_name", "--table")):
        if message.startswith(name):
            return ours + message.removeprefix(name)
    return message


def _ask_key() -> str:
    if sys.stdin is None:
        return ""  # closed
    if sys.stdin.isatty():
        key: str = click.prompt("Session key", hide_input=True, err=True)  # it is as good as a password
        return key.strip()
    try:
        return sys.stdin.readline().strip()
    except UnicodeDecodeError:
        return ""  # no key has such bytes


@contextmanager
def _explained(store: SessionStore) -> Iterator[None]:
    try:
        yield
    except TableMissing:
        raise click.ClickException(
            f"The table {store.table.name} does not exist: `sessionware init` creates it."
        ) from None
    except StoreUnavailable as error:
        raise click.ClickException(str(error)) from None
