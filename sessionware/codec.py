"""Values to text and back: ASCII-only JSON with type tags. Data only, never code.

A value that JSON does not know stands as a dictionary with one key that begins with ``~``:
``{"~decimal": "19.90"}``. Text stays readable in the database (``data::jsonb ->> 'cart'``).
"""

import base64
import gc
import json
import re
from collections.abc import Callable, Collection, Iterable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from math import isfinite
from typing import Any, NoReturn, Protocol
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import orjson

from .errors import UnstorableValue

try:
    from markupsafe import Markup
except ImportError:  # comes with Flask and Jinja: elsewhere nobody stores any, and it reads as text
    Markup = str  # type: ignore[assignment,misc]

# Deep enough for any honest session, and far below what would exhaust a stack on the way back.
MAX_DEPTH = 100

# A structure that shares its parts doubles with every level: sixty lists can hold more than any disk.
MAX_ITEMS = 2_000_000

# Python refuses longer numbers from text (CVE-2020-10735): such a row could never be read again.
_MAX_DIGITS = 4300

_INT64 = range(-(2**63), 2**64)

# What the decoders of single tags raise for what encode has not written.
_UNDECODABLE = (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError, OSError)

# Two characters of Python, but one of JSON: it would come back as another text.
_has_surrogate_pair = re.compile("[\ud800-\udbff][\udc00-\udfff]").search


class Undecodable(Exception):
    """A stored text that is not of this codec: corrupt, truncated, or written by something else."""


class Codec(Protocol):
    """How values become text.

    *format* is stored beside the text and must not change its meaning: a number of your own from 2 to 32767,
    and another one when what you write changes. A row of another format reads as no session.

    Equal values may give different texts, as an encryption does. Then the values themselves are compared, and
    an order of keys that alone has changed is no change.
    """

    format: int

    def encode(self, values: dict[str, Any]) -> str:
        """Return *values* as ASCII text; raise UnstorableValue, naming the path, for what cannot be kept."""

    def decode(self, text: str) -> dict[str, Any]:
        """Return the values of *text*; raise Undecodable, and nothing else, for a text that it cannot open."""


class TaggedJSON:
    """The default codec; see the module."""

    format = 1

    def encode(self, values: dict[str, Any]) -> str:
        """Return *values* as ASCII text.

        Plain values go straight through orjson. The check before it exists because orjson would
        quietly store a tuple, an Enum, a UUID or a NaN as something else.
        """
        if _is_plain(values):
            text = _plain_json(values)
            if text is not None:
                return text
        for key in values:
            if type(key) is not str:
                _refuse((), f"has a key of type {type(key).__name__}: keys must be str")
        _refuse_too_many(values)
        try:
            return _ascii_json(_tag_dict(values, ()))
        except RecursionError:
            pass  # refused below, where the stack has room again
        return _refuse((), "is nested too deep for what is left of Python's stack")

    def decode(self, text: str) -> dict[str, Any]:
        """Return the values of *text*. Raises Undecodable."""
        if "~" in text and '"~' in text:
            return _decode_long_way(text)
        try:
            values = orjson.loads(text)
        except ValueError:
            return _decode_long_way(text)
        if type(values) is not dict:
            raise Undecodable("not a dictionary")
        return values


_LEAVES = frozenset({str, int, bool, type(None)})
_MANY = 100  # items whose types are looked at all at once first, in half the time


def _is_plain(values: dict[str, Any]) -> bool:
    """Return whether *values* hold nothing but what JSON has, and no more than may be written.

    It runs at every save, so it goes level by level: the garbage collector lists what all containers of
    a level hold, shared parts as often as they stand there, in two thirds of the time of a recursion.
    """
    left = MAX_ITEMS
    items: Collection[Any] = values.values()
    for _ in range(MAX_DEPTH):
        if len(items) > _MANY and _LEAVES.issuperset(map(type, items)):
            return True
        nested = []
        for item in items:
            kind = type(item)
            if kind is str or kind is int or kind is bool or item is None:
                continue
            if kind is dict or kind is list:
                nested.append(item)
            elif kind is not float or not isfinite(item):
                return False
        if not nested:
            return True
        left -= sum(map(len, nested))
        if left < 0:
            return False
        items = gc.get_referents(*nested)
    return False


def _refuse_too_many(values: dict[str, Any]) -> None:
    """Count what would be written, each shared part as often as it stands there, before any of it is."""
    left = MAX_ITEMS
    waiting: list[tuple[Any, int]] = [(values, 0)]
    while waiting:
        container, depth = waiting.pop()
        left -= len(container)
        if left < 0:
            _refuse((), f"holds more than {MAX_ITEMS:,} items, or shares parts of itself too often")
        if depth <= MAX_DEPTH:
            items = container.values() if type(container) is dict else container
            waiting.extend((item, depth + 1) for item in items if type(item) in _CONTAINERS)


