"""The load generator: wrk, with a script that goes round the sessions."""

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

CONNECTIONS = 16
PATIENCE = 20.0  # seconds more than asked for

SCRIPT = """
local cookies, n = {{{cookies}}}, 0
function request()
  n = n + 1
  return wrk.format("GET", "{path}", {{["Cookie"] = cookies[n % #cookies + 1]}})
end
function done(summary, latency)
  local bad = summary.errors.status + summary.errors.timeout + summary.errors.connect
  io.write(string.format("RESULT %d %d %f %d\\n",
    summary.requests, summary.duration, latency:percentile(99), bad))
end
"""


@dataclass(frozen=True)
class Load:
    """What wrk saw in one measurement."""

    per_second: float
    p99: float  # milliseconds
    refused: int


def installed() -> bool:
    """Tell whether wrk can be run."""
    return shutil.which("wrk") is not None


def loaded(port: int, path: str, cookies: Sequence[str], seconds: int, directory: Path) -> Load:
    """Load the server on *port* for *seconds*; its script is left in *directory*."""
    script = directory / "load.lua"
    script.write_text(SCRIPT.format(path=path, cookies=", ".join(f'"{cookie}"' for cookie in cookies)))
    _wrk(port, script, 1)  # warm up
    requests, microseconds, p99, refused = _wrk(port, script, seconds)
    return Load(requests / microseconds * 1e6, p99 / 1000, int(refused))


def _wrk(port: int, script: Path, seconds: int) -> list[float]:
    command = [
        "wrk",
        "-t1",
        f"-c{CONNECTIONS}",
        f"-d{seconds}",
        "-s",
        str(script),
        f"http://127.0.0.1:{port}/",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + PATIENCE, check=True)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    return [float(word) for word in line.split()[1:]]
