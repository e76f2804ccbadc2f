"""The isolation levels of each engine, as an application's own Engine brings them along."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, create_engine, make_url

LEVELS = ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")


@dataclass(frozen=True)
class Place:
    """An engine at an isolation level; None: the engine that the package makes of a URL."""

    dialect: str
    level: str | None = None

    @property
    def id(self) -> str:
        return self.dialect if self.level is None else f"{self.dialect}-{self.level.lower().replace(' ', '-')}"


PLACES = [
    Place("sqlite"),
    *(Place(dialect, level) for dialect in ("postgresql", "mariadb") for level in (None, *LEVELS)),
]


@dataclass(frozen=True)
class Address:
    """An empty database at a place."""

    url: str
    level: str | None

    def open(self) -> str | Engine:
        """Return the URL, or a new Engine every statement of which runs at the level."""
        if self.level is None:
            return self.url
        options: dict[str, Any] = {}
        if make_url(self.url).get_backend_name() == "postgresql":
            # In autocommit the drivers leave the level to the server.
            escaped = self.level.lower().replace(" ", "\\ ")
            options = {"connect_args": {"options": f"-c default_transaction_isolation={escaped}"}}
        return create_engine(self.url, isolation_level=self.level, **options)
