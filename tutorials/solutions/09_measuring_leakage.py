"""Solutions of tutorial 09: exercise id -> answer."""

import math

import numpy as np


def leak(log_prob, prior_log_prob):
    """The prior's surprise, the attacker's, and how much smaller it is, in bits a token."""
    h0 = -np.mean(prior_log_prob) / np.log(2)
    ce = -np.mean(log_prob) / np.log(2)
    return h0, ce, h0 - ce


def best_tau(scores, log_prior, truth, taus):
    """The tau of least cross-entropy, and that."""

    def ce(tau):
        logits = tau * scores + log_prior
        log_prob = logits - np.logaddexp.reduce(logits, 1, keepdims=True)
        return -log_prob[np.arange(len(truth)), truth].mean() / np.log(2)

    least, tau = min((ce(tau), tau) for tau in taus)
    return tau, least


def drawn_means(values, document, draws):
    """The mean over all tokens of the drawn documents, one for each row of draws."""
    return np.array([np.concatenate([values[document == d] for d in row]).mean() for row in draws])


def canary_bits(log_prob, size, eps):
    """Bits read of a secret drawn from a list of so many, and Hoeffding's bound with 95 % confidence."""
    q = (1 - eps) * np.exp(log_prob) + eps / size
    bits = np.mean(np.log2(size) + np.log2(q))
    width = np.log2(size) - np.log2(eps)
    return bits, bits - width * np.sqrt(np.log(20) / (2 * len(log_prob)))


def threshold(ahead, level):
    """The ceil(level (n + 1))-th smallest mass."""
    k = math.ceil(level * (len(ahead) + 1))
    return math.inf if k > len(ahead) else np.sort(ahead)[k - 1]


def at_most(payload, h0, vocabulary):
    """Fano's inequality for what the payload cannot carry, solved for the accuracy."""
    left = max(0.0, h0 - 8 * payload)
    return min(1.0, 1 - (left - 1) / math.log2(vocabulary - 1))


may = {"a", "c", "e"}

ANSWERS = {
    "09.1": leak,
    "09.2": best_tau,
    "09.3": drawn_means,
    "09.4": canary_bits,
    "09.5": threshold,
    "09.6": at_most,
    "09.7": may,
}
