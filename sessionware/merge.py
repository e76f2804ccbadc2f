"""Three-way merge of values: what I changed and what the other request changed, both kept.

Pure functions. A change is found by comparing with the common base, key by key, in dictionaries of
dictionaries at every level; any other value changes as a whole.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, time
from decimal import Decimal
from enum import Enum
from itertools import chain
from typing import Any, Final, Literal, NamedTuple


class _Missing(Enum):
    MISSING = "MISSING"

    def __repr__(self) -> str:
        return "MISSING"

    def __bool__(self) -> Literal[False]:
        return False


MISSING: Final = _Missing.MISSING
"""Stands for a key that is not there; false. A conflict handler may get it, and return it to delete."""

OnConflict = Callable[[Any, Any, Any, Any], Any]


# Each NaN differs from itself, 0.0 equals -0.0, and one instant is equal in all time zones.
_EQUAL_IS_NOT_SAME = frozenset({float, Decimal, datetime, time})


class Merged(NamedTuple):
    """The merged values, and the path of each key that both sides had changed to something different."""

    values: dict[str, Any]
    conflicts: list[tuple[Any, ...]]


def merge(
    base: dict[str, Any],
    mine: dict[str, Any],
    theirs: dict[str, Any],
    on_conflict: OnConflict | None = None,
) -> Merged:
    """Return *theirs* with the changes that lead from *base* to *mine*.

    Where both sides changed one key differently, ``on_conflict(key, base, mine, theirs)`` gives the value (each
    side may be MISSING; the key is the innermost one, of any type); without it mine wins. Nothing passed in is altered.
    """
    conflicts: list[tuple[Any, ...]] = []
    return Merged(_merge_dicts((), base, mine, theirs, on_conflict or _mine_wins, conflicts), conflicts)


def _mine_wins(_key: object, _base: Any, mine: Any, _theirs: Any) -> Any:
    return mine


def _merge_dicts(
    path: tuple[Any, ...],
    base: dict[Any, Any],
    mine: dict[Any, Any],
    theirs: dict[Any, Any],
    on_conflict: OnConflict,
    conflicts: list[tuple[Any, ...]],
) -> dict[Any, Any]:
    merged: dict[Any, Any] = {}
    before, ours, others = _by_essence(base), _by_essence(mine), _by_essence(theirs)
    for name, (key, _) in (others | ours).items():
        old, my, their = (side.get(name, _NOWHERE)[1] for side in (before, ours, others))
        value = _merge_value((*path, key), old, my, their, on_conflict, conflicts)
        if value is not MISSING:
            merged.pop(key, None)  # 1 and True are two keys to us, and one to Python: the later change wins
            merged[key] = value
    return merged


_NOWHERE = (MISSING, MISSING)


def _by_essence(values: dict[Any, Any]) -> dict[Any, tuple[Any, Any]]:
    """Return the pairs of *values* such that one key is found by another if the two are the `same`."""
    return {_essence(key): (key, value) for key, value in values.items()}


def _merge_value(
    path: tuple[Any, ...],
    base: Any,
    mine: Any,
    theirs: Any,
    on_conflict: OnConflict,
    conflicts: list[tuple[Any, ...]],
) -> Any:
    if same(mine, base):
        return theirs
    if same(theirs, base) or same(mine, theirs):
        return mine
    if type(mine) is dict and type(theirs) is dict:
        common = base if type(base) is dict else {}
        return _merge_dicts(path, common, mine, theirs, on_conflict, conflicts)
    conflicts.append(path)
    return on_conflict(path[-1], base, mine, theirs)


def same(one: Any, other: Any) -> bool:
    """Return whether two values are equal and of equal types at every level: 1, 1.0 and True differ."""
    return one is other or bool(_essence(one) == _essence(other))


def _essence(value: Any) -> Any:
    """Return what to compare in place of *value*; it can be hashed if *value* can."""
    kind = type(value)
    if kind is dict:
        return {_essence(key): _essence(item) for key, item in value.items()}
    if kind is list or kind is tuple:
        return kind, tuple(map(_essence, value))
    if kind is set or kind is frozenset:
        return kind, frozenset(map(_essence, value))
    if kind in _EQUAL_IS_NOT_SAME:
        return kind, repr(value)
    return kind, value


def adopt(mine: dict[Any, Any], merged: dict[Any, Any]) -> None:
    """Change *mine* to equal *merged* in place, so that references the application holds stay good.

    But for what stands in several places, of *mine* or of *merged* too: it can equal but one of them, and is
    replaced.
    """
    _adopt(mine, merged, Counter(chain(_containers(mine), _containers(merged))))


def _adopt(mine: dict[Any, Any], merged: dict[Any, Any], places: Counter[int]) -> None:
    before, after = _by_essence(mine), _by_essence(merged)
    for name in before.keys() - after.keys():
        del mine[before[name][0]]
    for name, (new_key, value) in after.items():
        key, old = before.get(name, (new_key, MISSING))
        kind = type(old) if type(old) is type(value) and places[id(old)] == 1 else None
        if kind is dict:
            _adopt(old, value, places)
        elif same(old, value):
            continue
        elif kind is list:
            old[:] = value
        elif kind is set:
            old.clear()
            old.update(value)
        else:
            mine[key] = value


def _containers(value: Any) -> Iterator[int]:
    """Yield the identity of each container in *value* as often as it stands there."""
    kind = type(value)
    if kind in (dict, list, tuple, set):
        yield id(value)
    if kind in (dict, list, tuple):
        for item in value.values() if kind is dict else value:
            yield from _containers(item)
