"""What the codec keeps, and that it comes back as it was: equal, and of the same type."""

import inspect
import json
import os
import subprocess
import sys
from datetime import UTC, datetime, time, timedelta, tzinfo
from enum import Enum, IntEnum, StrEnum
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sessionware import TaggedJSON, UnstorableValue
from tests.support.values import FAITHFUL, exact, texts, values

CODEC = TaggedJSON()
BERLIN = ZoneInfo("Europe/Berlin")


class Colour(Enum):
    RED = "red"


class Number(IntEnum):
    ONE = 1


class Word(StrEnum):
    YES = "yes"


class Text(str):
    """A subclass that would come back as its base."""


class Nowhere(tzinfo):
    """A zone that does not say how far it is from UTC."""

    def utcoffset(self, _moment: datetime | None) -> None:
        return None


def reload(value: Any) -> Any:
    """Return *value* as the next request sees it."""
    return CODEC.decode(CODEC.encode({"k": value}))["k"]


@pytest.mark.parametrize("value", [pytest.param(value, id=name) for name, value in FAITHFUL.items()])
def test_is_faithful(value: Any) -> None:
    """The values by which codecs were compared; no JSON library keeps more than 13 of them."""
    assert exact(reload(value)) == exact(value)


@pytest.mark.parametrize("zone", ["UTC", "Etc/GMT-5"])
def test_a_time_keeps_its_zone(zone: str) -> None:
    """Only zones of one offset for ever can be a time's; those come back by their name, as in a datetime."""
    back = reload(time(1, 2, tzinfo=ZoneInfo(zone)))

    assert (back, back.tzinfo) == (time(1, 2, tzinfo=ZoneInfo(zone)), ZoneInfo(zone))
    assert CODEC.decode('{"k":{"~time":"01:02:00+00:00[No/Where]"}}') == {"k": time(1, 2, tzinfo=UTC)}


def test_safe_html_reads_as_text_where_markupsafe_is_not_installed() -> None:
    """The command line may run elsewhere than Flask; shown there it would be escaped, which is safe."""
    look = "import sys; sys.modules['markupsafe'] = None; from sessionware import TaggedJSON; "
    look += "print(repr(TaggedJSON().decode(sys.argv[1])))"
    text = CODEC.encode({"k": FAITHFUL["Markup"]})

    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", look, text], capture_output=True, text=True, check=True
    )
    assert done.stdout == "{'k': '<b>saved</b>'}\n"


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(Colour.RED, id="Enum"),
        pytest.param(Number.ONE, id="IntEnum"),
        pytest.param(Word.YES, id="StrEnum"),
        pytest.param(Text("x"), id="subclass of str"),
        pytest.param(object(), id="object"),
        pytest.param(bytearray(b"x"), id="bytearray"),
        pytest.param({"a": Colour}, id="class"),
        pytest.param(len, id="function"),
        pytest.param(iter([]), id="iterator"),
        pytest.param(1j, id="complex"),
        pytest.param(range(3), id="range"),
    ],
)
def test_refuses_what_would_come_back_as_something_else(value: Any) -> None:
    """A loud refusal at the save instead of a wrong type in the next request."""
    with pytest.raises(UnstorableValue, match=r"session\['cart'\]\[1\].* cannot be stored faithfully"):
        CODEC.encode({"cart": [0, value]})


@pytest.mark.parametrize(
    ("session", "where"),
    [
        pytest.param({"a": {"b": [0, object()]}}, "session['a']['b'][1] is of type object", id="list in dictionary"),
        pytest.param({"a": {(1, 2): object()}}, "session['a'][tuple] is of type object", id="under an odd key"),
        pytest.param({"a": {object(): 1}}, "session['a'][object] is of type object", id="a key itself"),
        pytest.param({"a": {object()}}, "session['a']['{}'] is of type object", id="in a set"),
        pytest.param({1: "x"}, "session has a key of type int", id="top-level key"),
        pytest.param({Text("k"): "x"}, "session has a key of type Text", id="top-level key of a subclass"),
        pytest.param({"a": {Text("k"): "x"}}, "session['a']['k'] is of type Text", id="key of a subclass"),
        pytest.param({"a": {Number.ONE: 1}}, "session['a'][Number] is of type Number", id="key of a subclass of int"),
        pytest.param({"a": {True: object()}}, "session['a'][True] is of type object", id="under a truth"),
        pytest.param({"a": {2**64: object()}}, "session['a'][int] is of type object", id="under a number that is wide"),
        pytest.param({"x" * 999: object()}, "...] is of type object", id="giant key"),
        pytest.param({"a": datetime(2026, 1, 1, tzinfo=BERLIN).timetz()}, "no fixed offset", id="time in a zone"),
        pytest.param({"a": datetime(2026, 1, 1, tzinfo=Nowhere())}, "gives no offset", id="datetime in no zone"),
        pytest.param({"a": datetime(2026, 1, 1, tzinfo=tzinfo())}, "gives no offset", id="zone that raises"),
    ],
)
def test_a_refusal_names_the_path(session: dict[Any, Any], where: str) -> None:
    """Whoever reads the log must find the line that put it there, and no value."""
    with pytest.raises(UnstorableValue) as caught:
        CODEC.encode(session)

    assert where in str(caught.value)
    assert len(str(caught.value)) < 200


