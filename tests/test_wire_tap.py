"""WireTap without a front end: totals that are the ledger's, choosing, looking inside, the clock, Stop, captures."""

import base64
import dataclasses
import threading
from itertools import pairwise
from xml.etree import ElementTree

import pandas as pd
import pytest
import torch

import lsplit_kit as lk
from lsplit_kit.errors import CaptureError, CodecError, LsplitError
from lsplit_kit.figures import lanes as lanes_of
from lsplit_kit.figures.lanes import MOST, Lanes, crossing_words, exchanges, lanes_alt, lanes_svg
from lsplit_kit.figures.vector import hex_lines, vector_html
from lsplit_kit.figures.wire import control_bytes, totals_html, wire_png
from lsplit_kit.measure.crossing import decoded, look
from lsplit_kit.quantization import Encoded, codec
from lsplit_kit.widgets import wire_view
from lsplit_kit.wire.ledger import totals

torch.set_num_threads(1)
PNG = b"\x89PNG\r\n\x1a\n"
PREDICTS = "uniform:step=0.3+delta+ans"


@pytest.fixture(scope="module")
def toy():
    return lk.load("toy-llama")[0]


@pytest.fixture(scope="module")
def pipe():
    return lk.load("toy-sd")


@pytest.fixture(scope="module")
def ran(toy):
    """A panel after a run over an emulated loopback; tests only look at it."""
    panel = lk.WireTap(toy, body="loopback", codec="int8:token", network="4g", new_tokens=6)
    panel.run()
    return panel


@pytest.fixture(scope="module")
def drawn(pipe):
    """A panel after a picture in lockstep whose noise is predicted from step to step."""
    panel = lk.WireTap(pipe, body="loopback", mode="lockstep", steps=4, codec=(None, PREDICTS))
    panel.run()
    return panel


@pytest.fixture
def capture(ran, tmp_path):
    return lk.Capture.load(ran.wire.save(tmp_path / "run.lsplit"))


def html(words):
    return ElementTree.fromstring(f"<div>{words}</div>".replace("&nbsp;", " "))


def said(widget):
    return "".join(html(widget.value).itertext())


def table_of(words):
    """The totals that a page shows, as DataFrame, and the control frames' bytes."""
    cells = {td.get("class"): int(td.get("data-value")) for td in html(words).iter("td") if td.get("class")}
    columns = ("tensor", "payload", "frame")
    rows = {way: [cells[f"wire-{way}-{name}"] for name in columns] for way in ("up", "down")}
    found = pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("direction")
    return found, tuple(cells[f"wire-{way}-control"] for way in ("up", "down"))


def controls(widget):
    for child in getattr(widget, "children", ()):
        yield child
        yield from controls(child)


def every_crossing_is_drawn(monkeypatch):
    monkeypatch.setattr(wire_view, "EVERY", 0.0)
    monkeypatch.setattr(wire_view, "SHARE", 0.0)


def first_step(crossings, direction="up"):
    return next(i for i, c in enumerate(crossings) if c.kind == "step" and c.direction == direction)


@pytest.mark.parametrize("body", [None, "loopback"])
def test_the_panels_totals_are_the_ledgers(toy, body):
    panel = lk.WireTap(toy, body=body, codec=("int8:token", "fp16"), new_tokens=5)
    panel.run()
    assert panel.totals().equals(panel.wire.totals())
    shown, _ = table_of(panel.view.sums.value)
    assert (shown == panel.wire.totals()).all(axis=None) and shown["payload"].min() > 0


def test_over_a_host_process_the_totals_are_the_sockets_too(toy):
    with lk.host("toy-llama") as host:
        panel = lk.WireTap(toy, body=host.address, new_tokens=5)
        panel.run()
    assert panel.totals().equals(panel.wire.totals())
    assert tuple(panel.totals()["frame"]) == panel.wire.counters()["stream"]
    up, down = panel.wire.counters()["stream"]
    assert f"The link's own meter counted {up:,} up and {down:,} down" in said(panel.view.sums)


def test_a_pictures_totals_are_the_ledgers(drawn):
    assert drawn.totals().equals(drawn.wire.totals())
    shown, control = table_of(drawn.view.sums.value)
    assert (shown == drawn.wire.totals()).all(axis=None)
    frames = drawn.wire.ledger().query("kind != 'step'").groupby("direction")["frame"].sum()
    assert control == (frames["up"], frames["down"]) and min(control) > 0
    assert drawn.made.size == (64, 64)


