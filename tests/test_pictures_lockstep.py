"""Lockstep and the ledger of pictures: what both sides hold, what crosses and how often, what a lost host costs.

toy-sd: latents of 4 x 16 x 16 fp32 values, 4096 bytes; guidance doubles them, so two halves would be 8192.
"""

from __future__ import annotations

import copy
import json
import threading
import warnings
from functools import cache

import diffusers
import numpy as np
import pytest
import torch

import lsplit_kit as lk
from lsplit_kit import errors as e
from lsplit_kit.models.pictures import load_picture_body
from lsplit_kit.models.toy_pipes import toy_pipe_call
from lsplit_kit.quantization.auto import AUTO, About
from lsplit_kit.remote.server import StrictServer
from lsplit_kit.remote.service import service_of
from lsplit_kit.remote.token import write_token
from lsplit_kit.split.form import Packer
from lsplit_kit.split.trajectory import Trajectory, state_of, watch

torch.set_num_threads(1)
pytestmark = [pytest.mark.timeout(120), pytest.mark.filterwarnings("ignore::FutureWarning")]
LATENT, TIMESTEP, STEPS = 4 * 16 * 16 * 4, (8, 2), 4
PROMPT, SEED = "a red apple", 1234567


@cache
def whole(name="toy-sd"):
    return lk.load(name)


def draw(pipe, steps=STEPS, **more):
    call = dict(prompt=PROMPT, num_inference_steps=steps, output_type="latent")
    return torch.as_tensor(pipe(**call | dict(generator=torch.Generator().manual_seed(SEED)) | more).images)


def lockstep(**more):
    return lk.split(whole(), **dict(mode="lockstep", body="loopback") | more)


def tapped(pipe, **call):
    """(picture, ledger) of one picture."""
    with lk.tap(pipe) as wire:
        image = draw(pipe, **call)
    return image, wire.ledger()


def steps_of(ledger, name, direction="up"):
    """At which calls (1, 2, ...) a tensor of this name crossed."""
    return ledger[(ledger.name == name) & (ledger.direction == direction)].step.tolist()


def at_step(number, do):
    """A callback that acts once, after this step (0, 1, ...)."""

    def callback(pipe, step, t, kwargs):
        return (do(pipe, kwargs) or {}) if step == number else {}

    return callback


def edit(pipe, kwargs):
    return {"latents": kwargs["latents"] * 0.9}


def session_of(pipe):
    return next(iter(pipe.link.body.sessions.values()))


# -- the same latent on both sides -----------------------------------------------------------------


@pytest.mark.parametrize("guidance", ["host", "local"])
@pytest.mark.parametrize("down", ["int8", "int4"])
@pytest.mark.parametrize(
    "scheduler", ["DDIMScheduler", "DPMSolverMultistepScheduler", "HeunDiscreteScheduler", "PNDMScheduler"]
)
def test_both_sides_hold_the_same_latent_at_every_step(scheduler, down, guidance):
    """Whatever the down codec loses, both lose it: the host's latent is the pipeline's of one step before."""
    pipe = lockstep(codec=("fp32", down), guidance=guidance, body=None)
    pipe.scheduler = getattr(diffusers, scheduler).from_config(whole().scheduler.config)
    ours, theirs = [], []

    def note(pipe, step, t, kwargs):
        ours.append(kwargs["latents"].clone())
        theirs.append(session_of(pipe).run.latent.clone())  # before it steps with the noise of this call
        return {}

    draw(pipe, callback_on_step_end=note)
    assert len(ours) >= STEPS
    for step, (mine, host) in enumerate(zip(ours, theirs[1:], strict=False)):
        assert torch.equal(mine, host), f"after step {step}"


def test_int8_is_another_picture_but_a_near_one():
    exact, near = draw(lockstep()), draw(lockstep(codec=("fp32", "int8")))
    assert not torch.equal(exact, near)
    assert (exact - near).abs().max() < 0.1 * exact.abs().max()


# -- what crosses, and how often -------------------------------------------------------------------


def test_the_latent_goes_up_once_a_picture():
    image, ledger = tapped(lockstep())
    assert torch.equal(image, draw(whole()))
    assert steps_of(ledger, "latent") == [1] and steps_of(ledger, "sample") == []
    assert steps_of(ledger, "out", "down") == list(range(1, STEPS + 1))


