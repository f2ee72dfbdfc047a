"""A host that attacks its clients: every lie is a typed error in bounded time and memory, and none of it is run.

`tests/test_bad_input.py` and `tests/test_remote_protocol.py` hold single lies; here are those that never end, those
told by numbers, those of a picture's host, and thousands by chance. Wrong but finite numbers cannot be seen.
"""

from __future__ import annotations

import contextlib
import gc
import json
import random
import socket
import sys
import threading
import time
import warnings
from functools import cache
from pathlib import Path

import psutil
import pytest
import torch
from rpyc.core import brine, consts

import lsplit_kit as lk
from lsplit_kit import errors as e
from lsplit_kit.models.partial import load_body
from lsplit_kit.remote.client import RpycLink
from lsplit_kit.remote.fleet import Fleet
from lsplit_kit.remote.service import info_to_wire
from lsplit_kit.remote.stream import FastStream
from lsplit_kit.remote.token import prove_to_client
from lsplit_kit.wire.message import Open

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))
from mutants import INTS, TEXTS, dumped, frame, mutated, odd

torch.set_num_threads(1)
pytestmark = [pytest.mark.timeout(120), pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")]
TOKEN, PROMPT = b"t" * 32, torch.tensor([[5, 9, 17, 40, 3]])
HUGE = 10**20 - 1


@cache
def model():
    return lk.load("toy-llama")[0]


@cache
def pipe():
    made = lk.load("toy-sd")
    made.set_progress_bar_config(disable=True)
    return made


class Liar:
    """Answers as a real body does, but where `lie(name, seq, good)` gives other bytes, or pieces of them, or None.

    None: it hangs up. `good` is the frame that an honest host would send; `asked` counts the questions by name.
    """

    def __init__(self, lie, name="toy-llama", hello=None):
        self.listener, self.lie, self.name = socket.create_server(("127.0.0.1", 0)), lie, name
        self.address = f"rpyc://127.0.0.1:{self.listener.getsockname()[1]}"
        self.body, self.asked = bodies(name), {}
        self.hello = info_to_wire(self.body.info) if hello is None else hello
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=(self.listener.accept()[0],), daemon=True).start()

    def _serve(self, sock):
        stream, body = FastStream(sock, 10), self.body.fork()
        with contextlib.suppress(EOFError, OSError, e.AuthError, ValueError):
            prove_to_client(stream, TOKEN, 5)
            while True:
                size = int.from_bytes(stream.read(5)[:4], "big")
                seq, (_, (_, (_, name, args, _))) = brine.load(bytes(stream.read(size + 1)[1:-1]))
                self.asked[name] = self.asked.get(name, 0) + 1
                said = self.lie(name, seq, lambda n=name, a=args, s=seq: honest(body, self.hello, n, a, s))
                if said is None:
                    break
                for piece in (said,) if isinstance(said, bytes) else said:
                    stream.write(piece)
        stream.close()

    def link(self, timeout=1.0):
        return RpycLink(self.address, timeout, token=TOKEN)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.listener.close()


@cache
def bodies(name):
    return load_body(name, 2, 2) if name == "toy-llama" else load_body(name)


def honest(body, hello, name, args, seq):
    if name == "hello":
        return reply(seq, hello)
    try:
        if name == "step":
            return reply(seq, body.step(args[0], body.message.from_wire(args[1:])))
        return reply(seq, getattr(body, name)(*([Open(*args)] if name == "open" else args)))
    except e.LsplitError as error:
        return failure(seq, error.code, str(error), "1", getattr(error, "have", 0))


def reply(seq, value, label=consts.LABEL_VALUE):
    return frame(bytes([consts.MSG_REPLY]) + dumped((seq, (label, value))))


def failure(seq, *value):
    return frame(bytes([consts.MSG_EXCEPTION]) + dumped((seq, value)))


