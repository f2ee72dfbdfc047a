"""Attacks on pictures: exact where the theory is, refused to observers who see too little, measured by the truth."""

from __future__ import annotations

import dataclasses
import math
import sys
from functools import cache
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from sklearn.base import clone

import lsplit_kit as lk
from lsplit_kit import errors as e
from lsplit_kit import figures
from lsplit_kit.attacks import pictures as A
from lsplit_kit.attacks.pictures.clock import Clock
from lsplit_kit.attacks.pictures.guidance import said
from lsplit_kit.attacks.pictures.ladder import ladder, usual_attacks
from lsplit_kit.attacks.pictures.report import compared, correlation, psnr_of
from lsplit_kit.attacks.pictures.run import runs
from lsplit_kit.attacks.report import report

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))
from picture_attacks import decibels

torch.set_num_threads(1)
pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers"),
]
PROMPTS, SEEDS, STEPS, SCALE = ["a red apple", "octopus"], (3, 4), 3, 3.0
OWN = ["tulip emoji", "a rocket", "crab", "green heart", "a dog", "pizza"]
BETAS = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
ATTACKS = [
    A.CleanEstimate, A.ReplaySampler, A.OwnReplay, A.Telescope, A.FittedTelescope, A.HiddenInversion, A.MeanPicture,
]  # fmt: skip


@cache
def whole(name="emoji-ldm", scheduler=None, **config):
    pipe = lk.load(name)
    if scheduler:
        pipe.scheduler = getattr(diffusers, scheduler)(**{**BETAS, **config})
    return pipe


@cache
def known(name="emoji-ldm", scheduler=None, **config):
    return A.picture_knowledge(whole(name, scheduler, **config))


@cache
def taken(mode="per_step", codec=None, prompts=tuple(PROMPTS), steps=STEPS, name="emoji-ldm", scheduler=(), **cut):
    """A capture of the prompts; tests only look at it."""
    pipe = whole(name, *scheduler[:1], **dict(scheduler[1:]))
    split = lk.split(pipe, mode=mode, codec=codec, **cut)
    return A.record_picture(split, list(prompts), SEEDS[: len(prompts)], steps=steps, guidance_scale=SCALE)


def read(attack, capture, observer="cloud", knowledge=None):
    seen = capture.view(observer)
    return attack.fit(seen, knowledge or known()).reconstruct(seen)


def measured(attack, capture, observer="cloud", knowledge=None):
    return A.report_pictures(read(attack, capture, observer, knowledge), capture).row()


# -- one pair --------------------------------------------------------------------------------------


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("name", ["DDIMScheduler", "EulerDiscreteScheduler"])
def test_one_pair_gives_what_the_librarys_scheduler_calls_the_original_sample(name, prediction):
    more = dict(clip_sample=False, set_alpha_to_one=False) if name.startswith("DDIM") else {}
    scheduler = getattr(diffusers, name)(prediction_type=prediction, steps_offset=1, **BETAS, **more)
    clock = Clock(scheduler, 5)
    latent, out = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(1)) * 3
    for call in (0, 2, 4):
        fresh = clock.fresh_at(call)
        read_ = fresh.scale_model_input(latent, clock.times[call])
        theirs = fresh.step(out, clock.times[call], latent).pred_original_sample
        # Euler counts noise from the unscaled latent: x0 = x - sigma * eps is the same number
        assert torch.allclose(clock.clean(call, out, read_), theirs, rtol=1e-4, atol=1e-3), call


def test_one_pair_of_a_flow_is_the_end_of_its_straight_line():
    clock = Clock(diffusers.FlowMatchEulerDiscreteScheduler(), 4)
    clean, noise = torch.randn(2, 1, 4, 8, 8)
    signal, loud = clock.level(1)
    assert signal + loud == 1 and 0 < loud < 1
    assert torch.allclose(clock.clean(1, noise - clean, signal * clean + loud * noise), clean, atol=1e-5)


