"""PictureSplit without a front end: settings, runs, cancelling, sentences, bundles, and the pure figure."""

import base64
import math
import threading
from collections import Counter
from xml.etree import ElementTree

import pandas as pd
import pytest
import torch
from diffusers import DDPMScheduler
from PIL import Image

import lsplit_kit as lk
from lsplit_kit.figures.picture import (
    Choice,
    Seen,
    bytes_by_step,
    compared,
    cut_name,
    picture_alt,
    picture_html,
    picture_png,
    picture_svg,
    saving,
)  # fmt: skip
from lsplit_kit.widgets.picture_split import cuts_of

PNG = b"\x89PNG\r\n\x1a\n"
LATENT, NOISE = 4 * 4 * 16 * 16, 1024 + 8  # bytes of a latent as FP32, of a picture's noise as int8


@pytest.fixture(scope="module")
def toy():
    return lk.load("toy-sd")


@pytest.fixture
def panel(toy):
    return lk.PictureSplit(toy, steps=3)


@pytest.fixture(scope="module")
def ran(toy):
    """A panel after a lossless run of three steps; tests only look at it."""
    panel = lk.PictureSplit(toy, steps=3, codec="fp32")
    panel.run()
    return panel


def status(panel):
    return "".join(ElementTree.fromstring(panel.status.value).itertext())


def controls(widget):
    for child in getattr(widget, "children", ()):
        yield child
        yield from controls(child)


def pressed_at(panel, words, act):
    """Start a run, and do `act` in it as soon as the status holds `words`."""
    seen = threading.Event()

    def look(change):
        if words in change["new"] and not seen.is_set():
            seen.set()
            act()

    panel.status.observe(look, "value")
    panel.run(wait=False)
    assert seen.wait(60)
    panel._thread.join(60)
    panel.status.unobserve_all()


def test_exported():
    assert "PictureSplit" in lk.__all__ and lk.PictureSplit.__module__ == "lsplit_kit.widgets.picture_split"


def test_lossless_pictures_are_equal_and_are_the_pipelines_own(ran, toy):
    own = toy("a red apple", num_inference_steps=3, guidance_scale=7.5, generator=torch.Generator().manual_seed(0))
    assert ran.picture.tobytes() == own.images[0].tobytes() == ran.seen.whole.tobytes()
    assert "equal in every pixel" in " ".join(ran.text.split()) and status(ran) == "Done."
    assert ran.seen.quality["psnr"] == math.inf


@pytest.mark.parametrize("cut", ["denoiser", 0, 2])
def test_every_cut_is_lossless(panel, cut):
    panel.cut, panel.codec, panel.body = cut, "fp32", "loopback"
    panel.run()
    assert compared(panel.seen) == "equal in every pixel" and cut_name(cut) in panel.text.replace("\n", " ")


def test_the_bytes_are_the_taps(panel, toy):
    panel.mode = "lockstep"
    panel.run()
    split = lk.split(toy, codec=(None, "int8"), mode="lockstep")
    with lk.tap(split) as wire:
        split("a red apple", num_inference_steps=3, generator=torch.Generator().manual_seed(0))
    split.close()
    totals = wire.totals()["payload"]
    assert panel.seen.table[["up", "down"]].sum().to_dict() == totals.to_dict()
    assert panel.seen.table["down"].tolist() == [NOISE] * 3 and panel.seen.table["fp32"].tolist() == [LATENT] * 3
    assert panel.seen.table["up"].iloc[0] > LATENT > panel.seen.table["up"].iloc[1:].max()
    for number in totals:
        assert f"{number:,}" in panel.text and f"data-value='{number}'" in panel.output.value


