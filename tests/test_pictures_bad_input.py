"""Nonsense around pictures, from people, clients and hosts: one typed sentence, and the host serves the next client."""

from __future__ import annotations

import copy
import json
import logging
import math
import re
import socket
import threading
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import diffusers
import pytest
import torch
import zstandard

import lsplit_kit as lk
from lsplit_kit import errors as e
from lsplit_kit.measure import picture_quality
from lsplit_kit.models.partial import load_body
from lsplit_kit.models.pictures import load_picture_body
from lsplit_kit.models.toy_pipes import toy_pipe_call
from lsplit_kit.quantization import codec
from lsplit_kit.remote.client import RpycLink
from lsplit_kit.remote.journal import Line
from lsplit_kit.remote.server import StrictServer
from lsplit_kit.remote.service import service_of
from lsplit_kit.remote.token import write_token
from lsplit_kit.split.form import Packer
from lsplit_kit.split.image import picture_body, picture_cut
from lsplit_kit.split.trajectory import state_of, watch
from lsplit_kit.wire import patience
from lsplit_kit.wire.here import InProcess
from lsplit_kit.wire.message import Open, PictureStep, Step

torch.set_num_threads(1)
pytestmark = [pytest.mark.timeout(60), pytest.mark.filterwarnings("ignore::FutureWarning")]
TOKEN, SECONDS = bytes(range(32)), 5.0
ANS, NEAR = "uniform:step=1+ans", "uniform:step=1+near+ans"
DELTA = "uniform:step=0.1+delta+ans"
NAN = float("nan")


@cache
def whole(name="toy-sd"):
    return lk.load(name)


def draw(pipe, name="toy-sd", **more):
    call = dict(prompt="a red apple", num_inference_steps=2, output_type="latent")
    call |= dict(generator=torch.Generator().manual_seed(0)) | toy_pipe_call(name)
    return torch.as_tensor(pipe(**call | more).images)


@cache
def apple():
    return draw(whole())


class Served:
    """A body behind a real socket and the real protocol, in a thread of this process."""

    def __init__(self, body):
        self.server = StrictServer(service_of(body), TOKEN)
        self.path = write_token(self.server.host, self.server.port, TOKEN)
        self.server.listener.listen(8)
        self.address = self.server.address
        self.thread = threading.Thread(target=self.server.start, daemon=True)
        self.thread.start()

    def close(self):
        self.server.close()
        self.thread.join(10)
        self.path.unlink(missing_ok=True)


class World:
    """A host with toy-sd's denoiser, one with toy-llama's layers, and the ways to reach the first."""

    def __init__(self):
        self.pictures, self.text = Served(load_picture_body("toy-sd")), Served(load_body("toy-llama", 2, 2, "float32"))

    def link(self, address=None):
        return RpycLink(address or self.pictures.address, SECONDS, token=TOKEN)

    def still_serves(self):
        pipe = lk.split(whole(), mode="lockstep", body=self.link())
        assert torch.equal(draw(pipe), apple())
        pipe.close()

    def close(self):
        self.pictures.close()
        self.text.close()


@pytest.fixture(scope="module")
def world():
    made = World()
    yield made
    made.close()


class Row(NamedTuple):
    name: str
    act: Callable[[World], object]
    error: type[Exception]


# -- a person's own mistakes -----------------------------------------------------------------------


def cut(name="toy-sd", **options):
    return lambda world: lk.split(whole(name), **options)


def blocks(head, tail, name="toy-sd"):
    return cut(name, at="blocks", head=head, tail=tail)


def drawing(split=(), name="toy-sd", **call):
    return lambda world: draw(lk.split(whole(name), **dict(split)), name, **call)


def stochastic(world):
    pipe = lk.split(whole(), mode="lockstep")
    pipe.scheduler = diffusers.EulerAncestralDiscreteScheduler.from_config(pipe.scheduler.config)
    draw(pipe)


def calling(name, at, **extra):
    """Call the grafted denoiser itself, as ControlNet pipelines do, with one argument more."""

    def act(world):
        pipe = lk.split(whole(name), at="blocks", head=1, tail=1)
        given = {}
        denoiser = getattr(whole(name), at)
        handle = denoiser.register_forward_pre_hook(lambda m, a, k: given.update(k, a=a), with_kwargs=True)
        draw(whole(name), name, num_inference_steps=1)
        handle.remove()
        args = given.pop("a")
        with torch.no_grad():
            getattr(pipe, at)(*args, **given | extra)

    return act


def closed(world):
    pipe = lk.split(whole(), body=world.link())
    pipe.close()
    draw(pipe)


