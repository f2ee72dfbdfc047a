"""How far a split language model is from the unsplit one, on text that both read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import UnsupportedOption
from ..progress import progress as bar

if TYPE_CHECKING:
    import pandas as pd

WINDOW = 512  # tokens that are read at once
COLUMNS = ["tokens", "perplexity", "ratio", "kl", "top1"]


def text_quality(
    models: Mapping[str, Any],
    reference: Any,
    ids: Tensor | Sequence[Tensor],
    window: int = WINDOW,
    progress: bool = False,
    after: int = 0,
) -> pd.DataFrame:
    """One row per model: tokens, perplexity, its ratio to the reference's, kl (nats a token), top1 (share that agrees).

    ids: token ids [T]; they are read in windows of `window` tokens, each on its own, and every token but a window's
    first is predicted; or a list of such windows. after: tokens at the start of each that are read, not judged, such as
    a chat template's own message. kl is the mean of KL(reference || model); top1 the share of positions where both have
    the same most likely token. Raises UnsupportedOption for fewer than two tokens.
    """
    import pandas as pd

    if not isinstance(models, Mapping):
        raise UnsupportedOption(
            "Give the models by name, for example {'int8': lm}, then their reference and token ids."
        )
    pieces = list(ids) if isinstance(ids, (list, tuple)) else None
    if pieces is not None:
        if not pieces or not all(isinstance(p, Tensor) and p.dim() == 1 and len(p) > after + 1 for p in pieces):
            raise UnsupportedOption(
                "A list of windows holds token ids [T], each with a token to predict after the first."
            )
    elif not isinstance(ids, Tensor):
        raise UnsupportedOption(f"ids are a tensor of token ids [T] (see token_ids), got {type(ids).__name__}.")
    elif ids.dim() != 1 or len(ids) < 2 or window < 2:
        raise UnsupportedOption(f"ids are two or more token ids in a row, got the shape {tuple(ids.shape)}.")
    pieces = pieces or list(torch.as_tensor(ids).split(window))  # type: ignore[arg-type]
    sums = {name: torch.zeros(4, dtype=torch.float64) for name in models}
    own = torch.zeros(1, dtype=torch.float64)
    for part in bar(pieces, "windows", least=1 if progress else len(pieces) + 1):
        if len(part) < 2 + after:
            continue
        truth = _predictions(reference, part)[after:]
        judged = part[after:]
        own += _loss(truth, judged)
        for name, model in models.items():
            found = _predictions(model, part)[after:]
            apart = (truth.exp() * (truth - found)).sum(-1).sum(dtype=torch.float64)
            agree = (truth.argmax(-1) == found.argmax(-1)).sum()
            sums[name] += torch.stack([torch.tensor(len(judged) - 1.0), _loss(found, judged), apart, agree]).double()
    rows = {}
    for name, (count, loss, apart, agree) in ((n, s.tolist()) for n, s in sums.items()):
        perplexity = float(torch.tensor(loss / count).exp())
        ratio = float(torch.tensor((loss - float(own)) / count).exp())
        rows[name] = [int(count), perplexity, ratio, apart / count, agree / count]
    return pd.DataFrame.from_dict(rows, orient="index", columns=COLUMNS).rename_axis("model")


def greedy_agreement(model: Any, reference: Any, prompts: Iterable[Tensor], new_tokens: int = 64) -> list[int]:
    """For each prompt [1, T]: how many greedy tokens are the reference's before the first that is not."""
    options = dict(max_new_tokens=new_tokens, min_new_tokens=new_tokens, do_sample=False)
    found = []
    for ids in prompts:
        ours, theirs = (m.generate(ids, **options)[0, ids.shape[1] :] for m in (model, reference))
        other = (ours != theirs).nonzero()
        found.append(int(other[0]) if len(other) else len(theirs))
    return found


@lru_cache(maxsize=1)
def python_text() -> str:
    """About 465 kB of technical English that every Python carries: the help topics of `pydoc_data` (PSF licence)."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics))


def token_ids(tokenizer: Any, texts: str | Sequence[str], most: int) -> Tensor:
    """The first `most` token ids [T] of a text, or of several one after the other."""
    joined = texts if isinstance(texts, str) else "\n\n".join(texts)
    return tokenizer(joined[: 12 * most], return_tensors="pt").input_ids[0, :most]


@torch.no_grad()
def _predictions(model: Any, ids: Tensor) -> Tensor:
    """Log-probabilities [T - 1, V] of every next token."""
    return model(ids[None]).logits[0, :-1].float().log_softmax(-1)


def _loss(predictions: Tensor, ids: Tensor) -> Tensor:
    return -predictions.gather(1, ids[1:, None]).sum(dtype=torch.float64)