def test_code_and_page_set_the_same_thing(panel):
    panel.seed, panel.guidance_scale, panel.cut, panel.codec, panel.prompt = 5, 2, 1, "int4", "a blue sky"
    values = {name: control.value for name, control in panel.controls.items()}
    assert Choice(**values) == Choice("a blue sky", 5, 3, 2.0, 1, "per_step", "int4")
    panel.controls["seed"].set_state({"value": 6})
    panel.controls["mode"].set_state({"index": 1})
    assert (panel.seed, panel.mode) == (6, "lockstep")


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("prompt", "  ", "words that describe a picture"), ("prompt", None, "got None"),
        ("seed", -1, "a whole number from 0 to"), ("seed", 1.5, "got 1.5"), ("seed", True, "got True"),
        ("steps", 0, "from 1 to 999, got 0"), ("steps", "3", "got '3'"), ("steps", 1001, "got 1001"),
        ("guidance_scale", math.nan, "a number from 0 to 100, got nan"), ("guidance_scale", "7", "got '7'"),
        ("cut", 4, '"denoiser", or how many blocks stay local at either end (0, 1, 2, 3); got 4'),
        ("cut", True, "got True"), ("cut", [1], r"got [1]"), ("mode", "both", "Unknown mode 'both'"),
        ("codec", "int9", "known: fp32"), ("codec", ["int8"], "Unknown codec"),
    ],
)  # fmt: skip
def test_bad_settings_are_a_sentence(panel, name, value, sentence):
    before = getattr(panel, name)
    with pytest.raises(lk.LsplitError) as caught:
        setattr(panel, name, value)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)
    assert getattr(panel, name) == before


@pytest.mark.parametrize(
    ("model", "sentence"),
    [("toy-llama", "for a language model use SplitExplorer"), (3, "takes a pipeline of diffusers"),
     ("toy-kandinsky", "holds other pipelines"), ("no-such-model", "no-such-model")],
)  # fmt: skip
def test_models_that_do_not_fit(model, sentence):
    with pytest.raises(lk.LsplitError, match=sentence):
        lk.PictureSplit(model)


def test_a_split_pipeline_is_refused(toy):
    with pytest.raises(lk.LsplitError, match="split already"):
        lk.PictureSplit(lk.split(toy))


def test_cuts_of_families(toy):
    assert cuts_of(toy) == ["denoiser", 0, 1, 2, 3]
    assert cuts_of(lk.load("toy-flux"))[:2] == ["denoiser", 0]


@pytest.mark.parametrize("name", ["toy-pixart", "toy-flux", "toy-if"])
def test_other_families_run_too(name):
    panel = lk.PictureSplit(name, steps=2, codec="fp32", call={**lk.PictureSplit(name).call, **_small(name)})
    assert panel.run() is panel.picture is not None, status(panel)
    assert panel.seen.progress == ("finished", "finished") and len(panel.seen.table) >= 2


def _small(name):
    return {"height": 64, "width": 64} if name == "toy-flux" else {}


def test_lockstep_with_a_cut_inside_says_why_not(panel):
    panel.mode, panel.cut = "lockstep", 1
    assert panel.run() is None
    assert status(panel).startswith("Lockstep and guidance at the host need the whole denoiser there")
    assert panel.announcer.said == status(panel)
    panel.cut = "denoiser"
    assert panel.run() is not None and status(panel) == "Done."


def test_a_scheduler_that_cannot_keep_step_says_so(toy):
    pipe = lk.load("toy-sd")
    pipe.scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    panel = lk.PictureSplit(pipe, mode="lockstep", steps=2)
    assert panel.run() is None and "DDPMScheduler draws random numbers" in status(panel)
    panel.mode, panel.codec = "per_step", "fp32"
    panel.run()
    assert compared(panel.seen) == "equal in every pixel"  # random, but from the same generator


@pytest.mark.parametrize(
    ("change", "sentence"),
    [({"body": "smoke signals"}, "rpyc://host:port"), ({"call": {"height": 7, "width": 7}}, "ValueError: "),
     ({"call": {"negative_prompt": 7}}, "TypeError: ")],
)  # fmt: skip
def test_errors_are_one_sentence(panel, change, sentence):
    vars(panel).update(change)
    assert panel.run() is None and panel.picture is None
    assert sentence in status(panel) and "Traceback" not in status(panel) and "\n" not in status(panel)
    assert not panel.run_button.disabled and panel.cancel_button.disabled
    assert panel.text.startswith("No split picture yet")
    assert sentence in panel.text.replace("\n", " ")  # code that does not see the page is told too


def test_an_empty_prompt_from_the_page_is_a_sentence(panel):
    panel.controls["prompt"].set_state({"value": ""})
    assert panel.run() is None and status(panel).startswith("prompt takes words")


def test_pictures_too_small_to_compare_are_still_shown(toy):
    panel = lk.PictureSplit(toy, steps=1, call={"height": 32, "width": 32})
    assert panel.run().size == (32, 32)
    assert "at least 41 pixels" in status(panel) and "not compared" in panel.text