def at(which, lie):
    """A lie that answers one kind of question only."""
    return lambda name, seq, good: lie(seq) if name == which else good()


def run(link):
    return lk.split(model(), head=2, tail=2, body=link)(PROMPT).logits


def draw(link, mode="lockstep", codec=None):
    split = lk.split(pipe(), body=link, mode=mode, codec=codec)
    call = dict(prompt="a red apple", num_inference_steps=3, output_type="latent")
    return torch.as_tensor(split(**call, generator=torch.Generator().manual_seed(5)).images)


def resident():
    gc.collect()
    return psutil.Process().memory_info().rss


# -- lies that never end ----------------------------------------------------------------------------

NUMBERS = (0, -1, -(10**18), 1, 10**12, HUGE)


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("where", ["open", "step"])
def test_busy_for_ever_ends_with_the_links_timeout(where, number):
    with Liar(at(where, lambda seq: failure(seq, "busy", "never", "1", number))) as liar, liar.link(0.3) as link:
        began = time.monotonic()
        with pytest.raises(e.Busy, match="never"):
            run(link)
        assert time.monotonic() - began < 20 and liar.asked[where] <= 20  # at least 0.02 s between two questions


def test_busy_in_hello_is_said_at_once():
    with Liar(at("hello", lambda seq: failure(seq, "busy", "full", "1", HUGE))) as liar:
        with pytest.raises(e.Busy, match="full"):
            liar.link()
        with pytest.raises(e.Busy, match="full"):
            Fleet([liar.address], 1.0, token=TOKEN)


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize(("code", "error"), [("cache-miss", e.CacheMiss), ("session", e.SessionUnknown)])
def test_forgetting_for_ever_ends_after_three_tries(code, error, number):
    with Liar(at("step", lambda seq: failure(seq, code, "gone", "1", number))) as liar, liar.link() as link:
        with pytest.raises(error):
            run(link)
        assert liar.asked["step"] == 3


def test_busy_and_forgetful_in_turn():
    codes = iter(["busy", "cache-miss"] * 50)
    with Liar(at("step", lambda seq: failure(seq, next(codes), "x", "1", 1))) as liar, liar.link() as link:
        with pytest.raises(e.CacheMiss):
            run(link)
        assert liar.asked["step"] <= 6


def test_a_calibration_that_is_never_enough():
    with Liar(at("open", lambda seq: failure(seq, "calibration", "more", "1", 0))) as liar, liar.link() as link:
        with pytest.raises(e.CalibrationMissing):
            run(link)
        assert liar.asked["open"] == 2


@pytest.mark.parametrize("name", ["hello", "open", "step"])
def test_an_answer_that_drips_ends_at_the_deadline(name):
    """Each byte comes in time, the answer does not."""

    def slowly(raw):
        for byte in raw:
            yield bytes([byte])
            time.sleep(0.05)

    def lie(asked, seq, good):
        return slowly(good()) if asked == name else good()

    with Liar(lie) as liar, pytest.raises(e.HostTimeout), liar.link(0.5) as link:
        run(link)


def test_a_fleet_leaves_a_host_that_drips():
    def lie(name, seq, good):
        return (bytes([byte]) for byte in slow(good())) if name == "step" else good()

    def slow(raw):
        for byte in raw:
            time.sleep(0.05)
            yield byte

    with Liar(lie) as liar, Liar(lambda name, seq, good: good()) as other:
        link = Fleet([liar.address, other.address], 0.7, token=TOKEN)
        with link:
            assert torch.equal(run(link), model()(PROMPT).logits) and link.host == 2


@pytest.mark.parametrize("code", ["busy", "frame", "limit", "host-error", "step", "codec"])
def test_an_error_does_not_move_a_fleet(code):
    """Whoever answers is not lost: nothing that a host says makes the next one see the prompt."""
    with Liar(at("step", lambda seq: failure(seq, code, "x", "1", 1))) as liar, Liar(None) as other:
        other.lie = lambda name, seq, good: good()
        with Fleet([liar.address, other.address], 0.3, token=TOKEN) as link:
            with pytest.raises(e.by_code()[code]):
                run(link)
            assert link.host == 1 and set(other.asked) == {"hello"}


