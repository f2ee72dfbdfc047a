"""HostMonitor: a live host's sessions, queue, cache and stages, and what it holds, as far as this client may see."""

from __future__ import annotations

import base64
import contextlib
import os
import textwrap
import threading
from numbers import Real
from typing import Any

import ipywidgets as W

from ..errors import Busy, LsplitError, UnsupportedOption
from ..figures.host import Seen, clock, host_alt, host_html, host_png
from ..figures.paint import shown_at
from ..measure.audit import look_at
from ..remote.target import Target, target_of
from .announcer import Announcer
from .readout import STYLE, reply_html
from .settings import field
from .streaming import sentence

KEPT = 600  # looks that are remembered
FASTEST, SLOWEST = 0.2, 3600.0  # seconds between two looks


class HostMonitor(W.VBox):
    """A panel over a live host, which looks again every few seconds until it is closed or the host is gone.

    host: what `lk.host` returned (then every client's sessions are shown), "rpyc://address:port", a link or a split
    model (then its own sessions). every: seconds between two looks, also as a control; watch=False: look only when
    asked, by `refresh()` or the button. certificate: for an address rpycs://, the bundle that you were given (or its
    path in LSPLIT_CERTIFICATE). Raises UnsupportedOption, and what a link raises where no host answers.
    """

    target: Target = None  # until there is one: a panel that was refused is closed too

    def __init__(
        self, host: Any, every: float = 2.0, watch: bool = True,
        certificate: str | os.PathLike[str] | None = None,
    ) -> None:  # fmt: skip
        _checked(every)
        self.target = target_of(host, certificate=certificate)
        self.seen = Seen(self.target.name, self.target.whose)
        self._over, self._asking, self._watcher = threading.Event(), threading.Lock(), threading.Thread()
        self.announcer = Announcer(panel=".host-monitor", handles=".host-none", names=[])
        self.refresh_button = W.Button(description="Refresh", icon="refresh", button_style="primary",
                                       tooltip="Look now, and audit again")  # fmt: skip
        self.watch_button = W.ToggleButton(description="Watch", icon="eye", value=False,
                                           tooltip="Look again and again")  # fmt: skip
        self.every_box = field(W.BoundedFloatText, "Every (s)", "Seconds between two looks", "220px",
                               value=every, min=FASTEST, max=SLOWEST, step=0.5)  # fmt: skip
        self.status, self.charts = W.HTML(), W.HTML()
        for name in ("refresh", "watch", "every"):
            control = getattr(self, f"{name}_button", None) or self.every_box
            control.add_class(f"host-{name}")
            control.layout.max_width = "calc(100% - 4px)"  # its margins
        self.charts.add_class("host-charts")
        self.status.add_class("host-status")
        super().__init__([
            W.HTML(STYLE, layout={"height": "0", "margin": "0"}),
            W.HBox([self.refresh_button, self.watch_button, self.every_box], layout={"flex_flow": "row wrap"}),
            self.status, self.charts, self.announcer,
        ])  # fmt: skip
        self.add_class("host-monitor")
        self.refresh_button.on_click(lambda button: self._pressed())
        self.watch_button.observe(lambda change: self._toggled(change["new"]), "value")
        self.refresh()
        self.watch_button.value = watch and not self.seen.why

    @property
    def every(self) -> float:
        """Seconds between two looks."""
        return self.every_box.value

    @every.setter
    def every(self, seconds: float) -> None:
        self.every_box.value = _checked(seconds)

    @property
    def watching(self) -> bool:
        """Whether the panel looks by itself."""
        return self._watcher.is_alive() and not self._over.is_set()

    @property
    def text(self) -> str:
        """What there is to see, in lines of at most 72 characters."""
        return textwrap.fill(host_alt(self.seen), 72)

    def refresh(self) -> Seen:
        """Look now, and audit again; a host that does not answer becomes a sentence (`seen.why`)."""
        return self._look(audit=True)

    def watch(self) -> None:
        """Look every few seconds from now on."""
        self.watch_button.value = True

    def stop(self) -> None:
        """Look no more until asked."""
        self.watch_button.value = False

    def close(self) -> None:
        """End the panel, its thread, and the connection that it opened for an address."""
        if self.target is not None:
            self._over.set()
            with contextlib.suppress(LsplitError, OSError):
                self.target.close()
        super().close()

    def _pressed(self) -> None:
        self.refresh()
        self.announcer.said = host_alt(self.seen)

    def _toggled(self, on: bool) -> None:
        if on == self.watching:
            return
        self._over.set()
        if on:
            self._over = threading.Event()
            over = self._over
            self._watcher = threading.Thread(target=self._watch, args=(over,), name="host monitor", daemon=True)
            self._watcher.start()
        self._tell()

    def _watch(self, over: threading.Event) -> None:
        while not over.wait(self.every):
            self._look(audit=False)
            if self.seen.why and not over.is_set():  # the host is gone: Refresh tries again
                over.set()
                self.watch_button.value = False
                self.announcer.said = host_alt(self.seen)

    def _look(self, audit: bool) -> Seen:
        with self._asking:
            seen = self.seen
            try:
                health, stats = self.target.asked.health(), self.target.asked.stats()
                if audit:
                    seen.audit = look_at(self.target)
                seen.health, seen.why = health, ""
                seen.history = [*seen.history[1 - KEPT :], (clock(), stats)]
            except Busy:  # its owner is in the middle of something: the last look stays
                pass
            except Exception as error:  # whatever it is, a panel shows a sentence
                seen.why = sentence(error)
            self.charts.value = host_html(seen)
        self._tell()
        return seen

    def _tell(self) -> None:
        words = f"Looks every {self.every:g} s." if self.watching else "Looks when asked."
        self.status.value = reply_html("", "The host does not answer." if self.seen.why else words, bool(self.seen.why))

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        bundle = super()._repr_mimebundle_(**kwargs)
        bundle = dict(bundle[0] if isinstance(bundle, tuple) else bundle or {})
        png = host_png(self.seen)
        bundle |= {"image/png": base64.b64encode(png).decode("ascii"), "text/plain": self.text}
        return bundle, {"image/png": shown_at(png)}


def _checked(seconds: Any) -> float:
    if not isinstance(seconds, Real) or isinstance(seconds, bool) or not FASTEST <= float(seconds) <= SLOWEST:
        raise UnsupportedOption(f"every takes seconds from {FASTEST:g} to {SLOWEST:g}, got {seconds!r}.")
    return float(seconds)