@pytest.mark.parametrize(
    ("words", "kept"), [("the unsplit picture first: step 2", 0), ("the split picture: step 2", 1)]
)
def test_cancel_takes_one_step_and_leaves_the_panel_usable(toy, words, kept):
    panel = lk.PictureSplit(toy, steps=30)
    seen = []
    panel.status.observe(lambda change: seen.append(change["new"]), "value")
    pressed_at(panel, words, panel.cancel_button.click)
    assert status(panel).startswith("Cancelled. Unsplit: ") and panel.picture is None
    assert not any("the unsplit picture first: step 4" in s or "the split picture: step 4" in s for s in seen[-2:])
    assert len(panel._kept) == kept and not panel.run_button.disabled and panel.cancel_button.disabled
    assert base64.b64decode(panel._repr_mimebundle_()[0]["image/png"]).startswith(PNG)
    panel.steps = 2
    assert panel.run() is not None and status(panel) == "Done."


def test_changes_during_a_run_are_for_the_next_one(toy):
    panel = lk.PictureSplit(toy, steps=4, codec="fp32")

    def change():
        panel.steps, panel.codec, panel.seed, panel.cut, panel.prompt = 2, "int4", 9, 1, "a dog"

    pressed_at(panel, "the unsplit picture first: step 1", change)
    assert panel.seen.choice == Choice("a red apple", 0, 4, 7.5, "denoiser", "per_step", "fp32")
    assert compared(panel.seen) == "equal in every pixel" and len(panel.seen.table) == 4
    panel.run()
    assert panel.seen.choice == Choice("a dog", 9, 2, 7.5, 1, "per_step", "int4")


def test_a_second_run_while_one_runs_is_the_same_run(toy):
    panel = lk.PictureSplit(toy, steps=20)
    panel.run_button.click()
    first = panel._thread
    assert panel.run(wait=False) is None and panel._thread is first
    panel.cancel()
    first.join(60)


def test_the_unsplit_picture_is_made_once(panel):
    seen = []
    panel.status.observe(lambda change: seen.append(change["new"]), "value")
    for panel.codec in ("int8", "int4"):
        panel.run()
    assert sum("the unsplit picture first: step 1" in words for words in seen) == 1
    for panel.seed in range(1, 7):
        panel.steps = 1
        panel.run()
    assert len(panel._kept) == 4


def test_both_pictures_grow_side_by_side(toy):
    panel = lk.PictureSplit(toy, steps=3, codec="fp32")
    shown = []
    panel.output.observe(lambda change: shown.append(panel.seen), "value")
    panel.run()
    grown = [seen for seen in shown if seen.progress == ("step 2 of 3",) * 2]
    assert len(grown) == 1 and grown[0].whole.tobytes() == grown[0].ours.tobytes() != panel.picture.tobytes()
    assert [s.progress[0] for s in shown][:3] == ["step 1 of 3", "step 2 of 3", "finished"]


def test_the_pipeline_is_left_as_it_was(toy, panel):
    scheduler, unet, bar = toy.scheduler, toy.unet, dict(toy._progress_bar_config)
    steps = scheduler.num_inference_steps
    panel.run()
    assert toy.scheduler is scheduler and toy.unet is unet and scheduler.num_inference_steps == steps
    assert toy._progress_bar_config == bar


def test_controls_have_descriptions_and_there_is_one_live_region(panel):
    found = [c for c in controls(panel) if "description" in c.trait_names() and c._view_name != "HTMLView"]
    assert len(found) == 9 and all(c.description and c.tooltip for c in found)
    assert panel.announcer.said == "Not run yet." and "aria-live" not in panel.output.value + panel.status.value
    panel.run()
    assert panel.announcer.said == picture_alt(panel.seen)


def test_bundle_has_widget_picture_and_sentence(panel, ran):
    for one in (panel, ran):
        bundle, metadata = one._repr_mimebundle_()
        png = base64.b64decode(bundle["image/png"])
        assert png.startswith(PNG) and png == base64.b64decode(one._repr_mimebundle_()[0]["image/png"])
        assert 2 * metadata["image/png"]["width"] == int.from_bytes(png[16:20], "big")
        assert "application/vnd.jupyter.widget-view+json" in bundle
        assert bundle["text/plain"] == one.text and max(map(len, one.text.splitlines())) <= 72
        assert one.model_id not in one.text + one.output.value and " id='widget" not in one.output.value
    assert panel.text == "No split picture yet."
    assert " ".join(ran.text.split()) == picture_alt(ran.seen)


