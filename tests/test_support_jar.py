"""The cookie jar, against the text of RFC 6265bis: an oracle must be able to refuse."""

import pytest

from tests.support.jar import MAX_AGE, Jar, parse_date

NOW = 1_800_000_000.0
URL = "https://shop.example.test/cart/view"


def stored(line: str, url: str = URL) -> Jar:
    jar = Jar()
    jar.set_from_headers(url, [("Set-Cookie", line)], NOW)
    return jar


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("__Host-s=1; Secure; Path=/", id="host"),
        pytest.param("__Secure-s=1; Secure; Domain=example.test", id="secure"),
        pytest.param("s=1", id="plain"),
        pytest.param("s=", id="empty value"),
        pytest.param("=v", id="nameless"),
        pytest.param("s=a\tb", id="tab"),
        pytest.param("s=" + "v" * 4095, id="4096 octets"),
        pytest.param("s=1; Secure; SameSite=None; Partitioned", id="partitioned"),
    ],
)
def test_takes(line: str) -> None:
    """What a browser keeps."""
    assert len(stored(line).stored) == 1


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        pytest.param("__Host-s=1; Secure", "without Path=/", id="host without path"),
        pytest.param("__Host-s=1; Path=/", "without Secure", id="host without secure"),
        pytest.param("__host-s=1; Secure; Path=/x", "without Path=/", id="host in lower case"),
        pytest.param("__Host-s=1; Secure; Path=/; Domain=shop.example.test", "Domain", id="host with domain"),
        pytest.param("__SECURE-s=1", "without Secure", id="secure in upper case"),
        pytest.param("=__Host-s=1; Secure; Path=/", "nameless", id="nameless prefix"),
        pytest.param("s=a\x00b", "control", id="NUL"),
        pytest.param("s=1; Path=/\x7f", "control", id="DEL in an attribute"),
        pytest.param("s=" + "v" * 4096, "too long", id="4097 octets"),
        pytest.param(" = ; Path=/", "empty", id="nothing"),
        pytest.param("s=1; Domain=other.test", "foreign", id="foreign domain"),
        pytest.param("s=1; Domain=test", "suffix", id="public suffix"),
        pytest.param("s=1; SameSite=None", "SameSite=None", id="none without secure"),
        pytest.param("s=1; Partitioned", "Partitioned", id="partitioned without secure"),
    ],
)
def test_refuses(line: str, reason: str) -> None:
    """What a browser throws away, and for which reason."""
    jar = stored(line)

    assert not jar.stored
    assert reason in jar.refused[0]


def test_secure_cookie_needs_a_secure_connection() -> None:
    """A man in the middle of http can neither set nor see it."""
    assert not stored("s=1; Secure", "http://shop.example.test/").stored
    assert stored("s=1; Secure; Path=/").header_for("http://shop.example.test/", NOW) is None


def test_insecure_cookie_cannot_overlay_a_secure_one() -> None:
    """Section 5.7: the same name on a matching domain and path is refused over http."""
    jar = stored("s=1; Secure; Path=/")
    jar.set_from_headers("http://shop.example.test/", [("Set-Cookie", "s=evil; Path=/cart")], NOW)

    assert jar.header_for(URL, NOW) == "s=1"


def test_sibling_can_plant_a_plain_cookie_but_no_host_cookie() -> None:
    """Why the prefix is worth its six characters."""
    jar = stored("s=evil; Domain=example.test; Path=/", "https://blog.example.test/")
    jar.set_from_headers(
        "https://blog.example.test/",
        [("Set-Cookie", "__Host-s=evil; Secure; Path=/; Domain=example.test")],
        NOW,
    )

    assert jar.header_for(URL, NOW) == "s=evil"


def test_longer_path_goes_first_then_the_older() -> None:
    """Section 5.8.3; the age is that of the first setting."""
    jar = Jar()
    for line in ("a=1; Path=/", "b=1; Path=/cart", "c=1; Path=/", "a=2; Path=/"):
        jar.set_from_headers(URL, [("Set-Cookie", line)], NOW)

    assert jar.header_for(URL, NOW) == "b=1; a=2; c=1"
    assert jar.header_for("https://shop.example.test/cartoon", NOW) == "a=2; c=1"


def test_default_path_is_the_folder() -> None:
    """Without a Path, or with one that does not begin with a slash."""
    assert stored("s=1").header_for("https://shop.example.test/cart", NOW) == "s=1"
    assert stored("s=1; Path=cart").header_for("https://shop.example.test/", NOW) is None


def test_host_only_cookie_stays_on_its_host() -> None:
    """A Domain opens it to subdomains, its absence closes it."""
    below = "https://a.shop.example.test/cart/"

    assert stored("s=1; Path=/").header_for(below, NOW) is None
    assert stored("s=1; Path=/; Domain=.shop.example.test").header_for(below, NOW) == "s=1"


