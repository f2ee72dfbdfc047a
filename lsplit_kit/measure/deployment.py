"""One prompt where it may run (arXiv 2310.14651, experiment 1): all local, all at a host, or split, on one clock.

The clock is virtual and the times are emulated: computing is measured here and divided by the speed of its side, the
network's share is arithmetic.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from ..card import Card
from ..errors import UnsupportedOption
from ..split.prompt import encode
from ..split.whole_client import picture, reply
from ..split.whole_options import TEXT, checked, for_generate
from ..split.whole_picture import draw, picture_options, quiet
from ..wire.emulated import EmulatedLink, computing
from ..wire.message import Open
from ..wire.timed import Timed, Trip

if TYPE_CHECKING:
    import pandas as pd
    from PIL.Image import Image

WHERE = ("local", "cloud", "split")
SEEN = {
    ("text", "local"): "nothing",
    ("text", "cloud"): "token ids of prompt and reply",
    ("text", "split"): "hidden vectors",
    ("picture", "local"): "nothing",
    ("picture", "cloud"): "the text and the picture",
    ("picture", "split"): "text embeddings, latents and noise",
}
NAN, STEPS = float("nan"), 20


class Speeds(NamedTuple):
    """How many times faster each side is taken to be than this machine."""

    local: float
    host: float


class Stamp(NamedTuple):
    """Seconds since the prompt, and those of them that were local computing after the last answer."""

    seconds: float
    after: float


class DeployedLink(EmulatedLink):
    """An emulated link that notes when a session was told to end: a result is there before that round trip."""

    ended: tuple[float, float] | None = None
    before = 0.0  # local computing until sessions were opened; no step has it

    def open(self, terms: Open) -> int:
        """Start a session at the host: a round trip."""
        self.before += self.moment - self.now
        return super().open(terms)

    def stamp(self) -> tuple[float, float]:
        """(this moment, or that at which the session was told to end; local computing since the answer before it)."""
        moment = self.moment
        return (moment, moment - self.now) if self.ended is None else self.ended

    def close_session(self, session: int) -> None:
        """Tell the host to forget a session: a round trip, after the moment `ended`."""
        self.ended = self.stamp()
        super().close_session(session)


@dataclass(frozen=True, repr=False)
class Outcome(Card):
    """A reply or a picture, and what it took.

    seconds: until the last token or the picture; first: until the first token (NaN for a picture); each: per later
    token, or per step. bytes_up, bytes_down: frames of the steps, payloads where nothing is framed; opening a session
    costs a round trip and is not counted in them. For a prediction over another network: before, the local computing
    until the session was opened; trips; after, that between an answer and its token (or the last one and the picture).
    """

    where: str
    seconds: float
    first: float
    each: float
    bytes_up: int
    bytes_down: int
    seen: str
    network: str
    speeds: Speeds
    reply: str | None = None
    ids: tuple[int, ...] = ()
    picture: Image | None = None
    before: float = 0.0
    trips: tuple[Trip, ...] = field(default=(), compare=False)
    after: tuple[float, ...] = field(default=(), compare=False)

    def row(self) -> dict[str, object]:
        """The figures as a row of a table."""
        return {
            "where": self.where, "seconds": self.seconds, "first": self.first, "each": self.each,
            "bytes_up": self.bytes_up, "bytes_down": self.bytes_down, "seen": self.seen,
            "result": self.picture if self.picture is not None else self.reply if self.reply is not None else self.ids,
        }  # fmt: skip

    def _card(self) -> tuple[str, dict[str, object]]:
        first = {} if self.picture is not None else {"first token": f"{self.first:.3f} s"}
        said = {} if self.picture is not None else {"reply": self.reply if self.reply is not None else list(self.ids)}
        local, host = (f"{speed:g} x this machine" for speed in self.speeds)
        return f"Run: {self.where}, {self.seconds:.3f} s, emulated", {
            **said,
            **first,
            "each step" if self.picture is not None else "each later token": f"{self.each:.4f} s",
            "bytes": f"{self.bytes_up:,} up, {self.bytes_down:,} down",
            "the host has seen": self.seen,
            "network": self.network,
            "speeds": f"local {local}" + (f", host {host}" if self.where != "local" else ""),
        }


class Deployment(Card):
    """A model where it runs. link: None when it is all local."""

    kind = ""

    def __init__(self, where: str, model: Any, link: DeployedLink | None, speeds: Speeds) -> None:
        self.where, self.model, self.link, self.speeds = where, model, link, speeds
        self._alone = threading.Lock()  # two runs at once would measure each other

    def run(self, prompt: Any, **options: Any) -> Outcome:
        """One prompt; options as their table in docs/wire-format.md has them. Raises UnsupportedOption."""
        raise NotImplementedError

    @property
    def seen(self) -> str:
        """What the host has seen after a run, in words."""
        return SEEN[self.kind, self.where]

    @contextmanager
    def _clock(self) -> Iterator[tuple[Callable[[], Stamp], Timed]]:
        """(the stamp of this moment, the link's account) of a block whose computing counts; one at a time."""
        with self._alone, self._counting() as counting:
            yield counting

    @contextmanager
    def _counting(self) -> Iterator[tuple[Callable[[], Stamp], Timed]]:
        if self.link is None:
            began = computing()
            yield lambda: Stamp((computing() - began) / self.speeds.local, 0.0), Timed(*self.speeds)
            return
        link = self.link
        link.ended, link.before = None, 0.0

        def stamp() -> Stamp:
            moment, after = link.stamp()
            return Stamp(moment - start, after)

        with link.timed(*self.speeds) as timed:
            start = link.moment
            yield stamp, timed

    def _outcome(self, timed: Timed, stamps: Sequence[Stamp], first: float, each: float, **made: Any) -> Outcome:
        up, down = (sum(getattr(t, f"frame_{way}") for t in timed.trips) for way in ("up", "down"))
        network = "none" if self.link is None else str(self.link.network)
        return Outcome(
            self.where, stamps[-1].seconds, first, each, up, down, self.seen, network, self.speeds,
            before=self.link.before if self.link is not None else 0.0,
            trips=tuple(timed.trips), after=tuple(stamp.after for stamp in stamps), **made,
        )  # fmt: skip

    def close(self) -> None:
        """End the link."""
        if self.link is not None:
            self.link.close()

    def __enter__(self) -> Deployment:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _card(self) -> tuple[str, dict[str, object]]:
        name = getattr(self.model, "lsplit_name", None) or type(self.model).__name__
        return f"Deployment: {name}, {self.where}", {
            "the host sees": self.seen,
            "network": "none" if self.link is None else str(self.link.network),
            "speeds": f"local {self.speeds.local:g}, host {self.speeds.host:g} x this machine, on a virtual clock",
        }


class TextDeployment(Deployment):
    """A language model where it runs."""

    kind = "text"

    def run(self, prompt: Any, **options: Any) -> Outcome:
        """One reply to a text, chat messages, a tokenizer's output or token ids [1, T]; greedy unless do_sample."""
        checked(options, TEXT)
        tok = getattr(self.model, "lsplit_tokenizer", lambda: None)()
        ids = _row(prompt, tok)
        if self.link is not None and self.where == "split":
            self.model.remote.drop_closed()  # not on this run's time
        stamps: list[Stamp] = []
        with self._clock() as (clock, timed):
            if self.where == "cloud":
                assert self.link is not None
                tokens = []
                for token, _ in reply(self.link, ids[0].tolist(), options):
                    stamps.append(clock())
                    tokens.append(token)
            else:
                tokens = self._generate(ids, options, lambda: stamps.append(clock()))
        first, last = stamps[0].seconds, stamps[-1].seconds
        each = (last - first) / (len(stamps) - 1) if len(stamps) > 1 else NAN
        text = tok.decode(tokens, skip_special_tokens=True) if tok is not None else None
        return self._outcome(timed, stamps, first, each, reply=text, ids=tuple(tokens))

    def _generate(self, ids: torch.Tensor, options: dict[str, Any], note: Callable[[], None]) -> list[int]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.get("seed", secrets.randbits(62)))
            asked = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            out = self.model.generate(**asked, streamer=_Notes(note), **for_generate(options))
        return out[0, ids.shape[1] :].tolist()