def test_the_estimate_becomes_better_with_every_step():
    found = read(A.CleanEstimate(), taken(steps=6))
    table = A.report_pictures(found, taken(steps=6), by_step=True).by_step()
    assert (table.correlation.diff()[1:] > 0).all() and table.correlation.iloc[-1] > 0.99
    assert (table.psnr.diff()[1:] > 0).all() and list(table.index) == list(range(6))


# -- the sampler again -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "codec"),
    [("per_step", None), ("lockstep", None), ("lockstep", "int8"), ("lockstep", "auto:image")],
)
@pytest.mark.parametrize(
    ("attack", "observer"), [(A.ReplaySampler(), "eavesdrop_both"), (A.OwnReplay(), "eavesdrop_up")]
)
def test_the_finished_latent_is_found_bit_for_bit(attack, observer, mode, codec):
    row = measured(clone(attack), taken(mode, codec), observer)
    assert (row["worst"], row["exact"], row["pictures"]) == (0.0, 1.0, 2)


@pytest.mark.parametrize("codec", ["int8", "auto:image"])
def test_what_was_rounded_on_its_way_up_is_nearly_found(codec):
    both = measured(A.ReplaySampler(), taken("per_step", codec))
    alone = measured(A.OwnReplay(), taken("per_step", codec), "eavesdrop_up")
    assert 40 < both["psnr"] < math.inf and 40 < alone["psnr"] < math.inf


@pytest.mark.parametrize(
    ("name", "config", "steps", "calls"),
    [
        ("EulerDiscreteScheduler", (), 4, 4),
        ("DPMSolverMultistepScheduler", (), 4, 4),
        ("PNDMScheduler", (("skip_prk_steps", True),), 4, 5),
        ("HeunDiscreteScheduler", (), 3, 5),
        ("DDIMScheduler", (("clip_sample", True), ("set_alpha_to_one", True)), 4, 4),
    ],
)
def test_every_deterministic_sampler_is_replayed(name, config, steps, calls):
    capture = taken("lockstep", steps=steps, name="toy-sd", scheduler=(name, *config))
    row = measured(A.ReplaySampler(), capture, "eavesdrop_both", known("toy-sd", name, **dict(config)))
    assert row["worst"] == 0.0 and runs(capture.view("cloud"))[0].calls == calls


def test_a_sampler_that_draws_is_not_replayed_but_one_pair_is_enough():
    capture = taken(name="toy-sd", scheduler=("DDPMScheduler", ("clip_sample", False)))
    knowledge = known("toy-sd", "DDPMScheduler", clip_sample=False)
    with pytest.raises(e.UnsupportedOption, match="draws random numbers"):
        read(A.ReplaySampler(guidance=SCALE), capture, "cloud", knowledge)
    assert measured(A.CleanEstimate(guidance=SCALE), capture, "cloud", knowledge)["correlation"] > 0.99


def test_skipped_calls_are_guessed_as_both_sides_guess_them():
    capture = A.record_picture(
        lk.split(whole(), mode="lockstep", codec="int8", skip=0.5), PROMPTS[:1], steps=8, guidance_scale=SCALE
    )
    assert any(c.kind == "skipped" for c in capture.crossings)
    assert measured(A.ReplaySampler(), capture)["worst"] == 0.0


def test_the_picture_is_the_one_that_the_library_draws():
    image = whole()(
        PROMPTS[0], num_inference_steps=STEPS, guidance_scale=SCALE, generator=torch.Generator().manual_seed(SEEDS[0])
    ).images[0]
    found = read(A.OwnReplay(), taken("lockstep"), "eavesdrop_up")
    assert np.array_equal(found.pictures[0], np.asarray(image))


# -- guidance --------------------------------------------------------------------------------------


