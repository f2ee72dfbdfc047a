"""skip=: both sides guess alike, nothing but control crosses for a skipped call, and it is all in the ledger."""

from __future__ import annotations

from functools import cache

import diffusers
import numpy as np
import pytest
import torch

import lsplit_kit as lk
from lsplit_kit import errors as e
from lsplit_kit.models.toy_pipes import toy_pipe_call
from lsplit_kit.split.skipping import Past, asked_of

torch.set_num_threads(1)
pytestmark = [pytest.mark.timeout(120), pytest.mark.filterwarnings("ignore::FutureWarning")]
STEPS = 20
DELTA = "uniform:step=0.1+delta+ans"


@cache
def apple():
    pipe = lk.load("emoji-ldm")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@cache
def toy():
    pipe = lk.load("toy-sd")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe, prompt="a red apple", steps=STEPS, seed=0, **more):
    call = dict(num_inference_steps=steps, guidance_scale=3.0, generator=torch.Generator().manual_seed(seed))
    kind = "np" if pipe.vae is apple().vae else "latent"
    return np.asarray(pipe(prompt, output_type=kind, **call | more).images[0])


def tapped(pipe, **call):
    with lk.tap(pipe) as wire:
        image = draw(pipe, **call)
    return image, wire


def skipped(wire):
    """Which calls (1, 2, ...) the host did not compute."""
    rows = wire.ledger()
    return sorted(set(rows[rows.kind == "skipped"].step))


def psnr(a, b):
    return 10 * np.log10(1 / np.square(a - b).mean())


def split(pipe=None, **more):
    return lk.split(pipe or toy(), **dict(mode="lockstep", body="loopback") | more)


# -- what it saves ---------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["per_step", "lockstep"])
@pytest.mark.parametrize(("skip", "saved"), [(0.2, 4), (0.4, 8), ("auto", 7)])
def test_calls_are_saved_and_the_picture_is_near(mode, skip, saved):
    image, wire = tapped(split(apple(), mode=mode, skip=skip))
    found = skipped(wire)
    assert len(found) == saved if skip != "auto" else len(found) >= saved
    assert {1, 2, STEPS}.isdisjoint(found) and all(b - a > 1 for a, b in zip(found, found[1:], strict=False))
    assert psnr(image, draw(apple())) > 40


@pytest.mark.parametrize("skip", [None, 0, 0.0])
def test_without_skip_nothing_is_skipped(skip):
    image, wire = tapped(split(skip=skip), steps=4)
    assert np.array_equal(image, draw(toy(), steps=4)) and skipped(wire) == []


@pytest.mark.parametrize("skip", [0.4, "auto"])
def test_both_modes_and_every_link_draw_the_same(skip):
    """One decides here, the other at the host; one call at a time, or all in one flight."""
    ways = [dict(mode="per_step", guidance="host"), dict(body=None), dict()]
    (image, wire), *others = [tapped(split(apple(), skip=skip, **way)) for way in ways]
    assert all(np.array_equal(image, other) and skipped(wire) == skipped(tap) for other, tap in others)
    near, wire_near = tapped(split(apple(), skip=skip, guidance="local"))  # the same, but for the order of rounding
    assert skipped(wire_near) == skipped(wire) and psnr(near, image) > 80


@pytest.mark.parametrize("skip", [0.4, "auto"])
def test_over_a_real_host_only_control_crosses_for_a_skipped_call(skip):
    with lk.host("emoji-ldm") as host, split(apple(), skip=skip, body=host.address) as pipe:
        image, wire = tapped(pipe)
    assert np.array_equal(image, tapped(split(apple(), skip=skip))[0])
    rows = wire.ledger()
    rows = rows[rows.kind == "skipped"]
    assert set(rows.name) == {"timestep", ""} and rows[rows.direction == "down"].payload.sum() == 0
    assert rows.frame.max() < 400 and (rows.frame > 0).all()
    assert wire.round_trips() == 3 and wire.counters()["stream"] == tuple(wire.totals().frame)


def test_in_per_step_a_skipped_call_has_rows_without_bytes():
    _, wire = tapped(split(mode="per_step", skip=0.4))
    rows = wire.ledger()
    rows = rows[rows.kind == "skipped"]
    assert len(rows) == 16 and rows.frame.sum() == 0 and wire.round_trips() == 12 + 2


# -- both sides have the same latent ---------------------------------------------------------------


@pytest.mark.parametrize("guidance", ["host", "local"])
@pytest.mark.parametrize("down", ["int8", DELTA])
@pytest.mark.parametrize("scheduler", ["DDIMScheduler", "DPMSolverMultistepScheduler"])
def test_the_hosts_latent_is_ours_at_every_step(scheduler, down, guidance):
    pipe = split(codec=("fp32", down), guidance=guidance, body=None, skip=0.4)
    pipe.scheduler = getattr(diffusers, scheduler).from_config(toy().scheduler.config)
    ours, theirs = [], []

    def note(p, step, t, kwargs):
        ours.append(kwargs["latents"].clone())
        theirs.append(next(iter(p.link.body.sessions.values())).run.latent.clone())  # before it steps
        return {}

    _, wire = tapped(pipe, callback_on_step_end=note)
    assert all(torch.equal(mine, host) for mine, host in zip(ours, theirs[1:], strict=False)) and len(ours) == STEPS
    assert len(skipped(wire)) == 8


