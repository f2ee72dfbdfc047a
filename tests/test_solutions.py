"""The tutorials' solutions pass, the committed stubs say not attempted, wrong answers get a hint."""

import copy
import json
import re
import runpy
import struct
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import hadamard

import lsplit_kit as lk
from lsplit_kit.course import checks
from lsplit_kit.errors import CacheMiss
from lsplit_kit.quantization.stages import Hadamard

ROOT = Path(__file__).resolve().parent.parent
TUTORIALS = sorted((ROOT / "tutorials").glob("*.ipynb"))


@cache
def solutions(stem):
    return runpy.run_path(str(ROOT / "tutorials" / "solutions" / f"{stem}.py"))


def cells(path):
    return json.loads(path.read_text("utf-8"))["cells"]


def checked(path):
    """Exercise id -> (the check's line, its outputs as text)."""
    found = {}
    for cell in cells(path):
        for id in re.findall(r'lk\.check\("([^"]+)"', "".join(cell["source"])):
            assert id not in found, f"{id} is checked twice"
            found[id] = json.dumps(cell.get("outputs"))
    return found


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda p: p.stem)
def test_solutions_pass(path):
    answers = solutions(path.stem)["ANSWERS"]
    assert set(answers) == set(checked(path)) == {i for i in checks.exercises() if i.startswith(path.name[:2])}
    for id, answer in answers.items():
        result = checks.check(id, answer)
        assert result, result


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda p: p.stem)
def test_stubs_say_not_attempted(path):
    for id, outputs in checked(path).items():
        assert f"{id}: {checks.NOT_ATTEMPTED}" in outputs, id


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda p: p.stem)
def test_hints_in_the_notebook_are_the_checks_hints(path):
    text = "\n".join("".join(c["source"]) for c in cells(path) if c["cell_type"] == "markdown")
    for id in checked(path):
        for hint in checks.exercises()[id].hints:
            assert f"</summary>\n\n{hint}\n" in text, (id, hint)


def in_place(model, head, tail, Remote):
    layers = model.model.layers
    model.model.layers = torch.nn.ModuleList([*layers[:head], Remote(layers[head : 6 - tail]), *layers[6 - tail :]])
    return model


def no_remote(model, head, tail, Remote):
    return copy.deepcopy(model)


def one_less(model, head, tail, Remote):
    grafted = copy.deepcopy(model)
    layers = grafted.model.layers
    grafted.model.layers = torch.nn.ModuleList([*layers[:head], Remote(layers[head : 5 - tail]), *layers[6 - tail :]])
    return grafted


def reversed_body(model, head, tail, Remote):
    grafted = copy.deepcopy(model)
    layers = grafted.model.layers
    body = list(layers[head : 6 - tail])[::-1]
    grafted.model.layers = torch.nn.ModuleList([*layers[:head], Remote(body), *layers[6 - tail :]])
    return grafted


def remote(**methods):
    """The right Remote with some methods replaced by wrong ones."""
    return type("Wrong", (solutions("01_cutting_a_model_in_three")["Remote"],), methods)


def drops_kwargs(self, hidden_states, **kwargs):
    for layer in self.layers:
        hidden_states = layer(hidden_states)
    return hidden_states


def first_only(self, hidden_states, **kwargs):
    return self.layers[0](hidden_states, **kwargs)


def uncounted(self, hidden_states, **kwargs):
    hidden_states, _ = self.cross(hidden_states)
    for layer in self.layers:
        hidden_states = layer(hidden_states, **kwargs)
    return self.cross(hidden_states)[0]


def only_counts(self, hidden_states, **kwargs):
    sent = self.cross(hidden_states)[1]
    for layer in self.layers:
        hidden_states = layer(hidden_states, **kwargs)
    self.up, self.down = self.up + sent, self.down + sent
    return hidden_states


def no_way_down(self, hidden_states, **kwargs):
    hidden_states, sent = self.cross(hidden_states)
    for layer in self.layers:
        hidden_states = layer(hidden_states, **kwargs)
    self.up, self.down = self.up + sent, self.down + sent
    return hidden_states


def not_detached(self, hidden):
    payload = hidden.numpy().tobytes()
    return torch.frombuffer(bytearray(payload), dtype=hidden.dtype).reshape(hidden.shape), len(payload)


def cloned(self, hidden):
    return hidden.clone(), 4 * hidden.numel()


def nothing_back(self, hidden_states, **kwargs):
    self.cross(hidden_states)


def same_bytes(left, right):
    return left.contiguous().numpy().tobytes() == right.contiguous().numpy().tobytes()


def forgot(prompt, new, width, size):
    total = (prompt + new - 1) * width * size  # noqa: F841


def of_02(name):
    return solutions("02_the_cache")[name]


def joined(history, new, start=None, miss=None):
    """Old vectors and new ones; with a start beyond the old ones an error, the right one for a number in miss."""
    have = 0 if history is None else history.shape[1]
    if start is not None and start > have:
        raise CacheMiss("x", have=have + miss) if miss is not None else IndexError("too far")
    return new if history is None else history if new is None else torch.cat([history, new], dim=1)


def upto(history, stop):
    return None if history is None else history[:, :stop]


def own(step):
    """A Host of 02.5 with another step; go(history, new) remembers it and answers."""

    def go(self, history, new):
        self.history = history
        return None if new is None else self.body(history)[:, -new.shape[1] :]

    return type("Host", (of_02("Host"),), {"step": step, "go": go})


class forgets:  # noqa: N801
    """A Host of 02.5 that throws its memory away when it has to refuse a step."""

    def __init__(self, body):
        self.inner = of_02("Host")(body)

    def step(self, start, new):
        try:
            return self.inner.step(start, new)
        except CacheMiss:
            self.inner.history = None
            raise


def replays(start_of, cut=True):
    """A deliver of 02.6 that replays from another position, or returns all of it."""

    def wrong(history, sent, host):
        try:
            return host.step(sent, history[:, sent:])
        except CacheMiss as miss:
            start = start_of(miss.have)
            out = host.step(start, history[:, start:])
            return out[:, sent - start :] if cut else out

    return wrong


def of_03(name):
    return solutions("03_diffusion_and_what_crosses")[name]