FROM_PEOPLE = [
    Row("unknown at", cut(at="middle"), e.UnsupportedOption),
    Row("unknown mode", cut(mode="fast"), e.UnsupportedOption),
    Row("no mode", cut(mode=None), e.UnsupportedOption),
    Row("unknown guidance", cut(guidance="both"), e.UnsupportedOption),
    Row("guidance at a host that does not know it", cut("toy-flux", guidance="host"), e.UnsupportedOption),
    Row("lockstep inside", cut(at="blocks", head=1, tail=1, mode="lockstep"), e.UnsupportedOption),
    Row("guidance at the host, cut inside", cut(at="blocks", head=1, tail=1, guidance="host"), e.UnsupportedOption),
    Row("head is not tail in a U-Net", blocks(1, 2), e.PlanError),
    Row("head too large for a U-Net", blocks(4, 4), e.PlanError),
    Row("negative head of a U-Net", blocks(-1, -1), e.PlanError),
    Row("text for a head", blocks("1", "1"), e.PlanError),
    Row("head too large for a transformer", blocks(99, 0, "toy-flux"), e.PlanError),
    Row("negative tail of a transformer", blocks(0, -1, "toy-sd3"), e.PlanError),
    Row("blocks of an unknown family", blocks(1, 1, "toy-sana"), e.UnsupportedModel),
    Row("a combined pipeline", cut("toy-kandinsky"), e.UnsupportedModel),
    Row("a list of latents", drawing(name="toy-zimage"), e.UnsupportedModel),
    Row("split twice", lambda world: lk.split(lk.split(whole())), e.UnsupportedModel),
    Row("unknown codec", cut(codec="jpeg"), e.CodecError),
    Row("an unknown name of settings", cut(codec="auto:picture"), e.CodecError),
    Row("a name of settings and more", cut(codec="auto:image+ans"), e.CodecError),
    Row("no name of settings", cut(codec=("auto", "fp32")), e.CodecError),
    Row("settings for another cut", cut(at="blocks", head=1, tail=1, codec="auto:image"), e.CodecError),
    Row("settings for pictures on a language model", lambda w: lk.split("toy-llama", codec="auto:image"), e.CodecError),
    Row("a pair of codecs as one", lambda w: lk.codec("auto:image"), e.CodecError),
    Row(
        "a name of settings on the wire", lambda w: w.link().open(Open("lockstep", "auto:image", "fp32")), e.CodecError
    ),
    Row("a body that is no address", cut(body="cloud"), e.UnsupportedOption),
    Row("stochastic scheduler in lockstep", cut("toy-lcm", mode="lockstep"), e.UnsupportedOption),
    Row("stochastic scheduler swapped in later", stochastic, e.UnsupportedOption),
    Row("eta in lockstep", drawing(dict(mode="lockstep"), eta=0.5), e.UnsupportedOption),
    Row(
        "ControlNet's residuals, cut inside",
        calling("toy-sd", "unet", mid_block_additional_residual=torch.zeros(1, 32, 2, 2)),
        e.UnsupportedOption,
    ),
    Row(
        "a T2I-Adapter's residuals, cut inside",
        calling("toy-sd", "unet", down_intrablock_additional_residuals=[torch.zeros(1)]),
        e.UnsupportedOption,
    ),
    Row(
        "ControlNet's residuals in a transformer",
        calling("toy-sd3", "transformer", block_controlnet_hidden_states=[torch.zeros(1)]),
        e.UnsupportedOption,
    ),
    Row("skipped layers in a transformer", calling("toy-sd35", "transformer", skip_layers=[1]), e.UnsupportedOption),
    Row("a pipeline that was closed", closed, e.HostUnavailable),
    Row("another number format after the split", lambda w: lk.split(whole()).to(torch.float16), e.UnsupportedOption),
    Row("saving a split pipeline", lambda w: lk.split(whole()).save_pretrained("nowhere"), e.UnsupportedOption),
    Row("copying a split pipeline", lambda w: copy.deepcopy(lk.split(whole())), e.UnsupportedOption),
    Row(
        "saving a pipeline without its denoiser",
        lambda w: lk.load_local("toy-sd").save_pretrained("nowhere"),
        e.UnsupportedModel,
    ),
    Row("a picture that has no name", lambda w: picture_quality(apple(), apple()), e.UnsupportedOption),
]


# -- clients of a host -----------------------------------------------------------------------------


def call_of(**more):
    return dict(
        sample=torch.zeros(2, 4, 16, 16), timestep=torch.tensor(1), encoder_hidden_states=torch.zeros(2, 77, 32)
    ) | dict(more)


@cache
def text_width():
    return whole().unet.config.cross_attention_dim


def tree_of(call=None, **more):
    return {"call": call_of(encoder_hidden_states=torch.zeros(2, 77, text_width())) | (call or {}), **more}


def state(**changes):
    scheduler = watch(copy.deepcopy(whole().scheduler))
    scheduler.set_timesteps(2)
    found = state_of(scheduler)
    for path, value in changes.items():
        if path == "class_":
            found["class"] = value
        else:
            found[path] = {**found[path], **value}
    return found


def packed(tree, how=()):
    form, sent = Packer(codec("fp32")).pack(tree, {"call.sample": ["up"], "latent": ["up"], **dict(how)})
    return form, b"".join(s.encoded.payload for s in sent)


def asking(*calls, mode="per_step"):
    """Open a session over RPyC and send (start, form, payload) one after the other; only the last is bad."""

    def act(world):
        with world.link() as link:
            session = link.open(Open(mode, "fp32", "fp32"))
            for number, make in enumerate(calls, 1):
                start, form, payload = make()
                link.step(session, PictureStep(number, start, form, payload))

    return act


def good(start=0):
    return lambda: (start, *packed(tree_of()))


LATENT = {"call.sample": ["latent", 2, True]}


def begin(start=0, **changes):
    """The first call of a run in lockstep."""
    return lambda: (start, *packed(tree_of(sync=state(**changes), latent=torch.zeros(1, 4, 16, 16)), LATENT))


