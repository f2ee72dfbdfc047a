"""`lk.speculate(lm)`: tokens are drafted on the local side, and one crossing verifies several of them."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from transformers.generation.candidate_generator import CandidateGenerator

from ..card import Card
from ..errors import UnsupportedModel, UnsupportedOption
from ..wire.emulated import EmulatedLink
from ..wire.link import Link
from ..wire.message import Exchange, Sent
from ..wire.tap import Where
from .ahead import Ahead, fitting
from .calibrated import facts_of
from .lookup import Guess, Lookup, Source
from .pace import Odds, Pace

if TYPE_CHECKING:
    import pandas as pd

DRAFTS = ("auto", "lookup", "head")
SURE = 0.6  # a match so good needs no second opinion, and no net is run behind it
HOPELESS = 0.05  # drafts that are reached so rarely are not worth making
AT_WORK: ContextVar[Run | None] = ContextVar("lsplit_speculation", default=None)


class Trip(NamedTuple):
    """One round trip: what was drafted and accepted, what it gave, took and cost, and who drafted."""

    start: int
    positions: int
    drafted: int
    accepted: int
    tokens: int
    seconds: float
    up: int
    down: int
    extra_up: int
    extra_down: int
    revealed: int
    sources: tuple[str, ...]


class Speculation(Card):
    """A split model that drafts: `generate` takes what the model's takes and gives the same greedy tokens, sooner.

    draft: "lookup" (what followed the same words before, in the prompt or in the reply), "head" (a small trained net on
    the local ends, see `split.ahead`), or "auto" (the likelier of both; lookup alone where there is no net for the
    model). most: tokens drafted at once at most. How many are drafted follows from what steps take and how often drafts
    were accepted (`split.pace`); where drafts do not pay none are sent. Raises UnsupportedOption, UnsupportedModel.
    """

    def __init__(self, lm: Any, draft: str = "auto", most: int = 24) -> None:
        if not hasattr(getattr(lm, "remote", None), "policy") or not hasattr(lm, "generate"):
            raise UnsupportedModel(
                f"speculate() takes a split language model, got {type(lm).__name__}; split it first with lk.split()."
            )
        if draft not in DRAFTS:
            raise UnsupportedOption(f"draft is one of {', '.join(DRAFTS)}, got {draft!r}.")
        if isinstance(most, bool) or not isinstance(most, int) or not 1 <= most <= 256:
            raise UnsupportedOption(f"most takes a number of tokens from 1 to 256, got {most!r}.")
        path = None if draft == "lookup" else fitting(facts_of_split(lm))
        if draft == "head" and path is None:
            raise UnsupportedOption(
                "There is no draft net for this model; take draft='lookup', or train one with scripts/train_draft.py."
            )
        self.lm, self.draft, self.most = lm, draft, most
        self.sources: list[Source] = [] if draft == "head" else [Lookup()]
        if path is not None:
            self.sources.append(Ahead(path, lm.get_input_embeddings().weight, lm.get_output_embeddings().weight))
        self.odds = Odds(self._usual)
        self.pace = Pace()
        self.trips: list[Trip] = []
        self.clock: Callable[[], float] | None = None  # the link's, where nobody gives another

    def generate(self, inputs: Any = None, **options: Any) -> Any:
        """As the model's `generate` for one row, greedy or sampled (from the same distribution, by other draws)."""
        refuse(self.lm, options)
        options.pop("prompt_lookup_num_tokens", None)
        run = Run(self)
        token = AT_WORK.set(run)
        hook = self.lm.get_output_embeddings().register_forward_pre_hook(run.read)
        self.lm.remote.watchers.append(run.crossed)
        try:
            return self.lm.generate(inputs, prompt_lookup_num_tokens=1, **options)
        finally:
            self.lm.remote.watchers.remove(run.crossed)
            hook.remove()
            AT_WORK.reset(token)

    def ledger(self) -> pd.DataFrame:
        """One row per round trip: positions, drafts and tokens, seconds, frame (in process: payload) bytes, vectors.

        extra_up and extra_down are the rejected positions' share of the bytes; revealed counts the vectors that went up
        for drafts that were rejected, and that no run without drafts would have sent.
        """
        import pandas as pd

        return pd.DataFrame([trip[:-1] for trip in self.trips], columns=list(Trip._fields[:-1])).rename_axis("trip")

    def by_source(self) -> pd.DataFrame:
        """One row per source of drafts: how many crossed, how many were accepted, and their share."""
        import pandas as pd

        rows = {source.name: [0, 0] for source in self.sources}
        for trip in self.trips:
            for place, name in enumerate(trip.sources):
                rows[name][0] += 1
                rows[name][1] += place < trip.accepted
        table = pd.DataFrame.from_dict(rows, orient="index", columns=["drafted", "accepted"]).rename_axis("source")
        table["share"] = (table["accepted"] / table["drafted"]).round(3)
        return table[table["drafted"] > 0]

    def totals(self) -> pd.Series:
        """The price of it all: round trips, tokens, tokens a trip, seconds, bytes, extra bytes, vectors revealed."""
        import pandas as pd

        sums = {name: sum(getattr(trip, name) for trip in self.trips) for name in Trip._fields[:-1]}
        trips = len(self.trips)
        found = {
            "trips": trips,
            **{name: sums[name] for name in ("positions", "tokens", "drafted", "accepted")},
            "tokens_per_trip": round(sums["tokens"] / trips, 3) if trips else 0.0,
            **{name: sums[name] for name in ("seconds", "up", "down", "extra_up", "extra_down", "revealed")},
        }
        return pd.Series(found, name="speculation", dtype=object)

    def _usual(self, kind: tuple[Any, ...]) -> float:
        return next(source for source in self.sources if source.name == kind[0]).usual(kind[1:])

    def _card(self) -> tuple[str, dict[str, object]]:
        if not self.trips:
            return f"Speculation: {self.draft}", {"use": "generate(...), as the split model's"}
        t, by = self.totals(), self.by_source()
        said = [f"{r.accepted} of {r.drafted} {name}" for name, r in zip(by.index, by.itertuples(), strict=True)]
        one, jump, more = self.pace.time.parts()
        return f"Speculation: {self.draft}", {
            "tokens": f"{t['tokens']} in {t['trips']} round trips, {t['tokens_per_trip']} a trip",
            "drafts accepted": ", ".join(said) or "none sent",
            "extra bytes": f"{t['extra_up']:,} up, {t['extra_down']:,} down, for rejected drafts",
            "revealed": f"{t['revealed']} vectors of rejected drafts",
            "a step takes": f"{one * 1e3:.0f} ms, with drafts {jump * 1e3:.0f} ms and {more * 1e3:.1f} ms each more",
        }


