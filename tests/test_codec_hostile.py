"""What the codec does with what somebody made to break it: values at the save, rows at the load."""

import base64
import json
import pickle
import random
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sessionware import TaggedJSON, UnstorableValue
from sessionware.codec import MAX_DEPTH, Undecodable
from tests.support.values import FAITHFUL

CODEC = TaggedJSON()

# Every tag stands in it, and so every way to decode.
RICH = CODEC.encode({**FAITHFUL, "~": {"~": FAITHFUL}})

CODE_RUNS = ("pickle.", "marshal.", "exec", "compile", "os.system", "subprocess.")


class Watch:
    """Python's audit events of running code, within a block; a hook itself can never be taken off."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.on = False
        sys.addaudithook(self.notice)

    def notice(self, event: str, _arguments: Any) -> None:
        if self.on and event.startswith(CODE_RUNS):
            self.events.append(event)

    def __enter__(self) -> "Watch":
        self.events, self.on = [], True
        return self

    def __exit__(self, *_: object) -> None:
        self.on = False


watch = Watch()


def nested(depth: int, wrap: Any, innermost: Any = None) -> Any:
    value = innermost
    for _ in range(depth):
        value = wrap(value)
    return value


def cyclic_list() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def cyclic_dict() -> dict[str, Any]:
    value: dict[str, Any] = {}
    value["again"] = [value]
    return value


def decoded(text: str) -> dict[str, Any] | None:
    """Return the values of *text*, None if it was refused; anything but these two is a failure."""
    try:
        values = CODEC.decode(text)
    except Undecodable:
        return None

    assert type(values) is dict
    assert all(type(key) is str for key in values)
    return values


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        pytest.param(nested(100_000, lambda v: [v]), "nested deeper", id="lists"),
        pytest.param(nested(100_000, lambda v: {"k": v}), "nested deeper", id="dictionaries"),
        pytest.param(nested(100_000, lambda v: (v,)), "nested deeper", id="tuples"),
        pytest.param(nested(MAX_DEPTH, lambda v: {1: v}), "nested deeper", id="odd keys"),
        pytest.param(nested(MAX_DEPTH, lambda v: frozenset([v])), "nested deeper", id="sets"),
        pytest.param(cyclic_list(), "contains itself", id="list in itself"),
        pytest.param(cyclic_dict(), "contains itself", id="dictionary in itself"),
        pytest.param(10**5000, "more than 4300 digits", id="int of 5000 digits"),
        pytest.param(-(10**5000), "more than 4300 digits", id="negative int of 5000 digits"),
        pytest.param({10**5000: 1}, "more than 4300 digits", id="key of 5000 digits"),
    ],
)
def test_refuses_at_the_save_naming_the_path(value: Any, reason: str) -> None:
    """A row that cannot be read back must never be written, and the stack must hold."""
    with pytest.raises(UnstorableValue, match=r"session\['cart'\]") as caught:
        CODEC.encode({"cart": value})

    assert reason in str(caught.value)
    assert len(str(caught.value)) < 200


DOUBLING = [
    pytest.param(lambda v: [v, v], id="lists"),
    pytest.param(lambda v: {"a": v, "b": v}, id="dictionaries"),
    pytest.param(lambda v: (v, v), id="tuples"),
    pytest.param(lambda v: [v, v, {1}], id="lists with sets"),
]


@pytest.mark.parametrize("double", DOUBLING)
def test_what_shares_its_parts_is_refused_before_it_is_written_out(double: Any) -> None:
    """Sixty containers that hold the one before twice would be more text than any disk holds."""
    value: Any = [1]
    for _ in range(60):
        value = double(value)

    with pytest.raises(UnstorableValue, match="shares parts of itself"):
        CODEC.encode({"cart": value})


@pytest.mark.parametrize("double", DOUBLING)
def test_what_shares_a_part_or_two_is_stored(double: Any) -> None:
    """The same list under two keys is no mistake; it comes back as two equal ones."""
    value = double(double([1, "a"]))

    assert CODEC.decode(CODEC.encode({"cart": value, "again": value})) == {"cart": value, "again": value}


@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(lambda v: [v], id="lists"),
        pytest.param(lambda v: {"k": v}, id="dictionaries"),
        pytest.param(lambda v: (v,), id="tuples"),
        pytest.param(lambda v: {1: v}, id="odd keys"),
        pytest.param(lambda v: {"~": v}, id="tildes"),
    ],
)
@pytest.mark.parametrize("innermost", [pytest.param(1, id="plain"), pytest.param(b"x", id="tagged")])
def test_what_is_accepted_can_be_read_back_at_every_depth(wrap: Any, innermost: Any) -> None:
    """No depth may lie between what is written and what can be read."""
    accepted = 0
    for depth in range(MAX_DEPTH + 2):
        session = {"k": nested(depth, wrap, innermost)}
        try:
            text = CODEC.encode(session)
        except UnstorableValue:
            break
        accepted += 1
        assert CODEC.decode(text) == session

    assert MAX_DEPTH - 2 <= accepted <= MAX_DEPTH


def test_the_longest_number_can_be_read_back() -> None:
    """Python itself refuses to read longer ones (CVE-2020-10735)."""
    number = 10**4200

    assert CODEC.decode(CODEC.encode({"k": -number})) == {"k": -number}


@pytest.mark.parametrize("text", [RICH, CODEC.encode({"user": "ann", "cart": [1, 2]})], ids=["tagged", "plain"])
def test_a_row_that_was_cut_short_is_refused(text: str) -> None:
    """At every length: a full disk, or a column that truncates."""
    assert [decoded(text[:length]) for length in range(len(text))] == [None] * len(text)


def test_a_row_with_a_flipped_byte_is_refused_or_a_dictionary() -> None:
    """A broken disk must not become a broken page."""
    dice = random.Random(42)
    for _ in range(2000):
        flipped = bytearray(RICH.encode())
        flipped[dice.randrange(len(flipped))] ^= 1 << dice.randrange(8)
        decoded(flipped.decode("latin-1"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "null",
        "[]",
        '"text"',
        "1",
        "NaN",
        '{"a":NaN}',
        '{"a":Infinity}',
        "{1:2}",
        '{"a":1}{"b":2}',
        '{"a":"\\ud800"',
        '{"~tuple":[]}',
        '{"~map":[[1,2]]}',
        '{"a":{"~new":1}}',
        '{"a":{"~":1}}',
        '{"a":{"~decimal":"19,90"}}',
        '{"a":{"~decimal":{"b":"~"}}}',
        '{"a":{"~decimal":[]}}',
        '{"a":{"~int":"1e5"}}',
        '{"a":{"~int":1e999}}',
        '{"a":{"~int":[]}}',
        '{"a":{"~float":[]}}',
        '{"a":{"~uuid":5}}',
        '{"a":{"~uuid":null}}',
        '{"a":{"~uuid":"5"}}',
        '{"a":{"~markup":5}}',
        '{"a":{"~markup":["<b>"]}}',
        '{"a":{"~datetime":5}}',
        '{"a":{"~datetime":null}}',
        '{"a":{"~datetime":"yesterday"}}',
        '{"a":{"~datetime":"2026-07-01T12:00:00+05:00[../../etc/passwd]"}}',
        '{"a":{"~datetime":"2026-07-01T12:00:00+05:00[/etc/passwd]"}}',
        '{"a":{"~date":5}}',
        '{"a":{"~time":[]}}',
        '{"a":{"~timedelta":5}}',
        '{"a":{"~timedelta":["1","2","3"]}}',
        '{"a":{"~timedelta":[1e400]}}',
        '{"a":{"~timedelta":[9999999999,0,0]}}',
        '{"a":{"~bytes":"%%%"}}',
        '{"a":{"~bytes":"é"}}',
        '{"a":{"~bytes":5}}',
        '{"a":{"~text":"%%%"}}',
        '{"a":{"~text":"/w=="}}',
        '{"a":{"~text":5}}',
        '{"a":{"~fold":5}}',
        '{"a":{"~fold":"x"}}',
        '{"a":{"~fold":{"~date":"2026-01-01"}}}',
        '{"a":{"~set":[[1]]}}',
        '{"a":{"~set":5}}',
        '{"a":{"~frozenset":[{}]}}',
        '{"a":{"~tuple":5}}',
        '{"a":{"~map":5}}',
        '{"a":{"~map":[1]}}',
        '{"a":{"~map":[[[1],2]]}}',
        '{"a":{"~~":5}}',
        '{"a":{"~~":[1]}}',
        '{"a":{"~~":[[],1]}}',
        '{"a":{"~int":"' + "9" * 5000 + '"}}',
        '{"a":' * 200_000,
        "[" * 200_000,
        '{"a":' * 5000 + "1" + "}" * 5000,
        '{"a":' * 1000 + '{"~tuple":[]}' + "}" * 1000,
        "gAN9cQAu",
        "\x80\x04}\x94.",
        "\ud800",
    ],
)
def test_a_foreign_row_is_refused(text: str) -> None:
    """Whatever wrote it, the visitor gets a fresh session and never an error page."""
    assert decoded(text) is None


@settings(max_examples=300, deadline=None)
@given(
    tag=st.sampled_from(sorted({line.split('"')[0] for line in RICH.split('"~')[1:]})),
    inner=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda deeper: st.lists(deeper, max_size=3) | st.dictionaries(st.text(max_size=3), deeper, max_size=2),
        max_leaves=5,
    ),
)
def test_any_json_under_a_tag_is_refused_or_a_dictionary(tag: str, inner: Any) -> None:
    """Each decoder must stand whatever JSON can put before it."""
    decoded(json.dumps({"a": {f"~{tag}": inner}}))


def test_no_row_runs_code() -> None:
    """The whole reason for not pickling: Python's own audit hook sees nothing of it."""
    bomb = pickle.dumps(print, protocol=0)
    rows = [RICH, bomb.decode("latin-1"), base64.b64encode(bomb).decode(), '{"a":{"~pickle":"gAN9cQAu"}}']
    with watch:
        for row in rows:
            decoded(row)

    assert watch.events == []


def test_the_audit_hook_sees_code_that_runs() -> None:
    """The check above must be able to fail."""
    with watch:
        pickle.loads(pickle.dumps(print))

    assert watch.events == ["pickle.find_class"]
