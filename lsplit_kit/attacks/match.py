"""Guided vocabulary matching: try tokens, position by position, until one gives the very vector that crossed.

A decoder's state at a position depends on the tokens up to there and on nothing else, and different tokens practically
never give the same one (SipIt, arXiv 2510.15511; Hidden No More, arXiv 2505.18332). So whoever has the head can try.
"""

from __future__ import annotations

from copy import copy
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import UnsupportedOption
from ..wire.saying import say
from ..wire.view import Heard, View
from .attack import Attack, Reconstruction
from .channel import Channel
from .knowledge import Knowledge
from .layers import STRANGE, place_of
from .lda import PrototypeLDA
from .noise import FAR, FEW, clear
from .record import empty, template
from .search import BEST, Search, ranked
from .study import Place, counted, shelved, windows
from .tries import Tries

PROPOSALS = ("lda", "prior")
WIDTHS = (8, 64, 256, 1024, 4096)  # candidates that have been tried when a guess is given up, before all are
CLEAR = 0.5  # of the second nearest candidate's distance, at which the nearest is the one
LOOKS = 16  # candidates that get an exact look after a rough one
BATCH = 16  # conversations that are read side by side
HARDLY = 0.5  # of all places: where no token explains so many, what the attacker knows is not what was at work


class VocabMatch(Attack):
    """argmin_v |F(prefix, v) - h_t| over likely tokens first, all if need be; exact where nothing was rounded.

    proposals: "lda" ranks tokens by PrototypeLDA and what the language model expects, "prior" by the latter alone, as
    does who has no text to fit with; who has the head's weights and no others expects what is frequent. reads: "up", or
    "down" with the body's weights too.
    tolerance: a candidate whose vector is so close, relative to |h|, is taken at once where the wire is exact. Behind a
    codec it is taken when it rounds to what crossed. Behind noise it is the maximum of log p(v | prefix) -
    |F - h|^2 / 2 s^2 of ever more candidates, until the next likeliest is far behind (`Noise`); s is told by the
    template's known tokens and by what was read before. Where nothing fits, the likeliest of all tried is taken, and
    where that is so at most places, a warning says that it was for nothing.
    """

    requires: ClassVar[tuple[str, ...]] = ("tokenizer", "head weights")

    def __init__(
        self,
        proposals: str = "lda",
        tolerance: float = 1e-4,
        widths: tuple[int, ...] = WIDTHS,
        reads: str = "up",
    ) -> None:
        self.proposals, self.tolerance, self.widths, self.reads = proposals, tolerance, widths, reads

    def _fit(self, view: View, knowledge: Knowledge) -> None:
        if self.proposals not in PROPOSALS:
            raise UnsupportedOption(f"proposals is one of {', '.join(map(repr, PROPOSALS))}, got {self.proposals!r}.")
        self.place_: Place = place_of(view, knowledge, self.reads)
        self.channel_ = Channel(self.place_, knowledge, self.tolerance)
        self.lda_ = None
        self.within_: dict[float, PrototypeLDA] = {}
        if self.proposals == "lda" and knowledge.text:
            self.lda_ = shelved(
                knowledge, ("lda", self.place_, self.reads), lambda: _prototypes(view, knowledge, self.reads)
            )
            self.cost_.queries += self.lda_.cost_.queries
        vocabulary = len(knowledge.tokenizer)
        known = windows(knowledge)[0].flatten() if knowledge.text else torch.empty(0, dtype=torch.long)
        self.log_prior_ = counted(known, vocabulary)
        self.before_, self.after_ = template(knowledge.tokenizer) if knowledge.template else (empty(), empty())
        self.rows_ = knowledge.model.get_input_embeddings().weight.detach().float()[:vocabulary]

    def _reconstruct(self, view: View) -> Reconstruction:
        heard = self.heard(view)
        # a noisy text tells of itself alone
        channels = [copy(self.channel_) for _ in heard]
        chats = [self._begins(h.vectors, channel) for h, channel in zip(heard, channels, strict=True)]
        found: dict[int, Tensor] = {}
        self.strange_ = 0  # places that no token explains
        for known, alike in ((empty(), False), (self.before_, True)):
            rows = sorted((i for i, chat in enumerate(chats) if chat == alike), key=lambda i: len(heard[i].vectors))
            for first in range(0, len(rows), BATCH):
                some = rows[first : first + BATCH]
                read = self._read([heard[i] for i in some], [channels[i] for i in some], known)
                found.update(zip(some, read, strict=True))
        top = [found[i] for i in range(len(heard))]
        places = sum(len(t) - len(self.before_) * chat for t, chat in zip(top, chats, strict=True))
        if self.strange_ > HARDLY * places:
            say(
                f"None of the tokens explains what crossed at {min(self.strange_, places):,} of {places:,} places: "
                "other weights, another cut or codec than the attacker believes, or noise too loud to read through?"
            )
        return Reconstruction(
            type(self).__name__, view.observer, [t[:, 0] for t in top], top, [h.positions for h in heard],
            None, self.cost_, {"behind": f"{self.place_.depth} layers"},
        )  # fmt: skip

    def _begins(self, vectors: Tensor, channel: Channel) -> bool:
        """Whether the known beginning gives the first vectors [T, d]; its error tells how noisy the wire is."""
        count = len(self.before_)
        if not 0 < count <= len(vectors):
            return False
        with torch.inference_mode():
            head = Tries(self.knowledge_, self.place_.depth).head
            known = shelved(
                self.knowledge_, ("template", self.place_.depth),
                lambda: head(self.before_[None], use_cache=False).last_hidden_state[0],
            )  # fmt: skip
        return channel.begins(known, vectors[:count])

    def _read(self, heard: list[Heard], channels: list[Channel], known: Tensor) -> list[Tensor]:
        """The best guesses [T, BEST] of several conversations, in order of length, that begin with known tokens [n]."""
        tries = Tries(self.knowledge_, self.place_.depth)
        rows, found = list(range(len(heard))), [[] for _ in heard]  # type: ignore[var-annotated]
        lost = [False] * len(heard)
        for token in known.tolist():
            for row in rows:
                found[row].append(torch.tensor([token, *[-1] * (BEST - 1)]))
        expected = tries.commit(known.expand(len(rows), -1)) if len(known) else None
        for t in range(len(known), len(heard[-1].vectors)):
            going = [i for i, row in enumerate(rows) if len(heard[row].vectors) > t]
            if len(going) < len(rows):
                rows = [rows[i] for i in going]
                tries.keep(going)
                lost, channels = [lost[i] for i in going], [channels[i] for i in going]
                expected = None if expected is None else expected[going]
            h = torch.stack([heard[row].vectors[t] for row in rows])
            first = not tries.length
            best = self._first(tries, h, channels) if first else self._next(tries, h, expected, channels, lost)
            if first:  # what begins like no text of this model goes on like none
                strange = [
                    c.fresh is not None and c.fresh.at(one) > STRANGE * one.norm()
                    for c, one in zip(channels, h, strict=True)
                ]
                self.strange_ += sum(len(heard[row].vectors) for row, odd in zip(rows, strange, strict=True) if odd)
            for row, guess in zip(rows, best, strict=True):
                found[row].append(guess)
            expected = tries.commit(best[:, :1])
        return [torch.stack(guesses) for guesses in found]

    def _first(self, tries: Tries, h: Tensor, channels: list[Channel]) -> Tensor:
        """The tokens [B, BEST] of vectors [B, d] with no text before: one table of all tokens serves every row."""
        ids, vectors = torch.empty(0, dtype=torch.long), h[:0]
        searches = [Search(one, self.log_prior_, self.rows_) for one in h]
        for block in self.log_prior_.argsort(descending=True).split(self.widths[-1]):
            key = ("start", self.place_.depth, len(block), int(block[0]))
            more = shelved(self.knowledge_, key, partial(self._start, tries, block))
            ids, vectors = torch.cat([ids, block]), torch.cat([vectors, more])
            for search in searches:
                search.ids, search.vectors = ids, vectors
            found = [channel.found(search) for channel, search in zip(channels, searches, strict=True)]
            if None not in found:
                break
        else:
            for channel, search, place in zip(channels, searches, found, strict=True):
                if place is None:
                    channel.hear(*search.error(int(search.near(1, channel))))
        return torch.stack(
            [s.best(channel, place) for s, channel, place in zip(searches, channels, found, strict=True)]
        )

    def _start(self, tries: Tries, ids: Tensor) -> Tensor:
        return self._tried(tries, ids[None])[0]

    def _next(
        self, tries: Tries, h: Tensor, expected: Tensor | None, channels: list[Channel], lost: list[bool]
    ) -> Tensor:
        """The tokens [B, BEST] of vectors [B, d] behind the text read so far; expected [B, V]: log probabilities."""
        expected = (self.log_prior_.expand(len(h), -1) if expected is None else expected)[:, : len(self.rows_)]
        searches = [
            Search(one, belief, self.rows_, prior)
            for one, belief, prior in zip(h, ranked(expected, self._seen(h, channels)), expected, strict=True)
        ]
        best: list[Tensor | None] = [None] * len(h)
        done = 0
        for width in self.widths[:2]:  # side by side, as many of each row
            waiting = [i for i, guess in enumerate(best) if guess is None]
            if not waiting:
                break
            ids = torch.stack([searches[i].first(width, self.after_)[done:] for i in waiting])
            vectors = self._tried(tries, ids, None if len(waiting) == len(h) else waiting)
            for i, some, states in zip(waiting, ids, vectors, strict=True):
                searches[i].add(some, states)
                place = channels[i].found(searches[i])
                if place is not None:
                    best[i] = searches[i].best(channels[i], place)
            done = width
        for i, (search, channel) in enumerate(zip(searches, channels, strict=True)):
            place = None
            noisy, open_ = channel.fresh is not None, best[i] is None
            if open_:
                place = None if lost[i] and not noisy else self._widened(tries, search, channel, i, lost[i])
                best[i] = search.best(channel, place)
            if noisy:
                channel.hear(*search.error(int(best[i][0])))  # type: ignore[index]
            if open_ and place is None:
                best[i] = search.best(channel, None)  # the noise may have turned out to be larger
                lost[i] = not noisy or not clear(search.posterior(channel))
                self.strange_ += lost[i]
            elif noisy:
                lost[i] = False
        return torch.stack(best)  # type: ignore[arg-type]

    def _seen(self, h: Tensor, channels: list[Channel]) -> Tensor | None:
        """What prototypes make of vectors [B, d]: log beliefs [B, V] but for a constant; None without prototypes."""
        if self.lda_ is None:
            return None
        scores = h.new_empty(len(h), len(self.rows_))
        levels = [c.fresh.level(one) if c.fresh is not None else None for c, one in zip(channels, h, strict=True)]
        for level in dict.fromkeys(levels):
            if level is not None and level not in self.within_:
                self.within_[level] = self.lda_.within(level)
            rows = [i for i, own in enumerate(levels) if own == level]
            scores[rows] = (self.lda_ if level is None else self.within_[level])._scores(h[rows])
        return self.lda_.posterior_.tau * scores

    def _widened(self, tries: Tries, search: Search, channel: Channel, row: int, lost: bool) -> int | None:
        """Try more and more tokens of a row, all in the end; which of those tried was found."""
        whole = len(self.rows_)
        for width in (*self.widths[2:], *range(2 * self.widths[-1], whole, self.widths[-1]), whole):
            ids = search.more(width - len(search.ids))
            if len(ids):
                search.add(ids, self._tried(tries, ids[None], [row], rough=True)[0])
            near = search.near(LOOKS, channel)
            search.add(near, self._tried(tries, near[None], [row])[0])
            place = channel.found(search, len(near))
            if place is not None:
                return len(search.ids) - len(near) + place
            if channel.fresh is not None and len(search.ids) >= (FEW if lost else FAR):
                return None
        if channel.fresh is not None:
            return None
        # all were tried: an error larger than any so far, unless the second nearest fits as well as the nearest
        away = channel.away(search.vectors[-len(near) :], search.h)
        best, second = (float(a) for a in away.topk(2, largest=False).values)
        if best > CLEAR * second:
            return None
        channel.hear(*search.error(int(near[away.argmin()])))
        return len(search.ids) - len(near) + int(away.argmin())

    def _tried(self, tries: Tries, ids: Tensor, rows: list[int] | None = None, rough: bool = False) -> Tensor:
        self.cost_.candidates += ids.numel()
        return tries.states(ids, rows, rough)


def _prototypes(view: View, knowledge: Knowledge, reads: str) -> PrototypeLDA:
    lda = PrototypeLDA()
    lda.reads = reads
    lda.fit(view, knowledge)
    return lda
