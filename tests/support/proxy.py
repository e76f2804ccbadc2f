"""The wire between a driver and its server: counted and recorded, or broken.

One thread a proxy moves every byte and carries out every command, so that a command is complete when
its method returns, and whatever was sent before it has gone before it.
"""

import heapq
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from queue import SimpleQueue
from typing import Literal, Self, TypeVar

from sqlalchemy import URL, make_url

RESET_ON_CLOSE = struct.pack("ii", 1, 0)
CHUNK = 65536
PATIENCE = 30.0

Direction = Literal["up", "down"]
Result = TypeVar("Result")


@dataclass(eq=False)
class Link:
    """One client's connection: its two sockets, and what the proxies remember of it."""

    client: socket.socket
    server: socket.socket
    flight: bytearray | None = None
    doomed: bool = False
    allowance: int | None = None

    def target(self, direction: Direction) -> socket.socket:
        """Return the socket that bytes in *direction* are written to."""
        return self.server if direction == "up" else self.client


class Proxy:
    """A TCP proxy on a port of 127.0.0.1; passes everything. A context manager."""

    def __init__(self, url: str | URL) -> None:
        self._url = make_url(url)
        self._links: list[Link] = []
        self._late: list[tuple[float, int, Link, Direction, bytes]] = []
        self._order = count()
        self._commands: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._wake, self._woken = socket.socketpair()
        self._door = _bound(0)
        self._door.listen(128)
        self.port = int(self._door.getsockname()[1])
        self.refusing = False
        self.hanging = False
        self.delay = 0.0
        self.accepted = 0
        self._running = True
        self._thread = threading.Thread(target=self._run, name=f"proxy-{self.port}", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """The URL that was given, through this proxy."""
        return self.through(self._url)

    def through(self, url: str | URL) -> str:
        """Return *url* with this proxy for a host, and without the encryption that would blind it."""
        url = make_url(url).set(host="127.0.0.1", port=self.port)
        if url.get_backend_name() == "postgresql":
            url = url.update_query_dict({"sslmode": "disable", "gssencmode": "disable"})
        return url.render_as_string(hide_password=False)

    @property
    def connections(self) -> int:
        """How many connections are open now."""
        return self._do(lambda: len(self._links))

    def lead_to(self, url: str | URL) -> None:
        """Lead new connections to another server, as an address that moves does; those that are open stay."""
        self._do(lambda: setattr(self, "_url", make_url(url)))

    def reset_all(self) -> None:
        """Break every connection as a crash would; new ones are accepted."""
        self._do(self._reset_links)

    def close(self) -> None:
        """End all connections and the thread."""
        if self._thread.is_alive():
            self._do(self._end)
        self._thread.join()

    def passing(self, link: Link, direction: Direction, chunk: bytes) -> bytes | None:
        """Return what of *chunk* goes on; None: nothing does, and the connection is reset."""
        return chunk

    def connected(self, link: Link) -> None:
        """Take note of a new connection."""

    def _do(self, command: Callable[[], Result]) -> Result:
        """Have the thread carry out *command*; return its result."""
        results: list[Result] = []
        done = threading.Event()

        def carry_out() -> None:
            results.append(command())
            done.set()

        self._commands.put(carry_out)
        self._wake.send(b"!")
        if not done.wait(PATIENCE):
            raise AssertionError("the proxy does not answer")
        return results[0]

    def _run(self) -> None:
        while self._running:
            ready = self._wait()
            for link in list(self._links):
                self._serve(link, ready)
            if self._door.fileno() in ready:
                self._accept()
            self._send_late()
            if self._woken.fileno() in ready:  # last: what was sent before a command goes before it
                self._woken.recv(CHUNK)
                while not self._commands.empty():
                    self._commands.get()()
        self._wake.close()
        self._woken.close()

    def _wait(self) -> set[int]:
        poll = select.poll()
        poll.register(self._woken, select.POLLIN)
        if not self.hanging:
            for link in self._links:
                poll.register(link.client, select.POLLIN)
                poll.register(link.server, select.POLLIN)
            if not self.refusing:
                poll.register(self._door, select.POLLIN)
        timeout = max(0.0, self._late[0][0] - time.monotonic()) * 1000 if self._late else None
        return {number for number, _ in poll.poll(timeout)}

    def _serve(self, link: Link, ready: set[int]) -> None:
        # The server first: an answer that lies ready belongs to what was asked before.
        if link.server.fileno() in ready:
            self._move(link, "down", link.server)
        if link.client.fileno() in ready:
            self._move(link, "up", link.client)

    def _move(self, link: Link, direction: Direction, source: socket.socket) -> None:
        try:
            chunk = source.recv(CHUNK)
        except OSError:
            return self._drop(link, reset=True)
        if not chunk:
            return self._drop(link)
        passed = self.passing(link, direction, chunk)
        if passed is None:
            return self._drop(link, reset=True)
        self._send(link, direction, passed)

    def _send(self, link: Link, direction: Direction, chunk: bytes) -> None:
        if self.delay and direction == "down":
            due = time.monotonic() + self.delay
            return heapq.heappush(self._late, (due, next(self._order), link, direction, chunk))
        try:
            link.target(direction).sendall(chunk)
        except OSError:
            self._drop(link, reset=True)

    def _send_late(self) -> None:
        while self._late and self._late[0][0] <= time.monotonic():
            *_, link, direction, chunk = heapq.heappop(self._late)
            with suppress(OSError):  # it may be closed by now
                link.target(direction).sendall(chunk)

    def _accept(self) -> None:
        client, _ = self._door.accept()
        self.accepted += 1
        try:
            server = socket.create_connection((self._url.host or "127.0.0.1", self._url.port or 0))
        except OSError:
            _close(client, reset=True)
            return
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link = Link(client, server)
        self._links.append(link)
        self.connected(link)

    def _drop(self, link: Link, *, reset: bool = False) -> None:
        if link in self._links:
            self._links.remove(link)
        _close(link.client, reset=reset)
        _close(link.server, reset=reset)

    def _reset_links(self) -> None:
        for link in list(self._links):
            self._drop(link, reset=True)
        self._late.clear()

    def _end(self) -> None:
        self._reset_links()
        self._door.close()
        self._running = False


class FlightCounter(Proxy):
    """Counts round trips. A flight is what a client sends before the server's next chunk."""

    def __init__(self, url: str | URL) -> None:
        super().__init__(url)
        self._flights: list[bytearray] = []
        self._received = bytearray()

    @property
    def count(self) -> int:
        """How many flights since the start or the last reset()."""
        return len(self.flights)

    @property
    def flights(self) -> list[bytes]:
        """The bytes of each flight."""
        return self._do(lambda: [bytes(flight) for flight in self._flights])

    @property
    def sent(self) -> bytes:
        """Every byte from the clients."""
        return b"".join(self.flights)

    @property
    def received(self) -> bytes:
        """Every byte from the server."""
        return self._do(lambda: bytes(self._received))

    def reset(self) -> None:
        """Count from zero again."""
        self._do(self._forget)

    def passing(self, link: Link, direction: Direction, chunk: bytes) -> bytes | None:
        """Write the chunk down, and let it pass."""
        if direction == "down":
            link.flight = None
            self._received += chunk
            return chunk
        if link.flight is None:
            link.flight = bytearray()
            self._flights.append(link.flight)
        link.flight += chunk
        return chunk

    def _forget(self) -> None:
        self._flights.clear()
        self._received.clear()
        for link in self._links:
            link.flight = None


class ToxicProxy(Proxy):
    """Breaks the wire on command, until heal()."""

    def __init__(self, url: str | URL) -> None:
        super().__init__(url)
        self.losses = 0
        self._armed: tuple[Direction, bytes] | None = None
        self._limit: int | None = None
        self._once = False

    def latency(self, seconds: float) -> None:
        """Hold every reply back for so long."""
        self._do(lambda: setattr(self, "delay", seconds))

    def hang(self) -> None:
        """Pass nothing on: connections stay open, new ones too, and nobody answers."""
        self._do(lambda: setattr(self, "hanging", True))

    def refuse(self) -> None:
        """Refuse new connections, as a port where nobody listens."""
        self._do(self._shut_door)

    def drop_reply(self, pattern: bytes = b"") -> None:
        """Lose the reply to the next request that holds *pattern*, then reset: done, but not acknowledged.

        psycopg prepares a statement at its fifth use on a connection and then sends it without its text.
        """
        self._do(lambda: setattr(self, "_armed", ("down", pattern)))

    def drop_request(self, pattern: bytes = b"") -> None:
        """Lose the next request that holds *pattern*, then reset: never done."""
        self._do(lambda: setattr(self, "_armed", ("up", pattern)))

    def limit(self, size: int, *, once: bool = False) -> None:
        """Pass *size* bytes of replies on each connection, then reset it; *once*: only the first one."""
        self._do(lambda: self._set_limit(size, once))

    def heal(self) -> None:
        """Pass everything again."""
        self._do(self._heal)

    def connected(self, link: Link) -> None:
        """Give a new connection its share."""
        link.allowance = self._limit

    def passing(self, link: Link, direction: Direction, chunk: bytes) -> bytes | None:
        """Lose what is armed, cut what is limited, pass the rest."""
        if direction == "up":
            return self._passing_up(link, chunk)
        if link.doomed:
            self.losses += 1
            return None
        if link.allowance is not None:
            return self._passing_limited(link, chunk)
        return chunk

    def _passing_up(self, link: Link, chunk: bytes) -> bytes | None:
        if self._armed is None or self._armed[1] not in chunk:
            return chunk
        lost, self._armed = self._armed[0], None
        if lost == "up":
            self.losses += 1
            return None
        link.doomed = True
        return chunk

    def _passing_limited(self, link: Link, chunk: bytes) -> bytes | None:
        assert link.allowance is not None
        if len(chunk) <= link.allowance:
            link.allowance -= len(chunk)
            return chunk
        self.losses += 1
        with suppress(OSError):
            link.client.sendall(chunk[: link.allowance])
        if self._once:
            self._set_limit(None, once=False)
        return None

    def _set_limit(self, size: int | None, once: bool) -> None:
        self._limit, self._once = size, once
        for link in self._links:
            link.allowance = size

    def _shut_door(self) -> None:
        if self.refusing:
            return
        self.refusing = True
        self._door.close()
        self._door = _bound(self.port)  # bound without listening: the port stays ours and refuses

    def _heal(self) -> None:
        self._set_limit(None, once=False)
        self._armed = None
        self.hanging, self.delay = False, 0.0
        if self.refusing:
            self._door.listen(128)
            self.refusing = False


def _bound(port: int) -> socket.socket:
    door = socket.socket()
    door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    door.bind(("127.0.0.1", port))
    return door


def _close(end: socket.socket, *, reset: bool) -> None:
    if reset:
        with suppress(OSError):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    end.close()