@settings(deadline=None, max_examples=400)
@given(session=st.dictionaries(texts(), values(), max_size=4))
@example({"~": 1})
@example({"~~": ["a", 1]})
@example({"a": {"~tuple": [1]}})
@example({"a": {"~": {"~~": {"~map": []}}}})
@example({"a": "\ud83d\ude00", "\ud83d\ude00": "\U0001f600"})
@example({"a": datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=BERLIN)})
@example({"a": datetime(2026, 3, 29, 2, 30, fold=1, tzinfo=BERLIN)})
@example({"a": {(1,): {frozenset({b""}): {1.5}}}})
def test_what_goes_in_comes_out(session: dict[str, Any]) -> None:
    """For everything that is accepted, equal with equal types at every level; and the text is plain ASCII."""
    text = CODEC.encode(session)

    assert exact(CODEC.decode(text)) == exact(session)
    assert text.isascii()
    assert "\x00" not in text


@settings(deadline=None)
@given(session=st.dictionaries(texts(), values(), max_size=4))
def test_what_comes_out_goes_in_as_the_same_text(session: dict[str, Any]) -> None:
    """A session that was only read must not look changed: texts are compared, and a difference is a write."""
    text = CODEC.encode(session)

    assert CODEC.encode(CODEC.decode(text)) == text


@settings(deadline=None)
@given(session=st.dictionaries(texts(), values(), max_size=4))
def test_the_text_is_json_for_any_reader(session: dict[str, Any]) -> None:
    """PostgreSQL casts it with ``::jsonb``: no NaN, no Infinity."""

    def refuse(name: str) -> None:
        raise AssertionError(name)

    assert type(json.loads(CODEC.encode(session), parse_constant=refuse)) is dict


@pytest.mark.parametrize(
    ("moment", "offset"),
    [
        pytest.param(datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN), "+02:00", id="first pass of the hour"),
        pytest.param(datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=1), "+01:00", id="second pass"),
        pytest.param(datetime(2026, 3, 29, 2, 30, tzinfo=BERLIN), "+01:00", id="hour that is skipped"),
        pytest.param(datetime(1890, 1, 1, tzinfo=BERLIN), "+00:53:28", id="local mean time"),
    ],
)
def test_a_zone_keeps_its_name_and_the_instant(moment: datetime, offset: str) -> None:
    """An appointment in Berlin stays in Berlin, also in the hour that the clock passes twice."""
    text = CODEC.encode({"k": moment})
    again = CODEC.decode(text)["k"]

    assert f"{offset}[Europe/Berlin]" in text
    assert again.tzinfo is BERLIN
    assert again.astimezone(UTC) == moment.astimezone(UTC)


def test_an_instant_survives_a_change_of_the_rules() -> None:
    """A zone may have another offset by the time the row is read: then the instant counts, not the name."""
    stored = '{"k":{"~datetime":"2026-07-01T12:00:00+05:00[Europe/Berlin]"}}'

    assert CODEC.decode(stored)["k"].astimezone(UTC) == datetime(2026, 7, 1, 7, tzinfo=UTC)


@pytest.mark.parametrize("zone", ["Mars/Olympus", "Europe", "\\u0000"])
def test_an_instant_survives_on_a_host_that_does_not_know_the_zone(zone: str) -> None:
    """Workers may differ in their tzdata; for one date the visitor would lose the whole session."""
    stored = f'{{"cart":[1],"k":{{"~datetime":"2026-07-01T12:00:00+05:00[{zone}]"}}}}'
    values = CODEC.decode(stored)

    assert values == {"cart": [1], "k": datetime(2026, 7, 1, 7, tzinfo=UTC)}
    assert values["k"].utcoffset() == timedelta(hours=5)
    assert reload(values["k"]) == values["k"]