def _plain_json(values: dict[str, Any]) -> str | None:
    """Return plain *values* as text; None if they need the long way: wide numbers, odd keys, surrogates."""
    try:
        encoded = orjson.dumps(values)
    except TypeError:
        return None
    if b"~" in encoded and b'"~' in encoded:  # one byte is found forty times faster than two
        return None
    return encoded.decode("ascii") if encoded.isascii() else _in_ascii(encoded) or _ascii_json(values)


# The first bytes, in UTF-8, of what JSON escapes as two surrogates.
_ASTRAL = (b"\xf0", b"\xf1", b"\xf2", b"\xf3", b"\xf4")


def _in_ascii(encoded: bytes) -> str | None:
    """Return JSON with its other characters escaped, in half the time of writing it anew; None if it cannot be.

    Python escapes them as \\xe4 or \\u6f22, of which JSON knows the second.
    """
    if (b"\\" in encoded and b"\\\\" in encoded) or any(byte in encoded for byte in _ASTRAL):
        return None
    escaped = encoded.decode().encode("ascii", "backslashreplace")
    return escaped.replace(b"\\x", b"\\u00").decode("ascii")


def _ascii_json(tree: dict[str, Any]) -> str:
    return json.dumps(tree, separators=(",", ":"), allow_nan=False)


def _decode_long_way(text: str) -> dict[str, Any]:
    try:
        values = _untag(_parse(text))
    except _UNDECODABLE as error:
        raise Undecodable(type(error).__name__) from None
    if type(values) is not dict or any(type(key) is not str for key in values):
        raise Undecodable("not a dictionary with text keys")
    return values


