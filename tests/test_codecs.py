"""Codecs: round trips over every shape, exact sizes, typed refusals."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lsplit_kit as lk
from lsplit_kit.errors import CodecError, NonFiniteError
from lsplit_kit.quantization import Encoded, specs

SHAPES = st.lists(st.integers(0, 9), min_size=1, max_size=3)


@pytest.mark.parametrize("spec", specs())
@settings(max_examples=60, deadline=None)
@given(shape=SHAPES, scale=st.sampled_from([0.0, 1e-42, 1e-3, 1.0, 300.0]), seed=st.integers(0, 9))
def test_round_trip(spec, shape, scale, seed):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale
    coded = lk.codec(spec).encode(x)
    assert coded.shape == tuple(shape) and len(coded.payload) == lk.codec(spec).payload_bytes(tuple(shape))
    y = lk.codec(spec).decode(coded)
    assert y.shape == x.shape and y.dtype == torch.float32
    if not x.numel():
        return
    bound = {"fp32": 0.0, "fp16": 1e-3, "bf16": 8e-3, "int8:token": 1 / 250, "int8": 1 / 250, "int4": 1 / 14}[spec]
    whole = spec in ("int8", "int4")  # one step for the whole tensor, of at most twice its peak / (2^n - 1)
    peak = x.abs().max() if whole else x.abs().amax(dim=-1, keepdim=True)
    assert ((y - x).abs() <= bound * peak + (1e-7 if bound else 0)).all()


@pytest.mark.parametrize("spec", specs())
def test_bad_values_are_refused(spec):
    for bad in (math.nan, math.inf, -math.inf):
        with pytest.raises(NonFiniteError):
            lk.codec(spec).encode(torch.tensor([1.0, bad]))
    for wrong in (torch.tensor([1, 2]), "text", torch.tensor(1.0), None):
        with pytest.raises(CodecError):
            lk.codec(spec).encode(wrong)


@pytest.mark.parametrize("spec", specs())
@pytest.mark.parametrize("extra", [-1, 1])
def test_wrong_payload_length_is_refused(spec, extra):
    coded = lk.codec(spec).encode(torch.ones(2, 3))
    payload = coded.payload[:extra] if extra < 0 else coded.payload + b"x"
    with pytest.raises(CodecError):
        lk.codec(spec).decode(Encoded(spec, coded.shape, payload))


def test_a_payload_that_decodes_to_nan_is_refused():
    payload = torch.tensor([math.nan, 1.0]).numpy().tobytes()
    with pytest.raises(NonFiniteError):
        lk.codec("fp32").decode(Encoded("fp32", (1, 2), payload))
    with pytest.raises(NonFiniteError):
        lk.codec("int8:token").decode(Encoded("int8:token", (1, 1), payload[:4] + b"\x01"))


def test_unknown_specs_name_the_known_ones():
    for bad in ("int3", "", None, 8, "fp32 "):
        with pytest.raises(CodecError, match="int8:token"):
            lk.codec(bad)
    with pytest.raises(CodecError):
        lk.codec("fp16").decode(lk.codec("fp32").encode(torch.ones(1)))


def test_fp16_refuses_what_it_cannot_hold():
    with pytest.raises(NonFiniteError, match="65504"):
        lk.codec("fp16").encode(torch.tensor([1e6]))


def test_integers_count_their_scales():
    assert lk.codec("int8:token").payload_bytes((1, 1, 576)) == 580
    assert lk.codec("int8").payload_bytes((1, 4, 8, 8)) == 264
    assert lk.codec("int4").payload_bytes((3, 3)) == 13


def test_int4_keeps_its_sixteen_levels_and_ends():
    levels = torch.linspace(-1, 2, 16).repeat(3)
    assert torch.allclose(lk.codec("int4").decode(lk.codec("int4").encode(levels)), levels, atol=1e-6)
    constant = torch.full((5,), 0.7)
    assert torch.equal(lk.codec("int8").decode(lk.codec("int8").encode(constant)), constant)
