"""Lockstep in one flight: round trips counted, pictures as before, and every way in which a call is not as foretold."""

from __future__ import annotations

import os
import signal
from functools import cache

import diffusers
import pytest
import torch

import lsplit_kit as lk
from lsplit_kit.errors import LimitExceeded
from lsplit_kit.models.toy_pipes import toy_pipe_call
from lsplit_kit.split.far import alike
from lsplit_kit.split.foretold import Foresight
from lsplit_kit.split.pool import Pool

torch.set_num_threads(1)
pytestmark = [pytest.mark.timeout(120), pytest.mark.filterwarnings("ignore::FutureWarning")]
STEPS = 6
DELTA = "uniform:step=0.1+delta+ans"
OPEN_AND_CLOSE = 2
PLAIN = ("toy-sd", "toy-sdxl", "toy-sd3", "toy-pixart")  # nothing that they do between two steps is a surprise


@cache
def whole(name="toy-sd"):
    return lk.load(name)


def draw(pipe, name="toy-sd", seed=7, **more):
    call = dict(prompt="a red apple", num_inference_steps=STEPS, output_type="latent")
    call |= toy_pipe_call(name) | dict(generator=torch.Generator().manual_seed(seed)) | more
    return torch.as_tensor(pipe(**call).images)


def split(name="toy-sd", **more):
    return lk.split(whole(name), **dict(mode="lockstep", body="loopback") | more)


def tapped(pipe, *args, **call):
    """(picture, tap) of one picture."""
    with lk.tap(pipe) as wire:
        image = draw(pipe, *args, **call)
    return image, wire


def at_step(number, do):
    """A callback that acts once, after this step (0, 1, ...)."""
    return lambda pipe, step, t, kwargs: (do(pipe, kwargs) or {}) if step == number else {}


def steps_of(wire, name, direction="up"):
    ledger = wire.ledger()
    return ledger[(ledger.name == name) & (ledger.direction == direction)].step.tolist()


def kinds(wire):
    return set(wire.ledger().kind)


# -- round trips -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["toy-sd", "toy-flux"])
def test_over_a_real_host_a_run_waits_twice_at_most(name):
    """Where the first call is enough to foretell the others: once. The picture is the unsplit one's."""
    with lk.host(name) as host, split(name, body=host.address) as pipe:
        image, wire = tapped(pipe, name)
    assert torch.equal(image, draw(whole(name), name))
    assert wire.round_trips() - OPEN_AND_CLOSE == (1 if name in PLAIN else 2)
    assert wire.counters()["stream"] == tuple(wire.totals().frame)


def test_the_shipped_model_over_a_real_host_waits_once():
    apple = lk.load("emoji-ldm")
    apple.set_progress_bar_config(disable=True)
    with lk.host("emoji-ldm") as host, lk.split(apple, mode="lockstep", body=host.address) as pipe:
        image, wire = tapped(pipe, guidance_scale=3.0)
    assert torch.equal(image, draw(apple, guidance_scale=3.0))
    assert wire.round_trips() - OPEN_AND_CLOSE == 1 and steps_of(wire, "out", "down") == list(range(1, STEPS + 1))


@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_pipeline_waits_once(name):
    image, wire = tapped(split(name), name)
    assert torch.equal(image, draw(whole(name), name)) and wire.round_trips() - OPEN_AND_CLOSE == 1


@pytest.mark.parametrize(
    "call",
    [dict(callback_on_step_end=lambda pipe, step, t, kwargs: {}), dict(guidance_scale=1.0, callback_on_step_end=None)],
    ids=["a callback that reads", "no guidance"],
)
def test_two_waits_at_most_with(call):
    image, wire = tapped(split(), **call)
    assert torch.equal(image, draw(whole(), **call)) and wire.round_trips() - OPEN_AND_CLOSE <= 2


@pytest.mark.parametrize(
    ("scheduler", "calls"),
    [("DPMSolverMultistepScheduler", 6), ("HeunDiscreteScheduler", 11), ("PNDMScheduler", 7)],
)  # fmt: skip
def test_schedulers_that_repeat_a_time_are_foretold_too(scheduler, calls):
    pipe, plain = split(), type(whole())(**whole().components, requires_safety_checker=False)
    for p in (pipe, plain):
        p.scheduler = getattr(diffusers, scheduler).from_config(whole().scheduler.config, skip_prk_steps=True)
    image, wire = tapped(pipe)
    assert torch.equal(image, draw(plain)) and steps_of(wire, "out", "down") == list(range(1, calls + 1))
    assert wire.round_trips() - OPEN_AND_CLOSE == 1


