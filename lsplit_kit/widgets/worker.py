"""Run and Cancel, a progress bar and one line of state, around a job that runs in a thread."""

from __future__ import annotations

import threading
from collections.abc import Callable

import ipywidgets as W

from .readout import reply_html
from .settings import LABEL

# What a job is: it calls `step`, and returns what a screen reader hears at the end.
Job = Callable[[], str]


class Stopped(Exception):
    """Cancel was pressed: raised between two steps, to leave the library's loop."""


class Worker(W.VBox):
    """The buttons of one job at a time; `pressed` is called by Run, and `say` gets a sentence when the state changes.

    A job's error becomes a sentence; `why` holds the last one, "" after a job that ended well.
    """

    def __init__(self, name: str, tooltip: str, pressed: Callable[[], object], say: Callable[[str], None]) -> None:
        self.run_button = W.Button(description="Run", icon="play", button_style="primary", tooltip=tooltip)
        self.cancel_button = W.Button(description="Cancel", icon="stop", disabled=True, tooltip="Stop after this step")
        self.bar = W.IntProgress(
            description="Progress", min=0, max=1, value=0, style=LABEL, layout={"width": "330px", "max_width": "100%"}
        )
        self.status = W.HTML()
        for part, widget in (("run", self.run_button), ("cancel", self.cancel_button), ("bar", self.bar),
                             ("status", self.status)):  # fmt: skip
            widget.add_class(f"{name}-{part}")
        super().__init__(
            [
                W.HBox([self.run_button, self.cancel_button, self.bar], layout={"flex_flow": "row wrap"}),
                self.status,
            ]
        )
        self.name, self.said, self.why = name, say, ""
        self._thread, self._stop = threading.Thread(), threading.Event()
        self.run_button.on_click(lambda button: pressed())
        self.cancel_button.on_click(lambda button: self.cancel())

    @property
    def busy(self) -> bool:
        """Whether a job is under way."""
        return self._thread.is_alive()

    def start(self, job: Job, done: str = "Done.") -> None:
        """Begin a job, unless one is under way; `done` is the state after it."""
        if self.busy:
            return
        self._stop.clear()
        self.run_button.disabled, self.cancel_button.disabled = True, False
        self.tell("Running.")
        self._thread = threading.Thread(target=self._work, args=(job, done), name=self.name, daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait for the job under way; the notebook's Stop button cancels it."""
        try:
            if self._thread.ident is not None:
                self._thread.join()
        except KeyboardInterrupt:
            self.cancel()
            raise

    def cancel(self) -> None:
        """Ask the job to stop after the step that is being made; does nothing when none runs."""
        self._stop.set()

    @property
    def stopping(self) -> threading.Event:
        """Set as soon as Cancel is pressed."""
        return self._stop

    def step(self, done: int, of: int, words: str) -> None:
        """Show how far the job is; raises Stopped when Cancel was pressed."""
        if self._stop.is_set():
            raise Stopped
        self.bar.max, self.bar.value = max(of, 1), done
        self.tell(f"{words}: step {done} of {of}." if of > 1 else f"{words}.", aloud="Running.")

    def tell(self, words: str, failed: bool = False, aloud: str = "") -> None:
        """Show a sentence, and say it, or `aloud`, to a screen reader."""
        self.why = words if failed else ""
        self.status.value = reply_html("", words, failed)
        self.said(aloud or words)

    def _work(self, job: Job, done: str) -> None:
        from .streaming import sentence

        words, failed, aloud = "The run ended early.", True, ""
        try:
            aloud = job()
            words, failed = done, False
            self.bar.value = self.bar.max
        except Stopped:
            words, failed = "Cancelled.", False
        except Exception as error:  # whatever it is, a panel shows a sentence
            words = sentence(error)
        finally:
            self.tell(words, failed, aloud)
            self.run_button.disabled, self.cancel_button.disabled = False, True
