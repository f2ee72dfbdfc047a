"""Codecs: round trips over every shape, exact sizes, bounded errors, typed refusals, hostile payloads."""

import math
from contextlib import suppress

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lsplit_kit as lk
from lsplit_kit.errors import CodecError, LsplitError, NonFiniteError
from lsplit_kit.quantization import Encoded, specs
from lsplit_kit.quantization.grain import Grain, rows_of
from lsplit_kit.quantization.packing import pack, packed_bytes, unpack

MORE = [
    "int7", "int5:token", "int3:token:affine", "int2:sym", "int1:token", "int1:affine", "int4:channel:affine",
    "int3:group=5:clip=mse", "int2:group=2:affine:clip=mse", "int6:group=7+hadamard=4+outliers=2", "nf4:token",
    "nf4:group=3+hadamard=2", "uniform:snr=25", "uniform:step=0.37", "uniform:step=0.37+zstd", "uniform:snr=3+ans",
    "int8:group=64+outliers=1", "uniform:step=0.37+near", "uniform:snr=20+near+zstd",
]  # fmt: skip
EVERY = [*specs(), *MORE]
SHAPES = st.one_of(
    st.lists(st.integers(0, 9), min_size=1, max_size=3),
    st.tuples(st.integers(0, 2), st.integers(1, 3), st.integers(1, 5), st.integers(1, 5)),
    st.sampled_from([(1, 1, 64), (2, 3, 130), (1, 200)]),
)
KINDS = st.sampled_from(["normal", "constant", "outlier", "offset", "subnormal", "large", "zero"])


def values(kind, shape, seed):
    x = torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed))
    if kind == "outlier" and x.numel():
        x.view(-1)[seed % x.numel()] = 900.0
    return {"constant": torch.full_like(x, 0.7), "offset": x * 0.01 + 3, "subnormal": x * 1e-42, "large": x * 300,
            "zero": x * 0}.get(kind, x)  # fmt: skip


CASTS = {  # relative error, error near zero, largest value
    "fp32": (0, 0, math.inf), "fp16": (1e-3, 6e-8, math.inf), "bf16": (8e-3, 0, math.inf),
    "fp8:e4m3": (1 / 16, 2e-3, 448), "fp8:e5m2": (1 / 8, 2e-5, 57344),
}  # fmt: skip
PLAIN: dict[str, float] = {}  # codecs without options: largest error as a share of the tensor's peak


@pytest.mark.parametrize("spec", EVERY)
@settings(max_examples=40, deadline=None)
@given(shape=SHAPES, kind=KINDS, seed=st.integers(0, 9))
def test_round_trip(spec, shape, kind, seed):
    """Shape and size are kept, the error is bounded, and a second trip of what came back changes nothing much."""
    codec, x = lk.codec(spec), values(kind, shape, seed)
    coded = codec.encode(x)
    most = codec.payload_bytes(tuple(shape))
    assert coded.shape == tuple(shape) and len(coded.payload) == most if codec.fixed else len(coded.payload) <= most
    assert codec.length(b"??" + coded.payload + b"??", 2, tuple(shape)) == len(coded.payload)
    y = codec.decode(coded)
    assert y.shape == x.shape and y.dtype == torch.float32 and y.is_contiguous()
    if x.numel():
        # a step that is no normal number is not used, so subnormal values may become zero
        assert ((y - x).abs() <= bound(spec, x) + 1e-7 * x.abs().max() + 1e-35 * (spec != "fp32")).all()


