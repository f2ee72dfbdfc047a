"""QuantLab without a front end: the codec's controls, points at once, runs, cancelling, sentences and bundles."""

import base64
import math
import re
import threading
from xml.etree import ElementTree

import pytest
import torch
from PIL import Image

import lsplit_kit as lk
from lsplit_kit.figures.lab import Coded, Reading, Tried, coded_alt, coded_html, lab_png, reading_alt, reading_html
from lsplit_kit.measure import channel_peaks, hidden_of, noise_of, picture_quality, rate_point, text_quality
from lsplit_kit.quantization import specs
from lsplit_kit.widgets.codec_picker import BASES, SCALES, CodecPicker, parts_of, spec_of
from lsplit_kit.widgets.lab_tab import VISITED

torch.set_num_threads(1)
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def pipe():
    return lk.load("toy-sd")


@pytest.fixture(scope="module")
def model():
    return lk.load("toy-llama")


@pytest.fixture
def panel(pipe, model):
    panel = lk.QuantLab(pipe, model, steps=3, sentence="Where is the split?", new_tokens=4)
    panel.wait()
    return panel


@pytest.fixture(scope="module")
def ran(pipe, model):
    """A panel after a run in both tabs, the picture in front; tests only look at it."""
    panel = lk.QuantLab(pipe, model, steps=3, codec="int4", sentence="Where is the split?", new_tokens=4, tab="text")
    panel.run()
    panel.tab = "picture"
    panel.run()
    return panel


def status(panel):
    return "".join(ElementTree.fromstring(panel.front.worker.status.value).itertext())


def html(widget):
    return ElementTree.fromstring(f"<div>{widget.value}</div>")


def point(panel):
    (said,) = [e for e in html(panel.front.charts).iter("p") if e.get("class") == "quant-point"]
    return float(said.get("data-bits")), float(said.get("data-snr"))


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

    panel.front.worker.status.observe(look, "value")
    panel.run(wait=False)
    assert seen.wait(60)
    panel.wait()
    panel.front.worker.status.unobserve_all()


# The codec's controls.


@pytest.mark.parametrize("spec", specs())
def test_every_usual_spec_is_shown_as_it_is(spec):
    picker = CodecPicker("int8", print)
    picker.typed.value = spec
    assert picker.spec == picker.typed.value == spec
    base, parts = parts_of(spec)
    assert base == picker.controls["base"].value
    assert base == "typed" or spec_of(base, parts) == spec


def test_most_usual_specs_need_no_typing():
    assert not [spec for spec in specs() if parts_of(spec)[0] == "typed"]


@pytest.mark.parametrize("base", [base for base in BASES if base != "typed"])
def test_whatever_the_controls_say_is_a_codec(base):
    picker = CodecPicker("int8", pytest.fail)
    picker.controls["base"].value = base
    for knob in BASES[base].values:
        picker.controls["knob"].value = knob
        assert lk.codec(picker.spec).spec == picker.spec == picker.typed.value and knob in picker.spec
    for name in ("clip", "rotate", "apart", "predict", "near"):
        shown = picker.controls[name].layout.display != "none"
        assert shown is (name in BASES[base].usual)
        if shown:
            before = picker.spec
            picker.controls[name].value = True
            assert lk.codec(picker.spec).spec != before
    for name, options in (("scale", SCALES), ("coder", ("none", "zstd", "ans"))):
        if name in BASES[base].usual:
            for option in options:
                picker.controls[name].value = option
                assert lk.codec(picker.spec).spec == picker.spec and parts_of(picker.spec)[1][name] == option


def test_what_can_only_be_typed_is_kept_and_said():
    said = []
    picker = CodecPicker("int8", said.append)
    picker.typed.value = " uniform:step=0.37 + ans"
    assert picker.spec == picker.typed.value == "uniform:step=0.37+ans"
    assert picker.controls["base"].value == "typed" and picker.controls["knob"].disabled
    picker.controls["base"].value = "fp8"
    assert picker.spec == "fp8:e4m3" and not picker.controls["knob"].disabled
    picker.controls["base"].value = "typed"
    assert picker.spec == "fp8:e4m3" and not any(said)


