"""Two more verbs of the face: deploy a model local, at a cloud host or split, and compare the three on one prompt."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .errors import UnsupportedOption
from .face import link_to, load, split
from .measure.deployment import (
    WHERE,
    DeployedLink,
    Deployment,
    PictureDeployment,
    Speeds,
    TextDeployment,
    outcomes_table,
)
from .models.whole import Asking, asking, is_pipeline, whole_of
from .wire.link import Link
from .wire.network import Network
from .wire.network import network as network_of
from .wire.timed import Timed

if TYPE_CHECKING:
    import pandas as pd

HOW = ("plan", "head", "tail", "codec", "cache", "at", "mode", "guidance", "chunk")  # what `deploy` hands to `split`


def deploy(
    model: Any,
    where: str = "split",
    *,
    body: str | Link | Sequence[str] | None = None,
    network: str | Network | None = None,
    local_speed: float = 1.0,
    host_speed: float = 1.0,
    timeout: float = 60.0,
    certificate: str | os.PathLike[str] | None = None,
    **how: Any,
) -> Deployment:
    """The model where it is to run: "local", "cloud" (all of it at the host) or "split"; then `.run(prompt, ...)`.

    Times are emulated: one machine, a virtual clock, the computing that was measured divided by the speed of its side,
    and a network (as in `split`; None: none at all). body: None, "loopback" (frames are counted), an address, or a list
    of addresses (as in `split`, but a reply is lost with its cloud host); for "cloud" those of hosts with `--whole`,
    whose word is taken for what they serve. certificate: for addresses rpycs://, as in `split`; how: options of
    `split`, for "split". Raises UnsupportedOption, UnsupportedModel, and what `split` raises.
    """
    if where not in WHERE:
        raise UnsupportedOption(f"where takes {', '.join(WHERE)}, got {where!r}.")
    _known_options(how)
    speeds, conditions = Speeds(local_speed, host_speed), network_of(network)
    Timed(*speeds)  # its sentence for a speed that is none, before anything slow
    model = model[0] if isinstance(model, tuple) else model
    if isinstance(model, (str, os.PathLike)):
        if where == "cloud" and body not in (None, "loopback"):
            model = asking(model)  # no weights: they are at the host
        else:
            model = load(model)
            model = model[0] if isinstance(model, tuple) else model
    picture = model.lsplit_picture if isinstance(model, Asking) else is_pipeline(model)
    if where == "cloud":
        link = DeployedLink(
            link_to(body, lambda: whole_of(model), lambda: ("", None, None), "", timeout, certificate), conditions
        )
    elif where == "split":
        model = split(model, body=body, timeout=timeout, certificate=certificate, **how)
        link = model.remote.link = DeployedLink(model.remote.link, conditions)
    made = PictureDeployment if picture else TextDeployment
    return made(where, model, None if where == "local" else link, speeds)


def compare(
    model: Any,
    prompt: Any,
    *,
    body: str | Mapping[str, str] | None = "loopback",
    network: str | Network | None = None,
    local_speed: float = 1.0,
    host_speed: float = 1.0,
    certificate: str | os.PathLike[str] | None = None,
    **options: Any,
) -> pd.DataFrame:
    """The same prompt under all three deployments, one row each; times are emulated, see `deploy`.

    body: as for `deploy`, or {"cloud": address, "split": address} for two hosts. options: those of `split` and those
    of a deployment's `run`.
    """
    model = load(model) if isinstance(model, (str, os.PathLike)) else model
    how = {name: options.pop(name) for name in tuple(options) if name in HOW}
    outcomes = []
    for where in WHERE:
        at = body.get(where) if isinstance(body, Mapping) else body
        with deploy(
            model, where, body=at, network=network, local_speed=local_speed, host_speed=host_speed,
            certificate=certificate, **how,
        ) as deployed:  # fmt: skip
            outcomes.append(deployed.run(prompt, **options))
    return outcomes_table(outcomes)


def _known_options(how: Mapping[str, object]) -> None:
    odd = [name for name in how if name not in HOW]
    if odd:
        raise UnsupportedOption(f"Unknown option {odd[0]!r}; a split takes {', '.join(HOW)}.")