def going_on(start, at=True):
    more = {"at": torch.tensor(1)} if at else {}
    return lambda: (start, *packed(tree_of(**more), LATENT))


def skipping(start, said):
    return lambda: (start, *packed(tree_of(at=torch.tensor(1), skip=said), LATENT))


class Silent:
    """A body whose answers say nothing from the second call on."""

    def __init__(self, body):
        self.body, self.own, self.calls = body, body._answer, 0
        body._answer = self._answer

    def _answer(self, session, step):
        self.calls += 1
        return self.own(session, step) if self.calls < 2 else b""


def skipped_by_the_host(**split):
    def act(world):
        pipe = lk.split(whole(), mode="lockstep", body="loopback", **split)
        Silent(pipe.link.body)
        draw(pipe, num_inference_steps=5)

    return act


def with_time(start, at):
    return lambda: (start, *packed(tree_of(at=at), LATENT))


def with_tree(how=(), **more):
    return lambda: (0, *packed(tree_of(**more), how))


def with_call(**more):
    return lambda: (0, *packed(tree_of(more)))


def free(tree, *names, at=0):
    """A call whose tensors of these names cost nothing to send: only their shapes cross."""
    return lambda: (at, *packed(tree, {name: ["zero"] for name in names}))


def synced(name="DPMSolverMultistepScheduler", latent=(1, 4, 16, 16), **config):
    """The first call of a run under a scheduler's state of one's own, with a latent that costs nothing."""
    sync = {"class": name, "config": config, "changed": {}}
    return free(tree_of(sync=sync, latent=torch.zeros(latent)), "latent")


def raw(form, payload=b""):
    form = form if isinstance(form, bytes) else json.dumps(form).encode()
    return lambda: (0, form, payload)


def entry(*fields, payload=b"", path="sample"):
    """A call of one argument, whose tensor is described by these fields."""
    return raw([{"d": {"call": {"d": {path: {"#": 0}}}}}, [list(fields)]], payload)


def squeezed(form, **how):
    """A form compressed by zstandard."""
    form = form if isinstance(form, bytes) else json.dumps(form).encode()
    return zstandard.ZstdCompressor(**how).compress(form)


def asking_up(spec, *calls, down="fp32"):
    """Open a session whose codec up is `spec`, and send calls one after the other; only the last is bad."""

    def act(world):
        with world.link() as link:
            session = link.open(Open("per_step", spec, down))
            for number, make in enumerate(calls, 1):
                start, form, payload = make()
                link.step(session, PictureStep(number, start, form, payload))

    return act


def past(value, free=False):
    """A call that says what a predicting codec goes on from."""
    how = {"past.0.0": ["zero"]} if free else {}
    return asking_up("fp32", lambda: (0, *packed(tree_of(past=value), how)), down=DELTA)


def past_of_one(values):
    """One tensor, sent once, that is the past of three outputs."""
    tree = {"d": {"call": {"d": {}}, "past": {"l": [{"l": [{"#": 0}, {"#": 0}]}] * 3}}}
    return raw([tree, [["raw", "float32", [values]]]], bytes(4 * values))


def alike(spec, *shapes):
    """Tensors whose values are all one: however large, a range coder writes each in a few bytes."""
    payload = codec(spec).encode(torch.ones(4)).payload
    return raw([{}, [["up", "", "float32", list(shape)] for shape in shapes]], payload * len(shapes))


def changed_payload(change):
    def make():
        form, payload = packed(tree_of())
        return 0, form, change(payload)

    return make


def nested(levels):
    return b'{"l":[' * levels + b"]}" * levels


def lockstep(*calls):
    return asking(*calls, mode="lockstep")


def text_client(world):
    lk.split(lk.load("toy-llama")[0], body=world.pictures.address)


def text_step(world):
    """A text client that skips the comparison of weights, and steps as if these were layers."""
    with world.link() as link:
        session = link.open(Open("per_step", "fp32", "fp32"))
        link.step(session, Step(1, 0, 1, 2, b"\0" * 512))


