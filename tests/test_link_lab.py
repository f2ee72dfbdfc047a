"""LinkLab without a front end: presets, predictions at once, real replies, measuring here, sentences and bundles."""

import base64
import threading
from xml.etree import ElementTree

import ipywidgets as W
import pytest
import torch

import lsplit_kit as lk
from lsplit_kit.errors import UnsupportedOption
from lsplit_kit.figures.link_lab import link_alt
from lsplit_kit.measure import budget, latency_model, pricing, recorded
from lsplit_kit.widgets.link_settings import CODECS, CUSTOM, KNOBS
from lsplit_kit.wire.network import PRESETS, Network

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def toy():
    model, tokenizer = lk.load("toy-llama")
    lm = lk.split(model, body="loopback", network=Network(rtt_ms=50))
    return (model, tokenizer), latency_model(lm, prompts=(4, 16), new_tokens=3, repeats=1)


@pytest.fixture
def panel(toy):
    return lk.LinkLab(toy[0], toy[1], network="4g", prompt=8, reply=4)


@pytest.fixture(scope="module")
def shown():
    """A panel on the recorded model: nothing is loaded."""
    return lk.LinkLab()


def html(widget):
    return ElementTree.fromstring(f"<div>{widget.value}</div>")


def status(panel):
    return "".join(html(panel.worker.status).itertext())


def totals(panel):
    return [float(row.findall("td")[2].get("data-value")) for row in html(panel.output).find(".//tbody")]


def controls(widget):
    for child in getattr(widget, "children", ()):
        yield child
        yield from controls(child)


def test_exported():
    assert "LinkLab" in lk.__all__ and lk.LinkLab.__module__ == "lsplit_kit.widgets.link_lab"


def test_it_predicts_from_the_recorded_model_without_loading_one(shown):
    assert shown.model == "smollm2" and status(shown) == "Predicted; press Run to measure."
    said = recorded().deployments(32, 32, "5g", host_speed=10)["total"]
    assert totals(shown) == pytest.approx(said.to_numpy())
    source = next(e.text for e in html(shown.output).iter("p") if e.get("class") == "link-source")
    assert source.startswith("Times of smollm2, recorded on ") and source.endswith("; the network is emulated.")


def test_every_preset_sets_the_numbers_and_answers_at_once(shown):
    for name, net in PRESETS.items():
        shown.controls["network"].value = name
        assert (shown.rtt_ms, shown.up_mbps, shown.jitter_ms, shown.loss) == pytest.approx(
            (net.rtt_ms, net.up_mbps, net.jitter_ms, net.loss)
        )
        assert totals(shown) == pytest.approx(recorded().deployments(32, 32, net, host_speed=10)["total"].to_numpy())
        assert shown.network.name == name and name in shown.announcer.said


def test_a_moved_slider_is_a_network_of_ones_own_and_back_again():
    panel = lk.LinkLab(network="4g")
    places = [value for _, value in panel.controls["rtt_ms"].options]
    panel.controls["rtt_ms"].set_state({"index": places.index(100.0)})  # a message from the page
    assert panel.controls["network"].value == CUSTOM and panel.network == Network(12, 12, 100, 8, 0)
    panel.rtt_ms = 70
    assert panel.controls["network"].value == "4g"
    panel.rtt_ms = 33.25  # the slider gets a place for it
    assert panel.rtt_ms == 33.25 and panel.seen.network.rtt_ms == 33.25
    panel.network = Network(rtt_ms=5)
    assert panel.network == Network(1000, 1000, 5, 0, 0) and panel.controls["network"].value == CUSTOM


def test_speeds_lengths_and_codec_are_those_of_the_prediction(shown):
    shown.network, shown.local_speed, shown.host_speed, shown.prompt, shown.reply = "dsl", 2, 20, 100, 10
    shown.codec = "int8:token"
    payload = lk.codec("int8:token").payload_bytes((1, 1, 576))
    model = recorded().coded(payload, payload)
    table = budget(model, 100, 10, PRESETS["dsl"], 2, 20)
    assert shown.seen.table.equals(table) and shown.seen.payload == (payload, payload)
    price = pricing(model, 100, 10, 2, 20)(shown.network)
    assert shown.seen.map.now == min(price, key=price.get)
    shown.rivals = "local and split"
    assert "cloud" not in shown.seen.map.names.to_numpy() and "cloud in" not in shown.text.replace("\n", " ")
    shown.rivals = "all three"


