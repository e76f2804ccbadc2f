"""Flask with Flask-Session's SQLAlchemy table, and Flask without sessions."""

from wsgiref.types import WSGIApplication

from flask import Flask, session

from ..workloads import act


def build(name: str, url: str) -> WSGIApplication:
    """Return the application; `-nr` does not refresh the session at every request."""
    app = Flask("benchmarks")
    app.config["SECRET_KEY"] = "not a secret here"
    app.add_url_rule("/", view_func=untouched)
    app.add_url_rule("/<path:path>", view_func=touched)
    if name == "flask-nosess":
        return app
    _add_sessions(app, url, refresh=name != "flask-session-nr")
    return app


def untouched() -> str:
    """Leave the session alone."""
    return "ok"


def touched(path: str) -> str:
    """Do what the path asks for."""
    return act("/" + path, session)


def _add_sessions(app: Flask, url: str, *, refresh: bool) -> None:
    from flask_session import Session
    from flask_sqlalchemy import SQLAlchemy

    app.config["SQLALCHEMY_DATABASE_URI"] = url
    app.config["SESSION_TYPE"] = "sqlalchemy"
    app.config["SESSION_REFRESH_EACH_REQUEST"] = refresh
    app.config["SESSION_SQLALCHEMY"] = SQLAlchemy(app)
    Session(app)
