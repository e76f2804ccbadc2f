"""Beaker with its SQLAlchemy table (`ext:sqla`), as its documentation sets it up."""

import tempfile
from collections.abc import Iterable
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import sqlalchemy
from beaker.ext.sqla import SqlaNamespaceManager, make_cache_table
from beaker.middleware import SessionMiddleware

from ..workloads import READS, UNTOUCHED, act


def build(name: str, url: str) -> WSGIApplication:
    """Return the application; `beaker-noatime` does not save the time of each access."""
    SqlaNamespaceManager._init_dependencies()
    engine = sqlalchemy.create_engine(url)
    table = make_cache_table(sqlalchemy.MetaData())
    table.create(engine, checkfirst=True)
    options = {
        "session.type": "ext:sqla",
        "session.bind": engine,
        "session.table": table,
        "session.lock_dir": tempfile.gettempdir(),  # must be named; sessions take no lock there
        "session.save_accessed_time": name != "beaker-noatime",
    }
    wrapped: WSGIApplication = SessionMiddleware(application, options)
    return wrapped


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Do what the path asks for; save what it changed, as Beaker wants it."""
    path = environ["PATH_INFO"]
    body = b"ok" if path == UNTOUCHED else _session_body(path, environ)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


def _session_body(path: str, environ: WSGIEnvironment) -> bytes:
    session = environ["beaker.session"]
    body = act(path, session)
    if path not in READS:
        session.save()
    return body.encode()