def bound(spec, x):
    """The largest error that a codec may make, from its spec alone."""
    peak = float(x.abs().max())
    base, options = spec.split("+")[0].split(":")[0], spec.split("+")[0].split(":")[1:]
    if spec in CASTS:
        share, least, largest = CASTS[spec]
        return x.abs() * share + least + max(peak - largest, 0)
    if spec in PLAIN:
        return PLAIN[spec] * peak
    if base == "uniform":
        name, number = options[0].split("=")
        step = (
            float(number)
            if name == "step"
            else math.sqrt(12 * float(x.double().square().mean())) / 10 ** (float(number) / 20)
        )
        return step * (1.01 if "ans" in spec else 0.51)  # range-coded levels stand for their mean
    if "hadamard" in spec:
        peak *= math.sqrt(int(spec.split("hadamard=")[1].split("+")[0]))
    if base == "nf4" or "clip" in spec or base == "int1":
        return 2 * peak  # values may be clipped, or have two levels: only that they stay in range
    steps = 2 ** int(base[3:]) - (1 if affine(base, options) else 2)
    step = 2 * peak / steps  # a range is at most from -peak to peak
    return (
        step / 2 * 1.01 + peak * 5e-3 * (1 + steps * (2**-7) / 2) * ("group" in spec) + 1e-3 * peak * ("outl" in spec)
    )


def affine(base, options):
    grain = {o.split("=")[0] for o in options} & {"token", "channel", "group"}
    return "affine" in options or (not grain and "sym" not in options)


@pytest.mark.parametrize("spec", EVERY)
def test_bad_values_are_refused(spec):
    for bad in (math.nan, math.inf, -math.inf):
        with pytest.raises(NonFiniteError):
            lk.codec(spec).encode(torch.tensor([1.0, bad]))
    for wrong in (torch.tensor([1, 2]), "text", torch.tensor(1.0), None):
        with pytest.raises(CodecError):
            lk.codec(spec).encode(wrong)


@pytest.mark.parametrize("spec", EVERY)
@pytest.mark.parametrize("extra", [-1, 1])
def test_wrong_payload_length_is_refused(spec, extra):
    coded = lk.codec(spec).encode(torch.linspace(-1, 1, 6).reshape(2, 3))
    payload = coded.payload[:extra] if extra < 0 else coded.payload + b"x"
    with pytest.raises(CodecError):
        lk.codec(spec).decode(Encoded(spec, coded.shape, payload))


@pytest.mark.parametrize("spec", EVERY)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_hostile_payloads_end_in_a_typed_error_or_a_tensor(spec, data):
    """Any bytes of any length, and right payloads with a byte changed: no other exception, no larger tensor."""
    codec, shape = lk.codec(spec), (2, 5)
    right = codec.encode(torch.randn(shape, generator=torch.Generator().manual_seed(1))).payload
    if data.draw(st.booleans()):
        payload = data.draw(st.binary(max_size=len(right) + 4))
    else:
        at, new = data.draw(st.integers(0, len(right) - 1)), data.draw(st.integers(0, 255))
        payload = right[:at] + bytes([new]) + right[at + 1 :]
    with suppress(LsplitError):
        assert codec.decode(Encoded(spec, shape, payload)).shape == shape


def test_a_zstd_frame_that_promises_more_is_refused_before_it_is_read():
    import zstandard

    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 24))
    body = b"\x01" + bomb
    payload = bytes([len(body) & 127 | 128, len(body) >> 7]) + body
    with pytest.raises(CodecError, match="not as many"):
        lk.codec("uniform:step=1+zstd").decode(Encoded("uniform:step=1+zstd", (3000,), payload))


def test_a_payload_that_decodes_to_nan_is_refused():
    payload = torch.tensor([math.nan, 1.0]).numpy().tobytes()
    with pytest.raises(NonFiniteError):
        lk.codec("fp32").decode(Encoded("fp32", (1, 2), payload))
    for spec in ("int8:token", "int8", "int4:group=64"):
        size = lk.codec(spec).payload_bytes((1, 4))
        with pytest.raises(NonFiniteError):
            lk.codec(spec).decode(Encoded(spec, (1, 4), (b"\xc0\x7f" * 9)[:size]))  # NaN as bf16 and as fp32


