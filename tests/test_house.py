"""The house rules: rooms import from rooms above, modules are short, names and errors are explained."""

import ast
import traceback
from pathlib import Path

import pytest

from lsplit_kit.errors import LsplitError, by_code

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "lsplit_kit"
ROOMS = [
    "errors",
    "home",
    "progress",
    "card",
    "data",
    "quantization",
    "cache",
    "wire",
    "split",
    "models",
    "remote",
    "attacks",
    "defences",
    "measure",
    "sweep",
    "figures",
    "widgets",
    "course",
    "demo",
    "demo_image",
    "cli",
    "__main__",
]
NEVER = {"figures": {"widgets"}, "attacks": {"remote"}}
FACE_USERS = {"widgets", "course", "demo", "demo_image", "cli"}  # they use the kit the way a reader does
FACE = {"__init__.py", "face.py", "deployments.py"}
FACE_NAMES = {"__version__"}  # anyone may ask for these
LONGEST = 300
OPENERS = {"attacks/report.py", "attacks/control.py", "attacks/pictures/report.py"}
MODULES = sorted(PACKAGE.rglob("*.py"))


def name(path):
    return str(path.relative_to(PACKAGE))


def room(path):
    first = path.relative_to(PACKAGE).parts[0]
    return "face" if first in FACE else first.removesuffix(".py")


def imported(tree, path):
    """(line, room or "face", names) for every import of the kit, lazy ones inside functions too."""
    package = ["lsplit_kit", *path.relative_to(PACKAGE).parent.parts]
    for node in ast.walk(tree):
        targets = []
        if isinstance(node, ast.Import):
            targets = [(alias.name.split("."), set()) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            module = base + (node.module.split(".") if node.module else [])
            # "from lsplit_kit import wire" imports a room, "from lsplit_kit import load" the face
            targets = [
                (module + [a.name], set()) if module == ["lsplit_kit"] and a.name in ROOMS else (module, {a.name})
                for a in node.names
            ]
        for parts, names in targets:
            if parts[0] == "lsplit_kit":
                yield node.lineno, (parts[1] if len(parts) > 1 else "face"), names


def breaches(here, source, path):
    if here == "face":
        return []
    found = []
    for line, there, names in imported(ast.parse(source), path):
        if there == "face":
            bad = here not in FACE_USERS and not (names and names <= FACE_NAMES)
        elif there not in ROOMS:
            bad = True
        else:
            bad = ROOMS.index(there) > ROOMS.index(here) or there in NEVER.get(here, ())
        if bad:
            found.append(f"line {line}: {here} imports {there}")
    return found


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_floors(path):
    assert room(path) in {"face", *ROOMS}, f"{room(path)} is not a room of the house"
    assert not breaches(room(path), path.read_text("utf-8"), path)


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_modules_are_short(path):
    assert len(path.read_text("utf-8").splitlines()) <= LONGEST


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_public_names_have_docstrings(path):
    tree = ast.parse(path.read_text("utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    bare = [n.name for n in tree.body if isinstance(n, kinds) and n.name[0] != "_" and not ast.get_docstring(n)]
    assert not bare
    assert not tree.body or ast.get_docstring(tree), "the module has no docstring"


@pytest.mark.parametrize("code", sorted(by_code()))
def test_every_error_code_has_its_page(code):
    text = (ROOT / "docs" / "errors" / f"{code}.md").read_text("utf-8")
    assert text.startswith(f"# `{code}`\n")
    assert all(part in text for part in ("**What happened.**", "**Why.**", "**What to do.**"))
    assert by_code()[code].__name__ in text


@pytest.mark.parametrize("cls", by_code().values(), ids=lambda cls: cls.__name__)
def test_the_index_of_errors_leads_to_every_page(cls):
    text = (ROOT / "docs" / "errors" / "README.md").read_text("utf-8")
    said = cls.__doc__ if cls is not LsplitError else "Base of all of them"
    assert f"| `{cls.__name__}` | [{cls.code}]({cls.code}.md) | {said}" in text
    assert text.count("\n| `") == len(by_code())


@pytest.mark.parametrize("cls", by_code().values(), ids=lambda cls: cls.__name__)
def test_a_traceback_names_the_page_and_the_wire_does_not(cls):
    error = cls("It failed.")
    assert traceback.format_exception(error)[-1].endswith(f"docs/errors/{cls.code}.md\n")
    assert (ROOT / error.page).is_file() and str(error) == "It failed."


def test_no_page_without_an_error():
    assert {page.stem for page in (ROOT / "docs" / "errors").glob("*.md")} - {"README"} == set(by_code())


@pytest.mark.parametrize(
    ("here", "source", "bad"),
    [
        ("wire", "from lsplit_kit.split.plan import SplitPlan", True),
        ("wire", "from ..split import plan", True),
        ("wire", "from .. import split", True),
        ("wire", "from lsplit_kit import split", True),
        ("wire", "import lsplit_kit.remote.host", True),
        ("wire", "def f():\n    from lsplit_kit.cli import main", True),
        ("wire", "from lsplit_kit.cache import slot\nfrom .message import Step\nimport torch", False),
        ("attacks", "from lsplit_kit.remote import client", True),
        ("attacks", "from lsplit_kit.wire import capture", False),
        ("figures", "from lsplit_kit.widgets import panel", True),
        ("split", "import lsplit_kit as lk", True),
        ("split", "from lsplit_kit import __version__", False),
        ("split", "from lsplit_kit.util import x", True),
        ("cli", "import lsplit_kit as lk", False),
    ],
)
def test_the_walker_finds_breaches(here, source, bad):
    assert bool(breaches(here, source, PACKAGE / here / "module.py")) is bad


def test_only_reports_open_the_truth():
    """Attacks get a view; what compares them with the truth, and what draws both beside each other, is elsewhere."""
    assert {name(p) for p in MODULES if "sealed.open(" in p.read_text("utf-8")} == OPENERS
