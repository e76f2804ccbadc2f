"""The laws of merging: what I changed and what the other request changed are both kept."""

from copy import deepcopy
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessionware.merge import MISSING, adopt, merge, same
from tests.support.values import exact

Values = dict[str, Any]

NAN = float("nan")

# Few names and few values: two sides must often meet.
names = st.sampled_from("abc")
leaves = st.sampled_from([0, 1, 1.0, True, "x", None, NAN, (1,), [1], [1, 2], {1}])
trees = st.recursive(leaves, lambda inner: st.dictionaries(names, inner, max_size=3), max_leaves=6)
sessions = st.dictionaries(names, trees, max_size=3)
flat_sessions = st.dictionaries(names, leaves, max_size=3)


def theirs_wins(_key: str, _base: Any, _mine: Any, theirs: Any) -> Any:
    return theirs


@given(base=sessions, mine=sessions)
def test_no_change_on_one_side_gives_the_other_side(base: Values, mine: Values) -> None:
    """A request that only read must neither lose nor add anything."""
    assert exact(merge(base, deepcopy(base), mine).values) == exact(mine)
    assert exact(merge(base, mine, deepcopy(base)).values) == exact(mine)
    assert merge(base, mine, deepcopy(base)).conflicts == []


@given(base=sessions, mine=sessions, theirs=sessions)
def test_it_does_not_matter_who_was_first(base: Values, mine: Values, theirs: Values) -> None:
    """Where nothing is in conflict, both orders of two requests end in the same session."""
    merged = merge(base, mine, theirs)
    other = merge(base, theirs, mine)

    assert sorted(merged.conflicts) == sorted(other.conflicts)
    if not merged.conflicts:
        assert exact(merged.values) == exact(other.values)


@given(base=sessions, mine=sessions, theirs=sessions)
def test_disjoint_changes_are_both_kept(base: Values, mine: Values, theirs: Values) -> None:
    """Each key that only one side may have touched ends as that side left it."""
    mine = {name: value for name, value in mine.items() if name == "a"} | _but("a", base)
    theirs = _but("a", theirs) | {name: value for name, value in base.items() if name == "a"}
    merged = merge(base, mine, theirs)

    assert exact(merged.values) == exact(_but("a", theirs) | {k: v for k, v in mine.items() if k == "a"})
    assert merged.conflicts == []


@given(base=sessions, mine=sessions, theirs=sessions)
def test_merging_twice_changes_nothing_more(base: Values, mine: Values, theirs: Values) -> None:
    """A save that is tried again must not undo or double what it has done."""
    once = merge(base, mine, theirs).values

    assert exact(merge(base, mine, once).values) == exact(once)


@given(base=sessions, mine=sessions)
def test_equal_changes_are_no_conflict(base: Values, mine: Values) -> None:
    """Two requests that did the same agree."""
    merged = merge(base, mine, deepcopy(mine))

    assert exact(merged.values) == exact(mine)
    assert merged.conflicts == []


@given(base=sessions, mine=sessions, theirs=sessions)
def test_nothing_passed_in_is_altered(base: Values, mine: Values, theirs: Values) -> None:
    """The base is needed again when the save meets a third request."""
    before = exact([base, mine, theirs])
    merge(base, mine, theirs)

    assert exact([base, mine, theirs]) == before


@given(base=flat_sessions, mine=flat_sessions, theirs=flat_sessions)
def test_the_handler_is_asked_for_true_conflicts_only(base: Values, mine: Values, theirs: Values) -> None:
    """A conflict is a key on which base, mine and theirs are three different things."""
    asked = []

    def handler(key: str, *sides: Any) -> Any:
        asked.append((key, *sides))
        return "settled"

    merged = merge(base, mine, theirs, handler)
    all_sides = {key: [side.get(key, MISSING) for side in (base, mine, theirs)] for key in "abc"}
    true = {key: sides for key, sides in all_sides.items() if len(set(map(exact, sides))) == 3}

    assert exact({key: sides for key, *sides in asked}) == exact(true)
    assert len(asked) == len(true)
    assert sorted(merged.conflicts) == sorted((key,) for key in true)
    assert {merged.values[key] for key in true} <= {"settled"}


@given(base=sessions, mine=sessions, theirs=sessions)
def test_theirs_winning_is_the_mirror_of_mine_winning(base: Values, mine: Values, theirs: Values) -> None:
    """No side has a better seat: swapped sides and a swapped rule give the same, at every level."""
    assert exact(merge(base, mine, theirs, theirs_wins).values) == exact(merge(base, theirs, mine).values)