def test_a_real_reply_is_drawn_beside_the_prediction(panel):
    found = panel.run()
    assert status(panel) == "Done." and set(found) == {"local", "split"}
    assert found["split"].total > 5 * 0.07 > found["local"].total and len(found["split"].each) == 3
    titles = [e.text for e in html(panel.output).iter("title")]
    assert sum(t.startswith("measured: ") for t in titles) == 2 and "; measured: local " in panel.announcer.said
    cells = [row.findall("td")[-1].get("data-value") for row in html(panel.output).find(".//tbody")]
    assert [c is None for c in cells] == [False, True, False]
    panel.reply = 5  # points of another reply are not drawn
    assert panel.measured == {} and "measured: " not in panel.output.value


def test_measuring_here_replaces_the_times_and_says_so(toy):
    panel = lk.LinkLab(toy[0], recorded(), reply=4)
    before = totals(panel)
    panel.measure_button.click()
    panel.wait()
    assert status(panel) == "Done." and panel.latency.width == 64 and totals(panel)[0] < before[0]
    assert "Times of toy-llama, measured on this machine" in panel.output.value


def test_progress_is_shown_and_cancel_stops_between_tokens(panel):
    panel.reply = 200
    seen = threading.Event()

    def look(change):
        if "step 50 of 400" in change["new"] and not seen.is_set():
            seen.set()
            panel.worker.cancel_button.click()

    panel.worker.status.observe(look, "value")
    assert panel.run() == {} and seen.is_set() and status(panel) == "Cancelled."
    assert not panel.measure_button.disabled
    panel.reply = 2
    assert panel.run() and status(panel) == "Done." and panel.worker.bar.value == panel.worker.bar.max


def test_settings_changed_during_a_run_are_not_mixed_with_its_points(panel):
    panel.reply = 40

    def change(seen):
        if "The split model" in seen["new"]:
            panel.rtt_ms = 11

    panel.worker.status.observe(change, "value")
    assert panel.run() == {} and "settings have changed" in panel.announcer.said


def test_an_error_is_one_sentence_and_the_panel_stays_usable(toy):
    panel = lk.LinkLab(toy[0], toy[1], head=9, reply=2)
    assert panel.run() == {} and "head=9 is out of range" in status(panel) and "out of range" in panel.text
    panel.head = 1
    assert panel.run()


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [("rtt_ms", 0, "rtt_ms takes a number from 0.1 to 3000, got 0"), ("up_mbps", "5", "up_mbps takes a number"),
     ("loss", 0.9, "loss takes a number from 0 to 0.4"), ("prompt", 1.5, "prompt takes a whole number from 1 to 512"),
     ("reply", True, "reply takes a whole number"), ("codec", "int9", "codec takes one of fp32, fp16"),
     ("host_speed", -1, "host_speed takes a number from 0.1 to 100"), ("network", "warp", "Unknown network 'warp'"),
     ("rivals", "none", "rivals takes one of all three, local and split")],
)  # fmt: skip
def test_what_does_not_fit_is_one_sentence(shown, name, value, sentence):
    before = shown.output.value
    with pytest.raises(UnsupportedOption, match=sentence):
        setattr(shown, name, value)
    assert shown.output.value == before


def test_a_model_of_ones_own_needs_its_times(toy):
    with pytest.raises(UnsupportedOption, match="Give latency="):
        lk.LinkLab(toy[0])
    with pytest.raises(UnsupportedOption, match="No latency model of 'toy-llama'"):
        lk.LinkLab("toy-llama")


@pytest.mark.parametrize("spec", CODECS)
def test_the_codecs_have_a_size_that_is_known_before(spec):
    assert lk.codec(spec).fixed


def test_every_control_has_a_label_and_the_sliders_have_names(shown):
    asked = [c for c in controls(shown) if isinstance(c, (W.Dropdown, W.SelectionSlider, W.BoundedFloatText, W.Button,
                                                          W.BoundedIntText, W.IntProgress))]  # fmt: skip
    assert len(asked) == len(shown.controls) + 4 and all(c.description for c in asked)
    sliders = [c for c in asked if isinstance(c, W.SelectionSlider)]
    assert [shown.controls[name] for name in KNOBS] == sliders  # as they stand on the page
    assert shown.announcer.names == list(KNOBS.values())


def test_the_bundle_has_a_picture_and_words(shown):
    data, _ = shown._repr_mimebundle_()
    assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG\r\n\x1a\n")
    assert " ".join(data["text/plain"].split()) == link_alt(shown.seen)
    assert max(map(len, data["text/plain"].splitlines())) <= 72
    assert "application/vnd.jupyter.widget-view+json" in data
