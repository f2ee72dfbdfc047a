"""Solutions of tutorial 04: exercise id -> answer."""

import struct

import torch
from scipy.linalg import hadamard


def encode(values):
    """Scale and zero point, five bytes, then a byte a value."""
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    scale = (high - low) / 255 or 1.0
    zero = round(-low / scale)
    numbers = ((values / scale).round() + zero).clamp(0, 255).to(torch.uint8)
    return struct.pack("<fB", scale, zero) + numbers.numpy().tobytes()


def decode(payload, shape):
    """The values that the levels stand for."""
    scale, zero = struct.unpack("<fB", payload[:5])
    numbers = torch.frombuffer(bytearray(payload[5:]), dtype=torch.uint8)
    return (scale * (numbers.float() - zero)).reshape(shape)


def best_limit(values, requantise):
    """Sixty limits up to the largest magnitude; the one with the least squared error."""
    limits = values.abs().max() * torch.linspace(0.1, 1, 60)
    errors = [(requantise(values, limit) - values).square().mean() for limit in limits]
    return limits[torch.stack(errors).argmin()]


def outliers(hidden):
    """Channels whose root mean square over the tokens is more than six times the median channel's."""
    large = hidden.square().mean(0).sqrt()
    return (large > 6 * large.median()).nonzero().flatten()


def spread(hidden, size):
    """Each block of neighbours times the Hadamard matrix over the root of its size."""
    matrix = torch.tensor(hadamard(size), dtype=torch.float32)
    return (hidden.reshape(-1, size) @ matrix / size**0.5).reshape(hidden.shape)


def at_quality(values, snr):
    """A step whose rounding error is snr dB below the values, and the bits of an ideal code."""
    step = (12 * values.square().mean() / 10 ** (snr / 10)) ** 0.5
    numbers = (values / step).round()
    counts = torch.unique(numbers, return_counts=True)[1]
    p = counts / counts.sum()
    return numbers, step, -(p * p.log2()).sum()


def closed_loop(tensors, wire):
    """Each difference is from what the receiver has, so its rounding is mended by the next one."""
    last, received = torch.zeros_like(tensors[0]), []
    for x in tensors:
        last = last + wire(x - last)
        received.append(last)
    return received


def factor(scale):
    """(1 - scale) times one error and scale times the other; squares of independent errors add."""
    return ((scale - 1) ** 2 + scale**2) ** 0.5


ANSWERS = {
    "04.1": (encode, decode),
    "04.2": best_limit,
    "04.3": outliers,
    "04.4": spread,
    "04.5": at_quality,
    "04.6": closed_loop,
    "04.7": factor,
}
