"""A lossless split pipeline gives the unsplit one's picture, bit for bit: families x cuts x modes x links x options.

Bit-equal means: lossless codec, same process-wide thread count (one), same CPU. Pictures are 2 or 3 steps of the toys.
"""

from __future__ import annotations

import threading
from functools import cache

import diffusers
import pytest
import torch

import lsplit_kit as lk
from lsplit_kit.models.toy_pipes import toy_pipe_call, toy_pipe_names
from lsplit_kit.split.trajectory import DETERMINISTIC

torch.set_num_threads(1)
pytestmark = [pytest.mark.timeout(120), pytest.mark.filterwarnings("ignore::FutureWarning")]

UNSPLITTABLE = ("toy-kandinsky", "toy-zimage")  # a combined pipeline, a list of latents
FAMILIES = [name for name in toy_pipe_names() if name not in UNSPLITTABLE]
RANDOM = ("toy-lcm", "toy-if", "toy-pixart-sigma", "toy-hunyuandit")  # their schedulers draw random numbers
PLAIN = ("toy-sd", "toy-sd-inpaint", "toy-sdxl", "toy-sd3", "toy-sd35", "toy-pixart", "toy-pixart-sigma")
OVER_RPYC = ("toy-sd", "toy-sdxl", "toy-flux", "toy-pixart")


@cache
def whole(name, dtype=torch.float32):
    return lk.load(name, dtype)


def draw(pipe, name, steps=2, seed=0, **more):
    """The picture (latents, where the family has them) of a fixed prompt and seed."""
    call = dict(prompt="a red apple", num_inference_steps=steps, output_type="latent")
    call |= dict(generator=torch.Generator().manual_seed(seed)) | toy_pipe_call(name) | more
    return torch.as_tensor(pipe(**{k: v for k, v in call.items() if v is not None}).images)


@cache
def expected(name):
    return draw(whole(name), name)


def exact(name, call=(), pipe=None, **split):
    """One picture with the unsplit pipeline, one with the split one: equal to the bit, and not degenerate."""
    pipe = pipe or whole(name)
    call = dict(call)
    want = draw(pipe, name, **call) if call or pipe is not whole(name) else expected(name)
    ours = lk.split(pipe, **split)
    try:
        got = draw(ours, name, **call)
    finally:
        ours.close()
    assert got.dtype == want.dtype and got.float().std() > 0
    assert torch.equal(want, got)


# -- at the denoiser -------------------------------------------------------------------------------


def settings():
    for name in FAMILIES:
        for mode in ("per_step", *(("lockstep",) if name not in RANDOM else ())):
            for guidance in ("local", *(("host",) if name in PLAIN else ())):
                yield name, mode, guidance


@pytest.mark.parametrize("body", [None, "loopback"], ids=["in process", "loopback"])
@pytest.mark.parametrize(("name", "mode", "guidance"), list(settings()))
def test_every_family_mode_and_guidance_at_the_denoiser(name, mode, guidance, body):
    exact(name, mode=mode, guidance=guidance, body=body)


@pytest.fixture(scope="module")
def far(request):
    """(name, host): a host process of its own."""
    with lk.host(request.param) as host:
        yield request.param, host


@pytest.mark.parametrize("far", OVER_RPYC, indirect=True)
def test_every_mode_and_cut_over_rpyc(far):
    """A real host process serves the whole denoiser, and the middle of it, to one client after the other."""
    name, host = far
    for mode in ("per_step", "lockstep"):
        exact(name, mode=mode, body=host.address)
    exact(name, at="blocks", head=1, tail=1, body=host.address)


@pytest.mark.parametrize("far", ["toy-sd"], indirect=True)
def test_two_split_pipelines_over_one_host_in_two_threads(far):
    """Two connections, two sessions, in lockstep: neither picture has anything of the other's."""
    name, host = far
    prompts = ["a red apple", "a blue boat"]
    want = [draw(whole(name), name, prompt=p, steps=3) for p in prompts]
    pipes = [lk.split(whole(name), mode="lockstep", body=host.address) for _ in prompts]
    got = [None, None]

    def work(i):
        got[i] = draw(pipes[i], name, prompt=prompts[i], steps=3)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    for pipe in pipes:
        pipe.close()
    assert torch.equal(want[0], got[0]) and torch.equal(want[1], got[1])


# -- at blocks -------------------------------------------------------------------------------------

UNET_CUTS = [("toy-sd", k) for k in range(4)] + [(n, k) for n in ("toy-sdxl", "toy-lcm", "toy-if") for k in range(3)]
UNET_CUTS.append(("toy-lcm", 3))
DIT_CUTS = [(n, h, t) for n in ("toy-sd3", "toy-sd35", "toy-flux", "toy-pixart") for h, t in ((0, 0), (1, 0), (0, 1))]
DIT_CUTS += [("toy-flux", 2, 1), ("toy-flux", 1, 2), ("toy-flux", 1, 1), ("toy-sd3", 1, 1), ("toy-pixart", 1, 1)]


