"""PictureSplit: choose cut, mode and codec; the unsplit and the split picture grow, and their bytes are counted."""

from __future__ import annotations

import base64
import copy
import inspect
import math
import os
import textwrap
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import ipywidgets as W

from ..errors import LsplitError, UnsupportedModel
from ..figures.paint import shown_at
from ..figures.picture import Choice, Seen, bytes_by_step, cut_name, picture_alt, picture_html, picture_png
from ..quantization.registry import specs
from ..wire.message import MODES
from .announcer import Announcer
from .readout import reply_html
from .settings import Setting, checked, field
from .worker import Stopped

FRAMES = 12  # about so many pictures are decoded before the last one
KEPT = 4  # unsplit pictures that are remembered


class PictureSplit(W.VBox):
    """A panel over one pipeline: Run makes the picture unsplit and split, and shows how they differ and what crossed.

    model: a pipeline of diffusers or its name, None for the first that the kit knows; body, certificate:
    as in `split`; call: further arguments of the pipeline's call.
    The settings below can be set from code too; what does not fit raises an LsplitError.
    """

    prompt, seed, steps, guidance_scale = Setting(), Setting(), Setting(), Setting()
    cut, mode, codec = Setting(), Setting(), Setting()

    def __init__(
        self, model: Any = None, body: Any = None, prompt: str = "a red apple", seed: int = 0, steps: int = 20,
        guidance_scale: float = 7.5, cut: str | int = "denoiser", mode: str = "per_step", codec: str = "int8",
        call: Mapping[str, Any] | None = None, certificate: str | os.PathLike[str] | None = None,
    ) -> None:  # fmt: skip
        from ..models.names import picture_names
        from ..models.toy_pipes import toy_pipe_call

        self.pipe, self.body = pipeline(picture_names()[0] if model is None else model, "PictureSplit"), body
        self.certificate = certificate
        self.cuts = cuts_of(self.pipe)
        self.call = dict(toy_pipe_call(getattr(self.pipe, "lsplit_name", "")) if call is None else call)
        self.picture: Any = None  # the split picture of the last run
        self._thread, self._stop = threading.Thread(), threading.Event()
        self._kept: dict[str, dict[int, Any]] = {}
        self._why = ""
        self._controls()
        prompt_box, *others = self.controls.values()
        super().__init__([prompt_box, W.HBox(others, layout={"flex_flow": "row wrap"}),
                          W.HBox([self.run_button, self.cancel_button]), self.status, self.output,
                          self.announcer])  # fmt: skip
        self.add_class("picture-split")
        self.prompt, self.seed, self.steps, self.guidance_scale = prompt, seed, steps, guidance_scale
        self.cut, self.mode, self.codec = cut, mode, codec
        self._show(Seen())
        self._say("Not run yet.")

    def _controls(self) -> None:
        self.controls: dict[str, Any] = {
            "prompt": field(W.Text, "Prompt", "What the picture shows", "auto"),
            "seed": field(W.BoundedIntText, "Seed", "Of the first noise; the same for both", min=0, max=2**31 - 1),
            "steps": field(W.BoundedIntText, "Steps", "Denoising steps", value=1, min=1, max=999),
            "guidance_scale": field(W.BoundedFloatText, "Guidance scale", "How closely the picture follows the prompt",
                                    min=0, max=100, step=0.5),
            "cut": field(W.Dropdown, "Cut", "What runs at the host", options=[(cut_name(c), c) for c in self.cuts]),
            "mode": field(W.Dropdown, "Mode", "per_step sends the latent at every step, lockstep once", options=MODES),
            "codec": field(W.Dropdown, "Codec down", "How what comes down is written", options=specs()),
        }  # fmt: skip
        self.run_button = W.Button(description="Run", icon="play", button_style="primary", tooltip="Make both pictures")
        self.cancel_button = W.Button(description="Cancel", icon="stop", disabled=True, tooltip="Stop after this step")
        self.status, self.output, self.announcer = W.HTML(), W.HTML(), Announcer()
        for name, widget in (*self.controls.items(), ("run", self.run_button), ("cancel", self.cancel_button),
                             ("status", self.status), ("output", self.output)):  # fmt: skip
            widget.add_class(f"picture-{name}")
        self.run_button.on_click(lambda button: self.run(wait=False))
        self.cancel_button.on_click(lambda button: self.cancel())

    @property
    def text(self) -> str:
        """What the last run showed, and why it ended early if it did, in lines of at most 72 characters."""
        return textwrap.fill(f"{picture_alt(self.seen)} {self._why}".strip(), 72)

    def run(self, wait: bool = True) -> Any:
        """Make both pictures in a thread; waits and returns the split one, or None where the run did not finish.

        While a run is under way, nothing new begins: it is waited for. With wait=False, returns None at once.
        """
        if not self._thread.is_alive():
            self._stop.clear()
            self.picture = None
            self.run_button.disabled, self.cancel_button.disabled = True, False
            self._say("Running.")
            choice = Choice(**{name: control.value for name, control in self.controls.items()})
            self._thread = threading.Thread(target=self._work, args=(choice,), name="picture-split", daemon=True)
            self._thread.start()
        try:
            self._thread.join(None if wait else 0)
        except KeyboardInterrupt:  # the notebook's Stop button
            self.cancel()
            raise
        return self.picture if wait else None

    def cancel(self) -> None:
        """Ask the run to stop after the step that is being made; does nothing when none runs."""
        self._stop.set()

    def _show(self, seen: Seen) -> None:
        self.seen = seen
        self.output.value = picture_html(seen)

    def _say(self, words: str, failed: bool = False, aloud: str = "") -> None:
        self._why = words if failed else ""
        self.status.value = reply_html("", words, failed)
        self.announcer.said = aloud or words

    def _work(self, choice: Choice) -> None:
        from .streaming import sentence

        words, failed, aloud = "The run ended early.", True, ""
        try:
            self._both(choice)
            words, failed, aloud = "Done.", False, picture_alt(self.seen)
        except Stopped:
            words, failed = "Cancelled. Unsplit: {}; split: {}.".format(*self.seen.progress), False
        except Exception as error:  # whatever it is, a panel shows a sentence
            words = sentence(error)
        finally:
            self._say(words, failed, aloud)
            self.run_button.disabled, self.cancel_button.disabled = False, True

    def _both(self, choice: Choice) -> None:
        from ..face import split  # the verb: a panel runs the kit the way its reader would
        from ..measure import picture_quality
        from ..wire.tap import tap

        self._show(Seen(choice))
        checked("prompt", choice.prompt, self.cuts)
        pipe = copy.copy(self.pipe)  # with a scheduler of its own, and quiet
        pipe.scheduler = copy.deepcopy(self.pipe.scheduler)
        pipe.set_progress_bar_config(disable=True)
        cut: Any = {"at": "blocks", "head": choice.cut, "tail": choice.cut} if choice.cut != "denoiser" else {}
        ours = split(pipe, body=self.body, codec=(None, choice.codec), mode=choice.mode, certificate=self.certificate,
                     **cut)  # fmt: skip
        try:
            # The cut, the mode and the codec make no difference to the unsplit picture.
            key = repr((replace(choice, cut="", mode="", codec=""), pipe.scheduler, self.call))
            frames = self._kept.pop(key, None) or self._unsplit(pipe, choice)
            self._kept = dict([*self._kept.items(), (key, frames)][-KEPT:])
            with tap(ours) as wire:

                def grown(i: int, at: str, image: Any) -> None:
                    table, beside = bytes_by_step(wire.ledger()), frames.get(i, frames[-1])
                    self._show(replace(self.seen, whole=beside, ours=image, progress=(at, at), table=table))

                self.picture = image = self._make(ours, choice, "the split picture", grown)
                grown(-1, "finished", image)
            quality = picture_quality({"split": image}, frames[-1]).loc["split"]
            self._show(replace(self.seen, quality={name: float(value) for name, value in quality.items()}))
        finally:
            if self.body is None or isinstance(self.body, str):  # a Link is its owner's
                ours.close()

    def _unsplit(self, pipe: Any, choice: Choice) -> dict[int, Any]:
        """The unsplit picture after some of its steps, by number from 0, and at -1 as it is in the end."""
        frames: dict[int, Any] = {}

        def grown(i: int, at: str, image: Any) -> None:
            frames[i] = image
            self._show(replace(self.seen, whole=image, progress=(at, self.seen.progress[1])))

        frames[-1] = self._make(pipe, choice, "the unsplit picture first", grown)
        self._show(replace(self.seen, whole=frames[-1], progress=("finished", self.seen.progress[1])))
        return frames

    def _make(self, pipe: Any, choice: Choice, which: str, grown: Callable[[int, str, Any], None]) -> Any:
        """The pipeline's picture; `grown` gets it now and then, and after every step Cancel is obeyed."""
        import torch

        def step_end(i: int, latents: Any) -> dict[str, Any]:
            if self._stop.is_set():
                raise Stopped
            of = len(pipe.scheduler.timesteps)
            self._say(f"Running, {which}: step {i + 1} of {of}.", aloud="Running.")
            image = developed(pipe, latents) if i + 1 < of and i % math.ceil(of / FRAMES) == 0 else None
            if image is not None:
                grown(i, f"step {i + 1} of {of}", image)
            return {}

        takes = inspect.signature(type(self.pipe).__call__).parameters
        hooks: dict[str, Any] = {"callback_on_step_end": lambda pipe, i, t, now: step_end(i, now["latents"])}
        if "callback_on_step_end" not in takes:  # older pipelines
            hooks = {"callback": lambda i, t, latents: step_end(i, latents), "callback_steps": 1}
        asked = {
            "prompt": choice.prompt, "num_inference_steps": choice.steps, "guidance_scale": choice.guidance_scale,
            "generator": torch.Generator().manual_seed(choice.seed), **hooks,
        }  # fmt: skip
        if self._stop.is_set():
            raise Stopped
        return pipe(**{name: value for name, value in asked.items() if name in takes}, **self.call).images[0]

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        bundle = super()._repr_mimebundle_(**kwargs)
        bundle = dict(bundle[0] if isinstance(bundle, tuple) else bundle or {})
        png = picture_png(self.seen)
        bundle |= {"image/png": base64.b64encode(png).decode("ascii"), "text/plain": self.text}
        return bundle, {"image/png": shown_at(png)}


