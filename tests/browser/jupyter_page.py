"""A real JupyterLab and a real browser for the panels' tests: start both, run all cells, look at both themes."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import nbformat
import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
MARKS = [
    pytest.mark.browser,
    pytest.mark.timeout(280),
    pytest.mark.skipif(not CHROMIUM, reason="no chromium"),
]
NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
RUN_ALL = """async () => {
  const panel = window.jupyterapp.shell.currentWidget;
  await panel.context.ready; await panel.sessionContext.ready;
  while (panel.sessionContext.session?.kernel?.status !== 'idle') await new Promise(r => setTimeout(r, 100));
  await window.jupyterapp.commands.execute('notebook:run-all-cells'); }"""
ALL_RUN = """() => {
  const panel = window.jupyterapp.shell.currentWidget;
  const code = panel.content.widgets.filter(c => c.model.type === 'code' && c.model.sharedModel.source.trim());
  return panel.sessionContext.session.kernel.status === 'idle'
    && code.every(c => c.model.executionCount && c.model.executionState !== 'running');
}"""
THEME = "theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})"
# What Lab itself says on a machine without a network, or about a page icon.
NOISE = ("favicon", "net::ERR_", "Failed to load resource", "Failed to fetch", "webpack")


@contextmanager
def lab(folder):
    """JupyterLab on a free port, serving `folder`; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    env = {**os.environ, "JUPYTER_CONFIG_DIR": str(folder / ".config"), "IPYTHONDIR": str(folder / ".ipython")}
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--port={port}", "--allow-root",
        "--IdentityProvider.token=", "--LabApp.news_url=", "--expose-app-in-browser", f"--ServerApp.root_dir={folder}",
    ]  # fmt: skip
    with (folder / "lab.log").open("wb") as log:
        server = subprocess.Popen(command, env=env, stdout=log, stderr=log)
        try:
            for _ in range(120):
                try:
                    urllib.request.urlopen(url + "/api")
                    break
                except OSError:
                    time.sleep(0.5)
            yield url
        finally:
            server.terminate()
            server.wait()


@contextmanager
def page_of(url, errors, drawn):
    """A page with the notebook run, `drawn` on it; what the console calls an error lands in `errors`."""
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as play:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = play.chromium.launch(executable_path=CHROMIUM, args=flags)
        page = browser.new_page(viewport={"width": 1280, "height": 1400})
        page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda e: errors.append(str(e)))
        page.goto(url + "/lab/tree/w.ipynb?reset")
        page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=60_000)
        page.evaluate(RUN_ALL)
        page.wait_for_selector(drawn, state="attached", timeout=90_000)
        yield page
        browser.close()


def screenshots(page, folder, name, panel):
    """The panel in both themes, as PNG files."""
    folders = [folder, *([Path(os.environ["LSPLIT_SCREENSHOTS"])] if os.environ.get("LSPLIT_SCREENSHOTS") else [])]
    for theme in ("JupyterLab Dark", "JupyterLab Light"):
        page.evaluate(THEME, theme)
        page.wait_for_function(f"() => document.body.dataset.jpThemeName === '{theme}'", timeout=10_000)
        page.locator(panel).first.scroll_into_view_if_needed()
        page.wait_for_timeout(800)
        for target in folders:
            target.mkdir(parents=True, exist_ok=True)
            page.screenshot(path=target / f"{name}-{theme.split()[1].lower()}.png")


def serious(errors):
    return [e for e in errors if not any(word in e for word in NOISE)]


def one_cell(folder, source):
    """A notebook `w.ipynb` of one cell; without a kernel named, Lab would ask for one in a dialog and wait for ever."""
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    cells = [nbformat.v4.new_code_cell(source)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), folder / "w.ipynb")
