"""Session: the dictionary that is still there at the next request.

Names and rules are Django's where Django has them; see its documentation for the concepts. What
becomes of the values is in `lifecycle` and `saving`.
"""

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from datetime import datetime, timedelta
from typing import Any, ClassVar, NoReturn, TypeVar

from . import keys
from .errors import ConfigurationError, ResponseStarted, SessionwareError
from .lifecycle import Lifecycle
from .record import LAST_MOMENT, as_datetime
from .saving import Outcome
from .settings import SessionSettings

T = TypeVar("T")

# What cannot change behind our back after it was handed out; anything else is compared at the end.
_IMMUTABLE = frozenset({str, int, bool, float, bytes, type(None)})

ENVIRON_KEY = "sessionware.session"

_STORED: Any = object()

# How far the response is, in its order. OPEN: a cookie can still be sent. SENT: the headers have left, and what
# changes is stored at the end of the body, if at all. ALONE: nobody commits any more; each change is stored when made.
OPEN, SENT, ALONE = range(3)


class Session(MutableMapping[str, Any]):
    """The session of one request, loaded at its first use and stored when the response is decided.

    Keys are str; values are what `codec` lists. Changes inside of values are noticed. A request that
    does not touch its session costs nothing: no parsing, no SQL, no header.

    Every method that needs the row may raise StoreUnavailable. After the headers have left, a change of
    a stored session is still stored; one that would begin a new session raises ResponseStarted.
    """

    TEST_COOKIE_NAME: ClassVar = "testcookie"
    TEST_COOKIE_VALUE: ClassVar = "worked"

    clear_site_data = False
    """Whether `logout` was asked to have the browser drop all it keeps of the site."""

    _body: Callable[[], object] = staticmethod(lambda: None)

    def __init__(self, settings: SessionSettings, header: str | None) -> None:
        self._settings = settings
        self._header = header

        self.accessed = False
        """Whether the values were used (Django's rules: reading `session_key` or `is_empty` is no use)."""

        self.life: Lifecycle | None = None
        """What becomes of the session; None while the request has not looked at its cookie. For the middleware."""

        self._modified = False
        self._handed_out = False

        self.stage = OPEN
        """How far the response is. For the middleware."""

    # A dictionary

    def __getitem__(self, key: str) -> Any:
        value = self._values()[key]
        if type(value) not in _IMMUTABLE:
            self._hand_out()
        return value

    def __setitem__(self, key: str, value: Any) -> None:
        self._values_to_change()[key] = value
        if type(value) not in _IMMUTABLE:
            self._hand_out()
        self._changed()

    def __delitem__(self, key: str) -> None:
        del self._values_to_change()[key]
        self._changed()

    def __iter__(self) -> Iterator[str]:
        return iter(self._values())

    def __len__(self) -> int:
        return len(self._values())

    def __contains__(self, key: object) -> bool:
        return key in self._values()

    def __ior__(self, other: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> "Session":
        self.update(other)
        return self

    def __repr__(self) -> str:
        return f"<Session {self.outcome.value}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("A session cannot be pickled or copied; take dict(session).")

    def keys(self) -> Any:
        """Return a view of the keys."""
        return self._values().keys()

    def values(self) -> Any:
        """Return a view of the values."""
        self._hand_out()
        return self._values().values()

    def items(self) -> Any:
        """Return a view of the pairs."""
        self._hand_out()
        return self._values().items()

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of *key*, or *default*."""
        value = self._values().get(key, default)
        if type(value) not in _IMMUTABLE:
            self._hand_out()
        return value

    def has_key(self, key: str) -> bool:
        """Return whether *key* is there (Django)."""
        return key in self

    def update(self, other: Any = (), /, **more: Any) -> None:
        """Set all pairs of *other* and *more*; counts as a change even without any."""
        values = self._values_to_change()
        try:
            values.update(other, **more)
        finally:  # a bad pair raises after the good ones before it were set
            self._hand_out()
            self._changed()

    def clear(self) -> None:
        """Drop all values, without loading them; key and row stay.

        Stored even if there were none: another request may have added some.
        """
        self.accessed = True
        if self.stage != OPEN:
            self._values_to_change()
        self._opened().clear()
        self._changed()

    # What is known of it

    @property
    def session_key(self) -> str | None:
        """Return the secret in the cookie; None while there is no session. After `cycle_key`: the new one.

        Until the session is loaded this is what the cookie says, whether such a session exists or not.
        """
        life = self._opened()
        if life.is_ambiguous():
            life.resolve()
        return life.known_key()

    @property
    def handle(self) -> str | None:
        """Return the public name of the session, as in `SessionStore.sessions_of`.

        While it is getting a new key, that of the old one; of a login that is not stored yet, the one it
        will have; None if there is no session.
        """
        life = self._used()
        if life.record is not None:
            return keys.handle(life.digest)
        return keys.as_handle(life.next_key)

    @property
    def user_id(self) -> str | None:
        """Return whose session this is, as `login` was told; None for nobody."""
        return self._used().user_id

    @property
    def created_at(self) -> datetime | None:
        """Return when the session was created or logged in, in UTC; None if it is not stored."""
        record = self._used().record
        return None if record is None else as_datetime(record.created_at)

    @property
    def outcome(self) -> Outcome:
        """Return what this request has done to its session so far."""
        return Outcome.UNTOUCHED if self.life is None else self.life.outcome

    @property
    def modified(self) -> bool:
        """Whether the values were changed. May be set: True has it stored even if nothing differs."""
        return self._modified or (self._handed_out and self._opened().pending(dirty=True) is not None)

    @modified.setter
    def modified(self, value: bool) -> None:
        self._modified = bool(value)
        self._handed_out = self._handed_out and self._modified
        self._opened().forced = self._modified
        if self._modified and self.stage != OPEN:
            self._values_to_change()
            self._changed()

    def is_empty(self) -> bool:
        """Return whether there is neither a key nor a value; loads nothing."""
        life = self._opened()
        return not life.values and life.known_key() is None

    # What is done to it

    def save(self) -> None:
        """Store the session now, as a new one if need be, even an empty one.

        No cookie is sent for that but for a new session, a new key or another expiry.

        Raises SessionInterrupted if another request has ended or rotated it, SessionTooLarge,
        UnstorableValue, ResponseStarted and StoreUnavailable.
        """
        life = self._to_be_stored()
        with life.turn:
            life.refuse_if_shut()
            life.confirm_admission()
            text = life.pending(dirty=True, demanded=True)
            if text is not None:
                life.save_aside(text)

    def atomic(self, change: Callable[[dict[str, Any]], T]) -> T:
        """Run ``change(values)`` on the newest stored values, store them at once, and return what it returned.

        For read-modify-write: counters, lists. *change* runs again if another request came between, so
        it must do nothing but change *values*; what it returns of them is a copy. Without a change nothing is
        stored, and no session begun. After `clear`, `login` or `cycle_key`, what this request has done so far is
        stored first. Raises SessionConflict, and as `save` does.
        """
        newest = not self._opened().settled
        life = self._to_be_stored()
        with life.turn:
            return life.atomic(change, newest=newest)

    def flush(self) -> None:
        """End the session at once and for good; the cookie is cleared, and what follows is a new session.

        Raises StoreUnavailable: the cookie is cleared all the same, and the row lives on.
        """
        self.accessed = True
        self._modified, self._handed_out = True, False
        life = self._opened()
        with life.turn:
            life.end("logout")

    def logout(self, *, clear_site_data: bool = False) -> None:
        """End the session (= `flush`); with *clear_site_data* the browser is told to drop all it keeps of the site."""
        self.clear_site_data = clear_site_data
        self.flush()

    def cycle_key(self) -> None:
        """Give the session a new key with the save at the end of the request; the old one is dead from then on.

        Call it when privileges change (OWASP: session fixation). A request that fails changes nothing, unless `save`
        or `atomic` came in between.
        """
        self._before_headers()
        self._values()
        life = self._opened()
        with life.turn:
            life.cycle_key()
        self._modified = True

    def login(self, user_id: str | int) -> None:
        """Make this *user_id*'s session: new key, new age; another user's values are dropped (CVE-2014-0482).

        *user_id* is kept as text. Raises ValueError or TypeError for one that cannot be. Where the cookie is
        outdated, since its session has got a new key that the browser may have missed, a new session begins.
        """
        user = keys.checked_user_id(user_id)
        self._before_headers()
        self._values()
        life = self._opened()
        with life.turn:
            life.login(user)
        self._modified = True

    # When it ends

    def set_expiry(self, value: float | timedelta | datetime | None) -> None:
        """Set when the session ends instead of the configured idle timeout; never beyond the absolute timeout.

        A number: seconds after its last use. 0: when the browser closes. A timedelta or an aware datetime:
        at that moment, however often it is used. None: as configured. Raises TypeError or ValueError here
        for anything else, and for moments after the year 9999.
        """
        expiry = _as_expiry(value, self._settings.clock())
        life = self._used()
        if expiry is None and life.expiry is None:
            return
        self._values_to_change()
        life.expiry = expiry
        self._changed()

    def get_expiry_age(self, modification: datetime | None = None, expiry: Any = _STORED) -> int:
        """Return how many seconds the session lives from *modification* (default: now) if it is not used.

        *expiry* is taken instead of what `set_expiry` was told, with the same meanings; then nothing is loaded.
        """
        since = self._settings.clock() if modification is None else modification.timestamp()
        return self._end(since, expiry) - int(since)

    def get_expiry_date(self, modification: datetime | None = None, expiry: Any = _STORED) -> datetime:
        """Return that moment, in UTC; the arguments are those of `get_expiry_age`."""
        since = self._settings.clock() if modification is None else modification.timestamp()
        return as_datetime(self._end(since, expiry))

    def get_expire_at_browser_close(self) -> bool:
        """Return whether the cookie goes when the browser closes."""
        expiry = self._used().expiry
        return self._settings.lifetime.browser if expiry is None else expiry == 0

    def _end(self, since: float, expiry: Any) -> int:
        lifetime = self._settings.lifetime
        if expiry is not _STORED:
            return lifetime.expires_at(int(since), int(since), _as_expiry(expiry, since))
        life = self._used()
        created = int(since) if life.record is None or life.restarts else life.record.created_at
        return lifetime.expires_at(created, int(since), life.expiry)

    # Whether the browser keeps cookies

    def set_test_cookie(self) -> None:
        """Store a value that the next request looks for."""
        self[self.TEST_COOKIE_NAME] = self.TEST_COOKIE_VALUE

    def test_cookie_worked(self) -> bool:
        """Return whether the value of `set_test_cookie` has come back."""
        return bool(self.get(self.TEST_COOKIE_NAME) == self.TEST_COOKIE_VALUE)

    def delete_test_cookie(self) -> None:
        """Remove that value. Raises KeyError if it is not there."""
        del self[self.TEST_COOKIE_NAME]

    # For the middleware

    def commit(self, *, extend: bool = True) -> None:
        """Store what has changed, or else, with *extend*, extend what was used. Raises as `save` does."""
        life = self.life
        if life is None:
            return
        if life.values is None and not life.forced:
            if extend and self._settings.extend_always:
                life.touch_unseen()
            return
        if life.admitted_at is not None:
            life.confirm_admission()
        may_differ = self._modified or self._handed_out or life.next_key is not None
        if may_differ and self._store_changes(life):
            return  # and so extended it
        if life.record is not None:
            if extend or self._settings.lifetime.is_unconfirmed(life.record):
                life.touch()
        elif (life.values or life.cleared) and life.is_shut():
            life.drop("nobody can tell which of several sessions it is, or it has a key that this request has not")

    def _store_changes(self, life: Lifecycle) -> bool:
        with life.turn:
            modified, self._modified = self._modified, False  # before the look at the values: another thread may go on
            try:
                # What was handed out may change again while the body is sent, so that stays as it is.
                text = life.pending(dirty=modified or self._handed_out)
                if text is not None:
                    save = life.save_aside if self.stage != OPEN else life.save
                    save(text)
            except BaseException:
                self._modified = modified
                raise
        return text is not None

    def start_over(self) -> None:
        """Forget what the request has done so far; what it has stored already stays. For adapters of frameworks."""
        self.accessed = self._modified = self._handed_out = False
        self.life = self.life and self.life.second_run()

    def extend_unused(self) -> None:
        """Extend a session that this request has not used; if there is no live one, it stays unused."""
        if self._header is None:
            return
        life = Lifecycle(self._settings, self._header)
        if life.offered:
            life.touch_unseen()
        if life.outcome is Outcome.TOUCHED:
            self.life = life

    def watch(self, body: object) -> None:
        """Store each change when it is made: *body* goes to the server as it is, and nobody commits at its end."""
        self.stage = ALONE
        self._body = weakref.ref(body)

    def commit_late(self) -> None:
        """Store what was changed after the headers had left. Raises as `save` does."""
        self.stage = max(self.stage, SENT)
        life = self.life
        if life is None or not (self._modified or self._handed_out):
            return
        if life.next_key is not None:
            life.drop("no response could carry the cookie of a new key")
        elif life.record is not None or life.superseded:
            self.commit(extend=False)
        elif life.values:
            life.drop("no response could carry the cookie of a new session")
            self._modified = self._handed_out = False

    # Small steps

    def _opened(self) -> Lifecycle:
        if self.life is None:
            life = Lifecycle(self._settings, self._header)
            if self.life is None:  # threads of one request that come here together share the first one
                self.life = life
        return self.life

    def _resolved(self) -> Lifecycle:
        life = self._opened()
        life.resolve()
        return life

    def _used(self) -> Lifecycle:
        self.accessed = True
        return self._resolved()

    def _values(self) -> dict[str, Any]:
        self.accessed = True
        life = self.life or self._opened()
        if life.values is None:
            life.resolve()
        return life.values  # type: ignore[return-value]  # resolve gives them

    def _values_to_change(self) -> dict[str, Any]:
        values = self._values()
        if self.stage != OPEN:
            life = self._resolved()
            if life.record is None and not life.superseded:
                self._before_headers()
        return values

    def _to_be_stored(self) -> Lifecycle:
        self._values_to_change()
        life = self._resolved()
        if life.next_key is not None:
            self._before_headers()
        return life

    def _before_headers(self) -> None:
        if self.stage != OPEN:
            raise ResponseStarted("The headers have left: no cookie can be sent for a new session or key.")

    def _changed(self) -> None:
        self._modified = True
        if self.stage == ALONE:
            self.commit_late()

    def _hand_out(self) -> None:
        if self.stage == ALONE and not self._handed_out:
            body = self._body()
            if body is not None:  # a change inside of what is handed out now shows no sooner than at its end
                weakref.finalize(body, self._commit_when_gone).atexit = False
        self._handed_out = True

    def _commit_when_gone(self) -> None:
        if self.stage != ALONE:
            return  # the answer has become an error meanwhile
        try:
            self.commit_late()
        except SessionwareError as error:
            self._opened().drop(str(error))


def _as_expiry(value: Any, now: float) -> int | None:
    """Return *value*, as `Session.set_expiry` takes it, in the one number of `Record.expiry`."""
    if value is None:
        return None
    if isinstance(value, datetime):
        if value.utcoffset() is None:
            raise ValueError("An expiry must be an aware datetime: this one has no time zone.")
        return _at(value.replace(microsecond=0).timestamp())  # the last microseconds would round up to the year 10000
    if isinstance(value, timedelta):
        return _at(now + value.total_seconds())
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        raise TypeError("An expiry is seconds, a timedelta, an aware datetime or None.")
    moment = _at(now + min(max(value, -LAST_MOMENT), 2 * LAST_MOMENT))  # what is larger may overflow
    if value <= 0:
        return moment if value else 0
    return max(int(value), 1)


def _at(moment: float) -> int:
    if moment > LAST_MOMENT:
        raise ValueError("An expiry must not lie after the year 9999.")
    return -max(int(moment), 1)


def get_session(environ_or_request: Any, environ_key: str = ENVIRON_KEY) -> Session:
    """Return the session from a WSGI environ, or from anything that has one as ``.environ`` or ``.env``.

    Raises ConfigurationError if no SessionMiddleware with this *environ_key* is around the application.
    """
    session = _environ_of(environ_or_request).get(environ_key)
    if not isinstance(session, Session):
        raise ConfigurationError(
            f"There is no session under {environ_key!r}: wrap the application in SessionMiddleware, and give the "
            "environ of a subrequest what stands there in that of its request."
        )
    return session


def _environ_of(environ_or_request: Any) -> dict[str, Any]:
    for name in ("environ", "env"):
        environ = getattr(environ_or_request, name, None)
        if isinstance(environ, dict):
            return environ
    if isinstance(environ_or_request, dict):
        return environ_or_request
    raise ConfigurationError("get_session takes a WSGI environ, or a request that has one as .environ or .env.")