@pytest.mark.parametrize(
    ("base", "mine", "theirs", "merged", "conflicts"),
    [
        pytest.param({"a": 1}, {}, {"a": 1, "b": 2}, {"b": 2}, [], id="delete against untouched"),
        pytest.param({"a": 1, "b": 1}, {"b": 1}, {"a": 1}, {}, [], id="each deletes another"),
        pytest.param({"a": 1}, {}, {}, {}, [], id="both delete"),
        pytest.param({"a": 1}, {}, {"a": 2}, {}, [("a",)], id="delete against change"),
        pytest.param({"a": 1}, {"a": 2}, {}, {"a": 2}, [("a",)], id="change against delete"),
        pytest.param({"a": 1}, {"a": 2}, {"a": 3}, {"a": 2}, [("a",)], id="change against change"),
        pytest.param({}, {"a": 1}, {"a": 2}, {"a": 1}, [("a",)], id="both add"),
        pytest.param({}, {"a": {"b": 1}}, {"a": {"c": 2}}, {"a": {"b": 1, "c": 2}}, [], id="both add a dictionary"),
        pytest.param(
            {"a": {"b": {"c": 1, "d": 1}}},
            {"a": {"b": {"c": 2, "d": 1}}},
            {"a": {"b": {"c": 1, "d": 2}}},
            {"a": {"b": {"c": 2, "d": 2}}},
            [],
            id="two levels down",
        ),
        pytest.param(
            {"a": {"b": 1}}, {"a": {"b": 2}}, {"a": {"b": 3}}, {"a": {"b": 2}}, [("a", "b")], id="a conflict inside"
        ),
        pytest.param({"a": {"b": 1}}, {}, {"a": {"b": 1, "c": 2}}, {}, [("a",)], id="delete against change inside"),
        pytest.param({"a": 1}, {"a": {"b": 1}}, {"a": [1]}, {"a": {"b": 1}}, [("a",)], id="other types"),
        pytest.param({"a": [1]}, {"a": [1, 2]}, {"a": [1, 3]}, {"a": [1, 2]}, [("a",)], id="lists are whole"),
        pytest.param({"a": 1}, {"a": True}, {"a": 1, "b": 2}, {"a": True, "b": 2}, [], id="only the type changed"),
        pytest.param({}, {"a": {}}, {"b": {}}, {"a": {}, "b": {}}, [], id="empty dictionaries stay"),
    ],
)
def test_merges(base: Values, mine: Values, theirs: Values, merged: Values, conflicts: list[Any]) -> None:
    """Single cases, to be read."""
    result = merge(base, mine, theirs)

    assert exact(result.values) == exact(merged)
    assert result.conflicts == conflicts


def test_a_handler_may_delete_and_sees_what_is_missing() -> None:
    """MISSING goes both ways."""
    seen = []

    def handler(*sides: Any) -> Any:
        seen.append(sides)
        return MISSING

    merged = merge({"a": 1}, {}, {"a": 2}, handler)

    assert merged.values == {}
    assert seen == [("a", 1, MISSING, 2)]
    assert (bool(MISSING), repr(MISSING)) == (False, "MISSING")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(1, True, id="int and bool"),
        pytest.param(1, 1.0, id="int and float"),
        pytest.param(0.0, -0.0, id="signed zeros"),
        pytest.param(Decimal("1.0"), Decimal("1.00"), id="decimals of other precision"),
        pytest.param([1], (1,), id="list and tuple"),
        pytest.param([1], [True], id="inside of lists"),
        pytest.param({"a": 1}, {"a": 1.0}, id="inside of dictionaries"),
        pytest.param({1}, frozenset({1}), id="set and frozenset"),
        pytest.param({1}, {True}, id="inside of sets"),
        pytest.param({(1, 2)}, {(True, 2)}, id="deep inside of sets"),
        pytest.param({1: "a"}, {True: "a"}, id="keys"),
        pytest.param(
            datetime(2026, 1, 1, 12, tzinfo=UTC),
            datetime(2026, 1, 1, 13, tzinfo=timezone(timedelta(hours=1))),
            id="one instant in two zones",
        ),
    ],
)
def test_tells_apart(one: Any, other: Any) -> None:
    """A change of type is a change: taken for none, it would be lost in a merge."""
    assert not same(one, other)
    assert merge({"a": one}, {"a": other}, {"a": one, "b": 1}).values.keys() == {"a", "b"}
    assert exact(merge({"a": one}, {"a": other}, {"a": one}).values) == exact({"a": other})


