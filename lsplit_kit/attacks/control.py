"""Lengths and stopping points from sizes and times of frames alone: what a tunnel around the link still shows."""

from __future__ import annotations

from statistics import median, mode
from typing import TYPE_CHECKING, NamedTuple

from ..errors import CaptureError, UnsupportedOption
from ..quantization import codec
from ..wire.capture import Capture
from ..wire.view import View

if TYPE_CHECKING:
    import pandas as pd


class Exchange(NamedTuple):
    """A prompt and its reply as frames show them; seconds: to the first token, and a later one's median, if timed."""

    prompt_tokens: int
    reply_tokens: int
    first_seconds: float
    token_seconds: float


def lengths(view: View) -> list[Exchange]:
    """Prompt and reply lengths of every exchange in a view, from sizes (and times) of frames that go up, nothing else.

    Frames with one vector are the most common ones; a larger one is a prompt, a smaller one opens or closes a session.
    A reply has one token more than it has such frames: the last one never goes up. Exact where vectors all have one
    size, a cache lets each step send its new tokens only, and every text is a row of its own without drafts: several
    rows or beams count as one long text, drafts as prompts. A prompt of one token is taken for a piece of the reply
    before it. Raises UnsupportedOption without a cache (every step sends the whole text again), where nothing was
    framed (a body in this very process) or the observer does not see what goes up.
    """
    view.check("up")
    if view.manifest.get("policy") == "none":
        raise UnsupportedOption(
            "Without a cache every step sends the whole text, so no frame is a new token; record with cache='kv' or "
            "cache='hidden'."
        )
    frames = [(c.frame, view.clock[i] if view.clock else float("nan"))
              for i, c in enumerate(view.crossings) if c.direction == "up" and c.frame]  # fmt: skip
    if not frames:
        raise UnsupportedOption("Nothing was framed; record over body='loopback' or a host.")
    one, vector = sizes(view, [size for size, _ in frames])
    steps = [(1 + round((size - one) / vector), when) for size, when in frames if size > one - vector / 2]
    starts = [i for i, (tokens, _) in enumerate(steps) if tokens > 1]
    # sizes that vary let the frame that opens a session pass for a vector: it is the one before each prompt
    opened = {i - 1 for i in starts} if not codec(view.manifest["up"]).fixed else set()
    found = []
    for start, stop in zip(starts, [*starts[1:], len(steps)], strict=True):
        found.append(_exchange([steps[i] for i in range(start, stop) if i not in opened]))
    return found


def sizes(view: View, frames: list[int]) -> tuple[float, float]:
    """(bytes of a frame with one vector, bytes that one more vector adds), as far as an observer of sizes can tell."""
    wire = codec(view.manifest["up"])
    if wire.fixed:
        one, two = (wire.payload_bytes((1, n, view.manifest["width"])) for n in (1, 2))
        return mode(size for size in frames if size >= one), two - one
    # sizes differ from vector to vector: those of single ones, without the few numbers that every frame has
    typical = median(size for size in frames if size > median(frames) / 2)
    return typical, typical - min(frames)


def _exchange(steps: list[tuple[int, float]]) -> Exchange:
    times = [when for _, when in steps]
    gaps = [b - a for a, b in zip(times, times[1:], strict=False)]
    nan = float("nan")
    return Exchange(steps[0][0], len(steps), gaps[0] if gaps else nan, median(gaps[1:]) if gaps[1:] else nan)


def length_report(found: list[Exchange], capture: Capture) -> pd.DataFrame:
    """One row per exchange: lengths that were read, the true ones, and whether they agree; opens the truth."""
    import pandas as pd

    if capture.sealed is None:
        raise CaptureError("This capture has no truth to compare with; make one with attacks.record().")
    truth = capture.sealed.open()
    texts = pd.DataFrame({name: truth[name].numpy() for name in ("reply", "length")})
    if "prompt" in truth:  # several rows of a prompt, such as beams, are steps of one session
        texts = texts.groupby(truth["prompt"].numpy()).max()
    if len(found) != len(texts):
        raise CaptureError(f"The truth holds {len(texts)} texts, the reconstruction {len(found)}.")
    table = pd.DataFrame(found)
    table["true_prompt"] = texts.reply.to_numpy()
    table["true_reply"] = (texts.length - texts.reply).to_numpy()
    table["right"] = (table.prompt_tokens == table.true_prompt) & (table.reply_tokens == table.true_reply)
    return table
