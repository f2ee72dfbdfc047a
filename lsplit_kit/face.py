"""The four verbs: load a model, load only its local side, split it, start a host. Here `body=` becomes a link."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch

from .errors import CodecError, PlanError, UnsupportedModel, UnsupportedOption
from .quantization import codec as codec_of
from .quantization import lossless
from .quantization.auto import About, is_auto, resolved
from .split.body import body_of, fingerprint_of
from .split.calibrated import with_calibrations
from .split.plan import SplitPlan
from .split.text import split_text
from .wire.emulated import EmulatedLink
from .wire.here import InProcess, Loopback
from .wire.link import BodyHost, Link
from .wire.network import Network
from .wire.network import network as network_of

if TYPE_CHECKING:
    from .remote.host import Host


def load(name_or_path: str | os.PathLike[str], dtype: torch.dtype | str = torch.float32) -> Any:
    """(model, tokenizer), or a pipeline: a short name ("smollm2", "emoji-ldm", "toy-*"), a folder, or a hub id.

    Raises WeightsError.
    """
    from .models.load import load
    from .models.names import is_picture
    from .models.pictures import load_pipe

    return load_pipe(name_or_path, dtype) if is_picture(name_or_path) else load(name_or_path, dtype)


def load_local(
    name_or_path: str | os.PathLike[str], head: int = 2, tail: int = 2, dtype: torch.dtype | str = torch.float32
) -> Any:
    """The model with only head, tail and ends in memory, or the pipeline without its denoiser; for split(body=host)."""
    from .models.partial import load_local

    return load_local(name_or_path, head, tail, dtype)


def host(
    model: str | os.PathLike[str] = "smollm2", head: int = 2, tail: int = 2, port: int = 0, **options: Any
) -> Host:
    """A real body host in a process of its own; use as a context manager. `.address`, `.pid`, `.holds`.

    With whole=True it holds all of the model and reads prompts and replies in clear, for `deploy(model, "cloud")`.
    """
    from .remote.host import host

    return host(model, head=head, tail=tail, port=port, **options)


def split(
    model: Any,
    plan: SplitPlan | None = None,
    *,
    head: int | None = None,
    tail: int | None = None,
    body: str | Link | Sequence[str] | None = None,
    codec: str | tuple[str, str] | None = None,
    cache: str = "kv",
    at: str = "denoiser",
    mode: str = "per_step",
    guidance: str | None = None,
    skip: float | str | None = None,
    timeout: float = 60.0,
    network: str | Network | None = None,
    chunk: int | None = None,
    certificate: str | os.PathLike[str] | None = None,
) -> Any:
    """Cut `model` in three and put its body elsewhere; returns the same kind of model, the original stays as it was.

    model: a causal language model of transformers, or a pipeline of diffusers. body: None (this process), "loopback"
    (this process, real frames), "rpyc://host:port", over TLS "rpycs://host:port" with certificate= the bundle that you
    were given (or its path in LSPLIT_CERTIFICATE), a list of these, or a Link. Of a list the first with a free place
    is used; when it is lost or does not answer in `timeout` seconds, the session goes on at the next (a warning says
    so), which is sent everything again, so that one more host has seen the prompt; it stays there until that one is
    lost. All have to hold the same: one that does not is refused here, or when it is first reached. codec: one spec or
    (up, down); None is lossless for the model's number format, "auto:image" the best pair that was measured for
    pictures. Text: cache is kv, hidden (arXiv 2310.14651) or none; chunk: a longer prompt goes up in pieces of so many
    positions, all under way at once (tokens stay, the last bits of logits need not). Pictures: at is "denoiser" or
    "blocks" (head down blocks and tail up blocks of a U-Net, or blocks of a transformer, stay local); mode is
    "per_step" or "lockstep" (the host steps its own scheduler, only noise comes down); guidance is applied at the
    "host" or "local"; skip is "auto", or a share of the calls (0 to 0.5), that are not made where the noise hardly
    changes, but guessed, which makes another picture.
    network: what the link goes through, on a virtual clock: lan, wifi, 5g, 4g, dsl, satellite, nb-iot, or a Network;
    `lk.EmulatedLink(lm.link, ...)` has more.
    """
    model = model[0] if isinstance(model, tuple) else model
    pair = _codecs(codec)  # before a model is loaded
    if isinstance(model, (str, os.PathLike)):
        _check_plan(model, plan, head, tail)
        model = load(model)
        model = model[0] if isinstance(model, tuple) else model
    if plan is not None and (head is not None or tail is not None):
        raise PlanError("Give either a plan or head= and tail=, not both.")
    if plan is not None and not isinstance(plan, SplitPlan):
        raise PlanError(f"plan takes a SplitPlan(head, tail), got {type(plan).__name__}.")
    conditions = None if network is None else network_of(network)
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout <= 86_400:
        raise UnsupportedOption(f"timeout takes seconds above 0 and at most 86,400, got {timeout!r}.")
    if hasattr(model, "remote"):
        raise UnsupportedModel("This model is split already; split the model it was made from.")
    kept = getattr(model, "lsplit_plan", None)  # a model of load_local has its cuts already
    if plan is None:
        default = kept or SplitPlan()
        plan = SplitPlan(default.head if head is None else head, default.tail if tail is None else tail)
    if hasattr(model, "scheduler") and hasattr(model, "components"):
        if chunk is not None:
            raise UnsupportedOption("chunk= is for the prompts of language models; a picture has none to cut.")
        return _over(
            conditions, _split_picture(model, plan, body, pair, at, mode, guidance, skip, timeout, certificate)
        )
    if not hasattr(model, "generate") or not hasattr(model, "config"):
        raise UnsupportedModel(
            "split() takes a causal language model of transformers or a pipeline of diffusers, "
            f"got {type(model).__name__}."
        )
    if kept is not None and plan != kept:
        raise PlanError(f"This model was loaded with {kept} only; load it again for {plan}.")
    if (at, mode, guidance, skip) != ("denoiser", "per_step", None, None):
        raise UnsupportedOption(
            "at=, mode=, guidance= and skip= are for pictures; a language model takes head=, tail=, cache=."
        )
    pair = resolved(pair, About("text", fingerprint=lambda: fingerprint_of(model, plan)[0]))
    pair = with_calibrations(pair, model, plan)
    up, down = (spec or lossless(model.dtype) for spec in pair)
    link = link_to(
        body, lambda: body_of(model, plan), lambda: fingerprint_of(model, plan), model.dtype, timeout, certificate
    )
    try:
        return _over(conditions, split_text(model, plan, link, cache, up, down, chunk))
    except BaseException:
        link.close()
        raise


def _split_picture(
    pipe: Any,
    plan: SplitPlan,
    body: str | Link | Sequence[str] | None,
    pair: Any,
    at: str,
    mode: str,
    guidance: str | None,
    skip: float | str | None,
    timeout: float,
    certificate: str | os.PathLike[str] | None,
) -> Any:
    from .split.image import guided_at, part_of, picture_body, picture_cut, split_image
    from .split.skipping import skip_of

    if at not in ("denoiser", "blocks") or guidance not in (None, "host", "local"):
        raise UnsupportedOption(
            f'at is "denoiser" or "blocks", guidance "host" or "local"; got {at!r} and {guidance!r}.'
        )
    skip = skip_of(skip, at)
    denoiser = getattr(pipe, part_of(pipe))
    if hasattr(denoiser, "lsplit_digests") and (at != "denoiser" or body is None or body == "loopback"):
        raise UnsupportedModel(
            "This pipeline was loaded without its denoiser: give body= a host's address, and leave "
            "at='denoiser'; a cut inside needs the pipeline of lk.load."
        )
    cut = picture_cut(denoiser, at, plan.head, plan.tail)
    name = getattr(pipe, "lsplit_name", None) or type(pipe).__name__

    def here() -> Any:
        return picture_body(denoiser, cut, name)

    about = About("image", at, mode, guided_at(pipe, mode, guidance), lambda: here().info.fingerprint)
    up, down = (spec or lossless(denoiser.dtype) for spec in resolved(pair, about))

    link = link_to(body, here, lambda: (here().info.fingerprint, *cut), denoiser.dtype, timeout, certificate)
    try:
        return split_image(pipe, at, plan.head, plan.tail, link, mode, guidance, up, down, skip)
    except BaseException:
        link.close()
        raise


def _over(conditions: Network | None, made: Any) -> Any:
    if conditions is not None:
        made.remote.link = EmulatedLink(made.remote.link, conditions)
    return made


def link_to(
    body: str | Link | Sequence[str] | None,
    here: Callable[[], BodyHost],
    fingerprint: Callable[[], tuple[str, int | None, int | None]],
    dtype: torch.dtype | str,
    timeout: float,
    certificate: str | os.PathLike[str] | None = None,
) -> Link:
    """What `body=` says, as a link; `here` makes the body for this process. Raises as RpycLink does."""
    several = isinstance(body, (list, tuple)) and len(body) > 0
    addresses: list[Any] = list(body) if several else [body]  # type: ignore[arg-type]
    if certificate is not None:
        from .remote.address import check_certificate

        check_certificate(certificate, addresses)
    if body is None or body == "loopback":
        return (InProcess if body is None else Loopback)(here())
    if not isinstance(body, str) and hasattr(body, "step") and hasattr(body, "info"):
        return cast("Link", body)
    if all(_is_address(address) for address in addresses):
        from .remote.client import RpycLink
        from .remote.fleet import Fleet

        known, start, stop = fingerprint()
        asked: Any = dict(fingerprint=known, start=start, stop=stop, dtype=str(dtype).removeprefix("torch."))
        asked["certificate"] = certificate  # an address without TLS has no use for it
        return Fleet(addresses, timeout, **asked) if several else RpycLink(addresses[0], timeout, **asked)
    body = next((a for a in addresses if not _is_address(a)), body)
    said = repr(body[:80]) if isinstance(body, str) else type(body).__name__  # a model's repr is a page long
    raise UnsupportedOption(f'body={said} is no address; use None, "loopback", "rpyc://host:port" or a list of these.')


def _is_address(body: object) -> bool:
    return isinstance(body, str) and body.startswith(("rpyc://", "rpycs://"))


def _codecs(asked: str | tuple[str, str] | None) -> tuple[str | None, str | None]:
    pair = (asked, asked) if isinstance(asked, str) or asked is None else asked
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise CodecError(f"codec takes one spec or a pair (up, down), got {asked!r}.")
    for spec in pair:
        if spec is not None and not is_auto(spec):
            codec_of(spec)
    return pair[0], pair[1]


def _check_plan(model: str | os.PathLike[str], plan: SplitPlan | None, head: int | None, tail: int | None) -> None:
    from .models.names import check_plan

    known = plan if isinstance(plan, SplitPlan) else SplitPlan()
    check_plan(model, known.head if head is None else head, known.tail if tail is None else tail)
