"""A session over many requests, against a plain dictionary: Hypothesis chooses what happens, and in which order."""

from collections.abc import Callable
from copy import deepcopy
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sessionware import Session
from sessionware.keys import digest
from sessionware.record import Record
from tests.support.apps import SHAPES, ValidatedSite, nothing
from tests.support.databases import closing_connections

IDLE = 10_000
ABSOLUTE = 40_000

names = st.sampled_from("abc")
leaves = st.sampled_from([0, 1, True, None, "x", 1.5, b"y", (1, 2)])
values = leaves | st.lists(leaves, max_size=2) | st.dictionaries(names, leaves, max_size=2)
users = st.sampled_from(["ann", "bob"])

Do = Callable[[dict[str, Any] | Session], object]


class Model:
    """What a session should be: its values, its user, its times."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.user: str | None = None
        self.stored = False
        self.created = self.ends = self.cookie_ends = 0
        self.expiry: int | None = None

    def forget(self) -> None:
        self.__init__()  # type: ignore[misc]

    def store(self, now: float) -> None:
        """Note a save."""
        if not self.stored:
            self.stored, self.created = True, int(now)
        self.use(now)

    def use(self, now: float) -> None:
        """Note a use that was written down, and the cookie that was sent for it."""
        self.extend(now)
        self.cookie_ends = self.ends

    def extend(self, now: float) -> None:
        """Note that the row was extended."""
        idle = IDLE if self.expiry is None else self.expiry
        self.ends = min(int(now) + idle, int(self.created) + ABSOLUTE)

    def store_aside(self, now: float) -> None:
        """Note a save in the middle of a request: of a session that is there already, it sends no cookie."""
        if self.stored:
            self.extend(now)
        else:
            self.store(now)


class SessionMachine(RuleBasedStateMachine):
    """One browser; each rule is a request. The model is changed beside it, and both must stay equal."""

    @initialize(shape=st.sampled_from(sorted(SHAPES)))
    def start(self, shape: str) -> None:
        self.folder = TemporaryDirectory()
        self.connections = closing_connections()
        self.connections.__enter__()
        url = f"sqlite:///{self.folder.name}/sessions.db"
        self.site = ValidatedSite(
            url, shape=SHAPES[shape], idle_timeout=IDLE, absolute_timeout=ABSOLUTE, purge_interval=None
        )
        self.model = Model()
        self.old_keys: set[str] = set()

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.connections.__exit__(None, None, None)
            self.folder.cleanup()

    @rule(seconds=st.sampled_from([1, 499, 500, 700, 5000, IDLE - 1]))
    def read_after(self, seconds: int) -> None:
        self.site.clock.advance(seconds)
        self.notice_the_end()
        self.request(lambda session: None)

    @rule(name=names, value=values)
    def set(self, name: str, value: Any) -> None:
        self.change(lambda session: session.__setitem__(name, deepcopy(value)))

    @rule(changes=st.dictionaries(names, values, max_size=3))
    def update(self, changes: dict[str, Any]) -> None:
        self.change(lambda session: session.update(deepcopy(changes)))

    @rule(name=names)
    def delete(self, name: str) -> None:
        self.change(lambda session: session.pop(name, None))

    @rule(name=names, value=leaves)
    def change_inside(self, name: str, value: Any) -> None:
        def inside(session: Any) -> None:
            found = session.setdefault(name, [])
            if isinstance(found, list):
                found.append(value)
            elif isinstance(found, dict):
                found["new"] = value

        self.change(inside)

    @rule()
    def clear(self) -> None:
        self.request(lambda session: session.clear())
        self.model.values.clear()
        if self.model.stored:  # also of an empty one: somebody may have added something
            self.model.store(self.site.clock())

    @rule(name=names, first=values, second=values)
    def save_in_between(self, name: str, first: Any, second: Any) -> None:
        def act(session: Session) -> None:
            session[name] = deepcopy(first)
            session.save()
            session[name] = deepcopy(second)

        self.request(act)
        for value, store in ((first, self.model.store_aside), (second, self.model.store)):
            before = repr(self.model.values)
            self.model.values[name] = value
            self.note_change(before, store)

    @rule(name=names, value=leaves)
    def atomic(self, name: str, value: Any) -> None:
        self.request(lambda session: session.atomic(lambda found: found.__setitem__(name, value)))
        self.model.values[name] = value
        self.model.store_aside(self.site.clock())

    @rule()
    def flush(self) -> None:
        self.retire()
        self.request(lambda session: session.flush())
        self.model.forget()

    @rule(name=names, value=leaves)
    def flush_and_begin_anew(self, name: str, value: Any) -> None:
        self.retire()
        self.request(lambda session: (session.flush(), session.update({name: value})))
        self.model.forget()
        self.model.values[name] = value
        self.model.store(self.site.clock())

    @rule()
    def cycle_key(self) -> None:
        self.retire()
        self.request(lambda session: session.cycle_key())
        if self.model.stored:
            self.model.store(self.site.clock())
            assert self.key() not in self.old_keys

    @rule(user=users)
    def login(self, user: str) -> None:
        self.retire()
        self.request(lambda session: session.login(user))
        if self.model.user not in (None, user):
            self.model.forget()
        self.model.user = user
        self.model.stored = False  # a login begins the absolute timeout anew
        self.model.store(self.site.clock())

    @rule(seconds=st.sampled_from([60, 3000, 20_000, None]))
    def set_expiry(self, seconds: int | None) -> None:
        self.request(lambda session: session.set_expiry(seconds))
        if self.model.stored and seconds != self.model.expiry:
            self.model.expiry = seconds
            self.model.store(self.site.clock())

    @rule(name=names, value=values)
    def fail(self, name: str, value: Any) -> None:
        def act(session: Session) -> None:
            session[name] = value
            session.cycle_key()

        self.site.visit(act, "500 Internal Server Error")

    @rule()
    def pass_by(self) -> None:
        assert len(self.site.visit(nothing).headers) == 1

    @rule(share=st.sampled_from([0.01, 0.04, 0.06, 0.5, 0.99, 1.0, 1.01]))
    def wait(self, share: float) -> None:
        self.site.clock.advance(int(IDLE * share))
        self.notice_the_end()

    @precondition(lambda self: self.model.stored)
    @rule()
    def wait_until_the_last_second(self) -> None:
        self.site.clock.now = max(self.site.clock.now, self.model.cookie_ends - 1)

    @precondition(lambda self: self.model.stored)
    @rule()
    def wait_until_the_end(self) -> None:
        self.site.clock.now = max(self.site.clock.now, self.model.ends)
        self.notice_the_end()

    @invariant()
    def the_row_is_what_the_model_says(self) -> None:
        if not hasattr(self, "site"):
            return
        key = self.key()
        found = None if key is None else self.site.store.read(key)

        assert found == (self.model.values if self.model.stored else None)
        assert self.site.store.count() == self.model.stored
        if self.model.user is not None:
            assert len(self.site.store.sessions_of(self.model.user)) == 1

    @invariant()
    def old_keys_are_dead(self) -> None:
        if hasattr(self, "site"):
            assert not any(map(self.site.store.exists, self.old_keys))

    @invariant()
    def a_row_ends_when_the_model_says(self) -> None:
        if hasattr(self, "site") and self.model.stored:
            record = self.record()

            assert (record.created_at, record.expires_at) == (self.model.created, self.model.ends)

    @invariant()
    def the_browser_keeps_the_cookie_as_long_as_the_last_use_that_was_noted_says(self) -> None:
        if hasattr(self, "site") and self.model.stored:
            (cookie,) = self.site.browser.jar.stored.values()

            assert cookie.expires == self.model.cookie_ends

    def change(self, do: Do) -> None:
        """Do the same to session and model."""
        before = repr(self.model.values)
        self.request(do)
        do(self.model.values)
        self.note_change(before, self.model.store)

    def note_change(self, before: str, store: Callable[[float], None]) -> None:
        """Note the save that a change leads to: none without a change, and none for an empty new session."""
        changed = repr(self.model.values) != before
        if changed if self.model.stored else self.model.values:
            store(self.site.clock())

    def request(self, do: Any) -> None:
        """Make a request that first compares the session with the model, and then does something to it."""

        def act(session: Session) -> None:
            assert dict(session) == self.model.values
            assert session.user_id == self.model.user
            do(session)

        used_at = self.record().used_at if self.model.stored else 0
        reply = self.site.visit(act)

        assert reply.status == 200
        idle = IDLE if self.model.expiry is None else self.model.expiry
        if self.model.stored and (int(self.site.clock()) - used_at) * 20 >= idle:
            self.model.use(self.site.clock())

    def retire(self) -> None:
        """Note that the present key must never work again."""
        key = self.key()
        if key is not None:
            self.old_keys.add(key)

    def notice_the_end(self) -> None:
        if self.model.stored and self.site.clock() >= self.model.cookie_ends:
            self.site.clock.now = max(self.site.clock.now, self.model.ends)  # the row may outlive the cookie
            self.retire()
            self.model.forget()

    def key(self) -> str | None:
        found = [cookie.value for cookie in self.site.browser.jar.stored.values()]
        return found[0] if found else None

    def record(self) -> Record:
        """Return the row of the session."""
        found = self.site.store.load(digest(str(self.key())))
        assert found is not None, "the row is not there"
        return found


SessionMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestSessionMachine = SessionMachine.TestCase
