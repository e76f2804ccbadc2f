"""The Cookie header as attackers write it: ours counts as exactly ``name=key`` between semicolons, nothing else."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sessionware.cookie import MAX_OFFERED, SessionCookie
from sessionware.keys import is_key

COOKIE = SessionCookie()
N = COOKIE.name
GOOD, EVIL, *MORE = ("G" * 43, "E" * 43, *(letter * 43 for letter in "ABCDEF"))


def reference(header: str) -> tuple[str, ...] | None:
    """Return the keys in *header*, found one character at a time and with no thought of speed."""
    found: list[str] | None = None
    pair = ""
    for character in header + ";":
        if character != ";":
            pair += character
            continue
        while pair[:1] in (" ", "\t") and pair:
            pair = pair[1:]
        while pair[-1:] in (" ", "\t") and pair:
            pair = pair[:-1]
        name, equals, value = pair.partition("=")
        if equals and name == N:
            found = found or []
            shape = len(value) == 43 and all(c.isascii() and (c.isalnum() or c in "-_") for c in value)
            found += [value] if shape and value not in found else []
        pair = ""
    return None if found is None else tuple(found)


def keys_in(header: str) -> tuple[str, ...]:
    return COOKIE.read(header) or ()


DISGUISES = [
    pytest.param(before, id=" ".join(f"{ord(character):02X}" for character in before) or "nothing")
    for before in [
        "\xe2\x80\x80",
        "\u2000",
        "\xe2\x80\xaf",
        "\u202f",
        "\xc2\xa0",
        "\x85",
        "\xa0",
        "\x1c",
        "\x1d",
        "\x1e",
        "\x1f",
        "\x0b",
        "\x0c",
        "\x0d",
        "\x0a",
        "\x00",
        "\x7f",
        "\ufeff",
        "foo ",
        "[]",
        "a=b,",
        '"',
        "\\",
        "$",
        "=",
        "==",
        " = ",
        ",",
        "%20",
        "x",
        "X",
        "X ",
        "__",
    ]
]


@pytest.mark.parametrize("before", DISGUISES)
def test_a_disguised_name_is_not_our_name(before: str) -> None:
    """S22, S24: a name that another parser cleans up until it is a __Host- name; either order, or alone."""
    evil, good = f"{before}{N}={EVIL}", f"{N}={GOOD}"

    assert keys_in(f"{good}; {evil}") == (GOOD,)
    assert keys_in(f"{evil}; {good}") == (GOOD,)
    assert keys_in(evil) == ()


@pytest.mark.parametrize("after", DISGUISES)
def test_nothing_may_follow_name_or_key(after: str) -> None:
    """S22, S32: the other side of the name, and the end of the value."""
    assert keys_in(f"{N}{after}={EVIL}; {N}={GOOD}") == (GOOD,)
    assert keys_in(f"{N}={EVIL}{after}; {N}={GOOD}") == (GOOD,)


@pytest.mark.parametrize("around", ["", " ", "\t", "  \t "])
def test_spaces_and_tabs_around_a_pair_do_not_count(around: str) -> None:
    """The one tolerance of RFC 6265bis."""
    assert keys_in(f"a=b;{around}{N}={GOOD}{around};c=d") == (GOOD,)
    assert keys_in(f"{around}{N}={GOOD}{around}") == (GOOD,)


@pytest.mark.parametrize(
    ("header", "keys"),
    [
        pytest.param(f"{N}={GOOD}; {N}={EVIL}", (GOOD, EVIL), id="two"),
        pytest.param(f"{N}={EVIL}; {N}={GOOD}", (EVIL, GOOD), id="two reversed"),
        pytest.param(f"{N}={GOOD}; {N}={GOOD}", (GOOD,), id="the same twice"),
        pytest.param(f"{N}=bogus; {N}={GOOD}; {N}=", (GOOD,), id="bogus ones around"),
        pytest.param(f"{N}={EVIL};" * 1000 + f"{N}={GOOD}", (EVIL, GOOD), id="a thousand times"),
        pytest.param("; ".join(f"{N}={key}" for key in MORE), tuple(MORE), id="more than are looked up"),
    ],
)
def test_duplicates_are_all_offered(header: str, keys: tuple[str, ...]) -> None:
    """S23: the position in the header is the attacker's to choose, so it decides nothing here."""
    assert keys_in(header) == keys


@pytest.mark.parametrize("count", [MAX_OFFERED, MAX_OFFERED + 1])
def test_what_is_offered_is_not_without_end(count: int) -> None:
    """S30: a logout ends all that is offered, and no header makes that more than so many."""
    offered = tuple(f"{number:043}" for number in range(count))
    header = "; ".join(f"{N}={key}" for key in [*offered, *offered])

    assert COOKIE.read(header) == offered[:MAX_OFFERED]


