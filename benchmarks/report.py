"""The results for people (Markdown) and for programs (JSON)."""

import json
import platform
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from . import contestants
from .contestants import LIMIT, OURS
from .measure import Samples, quartiles
from .workloads import WORKLOADS

PACKAGES = (
    "sqlalchemy", "webob", "orjson", "psycopg", "mysqlclient", "PyMySQL", "django", "beaker",
    "flask", "flask-session", "gunicorn",
)  # fmt: skip

# the most that sessionware may take of the limit's time
GOALS = {
    "sqlite": {"W2": 1.5, "W3": 1.10, "W4": 1.10, "W5": 0.9, "W6": 0.8},
    "postgresql": {"W2": 1.5, "W3": 1.10, "W4": 1.10, "W5": 1.1, "W6": 0.95},
    "mariadb": {"W2": 1.3, "W3": 1.15, "W4": 1.10, "W5": 1.0, "W6": 0.95},
}
GOAL_UNTOUCHED = 1.0  # microseconds above bare WSGI


def environment() -> dict[str, str]:
    """Return the versions that the numbers belong to."""
    found = {"Python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}"}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def number(value: float) -> str:
    """Return three significant digits, at most one after the point from ten on."""
    return f"{value:.2f}" if value < 10 else f"{value:,.0f}"


def times(samples: Samples, names: Sequence[str], workloads: Sequence[str]) -> list[list[str]]:
    """Return the lines of medians and ratios."""
    return [[name, *(_time(samples, name, workload) for workload in workloads)] for name in names]


def goals(kind: str, workloads: Sequence[str]) -> list[str]:
    """Return the line of what sessionware is to reach."""
    wanted = (GOALS[kind].get(workload) for workload in workloads)
    return ["*goal*", *("" if goal is None else f"{goal:.2f}" for goal in wanted)]


def _time(samples: Samples, name: str, workload: str) -> str:
    median = samples.median(name, workload)
    if median is None:
        return ""
    if not WORKLOADS[workload].touches:
        return number(median)
    ratios = samples.ratios(name, workload)
    if not ratios:
        return number(median)
    low, middle, high = quartiles(ratios)
    return f"{number(median)} (**{middle:.2f}** [{low:.2f} {high:.2f}])"


def sessions_alone(samples: Samples, names: Sequence[str], workloads: Sequence[str]) -> list[list[str]]:
    """Return the lines of microseconds above the same stack without sessions."""
    rows = [_alone(samples, name, workloads) for name in names if contestants.has_sessions(name)]
    if OURS in names:
        rows.append(["*goal*", *(f"{GOAL_UNTOUCHED:.2f}" if name == "W1" else "" for name in workloads)])
    return rows


def _alone(samples: Samples, name: str, workloads: Sequence[str]) -> list[str]:
    base = contestants.WITHOUT_SESSIONS[name]
    cells = (samples.above(name, workload, base, _base_of(workload)) for workload in workloads)
    return [name, *("" if cell is None else number(cell) for cell in cells)]


def _base_of(workload: str) -> str:
    return "W0" if WORKLOADS[workload].seed is None else "W1"


def result(samples: Samples) -> dict[str, Any]:
    """Return *samples* as plain values, with the ratios of each round's pair."""
    plain: dict[str, Any] = {}
    for (name, workload), microseconds in samples.times.items():
        entry: dict[str, Any] = {"microseconds": microseconds}
        ratios = samples.ratios(name, workload)
        if ratios and WORKLOADS[workload].touches:
            entry["ratio_to_" + LIMIT] = dict(zip(("q1", "median", "q3"), quartiles(ratios), strict=True))
        plain.setdefault(name, {})[workload] = entry
    return plain


def write_json(path: str, content: dict[str, Any]) -> None:
    """Write *content* with the environment it belongs to."""
    Path(path).write_text(json.dumps({"environment": environment()} | content, indent=2) + "\n")