FROM_CLIENTS = [
    Row("text client on a host of pictures", text_client, e.FingerprintMismatch),
    Row("text terms on a host of pictures", lambda w: w.link().open(Open("kv", "fp32", "fp32")), e.FrameError),
    Row("a text step on a host of pictures", text_step, e.FrameError),
    Row("picture client on a host of text", lambda w: lk.split(whole(), body=w.text.address), e.FingerprintMismatch),
    Row("another toy", lambda w: lk.split(whole("toy-sdxl"), body=w.pictures.address), e.FingerprintMismatch),
    Row(
        "blocks of another toy",
        lambda w: lk.split(whole("toy-lcm"), at="blocks", head=1, tail=1, body=w.pictures.address),
        e.FingerprintMismatch,
    ),
    Row(
        "not the middle of the U-Net",
        lambda w: RpycLink(w.pictures.address, SECONDS, start=1, stop=3, token=TOKEN),
        e.FingerprintMismatch,
    ),
    Row(
        "a part beside the blocks",
        lambda w: RpycLink(w.pictures.address, SECONDS, start=0, stop=2, token=TOKEN),
        e.FingerprintMismatch,
    ),
    Row(
        "a middle without blocks",
        lambda w: RpycLink(w.pictures.address, SECONDS, start=5, stop=6, token=TOKEN),
        e.FingerprintMismatch,
    ),
    Row("unknown mode on the wire", lambda w: w.link().open(Open("fast", "fp32", "fp32")), e.FrameError),
    # forms
    Row("a form that is no JSON", asking(raw(b"\x00\xff{")), e.FrameError),
    Row("an empty form at first", asking(raw(b"")), e.FrameError),
    Row("a form that is a number", asking(raw(b"7")), e.FrameError),
    Row("a form of three parts", asking(raw([{}, [], []])), e.FrameError),
    Row("nested 1000 deep", asking(raw(b"[" + nested(1000) + b",[]]")), e.FrameError),
    Row("nested 30000 deep", asking(raw(b"[" * 30_000 + b"]" * 30_000)), e.FrameError),
    Row("nested nine deep", asking(raw(b"[" + nested(10) + b",[]]")), e.FrameError),
    Row("a form of one megabyte", asking(raw(b'["' + b"x" * (1 << 20) + b'",[]]')), e.LimitExceeded),
    Row("an integer of 5000 digits", asking(raw(b"[" + b"9" * 5000 + b",[]]")), e.FrameError),
    Row("a tensor index too high", asking(raw([{"d": {"call": {"d": {"sample": {"#": 3}}}}}, []])), e.FrameError),
    Row("a negative tensor index", asking(raw([{"d": {"call": {"d": {"sample": {"#": -1}}}}}, []])), e.FrameError),
    Row("a compressed form of a gigabyte", asking(raw(squeezed(b" " * (1 << 20)))), e.LimitExceeded),
    Row(
        "a compressed form that hides its size",
        asking(
            raw(
                squeezed(
                    b" " * (1 << 20),
                    compression_params=zstandard.ZstdCompressionParameters(write_content_size=0, window_log=20),
                )
            )
        ),
        e.FrameError,
    ),
    Row("a compressed form cut short", asking(raw(squeezed([{}, []])[:-3])), e.FrameError),
    Row("a compressed form of nothing but its name", asking(raw(b"\x28\xb5\x2f\xfd")), e.FrameError),
    Row("a compressed form that is no JSON", asking(raw(squeezed(b"\xff{"))), e.FrameError),
    Row("a form compressed twice", asking(raw(squeezed(squeezed([{}, []])))), e.FrameError),
    Row("a form compressed with another's dictionary", asking(raw(b"\x28\xb5\x2f\xfd\x23\1\2\3\4\0")), e.FrameError),
    Row("whole numbers that are floats", asking(entry("whole", "float32", [1], payload=b"\1")), e.FrameError),
    Row("whole numbers by the million", asking(entry("whole", "int64", [1 << 20], payload=b"\1")), e.FrameError),
    Row("a whole number cut short", asking(entry("whole", "int64", [2], payload=b"\1\x80")), e.CodecError),
    Row("a whole number without an end", asking(entry("whole", "int64", [1], payload=b"\xff" * 9)), e.CodecError),
    Row("a number of 2 to the 31", asking(entry("whole", "int32", [1], payload=b"\x80\x80\x80\x80\x08")), e.FrameError),
    Row("kept, and nothing else", asking(entry("keep")), e.FrameError),
    Row("kept twice over", asking(entry("keep", "keep", "raw", "uint8", [1], payload=b"0")), e.FrameError),
    Row("kept by handle", asking(entry("keep", "had", "uint8", [1])), e.FrameError),
    Row("a shape kept", asking(entry("keep", "zero", "float32", [1 << 20])), e.FrameError),
    Row("a latent kept", asking(entry("keep", "latent", 2, True, "float32", [1])), e.FrameError),
    Row("kept under a number", asking(entry("keep", 7, "float32", [1])), e.FrameError),
    Row("kept under a list", asking(entry("keep", ["raw"], "uint8", [1], payload=b"0")), e.FrameError),
    Row("65 kept tensors", asking(raw([{}, [["keep", "raw", "uint8", [1]]] * 64], bytes(64))), e.LsplitError),
    Row(
        "no layout of a kept one", asking(entry("keep", "up", "31", "float32", [1, 1], payload=b"\0" * 4)), e.FrameError
    ),
    Row("a hundred thousand tokens in a few bytes", asking_up(NEAR, alike(NEAR, (1, 1 << 17, 2))), e.CodecError),
    Row("three tensors of millions in a few bytes", asking_up(ANS, alike(ANS, *[(1 << 24,)] * 3)), e.LimitExceeded),
    Row("65 tensors", asking(raw([{}, [["zero", "float32", [1]]] * 65])), e.LimitExceeded),
    Row("entries that are a dict", asking(raw([{}, {}])), e.FrameError),
    Row("a tensor of no known kind", asking(entry("file", "float32", [1])), e.FrameError),
    Row(
        "a tensor of a dtype that may not cross", asking(entry("raw", "complex64", [1], payload=b"0" * 8)), e.FrameError
    ),
    Row("a tensor of seven dimensions", asking(entry("raw", "uint8", [1] * 7, payload=b"0")), e.FrameError),
    Row("a negative size", asking(entry("raw", "uint8", [-1])), e.LimitExceeded),
    Row("a size that is a float", asking(entry("raw", "uint8", [1.0], payload=b"0")), e.LimitExceeded),
    Row("zeros of 2 to the 40 values", asking(entry("zero", "float32", [1 << 20, 1 << 20])), e.LimitExceeded),
    Row("a handle that is unknown", asking(entry("had", 5)), e.FrameError),
    Row("a handle that is negative", asking(entry("had", -1)), e.FrameError),
    Row("a handle that is true", asking(entry("had", True)), e.FrameError),
    Row("a layout that is no order", asking(entry("up", "9", "float32", [1, 1], payload=b"\0" * 4)), e.FrameError),
    Row("a layout that is a number", asking(entry("up", 10, "float32", [1, 1], payload=b"\0" * 4)), e.FrameError),
    Row("a bool of two", asking(entry("raw", "bool", [2], payload=b"\1\2")), e.FrameError),
    Row("NaN in a tensor as it is", asking(entry("raw", "float32", [1], payload=b"\0\0\xc0\x7f")), e.NonFiniteError),
    Row("NaN through the codec", asking(entry("up", "", "float32", [1], payload=b"\0\0\xc0\x7f")), e.NonFiniteError),
    Row("a tensor cut short", asking(entry("raw", "float32", [2], payload=b"\0" * 7)), e.FrameError),
    Row("a payload one byte short", asking(changed_payload(lambda p: p[:-1])), e.FrameError),
    Row("a payload one byte long", asking(changed_payload(lambda p: p + b"\0")), e.FrameError),
    Row("a payload that is empty", asking(changed_payload(lambda p: b"")), e.CodecError),
    Row("an unknown part of the call", asking(with_tree(shell="ls")), e.FrameError),
    Row("no call at all", asking(raw([{"d": {}}, []])), e.FrameError),
    Row("an unknown argument", asking(with_call(weights=1)), e.FrameError),
    Row("self as an argument", asking(with_call(self=1)), e.FrameError),
    Row("return_dict as an argument", asking(with_call(return_dict=True)), e.LsplitError),
    Row("guidance of one number", asking(with_tree(guide=7.5)), e.FrameError),
    Row("guidance elsewhere", asking(with_tree(guide={"scale": 2.0, "where": "moon"})), e.FrameError),
    Row("guidance with a NaN", asking(with_tree(guide={"scale": NAN, "where": "host"})), e.LsplitError),
    # arguments that the denoiser cannot take
    Row("a latent of five channels", asking(with_call(sample=torch.zeros(2, 5, 16, 16))), e.LsplitError),
    Row("a latent of two dimensions", asking(with_call(sample=torch.zeros(2, 4))), e.LsplitError),
    Row("text of another width", asking(with_call(encoder_hidden_states=torch.zeros(2, 77, 5))), e.LsplitError),
    Row(
        "a picture that takes hours",
        asking(free(tree_of(dict(sample=torch.zeros(1, 4, 1024, 1024))), "call.sample")),
        e.LimitExceeded,
    ),
    Row(
        "a thousand pictures",
        asking(free(tree_of(dict(sample=torch.zeros(1000, 4, 8, 8))), "call.sample")),
        e.LimitExceeded,
    ),
    Row("a million rows of nothing", asking(entry("zero", "float32", [10**6, 4, 0, 0])), e.LimitExceeded),
    Row("nothing times too much", asking(entry("zero", "float32", [0, 1 << 20, 1 << 20])), e.LimitExceeded),
    Row(
        "a time step for everyone",
        asking(free(tree_of(dict(timestep=torch.zeros(100_000))), "call.timestep")),
        e.FrameError,
    ),
    Row("text for three of two", asking(with_call(encoder_hidden_states=torch.zeros(3, 77, 32))), e.FrameError),
    Row("a text without a word", asking(with_call(encoder_hidden_states=torch.zeros(2, 0, 32))), e.FrameError),
    Row(
        "a text of millions",
        asking(free(tree_of(dict(encoder_hidden_states=torch.zeros(2, 1 << 18, 32))), "call.encoder_hidden_states")),
        e.LimitExceeded,
    ),
    Row("words for a time step", asking(with_call(timestep="soon")), e.LsplitError),
    Row("no time step", asking(lambda: (0, *packed({"call": {"sample": torch.zeros(2, 4, 16, 16)}}))), e.LsplitError),
    # runs
    Row("a latent without a run", lockstep(going_on(0)), e.CacheMiss),
    Row("a latent in per_step", asking(going_on(0)), e.CacheMiss),
    Row("start out of order", lockstep(begin(), going_on(2)), e.CacheMiss),
    Row("start backwards", lockstep(begin(5), going_on(4)), e.CacheMiss),
    Row("a step whose time is a word", lockstep(begin(), with_time(1, "soon")), e.LsplitError),
    Row("a step whose time is none of the run", lockstep(begin(), with_time(1, torch.tensor(-7))), e.LsplitError),
    # skipped calls
    *(
        Row(f"skip of {said!r}", lockstep(begin(), skipping(1, said)), e.FrameError)
        for said in ("auto", -0.5, [], {"a": 1}, 1e999)
    ),
    Row("skip of a tensor", lockstep(begin(), skipping(1, torch.ones(3))), e.FrameError),
    Row("skip with a NaN", lockstep(begin(), skipping(1, NAN)), e.FrameError),
    Row("skip in per_step", asking(with_tree(skip=True)), e.FrameError),
    Row("a past that is a tensor", past(torch.ones(3)), e.FrameError),
    Row("a past of tensors outside a list", past([torch.ones(3)]), e.FrameError),
    Row("a past of numbers", past([[1.0]]), e.FrameError),
    Row("a past of three tensors", past([[torch.ones(3)] * 3]), e.CodecError),
    Row("a past of whole numbers", past([[torch.ones(3, dtype=torch.int64)]]), e.CodecError),
    Row("a past of shapes without values", past([[torch.zeros(1 << 24)]], free=True), e.FrameError),
    Row("a past for a hundred outputs", past([[]] * 100), e.FrameError),
    Row("a past of a codec that has none", asking(with_tree(past=[[torch.ones(3)]])), e.CodecError),
    Row("a past named again and again", asking_up("fp32", past_of_one(1 << 20), down=DELTA), e.LimitExceeded),
    Row("skip of a call alone", lockstep(with_tree(skip=True, alone=True)), e.FrameError),
    Row("skip before a run", lockstep(skipping(0, True)), e.CacheMiss),
    Row("a host that skips what it was not asked to", skipped_by_the_host(), e.FrameError),
    Row("a host that skips and has nothing to guess from", skipped_by_the_host(skip="auto"), e.FrameError),
    Row("a step and none before it", lockstep(begin(), going_on(0), going_on(2)), e.CacheMiss),
    Row(
        "a latent that is text", lockstep(lambda: (0, *packed(tree_of(sync=state(), latent="x"), LATENT))), e.FrameError
    ),
    Row("no latent at the start", lockstep(lambda: (0, *packed(tree_of(sync=state()), LATENT))), e.FrameError),
    Row("a state that is a list", lockstep(lambda: (0, *packed(tree_of(sync=[1]), LATENT))), e.FrameError),
    Row("an unknown scheduler", lockstep(begin(class_="os")), e.FrameError),
    Row("a scheduler that draws random numbers", lockstep(begin(class_="DDPMScheduler")), e.FrameError),
    Row("a scheduler that is a list", lockstep(begin(class_=["DDIMScheduler"])), e.FrameError),
    Row("unknown keys of a configuration", lockstep(begin(config=dict(evil=1))), e.FrameError),
    Row("a huge number of a configuration", lockstep(begin(config=dict(num_train_timesteps=10**9))), e.LimitExceeded),
    Row("a huge float of a configuration", lockstep(begin(config=dict(num_train_timesteps=1e12))), e.LsplitError),
    Row("a list for a number", lockstep(begin(config=dict(num_train_timesteps=[1]))), e.LsplitError),
    Row("a schedule that is none", lockstep(begin(config=dict(beta_schedule="x"))), e.FrameError),
    Row("a foreign attribute", lockstep(begin(changed={"__class__": "x"})), e.FrameError),
    Row("a method of the scheduler", lockstep(begin(changed={"step": 1})), e.FrameError),
    Row("the configuration as an attribute", lockstep(begin(changed={"_internal_dict": {}})), e.FrameError),
    Row(
        "a latent that would be repeated",
        lockstep(
            free(tree_of(sync=state(), latent=torch.zeros(5000, 1, 1, 1)), "latent"),
            lambda: (1, *packed(tree_of(at=torch.tensor(1)))),
        ),
        e.FrameError,
    ),
    Row("a latent of millions", lockstep(synced(latent=(1, 4, 1024, 1024))), e.LimitExceeded),
    Row("a flat latent", lockstep(synced(latent=(64,))), e.LimitExceeded),
    Row("a table of a million steps", lockstep(synced(trained_betas=torch.zeros(1 << 16))), e.LimitExceeded),
    Row("an order of hundreds", lockstep(synced(solver_order=800)), e.LimitExceeded),
    Row("random by an option", lockstep(synced(algorithm_type="sde-dpmsolver++")), e.FrameError),
    Row(
        "random by another option",
        lockstep(synced("FlowMatchEulerDiscreteScheduler", stochastic_sampling=True)),
        e.FrameError,
    ),
    Row("a terminal's codes for a name", lockstep(synced(prediction_type="\x1b]0;owned\x07\n")), e.LimitExceeded),
    Row("text for the time steps", lockstep(begin(changed={"timesteps": "now"}), going_on(1)), e.LsplitError),
    Row("no inference steps", lockstep(begin(changed={"num_inference_steps": 0}), going_on(1)), e.LsplitError),
]


