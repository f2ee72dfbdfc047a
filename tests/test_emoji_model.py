"""The shipped picture model: these very weights, with a card, in one small folder, drawing what it is asked for."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from refresh_notebooks import MACHINE_PATH
from safetensors import safe_open

import lsplit_kit as lk
from lsplit_kit.measure import picture_quality
from lsplit_kit.models.names import SHIPPED
from lsplit_kit.models.pictures import load_denoiser
from lsplit_kit.split.image import part_of

torch.set_num_threads(1)
ROOT = Path(__file__).resolve().parent.parent
SHA256 = {
    "text_encoder/model.safetensors": "e31a0c1e9b4b166a20f83bf3a6a11cf06e354c182cfe150ebd18b1db9b3bc173",
    "unet/diffusion_pytorch_model.safetensors": "32e9e99ac1f46a3cd0f23195d9b67dc662f5d5ecfa649d5552bc1c01334494fe",
    "vae/diffusion_pytorch_model.safetensors": "59b26259759e5c15e7cca7ab655ec3e2bbc99730ce40679e17f39145e176e9a3",
}
LARGEST = 40_000_000  # bytes of all weights together


@pytest.fixture(scope="module")
def pipe():
    made = lk.load("emoji-ldm")
    made.set_progress_bar_config(disable=True)
    return made


def draw(pipe, prompt="a red apple", steps=20, seed=0, **options):
    pipe.set_progress_bar_config(disable=True)
    call = dict(num_inference_steps=steps, guidance_scale=3.0, generator=torch.Generator().manual_seed(seed))
    return pipe(prompt, **call | options).images[0]


@pytest.mark.parametrize("name", SHA256)
def test_the_weights_are_these(name):
    assert hashlib.sha256((SHIPPED / name).read_bytes()).hexdigest() == SHA256[name]


def test_the_weights_are_half_precision_and_small():
    files = sorted(str(p.relative_to(SHIPPED)) for p in SHIPPED.rglob("*.safetensors"))
    assert files == sorted(SHA256) and sum((SHIPPED / name).stat().st_size for name in files) <= LARGEST
    for name in files:
        with safe_open(SHIPPED / name, "pt") as weights:
            assert {weights.get_slice(key).get_dtype() for key in weights.keys()} == {"F16"}  # noqa: SIM118


def test_no_file_of_the_model_names_a_machine():
    for path in SHIPPED.rglob("*"):
        if path.suffix in (".json", ".md"):
            assert not MACHINE_PATH.search(path.read_text("utf-8")), path


def test_the_card_says_what_the_training_was():
    facts, card = json.loads((SHIPPED / "training.json").read_text("utf-8")), (SHIPPED / "MODEL_CARD.md").read_text()
    assert "It has memorised its training set" in card and "Apache" in card and "{" not in card.split("```")[0]
    for key in ("steps_vae", "steps_unet", "pictures", "unet_parameters"):
        assert f"{facts[key]:,}" in card, key
    assert facts["package"] in card and facts["sha256"] in card and f"seed {facts['seed']}" in card


def test_the_benchmark_that_was_kept_is_of_this_model_and_passes():
    kept = json.loads((ROOT / "benchmarks" / "results" / "emoji_quality.json").read_text("utf-8"))
    assert kept["weights"] == SHA256["unet/diffusion_pytorch_model.safetensors"] and not kept["quick"]
    assert kept["psnr"]["mean"] >= 27 and kept["near"]["top5_both"] >= 0.8 and kept["passes"]
    assert (kept["prompts"], kept["steps"]) == (200, 20)


def test_a_host_loads_the_denoiser_alone(pipe):
    held = load_denoiser("emoji-ldm")
    assert type(held) is type(pipe.unet)
    assert all(torch.equal(a, b) for a, b in zip(held.parameters(), pipe.unet.parameters(), strict=True))


@pytest.mark.parametrize("name", ["emoji-ldm", "toy-sdxl", "toy-flux"])
def test_the_local_side_needs_no_denoiser(name):
    """Structure without weights is enough to draw over a host, and says what is missing before that."""
    local, whole = lk.load_local(name), lk.load(name)
    denoiser = getattr(local, part_of(local))
    assert all(p.device.type == "meta" for p in denoiser.parameters()) and isinstance(local, type(whole))
    with pytest.raises(lk.LsplitError, match="without its denoiser: split it first"):
        local("a dog")
    for wrong in (dict(), dict(body="loopback"), dict(at="blocks", body="rpyc://127.0.0.1:1")):
        with pytest.raises(lk.LsplitError, match="a host's address"):
            lk.split(local, **wrong)
    call = dict(steps=2, height=64, width=64) if name != "toy-sdxl" else dict(steps=2)
    with lk.host(name) as host:
        split = lk.split(local, body=host.address, mode="lockstep")
        assert draw(split, **call).tobytes() == draw(whole, **call).tobytes()
        split.close()


def test_another_denoiser_is_noticed_by_a_local_side_without_one(tmp_path):
    whole = lk.load("emoji-ldm")
    with torch.no_grad():
        whole.unet.conv_out.bias[3] += 0.5
    whole.save_pretrained(tmp_path)
    with lk.host("emoji-ldm") as host, pytest.raises(lk.LsplitError, match="fingerprint"):
        lk.split(lk.load_local(tmp_path), body=host.address)


CUTS = [dict(), dict(mode="lockstep"), *(dict(at="blocks", head=k, tail=k) for k in range(3))]


@pytest.mark.parametrize("body", [None, "loopback"])
@pytest.mark.parametrize("cut", CUTS, ids=str)
def test_every_cut_gives_the_unsplit_picture(pipe, cut, body):
    split = lk.split(pipe, body=body, **cut)
    assert draw(split, steps=4).tobytes() == draw(pipe, steps=4).tobytes()
    split.close()


def test_a_real_host_gives_the_unsplit_picture_and_int8_a_near_one(pipe):
    whole = draw(pipe)
    with lk.host("emoji-ldm") as host:
        assert "parts 0 to" in repr(host) and "layers" not in repr(host)  # a denoiser's, which are no layers
        for codec, least in (("fp32", float("inf")), ("int8", 35)):
            split = lk.split(pipe, body=host.address, mode="lockstep", codec=("fp32", codec))
            assert picture_quality({"split": draw(split)}, whole).loc["split", "psnr"] >= least
            split.close()


@pytest.mark.parametrize(
    ("prompt", "colour"), [("a red apple", 0), ("a green circle", 1), ("a blue square", 2)]
)  # channel that is to be strongest
def test_it_draws_what_it_is_asked_for(pipe, prompt, colour):
    pixels = torch.from_numpy(np.array(draw(pipe, prompt))).flatten(0, 1).float()
    ink = pixels[(pixels < 200).any(1)]  # the rest is white paper
    assert 0.1 < len(ink) / len(pixels) < 0.8 and int(ink.mean(0).argmax()) == colour


@pytest.mark.parametrize("prompt", ["", "🍎", "日本のりんご", "an " + "unknown " * 40 + "word", 'quo"te\n\ttab'])
def test_any_text_gives_a_picture(pipe, prompt):
    assert draw(pipe, prompt, steps=2).size == (64, 64)
