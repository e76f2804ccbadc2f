"""The ``sessionware`` command: create the table, remove what has expired, look at one session."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pprint import pformat

import click

from .errors import ConfigurationError, StoreUnavailable
from .store import SessionStore
from .table import TABLE_NAME


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--database",
    envvar="SESSIONWARE_DATABASE",
    required=True,
    metavar="URL",
    help="Such as postgresql+psycopg://localhost/shop. Default: $SESSIONWARE_DATABASE.",
)
@click.option("--table", default=TABLE_NAME, show_default=True, metavar="NAME", help="The sessions table.")
@click.pass_context
def main(context: click.Context, database: str, table: str) -> None:
    """Look after the sessions of a WSGI application."""
    try:
        context.obj = SessionStore(database, table, create_table=False)
    except ConfigurationError as error:
        raise click.UsageError(str(error)) from None


@main.command()
@click.pass_obj
def init(store: SessionStore) -> None:
    """Create the table and its indexes, unless they exist."""
    with _explained():
        store.create_table()
    click.echo(f"The table {store.table.name} is there.")


@main.command()
@click.option("--batch-size", default=1000, show_default=True, type=click.IntRange(1, 10_000), help="Rows a batch.")
@click.pass_obj
def purge(store: SessionStore, batch_size: int) -> None:
    """Remove expired sessions, in batches that block nobody; for cron."""
    with _explained(), click.progressbar(length=store.count_expired(), label="Purging", file=sys.stderr) as bar:
        removed = store.purge(batch_size=batch_size, on_batch=bar.update)
    click.echo(f"{removed} expired rows removed.")


@main.command()
@click.pass_obj
def show(store: SessionStore) -> None:
    """Print the values of the session whose key is typed or piped in."""
    session_key = sys.stdin.readline().strip()
    with _explained():
        values = store.read(session_key)
    if values is None:
        raise click.ClickException("There is no live session with this key, or its row cannot be decoded.")
    click.echo(pformat(values))


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except StoreUnavailable as error:
        raise click.ClickException(str(error)) from None