WRONG = {
    "int9": "known: fp32", "": "short text", "fp32 ": "begins with a name", "INT8": "begins with a name",
    "int8:tokens": "int8 has no :tokens; it takes :tensor", "int8:token:channel": "token and channel cannot both",
    "int8:sym:affine": "sym and affine", "int4:clip=max": "clip is mse", "int4:group=1": "from 2 to 65536",
    "int4:group=x": "a whole number", "int4+hadamard=48": "a power of two", "int4+zstd": "int4 has no +zstd",
    "int4:token:token": "twice the same part", "int4++": "no option=value", "fp16:token": "fp16 has no :token",
    "fp8": "fp8:e4m3 or fp8:e5m2", "uniform": "step=... or snr=", "uniform:step=0+ans": "from 1e-06",
    "uniform:snr=30+ans+zstd": "or neither", "uniform:snr=nan": "a number from", "uniform:step=1:snr=2": "step=... or",
    "uniform:step=1+delta+near": "+near or neither", "uniform:step=1+near=2": "step=... or",
    "int4+outliers=0": "from 1 to", "x" * 200: "short text", "int8:tok\x00en": "no option=value",
}  # fmt: skip


@pytest.mark.parametrize("spec", WRONG, ids=lambda s: s[:20])
def test_what_is_wrong_with_a_spec_is_one_sentence(spec):
    with pytest.raises(CodecError) as caught:
        lk.codec(spec)
    assert WRONG[spec] in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 800


@pytest.mark.parametrize("spec", [None, 8, b"int8", ["int8"]])
def test_a_spec_is_a_text(spec):
    with pytest.raises(CodecError):
        lk.codec(spec)
    with pytest.raises(CodecError):
        lk.split("toy-llama", codec=(spec, spec) if spec is not None else 3)


def test_a_codec_decodes_its_own_only():
    with pytest.raises(CodecError, match="decode with its own"):
        lk.codec("fp16").decode(lk.codec("fp32").encode(torch.ones(1)))


def test_fp16_refuses_what_it_cannot_hold():
    with pytest.raises(NonFiniteError, match="65504"):
        lk.codec("fp16").encode(torch.tensor([1e6]))
    with pytest.raises(NonFiniteError, match="65504"):
        lk.codec("int8:token+outliers=1").encode(torch.tensor([1e6, 1.0]))
    assert lk.codec("fp8:e4m3").decode(lk.codec("fp8:e4m3").encode(torch.tensor([1e6, -1e6]))).tolist() == [448, -448]


@pytest.mark.parametrize(
    ("spec", "shape", "size"),
    [
        ("int8:token", (1, 1, 576), 576 + 4), ("int8", (1, 4, 8, 8), 256 + 8), ("int4", (3, 3), 5 + 8),
        ("int4:group=64", (1, 1, 576), 288 + 9 * 2), ("int4:group=64:affine", (1, 1, 576), 288 + 9 * 4),
        ("int4:group=64", (1, 1, 600), 300 + 10 * 2), ("int4:token+outliers=16", (1, 1, 576), 288 + 4 + 64),
        ("int3:channel", (2, 4, 8, 8), 192 + 8 * 4), ("int1:token", (2, 5), 2 + 8), ("nf4:group=64", (1, 64), 32 + 2),
        ("int8:token", (2, 4, 8, 8), 512 + 8), ("fp8:e4m3", (3, 7), 21),
    ],
)  # fmt: skip
def test_sizes_count_scales_and_places(spec, shape, size):
    assert lk.codec(spec).payload_bytes(shape) == len(lk.codec(spec).encode(torch.randn(shape)).payload) == size


