"""Where the time of a split model goes: one row per step, the parts of both sides and of the wire, in seconds."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..errors import UnsupportedModel
from ..wire.emulated import EmulatedLink
from ..wire.timed import Timed

if TYPE_CHECKING:
    import pandas as pd

LOCAL, HOST = ("loop", "head", "codec", "tail"), ("host_codec", "body")
PARTS = ("loop", "head", "codec", "up", "queue", "host_codec", "body", "down", "tail")


class Stopwatch:
    """Times every step of a split model, or pipeline, in a block: `with Stopwatch(lm) as watch: lm.generate(...)`.

    loop: between two calls of the model (sampling, the scheduler's step); head, tail: local layers; codec: local
    encoding and decoding; up, down: the link; queue: waiting at the host; host_codec, body: the host's computing.
    local_speed, host_speed: how many times faster each side is taken to be than it is here. The host is asked at the
    end what it spent; the link is an emulated one, and its clock says what the whole block took (`seconds`).
    """

    def __init__(self, model: Any, local_speed: float = 1.0, host_speed: float = 1.0) -> None:
        if not isinstance(getattr(getattr(model, "remote", None), "link", None), EmulatedLink):
            raise UnsupportedModel("A Stopwatch times a model that was split with network=, on its link's clock.")
        self.model, self.link, self.speeds = model, model.remote.link, (local_speed, host_speed)
        self._marks: list[dict[str, float]] = []
        self._undo: list[Callable[[], object]] = []
        self.seconds = 0.0

    def __enter__(self) -> Stopwatch:
        self.link.timings()  # what came before is not ours
        picture = hasattr(self.model, "scheduler")
        module = self.model
        if picture:
            from ..split.image import part_of

            module = getattr(self.model, part_of(self.model))
        self._undo += [
            module.register_forward_pre_hook(lambda *_: self._marks.append({"call": self.link.tick()})).remove,
            module.register_forward_hook(lambda *_: self._mark("return")).remove,
        ]
        remote = self.model.remote
        for owner, name, before, after in (
            (remote, "ask" if picture else "_cross", "cross", "crossed"),
            (self.link, "send", "sent", "queued"),
            (self.link, "receive", "waiting", "received"),
        ):
            self._around(owner, name, before, after)
        self._block = self.link.timed(*self.speeds)
        self._timed: Timed = self._block.__enter__()
        self._began = self.link.tick()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended = self.link.tick()
        self._block.__exit__(kind, error, trace)
        for undo in self._undo:
            undo()
        self.seconds, self._host = self._timed.seconds, self.link.timings()

    def _mark(self, name: str, step: Any = None) -> None:
        if not self._marks:
            return
        mark, now = self._marks[-1], self.link.tick()
        mark[name] = mark.get(name, now) if name in ("cross", "sent", "waiting") else now
        if step is not None:
            mark.setdefault("past", step.start)
            mark["tokens"] = mark.get("tokens", 0) + getattr(step, "tokens", 1)
        if name == "received":
            mark["answers"] = mark.get("answers", 0) + 1

    def _around(self, owner: Any, name: str, before: str, after: str) -> None:
        inner = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            self._mark(before, args[1] if name == "send" else None)
            try:
                return inner(*args, **kwargs)
            finally:
                self._mark(after)

        setattr(owner, name, timed)  # on the object: its class stays as it is
        self._undo.append(lambda: delattr(owner, name))

    def table(self) -> pd.DataFrame:
        """One row per call: its positions, those before them, frame bytes, and the parts in seconds.

        attrs: `end`, local computing after the last call; `control`, what opening and closing sessions took. Steps that
        were under way at once overlap: then the parts are more than what passed.
        """
        import pandas as pd

        local, last = self.speeds[0], self._began
        rows: list[dict[str, float]] = []
        trips, host = iter(self._timed.trips), iter(self._host)
        for mark in self._marks:
            if "received" not in mark or "return" not in mark:
                continue
            mine = [(next(trips), next(host)) for _ in range(int(mark["answers"]))]
            sent = mark.get("sent", mark["waiting"])
            row = {
                "tokens": int(mark.get("tokens", 1)), "past": int(mark.get("past", len(rows))),
                "loop": (mark["call"] - last) / local,
                "head": (mark["cross"] - mark["call"]) / local,
                "codec": (sent - mark["cross"] + mark["crossed"] - mark["received"]) / local,
                "up": mine[0][0].up, "down": mine[-1][0].down,
                "queue": sum(trip.queue for trip, _ in mine),
                "host_codec": sum(trip.host * told[1] / (told[1] + told[2] or 1) for trip, told in mine),
                "body": sum(trip.host * told[2] / (told[1] + told[2] or 1) for trip, told in mine),
                "tail": (mark["return"] - mark["crossed"]) / local,
                "frame_up": sum(trip.frame_up for trip, _ in mine),
                "frame_down": sum(trip.frame_down for trip, _ in mine),
            }  # fmt: skip
            rows.append(row)
            last = mark["return"]
        found = pd.DataFrame(rows, columns=["tokens", "past", *PARTS, "frame_up", "frame_down"]).rename_axis("step")
        found.attrs["end"] = (self._ended - last) / local
        found.attrs["control"] = self.seconds - float(found[list(PARTS)].to_numpy().sum()) - found.attrs["end"]
        return found