def test_the_guidance_scale_is_said_in_lockstep_and_measured_otherwise():
    assert said(taken("lockstep").view("eavesdrop_up")) == SCALE
    assert said(taken("lockstep").view("eavesdrop_down")) is None
    assert "guidance" not in taken().manifest
    assert read(A.ReplaySampler(), taken()).notes["guidance"] == SCALE
    assert read(A.ReplaySampler(), taken(codec="int8")).notes["guidance"] == pytest.approx(SCALE, abs=0.05)
    assert read(A.ReplaySampler(guidance=5.0), taken()).notes["guidance"] == 5.0


# -- what comes down alone -------------------------------------------------------------------------


@pytest.mark.parametrize("to_one", [False, True])
def test_the_sum_of_noises_lacks_the_first_guess_only(to_one):
    config = (("clip_sample", False), ("set_alpha_to_one", to_one))
    capture = taken("lockstep", steps=6, name="toy-sd", scheduler=("DDIMScheduler", *config), prompts=("a",))
    knowledge = known("toy-sd", "DDIMScheduler", **dict(config))
    noises = [runs(capture.view("eavesdrop_down"))[0].outputs[call].double() for call in range(6)]
    first = read(A.CleanEstimate(step=0), capture, "cloud", knowledge).latents[0]
    kept = knowledge.model.scheduler.alphas_cumprod
    alphas = [float(kept[int(t)]) for t in Clock(knowledge.model.scheduler, 6).times]
    end = 1.0 if to_one else float(kept[0])
    s = [math.sqrt((1 - a) / a) for a in (*alphas, end)]
    total = first.double() + s[0] * noises[0][0]
    for j, noise in enumerate(noises):
        total = total + (s[j + 1] - s[j]) * noise[0]
    true = capture.sealed.open()["latent"][0].double()
    assert torch.allclose(math.sqrt(end) * total, true, rtol=1e-3, atol=1e-3 * float(true.abs().max()))
    whole_ = read(A.Telescope(mean=first), capture, "eavesdrop_down", knowledge).latents[0].double()
    bare = read(A.Telescope(), capture, "eavesdrop_down", knowledge).latents[0].double()
    assert torch.allclose(whole_, true, rtol=1e-3, atol=1e-3 * float(true.abs().max()))
    assert torch.allclose(true - bare, math.sqrt(end) * first.double(), atol=2e-3 * float(true.abs().max()))


def test_own_pictures_teach_better_weights_for_what_comes_down():
    knowledge, capture = known().but(text=OWN), taken("lockstep", steps=4)
    plain = measured(A.Telescope(), capture, "eavesdrop_down")
    taught = measured(A.FittedTelescope(pictures=6, guidance=SCALE), capture, "eavesdrop_down", knowledge)
    assert 0.5 < plain["correlation"] < taught["correlation"] < 1


def test_the_control_is_the_mean_of_own_pictures_wherever_the_cut_is():
    knowledge, control = known().but(text=OWN), A.MeanPicture(pictures=6, guidance=SCALE)
    cut = taken(prompts=("octopus",), steps=STEPS, at="blocks", head=1, tail=1)
    found = read(control, taken("lockstep"), "eavesdrop_down", knowledge)
    assert torch.equal(found.latents[0], found.latents[1]) and len(found.steps[0]) == STEPS
    assert torch.equal(read(control, cut, "eavesdrop_up", knowledge).latents[0], found.latents[0])
    blind = A.report_pictures(found, taken("lockstep")).row()["correlation"]
    seeing = measured(A.FittedTelescope(pictures=6, guidance=SCALE), taken("lockstep"), "eavesdrop_down", knowledge)
    assert blind < seeing["correlation"] - 0.2


# -- the prompt ------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", [None, "int8", "auto:image"])
def test_the_prompt_is_read_out_of_its_embeddings(codec):
    capture = taken("lockstep", codec)
    found = read(A.PromptMatch(), capture, "eavesdrop_up")
    assert A.prompts_exact(found, capture) == [True, True] and found.notes["verified"] == "2 of 2"
    assert found.texts(known().tokenizer) == PROMPTS
    assert report(found, capture).accuracy() == 1.0 and len(report(found, capture).counted) == 3 + 1


