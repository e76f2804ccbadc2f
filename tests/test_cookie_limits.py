"""The options of the cookie at their limits, and what is said of those beyond."""

import re
from typing import Any

import pytest

from sessionware import ConfigurationError
from sessionware.cookie import MAX_AGE_LIMIT, MAX_HEADER_BYTES, SessionCookie
from sessionware.merge import adopt

KEY = "k" * 43


def name_for(size: int) -> str:
    """Return a name whose longest header has *size* bytes."""
    return "n" * (1 + size - len(SessionCookie("n").issue(KEY, MAX_AGE_LIMIT)))


def test_the_longest_header_has_512_bytes() -> None:
    """One byte more is refused at construction."""
    longest = SessionCookie(name_for(512))

    assert MAX_HEADER_BYTES == 512
    assert len(longest.issue(KEY, MAX_AGE_LIMIT)) == 512
    with pytest.raises(
        ConfigurationError, match=r"^cookie_name, cookie_domain and cookie_path: the header exceeds 512 bytes\.$"
    ):
        SessionCookie(name_for(513))


@pytest.mark.parametrize("sent", ["Lax", "Strict", "None"])
@pytest.mark.parametrize("spell", [str, str.lower, str.upper, str.swapcase])
def test_same_site_is_sent_in_one_spelling(sent: str, spell: Any) -> None:
    """However it was configured, the header has the spelling of the standard."""
    header = SessionCookie(samesite=spell(sent)).issue(KEY, 1)

    assert re.findall("samesite=[a-z]+", header, re.IGNORECASE) == [f"SameSite={sent}"]


SAID = [
    ({"name": "a b"}, "cookie_name must be a token (RFC 6265): letters, digits and !#$%&'*+-.^_`|~."),
    ({"domain": "a..b"}, "cookie_domain must be a host name in ASCII, or None."),
    ({"path": "app"}, "cookie_path must begin with / and be printable ASCII without semicolons."),
    ({"samesite": "lax "}, 'cookie_samesite must be "Lax", "Strict" or "None" (a string).'),
    ({"samesite": "None", "secure": False}, 'cookie_samesite="None" needs cookie_secure=True (RFC 6265bis).'),
    ({"partitioned": True, "secure": False}, "cookie_partitioned needs cookie_secure=True (CHIPS)."),
    ({"name": "__host-a"}, "cookie_name: the prefix must be written __Host- exactly (RFC 6265bis)."),
    ({"name": "__Secure-a", "secure": False}, "cookie_name with __Secure- needs cookie_secure=True (RFC 6265bis)."),
]


@pytest.mark.parametrize(("options", "message"), SAID, ids=[message.split()[0] for _, message in SAID])
def test_a_refusal_names_the_option_and_the_rule(options: dict[str, Any], message: str) -> None:
    """Who reads it knows what to change."""
    with pytest.raises(ConfigurationError) as refusal:
        SessionCookie(**options)

    assert str(refusal.value) == message


def test_adopting_a_none_that_was_not_there_adds_it() -> None:
    """None is a value; a key that is absent has none."""
    mine: dict[str, Any] = {}
    adopt(mine, {"a": None})

    assert mine == {"a": None}