class Run(CandidateGenerator):
    """One call of generate: drafts before every step, learns from it afterwards."""

    def __init__(self, owner: Speculation) -> None:
        self.owner, self.now = owner, owner.clock or clock_of(owner.lm.link)
        self.sources = [copy.copy(source) for source in owner.sources]
        self.length = 0  # of the text that the sources know
        self.vectors: Tensor | None = None
        self.drafts: list[Guess] = []  # all that were made for this step; the first `sent` of them cross
        self.heard: list[list[Guess]] = []  # for each draft what every source said
        self.sent = self.longest = 0
        self.begun, self.begun_text = 0.0, False
        self.ends: set[int] = set()
        self.up = self.down = self.went = self.came = 0  # bytes and positions of a step

    def prepare(self, input_ids: Tensor, generation_config: Any) -> Run:
        """Take what generate() settled: one row [1, T], the greatest length, the tokens that end a text."""
        if input_ids.shape[0] > 1:
            raise UnsupportedOption(f"speculate() drafts for one row at a time, got {input_ids.shape[0]} rows.")
        self.longest = generation_config.max_length
        ends = getattr(generation_config, "_eos_token_tensor", None)
        self.ends = set() if ends is None else set(ends.flatten().tolist())
        return self

    def read(self, module: Any, args: tuple) -> None:
        """What the LM head is about to read [1, n, d]."""
        if AT_WORK.get() is self:
            self.vectors = args[0].detach()

    def crossed(self, where: Where, up: list[Sent], down: list[Sent], done: Exchange) -> None:
        """One crossing each way; frame bytes, or where nothing is framed the payload's."""
        if AT_WORK.get() is self:
            self.up += done.frame_up or sum(len(s.encoded.payload) for s in up)
            self.down += done.frame_down or sum(len(s.encoded.payload) for s in down)
            self.went += sum(s.encoded.shape[1] for s in up)
            self.came += sum(s.encoded.shape[1] for s in down)

    def get_candidates(self, input_ids: Tensor, **kwargs: Any) -> tuple[Tensor, None]:
        """The text [1, T] with drafts behind it [1, T + k]."""
        self.up = self.down = self.went = self.came = 0
        ids = input_ids[0].tolist()
        self.first = not self.begun_text
        self.drafts, self.heard, self.sent = [], [], 0
        if self.first:  # a prompt's step says little about the others: no drafts, no time
            self.begun_text, self.length = True, len(ids)
            for source in self.sources:
                source.begin(ids)
            return input_ids, None
        self.begun = self.now()
        self._draft(min(self.longest - len(ids) - 1, self.owner.most))
        self.sent = self.owner.pace.length([guess.chance for guess in self.drafts])
        new = input_ids.new_tensor([[guess.token for guess in self.drafts[: self.sent]]])
        return torch.cat([input_ids, new], dim=1) if self.sent else input_ids, None

    def update_candidate_strategy(self, input_ids: Tensor, scores: Tensor, num_matches: int) -> None:
        """The text is now input_ids [1, T']: judge the drafts, note what the step took, remember what the head read."""
        owner, old = self.owner, self.length
        new = input_ids[0, old:].tolist()
        right = 0
        for place, guess in enumerate(self.drafts[: len(new)]):  # unsent ones are judged as far as the text goes
            for said in self.heard[place]:
                owner.odds.note((said.source, *said.kind), said.token == new[place])
            if guess.token != new[place]:
                break
            right += place < self.sent
        read = None if self.vectors is None else self.vectors[0, len(new) - self.sent - 2]
        for source in self.sources:
            source.extend(new, read)
        self.length += len(new)
        self._note(old, len(new), right)

    def _note(self, old: int, tokens: int, right: int) -> None:
        wrong, seconds = self.sent - right, 0.0
        if not self.first:
            seconds = self.now() - self.begun
            self.owner.pace.note(self.sent, seconds)
        extra = (round(self.up * wrong / max(self.went, 1)), round(self.down * wrong / max(self.came, 1)))
        sources = tuple(guess.source for guess in self.drafts[: self.sent])
        self.owner.trips.append(
            Trip(old, self.went, self.sent, right, tokens, seconds, self.up, self.down, *extra, wrong, sources)
        )

    def _draft(self, room: int) -> None:
        asked, odds, reach = list(self.sources), self.owner.odds, 1.0
        while asked and len(self.drafts) < room and reach > HOPELESS:
            guesses, tokens = [], [guess.token for guess in self.drafts]
            for place, source in enumerate(asked):
                if (said := source.guess(tokens)) is not None:
                    guesses.append(said._replace(chance=odds((said.source, *said.kind))))
                    if guesses[-1].chance > SURE:
                        del asked[place + 1 :]  # for good: a source has to be asked about every token
                        break
            if not guesses:
                break
            best = max(guesses, key=lambda guess: guess.chance)
            self.drafts.append(best)
            self.heard.append(guesses)
            reach *= best.chance
            if best.token in self.ends:
                break


