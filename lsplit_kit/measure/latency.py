"""A latency model: a few measured steps give the cost of every part; arithmetic gives the rest.

A part's cost for a step of n positions after p others is a + b n + c n (p + (n + 1) / 2): a constant, the weights, and
what attention reads. Frames are a + b n bytes. Over a network a step then takes local computing, the way up, the host,
and the way down, after another (arXiv 2310.14651, experiment 1, measures the same sum on three real deployments).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..card import Card
from ..errors import UnsupportedOption
from ..wire.network import PACKET, RETRANSMIT, Network
from ..wire.network import network as network_of
from .stopwatch import HOST, LOCAL, Stopwatch

if TYPE_CHECKING:
    import pandas as pd

TOKEN_FRAMES = (34, 26)  # bytes of a frame that asks for a token, and of one that brings it
CONTROL = 40  # bytes of a frame that opens or closes a session, about


def features(tokens: np.ndarray, past: np.ndarray) -> np.ndarray:
    """What a step's cost is made of, [steps, 4]: constant, positions, attention, and whether it is the first."""
    n, p = np.asarray(tokens, float), np.asarray(past, float)
    return np.stack([np.ones_like(n), n, n * (p + (n + 1) / 2), (p == 0).astype(float)], axis=1)


@dataclass(frozen=True, repr=False)
class LatencyModel(Card):
    """Coefficients [4] of every part (seconds) and of both frames (bytes); `end`: local seconds after the last step.

    `sessions`: round trips that open a session and close the one before it. width: values in a vector; payload: bytes
    of one, up and down, with the codec that was measured; recorded: where and when.
    """

    name: str
    parts: dict[str, np.ndarray]
    frames: dict[str, np.ndarray]
    end: float
    sessions: float
    width: int = 0
    payload: tuple[int, int] = (0, 0)
    recorded: str = ""

    def save(self, path: str | Path) -> None:
        """Write the model as JSON."""
        Path(path).write_text(json.dumps(asdict(self), indent=1, default=np.ndarray.tolist) + "\n", "utf-8")

    @classmethod
    def load(cls, path: str | Path) -> LatencyModel:
        """Read what `save` wrote; raises UnsupportedOption when the file holds something else."""
        try:
            found = json.loads(Path(path).read_text("utf-8"))
            for name in ("parts", "frames"):
                found[name] = {part: np.array(numbers, float) for part, numbers in found[name].items()}
                if any(numbers.shape != (4,) for numbers in found[name].values()):
                    raise ValueError("four coefficients a part")
            model = cls(**{**found, "payload": tuple(found["payload"])})
            model.steps(1, 1)
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            raise UnsupportedOption(f"{path} holds no latency model; save one with LatencyModel.save().") from error
        return model

    def coded(self, up: int, down: int) -> LatencyModel:
        """The same with so many payload bytes a vector up and down; the codec's own time stays as it was measured."""
        if min(self.payload) <= 0 or min(up, down) <= 0:
            raise UnsupportedOption("Payloads are bytes above 0, of this latency model and of the codec.")
        frames = {}
        for way, old, new in zip(WAYS, self.payload, (up, down), strict=True):
            header = np.array([self.frames[way][:2].sum() - old, 0, 0, 0])
            frames[way] = (self.frames[way] - header) * new / old + header
        return replace(self, frames=frames, payload=(up, down))

    def steps(
        self,
        prompt: int,
        new_tokens: int,
        network: str | Network | None = None,
        local_speed: float = 1.0,
        host_speed: float = 1.0,
    ) -> pd.DataFrame:
        """One row per step with its parts in seconds; a picture's steps are `new_tokens` with a prompt of 1."""
        import pandas as pd

        for what, value in (("prompt", prompt), ("new_tokens", new_tokens)):
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
                raise UnsupportedOption(f"{what} takes a whole number above 0, got {value!r}.")
        if not (local_speed > 0 and host_speed > 0):
            raise UnsupportedOption("Speeds are numbers above 0.")
        net = network_of(network)
        tokens = np.array([prompt, *[1] * (new_tokens - 1)])
        past = np.array([0, *range(prompt, prompt + new_tokens - 1)])
        x = features(tokens, past)
        found = {"tokens": tokens, "past": past}
        found |= {name: x @ self.parts[name] / local_speed for name in LOCAL}
        found |= {name: x @ self.parts[name] / host_speed for name in HOST}
        for way in ("up", "down"):
            found[f"frame_{way}"] = np.rint(x @ self.frames[way]).astype(int)
            found[way] = carried(net, way, found[f"frame_{way}"])
        return pd.DataFrame(found).rename_axis("step")

    def split(self, prompt: int, new_tokens: int, network: str | Network | None = None, **speeds: float) -> Times:
        """What a reply of `new_tokens` takes when the body is elsewhere."""
        table = self.steps(prompt, new_tokens, network, **speeds)
        each = table[[*LOCAL, *HOST, "up", "down"]].sum(axis=1).to_numpy()
        begin = self.sessions * sum(float(carried(network_of(network), w, np.array([CONTROL]))[0]) for w in WAYS)
        return Times("split", begin + each[0], each[1:], self.end / speeds.get("local_speed", 1.0))

    def local(self, prompt: int, new_tokens: int, *, local_speed: float = 1.0) -> Times:
        """What it takes when the whole model runs on the learner's machine."""
        return self._whole("local", prompt, new_tokens, local_speed)

    def cloud(
        self, prompt: int, new_tokens: int, network: str | Network | None = None, *, host_speed: float = 1.0
    ) -> Times:
        """What it takes when the whole model runs at the host: token ids up, tokens down as they are made."""
        net, alone = network_of(network), self._whole("cloud", prompt, new_tokens, host_speed)
        up = float(carried(net, "up", np.array([TOKEN_FRAMES[0] + 4 * prompt]))[0])
        down = float(carried(net, "down", np.array([TOKEN_FRAMES[1]]))[0])
        wire = TOKEN_FRAMES[1] * 8e-6 / net.down_mbps if net.down_mbps else 0.0
        return Times("cloud", alone.first + up + down, np.maximum(alone.each, wire), alone.end)

    def deployments(
        self,
        prompt: int,
        new_tokens: int,
        network: str | Network | None = None,
        local_speed: float = 1.0,
        host_speed: float = 1.0,
    ) -> pd.DataFrame:
        """local, cloud and split side by side: seconds to the first token, for each token after it, and in all."""
        import pandas as pd

        three = (
            self.local(prompt, new_tokens, local_speed=local_speed),
            self.cloud(prompt, new_tokens, network, host_speed=host_speed),
            self.split(prompt, new_tokens, network, local_speed=local_speed, host_speed=host_speed),
        )
        rows = [{"deployment": t.name, "first": t.first, "per_token": t.per_token, "total": t.total} for t in three]
        return pd.DataFrame(rows).set_index("deployment")

    def _whole(self, name: str, prompt: int, new_tokens: int, speed: float) -> Times:
        table = self.steps(prompt, new_tokens, None, speed, speed)
        each = table[["loop", "head", "body", "tail"]].sum(axis=1).to_numpy()
        return Times(name, each[0], each[1:], self.end / speed)

    def _card(self) -> tuple[str, dict[str, object]]:
        one = self.steps(1, 2).iloc[1]
        return f"Latency model: {self.name}", {
            "local, a later step": f"{1000 * one[list(LOCAL)].sum():.2f} ms",
            "host, a later step": f"{1000 * one[list(HOST)].sum():.2f} ms",
            "frames, a later step": f"{one.frame_up:.0f} bytes up, {one.frame_down:.0f} down",
            **({"recorded": self.recorded} if self.recorded else {}),
        }