def test_a_bad_spec_is_a_sentence_and_the_last_good_one_stays():
    said = []
    picker = CodecPicker("int8", said.append)
    picker.typed.value = "int9"
    assert said[-1].startswith("Unknown codec 'int9'") and (picker.spec, picker.typed.value) == ("int8", "int9")
    picker.typed.value = "int6"
    assert said[-1] == "" and picker.spec == "int6" and picker.controls["knob"].value == "6"
    with pytest.raises(lk.LsplitError):
        picker.choose(7)


def test_a_slider_message_from_the_page_changes_the_spec():
    picker = CodecPicker("int8", pytest.fail)
    picker.controls["knob"].set_state({"index": 3})
    assert picker.spec == "int4"


def test_one_prediction_at_a_time():
    picker = CodecPicker("uniform:snr=34+near+ans", pytest.fail)
    picker.controls["predict"].value = True
    assert picker.spec == "uniform:snr=34+delta+ans" and not picker.controls["near"].value
    picker.controls["near"].value = True
    assert picker.spec == "uniform:snr=34+near+ans" and not picker.controls["predict"].value


@pytest.mark.parametrize("loaded", [False, True])
def test_calibrated_codecs_are_offered_for_text_at_cuts_that_have_calibrations(pipe, loaded):
    panel = lk.QuantLab(pipe, lk.load("smollm2") if loaded else "smollm2", steps=1)
    picture, text = (tab.picker.controls["base"] for tab in (panel.pictures, panel.texts))
    keys = [key for _, key in text.options]
    assert "klt" in keys and "klt" not in [key for _, key in picture.options]
    text.value = "klt"
    assert panel.texts.picker.spec == "klt:step=0.2+ans"
    panel.head = 3
    assert "klt" not in [key for _, key in text.options]
    assert (text.value, panel.texts.picker.spec) == ("typed", "klt:step=0.2+ans")
    panel.head = 5
    assert text.value == "klt" and panel.texts.picker.controls["knob"].value == "0.2"
    panel.wait()


def test_a_calibrated_codec_is_tried_on_what_goes_up(pipe):
    panel = lk.QuantLab(pipe, "smollm2", steps=1, tab="text", codec="klt:step=0.4+ans", new_tokens=1)
    panel.run()
    bits, snr = point(panel)
    assert 2 < bits < 6 and panel.texts.tried.now == panel.texts.tried.rows[-1]["codec"] == "klt:step=0.4+ans"
    panel.texts.picker.controls["knob"].value = "0.2"
    assert point(panel)[0] > bits and point(panel)[1] > snr


# What happens at once.


def test_exported():
    assert "QuantLab" in lk.__all__ and lk.QuantLab.__module__ == "lsplit_kit.widgets.quant_lab"


def test_the_noise_is_captured_as_the_panel_opens_and_the_slider_moves_the_point(panel, pipe):
    noise = noise_of(pipe, "a red apple", 0, 3)
    assert status(panel) == "Ready."
    for bits in ("8", "4", "1"):
        panel.pictures.picker.controls["knob"].value = bits
        row = rate_point(f"int{bits}", noise)
        assert panel.codec == row["codec"] and point(panel) == pytest.approx((row["bits"], row["snr_db"]), abs=1e-3)
        levels = [e for e in html(panel.pictures.charts).iter("title") if e.text.startswith("level ")]
        assert len(levels) == (2 ** int(bits) if bits != "8" else 0)  # as many as can be told apart
        assert panel.announcer.said.startswith(f"int{bits}: ")
    assert set(panel.pictures._visited) == {"int8", "int4", "int1"}
    assert "INT8, the paper's" in {e.text for e in html(panel.pictures.charts).iter("text")}
    assert [e.get("class") for e in html(panel.pictures.charts).iter("svg")] == ["quant-plane", "quant-levels"]


