"""What every command shows and opens: lines, progress, sections, databases."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import click

from . import report, servers
from .child import Failed


class Skipped(Exception):
    """A database is not there; the reason has been said."""


def say(line: str) -> None:
    """Tell the person at the terminal; standard output is for the report."""
    click.echo(line, err=True)


@contextlib.contextmanager
def progress(length: int, label: str) -> Iterator[Callable[[int], None]]:
    """Give a function that advances a progress bar on standard error."""
    with click.progressbar(length=length, label=label, file=sys.stderr) as bar:
        yield bar.update


@contextlib.contextmanager
def database_of(kind: str, core: int | None = None) -> Iterator[servers.Database]:
    """Give the database, or say why not and raise Skipped."""
    try:
        with servers.started(kind, core) as database:
            yield database
    except Failed as error:
        say(f"{kind} is skipped: {error}")
        raise Skipped from None


def heading(*parts: str) -> None:
    """Begin a section of the report."""
    click.echo(f"## {', '.join(parts)}\n")


def show(text: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table under its explanation."""
    click.echo(f"{text}\n\n{report.table(head, rows)}")


def finish(content: dict[str, Any], json_file: str | None) -> None:
    """Print the versions and write the JSON."""
    click.echo("Versions: " + ", ".join(f"{name} {value}" for name, value in report.environment().items()))
    if json_file:
        report.write_json(json_file, content)
