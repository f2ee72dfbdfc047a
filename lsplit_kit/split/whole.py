"""A host that holds a whole language model: token ids up, tokens down. For comparison with a split, never by default.

The library's own generate() runs in a thread that gets no further than one token for each step asked of it.
"""

from __future__ import annotations

import os
import queue
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from transformers import PreTrainedModel

from ..errors import CodecError, FingerprintMismatch, FrameError, LimitExceeded, SessionUnknown, UnsupportedModel
from ..quantization import Calibration
from ..wire.message import HostInfo, Open, WholeStep, ints_from_wire, ints_to_wire
from .body import layer_prefix, longest, width_of
from .fingerprint import digests, fingerprint_of_tensors
from .pool import Pool
from .sessions import Remembered, Sessions, describe
from .telling import tensors_of
from .whole_options import TEXT, checked, for_generate, from_json

REPLIES = 4  # under way on one connection: each keeps a thread and a cache


class Ended(Exception):
    """Takes a generation that nobody waits for out of the library's loop."""


class Turn:
    """One reply in the making; it is a streamer of the library, and its random numbers are its own."""

    def __init__(self, generate: Callable[[Turn], object], seed: int) -> None:
        self._generate, self._random = generate, torch.Generator().manual_seed(seed).get_state()
        self._go, self._made = threading.Semaphore(0), queue.SimpleQueue[int | None | BaseException]()
        self._begun = self._over = self._failed = False
        self.thread = threading.Thread(target=self._run, daemon=True, name="lsplit reply")
        self.thread.start()

    def next(self) -> int | None:
        """The next token; None when the reply has ended. Raises what the generation raised, then SessionUnknown."""
        if self._failed:
            raise SessionUnknown("This reply ended with an error; open a new session.")
        if self._over:
            return None
        outer = torch.get_rng_state()
        torch.set_rng_state(self._random)
        try:
            self._go.release()
            made = self._made.get()
            self._random = torch.get_rng_state()
        except BaseException:
            self._over = self._failed = True  # interrupted: the thread ends at its next token
            raise
        finally:
            torch.set_rng_state(outer)
        if not isinstance(made, int):
            self._over = True
        if isinstance(made, BaseException):
            self._failed = True
            raise made
        return made

    def stop(self) -> None:
        """End the generation."""
        self._over = True
        self._go.release()
        self.thread.join(1)

    def put(self, tokens: torch.Tensor) -> None:
        """Called by the library: first with the prompt, then with each token; returns when another one is wanted."""
        if self._begun:
            self._made.put(int(tokens))
            self._wait()
        self._begun = True

    def end(self) -> None:
        """Called by the library after the last token."""

    def _wait(self) -> None:
        self._go.acquire()
        if self._over:
            raise Ended

    def _run(self) -> None:
        try:
            self._wait()
            self._generate(self)
            self._made.put(None)
        except Ended:
            pass
        except BaseException as error:  # it belongs to whoever asked for the token
            self._made.put(error)


class Reply(Remembered):
    """One client's reply under way."""

    def __init__(self, terms: Open, given: Mapping[str, Calibration]) -> None:
        super().__init__(terms, given)
        self.turn: Turn | None = None
        self.bytes, self.process = 0, os.getpid()

    def size(self) -> int:
        """Bytes of keys and values when the reply is at its longest, by counting full attention."""
        return self.bytes

    def end(self) -> None:
        """End the generation, if it is this process's: a fork has no copy of its thread."""
        if self.turn is not None and self.process == os.getpid():
            self.turn.stop()


def check_terms(terms: Open) -> None:
    """Raise CodecError unless both codecs of these terms are fp32: nothing here goes through a codec."""
    if (terms.up, terms.down) != ("fp32", "fp32"):
        raise CodecError("A whole model's host takes a prompt and answers as it is; its codecs are fp32 and fp32.")


class WholeText(Sessions[Reply, WholeStep]):
    """The whole of a causal language model; it reads the prompt and the reply in clear token ids."""

    policies, message, most = ("token",), WholeStep, REPLIES

    def __init__(self, model: PreTrainedModel, info: HostInfo, pool: Pool | None = None) -> None:
        super().__init__(info, pool)
        self.model = model
        self.vocabulary = int(model.get_input_embeddings().weight.shape[0])

    def fork(self) -> WholeText:
        """The same model with its own sessions, for one more connection; compute stays one at a time."""
        return WholeText(self.model, self.info, self.pool)

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """All of the model."""
        return tensors_of(self.model)

    def sub(self, start: int, stop: int) -> WholeText:
        """FingerprintMismatch, always: a whole model's host serves no part of it."""
        raise FingerprintMismatch(no_part(self.info))

    def _begin(self, terms: Open) -> Reply:
        check_terms(terms)
        return Reply(terms, self.calibrations)

    def _answer(self, session: Reply, step: WholeStep) -> bytes:
        """The next token as int32; empty when the reply has ended."""
        if session.process != os.getpid():
            raise SessionUnknown("This session belongs to the process that this one was forked from; open a new one.")
        if session.turn is None:
            session.turn = self._start(session, step)
        elif step.form or step.payload:
            raise FrameError("A reply is under way in this session; a new prompt needs a new session.")
        with self.pool.computing:
            token = session.turn.next()
        return b"" if token is None else ints_to_wire([token])

    def _start(self, session: Reply, step: WholeStep) -> Turn:
        if not step.payload:
            raise FrameError("The first step of a session brings the prompt: one row of token ids, int32.")
        if len(step.payload) > 4 * self.info.max_tokens:  # before a list of ints is built
            raise LimitExceeded(f"A prompt has at most {self.info.max_tokens:,} tokens here.")
        ids = ints_from_wire(step.payload, "token ids")
        if not all(0 <= i < self.vocabulary for i in ids):
            raise FrameError(f"Token ids lie between 0 and {self.vocabulary - 1}; one row of them is a prompt.")
        options = checked(from_json(step.form), TEXT)
        wanted = for_generate(options)
        positions = len(ids) + wanted["max_new_tokens"]
        if positions > self.info.max_tokens:
            raise LimitExceeded(f"{positions:,} positions; this model's context ends at {self.info.max_tokens:,}.")
        layers = self.info.stop - self.info.start
        most = 2 * layers * self.info.width * self.model.dtype.itemsize * positions
        self.pool.reserve(session, most)
        session.bytes = most
        row = torch.tensor([ids])

        def generate(streamer: Turn) -> object:
            return self.model.generate(row, attention_mask=torch.ones_like(row), streamer=streamer, **wanted)

        return Turn(generate, options.get("seed", secrets.randbits(62)))


def whole_text(model: PreTrainedModel) -> WholeText:
    """The host's side of a cloud-only deployment, sharing the model's tensors; raises UnsupportedModel."""
    tensors: dict[str, Any] = dict(model.named_parameters())
    if any(p.device.type == "meta" for p in tensors.values()):
        raise UnsupportedModel("This model was loaded without its body; a whole model's host needs the one of lk.load.")
    config = model.config.get_text_config(decoder=True)
    held, dtype = (0, layer_prefix(model)[1]), str(model.dtype).removeprefix("torch.")
    known = fingerprint_of_tensors(f"whole {type(model).__name__}", held, dtype, digests(tensors))
    name = getattr(model, "lsplit_name", None) or config.model_type
    return WholeText(model, describe(f"{name}, whole", known, held, width_of(model), dtype, longest(config), 1))


def no_part(info: HostInfo) -> str:
    """Why a whole model's host serves no split."""
    return f"This host holds {info.model}, and answers with results only; for a split start one without --whole."