@pytest.mark.parametrize("step", [0, 1, 2])
def test_an_edited_latent_goes_up_again_at_that_step_only(step):
    """A callback that edits after step n (from 0): call n + 2 (from 1) brings the latent."""
    call = dict(callback_on_step_end=at_step(step, edit))
    image, ledger = tapped(lockstep(), **call)
    assert torch.equal(image, draw(whole(), **call))
    assert steps_of(ledger, "latent") == [1, step + 2]


def test_inpainting_with_four_channels_sends_the_latent_at_every_step():
    """The pipeline puts the noised original back around the mask after every step."""
    image, mask = torch.linspace(0, 1, 3 * 128 * 128).reshape(1, 3, 128, 128), torch.zeros(1, 1, 128, 128)
    mask[..., :64] = 1
    inpaint = diffusers.AutoPipelineForInpainting.from_pipe(whole())
    call = dict(image=image, mask_image=mask, height=128, width=128, strength=1.0)
    _, ledger = tapped(lk.split(inpaint, mode="lockstep"), **call)
    assert steps_of(ledger, "latent") == list(range(1, STEPS + 1))


@pytest.mark.parametrize("mode", ["per_step", "lockstep"])
def test_text_embeddings_cross_once_a_picture(mode):
    """Then they have a handle; the next picture has a session of its own, and sends them again."""
    pipe = lockstep(mode=mode)
    for _ in range(2):
        _, ledger = tapped(pipe)
        assert steps_of(ledger, "encoder_hidden_states") == [1]