@dataclass(frozen=True)
class Times:
    """Seconds to the first token, for each later one, and after the last."""

    name: str
    first: float
    each: np.ndarray
    end: float

    @property
    def per_token(self) -> float:
        """Median seconds for each token after the first; 0 where there is none."""
        return float(np.median(self.each)) if len(self.each) else 0.0

    @property
    def total(self) -> float:
        """Seconds in all."""
        return float(self.first + self.each.sum() + self.end)


WAYS = ("up", "down")


def carried(net: Network, way: str, sizes: np.ndarray) -> np.ndarray:
    """Expected seconds for frames of these bytes, each on an empty line."""
    rate = net.up_mbps if way == "up" else net.down_mbps
    seconds = net.rtt_ms / 2000 + net.jitter_ms / 1000 + (sizes * 8e-6 / rate if rate else 0.0 * sizes)
    if net.loss:
        lost, wait = 1 - (1 - net.loss) ** np.maximum(1, np.ceil(sizes / PACKET)), RETRANSMIT + net.rtt_ms / 1000
        seconds = seconds + lost * wait / (1 - 2 * net.loss) if net.loss < 0.5 else seconds + np.inf
    return seconds


def fit(name: str, tables: Sequence[pd.DataFrame], network: Network) -> LatencyModel:
    """The model of some timed runs (Stopwatch tables); each part by non-negative least squares of relative errors.

    Runs with the same steps are taken together by their medians: a machine that does other things is late, never early.
    """
    import pandas as pd
    from scipy.optimize import nnls

    steps = pd.concat(tables)
    median = steps.groupby(["tokens", "past"]).median().reset_index()
    x = features(median["tokens"], median["past"])
    if len(np.unique(median["tokens"])) == 1:
        x[:, 1:3] = 0.0  # a picture: all steps are alike but the first

    def solve(y: np.ndarray) -> np.ndarray:
        scale = 1 / np.maximum(y, max(float(np.median(y)), 1e-9) * 0.1)
        return nnls(x * scale[:, None], y * scale)[0]

    parts = {part: solve(median[part].to_numpy()) for part in (*LOCAL, *HOST)}
    frames = {way: solve(median[f"frame_{way}"].to_numpy(float)) for way in WAYS}
    trip = sum(float(carried(network, way, np.array([CONTROL]))[0]) for way in WAYS)
    sessions = float(np.median([t.attrs["control"] for t in tables])) / trip if trip else 0.0
    return LatencyModel(name, parts, frames, float(np.median([t.attrs["end"] for t in tables])), round(sessions))


