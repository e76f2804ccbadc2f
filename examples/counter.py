"""The counter of Django's documentation, as a plain WSGI application."""

import os

from sessionware import SessionMiddleware


def counter(environ, start_response):
    """Answer how often this browser was here."""
    session = environ["sessionware.session"]
    session["count"] = session.get("count", 0) + 1
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"count={session['count']}".encode()]


database = os.environ.get("SESSIONWARE_DATABASE", "sqlite:///sessions.db")
application = SessionMiddleware(counter, database)
