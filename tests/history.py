"""What clients did to sessions and saw of them, and whether a session store may answer so.

Each client writes tokens that are never written twice, so that every token read names the write that it
came from. A write whose answer never came is unknown: it may have been done or not.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

Result = Literal["ok", "fail", "unknown"]


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


@dataclass
class History:
    """All operations, and what was found in the end: live keys, and the values under each."""

    operations: list[Operation] = field(default_factory=list)
    final: dict[str, dict[str, Any]] = field(default_factory=dict)
    undecodable: int = 0
    limit: float = 20.0

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
            self._intact,
        ):
            found += check()
        return found

    def _acknowledged(self) -> Iterable[str]:
        """I1: what was acknowledged is in the final read, unless its session has ended."""
        for operation in self._of("write", "append"):
            values = self._final_of(operation.session)
            if operation.result != "ok" or values is None or operation.token in tokens_of(values):
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
        """I4: after an acknowledged login the old key is dead, and one session lives."""
        for login in self._of("login"):
            if login.result != "ok" or not login.cookie:
                continue
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
        names = {operation.key: operation.session for operation in self.operations}
        for key, values in self.final.items():
            for token in tokens_of(values):
                if key in names and homes.get(token, names[key]) != names[key]:
                    yield f"I5: {token} of {homes[token]} is stored in {names[key]}"

    def _in_order(self) -> Iterable[str]:
        """I6: a client sees its own slot as it wrote it last."""
        last: dict[tuple[int, str, str], str | None] = {}
        for operation in sorted(self.operations, key=lambda operation: operation.began):
            place = (operation.client, operation.key, operation.slot)
            expected = last.get(place)
            values = operation.values or {}
            if operation.what == "read" and expected and values.get(operation.slot, expected) != expected:
                yield f"I6: client {operation.client} wrote {expected} and read {values}"
            if operation.what == "write":
                last[place] = operation.token if operation.result == "ok" else None

    def _lists(self) -> Iterable[str]:
        """I7: every list that was seen is a beginning of the longest one, and holds nothing twice."""
        seen: dict[str, list[list[str]]] = {}
        over = self._over()
        for operation in self.operations:
            if operation.session not in over and operation.values and "log" in operation.values:
                seen.setdefault(operation.session, []).append(operation.values["log"])
        for session in seen:
            seen[session].append((self._final_of(session) or {}).get("log", []))
            longest = max(seen[session], key=len)
            if len(set(longest)) < len(longest):
                yield f"I7: something was appended twice in {session}"
            for log in seen[session]:
                if log != longest[: len(log)]:
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
        over = self._over()
        for operation in self.operations:
            if operation.cookie is not None and operation.session not in over and operation.cookie != operation.key:
                yield f"I10: {operation.what} of client {operation.client} took a living cookie away"

    def _intact(self) -> Iterable[str]:
        """I12: every row decodes."""
        if self.undecodable:
            yield f"I12: {self.undecodable} rows do not decode"

    def _of(self, *names: str) -> list[Operation]:
        return [operation for operation in self.operations if operation.what in names]

    def _over(self) -> set[str]:
        """Return the sessions that were ended or rotated: their old key may begin new ones."""
        return {operation.session for operation in self._of("logout", "login")}

    def _final_of(self, session: str) -> dict[str, Any] | None:
        keys = {operation.key for operation in self.operations if operation.session == session}
        keys |= {
            operation.cookie for operation in self._of("login") if operation.session == session and operation.cookie
        }
        return next((self.final[key] for key in keys if key in self.final), None)

    def _excuses(self, other: Operation, operation: Operation) -> bool:
        """Return whether *other* may have overwritten what *operation* stored, or taken its key from it."""
        if other.what == "login":
            return other.key == operation.key and other.began < operation.ended
        if other.what != "write" or operation.what != "write" or other is operation:
            return False
        return other.slot == operation.slot and other.ended > operation.began

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
