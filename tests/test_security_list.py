"""The table in tests/README.md, and that it tells the truth about the tests."""

import ast
import re
from pathlib import Path

HERE = Path(__file__).parent
README = (HERE / "README.md").read_text()
ALL = {f"S{number:02}" for number in range(1, 73)}


def names_of_security() -> set[str]:
    """Return the names of all tests of the list and of advisories."""
    trees = [ast.parse(path.read_text()) for path in HERE.glob("test_security_*.py")]
    names = [node.name for tree in trees for node in tree.body if isinstance(node, ast.FunctionDef)]
    return {name for name in names if re.match(r"test_(s\d\d|cve)_", name)}


def rows() -> dict[str, set[str]]:
    """Return the tests that the table names for each requirement."""
    lines = re.findall(r"^\| (S\d\d) \|(.*)$", README, re.MULTILINE)
    assert len({number for number, _ in lines}) == len(lines)
    return {number: set(re.findall("`(test_[a-z0-9_]+)`", line)) for number, line in lines}


def test_every_requirement_stands_in_the_table_with_its_tests() -> None:
    """A requirement without a test, or a test under another number, would be a promise in writing only."""
    found = rows()

    assert found.keys() == ALL
    for number, names in found.items():
        assert names
        assert all(f"_{number.lower()}_" in name for name in names), number


def test_every_test_named_exists_and_every_test_is_named() -> None:
    """Renamed tests must not leave the list behind."""
    named = set(re.findall("`(test_(?:s[0-9]{2}|cve)_[a-z0-9_]+)`", README))

    assert named == names_of_security()


def test_every_row_compares_with_the_four_peers() -> None:
    """Ours, and one mark each for Django, Flask-Session, Beaker and express-session."""
    for line in re.findall(r"^\| S\d\d \|.*$", README, re.MULTILINE):
        cells = [cell.strip() for cell in line.strip("|").split("|")]

        assert cells[2][0] in "✓✗"
        assert all(cell in ("✓", "✗", "\u2013") for cell in cells[3:7]), line
