"""CacheLab in a real JupyterLab and a real browser: by keyboard, the animation, both themes, a narrow page."""

import shutil

import pytest
from jupyter_page import ALL_RUN, MARKS, NOTEBOOKS, lab, one_cell, page_of, screenshots, serious

from lsplit_kit.measure import reduction, reply_vectors, story

NOTEBOOK = NOTEBOOKS / "04_the_cache.ipynb"
pytestmark = MARKS
DRAWN, PANEL = ".cache-caches svg", ".cache-lab"
SMALL = """import lsplit_kit as lk
panel = lk.CacheLab("toy-llama", prompt_tokens=6, new_tokens=12)
panel"""
# What a reader sees: bytes and saving, the moment, the step, what is hatched, and what is said aloud.
SEEN = """() => {
  const point = document.querySelector('.cache-point').dataset, now = document.querySelector('.cache-now').dataset;
  const titles = [...document.querySelectorAll('.cache-both title')].map(e => e.textContent);
  return {up: Number(point.up), saved: Number(point.saved), what: now.what, local: Number(now.local),
          host: Number(now.host), rejected: titles.filter(t => t.includes('rejected')).length,
          step: Number(document.querySelector('.cache-step .widget-readout').textContent),
          said: document.querySelector('.lsplit-said').textContent}; }"""
NAMED = ["Prompt tokens", "New tokens", "Step of the session",
         "Play or pause", "Stop, and back to the first step", "Repeat"]  # fmt: skip
BUTTONS = ".cache-lab :is(.cache-knob .noUi-handle, .cache-play button)"
NAMES = f"() => [...document.querySelectorAll('{BUTTONS}')].map(e => e.ariaLabel)"


def wait(page, **wanted):
    """Until all of these are so, words by their beginning; then what is seen."""
    page.wait_for_function(
        f"""wanted => {{ const seen = ({SEEN})();
          return Object.entries(wanted).every(([name, value]) =>
            typeof value === 'string' ? seen[name].startsWith(value) : seen[name] === value); }}""",
        arg=wanted, timeout=10_000,
    )  # fmt: skip
    return page.evaluate(SEEN)


def press(page, knob, key, times=1):
    page.locator(f".{knob} .noUi-handle").focus()
    for _ in range(times):
        page.keyboard.press(key)


def sticking_out(page):
    """Elements that stick out of the panel; the table scrolls by itself."""
    return page.evaluate(
        """() => { const edge = document.querySelector('.cache-lab').getBoundingClientRect().right;
          return [...document.querySelectorAll('.cache-lab, .cache-lab *')]
            .filter(e => e.clientWidth && !e.parentElement.closest('.cache-scroll'))
            .filter(e => e.getBoundingClientRect().right > edge + 1)
            .map(e => e.tagName + '.' + (e.className.baseVal ?? e.className)); }"""
    )


def test_small_panel(tmp_path):
    one_cell(tmp_path, SMALL)
    errors = []
    with lab(tmp_path) as url, page_of(url, errors, DRAWN) as page:
        page.wait_for_function(f"() => ({NAMES})().every(Boolean)", timeout=10_000)
        assert page.evaluate(NAMES) == NAMED
        assert wait(page, up=17 * 256, what="prefill")
        by_keyboard(page)
        the_animation(page)
        screenshots(page, tmp_path, "cache", PANEL)
        page.set_viewport_size({"width": 700, "height": 1400})
        page.wait_for_timeout(500)
        assert sticking_out(page) == []
    assert serious(errors) == []


def by_keyboard(page):
    press(page, "cache-prompt-tokens", "ArrowRight")
    moved = wait(page, up=18 * 256, said="Policy kv, 7 prompt and 12 new tokens: 4,608 payload bytes up")
    assert moved["saved"] == round(reduction("kv", 7, 12), 6)
    press(page, "cache-new-tokens", "ArrowLeft")
    wait(page, up=17 * 256)
    press(page, "cache-new-tokens", "ArrowRight")
    wait(page, up=18 * 256)
    page.locator(".cache-policy select").focus()
    page.locator(".cache-policy select").select_option(index=0)
    wait(page, saved=0, up=256 * reply_vectors("none", 7, 12), said="Policy none")
    page.locator(".cache-policy select").select_option(index=2)
    wait(page, up=18 * 256)
    press(page, "cache-step", "ArrowRight", 5)
    back = wait(page, step=6, what="rollback", rejected=4, said="Step 6 of 12, rollback: the last 2 positions were")
    assert back["host"] == back["local"] + 2
    press(page, "cache-step", "ArrowRight")
    wait(page, step=7, what="decode", rejected=0)
    press(page, "cache-step", "Home")
    wait(page, step=1, what="prefill")


def the_animation(page):
    """Play and pause by keyboard."""
    button = page.locator(".cache-play button").first
    button.focus()
    page.keyboard.press("Enter")
    page.wait_for_function(f"() => (({SEEN})()).step >= 3", timeout=15_000)
    page.keyboard.press("Enter")
    page.wait_for_timeout(1500)
    stopped = page.evaluate(SEEN)
    page.wait_for_timeout(1500)
    assert page.evaluate(SEEN) == stopped
    moment = story("kv", 7, 12)[stopped["step"] - 1]
    assert (stopped["what"], stopped["local"], stopped["host"]) == (moment.what, moment.local, moment.host)


@pytest.mark.skipif(not NOTEBOOK.exists(), reason="the notebook is not there")
def test_cache_notebook(tmp_path):
    shutil.copy(NOTEBOOK, tmp_path / "w.ipynb")
    errors = []
    with lab(tmp_path) as url, page_of(url, errors, DRAWN) as page:
        page.wait_for_function(ALL_RUN, timeout=200_000)
        page.locator(PANEL).first.scroll_into_view_if_needed()
        before = page.evaluate(SEEN)
        press(page, "cache-prompt-tokens", "ArrowRight")
        wait(page, up=before["up"] + 2304)
        screenshots(page, tmp_path, "cache-notebook", PANEL)
    assert serious(errors) == []
