"""Children that die with the test run, and free ports for them."""

import ctypes
import os
import pwd
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1

# Linux sends the death signal when the *thread* that started a child ends, so one thread that
# lives as long as the process starts them all.
_starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="process-starter")


@dataclass(frozen=True)
class Account:
    """The user a child runs as; None in both fields: the user of the tests."""

    uid: int | None = None
    gid: int | None = None

    def options(self) -> dict[str, Any]:
        """Return the keyword arguments of Popen that switch to this user."""
        if self.uid is None:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def own(self, folder: Path) -> None:
        """Give *folder* to this user."""
        if self.uid is not None and self.gid is not None:
            os.chown(folder, self.uid, self.gid)


def unprivileged() -> Account:
    """Return the user for servers that refuse to run as root: nobody for root, else ourselves."""
    if os.geteuid() != 0:
        return Account()
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        return Account(65534, 65534)
    return Account(nobody.pw_uid, nobody.pw_gid)


def spawn(
    command: Sequence[str | Path],
    *,
    output: Path,
    account: Account | None = None,
    environ: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    pass_fds: Sequence[int] = (),
    last_signal: signal.Signals = signal.SIGINT,
) -> subprocess.Popen[bytes]:
    """Start *command* with stdout and stderr appended to *output*; it gets *last_signal* when we die."""

    def start() -> subprocess.Popen[bytes]:
        with output.open("ab") as log, warnings.catch_warnings():
            # Python 3.12 warns of any fork beside threads; the child only makes one system call.
            warnings.simplefilter("ignore", DeprecationWarning)
            return subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=None if environ is None else dict(environ),
                cwd=cwd,
                pass_fds=pass_fds,
                # An interrupt from the keyboard is for the test run, which then stops its children itself.
                start_new_session=True,
                preexec_fn=_bind_to_parent(last_signal),
                **(account or Account()).options(),
            )

    return _starter.submit(start).result()


def stop(process: subprocess.Popen[bytes], number: signal.Signals, *, patience: float = 20.0) -> None:
    """Send *number* and wait; kill what has not ended after *patience* seconds."""
    if process.poll() is None:
        process.send_signal(number)
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def free_port() -> int:
    """Return a port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _bind_to_parent(number: signal.Signals) -> Callable[[], None] | None:
    if sys.platform != "linux":
        return None
    # Loaded here, not in the child: between fork and exec another thread may hold the loader's lock.
    libc = ctypes.CDLL(None)

    def bind() -> None:
        libc.prctl(PR_SET_PDEATHSIG, number)

    return bind