def timed_reply(
    lm: Any, prompt: Any, new_tokens: int, local_speed: float = 1.0, host_speed: float = 1.0, streamer: Any = None
) -> Stopwatch:
    """A greedy reply of exactly `new_tokens` to token ids [1, P], under the stopwatch."""
    fixed = dict(max_new_tokens=new_tokens, min_new_tokens=new_tokens, do_sample=False, pad_token_id=0)
    with Stopwatch(lm, local_speed, host_speed) as watch:
        lm.generate(prompt, streamer=streamer, **fixed)
    return watch


def latency_model(
    model: Any,
    prompts: Sequence[int] = (8, 32, 128),
    new_tokens: int = 8,
    repeats: int = 3,
    report: Callable[[int, int], object] = lambda done, of: None,
) -> LatencyModel:
    """Measure a few steps of a split model or pipeline (split with network=) and fit its latency model.

    prompts: lengths in tokens; pictures: runs of `new_tokens` steps. Takes seconds for small models. report: called
    before each round with how many are done, and of how many.
    """  # fmt: skip
    runs = []
    for done in range(repeats + 1):
        report(done, repeats + 1)
        runs.append(calibration_runs(model, prompts, new_tokens))
    link, width = model.remote.link, model.remote.link.info.width
    found = fit(link.info.model, [table for tables in runs[1:] for table in tables], link.network)  # the first warms up
    if hasattr(model, "scheduler") or not width:
        return found
    payload = [codec.payload_bytes((1, 1, width)) or 0 for codec in (model.remote.up, model.remote.down)]
    return replace(found, width=width, payload=(payload[0], payload[1]))


def calibration_runs(model: Any, prompts: Sequence[int] = (8, 32, 128), new_tokens: int = 8) -> list[pd.DataFrame]:
    """The stopwatch tables of a few short runs, one for each prompt length; of a pipeline one run."""
    import torch

    if hasattr(model, "scheduler"):
        with Stopwatch(model) as watch:
            model("a red apple", num_inference_steps=new_tokens, output_type="np")
        return [watch.table()]
    ids = torch.arange(max(prompts)).remainder(model.config.get_text_config().vocab_size - 1)[None] + 1
    return [timed_reply(model, ids[:, :length], new_tokens).table() for length in prompts]
