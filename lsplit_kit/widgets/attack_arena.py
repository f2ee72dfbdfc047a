"""AttackArena: who sees which crossings, knowing what, and what an attack reads then, token by token."""

from __future__ import annotations

import base64
import textwrap
from typing import Any

import ipywidgets as W

from ..attacks.recorded import Recorded, recorded
from ..attacks.threats import ATTACKS, THREATS, direction_of
from ..data.captures import captures
from ..errors import LsplitError, UnsupportedOption
from ..figures.arena import Bout, bout_alt, bout_html, bout_png
from ..figures.paint import shown_at
from ..figures.painting import canvas_alt
from ..quantization.registry import specs
from ..wire.view import OBSERVERS
from .announcer import Announcer
from .arena_found import Found, recording_of
from .arena_run import Live, checked_depth, place_of
from .choice import Choice
from .picture_tab import PictureTab
from .readout import STYLE
from .settings import checked, field
from .streaming import sentence
from .worker import Worker

TABS = ("text", "pictures")
SEES = {name: f"{name}: sees {' and '.join(ways)}" for name, ways in OBSERVERS.items()}
PROMPT = "My PIN is 4071, do not write it down."
NOTE = (
    "The first run at a depth fits the attack to hidden tensors of its own texts, which takes from seconds to minutes; "
    "later runs there read at once. Stop ends a run before its next step."
)


