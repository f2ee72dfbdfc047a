"""What a cache policy makes the host compute: FLOPs of the body, those of the first time and those done again.

Counted as in appendix F of arXiv 2203.15556 (Hoffmann et al. 2022), a multiplication and an addition being two FLOPs:
2 per weight and position, and 4 per channel of attention and position that is looked at, 2 for queries times keys and 2
for the sum of the values. A position looks at itself and those before it; a kernel that also computes the half that a
causal mask throws away needs up to twice the second term. Norms, softmax and rotations are left out; windows are not
regarded. `SplitPlan.table` counts its FLOPs per token in the same way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .traffic import _check

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class BodySize(NamedTuple):
    """What the FLOPs of a body depend on: weights of its matrices, and channels of attention summed over its layers."""

    weights: int
    attention: int


class Flops(NamedTuple):
    """FLOPs of a body in a whole reply: of every position's first pass, and of passes over what it had seen before."""

    first: int
    again: int

    @property
    def total(self) -> int:
        """Both together."""
        return self.first + self.again


def body_size(model: PreTrainedModel, head: int = 2, tail: int = 2) -> BodySize:
    """The body of this plan; raises PlanError and UnsupportedModel."""
    from ..split.costs import layer_flops
    from ..split.graft import decoder_of
    from ..split.plan import SplitPlan

    base, name = decoder_of(model)
    layers = list(getattr(base, name))
    start, stop = SplitPlan(head, tail).cut(len(layers))
    weights, seen = (sum(layer_flops(layer, model, at) for layer in layers[start:stop]) for at in (0, 1))
    return BodySize(weights // 2, (seen - weights) // 4)


def pass_flops(size: BodySize, start: int, positions: int) -> int:
    """FLOPs of one pass over `positions` positions, of which `start` others come first and are remembered.

    2 W T + 4 A (start T + T (T + 1) / 2).
    """
    looked_at = start * positions + positions * (positions + 1) // 2
    return 2 * size.weights * positions + 4 * size.attention * looked_at


def body_flops(policy: str, prompt: int, new: int, size: BodySize) -> Flops:
    """FLOPs of the body in a whole reply of `new` tokens; raises UnsupportedOption.

    `kv` passes over every position once. `none` and `hidden` pass over all P + i - 1 positions in step i: what the host
    remembers under `hidden` saves vectors on the wire, not work.
    """
    _check(policy, prompt, new)
    first = pass_flops(size, 0, prompt + new - 1)
    if policy == "kv":
        return Flops(first, 0)
    return Flops(first, sum(pass_flops(size, 0, prompt + i) for i in range(new)) - first)