# -- hosts -----------------------------------------------------------------------------------------


class Lying:
    """toy-sd's body in this process, whose answers are changed on the way."""

    def __init__(self, lie, cut=("denoiser", 0)):
        unet = whole().unet
        self.real = picture_body(unet, picture_cut(unet, cut[0], cut[1], cut[1]), "toy-sd")
        self.info, self.message, self.lie = self.real.info, self.real.message, lie
        self.open, self.close_session = self.real.open, self.real.close_session

    def step(self, session, step):
        return self.lie(self.real.step(session, step))


def lying(lie, **split):
    def act(world):
        body = Lying(lie, (split.get("at", "denoiser"), split.get("head", 0)))
        draw(lk.split(whole(), body=InProcess(body), **split))

    return act


def shapes(text):
    """The answer with another text in front of the payloads."""
    text = text if isinstance(text, bytes) else json.dumps(text, separators=(",", ":")).encode()
    return lambda raw: bytes([len(text)]) + text + raw[1 + raw[0] :]


def resized(*shape):
    """An answer of another shape, with as many bytes as that takes."""

    def lie(raw):
        text = json.dumps([["", *shape]]).encode()
        return bytes([len(text)]) + text + bytes(4 * math.prod(shape))

    return lie


def all_nan(raw):
    size = 1 + raw[0]
    return raw[:size] + b"\xff" * (len(raw) - size)


