"""The explorer in a real JupyterLab and a real browser: keyboard, numbers on the page, Run, Cancel, both themes."""

import shutil

import pytest
from jupyter_page import ALL_RUN, MARKS, NOTEBOOKS, lab, one_cell, page_of, screenshots, serious

NOTEBOOK = NOTEBOOKS / "01_where_is_the_split.ipynb"
pytestmark = MARKS
STATUS = ".split-output .lsplit-status"
DRAWN = ".lsplit-stack rect.lsplit-body"
HANDLE = ".split-slider .noUi-handle"
# How far the handles stand from the picture's cuts (the body's outer edges), in pixels, and the body's layers.
CUTS = """() => {
  const box = e => e.getBoundingClientRect(), panel = document.querySelector('.split-explorer');
  const body = [...panel.querySelectorAll('rect.lsplit-body')].map(box);
  const gap = body[0].width / 0.88 * 0.06;
  const handles = [...panel.querySelectorAll('.noUi-handle')].map(e => (box(e).left + box(e).right) / 2);
  return {off: [handles[0] - body[0].left + gap, handles[1] - body.at(-1).right - gap], layers: body.length,
          names: [...panel.querySelectorAll('.noUi-handle')].map(e => e.getAttribute('aria-label'))};
}"""
SMALL = """import lsplit_kit as lk
explorer = lk.SplitExplorer("toy-llama", head=1, tail=2, prompt="hello", max_new_tokens=400)
explorer"""


def number(page, name):
    return int(page.locator(f"#{name}").first.get_attribute("data-value"))


def press(page, handle, key):
    page.locator(".split-slider .noUi-handle").nth(handle).focus()
    page.keyboard.press(key)


def wait_changed(page, name, old):
    page.wait_for_function(f"() => document.querySelector('#{name}')?.dataset.value !== '{old}'", timeout=20_000)
    return number(page, name)


def arrow_keys(page):
    """Both handles by keyboard: the head grows, then the tail does, and the host's memory shrinks each time."""
    host, local = number(page, "lsplit-host-memory"), number(page, "lsplit-local-memory")
    press(page, 0, "ArrowRight")
    less = wait_changed(page, "lsplit-host-memory", host)
    assert less < host
    assert number(page, "lsplit-local-memory") == local + host - less
    press(page, 1, "ArrowLeft")
    least = wait_changed(page, "lsplit-host-memory", less)
    assert least < less
    return local, least


def wait_status(page, word, timeout=60_000):
    page.wait_for_function(f"() => document.querySelector('{STATUS}')?.textContent.includes('{word}')", timeout=timeout)


def run_and_cancel(page):
    page.locator(".split-run").first.click()
    wait_status(page, "Running")
    page.locator(".split-cancel").first.click()
    page.wait_for_function(
        f"() => /^(Cancelled|Done)/.test(document.querySelector('{STATUS}')?.textContent)", timeout=60_000
    )
    page.wait_for_selector(".split-run:not([disabled])", timeout=20_000)
    return page.locator(STATUS).first.text_content()


def stands_over_the_cuts(page, layers):
    page.wait_for_function(
        f"() => document.querySelectorAll('.split-explorer rect.lsplit-body').length === {layers}", timeout=10_000
    )
    page.wait_for_timeout(500)  # the handles glide
    seen = page.evaluate(CUTS)
    assert max(map(abs, seen["off"])) < 2, seen
    assert all(seen["names"]), seen


def test_small_notebook(tmp_path):
    one_cell(tmp_path, SMALL)
    errors = []
    with lab(tmp_path) as url, page_of(url, errors, DRAWN) as page:
        page.wait_for_selector(HANDLE, timeout=60_000)
        assert number(page, "lsplit-up") == number(page, "lsplit-down") == 256
        arrow_keys(page)
        assert "body 2" in page.locator(".lsplit-readout").first.text_content()
        assert page.locator(".lsplit-said").first.text_content().startswith("Head 2, body 1, tail 3;")
        # There the host keeps one layer: a further press must not move anything.
        before = number(page, "lsplit-host-memory")
        press(page, 0, "ArrowRight")
        page.wait_for_timeout(1000)
        assert number(page, "lsplit-host-memory") == before
        page.wait_for_function(
            "() => document.querySelectorAll('.split-slider .noUi-handle')[0].ariaValueNow === '2.0'", timeout=10_000
        )
        assert run_and_cancel(page).startswith("Cancelled, head 2 / tail 3:")
        assert page.locator(".split-output .lsplit-reply").count() == 1
        screenshots(page, tmp_path, "small", ".split-slider")
        # After a reload the kernel still runs: picture, slider and readout must agree, at any width.
        page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
        page.set_viewport_size({"width": 800, "height": 1400})
        page.reload()
        page.wait_for_selector(DRAWN, state="attached", timeout=60_000)
        page.wait_for_selector(".split-slider .noUi-handle[aria-label]", state="attached", timeout=20_000)
        stands_over_the_cuts(page, 1)
        assert "body 2" in page.locator(".lsplit-readout").first.text_content()
        screenshots(page, tmp_path, "small-reloaded", ".split-slider")
    assert serious(errors) == []


@pytest.mark.skipif(not NOTEBOOK.exists(), reason="the notebook is not there")
def test_first_notebook(tmp_path):
    shutil.copy(NOTEBOOK, tmp_path / "w.ipynb")
    errors = []
    with lab(tmp_path) as url, page_of(url, errors, DRAWN) as page:
        page.wait_for_function(ALL_RUN, timeout=150_000)  # a later cell moves the panel too
        page.locator(".split-slider").first.scroll_into_view_if_needed()
        page.wait_for_timeout(1_000)
        up, thin = number(page, "lsplit-up"), number(page, "lsplit-host-memory")
        press(page, 0, "Home")  # the notebook leaves a body of one layer
        assert wait_changed(page, "lsplit-host-memory", thin) > thin
        arrow_keys(page)
        assert number(page, "lsplit-up") == up
        run_and_cancel(page)
        screenshots(page, tmp_path, "first-notebook", ".split-slider")
    assert serious(errors) == []