def guide_upside_down(noise, scale):
    asked, without = noise.chunk(2)
    return without + scale * (asked - without)


def guide_too_far(noise, scale):
    without, asked = noise.chunk(2)
    return asked + scale * (asked - without)


def floats(values):
    ints, low, step = of_03("to_int8")(values)
    return ints.float(), low, step


def with_256_steps(values):
    low, high = values.min(), values.max()
    step = (high - low) / 256 if high > low else torch.tensor(1.0)
    return ((values - low) / step).floor().clamp(0, 254).to(torch.uint8), low, step


def truncated(values):
    low = values.min()
    step = (values.max() - low) / 255 if values.max() > low else torch.tensor(1.0)
    return ((values - low) / step + 1e-4).to(torch.uint8), low, step


def one_level_less(values):
    ints, low, step = of_03("to_int8")(values)
    return ints.clamp(0, 254), low, step


def exchanged(values):
    ints, low, step = of_03("to_int8")(values)
    return ints, step, low


def per_row(values):
    low = values.amin(-1, keepdim=True)
    step = (values.amax(-1, keepdim=True) - low) / 255
    return ((values - low) / step).nan_to_num().round().to(torch.uint8), low, step


def steps_on(ours_gets, theirs_gets):
    """A lockstep in which each side steps on the noise "before" or "after" the wire."""

    def lockstep(denoise, wire, here, there, latent):
        ours = theirs = latent
        for t in here.timesteps:
            before = denoise(theirs, t)
            noise = {"before": before, "after": wire(before)}
            ours = here.step(noise[ours_gets], t, ours).prev_sample
            theirs = there.step(noise[theirs_gets], t, theirs).prev_sample
        return ours, theirs

    return lockstep


def one_scheduler(denoise, wire, here, there, latent):
    for t in here.timesteps:
        latent = here.step(wire(denoise(latent, t)), t, latent).prev_sample
    return latent, latent


def shares_a_scheduler(denoise, wire, here, there, latent):
    ours = theirs = latent
    for t in here.timesteps:
        noise = wire(denoise(theirs, t))
        ours, theirs = here.step(noise, t, ours).prev_sample, here.step(noise, t, theirs).prev_sample
    return ours, theirs


def crosses_twice(denoise, wire, here, there, latent):
    ours = theirs = latent
    for t in here.timesteps:
        noise = denoise(theirs, t)
        ours = here.step(wire(noise), t, ours).prev_sample
        theirs = there.step(wire(noise), t, theirs).prev_sample
    return ours, theirs


def asks_twice(denoise, wire, here, there, latent):
    ours = theirs = latent
    for t in here.timesteps:
        ours, theirs = (
            s.step(wire(denoise(x, t)), t, x).prev_sample for s, x in ((here, ours), (there, theirs))
        )  # fmt: skip
    return ours, theirs


def of_04(name):
    return solutions("04_quantization")[name]


def encode(
    numbers=None, low=None, high=None, steps=255, head="<fB", zero_of=lambda least, scale: round(-least / scale)
):
    """An encoder of 04.1 with one part of it done in another way."""

    def wrong(values):
        least = low(values) if low else min(float(values.min()), 0.0)
        most = high(values) if high else max(float(values.max()), 0.0)
        scale = (most - least) / steps or 1.0
        zero = zero_of(least, scale)
        made = (values / scale).round() + zero
        made = numbers(values, scale, zero) if numbers else made.clamp(0, 255).to(torch.uint8)
        return (struct.pack(head, scale, zero) if head else b"") + made.numpy().tobytes()

    return wrong


def rounded_once(values, scale, zero):
    return (values / scale + zero).round().clamp(0, 255).to(torch.uint8)


def cut_off(values, scale, zero):
    return (values / scale + zero).clamp(0, 255).to(torch.uint8)


def not_clamped(values, scale, zero):
    return ((values / scale).round() + zero).to(torch.int64).to(torch.uint8)


def no_zero_point(values, scale, zero):
    return (values / scale).round().clamp(0, 255).to(torch.uint8)


def four_bytes_each(values, scale, zero):
    return (values / scale).round() + zero


def smallest(values):
    return float(values.min())


def largest(values):
    return float(values.max())


def both_ways(sign):
    return lambda values: sign * float(values.abs().max())


def decode(values):
    """A decoder of 04.1 that returns `values(numbers, scale, zero)`."""

    def wrong(payload, shape):
        scale, zero = struct.unpack("<fB", payload[:5])
        return values(torch.frombuffer(bytearray(payload[5:]), dtype=torch.uint8), scale, zero).reshape(shape)

    return wrong


def tried(limits, pick):
    """A best_limit of 04.2: which limits are tried, and what is made of their errors."""

    def wrong(values, requantise):
        each = limits(values)
        return pick(each, torch.stack([(requantise(values, x) - values).square().mean() for x in each]))

    return wrong


def of_largest(values):
    return values.abs().max() * torch.linspace(0.1, 1, 60)


def of_positive(values):
    return values.max() * torch.linspace(0.1, 1, 60)


def above(size):
    """An `outliers` of 04.3 with another measure of a channel's size."""
    return lambda hidden: (size(hidden) > 6 * size(hidden).median()).nonzero().flatten()


def times_the_mean_channel(hidden):
    large = hidden.square().mean(0).sqrt()
    return (large > 6 * large.mean()).nonzero().flatten()


def rotate(rows, root=0.5):
    """A `spread` of 04.4 that cuts blocks in another way, or divides by another power of their size."""

    def wrong(hidden, size):
        matrix = torch.tensor(hadamard(size), dtype=torch.float32)
        return (rows(hidden, size) @ matrix / size**root).reshape(hidden.shape)

    return wrong


def the_kits_rotation(hidden, size):
    turned = Hadamard(size).back(hidden.numpy().ravel(), b"", tuple(hidden.shape))
    return torch.from_numpy(turned).reshape(hidden.shape)


def turned(hidden, size):
    matrix = torch.tensor(hadamard(size), dtype=torch.float32).flip(0)
    return (hidden.reshape(-1, size) @ matrix / size**0.5).reshape(hidden.shape)


