"""The panel and the figures without a front end: bounds, numbers, runs, cancelling, bundles, escaping."""

import base64
import io
import json
import threading
import time
from collections import Counter
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import lsplit_kit as lk
from lsplit_kit import figures
from lsplit_kit.figures.style import INK, PAPER
from lsplit_kit.widgets.readout import human, readout_html, reply_html, sides

PNG = b"\x89PNG\r\n\x1a\n"
SIZES = [(64, 64), (300, 200), (1, 2)]


@pytest.fixture(scope="module")
def toy():
    return lk.load("toy-llama")[0]


@pytest.fixture
def panel(toy):
    return lk.SplitExplorer(toy, head=2, tail=1, prompt="hello", max_new_tokens=6)


def controls(widget):
    for child in getattr(widget, "children", ()):
        yield child
        yield from controls(child)


def test_starts_at_the_plan(panel):
    assert (panel.head, panel.tail, panel.slider.value) == (2, 1, (2, 5))
    assert panel.plan == lk.SplitPlan(2, 1)


def test_code_moves_everything(panel, toy):
    panel.head = 3
    assert panel.slider.value == (3, 5)
    assert panel.picture.value.endswith(figures.stack_svg(6, 3, 1, 256, 256))
    assert panel.readout.value == readout_html(lk.SplitPlan(3, 1).table(toy), 256, 256, "fp32", "fp32")


def test_a_message_from_the_page_moves_everything(panel):
    panel.slider.set_state({"value": [1, 4]})
    assert (panel.head, panel.tail) == (1, 2)
    assert "head 0, tail 4-5" in panel.readout.value


@pytest.mark.parametrize(("given", "kept"), [(-3, 0), (0, 0), (4, 4), (5, 4), (99, 4)])
def test_head_is_clipped(panel, given, kept):
    panel.head = given
    assert (panel.head, panel.tail, panel.slider.value) == (kept, 1, (kept, 5))


@pytest.mark.parametrize(("given", "kept"), [(-1, 0), (3, 3), (4, 3), (99, 3)])
def test_tail_is_clipped(panel, given, kept):
    panel.tail = given
    assert (panel.head, panel.tail, panel.slider.value) == (2, kept, (2, 6 - kept))


def test_impossible_plans_are_clipped_at_the_start(toy):
    assert lk.SplitExplorer(toy, head=50, tail=50).plan == lk.SplitPlan(5, 0)


def test_handles_cannot_meet(panel):
    for value in [(0, 0), (3, 3), (6, 6), (2, 2)]:
        panel.slider.value = value
        assert panel.head + panel.tail < 6
        assert panel.slider.value == (panel.head, 6 - panel.tail)
    panel.slider.value = (2, 5)
    panel.slider.value = (2, 2)
    assert panel.slider.value == (2, 3)
    panel.slider.value = (3, 3)
    assert panel.slider.value[1] - panel.slider.value[0] == 1


def test_every_plan_renders(panel):
    for head in range(6):
        for tail in range(6 - head):
            panel.slider.value = (head, 6 - tail)
            assert panel.plan == lk.SplitPlan(head, tail)


def test_readout_numbers_are_the_table(panel, toy):
    table = panel.plan.table(toy)
    by = sides(table)
    assert by["local"]["flops_per_token"] == table.flops_per_token["head"] + table.flops_per_token["tail"]
    assert by["local"]["memory_bytes"] == table.loc["head", "memory_bytes"]
    for number in (n for side in by.values() for n in side.values()):
        assert f"data-value='{number}'" in panel.readout.value
    assert "id='lsplit-local-memory'" in panel.readout.value
    assert "id='lsplit-host-memory'" in panel.readout.value
    assert "id='lsplit-up' data-value='256'>256<" in panel.readout.value


def test_codecs_by_direction(toy):
    panel = lk.SplitExplorer(toy, codec=("int8:token", "fp16"))
    assert (panel.up, panel.down) == (68, 128)
    assert "bytes up (int8:token)" in panel.readout.value


def test_controls_have_descriptions(panel):
    found = [c for c in controls(panel) if "description" in c.trait_names() and c._view_name != "HTMLView"]
    assert len(found) == 4
    assert all(c.description for c in found)
    assert "split-slider" in panel.slider._dom_classes and "split-explorer" in panel._dom_classes


def test_a_screen_reader_gets_names_and_one_sentence(panel):
    assert len(panel.announcer.names) == 2 and panel.announcer in panel.children
    panel.head = 1
    assert panel.announcer.said.startswith("Head 1, body 4, tail 1; weights ")
    assert "aria-live" not in panel.readout.value + panel.output.value
    panel.run()
    assert panel.announcer.said.startswith("Done, head 1 / tail 1: ")
    assert ":focus{outline:" in panel.picture.value


