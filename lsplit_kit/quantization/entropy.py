"""Whole numbers as few bytes: plain, compressed by zstandard, or range-coded under a fitted curve by constriction."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from ..errors import CodecError

WIDTHS = {1: "<i1", 2: "<i2", 4: "<i4"}
SHAPES = (0.5, 0.7, 1.0, 1.4, 2.0, 3.0, 6.0)  # of the generalised normal distribution: 1 is Laplace's, 2 is Gauss's
MOST_LEVELS = 1 << 14  # of a range-coded tensor; one that spreads wider crosses plain
OCTAVE, ZERO = 12, 72  # a spread's byte: so many to a doubling, and that of spread 1
CENTRE = 64  # parts of a step in which the values of a level are averaged


def varint(number: int) -> bytes:
    """A number >= 0, seven bits a byte, the lowest first."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def read_varint(raw: bytes, at: int) -> tuple[int, int]:
    """(number, where it ends); raises CodecError."""
    number = 0
    for i in range(5):
        if at + i >= len(raw):
            break
        number |= (raw[at + i] & 127) << 7 * i
        if raw[at + i] < 128:
            return number, at + i + 1
    raise CodecError("The payload ends inside a number, or a number is too long.")


def _zigzag(number: int) -> int:
    return 2 * number if number >= 0 else -2 * number - 1


def _unzigzag(number: int) -> int:
    return number // 2 if number % 2 == 0 else -(number + 1) // 2


class Plain:
    """One, two or four bytes a number, whichever holds them all."""

    name = ""

    def pack(self, numbers: np.ndarray) -> bytes:
        """int32 [n] -> bytes."""
        peak = int(np.abs(numbers.astype(np.int64)).max(initial=0))
        width = 1 if peak < 1 << 7 else 2 if peak < 1 << 15 else 4
        return bytes([width]) + self.squeeze(numbers.astype(WIDTHS[width]).tobytes())

    def unpack(self, raw: bytes, count: int) -> np.ndarray:
        """bytes -> [n], in steps; raises CodecError when they are not `count` numbers."""
        return self.whole(raw, count)

    def whole(self, raw: bytes, count: int) -> np.ndarray:
        """bytes -> the very numbers that were packed, float64 [n]; raises CodecError."""
        width = raw[0] if raw else 0
        if width not in WIDTHS:
            raise CodecError("The payload's numbers have no known width.")
        return np.frombuffer(self.loosen(raw[1:], count * width), WIDTHS[width]).astype(np.float64)

    def squeeze(self, raw: bytes) -> bytes:
        """The bytes as they cross."""
        return raw

    def loosen(self, raw: bytes, size: int) -> bytes:
        """The bytes of `squeeze`, which must be `size`; raises CodecError."""
        if len(raw) != size:
            raise CodecError(f"The payload holds {len(raw)} bytes of numbers, {size} were expected.")
        return raw


class Zstd(Plain):
    """The plain bytes compressed by zstandard, level 1."""

    name = "zstd"

    def squeeze(self, raw: bytes) -> bytes:
        """A frame that says its size."""
        import zstandard

        return zstandard.ZstdCompressor(level=1, write_checksum=False).compress(raw)

    def loosen(self, raw: bytes, size: int) -> bytes:
        """Decompressed, after a look at the size that the frame declares: the library allocates whatever it says."""
        import zstandard

        try:
            if zstandard.frame_content_size(raw) != size:
                raise CodecError("The compressed numbers are not as many as the shape says.")
            return zstandard.ZstdDecompressor().decompress(raw, max_output_size=max(size, 1))
        except zstandard.ZstdError:
            raise CodecError("The compressed numbers are not readable.") from None


class Curve(NamedTuple):
    """A generalised normal distribution over whole numbers low .. low + levels - 1, in numbers that cross exactly."""

    low: int
    levels: int
    middle: int  # in quarters
    spread: int  # a byte, OCTAVE of them to a doubling
    shape: int  # place in SHAPES


