"""Where the time of a reply goes, for the three deployments, and which of them is fastest on which network.

What a line's rate costs (up, down) is kept apart from what its length costs (waiting: round trips, jitter, loss): a
codec makes the first smaller and leaves the second as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..wire.network import Network
from ..wire.network import network as network_of
from .latency import CONTROL, TOKEN_FRAMES, WAYS, LatencyModel, Times, carried
from .stopwatch import HOST, LOCAL, Stopwatch

if TYPE_CHECKING:
    import pandas as pd

DEPLOYMENTS = ("local", "cloud", "split")
SPENT = ("local", "codec", "up", "host", "down", "waiting")
Price = Callable[[Network], dict[str, float]]


def budget(
    model: LatencyModel,
    prompt: int,
    new_tokens: int,
    network: str | Network | None = None,
    local_speed: float = 1.0,
    host_speed: float = 1.0,
) -> pd.DataFrame:
    """Seconds of a reply by deployment and part (SPENT), and `first`, `per_token`, `total`; raises UnsupportedOption.

    waiting: round trips, jitter, retransmissions and the opening of a session; up, down: the bytes over the rate.
    """  # fmt: skip
    import pandas as pd

    net = network_of(network)
    rate = {way: 8e-6 / mbps if (mbps := getattr(net, f"{way}_mbps")) else 0.0 for way in WAYS}
    alone, steps = (
        model.local(prompt, new_tokens, local_speed=local_speed),
        model.steps(prompt, new_tokens, net, local_speed=local_speed, host_speed=host_speed),
    )
    cloud = model.cloud(prompt, new_tokens, net, host_speed=host_speed)
    split = model.split(prompt, new_tokens, net, local_speed=local_speed, host_speed=host_speed)
    there = model.local(prompt, new_tokens, local_speed=host_speed)
    spent = {
        "local": {"local": alone.total},
        "cloud": {
            "up": (TOKEN_FRAMES[0] + 4 * prompt) * rate["up"], "host": there.total,
            "down": TOKEN_FRAMES[1] * rate["down"] + float((cloud.each - there.each).sum()),
        },
        "split": {
            "local": float(steps[["loop", "head", "tail"]].to_numpy().sum()) + split.end,
            "codec": float(steps[["codec", "host_codec"]].to_numpy().sum()), "host": float(steps["body"].sum()),
            **{way: float(steps[f"frame_{way}"].sum()) * rate[way] for way in WAYS},
        },
    }  # fmt: skip
    rows = []
    for times in (alone, cloud, split):
        row = {part: spent[times.name].get(part, 0.0) for part in SPENT}
        row["waiting"] = max(times.total - sum(row.values()), 0.0)
        rows.append({**row, "first": float(times.first), "per_token": times.per_token, "total": times.total})
    return pd.DataFrame(rows, index=pd.Index(DEPLOYMENTS, name="deployment"))


def pricing(
    model: LatencyModel, prompt: int, new_tokens: int, local_speed: float = 1.0, host_speed: float = 1.0
) -> Price:
    """A function network -> seconds of the whole reply by deployment; fast, for maps of many networks."""
    steps = model.steps(prompt, new_tokens, None, local_speed, host_speed)
    computing = float(steps[[*LOCAL, *HOST]].to_numpy().sum()) + model.end / local_speed
    frames = {way: np.unique(steps[f"frame_{way}"], return_counts=True) for way in WAYS}
    local = model.local(prompt, new_tokens, local_speed=local_speed).total
    there = model.local(prompt, new_tokens, local_speed=host_speed)
    asked = {"up": TOKEN_FRAMES[0] + 4 * prompt, "down": TOKEN_FRAMES[1]}

    def price(net: Network) -> dict[str, float]:
        wire, ask, control = 0.0, 0.0, 0.0
        for way in WAYS:
            sizes, times = frames[way]
            wire += float(carried(net, way, sizes) @ times)
            ask += float(carried(net, way, np.array([asked[way]]))[0])
            control += float(carried(net, way, np.array([CONTROL]))[0])
        slow = TOKEN_FRAMES[1] * 8e-6 / net.down_mbps if net.down_mbps else 0.0
        cloud = there.first + ask + float(np.maximum(there.each, slow).sum()) + there.end
        return {"local": local, "cloud": cloud, "split": computing + wire + model.sessions * control}

    return price


def at_rate(net: Network, up_mbps: float) -> Network:
    """The same network with another rate up; the rate down keeps its ratio to it."""
    ratio = net.down_mbps / net.up_mbps if net.up_mbps and net.down_mbps else 1.0
    return replace(net, up_mbps=up_mbps, down_mbps=up_mbps * ratio)


def fastest(
    price: Price,
    network: Network,
    rtts_ms: Sequence[float],
    up_mbps: Sequence[float],
    among: Sequence[str] = DEPLOYMENTS,
) -> pd.DataFrame:
    """Name of the fastest deployment; index: rates up in Mbit/s, columns: round trips in ms, else as `network`."""
    import pandas as pd

    names = []
    for rate in up_mbps:
        line = at_rate(network, rate)
        prices = (price(replace(line, rtt_ms=rtt)) for rtt in rtts_ms)
        names.append([min(among, key=found.__getitem__) for found in prices])
    return pd.DataFrame(names, index=list(up_mbps), columns=list(rtts_ms))


def break_even(price: Price, network: Network) -> float | None:
    """The round trip in ms above which the split is slower than local, all else as `network`; None: it always is.

    Every round trip costs the same, so the split's time is a straight line over it.
    """
    least, more = (price(replace(network, rtt_ms=rtt)) for rtt in (0.0, 1000.0))
    spare, slope = least["local"] - least["split"], (more["split"] - least["split"]) / 1000
    return spare / slope if spare > 0 else None


def watched(watch: Stopwatch) -> Times:
    """What a stopwatch saw of one reply, as the latency model tells it."""
    from .stopwatch import PARTS

    table = watch.table()
    each = table[list(PARTS)].sum(axis=1).to_numpy()
    return Times("split", table.attrs["control"] + each[0], each[1:], table.attrs["end"])


class Ticks:
    """A streamer for `generate` that notes when tokens come, and tells `report` how many there are."""

    def __init__(self, tick: Callable[[], float], report: Callable[[int], object] = lambda tokens: None) -> None:
        self.tick, self.report = tick, report
        self.at: list[float] = []  # when the prompt was taken, and every token

    def put(self, value: Any) -> None:
        """Take the prompt first, then every new token."""
        self.at.append(self.tick())
        self.report(len(self.at) - 1)

    def end(self) -> None:
        """The reply is complete."""


def timed_alone(
    model: Any,
    prompt: Any,
    new_tokens: int,
    tick: Callable[[], float],
    speed: float = 1.0,
    report: Callable[[int], object] = lambda tokens: None,
) -> Times:
    """A greedy reply of the unsplit model to token ids [1, P] on a clock, as if it were `speed` times faster."""
    ticks, began = Ticks(tick, report), tick()
    model.generate(prompt, max_new_tokens=new_tokens, min_new_tokens=new_tokens, do_sample=False, pad_token_id=0,
                   streamer=ticks)  # fmt: skip
    ended = tick()
    at = np.array(ticks.at[1:])
    return Times("local", float(at[0] - began) / speed, np.diff(at) / speed, float(ended - at[-1]) / speed)