def _parse(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        # orjson refuses lone surrogates, which Python text may hold; the standard library reads them.
        return json.loads(text, parse_constant=_refuse_constant)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


_CONTAINERS = frozenset({dict, list, tuple, set, frozenset})

Path = tuple[object, ...]


def _tag(value: Any, path: Path) -> Any:
    if len(path) > MAX_DEPTH:
        _refuse(path[:3], f"is nested deeper than {MAX_DEPTH} levels, or contains itself")
    kind = type(value)
    if kind is str:
        return value if value.isascii() or not _has_surrogate_pair(value) else _tag_text(value)
    if kind is bool or value is None:
        return value
    if kind is dict:
        return _tag_dict(value, path)
    if kind is list:
        return [_tag(item, (*path, index)) for index, item in enumerate(value)]
    if kind not in _TAGS:
        _refuse(path, f"is of type {kind.__name__}, which cannot be stored faithfully")
    return _TAGS[kind](value, path)


def _tag_dict(values: dict[Any, Any], path: Path) -> Any:
    if any(type(key) is not str or _has_surrogate_pair(key) for key in values):
        return {"~map": [[_tag(k, (*path, k)), _tag(v, (*path, k))] for k, v in values.items()]}
    tagged = {key: _tag(value, (*path, key)) for key, value in values.items()}
    if len(tagged) == 1 and next(iter(tagged)).startswith("~"):
        return {"~~": list(*tagged.items())}
    return tagged


def _tag_markup(value: str, path: Path) -> Any:
    return {"~markup": _tag(str(value), path)}


def _tag_text(value: str) -> Any:
    return {"~text": base64.b64encode(value.encode("utf-8", "surrogatepass")).decode("ascii")}


def _tag_int(value: int, path: Path) -> Any:
    if value in _INT64:
        return value
    try:
        digits = str(value)
    except ValueError:  # sys.set_int_max_str_digits
        digits = ""
    if not 0 < len(digits.lstrip("-")) <= _MAX_DIGITS:
        _refuse(path, f"is a number of more than {_MAX_DIGITS} digits, or more than Python may write")
    return {"~int": digits}


def _tag_float(value: float, _path: Path) -> Any:
    return value if isfinite(value) else {"~float": repr(value)}


def _tag_items(name: str) -> Callable[[Iterable[Any], Path], Any]:
    return lambda items, path: {name: [_tag(item, (*path, index)) for index, item in enumerate(items)]}


def _tag_set(name: str) -> Callable[[Collection[Any], Path], Any]:
    def tag(items: Collection[Any], path: Path) -> Any:
        # Sorted by their text: equal sets must give equal text in every process (PYTHONHASHSEED).
        return {name: sorted((_tag(item, (*path, "{}")) for item in items), key=_ascii_json)}

    return tag


def _tag_datetime(value: datetime, path: Path) -> Any:
    if name := _zone_name(value):
        return {"~datetime": value.isoformat() + name}
    if value.tzinfo is not None and _offset(value) is None:
        _refuse(path, "is a datetime whose time zone gives no offset")
    return _with_fold(value, {"~datetime": value.isoformat()})


def _tag_time(value: time, path: Path) -> Any:
    if value.tzinfo is not None and _offset(value) is None:
        _refuse(path, "is a time whose zone has no fixed offset")
    return _with_fold(value, {"~time": value.isoformat() + _zone_name(value)})


def _zone_name(value: datetime | time) -> str:
    zone = value.tzinfo
    return f"[{zone.key}]" if isinstance(zone, ZoneInfo) and zone.key is not None else ""  # RFC 9557


def _offset(value: datetime | time) -> timedelta | None:
    try:
        return value.utcoffset()
    except Exception:  # of somebody's own time zone
        return None


def _with_fold(value: datetime | time, tagged: Any) -> Any:
    """Note that *value* is the second of two equal readings of the clock; ISO 8601 has no sign for it."""
    return {"~fold": tagged} if value.fold else tagged


_TAGS: dict[type, Callable[[Any, Path], Any]] = {
    int: _tag_int,
    float: _tag_float,
    tuple: _tag_items("~tuple"),
    set: _tag_set("~set"),
    frozenset: _tag_set("~frozenset"),
    bytes: lambda value, _: {"~bytes": base64.b64encode(value).decode("ascii")},
    datetime: _tag_datetime,
    date: lambda value, _: {"~date": value.isoformat()},
    time: _tag_time,
    timedelta: lambda value, _: {"~timedelta": [value.days, value.seconds, value.microseconds]},
    Decimal: lambda value, _: {"~decimal": str(value)},
    UUID: lambda value, _: {"~uuid": str(value)},
    Markup: _tag_markup,
}


def _untag(tree: Any) -> Any:
    if type(tree) is list:
        return [_untag(item) for item in tree]
    if type(tree) is not dict:
        return tree
    if len(tree) == 1:
        ((key, value),) = tree.items()
        if key.startswith("~"):
            return _UNTAGS[key](value)
    return {key: _untag(value) for key, value in tree.items()}


def _untag_pair(pair: list[Any]) -> dict[str, Any]:
    key, value = pair
    return {key: _untag(value)}


def _text_of(tree: Any) -> str:
    text = _untag(tree)
    if type(text) is not str:
        raise TypeError(type(text).__name__)
    return text


def _untag_datetime(text: str) -> datetime:
    moment, zone = _parted(text)
    value = datetime.fromisoformat(moment)
    if zone is None:
        return value
    offset = value.utcoffset()
    local = value.replace(tzinfo=zone)
    folded = local.replace(fold=1)
    # The hour that a clock passes twice is told by its offset. Where the rules of the zone have changed
    # since, the instant is kept rather than the name.
    return local if local.utcoffset() == offset else folded if folded.utcoffset() == offset else value


def _untag_time(text: str) -> time:
    moment, zone = _parted(text)
    value = time.fromisoformat(moment)
    if zone is None:
        return value
    named = value.replace(tzinfo=zone)
    return named if named.utcoffset() == value.utcoffset() else value


def _parted(text: str) -> tuple[str, ZoneInfo | None]:
    """Return a moment and its zone; None if it names none, or one that this host does not know."""
    moment, _, name = text.partition("[")
    try:
        return moment, ZoneInfo(name.removesuffix("]")) if name else None
    except (ZoneInfoNotFoundError, OSError):  # some Pythons: the name is of a directory
        return moment, None


_UNTAGS: dict[str, Callable[[Any], Any]] = {
    "~text": lambda text: base64.b64decode(text, validate=True).decode("utf-8", "surrogatepass"),
    "~int": int,
    "~float": float,
    "~tuple": lambda items: tuple(_untag(items)),
    "~set": lambda items: set(_untag(items)),
    "~frozenset": lambda items: frozenset(_untag(items)),
    "~bytes": lambda text: base64.b64decode(text, validate=True),
    "~datetime": _untag_datetime,
    "~date": date.fromisoformat,
    "~time": _untag_time,
    "~fold": lambda tree: _untag(tree).replace(fold=1),
    "~timedelta": lambda parts: timedelta(*parts),
    "~decimal": Decimal,
    "~uuid": UUID,
    "~markup": lambda tree: Markup(_text_of(tree)),
    "~map": lambda pairs: {_untag(key): _untag(value) for key, value in pairs},
    "~~": _untag_pair,
}


def _refuse(path: Path, reason: str) -> NoReturn:
    where = "".join(f"[{_shown(step)}]" for step in path)
    raise UnstorableValue(f"session{where} {reason}; store plain data instead.")


def _shown(step: object) -> str:
    # A range looks through all its numbers for what is of a subclass of int.
    readable = isinstance(step, str) or (type(step) in (int, bool) and step in _INT64)
    text = repr(step) if readable else type(step).__name__
    return text if len(text) <= 60 else text[:57] + "..."
