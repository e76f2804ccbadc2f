"""Pyramid: ``request.session`` is the session of the middleware, with Pyramid's flash and CSRF methods.

config.include("sessionware.frameworks.pyramid")
application = SessionMiddleware(config.make_wsgi_app(), "postgresql+psycopg://localhost/shop")

With another ``environ_key``, put it into the settings as ``sessionware.environ_key``.
"""

import secrets
from functools import partial
from typing import Any

from pyramid.config import Configurator
from pyramid.interfaces import ISession
from pyramid.request import Request
from zope.interface import implementer

from ..session import ENVIRON_KEY, Session, get_session


def includeme(config: Configurator) -> None:
    """Make the middleware's session Pyramid's."""
    key = config.registry.settings.get("sessionware.environ_key", ENVIRON_KEY)
    config.set_session_factory(partial(PyramidSession, environ_key=key))
    try:
        from pyramid_retry import IBeforeRetry
    except ImportError:
        return
    config.add_subscriber(partial(_start_over, key), IBeforeRetry)


def _start_over(key: str, event: Any) -> None:
    """Forget what an attempt has done that failed: the next one has the same environ."""
    session = event.environ.get(key)
    if isinstance(session, Session):
        session.start_over()


@implementer(ISession)
class PyramidSession:
    """Pyramid's ISession over the session of the middleware.

    Everything that is not of Pyramid goes through to the `Session`.
    """

    def __init__(self, request: Request, environ_key: str = ENVIRON_KEY) -> None:
        self._session = get_session(request, environ_key)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # copy and pickle ask for such before there is a session
            raise AttributeError(name)
        return getattr(self._session, name)

    def __eq__(self, other: object) -> bool:
        return bool(self._session == other)

    def __ior__(self, other: Any) -> "PyramidSession":
        self._session |= other
        return self

    def __reduce__(self) -> Any:
        return self._session.__reduce__()

    def __getitem__(self, key: str) -> Any:
        return self._session[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._session[key] = value

    def __delitem__(self, key: str) -> None:
        del self._session[key]

    def __contains__(self, key: object) -> bool:
        return key in self._session

    def __iter__(self) -> Any:
        return iter(self._session)

    def __len__(self) -> int:
        return len(self._session)

    @property
    def modified(self) -> bool:
        """Whether the values were changed; may be set."""
        return self._session.modified

    @modified.setter
    def modified(self, value: bool) -> None:
        self._session.modified = value

    @property
    def created(self) -> int:
        """Return when the session was created, in epoch seconds; 0 if it is not stored."""
        created = self._session.created_at
        return 0 if created is None else int(created.timestamp())

    @property
    def new(self) -> bool:
        """Return whether the session is not stored yet."""
        return self._session.created_at is None

    def changed(self) -> None:
        """Have the session stored; changes inside of values are noticed without it."""
        self.modified = True

    def invalidate(self) -> None:
        """End the session at once."""
        self._session.flush()

    def flash(self, msg: Any, queue: str = "", allow_duplicate: bool = True) -> None:
        """Add *msg* to the messages of *queue*."""
        messages = self._session.setdefault(_queue(queue), [])
        if allow_duplicate or msg not in messages:
            messages.append(msg)

    def pop_flash(self, queue: str = "") -> list[Any]:
        """Return the messages of *queue* and forget them."""
        messages: list[Any] = self._session.pop(_queue(queue), [])
        return messages

    def peek_flash(self, queue: str = "") -> list[Any]:
        """Return the messages of *queue*."""
        messages: list[Any] = self._session.get(_queue(queue), [])
        return messages

    def new_csrf_token(self) -> str:
        """Return a new CSRF token, which takes the place of the old one."""
        token = self._session["_csrft_"] = secrets.token_urlsafe(32)
        return token

    def get_csrf_token(self) -> str:
        """Return the CSRF token."""
        token: str | None = self._session.get("_csrft_")
        return self.new_csrf_token() if token is None else token


def _queue(name: str) -> str:
    return f"_f_{name}"
