"""Child processes: under which account they run, on which core, and that they end with this one."""

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

PATIENCE = 30.0  # seconds for a child to end
PR_SET_PDEATHSIG = 1


class Failed(Exception):
    """A command did not succeed; the message says what it said."""


@contextlib.contextmanager
def serving(
    command: Sequence[object], log_file: Path, core: int | None, farewell: signal.Signals, **identity: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """Run *command* meanwhile, as *identity* says; it gets the signal *farewell* at the end."""
    with open(log_file, "ab") as log:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdout=log,
            stderr=log,
            env=environment(),
            preexec_fn=lambda: _child(core, farewell),
            **identity,
        )
    try:
        yield process
    finally:
        process.send_signal(farewell)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE)
        process.kill()


def _child(core: int | None, farewell: signal.Signals) -> None:
    """Die with the parent; stay on *core*: what the server forks or starts as threads inherits it."""
    if hasattr(os, "sched_setaffinity"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, farewell)
        if core is not None:
            os.sched_setaffinity(0, {core})


def account() -> dict[str, Any]:
    """Return the options of Popen for an account that servers do not refuse: nobody instead of root."""
    return {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.geteuid() == 0 else {}


def environment() -> dict[str, str]:
    """Return the environment without what clients of databases read from it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "MYSQL"))}
    return kept | {"LC_ALL": "C"}


def hand_over(directory: Path) -> None:
    """Give *directory* to the account."""
    if os.geteuid() == 0:
        shutil.chown(directory, "nobody", "nogroup")


def run(command: Sequence[object], directory: Path) -> None:
    """Run *command* to its end under the account.

    Raises:
        Failed: it did not succeed.
    """
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, env=environment(), cwd=directory, **account())
    if done.returncode:
        raise Failed(f"{words[0]} failed: {done.stderr.decode(errors='replace').strip()}")


def free_port() -> int:
    """Return a port of the loopback that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