def test_a_codec_with_a_past_is_tried_on_the_steps_in_order(panel, pipe):
    panel.codec = "uniform:step=0.1+delta+ans"
    row = rate_point(panel.codec, noise_of(pipe, "a red apple", 0, 3))
    assert point(panel)[0] == pytest.approx(row["bits"], abs=1e-3)
    assert "only the difference" in panel.pictures.charts.value


def test_before_the_capture_there_is_no_point_and_no_error(pipe, model):
    panel = lk.QuantLab(pipe, model, steps=400)
    panel.cancel()
    panel.wait()
    assert status(panel) == "Cancelled." and panel.pictures.charts.value == ""
    panel.codec = "int4"
    assert panel.text == "No picture yet." and panel.pictures.charts.value == ""
    panel.steps = 2
    assert panel.run() is not None and point(panel)[0] > 4  # the run captures what the opening did not


def test_a_codec_that_cannot_hold_the_values_is_a_sentence(panel):
    panel.codec = "uniform:step=0.000001"
    before = panel.pictures.charts.value
    panel.pictures.capture([torch.full((1, 4), 1e6)], "large")
    assert "use a larger step" in status(panel) and panel.pictures.charts.value == before
    panel.codec = "int6"
    assert status(panel) == "Ready." and panel.text.startswith("No picture yet. int6:")


def test_the_plane_keeps_the_newest_points_and_the_papers(panel):
    tried = [f"uniform:step={k / 10}" for k in range(1, VISITED + 6)]
    for panel.codec in tried:
        pass
    assert list(panel.pictures._visited) == ["int8", *tried[-VISITED:]]


def test_a_bad_spec_on_the_page_is_a_sentence_below_the_buttons(panel):
    panel.pictures.picker.typed.value = "int9"
    assert status(panel).startswith("Unknown codec 'int9'") and panel.codec == "int8"
    assert panel.announcer.said == status(panel) and "Unknown codec" in panel.text
    panel.pictures.picker.typed.value = "int5"
    assert status(panel) == "Ready." and panel.codec == "int5"


# Runs.


def test_the_picture_is_the_pipelines_own_and_its_numbers_are_the_measures(ran, pipe):
    call = dict(num_inference_steps=3, guidance_scale=3.0)
    own = pipe("a red apple", generator=torch.Generator().manual_seed(0), **call).images[0]
    split = lk.split(pipe, mode="lockstep", codec=(None, "int4"))
    with lk.tap(split) as wire:
        ours = split("a red apple", generator=torch.Generator().manual_seed(0), **call).images[0]
    seen = ran.pictures.seen
    assert seen.whole.tobytes() == own.tobytes() and seen.ours.tobytes() == ours.tobytes() != own.tobytes()
    assert seen.quality == picture_quality({"x": ours}, own).loc["x"].to_dict()
    assert seen.payload == wire.totals()["payload"]["down"] == 3 * 520
    assert f"data-value='{seen.payload}'" in ran.pictures.output.value and "PSNR" in ran.pictures.output.value
    assert re.findall(r"alt='(\w+) picture of", ran.pictures.output.value) == ["Original", "Coded", "Difference"]
    assert ran.announcer.said == coded_alt(seen)


def test_a_lossless_picture_is_equal(panel):
    panel.codec = "fp32"
    panel.run()
    assert "equal to the original in every pixel" in " ".join(panel.text.split())
    assert panel.pictures.seen.largest == 0 and "without an error" in " ".join(panel.text.split())


def test_the_original_is_made_once_for_each_settings(panel):
    seen = []
    panel.pictures.worker.status.observe(lambda change: seen.append(change["new"]), "value")
    for panel.codec in ("int4", "int2"):
        panel.run()
    assert not any("Without a codec" in words for words in seen)
    panel.seed = 5
    panel.run()
    assert any("Without a codec: step 3 of 3" in words for words in seen) and panel.pictures.seen.seed == 5
    assert "seed 0, 3 steps; the histogram is of step 2" in panel.pictures.tried.about  # the points keep their noise