class AttackArena(W.VBox):
    """A panel of attacks: an observer, its knowledge and an attack, a cut and a codec; then tokens, bits and cost.

    Attacks on what goes up are shown at a depth, those on what comes down in front of a tail: the other is at rest.
    A second tab, tab="pictures", has what attacks paint of recorded pictures: `pictures` with settings of its own.
    By default the results are recorded ones, and no model is needed. live: type a prompt, choose any depth, and Run
    attacks it on `model` (a language model, or its name). The settings can be set from code too; what does not fit
    raises an LsplitError. What an attack would refuse is shown as its sentence.
    """

    observer, knowledge, attack, depth, tail, codec, number = (Choice() for _ in range(7))

    def __init__(
        self, observer: str = "eavesdrop_up", knowledge: str = "public", attack: str = "PrototypeLDA",
        depth: int | None = None, codec: str | None = None, number: int = 1, live: bool = False, model: Any = "smollm2",
        prompt: str = PROMPT, tab: str = "text", tail: int = 1,
    ) -> None:  # fmt: skip
        self.live = bool(live)
        self.free = {"depth": checked_depth, "tail": lambda value: checked_depth(value, "tail"),
                     "codec": lambda v: checked("codec", v, [])} if self.live else {}  # fmt: skip
        self.announcer = Announcer(panel=".attack-arena", handles=".arena-knob .noUi-handle", names=[])
        self._moving = True
        self._controls()
        self.charts, self.table = W.HTML(), W.HTML()
        self.charts.add_class("arena-charts")
        rows = [
            ("observer", "knowledge"),
            ("attack", "depth", "tail", "codec"),
            ("prompt",) if self.live else ("number",),
        ]
        wrap = {"flex_flow": "row wrap"}
        boxes = [
            self.controls["prompt"] if row == ("prompt",) else W.HBox([self.controls[n] for n in row], layout=wrap)
            for row in rows
        ]
        if self.live:
            self.worker = Worker("arena", "Record the prompt and attack it", lambda: self.run(False), self._say)
            self.worker.cancel_button.description = "Stop"
            self.target = Live(model, self._step)
            boxes += [W.HTML(f"<p class='arena-note' style='line-height:1.5;margin:4px 0'>{NOTE}</p>"), self.worker]
        parts = [*boxes, self.charts, self.table]
        if not self.live:
            self.found = Found()
            self.pictures = PictureTab(SEES, self._say)
            self.tabs = W.Tab([W.VBox(parts), self.pictures], titles=("Text", "Pictures"))
            self.tabs.observe(lambda change: self._say(self._said()), "selected_index")
            parts = [self.tabs]
        super().__init__([W.HTML(STYLE, layout={"height": "0", "margin": "0"}), *parts, self.announcer])
        self.add_class("attack-arena")
        self.tab = tab
        self.observer, self.knowledge, self.attack = observer, knowledge, attack
        self.depth = depth if depth is not None else 2 if self.live else self.controls["depth"].options[-1]
        self.tail = tail
        self.codec = ("fp32" if self.live else "int8:token") if codec is None else codec
        if self.live:
            self.prompt = prompt
            self.worker.tell("Not run yet.")
        else:
            self.number = number
        self._moving = False
        self.bout = Bout(self.attack, self.observer, self.place, why="Not run yet.")
        for control in self.controls.values():
            control.observe(lambda change: self._changed(), "value")
        self._rest()
        if not self.live:
            self._show()

    def _controls(self) -> None:
        there = captures()
        self.controls: dict[str, Any] = {
            "observer": field(W.Dropdown, "Observer", "Who sees which crossings",
                              options=[(words, name) for name, words in SEES.items()]),
            "knowledge": field(W.Dropdown, "Knowledge", "What the attacker has beside the wire", "470px",
                               options=[(words, name) for name, words in THREATS.items()]),
            "attack": field(W.Dropdown, "Attack", "The last three read what comes down, the others what goes up",
                            options=list(ATTACKS)),
        }  # fmt: skip
        if self.live:
            self.controls |= {
                "depth": field(W.BoundedIntText, "Depth", "Layers before the cut", "200px", min=0, max=999),
                "tail": field(W.BoundedIntText, "Tail", "Layers behind the body", "200px", min=0, max=999),
                "codec": field(W.Combobox, "Codec", "Any of docs/codecs.md", options=list(specs()), value="fp32"),
                "prompt": field(W.Text, "Prompt", "What the attack has to read", "auto"),
            }
        else:
            count = int(recorded(there[0].name).prior.tokens.conversation.nunique())
            self.controls |= {
                "depth": field(W.Dropdown, "Depth", "Layers before the cut", "200px",
                               options=sorted({r.depth for r in there})),
                "tail": field(W.Dropdown, "Tail", "Layers behind the body", "200px",
                              options=sorted({r.depth for r in captures("down")})),
                "codec": field(W.Dropdown, "Codec", "How vectors cross", "260px",
                               options=list(dict.fromkeys(r.codec for r in there))),
                "number": field(W.Dropdown, "Prompt", "Which of the recorded prompts", "200px",
                                options=list(range(1, count + 1))),
            }  # fmt: skip
        for name, control in self.controls.items():
            control.add_class(f"arena-{name}")
            control.layout.max_width = "calc(100% - 4px)"  # its margins

    @property
    def prompt(self) -> str:
        """What the attack has to read, in a live panel; raises UnsupportedOption in one of recordings."""
        if not self.live:
            raise UnsupportedOption("The prompts are recorded ones; lk.AttackArena(live=True) takes others.")
        return self.controls["prompt"].value

    @prompt.setter
    def prompt(self, words: str) -> None:
        if not self.live:
            raise UnsupportedOption("The prompts are recorded ones; lk.AttackArena(live=True) takes others.")
        self.controls["prompt"].value = checked("sentence", words, [])

    @property
    def place(self) -> str:
        """Where the vectors are taken, in words."""
        layers = self.depth if self.direction == "up" else self.tail
        return place_of(layers, self.codec, self.direction)

    @property
    def direction(self) -> str:
        """ "up" or "down": what the attack chosen is about."""
        return direction_of(self.attack, self.observer)

    @property
    def recording(self) -> Recorded:
        """The recording that is shown; raises UnsupportedOption in a live panel."""
        if self.live:
            raise UnsupportedOption("A live panel shows no recording; lk.AttackArena() does.")
        return recording_of(self.direction, self.depth, self.tail, self.codec)

    @property
    def tab(self) -> str:
        """ "text" or "pictures", whichever is in front; a live panel has text only."""
        return "text" if self.live else TABS[self.tabs.selected_index or 0]

    @tab.setter
    def tab(self, name: str) -> None:
        if name not in TABS:
            raise UnsupportedOption(f'tab takes "text" or "pictures", got {name!r}.')
        if self.live and name != "text":
            raise UnsupportedOption("A live panel attacks text; the pictures are recorded: lk.AttackArena().")
        if not self.live:
            self.tabs.selected_index = TABS.index(name)

    def _said(self) -> str:
        return bout_alt(self.bout) if self.tab == "text" else canvas_alt(self.pictures.canvas)

    @property
    def text(self) -> str:
        """What there is to see in the tab in front, in lines of at most 72 characters."""
        return textwrap.fill(self._said(), 72)

    def run(self, wait: bool = True) -> Bout | None:
        """Run a live panel's attack in a thread; waits, and returns the result, None where there is none.

        With wait=False at once. Raises UnsupportedOption for a panel of recordings.
        """
        if not self.live:
            raise UnsupportedOption(
                "This panel shows recorded results; make one with lk.AttackArena(live=True) to run it."
            )
        if wait:
            self.worker.wait()
        if not self.worker.busy:
            self.bout = Bout(self.attack, self.observer, self.place)
            self.charts.value = ""
            settings = {name: control.value for name, control in self.controls.items()}
            self.worker.start(lambda: self._job(settings))
        if not wait:
            return None
        self.worker.wait()
        return self.bout if self.bout.rows is not None else None

    def cancel(self) -> None:
        """Ask the run to stop before its next step; does nothing when none runs."""
        if self.live:
            self.worker.cancel()

    def _job(self, settings: dict[str, Any]) -> str:
        settings["prompt"] = checked("sentence", settings["prompt"], [])
        settings["codec"] = checked("codec", settings["codec"].strip(), [])
        try:
            self.bout = self.target.run(settings)
        except LsplitError as error:
            self.bout = Bout(settings["attack"], settings["observer"], self.place, why=sentence(error))
            self.charts.value = bout_html(self.bout)
            raise
        self.charts.value = bout_html(self.bout)
        return bout_alt(self.bout)

    def _step(self, words: str) -> None:
        from .worker import Stopped

        if words:
            self.worker.step(0, 1, words)
        elif self.worker.stopping.is_set():
            raise Stopped

    def _say(self, words: str) -> None:
        self.announcer.said = words

    def _changed(self) -> None:
        self._rest()
        if not self._moving and not self.live:
            self._show()
            self._say(bout_alt(self.bout))

    def _rest(self) -> None:
        """Of depth and tail, the one that the attack does not look at is at rest."""
        self.controls["depth"].disabled, self.controls["tail"].disabled = (self.direction == d for d in ("down", "up"))

    def _show(self) -> None:
        """Look up what the controls name."""
        self.bout, table = self.found.look({name: control.value for name, control in self.controls.items()})
        self.charts.value, self.table.value = bout_html(self.bout), table

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        bundle = super()._repr_mimebundle_(**kwargs)
        bundle = dict(bundle[0] if isinstance(bundle, tuple) else bundle or {})
        png = bout_png(self.bout) if self.tab == "text" else self.pictures.png
        bundle |= {"image/png": base64.b64encode(png).decode("ascii"), "text/plain": self.text}
        return bundle, {"image/png": shown_at(png)}