# -- lies by chance ---------------------------------------------------------------------------------


def test_a_hello_of_any_numbers_and_texts():
    """What a host says of itself is shown, compared and counted with: 300 of them, each wrong somewhere."""
    chance, accepted = random.Random(3), 0
    with Liar(lambda name, seq, good: good()) as liar:
        right = liar.hello
        for _ in range(300):
            fields = list(right)
            for _ in range(chance.randint(1, 3)):
                which = chance.randrange(16)
                alike = {int: INTS, str: TEXTS}.get(type(fields[which]), [(0, 1), (-1, 2**31), (), ("a", b"")])
                fields[which] = chance.choice(alike) if chance.random() < 0.9 else odd(chance)
            liar.hello = tuple(fields)
            try:
                with liar.link(2.0) as link:
                    accepted += 1
                    assert str(link).isascii() or "\x1b" not in str(link)
                    run(link)
            except e.LsplitError as error:
                assert str(error).isprintable()
    assert accepted > 50


def strange_answer(chance):
    """An answer's frame, well-formed, whose value is anything."""
    kind = chance.choice((consts.MSG_REPLY, consts.MSG_REPLY, consts.MSG_EXCEPTION, consts.MSG_REQUEST, 9))

    def lie(seq):
        value = odd(chance)
        if kind == consts.MSG_EXCEPTION and chance.random() < 0.7:
            value = (chance.choice([*e.by_code(), "SystemExit", ""]), odd(chance), "1", odd(chance))
        seq = seq if chance.random() < 0.9 else odd(chance)
        label = chance.choice((1, 1, 1, 2, 3, 4, odd(chance)))
        return frame(bytes([kind]) + dumped((seq, value if kind == consts.MSG_EXCEPTION else (label, value))))

    return lie


def and_hangs_up(raw):
    yield raw
    if len(raw) != 6 + int.from_bytes(raw[:4], "big"):  # else the client waits for the rest
        raise EOFError


@pytest.mark.parametrize("how", ["bytes", "values"])
def test_answers_by_chance(how):
    """300 answers to hello, open, step, timings and close_session, mutated or made up."""
    chance, told, right = random.Random(how), 0, 0

    def lie(name, seq, good):
        if name != victim:
            return good()
        if how == "values":
            return strange_answer(chance)(seq)
        return and_hangs_up(mutated(good(), chance))

    with Liar(lie) as liar:
        before = None
        for number in range(300):
            victim = ("hello", "open", "step", "step", "timings", "close_session")[number % 6]
            try:
                with liar.link(1.0) as link:
                    session = link.open(Open("kv", "fp32", "fp32"))
                    run(link)
                    link.timings()
                    link.close_session(session)
                right += 1
            except e.LsplitError as error:
                assert str(error).isprintable()
                told += 1
            before = before or (number == 60 and resident())
        assert told > 100 and told + right == 300 and resident() - before < 32e6


# -- lies by size -----------------------------------------------------------------------------------


def test_answers_of_the_largest_size_are_let_go():
    """Sixteen megabytes where a kilobyte was asked for; then four gigabytes, says the frame."""
    large = bytes((16 << 20) - 64)
    with Liar(at("step", lambda seq: reply(seq, large))) as liar, liar.link(10.0) as link:
        before = None
        for _ in range(4):
            with pytest.raises(e.CodecError):
                run(link)
            before = before or resident()
        assert resident() - before < 32e6
        liar.lie = at("step", lambda seq: b"\xff\xff\xff\xff\0")
        with pytest.raises(e.FrameError):
            run(link)