def test_a_predicting_codec_goes_on_after_a_skipped_call():
    """What is not sent is no past to predict from, on either side: bytes a call do not grow."""
    sizes = []
    for skip in (None, 0.4):
        _, wire = tapped(split(apple(), codec=("fp32", DELTA), skip=skip))
        rows = wire.ledger()
        sizes.append(rows[rows.name == "out"].payload.tolist())
    assert sizes[0][:2] == sizes[1][:2] and len(sizes[1]) == 12 and sum(sizes[1]) < sum(sizes[0])


def test_two_pictures_in_a_row_are_the_same():
    pipe = split(skip="auto", codec=("fp32", DELTA))
    images = [draw(pipe) for _ in range(2)]
    assert np.array_equal(*images) and np.isfinite(images[0]).all()


# -- where nothing is skipped ----------------------------------------------------------------------


def at_step(number, do):
    return lambda pipe, step, t, kwargs: (do(pipe, kwargs) or {}) if step == number else {}


def test_an_edited_latent_is_never_skipped():
    """The host has to hear of it; the two calls after it are computed as well, for its memory begins anew."""
    edit = at_step(6, lambda pipe, kwargs: {"latents": kwargs["latents"] * 0.99})
    _, wire = tapped(split(skip=0.4), callback_on_step_end=edit)
    assert not {8, 9} & set(skipped(wire)) and len(skipped(wire)) >= 6


@pytest.mark.parametrize("mode", ["per_step", "lockstep"])
def test_texts_that_change_are_no_past_to_guess_from(mode):
    def other(pipe, kwargs):
        return {"prompt_embeds": kwargs["prompt_embeds"].flip(0)}

    call = dict(callback_on_step_end=at_step(6, other), callback_on_step_end_tensor_inputs=["latents", "prompt_embeds"])
    found = skipped(tapped(split(mode=mode, skip=0.4), **call)[1])
    assert not {8, 9} & set(found) and len(found) >= 6


def test_a_lost_session_computes_the_next_two():
    def evict(pipe, kwargs):
        pipe.link.body.sessions.clear()

    _, wire = tapped(split(skip=0.4), callback_on_step_end=at_step(6, evict))
    rows = wire.ledger()
    assert set(rows[rows.kind == "replay"].step) <= {8, 9} and not {8, 9} & set(skipped(wire))


def test_a_pipeline_that_calls_twice_a_step_skips_nothing():
    pipe = lk.split(lk.load("toy-flux"), mode="per_step", skip="auto")
    call = dict(prompt="a red apple", num_inference_steps=5, output_type="latent") | toy_pipe_call("toy-flux")
    with lk.tap(pipe) as wire:
        pipe(**call, true_cfg_scale=2.0, negative_prompt="blurry", generator=torch.Generator().manual_seed(0))
    assert skipped(wire) == [] and len(set(wire.ledger().step) - {0}) == 10


# -- what it takes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("skip", [-0.1, 0.6, 1, True, False, "often", float("nan"), (0.2,), b"auto"])
def test_what_is_no_share(skip):
    with pytest.raises(e.UnsupportedOption, match="skip takes"):
        split(skip=skip)


def test_only_a_whole_denoiser_is_skipped():
    with pytest.raises(e.UnsupportedOption, match="whole denoiser"):
        lk.split(apple(), at="blocks", head=1, tail=1, skip=0.2)
    with pytest.raises(e.UnsupportedOption, match="skip= are for pictures"):
        lk.split("toy-llama", skip=0.2)


@pytest.mark.parametrize("calls", [0, 1, 3, 4, 5, 10, 20, 50])
@pytest.mark.parametrize("share", [0.1, 0.25, 0.4, 0.5])
def test_a_share_is_spread_and_leaves_the_ends(share, calls):
    found = [i for i in range(calls) if asked_of(share, i, calls)]
    assert all(2 <= i < calls - 2 for i in found) and all(b - a > 1 for a, b in zip(found, found[1:], strict=False))
    assert len(found) == max(0, min(round(share * calls), (calls - 3) // 2))


def test_a_guess_is_on_the_line_through_the_last_two():
    past = Past()
    past.add(3, torch.tensor([1.0]))
    assert not past.skips(4, True)
    past.add(5, torch.tensor([2.0]))
    assert past.skips(6, True) and not past.skips(7, True) and past.guess(6).tolist() == [2.5]
    past.add(6, torch.tensor([4.0]))
    assert past.guess(7).tolist() == [6.0] and past.skips(7, 0.6) and not past.skips(7, 0.5)


@pytest.mark.parametrize("asked", ["auto", -0.1, float("nan"), float("inf"), [], {}])
def test_a_question_that_is_none(asked):
    with pytest.raises(e.FrameError):
        Past().skips(0, asked)
