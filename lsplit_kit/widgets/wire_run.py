"""What WireTap's Run does: split the model as the controls say, make a reply or a picture, and tell how far it is."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from typing import Any

from .settings import LOSSLESS

Note = Callable[[int, int], None]


def kind_of(model: Any) -> str:
    """ "text" or "picture", of a model, a pipeline or a name; loads nothing. Raises as `load` does for a name."""
    from ..models.names import is_picture

    model = model[0] if isinstance(model, tuple) else model
    if isinstance(model, str):
        return "picture" if is_picture(model) else "text"
    return "picture" if hasattr(model, "scheduler") and hasattr(model, "components") else "text"


def loaded(model: Any) -> Any:
    """The model itself, or the one of this name."""
    from ..face import load  # the verb: a panel runs the kit the way its reader would

    model = load(model) if isinstance(model, str) else model
    return model[0] if isinstance(model, tuple) else model


def cut(model: Any, settings: Mapping[str, Any], body: Any, certificate: str | os.PathLike[str] | None = None) -> Any:
    """The model, split as the settings say; raises LsplitErrors."""
    from ..face import split

    pair = tuple(None if settings[name] == LOSSLESS else settings[name] for name in ("codec_up", "codec_down"))
    network = None if settings["network"] == "none" else settings["network"]
    if kind_of(model) == "picture":
        pipe = split(model, body=body, codec=pair, mode=settings["mode"], network=network, certificate=certificate)
        pipe.set_progress_bar_config(disable=True)
        return pipe
    return split(model, head=settings["head"], tail=settings["tail"], body=body, codec=pair, cache=settings["cache"],
                 network=network, certificate=certificate)  # fmt: skip


def reply(lm: Any, settings: Mapping[str, Any], note: Note, say: Callable[[str], None]) -> str:
    """The greedy reply of a split language model; `note(done, of)` after every token, `say(text so far)` before it."""
    import torch

    from .streaming import Progress, Streamer, encode

    tokenizer = getattr(lm, "lsplit_tokenizer", lambda: None)()
    batch, progress, most = encode(tokenizer, settings["prompt"]), Progress(), settings["new_tokens"]

    def heard() -> None:
        say(progress.text)
        note(progress.tokens, most)

    with torch.no_grad():
        out = lm.generate(
            **batch, max_new_tokens=most, do_sample=False, pad_token_id=tokenizer.pad_token_id,
            streamer=Streamer(tokenizer, progress, heard),
        )  # fmt: skip
    return tokenizer.decode(out[0, batch["input_ids"].shape[1] :], skip_special_tokens=True)


def picture(pipe: Any, settings: Mapping[str, Any], call: Mapping[str, Any] | None, note: Note) -> Any:
    """The picture of a split pipeline; `note(done, of)` after every step."""
    import torch

    from ..measure.rate import step_hook
    from ..models.toy_pipes import toy_pipe_call
    from ..split.image import SplitPipeline

    classes = type(pipe).__mro__
    after = classes[classes.index(SplitPipeline) + 1 :]
    library: Any = next(cls for cls in after if "__call__" in vars(cls))  # its signature says what a call takes
    call = toy_pipe_call(getattr(pipe, "lsplit_name", "")) if call is None else call
    asked = {
        "prompt": settings["prompt"], "num_inference_steps": settings["steps"],
        "guidance_scale": settings["guidance_scale"], "generator": torch.Generator().manual_seed(settings["seed"]),
        **step_hook(library, note, pipe.scheduler),
    }  # fmt: skip
    takes = inspect.signature(library.__call__).parameters
    return pipe(**{name: value for name, value in asked.items() if name in takes}, **call).images[0]