def test_run_gives_the_split_models_reply(panel, toy):
    reply = panel.run(wait=True)
    tok = toy.lsplit_tokenizer()
    batch = tok.apply_chat_template([{"role": "user", "content": "hello"}], add_generation_prompt=True,
                                    return_tensors="pt", return_dict=True)  # fmt: skip
    ids = toy.generate(**batch, max_new_tokens=6, do_sample=False)
    assert reply == tok.decode(ids[0, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    prompt = batch["input_ids"].shape[1]
    tokens, vectors = ids.shape[1] - prompt, ids.shape[1] - 1  # nobody needs to run the last token
    status = f"Done, head 2 / tail 1: {prompt} prompt + {tokens} new tokens: {vectors} vectors x 256 B up and down."
    assert status in panel.output.value and "chat template" in panel.output.value
    assert not panel.run_button.disabled and panel.cancel_button.disabled


def test_run_button_and_loopback(toy):
    panel = lk.SplitExplorer(toy, body="loopback", max_new_tokens=3)
    panel.run_button.click()
    panel._thread.join(20)
    assert " + 3 new tokens: " in panel.output.value


def test_two_codecs_cost_two_things(toy):
    panel = lk.SplitExplorer(toy, codec=("int8:token", "fp16"), max_new_tokens=2)
    panel.run()
    vectors = int(panel.output.value.split(" vectors")[0].split()[-1])
    assert f"{vectors} vectors, {vectors * 68:,} B up and {vectors * 128:,} B down" in panel.output.value


def test_cancel_stops_early_and_a_new_run_works(toy):
    panel = lk.SplitExplorer(toy, max_new_tokens=400, prompt="hi")
    seen = threading.Event()
    panel.output.observe(lambda change: seen.set() if "Running" in change["new"] else None, "value")
    panel.run(wait=False)
    assert seen.wait(20)
    panel.cancel_button.click()
    panel._thread.join(20)
    assert "Cancelled, head 2 / tail 2:" in panel.output.value
    panel.max_new_tokens = 2
    panel.run(wait=True)
    assert "Done" in panel.output.value


def test_a_second_run_while_one_runs_is_the_same_run(toy):
    panel = lk.SplitExplorer(toy, max_new_tokens=200)
    panel.run(wait=False)
    first = panel._thread
    panel.run(wait=False)
    assert panel._thread is first
    panel.cancel()
    first.join(20)


def test_errors_are_one_sentence(toy):
    panel = lk.SplitExplorer(toy, body="smoke signals")
    assert panel.run(wait=True) == ""
    assert "is no address" in panel.output.value
    assert "Traceback" not in panel.output.value
    assert not panel.run_button.disabled


def test_no_tokenizer_is_a_sentence(panel, toy):
    tokenizer, toy.lsplit_tokenizer = toy.lsplit_tokenizer, lambda: None
    try:
        panel.run(wait=True)
    finally:
        toy.lsplit_tokenizer = tokenizer
    assert "without a tokenizer" in panel.output.value


def test_strange_errors_are_a_sentence_too(panel, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("first <line>\nsecond line")

    monkeypatch.setattr("lsplit_kit.face.split", broken)
    panel.run(wait=True)
    assert "RuntimeError: first &lt;line&gt;</div>" in panel.output.value


def test_model_output_is_escaped():
    shown = reply_html("<script>alert(1)</script>", "a < b")
    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown and "a &lt; b" in shown


def test_bundle_has_widget_picture_and_sentence(panel):
    bundle, metadata = panel._repr_mimebundle_()
    assert metadata["image/png"]["width"] == 800
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert base64.b64decode(bundle["image/png"]).startswith(PNG)
    assert bundle["text/plain"] == panel.text
    assert panel.text.endswith(".") and "the head keeps 2 and the tail 1" in " ".join(panel.text.split())
    assert max(map(len, panel.text.splitlines())) <= 72


def test_moving_is_quick(panel):
    start = time.perf_counter()
    for step in range(10):
        panel.head = step % 4
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    ("number", "unit", "words"),
    [(0, "B", "0 B"), (999, "B", "999 B"), (1000, "B", "1.0 kB"), (999_999, "B", "1.0 MB"),
     (169_890_048, "B", "169.9 MB"), (92_042_496, "", "92.0 M")],
)  # fmt: skip
def test_human(number, unit, words):
    assert human(number, unit) == words


@pytest.mark.parametrize("plan", [(30, 2, 2), (30, 0, 0), (30, 24, 5), (6, 0, 5), (2, 1, 0), (1, 0, 0)])
def test_stack(plan):
    layers, head, tail = plan
    drawing = ElementTree.fromstring(figures.stack_svg(*plan, 2304, 2304))
    rects = [r for r in drawing.iter("rect") if r.get("class")]
    counts = Counter(r.get("class") for r in rects)
    assert counts == {"lsplit-head": head + 1, "lsplit-body": layers - head - tail, "lsplit-tail": tail + 1}
    assert all(r.find("title").text for r in rects) and len(list(drawing.iter("pattern"))) == 3
    picture = drawing.find("svg")
    assert picture.get("role") == "img" and picture.get("aria-label") == figures.stack_alt(*plan, 2304, 2304)
    # The body begins and ends where the slider's handles stand, in percent of the track.
    xs = [float(r.get("x").rstrip("%")) for r in rects if r.get("class") == "lsplit-body"]
    assert xs[0] == pytest.approx(100 * (head + 0.06) / layers, abs=0.01)
    assert xs[-1] == pytest.approx(100 * (layers - tail - 0.94) / layers, abs=0.01)
    png = figures.stack_png(*plan, 2304, 2304)
    assert png.startswith(PNG) and png == figures.stack_png(*plan, 2304, 2304)
    assert "2,304 bytes up" in figures.stack_alt(*plan, 2304, 2304)


def test_the_stack_says_what_stays_local():
    drawn = figures.stack_svg(30, 2, 1, 1, 1)
    for words in ("embedding + 2 layers", "1 layer + norm, LM head", "on the host: 27 layers", "fill='currentColor'"):
        assert words in drawn
    assert ">embedding<" in figures.stack_svg(30, 0, 0, 1, 1) and ">norm, LM head<" in figures.stack_svg(30, 0, 0, 1, 1)


def test_exactness():
    table = pd.DataFrame([[1.0, 0.5], [0.25, np.nan]], index=[0, 1], columns=[0, 1])
    figure = figures.exactness_figure(table)
    assert figure.data[0].z[1][1] is None
    assert figure.data[0].text[1][1] == ""
    assert figures.exactness_png(table).startswith(PNG)
    assert "3 plans" in figures.exactness_alt(table) and "exactly 1 in 1 of" in figures.exactness_alt(table)
    assert figures.exactness_alt(table * np.nan).endswith("without a single plan.")


def test_show_is_three_things_in_one():
    table = pd.DataFrame([[1.0]])
    picture = figures.exactness_png(table)
    shown = figures.show(figures.exactness_figure(table), picture, "One plan.")
    bundle, _ = shown._repr_mimebundle_()
    assert set(bundle) == {"application/vnd.plotly.v1+json", "image/png", "text/plain"}
    assert int.from_bytes(figures.exactness_png(pd.DataFrame(np.eye(6)))[20:24], "big") < 300  # pixels high
    assert json.loads(json.dumps(bundle))["text/plain"] == repr(shown) == "One plan."
    assert "image/png" not in figures.show(shown.figure, None, "No picture.")._repr_mimebundle_()[0]
    with pytest.raises(ValueError, match="alt"):
        figures.show(shown.figure, picture)


def test_ink_reads_on_paper():
    def light(colour):
        parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        return sum(w * (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4)
                   for w, c in zip((0.2126, 0.7152, 0.0722), parts, strict=True))  # fmt: skip

    assert (light(PAPER) + 0.05) / (light(INK) + 0.05) >= 4.5


def test_a_strip_is_a_picture_and_a_sentence():
    reds = {f"{width} x {height}\npixels": Image.new("RGB", (width, height), "red") for width, height in SIZES}
    shown = figures.strip(reds, "Three red pictures.")
    bundle, metadata = shown._repr_mimebundle_()
    assert repr(shown) == bundle["text/plain"] == "Three red pictures." and set(bundle) == {"text/plain", "image/png"}
    image = Image.open(io.BytesIO(shown.png))
    assert metadata["image/png"]["width"] * 2 == image.width
    side, gap = 112, 14
    for i, (width, height) in enumerate(SIZES):  # the middle of each is red, also where one side is longer
        middle = (2 * (gap + i * (side + gap)) + side, 2 * gap + round(side * min(height / width, 1)))
        assert image.getpixel(middle) == (255, 0, 0)


@pytest.mark.parametrize(("pictures", "alt"), [({}, "Nothing."), ({"one": Image.new("RGB", (2, 2))}, "  ")])
def test_a_strip_needs_pictures_and_a_sentence(pictures, alt):
    with pytest.raises(ValueError):
        figures.strip(pictures, alt)