@pytest.mark.parametrize(
    ("line", "alive_for"),
    [
        pytest.param("s=1; Max-Age=10", 10, id="max-age"),
        pytest.param("s=1; Max-Age=10; Expires=Thu, 01 Jan 1970 00:00:00 GMT", 10, id="max-age wins"),
        pytest.param("s=1; Max-Age=99999999999", MAX_AGE, id="400 days"),
        pytest.param("s=1; Expires=Fri, 31 Dec 9999 23:59:59 GMT", MAX_AGE, id="400 days by date"),
        pytest.param("s=1; Max-Age=1; Max-Age=10", 10, id="the last one counts"),
        pytest.param("s=1; Expires=Fri, 15 Jan 2027 08:00:10 GMT", 10, id="expires"),
    ],
)
def test_lives_as_long_as_told(line: str, alive_for: int) -> None:
    """To the second, and never longer than 400 days."""
    jar = stored(line)

    assert jar.header_for(URL, NOW + alive_for - 1) == "s=1"
    assert jar.header_for(URL, NOW + alive_for) is None


@pytest.mark.parametrize("attribute", ["Max-Age=0", "Max-Age=-1", "Expires=Thu, 01 Jan 1970 00:00:00 GMT"])
def test_deletion_needs_the_same_place(attribute: str) -> None:
    """Name, domain and path; a deletion elsewhere deletes nothing."""
    jar = stored("s=1; Path=/")
    jar.set_from_headers(URL, [("Set-Cookie", f"s=; Path=/cart; {attribute}")], NOW)
    assert jar.header_for(URL, NOW) == "s=1"

    jar.set_from_headers(URL, [("Set-Cookie", f"s=; Path=/; {attribute}")], NOW)
    assert jar.header_for(URL, NOW) is None


def test_partitioned_cookie_is_deleted_only_in_its_partition() -> None:
    """CHIPS: without Partitioned, the deletion is for another cookie."""
    jar = stored("__Host-s=1; Secure; Path=/; Partitioned")
    jar.set_from_headers(URL, [("Set-Cookie", "__Host-s=; Secure; Path=/; Max-Age=0")], NOW)
    assert jar.header_for(URL, NOW) == "__Host-s=1"
    assert jar.header_for(URL, NOW, "https://other.test") is None

    jar.set_from_headers(URL, [("Set-Cookie", "__Host-s=; Secure; Path=/; Partitioned; Max-Age=0")], NOW)
    assert jar.header_for(URL, NOW) is None


def test_window_closes() -> None:
    """Without an expiry a cookie goes with the browser."""
    jar = stored("s=1; Max-Age=5")
    jar.set_from_headers(URL, [("Set-Cookie", "t=1")], NOW)
    jar.end_of_session()

    assert jar.header_for(URL, NOW) == "s=1"


@pytest.mark.parametrize(
    ("same_site", "sent"),
    [
        pytest.param("SameSite=Strict", {"own"}, id="strict"),
        pytest.param("SameSite=Lax", {"own", "link"}, id="lax"),
        pytest.param("SameSite=None; Secure", {"own", "link", "form", "frame"}, id="none"),
        pytest.param("SameSite=Sloppy", {"own", "link"}, id="unknown"),
    ],
)
def test_same_site(same_site: str, sent: set[str]) -> None:
    """A link, a form and a frame of another site."""
    jar = stored(f"s=1; Path=/; {same_site}")
    other = "https://evil.test"
    headers = {
        "own": jar.header_for(URL, NOW),
        "link": jar.header_for(URL, NOW, other),
        "form": jar.header_for(URL, NOW, other, method="POST"),
        "frame": jar.header_for(URL, NOW, other, embedded=True),
    }

    assert {name for name, header in headers.items() if header} == sent


def test_overlong_attribute_is_ignored() -> None:
    """The cookie stays, the attribute does not."""
    cookie = stored(f"s=1; Path=/{'x' * 1024}").get("s")

    assert cookie is not None
    assert cookie.path == "/cart"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        pytest.param("Fri, 15 Jan 2027 08:00:00 GMT", NOW, id="IMF-fixdate"),
        pytest.param("Friday, 15-Jan-27 08:00:00 GMT", NOW, id="RFC 850"),
        pytest.param("Fri Jan 15 08:00:00 2027", NOW, id="asctime"),
        pytest.param("Thu, 01 Jan 1970 00:00:00 GMT", 0, id="epoch"),
        pytest.param("Fri, 31 Feb 2027 08:00:00 GMT", None, id="no such day"),
        pytest.param("15 Jan 2027", None, id="no time"),
        pytest.param("15 Jan 1600 08:00:00", None, id="too old"),
        pytest.param("", None, id="empty"),
    ],
)
def test_date(text: str, seconds: float | None) -> None:
    """Section 5.1.1."""
    assert parse_date(text) == seconds