class Ans:
    """Range coding under the curve that fits best: constriction (arXiv 2201.01741). Both sides make the same model."""

    name = "ans"

    def pack(self, numbers: np.ndarray) -> bytes:
        """int32 [n] -> the curve's parameters and the code; numbers that spread too wide cross plain."""
        low, high = int(numbers.min(initial=0)), int(numbers.max(initial=0))
        if high - low >= MOST_LEVELS or not numbers.size:
            return b"\xff" + Plain().pack(numbers)
        if low == high:
            return bytes([0, 0]) + varint(_zigzag(low)) + varint(0) + varint(0)
        curve = fitted(numbers, low, high)
        code = coder().RangeEncoder()
        code.encode((numbers - low).astype(np.int32), model_of(curve)[0])
        head = bytes([curve.shape, curve.spread]) + varint(_zigzag(low)) + varint(curve.levels - 1)
        return head + varint(_zigzag(curve.middle)) + code.get_compressed().astype("<u4").tobytes()

    def unpack(self, raw: bytes, count: int) -> np.ndarray:
        """bytes -> [n], in steps: the mean of what a level stands for under the curve; raises CodecError."""
        curve, found = self._read(raw, count)
        return found if curve is None else model_of(curve)[2][found]

    def whole(self, raw: bytes, count: int) -> np.ndarray:
        """bytes -> the very numbers that were packed, float64 [n]; raises CodecError."""
        curve, found = self._read(raw, count)
        return found if curve is None else found + float(curve.low)

    def _read(self, raw: bytes, count: int) -> tuple[Curve | None, np.ndarray]:
        """(the curve, its levels [n]), or (None, the numbers themselves)."""
        if raw[:1] == b"\xff":
            return None, Plain().unpack(raw[1:], count)
        curve, at = read_curve(raw)
        if curve.levels == 1 and at == len(raw):
            return None, np.full(count, float(curve.low))
        if (len(raw) - at) % 4:
            raise CodecError("The range-coded numbers are not whole words.")
        words = np.frombuffer(raw, np.uint8, offset=at).view("<u4").astype(np.uint32)
        try:
            found = coder().RangeDecoder(words).decode(model_of(curve)[0], count)
        except BaseException as error:  # the library's panics are no Exception
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise
            raise CodecError("The range-coded numbers are not readable.") from None
        return curve, found


def read_curve(raw: bytes) -> tuple[Curve, int]:
    """(the curve at the front of a payload, where it ends); raises CodecError."""
    if len(raw) < 2 or raw[0] >= len(SHAPES):
        raise CodecError("The payload names no known curve.")
    low, at = read_varint(raw, 2)
    count, at = read_varint(raw, at)
    middle, at = read_varint(raw, at)
    if count >= MOST_LEVELS or low > 1 << 32 or middle > 1 << 32:
        raise CodecError("The payload's curve is too wide.")
    return Curve(_unzigzag(low), count + 1, _unzigzag(middle), raw[1], raw[0]), at


def fitted(numbers: np.ndarray, low: int, high: int) -> Curve:
    """The curve of the shortest code: middle and spread are the numbers' own, the shape is tried out."""
    counts = np.bincount(numbers - low, minlength=high - low + 1)
    mean = float(numbers.mean())
    spread = float(np.sqrt(np.square(numbers - mean).mean() + 1e-6))
    step = int(np.clip(np.rint(OCTAVE * np.log2(spread)) + ZERO, 0, 255))
    best, least = None, np.inf
    for shape in range(len(SHAPES)):
        curve = Curve(low, len(counts), int(np.rint(4 * mean)), step, shape)
        cost = -float((counts * np.log2(model_of(curve)[1])).sum())
        if cost < least:
            best, least = curve, cost
    assert best is not None
    return best


def model_of(curve: Curve) -> tuple[Any, np.ndarray, np.ndarray]:
    """(constriction's model, probabilities, mean values, each [levels]) of a curve; no probability is below 2^-22.

    Probabilities and means are rounded, so that the last bits of another machine's exponentials do not matter.
    """
    return (_narrow if curve.levels <= 1 << 9 else _wide)(curve)


def _made(curve: Curve) -> tuple[Any, np.ndarray, np.ndarray]:
    import constriction
    from scipy.special import gamma, gammainc, gammaincc

    shape = SHAPES[curve.shape]
    width = 2.0 ** ((curve.spread - ZERO) / OCTAVE) * float(np.sqrt(gamma(1 / shape) / gamma(3 / shape)))
    numbers = np.arange(curve.low, curve.low + curve.levels)
    edges = np.append(numbers, numbers[-1] + 1) - 0.5 - curve.middle / 4
    far = np.abs(edges / width) ** shape
    below = np.sign(edges) * gammainc(1 / shape, far)
    # The integral of |x| times the density up to an edge, but for the density's own sign: a mean's numerator.
    first = -width * gamma(2 / shape) / gamma(1 / shape) * gammaincc(2 / shape, far)
    mass = np.diff(below) / 2
    weights = np.rint(mass * 2**22) + 1
    chances = weights / weights.sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        means = np.diff(first) / 2 / mass + curve.middle / 4 - numbers
    shifts = np.rint(np.clip(np.nan_to_num(means), -0.5, 0.5) * CENTRE) / CENTRE
    known = mass > 1e-9  # out there the curve says nothing
    model = constriction.stream.model.Categorical(chances, perfect=False)
    return model, chances, numbers + np.where(known, shifts, 0.0)


# A peer names the curve: a thousand wide ones would stay in memory with half a megabyte each.
_narrow, _wide = lru_cache(maxsize=1024)(_made), lru_cache(maxsize=32)(_made)


@lru_cache(maxsize=1)
def coder() -> Any:
    """constriction's range coders, imported when first used."""
    import constriction

    return constriction.stream.queue


CODERS: dict[str, Plain | Ans] = {coder.name: coder for coder in (Plain(), Zstd(), Ans())}