def test_the_numbers_of_a_reading_are_the_measures(ran, model):
    lm, tokenizer = model
    ids = tokenizer("Where is the split?", return_tensors="pt").input_ids
    split = lk.split(lm, codec="int4")
    row = text_quality({"x": split}, lm, ids[0]).loc["x"].to_dict()
    seen = ran.texts.seen
    assert seen.quality == row and seen.tokens == ids.shape[1]
    assert seen.up == seen.down == len(lk.codec("int4").encode(torch.randn(1, ids.shape[1], 64)).payload)
    assert seen.bits == (8 * seen.up / ids.shape[1] / 64,) * 2
    for words, one in ((seen.next_whole, lm), (seen.next_split, split)):
        out = one.generate(ids, max_new_tokens=4, do_sample=False)[0, ids.shape[1] :]
        assert words == tokenizer.decode(out, skip_special_tokens=True)
    up, _ = hidden_of(lm, ids)
    assert torch.equal(ran.texts.tried.hidden, up) and "quant-channels" in ran.texts.charts.value
    assert f"each of {len(channel_peaks(up))} channels" in ran.texts.charts.value
    assert f"data-value='{row['kl']}'" in ran.texts.output.value


def test_a_lossless_reading_is_the_same_model_and_returns_its_words(panel):
    panel.tab, panel.codec = "text", "fp32"
    said = panel.run()
    assert said == panel.texts.seen.next_whole and panel.texts.seen.quality["kl"] == 0
    assert "it goes on as without" in " ".join(panel.text.split()) and status(panel) == "Done."


def test_after_a_reading_the_texts_slider_has_a_point_too(panel):
    panel.tab = "text"
    assert panel.texts.charts.value == "" and status(panel) == "Not run yet."
    panel.run()
    panel.codec = "int3:token"
    assert point(panel)[0] == pytest.approx(3 + 32 / 64, abs=1e-4)
    assert panel.pictures.picker.spec == "int8"  # each tab has a codec of its own


def test_another_cut_is_another_hidden_tensor_and_the_same_words(panel):
    panel.tab = "text"
    panel.run()
    first, kept = panel.texts.tried.hidden, panel.texts._next
    panel.head, panel.tail = 0, 0
    panel.run()
    assert not torch.equal(first, panel.texts.tried.hidden) and panel.texts._next == kept
    assert "head 0 / tail 0" in " ".join(panel.text.split())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [({"sentence": " "}, "sentence takes words that the model reads"), ({"head": 9}, "head=9 is out of range"),
     ({"head": 3, "tail": 3}, "leave no body"), ({"sentence": "word " * 600}, "the panel reads 2 to 512"),
     ({"codec": "uniform:step=0.1+delta+ans"}, "a language model's tokens have none")],
)  # fmt: skip
def test_what_cannot_be_read_is_one_sentence(panel, change, sentence):
    panel.tab = "text"
    for name, value in change.items():
        if name in panel.controls:
            panel.controls[name].set_state({"value": value})
        else:
            setattr(panel, name, value)
    assert panel.run() is None and sentence in status(panel) and "\n" not in status(panel)
    assert sentence in panel.text.replace("\n", " ") and panel.announcer.said == status(panel)
    assert not panel.texts.worker.run_button.disabled and panel.texts.worker.cancel_button.disabled


def test_a_model_without_a_tokenizer_is_a_sentence(pipe):
    config = lk.load("toy-llama")[0].config
    from transformers import AutoModelForCausalLM

    panel = lk.QuantLab(pipe, AutoModelForCausalLM.from_config(config), steps=1, tab="text")
    assert panel.run() is None and status(panel).startswith("This model came without a tokenizer")
    panel.wait()


def test_errors_of_the_library_are_one_sentence(panel):
    panel.pictures.call = {"negative_prompt": 7}
    panel.seed = 1
    assert panel.run() is None and status(panel).startswith("TypeError: ") and "Traceback" not in status(panel)


def test_an_empty_prompt_from_the_page_is_a_sentence(panel):
    panel.controls["prompt"].set_state({"value": ""})
    assert panel.run() is None and status(panel).startswith("prompt takes words")