@pytest.mark.parametrize(("name", "k"), UNET_CUTS)
def test_every_cut_inside_a_unet(name, k):
    exact(name, at="blocks", head=k, tail=k, body="loopback")


@pytest.mark.parametrize(("name", "head", "tail"), DIT_CUTS)
def test_cuts_inside_a_transformer(name, head, tail):
    exact(name, at="blocks", head=head, tail=tail, body="loopback")


SIZES = [((160, 160), 1), ((160, 160), 3), ((256, 192), 2), ((72, 104), 1), ((72, 104), 2), ((72, 104), 3)]
SIZES += [((136, 88), k) for k in range(4)]


@pytest.mark.parametrize(("size", "k"), SIZES, ids=str)
def test_sizes_that_the_unet_cannot_halve(size, k):
    """Latents of 20 x 20, 32 x 24, 17 x 11 and 9 x 13 (a latent pixel is 8 pixels): the local skip's size decides."""
    exact("toy-sd", dict(height=size[0], width=size[1]), at="blocks", head=k, tail=k)


@pytest.mark.parametrize("mode", ["per_step", "lockstep"])
@pytest.mark.parametrize("size", [(160, 160), (136, 88)], ids=str)
def test_odd_sizes_at_the_denoiser(size, mode):
    exact("toy-sd", dict(height=size[0], width=size[1]), mode=mode)


# -- what a caller may ask of a pipeline -----------------------------------------------------------


def reads(pipe, step, at, kwargs):
    assert kwargs["latents"].isfinite().all()
    return {}


def edits(pipe, step, at, kwargs):
    return {"latents": kwargs["latents"] * 0.9} if step == 0 else {}


CALLS = {
    "negative prompt": dict(negative_prompt="blurry"),
    "two images a prompt": dict(num_images_per_prompt=2),
    "a batch of two": dict(prompt=["a red apple", "a blue boat"]),
    "a batch of two, two images each": dict(prompt=["a red apple", "a blue boat"], num_images_per_prompt=2),
    "a callback that reads": dict(callback_on_step_end=reads, steps=3),
    "a callback that edits": dict(callback_on_step_end=edits, steps=3),
    "no guidance": dict(guidance_scale=1.0),
    "strong guidance": dict(guidance_scale=15.0),
    "one step": dict(steps=1),
}
WAYS = {
    "per_step": dict(mode="per_step"),
    "guided at the host": dict(mode="per_step", guidance="host"),
    "lockstep": dict(mode="lockstep"),
    "lockstep, guided here": dict(mode="lockstep", guidance="local"),
    "blocks": dict(at="blocks", head=1, tail=1),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("call", CALLS)
def test_options_of_the_call(call, way):
    exact("toy-sd", CALLS[call], **WAYS[way])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.filterwarnings("ignore:This pipeline does more")
def test_rescaled_guidance_is_nobody_elses(way):
    """guidance_rescale=0.7 is not the plain formula: the host's guidance and latent are not used for it."""
    exact("toy-sd", dict(guidance_rescale=0.7, steps=3), **WAYS[way])


@pytest.mark.parametrize("mode", ["per_step", "lockstep"])
@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("toy-flux", dict(true_cfg_scale=2.0, negative_prompt="blurry")),
        ("toy-qwenimage", dict(true_cfg_scale=2.0, negative_prompt="blurry")),
        ("toy-sd3", dict(negative_prompt="blurry", num_images_per_prompt=2)),
        ("toy-sdxl", dict(prompt=["a red apple", "a blue boat"], negative_prompt=["dark", "blurry"])),
        ("toy-sdxl", dict(guidance_scale=1.0)),
        ("toy-pixart", dict(num_images_per_prompt=2)),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:This pipeline does more")
def test_other_families_options(name, call, mode):
    """Two calls a step (true guidance) reach the host one after the other, each with its own text."""
    exact(name, dict(call, steps=3), mode=mode)


def picture():
    return torch.linspace(0, 1, 3 * 128 * 128).reshape(1, 3, 128, 128)


def mask():
    out = torch.zeros(1, 1, 128, 128)
    out[..., 32:96, 32:96] = 1
    return out


def sibling(kind, name):
    return getattr(diffusers, f"AutoPipelineFor{kind}").from_pipe(whole(name))


@pytest.mark.parametrize("mode", ["per_step", "lockstep"])
@pytest.mark.parametrize("name", ["toy-sd", "toy-sdxl"])
def test_image_to_image(name, mode):
    exact(name, dict(image=picture(), strength=0.7, steps=4), sibling("Image2Image", name), mode=mode)


@pytest.mark.parametrize("mode", ["per_step", "lockstep"])
@pytest.mark.parametrize("name", ["toy-sd", "toy-sdxl"])
def test_inpainting_with_a_unet_of_four_channels(name, mode):
    """The pipeline noises the kept part again after every step: the latent is another than the host's."""
    call = dict(image=picture(), mask_image=mask(), strength=0.8, steps=4, height=128, width=128)
    exact(name, call, sibling("Inpainting", name), mode=mode)


@pytest.mark.parametrize("mode", ["per_step", "lockstep"])
def test_inpainting_with_a_unet_of_nine_channels(mode):
    call = dict(image=picture(), mask_image=mask(), height=128, width=128, steps=3)
    exact("toy-sd-inpaint", call, mode=mode, body="loopback")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["toy-sd", "toy-flux"])
