"""Execute, strip and verify the notebooks named, or all of them."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("notebooks", "tutorials")
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
LIVE = {"application/vnd.jupyter.widget-view+json", "application/vnd.plotly.v1+json"}
MACHINE_PATH = re.compile(r"(?<![\w.])/(home|root|Users|work|tmp)/|[A-Z]:\\+Users")
LARGEST = 300_000  # bytes: GitHub's viewer gives up on much larger ones


def all_notebooks() -> list[Path]:
    """Every committed notebook, in reading order."""
    return sorted(path for folder in FOLDERS for path in (ROOT / folder).glob("*.ipynb"))


def execute(path: Path, timeout: int = 600) -> dict[str, Any]:
    """Run all cells in the notebook's own folder, in this environment; raises CellExecutionError."""
    import nbformat
    from nbclient import NotebookClient

    os.environ.setdefault("TQDM_DISABLE", "1")  # no bar among the outputs
    notebook = nbformat.read(path, as_version=4)
    # Widget state stays on while running (nbclient fails without it when a cell uses Output); strip drops it.
    NotebookClient(
        notebook, timeout=timeout, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}
    ).execute()
    return json.loads(nbformat.writes(notebook))


def strip(notebook: dict[str, Any]) -> dict[str, Any]:
    """Drop what differs from run to run and keep outputs, counts and ids; changes and returns `notebook`."""
    meta = notebook["metadata"]
    meta.pop("widgets", None)
    meta["kernelspec"] = dict(KERNEL)
    meta["language_info"] = {"name": "python"}
    for cell in notebook["cells"]:
        for key in ("execution", "collapsed", "scrolled", "ExecuteTime"):
            cell["metadata"].pop(key, None)
    return notebook


def save(notebook: dict[str, Any], path: Path) -> None:
    """Write the notebook as Jupyter does, through a second file so that a stopped run leaves the old one."""
    text = json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def problems(path: Path) -> list[str]:
    """Everything that would hurt a reader on GitHub or a run of the tests; empty when clean."""
    notebook = json.loads(path.read_text("utf-8"))
    found = _whole(notebook, path)
    last = 0
    for i, cell in enumerate(notebook["cells"]):
        text = "".join(cell["source"])
        if not cell.get("id"):
            found.append(f"cell {i}: no id")
        if cell["cell_type"] == "markdown":
            found += [f"cell {i}: {fault}" for fault in _markdown(text)]
        elif cell["cell_type"] == "code" and text.strip():
            if cell["execution_count"] != last + 1:
                found.append(f"cell {i}: not executed in order 1..n")
            last = cell["execution_count"] or last
            found += [f"cell {i}: {fault}" for fault in _code(cell)]
    return found


def _whole(notebook: dict[str, Any], path: Path) -> list[str]:
    found = []
    if "widgets" in notebook["metadata"]:
        found.append("metadata.widgets present")
    if path.stat().st_size > LARGEST:
        found.append(f"larger than {LARGEST // 1000} kB")
    if notebook["metadata"].get("kernelspec", {}).get("name") != "python3":
        found.append("kernelspec is not python3")
    headings = [
        line
        for cell in notebook["cells"]
        if cell["cell_type"] == "markdown"
        for line in "".join(cell["source"]).splitlines()
        if line.startswith("#")
    ]
    number = re.match(r"\d+", path.name)
    if not headings or not headings[0].startswith("# "):
        found.append("does not begin with an H1 title")
    elif number and not re.search(rf"\b0*{int(number[0])}\b", headings[0]):
        found.append("the title does not repeat the file's number")
    if not any("recap" in line.lower() for line in headings):
        found.append("no Recap heading")
    return found


def _markdown(text: str) -> list[str]:
    found = []
    if re.search(r"!\[\s*\]\(", text):
        found.append("image without alt text")
    if any("alt=" not in tag for tag in re.findall(r"<img\b[^>]*>", text)):
        found.append("<img> without alt")
    return found


def _code(cell: dict[str, Any]) -> list[str]:
    found = []
    expected = {"raises-exception", "nbval-raises-exception"} & set(cell["metadata"].get("tags", []))
    for out in cell["outputs"]:
        data = out.get("data", {})
        if set(data) & LIVE and "image/png" not in data:
            found.append("interactive output without a PNG twin")
        if MACHINE_PATH.search(json.dumps({k: v for k, v in out.items() if k != "data"} | _texts(data))):
            found.append("machine path in output")
        if out["output_type"] == "error" and not expected:
            found.append("ends in an error")
        if out.get("name") == "stderr":
            found.append("writes to stderr")
    return found


def _texts(data: dict[str, Any]) -> dict[str, Any]:
    # base64 pictures hold "/" between random letters, which can look like a path
    return {kind: value for kind, value in data.items() if not kind.startswith("image/") or kind.endswith("xml")}


def main(arguments: list[str] | None = None) -> int:
    """Refresh the notebooks named, or only verify them with --check; returns 1 when one has a fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebooks", nargs="*", type=Path)
    parser.add_argument("--check", action="store_true", help="do not execute, only verify")
    parser.add_argument("--timeout", type=int, default=600, help="seconds a cell may take")
    options = parser.parse_args(arguments)
    faults = 0
    for path in options.notebooks or all_notebooks():
        if not options.check:
            print(f"{path}: running", flush=True)
            save(strip(execute(path.resolve(), options.timeout)), path)
        found = problems(path)
        faults += len(found)
        print(f"{path}: " + ("clean" if not found else "; ".join(found)), flush=True)
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