@pytest.mark.parametrize("kind", ["Image2Image", "Inpainting with nine channels"])
def test_a_run_that_begins_in_the_middle_is_foretold(kind):
    picture = torch.linspace(0, 1, 3 * 128 * 128).reshape(1, 3, 128, 128)
    if kind == "Image2Image":
        pipe, call = diffusers.AutoPipelineForImage2Image.from_pipe(whole()), dict(image=picture, strength=0.5)
    else:
        pipe = whole("toy-sd-inpaint")
        call = dict(image=picture, mask_image=torch.ones(1, 1, 128, 128), height=128, width=128)
    image, wire = tapped(lk.split(pipe, mode="lockstep", body="loopback"), **call)
    assert torch.equal(image, draw(pipe, **call)) and wire.round_trips() - OPEN_AND_CLOSE <= 2
    assert len(steps_of(wire, "latent")) == 1 and "dropped" not in kinds(wire)


def test_in_one_process_nothing_is_sent_ahead():
    """There is no round trip to hide, and a call that is not made need not be computed."""
    pipe, behind = split(body=None), []
    pipe.remote.watchers.append(lambda where, up, down, done: behind.append(where.behind))
    draw(pipe)
    assert behind == [False] * STEPS


@pytest.mark.parametrize("down", ["int8", DELTA])
def test_noises_sent_ahead_are_those_of_one_call_at_a_time(down):
    """In process they are asked for one by one."""
    images = [draw(split(codec=("fp32", down), body=body)) for body in (None, "loopback")]
    assert torch.equal(*images)


# -- not as foretold -------------------------------------------------------------------------------


def edit(pipe, kwargs):
    return {"latents": kwargs["latents"] * 0.9}


def less_guidance(pipe, kwargs):
    """As the library's guide to a guidance that ends early has it."""
    pipe._guidance_scale = 0.0
    return {"prompt_embeds": kwargs["prompt_embeds"].chunk(2)[-1]}


def embeddings_in_place(pipe, kwargs):
    kwargs["prompt_embeds"].mul_(0.5)


def other_time(pipe, kwargs):
    pipe.scheduler.timesteps[3] += 5


SURPRISES = {
    "an edited latent": (edit, {}),
    "guidance that ends": (less_guidance, dict(callback_on_step_end_tensor_inputs=["latents", "prompt_embeds"])),
    "embeddings changed in place": (
        embeddings_in_place,
        dict(callback_on_step_end_tensor_inputs=["latents", "prompt_embeds"]),
    ),
    "another time step": (other_time, {}),
}


@pytest.mark.parametrize("step", [0, 1, 2])
@pytest.mark.parametrize("surprise", SURPRISES)
@pytest.mark.parametrize("down", ["fp32", "int8"])
def test_a_call_that_is_not_as_foretold(surprise, step, down):
    """The picture is that of a host that is asked one call at a time; the answers under way are dropped and counted."""
    act, more = SURPRISES[surprise]
    images = []
    for body in (None, "loopback"):
        pipe = split(codec=("fp32", down), body=body)
        call = dict(callback_on_step_end=at_step(step, act)) | more
        image, wire = tapped(pipe, **call)
        images.append(image)
    assert torch.equal(*images)
    assert steps_of(wire, "out", "down") == list(range(1, STEPS + 1))
    assert wire.counters()["stream"] == tuple(wire.totals().frame)
    assert ("dropped" in kinds(wire)) == (pipe.remote.misses > 0)
    if surprise == "an edited latent":
        assert pipe.remote.misses == (step > 0) and steps_of(wire, "latent") == [1, step + 2]


def test_an_edit_over_a_real_host_is_exact_and_in_the_books():
    call = dict(callback_on_step_end=at_step(1, edit))
    with lk.host("toy-sd") as host, split(body=host.address, codec=("fp32", DELTA)) as pipe:
        image, wire = tapped(pipe, **call)
        again, _ = tapped(pipe, **call)
    assert pipe.remote.misses == 2 and torch.equal(image, again)
    assert {"dropped", "replay"} <= kinds(wire) and wire.counters()["stream"] == tuple(wire.totals().frame)
    assert torch.equal(image, draw(split(codec=("fp32", DELTA)), **call))


def test_after_a_surprise_calls_are_foretold_again():
    _, wire = tapped(split(), callback_on_step_end=at_step(1, edit), num_inference_steps=20)
    rows = wire.ledger()
    assert set(rows[rows.kind == "replay"].step) == {3}
    assert wire.round_trips() == 2 + 3 + OPEN_AND_CLOSE + 1  # to the surprise, after it, and a second session


def test_inpainting_drops_nothing():
    """Its latent is another one after the very first step, so nothing was sent ahead."""
    image, mask = torch.linspace(0, 1, 3 * 128 * 128).reshape(1, 3, 128, 128), torch.zeros(1, 1, 128, 128)
    mask[..., :64] = 1
    pipe = diffusers.AutoPipelineForInpainting.from_pipe(whole())
    call = dict(image=image, mask_image=mask, height=128, width=128, strength=1.0)
    got, wire = tapped(lk.split(pipe, mode="lockstep", body="loopback"), **call)
    assert torch.equal(got, draw(pipe, **call)) and "dropped" not in kinds(wire)
    assert steps_of(wire, "latent") == list(range(1, STEPS + 1))


