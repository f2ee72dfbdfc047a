"""Solutions of tutorial 06: exercise id -> answer."""

import numpy as np


def frame_seconds(size, mbps, rtt_ms):
    """Bits over the rate, and half a round trip."""
    return 8 * size / (mbps * 1e6) + rtt_ms / 2 / 1000


def fit(rows):
    """Least squares on a column of ones, the positions, and what attention reads."""
    n, p, seconds = rows.T
    columns = np.stack([np.ones_like(n), n, n * (p + (n + 1) / 2)], axis=1)
    return np.linalg.lstsq(columns, seconds, rcond=None)[0]


def two_times(prompt, local, host, frame, up, down):
    """A step of the whole prompt, and one of a single position after it."""

    def step(n, p):
        return local(n, p) + up(frame(n)) + host(n, p) + down(frame(n))

    return step(prompt, 0), step(1, prompt)


def break_even_ms(rest, body, speed, size, mbps):
    """What the faster body saves, less what the bytes cost, is there to be waited away."""
    return max(0.0, 1000 * (body - body / speed - 8 * size / (mbps * 1e6)))


def tokens_a_trip(a, k):
    """1 + a + ... + a ** k."""
    return sum(a**i for i in range(k + 1))


def best_draft(a, draft, step, rtt_ms):
    """The k with the fewest seconds for each token."""

    def seconds(k):
        return (k * draft + step(k + 1) + rtt_ms / 1000) / tokens_a_trip(a, k)

    return min(range(17), key=seconds)


def makespan(stages, chunks, extra, rtt_ms):
    """The first piece goes through all stages, the others follow at the pace of the slowest."""
    times = [t / chunks + extra for t in stages]
    return sum(times) + (chunks - 1) * max(times) + rtt_ms / 1000


ANSWERS = {
    "06.1": frame_seconds,
    "06.2": fit,
    "06.3": two_times,
    "06.4": break_even_ms,
    "06.5": tokens_a_trip,
    "06.6": best_draft,
    "06.7": makespan,
}