def test_two_panels_say_the_same(toy, ran):
    again = lk.PictureSplit(toy, steps=3, codec="fp32")
    again.run()
    assert again.text == ran.text and again.output.value == ran.output.value


# The figure, without a panel.

CHOICE = Choice('<a> "b"', 1, 2, 7.5, "denoiser", "lockstep", "int8")
TABLE = pd.DataFrame(
    {"up": [1000, 10, 10], "down": [50, 50, 50], "fp32": [200] * 3}, index=pd.Index([1, 2, 3], name="step")
)
QUALITY = {"psnr": 31.24, "ssim": 0.5, "vif": 0.25, "delta_e": 1.0}


def seen(table=TABLE, quality=QUALITY, size=(64, 64)):
    return Seen(
        CHOICE, Image.new("RGB", size, "red"), Image.new("RGB", size, "blue"), ("finished",) * 2, table, quality
    )


@pytest.mark.parametrize("steps", [1, 2, 3, 50])
def test_the_chart(steps):
    table = pd.concat([TABLE, *[TABLE.iloc[2:]] * 50]).iloc[:steps].set_axis(range(1, steps + 1))
    drawing = ElementTree.fromstring(f"<div>{picture_svg(table)}</div>")
    bars = [r for r in drawing.iter("rect") if r.get("class")]
    assert Counter(r.get("class") for r in bars) == {"lsplit-up": steps, "lsplit-down": steps}
    assert bars[0].find("title").text == "step 1: 1,000 bytes up"
    heights = [float(r.get("height")) for r in bars if r.get("class") == "lsplit-up"]
    assert heights[0] == max(heights) and all(height >= 1 for height in heights)
    picture = drawing.find("svg")
    assert picture.get("role") == "img" and f"in {steps} step" in picture.get("aria-label")
    assert picture.get("fill") == "currentColor"
    assert {r.get("fill")[:5] for r in bars} == {"url(#", "#E69F"}  # up is hatched, down is plain
    assert picture_png(seen(table)).startswith(PNG)


@pytest.mark.parametrize("size", [(64, 64), (600, 300), (7, 9), (1, 1)])
def test_pictures_of_any_size(size):
    drawing = picture_html(seen(size=size))
    assert drawing.count("<img ") == 2 and ("pixelated" in drawing) is (max(size) < 256)
    assert picture_png(seen(size=size)).startswith(PNG)


def test_words_are_escaped_and_said():
    html = picture_html(seen())
    assert "<a>" not in html and "alt='Split picture of &quot;&lt;a&gt;" in html
    assert "PSNR 31.2 dB, SSIM 0.500, VIF 0.250, colour difference 1.0" in html
    assert picture_alt(seen()).endswith(
        "1,020 payload bytes went up, 1,000 of them at the first step, and 150 came down, together 27.8% less than "
        "with FP32 noise."
    )
    assert "not compared, the split one is at finished" in picture_alt(seen(quality=None))
    assert picture_alt(Seen()) == "No split picture yet." and picture_alt(Seen(CHOICE)).startswith(
        "No split picture yet: "
    )


def test_savings():
    assert saving(TABLE) == pytest.approx(1 - 1170 / 1620)
    same = TABLE.assign(down=TABLE["fp32"])
    assert saving(same) == 0 and "as many as with FP32 noise" in picture_alt(seen(same))
    assert "more than with FP32" in picture_alt(seen(TABLE.assign(down=300)))


def test_bytes_by_step():
    rows = [(1, "up", (2, 3), 24), (1, "up", (), 8), (1, "down", (4,), 5), (2, "down", (4,), 5), (0, "up", (), 0)]
    table = bytes_by_step(pd.DataFrame(rows, columns=["step", "direction", "shape", "payload"]))
    assert table.to_dict("list") == {"up": [32, 0], "down": [5, 5], "fp32": [16, 16]}
    assert bytes_by_step(pd.DataFrame(rows[:0], columns=["step", "direction", "shape", "payload"])).empty
