"""Prediction inside one tensor: a token is written as its difference from the token before it, or from the same token
of the batch entry before, or as it is, whichever is smallest.

Text embeddings are mostly padding, and padded positions hardly differ from each other; the first token and the empty
prompt's whole row are in every pair. Tokens whose differences are alike in size share a curve, so that the quiet ones
cost a fraction of a bit a value. Both sides predict from rounded tokens, so errors do not add up.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ..errors import CodecError
from .entropy import Ans, read_varint, varint
from .grain import rows_of
from .uniform import LARGEST, Uniform

LOUD = (0.0, 1 / 16, 1 / 4, 1.0, 4.0, 16.0)  # a curve is shared between two of these mean differences, in steps
WAYS = 3  # a token is predicted from nothing, from the token before, from the same token of the batch entry before
MOST_TOKENS = 1 << 16  # of a tensor: they are predicted one after the other, in Python


class Near(Uniform):
    """The codec of a spec with `+near`."""

    def payload_bytes(self, shape: tuple[int, ...]) -> int:
        """The most it can be: `uniform`'s, four bytes a token, and a curve for each loudness."""
        return super().payload_bytes(shape) + 4 * rows_of(shape)[0] + 64 * (len(LOUD) + 2) if math.prod(shape) else 0

    def _pack(self, tensor: Tensor) -> bytes:
        if not tensor.numel():
            return b""
        rows, d, back = self._layout(tuple(tensor.shape))
        values = tensor.to(torch.float64).numpy().reshape(rows, d)
        step, said = self.step_of(values.ravel())
        made, steps, ways = np.zeros((rows, d)), np.zeros((rows, d)), np.zeros(rows, np.int64)
        for row in range(rows if step else 0):
            guesses = [made[row - far] if 0 < far <= row else 0 for far in back]
            with np.errstate(over="ignore"):
                tried = [np.rint((values[row] - guess) / step) for guess in guesses]
            ways[row] = way = np.argmin([np.abs(found).sum() for found in tried])  # of equals the first, which is there
            steps[row] = tried[way]
            if np.abs(steps[row]).max() > LARGEST:
                raise CodecError(f"{self.spec}: a value is more than {LARGEST:,} steps from zero; use a larger step.")
            made[row] = guesses[way] + steps[row] * step
        loud = np.digitize(np.abs(steps).mean(axis=1), LOUD, right=True)
        parts = [Ans().pack((ways + WAYS * loud).astype(np.int32))]
        parts += [self.coder_of_numbers.pack(steps[loud == k].astype(np.int32).ravel()) for k in np.unique(loud)]
        body = said + b"".join(varint(len(part)) + part for part in parts)
        return varint(len(body)) + body

    def _unpack(self, payload: bytes, shape: tuple[int, ...]) -> Tensor:
        if not math.prod(shape):
            return torch.empty(shape)
        rows, d, back = self._layout(shape)
        step, at = self.step_at(payload)
        part, at = _part(payload, at)
        codes = Ans().whole(part, rows)
        if codes.min() < 0 or codes.max() >= WAYS * (len(LOUD) + 1):
            raise CodecError(f"{self.spec}: a token is predicted in no known way.")
        loud, ways = np.divmod(codes.astype(np.int64), WAYS)
        made = np.empty((rows, d))
        for k in np.unique(loud):
            part, at = _part(payload, at)
            made[loud == k] = self.coder_of_numbers.whole(part, int((loud == k).sum()) * d).reshape(-1, d)
        if at != len(payload):
            raise CodecError(f"{self.spec}: {len(payload) - at} bytes follow the last number.")
        with np.errstate(over="ignore", invalid="ignore"):  # what a peer's step makes infinite is refused
            made *= step
            for row in np.flatnonzero(ways):
                if back[ways[row]] > row:
                    raise CodecError(f"{self.spec}: a token is predicted from one that is not there.")
                made[row] += made[row - back[ways[row]]]
            return torch.from_numpy(made.astype(np.float32)).reshape(shape)

    def _layout(self, shape: tuple[int, ...]) -> tuple[int, int, tuple[int, int, int]]:
        """(tokens, values of a token, how many tokens back each way of prediction looks); raises CodecError."""
        rows, d = rows_of(shape)
        if rows > MOST_TOKENS:
            raise CodecError(f"{self.spec}: a tensor has at most {MOST_TOKENS:,} tokens, not {rows:,}.")
        return rows, d, (0, 1, shape[-2] if len(shape) in (2, 3) else 1)


def _part(payload: bytes, at: int) -> tuple[bytes, int]:
    """(the part whose length stands at `at`, where it ends); raises CodecError."""
    size, at = read_varint(payload, at)
    if size > len(payload) - at:
        raise CodecError("The payload ends inside a part.")
    return payload[at : at + size], at + size
