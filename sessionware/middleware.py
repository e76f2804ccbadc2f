"""SessionMiddleware: WSGI in, WSGI out."""

import time
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from . import options, responses
from .codec import Codec
from .cookie import SessionCookie
from .errors import ANSWERED, ConfigurationError, SessionInterrupted, SessionwareError
from .events import SessionEvent, logger
from .exchange import Begin, Body, ClosingList, Exchange, can_be_watched, is_bare_iterator, is_complete
from .headers import CLEAR_SITE_DATA, NO_STORE, VARY, Headers, are_plain, forbid_storing, set_cookie, vary_on_cookie
from .lifecycle import Lifecycle
from .merge import OnConflict
from .purge import Schedule
from .record import Lifetime
from .saving import Outcome
from .session import ALONE, ENVIRON_KEY, OPEN, SENT, Session
from .settings import SessionSettings
from .store import SessionStore

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_IDLE = timedelta(days=14)
_ABSOLUTE = timedelta(days=90)

_OUTAGE_LOG_SECONDS = 60


class SessionMiddleware:
    """Give a WSGI application server-side sessions, kept in its SQL database.

    ``environ["sessionware.session"]`` is the `Session`. *database* is a URL (``postgresql+psycopg://...``,
    ``mysql+pymysql://...``, ``sqlite:///file.db``), an Engine or a `SessionStore`; durations are timedelta
    or whole seconds. The README has the table of options with their defaults and reasons.

    Raises ConfigurationError for every wrong or contradictory option. Nothing connects here and no
    thread starts: the middleware may be made before a server forks its workers.
    """

    session_class: type[Session] = Session
    """The class of the sessions; the adapters of frameworks set one of theirs."""

    def __init__(
        self,
        app: "WSGIApplication",
        database: str | sa.URL | sa.Engine | SessionStore,
        *,
        cookie_name: str | None = None,
        cookie_domain: str | None = None,
        cookie_path: str = "/",
        cookie_secure: bool = True,
        cookie_httponly: bool = True,
        cookie_samesite: str = "Lax",
        cookie_partitioned: bool = False,
        idle_timeout: timedelta | int = _IDLE,
        absolute_timeout: timedelta | int | None = _ABSOLUTE,
        expire_at_browser_close: bool = False,
        unconfirmed_timeout: timedelta | int | None = None,
        save_every_request: bool = False,
        max_bytes: int = 1_048_576,
        on_conflict: OnConflict | None = None,
        on_event: Callable[[SessionEvent], object] | None = None,
        purge_interval: timedelta | int | None = timedelta(minutes=5),
        create_table: bool = True,
        codec: Codec | None = None,
        environ_key: str = ENVIRON_KEY,
        clock: Callable[[], float] = time.time,
    ) -> None:
        options.function("app", app, optional=False)
        options.function("on_conflict", on_conflict)
        options.clock("clock", clock)
        if clock is time.time and isinstance(database, SessionStore):
            clock = database.clock  # one for both, or one purges what the other takes for alive
        self.app = app
        self.cookie = SessionCookie(
            cookie_name,
            domain=cookie_domain,
            path=cookie_path,
            secure=options.flag("cookie_secure", cookie_secure),
            httponly=options.flag("cookie_httponly", cookie_httponly),
            samesite=cookie_samesite,
            partitioned=options.flag("cookie_partitioned", cookie_partitioned),
        )
        lifetime = _lifetime(idle_timeout, absolute_timeout, unconfirmed_timeout, expire_at_browser_close)
        self.store = _store(database, lifetime, codec, create_table, on_event, clock)
        self._settings = SessionSettings(
            store=self.store,
            codec=self.store.codec,
            lifetime=lifetime,
            events=self.store.events.with_hook(on_event, clock),
            max_bytes=options.size("max_bytes", max_bytes),
            on_conflict=on_conflict,
            extend_always=options.flag("save_every_request", save_every_request),
            clock=clock,
            read_cookie=self.cookie.read,
        )
        self.environ_key = options.environ_key("environ_key", environ_key)
        interval = None if purge_interval is None else options.seconds("purge_interval", purge_interval)
        self._purge = Schedule(self.store.purge_some, interval, clock)
        self._outage_logged_at = float("-inf")
        self._warned_of_http = False

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Run the application with a session (PEP 3333)."""
        if self.environ_key in environ and not self._is_over(environ):
            return self.app(environ, start_response)  # wrapped twice, or a request within a request
        session = self._begin_session(environ)
        exchange = Exchange(start_response, self, environ)
        body: Iterable[bytes] | None = None
        try:
            body = self.app(environ, exchange.start_response)
            if exchange.waits and session.life is None and type(body) is list and not self._settings.extend_always:
                # Untouched, and no code of the application is left to run: the short way out.
                session.stage = ALONE if exchange.status < "5" else SENT
                start_response(exchange.status, exchange.headers)
                return body
            if exchange.decided:
                self._commit_late(exchange, session)  # what was changed after write()
            elif exchange.started:
                exchange.send_headers()
        except StopIteration:
            session.commit_late()  # so applications tell gunicorn that they have hijacked the connection
            raise
        except ANSWERED as error:
            _close(body)
            if exchange.decided:
                raise
            return self._answer(error, session, environ, start_response)
        except BaseException:
            session.stage = SENT  # should this environ be served again, then with a new session
            _close(body)
            raise
        return self._hand_over(body, exchange, session, environ)

    def process_request(self, environ: "WSGIEnvironment") -> Session:
        """Put a session into *environ* and return it. Nothing is parsed or queried before it is used."""
        session = environ.get(self.environ_key)
        return session if isinstance(session, Session) and session.stage == OPEN else self._begin_session(environ)

    def process_response(self, environ: "WSGIEnvironment", status: str, headers: Headers) -> Headers:
        """Store what the request has changed and return the headers to be sent; *headers* stay unaltered.

        An untouched session returns *headers* themselves. With a *status* from 500 on nothing is stored
        but what already was. Raises SessionInterrupted, StoreUnavailable, SessionTooLarge, UnstorableValue.
        """
        session = environ.get(self.environ_key)
        if not isinstance(session, Session):
            return headers  # the application has put something else there: it is in charge
        if status < "5":
            if session.life is not None:
                # What a 304 cannot tell the browser is left to the next answer.
                session.commit(extend=status[:3] != "304" or self._settings.extend_always)
            elif self._settings.extend_always:
                session.extend_unused()
        session.stage = SENT
        return self._dress(session, environ, status, headers)

    def redress(self, environ: "WSGIEnvironment", status: str, headers: Headers) -> Headers:
        """Return *headers* with what the session, as it is now, has to say; nothing is stored."""
        session = environ.get(self.environ_key)
        return self._dress(session, environ, status, headers) if isinstance(session, Session) else headers

    def fail(self, environ: "WSGIEnvironment") -> None:
        """Store nothing more: the answer has become an error."""
        session = environ.get(self.environ_key)
        if isinstance(session, Session):
            session.stage = SENT

    def _dress(self, session: Session, environ: "WSGIEnvironment", status: str, headers: Headers) -> Headers:
        life = session.life
        if life is None:
            return headers
        plain = are_plain(headers)
        dressed = [*headers, VARY] if plain else vary_on_cookie(headers)
        if session.clear_site_data:
            dressed.append(CLEAR_SITE_DATA)
        cookie = self._cookie_after(life, status)
        if cookie is None:
            return dressed
        if self.cookie.secure and not self._warned_of_http and environ.get("wsgi.url_scheme") == "http":
            self._warn_of_http()
        if not plain:
            return set_cookie(dressed, self.cookie.name, cookie)
        dressed += (("Set-Cookie", cookie), NO_STORE)
        return dressed

    def _begin_session(self, environ: "WSGIEnvironment") -> Session:
        session = environ[self.environ_key] = self.session_class(self._settings, environ.get("HTTP_COOKIE"))
        return session

    def _is_over(self, environ: "WSGIEnvironment") -> bool:
        """Return whether the session in *environ* is that of a request that is over: it is served again."""
        session = environ[self.environ_key]
        return isinstance(session, Session) and session.stage != OPEN

    def _cookie_after(self, life: Lifecycle, status: str) -> str | None:
        if life.cookie_owed and not life.cookie_due:
            life.send_owed_cookie()
        if life.superseded:
            return None  # the browser has, or will get, a newer cookie than ours
        if life.cookie_due and life.key is not None:
            # A 304 updates stored responses: it is no place for a cookie that merely lives longer.
            if status.startswith("304") and life.outcome is Outcome.TOUCHED:
                return None
            return self.cookie.issue(life.key, life.max_age())
        return self.cookie.clear() if life.is_over() else None

    def _warn_of_http(self) -> None:
        self._warned_of_http = True
        logger.warning(
            "A Secure session cookie was sent over plain http: browsers keep it for localhost only. "
            "Serve https; behind a proxy have the server trust its X-Forwarded-Proto "
            "(gunicorn: --forwarded-allow-ips); for development pass cookie_secure=False."
        )

    def _hand_over(
        self, body: Iterable[bytes], exchange: Exchange, session: Session, environ: "WSGIEnvironment"
    ) -> Iterable[bytes]:
        complete = type(body) is list or is_complete(body, environ.get("wsgi.file_wrapper"))
        if not exchange.started:
            if complete:
                if not isinstance(body, list | tuple):
                    session.commit_late()  # the sentinel of a hijacked connection
                session.stage = SENT  # should this environ be served again, then with a new session
                return body  # else it is a mistake that the server reports
            begin = partial(self._begin, exchange, session, environ)
            return self._with_end(body, exchange, session, begin)
        if complete or (session.life is None and is_bare_iterator(body)):
            session.stage = SENT if exchange.failed else ALONE
            if session.life is not None and type(body) in (list, tuple) and self._purge.is_due():
                return ClosingList(body, self._purge.take_turn)
            return body
        if session.life is None and can_be_watched(body):
            if not exchange.failed:
                session.watch(body)
            return body
        return self._with_end(body, exchange, session)

    def _with_end(
        self, body: Iterable[bytes], exchange: Exchange, session: Session, begin: Begin | None = None
    ) -> Body:
        at_last = partial(self._commit_late, exchange, session)
        return Body(body, at_last, partial(self._at_end, exchange, session), begin)

    def _begin(
        self, exchange: Exchange, session: Session, environ: "WSGIEnvironment", body: Iterator[bytes]
    ) -> Iterator[bytes]:
        """Run an application that calls start_response late up to its first chunk; return what is to be sent."""
        try:
            first = list(islice(body, 1))
            if exchange.started:
                exchange.send_headers()
        except ANSWERED as error:
            if exchange.decided:
                raise
            return iter(self._answer(error, session, environ, exchange.server_start))
        return chain(first, body)

    def _commit_late(self, exchange: Exchange, session: Session) -> None:
        if exchange.decided and not exchange.failed:
            session.commit_late()

    def _at_end(self, exchange: Exchange, session: Session, complete: bool) -> None:
        if complete:
            self._commit_late(exchange, session)
        # Should this environ be served again, then with a new session.
        session.stage = ALONE if complete and exchange.decided and not exchange.failed else SENT
        if session.life is not None:
            self._purge.take_turn()

    def _answer(
        self,
        error: SessionwareError,
        session: Session,
        environ: "WSGIEnvironment",
        start_response: "StartResponse",
    ) -> Iterable[bytes]:
        if isinstance(error, SessionInterrupted):
            answer = responses.interrupted()
        else:
            answer = responses.unavailable()
            self._report_outage(error)
        headers = forbid_storing(vary_on_cookie(answer.headers))
        if session.clear_site_data:
            headers.append(CLEAR_SITE_DATA)
        # A fault takes nobody's cookie; but a key that is stored already must reach its visitor, and a logout too.
        cookie = None if session.life is None else self._cookie_after(session.life, answer.status)
        if cookie is not None:
            headers = set_cookie(headers, self.cookie.name, cookie)
        session.stage = SENT
        start_response(answer.status, headers)
        return [] if environ.get("REQUEST_METHOD") == "HEAD" else [answer.body]

    def _report_outage(self, error: SessionwareError) -> None:
        now = time.monotonic()
        if now - self._outage_logged_at >= _OUTAGE_LOG_SECONDS:
            self._outage_logged_at = now
            logger.error("A request was answered with 503 (said once a minute): %s", error)


def _lifetime(
    idle: timedelta | int, absolute: timedelta | int | None, unconfirmed: timedelta | int | None, browser: bool
) -> Lifetime:
    idle_seconds = options.seconds("idle_timeout", idle)
    limit = None if absolute is None else options.seconds("absolute_timeout", absolute)
    # The default gives way to a shorter absolute timeout; one that was passed does not.
    if limit is not None and idle_seconds > limit and idle is not _IDLE:
        raise ConfigurationError("idle_timeout must not exceed absolute_timeout; raise that, or set it to None.")
    first = None if unconfirmed is None else options.seconds("unconfirmed_timeout", unconfirmed)
    if first is not None and first > min(idle_seconds, limit or idle_seconds):
        raise ConfigurationError("unconfirmed_timeout must not exceed idle_timeout or absolute_timeout.")
    return Lifetime(idle_seconds, limit, options.flag("expire_at_browser_close", browser), first)


def _store(
    database: Any,
    lifetime: Lifetime,
    codec: Codec | None,
    create_table: bool,
    on_event: Callable[[SessionEvent], object] | None,
    clock: Callable[[], float],
) -> SessionStore:
    options.function("on_event", on_event)
    if not isinstance(database, SessionStore):
        options.flag("create_table", create_table)
        return SessionStore(
            database,
            lifetime=lifetime,
            codec=codec,
            create_table=create_table,
            on_event=on_event,
            clock=clock,
        )
    if codec is not None or create_table is not True:
        raise ConfigurationError("codec and create_table belong to the SessionStore that was passed.")
    return database


def _close(body: Any) -> None:
    close = getattr(body, "close", None)
    if close is not None:
        close()
