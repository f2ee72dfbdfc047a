"""Committed notebooks are executed, stripped, readable without a kernel, and hold no machine's paths."""

import json

import pytest
import refresh_notebooks as refresh

PNG = {"image/png": "iVBORw0KGgo="}


def code(count, source="1", outputs=(), **metadata):
    return {"cell_type": "code", "id": f"c{count}", "execution_count": count, "metadata": metadata,
            "outputs": list(outputs), "source": [source]}  # fmt: skip


def markdown(text, name="m"):
    return {"cell_type": "markdown", "id": name, "metadata": {}, "source": [text]}


def display(**data):
    return {"output_type": "display_data", "metadata": {}, "data": data}


def write(path, cells, **metadata):
    notebook = {"nbformat": 4, "nbformat_minor": 5, "metadata": metadata, "cells": cells}
    path.write_text(json.dumps(notebook), "utf-8")
    return path


@pytest.mark.parametrize("path", refresh.all_notebooks(), ids=lambda path: path.name)
def test_hygiene(path):
    assert not refresh.problems(path)


def test_a_clean_notebook_has_no_problem(tmp_path):
    live = display(**{"application/vnd.plotly.v1+json": {}, "text/plain": "two bars"}, **PNG)
    cells = [
        markdown("# 03 Two machines\n![a wire](w.png)"),
        code(1, outputs=[live]),
        markdown("## Recap", "r"),
    ]
    assert refresh.problems(write(tmp_path / "03_two.ipynb", cells, kernelspec=refresh.KERNEL)) == []


BAD = {
    "metadata.widgets present": {"meta": {"widgets": {}}},
    "kernelspec is not python3": {"meta": {"kernelspec": {"name": "conda-env"}}},
    "larger than": {"cells": [markdown("x" * 300_001, "big")]},
    "the title does not repeat": {"cells": [markdown("# 4 Other", "t")], "first": True},
    "does not begin with an H1": {"cells": [markdown("## 3", "t")], "first": True},
    "image without alt text": {"cells": [markdown("![ ](x.png)", "i")]},
    "<img> without alt": {"cells": [markdown("<img src='x.png'>", "i")]},
    "not executed in order": {"cells": [code(3)]},
    "without a PNG twin": {"cells": [code(2, outputs=[display(**{"application/vnd.plotly.v1+json": {}})])]},
    "machine path in output": {"cells": [code(2, outputs=[display(**{"text/plain": "/home/ada/x"})])]},
    "ends in an error": {
        "cells": [code(2, outputs=[{"output_type": "error", "ename": "E", "evalue": "", "traceback": []}])]
    },
    "writes to stderr": {"cells": [code(2, outputs=[{"output_type": "stream", "name": "stderr", "text": "w"}])]},
    "no id": {"cells": [markdown("text", "")]},
    "no Recap": {"recap": False},
}


@pytest.mark.parametrize("fault", BAD)
def test_each_fault_is_found_alone(tmp_path, fault):
    bad = BAD[fault]
    cells = [
        markdown("# 3 Title", "h"),
        code(1),
        *([markdown("## Recap", "r")] if bad.get("recap", True) else []),
    ]
    cells = bad.get("cells", []) + cells if bad.get("first") else cells + bad.get("cells", [])
    meta = {"kernelspec": refresh.KERNEL} | bad.get("meta", {})
    found = refresh.problems(write(tmp_path / "03_bad.ipynb", cells, **meta))
    assert len(found) == 1 and fault in found[0]


def test_a_picture_is_not_mistaken_for_a_path(tmp_path):
    cells = [
        markdown("# 3 Title"),
        code(1, outputs=[display(**{"image/png": "x+/tmp/abc"})]),
        markdown("## Recap", "r"),
    ]
    assert refresh.problems(write(tmp_path / "03_x.ipynb", cells, kernelspec=refresh.KERNEL)) == []


def test_refresh_executes_strips_and_verifies(tmp_path, capsys):
    cells = [
        markdown("# 7 Title"),
        code(
            None,
            "import ipywidgets\nslider = ipywidgets.IntSlider()\nprint(6 * 7)",
            execution={"x": 1},
            tags=["k"],
        ),
        markdown("## Recap", "r"),
    ]
    path = write(tmp_path / "07_x.ipynb", cells, widgets={"state": {}})
    assert refresh.main([str(path)]) == 0, capsys.readouterr().out
    notebook = json.loads(path.read_text("utf-8"))
    cell = notebook["cells"][1]
    assert notebook["metadata"] == {"kernelspec": refresh.KERNEL, "language_info": {"name": "python"}}
    assert cell["execution_count"] == 1 and cell["id"] == "cNone" and cell["metadata"] == {"tags": ["k"]}
    assert "".join(cell["outputs"][0]["text"]) == "42\n"
