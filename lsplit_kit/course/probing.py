"""What chapter 07 trains its probes on: text of the attacker's own, random tokens, and hidden vectors of both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..attacks.recorded import recorded
from ..data.captures import named
from ..split.graft import head_side

ROW, AT_ONCE = 64, 16  # tokens of a row; rows in one pass


def rows_of(tokenizer: Any, passages: Sequence[str], most: int = 8) -> tuple[Tensor, Tensor]:
    """Token ids [N, 64] of passages, at most `most` rows of each, and the number [N] of the passage a row is from."""
    rows, document = [], []
    for number, passage in enumerate(passages):
        ids = tokenizer(passage, return_tensors="pt", verbose=False)["input_ids"][0]
        whole = ids[: len(ids) // ROW * ROW].view(-1, ROW)[:most]
        rows.append(whole)
        document.append(torch.full((len(whole),), number))
    return torch.cat(rows), torch.cat(document)


def random_rows(vocabulary: int, seed: int = 0) -> Tensor:
    """Token ids [N, 64] in which each token below `vocabulary` stands at least once behind the first place."""
    draw, count = torch.Generator().manual_seed(seed), -(-vocabulary // (ROW - 1))
    order = torch.randperm(vocabulary, generator=draw)
    order = torch.cat([order, order[: count * (ROW - 1) - vocabulary]]).view(count, ROW - 1)
    return torch.cat([torch.randint(vocabulary, (count, 1), generator=draw), order], dim=1)


@torch.inference_mode()
def hidden(model: Any, ids: Tensor, depths: Sequence[int]) -> dict[int, Tensor]:
    """Hidden vectors [N, T, d] of ids [N, T] behind each number of layers; run in bfloat16, which is fast, kept in
    float32."""
    head = head_side(model, max(depths)).to(torch.bfloat16)
    found: dict[int, list[Tensor]] = {depth: [] for depth in depths}
    for part in ids.split(AT_ONCE):
        states = head(part, use_cache=False, output_hidden_states=True).hidden_states
        for depth in depths:
            found[depth].append(states[depth].float())
    return {depth: torch.cat(parts) for depth, parts in found.items()}


def recorded_vectors(depth: int, codec: str = "int8:token") -> Tensor:
    """What went up in a recording of SmolLM2 cut behind `depth` layers, [n, d], in the order of its reports' rows."""
    capture = recorded(named("smollm2", depth, codec)).capture
    assert capture is not None, "only its reports are shipped"
    return torch.cat([conversation.up.vectors for conversation in capture.view("eavesdrop_up").conversations()])