def test_levels_and_ends_are_kept():
    levels = torch.linspace(-1, 2, 16).repeat(3)
    assert torch.allclose(lk.codec("int4").decode(lk.codec("int4").encode(levels)), levels, atol=1e-6)
    for spec in ("int8", "int4", "int2:group=2:affine"):
        constant = torch.full((5,), 0.75)
        assert torch.equal(lk.codec(spec).decode(lk.codec(spec).encode(constant)), constant)
    for bits in range(2, 9):
        c = lk.codec(f"int{bits}:sym")
        y = c.decode(c.encode(torch.tensor([-3.0, 0.0, 3.0])))
        assert torch.allclose(y, torch.tensor([-3.0, 0.0, 3.0]), rtol=1e-6)
    assert lk.codec("int1:token").decode(lk.codec("int1:token").encode(torch.tensor([1.0, -3.0]))).tolist() == [2, -2]


def test_a_token_does_not_depend_on_its_neighbours():
    """A batch, or a prompt in chunks, must give each token the bytes it would have alone."""
    x = torch.randn(2, 3, 130, generator=torch.Generator().manual_seed(4))
    for spec in ("int8:token", "int4:group=64", "int4:group=64+hadamard=64", "int4:token+outliers=16", "nf4:group=64"):
        c = lk.codec(spec)
        whole = c.decode(c.encode(x))
        alone = torch.stack([torch.stack([c.decode(c.encode(t[None]))[0] for t in row]) for row in x])
        assert torch.equal(whole, alone), spec


def test_clipping_has_less_error_than_min_max_and_rotation_than_none():
    x = torch.randn(8, 512, generator=torch.Generator().manual_seed(0))
    spiky = x.clone()
    spiky[:, 7] = 60

    def db(spec, x):
        y = lk.codec(spec).decode(lk.codec(spec).encode(x))
        return 10 * math.log10(float(x.square().mean() / (x - y).square().mean()))

    assert db("int4:clip=mse", x) > db("int4", x) + 2.5 and db("int3:clip=mse", x) > db("int3", x) + 3
    assert db("int4:token:clip=mse", x) > db("int4:token", x) + 1
    bulk = [db(spec, spiky) for spec in ("int8:token", "int8:token+hadamard=64", "int8:token+outliers=16")]
    assert bulk[1] > bulk[0] + 8 and bulk[2] > bulk[0] + 10
    assert db("nf4:group=64", x) > db("int4:group=64", x) + 1
    assert db("int8", x) > db("fp8:e4m3", x) + 6 > db("fp8:e5m2", x) + 11  # Gauss; with outliers it is the reverse


@pytest.mark.parametrize("count", [1024, 4096, 65_536])
@pytest.mark.parametrize("snr", [4, 8, 12, 24, 36, 46])
def test_range_coding_is_near_shannons_bound(count, snr):
    """Gaussian values: at most 0.30 bit a value above 0.5 log2(variance / error), 0.40 for a thousand (three draws)."""
    c, above = lk.codec(f"uniform:snr={snr}+ans"), []
    for seed in range(3):
        x = torch.randn(1, count, generator=torch.Generator().manual_seed(seed))
        coded = c.encode(x)
        error = (c.decode(coded) - x).square().mean()
        above.append(8 * len(coded.payload) / count - 0.5 * math.log2(float(x.var() / error)))
    assert sum(above) / 3 <= (0.30 if count >= 4096 else 0.40), above


def padded(words=5, tokens=16, d=192):
    """Two rows of text embeddings [2, T, d]: an empty prompt, and `words` tokens of their own before the padding."""
    g = torch.Generator().manual_seed(3)
    pad, first = torch.randn(2, d, generator=g), torch.randn(d, generator=g)
    x = pad[:, None] + 0.02 * torch.randn(2, tokens, d, generator=g)
    x[1, 1 : 1 + words] = torch.randn(words, d, generator=g)
    x[:, 0] = first
    return x


