"""CacheLab without a front end: numbers of the measures, steps, messages from the page, sentences and bundles."""

import base64
from xml.etree import ElementTree

import pytest

import lsplit_kit as lk
from lsplit_kit import measure
from lsplit_kit.figures.cache_lab import caches_html, reply_alt
from lsplit_kit.figures.caches import caches_alt

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def toy():
    return lk.load("toy-llama")[0]


@pytest.fixture
def panel(toy):
    return lk.CacheLab(toy, prompt_tokens=6, new_tokens=12)


def controls(widget):
    for child in getattr(widget, "children", ()):
        yield child
        yield from controls(child)


def html(widget):
    return ElementTree.fromstring(f"<div>{widget.value}</div>")


def data(widget, mark):
    (found,) = [e for e in html(widget).iter("p") if e.get("class") == mark]
    return {name.removeprefix("data-"): value for name, value in found.items() if name.startswith("data-")}


def test_exported():
    assert "CacheLab" in lk.__all__ and lk.CacheLab.__module__ == "lsplit_kit.widgets.cache_lab"


@pytest.mark.parametrize("policy", ["none", "hidden", "kv"])
def test_every_number_of_the_table_is_the_measures(panel, policy):
    panel.policy, panel.prompt_tokens, panel.new_tokens = policy, 9, 40
    table = measure.cache_table(policy, 9, 40, 64)
    cells = [float(cell.get("data-value")) for cell in html(panel.charts).iter("td") if cell.get("data-value")]
    assert cells == pytest.approx(table.to_numpy().ravel().tolist(), rel=1e-12)
    ways, framed = (measure.reply_bytes(policy, 9, 40, 64, framed=f) for f in (False, True))
    assert (*table.loc["reply", "payload"][:3],) == (ways.up, ways.down, ways.both)
    assert table.loc[("reply", "frame"), "both"] == framed.both
    for way in ("up", "down", "both"):
        saved = table[f"saved {way}"]
        assert saved["last token", "payload"] == measure.token_reduction(policy, 9, 40)
        assert saved["reply", "frame"] == measure.reduction(policy, 9, 40, 64, 4, framed=True, way=way)
    point = data(panel.charts, "cache-point")
    assert (int(point["up"]), int(point["down"])) == ways
    assert float(point["saved"]) == pytest.approx(measure.reduction(policy, 9, 40), abs=1e-6)


def test_flops_are_those_of_this_models_body(toy):
    for head, tail in ((2, 2), (0, 1)):
        panel = lk.CacheLab(toy, head=head, tail=tail, prompt_tokens=5, new_tokens=8)
        size = measure.body_size(toy, head, tail)
        assert panel.reply.flops == {p: measure.body_flops(p, 5, 8, size) for p in ("none", "hidden", "kv")}
        assert [e.get("class") for e in html(panel.charts).iter("svg")] == ["cache-saving", "cache-flops"]


def test_a_half_precision_model_sends_half_the_bytes(toy):
    import copy

    import torch

    half = lk.CacheLab(copy.deepcopy(toy).to(torch.bfloat16), prompt_tokens=6, new_tokens=12)
    assert half.reply.vector == 128 and int(data(half.charts, "cache-point")["up"]) == 17 * 128


def test_a_message_from_the_page_moves_everything(panel):
    panel.controls["prompt_tokens"].set_state({"value": 30})
    panel.controls["new_tokens"].set_state({"value": 200})
    panel.controls["policy"].set_state({"index": 1})
    assert (panel.policy, panel.prompt_tokens, panel.new_tokens) == ("hidden", 30, 200)
    assert data(panel.charts, "cache-point")["up"] == str(229 * 256)
    assert panel.announcer.said == reply_alt(panel.reply)
    assert f"from {measure.reaches(30)} new tokens on" in panel.announcer.said


def test_steps_show_the_session_and_are_said(panel):
    told = measure.story("kv", 6, 12)
    assert (panel.step, panel.stepper.max, panel.play.max) == (1, len(told), len(told))
    for k, moment in enumerate(told):
        panel.step = k + 1
        seen = data(panel.caches, "cache-now")
        shown = (moment.what, *map(str, (moment.local, moment.host, moment.vectors)))
        assert tuple(seen[name] for name in ("what", "local", "host", "vectors")) == shown
        assert panel.caches.value == caches_html(panel.reply, k) and panel.play.value == k + 1
        assert k == 0 or panel.announcer.said == caches_alt(told, k, "kv")
    assert panel.step_of("rollback") == 6 and panel.step_of("replay") == 9