@pytest.mark.parametrize(
    "evil",
    [
        pytest.param(f"={N}={EVIL}", id="S24 nameless"),
        pytest.param(f"= {N}={EVIL}", id="S24 nameless with a blank"),
        pytest.param(N, id="S24 name alone"),
        pytest.param(f"{N} ={EVIL}", id="S24 blank before ="),
        pytest.param(f"{N}= {EVIL}", id="S24 blank after ="),
        pytest.param(f"__%48ost-sessionid={EVIL}", id="S25 percent-encoded name"),
        pytest.param(f'"{N}"={EVIL}', id="S25 quoted name"),
        pytest.param(f"{N}%00={EVIL}", id="S25 percent NUL"),
        pytest.param(f"{N.upper()}={EVIL}", id="S26 upper case"),
        pytest.param(f"{N.lower()}={EVIL}", id="S26 lower case"),
        pytest.param(f"__HOST-sessionid={EVIL}", id="S26 prefix in upper case"),
        pytest.param(f"sessionid={EVIL}", id="S26 without prefix"),
        pytest.param(f"__Secure-sessionid={EVIL}", id="S26 another prefix"),
        pytest.param(f'{N}="{EVIL}"', id="S25 quoted value"),
        pytest.param(f"{N}=%45{EVIL[1:]}", id="S25 percent-encoded value"),
        pytest.param(f"{N}={EVIL[:-1]}", id="S31 one character short"),
        pytest.param(f"{N}={EVIL}=", id="S31 with padding"),
        pytest.param(f"{N}={EVIL}E", id="S31 one character long"),
        pytest.param(f"{N}=", id="S31 empty"),
        pytest.param(f"{N}=" + "E" * 70_000, id="S31 70 KB"),
        pytest.param(f"{N}=" + "E" * 1_000_000, id="S31 1 MB"),
        pytest.param(f"{N}=EEEE\x00{'E' * 38}", id="S32 NUL"),
        pytest.param(f'{N}="EEE\\000"', id="S32 octal NUL"),
        pytest.param(f"{N}={EVIL[1:]}\x7f", id="S32 DEL"),
        pytest.param(f"{N}={EVIL[1:]}\n", id="S32 line break at the end"),
        pytest.param(f"{N}={EVIL[1:]}é", id="S32 latin-1"),
        pytest.param(f"{N}={EVIL[1:]}\u0661", id="S32 a digit of another script"),
        pytest.param(f"{N}={EVIL[1:]}\ud800", id="S32 surrogate"),
        pytest.param(f"{N}=' OR 1=1--", id="S33 SQL"),
        pytest.param(f"{N}=../../etc/passwd", id="S33 path"),
        pytest.param(f"a=1,{N}={EVIL}", id="S34 joined by a comma"),
        pytest.param(f"{N}={EVIL},b=2", id="S34 comma behind"),
        pytest.param(f"{N}={EVIL}, {N}={EVIL}", id="S34 two joined by a comma"),
    ],
)
def test_what_is_not_exactly_name_and_key_does_not_count(evil: str) -> None:
    """And the genuine cookie beside it is still found."""
    assert keys_in(evil) == ()
    assert keys_in(f"{evil}; {N}={GOOD}") == (GOOD,)
    assert keys_in(f"{N}={GOOD}; {evil}") == (GOOD,)


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(f'$Version=1; a="x; {N}={GOOD}; b=y"', id="sandwich"),
        pytest.param(f'a="; {N}={GOOD}', id="open quote"),
        pytest.param(f'a=\\"; {N}={GOOD}', id="escaped quote"),
        pytest.param(f"a=b\\; {N}={GOOD}", id="escaped semicolon"),
        pytest.param(f'$Version=1; $Path="/"; {N}={GOOD}; $Domain=x', id="attributes of RFC 2109"),
        pytest.param(f";;; ;{N}={GOOD};;", id="empty pairs"),
        pytest.param(f"(bad name)=1; [x; {N}={GOOD}", id="illegal names before"),
    ],
)
def test_old_syntax_cannot_hide_our_cookie(header: str) -> None:
    """S27: quotes mean nothing in a Cookie header (RFC 6265), whatever RFC 2109 said."""
    assert keys_in(header) == (GOOD,)


@pytest.mark.parametrize("header", [None, "", "a=b", "__Host-other=x", f"x{N}"])
def test_no_cookie_of_ours(header: str | None) -> None:
    """Nothing to look up and nothing to clear."""
    assert COOKIE.read(header) is None


@pytest.mark.parametrize("value", ["", "bogus", GOOD + "x"])
def test_a_malformed_cookie_is_told_from_none(value: str) -> None:
    """It will be cleared: the browser has something under our name that is no good."""
    assert COOKIE.read(f"{N}={value}") == ()
    assert COOKIE.read(f"x{N}={value}") is None


pieces = st.sampled_from(
    [
        N,
        GOOD,
        EVIL,
        GOOD[:-1],
        f"{N}={GOOD}",
        "=",
        ";",
        "; ",
        " ",
        "\t",
        '"',
        ",",
        "%3D",
        "x",
        "\\",
        "\xa0",
        "\x00",
        "\xe9",
    ]
)
raw = st.binary(max_size=3).map(lambda some: some.decode("latin-1"))
headers = st.one_of(
    st.lists(pieces | raw | st.text(max_size=3), max_size=30).map("".join),
    st.lists(pieces, max_size=30).map("".join),
    st.binary(max_size=200).map(lambda some: some.decode("latin-1")),
    st.text(max_size=100),
)


@settings(max_examples=1000, deadline=None, database=None)
@given(header=headers)
@example(f"{N}={GOOD}")
@example(f"{N}={GOOD}; {N}={EVIL}")
@example(f"\t {N}={GOOD}\t;{N}={EVIL} ")
@example(f"{N}={GOOD}\x0b")
def test_any_header_reads_as_the_reference_reads_it(header: str) -> None:
    """A second, slow and obvious reader finds the same in whatever comes; nothing raises."""
    found = COOKIE.read(header)

    assert found == reference(header)
    assert all(is_key(key) for key in found or ())
    assert all(f"{N}={key}" in [pair.strip(" \t") for pair in header.split(";")] for key in found or ())


@pytest.mark.parametrize("name", ["s", "a.b", "$x", "x|y", "*", "sessionid", "__Secure-s", "__Http-s", "__Host-Http-s"])
def test_any_name_is_taken_literally(name: str) -> None:
    """A name is compared, never matched as a pattern."""
    cookie = SessionCookie(name)

    assert cookie.read(f"{name}={GOOD}") == (GOOD,)
    assert cookie.read(f"x{name}={GOOD}; {name}x={GOOD}; {name.swapcase()}0={GOOD}") is None
