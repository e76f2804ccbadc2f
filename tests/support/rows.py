"""Rows to put under the store's verbs, and what the table holds without asking the verbs."""

import secrets
from typing import Any

import sqlalchemy as sa

from sessionware.record import Record, new_revision
from sessionware.store import SessionStore


def random_digest() -> bytes:
    """Return a digest that no session has."""
    return secrets.token_bytes(32)


def new_record(now: float, data: str | None = '{"a":1}', *, lives: int = 1000, **changes: Any) -> Record:
    """Return a record made at *now* that is dead *lives* seconds later."""
    moment = int(now)
    return Record(data, 1, new_revision(), None, moment, moment, moment + lives, None)._replace(**changes)


def put(store: SessionStore, record: Record, digest: bytes | None = None) -> bytes:
    """Store *record* as a new row; return its digest."""
    digest = digest or random_digest()
    assert store.insert(digest, record)
    return digest


def put_many(store: SessionStore, records: list[Record]) -> list[bytes]:
    """Store many rows in one go; return their digests in the same order."""
    digests = [random_digest() for _ in records]
    rows = [
        record._asdict() | {"digest": digest, "purge_hour": record.expires_at // 3600}
        for digest, record in zip(digests, records, strict=True)
    ]
    if rows:
        with store.database.engine.begin() as connection:
            connection.execute(sa.insert(store.table), rows)
    return digests


def row_count(store: SessionStore) -> int:
    """Return how many rows the table holds, live or not."""
    with store.database.engine.connect() as connection:
        return int(connection.execute(sa.select(sa.func.count()).select_from(store.table)).scalar_one())


def all_rows(store: SessionStore) -> dict[bytes, dict[str, Any]]:
    """Return every row, by digest."""
    with store.database.engine.connect() as connection:
        rows = connection.execute(sa.select(store.table)).mappings().all()
    return {bytes(row["digest"]): dict(row) for row in rows}