def merged(raw):
    """The right number of values, but with the batch and the channels in one dimension."""
    ((layout, batch, channels, *rest),) = json.loads(raw[1 : 1 + raw[0]]) if raw[0] else [["", 1, 1]]
    return shapes([[layout, batch * channels, 1, *rest]])(raw)


def forgetting(raw):
    raise e.CacheMiss("no", have=0)


def nobody(world):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    lk.split(whole(), body=f"rpyc://127.0.0.1:{port}", timeout=1)


def dies(when):
    """A host of its own that ends before the picture (-1) or after this step."""

    def act(world):
        host = Served(load_picture_body("toy-sd"))
        pipe = lk.split(whole(), mode="lockstep", body=RpycLink(host.address, SECONDS, token=TOKEN))

        def callback(pipe, step, t, kwargs):
            if step == when:
                host.close()
            return {}

        if when < 0:
            host.close()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(patience, "RETURN_SECONDS", 0)  # it does not come back
            draw(pipe, num_inference_steps=3, callback_on_step_end=callback)

    return act


BLOCKS = dict(at="blocks", head=1, tail=1)
FROM_HOSTS = [
    Row("nobody listens", nobody, e.HostUnavailable),
    Row("dies before the picture", dies(-1), e.HostUnavailable),
    Row("dies inside a picture", dies(0), e.HostUnavailable),
    Row("NaN noise", lying(all_nan), e.NonFiniteError),
    Row("NaN noise in lockstep", lying(all_nan, mode="lockstep"), e.NonFiniteError),
    Row("NaN at blocks", lying(all_nan, **BLOCKS), e.NonFiniteError),
    Row("an empty answer", lying(lambda raw: b""), e.FrameError),
    Row("cut short", lying(lambda raw: raw[:-4]), e.FrameError),
    Row("too long", lying(lambda raw: raw + b"\0"), e.FrameError),
    Row("cut inside the shapes", lying(lambda raw: raw[:5]), e.FrameError),
    Row("shapes that are no JSON", lying(shapes(b"\xff\xfe")), e.FrameError),
    Row("shapes that are a number", lying(shapes(3)), e.FrameError),
    Row("no shapes", lying(shapes([])), e.FrameError),
    Row("a negative size", lying(shapes([["", -1, 4]])), e.FrameError),
    Row("a shape of text", lying(shapes([["", "a"]])), e.FrameError),
    Row("another shape of as many values", lying(shapes([["", 2, 4, 8, 32]])), e.LsplitError),
    Row("another shape in lockstep", lying(shapes([["", 1, 4, 8, 32]]), mode="lockstep"), e.LsplitError),
    Row("another shape at blocks", lying(merged, **BLOCKS), e.LsplitError),
    Row("one channel for four", lying(resized(2, 1, 16, 16)), e.FrameError),
    Row("one channel for four in lockstep", lying(resized(1, 1, 16, 16), mode="lockstep"), e.FrameError),
    Row("five channels", lying(resized(2, 5, 16, 16)), e.FrameError),
    Row("no channels", lying(resized(2, 0, 16, 16)), e.FrameError),
    Row("one pixel at blocks", lying(resized(2, 32, 1, 1), **BLOCKS), e.FrameError),
    Row("other channels at blocks", lying(resized(2, 7, 8, 8), **BLOCKS), e.FrameError),
    Row("one pixel where all blocks are away", lying(resized(2, 16, 1, 1), at="blocks", head=0, tail=0), e.FrameError),
    Row("65 dimensions", lying(shapes([["", *[1] * 65]])), e.FrameError),
    Row("sizes that overflow", lying(shapes([["", 0, *[(1 << 24) - 1] * 6]])), e.FrameError),
    Row("no sizes", lying(shapes([[""]])), e.FrameError),
    Row("33 million values", lying(shapes([["", 2, 1 << 24]])), e.FrameError),
    Row("a flat shape", lying(shapes([["", 2 * 4 * 16 * 16]])), e.LsplitError),
    Row("two tensors for one", lying(shapes([["", 1, 4, 16, 16], ["", 1, 4, 16, 16]])), e.LsplitError),
    Row("a layout that is none", lying(shapes([["77", 2, 4, 16, 16]])), e.FrameError),
    Row("forgets for ever", lying(forgetting), e.CacheMiss),
]

