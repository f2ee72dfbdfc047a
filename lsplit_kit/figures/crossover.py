"""The crossover map: which deployment is fastest, by round trip and rate; each has a colour and a sign."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..measure.budget import DEPLOYMENTS, Price, at_rate, break_even, fastest
from ..wire.network import Network
from .show import Shown, show
from .sketch import Sketch
from .style import BODY, HEAD, INK, PAPER, TAIL, layout

if TYPE_CHECKING:
    import pandas as pd

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 390, 280, 52, 26, 66  # units
RTTS = tuple(10 ** (k / 5) for k in range(-5, 18))  # ms: 0.1 to 2,512
RATES = tuple(10 ** (k / 3) for k in range(-5, 10))  # Mbit/s: 0.02 to 1,000
LOOKS = {"local": (HEAD, "square"), "cloud": (BODY, "triangle-up"), "split": (TAIL, "diamond")}


class Crossover(NamedTuple):
    """A map: the fastest by rate and round trip, break-even of split and local by rate (ms; None: never), the point.

    now, here: the fastest on this very network, and its break-even.
    """

    names: pd.DataFrame
    even: dict[float, float | None]
    network: Network
    now: str
    here: float | None
    among: tuple[str, ...] = DEPLOYMENTS


def crossover_map(price: Price, network: Network, among: Sequence[str] = DEPLOYMENTS) -> Crossover:
    """The map around a network, of a price as `measure.pricing` makes it, of the deployments `among`."""
    prices = price(network)
    even = {rate: break_even(price, at_rate(network, rate)) for rate in RATES}
    names = fastest(price, network, RTTS, RATES, among)
    return Crossover(names, even, network, min(among, key=prices.__getitem__), break_even(price, network), tuple(among))


def crossover(seen: Crossover) -> Shown:
    """The map as a figure of plotly, with its PNG and its sentence."""
    import plotly.graph_objects as go

    order = {name: k for k, name in enumerate(DEPLOYMENTS)}
    steps = [[k / 3 + end / 3, LOOKS[name][0]] for name, k in order.items() for end in (0, 1)]
    figure = go.Figure(
        go.Heatmap(x=list(RTTS), y=list(RATES), z=[[order[n] for n in row] for row in seen.names.to_numpy()],
                   text=seen.names.to_numpy().tolist(), colorscale=steps, zmin=0, zmax=2, showscale=False,
                   hovertemplate="%{text} is fastest at %{x:.3g} ms and %{y:.3g} Mbit/s<extra></extra>"),
        layout=layout(HEIGHT + 120, width=WIDTH + 220, margin={"l": 70, "r": 20, "t": 10, "b": 60}),
    )  # fmt: skip
    for name, (colour, sign) in LOOKS.items():
        at = [(x, y) for j, y in enumerate(RATES) for i, x in enumerate(RTTS)
              if seen.names.iat[j, i] == name and _signed(i, j)] or [(math.nan, math.nan)]  # fmt: skip
        figure.add_scatter(x=[x for x, _ in at], y=[y for _, y in at], mode="markers", name=name,
                           marker={"symbol": sign, "color": PAPER, "line": {"color": colour, "width": 1}, "size": 7},
                           hoverinfo="skip")  # fmt: skip
    line = [(rtt, rate) for rate, rtt in seen.even.items() if rtt is not None and RTTS[0] <= rtt <= RTTS[-1]]
    figure.add_scatter(x=[x for x, _ in line], y=[y for _, y in line], mode="lines", name="split = local",
                       line={"color": "#000000", "width": 3})  # fmt: skip
    figure.add_scatter(x=[_inside(seen.network.rtt_ms, RTTS)], y=[_inside(_rate(seen.network), RATES)], mode="markers",
                       name="this network", marker={"symbol": "star", "size": 18, "color": PAPER,
                                                    "line": {"color": "#000000", "width": 2}})  # fmt: skip
    figure.update_xaxes(title="round trip (ms)", type="log")
    figure.update_yaxes(title="rate up (Mbit/s)", type="log")
    figure.update_layout(legend={"bgcolor": "#dddddd"})
    return show(figure, crossover_sketch(seen).png(small=True), crossover_alt(seen))


def crossover_sketch(seen: Crossover) -> Sketch:
    """The map as a sketch."""
    sheet = Sketch(WIDTH, HEIGHT)
    right, bottom = WIDTH - 10, HEIGHT - BOTTOM
    wide, tall = (right - LEFT) / len(RTTS), (bottom - TOP) / len(RATES)

    def x(rtt: float) -> float:
        place = math.log(_inside(rtt, RTTS) / RTTS[0]) / math.log(RTTS[-1] / RTTS[0]) * (len(RTTS) - 1)
        return LEFT + wide * (place + 0.5)

    def y(rate: float) -> float:
        place = math.log(_inside(rate, RATES) / RATES[0]) / math.log(RATES[-1] / RATES[0]) * (len(RATES) - 1)
        return bottom - tall * (place + 0.5)

    for j, rate in enumerate(RATES):
        row, start = list(seen.names.iloc[j]), 0
        for i in range(1, len(row) + 1):
            if i == len(row) or row[i] != row[start]:
                said = f"{row[start]} is fastest from {RTTS[start]:.2g} to {RTTS[i - 1]:.2g} ms at {rate:.2g} Mbit/s"
                sheet.box(LEFT + wide * start, y(rate) - tall / 2 - 0.3, LEFT + wide * i, y(rate) + tall / 2 + 0.3,
                          LOOKS[row[start]][0], said)  # fmt: skip
                start = i
        for i, name in enumerate(row):
            if _signed(i, j):
                sheet.mark(x(RTTS[i]), y(rate), LOOKS[name][1], PAPER, 3.2)
    points = [(x(rtt), y(rate)) for rate, rtt in seen.even.items() if rtt is not None and RTTS[0] < rtt < RTTS[-1]]
    for one, two in zip(points, points[1:], strict=False):
        sheet.line(*one, *two, "#000000", width=2.5, said="here split and local take equally long")
    said = f"this network: {seen.now} is fastest"
    sheet.mark(x(seen.network.rtt_ms), y(_rate(seen.network)), "star", "#000000", 9, said)
    sheet.mark(x(seen.network.rtt_ms), y(_rate(seen.network)), "star", PAPER, 6, said)
    _frame(sheet, x, y, right, bottom)
    return sheet


def _frame(
    sheet: Sketch, x: Callable[[float], float], y: Callable[[float], float], right: float, bottom: float
) -> None:
    for rtt in (0.1, 1, 10, 100, 1000):
        sheet.line(x(rtt), bottom, x(rtt), bottom + 4)
        sheet.text(x(rtt), bottom + 17, f"{rtt:,g}", "middle")
    for rate in (0.1, 1, 10, 100, 1000):
        sheet.line(LEFT - 4, y(rate), LEFT, y(rate))
        sheet.text(LEFT - 7, y(rate) + 4, f"{rate:,g}", "end")
    sheet.text((LEFT + right) / 2, bottom + 34, "round trip (ms)", "middle")
    sheet.text(4, 14, "rate up (Mbit/s)")
    at, base = 6.0, HEIGHT - 8
    for name, (colour, sign) in LOOKS.items():
        sheet.box(at, base - 12, at + 15, base + 2, colour, name)
        sheet.mark(at + 7.5, base - 5, sign, PAPER, 3.6)
        sheet.text(at + 20, base, name)
        at += 64
    sheet.line(at, base - 4, at + 26, base - 4, width=2.5)
    sheet.text(at + 31, base, "split = local")
    sheet.mark(at + 122, base - 5, "star", INK, 7)
    sheet.mark(at + 122, base - 5, "star", PAPER, 4)
    sheet.text(at + 132, base, "here")


def _signed(column: int, row: int) -> bool:
    """Whether a field carries its sign: every sixth, so that signs stay apart."""
    return row % 2 == 0 and (column + row // 2 * 2) % 3 == 0


def _inside(value: float, ends: tuple[float, ...]) -> float:
    return min(max(value, ends[0]), ends[-1])


def _rate(network: Network) -> float:
    return RATES[-1] if network.up_mbps is None else network.up_mbps


def crossover_alt(seen: Crossover) -> str:
    """One sentence that says what the map shows."""
    shares = seen.names.stack().value_counts(normalize=True)
    share = ", ".join(f"{name} in {float(shares.get(name, 0)):.0%}" for name in seen.among)
    even = seen.here
    beats = "the split is slower than local at any round trip" if even is None else (
        f"the split beats local below a round trip of {even:.2g} ms" if even < 99.5 else
        f"the split beats local below a round trip of {even:,.0f} ms"
    )  # fmt: skip
    return (
        f"Fastest by round trip and rate: {share} of the map; on this network ({seen.network.rtt_ms:g} ms, "
        f"{_rate(seen.network):g} Mbit/s up) {seen.now}; {beats} at this rate."
    )