def test_an_instant_survives_where_there_are_no_zones_at_all() -> None:
    """A slim container has neither the files of the system nor the package tzdata."""
    program = (
        "import sys, zoneinfo\n"
        "sys.modules['tzdata'] = None\n"
        "zoneinfo.reset_tzpath(to=[])\n"
        "from sessionware import TaggedJSON\n"
        "print(TaggedJSON().decode(sys.argv[1])['k'].isoformat())"
    )
    text = CODEC.encode({"k": datetime(2026, 7, 1, 12, tzinfo=BERLIN)})
    command = [sys.executable, "-c", program, text]

    assert subprocess.check_output(command, text=True, timeout=60).strip() == "2026-07-01T12:00:00+02:00"


def test_a_naive_time_keeps_its_fold() -> None:
    """datetime.now() marks the second pass of the hour with it; lost, the time is an hour off."""
    naive = datetime(2026, 10, 25, 2, 30, fold=1)

    assert reload(naive).fold == 1
    assert reload(naive.time()).fold == 1
    assert reload(naive.replace(fold=0)).fold == 0


def test_equal_sets_are_equal_text_in_every_process() -> None:
    """Strings hash differently in each worker: a set in hash order would be a write at every request."""
    program = (
        "from sessionware import TaggedJSON\n"
        "words = [f'word {n}' for n in range(50)]\n"
        "print(TaggedJSON().encode({'a': set(words), 'b': frozenset([frozenset(words), 1, None, (1, 'x')])}))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in (0, 1, 4242)
    }

    assert len(found) == 1


@pytest.mark.parametrize("last", [7, True, None, 1.5, float("inf"), (1,), {"a": (1,)}, [[(2,)]], b"x"], ids=repr)
@pytest.mark.parametrize("many", [99, 100, 101, 1000])
def test_one_of_many_is_as_faithful_as_one_alone(many: int, last: Any) -> None:
    """Where there are many values their types are looked at together, and none of them is passed over."""
    wide = [*range(many - 1), last]

    assert exact(reload(wide)) == exact(wide)
    assert exact(reload({str(key): value for key, value in enumerate(wide)})["0"]) == exact(0)
    with pytest.raises(UnstorableValue, match="cannot be stored faithfully"):
        CODEC.encode({"cart": [*wide, Number.ONE]})


@pytest.mark.parametrize(
    "text",
    [
        "\u00e4",
        "\x80\xff\u0100\uffff",
        "\u6f22\u5b57 x",
        "\U0001f600",
        "\U0010ffff\u00e4",
        "\x7f\u00e4",
        "\\\u00e4",
        "\u00e4\\",
        "\\xe4 \u00e4",
        "\\\\u00e4\u00fc",
        '"\u00e4"',
        '\u00e4\\"',
        "\u00e4\n\t\x1f",
        "\u00e4~",
    ],
    ids=ascii,
)
def test_other_alphabets_are_escaped_as_json_escapes_them(text: str) -> None:
    """Among them what Python, which helps with it, would escape in other words."""
    stored = CODEC.encode({text: [text, {"k": text}]})

    assert stored.isascii()
    assert json.loads(stored) == CODEC.decode(stored) == {text: [text, {"k": text}]}


def test_plain_values_stay_readable() -> None:
    """What people look up with ``data::jsonb ->> 'user'`` is no riddle."""
    session = {"user": "ann", "cart": [1, 2.5, None, True], "price": {"~": 1}}

    assert CODEC.encode(session) == '{"user":"ann","cart":[1,2.5,null,true],"price":{"~~":["~",1]}}'
    assert CODEC.encode({"n": 2**70}) == '{"n":{"~int":"1180591620717411303424"}}'


@pytest.mark.parametrize("sign", [1, -1])
def test_a_number_may_have_as_many_digits_as_python_reads(sign: int) -> None:
    """And not one more, or its row could never be read again (CVE-2020-10735)."""
    largest = sign * (10**4300 - 1)

    assert reload(largest) == largest
    with pytest.raises(UnstorableValue, match="4300 digits"):
        CODEC.encode({"k": largest + sign})
    with pytest.raises(UnstorableValue, match="4300 digits"):
        CODEC.encode({"k": sign << 2_000_000})


def test_a_number_that_this_python_does_not_write_is_refused() -> None:
    """By us, with its path, where a process has lowered the limit."""
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(640)
    try:
        with pytest.raises(UnstorableValue, match=r"session\['k'\]"):
            CODEC.encode({"k": 10**1000})
    finally:
        sys.set_int_max_str_digits(limit)


def test_a_stack_that_is_nearly_used_up_is_told_as_what_cannot_be_stored() -> None:
    """No bare RecursionError out of a save."""
    values: Any = (1,)
    for _ in range(90):
        values = (values,)

    def deeper(left: int) -> str:
        return deeper(left - 1) if left else CODEC.encode({"k": values})

    taken = len(inspect.stack())
    with pytest.raises(UnstorableValue, match="stack"):
        deeper(sys.getrecursionlimit() - taken - 120)
