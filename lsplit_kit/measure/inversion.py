"""From an attack's report to bits: what its beliefs say of the true tokens, and what a guess without the wire says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..attacks.report import Report
from ..errors import UnsupportedOption
from .leakage import Leak, leak_bits, matched_log_prob

if TYPE_CHECKING:
    import pandas as pd


def leak_of(report: Report, prior: Report) -> Leak:
    """Bits per token that an attack reads, H0 minus cross-entropy, over the tokens that count.

    prior: the report of an attack that looks at no vector (`PriorOnly`), on the same capture. An attack that only says
    tokens is believed, in each conversation, as often as it is right in the others. Raises UnsupportedOption.
    """
    ours, theirs = report.counted, prior.counted
    if len(ours) != len(theirs) or (ours.truth.to_numpy() != theirs.truth.to_numpy()).any():
        raise UnsupportedOption("Both reports must be of the same capture.")
    before = theirs.log_prob.to_numpy()
    own = ours.log_prob.to_numpy(copy=True)
    if np.isnan(own).any():
        right, talk = ours.right.to_numpy(), ours.conversation.to_numpy()
        for number in np.unique(talk):
            here, others = talk == number, right[talk != number]
            others = others if others.size else np.array([True, False])  # nothing is known of how often it is right
            own[here] = matched_log_prob(right[here], before[here], calibration=others)
    return leak_bits(own, before, ours.conversation.to_numpy())


@torch.inference_mode()
def language_prior(model: Any, report: Report) -> pd.DataFrame:
    """The report's counted tokens with `expected`: log probability of each by a model that read the text before it.

    It is what a reader of the text so far would guess: the second H0, lower than that of single words.
    """
    rows = []
    for _, talk in report.tokens.groupby("conversation"):
        ids = torch.tensor(talk.truth.to_numpy())
        if talk.position.tolist() != list(range(len(ids))):
            raise UnsupportedOption("The report must know every position of a text, from 0 on.")
        log_probs = model(ids[None], use_cache=False).logits[0].float().log_softmax(-1)
        expected = log_probs[:-1].gather(-1, ids[1:, None])[:, 0].numpy()
        rows.append(talk.assign(expected=np.concatenate([[np.nan], expected])))
    import pandas as pd

    found = pd.concat(rows)
    return found[found.kind.isin(("prompt", "reply"))]


def ladder(reports: Sequence[Report], prior: Report) -> pd.DataFrame:
    """One row per attack: accuracy, ten best, whole prompts, bits per token with interval, and cost."""
    import pandas as pd

    rows = []
    for report in reports:
        leak = leak_of(report, prior)
        rows.append({**report.row(), "bits": leak.bits, "low": leak.interval[0], "high": leak.interval[1],
                     "h0": leak.h0, "share": leak.share})  # fmt: skip
    return pd.DataFrame(rows)


def recorded_ladder() -> pd.DataFrame:
    """One row per attack and recording that the kit ships: depth, codec, prompts, and the figures of `ladder`."""
    import pandas as pd

    from ..attacks.recorded import recorded
    from ..attacks.threats import LADDER
    from ..data.captures import captures

    tables = []
    for found in map(recorded, (recording.name for recording in captures())):
        table = ladder([found.report(attack) for attack in LADDER], found.prior)
        table.insert(0, "depth", found.depth)
        table.insert(1, "codec", found.codec)
        tables.append(table.assign(prompts=found.prior.tokens.conversation.nunique()))
    return pd.concat(tables, ignore_index=True)
