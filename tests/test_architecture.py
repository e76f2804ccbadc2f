"""The map of the package is true: imports only go down, its doors are where it says, its names are all there."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import sessionware

PACKAGE = Path(sessionware.__file__).parent
TESTS = Path(__file__).parent
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")
PARTS = [path.parent.name for path in PACKAGE.glob("*/__init__.py")]
ABOVE_THE_MAP = {"__main__", "cli", "frameworks"}  # beside the middleware: nothing on the map needs them


def the_map() -> list[str]:
    """Return the modules in the order of the package's docstring."""
    assert sessionware.__doc__ is not None
    return re.findall(r"^    (\w+)  +\S", sessionware.__doc__, re.MULTILINE)


def imports(module: str) -> Iterator[str]:
    """Yield what *module* imports when it runs: a dot before what is ours."""
    tree = ast.parse((PACKAGE / f"{module}.py").read_text())
    for node in _running(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield "." * node.level + node.module
        elif isinstance(node, ast.ImportFrom):
            yield from ("." * node.level + alias.name for alias in node.names)


def _running(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            continue
        yield child
        yield from _running(child)


def test_the_map_names_every_module_once() -> None:
    """A file that is not on it is a file that nobody finds."""
    assert len(the_map()) == len(set(the_map()))
    assert set(the_map()) - ABOVE_THE_MAP == {*MODULES, *PARTS} - ABOVE_THE_MAP


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down_the_map(module: str) -> None:
    """Read from the top, nothing is needed that does not come later; there is no cycle to understand."""
    below = [*the_map(), "cli"] if module in ABOVE_THE_MAP else the_map()[the_map().index(module) + 1 :]
    ours = {name.lstrip(".").split(".")[0] for name in imports(module) if name.startswith((".", "sessionware"))}

    assert ours <= set(below)


@pytest.mark.parametrize("module", MODULES)
def test_foreign_packages_have_their_doors(module: str) -> None:
    """SQL stays with the store and its helpers, WebOb with cookies and error pages; a session knows neither."""
    foreign = {name.split(".")[0] for name in imports(module) if not name.startswith(".")}
    doors = {
        "sqlalchemy": {
            "middleware",
            "store",
            "rows",
            "table",
            "schema",
            "database",
            "connections",
            "statement",
            "engine",
            "trouble",
            "cli",
        },
        "webob": {"cookie", "responses"},
        "orjson": {"codec"},
        "click": {"cli"},
    }

    assert {name for name, modules in doors.items() if name in foreign and module not in modules} == set()
    assert not foreign & {"pickle", "marshal", "shelve", "yaml"}


@pytest.mark.parametrize("module", ["session", "lifecycle", "saving"])
def test_a_session_knows_no_store(module: str) -> None:
    """They exchange records."""
    assert not {".store", ".rows", ".database", ".table", "sqlalchemy", "webob"} & set(imports(module))


def test_public_names_are_sorted_and_all_there() -> None:
    """What is imported is offered, and nothing else; capitals first, as ruff sorts."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    imported = {alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    names = sessionware.__all__

    assert set(names) == imported
    assert names == sorted(names, key=lambda name: (not name.isupper(), name))
    assert all(hasattr(sessionware, name) for name in names)


def test_every_error_is_in_the_tree() -> None:
    """One base to catch; the tree in the docstring has them all."""
    from sessionware import errors

    found = [value for value in vars(errors).values() if isinstance(value, type)]

    assert all(issubclass(error, errors.SessionwareError) for error in found)
    assert all(f"{error.__name__} " in str(errors.__doc__) or error is found[0] for error in found)
    assert {error.__name__ for error in found} <= set(sessionware.__all__)


def test_the_package_is_typed() -> None:
    """For users of type checkers."""
    assert (PACKAGE / "py.typed").is_file()


def test_every_test_module_is_collected(request: pytest.FixtureRequest) -> None:
    """A test in a file of another name never runs, and never fails."""
    holding = {path for path in TESTS.rglob("*.py") if re.search(r"^\s*def test_", path.read_text(), re.MULTILINE)}
    pattern = request.config.getini("python_files")

    assert {path for path in holding if not any(path.match(glob) for glob in pattern)} == set()
    assert {path.parent for path in holding} == {TESTS}
