"""Two processes that meet: one arrives and waits, the other sees it there and lets it go on."""

import socket
from typing import Self

PATIENCE = 20.0


class Meeting:
    """A place, known by its *port*, where somebody else will wait for us; a context manager.

    Whoever waits goes on when it is left, or when their patience is at its end.
    """

    def __init__(self) -> None:
        self._door = socket.create_server(("127.0.0.1", 0))
        self._door.settimeout(PATIENCE)
        self.port = int(self._door.getsockname()[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._door.close()

    def attend(self) -> socket.socket:
        """Wait until the other one is there; they wait until what this returns is closed."""
        return self._door.accept()[0]


def wait_at(port: int) -> None:
    """Arrive at the meeting on *port* of 127.0.0.1, and wait there to be let go."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as other:
        other.recv(1)