@pytest.mark.parametrize("guidance", ["host", "local"])
@pytest.mark.parametrize("mode", ["per_step", "lockstep"])
@pytest.mark.parametrize("down", ["fp32", "int8", "int4"])
def test_bytes_are_the_formulas(mode, guidance, down):
    """Up: a latent at every step, or once. Down: both halves, or the guided one. The doubled half never goes up."""
    _, ledger = tapped(lockstep(mode=mode, guidance=guidance, codec=("fp32", down)))
    halves = 2 if guidance == "local" else 1
    up = ledger[(ledger.direction == "up") & ledger.name.isin(["sample", "latent"])]
    assert (up.payload == LATENT).all() and len(up) == (STEPS if mode == "per_step" else 1)
    noise = ledger[ledger.name == "out"]
    each = {"fp32": LATENT * halves, "int8": LATENT // 4 * halves + 8, "int4": LATENT // 8 * halves + 8}[down]
    assert len(noise) == STEPS and (noise.payload == each).all() and (noise.tensor == LATENT * halves).all()
    times = ledger[ledger.name == "timestep"]
    assert len(times) == STEPS and (times.tensor == TIMESTEP[0]).all() and (times.payload <= TIMESTEP[1]).all()


def test_int8_downlink_is_a_quarter_of_fp32_and_eight_bytes():
    rows = {spec: tapped(lockstep(codec=("fp32", spec)))[1] for spec in ("fp32", "int8")}
    fp32, int8 = (rows[s][rows[s].direction == "down"].payload.sum() for s in ("fp32", "int8"))
    assert int8 == fp32 / 4 + 8 * STEPS


@pytest.mark.parametrize("mode", ["per_step", "lockstep"])
def test_a_later_call_costs_little_beside_its_tensors(mode):
    """The form crosses when it changes: from the third call on, a frame is its payload and under 200 bytes."""
    _, ledger = tapped(lockstep(mode=mode))
    calls = ledger[(ledger.kind == "step") & (ledger.step >= 3)].groupby(["direction", "step"])[["payload", "frame"]]
    sums = calls.sum()
    assert len(sums) == 2 * (STEPS - 2) and ((sums.frame - sums.payload) < 200).all(), sums


def test_a_first_call_costs_little_beside_its_tensors():
    """Names, shapes and the scheduler are text: compressed, and only what its class has otherwise."""
    _, ledger = tapped(lockstep())
    sums = ledger[(ledger.kind == "step") & (ledger.direction == "up")].groupby("step")[["payload", "frame"]].sum()
    assert ((sums.frame - sums.payload).loc[[1, 2]] < [450, 220]).all(), sums
    assert steps_of(ledger, "at") == []  # the step is made at the time of the last call


def test_a_time_that_is_not_the_last_calls_crosses():
    """SD3 gives its transformer one time for each row, and its scheduler one time."""
    pipe = lk.split(lk.load("toy-sd3"), mode="lockstep", body="loopback")
    with lk.tap(pipe) as wire:
        draw(pipe, **toy_pipe_call("toy-sd3"))
    assert steps_of(wire.ledger(), "at") == list(range(2, STEPS + 1))


@pytest.mark.parametrize(
    "name", ["DDIMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"]
)
def test_a_state_says_what_its_class_has_otherwise_and_no_more(name):
    scheduler = watch(getattr(diffusers, name)(beta_start=0.002, steps_offset=1))
    scheduler.set_timesteps(STEPS)
    state = state_of(scheduler)
    assert state["config"] == {"beta_start": 0.002, "steps_offset": 1}
    made = Trajectory(state, torch.zeros(1, 4, 2, 2)).scheduler
    assert dict(made.config) == dict(scheduler.config) and torch.equal(made.timesteps, scheduler.timesteps)


# -- what a host cannot follow ---------------------------------------------------------------------


def test_a_guidance_that_the_host_cannot_follow_warns_once_and_stays_exact():
    call = dict(guidance_rescale=0.7)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        image, ledger = tapped(lockstep(), **call)
    said = [w for w in said if "its latents go up at every step" in str(w.message)]
    assert len(said) == 1 and torch.equal(image, draw(whole(), **call))
    assert steps_of(ledger, "sample") == list(range(2, STEPS + 1))


STOCHASTIC = {
    "LCM": ("LCMScheduler", {}),
    "Euler ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "DDPM": ("DDPMScheduler", {}),
    "sde-DPM++": ("DPMSolverMultistepScheduler", dict(algorithm_type="sde-dpmsolver++")),
}


@pytest.mark.parametrize("case", STOCHASTIC)
def test_schedulers_that_draw_random_numbers(case):
    """Refused in lockstep, at the split and when swapped in later; exact in per_step."""
    name, options = STOCHASTIC[case]
    drawn = type(whole())(**whole().components, requires_safety_checker=False)
    drawn.scheduler = getattr(diffusers, name).from_config(whole().scheduler.config, **options)
    assert torch.equal(draw(drawn), draw(lk.split(drawn, mode="per_step")))
    with pytest.raises(e.UnsupportedOption, match="draws random numbers"):
        lk.split(drawn, mode="lockstep")
    later = lockstep()
    later.scheduler = drawn.scheduler
    with pytest.raises(e.UnsupportedOption, match="draws random numbers"):
        draw(later)


def test_ddim_with_eta_draws_random_numbers():
    with pytest.raises(e.UnsupportedOption, match="eta"):
        draw(lockstep(), eta=0.5)
    assert torch.equal(draw(whole(), eta=0.5), draw(lockstep(mode="per_step"), eta=0.5))


# -- a host that forgets ---------------------------------------------------------------------------


def evict(pipe, kwargs):
    pipe.link.body.sessions.clear()


def forget_the_run(pipe, kwargs):
    session_of(pipe).run = None


def new_epoch(pipe, kwargs):
    pipe.link.body.sessions.clear()
    pipe.link.epoch += 1


@pytest.mark.parametrize(
    ("scheduler", "step"), [("DDIMScheduler", 0), ("DPMSolverMultistepScheduler", 2), ("PNDMScheduler", 2)]
)
@pytest.mark.parametrize("lose", [evict, forget_the_run, new_epoch])
def test_what_a_host_forgets_in_lockstep_is_sent_again(lose, scheduler, step):
    """The picture is bit-equal, whatever the scheduler remembers of earlier noises; the ledger says "replay"."""
    pipe, plain = lockstep(), type(whole())(**whole().components, requires_safety_checker=False)
    for p in (pipe, plain):
        p.scheduler = getattr(diffusers, scheduler).from_config(whole().scheduler.config)
    image, ledger = tapped(pipe, callback_on_step_end=at_step(step, lose))
    assert torch.equal(image, draw(plain))
    again = ledger[ledger.kind == "replay"]
    assert len(set(again.step)) == 1 and {"latent", "encoder_hidden_states", "out"} <= set(again.name)


@pytest.mark.parametrize("cut", [dict(mode="per_step"), dict(mode="per_step", at="blocks", head=1, tail=1)], ids=str)
def test_what_a_host_forgets_in_per_step_is_sent_again(cut):
    image, ledger = tapped(lockstep(**cut), callback_on_step_end=at_step(1, evict))
    assert torch.equal(image, draw(whole()))
    assert "encoder_hidden_states" in set(ledger[ledger.kind == "replay"].name)


class Served:
    """A real socket and protocol over toy-sd's denoiser, in this process: it can end and come back at its port."""

    token = bytes(range(32))

    def __init__(self):
        self.body, self.port = load_picture_body("toy-sd"), 0
        self.start()

    def start(self):
        self.server = StrictServer(service_of(self.body), self.token, "127.0.0.1", self.port)
        self.port, self.path = self.server.port, write_token("127.0.0.1", self.server.port, self.token)
        self.server.listener.listen(8)
        self.thread = threading.Thread(target=self.server.start, daemon=True)
        self.thread.start()
        self.address = self.server.address

    def stop(self):
        self.server.close()
        self.thread.join(10)
        self.path.unlink(missing_ok=True)

    def restart(self, *_):
        self.stop()
        self.start()


@pytest.fixture(scope="module")
def served():
    host = Served()
    yield host
    host.stop()


@pytest.mark.parametrize("mode", ["per_step", "lockstep"])
def test_a_host_that_dies_and_returns_between_two_steps(served, mode):
    """Before later calls are under way: their answers may be here when the host dies."""
    pipe = lockstep(mode=mode, body=served.address)
    image, ledger = tapped(pipe, callback_on_step_end=at_step(0, served.restart))
    pipe.close()
    assert torch.equal(image, draw(whole()))
    assert "replay" in set(ledger.kind)


# -- ledger, socket, capture -----------------------------------------------------------------------

WAYS = {
    "per_step": dict(mode="per_step"),
    "lockstep": dict(mode="lockstep", codec=("fp32", "int8")),
    "blocks": dict(mode="per_step", at="blocks", head=1, tail=1),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_ledger_reconciles_with_the_socket(served, way):
    """Frames add up to what the stream counted, and TCP where the kernel tells; payload is never above its frame."""
    pipe = lockstep(body=served.address, **WAYS[way])
    with lk.tap(pipe) as wire:
        draw(pipe)
        draw(pipe)
    pipe.close()
    sums, counted = wire.totals(), wire.counters()
    assert counted["stream"] == tuple(sums["frame"])
    assert counted.get("tcp") in (None, tuple(sums["frame"]))
    assert (sums["payload"] < sums["frame"]).all() and (sums["payload"] <= sums["tensor"]).all()


@pytest.mark.parametrize("way", WAYS)
def test_loopback_frames_are_the_real_ones(served, way):
    rows = []
    for body in ("loopback", served.address):
        pipe = lockstep(body=body, **WAYS[way])
        ledger = tapped(pipe)[1]
        rows.append(ledger[ledger.kind == "step"][["name", "direction", "shape", "payload", "frame"]])
        pipe.close()
    assert rows[0].reset_index(drop=True).equals(rows[1].reset_index(drop=True))


def test_in_process_nothing_is_framed():
    _, ledger = tapped(lockstep(body=None))
    assert (ledger.frame == 0).all() and ledger.payload.sum() > 0


@pytest.mark.parametrize("way", WAYS)
def test_a_capture_keeps_names_and_tensors_but_neither_prompt_nor_seed(way, tmp_path):
    pipe = lockstep(**WAYS[way])
    with lk.tap(pipe) as wire:
        draw(pipe)
    path = wire.save(tmp_path / "apple.lsplit", truth={"seed": torch.tensor([SEED])})
    capture = lk.Capture.load(path)
    assert capture.ledger().equals(wire.ledger())
    assert [c.data for c in capture.crossings] == [c.data for c in wire.crossings]
    shapes = {"up": {"latent", "sample"}, "down": {"out"}}
    for direction, names in shapes.items():
        crossed = [c.shape for c in wire.crossings if c.direction == direction and c.name in names]
        assert crossed and [tuple(t.shape) for t in capture.tensors(direction)] == crossed
    raw = path.read_bytes()
    for secret in (PROMPT.encode(), str(SEED).encode(), SEED.to_bytes(8, "little"), b"prompt", b"generator"):
        assert secret not in raw
    assert capture.manifest["policy"] == pipe.remote.policy


def test_a_captured_noise_is_what_the_pipeline_had(tmp_path):
    """Without guidance and with one step, latent and noise in the file give the picture that came out."""
    pipe = lockstep(mode="per_step", guidance="local")
    with lk.tap(pipe) as wire:
        image = draw(pipe, steps=1, guidance_scale=1.0)
    capture = lk.Capture.load(wire.save(tmp_path / "one.lsplit"))
    (latent,), (noise,) = capture.tensors("up"), capture.tensors("down")
    scheduler = type(whole().scheduler).from_config(whole().scheduler.config)
    scheduler.set_timesteps(1)
    made = scheduler.step(noise, scheduler.timesteps[0], latent).prev_sample
    assert np.array_equal(made.numpy(), image.numpy())


def test_a_scheduler_that_others_use_stays_as_it_is():
    """Assigned to a lockstep split, it is watched in a copy: the pipeline it came from, and other splits, go on."""
    mine = type(whole())(**whole().components, requires_safety_checker=False)
    mine.scheduler = diffusers.DPMSolverMultistepScheduler.from_config(whole().scheduler.config)
    kind, want = type(mine.scheduler), draw(mine)
    first, second, other = lockstep(), lockstep(), lockstep(mode="per_step")
    for pipe in (first, second, other):
        pipe.scheduler = mine.scheduler
        assert torch.equal(draw(pipe), want)
    assert type(mine.scheduler) is kind and torch.equal(draw(mine), want)


def test_a_split_pipeline_closes_itself():
    with lockstep() as pipe:
        draw(pipe, steps=1)
    with pytest.raises(e.LsplitError):
        draw(pipe, steps=1)


# -- prediction from step to step ------------------------------------------------------------------

DELTA = "uniform:step=0.1+delta+ans"


@pytest.mark.parametrize("guidance", ["host", "local"])
@pytest.mark.parametrize("scheduler", ["DDIMScheduler", "DPMSolverMultistepScheduler"])
def test_a_predicting_codec_keeps_both_sides_on_one_latent(scheduler, guidance):
    pipe = lockstep(codec=("fp32", DELTA), guidance=guidance, body=None)
    pipe.scheduler = getattr(diffusers, scheduler).from_config(whole().scheduler.config)
    ours, theirs = [], []

    def note(pipe, step, t, kwargs):
        ours.append(kwargs["latents"].clone())
        theirs.append(session_of(pipe).run.latent.clone())
        return {}

    draw(pipe, callback_on_step_end=note)
    assert all(torch.equal(mine, host) for mine, host in zip(ours, theirs[1:], strict=False)) and len(ours) == STEPS


@pytest.mark.parametrize("mode", ["per_step", "lockstep"])
def test_two_pictures_have_nothing_to_do_with_each_other(mode):
    pipe, found = lockstep(mode=mode, codec=("fp32", DELTA)), []
    for _ in range(2):
        with lk.tap(pipe) as wire:
            draw(pipe)
        found.append([c.data for c in wire.crossings if c.name == "out"])
    assert found[0] == found[1] and len(found[0]) == STEPS


@pytest.mark.parametrize("mode", ["per_step", "lockstep"])
def test_a_predicted_noise_costs_less_than_the_first(mode):
    image, ledger = tapped(lockstep(mode=mode, codec=("fp32", DELTA)), steps=12)
    down = ledger[ledger.name == "out"].payload.tolist()
    assert max(down[4:]) < down[0] and (image - draw(whole(), steps=12)).abs().max() < 0.2 * image.abs().max()


@pytest.mark.parametrize("lose", [evict, new_epoch])
def test_a_lost_session_begins_prediction_anew(lose):
    pipe = lockstep(codec=("fp32", DELTA))
    _, ledger = tapped(pipe, callback_on_step_end=at_step(1, lose))
    out = ledger[ledger.name == "out"]
    assert len(out) == STEPS and set(out.kind) == {"step", "replay"}


def test_a_capture_decodes_what_was_predicted(tmp_path):
    pipe, seen = lockstep(mode="per_step", codec=("fp32", DELTA)), []
    own = pipe.unet.forward

    def watched(*args, **kwargs):
        seen.append(own(*args, **kwargs)[0])
        return (seen[-1],)

    pipe.unet.forward = watched
    with lk.tap(pipe) as wire:
        draw(pipe)
    down = lk.Capture.load(wire.save(tmp_path / "a.lsplit")).tensors("down")
    assert len(down) == len(seen) == STEPS and all(torch.equal(a, b) for a, b in zip(down, seen, strict=True))


@pytest.mark.parametrize("body", [None, "loopback"])
def test_prediction_goes_down_and_for_pictures_only(body):
    for make in (
        lambda: lockstep(codec=(DELTA, "fp32"), body=body),
        lambda: lk.split("toy-llama", codec=DELTA, body=body),
        lambda: lk.split("toy-llama", codec=("fp32", DELTA), body=body),
    ):
        with pytest.raises(e.CodecError, match="(?i)predict"):
            make()


# -- a lossy codec up ------------------------------------------------------------------------------

UP = "uniform:snr=20+near+ans"


def next_of(pipe):
    """The latent that the host will make of its own, before the call that makes it does anything else."""
    run = copy.deepcopy(session_of(pipe).run)
    run.advance(None)
    return run.latent


def in_step(pipe, **call):
    """Draw, and at the end of every step compare what the pipeline made with what the host will make."""
    found = []

    def note(p, step, t, kwargs):
        if p.scheduler.steps:  # some schedulers step twice at a time and call back once
            found.append(torch.equal(p.scheduler.made, next_of(p)))
        return {}

    image = draw(pipe, callback_on_step_end=note, **call)
    assert found and all(found), found
    return image


@pytest.mark.parametrize("guidance", ["host", "local"])
@pytest.mark.parametrize("up", ["int8", UP])
@pytest.mark.parametrize(
    "scheduler",
    ["DDIMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler",
     "HeunDiscreteScheduler", "PNDMScheduler", "UniPCMultistepScheduler", "LMSDiscreteScheduler",
     "DEISMultistepScheduler"],
)  # fmt: skip
def test_a_rounded_start_is_the_same_on_both_sides(scheduler, up, guidance):
    """The local side goes on from the latent that the host has, whatever the scheduler remembers of it."""
    pipe = lockstep(codec=(up, "int8"), guidance=guidance, body=None)
    pipe.scheduler = getattr(diffusers, scheduler).from_config(whole().scheduler.config)
    in_step(pipe)


def inpaint(**call):
    """(pipeline with four channels, call): its latents are put back around the mask after every step."""
    image, mask = torch.linspace(0, 1, 3 * 128 * 128).reshape(1, 3, 128, 128), torch.zeros(1, 1, 128, 128)
    mask[..., :64] = 1
    pipe = diffusers.AutoPipelineForInpainting.from_pipe(whole())
    return pipe, dict(image=image, mask_image=mask, height=128, width=128, strength=1.0) | call


@pytest.mark.parametrize("scheduler", ["DDIMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler"])
def test_a_latent_that_goes_up_again_is_the_same_on_both_sides(scheduler):
    for whole_pipe, call in (inpaint(), inpaint(strength=0.6)):
        pipe = lk.split(whole_pipe, mode="lockstep", codec=(UP, "int8"))
        pipe.scheduler = getattr(diffusers, scheduler).from_config(whole().scheduler.config)
        with lk.tap(pipe) as wire:
            in_step(pipe, **call)
        ledger = wire.ledger()
        assert set(ledger[ledger.name == "latent"].codec) == {UP} and len(steps_of(ledger, "latent")) > 1


def test_image_to_image_begins_at_the_same_latent():
    pipe = lk.split(diffusers.AutoPipelineForImage2Image.from_pipe(whole()), mode="lockstep", codec=(UP, "int8"))
    in_step(pipe, image=torch.linspace(0, 1, 3 * 128 * 128).reshape(1, 3, 128, 128), strength=0.6)


@pytest.mark.parametrize("step", [0, 1])
def test_a_latent_edited_by_a_callback_is_the_same_on_both_sides(step):
    pipe, found = lockstep(codec=(UP, "int8"), body=None), []

    def note(p, number, t, kwargs):
        found.append(torch.equal(p.scheduler.made, next_of(p)))
        return edit(p, kwargs) if number == step else {}

    _, ledger = tapped(pipe, callback_on_step_end=note)
    assert all(found) and len(found) == STEPS and steps_of(ledger, "latent") == [1, step + 2]


def test_a_latent_that_was_given_stays_as_it_was():
    given = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(SEED))
    kept = given.clone()
    draw(lockstep(codec=(UP, "fp32")), latents=given)
    assert torch.equal(given, kept)


def test_a_step_from_another_latent_is_not_the_hosts():
    """Then nothing is known of what the host has, and its state goes up again."""
    scheduler = watch(copy.deepcopy(whole().scheduler))
    scheduler.set_timesteps(STEPS)
    ours, theirs, noise = (torch.full((1, 4, 2, 2), n) for n in (1.0, 2.0, 0.5))
    want = {}
    for sample in (ours, theirs, noise):
        want[float(sample.mean())] = scheduler.step(noise, scheduler.timesteps[0], sample)[0]
    scheduler.theirs = (ours, theirs)
    assert torch.equal(scheduler.step(noise, scheduler.timesteps[0], ours)[0], want[2.0])
    assert torch.equal(scheduler.made, want[2.0]) and scheduler.theirs is None
    scheduler.theirs = (ours, theirs)
    assert torch.equal(scheduler.step(noise, scheduler.timesteps[0], noise)[0], want[0.5]) and scheduler.made is None


@pytest.mark.parametrize("step", [0, 2])
@pytest.mark.parametrize("scheduler", ["DDIMScheduler", "DPMSolverMultistepScheduler"])
@pytest.mark.parametrize("lose", [evict, forget_the_run, new_epoch])
def test_a_lost_session_does_not_round_a_latent_twice(lose, scheduler, step):
    """Both sides had it exactly, so it goes up exactly: the picture is the one of a host that forgot nothing."""
    images = []
    for call in ({}, dict(callback_on_step_end=at_step(step, lose))):
        pipe = lockstep(codec=(UP, "int8"))
        pipe.scheduler = getattr(diffusers, scheduler).from_config(whole().scheduler.config)
        image, ledger = tapped(pipe, **call)
        images.append(image)
    again = ledger[(ledger.kind == "replay") & (ledger.direction == "up")]
    assert torch.equal(*images) and dict(zip(again.name, again.codec, strict=True))["latent"] == "raw:float32"


def test_a_second_call_before_the_step_does_not_send_the_latent_again():
    """Pipelines that guide without a batch of two call their denoiser twice."""
    pipe = lockstep(codec=(UP, "int8"))
    own = pipe.unet.forward
    pipe.unet.forward = lambda *args, **kwargs: (own(*args, **kwargs), own(*args, **kwargs))[1]
    with lk.tap(pipe) as wire:
        in_step(pipe)
    ledger = wire.ledger()
    assert len(steps_of(ledger, "out", "down")) == 2 * STEPS and steps_of(ledger, "latent") == [1]


# -- what goes through the codec up ----------------------------------------------------------------

THROUGH = {
    "toy-sd": {"encoder_hidden_states"},
    "toy-sdxl": {"encoder_hidden_states", "added_cond_kwargs.text_embeds"},
    "toy-sd3": {"encoder_hidden_states", "pooled_projections"},
    "toy-flux": {"encoder_hidden_states", "pooled_projections"},
    "toy-pixart": {"encoder_hidden_states"},
}


@pytest.mark.parametrize("mode", ["per_step", "lockstep"])
@pytest.mark.parametrize("name", THROUGH)
def test_embeddings_and_latents_are_rounded_and_nothing_else_is(name, mode):
    """Not a time step, an id, a mask or a scheduler's state; without loss, embeddings cross as they are."""
    for up in (UP, "fp32"):
        pipe = lk.split(whole(name), mode=mode, codec=(up, "fp32"), body="loopback")
        with lk.tap(pipe) as wire:
            draw(pipe, **toy_pipe_call(name))
        ledger = wire.ledger()
        sent = ledger[(ledger.direction == "up") & (ledger.step > 0) & (ledger.name != "")]
        latent = {"sample", "hidden_states", "latent"}
        assert set(sent[sent.codec == up].name) - latent == (THROUGH[name] if up == UP else set())
        assert set(sent.name) & latent and all(steps_of(sent, n) == [1] for n in THROUGH[name])
        others = sent[~sent.name.isin(THROUGH[name] | latent)]
        assert len(others) and others.codec.str.match("(raw|whole):").all()


def test_a_host_keeps_the_embedding_that_crossed():
    pipe, kept = lockstep(codec=(UP, "fp32")), []
    with lk.tap(pipe) as wire:
        draw(pipe, callback_on_step_end=lambda p, i, t, k: kept.append(session_of(p).forms.kept[0]) or {})
    crossed = next(c for c in wire.crossings if c.name == "encoder_hidden_states")
    theirs = lk.codec(UP).decode(
        lk.codec(UP).encode(torch.zeros(1))._replace(shape=crossed.shape, payload=crossed.data)
    )
    assert all(torch.equal(tensor, theirs) for tensor in kept) and crossed.payload < crossed.tensor / 4


def test_the_same_tensor_as_embedding_and_as_something_else_has_two_handles():
    """A handle names what the host has, and that is not the same for both."""
    x = torch.randn(2, 40)
    tree = {"call": {"pooled_projections": x, "cross_attention_kwargs": {"scale": x}}}
    packer = Packer(lk.codec(UP))
    sent = [[s.encoded.spec for s in packer.pack(tree, {})[1]] for _ in range(2)]
    assert sent == [[UP, "raw:float32"], []] and json.loads(packer.last)[1] == [["had", 0], ["had", 1]]


# -- a name for the best settings ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "guided"),
    [
        (dict(mode="lockstep"), "host"), (dict(mode="lockstep", guidance="local"), "local"),
        (dict(mode="per_step"), "local"), (dict(mode="per_step", guidance="host"), "host"),
    ],
    ids=str,
)  # fmt: skip
def test_auto_image_is_resolved_before_anything_else_sees_it(how, guided):
    """Where guidance is local its error is multiplied, so what comes down before it is finer."""
    up, down = AUTO["auto:image"](About("image", guidance=guided))
    pipe = lk.split(whole(), codec="auto:image", body="loopback", **how)
    with lk.tap(pipe) as wire:
        draw(pipe)
    ledger = wire.ledger()
    assert "auto" not in repr(pipe) and up in repr(pipe) and down in repr(pipe)
    assert set(ledger[ledger.name == "out"].codec) == {down} and up in set(ledger.codec)
    fine, coarse = (
        float(AUTO["auto:image"](About("image", guidance=g))[1].split("=")[1].split("+")[0]) for g in ("local", "host")
    )
    assert fine < coarse / 3


def test_half_of_a_name_may_be_asked_for():
    up, down = AUTO["auto:image"](About("image", guidance="host"))
    for codec, specs in ((("fp32", "auto:image"), ("fp32", down)), (("auto:image", "int8"), (up, "int8"))):
        pipe = lockstep(codec=codec)
        assert (pipe.remote.up.spec, pipe.remote.down.spec) == specs


def test_auto_image_is_near_and_small_where_it_was_measured():
    """One prompt of `benchmarks/rate_distortion.py`, which has fifty: a tenth of the bytes, and hardly a difference."""
    apple, frames, images = lk.load("emoji-ldm"), [], []
    apple.set_progress_bar_config(disable=True)
    for codec in ("fp32", "auto:image"):
        pipe = lk.split(apple, mode="lockstep", body="loopback", codec=codec)
        with lk.tap(pipe) as wire:
            images.append(pipe(PROMPT, num_inference_steps=20, guidance_scale=3.0, output_type="np",
                               generator=torch.Generator().manual_seed(0)).images[0])  # fmt: skip
        frames.append(wire.totals().frame.sum())
    assert frames[1] < 0.08 * frames[0] and 10 * np.log10(1 / np.square(images[0] - images[1]).mean()) > 42