def coded(step=None, bits=None, numbers=torch.round):
    """An at_quality of 04.5 with another step, other whole numbers, or another count of bits."""

    def wrong(values, snr):
        size = step(values, snr) if step else of_04("at_quality")(values, snr)[1]
        made = numbers(values / size)
        return made, size, bits(made) if bits else entropy(made)

    return wrong


def entropy(numbers):
    counts = torch.unique(numbers, return_counts=True)[1]
    p = counts / counts.sum()
    return -(p * p.log2()).sum()


def other_types(values, snr):
    numbers, step, bits = of_04("at_quality")(values, snr)
    return [numbers.int(), step.numpy(), float(bits)]


def with_empty_levels(numbers):
    p = torch.histc(numbers, 201, -100, 100) / numbers.numel()
    return -(p * p.log2()).sum()


def open_loop(tensors, wire):
    last = received = torch.zeros_like(tensors[0])
    made = []
    for x in tensors:
        received = received + wire(x - last)
        last = x
        made.append(received)
    return made


def returns_the_originals(tensors, wire):
    open_loop(tensors, wire)
    return tensors


def whole_tensors(tensors, wire):
    return [wire(x) for x in tensors]


def first_one_is_known(tensors, wire):
    last = tensors[0]
    made = [last := last + wire(x - last) for x in tensors[1:]]
    return [tensors[0], *made]


def starts_at_the_first(tensors, wire):
    last = tensors[0]
    return [last := last + wire(x - last) for x in tensors]


def wires_twice(tensors, wire):
    last, made = torch.zeros_like(tensors[0]), []
    for x in tensors:
        wire(x - last)
        last = last + wire(x - last)
        made.append(last)
    return made


def differences_only(tensors, wire):
    last, made = torch.zeros_like(tensors[0]), []
    for x in tensors:
        made.append(wire(x - last))
        last = last + made[-1]
    return made


# Exercise, answer, part of the message, the hint that belongs to it (0: none).
def of_06(name):
    return solutions("06_latency")[name]


def least_squares(columns_of, order=(0, 1, 2)):
    """A fit of 06.2 with other columns, or its numbers in another order."""

    def wrong(rows):
        n, p, seconds = rows.T
        found = np.linalg.lstsq(np.stack(columns_of(n, p), axis=1), seconds, rcond=None)[0]
        return [found[k] for k in order]

    return wrong


def columns_06(n, p):
    return [np.ones_like(n), n, n * (p + (n + 1) / 2)]


def no_constant(rows):
    n, p, seconds = rows.T
    b, c = np.linalg.lstsq(np.stack([n, n * (p + (n + 1) / 2)], axis=1), seconds, rcond=None)[0]
    return 0, b, c


def two_steps(first_up="P", first_down="P", later_past="P", swap=False):
    """A prediction of 06.3 with other sizes: "P" is the prompt's, numbers are positions."""

    def wrong(prompt, local, host, frame, up, down):
        size = {"P": prompt}
        ups, downs = size.get(first_up, first_up), size.get(first_down, first_down)
        first = local(prompt, 0) + host(prompt, 0) + up(frame(ups)) + down(frame(downs))
        past = size.get(later_past, later_past)
        later = local(1, past) + host(1, past) + up(frame(1)) + down(frame(1))
        return (later, first) if swap else (first, later)

    return wrong


def no_host(prompt, local, host, frame, up, down):
    return local(prompt, 0), local(1, prompt)


def cheapest(cost):
    """A choice of 06.6 by another cost."""
    return lambda a, draft, step, rtt: min(range(17), key=lambda k: cost(a, k, draft, step, rtt / 1000))


def never_zero(a, draft, step, rtt):
    return min(range(1, 17), key=lambda k: (k * draft + step(k + 1) + rtt / 1000) / of_06("tokens_a_trip")(a, k))


def span(total):
    """A makespan of 06.7 from the pieces' own times, their number and the round trip in seconds."""
    return lambda stages, chunks, extra, rtt: total([t / chunks + extra for t in stages], chunks, rtt / 1000)


