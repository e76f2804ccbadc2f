"""A site to attack: one application whose pages are functions of the session.

site = Site(url)
key = site.begin(cart=[1])
site.visit(lambda session: session["cart"].append(2), key)
assert site.values(key) == {"cart": [1, 2]}
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from sessionware import Session, SessionEvent, SessionMiddleware, SessionStore
from sessionware.keys import digest
from tests.support.clock import Clock
from tests.support.counting import Calls, statements
from tests.support.wsgi import Reply, call

NAME = "__Host-sessionid"
HTTPS = "https://example.test"

Act = Callable[[Session], Any]


def ignore(_session: Session) -> None:
    """A page that has no use for the session."""


def look(session: Session) -> dict[str, Any]:
    """A page that shows all values."""
    return dict(session)


@dataclass(frozen=True)
class Visited:
    """One request: what the client got, and what the page made of the session."""

    reply: Reply
    value: Any

    @property
    def set_cookie(self) -> str | None:
        """The one Set-Cookie header, if any."""
        return self.reply.header("Set-Cookie")

    @property
    def key(self) -> str | None:
        """The session key that was sent, None without one."""
        return self.reply.cookies.get(NAME) or None

    @property
    def clears(self) -> bool:
        """Whether the session cookie is taken away."""
        return self.reply.cookies.get(NAME) == ""


class Site:
    """The application, its middleware, its table, and the events so far."""

    def __init__(self, database: str | sa.Engine | SessionStore, clock: Clock | None = None, **options: Any) -> None:
        self.clock = clock or Clock()
        self.events: list[SessionEvent] = []
        options = {"purge_interval": None, "on_event": self.events.append, "clock": self.clock, **options}
        self.middleware = SessionMiddleware(self._app, database, **options)
        self.store = self.middleware.store
        self.engine = self.store.database.engine

    def visit(
        self,
        act: Act = look,
        key: str | None = None,
        *,
        cookie: str | None = None,
        status: str = "200 OK",
        headers: Iterable[tuple[str, str]] = (),
        **options: Any,
    ) -> Visited:
        """Serve one request whose page is *act*; *key* is put into a cookie, *cookie* is a raw header.

        *headers* are the application's, other *options* those of call().
        """
        if key is not None:
            cookie = f"{NAME}={key}"
        page = _Page(act, status, [("Content-Type", "text/plain"), *headers])
        options["environ"] = {"test.page": page, **options.get("environ", {})}
        reply = call(self.middleware, cookie=cookie, **{"url": HTTPS, **options})
        return Visited(reply, page.value)

    def begin(self, **values: Any) -> str:
        """Have a visitor without a cookie begin a session; return its key."""
        key = self.visit(lambda session: session.update(values)).key
        assert key is not None
        return key

    def log_in(self, user_id: str, key: str | None = None) -> str:
        """Log a visitor in and return the new key."""
        new = self.visit(lambda session: session.login(user_id), key).key
        assert new is not None
        return new

    def values(self, key: str) -> dict[str, Any]:
        """Return what the application sees of the session of *key*; reading is all it does."""
        value = self.visit(look, key).value
        assert isinstance(value, dict)
        return value

    def rows(self) -> list[dict[str, Any]]:
        """Return every row of the table, marks too."""
        with self.engine.connect() as connection:
            if not sa.inspect(connection).has_table(self.store.table.name):
                return []
            return [dict(row) for row in connection.execute(sa.select(self.store.table)).mappings()]

    def row(self, key: str) -> dict[str, Any] | None:
        """Return the row under the digest of *key*, alive or not."""
        return next((row for row in self.rows() if bytes(row["digest"]) == digest(key)), None)

    def change_row(self, key: str, **columns: Any) -> None:
        """Write into the row of *key* past everything."""
        table = self.store.table
        with self.engine.begin() as connection:
            connection.execute(sa.update(table).where(table.c.digest == digest(key)).values(columns))

    def explained(self, calls: Calls) -> str:
        """Return what the database says of how it would run the one statement of *calls*."""
        (asked,) = calls.statements
        begin = {"sqlite": "EXPLAIN QUERY PLAN "}.get(self.engine.dialect.name, "EXPLAIN ")
        with self.engine.connect() as connection:
            if self.engine.dialect.name == "postgresql":
                connection.exec_driver_sql("SET enable_seqscan = off")  # the table is small
            return str(connection.exec_driver_sql(begin + asked.sql, asked.parameters).all())

    def kinds(self) -> list[str]:
        """Return the kinds of the events so far, and forget them."""
        kinds = [event.kind for event in self.events]
        self.events.clear()
        return kinds

    @contextmanager
    def counted(self) -> Iterator[Calls]:
        """Record what a block asks of the database."""
        with statements(self.engine) as calls:
            yield calls

    def _app(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        page = environ["test.page"]
        page.value = page.act(environ["sessionware.session"])
        start_response(page.status, page.headers)
        return [b"the page"]


@dataclass
class _Page:
    act: Act
    status: str
    headers: list[tuple[str, str]]
    value: Any = None
