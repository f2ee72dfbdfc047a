"""The four verbs: load a model, load only its local side, split it, start a host. Here `body=` becomes a link."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch

from .errors import CodecError, PlanError, UnsupportedModel, UnsupportedOption
from .quantization import codec as codec_of
from .quantization import lossless
from .split.body import body_of, fingerprint_of
from .split.plan import SplitPlan
from .split.text import split_text
from .wire.link import InProcess, Link, Loopback

if TYPE_CHECKING:
    from .remote.host import Host


def load(name_or_path: str | os.PathLike[str], dtype: torch.dtype | str = torch.float32) -> tuple[Any, Any]:
    """(model, tokenizer): "smollm2", a "toy-*" name, a folder, or a hub id; raises WeightsError."""
    from .models.load import load

    return load(name_or_path, dtype)


def load_local(
    name_or_path: str | os.PathLike[str], head: int = 2, tail: int = 2, dtype: torch.dtype | str = torch.float32
) -> Any:
    """The model with only head, tail and ends in memory; the body's layers are structure without weights."""
    from .models.partial import load_local

    return load_local(name_or_path, head, tail, dtype)


def host(
    model: str | os.PathLike[str] = "smollm2", head: int = 2, tail: int = 2, port: int = 0, **options: Any
) -> Host:
    """A real body host in a process of its own; use as a context manager. `.address`, `.pid`, `.holds`."""
    from .remote.host import host

    return host(model, head=head, tail=tail, port=port, **options)


def split(
    model: Any,
    plan: SplitPlan | None = None,
    *,
    head: int | None = None,
    tail: int | None = None,
    body: str | Link | None = None,
    codec: str | tuple[str, str] | None = None,
    cache: str = "kv",
    timeout: float = 60.0,
) -> Any:
    """Cut `model` in three and put its body elsewhere; returns the same kind of model, the original stays as it was.

    body: None (this process), "loopback" (this process, real frames), "rpyc://host:port", or a Link. codec: one spec or
    (up, down); None is lossless for the model's number format. cache: kv, hidden (arXiv 2310.14651) or none.
    """
    model = model[0] if isinstance(model, tuple) else model
    pair = _codecs(codec)  # before a model is loaded
    if isinstance(model, (str, os.PathLike)):
        _check_plan(model, plan, head, tail)
        model = load(model)[0]
    if not hasattr(model, "generate") or not hasattr(model, "config"):
        raise UnsupportedModel(f"split() takes a causal language model of transformers, got {type(model).__name__}.")
    if hasattr(model, "remote"):
        raise UnsupportedModel("This model is split already; split the model it was made from.")
    if plan is not None and (head is not None or tail is not None):
        raise PlanError("Give either a plan or head= and tail=, not both.")
    if plan is not None and not isinstance(plan, SplitPlan):
        raise PlanError(f"plan takes a SplitPlan(head, tail), got {type(plan).__name__}.")
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout <= 86_400:
        raise UnsupportedOption(f"timeout takes seconds above 0 and at most 86,400, got {timeout!r}.")
    kept = getattr(model, "lsplit_plan", None)  # a model of load_local has its cuts already
    if plan is None:
        default = kept or SplitPlan()
        plan = SplitPlan(default.head if head is None else head, default.tail if tail is None else tail)
    if kept is not None and plan != kept:
        raise PlanError(f"This model was loaded with {kept} only; load it again for {plan}.")
    up, down = (spec or lossless(model.dtype) for spec in pair)
    link = _link(model, plan, body, timeout)
    try:
        return split_text(model, plan, link, cache, up, down)
    except BaseException:
        link.close()
        raise


def _link(model: Any, plan: SplitPlan, body: str | Link | None, timeout: float) -> Link:
    if body is None or body == "loopback":
        return (InProcess if body is None else Loopback)(body_of(model, plan))
    if not isinstance(body, str) and hasattr(body, "step") and hasattr(body, "info"):
        return body
    if isinstance(body, str) and body.startswith("rpyc://"):
        from .remote.client import RpycLink

        fingerprint, start, stop = fingerprint_of(model, plan)
        return RpycLink(
            body, timeout=timeout, fingerprint=fingerprint, start=start, stop=stop,
            dtype=str(model.dtype).removeprefix("torch."),
        )  # fmt: skip
    said = repr(body[:80]) if isinstance(body, str) else type(body).__name__  # a model's repr is a page long
    raise UnsupportedOption(f'body takes None, "loopback" or an address "rpyc://host:port", got {said}.')


def _codecs(asked: str | tuple[str, str] | None) -> tuple[str | None, str | None]:
    pair = (asked, asked) if isinstance(asked, str) or asked is None else asked
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise CodecError(f"codec takes one spec or a pair (up, down), got {asked!r}.")
    for spec in pair:
        if spec is not None:
            codec_of(spec)
    return pair[0], pair[1]


def _check_plan(model: str | os.PathLike[str], plan: SplitPlan | None, head: int | None, tail: int | None) -> None:
    from .models.names import check_plan

    known = plan if isinstance(plan, SplitPlan) else SplitPlan()
    check_plan(model, known.head if head is None else head, known.tail if tail is None else tail)
