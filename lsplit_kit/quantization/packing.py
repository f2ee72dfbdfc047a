"""Small whole numbers side by side in memory, without a wasted bit but for the last bytes."""

from __future__ import annotations

import numpy as np


def packed_bytes(count: int, bits: int) -> int:
    """Bytes of `count` numbers of `bits` bits (1 to 8)."""
    return -(-count * bits // 8)


def _lanes(bits: int) -> tuple[int, type[np.uint8 | np.uint64]]:
    """How many numbers fill whole bytes together, and in what type: 8 / n in one byte, else 8 in n bytes."""
    return (8, np.uint64) if 8 % bits else (8 // bits, np.uint8)


def pack(numbers: np.ndarray, bits: int) -> bytes:
    """Numbers 0 .. 2^bits - 1 (uint8), the first in the lowest bits."""
    if bits == 8:
        return numbers.tobytes()
    many, kind = _lanes(bits)
    rows = -(-numbers.size // many)
    flat = np.zeros(rows * many, kind)
    flat[: numbers.size] = numbers.ravel()
    lanes = flat.reshape(rows, many)
    words = lanes[:, 0].copy()
    for i in range(1, many):
        words |= lanes[:, i] << kind(i * bits)
    wide = words.astype(words.dtype.newbyteorder("<")).view(np.uint8).reshape(rows, words.itemsize)
    return wide[:, : many * bits // 8].tobytes()[: packed_bytes(numbers.size, bits)]


def unpack(payload: bytes, count: int, bits: int) -> np.ndarray:
    """The numbers of `pack` as uint8 [count]; the payload has just their bytes."""
    if bits == 8:
        return np.frombuffer(payload, np.uint8)
    many, kind = _lanes(bits)
    rows, width = -(-count // many), many * bits // 8
    wide = np.zeros((rows, np.dtype(kind).itemsize), np.uint8)
    if width == 1:
        wide[:, 0] = np.frombuffer(payload, np.uint8)
    else:
        raw = np.zeros(rows * width, np.uint8)
        raw[: len(payload)] = np.frombuffer(payload, np.uint8)
        wide[:, :width] = raw.reshape(rows, width)
    words, mask = wide.view(np.dtype(kind).newbyteorder("<"))[:, 0], kind(2**bits - 1)
    out = np.empty((rows, many), np.uint8)
    for i in range(many):
        out[:, i] = words >> kind(i * bits) & mask
    return out.ravel()[:count]