@pytest.mark.parametrize("way", ["per_step", "lockstep", "blocks"])
def test_half_precision_with_its_own_lossless_codec(name, dtype, way):
    pipe = whole(name, dtype)
    ours = lk.split(pipe, body="loopback", **WAYS[way])
    assert ours.remote.up.spec == ours.remote.down.spec == {torch.bfloat16: "bf16", torch.float16: "fp16"}[dtype]
    assert torch.equal(draw(pipe, name), draw(ours, name))


# -- what happens to a pipeline between pictures ---------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_two_pictures_in_a_row(way):
    """Nothing of the first picture is left in the second, nor at the host; sizes and prompts may change."""
    ours = lk.split(whole("toy-sd"), body="loopback", **WAYS[way])
    for call in ({}, dict(prompt="a boat", height=160, width=96, guidance_scale=1.0), {}):
        assert torch.equal(draw(whole("toy-sd"), "toy-sd", **call), draw(ours, "toy-sd", **call))
        assert not ours.link.body.sessions


@pytest.mark.parametrize("way", WAYS)
def test_the_original_pipeline_is_left_as_it_was(way):
    pipe = whole("toy-sd")
    before, parts, scheduler = expected("toy-sd"), dict(pipe.components), type(pipe.scheduler)
    ours = lk.split(pipe, **WAYS[way])
    draw(ours, "toy-sd", prompt="another")
    assert isinstance(ours, type(pipe)) and not hasattr(pipe, "remote")
    assert all(pipe.components[name] is part for name, part in parts.items()) and type(pipe.scheduler) is scheduler
    assert torch.equal(before, draw(pipe, "toy-sd"))


SCHEDULERS = {
    "DPM++": ("toy-sd", "DPMSolverMultistepScheduler", {}),
    "DPM++ with Karras sigmas": ("toy-sd", "DPMSolverMultistepScheduler", dict(use_karras_sigmas=True)),
    "DPM++ single step": ("toy-sd", "DPMSolverSinglestepScheduler", {}),
    "DEIS": ("toy-sd", "DEISMultistepScheduler", {}),
    "UniPC": ("toy-sd", "UniPCMultistepScheduler", {}),
    "Euler": ("toy-sd", "EulerDiscreteScheduler", {}),
    "Heun": ("toy-sd", "HeunDiscreteScheduler", {}),
    "LMS": ("toy-sd", "LMSDiscreteScheduler", {}),
    "PNDM": ("toy-sd", "PNDMScheduler", dict(skip_prk_steps=True)),
    "DDIM with v-prediction": ("toy-sd", "DDIMScheduler", dict(prediction_type="v_prediction")),
    "DDIM in place of Euler": ("toy-sdxl", "DDIMScheduler", {}),
    "flow-match Euler, shifted": ("toy-sd3", "FlowMatchEulerDiscreteScheduler", dict(shift=3.0)),
    "DPM++ over flow sigmas": (
        "toy-sana",
        "DPMSolverMultistepScheduler",
        dict(prediction_type="flow_prediction", use_flow_sigmas=True),
    ),
}


@pytest.mark.parametrize("case", SCHEDULERS)
def test_a_scheduler_swapped_after_the_split_in_lockstep(case):
    """`pipe.scheduler = X.from_config(pipe.scheduler.config)` is what people write; the host follows without a word."""
    name, scheduler, options = SCHEDULERS[case]
    assert scheduler in DETERMINISTIC
    ours, pipe = lk.split(whole(name), mode="lockstep", body="loopback"), sharing(whole(name))
    for p in (ours, pipe):
        p.scheduler = getattr(diffusers, scheduler).from_config(whole(name).scheduler.config, **options)
    with lk.tap(ours) as wire:
        got = draw(ours, name, steps=4)
    assert torch.equal(draw(pipe, name, steps=4), got)
    up = [c for c in wire.crossings if c.name == "latent"]
    assert len(up) == 1


def sharing(pipe):
    """A second unsplit pipeline of the same parts, whose scheduler may be changed."""
    return type(pipe)(**pipe.components)
