"""Making a calibration: what a model's hidden vectors look like at a depth, and what an error in them costs.

The cost is measured, not assumed: gradients of log-probabilities of tokens drawn from the model's own prediction give
the Fisher information F of a hidden vector, and an error e moves the prediction by e F e / 2 nats (KL divergence, to
second order). The basis is the Karhunen-Loeve transform of the vectors in the metric F.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import PlanError, UnsupportedOption, WeightsError
from ..progress import progress as bar
from ..quantization.calibration import Calibration, folders, write
from ..quantization.entropy import OCTAVE, SHAPES, ZERO
from ..quantization.klt import Klt
from ..split.calibrated import facts_of
from ..split.graft import decoder_of
from .corpus import DOMAINS, windows

MASSIVE = 5.0  # medians; a longer vector (a first token) does not shape the basis, it gets a class of its own
EVEN = 0.05  # share of the metric that is the same in all directions, for those that the sample says nothing about
_FLOOR = 0.02  # least variance of a class's coefficient; the median spread is 1
_USUAL = 100  # vectors that a class's sensitivity is mixed with
_TRIED = (1.0, 1.4, 2.0, 3.0)  # shapes of the curve


def hidden_states(
    model: Any, pieces: Sequence[Tensor], depths: Iterable[int], seed: int = 0, progress: bool = False
) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """{depth: (hidden vectors [N, d], gradients [N, d])} after that many layers; pieces are token ids [T] each.

    Raises PlanError for a depth that the model does not have.
    """
    base, name = decoder_of(model)
    layers = getattr(base, name)
    wanted = _depths(depths, len(layers))
    found: dict[int, list] = {depth: [] for depth in wanted}
    draw = torch.Generator().manual_seed(seed)
    held: dict[int, Tensor] = {}

    def keeper(depth: int) -> Any:
        def keep(module: Any, args: Any, out: Any) -> Any:
            hidden = out[0] if isinstance(out, tuple) else out
            hidden = hidden if hidden.requires_grad else hidden.detach().requires_grad_(True)
            held[depth] = hidden
            return (hidden, *out[1:]) if isinstance(out, tuple) else hidden

        return keep

    hooks = [layers[depth - 1].register_forward_hook(keeper(depth)) for depth in wanted]
    try:
        with torch.enable_grad():
            for piece in bar(pieces, "reading", least=1 if progress else len(pieces) + 1):
                logs = model(piece[None], use_cache=False).logits[0].float().log_softmax(-1)
                drawn = torch.multinomial(logs.detach().exp(), 1, generator=draw)
                slopes = torch.autograd.grad(logs.gather(1, drawn).sum(), [held[depth] for depth in wanted])
                for depth, slope in zip(wanted, slopes, strict=True):
                    found[depth].append((held[depth].detach()[0].float().numpy(), slope[0].float().numpy()))
    finally:
        for hook in hooks:
            hook.remove()
    return {depth: tuple(map(np.concatenate, zip(*parts, strict=True))) for depth, parts in found.items()}  # type: ignore[misc]


def _depths(depths: Iterable[int], layers: int) -> list[int]:
    """Each depth once, in order; PlanError for one that a model of so many layers does not have."""
    wanted = sorted(set(depths))
    if not wanted or not all(isinstance(n, int) and 1 <= n <= layers for n in wanted):
        raise PlanError(
            f"A depth is a number of layers from 1 to {layers}, got {', '.join(map(str, wanted)) or 'none'}."
        )
    return wanted


def fitted(
    hidden: np.ndarray, gradients: np.ndarray, facts: Mapping[str, Any], classes: int = 32, seed: int = 0
) -> Calibration:
    """The calibration of hidden vectors [N, d] and gradients [N, d]; raises UnsupportedOption for too few vectors."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    count, d = hidden.shape
    if count < max(2 * d, 8 * classes):
        raise UnsupportedOption(f"A calibration of {d} values needs {max(2 * d, 8 * classes):,} tokens, got {count:,}.")
    hidden, gradients = hidden.astype(np.float64), gradients.astype(np.float64)
    length = np.linalg.norm(hidden, axis=1)
    usual = length < MASSIVE * np.median(length)
    mean = hidden[usual].mean(axis=0)
    metric = _root_of_fisher(gradients)
    spread, turn = np.linalg.eigh(np.cov((hidden[usual] - mean) @ metric, rowvar=False))
    basis = metric @ turn[:, ::-1] / np.median(np.sqrt(spread.clip(min=0)))
    said = {**facts, "tokens": count, "classes": classes}
    one = np.zeros((1, d))
    rough = Calibration(write({**said, "shape": 4}, mean, basis, one, one, np.ones(1)))
    coefficients = (hidden - rough.mean) @ rough.basis
    mixture = GaussianMixture(classes, covariance_type="diag", reg_covar=_FLOOR, init_params="k-means++",
                              max_iter=60, random_state=seed)  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        which = mixture.fit_predict(coefficients)
    spreads = np.clip(np.rint(OCTAVE * np.log2(np.sqrt(mixture.covariances_)) + ZERO), 0, 255)
    steps = _steps(gradients @ rough.back.T, which, usual, classes)
    sample = torch.from_numpy(hidden[:: max(1, count // 3000)].astype(np.float32))
    made = []
    for tried in _TRIED:
        shape = {**said, "shape": SHAPES.index(tried)}
        made.append(Calibration(write(shape, mean, basis, mixture.means_, spreads, steps)))
    return min(made, key=lambda known: len(Klt("klt:step=0.3+ans", 0.3, known).encode(sample).payload))


def _root_of_fisher(gradients: np.ndarray) -> np.ndarray:
    """F^(1/2) [d, d] of mean trace d, from gradients [N, d] whose longest hundredth is shortened."""
    size = np.linalg.norm(gradients, axis=1, keepdims=True)
    gradients = gradients * np.minimum(1, np.quantile(size, 0.99) / np.maximum(size, 1e-30))
    fisher = gradients.T @ gradients
    d = len(fisher)
    fisher = (1 - EVEN) * fisher / (np.trace(fisher) / d) + EVEN * np.eye(d)
    values, vectors = np.linalg.eigh(fisher)
    return (vectors * np.sqrt(values)) @ vectors.T


def _steps(slopes: np.ndarray, which: np.ndarray, usual: np.ndarray, classes: int) -> np.ndarray:
    """Each class's step [C] over the common one: where the prediction is sensitive, vectors are rounded finer."""
    cost = np.square(slopes).sum(axis=1)
    cost = np.minimum(cost, np.quantile(cost, 0.99))
    counts, mean = np.bincount(which, minlength=classes), cost[usual].mean()
    costs = (np.bincount(which, cost, minlength=classes) + _USUAL * mean) / (counts + _USUAL)
    steps = 1 / np.sqrt(costs / mean)
    return np.clip(steps / np.exp(np.average(np.log(steps), weights=counts)), 1 / 3, 3)


def calibrate(
    name: str, depths: Sequence[int] | None = None, texts: Sequence[Path] | None = None, progress: bool = False
) -> Iterator[tuple[Calibration, Path]]:
    """Calibrations of a named model at some depths, each saved in the user's folder as it is made.

    depths: 2 and two less than all layers, where none is given; texts: files instead of the kit's own. Raises
    PlanError, UnsupportedOption, WeightsError.
    """
    from ..models.load import load

    model, tokenizer = load(name)
    facts = facts_of(model)
    wanted = _depths(depths or (2, facts["layers"] - 2), facts["layers"])  # before the texts are read
    if texts:
        try:
            said = [path.read_text("utf-8") for path in texts]
        except (OSError, UnicodeDecodeError) as error:
            raise UnsupportedOption(f"--text takes files of UTF-8 text ({error}).") from None
        pieces = [
            p
            for t in said
            for p in tokenizer(t, return_tensors="pt", verbose=False).input_ids[0].long().split(512)
            if len(p) > 1
        ]
    else:
        pieces = [piece for domain in DOMAINS for piece in windows(tokenizer, domain, "calibrate")]
    facts |= {"model": Path(name).name, "texts": "own" if texts else " ".join(DOMAINS)}
    for depth, (hidden, gradients) in hidden_states(model, pieces, wanted, progress=progress).items():
        known = fitted(hidden, gradients, {**facts, "depth": depth})
        path = folders()[-1] / f"{facts['model']}.{depth:02}.{known.id[:8]}.safetensors"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            staging = path.with_suffix(".part")  # a reader sees a whole file or none
            staging.write_bytes(known.raw)
            staging.replace(path)
        except OSError as error:
            raise WeightsError(f"{path} cannot be written ({error.strerror}).") from None
        yield known, path
