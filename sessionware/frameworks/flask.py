"""Flask: ``flask.session`` is the session of the middleware, so that flash, Flask-Login and Flask-WTF work.

from sessionware.frameworks.flask import use_sessions

use_sessions(app, "postgresql+psycopg://localhost/shop")
"""

from typing import TYPE_CHECKING, Any, NoReturn

from flask import Flask, Request, Response, current_app, request
from flask.sessions import SessionInterface, SessionMixin

from .. import Session, SessionInterrupted, SessionMiddleware, SessionwareError
from ..errors import ANSWERED

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

_OPENED_HERE = "sessionware.opened_by_flask"


def use_sessions(app: Flask, database: Any, **options: Any) -> SessionMiddleware:
    """Wrap *app* in a SessionMiddleware with these *options* and return it; its ``store`` lists and revokes.

    Raises ConfigurationError as SessionMiddleware does.
    """
    middleware = SessionMiddleware(app.wsgi_app, database, **options)
    middleware.session_class = FlaskSession
    app.wsgi_app = middleware  # type: ignore[method-assign]  # Flask's documented way to add a middleware
    app.session_interface = MiddlewareSessions(middleware)
    for error in ANSWERED:
        app.register_error_handler(error, _left_to_middleware)
    return middleware


class FlaskSession(Session, SessionMixin):
    """The session, with what Flask has beside a dictionary."""

    @property
    def new(self) -> bool:  # type: ignore[override]  # Flask has an attribute
        """Whether the session is not stored yet."""
        return self.created_at is None

    @property
    def permanent(self) -> bool:
        """Whether the cookie outlives the browser's window; how long is the middleware's ``idle_timeout``."""
        return not self.get_expire_at_browser_close()

    @permanent.setter
    def permanent(self, value: bool) -> None:
        if value != self.permanent:
            self.set_expiry(self._settings.lifetime.idle if value else 0)


class MiddlewareSessions(SessionInterface):
    """Hands Flask the session that the middleware has put into the environ."""

    def __init__(self, middleware: SessionMiddleware) -> None:
        self._middleware = middleware

    def open_session(self, app: Flask, request: Request) -> Any:
        """Return the session of this request.

        Where no middleware was passed (``test_request_context``, ``test_client().session_transaction()``)
        one is opened here, and `save_session` stores it.
        """
        session = request.environ.get(self._middleware.environ_key)
        if isinstance(session, Session):
            if not isinstance(session, FlaskSession):
                session.__class__ = FlaskSession  # of a middleware around several applications, this one among them
            return session
        request.environ[_OPENED_HERE] = True
        return self._middleware.process_request(request.environ)

    def save_session(self, app: Flask, session: Any, response: Response) -> None:
        """Do nothing: the middleware stores the session. Only what was opened here is stored here."""
        if request.environ.pop(_OPENED_HERE, False):
            headers = self._middleware.process_response(request.environ, response.status, list(response.headers))
            response.headers.clear()
            response.headers.extend(headers)


def _left_to_middleware(error: SessionwareError) -> Response:
    """Return, instead of Flask's 500, what raises *error* again where the middleware sees it, which answers."""

    def raise_again(environ: "WSGIEnvironment", start_response: "StartResponse") -> NoReturn:
        raise error

    # Of the application's own class: Flask makes any other response one of that, and this would be lost.
    kind = type("LeftToMiddleware", (current_app.response_class,), {"__call__": staticmethod(raise_again)})
    response: Response = kind(status=400 if isinstance(error, SessionInterrupted) else 503)  # for after_request
    return response
