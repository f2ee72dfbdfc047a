"""WireTap in a real JupyterLab and a real browser: run, click, keyboard, Stop, clock, picture, capture, both themes."""

import json
import shutil

import pytest
from jupyter_page import ALL_RUN, MARKS, NOTEBOOKS, lab, one_cell, page_of, screenshots, serious

NOTEBOOK = NOTEBOOKS / "02_what_bytes_cross.ipynb"
pytestmark = MARKS
DRAWN, PANEL, TOKENS = ".wire-lanes", ".wire-tap", 6
SMALL = f"""import lsplit_kit as lk
panel = lk.WireTap("toy-llama", body="loopback", codec="int8:token", network="4g", new_tokens={TOKENS})
panel"""
SAVED = """import lsplit_kit as lk
panel = lk.WireTap(capture=lk.Capture.load("run.lsplit"))
panel"""
# What a reader sees: bars by row, the totals, what is chosen, its vector, and what is said aloud.
SEEN = """() => {
  const panel = document.querySelector('.wire-tap'), all = q => [...panel.querySelectorAll(q)];
  const bars = Object.fromEntries(['up', 'down', 'control'].map(way => [way, all(`rect.wire-${way}`).length]));
  const cells = all('.wire-totals td[class]').map(e => [e.className, Number(e.dataset.value)]);
  return {bars, totals: Object.fromEntries(cells), titles: all('.wire-lanes title').map(e => e.textContent),
          chosen: Number(panel.querySelector('.wire-chosen')?.dataset.crossing ?? -1),
          words: panel.querySelector('.wire-chosen')?.textContent, vector: all('.wire-vector path').length,
          hex: panel.querySelector('.wire-hex')?.textContent ?? '', largest: all('.wire-largest td').length,
          lanes: panel.querySelector('.wire-lanes').getAttribute('aria-label'),
          reply: panel.querySelector('.wire-output')?.textContent ?? '',
          said: panel.querySelector('.lsplit-said').textContent}; }"""
NAMES = "() => [...document.querySelectorAll('.wire-tap .wire-knob .noUi-handle')].map(e => e.ariaLabel)"
# Milliseconds from the key to the page that shows another crossing, measured by the page itself.
WATCH = """() => { window.changed = null; const now = document.querySelector('.wire-chosen').dataset.crossing;
  document.addEventListener('keydown', () => { window.pressed = performance.now(); }, {capture: true, once: true});
  const look = () => { const mark = document.querySelector('.wire-chosen')?.dataset.crossing;
    if (!mark || mark === now) return requestAnimationFrame(look);
    window.changed = performance.now() - window.pressed; };
  look(); }"""


def seen(page):
    return page.evaluate(SEEN)


def wait_status(page, pattern, timeout=60_000):
    page.wait_for_function(
        "words => new RegExp(words).test(document.querySelector('.wire-status .lsplit-status')?.textContent)",
        arg=pattern, timeout=timeout,
    )  # fmt: skip


def wait_chosen(page, number):
    """Until this crossing is on the page and was said aloud."""
    page.wait_for_function(
        """n => document.querySelector('.wire-chosen')?.dataset.crossing === String(n)
             && document.querySelector('.wire-tap .lsplit-said').textContent.startsWith(`Crossing ${n}: `)""",
        arg=number, timeout=10_000,
    )  # fmt: skip
    return seen(page)


def run(page, until="^Done"):
    """Press Run by keyboard, wait for the end, and say what is to be seen."""
    mark = ".wire-status .lsplit-status"
    page.wait_for_selector(".wire-run:not([disabled])", timeout=20_000)  # the run before says its end first
    page.evaluate("where => document.querySelector(where).classList.add('old')", mark)
    page.locator(".wire-run").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector(f"{mark}:not(.old)", timeout=20_000)
    wait_status(page, until)
    page.wait_for_selector(".wire-run:not([disabled])", timeout=20_000)
    return seen(page)


def press(page, key, handle=0):
    page.locator(".wire-tap .wire-knob .noUi-handle").nth(handle).focus()
    page.keyboard.press(key)


def choose(page, name, words):
    page.locator(f".wire-{name} select").select_option(label=words)


def write(page, name, words):
    page.locator(f".wire-{name} input").fill(words)
    page.keyboard.press("Tab")


def overflow(page):
    return page.evaluate(
        """() => Math.max(...[...document.querySelectorAll('.wire-tap, .wire-tap *')].filter(e => e.clientWidth)
             .map(e => e.getBoundingClientRect().right - document.querySelector('.wire-tap').getBoundingClientRect().right)
             )"""  # noqa: E501
    )


def test_small_notebook(tmp_path):
    one_cell(tmp_path, SMALL)
    errors = []
    with lab(tmp_path) as url, page_of(url, errors, DRAWN) as page:
        assert seen(page)["lanes"] == "No crossing yet." and seen(page)["chosen"] == -1
        made = run(page)
        assert made["bars"] == {"up": TOKENS, "down": TOKENS, "control": 2} and made["reply"].strip()
        assert made["totals"]["wire-up-payload"] == made["totals"]["wire-down-payload"] > 0
        assert len(made["titles"]) == 2 * TOKENS + 3  # a bar's title each, and the mark of the chosen one
        assert "14 crossings in 7 exchanges" in made["said"]
        page.wait_for_function(f"() => ({NAMES})().join() === 'Crossing,Vector of the crossing'", timeout=10_000)
        looking_inside(page, tmp_path)
        stopping(page)
        a_picture(page, tmp_path)
        # After a reload the kernel still runs, and the panel shows what it showed; it fits a narrow page.
        before = seen(page)
        page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
        page.set_viewport_size({"width": 700, "height": 1400})
        page.reload()
        page.wait_for_selector("rect.wire-up", state="attached", timeout=60_000)
        page.wait_for_selector(".wire-chosen", state="attached", timeout=20_000)
        assert {k: v for k, v in seen(page).items() if k != "said"} == {k: v for k, v in before.items() if k != "said"}
        assert overflow(page) <= 1
        screenshots(page, tmp_path, "wire-narrow", PANEL)
    assert serious(errors) == []