class PictureDeployment(Deployment):
    """A pipeline where it runs."""

    kind = "picture"

    def __init__(self, where: str, model: Any, link: DeployedLink | None, speeds: Speeds) -> None:
        super().__init__(where, model, link, speeds)
        if where == "local":
            self.model = quiet(model)
        elif where == "split":
            self.model.set_progress_bar_config(disable=True)

    def run(self, prompt: Any, **options: Any) -> Outcome:
        """One picture of a text, in 20 steps unless num_inference_steps says otherwise."""
        if not isinstance(prompt, str) or not prompt:
            raise UnsupportedOption(f"A picture's prompt is a text, got {type(prompt).__name__}.")
        options = {"num_inference_steps": STEPS, **picture_options(options)}
        with self._clock() as (clock, timed):
            if self.where == "cloud":
                assert self.link is not None
                made, _ = picture(self.link, prompt, options)
            else:
                made = draw(self.model, prompt, options)
            done = clock()
        return self._outcome(timed, [done], NAN, done.seconds / options["num_inference_steps"], picture=made)


class _Notes:
    """A streamer of the library that notes when each new token came."""

    def __init__(self, note: Callable[[], None]) -> None:
        self._note, self._begun = note, False

    def put(self, tokens: torch.Tensor) -> None:
        """Called first with the prompt, then with each token."""
        if self._begun:
            self._note()
        self._begun = True

    def end(self) -> None:
        """Called after the last token."""


def outcomes_table(outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """One row per outcome, by `where`: seconds, first, each, bytes_up, bytes_down, seen and the result."""
    import pandas as pd

    return pd.DataFrame([outcome.row() for outcome in outcomes]).set_index("where")


def _row(prompt: Any, tok: Any) -> torch.Tensor:
    """One row of token ids [1, T]; raises UnsupportedOption for anything else."""
    if isinstance(prompt, (str, list, tuple)):
        ids = encode(tok, prompt, {})["input_ids"]
    else:
        ids = prompt["input_ids"] if hasattr(prompt, "keys") and "input_ids" in prompt else prompt
    if not isinstance(ids, torch.Tensor) or ids.dim() != 2 or ids.is_floating_point():
        raise UnsupportedOption(f"A deployment takes a text or token ids [1, T], got {type(prompt).__name__}.")
    if len(ids) != 1 or not ids.numel():
        raise UnsupportedOption(f"A deployment takes one prompt at a time, got ids of shape {list(ids.shape)}.")
    return ids
