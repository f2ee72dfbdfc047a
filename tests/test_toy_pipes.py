"""The toy pipelines: repeatable, usable with a string, and with a denoiser in which every block counts."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from lsplit_kit.errors import WeightsError
from lsplit_kit.models.toy_pipes import build_toy_pipe, toy_pipe_call, toy_pipe_names

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # the libraries' own
    pytest.mark.parametrize("name", toy_pipe_names()),
]


@cache
def _pipe(name: str) -> Any:
    return build_toy_pipe(name)


def _denoiser(pipe: Any) -> torch.nn.Module:
    return pipe.unet if hasattr(pipe, "unet") else pipe.transformer


def _modules(pipe: Any) -> dict[str, torch.nn.Module]:
    return {label: part for label, part in pipe.components.items() if isinstance(part, torch.nn.Module)}


def _blocks(denoiser: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """The members of the denoiser's lists of blocks, and a U-Net's middle."""
    blocks = {"mid_block": denoiser.mid_block} if hasattr(denoiser, "mid_block") else {}
    for label, child in denoiser.named_children():
        if isinstance(child, torch.nn.ModuleList):
            blocks |= {f"{label}.{i}": block for i, block in enumerate(child)}
    return blocks


@cache
def _image(name: str, prompt: str) -> np.ndarray:
    generator = torch.Generator().manual_seed(0)
    call = dict(num_inference_steps=2, output_type="np", generator=generator) | toy_pipe_call(name)
    return np.asarray(_pipe(name)(prompt, **call).images)


def _flat(output: Any) -> torch.Tensor:
    """Most denoisers answer with a tensor, Z-Image with a list of them."""
    return torch.cat([part.flatten() for part in output]) if isinstance(output, list) else output.flatten()


class _Called(Exception):
    pass


def _first_call(pipe: Any, name: str) -> tuple[tuple, dict]:
    """The arguments of a denoiser's first call; the rest of the picture is not made."""

    def note(_: torch.nn.Module, args: tuple, kwargs: dict) -> None:
        raise _Called(args, kwargs)

    handle = _denoiser(pipe).register_forward_pre_hook(note, with_kwargs=True)
    with pytest.raises(_Called) as called:
        pipe("a red apple", num_inference_steps=2, output_type="latent", **toy_pipe_call(name))
    handle.remove()
    return called.value.args


def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_state_alone(name: str) -> None:
    before = torch.get_rng_state()
    again, other = build_toy_pipe(name), build_toy_pipe(name, seed=1)
    assert torch.equal(before, torch.get_rng_state())
    for label, part in _modules(_pipe(name)).items():
        twin, stranger = getattr(again, label).state_dict(), dict(getattr(other, label).named_parameters())
        assert not part.training
        assert all(torch.equal(tensor, twin[key]) for key, tensor in part.state_dict().items()), label
        assert not any(torch.equal(tensor, stranger[key]) for key, tensor in part.named_parameters()), label


def test_a_string_becomes_a_finite_picture_and_another_string_another_one(name: str) -> None:
    apple = _image(name, "a red apple")
    assert apple.shape[0] == 1 and apple.shape[-1] == 3 and max(apple.shape) <= 128
    assert np.isfinite(apple).all() and apple.std() > 0.05
    assert np.abs(apple - _image(name, "a blue boat at sea")).max() > 0.01


def test_every_block_of_the_denoiser_counts(name: str) -> None:
    """On the arguments of the denoiser's first call; every weight is put back, so the cached pipeline serves others."""
    pipe = _pipe(name)
    denoiser = _denoiser(pipe)
    args, kwargs = _first_call(pipe, name)

    def run() -> torch.Tensor:
        with torch.no_grad():
            return _flat(denoiser(*args, **kwargs)[0])

    before = run()
    assert torch.equal(before, run())
    assert _blocks(denoiser)
    for label, block in _blocks(denoiser).items():
        saved = [parameter.detach().clone() for parameter in block.parameters()]
        with torch.no_grad():
            for parameter in block.parameters():
                parameter.mul_(1.1)
        change = (run() - before).norm() / before.norm()
        with torch.no_grad():
            for parameter, old in zip(block.parameters(), saved, strict=True):
                parameter.copy_(old)
        assert change > 0.003, f"{label}: {change:.1e}"


def test_the_denoiser_takes_the_dtype(name: str) -> None:
    pipe = build_toy_pipe(name, dtype=torch.bfloat16)
    dtypes = {tensor.dtype for part in _modules(pipe).values() for tensor in part.parameters()}
    assert dtypes == {torch.bfloat16}


def test_an_unknown_name_is_refused(name: str) -> None:
    with pytest.raises(WeightsError, match="toy-sd"):
        build_toy_pipe(name + "-nonesuch")