@pytest.mark.parametrize("words", ["Without a codec: step 2", "With int4: step 2"])
def test_cancel_takes_one_step_and_leaves_the_tab_usable(panel, words):
    panel.steps, panel.codec = 30, "int4"
    seen = []
    panel.pictures.worker.status.observe(lambda change: seen.append(change["new"]), "value")
    pressed_at(panel, words, panel.pictures.worker.cancel_button.click)
    assert status(panel) == "Cancelled." and panel.pictures.seen.ours is None
    assert not any(words.replace("2", "4") in s for s in seen[-2:])
    panel.steps = 2
    assert panel.run() is not None and status(panel) == "Done." and panel.pictures.worker.bar.value == 2


def test_cancel_while_the_model_goes_on(panel):
    panel.tab, panel.texts.new_tokens = "text", 300
    pressed_at(panel, "Going on without a codec: step 2", panel.cancel)
    assert status(panel) == "Cancelled." and panel.texts.seen.quality is None and panel.texts._next == {}
    panel.texts.new_tokens = 2
    assert panel.run() is not None


def test_changes_during_a_run_are_for_the_next_one(panel):
    panel.steps, panel.codec = 4, "int4"

    def change():
        panel.codec, panel.steps, panel.prompt = "int2", 2, "a dog"

    pressed_at(panel, "With int4: step 1", change)
    seen = panel.pictures.seen
    assert (seen.codec, seen.steps, seen.prompt) == ("int4", 4, "a red apple")
    assert point(panel)[0] < 3  # the point follows the slider all the while


def test_a_second_press_while_a_run_is_under_way_is_the_same_run(panel):
    panel.steps = 20
    panel.pictures.worker.run_button.click()
    thread = panel.pictures.worker._thread
    panel.pictures.worker.run_button.click()
    assert panel.pictures.worker._thread is thread
    panel.cancel()
    panel.wait()


def test_the_pipeline_is_left_as_it_was(panel, pipe):
    unet, scheduler, bar = pipe.unet, pipe.scheduler, dict(pipe._progress_bar_config)
    panel.run()
    assert pipe.unet is unet and pipe.scheduler is scheduler and pipe._progress_bar_config == bar


def test_names_are_loaded_by_the_worker():
    panel = lk.QuantLab("toy-sd", "toy-llama", steps=1, new_tokens=1)
    assert panel.texts.model == "toy-llama"
    assert panel.run().size == (64, 64)
    panel.tab = "text"
    assert panel.run() is not None and panel.texts.model.config.model_type == "llama"


# Settings, words, bundles.


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [("prompt", " ", "prompt takes words that describe a picture"), ("seed", -1, "a whole number from 0 to"),
     ("steps", 0, "from 1 to 999"), ("guidance_scale", math.nan, "a number from 0 to 100"),
     ("sentence", "", "sentence takes words that the model reads"), ("head", -1, "head takes a whole number"),
     ("tail", "2", "got '2'"), ("codec", "int9", "Unknown codec 'int9'"), ("codec", 8, "Unknown codec"),
     ("tab", "sound", 'tab takes "picture" or "text"')],
)  # fmt: skip
def test_bad_settings_are_a_sentence(ran, name, value, sentence):
    before = getattr(ran, name)
    with pytest.raises(lk.LsplitError) as caught:
        setattr(ran, name, value)
    assert sentence in str(caught.value) and "\n" not in str(caught.value) and getattr(ran, name) == before


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [(("toy-llama", "toy-llama"), "is a language model"), (("toy-sd", "toy-sd"), "is a pipeline"),
     ((3, "toy-llama"), "QuantLab takes a pipeline"), (("no-such-model", "toy-llama"), "no-such-model")],
)  # fmt: skip
def test_models_that_do_not_fit(arguments, sentence):
    with pytest.raises(lk.LsplitError, match=sentence):
        lk.QuantLab(*arguments)