def developed(pipe: Any, latents: Any) -> Any:
    """The picture that latents [B, C, h, w] stand for so far; None where only the pipeline itself could tell."""
    try:
        vae = pipe.vae
        scale, shift = vae.config.get("scaling_factor") or 1.0, vae.config.get("shift_factor") or 0.0
        image = vae.decode(latents[:1].to(vae.dtype) / scale + shift, return_dict=False)[0]
        return pipe.image_processor.postprocess(image.detach(), output_type="pil")[0]
    except Exception:  # no autoencoder, packed latents: a glimpse is no reason to lose the run
        return None


def cuts_of(pipe: Any) -> list[str | int]:
    """ "denoiser", and the numbers of blocks that can stay local at either end."""
    from ..split import dit, image, unet

    denoiser = getattr(pipe, image.part_of(pipe))
    try:
        most = unet.depth_of(denoiser) if hasattr(denoiser, "down_blocks") else (dit.count_blocks(denoiser) + 1) // 2
    except LsplitError:  # a family that is only ever moved whole
        return ["denoiser"]
    return ["denoiser", *(k for k in range(most) if k < 4 or not k & (k - 1))]


def pipeline(model: Any, panel: str) -> Any:
    """A pipeline, or the one of this name; UnsupportedModel says what the `panel` takes."""
    if isinstance(model, str):
        from ..face import load

        model = load(model)
    if not hasattr(model, "scheduler") or not hasattr(model, "components"):
        raise UnsupportedModel(f"{panel} takes a pipeline of diffusers; for a language model use SplitExplorer.")
    if hasattr(model, "remote"):
        raise UnsupportedModel("This pipeline is split already; give the one it was made from.")
    return model
