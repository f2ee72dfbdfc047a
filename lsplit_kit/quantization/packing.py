"""Small whole numbers side by side in memory, without a wasted bit but for the last bytes."""

from __future__ import annotations

import numpy as np

LANES = 8  # so many numbers of n <= 8 bits fill n bytes


def packed_bytes(count: int, bits: int) -> int:
    """Bytes of `count` numbers of `bits` bits (1 to 8)."""
    return -(-count * bits // 8)


def pack(numbers: np.ndarray, bits: int) -> bytes:
    """Numbers 0 .. 2^bits - 1 (uint8), the first in the lowest bits."""
    if bits == 8:
        return numbers.tobytes()
    rows = -(-numbers.size // LANES)
    flat = np.zeros(rows * LANES, np.uint64)
    flat[: numbers.size] = numbers.ravel()
    lanes = flat.reshape(rows, LANES)
    words = lanes[:, 0]
    for i in range(1, LANES):
        words = words | lanes[:, i] << np.uint64(i * bits)
    return words.astype("<u8").view(np.uint8).reshape(rows, 8)[:, :bits].tobytes()[: packed_bytes(numbers.size, bits)]


def unpack(payload: bytes, count: int, bits: int) -> np.ndarray:
    """The numbers of `pack` as uint8 [count]; the payload has just their bytes."""
    if bits == 8:
        return np.frombuffer(payload, np.uint8)
    rows = -(-count // LANES)
    raw = np.zeros(rows * bits, np.uint8)
    raw[: len(payload)] = np.frombuffer(payload, np.uint8)
    wide = np.zeros((rows, 8), np.uint8)
    wide[:, :bits] = raw.reshape(rows, bits)
    words, mask = wide.view("<u8")[:, 0], np.uint64(2**bits - 1)
    out = np.empty((rows, LANES), np.uint8)
    for i in range(LANES):
        out[:, i] = words >> np.uint64(i * bits) & mask
    return out.ravel()[:count]