def test_padding_costs_little_beside_its_neighbours():
    """The same error, less than half the bytes; without likeness it costs hardly more than without prediction."""
    for x, share in ((padded(), 0.5), (torch.randn(1, 16, 8, 8), 1.03), (torch.randn(2, 20, 64), 1.06)):
        sizes, errors = [], []
        for spec in ("uniform:snr=30+ans", "uniform:snr=30+near+ans"):
            coded = lk.codec(spec).encode(x)
            sizes.append(len(coded.payload))
            errors.append(float((lk.codec(spec).decode(coded) - x).square().mean()))
        assert sizes[1] < share * sizes[0] and errors[1] < 1.1 * errors[0]


def test_errors_of_neighbours_do_not_add_up():
    x = torch.linspace(0, 1, 200)[:, None].repeat(1, 32) + 1e-3 * torch.randn(200, 32)
    c = lk.codec("uniform:step=0.05+near+ans")
    assert (c.decode(c.encode(x[None])) - x).abs().max() <= 0.026


def near_payload(codes, *parts):
    """A payload of `uniform:step=1+near` over one-byte numbers: how each token is predicted, then the numbers."""
    body = b"".join(bytes([len(part)]) + part for part in (b"\xff" + b"\x01" + bytes(codes), *parts))
    return bytes([len(body)]) + body


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (near_payload([1, 0], b"\1abcd"), "not there"),  # the first token has none before it
        (near_payload([0, 2], b"\1abcd"), "not there"),  # one batch entry has none above it
        (near_payload([0, 21], b"\1ab", b"\1cd"), "no known way"),
        (near_payload([0, 255], b"\1ab", b"\1cd"), "no known way"),
        (near_payload([0, 3], b"\1ab"), "inside a number"),
        (near_payload([0, 0], b"\1ab"), "2 bytes of numbers, 4 were expected"),
        (near_payload([0, 0], b"\1abcd", b"\1"), "follow the last number"),
    ],
)
def test_a_prediction_from_nowhere_is_refused(payload, said):
    with pytest.raises(CodecError, match=said):
        lk.codec("uniform:step=1+near").decode(Encoded("uniform:step=1+near", (1, 2, 2), payload))
    right = near_payload([0, 1], b"\1\1\2\0\3")
    assert lk.codec("uniform:step=1+near").decode(Encoded("uniform:step=1+near", (1, 2, 2), right)).tolist() == [
        [[1.0, 2.0], [1.0, 5.0]]
    ]


def test_tokens_that_are_predicted_one_by_one_are_not_too_many():
    spec, shape = "uniform:step=1+near+ans", (1, (1 << 16) + 1, 1)
    with pytest.raises(CodecError, match="at most 65,536 tokens"):
        lk.codec(spec).encode(torch.zeros(shape))
    with pytest.raises(CodecError, match="at most 65,536 tokens"):
        lk.codec(spec).decode(Encoded(spec, shape, b"\x01\x00"))


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 576, 1001])
def test_packing(bits, count):
    numbers = np.random.default_rng(count).integers(0, 2**bits, count).astype(np.uint8)
    packed = pack(numbers, bits)
    assert len(packed) == packed_bytes(count, bits) and np.array_equal(unpack(packed, count, bits), numbers)


@pytest.mark.parametrize("grain", [Grain("tensor"), Grain("token"), Grain("channel"), Grain("group", 4)], ids=str)
@pytest.mark.parametrize("shape", [(5,), (2, 3), (2, 3, 10), (2, 3, 4, 5), (1, 1, 1, 1, 7)], ids=str)
def test_grains_put_every_value_back(grain, shape):
    x = np.arange(math.prod(shape), dtype=np.float32)
    matrix = grain.split(x, shape)
    assert len(matrix) == grain.count(shape) and np.array_equal(grain.join(matrix, shape), x)
    rows, d = rows_of(shape)
    assert rows * d == x.size


def test_a_codec_without_a_fixed_size_says_so():
    assert "as many as the values need" in repr(lk.codec("uniform:snr=30+ans"))
    assert "4" in repr(lk.codec("int4:group=64"))
