"""The contestants by name: each is a WSGI application over a database URL."""

from importlib import import_module
from wsgiref.types import WSGIApplication

LIMIT = "limit"
STATEMENTS = "statements"
OURS = "sessionware"

# name -> module that has `build(name, url)`
OWN = {"bare": "bare", LIMIT: "limit", STATEMENTS: "statements", OURS: "ours"}
PEERS = {
    "beaker": "beaker",
    "beaker-noatime": "beaker",
    "flask-nosess": "flask",
    "flask-session": "flask",
    "flask-session-nr": "flask",
    "django-nosess": "django",
    "django": "django",
    "django-age0": "django",
}
MODULES = OWN | PEERS

# the same requests without any session, to be subtracted
WITHOUT_SESSIONS = {
    "limit": "bare",
    "statements": "bare",
    "sessionware": "bare",
    "beaker": "bare",
    "beaker-noatime": "bare",
    "flask-session": "flask-nosess",
    "flask-session-nr": "flask-nosess",
    "django": "django-nosess",
    "django-age0": "django-nosess",
}


def has_sessions(name: str) -> bool:
    """Tell whether *name* keeps sessions at all."""
    return name in WITHOUT_SESSIONS


def build(name: str, url: str) -> WSGIApplication:
    """Return the WSGI application of *name*; its table is made in the database at *url*.

    Raises:
        ImportError: what it needs is not installed.
    """
    module = import_module(f"{__name__}.{MODULES[name]}")
    application: WSGIApplication = module.build(name, url)
    return application