def test_the_animation_moves_the_step_and_is_not_read_out(panel):
    panel.play.playing = True
    panel.play.set_state({"value": 5})
    assert panel.step == 5 and data(panel.caches, "cache-now")["what"] == "draft" and panel.announcer.said == ""
    panel.play.playing = False
    panel.step = 6
    assert panel.announcer.said.startswith("Step 6 of 12, rollback")


def test_another_policy_keeps_the_step_and_another_length_keeps_it_inside(panel):
    panel.step = 9
    panel.policy = "none"
    assert panel.step == 9 and data(panel.caches, "cache-now")["what"] == "decode"
    panel.new_tokens = 2
    assert panel.step == panel.stepper.max == len(panel.reply.told) == len(measure.story("none", 6, 2))
    assert data(panel.caches, "cache-now")["local"] == str(panel.reply.told[-1].local)


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [("policy", "lru", "Unknown cache policy 'lru'; choose one of kv, hidden, none"), ("policy", 3, "cache policy 3"),
     ("prompt_tokens", 0, "prompt_tokens takes a whole number from 1 to 1,024, got 0"),
     ("new_tokens", 2.5, "new_tokens takes a whole number"), ("new_tokens", True, "got True"),
     ("step", 0, "step takes a whole number from 1 to 12, got 0"), ("step", 13, "from 1 to 12, got 13"),
     ("step", "2", "got '2'")],
)  # fmt: skip
def test_bad_settings_are_a_sentence(panel, name, value, sentence):
    before = getattr(panel, name)
    with pytest.raises(lk.LsplitError, match=sentence) as caught:
        setattr(panel, name, value)
    assert "\n" not in str(caught.value) and getattr(panel, name) == before


def test_bad_arguments_are_a_sentence(toy, panel):
    with pytest.raises(lk.LsplitError, match="leave no body"):
        lk.CacheLab(toy, head=3, tail=3)
    with pytest.raises(lk.LsplitError, match="Unknown cache policy 'all'"):
        lk.CacheLab(toy, policy="all")
    panel.new_tokens = 1
    with pytest.raises(lk.LsplitError, match="This session has no 'replay'; it has prefill"):
        panel.step_of("replay")


def test_a_name_is_loaded():
    assert lk.CacheLab("toy-llama").width == 64


def test_controls_have_descriptions_and_there_is_one_live_region(panel):
    found = [c for c in controls(panel) if "description" in c.trait_names() and c._view_name != "HTMLView"]
    assert len(found) == 5 and all(c.description and c.tooltip for c in found)
    assert [c for c in controls(panel) if hasattr(c, "said") and hasattr(c, "names")] == [panel.announcer]
    knobs = [c for c in controls(panel) if "cache-knob" in getattr(c, "_dom_classes", ())]
    assert len(knobs) == 3 and len(panel.announcer.names) == 3 + 3  # the play widget has three buttons
    assert "aria-live" not in panel.charts.value + panel.caches.value
    assert [e.get("aria-label") for e in html(panel.caches).iter("svg")] == [caches_alt(panel.reply.told, 0, "kv")]


def test_99_percent_is_not_said_without_counts(panel):
    for policy in ("none", "hidden", "kv"):
        panel.policy = policy
        for sentence in " ".join(panel.text.split()).split(". "):
            assert "99" not in sentence or "new tokens" in sentence
    assert "less than" not in lk.CacheLab(panel.model, policy="none").text


def test_bundle_has_widget_picture_and_sentence(panel):
    bundle, metadata = panel._repr_mimebundle_()
    png = base64.b64decode(bundle["image/png"])
    assert png.startswith(PNG) and png == base64.b64decode(panel._repr_mimebundle_()[0]["image/png"])
    assert 2 * metadata["image/png"]["width"] == int.from_bytes(png[16:20], "big")
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert bundle["text/plain"] == panel.text and max(map(len, panel.text.splitlines())) <= 72
    panel.step = 6
    assert base64.b64decode(panel._repr_mimebundle_()[0]["image/png"]) != png
