"""The statements of sessionware without sessionware: what this design costs if all else were free.

The limit's application over our table: our columns, conditions and indexes, the digest of the key, and the
faster JSON. It promises no more than the limit. What it costs above the limit is the price of the table; what
sessionware costs above it is the price of its Python.
"""

import time
from collections.abc import Mapping
from typing import Any
from wsgiref.types import WSGIApplication, WSGIEnvironment

import orjson
from sqlalchemy import URL, make_url

from sessionware import SessionStore, keys
from sessionware.record import Record, new_revision
from sessionware.statement import Statement
from sessionware.table import row_of, values_over

from ..workloads import READS, act
from .limit import LIFETIME, Limit, key_in


def build(name: str, url: str) -> WSGIApplication:
    """Return the application over the driver that *url* names."""
    store = SessionStore(url)
    store.create_table()
    return Statements(make_url(url), store)


class Statements(Limit):
    """The limit's application on the table of *store*."""

    def __init__(self, url: URL, store: SessionStore) -> None:
        super().__init__(url)
        self._sql = store._sql

    def _with_session(self, path: str, environ: WSGIEnvironment, headers: list[tuple[str, str]]) -> bytes:
        key = key_in(environ)
        now = int(time.time())
        digest = keys.digest(key) if key else b""
        rows = self._run(self._sql.load, {"digest": digest}) if key else []
        record = self._sql.as_record(rows[0]) if rows else None
        values: dict[str, Any] = {}
        if record is not None and record.data is not None and record.is_live(now):
            values = orjson.loads(record.data)
        body = act(path, values).encode()
        if path in READS:
            return body
        text = orjson.dumps(values).decode()
        if record is not None:
            changed = record._replace(data=text, revision=new_revision(), used_at=now, expires_at=now + LIFETIME)
            self._run(self._sql.overwrite, values_over(digest, changed, record.revision, now))
            return body
        key = keys.new_key()
        made = Record(text, 1, new_revision(), None, now, now, now + LIFETIME, None)
        self._run(self._sql.insert, row_of(keys.digest(key), made))
        headers.append(("Set-Cookie", f"__Host-sid={key}; Path=/; Secure; HttpOnly; SameSite=Lax"))
        return body

    def _run(self, statement: Statement, values: Mapping[str, Any]) -> Any:
        cursor = self._execute(statement.text, statement.bind(values))
        return cursor.fetchall() if statement.selects else cursor.rowcount