@pytest.mark.parametrize("codec", [None, "int8"])
def test_a_codec_that_is_not_known_is_not_run(codec):
    capture = taken("lockstep", codec)
    unheard_of = dataclasses.replace(capture, manifest={**capture.manifest, "up": "unheard-of"})
    found = read(A.PromptMatch(), unheard_of, "eavesdrop_up", known().but(codec=False))
    assert A.prompts_exact(found, capture) == [True, True] and found.notes["verified"] == "not checked"
    with pytest.raises(e.CodecError, match="unheard-of"):
        read(A.PromptMatch(), unheard_of, "eavesdrop_up")


def test_short_texts_of_the_attacker_are_enough_for_a_prompt():
    found = read(A.PromptMatch(), taken("lockstep"), "eavesdrop_up", known().but(text=OWN))
    assert found.texts(known().tokenizer) == PROMPTS


@pytest.mark.parametrize("codec", [None, "auto:image"])
def test_two_encoders_and_a_negative_prompt(codec):
    split = lk.split(whole("toy-sdxl"), codec=codec)
    capture = A.record_picture(split, ["a zebra!"], steps=1, guidance_scale=SCALE, negative_prompt="blurred")
    found = read(A.PromptMatch(), capture, "cloud", known("toy-sdxl"))
    assert A.prompts_exact(found, capture) == [True] and found.notes["negative prompts"] == "blurred"
    assert found.notes["rows"] == "layer -1"
    empty = read(A.PromptMatch(), taken(name="toy-sdxl", steps=1, codec=codec), "cloud", known("toy-sdxl"))
    assert A.prompts_exact(empty, taken(name="toy-sdxl", steps=1, codec=codec)) == [True, True]
    assert "negative prompts" not in empty.notes  # an empty one became zeros


def test_a_coarse_codec_makes_one_row_of_two_tokens_and_the_end_is_still_found():
    split = lk.split(whole(), codec="int4")
    capture = A.record_picture(split, ["happy face"], steps=1, guidance_scale=SCALE, negative_prompt="octopus")
    found = read(A.PromptMatch(), capture, "cloud")
    assert A.prompts_exact(found, capture) == [True]


def test_another_encoder_reads_nothing_and_says_so():
    with torch.random.fork_rng(devices=[]):
        other = lk.load("emoji-ldm")
        torch.manual_seed(0)
        for parameter in other.text_encoder.parameters():
            parameter.data.copy_(0.02 * torch.randn(parameter.shape))
    found = read(A.PromptMatch(), taken(prompts=("octopus",)), "cloud", A.picture_knowledge(other))
    assert A.prompts_exact(found, taken(prompts=("octopus",))) == [False] and found.notes["verified"] == "0 of 1"


def test_an_encoder_that_looks_ahead_is_not_matched():
    capture = A.record_picture(
        lk.split(whole("toy-pixart")), ["a"], steps=2, height=64, width=64, use_resolution_binning=False,
        clean_caption=False,
    )  # fmt: skip
    with pytest.raises(e.UnsupportedOption, match="looks ahead"):
        A.PromptMatch().fit(capture.view("cloud"), known("toy-pixart"))


# -- a cut inside ----------------------------------------------------------------------------------


def inside(k, observer="cloud", name="emoji-ldm", **options):
    capture = taken(prompts=("octopus",), steps=2, at="blocks", head=k, tail=k, name=name)
    found = read(A.HiddenInversion(**options), capture, observer, known(name))
    return found, A.report_pictures(found, capture)


def test_hidden_tensors_give_the_latent_back_as_long_as_they_have_more_values_than_it():
    found, shallow = inside(0, iterations=40)
    _, deeper = inside(1, iterations=60)
    _, deepest = inside(2, iterations=60, joint=False, guidance=SCALE)
    levels = [r.by_step().read_psnr.iloc[-1] for r in (shallow, deeper, deepest)]
    assert levels[0] > 100 and 40 < levels[1] < levels[0] and 10 < levels[2] < 30
    assert shallow.row()["psnr"] > 60 and found.notes["guidance"] == SCALE


