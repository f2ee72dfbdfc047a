"""Numbers as words: short ones with a unit, and shares that are never rounded up."""

from __future__ import annotations

import math


def human(number: float, unit: str) -> str:
    """`169.9 MB`, `1.2 GFLOP`, `512 B`, `92.0 M`: decimal prefixes, one digit after the point."""
    value = float(number)
    for prefix in ("", "k", "M", "G", "T", "P"):
        if abs(value) < 999.95 or prefix == "P":
            break
        value /= 1000
    return f"{value:.1f} {prefix}{unit}".strip() if prefix else f"{number:,.0f} {unit}".strip()


def percent(share: float) -> str:
    """`98.9 %`: a share with one digit after the point, cut off, so that 98.96 % is not called 99.0 %."""
    return f"{math.floor(share * 1000 + 1e-9) / 10:.1f} %"
