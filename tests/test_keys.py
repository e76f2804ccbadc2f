"""The session key, its digest, its handle, and the names of users, at their boundaries."""

import hashlib
from typing import Any

import pytest

from sessionware import keys

KEY = "AZaz09-_" * 5 + "xyz"
DIGEST = bytes(range(32))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(KEY, True, id="every kind of character"),
        pytest.param("A" * 43, True, id="43"),
        pytest.param("A" * 42, False, id="42"),
        pytest.param("A" * 44, False, id="44"),
        pytest.param("", False, id="empty"),
        *(pytest.param(f"{'A' * 42}{c}", False, id=f"{c!a} last") for c in "@[`{/:,^ =\n\0\x7f\u00aa\u0660\uff21"),
        *(pytest.param(f"{c}{'A' * 42}", False, id=f"{c!a} first") for c in " \n=\u2000"),
    ],
)
def test_a_key_has_one_shape(value: str, expected: bool) -> None:
    """The neighbours of each allowed range in ASCII are not allowed, nor are other alphabets."""
    assert keys.is_key(value) is expected


def test_a_new_key_is_a_key() -> None:
    """What we send we must take back."""
    assert keys.is_key(keys.new_key())


def test_the_digest_is_sha_256_of_the_text() -> None:
    """Rows of earlier releases must be found."""
    assert keys.digest(KEY) == hashlib.sha256(KEY.encode()).digest()


def test_a_handle_names_half_of_the_digest() -> None:
    """Enough to be unique, not enough to be the primary key."""
    assert keys.handle(DIGEST) == "000102030405060708090a0b0c0d0e0f"


def test_a_handle_spans_exactly_the_digests_that_begin_with_it() -> None:
    """Its range is used in SQL: one more would be another session."""
    low, high = keys.handle_range(keys.handle(DIGEST)) or (b"", b"")

    assert low == DIGEST[:16] + b"\x00" * 16
    assert high == DIGEST[:16] + b"\xff" * 16
    assert low <= DIGEST <= high


@pytest.mark.parametrize("name", ["", "0" * 31, "0" * 33, "g" * 32, "A" * 32, f"{'0' * 31} ", f"{'0' * 32}\n", KEY])
def test_what_is_no_handle_has_no_range(name: str) -> None:
    """Digits and small letters, 32 of them."""
    assert keys.handle_range(name) is None


@pytest.mark.parametrize("name", [None, 5, b"0" * 32, ["0" * 32]], ids=lambda name: type(name).__name__)
def test_what_is_no_text_is_no_handle(name: Any) -> None:
    """It is what an application has by a slip, or from JSON: no match, and no error of a regex."""
    assert keys.handle_range(name) is None
    assert keys.as_handle(name) is name


def test_a_session_key_stands_for_its_handle() -> None:
    """`revoke_user(keep=...)` takes either."""
    assert keys.as_handle(KEY) == keys.handle(keys.digest(KEY))
    assert keys.as_handle("0" * 32) == "0" * 32
    assert keys.as_handle("anything") == "anything"
    assert keys.as_handle(None) is None


@pytest.mark.parametrize(
    ("user_id", "expected"),
    [
        pytest.param("ada", "ada", id="text"),
        pytest.param("a", "a", id="one character"),
        pytest.param("a" * 255, "a" * 255, id="255 characters"),
        pytest.param("\u00c5da Lovelace", "\u00c5da Lovelace", id="inner blank"),
        pytest.param("0", "0", id="zero as text"),
        pytest.param(0, "0", id="zero"),
        pytest.param(-1, "-1", id="negative"),
        pytest.param(2**70, str(2**70), id="wide number"),
    ],
)
def test_a_user_is_named_by_text(user_id: Any, expected: str) -> None:
    """Numbers are kept as their digits."""
    assert keys.checked_user_id(user_id) == expected


@pytest.mark.parametrize("value", ["", "a" * 256, " a", "a ", "\ta", "a\n", "a\0b", "\ud800", "a\u2028b", " "])
def test_a_user_that_cannot_be_stored_or_told_apart_is_refused(value: str) -> None:
    """MariaDB equates trailing blanks, PostgreSQL refuses NUL, drivers refuse surrogates."""
    with pytest.raises(ValueError, match=r"^user_id must have 1 to 255 printable characters and no blanks around"):
        keys.checked_user_id(value)


class Name(str):
    """Text of a type of its own, which may lie about itself."""


@pytest.mark.parametrize("value", [None, True, 1.0, b"ada", ["ada"], Name("ada")], ids=repr)
def test_a_user_that_is_neither_text_nor_number_is_refused(value: Any) -> None:
    """True is not user 1."""
    with pytest.raises(TypeError, match=r"^user_id must be str or int\.$"):
        keys.checked_user_id(value)
