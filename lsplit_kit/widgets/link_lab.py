"""LinkLab: move a network and two machines, and see where a reply's time goes and which deployment is fastest."""

from __future__ import annotations

import base64
import textwrap
from typing import Any

import ipywidgets as W
import traitlets

from ..errors import UnsupportedOption
from ..figures.crossover import crossover_map
from ..figures.link_lab import LinkSeen, link_alt, link_html, link_png
from ..figures.paint import shown_at
from ..measure.budget import Ticks, budget, pricing, timed_alone, watched
from ..measure.latency import LatencyModel, Times, latency_model, timed_reply
from ..measure.recorded import recorded
from ..quantization import codec as codec_of
from ..wire.network import Network
from ..wire.network import network as preset_of
from .announcer import Announcer
from .lab_tab import values_of
from .link_settings import CUSTOM, KNOBS, LINE, RIVALS, Knob, link_controls, name_of, network_of, put_network, put_value
from .readout import STYLE
from .worker import Worker

SHOWN = 8  # progress reports of a reply: each costs the local side time


class LinkLab(W.VBox):
    """A panel that predicts the three deployments over a network, and measures a real reply over the emulated link.

    model: a language model or its name, loaded when it is first needed; latency: its LatencyModel, None for the one
    that the kit has recorded; network: a preset's name or a Network. `rtt_ms`, `up_mbps` and all other settings can be
    set from code too; what does not fit raises UnsupportedOption.
    """

    rtt_ms, up_mbps, down_mbps, jitter_ms, loss = Knob(), Knob(), Knob(), Knob(), Knob()
    local_speed, host_speed, prompt, reply, codec, rivals = Knob(), Knob(), Knob(), Knob(), Knob(), Knob()

    def __init__(
        self, model: Any = "smollm2", latency: LatencyModel | None = None, network: str | Network = "5g",
        local_speed: float = 1.0, host_speed: float = 10.0, prompt: int = 32, reply: int = 32, codec: str = "fp32",
        head: int = 2, tail: int = 2,
    ) -> None:  # fmt: skip
        if latency is None and not isinstance(model, str):
            raise UnsupportedOption("Give latency= with a model of your own, of lsplit_kit.measure.latency_model(lm).")
        self.model, self.head, self.tail = model, head, tail
        self.latency = latency or recorded(model)
        self.controls = link_controls()
        for name, control in self.controls.items():
            control.add_class(f"link-{name}")
        self.announcer = Announcer(panel=".link-lab", handles=".link-knob .noUi-handle", names=list(KNOBS.values()))
        self.worker = Worker("link", "Make this reply, whole and split, over the emulated link",
                             lambda: self.run(wait=False), self._say)  # fmt: skip
        self.measure_button = W.Button(description="Measure here", icon="clock-o",
                                       tooltip="Fit the parts' times on this machine")  # fmt: skip
        self.measure_button.add_class("link-measure")
        self.measure_button.on_click(lambda button: self.measure(wait=False))
        traitlets.dlink((self.worker.run_button, "disabled"), (self.measure_button, "disabled"))
        self.output = W.HTML()
        self.output.add_class("link-output")
        self.measured: dict[str, Times] = {}
        self._moving = True
        super().__init__([W.HTML(STYLE.replace("quant-knob", "link-knob"), layout={"height": "0", "margin": "0"}),
                          *self._rows(), self.measure_button, self.worker, self.output, self.announcer])  # fmt: skip
        self.add_class("link-lab")
        self.local_speed, self.host_speed, self.prompt, self.reply = local_speed, host_speed, prompt, reply
        self.codec = codec
        self._moving = False
        self.network = network
        for name, control in self.controls.items():
            control.observe(self._preset_chosen if name == "network" else self._moved, "value")
        self.worker.tell("Predicted; press Run to measure.")

    def _rows(self) -> list[Any]:
        c, wrap = self.controls, {"flex_flow": "row wrap"}
        rows = (("network", "rtt_ms"), ("up_mbps", "down_mbps"), ("jitter_ms", "loss"), ("local_speed", "host_speed"),
                ("prompt", "reply"), ("codec", "rivals"))  # fmt: skip
        return [W.HBox([c[name] for name in names], layout=wrap) for names in rows]

    @property
    def network(self) -> Network:
        """The network of the controls; a preset's name or a Network may be set."""
        return network_of(self.controls)

    @network.setter
    def network(self, asked: str | Network) -> None:
        net = preset_of(asked)
        self._moving = True
        try:
            put_network(self.controls, net)
            self.controls["network"].value = name_of(net)
        finally:
            self._moving = False
        self._render()

    def put(self, name: str, value: Any) -> None:
        """Set a setting by its name; raises UnsupportedOption when it does not fit."""
        held, self._moving = self._moving, True
        try:
            put_value(name, self.controls[name], value)
        finally:
            self._moving = held
        self._moved({"owner": self.controls[name]})

    def _preset_chosen(self, change: Any) -> None:
        if not self._moving and change["new"] != CUSTOM:
            self.network = change["new"]

    def _moved(self, change: Any) -> None:
        if self._moving:
            return
        if change["owner"] in (self.controls[name] for name in LINE):
            self._moving = True
            self.controls["network"].value = name_of(network_of(self.controls))
            self._moving = False
        self._render()

    def _render(self, measured: dict[str, Times] | None = None) -> None:
        """Predict for what the controls say; points of other settings are forgotten."""
        if self._moving:
            return
        s, net = values_of(self.controls), self.network
        shape = (1, 1, self.latency.width)
        payload = codec_of(s["codec"]).payload_bytes(shape)
        model = self.latency.coded(payload, payload)
        self.measured = measured or {}
        asked = (s["prompt"], s["reply"])
        speeds = (s["local_speed"], s["host_speed"])
        seen = crossover_map(pricing(model, *asked, *speeds), net, RIVALS[s["rivals"]])
        self.seen = LinkSeen(net, *asked, s["codec"], model.payload, speeds, self.source,
                             budget(model, *asked, net, *speeds), seen, self.measured)  # fmt: skip
        self.output.value = link_html(self.seen)
        if not self.worker.busy:
            self._say(link_alt(self.seen))

    @property
    def source(self) -> str:
        """Whose times the prediction is made of."""
        where = f"recorded on {self.latency.recorded}" if self.latency.recorded else "measured on this machine"
        return f"Times of {self.latency.name}, {where}"

    def _say(self, words: str) -> None:
        self.announcer.said = words

    @property
    def text(self) -> str:
        """What there is to see, and why a run ended early if it did, in lines of at most 72 characters."""
        return textwrap.fill(" ".join(filter(None, (link_alt(self.seen), self.worker.why))), 72)

    def run(self, wait: bool = True) -> dict[str, Times]:
        """Make the reply whole and split, in a thread, and draw what it took; returns the times, {} if not finished."""
        return self._start(self._reply, wait)

    def measure(self, wait: bool = True) -> dict[str, Times]:
        """Fit a latency model on this machine, in a thread, and predict with it from then on."""
        return self._start(self._fit, wait)

    def wait(self) -> None:
        """Wait for what is under way."""
        self.worker.wait()

    def cancel(self) -> None:
        """Ask what is under way to stop after the token that is being made."""
        self.worker.cancel()

    def _start(self, job: Any, wait: bool) -> dict[str, Times]:
        if wait:
            self.worker.wait()
        self.worker.start(job)
        if wait:
            self.worker.wait()
        return self.measured

    def _split(self, net: Network, codec: str | None = None) -> Any:
        from ..face import split  # the verb: a panel runs the kit the way its reader would
        from .split_explorer import language_model

        if isinstance(self.model, str):
            self.worker.step(0, 1, f"Loading {self.model}")
        self.model = language_model(self.model)
        return split(self.model, head=self.head, tail=self.tail, body="loopback", network=net, codec=codec)

    def _reply(self) -> str:
        import torch

        s, net = values_of(self.controls), self.network
        reply, speeds = s["reply"], (s["local_speed"], s["host_speed"])
        with self._split(net, s["codec"]) as lm:
            vocabulary = self.model.config.get_text_config(decoder=True).vocab_size
            ids = torch.arange(s["prompt"]).remainder(vocabulary - 1)[None] + 1

            def note(before: int, words: str) -> Any:
                every = max(reply // SHOWN, 1)

                def tell(n: int) -> None:
                    if n % every == 0:
                        self.worker.step(before + n, 2 * reply, words)

                return tell

            self.worker.step(0, 1, "Warming up")
            for model in (self.model, lm):
                timed_alone(model, ids, 2, lm.link.tick)
            whole = timed_alone(self.model, ids, reply, lm.link.tick, speeds[0], note(0, "The whole model, local"))
            ticks = Ticks(lm.link.tick, note(reply, "The split model, over the emulated link"))
            split = watched(timed_reply(lm, ids, reply, *speeds, streamer=ticks))
        if s != values_of(self.controls):
            return "Done; the settings have changed since, so nothing is drawn."
        self._render({"local": whole, "split": split})
        return link_alt(self.seen)

    def _fit(self) -> str:
        def round_of(done: int, of: int) -> None:
            self.worker.step(done, of, "Measuring short replies")

        with self._split(Network(rtt_ms=50)) as lm:  # a round trip shows how often a session is opened
            self.latency = latency_model(lm, prompts=(8, 32, 96), new_tokens=6, repeats=2, report=round_of)
        self._render()
        return link_alt(self.seen)

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        bundle = super()._repr_mimebundle_(**kwargs)
        bundle = dict(bundle[0] if isinstance(bundle, tuple) else bundle or {})
        png = link_png(self.seen)
        bundle |= {"image/png": base64.b64encode(png).decode("ascii"), "text/plain": self.text}
        return bundle, {"image/png": shown_at(png)}
