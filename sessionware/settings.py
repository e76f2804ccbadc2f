"""What all sessions of one middleware share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .codec import Codec
from .events import Events
from .merge import OnConflict
from .record import Lifetime

if TYPE_CHECKING:
    from .store import SessionStore


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """The options of a middleware, checked, as its sessions need them."""

    store: "SessionStore"
    codec: Codec
    lifetime: Lifetime
    events: Events
    max_bytes: int
    on_conflict: OnConflict | None
    extend_always: bool
    clock: Callable[[], float]
    read_cookie: Callable[[str | None], tuple[str, ...] | None]
