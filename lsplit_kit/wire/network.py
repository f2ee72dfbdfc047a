"""What a network does to frames: two lines with a rate, a delay, jitter and loss; and presets with their sources."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace

from ..errors import UnsupportedOption

PACKET = 1448  # bytes of data in an Ethernet frame of TCP with time stamps
RETRANSMIT = 0.2  # seconds before an unacknowledged packet is sent again: the least that Linux's TCP waits


@dataclass(frozen=True)
class Network:
    """Rates in Mbit/s (None: as fast as may be), round trip and jitter in milliseconds, loss as a share of packets.

    jitter: mean of an exponential delay that each frame suffers beside half the round trip; loss: a frame with a lost
    packet comes a retransmission timeout later (200 ms and the round trip, doubled at each further loss).
    """

    up_mbps: float | None = None
    down_mbps: float | None = None
    rtt_ms: float = 0.0
    jitter_ms: float = 0.0
    loss: float = 0.0
    name: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        for name in ("up_mbps", "down_mbps", "rtt_ms", "jitter_ms", "loss"):
            value = getattr(self, name)
            if value is None and name.endswith("mbps"):
                continue
            number = not isinstance(value, bool) and isinstance(value, (int, float)) and math.isfinite(value)
            if not number or value < 0 or (value == 0 and name.endswith("mbps")):
                least = "above 0, or None for no limit" if name.endswith("mbps") else "of 0 or more"
                raise UnsupportedOption(f"{name} takes a number {least}, got {value!r}.")
        if self.loss >= 1:
            raise UnsupportedOption(f"loss is a share of packets below 1, got {self.loss!r}.")

    def lines(self, seed: int) -> tuple[Line, Line]:
        """The way up and the way down, each with its own random numbers."""
        return tuple(Line(self, way, random.Random(f"{seed} {way}")) for way in ("up", "down"))  # type: ignore[return-value]

    def __str__(self) -> str:
        rates = [f"{rate:g}" if rate else "any" for rate in (self.up_mbps, self.down_mbps)]
        more = f", jitter {self.jitter_ms:g} ms" if self.jitter_ms else ""
        more += f", loss {self.loss:.2%}" if self.loss else ""
        return f"{rates[0]} Mbit/s up, {rates[1]} down, round trip {self.rtt_ms:g} ms{more}"


class Line:
    """One direction: frames leave one after the other and arrive in order."""

    def __init__(self, network: Network, way: str, numbers: random.Random) -> None:
        rate = network.up_mbps if way == "up" else network.down_mbps
        self.network, self.numbers = network, numbers
        self.second_per_byte = 8e-6 / rate if rate else 0.0
        self.free = self.last = 0.0  # when the line can take a frame; when the last one arrived

    def carry(self, at: float, size: int) -> float:
        """When a frame of `size` bytes that is ready at `at` has arrived, in seconds on the same clock."""
        net = self.network
        self.free = max(at, self.free) + size * self.second_per_byte
        delay = net.rtt_ms / 2000
        if net.jitter_ms:
            delay += self.numbers.expovariate(1000 / net.jitter_ms)
        if net.loss:
            lost = 1 - (1 - net.loss) ** max(1, math.ceil(size / PACKET))
            wait = RETRANSMIT + net.rtt_ms / 1000
            while self.numbers.random() < lost:
                delay, wait, lost = delay + wait, 2 * wait, net.loss
        self.last = max(self.last, self.free + delay)
        return self.last


_WEBPAGETEST = "WebPageTest's connectivity profile"
PRESETS = {
    net.name: net
    for net in (
        Network(1000, 1000, 0.5, 0.0, 0.0, "lan", "rate of 1000BASE-T (IEEE 802.3ab); delay assumed"),
        Network(30, 30, 5, 2, 0.0, "wifi", "half of one 802.11n stream (65 Mbit/s, IEEE 802.11n MCS 7); delay assumed"),
        Network(50, 100, 20, 3, 0.0, "5g", "rates a user sees, ITU-R M.2410-0; delay assumed (its radio part is 8 ms)"),
        Network(12, 12, 70, 8, 0.0, "4g", f"{_WEBPAGETEST} LTE; jitter assumed"),
        Network(0.384, 1.5, 50, 2, 0.0, "dsl", f"{_WEBPAGETEST} DSL; jitter assumed"),
        Network(3, 25, 600, 10, 0.001, "satellite", "rates of the FCC's broadband benchmark of 2015; a geostationary "
                "round trip is 4 x 35,786 km = 477 ms, the rest, jitter and loss assumed"),
        Network(0.062, 0.026, 1600, 100, 0.0, "nb-iot", "3GPP release 13, category NB1: peak rates and the least of "
                "its latencies; jitter assumed"),
    )
}  # fmt: skip


def network(asked: str | Network | None = None, **changes: float | None) -> Network:
    """A preset by name (lan, wifi, 5g, 4g, dsl, satellite, nb-iot), or none, with what is given otherwise."""
    if isinstance(asked, Network):
        return replace(asked, **changes)  # type: ignore[arg-type]
    if asked is not None and asked not in PRESETS:
        raise UnsupportedOption(f"Unknown network {asked!r}; choose one of {', '.join(PRESETS)}, or give rates.")
    return replace(PRESETS[asked] if asked is not None else Network(), **changes)  # type: ignore[arg-type]
