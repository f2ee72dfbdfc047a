"""Checks for chapter 09, continued: secrets with exact entropy, candidate sets, a ceiling, and what may be claimed."""

from __future__ import annotations

import math

import numpy as np

from lsplit_kit.course.calling import number
from lsplit_kit.course.checks import Wrong, call, exercise
from lsplit_kit.course.ex_06 import close, numbers_of

LN20 = math.log(20)


@exercise(
    "09.4",
    title="Secrets that were drawn",
    hints=[
        "mix the draw in: q = (1 - eps) * np.exp(log_prob) + eps / size; no secret then costs over log2(size / eps)",
        "bits: the mean of log2(size) + log2(q) over the secrets",
        "one secret adds between log2(eps) and log2(size) bits: width = log2(size) - log2(eps)",
        "lower = bits - width * np.sqrt(np.log(20) / (2 * N)); 20 is 1 / 0.05, and its logarithm is a natural one",
    ],
    minutes=7,
    difficulty=3,
)
def drawn(answer: object) -> str | Wrong | None:
    """canary_bits(log_prob, size, eps): bits a secret, and what they are at least with 95 % confidence."""
    rng = np.random.default_rng(4)
    for count, size, eps, good in ((100, 10_000, 0.01, 0.8), (400, 128, 0.05, 0.5)):
        log_prob = np.where(rng.random(count) < good, -0.02, np.where(rng.random(count) < 0.5, -4.0, -np.inf))
        with np.errstate(all="ignore"):
            value = call(answer, log_prob.copy(), size, eps)
        try:
            parts = [number(part) for part in value]  # type: ignore[attr-defined]
        except TypeError:
            return f"two numbers (bits, lower) were expected, got {type(value).__name__}"
        if any(part is not None and not math.isfinite(part) for part in parts):
            return Wrong("a secret of probability 0 costs infinitely many bits, and the draw itself is not that bad", 1)
        said = numbers_of(parts, 2, "two numbers (bits, lower)")
        if isinstance(said, str):
            return said
        h0, q = math.log2(size), (1 - eps) * np.exp(log_prob) + eps / size
        bits, width = h0 + float(np.log2(q).mean()), h0 - math.log2(eps)
        slack = width * math.sqrt(LN20 / 2 / count)
        if close(said[0], bits) and close(said[1], bits - slack):
            continue
        for told, hint, wrong in (
            ("bits: the probabilities sum to more than 1, the posterior's share is 1 - eps", 1,
             h0 + float(np.log2(np.exp(log_prob) + eps / size).mean())),
            ("bits: eps is the share of the whole draw, and each of its secrets has eps / size", 1,
             h0 + float(np.log2((1 - eps) * np.exp(log_prob) + eps).mean())),
            ("bits: the logarithm of a mean is not the mean of logarithms", 2, h0 + math.log2(q.mean())),
            ("bits: natural units", 2, bits * math.log(2)),
            ("bits: that is what was left open, not what was read", 2, -float(np.log2(q).mean())),
        ):  # fmt: skip
            if close(said[0], wrong):
                return Wrong(told, hint)
        if not close(said[0], bits):
            return Wrong("bits is not right yet", 2)
        for told, hint, wrong in (
            ("lower: a bound from below is not above what was read", 4, bits + slack),
            ("lower: a secret that costs log2(size / eps) bits is possible, so the width has eps in it", 3,
             bits - h0 * math.sqrt(LN20 / 2 / count)),
            ("lower: that logarithm is a natural one", 4, bits - width * math.sqrt(math.log2(20) / 2 / count)),
            ("lower: twice as many secrets halve what is under the root, 2 * N", 4,
             bits - width * math.sqrt(LN20 / count)),
            ("lower: a root is missing", 4, bits - width * LN20 / 2 / count),
            ("lower: both are the same, and the number of secrets plays no part", 4, bits),
        ):  # fmt: skip
            if close(said[1], wrong):
                return Wrong(told, hint)
        return Wrong(f"bits is right, lower is not, for {count} secrets", 3)
    return None


