"""The ``sessionware`` command: create the table, remove what has expired, look at one session."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pprint import pformat

import click

from .errors import ConfigurationError, StoreUnavailable
from .store import SessionStore
from .table import TABLE_NAME

# Commands open the store themselves, so that their --help needs no database.
Open = Callable[[], SessionStore]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--database",
    envvar="SESSIONWARE_DATABASE",
    metavar="URL",
    help="Such as postgresql+psycopg://localhost/shop. Default: $SESSIONWARE_DATABASE.",
)
@click.option("--table", default=TABLE_NAME, show_default=True, metavar="NAME", help="The sessions table.")
@click.pass_context
def main(context: click.Context, database: str | None, table: str) -> None:
    """Look after the sessions of a WSGI application."""
    context.obj = partial(_open, database, table)


@main.command()
@click.pass_obj
def init(open_store: Open) -> None:
    """Create the table and its indexes, unless they exist."""
    store = open_store()
    with _explained():
        store.create_table()
    click.echo(f"The table {store.table.name} is there.")


@main.command()
@click.option("--batch-size", default=1000, show_default=True, type=click.IntRange(1, 10_000), help="Rows a batch.")
@click.pass_obj
def purge(open_store: Open, batch_size: int) -> None:
    """Remove expired sessions, in batches that block nobody; for cron."""
    store = open_store()
    with _explained(), click.progressbar(length=store.count_expired(), label="Purging", file=sys.stderr) as bar:
        removed = store.purge(batch_size=batch_size, on_batch=bar.update)
    click.echo(f"{removed} expired rows removed.")


@main.command()
@click.pass_obj
def show(open_store: Open) -> None:
    """Print the values of the session whose key is typed or piped in."""
    store = open_store()
    session_key = _ask_key()
    with _explained():
        values = store.read(session_key)
    if values is None:
        raise click.ClickException("There is no live session with this key, or its row cannot be decoded.")
    click.echo(pformat(values))


def _open(database: str | None, table: str) -> SessionStore:
    if not database:
        raise click.UsageError("Which database? Pass --database or set SESSIONWARE_DATABASE.")
    try:
        return SessionStore(database, table, create_table=False)
    except ConfigurationError as error:
        raise click.UsageError(str(error)) from None


def _ask_key() -> str:
    if sys.stdin.isatty():
        key: str = click.prompt("Session key", hide_input=True, err=True)  # it is as good as a password
        return key.strip()
    return sys.stdin.readline().strip()


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except StoreUnavailable as error:
        raise click.ClickException(str(error)) from None
