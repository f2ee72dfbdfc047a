"""Rate and distortion: known errors, sessions with a past, what a run and a reading hand out, and outlier channels."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

import lsplit_kit as lk
from lsplit_kit.errors import LsplitError, UnsupportedOption
from lsplit_kit.measure import (
    bits_a_value,
    channel_peaks,
    difference,
    hidden_of,
    levels_of,
    noise_of,
    picture_run,
    rate_point,
)  # fmt: skip
from lsplit_kit.measure.rate import DB_A_BIT

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def gauss():
    return torch.randn(4, 4096, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def pipe():
    return lk.load("toy-sd")


@pytest.fixture(scope="module")
def noise(pipe):
    return noise_of(pipe, "a red apple", seed=1, steps=3)


def test_a_uniform_step_has_the_error_of_the_formula(gauss):
    point = rate_point("uniform:step=0.1", gauss)
    assert point["snr_db"] == pytest.approx(10 * math.log10(float(gauss.var(correction=0)) / (0.1**2 / 12)), abs=0.1)
    assert point["shannon"] == pytest.approx(point["snr_db"] / DB_A_BIT) and point["codec"] == "uniform:step=0.1"


def test_bits_are_those_of_the_payload(gauss):
    size = len(lk.codec("int4:token").encode(gauss).payload)
    assert rate_point("int4:token", gauss)["bits"] == 8 * size / gauss.numel() == 4 + 32 / 4096


def test_range_coding_of_gaussian_values_is_a_quarter_of_a_bit_above_shannon(gauss):
    point = rate_point("uniform:snr=30+ans", gauss)
    assert 0.2 < point["bits"] - point["shannon"] < 0.35


def test_without_an_error_both_are_infinite_and_noise_alone_is_zero_bits(gauss):
    assert rate_point("fp32", gauss) == {"codec": "fp32", "bits": 32, "snr_db": math.inf, "shannon": math.inf}
    rough = rate_point("uniform:step=16+ans", gauss)  # everything is rounded to zero
    assert rough["snr_db"] == pytest.approx(0, abs=0.01) and rough["shannon"] < 0.01
    flat = rate_point("fp8:e5m2", torch.full((1, 8), 1 / 3))  # no signal, some error
    assert flat["snr_db"] == -math.inf and flat["shannon"] == 0


def test_a_session_has_a_past_and_two_sessions_have_none_in_common(gauss):
    slow = [gauss[:1] + 0.05 * gauss[k : k + 1] for k in (1, 2, 3)]
    spec = "uniform:step=0.1+delta+ans"
    alone, together = rate_point(spec, *slow)["bits"], rate_point(spec, slow)["bits"]
    assert together < alone - 1
    assert rate_point(spec, slow, slow)["bits"] == together
    assert alone == pytest.approx(rate_point("uniform:step=0.1+ans", *slow)["bits"], abs=0.05)


@pytest.mark.parametrize("tensors", [(), ([],), (torch.empty(0, 4),)])
def test_nothing_to_measure_is_a_sentence(tensors):
    with pytest.raises(UnsupportedOption, match="at least one tensor"):
        rate_point("int8", *tensors)


def test_an_unknown_codec_is_a_sentence(gauss):
    with pytest.raises(LsplitError, match="Unknown codec 'int9'"):
        rate_point("int9", gauss)


def test_levels_are_what_values_become(gauss):
    levels = levels_of("int2", gauss)
    assert len(levels) == 4 and levels[0] == gauss.min() and levels[-1] == gauss.max()
    assert np.diff(levels) == pytest.approx(float(gauss.max() - gauss.min()) / 3, rel=1e-5)
    assert np.diff(levels_of("nf4:token", gauss[0])).std() > 0.05  # denser around zero


def test_the_noise_is_what_crosses_guided_and_whole(pipe, noise):
    split = lk.split(pipe, mode="lockstep")
    with lk.tap(split) as wire:
        split("a red apple", num_inference_steps=3, guidance_scale=3.0, generator=torch.Generator().manual_seed(1))
    crossed = [c.data for c in wire.crossings if c.name == "out"]
    assert [x.numpy().tobytes() for x in noise] == crossed and [tuple(x.shape) for x in noise] == [(1, 4, 16, 16)] * 3


def test_a_run_through_a_codec_gives_picture_noise_and_bytes(pipe, noise):
    seen = []
    run = picture_run(pipe, "a red apple", 1, 3, codec="int4", note=lambda *at: seen.append(at))
    whole = picture_run(pipe, "a red apple", 1, 3)
    own = pipe("a red apple", num_inference_steps=3, guidance_scale=3.0, generator=torch.Generator().manual_seed(1))
    assert whole.picture.tobytes() == own.images[0].tobytes() != run.picture.tobytes()
    assert seen == [(1, 3), (2, 3), (3, 3)] and (run.payload, run.bits) == (3 * (512 + 8), 8 * 520 / 1024)
    assert torch.equal(run.noise[0], lk.codec("int4").decode(lk.codec("int4").encode(noise[0])))
    assert run.bits == rate_point("int4", noise)["bits"]


def test_the_noise_after_a_codec_with_a_past_is_near_the_noise_that_it_had(pipe, noise):
    run = picture_run(pipe, "a red apple", 1, 3, codec="uniform:step=0.05+delta+ans")
    assert float((run.noise[0] - noise[0]).abs().max()) < 0.03 and len(run.noise) == 3


def test_what_note_raises_ends_the_run_and_leaves_the_pipeline(pipe):
    class Enough(Exception):
        pass

    def note(step, of):
        if step == 2:
            raise Enough

    unet, scheduler = pipe.unet, pipe.scheduler
    with pytest.raises(Enough):
        picture_run(pipe, "a dog", 1, 3, note=note)
    assert pipe.unet is unet and pipe.scheduler is scheduler


def test_pipelines_that_guide_in_their_own_way_send_both_halves():
    pipe = lk.load("toy-if")
    assert tuple(picture_run(pipe, "a dog", 0, 1).noise[0].shape)[0] == 2


def test_hidden_tensors_are_the_unsplit_models():
    model, tokenizer = lk.load("toy-llama")
    ids = tokenizer("Where is the split?", return_tensors="pt").input_ids
    up, down = hidden_of(model, ids, head=2, tail=1)
    with torch.no_grad():
        states = model(ids, output_hidden_states=True).hidden_states
    assert torch.equal(up, states[2]) and torch.equal(down, states[5])
    with pytest.raises(LsplitError, match="head"):
        hidden_of(model, ids, head=4, tail=4)


def test_bits_count_one_direction_and_no_control_frames():
    model, tokenizer = lk.load("toy-llama")
    split = lk.split(model, codec=("int8:token", "fp16"), body="loopback")
    with lk.tap(split) as wire:
        split(tokenizer("hello", return_tensors="pt").input_ids)
    assert bits_a_value(wire.crossings, "up") == 8 + 32 / 64 and bits_a_value(wire.crossings, "down") == 16
    assert math.isnan(bits_a_value([], "up"))


def test_outlier_channels():
    hidden = torch.ones(1, 5, 8)
    hidden[0, 3, 6] = -40.0
    hidden[0, 2, 1] = 5.0
    table = channel_peaks(hidden)
    assert table.index.name == "channel" and table.index[table["outlier"]].tolist() == [6]
    assert table.loc[6].to_dict() == {"peak": 40, "token": 3, "times": 40, "outlier": True}
    assert channel_peaks(hidden, outlier=4)["outlier"].sum() == 2
    assert channel_peaks(torch.zeros(2, 4))["times"].tolist() == [1] * 4
    with pytest.raises(UnsupportedOption, match="a float tensor"):
        channel_peaks(torch.ones(2, 4, dtype=torch.int64))


def test_a_difference_is_drawn_from_black_to_white():
    a = np.zeros((2, 2, 3), np.uint8)
    b = a.copy()
    b[0, 1] = (51, 0, 102)
    drawn, largest = difference(Image.fromarray(b), Image.fromarray(a))
    assert largest == pytest.approx(0.4) and drawn.getpixel((1, 0)) == (128, 0, 255) and drawn.getpixel((0, 0)) == (
        0, 0, 0,
    )  # fmt: skip
    assert difference(a, a)[1] == 0
    with pytest.raises(UnsupportedOption, match="shape"):
        difference(a, a[:1])