TABLE = [(f"{side}: {row.name}", row.act, row.error) for side, rows in (
    ("person", FROM_PEOPLE), ("client", FROM_CLIENTS), ("host", FROM_HOSTS)) for row in rows]  # fmt: skip


@pytest.mark.parametrize(("act", "error"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_bad_input(world, act, error):
    with pytest.raises(error) as caught:
        act(world)
    text = str(caught.value)
    assert type(caught.value) is error or error is e.LsplitError, repr(caught.value)
    assert caught.value.code in e.by_code()
    assert text and text.isprintable() and "Traceback" not in text and len(text) < 700, text
    assert not re.search(r"(?<![\w:/])/\w+/", text), text
    assert not re.search(r"[.;]\s+[A-Z]\w+ .*\. ", text + " "), text  # one sentence
    world.still_serves()


def test_the_table_is_long_and_named_once():
    assert len(TABLE) >= 25 and len({row[0] for row in TABLE}) == len(TABLE)


def test_a_skip_is_a_question_that_the_host_may_refuse(world):
    """Nothing is known yet, then one noise, then two; a latent that comes with the call is never skipped."""
    guide, latent, at = {"scale": 2.0, "where": "host"}, torch.zeros(1, 4, 16, 16), torch.tensor(1)
    trees = [dict(sync=state(), latent=latent), *(dict(at=at, skip=True) for _ in range(3))]
    trees.append(dict(at=at, skip=True, latent=latent))
    with world.link() as link:
        session, answers = link.open(Open("lockstep", "fp32", "fp32")), []
        for number, tree in enumerate(trees):
            step = PictureStep(number + 1, number, *packed(tree_of(guide=guide, **tree), LATENT))
            answers.append(link.step(session, step).payload)
    assert [bool(answer) for answer in answers] == [True, True, False, True, True]


def test_a_refused_call_leaves_the_session_alone(world):
    """After a call that was refused, the next one of the same session is answered as if it had been the first."""
    with world.link() as link:
        session = link.open(Open("per_step", "fp32", "fp32"))
        _, form, payload = good()()
        with pytest.raises(e.FrameError):
            link.step(session, PictureStep(1, 0, form, payload + b"\0"))
        first = link.step(session, PictureStep(2, 0, form, payload)).payload
        assert link.step(session, PictureStep(2, 0, form, payload)).payload == first  # a lost answer, asked for again
        with pytest.raises(e.StepRefused):
            link.step(session, PictureStep(2, 1, form, payload))
        with pytest.raises(e.StepRefused):
            link.step(session, PictureStep(1, 0, form, payload))


def test_zero_steps_are_the_librarys_own_error(world):
    """num_inference_steps=0 fails before the denoiser is called, split or not, and nothing crosses."""
    kinds = []
    for pipe in (whole(), lk.split(whole(), mode="lockstep")):
        with pytest.raises(Exception) as caught:  # noqa: B017 (the library's, which differs by scheduler)
            draw(pipe, num_inference_steps=0)
        kinds.append(type(caught.value))
    assert kinds[0] is kinds[1] or kinds[1] is e.UnsupportedModel


def body_and_session(mode="per_step", **info):
    body = load_picture_body("toy-sd")
    body.info = body.info._replace(**info)
    return body, body.open(Open(mode, "fp32", "fp32"))


def test_what_is_kept_is_bounded_by_its_values_and_not_by_its_bytes():
    """Tensors that take a few bytes to send may not fill the host, in one call or over many."""
    body = load_picture_body("toy-sd")
    session = body.open(Open("per_step", ANS, "fp32"))
    body.sessions[session].forms.kept = [torch.zeros(()).expand(1 << 24), torch.zeros(()).expand((1 << 24) - 8)]
    with pytest.raises(e.LimitExceeded, match="33,554,432 values"):
        body.step(session, PictureStep(1, *alike(ANS, (9,))()))
    with pytest.raises(e.FrameError, match="not readable"):  # as many as there may be: only the tree is wrong
        body.step(session, PictureStep(2, *alike(ANS, (8,))()))


def test_what_a_failed_call_kept_is_forgotten():
    """Tensors that came once with a call that failed do not pile up in the session."""
    body, session = body_and_session()
    form = json.dumps(
        [{"d": {"call": {"d": {"sample": {"#": 0}, "timestep": 1}}}}, [["keep", "uint8", [1, 4, 64, 64]]]]
    )
    for number in range(1, 4):
        with pytest.raises(Exception):  # noqa: B017 (whatever the U-Net says of bytes)
            body.step(session, PictureStep(number, 0, form.encode(), bytes(4 * 64 * 64)))
        assert body.sessions[session].forms.kept == [] and body.sessions[session].size() < 1000


def test_a_run_and_its_last_answer_count():
    body, session = body_and_session("lockstep")
    start, form, payload = begin()()
    answer = body.step(session, PictureStep(1, start, form, payload))
    latent, noise, text = 4096, 2 * 4096, 2 * 77 * text_width() * 4
    assert body.sessions[session].size() >= latent + noise + text + len(answer)


def test_an_answer_that_no_frame_can_take_is_refused_before_it_is_kept():
    body, session = body_and_session(max_frame=8000)
    with pytest.raises(e.LimitExceeded, match="The answer takes 8,192 bytes"):
        body.step(session, PictureStep(1, *good()()))
    assert body.sessions[session].last[0] == -1


def test_a_newcomer_is_greeted_while_another_computes(world):
    with world.pictures.server.service.body.pool.computing, world.link() as link:
        number = link.open(Open("lockstep", "fp32", "int8"))
        link.close_session(number)


def test_the_log_of_a_host_has_no_control_characters(world, caplog):
    with caplog.at_level(logging.INFO), world.link() as link:
        session = link.open(Open("per_step", "fp32", "fp32"))
        with pytest.raises(e.HostError):
            form, payload = packed(tree_of(dict(timestep="\x1b[2J\n2030-01-01 forged")))
            link.step(session, PictureStep(1, 0, form, payload))
    said = [Line().format(record) for record in caplog.records]
    assert any("Traceback" in line for line in said) and all(line.isprintable() for line in said)
