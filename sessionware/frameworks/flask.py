"""Flask: ``flask.session`` is the session of the middleware, so that flash, Flask-Login and Flask-WTF work.

from sessionware.frameworks.flask import use_sessions

use_sessions(app, "postgresql+psycopg://localhost/shop")
"""

from typing import Any

from flask import Flask, Request, Response
from flask.sessions import SessionInterface

from .. import SessionInterrupted, SessionMiddleware, StoreUnavailable
from ..responses import Answer, interrupted, unavailable
from ..session import Session


def use_sessions(app: Flask, database: Any, **options: Any) -> SessionMiddleware:
    """Wrap *app* in a SessionMiddleware with these *options* and return it; its ``store`` lists and revokes.

    Raises ConfigurationError as SessionMiddleware does.
    """
    middleware = SessionMiddleware(app.wsgi_app, database, **options)
    app.wsgi_app = middleware  # type: ignore[method-assign]  # Flask's documented way to add a middleware
    app.session_interface = MiddlewareSessions(middleware)
    # Flask would answer 500 before these errors reach the middleware.
    app.register_error_handler(SessionInterrupted, lambda error: _response(interrupted()))
    app.register_error_handler(StoreUnavailable, lambda error: _response(unavailable()))
    return middleware


class MiddlewareSessions(SessionInterface):
    """Hands Flask the session that the middleware has put into the environ."""

    def __init__(self, middleware: SessionMiddleware) -> None:
        self._middleware = middleware

    def open_session(self, app: Flask, request: Request) -> Any:
        """Return the session of this request; one opened here for ``test_client().session_transaction()``."""
        session = request.environ.get(self._middleware.environ_key)
        if isinstance(session, Session):
            return session
        request.environ["sessionware.opened_by_flask"] = True
        return self._middleware.process_request(request.environ)

    def save_session(self, app: Flask, session: Any, response: Response) -> None:
        """Do nothing: the middleware stores the session. Only what was opened here is stored here."""
        from flask import request

        if request.environ.pop("sessionware.opened_by_flask", False):
            headers = self._middleware.process_response(request.environ, response.status, list(response.headers))
            response.headers.clear()
            response.headers.extend(headers)


def _response(answer: Answer) -> Response:
    return Response(answer.body, status=answer.status, headers=answer.headers)
