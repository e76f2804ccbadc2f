"""The limit: what a careful hand needs without any library but the driver.

A connection kept open in autocommit, the cookie split by hand, one SELECT that checks the expiry,
the standard library's json, one UPDATE; one INSERT at a first visit. It promises nothing else:
parallel requests overwrite each other, the key stands in the table as it is.
"""

import json
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from sqlalchemy import URL, make_url

from ..workloads import READS, UNTOUCHED, act

LIFETIME = 14 * 24 * 3600  # seconds
TABLE = """CREATE TABLE IF NOT EXISTS limit_session (
    id VARCHAR(43) NOT NULL PRIMARY KEY, data {text} NOT NULL, expires BIGINT NOT NULL)"""
SELECT = "SELECT data FROM limit_session WHERE id = {0} AND expires > {0}"
UPDATE = "UPDATE limit_session SET data = {0}, expires = {0} WHERE id = {0}"
INSERT = "INSERT INTO limit_session (id, data, expires) VALUES ({0}, {0}, {0})"


def build(name: str, url: str) -> WSGIApplication:
    """Return the application over the fastest driver that is installed for *url*."""
    return Limit(make_url(url))


class Limit:
    """The application and its sessions in one class."""

    def __init__(self, url: URL) -> None:
        self._url = url
        self._local = threading.local()
        mark = "?" if url.get_backend_name() == "sqlite" else "%s"
        self._select, self._update, self._insert = (sql.format(mark) for sql in (SELECT, UPDATE, INSERT))
        text = "LONGTEXT" if url.get_backend_name() == "mysql" else "TEXT"
        self._execute(TABLE.format(text=text))

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        headers = [("Content-Type", "text/plain")]
        body = b"ok" if path == UNTOUCHED else self._with_session(path, environ, headers)
        headers.append(("Content-Length", str(len(body))))
        start_response("200 OK", headers)
        return [body]

    def _with_session(self, path: str, environ: WSGIEnvironment, headers: list[tuple[str, str]]) -> bytes:
        key = key_in(environ)
        now = int(time.time())
        row = self._execute(self._select, (key, now)).fetchone() if key else None
        values = json.loads(row[0]) if row else {}
        body = act(path, values).encode()
        if path in READS:
            return body
        text = json.dumps(values, separators=(",", ":"))
        if row:
            self._execute(self._update, (text, now + LIFETIME, key))
            return body
        key = secrets.token_urlsafe(32)
        self._execute(self._insert, (key, text, now + LIFETIME))
        headers.append(("Set-Cookie", f"__Host-sid={key}; Path=/; Secure; HttpOnly; SameSite=Lax"))
        return body

    def _execute(self, sql: str, values: tuple[Any, ...] = ()) -> Any:
        try:
            execute = self._local.execute
        except AttributeError:
            execute = self._local.execute = connected(self._url)
        return execute(sql, values)


def key_in(environ: WSGIEnvironment) -> str | None:
    """Return the key in the cookie."""
    for pair in environ.get("HTTP_COOKIE", "").split(";"):
        name, _, value = pair.strip().partition("=")
        if name == "__Host-sid":
            return str(value)
    return None


def connected(url: URL) -> Any:
    """Open a connection of this thread's own; return its execute(sql, values) -> cursor."""
    if url.get_backend_name() == "sqlite":
        return sqlite3.connect(str(url.database), isolation_level=None).execute
    if url.get_backend_name() == "postgresql":
        return _psycopg(url)
    return _mysql(url)


def _psycopg(url: URL) -> Any:
    import psycopg

    return psycopg.connect(
        host=url.host, port=url.port, user=url.username, dbname=url.database, autocommit=True
    ).execute


def _mysql(url: URL) -> Any:
    if url.get_driver_name() == "mysqldb":
        import MySQLdb as driver
    else:
        import pymysql as driver

    connection = driver.connect(host=url.host, port=url.port, user=url.username, database=url.database, autocommit=True)

    def execute(sql: str, values: tuple[Any, ...]) -> Any:
        cursor = connection.cursor()
        cursor.execute(sql, values or None)
        return cursor

    return execute