def test_bytes_that_nobody_asked_for_end_the_connection():
    flood = at("step", lambda seq: [reply(seq, bytes(5 * 64 * 4)), *[bytes(1 << 20)] * 64])
    with Liar(flood) as liar, liar.link() as link:
        before = resident()
        for _ in range(3):
            with contextlib.suppress(e.LsplitError):
                run(link)
        assert link.epoch >= 2 and resident() - before < 32e6


# -- a picture's host -------------------------------------------------------------------------------


def shapes(*entries, payload=b""):
    said = json.dumps(list(entries), separators=(",", ":")).encode()
    return bytes([len(said)]) + said + payload


def tensors(said=("", 4, 16, 16), rows=0, count=1, size=0):
    """An answer's shapes and zeros for an output of the right shape, or one that is wrong in one thing."""
    return lambda batch: shapes(
        *[[said[0], rows or batch, *said[1:]]] * count, payload=bytes(4096 * batch * count + size)
    )


PICTURES = {
    "nothing": (lambda batch: b"", e.FrameError),
    "no shapes": (lambda batch: b"\0" + bytes(8192), e.FrameError),
    "shapes that are no JSON": (lambda batch: b"\5[[[[[", e.FrameError),
    "shapes nested": (lambda batch: b"\xfa" + b"[" * 125 + b"]" * 125, e.FrameError),
    "another shape": (lambda batch: shapes(["", 3, 4, 16, 16], payload=bytes(3 * 4096)), e.FrameError),
    "more outputs": (tensors(count=2), e.FrameError),
    "millions of values": (lambda batch: shapes(["", 1 << 24], payload=bytes(9)), e.FrameError),
    "negative sizes": (tensors(("", -4, 16, 16), -2), e.FrameError),
    "a size that is true": (tensors(rows=True), e.FrameError),
    "a layout of no order": (tensors(("0000", 4, 16, 16)), e.FrameError),
    "NaN": (lambda batch: tensors(size=-4)(batch) + b"\0\0\xc0\x7f", e.NonFiniteError),
    "cut short": (tensors(size=-1), e.FrameError),
    "a byte too many": (tensors(size=1), e.FrameError),
}


@pytest.mark.parametrize("mode", ["per_step", "lockstep"])
@pytest.mark.parametrize("name", PICTURES)
def test_a_pictures_host_that_lies(name, mode):
    said, error = PICTURES[name]
    batch = 1 if mode == "lockstep" else 2  # there the noise comes down guided
    with Liar(at("step", lambda seq: reply(seq, said(batch))), "toy-sd") as liar, liar.link() as link:
        with pytest.raises(error) as caught:
            draw(link, mode)
        assert isinstance(caught.value, e.LsplitError) and str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("code", "error"), [("cache-miss", e.CacheMiss), ("session", e.SessionUnknown), ("busy", e.Busy)]
)
def test_a_pictures_host_that_never_answers(code, error):
    with Liar(at("step", lambda seq: failure(seq, code, "x", "1", -7)), "toy-sd") as liar, liar.link(0.4) as link:
        with pytest.raises(error):
            draw(link)
        assert liar.asked["step"] <= 80


@pytest.mark.parametrize("codec", [None, ("fp32", "uniform:step=0.1+delta+ans")], ids=["fp32", "delta"])
def test_a_pictures_answers_by_chance(codec):
    """30 mutated answers; those that still are pictures are wrong pictures, which nobody can see."""
    chance, told = random.Random(str(codec)), 0

    def lie(name, seq, good):
        if name != "step":
            return good()
        kind, value = consts.MSG_REPLY, brine.load(good()[6:-1])[1][1]
        return frame(bytes([kind]) + dumped((seq, (1, mutated(value, chance)))))

    with Liar(lie, "toy-sd") as liar, liar.link() as link:
        for _ in range(30):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    draw(link, codec=codec)
                except e.LsplitError as error:
                    assert str(error).isprintable()
                    told += 1
    assert told > 8