def looking_inside(page, folder):
    """By keyboard, by a click, and one vector after the other."""
    press(page, "Home")
    assert wait_chosen(page, 0)["words"].startswith("up, control frame open")
    press(page, "ArrowRight")
    wait_chosen(page, 1)
    page.evaluate(WATCH)
    press(page, "ArrowRight")
    page.wait_for_function("() => window.changed !== null", timeout=10_000)
    first = wait_chosen(page, 2)
    print(json.dumps({"milliseconds from key to picture": round(page.evaluate("() => window.changed"), 1)}))
    assert first["words"].startswith("up, step 1: hidden, 1 x ") and first["vector"] > 0 and first["largest"] > 0
    assert first["hex"].startswith("0000  ") and "more" in first["hex"] and first["said"].startswith("Crossing 2: up")
    was = page.locator(".wire-vector").get_attribute("aria-label")
    press(page, "Home", handle=1)
    page.wait_for_function(
        "was => document.querySelector('.wire-vector').getAttribute('aria-label') !== was", arg=was, timeout=10_000
    )
    assert "Vector 0 (row 0, position 0) of" in page.locator(".wire-vector").get_attribute("aria-label")
    page.locator("rect[data-crossing='5']").click()
    assert wait_chosen(page, 5)["words"].startswith("down, step 2: hidden, 1 x 1 x 64, int8:token; tensor 256 B")
    choose(page, "across", "clock")
    page.wait_for_function(
        "() => document.querySelector('.wire-lanes').textContent.includes('clock, s')", timeout=10_000
    )
    screenshots(page, folder, "wire-clock", PANEL)
    choose(page, "across", "step")


def stopping(page):
    """Stop ends after the step that is being made, and leaves the panel usable; a bad codec is a sentence."""
    choose(page, "model", "emoji-ldm")
    page.wait_for_selector(".wire-steps input", state="visible", timeout=10_000)
    assert page.locator(".wire-prompt input").input_value() == "a red apple"
    write(page, "steps", "400")
    page.locator(".wire-run").click()
    wait_status(page, "^Running: step [0-9]+ of 400")
    page.locator(".wire-cancel").click()
    wait_status(page, "^Cancelled")
    part = seen(page)
    assert 0 < part["bars"]["down"] < 400 and part["totals"]["wire-down-frame"] > 0
    write(page, "codec_up", "int9")
    run(page, "^Unknown codec 'int9'")


def a_picture(page, folder):
    write(page, "codec_up", "lossless")
    write(page, "codec_down", "int8")
    choose(page, "mode", "lockstep")
    write(page, "steps", "4")
    made = run(page)
    assert (
        made["bars"]["down"] == 4 and made["bars"]["control"] == 4 and "4 control frames (open, close)" in made["said"]
    )
    assert page.locator(".wire-output img").evaluate("e => e.naturalWidth") > 0
    page.locator("rect.wire-down").last.click()
    page.wait_for_function("() => /^down, step 4: out, /.test(document.querySelector('.wire-chosen').textContent)",
                           timeout=10_000)  # fmt: skip
    screenshots(page, folder, "wire-picture", PANEL)


def test_a_saved_capture(tmp_path):
    import lsplit_kit as lk

    lm = lk.split(lk.load("toy-llama"), body="loopback")
    with lk.tap(lm) as wire:
        lm.generate("count me", max_new_tokens=4, do_sample=False)
    wire.save(tmp_path / "run.lsplit")
    one_cell(tmp_path, SAVED)
    errors = []
    with lab(tmp_path) as url, page_of(url, errors, DRAWN) as page:
        page.wait_for_selector("rect.wire-up", state="attached", timeout=20_000)
        found = seen(page)
        sums = wire.totals()
        for way in ("up", "down"):
            assert [found["totals"][f"wire-{way}-{name}"] for name in sums] == list(sums.loc[way])
        assert page.locator(".wire-run").count() == 0 and found["words"].startswith("up, step 1: hidden")
        press(page, "End")
        assert wait_chosen(page, len(wire.crossings) - 1)["words"].startswith("down, step 4")
    assert serious(errors) == []


@pytest.mark.skipif(not NOTEBOOK.exists(), reason="the notebook is not there")
def test_wire_notebook(tmp_path):
    shutil.copy(NOTEBOOK, tmp_path / "w.ipynb")
    errors = []
    with lab(tmp_path) as url, page_of(url, errors, DRAWN) as page:
        page.wait_for_function(ALL_RUN, timeout=200_000)
        page.locator(PANEL).first.scroll_into_view_if_needed()
        press(page, "Home")
        assert wait_chosen(page, 0)["words"].startswith("up, control frame open")
        screenshots(page, tmp_path, "wire-notebook", PANEL)
    assert serious(errors) == []