def test_two_calls_together_say_what_one_leaves_open():
    _, alone = inside(2, iterations=50, joint=False, guidance=SCALE)
    found, together = inside(2, iterations=50)
    levels = [r.by_step().read_psnr.iloc[-1] for r in (alone, together)]
    assert levels[1] > levels[0] + 3 and found.notes["guidance"] == pytest.approx(SCALE, abs=1)


def test_the_uplink_of_a_cut_inside_is_enough():
    _, alone = inside(0, "eavesdrop_up", iterations=40)
    assert alone.row()["psnr"] > 60


def test_a_linear_decoder_of_patches_is_exact_behind_conv_in_and_not_behind_a_block():
    _, exact = inside(0, iterations=0, queries=64)
    _, rough = inside(1, iterations=0, queries=128, guidance=SCALE)
    psnr = [r.by_step().read_psnr.mean() for r in (exact, rough)]
    assert psnr[0] > 60 and 15 < psnr[1] < 40


def test_attacks_are_told_apart_by_the_cut():
    cut = taken(prompts=("octopus",), steps=2, at="blocks", head=1, tail=1)
    with pytest.raises(e.UnsupportedOption, match="use HiddenInversion"):
        read(A.ReplaySampler(), cut)
    with pytest.raises(e.UnsupportedOption, match="cut inside"):
        read(A.HiddenInversion(), taken())
    with pytest.raises(e.UnsupportedOption, match="does not see what goes up"):
        read(A.HiddenInversion(), cut, "eavesdrop_down")


# -- who may do what -------------------------------------------------------------------------------

MAY = {
    A.CleanEstimate: {"cloud", "eavesdrop_both"},
    A.ReplaySampler: {"cloud", "eavesdrop_both"},
    A.OwnReplay: {"cloud", "eavesdrop_both", "eavesdrop_up"},
    A.PromptMatch: {"cloud", "eavesdrop_both", "eavesdrop_up"},
    A.Telescope: {"cloud", "eavesdrop_both", "eavesdrop_down"},
}


@pytest.mark.parametrize("observer", ["cloud", "eavesdrop_both", "eavesdrop_up", "eavesdrop_down"])
@pytest.mark.parametrize("attack", MAY, ids=lambda attack: attack.__name__)
def test_an_attack_runs_for_those_who_see_what_it_reads(attack, observer):
    seen = taken().view(observer)
    if observer in MAY[attack]:
        assert attack().fit(seen, known()).knowledge_ is known()
    else:
        with pytest.raises(e.UnsupportedOption, match="does not see what goes"):
            attack().fit(seen, known())


@pytest.mark.parametrize(
    ("attack", "changes", "missing"),
    [
        (A.OwnReplay, dict(head="none"), "denoiser"),
        (A.OwnReplay, dict(tail="architecture"), "autoencoder"),
        (A.CleanEstimate, dict(tail="none"), "autoencoder"),
        (A.CleanEstimate, dict(model=None), "scheduler"),
        (A.PromptMatch, dict(head="architecture"), "text encoder"),
        (A.PromptMatch, dict(tokenizer=None), "tokenizer"),
        (A.FittedTelescope, {}, "text"),
    ],
)
def test_an_attack_refuses_to_run_without_what_it_needs(attack, changes, missing):
    with pytest.raises(e.NeedsKnowledge, match=missing):
        attack().fit(taken().view("cloud"), known().but(**changes))


def test_noises_and_the_autoencoder_are_enough_without_the_denoiser():
    assert measured(A.ReplaySampler(), taken("lockstep"), "eavesdrop_both", known().but(head="none"))["exact"] == 1.0


