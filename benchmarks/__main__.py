"""The command: `python -m benchmarks [http | scale | lost]`."""

import contextlib
import signal
import sys
from collections.abc import Callable
from typing import Any

import click

from . import contestants, http, inprocess, lost, measure, scale, servers
from .console import Skipped, finish
from .workloads import WORKLOADS

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


def names_of(peers: bool) -> list[str]:
    """Return the contestants that take part."""
    return [*contestants.OWN, *(contestants.PEERS if peers else ())]


def on_each(database: str, run: Callable[[str], Any]) -> dict[str, Any]:
    """Return the results of *run* by the kind of database; one that is not there is left out."""
    results = {}
    for kind in servers.DATABASES if database == "all" else (database,):
        with contextlib.suppress(Skipped):
            results[kind] = run(kind)
    return results


@click.group(invoke_without_command=True)
@database_option
@peers_option
@quick_option
@click.option("--rounds", type=click.IntRange(1, 1000), help="How many rounds; 15, or 5 with --quick.")
@click.option("--workload", "workloads", multiple=True, type=click.Choice(list(WORKLOADS)), help="Only this one.")
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
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # servers and directories go in any case
    if context.invoked_subcommand is not None:
        return
    pace = measure.pace(quick=quick, rounds=rounds)
    asked = [name for name in WORKLOADS if name in workloads or not workloads]
    names = names_of(peers)
    results = on_each(database, lambda kind: inprocess.run(kind, names, asked, pace, callgrind=instructions))
    finish({"in_process": results}, json_file)


@main.command("http")
@database_option
@peers_option
@quick_option
@click.option("--repetitions", type=click.IntRange(1, 100), default=3, show_default=True)
@json_option
def http_command(database: str, peers: bool, quick: bool, repetitions: int, json_file: str | None) -> None:
    """Measure gunicorn under wrk: requests a second and p99, as shares of the limit."""
    names, seconds = names_of(peers), 1 if quick else 3
    results = on_each(database, lambda kind: http.run(kind, names, repetitions, seconds))
    finish({"http": results}, json_file)


@main.command("scale")
@click.option("--database", type=click.Choice(["sqlite", "postgresql", "all"]), default="all", show_default=True)
@click.option("--rows", default="100000,1000000", show_default=True, help="Table sizes, with commas between.")
@click.option("--purge-seconds", default=600, show_default=True, help="The longest that one purge may take.")
@json_option
def scale_command(database: str, rows: str, purge_seconds: int, json_file: str | None) -> None:
    """Measure sessionware on many rows: lookup, save, list, purge and who waits for it."""
    sizes = [int(size) for size in rows.split(",")]
    kinds = "all" if database == "all" else database
    results = on_each(kinds, lambda kind: scale.run(kind, sizes, purge_seconds) if kind in scale.KINDS else {})
    finish({"scale": results}, json_file)


@main.command("lost")
@database_option
@peers_option
@json_option
def lost_command(database: str, peers: bool, json_file: str | None) -> None:
    """Count what concurrent writers of one session lose."""
    results = on_each(database, lambda kind: lost.run(kind, names_of(peers)))
    finish({"lost": results}, json_file)


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
