"""Checks for chapter 01, cutting a model in three."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from lsplit_kit.course.calling import NotAttempted, blank, fit, whole
from lsplit_kit.course.checks import Wrong, call, exercise

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
def plan(answer: object) -> str | Wrong | None:
    """A SplitPlan whose body is layers 1 to 3 of the six."""
    from lsplit_kit.split.plan import SplitPlan

    if not isinstance(answer, SplitPlan):
        return f"a SplitPlan was expected, got {type(answer).__name__}"
    if answer.head + answer.tail >= LAYERS:
        return Wrong(f"{answer} leaves no layer of the six for the body", 2)
    start, stop = answer.cut(LAYERS)
    if (start, stop) == (1, 4):
        return None
    return Wrong(
        f"with {answer} the body begins at layer {start} and ends with layer {stop - 1}", 2 if stop == 4 else 1
    )


@exercise(
    "01.2",
    title="Where are the two cuts?",
    hints=[
        "the body is layers[start:stop]; in Python the stop is not part of a slice",
        "do not use -tail as the stop: with tail=0 the slice layers[start:-0] is empty",
    ],
    minutes=4,
)
def cuts(answer: object) -> str | Wrong | None:
    """(start, stop) of the body from (head, tail, layers)."""
    for head, tail, layers in ((2, 2, 30), (1, 2, 6), (0, 1, 6), (3, 0, 6)):
        value = call(answer, head, tail, layers)
        asked = f"head={head}, tail={tail}, {layers} layers"
        if not isinstance(value, (tuple, list)) or len(value) != 2:
            return Wrong(f"for {asked} a pair (start, stop) was expected, got {type(value).__name__}", 1)
        start, stop = map(whole, value)
        if start is None or stop is None:
            return f"for {asked} two whole numbers were expected, got {value}"
        if list(range(layers))[start:stop] != list(range(layers))[head : layers - tail]:
            return Wrong(f"for {asked} your pair {(start, stop)} does not select the body", 2 if stop <= 0 else 1)
        if stop < 0:
            return Wrong(f"for {asked} your stop is counted from the end; count it from the front", 2)
    return None


class _Layer(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor
        self.seen: dict[str, object] = {}
        self.given = self.gave = torch.empty(0)

    def forward(self, hidden_states: Tensor, **kwargs: object) -> Tensor:
        self.seen, self.given = kwargs, hidden_states
        self.gave = hidden_states * self.factor + 1
        return self.gave


def _same_memory(left: Tensor, right: Tensor) -> bool:
    return left.untyped_storage().data_ptr() == right.untyped_storage().data_ptr()


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
def remote(answer: object) -> str | Wrong | None:
    """A module class: Remote(layers), forward(hidden_states, **kwargs), counters .up and .down in bytes."""
    if not (isinstance(answer, type) and issubclass(answer, nn.Module)):
        return "a class that inherits from torch.nn.Module was expected"
    layers = [_Layer(2.0), _Layer(3.0)]
    body = nn.ModuleList(layers)
    fit(answer, body)
    module: Any = answer(body)
    hidden = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4).transpose(0, 1)
    parts = hidden, hidden[:, -1:], hidden.clone().requires_grad_()
    for part in parts:
        fit(module.forward, part, position_ids="here")
        out = module(part, position_ids="here")
        if blank(out):
            raise NotAttempted
        if (fault := _fault(part, out, layers)) is not None:
            return fault
    counted = sum(4 * part.numel() for part in parts)
    for name in ("up", "down"):
        value = whole(getattr(module, name, None))
        if value is None:
            return f"the module has no byte counter .{name}, a whole number"
        if value != counted:
            amount = "few" if value < counted else "many"
            return Wrong(f".{name} counts {value} bytes after three calls, which is too {amount}", 2)
    return None


def _fault(part: Tensor, out: object, layers: list[_Layer]) -> str | Wrong | None:
    """What is wrong with one call of a Remote: `part` went in, `out` came out."""
    if out is None:
        return "your forward returned None; is a `return` missing?"
    if not isinstance(out, Tensor):
        return f"forward must return a tensor, got {type(out).__name__}"
    if out.shape != part.shape:
        return Wrong(f"a hidden tensor of shape {tuple(part.shape)} came back as {tuple(out.shape)}", 1)
    first, last = layers[0].given, layers[-1].gave
    with torch.no_grad():
        expected = (part * layers[0].factor + 1) * layers[1].factor + 1
        if not torch.equal(out, expected):
            return "the values that come back are not those of the layers, run in order"
    if any(layer.seen.get("position_ids") != "here" for layer in layers):
        return Wrong("the keyword arguments did not reach every layer", 2)
    if _same_memory(first, part) or first.requires_grad:
        return Wrong("the layers ran on the tensor that forward was given, not on one made from its bytes", 1)
    if _same_memory(out, last) or out.requires_grad:
        return Wrong("what forward returns is the layers' own tensor, not one made from the bytes that came down", 1)
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
def graft(answer: object) -> str | Wrong | None:
    """graft(model, head, tail, Remote): a copy of the model with one Remote where the body was."""
    model = _toy()
    ids = torch.arange(5, 17)[None]
    with torch.no_grad():
        expected = model(ids).logits
        for head, tail in ((2, 2), (1, 0), (0, 3)):
            made: Any = call(answer, model, head, tail, _Through)
            asked = f"head={head}, tail={tail}"
            if made is model or len(model.model.layers) != LAYERS:
                return Wrong("the original model was changed; another plan could not be tried on it", 1)
            if not isinstance(made, nn.Module) or not hasattr(made, "model"):
                return f"the grafted model was expected, got {type(made).__name__}"
            kinds = [isinstance(layer, _Through) for layer in made.model.layers]
            if kinds.count(True) != 1:
                return Wrong(f"for {asked} the layer list holds {kinds.count(True)} Remotes", 2)
            at = kinds.index(True)
            if at != head or len(kinds) - at - 1 != tail:
                return Wrong(f"for {asked} the Remote has {at} layers before it and {len(kinds) - at - 1} after it", 2)
            if len(made.model.layers[at].layers) != LAYERS - head - tail:
                return Wrong(f"for {asked} the Remote was given {len(made.model.layers[at].layers)} layers", 2)
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
def exact(answer: object) -> str | Wrong | None:
    """exact(left, right): True only when two tensors have the same shape and the same values."""
    left = torch.linspace(-3, 3, 12).reshape(3, 4)
    last = left.clone()
    last[2, 3] = torch.nextafter(last[2, 3], torch.tensor(9.0))
    whole_values = torch.arange(12.0).reshape(3, 4)  # their sum is the same in every order
    cases = (
        (left, left.clone(), True, "two equal tensors were called different", 0),
        (left, last, False, "two tensors that differ in the last bit of one value were called equal", 1),
        (whole_values, whole_values.flip(0), False, "the same values in another order were called equal", 2),
        (torch.ones(1, 4), torch.ones(3, 4), False, "tensors of two shapes were called equal", 2),
        (left, left.reshape(4, 3), False, "tensors with the same bytes but two shapes were called equal", 2),
    )
    for one, other, right, fault, number in cases:
        value: Any = call(answer, one, other)
        if isinstance(value, Tensor) and value.numel() != 1:
            return Wrong(f"one True or False was expected, got a tensor of shape {tuple(value.shape)}", 2)
        if getattr(value, "dtype", type(value)) not in (bool, torch.bool, "bool"):
            return f"True or False was expected, got {type(value).__name__}"
        if bool(value) != right:
            return Wrong(fault, number)
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
def bytes_up(answer: object) -> str | Wrong | None:
    """bytes_up(prompt, new, width, value_bytes): payload bytes up of a whole generation with a cache."""
    for prompt, new, width, size in ((5, 1, 64, 4), (3, 8, 576, 4), (10, 4, 64, 2)):
        value = call(answer, prompt, new, width, size)
        right = (prompt + new - 1) * width * size
        number = whole(value)
        if number is None:
            return f"a whole number was expected, got {type(value).__name__}"
        if number != right:
            asked = f"{prompt} prompt tokens, {new} new, width {width}, {size} bytes a value"
            side, hint = ("fewer", 1) if number < right else ("more", 2)
            return Wrong(f"{side} bytes than cross for {asked}", hint)
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
def recover(answer: object) -> str | Wrong | None:
    """recover(seen [1, T, d], head, vocabulary): the prompt's ids [1, T]; head(ids [B, T]) -> [B, T, d]."""
    model = _toy()

    def head(ids: Tensor) -> Tensor:
        return model(ids, output_hidden_states=True).hidden_states[2]

    ids = torch.tensor([[7, 301, 42, 42, 199, 3]])
    with torch.no_grad():
        found = call(answer, head(ids), head, VOCABULARY)
    if isinstance(found, (list, tuple)):
        with suppress(TypeError, ValueError, RuntimeError):
            found = torch.as_tensor(found)
    if not isinstance(found, Tensor):
        return f"a tensor of token ids was expected, got {type(found).__name__}"
    if found.numel() != ids.numel():
        return Wrong(f"{found.numel()} tokens for {ids.numel()} crossed vectors", 2)
    if found.is_floating_point() or found.is_complex() or found.dtype is torch.bool:
        return f"token ids are whole numbers, got a tensor of {found.dtype}"
    if found.shape != ids.shape:
        return f"one row of ids, shape {tuple(ids.shape)}, was expected, got shape {tuple(found.shape)}"
    hits = int((found == ids).sum())
    return None if hits == ids.numel() else Wrong(f"{hits} of {ids.numel()} tokens are right", 2 if hits else 1)
