"""The cut inside a transformer denoiser: the first k and the last m blocks stay local, every stream crosses both ways.

Cuts count over the concatenated block lists. The body is the same class whose input embedders hand on what came up and
which stops after its last block; its conditioning (time, pooled text, rotary tables) is made from the call's own
arguments. The image itself stays: only its shape reaches the body.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn

from ..errors import UnsupportedModel, UnsupportedOption
from .far import Far
from .graft import twin
from .unet import signature_of


class Layout(NamedTuple):
    """Where a family keeps its blocks, the streams they hand on, the embedders that make them, and what comes last."""

    lists: tuple[str, ...]
    streams: tuple[str, ...]  # in the order in which a block returns them
    embedders: dict[str, str]  # stream -> module
    ends: tuple[str, ...]


_BOTH = ("encoder_hidden_states", "hidden_states")
LAYOUTS = {
    "SD3Transformer2DModel": Layout(
        ("transformer_blocks",), _BOTH,
        {"hidden_states": "pos_embed", "encoder_hidden_states": "context_embedder"}, ("norm_out", "proj_out"),
    ),
    "FluxTransformer2DModel": Layout(
        ("transformer_blocks", "single_transformer_blocks"), _BOTH,
        {"hidden_states": "x_embedder", "encoder_hidden_states": "context_embedder"}, ("norm_out", "proj_out"),
    ),
    "PixArtTransformer2DModel": Layout(
        ("transformer_blocks",), ("hidden_states",),
        {"hidden_states": "pos_embed"}, ("norm_out", "proj_out", "scale_shift_table"),
    ),
}  # fmt: skip
REFUSED = (
    "block_controlnet_hidden_states",
    "controlnet_block_samples",
    "controlnet_single_block_samples",
    "skip_layers",
)


def layout_of(model: Any) -> Layout:
    """The layout of a transformer denoiser; UnsupportedModel for a family whose streams are not known."""
    found = LAYOUTS.get(type(model).__name__)
    if found is None:
        known = ", ".join(sorted(LAYOUTS))
        raise UnsupportedModel(f"What crosses between the blocks of {type(model).__name__} is not known ({known} are).")
    return found


def count_blocks(model: Any) -> int:
    """How many blocks there are in all lists."""
    return sum(len(getattr(model, name)) for name in layout_of(model).lists)


class Middle(nn.Module):
    """Stands for the body's blocks in the list: sends every stream away and returns what comes back."""

    def __init__(self, far: Far, layout: Layout, ends_text: bool) -> None:
        super().__init__()
        self.far, self.layout, self.ends_text = far, layout, ends_text
        self.call: dict[str, Any] = {}

    def forward(self, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **kwargs: object) -> object:
        """All streams after the body; None for one that the body's last block ends."""
        given = {"hidden_states": hidden_states, "encoder_hidden_states": encoder_hidden_states}
        streams = {name: given[name] for name in self.layout.streams}
        how = {f"streams.{name}": ["up"] for name in streams} | {f"call.{name}": ["zero"] for name in streams}
        wanted = [tuple(streams[n].shape) for n in streams if not (self.ends_text and n == "encoder_hidden_states")]
        out = self.far.ask(lambda fresh: (0, {"call": self.call, "streams": streams}, how), hidden_states.dtype, wanted)
        if len(self.layout.streams) == 1:
            return out[0]
        return (None, out[0]) if len(out) == 1 else tuple(out)


def local_dit(model: Any, start: int, stop: int, far: Far) -> Any:
    """A structural copy whose blocks [start, stop) are far away; it shares every tensor with `model`."""
    layout, grafted = layout_of(model), twin(model)
    blocks = [block for name in layout.lists for block in getattr(grafted, name)]
    middle = Middle(far, layout, getattr(blocks[stop - 1], "context_pre_only", False))
    at, placed = 0, False
    for name in layout.lists:
        part = list(getattr(grafted, name))
        kept: list[nn.Module] = []
        for number, block in enumerate(part, at):
            if start <= number < stop:
                kept += [] if placed else [middle]
                placed = True
            else:
                kept.append(block)
        setattr(grafted, name, nn.ModuleList(kept))
        at += len(part)
    names = signature_of(model)

    def note(module: nn.Module, args: tuple, kwargs: dict) -> None:
        call = {**dict(zip(names, args, strict=False)), **kwargs}
        for name in REFUSED:
            if call.get(name) is not None:
                raise UnsupportedOption(f"{name} counts blocks that are elsewhere; use at='denoiser'.")
        middle.call = {n: v for n, v in call.items() if v is not None and n != "return_dict"}

    grafted.register_forward_pre_hook(note, with_kwargs=True)
    return grafted.eval()


class HandsOn(nn.Module):
    """An embedder of the body: gives the stream that came up, whatever it is asked to embed."""

    received: Tensor | None = None

    def forward(self, *args: object, **kwargs: object) -> Tensor | None:
        """The stream that came up."""
        return self.received


class _Done(Exception):
    def __init__(self, out: object) -> None:
        super().__init__()
        self.out = out


def _stop(module: nn.Module, args: object, out: object) -> None:
    raise _Done(out)


def body_dit(
    model: Any, start: int, stop: int
) -> tuple[nn.Module, Callable[[dict[str, Any], dict[str, Tensor]], list[Tensor]]]:
    """(module, run) of blocks [start, stop): the same class without its ends."""
    layout, body = layout_of(model), twin(model)
    at = 0
    last: Any = None
    for name in layout.lists:
        blocks = list(getattr(body, name))
        kept = blocks[max(start - at, 0) : max(stop - at, 0)]
        last = kept[-1] if kept else last
        setattr(body, name, nn.ModuleList(kept))
        at += len(blocks)
    entries = {stream: HandsOn() for stream in layout.embedders}
    for stream, name in layout.embedders.items():
        setattr(body, name, entries[stream])
    for name in layout.ends:
        setattr(body, name, None)
    last.register_forward_hook(_stop)
    body.eval()

    def run(call: dict[str, Any], streams: dict[str, Tensor]) -> list[Tensor]:
        for stream, entry in entries.items():
            entry.received = streams.get(stream)
        try:
            body(**call, return_dict=False)
        except _Done as done:
            out = done.out if isinstance(done.out, tuple) else (done.out,)
            return [tensor for tensor in out if tensor is not None]
        finally:
            for entry in entries.values():
                entry.received = None
        raise AssertionError("unreachable")

    return body, run
