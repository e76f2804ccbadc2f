"""A TCP relay on the loopback that counts what passes: flights and bytes, not what they say."""

import selectors
import socket
import threading


class Relay:
    """A TCP relay that counts; one thread serves all of its connections."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._selector = selectors.DefaultSelector()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._over = False
        self.reset()

    def reset(self) -> None:
        """Begin to count anew."""
        self.flights = self.up = self.down = 0
        self._answered = True

    def __enter__(self) -> "Relay":
        self._selector.register(self._listener, selectors.EVENT_READ, None)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._selector.close()

    def _serve(self) -> None:
        while not self._over:
            for key, _ in self._selector.select(timeout=0.1):
                if key.data is None:
                    self._accept()
                elif self._selector.get_map().get(key.fd) is key:  # else hung up a moment ago
                    self._pass_on(key.fileobj, *key.data)  # type: ignore[arg-type]

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        server = socket.create_connection(self._target)
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._selector.register(client, selectors.EVENT_READ, (server, True))
        self._selector.register(server, selectors.EVENT_READ, (client, False))

    def _pass_on(self, source: socket.socket, other: socket.socket, up: bool) -> None:
        try:
            data = source.recv(1 << 20)
        except OSError:
            data = b""
        if not data:
            return self._hang_up(source, other)
        self._note(len(data), up)
        other.sendall(data)

    def _note(self, size: int, up: bool) -> None:
        if not up:
            self.down += size
            self._answered = True
            return
        self.up += size
        self.flights += self._answered
        self._answered = False

    def _hang_up(self, *ends: socket.socket) -> None:
        for end in ends:
            self._selector.unregister(end)
            end.close()
