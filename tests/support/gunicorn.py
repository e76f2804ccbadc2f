"""The application in a real gunicorn, as people run it."""

import http.client
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from subprocess import Popen
from typing import Self

from tests.support.processes import free_port, spawn, stop

PATIENCE = 30.0
ROOT = Path(__file__).parents[2]


class GunicornFailed(AssertionError):
    """The server ended, or did not answer in time; the message is what it printed."""


class Gunicorn:
    """gunicorn with *app* ("module:name") on a free port of 127.0.0.1; a context manager.

    *folder* takes its log. *cwd* is where *app* is imported from. *ready* is the path asked until it
    answers, with any status: choose one that leaves sessions alone. *options* go on the command line.
    """

    def __init__(
        self,
        app: str,
        folder: Path,
        *,
        worker_class: str = "sync",
        workers: int = 1,
        threads: int = 1,
        preload: bool = False,
        environ: Mapping[str, str] | None = None,
        cwd: Path = ROOT,
        ready: str = "/",
        options: tuple[str, ...] = (),
    ) -> None:
        self.port = free_port()
        self._log = folder / f"gunicorn-{self.port}.log"
        self._ready = ready
        self._workers = workers
        self._cwd = cwd
        self._environ = {**os.environ, **(environ or {})}
        self._command = [
            *(sys.executable, "-m", "gunicorn", app, "--bind", f"127.0.0.1:{self.port}"),
            *("--worker-class", worker_class, "--workers", str(workers), "--threads", str(threads)),
            *(("--preload",) if preload else ()),
            *("--graceful-timeout", "5", *options),
        ]
        self._process: Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The process id of the master."""
        assert self._process is not None
        return self._process.pid

    @property
    def stderr(self) -> str:
        """What the master and its workers have printed so far."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    @property
    def workers(self) -> list[int]:
        """The process ids of the workers, eldest first (Linux)."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        return sorted(int(number) for number in children.read_text().split())

    def start(self) -> None:
        """Start, and return when every worker runs and one of them answers.

        Raises:
            GunicornFailed: it did not.
        """
        self._process = spawn(
            self._command,
            output=self._log,
            environ=self._environ,
            cwd=self._cwd,
            last_signal=signal.SIGTERM,
        )
        try:
            self._await_answer()
        except BaseException:
            self.stop(signal.SIGKILL)
            raise

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the master: SIGHUP reloads, SIGTTIN adds a worker."""
        os.kill(self.pid, number)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Stop with *number*; SIGTERM lets requests finish."""
        process, self._process = self._process, None
        if process is None:
            return
        stop(process, number, patience=PATIENCE)
        # Workers notice a killed master only after a while; the whole group is ours.
        _end_group(process.pid)

    def request(
        self,
        path: str = "/",
        *,
        cookie: str | None = None,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        timeout: float = PATIENCE,
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        """Send one request on a connection of its own; return status, headers and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        sent = {**(headers or {}), **({} if cookie is None else {"Cookie": cookie})}
        try:
            connection.request(method, path, body=body, headers=sent)
            response = connection.getresponse()
            return response.status, response.getheaders(), response.read()
        finally:
            connection.close()

    def _await_answer(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if self._process is not None and self._process.poll() is not None:
                raise GunicornFailed(self.stderr)
            if self.stderr.count("Booting worker") >= self._workers and self._answers():
                return
            time.sleep(0.02)
        raise GunicornFailed(self.stderr or "no answer")

    def _answers(self) -> bool:
        try:
            self.request(self._ready, timeout=5.0)
        except (OSError, http.client.HTTPException):
            return False
        return True


def _end_group(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return
