"""The command: `python -m benchmarks [http | scale | lost]`."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import click

from . import contestants, counts, measure, report, servers
from .runner import Contestant
from .workloads import WORKLOADS


def say(line: str) -> None:
    """Tell the person at the terminal; standard output is for the report."""
    click.echo(line, err=True)


@contextlib.contextmanager
def progress(length: int, label: str) -> Iterator[Callable[[int], None]]:
    """Give a function that advances a progress bar on standard error."""
    with click.progressbar(length=length, label=label, file=sys.stderr) as bar:
        yield bar.update


def chosen(database: str) -> tuple[str, ...]:
    """Return the kinds of database that an option asks for."""
    return servers.DATABASES if database == "all" else (database,)


def names_of(peers: bool) -> list[str]:
    """Return the contestants that take part."""
    return [*contestants.OWN, *(contestants.PEERS if peers else ())]


database_option = click.option(
    "--database",
    type=click.Choice([*servers.DATABASES, "all"]),
    default="sqlite",
    show_default=True,
    help="Which database; servers are started and stopped by the run.",
)
peers_option = click.option("--peers", is_flag=True, help="Measure Beaker, Flask-Session and Django too.")
quick_option = click.option("--quick", is_flag=True, help="Fewer and shorter rounds: a look, not a result.")
json_option = click.option("--json", "json_file", type=click.Path(dir_okay=False), help="Write JSON there.")


@click.group(invoke_without_command=True)
@database_option
@peers_option
@quick_option
@click.option("--rounds", type=click.IntRange(1, 1000), help="How many rounds; 15, or 5 with --quick.")
@click.option(
    "--workload", "workloads", multiple=True, type=click.Choice(list(WORKLOADS)), help="Only this one."
)
@click.option("--instructions", is_flag=True, help="Count instructions too, by valgrind; slow.")
@json_option
@click.pass_context
def main(
    context: click.Context,
    database: str,
    peers: bool,
    quick: bool,
    rounds: int | None,
    workloads: tuple[str, ...],
    instructions: bool,
    json_file: str | None,
) -> None:
    """Measure sessionware inside one process, as ratios to a hand-written limit."""
    if context.invoked_subcommand is not None:
        return
    pace = measure.QUICK if quick else measure.FULL
    pace = measure.Pace(rounds or pace.rounds, pace.share, pace.budget)
    asked = [name for name in WORKLOADS if name in workloads or not workloads]
    results = {}
    for kind in chosen(database):
        with contextlib.suppress(Skipped):
            results[kind] = in_process(kind, names_of(peers), asked, pace, instructions)
    finish({"in_process": results}, json_file)


class Skipped(Exception):
    """A database is not there; the reason has been said."""


@contextlib.contextmanager
def database_of(kind: str, core: int | None = None) -> Iterator[servers.Database]:
    """Give the database, or say why not and raise Skipped."""
    try:
        with servers.started(kind, core) as database:
            yield database
    except servers.ServerMissing as error:
        say(f"{kind} is skipped: {error}")
        raise Skipped from None


def in_process(
    kind: str, names: Sequence[str], workloads: Sequence[str], pace: measure.Pace, instructions: bool
) -> dict[str, Any]:
    """Measure and count on one database; print the tables, return the values."""
    core = measure.core_to_pin()
    with database_of(kind, core) as database:
        heading(database.version(), "one core for all" if core is not None else "not pinned")
        samples, took_part = rounds_on(database, names, workloads, pace, core)
        show_times(samples, took_part, workloads, kind)
        counted = show_counts(database, took_part, workloads)
        return {"version": database.version(), "times": report.result(samples), "counts": counted}


def rounds_on(
    database: servers.Database,
    names: Sequence[str],
    workloads: Sequence[str],
    pace: measure.Pace,
    core: int | None,
) -> tuple[measure.Samples, list[str]]:
    """Run all rounds on *database*; return the samples and who took part."""
    ready: list[Contestant] = measure.start(names, database, core, say)
    try:
        taking_part = measure.verified(ready, workloads, say)
        with progress(measure.steps(taking_part, pace), f"{database.kind}: rounds") as advance:
            samples = measure.measure(taking_part, pace, advance)
        return samples, [contestant.name for contestant in ready]
    finally:
        for contestant in ready:
            contestant.stop()


def heading(*parts: str) -> None:
    """Begin a section of the report."""
    click.echo(f"## {', '.join(parts)}\n")


def show_times(samples: measure.Samples, names: Sequence[str], workloads: Sequence[str], kind: str) -> None:
    """Print the tables of times."""
    legend = "; ".join(f"{name} {WORKLOADS[name].title}" for name in workloads)
    click.echo(f"{legend}.\n\nMicroseconds a request (**ratio to limit** [quartiles]):\n")
    click.echo(report.times(samples, names, workloads, kind))
    if {"W0", "W1"} & set(workloads):
        click.echo("Microseconds above the same stack without sessions:\n")
        click.echo(report.sessions_alone(samples, names, workloads))


def show_counts(database: servers.Database, names: Sequence[str], workloads: Sequence[str]) -> dict[str, Any]:
    """Count, print the table, return plain values."""
    asked = counts.touching(workloads)
    counted = counts.count_all(names, database, asked, say)
    unit = "Statements" if database.kind == "sqlite" else "Round trips, bytes up/down"
    click.echo(f"{unit} and cookies of one request:\n")
    click.echo(report.table(["", *asked], counts.rows(counted, asked)))
    return {
        name: {workload: count.plain() for workload, count in by_workload.items()}
        for name, by_workload in counted.items()
    }


def finish(content: dict[str, Any], json_file: str | None) -> None:
    """Print the environment and write the JSON."""
    click.echo("Versions: " + ", ".join(f"{name} {value}" for name, value in report.environment().items()))
    if json_file:
        report.write_json(json_file, content)


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
