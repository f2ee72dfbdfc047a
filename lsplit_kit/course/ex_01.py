"""Checks for chapter 01, cutting a model in three."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lsplit_kit.course.checks import call, exercise

TOY, LAYERS, WIDTH, VOCABULARY = "toy-llama", 6, 64, 384


def _toy() -> Any:
    from lsplit_kit.models.load import load

    return load(TOY)[0]


@exercise(
    "01.1",
    title="Write a plan",
    hints=[
        "tail counts layers from the end: it is a number of layers, not the number of a layer",
        "the toy has six layers, 0 to 5; count those before the body for head, those after it for tail",
    ],
    minutes=2,
)
def plan(answer: object) -> str | None:
    """A SplitPlan whose body is layers 1 to 3 of the six."""
    from lsplit_kit.split.plan import SplitPlan

    if not isinstance(answer, SplitPlan):
        return f"a SplitPlan was expected, got {type(answer).__name__}"
    if answer.head + answer.tail >= LAYERS:
        return f"{answer} leaves no layer of the six for the body"
    start, stop = answer.cut(LAYERS)
    if (start, stop) == (1, 4):
        return None
    return f"with {answer} the body begins at layer {start} and ends with layer {stop - 1}"


@exercise(
    "01.2",
    title="Where are the two cuts?",
    hints=[
        "the body is layers[start:stop]; in Python the stop is not part of a slice",
        "do not use -tail as the stop: with tail=0 the slice layers[start:-0] is empty",
    ],
    minutes=4,
)
def cuts(answer: object) -> str | None:
    """(start, stop) of the body from (head, tail, layers)."""
    for head, tail, layers in ((2, 2, 30), (1, 2, 6), (0, 1, 6), (3, 0, 6)):
        value = call(answer, head, tail, layers)
        asked = f"head={head}, tail={tail}, {layers} layers"
        if not isinstance(value, tuple) or len(value) != 2:
            return f"for {asked} a pair (start, stop) was expected, got {type(value).__name__}"
        if list(range(layers))[slice(*value)] != list(range(layers))[head : layers - tail]:
            return f"for {asked} your pair {value} does not select the body"
        if value[1] < 0:
            return f"for {asked} your stop is counted from the end; count it from the front"
    return None


class _Layer(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor
        self.seen: dict[str, object] = {}

    def forward(self, hidden_states: Tensor, **kwargs: object) -> Tensor:
        self.seen = kwargs
        return hidden_states * self.factor + 1


@exercise(
    "01.3",
    title="A Remote in ten lines",
    hints=[
        "bytes: hidden.numpy().tobytes(); back: torch.frombuffer(bytearray(payload), dtype=...).reshape(...)",
        "one crossing up before the layers and one down after them; give every layer the same **kwargs",
    ],
    minutes=10,
    difficulty=3,
)
def remote(answer: object) -> str | None:
    """A module class: Remote(layers), forward(hidden_states, **kwargs), counters .up and .down in bytes."""
    if not (isinstance(answer, type) and issubclass(answer, nn.Module)):
        return "a class that inherits from torch.nn.Module was expected"
    layers = [_Layer(2.0), _Layer(3.0)]
    module: Any = answer(nn.ModuleList(layers))
    hidden = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4).transpose(0, 1)
    for part in (hidden, hidden[:, -1:]):
        out = module(part, position_ids="here")
        if not isinstance(out, Tensor):
            return f"forward must return a tensor, got {type(out).__name__}"
        if out.shape != part.shape:
            return f"a hidden tensor of shape {tuple(part.shape)} came back as {tuple(out.shape)}"
        if not torch.equal(out, layers[1](layers[0](part, **layers[0].seen), **layers[1].seen)):
            return "the values that come back are not those of the layers, run in order"
        if any(layer.seen.get("position_ids") != "here" for layer in layers):
            return "the keyword arguments did not reach every layer"
    counted = 4 * (hidden.numel() + hidden[:, -1:].numel())
    for name in ("up", "down"):
        value = getattr(module, name, None)
        if not isinstance(value, int):
            return f"the module has no byte counter .{name}"
        if value != counted:
            amount = "few" if value < counted else "many"
            return f".{name} counts {value} bytes after two calls, which is too {amount}"
    return None


class _Through(nn.Module):
    def __init__(self, layers: Any) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, hidden_states: Tensor, **kwargs: object) -> Tensor:
        for layer in self.layers:
            hidden_states = layer(hidden_states, **kwargs)
        return hidden_states


@exercise(
    "01.4",
    title="Graft it into the model",
    hints=[
        "work on copy.deepcopy(model): the original stays as it was",
        "copied.model.layers = torch.nn.ModuleList([*layers[:head], Remote(...), *layers[...:]])",
    ],
    minutes=8,
    difficulty=3,
)
def graft(answer: object) -> str | None:
    """graft(model, head, tail, Remote): a copy of the model with one Remote where the body was."""
    model = _toy()
    ids = torch.arange(5, 17)[None]
    with torch.no_grad():
        expected = model(ids).logits
        for head, tail in ((2, 2), (1, 0), (0, 3)):
            made: Any = call(answer, model, head, tail, _Through)
            asked = f"head={head}, tail={tail}"
            if made is model or len(model.model.layers) != LAYERS:
                return "the original model was changed; another plan could not be tried on it"
            if not isinstance(made, nn.Module) or not hasattr(made, "model"):
                return f"the grafted model was expected, got {type(made).__name__}"
            kinds = [isinstance(layer, _Through) for layer in made.model.layers]
            if kinds.count(True) != 1:
                return f"for {asked} the layer list holds {kinds.count(True)} Remotes"
            at = kinds.index(True)
            if at != head or len(kinds) - at - 1 != tail:
                return f"for {asked} the Remote has {at} layers before it and {len(kinds) - at - 1} after it"
            if len(made.model.layers[at].layers) != LAYERS - head - tail:
                return f"for {asked} the Remote was given {len(made.model.layers[at].layers)} layers"
            if not torch.equal(made(ids).logits, expected):
                return f"for {asked} the logits are not those of the unsplit model"
    return None


@exercise(
    "01.5",
    title="Prove exactness",
    hints=[
        "close is not equal: no tolerance",
        "== broadcasts, so compare the shapes as well; one function of torch does both",
    ],
    minutes=3,
)
def exact(answer: object) -> str | None:
    """exact(left, right): True only when two tensors have the same shape and the same values."""
    left = torch.linspace(-3, 3, 12).reshape(3, 4)
    last = left.clone()
    last[2, 3] = torch.nextafter(last[2, 3], torch.tensor(9.0))
    row = torch.ones(1, 4)
    if not bool(call(answer, left, left.clone())):
        return "two equal tensors were called different"
    if bool(call(answer, left, last)):
        return "two tensors that differ in the last bit of one value were called equal"
    if bool(call(answer, row, torch.ones(3, 4))):
        return "tensors of two shapes were called equal"
    return None


@exercise(
    "01.6",
    title="Count the bytes that cross up",
    hints=[
        "with a cache, every position crosses up once",
        "the last new token is never fed back: nothing is asked of it",
    ],
    minutes=5,
    difficulty=2,
)
def bytes_up(answer: object) -> str | None:
    """bytes_up(prompt, new, width, value_bytes): payload bytes up of a whole generation with a cache."""
    for prompt, new, width, size in ((5, 1, 64, 4), (3, 8, 576, 4), (10, 4, 64, 2)):
        value = call(answer, prompt, new, width, size)
        right = (prompt + new - 1) * width * size
        if isinstance(value, bool) or not isinstance(value, int):
            return f"a whole number was expected, got {type(value).__name__}"
        if value != right:
            side = "fewer" if value < right else "more"
            asked = f"{prompt} prompt tokens, {new} new, width {width}, {size} bytes a value"
            return f"{side} bytes than cross for {asked}"
    return None


@exercise(
    "01.7",
    title="Read the prompt from what crossed up",
    hints=[
        "vector 0 depends on token 0 only, vector 1 on tokens 0 and 1: find the tokens from left to right",
        "append each token of the vocabulary to what you have, run the head, keep the nearest last vector",
    ],
    minutes=10,
    difficulty=4,
)
def recover(answer: object) -> str | None:
    """recover(seen [1, T, d], head, vocabulary): the prompt's ids [1, T]; head(ids [B, T]) -> [B, T, d]."""
    model = _toy()

    def head(ids: Tensor) -> Tensor:
        return model(ids, output_hidden_states=True).hidden_states[2]

    ids = torch.tensor([[7, 301, 42, 42, 199, 3]])
    with torch.no_grad():
        found = call(answer, head(ids), head, VOCABULARY)
    if not isinstance(found, Tensor):
        return f"a tensor of token ids was expected, got {type(found).__name__}"
    if found.numel() != ids.numel():
        return f"{found.numel()} tokens for {ids.numel()} crossed vectors"
    hits = int((found.flatten() == ids.flatten()).sum())
    return None if hits == ids.numel() else f"{hits} of {ids.numel()} tokens are right"
