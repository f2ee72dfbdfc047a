"""PictureSplit in a real JupyterLab and a real browser: both pictures, numbers on the page, Cancel, both themes."""

import shutil

import pytest
from jupyter_page import ALL_RUN, MARKS, NOTEBOOKS, lab, one_cell, page_of, screenshots, serious

NOTEBOOK = NOTEBOOKS / "06_pictures_over_the_wire.ipynb"
pytestmark = MARKS
DRAWN, STATUS, PANEL = ".picture-run", ".picture-status .lsplit-status", ".picture-split"
LATENT, STEPS = 4 * 4 * 16 * 16, 6
SMALL = f"""import lsplit_kit as lk
panel = lk.PictureSplit("toy-sd", steps={STEPS}, mode="lockstep", codec="fp32")
panel"""
# What a reader sees: the pictures' alternative texts and loaded widths, bars, and the total of the table.
SEEN = """() => {
  const panel = document.querySelector('.picture-split'), all = q => [...panel.querySelectorAll(q)];
  const pictures = all('.lsplit-pictures img');
  return {alts: pictures.map(e => e.alt), loaded: pictures.map(e => e.naturalWidth),
          bars: [all('rect.lsplit-up').length, all('rect.lsplit-down').length],
          total: all('.lsplit-table tr:nth-last-child(2) td').map(e => Number(e.dataset.value)),
          quality: panel.querySelector('.lsplit-quality')?.textContent ?? '',
          said: panel.querySelector('.lsplit-said').textContent};
}"""


def status(page):
    return page.locator(STATUS).first.text_content()


def wait_status(page, pattern, timeout=60_000):
    page.wait_for_function(
        f"() => new RegExp({pattern!r}).test(document.querySelector('{STATUS}')?.textContent)", timeout=timeout
    )


def run(page, until="^Done"):
    """Press Run by keyboard, wait for the end, and say what is to be seen; a run may end before anybody looks."""
    page.wait_for_selector(".picture-run:not([disabled])", timeout=20_000)  # the run before says its end first
    page.evaluate(f"() => document.querySelector('{STATUS}').classList.add('old')")  # a new status is a new element
    page.locator(".picture-run").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector(f"{STATUS}:not(.old)", timeout=20_000)
    wait_status(page, until)
    page.wait_for_selector(".picture-run:not([disabled])", timeout=20_000)
    return page.evaluate(SEEN)


def choose(page, name, words):
    page.locator(f".picture-{name} select").first.select_option(label=words)


def test_small_notebook(tmp_path):
    one_cell(tmp_path, SMALL)
    errors = []
    with lab(tmp_path) as url, page_of(url, errors, DRAWN) as page:
        assert status(page) == "Not run yet."
        exact = run(page)
        assert [alt.split()[0] for alt in exact["alts"]] == ["Unsplit", "Split"] and min(exact["loaded"]) > 0
        assert all(alt.endswith("finished") for alt in exact["alts"])
        assert "equal in every pixel" in exact["quality"] and exact["bars"] == [STEPS, STEPS]
        assert exact["total"][1] == LATENT * STEPS
        assert "equal in every pixel" in exact["said"]
        choose(page, "codec", "int8")
        rounded = run(page)
        assert rounded["total"] == [exact["total"][0], (LATENT // 4 + 8) * STEPS]
        assert "PSNR" in rounded["quality"] and "less than with FP32 noise" in rounded["said"]
        screenshots(page, tmp_path, "pictures", PANEL)
        # What cannot be is a sentence, and the next run works again.
        choose(page, "cut", "inside, 1 + 1 blocks local")
        run(page, "^Lockstep and guidance at the host need the whole denoiser")
        choose(page, "mode", "per_step")
        assert "together" in run(page)["said"]
        # Both pictures grow; Cancel stops within a step and leaves the panel usable.
        page.locator(".picture-steps input").first.fill("400")
        page.keyboard.press("Tab")
        page.locator(".picture-run").first.click()
        wait_status(page, "^Running, the unsplit picture first: step [0-9]+ of 400")
        page.locator(".picture-cancel").first.click()
        wait_status(page, "^Cancelled. Unsplit: step [0-9]+ of 400; split: not made yet")
        page.locator(".picture-steps input").first.fill("2")
        page.keyboard.press("Tab")
        assert run(page)["bars"] == [2, 2]
        # After a reload the kernel still runs, and the panel still shows what it showed; it fits a narrow page.
        before = page.evaluate(SEEN)
        page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
        page.set_viewport_size({"width": 700, "height": 1400})
        page.reload()
        page.wait_for_selector(".lsplit-pictures img", timeout=60_000)
        page.wait_for_selector(".lsplit-said", state="attached", timeout=20_000)
        after = page.evaluate(SEEN)
        assert {k: after[k] for k in ("alts", "bars", "total")} == {k: before[k] for k in ("alts", "bars", "total")}
        wide = page.evaluate(
            f"() => document.querySelector('{PANEL}').scrollWidth - document.querySelector('{PANEL}').clientWidth"
        )
        assert wide <= 1
        screenshots(page, tmp_path, "pictures-narrow", PANEL)
    assert serious(errors) == []


@pytest.mark.skipif(not NOTEBOOK.exists(), reason="the notebook is not there")
def test_picture_notebook(tmp_path):
    shutil.copy(NOTEBOOK, tmp_path / "w.ipynb")
    errors = []
    with lab(tmp_path) as url, page_of(url, errors, DRAWN) as page:
        page.wait_for_function(ALL_RUN, timeout=150_000)
        page.locator(PANEL).first.scroll_into_view_if_needed()
        page.wait_for_timeout(500)
        choose(page, "codec", "int4")
        seen = run(page)
        assert min(seen["loaded"]) > 0 and "PSNR" in seen["quality"]
        assert len(seen["said"]) > 40
        screenshots(page, tmp_path, "picture-notebook", PANEL)
    assert serious(errors) == []
