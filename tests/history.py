"""What clients did to sessions and saw of them, and whether a session store may answer so.

Each client writes tokens that are never written twice, so that every token read names the write that it
came from. A write whose answer never came is unknown: it may have been done or not.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from sessionware.keys import digest

Result = Literal["ok", "fail", "unknown"]
ABSOLUTE = 90 * 24 * 3600


@dataclass
class Operation:
    """One request: who did what with which session key, from when to when, and what came of it.

    *what* is write, append, read, login, logout or plain. *session* names the logical session, which
    keeps its name when its key changes. *values* are what the answer showed, None if nothing.
    """

    client: int
    what: str
    session: str
    key: str
    token: str = ""
    slot: str = ""
    began: float = 0.0
    ended: float = 0.0
    result: Result = "unknown"
    status: int = 0
    values: dict[str, Any] | None = None
    cookie: str | None = None

    def foreign(self) -> set[str]:
        """Return the tokens that the answer showed and the request did not bring."""
        return tokens_of(self.values or {}) - {self.token}

    def began_anew(self) -> bool:
        """Return whether this request was given a session of its own, its key being of no more use."""
        return self.what in ("write", "append") and bool(self.cookie) and self.cookie != self.key


@dataclass
class Peace:
    """What there was when the harm had ended and nobody asked for anything any more.

    *statuses* are the answers to requests of every kind, *lent* the connections in use by worker, *held*
    what somebody has open or locked in the database, *rows* the table. *left* are the digests that a purge
    left of it in the far future, when only the sessions of the final read had been used meanwhile.
    """

    statuses: list[int]
    lent: dict[int, int]
    held: list[str]
    rows: dict[bytes, dict[str, Any]]
    left: set[bytes]


@dataclass
class History:
    """All operations, and what was found in the end: live keys, and the values under each."""

    operations: list[Operation] = field(default_factory=list)
    final: dict[str, dict[str, Any]] = field(default_factory=dict)
    undecodable: int = 0
    limit: float = 20.0
    peace: Peace | None = None

    def violations(self) -> list[str]:
        """Return every invariant that is broken, with the operation that shows it."""
        found: list[str] = []
        for check in (
            self._acknowledged,
            self._real,
            self._ended,
            self._rotated,
            self._apart,
            self._in_order,
            self._lists,
            self._plain,
            self._prompt,
            self._cookies,
            self._recovered,
            self._tidy,
            self._intact,
        ):
            found += check()
        return found

    def _acknowledged(self) -> Iterable[str]:
        """I1: what was acknowledged is in the final read, unless something acknowledged took it from there."""
        for operation in self._of("write", "append"):
            if operation.result != "ok" or self._is_kept(operation):
                continue
            others = [other for other in self.operations if other.session == operation.session]
            if not any(self._excuses(other, operation) for other in others):
                yield f"I1: {operation.token} was acknowledged and is lost"

    def _real(self) -> Iterable[str]:
        """I2: what was read was written, and not by a request that was refused."""
        results = {operation.token: operation.result for operation in self._of("write", "append")}
        for where, values in self._seen():
            for token in tokens_of(values):
                if results.get(token, "fail") == "fail":
                    yield f"I2: {token} in {where} was never written"

    def _ended(self) -> Iterable[str]:
        """I3: after an acknowledged logout nobody sees data, and nothing lives under the key."""
        for logout in self._of("logout"):
            if logout.result != "ok":
                continue
            for operation in self.operations:
                if operation.key == logout.key and operation.began > logout.ended and operation.foreign():
                    yield f"I3: client {operation.client} saw data after the logout of {logout.session}"
            if logout.key in self.final:
                yield f"I3: {logout.session} lives on after its logout"

    def _rotated(self) -> Iterable[str]:
        """I4: after an acknowledged login the session lives under the new key, and only there."""
        for login in self._of("login"):
            if login.result != "ok":
                continue
            if not login.cookie or (login.cookie not in self.final and not self._was_given_up(login.cookie)):
                yield f"I4: {login.session} did not outlive its login"
            if login.key in self.final:
                yield f"I4: the old key of {login.session} lives on after a login"
            for operation in self.operations:
                if operation.key == login.key and operation.began > login.ended and operation.foreign():
                    yield f"I4: client {operation.client} saw data with the old key of {login.session}"

    def _apart(self) -> Iterable[str]:
        """I5: nothing of one session is seen in another."""
        homes = {operation.token: operation.session for operation in self._of("write", "append")}
        for operation in self.operations:
            for token in tokens_of(operation.values or {}):
                if homes.get(token, operation.session) != operation.session:
                    yield f"I5: {token} of {homes[token]} was seen in {operation.session}"
        names = {key: operation.session for operation in self.operations for key in self._keys_of(operation.session)}
        for key, values in self.final.items():
            for token in tokens_of(values):
                if key in names and homes.get(token, names[key]) != names[key]:
                    yield f"I5: {token} of {homes[token]} is stored in {names[key]}"
        for operation in self.operations:
            if operation.began_anew() and tokens_of(self.final.get(str(operation.cookie), {})) - {operation.token}:
                yield f"I5: the session that {operation.token} began has what it did not write"

    def _in_order(self) -> Iterable[str]:
        """I6: a client finds what it wrote last, until somebody ends the session or gives it a new key."""
        written: dict[tuple[int, str], dict[str, str | None]] = {}
        for operation in sorted(self.operations, key=lambda operation: operation.began):
            own = written.setdefault((operation.client, operation.key), {})
            place = operation.slot or operation.token  # what is appended has a place of its own
            if operation.values is not None and not self._is_disturbed(operation):
                expected = {token for slot, token in own.items() if token and slot != place}
                if operation.what == "append":
                    expected = {token for token in expected if token in own}
                if missing := expected - tokens_of(operation.values):
                    yield f"I6: client {operation.client} wrote {sorted(missing)} and read {operation.values}"
            if operation.what in ("write", "append"):
                own[place] = operation.token if operation.result == "ok" else None

    def _lists(self) -> Iterable[str]:
        """I7: every list that was seen is a beginning of the last one, and holds nothing twice."""
        seen: dict[str, list[list[str]]] = {}
        for operation in self.operations:
            if operation.values and "log" in operation.values and not operation.began_anew():
                seen.setdefault(operation.session, []).append(operation.values["log"])
        for session, logs in seen.items():
            final = self._final_of(session)
            last = max(logs, key=len) if final is None else final.get("log", [])
            if len(set(last)) < len(last):
                yield f"I7: something was appended twice in {session}"
            for log in logs:
                if log != last[: len(log)]:
                    yield f"I7: two orders of one list in {session}"

    def _plain(self) -> Iterable[str]:
        """I8: what does not touch the session always answers, as long as there is a server."""
        for operation in self._of("plain"):
            if operation.status not in (0, 200):
                yield f"I8: a page without a session answered {operation.status}"

    def _prompt(self) -> Iterable[str]:
        """I9: nobody waits without end."""
        for operation in self.operations:
            if operation.ended - operation.began > self.limit:
                yield f"I9: {operation.what} took {operation.ended - operation.began:.1f} s"

    def _cookies(self) -> Iterable[str]:
        """I10: no cookie of a living session is taken away or replaced."""
        for operation in self.operations:
            if operation.cookie not in (None, operation.key) and not self._is_disturbed(operation):
                yield f"I10: {operation.what} of client {operation.client} took a living cookie away"

    def _recovered(self) -> Iterable[str]:
        """I11: when the harm has ended all is served, and nobody holds a connection, a transaction or a lock."""
        if self.peace is None:
            return
        for status in self.peace.statuses:
            if status != 200:
                yield f"I11: a request after the harm was answered {status}"
        for worker, count in self.peace.lent.items():
            if count:
                yield f"I11: worker {worker} does not give {count} connections back"
        for what in self.peace.held:
            yield f"I11: somebody holds {what}"

    def _tidy(self) -> Iterable[str]:
        """I11: the table has the living sessions, not much else, and nothing else for ever."""
        if self.peace is None:
            return
        living = {digest(key) for key in self.final}
        others = [row for key, row in self.peace.rows.items() if key not in living]
        tombstones = [row for row in others if row["data"] is None]
        if len(tombstones) > sum(login.result != "fail" for login in self._of("login")):
            yield f"I11: {len(tombstones)} tombstones are more than there were logins"
        if len(others) - len(tombstones) > len(self._lost_beginnings()):
            yield f"I11: {len(others) - len(tombstones)} rows are nobody's"
        if not living <= self.peace.rows.keys():
            yield "I11: a session without a row lives"
        if self.peace.left != living:
            yield f"I11: a purge leaves {len(self.peace.left)} rows, and {len(living)} sessions are in use"

    def _intact(self) -> Iterable[str]:
        """I12: every row decodes, and ends when it has to."""
        if self.undecodable:
            yield f"I12: {self.undecodable} rows do not decode"
        for row in () if self.peace is None else self.peace.rows.values():
            if not row["created_at"] <= row["used_at"] <= row["expires_at"] <= row["created_at"] + ABSOLUTE:
                yield f"I12: a row was made {row['created_at']}, used {row['used_at']} and ends {row['expires_at']}"
            if row["purge_hour"] > row["expires_at"] // 3600:
                yield f"I12: a row that ends {row['expires_at']} waits for hour {row['purge_hour']}"

    def _of(self, *names: str) -> list[Operation]:
        return [operation for operation in self.operations if operation.what in names]

    def _keys_of(self, session: str) -> set[str]:
        """Return the keys that the session has had; those of sessions begun in its place are not among them."""
        found = {operation.key for operation in self.operations if operation.session == session}
        return found | {login.cookie for login in self._of("login") if login.session == session and login.cookie}

    def _final_of(self, session: str) -> dict[str, Any] | None:
        return next((self.final[key] for key in self._keys_of(session) if key in self.final), None)

    def _is_kept(self, operation: Operation) -> bool:
        keys = {operation.cookie or ""} if operation.began_anew() else self._keys_of(operation.session)
        return any(operation.token in tokens_of(self.final.get(key, {})) for key in keys)

    def _excuses(self, other: Operation, operation: Operation) -> bool:
        """Return whether *other* may have ended or overwritten what *operation* stored, or taken its key from it."""
        if other.result == "fail" or operation.began_anew():
            return False
        if other.what in ("logout", "login") and other.result == "unknown":
            return True
        if other.what == "logout":
            return other.ended > operation.began
        if other.what == "login":  # with the old key a write is answered, and nothing is stored
            late = other.key == operation.key and other.began < operation.ended
            return late and operation.what == "write" and not operation.foreign()
        rewritten = other.what == operation.what == "write" and other.slot == operation.slot
        return rewritten and other is not operation and other.ended > operation.began

    def _is_disturbed(self, operation: Operation) -> bool:
        """Return whether the session may have ended, or got a new key, before this request was over."""
        others = [other for other in self._of("logout", "login") if other.key == operation.key]
        return any(other.began < operation.ended for other in others)

    def _was_given_up(self, key: str) -> bool:
        return any(other.key == key and other.result != "fail" for other in self._of("logout", "login"))

    def _lost_beginnings(self) -> list[Operation]:
        """Return the requests that may have begun a session the key of which nobody has been told."""
        unknown = [operation for operation in self._of("write", "append", "login") if operation.result == "unknown"]
        return [operation for operation in unknown if self._is_disturbed(operation)]

    def _seen(self) -> Iterable[tuple[str, dict[str, Any]]]:
        for operation in self.operations:
            yield f"an answer to client {operation.client}", operation.values or {}
        for key, values in self.final.items():
            yield f"the final values of {key[:4]}", values


def tokens_of(values: dict[str, Any]) -> set[str]:
    found: set[str] = set()
    for value in values.values():
        found |= set(value) if isinstance(value, list) else {value}
    return found