@given(tree=trees)
def test_a_copy_is_the_same(tree: Any) -> None:
    """Base and mine come from two decodings: what nobody touched must never look changed, NaN included."""
    assert same(tree, deepcopy(tree))


@given(mine=sessions, merged=sessions)
def test_adopting_makes_it_equal(mine: Values, merged: Values) -> None:
    """The application goes on with what was stored."""
    before = exact(merged)
    adopt(mine, merged)

    assert exact(mine) == exact(merged) == before


@given(mine=sessions, merged=sessions)
def test_adopting_keeps_dictionaries_the_application_holds(mine: Values, merged: Values) -> None:
    """A reference into the session must not go stale because another request saved."""
    held = {name: value for name, value in mine.items() if type(value) is dict}
    adopt(mine, merged)

    for name, value in held.items():
        if type(merged.get(name)) is dict:
            assert mine[name] is value


@given(mine=sessions, merged=sessions, names=st.lists(st.sampled_from("abcd"), max_size=3))
def test_adopting_makes_it_equal_where_one_object_stands_twice(mine: Values, merged: Values, names: list[str]) -> None:
    """As with "same as the shipping address": what was merged into one of them must not go into both."""
    shared: Any = {"street": "A", "lines": [1]}
    mine |= dict.fromkeys(names, shared)
    mine["list"] = [shared]
    merged = {"list": [{"street": "A", "lines": [1]}], **merged}
    before = exact(merged)
    adopt(mine, merged)

    assert exact(mine) == exact(merged) == before


@pytest.mark.parametrize("kind", [list, set, dict])
def test_adopting_keeps_containers_the_application_holds(kind: Any) -> None:
    """A list or set is filled anew."""
    held = kind({1: 1, 2: 2})
    mine = {"held": held}
    adopt(mine, {"held": kind({2: 2, 3: 3})})

    assert mine == {"held": kind({2: 2, 3: 3})}
    assert mine["held"] is held


def test_adopting_what_holds_the_value_itself_makes_no_circle() -> None:
    """A handler that keeps both sides returns a list of them."""
    held = [1]
    mine = {"k": held}
    adopt(mine, {"k": [held, [2]]})

    assert mine == {"k": [[1], [2]]}


def test_adopting_tells_equal_members_of_sets_apart() -> None:
    """1, 1.0 and True are equal, and not the same."""
    mine = {"held": {1}}
    adopt(mine, {"held": {True, 5}})

    assert {type(member) for member in mine["held"]} == {bool, int}


def test_adopting_keeps_what_is_unchanged() -> None:
    """Not only dictionaries: a list that nobody changed stays the list that was handed out."""
    items = [1, [2]]
    mine = {"items": items, "gone": 1}
    adopt(mine, {"items": [1, [2]], "new": 2})

    assert mine == {"items": [1, [2]], "new": 2}
    assert mine["items"] is items


def _but(name: str, values: Values) -> Values:
    return {key: value for key, value in values.items() if key != name}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param(1, True, id="a number and a truth"),
        pytest.param(1, 1.0, id="a whole number and a broken one"),
        pytest.param(0.0, -0.0, id="zeros"),
        pytest.param(Decimal("1.0"), Decimal("1.00"), id="decimals"),
    ],
)
def test_a_key_that_equals_another_is_another(old: Any, new: Any) -> None:
    """As values are told apart, so are the keys of dictionaries inside."""
    base = {"d": {old: "x"}}
    mine: Values = {"d": {old: "x", "b": 1}}
    adopt(mine, merge(base, mine, {"d": {new: "x"}}).values)

    assert exact(mine) == exact({"d": {new: "x", "b": 1}})
    assert exact(merge({"d": {}}, {"d": {new: 1}}, {"d": {old: 2}}).values) == exact({"d": {new: 1}})


def test_nan_is_one_key_on_all_sides() -> None:
    """Each is unequal to itself, and comes as another object out of every row: it would double at each merge."""
    base, mine, theirs = ({"d": {float("nan"): 1}} for _ in range(3))
    mine["d"]["a"], theirs["d"]["b"] = 1, 1
    adopt(mine, merge(base, mine, theirs).values)

    assert (len(mine["d"]), exact(mine)) == (3, exact({"d": {NAN: 1, "a": 1, "b": 1}}))