@pytest.mark.parametrize("attack", [*ATTACKS, A.PromptMatch], ids=lambda attack: attack.__name__)
def test_attacks_keep_scikit_learns_manners(attack):
    made = attack()
    assert clone(made).get_params() == made.get_params() and made.get_params()
    assert all(need in repr(made) for need in made.requires)
    with pytest.raises(e.NeedsKnowledge, match="was not fitted"):
        made.reconstruct(taken().view("cloud"))


def test_the_card_of_an_attack_says_both_directions():
    assert "reads what goes up and down" in repr(A.ReplaySampler())
    assert "reads what goes up;" in repr(A.OwnReplay()) and "reads what goes down;" in repr(A.Telescope())


def test_the_ladder_has_a_row_for_every_attack_that_may_run():
    without = ladder(taken("lockstep"), known())
    assert without[["attack", "observer"]].values.tolist() == [
        ["CleanEstimate", "cloud"], ["CleanEstimate", "cloud"], ["ReplaySampler", "cloud"],
        ["OwnReplay", "eavesdrop_up"], ["Telescope", "eavesdrop_down"],
    ]  # fmt: skip
    assert without.options.tolist() == ["step=0", "", "", "", ""] and without.exact.tolist() == [0, 0, 1, 1, 0]
    cut = taken(prompts=("octopus",), steps=2, at="blocks", head=1, tail=1)
    assert {type(attack) for attack in usual_attacks(cut)["cloud"]} == {A.HiddenInversion}


# -- captures and the truth ------------------------------------------------------------------------


def test_attacks_do_without_the_truth_and_the_report_does_not():
    bare = dataclasses.replace(taken("lockstep"), sealed=None)
    found, with_truth = read(A.ReplaySampler(), bare), read(A.ReplaySampler(), taken("lockstep"))
    assert all(map(torch.equal, found.latents, with_truth.latents))
    with pytest.raises(e.CaptureError, match="no truth of pictures"):
        A.report_pictures(found, bare)
    assert A.paint(bare, "cloud", known()).psnr is None


def test_one_picture_that_is_equal_does_not_speak_for_the_others():
    capture = taken("lockstep")
    found = read(A.ReplaySampler(), capture)
    off = found.latents[1] + torch.randn(found.latents[1].shape, generator=torch.Generator().manual_seed(0))
    half = dataclasses.replace(found, latents=[found.latents[0], off], pictures=[found.pictures[0], found.pictures[0]],
                               steps=[found.steps[0], torch.cat([found.steps[1][:-1], off[None]])])  # fmt: skip
    said = A.report_pictures(half, capture, by_step=True)
    alone = said.pictures.iloc[1]
    assert (said.row()["psnr"], said.row()["latent_psnr"]) == (alone.psnr, alone.latent_psnr)
    assert said.row()["exact"] == 0.5 and alone.psnr < 30 and "inf" not in repr(said)
    assert math.isinf(said.steps.psnr.max()) and said.by_step().psnr.max() < math.inf


def test_a_capture_keeps_the_truth_apart_and_comes_back_from_a_file(tmp_path):
    path = taken("lockstep").save(tmp_path / "run.lsplit")
    back = lk.Capture.load(path) if hasattr(lk, "Capture") else type(taken()).load(path)
    assert measured(A.ReplaySampler(), back)["exact"] == 1.0
    assert back.manifest["guidance"] == SCALE and "octopus" not in str(back.manifest)


def test_the_truth_is_what_the_pictures_were():
    truth = taken(steps=4).sealed.open()
    assert {name: tuple(t.shape) for name, t in truth.items() if t.dim() > 1} == {
        "latent": (2, 16, 8, 8), "picture": (2, 64, 64, 3), "reads": (2, 4, 16, 8, 8), "embeddings": (2, 16, 192),
    }  # fmt: skip
    assert truth["picture"].dtype == torch.uint8 and truth["stop"].tolist() == [4, 2]
    seen = runs(taken(steps=4).view("cloud"))[1]
    assert torch.equal(seen.inputs[2][0], truth["reads"][1, 2]) and torch.equal(seen.text[-1], truth["embeddings"][1])


