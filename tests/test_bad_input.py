"""One table of nonsense, from every side: a typed sentence within a deadline, and the host serves the next client."""

from __future__ import annotations

import copy
import pickle
import re
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import rpyc
import torch
import transformers
from rpyc.core import brine, consts

import lsplit_kit as lk
from lsplit_kit import errors as e
from lsplit_kit.demo import run_demo
from lsplit_kit.remote.address import parse_address
from lsplit_kit.remote.client import RpycLink
from lsplit_kit.remote.protocol import rebuild
from lsplit_kit.remote.service import info_to_wire
from lsplit_kit.remote.stream import FastStream
from lsplit_kit.remote.token import find_token, prove_to_client, prove_to_host
from lsplit_kit.wire.message import PROTOCOL, Open, Step, ints_to_wire

pytestmark = pytest.mark.timeout(90)
SECONDS = 2.0  # no bad call may take longer, and most take milliseconds
WIDTH, TOKEN = 64, bytes(range(32))
PROMPT = torch.tensor([[5, 9, 17, 40, 3]])
HELLO = (PROTOCOL, "0", "0", "0", "", -1, -1, "")
NAN, INF = float("nan"), float("inf")


class World:
    """A real host with toy-llama, the unsplit model, and the ways to reach the host."""

    def __init__(self, host):
        self.host, self.where = host, parse_address(host.address)
        self.model = lk.load("toy-llama")[0]
        self.tokens = self.generate(self.model)
        self.held = []

    def generate(self, model):
        return model.generate(PROMPT, max_new_tokens=3, do_sample=False, pad_token_id=0).tolist()

    def link(self, **options):
        return RpycLink(self.host.address, SECONDS, **options)

    def still_serves(self):
        split = lk.split(self.model, body=self.host.address, timeout=5)
        assert self.generate(split) == self.tokens
        split.close()

    def socket(self):
        stream = FastStream(socket.create_connection(self.where, SECONDS), SECONDS)
        self.held.append(stream)
        return stream

    def raw(self):
        """A stream whose owner knows the token and then does as it likes."""
        stream = self.socket()
        prove_to_host(stream, find_token(*self.where), SECONDS)
        return stream

    def close(self):
        for stream in self.held:
            stream.close()
        self.held.clear()


@pytest.fixture(scope="module")
def world():
    with lk.host("toy-llama") as host:
        yield World(host)


class Row(NamedTuple):
    name: str
    act: Callable[[World], object]
    error: type[Exception]


# -- ways to do something bad ----------------------------------------------------------------------


def data(batch=1, tokens=2, width=WIDTH, value=0.5, dtype=torch.float32):
    return bytes(torch.full((batch, tokens, width), value, dtype=dtype).view(torch.uint8).flatten().tolist())


def good(number=1, start=0, batch=1, tokens=2, **more):
    return Step(number, start, batch, tokens, more.pop("payload", data(batch, tokens)), **more)


def steps(*all_steps, policy="kv", up="fp32"):
    """A well-behaved link that sends these steps; only the last is bad."""

    def act(world):
        with world.link() as link:
            session = link.open(Open(policy, up, "fp32"))
            for step in all_steps[:-1]:
                link.step(session, step)
            link.step(session, all_steps[-1])

    return act


def opening(*terms):
    def act(world):
        with world.link() as link:
            link.open(terms)

    return act


def joining(**options):
    return lambda world: world.link(**options)


def frame(content, compressed=0, size=None):
    size = len(content) if size is None else size
    return size.to_bytes(4, "big") + bytes([compressed]) + content + b"\n"


def request(handler, args, label=consts.LABEL_VALUE, seq=0):
    return frame(bytes([consts.MSG_REQUEST]) + brine.dump((seq, (handler, (label, args)))))


def named(name, *args, options=()):
    return request(consts.HANDLE_CALLATTR, (None, name, args, options))


def told(stream, message):
    """Send one frame; return the answer, raise the error that it names, or EOFError when the host hangs up."""
    stream.write(message)
    size = int.from_bytes(stream.read(5)[:4], "big")
    answer = bytes(stream.read(size + 1)[:-1])
    seq, value = brine.load(answer[1:])
    if answer[0] == consts.MSG_EXCEPTION:
        raise rebuild(*value)
    return value[1]


