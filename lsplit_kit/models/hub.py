"""A model of the Hugging Face hub, or one that is in a folder already, by the library's own loader."""

from __future__ import annotations

from typing import Any

import torch

from ..errors import WeightsError
from .names import known_names, suggestion

HUB_SECONDS = 4.0


def hub_answers() -> bool:
    """Whether the hub can be reached: asked once and shortly, for the library itself tries for half a minute."""
    import huggingface_hub.constants as settings
    from huggingface_hub.utils import get_session

    if settings.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(settings.ENDPOINT, timeout=HUB_SECONDS)
    except Exception:  # whatever the network library calls it, there was no answer
        return False
    return True


def pretrained(name: str, dtype: torch.dtype, local: bool, offline: bool) -> Any:
    """The model of a folder (`local`) or hub id, in eval mode; raises WeightsError, also where tensors are missing."""
    from transformers import AutoModelForCausalLM

    try:
        # Without trust_remote_code=False a model that brings its own code would ask on the terminal.
        model, report = AutoModelForCausalLM.from_pretrained(
            name, dtype=dtype, local_files_only=local or offline, trust_remote_code=False, output_loading_info=True
        )
    except Exception as error:
        raise _explain(name, local, offline, error) from error
    missing = sorted(report["missing_keys"])
    if missing:  # the library fills them with random numbers
        raise WeightsError(
            f"The weights of {name} are not complete: {missing[0]} is missing"
            + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
            + "; fetch or save the model again."
        )
    return model.eval()


def _explain(name: str, local: bool, offline: bool, error: Exception) -> WeightsError:
    if local:
        return WeightsError(
            f"The folder {name} cannot be loaded as a language model ({type(error).__name__}: {_first_line(error)})."
        )
    if "trust_remote_code" in str(error):
        return WeightsError(f"The model {name} needs code of its own, which the kit does not run.")
    if not isinstance(error, OSError):
        return WeightsError(
            f"The model {name} cannot be loaded as a language model ({type(error).__name__}: {_first_line(error)})."
        )
    hub = "the Hugging Face hub cannot be reached" if offline else "the Hugging Face hub did not give it"
    if "/" not in name:
        near = suggestion(name)
        hint = f"did you mean {near!r}?" if near else f"the names the kit knows are {', '.join(known_names())}."
        return WeightsError(f"There is no model named {name!r}: it is no folder, {hub}; {hint}")
    return WeightsError(
        f"The model {name} is not on this machine and {hub}: check the name and the network, or pass a folder."
    )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")[:200].rstrip(".")
