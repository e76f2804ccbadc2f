"""The real server: it answers, takes signals, dies and tells why."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests.support.gunicorn import Gunicorn, GunicornFailed

APP = """
import os, sys

def app(environ, start_response):
    print("asked for", environ["PATH_INFO"], file=sys.stderr, flush=True)
    start_response("200 OK", [("Content-Type", "text/plain"), ("X-Cookie", environ.get("HTTP_COOKIE", "none"))])
    return [f"{os.getpid()} {os.environ.get('GREETING')} ".encode(), environ["wsgi.input"].read()]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "served.py").write_text(APP)
    return tmp_path


@pytest.mark.parametrize(
    ("worker_class", "threads", "preload"),
    [
        pytest.param("sync", 1, False, id="sync"),
        pytest.param("sync", 1, True, id="sync-preload"),
        pytest.param("gthread", 4, False, id="gthread"),
    ],
)
def test_answers(folder: Path, worker_class: str, threads: int, preload: bool) -> None:
    """With the worker class, the environment and the request that were asked for."""
    environ = {"GREETING": "hello"}
    kind = {"worker_class": worker_class, "threads": threads, "preload": preload}
    with Gunicorn("served:app", folder, cwd=folder, workers=2, environ=environ, **kind) as server:  # type: ignore[arg-type]
        status, headers, body = server.request("/path", method="POST", cookie="s=1", body=b"sent")
        number, greeting, echo = body.decode().split()

        assert (status, greeting, echo) == (200, "hello", "sent")
        assert ("X-Cookie", "s=1") in headers
        assert int(number) in server.workers
        assert len(server.workers) == 2
        assert "asked for /path" in server.stderr
        assert worker_class in server.stderr


def test_killed_worker_is_replaced(folder: Path) -> None:
    """The kill reaches the worker, and the master lives."""
    with Gunicorn("served:app", folder, cwd=folder) as server:
        (old,) = server.workers
        os.kill(old, signal.SIGKILL)
        new = int(server.request()[2].split()[0])

        assert new != old


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_survives_the_stop(folder: Path, number: signal.Signals) -> None:
    """Neither in order nor by force."""
    server = Gunicorn("served:app", folder, cwd=folder)
    server.start()
    (worker,) = server.workers
    server.stop(number)

    assert _gone(worker)


def test_failure_is_told(folder: Path) -> None:
    """The reason stands in the error, not in a time-out."""
    (folder / "broken.py").write_text("raise LookupError('no such luck')")
    with pytest.raises(GunicornFailed, match="no such luck"), Gunicorn("broken:app", folder, cwd=folder):
        pass


def _gone(pid: int) -> bool:
    """Tell whether a process has ended; one that nobody has waited for has."""
    deadline = time.monotonic() + 5
    status = Path(f"/proc/{pid}/stat")
    while status.exists() and status.read_text().split()[2] != "Z":
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
