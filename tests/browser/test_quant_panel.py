"""QuantLab in a real JupyterLab and a real browser: by keyboard, at once and by Run, Cancel, themes, a narrow page."""

import shutil

import pytest
from jupyter_page import ALL_RUN, MARKS, NOTEBOOKS, lab, one_cell, page_of, screenshots, serious

NOTEBOOK = NOTEBOOKS / "05_quantization.ipynb"
pytestmark = MARKS
STEPS, DRAWN, PANEL = 6, ".quant-picture-charts svg", ".quant-lab"
SMALL = f"""import lsplit_kit as lk
panel = lk.QuantLab("toy-sd", "toy-llama", steps={STEPS}, new_tokens=4)
panel"""
TAB = ".quant-lab [role=tab]"
# What a reader sees of a tab: the spec, the point, the marks on the plane, loaded pictures, and what is said aloud.
SEEN = """tab => {
  const panel = document.querySelector(`.quant-${tab}-tab`), all = q => [...panel.querySelectorAll(q)];
  const point = panel.querySelector('.quant-point');
  return {spec: panel.querySelector('.quant-spec input').value,
          point: point && [point.dataset.bits, point.dataset.snr].map(Number),
          visited: all('.quant-plane title').map(e => e.textContent).filter(t => t.includes(' bits a value'))
            .map(t => t.slice(0, t.lastIndexOf(':'))),
          levels: all('.quant-levels title').filter(e => e.textContent.startsWith('level')).length,
          alts: all('.quant-pictures img').map(e => e.alt.split(' ')[0]),
          loaded: all('.quant-pictures img').map(e => e.naturalWidth),
          quality: panel.querySelector('.quant-quality')?.textContent ?? '',
          rows: all('.quant-reading td').map(e => Number(e.dataset.value)),
          next: all('.quant-reading pre').map(e => e.textContent),
          said: document.querySelector('.lsplit-said').textContent}; }"""
NAMES = "() => [...document.querySelectorAll('.quant-lab .quant-knob .noUi-handle')].map(e => e.ariaLabel)"


def seen(page, tab="picture"):
    return page.evaluate(SEEN, tab)


def wait_status(page, pattern, tab="picture", timeout=60_000):
    page.wait_for_function(
        "([where, words]) => new RegExp(words).test(document.querySelector(where)?.textContent)",
        arg=[f".quant-{tab}-status .lsplit-status", pattern], timeout=timeout,
    )  # fmt: skip


def wait_spec(page, spec, tab="picture"):
    """Until the text and the charts show this codec."""
    page.wait_for_function(
        """([tab, spec]) => {
          const panel = document.querySelector(`.quant-${tab}-tab`);
          const point = panel.querySelector('.quant-point')?.textContent ?? spec;
          return panel.querySelector('.quant-spec input').value === spec && point.startsWith(spec); }""",
        arg=[tab, spec], timeout=10_000,
    )  # fmt: skip


def run(page, tab="picture", until="^Done"):
    """Press Run by keyboard, wait for the end, and say what is to be seen."""
    mark = f".quant-{tab}-status .lsplit-status"
    page.wait_for_selector(f".quant-{tab}-run:not([disabled])", timeout=20_000)  # the run before says its end first
    page.evaluate("where => document.querySelector(where).classList.add('old')", mark)
    page.locator(f".quant-{tab}-run").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector(f"{mark}:not(.old)", timeout=20_000)
    wait_status(page, until, tab)
    page.wait_for_selector(f".quant-{tab}-run:not([disabled])", timeout=20_000)
    return seen(page, tab)


def press(page, key, tab="picture"):
    page.locator(f".quant-{tab}-tab .quant-knob .noUi-handle").focus()
    page.keyboard.press(key)


def choose(page, name, words, tab="picture"):
    page.locator(f".quant-{tab}-tab .quant-{name} select").select_option(label=words)


def write(page, where, words):
    page.locator(where).fill(words)
    page.keyboard.press("Tab")


def in_front(page, tab):
    """Turn to a tab by keyboard."""
    page.locator(f"{TAB}[aria-selected=true]").focus()
    page.keyboard.press("ArrowRight" if tab == "text" else "ArrowLeft")
    page.keyboard.press("Enter")
    page.wait_for_selector(f".quant-{tab}-run", state="visible", timeout=10_000)


def overflow(page):
    return page.evaluate(
        """() => Math.max(...[...document.querySelectorAll('.quant-lab, .quant-lab *')].filter(e => e.clientWidth)
             .map(e => e.getBoundingClientRect().right - document.querySelector('.quant-lab').getBoundingClientRect().right)
             )"""  # noqa: E501
    )


def test_small_notebook(tmp_path):
    one_cell(tmp_path, SMALL)
    errors = []
    with lab(tmp_path) as url, page_of(url, errors, DRAWN) as page:
        the_picture_tab(page, tmp_path)
        the_text_tab(page, tmp_path)
        # After a reload the kernel still runs, and the panel shows what it showed; it fits a narrow page.
        before = seen(page, "text"), seen(page)
        page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
        page.set_viewport_size({"width": 700, "height": 1400})
        page.reload()
        page.wait_for_selector(".quant-text-charts svg", state="attached", timeout=60_000)
        page.wait_for_selector(".lsplit-said", state="attached", timeout=20_000)
        for tab, was in zip(("text", "picture"), before, strict=True):  # the text's was in front
            if page.locator(f".quant-{tab}-run").is_hidden():
                in_front(page, tab)
            page.wait_for_timeout(500)
            assert {k: v for k, v in seen(page, tab).items() if k != "said"} == {
                k: v for k, v in was.items() if k != "said"
            }
            assert overflow(page) <= 1
            screenshots(page, tmp_path, f"quant-{tab}-narrow", PANEL)
    assert serious(errors) == []