@exercise(
    "09.5",
    title="Sets that hold the truth",
    hints=[
        "sort the masses: the answer is one of them, the k-th smallest",
        "k = ceil(level * (n + 1)): n + 1, because the new token is one more",
        "the k-th smallest of a sorted array is at index k - 1",
        "where k is larger than n there is too little to calibrate with: return math.inf, every token is a candidate",
    ],
    minutes=5,
    difficulty=2,
)
def threshold(answer: object) -> str | Wrong | None:
    """threshold(ahead, level): the ceil(level (n + 1))-th smallest of the masses, infinite if there are too few."""
    rng = np.random.default_rng(5)
    for count, level in ((60, 0.9), (57, 0.95), (200, 0.9), (30, 0.75), (10, 0.95)):
        ahead = rng.random(count)
        try:
            value = call(answer, ahead.copy(), level)
        except IndexError:
            return Wrong(
                f"your code looks beyond the end, with {count} masses and level {level}", 4 if count == 10 else 3
            )
        said = number(value)
        if said is None:
            return f"a number was expected, got {type(value).__name__}"
        rows, k = np.sort(ahead), math.ceil(level * (count + 1))
        right = math.inf if k > count else float(rows[k - 1])
        if said == right or math.isclose(said, right, rel_tol=1e-9):
            continue
        here = f"for {count} masses and level {level}"
        if math.isinf(right):
            return Wrong(f"a threshold from too few masses promises nothing, {here}", 4)
        if not any(math.isclose(said, mass, rel_tol=1e-9) for mass in rows):
            kind = "a quantile between two masses" if rows[0] < said < rows[-1] else "none of the masses"
            return Wrong(f"that is {kind}, {here}", 1)
        at = int(np.abs(rows - said).argmin()) + 1
        if at == k + 1:
            return Wrong(f"one too far: arrays begin at 0, {here}", 3)
        if at == math.ceil(level * count):
            return Wrong(f"the new token is not counted, {here}", 2)
        if at == round(level * (count + 1)) or at == int(level * (count + 1)):
            return Wrong(f"rounded down, and the sets hold the truth too seldom, {here}", 2)
        if at == math.ceil((1 - level) * (count + 1)):
            return Wrong(f"from the wrong end: large masses are rare, and most must be below, {here}", 2)
        return Wrong(f"that is the {'larger' if at > k else 'smaller'} mass than asked for, {here}", 2)
    return None


@exercise(
    "09.6",
    title="What no attack exceeds",
    hints=[
        "a byte is 8 bits: 8 * payload of them can cross, and what is not crossed is left open",
        "left = max(0, h0 - 8 * payload): the entropy that stays, at least",
        "Fano: left <= 1 + (1 - a) * log2(vocabulary - 1); solve it for a",
        "no share is above 1: min(1.0, ...), which is where the ceiling says nothing",
    ],
    minutes=5,
    difficulty=2,
)
def ceiling(answer: object) -> str | Wrong | None:
    """at_most(payload, h0, vocabulary): the largest accuracy, by the codec's bits and Fano's inequality."""
    for payload, h0, size in ((1.0, 13.2, 10_000), (0.0, 7.0, 128), (292.0, 13.2, 10_000), (1.5, 29.9, 2**30)):
        value = call(answer, payload, h0, size)
        said = number(value)
        if said is None:
            return f"a share of tokens was expected, got {type(value).__name__}"

        def fano(left: float, spare: float = 1.0, size: int = size) -> float:
            return 1 - (left - spare) / math.log2(size - 1)

        left = max(0.0, h0 - 8 * payload)
        right = min(1.0, fano(left))
        if close(said, right):
            continue
        here = f"for {payload:g} bytes a token, {h0:g} bits of entropy and {size:,} possible tokens"
        if said > 1:
            return Wrong(f"a share above 1, {here}", 4)
        for told, hint, wrong in (
            ("bytes count as bits", 1, fano(max(0.0, h0 - payload))),
            ("the bits that cross are not taken off", 2, fano(h0)),
            ("the 1 bit of Fano's inequality is lost", 3, fano(left, 0.0)),
            ("that is the share that is wrong at least", 3, 1 - fano(left)),
            ("a token has log2 of the vocabulary, not the vocabulary", 3, 1 - (left - 1) / (size - 1)),
            ("that logarithm is a natural one", 3, 1 - (left - 1) / math.log(size - 1)),
        ):
            if close(said, min(1.0, wrong)):
                return Wrong(f"{told}, {here}", hint)
        return Wrong(f"too {'large' if said > right else 'small'}, {here}", 2)
    return None


WHY = {
    "b": ("it says what no attack does, and rests on what one attack did", 1),
    "d": ("a ceiling far above the entropy allows everything and shows nothing", 2),
    "f": ("the entropy of natural text is a model's figure, so this is no bound on mutual information", 3),
    "g": ("one attack got weaker; whether the wire did is another question", 1),
}
MAY = {"a", "c", "e"}


@exercise(
    "09.7",
    title="What may one claim?",
    hints=[
        "what one attack reads is a floor: it refutes “nobody can read this” and confirms nothing",
        "a ceiling forbids only what is above it; that something is allowed does not mean that it can be done",
        "a bound on mutual information needs an entropy that is known: drawn secrets have one",
        "a claim that may be made names attack, observer and conditions, or is a count of bits on the wire",
    ],
    minutes=4,
    difficulty=2,
)
def claims(answer: object) -> str | Wrong | None:
    """The letters of the statements that may be made, from a text, a list or a set."""
    try:
        given = {str(part).strip().lower() for part in answer} - {"", ",", " "}  # type: ignore[attr-defined]
    except TypeError:
        return f"letters were expected, such as {{'a', 'b'}}, got {type(answer).__name__}"
    if strange := sorted(given - MAY - set(WHY)):
        return f"the statements have the letters a to g, and you named {', '.join(strange)}"
    if not given:
        return Wrong("some of the statements may be made", 4)
    for letter in sorted(given - MAY):
        told, hint = WHY[letter]
        return Wrong(f"not {letter}: {told}", hint)
    if given != MAY:
        return Wrong(f"all that you named may be made; {len(MAY - given)} more may", 4)
    return None