def clock_of(link: Link) -> Callable[[], float]:
    """Seconds as this link counts them: its own clock's where it has one, else the machine's."""
    return (lambda: link.moment) if isinstance(link, EmulatedLink) else time.perf_counter


def facts_of_split(lm: Any) -> dict[str, Any]:
    """The facts of the model that was split, whose body's layers are elsewhere."""
    return {**facts_of(lm), "layers": lm.plan.head + lm.plan.tail + lm.link.info.stop - lm.link.info.start}


def refuse(lm: Any, options: dict[str, Any]) -> None:
    """UnsupportedOption for options under which drafts cannot be verified."""
    config = options.get("generation_config") or lm.generation_config

    def asked(name: str) -> Any:
        return options[name] if name in options else getattr(config, name, None)

    if options.get("assistant_model") is not None:
        raise UnsupportedOption(
            "speculate() drafts by itself: leave assistant_model out, or call the model's generate."
        )
    if (asked("num_beams") or 1) > 1 or (asked("num_return_sequences") or 1) > 1:
        raise UnsupportedOption(
            "speculate() drafts for one row at a time; use the model's generate for beams or several."
        )
    if asked("use_cache") is False or asked("cache_implementation") not in (None, "dynamic"):
        raise UnsupportedOption(
            "Drafts are taken back out of the cache: leave use_cache and cache_implementation alone."
        )
    if (asked("guidance_scale") or 1) != 1:
        raise UnsupportedOption(
            "Guidance runs a second text beside the first, which drafts do not follow; leave it out."
        )


def speculate(lm: Any, draft: str = "auto", most: int = 24) -> Speculation:
    """The split model with drafts: the same greedy tokens in fewer round trips; see Speculation."""
    return Speculation(lm, draft, most)
