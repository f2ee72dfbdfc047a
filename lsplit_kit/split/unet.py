"""The cut inside a U-Net: conv_in and the first k down blocks, the last k up blocks and conv_out stay local.

The skips of local blocks never leave: the last head block gives its down-sampled output to the body alone, which starts
its own list of skips with it. The up-sampler of the last body block stays local, at the local skip's size: what comes
down is four times smaller, and odd sizes are right.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

from ..errors import PlanError, UnsupportedModel, UnsupportedOption
from .far import Far
from .graft import twin

REFUSED = ("down_block_additional_residuals", "mid_block_additional_residual", "down_intrablock_additional_residuals")


def depth_of(unet: Any) -> int:
    """How many down blocks a U-Net has; UnsupportedModel for one that cannot be cut between them."""
    for name in ("center_input_sample", "addition_embed_type"):
        if unet.config.get(name) in (True, "image_hint"):
            raise UnsupportedModel(f"This U-Net works on its input before conv_in ({name}); cut it at the denoiser.")
    if unet.mid_block is None or len(unet.down_blocks) != len(unet.up_blocks):
        raise UnsupportedModel("This U-Net has no middle between as many up as down blocks; cut it at the denoiser.")
    return len(unet.down_blocks)


def check_blocks(head: int, tail: int, depth: int) -> int:
    """k, when head and tail are one k that leaves the body a down and an up block; PlanError otherwise."""
    if head != tail:
        raise PlanError(
            f"head={head} and tail={tail}: every skip of a U-Net ends on the side where it began; make them equal."
        )
    if not head < depth:
        raise PlanError(f"head={head} leaves no body: this U-Net has {depth} down blocks; take at most {depth - 1}.")
    return head


class Middle(nn.Module):
    """The local side's mid_block: sends the hidden tensor [B, C, h, w] away, up-samples what comes back."""

    has_cross_attention = True

    def __init__(self, far: Far, upsampler: nn.Module | None, channels: int, larger: bool) -> None:
        """`larger`: an up-sampler that stayed with the body makes its output as large as the last local skip."""
        super().__init__()
        self.far, self.upsampler, self.channels, self.larger = far, upsampler, channels, larger
        self.call: dict[str, Any] = {}
        self.size: torch.Size | None = None

    def forward(self, hidden_states: Tensor, *args: object, **kwargs: object) -> Tensor:
        """The body's output at the size of the last local skip."""
        tree = {"call": {**self.call, "sample": hidden_states}}
        batch, _, *size = hidden_states.shape
        wanted = (batch, self.channels, *(self.size if self.larger and self.size is not None else size))
        out = self.far.ask(lambda fresh: (0, tree, {"call.sample": ["up"]}), hidden_states.dtype, [wanted])[0]
        return out if self.upsampler is None else self.upsampler(out, self.size)


class LastHead(nn.Module):
    """The last local down block: its down-sampled output goes to the body, not to the local skips."""

    def __init__(self, block: nn.Module, middle: Middle) -> None:
        super().__init__()
        self.block, self.middle = block, [middle]
        self.has_cross_attention = getattr(block, "has_cross_attention", False)

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
        """As the block's, one skip less."""
        hidden, skips = self.block(*args, **kwargs)
        self.middle[0].size = skips[-2].shape[-2:]
        return hidden, skips[:-1]


def local_unet(unet: Any, k: int, far: Far) -> Any:
    """A structural copy whose middle is far away; it shares every tensor with `unet`, which is left as it was."""
    depth, grafted = depth_of(unet), twin(unet)
    up = grafted.up_blocks[depth - k - 1]
    stays = sized_upsampler(up)
    channels = unet.config.block_out_channels[k]
    middle = Middle(far, up.upsamplers[0] if stays else None, channels, larger=k > 0 and not stays)
    grafted.mid_block = middle
    grafted.down_blocks = nn.ModuleList(grafted.down_blocks[:k])
    if k:
        grafted.down_blocks[-1] = LastHead(grafted.down_blocks[-1], middle)
    grafted.up_blocks = nn.ModuleList(grafted.up_blocks[depth - k :])
    grafted.num_upsamplers = k
    names = signature_of(unet)

    def note(module: nn.Module, args: tuple, kwargs: dict) -> None:
        call = {**dict(zip(names, args, strict=False)), **kwargs}
        for name in REFUSED:
            if call.get(name) is not None:
                raise UnsupportedOption(
                    f"{name} (ControlNet, T2I-Adapter) does not reach a cut inside; use at='denoiser'."
                )
        middle.call = {n: v for n, v in call.items() if v is not None and n not in ("sample", "return_dict")}

    grafted.register_forward_pre_hook(note, with_kwargs=True)
    return grafted.eval()


def body_unet(unet: Any, k: int) -> tuple[nn.Module, Callable[[dict[str, Any], dict[str, Tensor]], list[Tensor]]]:
    """(module, run) of the middle: the same class with its ends neutral and the local blocks gone."""
    depth, body = depth_of(unet), twin(unet)
    body.conv_in = body.conv_out = nn.Identity()
    body.conv_norm_out = body.conv_act = None
    body.down_blocks = nn.ModuleList(body.down_blocks[k:])
    body.up_blocks = nn.ModuleList(body.up_blocks[: depth - k])
    if sized_upsampler(body.up_blocks[-1]):
        body.up_blocks[-1].upsamplers = None
    body.num_upsamplers = depth - k - 1
    body.eval()
    return body, lambda call, streams: [body(**call, return_dict=False)[0]]


def sized_upsampler(block: Any) -> bool:
    """Whether an up block ends in an up-sampler that can be told a size; others (DeepFloyd's) stay with their block."""
    return block.upsamplers is not None and isinstance(block.upsamplers[0], Upsample2D)


def signature_of(denoiser: Any) -> list[str]:
    """Names of the arguments of a denoiser's forward, in order."""
    import inspect

    return [
        name for name in inspect.signature(type(denoiser).forward).parameters if name not in ("self", "return_dict")
    ]