def frames(*messages, hello=True):
    """Raw frames behind the token, after a hello or before it."""

    def act(world):
        stream = world.raw()
        for message in ((named("hello", *HELLO),) if hello else ()) + messages:
            told(stream, message)

    return act


def strangers(content):
    """Bytes without the token's handshake."""

    def act(world):
        stream = world.socket()
        stream.write(content)
        stream.read(1)

    return act


def cut_short(world):
    stream = world.raw()
    stream.write(named("hello", *HELLO)[:-9])
    stream.sock.shutdown(socket.SHUT_WR)
    stream.read(1)


def stalls(world):
    """A peer that stops inside a frame keeps its own place only: the host serves others meanwhile."""
    stream = world.raw()
    stream.write(named("hello", *HELLO)[:-9])
    world.still_serves()
    world.close()
    raise EOFError


def plain_client(world):
    conn = rpyc.connect(*world.where, config={"sync_request_timeout": SECONDS})
    return conn.root.hello(*HELLO)


def ints(*values):
    return ints_to_wire(values)


def nested(levels):
    value = ()
    for _ in range(levels):
        value = (value,)
    return value


OPENED = named("open", "kv", "fp32", "fp32")
THEN = good(2, 2, tokens=1)
PAIR = good(1, batch=2)

FROM_CLIENTS = [
    # payloads
    Row("payload one byte short", steps(good(payload=data()[:-1])), e.CodecError),
    Row("payload one byte long", steps(good(payload=data() + b"\0")), e.CodecError),
    Row("payload empty", steps(good(payload=b"")), e.CodecError),
    Row("payload of another batch", steps(good(batch=2, payload=data(1))), e.CodecError),
    Row("payload of another length", steps(good(tokens=3, payload=data(tokens=2))), e.CodecError),
    Row("payload of another width", steps(good(payload=data(width=WIDTH + 1))), e.CodecError),
    Row("payload of another dtype", steps(good(payload=data(dtype=torch.float16))), e.CodecError),
    Row("payload of another codec", steps(good(payload=data()), up="int8:token"), e.CodecError),
    Row("NaN", steps(good(payload=data(value=NAN))), e.NonFiniteError),
    Row("infinity", steps(good(payload=data(value=INF))), e.NonFiniteError),
    Row("minus infinity later", steps(good(), good(2, 2, payload=data(value=-INF))), e.NonFiniteError),
    Row(
        "infinity in fp16",
        steps(good(payload=data(value=INF, dtype=torch.float16)), up="fp16"),
        e.NonFiniteError,
    ),
    Row("NaN in bf16", steps(good(payload=data(value=NAN, dtype=torch.bfloat16)), up="bf16"), e.NonFiniteError),
    Row("NaN scales", steps(good(payload=b"\xff" * (2 * WIDTH + 8)), up="int8:token"), e.NonFiniteError),
    # numbers of a step
    Row("no tokens", steps(good(tokens=0, payload=b"")), e.LimitExceeded),
    Row("no rows", steps(good(batch=0, payload=b"")), e.LimitExceeded),
    Row("token limit", steps(good(tokens=513)), e.LimitExceeded),
    Row("token limit reached later", steps(good(tokens=500), good(2, 500, tokens=13)), e.LimitExceeded),
    Row("row limit", steps(good(batch=257, tokens=1)), e.LimitExceeded),
    Row("start beyond the cache", steps(good(1, 5)), e.CacheMiss),
    Row("start one beyond the cache", steps(good(), good(2, 3)), e.CacheMiss),
    Row("start under policy none", steps(good(), good(2, 2), policy="none"), e.FrameError),
    Row("negative start", steps(good(1, -1)), e.FrameError),
    Row("negative step number", steps(good(-1)), e.FrameError),
    Row("start over 31 bits", steps(good(1, 2**31)), e.FrameError),
    Row("step number over 64 bits", steps(good(10**30)), e.HostUnavailable),
    Row("bool for a number", steps(good(True)), e.FrameError),
    Row("bool for the start", steps(good(1, False)), e.FrameError),
    Row("float for the start", steps(good(1, 0.0)), e.HostUnavailable),
    Row("text for the batch", steps(Step(1, 0, "1", 1, data(1, 1))), e.FrameError),
    Row("rank: a tuple for the batch", steps(Step(1, 0, (1, 1), 1, data(1, 1))), e.HostUnavailable),
    Row("None for the payload", steps(good(payload=None)), e.FrameError),
    Row("text for the payload", steps(good(payload="x" * 512)), e.FrameError),
    Row("a list for the payload", steps(good(payload=[0.5])), e.FrameError),
    Row("a tensor for the payload", steps(good(payload=torch.zeros(2))), e.FrameError),
    # rows, pads, positions
    Row("another batch", steps(good(), good(2, 2, batch=2)), e.FrameError),
    Row("rows of 3 bytes", steps(PAIR, good(2, 2, batch=2, rows=b"abc")), e.FrameError),
    Row("rows of another count", steps(PAIR, good(2, 2, batch=2, rows=ints(0))), e.FrameError),
    Row("rows out of range", steps(PAIR, good(2, 2, batch=2, rows=ints(0, 2))), e.FrameError),
    Row("rows negative", steps(PAIR, good(2, 2, batch=2, rows=ints(-1, 0))), e.FrameError),
    Row("pads of 3 bytes", steps(good(pads=b"abc")), e.FrameError),
    Row("pads of another count", steps(good(pads=ints(0, 1))), e.FrameError),
    Row("pads negative", steps(good(pads=ints(-1))), e.FrameError),
    Row("pads huge", steps(good(pads=ints(2**30))), e.FrameError),
    Row("positions of 3 bytes", steps(good(positions=b"abc")), e.FrameError),
    Row("positions of another count", steps(good(positions=ints(0, 1, 2))), e.FrameError),
    Row("positions negative", steps(good(positions=ints(-1, 0))), e.LimitExceeded),
    Row("positions over the limit", steps(good(positions=ints(0, 512))), e.LimitExceeded),
    # order
    Row("a number twice, other payload", steps(good(), good(payload=data(value=0.25))), e.StepRefused),
    Row("a number twice, other start", steps(good(), good(1, 1)), e.StepRefused),
    Row("an older number", steps(good(5), good(4, 2)), e.StepRefused),
    Row("session never opened", frames(named("step", 7, *good().to_wire())), e.SessionUnknown),
    Row(
        "session closed",
        frames(OPENED, named("close_session", 1), named("step", 1, *good().to_wire())),
        e.SessionUnknown,
    ),
    # terms
    Row("unknown policy", opening("static", "fp32", "fp32"), e.FrameError),
    Row("unknown codec", opening("kv", "zip", "fp32"), e.CodecError),
    Row("codec with ANSI text", opening("kv", "\x1b[31mred\r\n", "fp32"), e.CodecError),
    Row("codec of 4000 letters", opening("kv", "x" * 4000, "fp32"), e.CodecError),
    Row("codec of 9000 letters", opening("kv", "x" * 9000, "fp32"), e.HostUnavailable),
    Row("two terms", opening("kv", "fp32"), e.FrameError),
    Row("bytes for a term", opening("kv", b"fp32", "fp32"), e.FrameError),
    # hello
    Row("wrong fingerprint", joining(fingerprint="00" * 32), e.FingerprintMismatch),
    Row("layers that the host lacks", joining(start=0, stop=6), e.FingerprintMismatch),
    Row("layers backwards", joining(start=4, stop=2), e.FingerprintMismatch),
    Row("negative layers", joining(start=-3, stop=4), e.FingerprintMismatch),
    Row("wrong dtype", joining(dtype="float16"), e.FingerprintMismatch),
    Row("wrong protocol", frames(named("hello", "9.0", *HELLO[1:]), hello=False), e.VersionMismatch),
    Row("empty protocol", frames(named("hello", "", *HELLO[1:]), hello=False), e.VersionMismatch),
    Row("hello without arguments", frames(named("hello"), hello=False), e.FrameError),
    Row("hello twice", frames(named("hello", *HELLO)), e.FrameError),
    Row("open before hello", frames(OPENED, hello=False), e.FrameError),
    Row("step before hello", frames(named("step", 1, *good().to_wire()), hello=False), e.FrameError),
    # calls
    Row("unknown method", frames(named("run", "rm")), e.FrameError),
    Row("private method", frames(named("__init__")), e.FrameError),
    Row("method with its prefix", frames(named("exposed_step")), e.FrameError),
    Row("attribute access", frames(request(consts.HANDLE_GETATTR, (None, "body"))), e.FrameError),
    Row("pickle", frames(request(consts.HANDLE_PICKLE, (None, 2))), e.FrameError),
    Row("options by name", frames(named("open", "kv", "fp32", "fp32", options=("x", 1))), e.FrameError),
    Row("step without a session", frames(OPENED, named("step")), e.FrameError),
    Row("step of one field", frames(OPENED, named("step", 1, 1)), e.FrameError),
    Row("step of nine fields", frames(OPENED, named("step", 1, *good().to_wire(), *[b"x"] * 4)), e.FrameError),
    Row("session as text", frames(OPENED, named("step", "1", *good().to_wire())), e.FrameError),
    Row("close_session of text", frames(named("close_session", "all")), e.FrameError),
    Row("by-reference label", frames(request(consts.HANDLE_CALLATTR, 5, consts.LABEL_LOCAL_REF)), e.FrameError),
    # frames
    Row("oversize frame", frames(frame(b"", size=2**31)), EOFError),
    Row("frame one over the limit", frames(frame(b"", size=(16 << 20) + 1)), EOFError),
    Row("compressed flag", frames(frame(b"x" * 50, compressed=1)), EOFError),
    Row("frame of no bytes", frames(frame(b"")), EOFError),
    Row("frame cut short", cut_short, EOFError),
    Row("frame that stalls", stalls, EOFError),
    Row("nested tuples", frames(named("open", nested(9))), EOFError),
    Row("a tuple that claims 4 billion values", frames(frame(b"\x01\x15" + b"\xff" * 40)), EOFError),
    Row("garbled frame", frames(frame(b"\x01" + bytes(range(60, 200)))), EOFError),
    # no token
    Row("wrong token", joining(token=b"x" * 32), e.AuthError),
    Row("token of three bytes", joining(token=b"abc"), e.AuthError),
    Row("garbage for a token", strangers(bytes(range(256)) * 8), EOFError),
    Row("a browser", strangers(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"), EOFError),
    Row("frame without a token", strangers(named("hello", *HELLO)), EOFError),
    Row("plain rpyc client", plain_client, EOFError),
]


# -- a host that is none, or a bad one -------------------------------------------------------------


class BadHost:
    """Knows the token, says hello and opens sessions, then answers every step with what `answer(seq)` gives."""

    def __init__(self, info, answer):
        self.listener, self.answer = socket.create_server(("127.0.0.1", 0)), answer
        self.address = f"rpyc://127.0.0.1:{self.listener.getsockname()[1]}"
        self.hello = info_to_wire(info)
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        held = []
        while True:
            try:
                held.append(stream := FastStream(self.listener.accept()[0], 5))
            except OSError:
                return [stream.close() for stream in held]
            try:
                prove_to_client(stream, TOKEN, 2)
                self._serve(stream)
            except (EOFError, e.AuthError):
                stream.close()

    def _serve(self, stream):
        while True:
            size = int.from_bytes(stream.read(5)[:4], "big")
            seq, (_, (_, (_, name, _, _))) = brine.load(bytes(stream.read(size + 1)[1:-1]))
            if name == "step":
                content = self.answer(seq)
                if content is None:
                    stream.close()
                    return
                stream.write(content)
            else:
                stream.write(reply(seq, {"hello": self.hello, "open": 1}.get(name)))


def reply(seq, value, label=consts.LABEL_VALUE, kind=consts.MSG_REPLY):
    return frame(bytes([kind]) + brine.dump((seq, (label, value) if label is not None else value)))


def failure(seq, *value):
    return reply(seq, value, label=None, kind=consts.MSG_EXCEPTION)


def bad_host(answer):
    def act(world):
        with world.link() as real:
            host = BadHost(real.info, answer)
        try:
            split = lk.split(world.model, body=RpycLink(host.address, 1.0, token=TOKEN))
            split(PROMPT)
        finally:
            host.listener.close()

    return act


def nobody(world):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    lk.split(world.model, body=f"rpyc://127.0.0.1:{port}", timeout=1)


def silent(world):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        RpycLink(f"rpyc://127.0.0.1:{listener.getsockname()[1]}", 1.0, token=TOKEN)


def half(seq):
    return reply(seq, data(1, 5))[:-40]


ANSI = "\x1b[31mred\x1b[0m\r\n\x07"

FROM_HOSTS = [
    Row("nobody listens", nobody, e.HostUnavailable),
    Row("never says a word", silent, e.HostTimeout),
    Row("hangs inside a frame", bad_host(half), e.HostTimeout),
    Row("hangs before the answer", bad_host(lambda seq: b""), e.HostTimeout),
    Row("hangs up", bad_host(lambda seq: None), e.HostUnavailable),
    Row("garbage", bad_host(lambda seq: b"HTTP/1.1 400 Bad Request\r\n\r\n" * 3), e.FrameError),
    Row("compressed", bad_host(lambda seq: frame(b"x" * 60, compressed=1)), e.FrameError),
    Row("oversize", bad_host(lambda seq: frame(b"", size=2**31)), e.FrameError),
    Row("payload too short", bad_host(lambda seq: reply(seq, data(1, 4))), e.CodecError),
    Row("payload too long", bad_host(lambda seq: reply(seq, data(1, 6))), e.CodecError),
    Row("payload empty", bad_host(lambda seq: reply(seq, b"")), e.CodecError),
    Row("NaN comes back", bad_host(lambda seq: reply(seq, data(1, 5, value=NAN))), e.NonFiniteError),
    Row("infinity comes back", bad_host(lambda seq: reply(seq, data(1, 5, value=INF))), e.NonFiniteError),
    Row("a tuple comes back", bad_host(lambda seq: reply(seq, (1, 2))), e.FrameError),
    Row("a number comes back", bad_host(lambda seq: reply(seq, 5)), e.FrameError),
    Row(
        "a list by reference comes back",
        bad_host(lambda seq: reply(seq, ("builtins.list", 1, 2), label=consts.LABEL_REMOTE_REF)),
        e.FrameError,
    ),
    Row("the answer to another question", bad_host(lambda seq: reply(seq + 7, data(1, 5))), e.FrameError),
    Row("a question back", bad_host(lambda seq: named("hello", *HELLO)), e.FrameError),
    Row("a typed error with ANSI text", bad_host(lambda seq: failure(seq, "codec", ANSI, "1", 0)), e.CodecError),
    Row("an unknown error with ANSI text", bad_host(lambda seq: failure(seq, ANSI, ANSI, ANSI, 0)), e.HostError),
    Row(
        "a failure that tells a path",
        bad_host(lambda seq: failure(seq, "host-error", "Traceback /srv/x.py", "1", 0)),
        e.HostError,
    ),
    Row("an rpyc exception", bad_host(lambda seq: failure(seq, ("builtins", "E"), (), (), "")), e.FrameError),
    Row("forgets for ever", bad_host(lambda seq: failure(seq, "cache-miss", "no", "1", 0)), e.CacheMiss),
]


# -- a person's own mistakes -----------------------------------------------------------------------


def cut(*plan, **options):
    def act(world):
        if plan:
            options.update(head=plan[0], tail=plan[1])
        return lk.split(world.model, **options)

    return act


def calling(ids=PROMPT, **options):
    return lambda world: lk.split(world.model)(ids, **options)


def tiny_t5(world):
    config = transformers.T5Config(d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, vocab_size=32)
    return lk.split(transformers.T5ForConditionalGeneration(config))


def tiny_bart(world):
    sizes = {f"{side}_{what}": 2 for side in ("encoder", "decoder") for what in ("layers", "attention_heads")}
    config = transformers.BartConfig(
        d_model=16, encoder_ffn_dim=16, decoder_ffn_dim=16, vocab_size=32, max_position_embeddings=32, **sizes
    )
    return lk.split(transformers.BartForConditionalGeneration(config))


def tiny_mamba(world):
    config = transformers.MambaConfig(hidden_size=16, num_hidden_layers=4, state_size=4, vocab_size=32)
    return lk.split(transformers.MambaForCausalLM(config), head=1, tail=1)


def gradients(world):
    embeds = torch.randn(1, 3, WIDTH, requires_grad=True)
    lk.split(world.model)(inputs_embeds=embeds).logits.sum().backward()


def prompting(prompt, **options):
    return lambda world: lk.split(world.model).generate(prompt, max_new_tokens=2, **options)


def tok_of(world):
    return world.model.lsplit_tokenizer()


def untemplated(world):
    split, tok = lk.split(world.model), copy.deepcopy(tok_of(world))
    tok.chat_template = None
    split.lsplit_tokenizer = lambda: tok
    return split.generate([{"role": "user", "content": "Hi"}], max_new_tokens=2)


def run_closed(world, body):
    split = lk.split(world.model, body=body)
    split.close()
    split(PROMPT)


def saving(path, **options):
    def act(world):
        with lk.tap(lk.split(world.model)) as wire:
            pass
        wire.save(path, **options)

    return act


def demonstrate(prompt, head=2, tail=2, codec=None):
    return run_demo(prompt, "smollm2", head, tail, 4, codec)


def local_only(world):
    return lk.split(lk.load_local("toy-llama", 2, 2))


FROM_PEOPLE = [
    Row("negative head", cut(-1, 2), e.PlanError),
    Row("negative tail", cut(2, -1), e.PlanError),
    Row("overlap", cut(4, 3), e.PlanError),
    Row("out of range", cut(99, 0), e.PlanError),
    Row("no body", cut(3, 3), e.PlanError),
    Row("bool for a layer count", cut(True, 2), e.PlanError),
    Row("text for a layer count", cut("2", 2), e.PlanError),
    Row("float for a layer count", cut(2.0, 2), e.PlanError),
    Row("text for a plan", cut(plan="2/2"), e.PlanError),
    Row("plan and head", cut(plan=lk.SplitPlan(1, 1), head=1), e.PlanError),
    Row("bad codec", cut(codec="zip"), e.CodecError),
    Row("number for a codec", cut(codec=8), e.CodecError),
    Row("three codecs", cut(codec=("fp32", "fp32", "fp32")), e.CodecError),
    Row("bad codec down", cut(codec=("fp32", "fp64")), e.CodecError),
    Row("bad cache policy", cut(cache="static"), e.UnsupportedOption),
    Row("no cache policy", cut(cache=None), e.UnsupportedOption),
    Row("bad body", cut(body="somewhere"), e.UnsupportedOption),
    Row("body of another scheme", cut(body="http://127.0.0.1:80"), e.UnsupportedOption),
    Row("body without a port", cut(body="rpyc://127.0.0.1"), e.UnsupportedOption),
    Row("number for a body", cut(body=18861), e.UnsupportedOption),
    Row("a number for a model", lambda world: lk.split(3), e.UnsupportedModel),
    Row("a module for a model", lambda world: lk.split(torch.nn.Linear(2, 2)), e.UnsupportedModel),
    Row("a name that is none", lambda world: lk.split("toy-none"), e.WeightsError),
    Row("double precision", lambda world: lk.split(lk.load("toy-llama", torch.float64)[0]), e.CodecError),
    Row("encoder-decoder T5", tiny_t5, e.UnsupportedModel),
    Row("encoder-decoder BART", tiny_bart, e.UnsupportedModel),
    Row("state space", tiny_mamba, e.UnsupportedModel),
    Row("local side alone", local_only, e.UnsupportedModel),
    Row("hidden states", calling(output_hidden_states=True), e.UnsupportedOption),
    Row("attentions", calling(output_attentions=True), e.UnsupportedOption),
    Row("gradients", gradients, e.UnsupportedOption),
    Row("right padding", calling(attention_mask=torch.tensor([[1, 1, 1, 1, 0]])), e.UnsupportedOption),
    Row("mask with holes", calling(attention_mask=torch.tensor([[1, 0, 1, 1, 1]])), e.UnsupportedOption),
    Row("padding only", calling(attention_mask=torch.zeros(1, 5)), e.UnsupportedOption),
    Row("4-D mask", calling(attention_mask=torch.zeros(1, 1, 5, 5)), e.UnsupportedOption),
    Row("no tokens", calling(PROMPT[:, :0]), e.UnsupportedOption),
    Row("empty prompt", prompting(PROMPT[:, :0]), e.UnsupportedOption),
    Row("no prompts in a tuple", prompting(()), e.UnsupportedOption),
    Row("timeout of text", cut(timeout="1 s"), e.UnsupportedOption),
    Row("negative timeout", cut(timeout=-1), e.UnsupportedOption),
    Row("no prompts", prompting([]), e.UnsupportedOption),
    # arguments of another kind
    Row("an address without its scheme", cut(body="127.0.0.1:1"), e.UnsupportedOption),
    Row("a model for a body", lambda world: lk.split(world.model, body=world.model), e.UnsupportedOption),
    Row("a split model, split", lambda world: lk.split(lk.split(world.model)), e.UnsupportedModel),
    Row("a folder that is none", lambda world: lk.split(Path("nowhere/at/all")), e.WeightsError),
    Row("no codec's name", cut(codec=""), e.CodecError),
    Row("load nothing", lambda world: lk.load(None), e.UnsupportedOption),
    Row("load a number", lambda world: lk.load(5), e.UnsupportedOption),
    Row("load bytes", lambda world: lk.load(b"smollm2"), e.UnsupportedOption),
    Row("load an empty name", lambda world: lk.load(" "), e.WeightsError),
    Row("load a model", lambda world: lk.load_local(world.model), e.UnsupportedOption),
    Row("host a model", lambda world: lk.host(world.model), e.UnsupportedOption),
    Row("a dtype that is none", lambda world: lk.load("toy-llama", "int8"), e.UnsupportedOption),
    Row("a number for a dtype", lambda world: lk.load_local("toy-llama", dtype=16), e.UnsupportedOption),
    Row("a list for a dtype", lambda world: lk.host("toy-llama", dtype=[]), e.UnsupportedOption),
    Row("a host with too large a head", lambda world: lk.host("smollm2", head=20, tail=20), e.PlanError),
    Row("a local side without a body", lambda world: lk.load_local("smollm2", 15, 15), e.PlanError),
    Row("a plan checked by name", lambda world: lk.split("smollm2", head=99), e.PlanError),
    Row("a codec checked before the weights", lambda world: lk.split("smollm2", codec="zip"), e.CodecError),
    Row("text for a port", lambda world: lk.host("toy-llama", port="18861"), e.UnsupportedOption),
    Row("a deadline of no seconds", lambda world: lk.host("toy-llama", start_seconds=0), e.UnsupportedOption),
    # what a split model does not do
    Row("save", lambda world: lk.split(world.model).save_pretrained("nowhere"), e.UnsupportedOption),
    Row("push to a hub", lambda world: lk.split(world.model).push_to_hub("someone/thing"), e.UnsupportedOption),
    Row("deepcopy", lambda world: copy.deepcopy(lk.split(world.model)), e.UnsupportedOption),
    Row("pickle", lambda world: pickle.dumps(lk.split(world.model)), e.UnsupportedOption),
    Row("run after close", lambda world: run_closed(world, None), e.HostUnavailable),
    Row("run a loopback after close", lambda world: run_closed(world, "loopback"), e.HostUnavailable),
    Row("generate before the split", lambda world: lk.load_local("toy-llama").generate("Hi"), e.UnsupportedModel),
    Row("call before the split", lambda world: lk.load_local("toy-llama")(PROMPT), e.UnsupportedModel),
    # prompts
    Row("a number for a prompt", prompting(5), e.UnsupportedOption),
    Row("bare numbers for a prompt", prompting([5, 9, 17]), e.UnsupportedOption),
    Row("a text and a number", prompting(["Hi", 3]), e.UnsupportedOption),
    Row("ids of one dimension", prompting(PROMPT[0]), e.UnsupportedOption),
    Row("a tokenizer's lists", lambda world: prompting(tok_of(world)("Hi"))(world), e.UnsupportedOption),
    Row("a message without content", prompting([{"role": "user"}]), e.UnsupportedOption),
    Row("a message outside a list", prompting({"role": "user", "content": "Hi"}), e.UnsupportedOption),
    Row("messages without a template", lambda world: untemplated(world), e.UnsupportedOption),
    Row("a text with a mask", prompting("Hi", attention_mask=PROMPT), e.UnsupportedOption),
    Row("ids twice", prompting({"input_ids": PROMPT}, input_ids=PROMPT), e.UnsupportedOption),
    Row("scores that would be lost", prompting("Hi", output_scores=True), e.UnsupportedOption),
    # taps and captures
    Row("tap a text", lambda world: lk.tap("toy-llama"), e.UnsupportedModel),
    Row("tap an unsplit model", lambda world: lk.tap(world.model), e.UnsupportedModel),
    Row("totals of a tap never entered", lambda world: lk.tap(lk.split(world.model)).totals(), e.CaptureError),
    Row("ledger of a tap never entered", lambda world: lk.tap(lk.split(world.model)).ledger(), e.CaptureError),
    Row("save a tap never entered", lambda world: lk.tap(lk.split(world.model)).save("x"), e.CaptureError),
    Row("save where no folder is", saving("nowhere/run.lsplit"), e.CaptureError),
    Row("save to a folder", saving("."), e.CaptureError),
    Row("save a truth that is no tensor", saving("x", truth={"ids": [1]}), e.CaptureError),
    # from a shell
    Row("an empty prompt for the demo", lambda world: demonstrate(" "), e.UnsupportedOption),
    Row("a plan for the demo", lambda world: demonstrate("Hi", head=20, tail=20), e.PlanError),
    Row("a codec for the demo", lambda world: demonstrate("Hi", codec="x"), e.CodecError),
]

TABLE = [(f"{side}: {row.name}", row.act, row.error) for side, rows in (
    ("client", FROM_CLIENTS), ("host", FROM_HOSTS), ("person", FROM_PEOPLE)) for row in rows]  # fmt: skip


@pytest.mark.parametrize(("act", "error"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_bad_input(world, act, error):
    began = time.monotonic()
    try:
        with pytest.raises(error) as caught:
            act(world)
        assert time.monotonic() - began < SECONDS + 20  # far from the 60 s of a link: the rest is for busy cores
        text = str(caught.value)
        if issubclass(error, e.LsplitError):
            assert type(caught.value) is error, repr(caught.value)
            assert caught.value.code in e.by_code() and text
            assert text.isprintable() and "Traceback" not in text and len(text) < 500, text
            assert not re.search(r"(?<![\w:/])/\w+/", text), text
            assert not re.search(r"[.;]\s+[A-Z]\w+ .*\. ", text + " "), text  # one sentence
        world.still_serves()
    finally:
        world.close()


def test_the_table_is_long_and_named_once():
    assert len(TABLE) >= 40 and len({row[0] for row in TABLE}) == len(TABLE)


def test_what_is_odd_but_right_goes_on(world):
    with world.link() as link:
        session = link.open(Open("kv", "fp32", "fp32"))
        first = link.step(session, good()).payload
        assert link.step(session, good()).payload == first  # the same step again: the same answer, run once
        with pytest.raises(e.CodecError):
            link.step(session, good(2, 2, payload=b"x"))
        assert len(link.step(session, THEN).payload) == len(data(1, 1))  # a refused step left the session alone
    split = lk.split(world.model, body=world.host.address)
    for prompt in ("", "Grüße, 世界 🌍", "\u200b\u202e", "a\x00b", "é" * 100):
        tok = world.model.lsplit_tokenizer()
        ids = tok(prompt, return_tensors="pt")["input_ids"]
        expected = world.model.generate(ids, max_new_tokens=3, do_sample=False)[0, ids.shape[1] :]
        options = dict(max_new_tokens=3, do_sample=False)
        assert split.generate(prompt, **options) == tok.decode(expected, skip_special_tokens=True)
    split.close()