def the_picture_tab(page, folder):
    wait_status(page, "^Ready")
    assert page.evaluate(NAMES) == ["Bits of the picture's codec", "Bits of the text's codec"]
    first = seen(page)
    assert first["spec"] == "int8" and first["visited"] == ["int8"] and 8 <= first["point"][0] < 8.1
    # The slider by keyboard: the point, the levels and the spec follow.
    press(page, "ArrowLeft")
    wait_spec(page, "int7")
    for spec in ("int6", "int5", "int4"):
        press(page, "ArrowLeft")
        wait_spec(page, spec)
    moved = seen(page)
    assert 12 < moved["levels"] <= 16 and moved["point"][1] < first["point"][1] - 15
    assert set(moved["visited"]) >= {"int8", "int7", "int6", "int5", "int4"} and moved["said"].startswith("int4: ")
    # Another base renames the slider; a spec typed by hand moves the controls, a bad one is a sentence.
    choose(page, "base", "uniform, quality")
    wait_spec(page, "uniform:snr=30+ans")
    page.wait_for_function(f'() => ({NAMES})()[0] === "Quality in dB of the picture\'s codec"', timeout=10_000)
    write(page, ".quant-picture-tab .quant-spec input", "int9")
    wait_status(page, "^Unknown codec 'int9'")
    assert seen(page)["point"][1] > 25
    write(page, ".quant-picture-tab .quant-spec input", "uniform:step=0.3+delta+ans")
    wait_spec(page, "uniform:step=0.3+delta+ans")
    wait_status(page, "^Ready")
    assert page.locator(".quant-picture-tab .quant-predict input").is_checked()
    write(page, ".quant-picture-tab .quant-spec input", "int4")
    wait_spec(page, "int4")
    # Run makes the picture; Cancel stops within a step and leaves the panel usable.
    made = run(page)
    assert made["alts"] == ["Original", "Coded", "Difference"] and min(made["loaded"]) > 0
    assert "PSNR" in made["quality"] and f"{STEPS * 520:,} payload bytes" in made["quality"]
    assert "with int4: PSNR" in made["said"]
    screenshots(page, folder, "quant-picture", PANEL)
    write(page, ".quant-steps input", "400")
    page.locator(".quant-picture-run").click()
    wait_status(page, "^Without a codec: step [0-9]+ of 400")
    press(page, "ArrowRight")  # the charts follow while a picture is made
    wait_spec(page, "int5")
    page.locator(".quant-picture-cancel").click()
    wait_status(page, "^Cancelled")
    write(page, ".quant-steps input", "2")
    assert "payload bytes of noise came down in 2 steps" in run(page)["quality"]


def the_text_tab(page, folder):
    in_front(page, "text")
    write(page, ".quant-sentence textarea", "Where is the split?")
    press(page, "ArrowLeft", "text")
    wait_spec(page, "int7", "text")
    read = run(page, "text")
    up, down, ratio, kl, top1 = read["rows"]
    assert up == down > 0 and ratio != 1 and kl > 0 and 0 <= top1 <= 1 and len(read["next"]) == 2
    assert set(read["visited"]) == {"int8", "int7"}
    assert page.locator(".quant-channels").get_attribute("aria-label").startswith("Largest magnitude of each of 64")
    press(page, "ArrowLeft", "text")
    wait_spec(page, "int6", "text")
    assert "int6" in seen(page, "text")["visited"]
    choose(page, "base", "number format", "text")
    press(page, "End", "text")
    wait_spec(page, "fp32", "text")
    exact = run(page, "text")
    assert exact["rows"][2:] == [1, 0, 1] and exact["next"][0] == exact["next"][1] and "fp32" in exact["said"]
    write(page, ".quant-sentence textarea", " ")
    run(page, "text", "^sentence takes words that the model reads")
    write(page, ".quant-sentence textarea", "The sea is")
    assert len(run(page, "text")["rows"]) == 5
    screenshots(page, folder, "quant-text", PANEL)


@pytest.mark.skipif(not NOTEBOOK.exists(), reason="the notebook is not there")
def test_quantization_notebook(tmp_path):
    shutil.copy(NOTEBOOK, tmp_path / "w.ipynb")
    errors = []
    with lab(tmp_path) as url, page_of(url, errors, DRAWN) as page:
        page.wait_for_function(ALL_RUN, timeout=200_000)
        page.locator(PANEL).first.scroll_into_view_if_needed()
        if page.locator(".quant-picture-run").is_hidden():
            in_front(page, "picture")
        write(page, ".quant-picture-tab .quant-spec input", "int3")
        wait_spec(page, "int3")
        made = run(page)
        assert min(made["loaded"]) > 0 and "with int3: PSNR" in made["said"]
        screenshots(page, tmp_path, "quant-notebook", PANEL)
    assert serious(errors) == []
