"""Values of a session: told apart by type as well as by equality, and made up by Hypothesis."""

from collections.abc import Hashable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from hypothesis import strategies as st
from markupsafe import Markup

ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Monrovia", "Asia/Kathmandu")

SURROGATES = "\ud800\ud83d\udbff\udc00\ude00\udfff"


def exact(value: Any) -> Hashable:
    """Return a form of *value* that is equal for two values only if no program could tell them apart.

    1, 1.0 and True differ, and so do 0.0 and -0.0, or one instant in two time zones. The order of a
    dictionary does not count.
    """
    kind = type(value)
    if kind is dict:
        return kind, frozenset((exact(key), exact(item)) for key, item in value.items())
    if kind in (list, tuple):
        return kind, tuple(map(exact, value))
    if kind in (set, frozenset):
        return kind, frozenset(map(exact, value))
    if kind is datetime:
        return kind, value.replace(tzinfo=None).isoformat(), _zone(value), value.utcoffset()
    return kind, repr(value)


def _zone(value: datetime) -> object:
    zone = value.tzinfo
    return zone.key if isinstance(zone, ZoneInfo) else type(zone)


def texts(max_size: int = 8) -> st.SearchStrategy[str]:
    """Return texts of any characters, with those in front that once broke a codec."""
    nasty = st.sampled_from(["~", "~~", "~tuple", '"~', "\x00", "\u2028", "é", "\U0001f600", *SURROGATES])
    anything = st.text(st.characters(), max_size=max_size)
    pieces = st.lists(nasty | anything, max_size=3).map("".join)
    return st.text("ab~", max_size=3) | pieces


def scalars() -> st.SearchStrategy[Any]:
    """Return values of every type that holds no others and can be a key."""
    seconds = st.integers(-86399, 86399).map(lambda number: timezone(timedelta(seconds=number)))
    zones = seconds | st.sampled_from([ZoneInfo(name) for name in ZONES])
    return st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.integers(-(2**200), 2**200),
        st.floats(),
        texts(),
        st.binary(max_size=20),
        st.datetimes(),
        st.datetimes(timezones=zones, allow_imaginary=True),
        st.dates(),
        st.times(),
        st.times(timezones=seconds),
        st.timedeltas(),
        st.decimals().filter(lambda number: not number.is_snan()),
        st.uuids(),
        texts().map(Markup),
    )


def keys() -> st.SearchStrategy[Any]:
    """Return everything that may be a key, or in a set."""
    return st.recursive(
        scalars(),
        lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3),
        max_leaves=4,
    )


def values() -> st.SearchStrategy[Any]:
    """Return everything that the codec says it keeps, nested."""
    return st.recursive(
        scalars() | st.just(Decimal("sNaN")) | st.sets(keys(), max_size=4) | keys(),
        lambda inner: st.one_of(
            st.lists(inner, max_size=4),
            st.lists(inner, max_size=4).map(tuple),
            st.dictionaries(texts(), inner, max_size=4),
            st.dictionaries(keys(), inner, max_size=3),
            st.tuples(st.sampled_from(["~", "~~", "~map", "~int"]), inner).map(lambda pair: dict([pair])),
        ),
        max_leaves=12,
    )


# The values by which codecs were compared, but for three enumerations, which are refused; and Flask's safe HTML.
FAITHFUL: dict[str, Any] = {
    "str": "text",
    "int": 42,
    "float": 0.1,
    "bool": True,
    "None": None,
    "list": [1, "two"],
    "dict": {"a": {"b": 1}},
    "int 2**70": 2**70,
    "NaN": float("nan"),
    "infinity": float("inf"),
    "minus zero": -0.0,
    "datetime naive": datetime(2026, 11, 22, 1, 2, 3, 456789),
    "datetime aware": datetime(2026, 11, 22, 1, 2, 3, 456789, timezone(timedelta(hours=5, minutes=30))),
    "date": date(2026, 11, 22),
    "time": time(1, 2, 3, 456789),
    "timedelta": timedelta(days=-1, seconds=5, microseconds=7),
    "Decimal": Decimal("19.90"),
    "UUID": UUID("12345678-1234-5678-1234-567812345678"),
    "bytes": b"\x00\xff",
    "Markup": Markup("<b>saved</b>"),
    "tuple": (1, (2, "three")),
    "set": {1, "two"},
    "frozenset": frozenset({1, "two"}),
    "int keys": {1: "one", 2: "two"},
    "mixed keys": {1: "one", "1": "text", (1, 2): "tuple", None: 0},
    "lone surrogate": "a\ud800b",
    "NUL": "x\x00y",
}