def test_every_drawing_of_a_run_shows_the_sums_of_what_had_crossed(toy, monkeypatch):
    every_crossing_is_drawn(monkeypatch)
    panel, seen = lk.WireTap(toy, body="loopback", new_tokens=5), []

    def look_at(change):
        if panel.wire is not None:
            seen.append((len(panel.view.lanes.crossings), change["new"]))

    panel.view.sums.observe(look_at, "value")
    panel.run()
    many = [count for count, _ in seen]
    assert many == sorted(many) and len(set(many)) >= 6 and many[-1] == len(panel.wire.crossings)
    for count, words in seen:
        assert (table_of(words)[0] == totals(panel.wire.crossings[:count])).all(axis=None)


def test_drawings_are_throttled_and_the_last_one_is_complete(toy, monkeypatch):
    monkeypatch.setattr(wire_view, "EVERY", 3600.0)
    panel, drawings = lk.WireTap(toy, body="loopback", new_tokens=30), []
    panel.view.picture.observe(lambda change: drawings.append(change["new"]), "html")
    panel.run()
    assert len(drawings) <= 2 and panel.view.lanes.crossings == tuple(panel.wire.crossings)
    assert len(panel.wire.crossings) > 20


def test_the_reply_is_the_unsplit_models(ran, toy):
    tok = toy.lsplit_tokenizer()
    chat = [{"role": "user", "content": ran.prompt}]
    batch = tok.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    lossless = lk.WireTap(toy, new_tokens=6)
    ids = toy.generate(**batch, max_new_tokens=6, do_sample=False)
    assert lossless.run() == tok.decode(ids[0, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    assert lossless.made in said(lossless.output) and ran.made is not None


def test_slider_click_and_code_choose_the_same_way(ran):
    for act in (
        lambda: ran.view.chooser.set_state({"value": 4}),
        lambda: ran.view.picture.set_state({"clicked": [4, 1]}),
        lambda: setattr(ran, "chosen", 4),
    ):
        ran.chosen = 2
        act()
        assert ran.chosen == ran.view.chooser.value == ran.view.seen.index == 4
        (mark,) = [p for p in html(ran.view.detail.value).iter("p") if p.get("class") == "wire-chosen"]
        assert mark.get("data-crossing") == "4"
        words = crossing_words(ran.wire.crossings[4])
        assert "".join(mark.itertext()) == words and ran.announcer.said == f"Crossing 4: {words}."
        assert "the chosen crossing" in ran.view.picture.html


def test_the_same_bar_can_be_clicked_again(ran):
    ran.view.picture.set_state({"clicked": [3, 10]})
    ran.chosen = 5
    ran.view.picture.set_state({"clicked": [3, 11]})
    assert ran.chosen == 3


@pytest.mark.parametrize(("given", "kept"), [(-5, 0), (0, 0), (13, 13), (99, 13)])
def test_what_is_chosen_is_clipped(ran, given, kept):
    ran.chosen = given
    assert len(ran.wire.crossings) == 14 and ran.chosen == kept


def test_the_vector_is_the_one_that_crossed(ran):
    ran.chosen = index = first_step(ran.wire.crossings)
    crossing = ran.wire.crossings[index]
    whole = codec("int8:token").decode(Encoded(crossing.codec, crossing.shape, crossing.data))
    assert ran.vector == crossing.shape[1] - 1  # at first the last one
    ran.view.stepper.set_state({"value": 3})
    assert ran.vector == 3 and torch.equal(torch.tensor(ran.view.seen.values), whole[0, 3])
    largest = int(whole[0, 3].abs().argmax())
    assert ran.view.seen.largest[0] == (largest, float(whole[0, 3, largest]))
    assert f"data-value='{float(whole[0, 3, largest])!r}'" in ran.view.detail.value
    assert hex_lines(crossing.data[:16])[0] in ran.view.detail.value
    ran.vector = 999
    assert ran.vector == ran.view.stepper.max == crossing.shape[1] - 1


def test_a_predicting_codec_is_followed(drawn):
    crossings = drawn.wire.crossings
    noise = [i for i, c in enumerate(crossings) if c.name == "out"]
    coder, past = codec(PREDICTS).coder(), {}
    right = [coder.decode(Encoded(c.codec, c.shape, c.data)) for c in (crossings[i] for i in noise)]
    for k in (0, 1, 3, 3, 2, 0):  # forwards, again, and back
        assert torch.equal(decoded(crossings, noise[k]), right[k])
        assert torch.equal(decoded(crossings, noise[k], past), right[k])
    assert len(noise) == 4 and len(past) == 1


def test_every_crossing_of_a_picture_can_be_looked_into(drawn):
    for i, c in enumerate(drawn.wire.crossings):
        drawn.chosen = i
        assert bool(drawn.view.seen.values) == (c.kind == "step")
    assert {c.codec.partition(":")[0] for c in drawn.wire.crossings} >= {"fp32", "raw", "whole", "uniform", ""}
    noise = next(i for i, c in enumerate(drawn.wire.crossings) if c.name == "out")
    assert look(drawn.wire.crossings, noise).unit == "pixel"
    t = next(i for i, c in enumerate(drawn.wire.crossings) if c.name == "timestep")
    assert look(drawn.wire.crossings, t).values == (float(decoded(drawn.wire.crossings, t)),)


def test_a_control_frame_has_no_values_and_a_row_of_its_own(ran):
    assert ran.wire.crossings[0].kind == "open"
    seen = look(ran.wire.crossings, 0)
    assert seen.values == () and "carries no tensor" in vector_html(seen)
    with pytest.raises(CodecError):
        decoded(ran.wire.crossings, 0)
    rects = list(html(lanes_svg(Lanes(ran.wire.crossings))).iter("rect"))
    count = {kind: [r for r in rects if r.get("class") == f"wire-{kind}"] for kind in ("up", "down", "control")}
    assert [len(found) for found in count.values()] == [6, 6, 2]
    assert min(float(r.get("y")) for r in count["control"]) > max(
        float(r.get("y")) + float(r.get("height")) for r in count["down"]
    )


def test_bars_are_as_tall_as_their_frames_are_large(ran):
    rects = {int(r.get("data-crossing")): r for r in html(lanes_svg(Lanes(ran.wire.crossings))).iter("rect")}
    first, second = (i for i, c in list(enumerate(ran.wire.crossings))[2:5] if c.direction == "up")
    heights = [float(rects[i].get("height")) for i in (first, second)]
    frames = [ran.wire.crossings[i].frame for i in (first, second)]
    assert heights[0] / heights[1] == pytest.approx(frames[0] / frames[1], rel=0.02)
    assert "".join(rects[first].itertext()) == crossing_words(ran.wire.crossings[first])


def test_words_of_a_crossing_have_its_three_byte_counts(ran):
    c = ran.wire.crossings[2]
    words = crossing_words(c)
    for part in ("up, step 1: hidden", "int8:token", f"tensor {c.tensor:,} B", f"payload {c.payload:,} B",
                 f"frame {c.frame:,} B", " x ".join(map(str, c.shape))):  # fmt: skip
        assert part in words


def test_the_clock_of_an_emulated_link(ran):
    crossings, clock = ran.wire.crossings, ran.wire.clock
    assert len(clock) == len(crossings)
    steps = [(clock[up], clock[up + 1]) for up in range(2, len(crossings), 2)]
    half = 0.035  # 4g: a round trip of 70 ms
    assert all(down - up > 2 * half for up, down in steps)
    assert all(down == pytest.approx(up) for (_, down), (up, _) in pairwise(steps))  # nobody computes on this clock
    assert steps[-1][1] == pytest.approx(ran.wire.remote.link.now)
    ran.across = "clock"
    assert "link&#x27;s clock" in ran.view.picture.html or "link's clock" in ran.view.picture.html
    ran.across = "step"


def test_without_a_clock_there_are_steps_only(drawn):
    assert drawn.wire.clock == [] and drawn.view.across.options == ("step",)
    with pytest.raises(LsplitError, match='across takes "step"'):
        drawn.across = "clock"


def test_a_saved_capture_shows_the_same_without_a_model(ran, capture, monkeypatch):
    monkeypatch.setattr("lsplit_kit.face.load", None)  # calling it would be the failure
    panel = lk.WireTap(capture=capture)
    assert capture.clock == tuple(ran.wire.clock)
    assert panel.totals().equals(capture.totals()) and panel.totals().equals(ran.wire.totals())
    assert (table_of(panel.view.sums.value)[0] == capture.totals()).all(axis=None)
    assert panel.chosen == first_step(capture.crossings)
    ran.chosen = panel.chosen
    assert panel.view.picture.html == ran.view.picture.html and panel.text == ran.text
    panel.across = "clock"
    assert panel.worker not in list(controls(panel))
    with pytest.raises(LsplitError, match="shows a capture"):
        panel.run()


def test_a_clock_that_does_not_fit_is_no_capture(ran, tmp_path, monkeypatch):
    monkeypatch.setattr(ran.wire, "clock", ran.wire.clock[:-1])
    path = ran.wire.save(tmp_path / "bad.lsplit")
    with pytest.raises(CaptureError, match="not a readable capture"):
        lk.Capture.load(path)


def test_a_tap_of_ones_own_can_be_watched(toy):
    lm = lk.split(toy, body="loopback")
    with lk.tap(lm) as wire:
        panel = lk.WireTap(capture=wire)
        assert panel.chosen == -1 and panel.text == "No crossing yet."
        lm.generate("count me", max_new_tokens=3, do_sample=False)
        panel.refresh()
    assert panel.totals().equals(wire.totals()) and len(panel.view.lanes.crossings) == 8


def test_a_split_model_is_used_as_it_is(toy):
    lm = lk.split(toy, body="loopback", codec="fp16")
    panel = lk.WireTap(lm, new_tokens=3)
    assert panel.controls["codec_up"].disabled and not panel.controls["prompt"].disabled
    panel.run()
    assert {c.codec for c in panel.wire.crossings} == {"fp16", ""}
    panel.run()  # its link is still open
    assert panel.worker.why == "" and len(panel.wire.crossings) >= 6


def test_a_split_pipeline_is_used_as_it_is(pipe):
    panel = lk.WireTap(lk.split(pipe, mode="lockstep", body="loopback"), steps=2)
    first, second = panel.run().tobytes(), panel.run().tobytes()
    assert first == second and panel.totals().equals(panel.wire.totals())


def stopped_at_step(panel, number):
    """Run, and press Stop as soon as so many crossings are drawn; what was chosen by then."""
    there, view = threading.Event(), panel.view

    def look_at(change):
        if len(view.lanes.crossings) >= number and not there.is_set():
            there.set()
            panel.worker.cancel_button.click()

    view.sums.observe(look_at, "value")
    panel.run(wait=False)
    panel.worker.wait()
    assert there.is_set()


@pytest.mark.parametrize("kind", ["text", "picture"])
def test_stop_ends_after_a_step_and_the_next_run_works(toy, pipe, kind, monkeypatch):
    every_crossing_is_drawn(monkeypatch)
    panel = lk.WireTap(toy if kind == "text" else pipe, body="loopback", new_tokens=400, steps=400)
    assert panel.worker.cancel_button.description == "Stop"
    stopped_at_step(panel, 9)
    assert "Cancelled." in said(panel.worker.status) and panel.made is None
    assert 9 <= len(panel.wire.crossings) < 60
    assert panel.totals().equals(panel.wire.totals())
    panel.new_tokens = panel.steps = 2
    assert panel.run() is not None and "Done." in said(panel.worker.status)


def test_a_choice_during_a_run_stays(toy, monkeypatch):
    every_crossing_is_drawn(monkeypatch)
    panel = lk.WireTap(toy, body="loopback", new_tokens=8)
    newest = []

    def look_at(change):
        if len(panel.view.lanes.crossings) == 8:
            newest.append(panel.chosen)
            panel.view.chooser.set_state({"value": 3})

    panel.view.sums.observe(look_at, "value")
    panel.run()
    assert newest[0] == 7 and panel.chosen == 3 and len(panel.wire.crossings) == 18


def test_the_menu_turns_from_text_to_pictures(toy):
    assert len(lk.WireTap(toy, body="rpyc://127.0.0.1:1").models) == 1  # such a host holds one model
    panel = lk.WireTap(toy, body="loopback", new_tokens=2)
    shown = [row.layout.display for row in panel.rows[1:3]]
    panel.model_box.value = "emoji-ldm"
    assert [row.layout.display for row in panel.rows[1:3]] == shown[::-1]
    assert panel.kind == "picture" and panel.prompt == "a red apple"
    panel.model_box.value = "toy-llama"
    assert panel.kind == "text" and panel.prompt == "Why is the sky blue?" and panel.run() is not None


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [("codec", "int9", "Unknown codec 'int9'"), ("codec", ("int8",), "codec takes one spec or a pair"),
     ("network", "dialup", "Unknown network 'dialup'"), ("cache", "all", "Unknown cache 'all'"),
     ("mode", "twice", "Unknown mode 'twice'"), ("new_tokens", 0, "new_tokens takes a whole number"),
     ("prompt", " ", "takes words")],
)  # fmt: skip
def test_bad_settings_are_a_sentence(ran, name, value, words):
    with pytest.raises(LsplitError, match=words):
        setattr(ran, name, value)
    with pytest.raises(LsplitError, match="capture takes"):
        lk.WireTap(capture="run.lsplit")


def test_what_a_reader_types_wrongly_is_a_sentence_too(toy):
    panel = lk.WireTap(toy, new_tokens=2)
    panel.controls["codec_up"].value = "int9"
    assert panel.run() is None and panel.worker.why.startswith("Unknown codec 'int9'")
    panel.controls["codec_up"].value = " "  # nothing typed: lossless
    panel.head = 99
    assert panel.run() is None and "99" in panel.worker.why
    panel.head = 1
    assert panel.run() is not None and {c.codec for c in panel.wire.crossings} == {"fp32"}


def test_controls_have_descriptions_and_handles_have_names(ran):
    found = [c for c in controls(ran) if "description" in c.trait_names() and c._view_name != "HTMLView"]
    assert len(found) >= 18 and all(c.description for c in found)
    assert ran.announcer.names == ["Crossing", "Vector of the crossing"]
    assert all("wire-knob" in slider._dom_classes for slider in (ran.view.chooser, ran.view.stepper))


def test_bundle_has_widget_picture_and_words(ran):
    bundle, metadata = ran._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert base64.b64decode(bundle["image/png"]).startswith(PNG) and metadata["image/png"]["width"] == 760
    assert bundle["text/plain"] == ran.text and max(map(len, ran.text.splitlines())) <= 72
    words = " ".join(ran.text.split())
    assert "14 crossings in 7 exchanges" in words and "2 control frames (open)" in words


def test_figures_are_pure_and_say_nothing_of_nothing(ran):
    state = Lanes(ran.wire.crossings, ran.wire.clock, 4, "clock"), ran.wire.totals(), look(ran.wire.crossings, 4)
    assert wire_png(*state) == wire_png(*state) and lanes_svg(state[0]) == lanes_svg(state[0])
    assert lanes_alt(Lanes()) == "No crossing yet." and wire_png(Lanes(), totals([]), None).startswith(PNG)
    assert control_bytes([]) == (0, 0) and "wire-counters" not in totals_html(totals([]))


def test_names_from_a_file_are_escaped(capture):
    evil = dataclasses.replace(capture, crossings=tuple(c._replace(name="<script>") for c in capture.crossings))
    panel = lk.WireTap(capture=evil)
    for words in (panel.view.picture.html, panel.view.detail.value):
        assert "<script>" not in words and "&lt;script&gt;" in words


def test_a_long_run_is_drawn_in_part_and_the_chosen_one_always(ran):
    many = list(ran.wire.crossings[2:4]) * (3 * MOST)
    assert len(exchanges(many)) == 3 * MOST
    for chosen in (0, 1, 2 * MOST, 3 * MOST + 1, len(many) - 1, -1):
        numbers = [bar.crossing for bar in lanes_of.bars(Lanes(many, (), chosen))]
        assert len(numbers) == 2 * MOST and (chosen in numbers or chosen == -1)
    assert f"Of these, {MOST} are drawn." in lanes_alt(Lanes(many)) and f"of {3 * MOST}" in lanes_svg(Lanes(many))


def test_crossings_of_one_frame_stand_on_each_other(drawn):
    crossings = drawn.wire.crossings
    first = next(one for one in exchanges(crossings) if crossings[one.start].step == 1)
    found = {bar.crossing: bar for bar in lanes_of.bars(Lanes(crossings))}
    ups = [found[i] for i in first if crossings[i].direction == "up"]
    assert len(ups) > 1 and all(above.bottom == pytest.approx(below.top) for below, above in pairwise(ups))
