"""The main run: calls inside one process, everything on one core."""

from collections.abc import Sequence
from typing import Any

import click

from . import counts, instructions, measure, report
from .console import database_of, heading, progress, say, show
from .contestants import OURS
from .servers import Database
from .workloads import WORKLOADS


def run(
    kind: str, names: Sequence[str], workloads: Sequence[str], pace: measure.Pace, *, callgrind: bool
) -> dict[str, Any]:
    """Measure and count on one database; print the tables, return the values."""
    core = measure.core_to_pin()
    with database_of(kind, core) as database:
        heading(database.version(), "client and server on one core" if core is not None else "not pinned")
        samples, took_part = _rounds(database, names, workloads, pace, core)
        _show_times(samples, took_part, workloads, kind)
        return {
            "version": database.version(),
            "times": report.result(samples),
            "counts": _counts(database, took_part, workloads),
            "instructions": _instructions(database, took_part) if callgrind else {},
        }


def _rounds(
    database: Database,
    names: Sequence[str],
    workloads: Sequence[str],
    pace: measure.Pace,
    core: int | None,
) -> tuple[measure.Samples, list[str]]:
    ready = measure.start(names, database, core, say)
    try:
        taking_part = measure.verified(ready, workloads, say)
        with progress(measure.steps(taking_part, pace), f"{database.kind}: rounds") as advance:
            samples = measure.measure(taking_part, pace, advance)
        return samples, [contestant.name for contestant in ready]
    finally:
        for contestant in ready:
            contestant.stop()


def _show_times(samples: measure.Samples, names: Sequence[str], workloads: Sequence[str], kind: str) -> None:
    click.echo("; ".join(f"{name} {WORKLOADS[name].title}" for name in workloads) + ".\n")
    head = ["", *workloads]
    rows = report.times(samples, names, workloads)
    if OURS in names:
        rows.append(report.goals(kind, workloads))
    show("Microseconds a request (**ratio to limit** [quartiles of the rounds]):", head, rows)
    if {"W0", "W1"} <= set(workloads):
        rows = report.sessions_alone(samples, names, workloads)
        show("Microseconds above the same stack without sessions:", head, rows)


def _counts(database: Database, names: Sequence[str], workloads: Sequence[str]) -> dict[str, Any]:
    asked = counts.touching(workloads)
    counted = counts.count_all(names, database, asked, say)
    unit = "Statements" if database.kind == "sqlite" else "Round trips, bytes up/down"
    show(f"{unit} and cookies of one request:", ["", *asked], counts.rows(counted, asked))
    return {
        name: {workload: count.plain() for workload, count in by_workload.items()}
        for name, by_workload in counted.items()
    }


def _instructions(database: Database, names: Sequence[str]) -> dict[str, dict[str, int]]:
    with progress(instructions.steps(names), f"{database.kind}: callgrind") as advance:
        counted = instructions.count_all(names, database, advance, say)
    if counted:
        text = "Thousands of instructions a request, client process only (ratio to limit):"
        show(text, ["", *instructions.COUNTED], instructions.rows(counted))
    return counted
