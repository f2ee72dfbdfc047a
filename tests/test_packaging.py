"""One list of requirements in three files, a wheel that builds, and an import that stays light."""

import os
import re
import stat
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from lsplit_kit.course.doctor import PACKAGES

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
CONDA = {
    "torch": "pytorch",
    "build": "python-build",
    "playwright": "playwright-python",
    "kaleido": "python-kaleido",
    "prometheus-client": "prometheus_client",
}
HEAVY = {"torch", "transformers", "diffusers", "pandas", "plotly", "numpy", "rpyc", "ipywidgets"}


def requirements():
    """Every requirement of the project and its extras by canonical name."""
    lines = PROJECT["dependencies"] + [line for extra in PROJECT["optional-dependencies"].values() for line in extra]
    parsed = [Requirement(line) for line in lines]
    return {canonicalize_name(r.name): r for r in parsed if canonicalize_name(r.name) != PROJECT["name"]}


def constraints():
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def conda():
    listed = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))
    return listed, dict((d.split() + [""])[:2] for d in listed["dependencies"] if isinstance(d, str))


def test_all_names_every_other_extra():
    (line,) = PROJECT["optional-dependencies"]["all"]
    assert Requirement(line).extras == set(PROJECT["optional-dependencies"]) - {"all"}


def test_environment_yml_lists_the_same_packages_and_bounds():
    listed, found = conda()
    assert listed["channels"] == ["conda-forge", "nodefaults"]
    *from_pip, kit = listed["dependencies"][-1]["pip"]
    assert kit == "-e ."
    found |= dict(line.split() for line in from_pip)
    assert SpecifierSet(found.pop("python")) == SpecifierSet(PROJECT["requires-python"])
    found.pop("pip")
    expected = {CONDA.get(name, name): r.specifier for name, r in requirements().items()}
    assert {name: SpecifierSet(spec) for name, spec in found.items()} == expected


@pytest.mark.parametrize("name", sorted(requirements()))
def test_constraints_satisfy_the_bounds(name):
    assert requirements()[name].specifier.contains(constraints()[name])


def test_constraints_are_exact_and_free_of_local_labels():
    assert all(re.fullmatch(r"[0-9][0-9a-z.]*(\.post\d+)?", version) for version in constraints().values())
    assert "torchvision" not in constraints() and "torchvision" not in requirements()


def test_the_doctor_knows_the_same_bounds():
    assert {"torch", "rpyc", "cryptography", "prometheus-client"} <= {name for name, _, _ in PACKAGES}
    for name, low, high in PACKAGES:
        assert requirements()[name].specifier == SpecifierSet(f">={low}" + (f",<{high}" if high else ""))


def test_make_and_ci_are_runnable():
    assert (ROOT / ".ci" / "run").stat().st_mode & stat.S_IXUSR
    subprocess.run(["bash", "-n", str(ROOT / ".ci" / "run")], check=True)
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M))
    assert {"demo", "test", "test-browser", "lab", "bench", "notebooks", "clean"} <= targets


def test_citation_names_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == PROJECT["version"] and citation["license"] == PROJECT["license"]


PROBE = """
import sys, time
start = time.perf_counter()
import lsplit_kit
print(f"import lsplit_kit: {time.perf_counter() - start:.3f} s")
assert list(lsplit_kit.__path__)[0].startswith(sys.argv[1]), lsplit_kit.__path__
heavy = sorted(set(sys.argv[2].split(",")) & set(sys.modules))
assert not heavy, heavy
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy so that the checkout gets no build folder."""
    out, tree = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("tree")
    for wanted in ("pyproject.toml", "LICENSE", "README.md"):
        if (ROOT / wanted).exists():
            (tree / wanted).write_bytes((ROOT / wanted).read_bytes())
    for path in (ROOT / "lsplit_kit").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            target = tree / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    pip("wheel", "--no-deps", "--no-build-isolation", str(tree), "-w", str(out))
    (built,) = out.glob("*.whl")
    return built


def pip(*arguments):
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(sys.prefix), timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_wheel_holds_every_module_and_the_licence(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {str(p.relative_to(ROOT)) for p in (ROOT / "lsplit_kit").rglob("*.py")}
    assert modules <= names
    for folder, at_least in (("models/emoji_ldm", 12), ("data", 8), ("data/captures", 12)):
        files = [p for p in (ROOT / "lsplit_kit" / folder).rglob("*") if p.is_file() and "__pycache__" not in p.parts]
        shipped = {str(p.relative_to(ROOT)) for p in files}
        assert len(shipped) >= at_least and shipped <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any(name.startswith(("tests/", "scripts/")) for name in names)


def test_the_installed_wheel_imports_light(wheel, tmp_path):
    pip("install", "--no-deps", "--no-index", "--target", str(tmp_path), str(wheel))
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", PROBE, str(tmp_path), ",".join(sorted(HEAVY))]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
