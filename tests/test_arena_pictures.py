"""The picture tab of AttackArena without a front end, and the recordings behind it: files, figures, refusals, menus."""

import base64
import json
import math
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

import lsplit_kit as lk
from lsplit_kit import data
from lsplit_kit.attacks import pictures as A
from lsplit_kit.attacks.attack import Cost
from lsplit_kit.attacks.pictures import recorded as R
from lsplit_kit.attacks.pictures.painted import Strip
from lsplit_kit.errors import CaptureError, UnsupportedOption
from lsplit_kit.figures.painting import canvas_alt
from lsplit_kit.wire.view import OBSERVERS

torch.set_num_threads(1)
RECORDINGS = data.picture_captures()
NAMES = [recording.name for recording in RECORDINGS]
LARGEST = 1_000_000  # bytes of all recordings of pictures
PNG = b"\x89PNG\r\n\x1a\n"
LOCKSTEP = "emoji-ldm.lockstep.int8"


@pytest.fixture
def panel():
    return lk.AttackArena(tab="pictures")


def html(widget):
    """What is on the page as XML: pictures are the only elements without an end."""
    before, *images = widget.value.split("<img ")
    closed = before + "".join("<img " + part.replace(">", "/>", 1) for part in images)
    return ElementTree.fromstring(f"<div>{closed}</div>")


# Recordings


def test_recordings_are_listed_by_name_and_small():
    assert [(r.mode, r.depth) for r in RECORDINGS] == [
        ("lockstep", None), ("per_step", None), ("per_step", 1), ("per_step", 2),
    ]  # fmt: skip
    assert [r.name for r in RECORDINGS if r.path] == [LOCKSTEP, "emoji-ldm.inside-1.int8"]
    assert sum(path.stat().st_size for path in RECORDINGS[0].reports.parent.iterdir()) < LARGEST
    with pytest.raises(UnsupportedOption, match="no recording 'sdxl'.*emoji-ldm.lockstep"):
        data.picture_capture("sdxl")


@pytest.mark.parametrize("name", NAMES)
def test_strips_are_of_the_attacks_that_fit_the_cut(name):
    found = R.recorded_pictures(name)
    inside = found.about.depth is not None
    wanted = {attack for attack, cls in R.PAINTERS.items() if cls.inside is None or cls.inside == inside}
    assert set(found.strips) == wanted == set(found.costs)
    for several in found.strips.values():
        for strip in several:
            assert len(strip.pictures) == len(strip.psnr) == len(strip.ssim) == len(strip.calls) == 8
            assert all(picture.shape == strip.truth.shape == (64, 64, 3) for picture in strip.pictures)
    assert [row.exact for row in found.prompts] == [True, True]
    assert [row.read for row in found.prompts] == [row.prompt for row in found.prompts]


@pytest.mark.parametrize("name", NAMES)
def test_every_attack_beats_the_one_that_looks_at_nothing(name):
    found = R.recorded_pictures(name)
    for number in range(len(found.prompts)):
        levels = {attack: several[number].psnr[-1] for attack, several in found.strips.items()}
        blind = levels.pop("MeanPicture")
        assert min(levels.values()) > blind + 2


def test_what_was_recorded_is_painted_again():
    found = R.recorded_pictures(LOCKSTEP)
    know = A.picture_knowledge(lk.load("emoji-ldm"))
    for attack in ("CleanEstimate", "ReplaySampler"):
        kept = found.strip(attack, "cloud", 1)
        again = A.paint(found.capture, "cloud", know, 1, attack=R.PAINTERS[attack]())
        assert kept.psnr == pytest.approx(again.psnr, abs=0.01) and kept.ssim == pytest.approx(again.ssim, abs=1e-3)
        apart = np.abs(kept.pictures[3].astype(int) - again.pictures[3].astype(int))
        assert apart.mean() < 4  # of 255: few colours are kept


@pytest.mark.parametrize("observer", OBSERVERS)
@pytest.mark.parametrize("name", [LOCKSTEP, "emoji-ldm.inside-1.int8"])
def test_a_recorded_attack_is_refused_where_the_attack_refuses(name, observer):
    found = R.recorded_pictures(name)
    view = found.capture.view(observer)
    know = A.picture_knowledge(lk.load("emoji-ldm"), text=["a dog"])
    for attack, cls in R.PAINTERS.items():
        made = cls()
        made._fit = lambda view, knowledge, cls=cls: cls.fits(view.manifest["layers"][0])  # without drawing pictures
        said = []
        for run in (lambda made=made: made.fit(view, know), lambda attack=attack: found.strip(attack, observer)):
            try:
                run()
                said.append("")
            except UnsupportedOption as error:
                said.append(str(error))
        if all(said):  # who sees too little at the wrong cut hears either of the two reasons
            continue
        assert said[0] == said[1] == ""