@pytest.mark.parametrize(
    ("prompts", "seeds", "words"),
    [("octopus", 0, "list of prompts"), ([], 0, "list of prompts"), (["a"], (1, 2), "1 prompts and 2 seeds")],
)
def test_bad_prompts_and_seeds_get_a_sentence(prompts, seeds, words):
    with pytest.raises(e.UnsupportedOption, match=words):
        A.record_picture(lk.split(whole()), prompts, seeds)


def test_a_capture_without_pictures_gets_a_sentence():
    bare = dataclasses.replace(taken(), crossings=())
    with pytest.raises(e.UnsupportedOption, match="holds no picture"):
        runs(bare.view("cloud"))


def test_measures_on_pictures_that_are_known():
    black, grey = np.zeros((48, 48, 3), np.uint8), np.full((48, 48, 3), 51, np.uint8)
    assert compared(black, black) == (math.inf, 1.0)
    assert compared(grey, black)[0] == pytest.approx(20 * math.log10(5))
    ramp = torch.arange(10.0)
    assert psnr_of(ramp + 0.9, ramp) == pytest.approx(20.0) and psnr_of(ramp, ramp) == math.inf
    assert correlation(3 * ramp + 1, ramp) == pytest.approx(1) and correlation(-ramp, ramp) == pytest.approx(-1)


def test_the_median_is_infinite_where_most_are_equal_and_not_where_half_are():
    assert decibels([30.0, 40.0, 31.0]) == 31.0 and decibels([30.0, 40.0]) == 35.0
    assert decibels([math.inf, 30.0, math.inf, 28.0]) == 30.0
    assert decibels([math.inf, 30.0, math.inf]) is None


# -- what could be painted -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("observer", "attack"),
    [("cloud", "ReplaySampler"), ("eavesdrop_up", "OwnReplay"), ("eavesdrop_down", "Telescope")],
)
def test_every_observer_paints_step_by_step(observer, attack):
    strip = A.paint(taken("lockstep"), observer, known(), 1)
    assert strip.attack == attack and len(strip.pictures) == STEPS and strip.calls == [0, 1, 2]
    assert all(picture.dtype == np.uint8 and picture.shape == (64, 64, 3) for picture in strip.pictures)
    assert np.array_equal(strip.pictures[-1], strip.final)
    assert (strip.psnr[-1] == math.inf) == (observer != "eavesdrop_down")
    assert type(A.strongest(taken(), observer, known().but(text=OWN))).__name__ in (attack, "FittedTelescope")


def test_a_picture_that_is_not_there_gets_a_sentence():
    with pytest.raises(e.UnsupportedOption, match="there is no 2"):
        A.paint(taken(), "cloud", known(), 2)


def test_the_figure_shows_the_strip_beside_the_learners_picture():
    strips = [A.paint(taken("lockstep"), observer, known()) for observer in ("cloud", "eavesdrop_down")]
    shown = figures.painted(strips, most=2)
    assert len(shown.figure.layout.images) == 2 * 3 and shown.png == figures.painted(strips, most=2).png
    assert [shape.line.dash for shape in shown.figure.layout.shapes] == ["dash", "dash", "solid"] * 2
    words = [note.text for note in shown.figure.layout.annotations]
    assert words[:3] == [f"step 1: {strips[0].psnr[0]:.1f} dB", "step 3: equal", "the learner's"]
    assert "eavesdrop_down by Telescope" in shown.alt and "step 3: equal" in shown.alt
    bare = dataclasses.replace(strips[0], truth=None, psnr=None, ssim=None)
    alone = figures.painted(bare)
    assert len(alone.figure.layout.images) == STEPS and "the learner's" not in alone.alt
    with pytest.raises(ValueError, match="at least one strip"):
        figures.painted([])
