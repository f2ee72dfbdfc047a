"""LinkLab in a real JupyterLab and a real browser: presets, sliders by keyboard, Run, Cancel, Measure, themes."""

import shutil

import pytest
from jupyter_page import ALL_RUN, MARKS, NOTEBOOKS, lab, one_cell, page_of, screenshots, serious

NOTEBOOK = NOTEBOOKS / "03_two_machines.ipynb"
pytestmark = MARKS
DRAWN, PANEL = ".link-output svg.link-map", ".link-lab"
SMALL = """import lsplit_kit as lk
from lsplit_kit.measure import recorded
panel = lk.LinkLab(lk.load("toy-llama"), recorded(), reply=8)
panel"""
SEEN = """() => {
  const out = document.querySelector('.link-output'), all = q => [...out.querySelectorAll(q)];
  return {totals: all('tbody tr').map(r => Number(r.querySelectorAll('td')[2].dataset.value)),
          columns: all('thead th').length,
          measured: all('title').filter(e => e.textContent.startsWith('measured: ')).length,
          bars: all('.link-bars')[0].ariaLabel, map: all('.link-map')[0].ariaLabel,
          source: out.querySelector('.link-source').textContent,
          network: document.querySelector('.link-network select').selectedOptions[0].textContent,
          said: document.querySelector('.lsplit-said').textContent}; }"""
NAMES = "() => [...document.querySelectorAll('.link-lab .link-knob .noUi-handle')].map(e => e.ariaLabel)"


def wait_said(page, pattern, where=".link-status .lsplit-status", timeout=60_000):
    page.wait_for_function(
        "([where, words]) => new RegExp(words).test(document.querySelector(where)?.textContent)",
        arg=[where, pattern], timeout=timeout,
    )  # fmt: skip


def press(page, button):
    page.locator(button).focus()
    page.keyboard.press("Enter")


def overflow(page):
    return page.evaluate(
        """() => Math.max(...[...document.querySelectorAll('.link-lab, .link-lab *')].filter(e => e.clientWidth)
             .map(e => e.getBoundingClientRect().right - document.querySelector('.link-lab').getBoundingClientRect().right)
             )"""  # noqa: E501
    )


def test_small_notebook(tmp_path):
    one_cell(tmp_path, SMALL)
    errors = []
    with lab(tmp_path) as url, page_of(url, errors, DRAWN) as page:
        page.wait_for_function(f"() => ({NAMES})()[0] === 'Round trip in milliseconds'", timeout=20_000)
        assert len(page.evaluate(NAMES)) == 5
        first = page.evaluate(SEEN)
        assert first["network"] == "5g" and first["columns"] == 3 and first["measured"] == 0
        assert first["source"].startswith("Times of smollm2, recorded on")
        # A preset: the bars, the map and what is said aloud follow.
        page.locator(".link-network select").select_option(label="satellite")
        wait_said(page, "^satellite: ", ".lsplit-said")
        far = page.evaluate(SEEN)
        assert far["totals"][2] > 5 * first["totals"][2] and far["totals"][0] == first["totals"][0]
        assert "600 ms" in far["map"]
        # The round trip by keyboard: another network, a shorter reply of the split.
        page.locator(".link-rtt_ms .noUi-handle").focus()
        for _ in range(4):
            page.keyboard.press("ArrowLeft")
        page.wait_for_function(
            "() => document.querySelector('.link-network select').value === 'custom'", timeout=10_000
        )
        page.wait_for_function(f"before => ({SEEN})().totals[2] < before", arg=far["totals"][2], timeout=10_000)
        screenshots(page, tmp_path, "link-predicted", PANEL)
        # Run by keyboard: measured points beside the bars.
        press(page, ".link-run")
        wait_said(page, "^Done")
        page.wait_for_function(f"() => ({SEEN})().measured === 2", timeout=20_000)
        ran = page.evaluate(SEEN)
        assert ran["columns"] == 4 and "measured: local" in ran["bars"] and "measured: local" in ran["said"]
        # Measure here: the times are this machine's from then on.
        page.wait_for_selector(".link-measure:not([disabled])", timeout=20_000)
        press(page, ".link-measure")
        page.wait_for_function(f"() => ({SEEN})().source.includes('measured on this machine')", timeout=60_000)
        assert page.evaluate(SEEN)["totals"][0] < ran["totals"][0]
        # Cancel stops a long reply and leaves the panel usable.
        page.locator(".link-reply input").fill("512")
        page.keyboard.press("Tab")
        wait_said(page, "512 new tokens", ".lsplit-said")
        page.wait_for_selector(".link-run:not([disabled])", timeout=20_000)
        press(page, ".link-run")
        wait_said(page, "step [0-9]+ of 1024")
        press(page, ".link-cancel")
        wait_said(page, "^Cancelled")
        screenshots(page, tmp_path, "link-measured", PANEL)
        page.set_viewport_size({"width": 700, "height": 1400})
        page.wait_for_timeout(500)
        assert overflow(page) <= 1
        screenshots(page, tmp_path, "link-narrow", PANEL)
    assert serious(errors) == []


@pytest.mark.skipif(not NOTEBOOK.exists(), reason="the notebook is not there")
def test_two_machines_notebook(tmp_path):
    shutil.copy(NOTEBOOK, tmp_path / "w.ipynb")
    errors = []
    with lab(tmp_path) as url, page_of(url, errors, DRAWN) as page:
        page.wait_for_function(ALL_RUN, timeout=200_000)
        page.locator(".link-network select").select_option(label="lan")
        wait_said(page, "^lan: ", ".lsplit-said")
        screenshots(page, tmp_path, "link-notebook", PANEL)
    assert serious(errors) == []