def test_controls_have_descriptions_and_there_is_one_live_region(panel):
    found = [c for c in controls(panel) if "description" in c.trait_names() and c._view_name != "HTMLView"]
    assert len(found) == 4 + 3 + 2 * 10 + 2 * 3 and all(c.description for c in found)
    assert all(c.tooltip for c in found if c._view_name != "ProgressView")
    assert [c for c in controls(panel) if hasattr(c, "said") and hasattr(c, "names")] == [panel.announcer]
    assert panel.announcer.names == ["Bits of the picture's codec", "Bits of the text's codec"]
    panel.codec = "uniform:snr=20+ans"
    assert panel.announcer.names[0] == "Quality in dB of the picture's codec"
    assert "aria-live" not in panel.pictures.charts.value + panel.pictures.output.value


def test_prediction_is_offered_for_what_comes_down_only(panel):
    for one, shown in ((panel.pictures, True), (panel.texts, False)):
        one.picker.choose("uniform:step=0.3+ans")
        assert (one.picker.controls["predict"].layout.display != "none") is shown


@pytest.mark.parametrize("tab", ["picture", "text"])
def test_bundle_has_widget_picture_and_sentence(ran, tab):
    ran.tab = tab
    bundle, metadata = ran._repr_mimebundle_()
    png = base64.b64decode(bundle["image/png"])
    assert png.startswith(PNG) and png == base64.b64decode(ran._repr_mimebundle_()[0]["image/png"])
    assert 2 * metadata["image/png"]["width"] == int.from_bytes(png[16:20], "big")
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert bundle["text/plain"] == ran.text and max(map(len, ran.text.splitlines())) <= 72
    assert ran.model_id not in ran.text
    ran.tab = "picture"


def test_a_fresh_panel_has_a_picture_and_a_sentence_too(panel):
    assert panel.text.startswith("No picture yet. int8: ")
    panel.tab = "text"
    assert panel.text == "No sentence read yet."
    assert base64.b64decode(panel._repr_mimebundle_()[0]["image/png"]).startswith(PNG)


RED = Image.new("RGB", (64, 64), "red")
SEEN = Coded('<a> "b"', 1, 1, 3.0, "int4", RED, RED, RED, 0.2, {"psnr": 31.26, "ssim": 0.5}, 1040, 4.0625)
READ = Reading("<i>x</i>", 3, "head 2 / tail 2", "int4", 96, 96, (4.0, 4.0),
               {"ratio": 1.234, "kl": 0.05, "top1": 0.5}, "a\nb", "<b>")  # fmt: skip


def test_words_are_escaped_and_said():
    assert coded_alt(SEEN) == (
        '"<a> "b"" (seed 1, 1 step, guidance scale 3) with int4: PSNR 31 dB, SSIM 0.50; 1,040 payload bytes of noise '
        "came down, 4.1 bits a value."
    )
    shown = coded_html(SEEN)
    assert "<a>" not in shown and "PSNR 31.3 dB, SSIM 0.500" in shown and "white is 51 of 255" in shown
    assert reading_alt(READ) == (
        '"<i>x</i>" (3 tokens, head 2 / tail 2) with int4: 96 payload bytes up and 96 down, 4.0 bits a value; '
        'perplexity x 1.23, KL 0.05 nats a token, top-1 agreement 50%; it goes on "<b>" instead of "a b".'
    )
    assert "<b></pre>" not in reading_html(READ) and "&lt;b&gt;" in reading_html(READ)


def test_pictures_that_were_not_compared_say_why():
    seen = Coded("x", 1, 1, 3.0, "int4", RED, RED, RED, 0.0, "too small", 1, 1.0)
    assert "with int4: too small;" in coded_alt(seen)


@pytest.mark.parametrize("seen", [Coded(), SEEN, Reading(), READ])
@pytest.mark.parametrize("hidden", [None, torch.ones(1, 3, 8)])
def test_every_state_can_be_drawn(seen, hidden):
    rows = (rate_point("int8", torch.randn(4, 64)), rate_point("fp32", torch.randn(4, 64)))
    for tried in (Tried(), Tried(rows, "fp32", hidden=hidden)):
        assert lab_png(tried, seen).startswith(PNG)