WRONG = [
    ("00.1", 12, "more layers", 1),
    ("00.1", 31, "fewer layers", 1),
    ("00.1", "thirty", "whole number", 0),
    ("01.1", lk.SplitPlan(head=1, tail=3), "begins at layer 1 and ends with layer 2", 1),
    ("01.1", lk.SplitPlan(head=2, tail=2), "begins at layer 2 and ends with layer 3", 2),
    ("01.1", lk.SplitPlan(head=3, tail=3), "no layer", 2),
    ("01.1", (1, 2), "SplitPlan was expected", 0),
    ("01.2", lambda head, tail, layers: (head, -tail), "counted from the end", 2),
    ("01.2", lambda head, tail, layers: (head, layers - tail - 1), "does not select the body", 1),
    ("01.2", lambda head, tail, layers: layers, "a pair", 1),
    ("01.2", lambda head, tail, layers: ("a", "b"), "two whole numbers", 0),
    ("01.2", lambda head, tail: (head, -tail), "it takes (head, tail)", 0),
    ("01.3", lambda hidden: hidden, "inherits", 0),
    ("01.3", remote(forward=first_only), "not those of the layers", 0),
    ("01.3", remote(forward=drops_kwargs), "keyword arguments", 2),
    ("01.3", remote(forward=lambda self, hidden_states: hidden_states), "but it takes (hidden_states)", 0),
    ("01.3", remote(__init__=lambda self: None), "it was called as Wrong(<ModuleList>)", 0),
    ("01.3", remote(forward=nothing_back), "forward returned None", 0),
    ("01.3", remote(forward=uncounted), "too few", 2),
    ("01.3", remote(forward=only_counts), "ran on the tensor that forward was given", 1),
    ("01.3", remote(forward=no_way_down), "the layers' own tensor", 1),
    ("01.3", remote(cross=cloned), "ran on the tensor that forward was given", 1),
    (
        "01.3",
        remote(cross=not_detached),
        "your code raised RuntimeError: Can't call numpy() on Tensor that requires",
        0,
    ),
    ("01.4", in_place, "original model was changed", 1),
    ("01.4", no_remote, "0 Remotes", 2),
    ("01.4", one_less, "was given 1 layers", 2),
    ("01.4", reversed_body, "logits", 0),
    ("01.5", lambda left, right: torch.allclose(left, right), "last bit", 1),
    ("01.5", lambda left, right: bool((left == right).all()), "two shapes", 2),
    ("01.5", lambda left, right: left is right, "called different", 0),
    ("01.5", lambda left, right: left == right, "got a tensor of shape (3, 4)", 2),
    ("01.5", lambda left, right: "yes", "True or False was expected, got str", 0),
    ("01.5", lambda left, right: left.sum() == right.sum(), "in another order", 2),
    ("01.5", lambda left, right: bool((left.sort().values == right.sort().values).all()), "two shapes", 2),
    ("01.5", same_bytes, "two shapes", 2),
    ("01.6", lambda prompt, new, width, size: prompt * width * size, "fewer bytes", 1),
    ("01.6", lambda prompt, new, width, size: (prompt + new) * width * size, "more bytes", 2),
    ("01.6", lambda prompt, new, width, size: 1.5, "whole number", 0),
    ("01.6", forgot, "is a `return` missing?", 0),
    ("01.7", lambda seen, head, vocabulary: torch.zeros(1, seen.shape[1], dtype=torch.long), "0 of 6", 1),
    ("01.7", lambda seen, head, vocabulary: torch.zeros(1, 2), "2 tokens for 6", 2),
    ("01.7", lambda seen, head, vocabulary: torch.zeros(1, 6), "whole numbers, got a tensor of torch.float32", 0),
    ("01.7", lambda seen, head, vocabulary: [7, 301, 42, 42, 199, 3], "shape (1, 6), was expected, got shape (6,)", 0),
    ("01.7", lambda seen, head, vocabulary: "The sea", "tensor of token ids", 0),
    ("02.1", lambda p, n, w, v: (p + n - 1) * w * v, "what crosses with a cache", 1),
    ("02.1", lambda p, n, w, v: n * (p + n) * w * v, "every step was counted as equally long", 1),
    ("02.1", lambda p, n, w, v: n * p + n * (n - 1) // 2, "the number of vectors", 3),
    ("02.1", lambda p, n, w, v: (n * p + n * (n + 1) // 2) * w * v, "one step or one position", 2),
    ("02.1", lambda p, n, w, v: (n * p + n * (n - 1) / 2) * w * v, "divide with //", 0),
    ("02.1", lambda p, n, w, v: 2 * of_02("bytes_none")(p, n, w, v), "up and down together", 0),
    ("02.1", lambda p, n, w, v: 7, "fewer bytes than cross", 2),
    ("02.1", lambda p, n, w: 7, "it takes (p, n, w)", 0),
    ("02.1", lambda p, n, w, v: "many", "a whole number was expected, got str", 0),
    ("02.2", lambda history, new, body: (new, body(new)), "the history has the shape (1, 1, 8)", 1),
    ("02.2", lambda history, new, body: (joined(history, new), body(new)), "the body passed over 1 of 5", 2),
    ("02.2", lambda history, new, body: (joined(history, new), body(joined(history, new))), "out has the shape", 3),
    ("02.2", lambda history, new, body: (joined(new, history), body(new)), "in the order in which it came", 1),
    ("02.2", lambda history, new, body: joined(history, new), "a pair (history, out)", 0),
    (
        "02.2",
        lambda history, new, body: (joined(history, new), body(joined(history, new))[:, : new.shape[1]]),
        "not the body's outputs",
        3,
    ),
    ("02.2", lambda history, new, body: (torch.cat([history, new], 1), new), "your code raised TypeError", 0),
    ("02.2", lambda history, new, body: (joined(history, new), body(3)), "hidden vectors [1, T, d]", 0),
    ("02.3", lambda prompt, new: 1 - of_02("saving")(prompt, new), "the share that still crosses", 1),
    ("02.3", lambda prompt, new: 100 * of_02("saving")(prompt, new), "not per cent", 1),
    ("02.3", lambda prompt, new: 1 - 1 / (prompt + new - 1), "what the last token saves", 3),
    ("02.3", lambda prompt, new: 1 - 2 / new if new > 1 else 0, "is saved for", 3),
    ("02.3", lambda prompt, new: 0.99, "more than is saved for 3 prompt and 8 new", 3),
    (
        "02.3",
        lambda prompt, new: 1 - (prompt + new) / (new * prompt + new * (new + 1) / 2 + prompt),
        "the last new token was sent too",
        2,
    ),
    ("02.3", lambda prompt, new: "99 %", "a number was expected, got str", 0),
    ("02.4", lambda prompt, share: 101 - prompt, "the first token that saves so much by itself", 1),
    ("02.4", lambda prompt, share: of_02("first")(prompt, share) + prompt, "that is a position", 0),
    ("02.4", lambda prompt, share: of_02("first")(prompt, share) - 1, "does not save that much yet", 1),
    ("02.4", lambda prompt, share: of_02("first")(prompt, share) + 1, "a reply of fewer new tokens", 2),
    ("02.4", lambda prompt, share: 500, "a reply of fewer new tokens than 500", 1),
    ("02.4", lambda prompt, share: 182.5, "a whole number was expected, got float", 0),
    ("02.5", 3, "a function was expected, got int", 0),
    ("02.5", own(lambda self, start, new: self.go(joined(self.history, new), new)), "taken back", 1),
    ("02.5", own(lambda self, start, new: self.go(joined(upto(self.history, start + 1), new), new)), "taken back", 1),
    (
        "02.5",
        own(lambda self, start, new: self.go(joined(upto(self.history, start), new), new)),
        "took a step that starts at 5",
        2,
    ),
    (
        "02.5",
        own(lambda self, start, new: self.go(joined(upto(self.history, start), new, start), new)),
        "raised IndexError; CacheMiss was expected",
        2,
    ),
    (
        "02.5",
        own(lambda self, start, new: self.go(joined(upto(self.history, start), new, start, miss=-1), new)),
        "CacheMiss says have=2",
        2,
    ),
    (
        "02.5",
        own(lambda self, start, new: self.go(joined(upto(self.history, start), new), None)),
        "the prefill: what step returns must be a tensor",
        3,
    ),
    ("02.5", own(lambda self, start, new: self.go(new, new)), "a token: these are not", 3),
    ("02.5", type("Host", (of_02("Host"),), {"step": lambda self, new: new}), "but it takes (new)", 0),
    ("02.5", lambda body: 3, "no method step", 0),
    ("02.5", forgets, "the memory is not what it was", 2),
    ("02.6", lambda history, sent, host: host.step(sent, history[:, sent:]), "your code raised CacheMiss", 0),
    ("02.6", lambda history, sent, host: host.step(0, history)[:, sent:], "10 vectors crossed, 3 are enough", 1),
    ("02.6", replays(lambda have: 0), "10 vectors crossed, 6 are enough", 2),
    ("02.6", replays(lambda have: have, cut=False), "what deliver returns has the shape (1, 10, 8)", 3),
    ("02.6", lambda history, sent, host: history[:, sent:], "not the outputs of the positions that are new", 3),
    ("02.6", lambda history, sent: history, "it takes (history, sent)", 0),
    ("02.7", lambda policy, p, n, w: of_02("flops")(policy, p, n, w) / 2, "one multiplication and one addition", 1),
    ("02.7", lambda policy, p, n, w: of_02("flops")("kv" if policy == "hidden" else policy, p, n, w), "what kv", 3),
    ("02.7", lambda policy, p, n, w: of_02("flops")("none", p, n, w), "kv, 3 prompt and 8 new tokens: more", 2),
    ("02.7", lambda policy, p, n, w: of_02("flops")("kv", p, n, w), "none, 3 prompt and 8 new tokens: fewer", 3),
    ("02.7", lambda policy, p, n, w: "a lot", "a number was expected, got str", 0),
    ("03.1", guide_upside_down, "halves are exchanged", 1),
    ("03.1", guide_too_far, "at scale 1 the guided noise must be", 2),
    ("03.1", lambda noise, scale: noise, "shape (2, 4, 8, 8), a tensor of shape (1, 4, 8, 8)", 1),
    ("03.1", lambda noise, scale: noise.chunk(2)[1], "at scale 0", 2),
    ("03.1", lambda noise, scale: scale, "must be a tensor, got float", 0),
    ("03.1", lambda noise, scale: torch.lerp(noise[0::2], noise[1::2], scale), "not every second one", 1),
    ("03.2", lambda mode, steps, guided: steps * (1 + guided), "more than cross for per_step, 20 steps, guided", 1),
    ("03.2", lambda mode, steps, guided: steps, "more than cross for lockstep, 20 steps", 2),
    ("03.2", lambda mode, steps, guided: 1, "fewer than cross for per_step, 20 steps", 0),
    ("03.2", lambda mode, steps, guided: "one", "whole number", 0),
    ("03.3", lambda values: values, "a pair of functions", 0),
    ("03.3", (floats, of_03("from_int8")), "must be torch.uint8", 2),
    ("03.3", (with_256_steps, of_03("from_int8")), "distance of two of the 256 levels", 1),
    ("03.3", (one_level_less, of_03("from_int8")), "became 0 and 254", 1),
    ("03.3", (truncated, of_03("from_int8")), "a whole step off", 2),
    ("03.3", (exchanged, of_03("from_int8")), "low is not the smallest", 1),
    ("03.3", (per_row, of_03("from_int8")), "one number each", 0),
    ("03.3", (of_03("to_int8"), lambda ints, low, step: (low + step * ints.float()) / 0), "NaN or infinity", 2),
    ("03.3", (of_03("to_int8"), lambda ints, low, step: ints), "more than a step off", 3),
    ("03.3", (of_03("to_int8"), lambda ints, low, step: step * ints), "more than a step off", 3),
    ("03.3", (lambda values: values, of_03("from_int8")), "three things", 0),
    ("03.4", steps_on("after", "before"), "the two latents are", 1),
    ("03.4", steps_on("before", "before"), "on another latent", 1),
    ("03.4", one_scheduler, "here stepped 6 times and there 0 times", 2),
    ("03.4", shares_a_scheduler, "each side has its own", 0),
    ("03.4", crosses_twice, "12 noises crossed in 6 steps", 3),
    ("03.4", asks_twice, "was asked 12 times in 6 steps", 3),
    ("03.4", lambda denoise, wire, here, there, latent: latent, "two latents", 0),
    ("03.5", lambda up, steps, values: 0.75, "the downlink's saving, and 4,096 bytes", 1),
    ("03.5", lambda up, steps, values: round(100 * of_03("saving")(up, steps, values), 1), "not per cent", 3),
    ("03.5", lambda up, steps, values: 1 - of_03("saving")(up, steps, values), "what remains", 3),
    ("03.5", lambda up, steps, values: 1 - (values + 8) / (4 * values), "the downlink's saving", 1),
    ("03.5", lambda up, steps, values: 100 * of_03("saving")(up, steps, values), "not per cent", 3),
    ("03.5", lambda up, steps, values: 1 - (up + steps * values) / (up + 4 * steps * values), "a little too much", 2),
    ("03.5", lambda up, steps, values: 0.1, "less than is saved", 3),
    ("03.5", lambda up, steps, values: "75 %", "a number was expected, got str", 0),
    ("03.6", lambda k, channels, side: (channels[max(k - 1, 0)] * side**2,) * 2, "too many values up for k=1", 1),
    ("03.6", lambda k, channels, side: (channels[k] * (side >> k) ** 2,) * 2, "too many values up for k=1", 2),
    ("03.6", lambda k, channels, side: (channels[max(k - 1, 0)] * (side >> k) ** 2,) * 2, "down for k=1", 3),
    ("03.6", lambda k, channels, side: 1, "a pair (up, down)", 0),
    ("03.6", lambda k, channels, side: ("a", "b"), "two whole numbers", 0),
    ("03.6", lambda k, channels, side: (channels[0] * side / 2**k, 1.0), "divide with //", 0),
    ("03.6", lambda k, c, side: tuple(2 * v for v in of_03("crossing")(k, c, side)), "one row, in values", 0),
    ("03.6", lambda k, c, side: (c[max(k - 1, 0)] * side**2 >> k, c[k] * side**2 >> k), "up for k=1", 1),
    ("03.7", lambda x, v, a: (x - (1 - a).sqrt() * v) / a.sqrt(), "predicts e; this one predicts v", 1),
    ("03.7", lambda x, v, a: a.sqrt() * v + (1 - a).sqrt() * x, "that is the noise e", 1),
    ("03.7", lambda x, v, a: a * x - (1 - a) * v, "square roots", 2),
    ("03.7", lambda x, v, a: x - v, "not those of the clean latent", 2),
    ("03.7", lambda x, v, a: x[0], "shape (4, 8, 8)", 1),
    ("04.1", encode(), "a pair of functions", 0),
    ("04.1", (lambda values: values, of_04("decode")), "must return bytes, got Tensor", 0),
    ("04.1", (encode(four_bytes_each), of_04("decode")), "each of them takes four", 2),
    ("04.1", (encode(head=""), of_04("decode")), "scale and zero point are not among them", 2),
    ("04.1", (encode(head="<fi"), of_04("decode")), "five and one a value were expected", 2),
    ("04.1", (encode(steps=256), of_04("decode")), "not the distance of two levels", 1),
    ("04.1", (encode(low=smallest, high=largest), of_04("decode")), "does the range hold 0", 1),
    ("04.1", (encode(low=both_ways(-1), high=both_ways(1)), of_04("decode")), "not the distance", 1),
    ("04.1", (encode(zero_of=lambda low, scale: round(low / scale)), of_04("decode")), "is its sign right?", 2),
    ("04.1", (encode(zero_of=lambda low, scale: 128), of_04("decode")), "level 128 is not the one", 2),
    ("04.1", (encode(zero_of=lambda low, scale: 0.5), of_04("decode")), "required argument is not an integer", 0),
    ("04.1", (encode(not_clamped), of_04("decode")), "another level", 3),
    ("04.1", (encode(cut_off), of_04("decode")), "is it rounded?", 2),
    ("04.1", (encode(no_zero_point), of_04("decode")), "steps off", 2),
    ("04.1", (encode(), decode(lambda n, s, z: s * (n - z))), "a difference below 0 became a byte", 4),
    ("04.1", (encode(), decode(lambda n, s, z: s * n)), "not return what the levels stand for", 4),
    ("04.1", (encode(), decode(lambda n, s, z: s * n.float() - z)), "not return what the levels stand for", 4),
    ("04.1", (encode(), decode(lambda n, s, z: s * (n.float() - z) + 1e-6 * s)), "exactly 0", 4),
    ("04.1", (encode(), lambda payload, shape: of_04("decode")(payload, (-1,))), "a tensor of shape (3, 40)", 1),
    ("04.2", lambda values, requantise: values.abs().max(), "the whole range", 1),
    ("04.2", lambda values, requantise: 3 * values.std(), "too little is clipped", 2),
    ("04.2", lambda values, requantise: values.std(), "too much is clipped", 2),
    ("04.2", lambda values, requantise: 0.9 * values.abs().max(), "too little is clipped", 2),
    ("04.2", tried(of_positive, lambda limits, errors: limits[errors.argmin()]), "a limit is above 0", 1),
    ("04.2", tried(of_largest, lambda limits, errors: errors.argmin()), "beyond the largest magnitude", 3),
    ("04.2", tried(of_largest, lambda limits, errors: errors.min()), "too much is clipped", 2),
    ("04.2", tried(of_largest, lambda limits, errors: limits), "one number, the limit", 0),
    ("04.2", lambda values, requantise: float("nan"), "no place for a level", 0),
    ("04.3", above(lambda hidden: hidden.square().mean(1).sqrt()), "no channel was found", 1),
    ("04.3", above(lambda hidden: hidden.abs().amax(0)), "large in one token only", 2),
    ("04.3", above(lambda hidden: hidden.std(0)), "nearly the same large value in every token is missing", 2),
    ("04.3", above(lambda hidden: hidden.mean(0).abs()), "with both signs, is missing", 2),
    ("04.3", times_the_mean_channel, "as the median one is missing", 3),
    ("04.3", lambda hidden: (hidden.square().mean(0).sqrt() > 3.5).nonzero().flatten(), "not six times", 3),
    ("04.3", lambda hidden: hidden.square().mean(0).sqrt() > 6, "True or False for each", 3),
    ("04.3", lambda hidden: hidden.square().mean(0).sqrt(), "a list of channel numbers", 0),
    ("04.3", lambda hidden: 17, "a list of channel numbers was expected, got int", 0),
    ("04.3", lambda hidden: [17, 117], "numbered from 0 to 95", 3),
    ("04.4", rotate(lambda hidden, size: hidden.reshape(-1, size), root=0), "larger as a whole", 2),
    ("04.4", rotate(lambda hidden, size: hidden.reshape(-1, size), root=1), "smaller as a whole", 2),
    ("04.4", rotate(lambda hidden, size: hidden.reshape(size, -1).T), "beyond its block", 1),
    ("04.4", rotate(lambda hidden, size: hidden.reshape(-1, size).T), "your code raised RuntimeError", 0),
    ("04.4", lambda hidden, size: hidden, "not spread evenly", 1),
    ("04.4", turned, "rotated twice", 2),
    (
        "04.4",
        lambda hidden, size: of_04("spread")(hidden, size).reshape(-1, size),
        "the rotated tensor has the shape (20, 64)",
        1,
    ),
    (
        "04.4",
        lambda hidden, size: hidden @ torch.tensor(hadamard(128), dtype=torch.float32) / 128**0.5,
        "beyond its block",
        1,
    ),
    (
        "04.5",
        coded(step=lambda v, snr: (v.square().mean() / 10 ** (snr / 10)) ** 0.5),
        "the step is not large enough",
        1,
    ),
    ("04.5", coded(step=lambda v, snr: 12 * v.square().mean() / 10 ** (snr / 10)), "the step is not", 1),
    ("04.5", coded(step=lambda v, snr: (12 * v.square().mean()) ** 0.5 / 10 ** (snr / 10)), "not large enough", 1),
    ("04.5", coded(step=lambda v, snr: (v.max() - v.min()) / 255), "not large enough", 1),
    ("04.5", coded(step=lambda v, snr: (12 * v.abs().max() ** 2 / 10 ** (snr / 10)) ** 0.5), "not small enough", 1),
    ("04.5", coded(numbers=torch.floor), "more than half a step", 2),
    ("04.5", coded(numbers=lambda x: x), "numbers are whole numbers", 2),
    ("04.5", coded(bits=lambda n: torch.tensor(len(n.unique()) * 1.0).log2()), "frequent number needs less", 3),
    ("04.5", coded(bits=lambda n: 8), "bits above Shannon's line: a frequent", 3),
    ("04.5", coded(bits=lambda n: entropy(n) * 0.6931472), "in nats", 3),
    ("04.5", coded(bits=with_empty_levels), "bits is NaN", 3),
    ("04.5", coded(bits=lambda n: 0.5 * torch.tensor(100.0).log2()), "no code is as short", 3),
    ("04.5", coded(bits=lambda n: entropy(n) + 0.1), "not what an ideal code", 3),
    ("04.5", lambda values, snr: of_04("at_quality")(values, snr)[2], "three things", 0),
    ("04.5", coded(bits=lambda n: "few"), "one number each", 0),
    ("04.6", open_loop, "drift: after the first step", 1),
    ("04.6", returns_the_originals, "not the sum of what arrived", 2),
    ("04.6", differences_only, "not the sum of what arrived", 2),
    ("04.6", whole_tensors, "whole tensors crossed", 2),
    ("04.6", first_one_is_known, "23 tensors crossed in 24 steps", 2),
    ("04.6", starts_at_the_first, "the first tensor must cross", 3),
    ("04.6", wires_twice, "48 tensors crossed in 24 steps", 2),
    ("04.6", lambda tensors, wire: of_04("closed_loop")(tensors, wire)[-1], "a list of 24 tensors", 0),
    ("04.7", lambda scale: abs(scale - 1) + scale, "the worst case", 2),
    ("04.7", lambda scale: (scale - 1) ** 2 + scale**2, "its root was asked for", 2),
    ("04.7", lambda scale: (1 + scale**2) ** 0.5, "counts as two errors", 1),
    ("04.7", lambda scale: (1 + 2 * scale**2) ** 0.5, "counts as two errors", 1),
    ("04.7", lambda scale: scale, "too small at scale 0", 1),
    ("04.7", lambda scale: 1.0, "too small at scale 3", 1),
    ("04.7", lambda scale: "3.6", "a number was expected, got str", 0),
    ("06.1", lambda size, mbps, rtt: size / (mbps * 1e6) + rtt / 2000, "a byte counts as one bit", 1),
    ("06.1", lambda size, mbps, rtt: 8 * size / (mbps * 2**20) + rtt / 2000, "a mega is 1e6", 1),
    ("06.1", lambda size, mbps, rtt: 8e-6 * size / mbps + rtt / 1000, "does not come back", 2),
    ("06.1", lambda size, mbps, rtt: 8e-3 * size / mbps + rtt / 2, "that is in milliseconds", 3),
    ("06.1", lambda size, mbps, rtt: 8e-6 * size / mbps + rtt / 2, "milliseconds are added to seconds", 3),
    ("06.1", lambda size, mbps, rtt: 8e-6 * size / mbps, "only the bytes take time", 2),
    ("06.1", lambda size, mbps, rtt: rtt / 2000, "only the length of the line", 1),
    ("06.1", lambda size, mbps, rtt: 3.0, "too long for 1,000 bytes", 1),
    ("06.1", lambda size, mbps, rtt: "1 s", "number of seconds was expected, got str", 0),
    ("06.2", least_squares(columns_06, (2, 1, 0)), "in another order", 3),
    ("06.2", least_squares(lambda n, p: [np.ones_like(n), n, n * p]), "not n * p", 1),
    ("06.2", no_constant, "a is 0", 1),
    ("06.2", lambda rows: (rows[:, 2].mean(), 0, 0), "away from the least squares line", 2),
    ("06.2", lambda rows: 3.0, "three numbers (a, b, c) were expected, got float", 0),
    ("06.2", lambda rows: (1, 2), "got 2 of them", 0),
    ("06.2", lambda rows: ("a", "b", "c"), "each a finite number", 0),
    ("06.3", two_steps(swap=True), "the two numbers are exchanged", 2),
    ("06.3", two_steps(first_down=1), "one vector comes down", 4),
    ("06.3", two_steps(first_up=1), "one vector goes up", 4),
    ("06.3", two_steps(later_past=0), "as if nothing were cached", 3),
    ("06.3", two_steps(later_past=10_000), "later: too long", 3),
    ("06.3", no_host, "first: too short for a prompt of 5", 1),
    ("06.3", lambda *given: 1.0, "two numbers (first, later)", 0),
    ("06.4", lambda rest, body, speed, size, mbps: 1000 * (body - body / speed - 8e-6 * size / mbps), "below 0", 4),
    ("06.4", lambda *given: of_06("break_even_ms")(*given) / 1000, "that is in seconds", 3),
    ("06.4", lambda *given: of_06("break_even_ms")(*given) + 1000 * given[0], "runs locally in both", 1),
    ("06.4", lambda rest, body, speed, size, mbps: 1000 * body - 8e-3 * size / mbps, "own computing takes time", 2),
    ("06.4", lambda rest, body, speed, size, mbps: 1000 * (body - body / speed), "the bytes are not paid", 2),
    ("06.4", lambda *given: 2 * of_06("break_even_ms")(*given), "there and back", 3),
    ("06.4", lambda *given: of_06("break_even_ms")(*given) / 2, "one round trip, not two", 3),
    ("06.4", lambda *given: 1.0, "too short a round trip", 2),
    ("06.4", lambda *given: "20 ms", "number of milliseconds was expected, got str", 0),
    ("06.5", lambda a, k: of_06("tokens_a_trip")(a, k) - 1, "adds itself is missing", 1),
    ("06.5", lambda a, k: 1 + a * k, "however good", 2),
    ("06.5", lambda a, k: of_06("tokens_a_trip")(a, k + 1), "one term too many", 2),
    ("06.5", lambda a, k: (1 - a ** (k + 1)) / (1 - a), "divides by 0", 3),
    ("06.5", lambda a, k: 1, "one term too few", 2),
    ("06.5", lambda a, k: 1.1 * of_06("tokens_a_trip")(a, k), "too many tokens for a = 0.8 and k = 0", 2),
    ("06.5", lambda a, k: "many", "number of tokens was expected, got str", 0),
    ("06.6", lambda a, draft, step, rtt: 16, "is not fewer seconds a token", 2),
    ("06.6", never_zero, "drafting does not pay there", 3),
    ("06.6", lambda a, draft, step, rtt: 0, "drafting pays there", 1),
    ("06.6", lambda a, draft, step, rtt: 1, "more drafts take less time", 1),
    ("06.6", cheapest(lambda a, k, draft, step, rtt: k * draft + step(k + 1) + rtt), "drafting pays there", 1),
    ("06.6", lambda a, draft, step, rtt: 17, "0 to 16 were asked for", 3),
    ("06.6", lambda a, draft, step, rtt: 2.5, "whole number of tokens", 0),
    ("06.7", span(lambda times, k, line: k * sum(times) + line), "nothing overlaps", 2),
    ("06.7", span(lambda times, k, line: sum(times) + (k - 1) * max(times) + k * line), "round trip of its own", 4),
    ("06.7", span(lambda times, k, line: sum(times) + (k - 1) * max(times)), "the round trip is missing", 4),
    ("06.7", lambda s, k, extra, rtt: of_06("makespan")(s, k, 0, rtt), "the extra time of a piece is missing", 1),
    ("06.7", lambda s, k, *more: of_06("makespan")([k * t for t in s], k, *more), "as for the whole prompt", 1),
    ("06.7", span(lambda times, k, line: sum(times) + (k - 1) * times[0] + line), "first stage is not always", 3),
    ("06.7", span(lambda times, k, line: sum(times) + (k - 1) * times[-1] + line), "last stage is not always", 3),
    ("06.7", span(lambda times, k, line: sum(times) + k * max(times) + line), "one piece too many", 3),
    ("06.7", span(lambda times, k, line: k * max(times) + line), "pass the other stages too", 2),
    ("06.7", lambda stages, chunks, extra, rtt: 99, "too long for stages of", 2),
    ("06.7", lambda stages, chunks, extra, rtt: "1 s", "number of seconds was expected, got str", 0),
]
RIGHT = [
    ("01.2", lambda head, tail, layers: [head, layers - tail]),
    ("01.5", lambda left, right: left.shape == right.shape and (left == right).all()),
    ("01.5", lambda left, right: np.array_equal(left, right)),
    ("01.6", lambda prompt, new, width, size: np.int64((prompt + new - 1) * width * size)),
    ("01.7", lambda seen, head, vocabulary: [[7, 301, 42, 42, 199, 3]]),
    ("02.1", lambda p, n, w, v: np.int64(sum(range(p, p + n)) * w * v)),
    ("02.2", lambda history, new, body: [joined(history, new), body(joined(history, new))[:, -new.shape[1] :]]),
    ("02.3", lambda prompt, new: np.float64(1 - 2 * (prompt + new - 1) / (new * (2 * prompt + new - 1)))),
    ("02.4", lambda prompt, share: torch.tensor(of_02("first")(prompt, share))),
    ("02.5", own(lambda self, start, new: self.go(joined(upto(self.history, start), new, start, miss=0), new))),
    ("02.6", lambda history, sent, host: of_02("deliver")(history, sent, host).clone()),
    ("02.7", lambda policy, p, n, w: float(of_02("flops")(policy, p, n, w))),
    ("03.1", lambda noise, scale: torch.lerp(*noise.chunk(2), scale)),
    ("03.2", lambda mode, steps, guided: np.int64(1 if mode == "lockstep" else steps)),
    ("03.5", lambda up, steps, values: torch.tensor(of_03("saving")(up, steps, values))),
    ("03.5", lambda up, steps, values: np.float32(of_03("saving")(up, steps, values))),
    ("03.6", lambda k, channels, side: list(of_03("crossing")(k, channels, side))),
    ("03.7", lambda x, v, a: x * a**0.5 - v * (1 - a) ** 0.5),
    ("04.1", (encode(rounded_once), of_04("decode"))),
    ("04.1", [lambda values: bytearray(of_04("encode")(values)), decode(lambda n, s, z: s * (n.int() - z))]),
    ("04.2", tried(of_largest, lambda limits, errors: float(limits[errors.argmin()]))),
    ("04.3", lambda hidden: set(of_04("outliers")(hidden).numpy())),
    ("04.3", lambda hidden: of_04("outliers")(hidden).tolist()),
    ("04.4", the_kits_rotation),
    ("04.5", other_types),
    ("04.6", lambda tensors, wire: tuple(of_04("closed_loop")(tensors, wire))),
    ("04.7", lambda scale: np.hypot(scale, 1 - scale)),
    ("06.1", lambda size, mbps, rtt: np.float32(of_06("frame_seconds")(size, mbps, rtt))),
    ("06.2", lambda rows: torch.tensor(of_06("fit")(rows))),
    ("06.3", lambda *given: np.array(of_06("two_times")(*given))),
    ("06.4", lambda *given: torch.tensor(of_06("break_even_ms")(*given))),
    ("06.5", lambda a, k: k + 1 if a == 1 else (1 - a ** (k + 1)) / (1 - a)),
    ("06.6", lambda a, draft, step, rtt: np.int64(of_06("best_draft")(a, draft, step, rtt))),
]

for path in sorted((ROOT / "tests" / "answers").glob("chapter_*.py")):  # WRONG and RIGHT of one chapter each
    told = runpy.run_path(str(path))
    WRONG += told["WRONG"]
    RIGHT += told["RIGHT"]


@pytest.mark.parametrize(("id", "answer", "fragment", "hint"), WRONG, ids=lambda v: v if isinstance(v, str) else "")
def test_wrong_answers_get_a_sentence_and_its_hint(id, answer, fragment, hint):
    result = checks.check(id, answer)
    assert result.status == checks.NOT_YET and fragment in result.message, result
    assert result.hint == (checks.hint(id, hint) if hint else "")


@pytest.mark.parametrize(("id", "answer"), RIGHT)
def test_right_answers_in_other_clothes_pass(id, answer):
    assert checks.check(id, answer), checks.check(id, answer)


def test_every_exercise_has_a_wrong_answer_here():
    assert {id for id, *_ in WRONG} >= {i for p in TUTORIALS for i in checked(p)}