def test_a_callback_that_edits_always_makes_few_calls_in_vain():
    """After each surprise more calls are waited for before the next are foretold."""
    call = dict(num_inference_steps=24, callback_on_step_end=lambda p, i, t, k: edit(p, k) if i % 3 == 1 else {})
    pipe = split()
    image, wire = tapped(pipe, **call)
    assert torch.equal(image, draw(whole(), **call)) and pipe.remote.misses == 2


# -- stopped, interrupted, killed ------------------------------------------------------------------


def stop(pipe, kwargs):
    raise KeyboardInterrupt


def interrupt(pipe, kwargs):
    pipe._interrupt = True


@pytest.mark.parametrize("step", [0, 1, 3])
def test_ctrl_c_in_the_middle_and_then_a_good_picture(step):
    with lk.host("toy-sd") as host, split(body=host.address) as pipe:
        with lk.tap(pipe) as wire, pytest.raises(KeyboardInterrupt):
            draw(pipe, callback_on_step_end=at_step(step, stop))
        assert torch.equal(draw(pipe), draw(whole()))
    assert ("dropped" in kinds(wire)) == (step > 0)
    assert wire.counters()["stream"] == tuple(wire.totals().frame)


def test_a_stopped_run_does_not_wait_for_its_answers():
    """The host hangs: nobody would answer within the test's time."""
    with lk.host("toy-sd") as host, split(body=host.address) as pipe:
        draw(pipe)

        def hang_and_stop(pipe, kwargs):
            os.kill(host.pid, signal.SIGSTOP)
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            draw(pipe, callback_on_step_end=at_step(1, hang_and_stop), num_inference_steps=50)
        os.kill(host.pid, signal.SIGCONT)
        assert torch.equal(draw(pipe), draw(whole()))


def test_the_librarys_own_interrupt_ends_the_run():
    pipe, call = split(), dict(callback_on_step_end=at_step(2, interrupt))
    image, wire = tapped(pipe, **call)
    assert torch.equal(image, draw(whole(), **call)) and "dropped" in kinds(wire)
    assert not pipe.link.body.sessions and torch.equal(draw(pipe), draw(whole()))


def test_a_host_that_is_killed_half_way_is_replayed():
    """After the second of fifty answers; a host at the same address goes on."""
    hosts, steps = [lk.host("toy-sd")], 50

    def kill(pipe, kwargs):
        os.kill(hosts[0].pid, signal.SIGKILL)
        hosts[0].close()
        hosts.append(lk.host("toy-sd", port=int(hosts[0].address.rsplit(":")[-1])))

    with split(body=hosts[0].address) as pipe:
        image, wire = tapped(pipe, callback_on_step_end=at_step(1, kill), num_inference_steps=steps)
    hosts[-1].close()
    assert torch.equal(image, draw(whole(), num_inference_steps=steps))
    assert {"lost", "replay"} <= kinds(wire) and steps_of(wire, "latent")[0] == 1
    assert wire.counters()["stream"] == tuple(wire.totals().frame)


# -- the parts -------------------------------------------------------------------------------------


def test_what_is_alike_is_alike_in_type_and_shape():
    x = torch.zeros(2)
    assert alike({"a": [x, 1, None]}, {"a": [x.clone(), 1, None]})
    for a, b in ((x, x.double()), (x, x[:1]), (x, 0), (1, True), ({"a": 1}, {}), ([1], [1, 2]), (x, x + 1)):
        assert not alike(a, b)


@pytest.mark.parametrize(
    "given",
    [lambda t: t, lambda t: t.expand(2), lambda t: t.expand(2).float() / 1000, lambda t: (1000 - t.expand(2)) / 1000],
)
def test_a_time_is_foretold_as_the_denoiser_is_given_it(given):
    times = torch.tensor([900.5, 600.25, 300.125])
    foresight = Foresight(careful=False)
    foresight.came(times, given(times[0]), False)
    found = foresight.next(times, given(times[0]), foresight.calls(times, None))
    assert [float(at) for at, _ in found] == [900.5, 600.25]
    assert alike([time for _, time in found], [given(t) for t in times[1:]])


def test_a_time_of_another_kind_foretells_nothing():
    times = torch.tensor([900.0, 600.0])
    for given in (torch.tensor(123.0), 900.0, None, torch.tensor([0.1, 0.9])):
        foresight = Foresight(careful=False)
        foresight.came(times, given, False)
        assert foresight.next(times, given, 2) == [] and foresight.position(times) == -1


@pytest.mark.parametrize("limit", [3_000, 30_000])
def test_a_picture_that_no_memory_holds_is_refused_and_not_forgotten_at_every_step(limit):
    pipe = split()
    pipe.link.body.pool = Pool(limit)
    with pytest.raises(LimitExceeded, match="this host remembers at most"):
        draw(pipe)
    assert pipe.link.body.pool.misses == 0