def test_what_is_dumped_comes_back(tmp_path, monkeypatch):
    draw = np.random.default_rng(0)
    truth = np.repeat(draw.integers(0, 255, (4, 1, 3), np.uint8), 4, axis=1)
    strips = {"ReplaySampler": [Strip("cloud", "ReplaySampler", [255 - truth, truth], [0, 1], truth, truth,
                                      [3.14159, math.inf], [0.5, 1.0])]}  # fmt: skip
    rows = [R.ReadPrompt("octopus", "octopus", True, 0.1)]
    path = tmp_path / "toy.lockstep.int8.json"
    path.write_text(R.dumped_pictures(strips, {"ReplaySampler": Cost(1.0, 2.0)}, rows), "utf-8")
    about = data.PictureRecording("toy", "toy", "lockstep", None, "int8", None, path)
    monkeypatch.setattr(R, "picture_capture", lambda name: about)
    back = R.recorded_pictures.__wrapped__("toy")
    strip = back.strip("ReplaySampler", "cloud")
    assert np.array_equal(strip.truth, truth) and np.array_equal(strip.pictures[0], 255 - truth)
    assert strip.psnr == [3.14, math.inf] and strip.ssim == [0.5, 1.0]
    assert back.prompts == rows and back.costs["ReplaySampler"] == Cost(1.0, 2.0) and back.capture is None
    assert np.array_equal(strip.final, truth)
    with pytest.raises(UnsupportedOption, match="there is no 1"):
        back.strip("ReplaySampler", "cloud", 1)
    path.write_text(json.dumps({"sheets": []}), "utf-8")
    with pytest.raises(CaptureError, match="no readable pictures"):
        R.recorded_pictures.__wrapped__("toy")


# The panel


def test_every_number_is_the_recordings(panel):
    tab = panel.pictures
    tab.attack, tab.observer, tab.number, tab.step = "Telescope", "eavesdrop_down", 2, 4
    strip = tab.found.strip("Telescope", "eavesdrop_down", 1)
    (seen,) = [e for e in html(tab.charts).iter("p") if e.get("class") == "paint-figures"]
    assert float(seen.get("data-psnr")) == pytest.approx(strip.psnr[3]) and seen.get("data-step") == "4"
    assert float(seen.get("data-ssim")) == pytest.approx(strip.ssim[3])
    figures = list(html(tab.charts).iter("figure"))
    assert [f.get("class") for f in figures] == ["paint-theirs", "paint-ours", *["paint-frame"] * 8]
    assert [i for i, f in enumerate(figures[2:]) if f.get("aria-current") == "step"] == [3]
    assert all(f[0].get("alt") for f in figures) and "dashed" in figures[0][0].get("style")
    assert "solid" in figures[1][0].get("style")
    (now,) = [e for e in html(tab.table).iter("tr") if e.get("aria-current")]
    assert "Telescope" in now[0].text and f"{strip.psnr[-1]:.1f} dB" in now[1].text
    assert len(list(html(tab.table).iter("tr"))) == 1 + len(R.PAINTERS)


def test_a_message_from_the_page_moves_everything(panel):
    tab = panel.pictures
    assert "equal to the learner's" in panel.text and 'reads "a red apple"' in " ".join(panel.text.split())
    tab.controls["number"].set_state({"index": 1})
    assert tab.number == 2 and "octopus" in panel.text and panel.announcer.said == canvas_alt(tab.canvas)
    tab.controls["step"].set_state({"index": 0})
    assert tab.step == 1 and "after step 1 of 8" in panel.announcer.said
    tab.controls["observer"].set_state({"index": 3})
    assert "eavesdrop_down does not see what goes up" in panel.announcer.said
    tab.controls["attack"].set_state({"index": 5})
    assert "FittedTelescope by eavesdrop_down" in panel.announcer.said and "no prompt is read" in panel.announcer.said


def test_a_cut_inside_needs_its_own_attack(panel):
    tab = panel.pictures
    tab.recording = "emoji-ldm.inside-2.int8"
    assert "use HiddenInversion" in tab.charts.value and tab.charts.value.count("<img") == 0
    tab.attack = "HiddenInversion"
    assert tab.canvas.strip.psnr[-1] > 25 and "inside, 2 + 2 blocks local" in panel.text


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [("observer", "me", "Unknown observer 'me'"), ("attack", "Magic", "choose one of MeanPicture"),
     ("recording", 3, "Unknown recording 3"), ("number", 3, "choose one of 1, 2"), ("step", 0, "Unknown step 0"),
     ("step", True, "Unknown step True")],
)  # fmt: skip
def test_bad_settings_are_a_sentence(panel, name, value, sentence):
    before = getattr(panel.pictures, name)
    with pytest.raises(lk.LsplitError, match=sentence):
        setattr(panel.pictures, name, value)
    assert getattr(panel.pictures, name) == before


def test_tabs_are_chosen_by_name(panel):
    assert panel.tab == "pictures" and "ReplaySampler" in panel.text
    panel.tab = "text"
    assert "PrototypeLDA" in panel.text and "PrototypeLDA" in panel.announcer.said
    with pytest.raises(UnsupportedOption, match='tab takes "text" or "pictures", got 3'):
        panel.tab = 3
    with pytest.raises(UnsupportedOption, match="A live panel attacks text"):
        lk.AttackArena(live=True, model="toy-llama", tab="pictures")


def test_the_picture_of_the_tab_in_front_is_in_the_bundle(panel):
    bundle, metadata = panel._repr_mimebundle_()
    png = base64.b64decode(bundle["image/png"])
    assert png == panel.pictures.png and png.startswith(PNG) and bundle["text/plain"] == panel.text
    assert 2 * metadata["image/png"]["width"] == int.from_bytes(png[16:20], "big")
    whole = panel.pictures.png
    panel.pictures.step = 1
    assert len(panel.pictures.png) < len(whole)  # one picture beside the learner's
    panel.pictures.observer = "eavesdrop_down"
    assert panel.pictures.png.startswith(PNG) and max(map(len, panel.text.splitlines())) <= 72
