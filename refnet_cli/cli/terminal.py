"""The terminal: levels of messages, the progress bar, signals."""

from __future__ import annotations

import logging
import signal
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

from refnet_cli.cli.text import describe_seconds
from refnet_cli.system.log import ROOT, is_json

LOG = logging.getLogger(__name__)
EVERY = 10.0
"""Seconds between messages of progress, as JSON."""
_BAR = "{desc} {percentage:3.0f} % |{bar:20}| {n_fmt}/{total_fmt} {elapsed}, {remaining} left{postfix}"
_FEWEST = 10  # things to do, below which lines of progress say nothing new
SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143}
ended_by: list[int] = []
"""Exit codes of the signals that came."""


_on_stop: list[Callable[[], str]] = []


class ProgressBar:
    """Shows how much is done: a bar on a terminal, elsewhere a line every tenth, or messages as JSON.

    Called with the number of things done and the total.

    Parameters
    ----------
    unit : str
        What is counted, in the plural.
    quiet : bool
        Show nothing at all.
    """

    def __init__(self, unit: str, quiet: bool) -> None:
        self._unit = unit
        self._as_json = is_json()
        self._quiet = quiet
        self._bar: Any = None
        self._last = -EVERY
        self.done: int | None = None
        self.begin()

    def __enter__(self) -> ProgressBar:
        return self

    def begin(self, done: int = 0) -> None:
        """Count the time from now on, when so many are done: for work that is continued, or that follows other work."""
        self.__exit__()
        self._started, self._before, self._tenth = time.monotonic(), done, 0

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Show how many are done, and a note."""
        self.done = done
        if self._quiet:
            return
        if self._as_json:
            self._log_json(done, total, note)
        elif _on_terminal():
            self._draw(done, total, note)
        else:
            self._log_tenth(done, total, note)

    def _log_json(self, done: int, total: int, note: str) -> None:
        if done == total or time.monotonic() - self._last >= EVERY:
            self._last = time.monotonic()
            LOG.info(note, extra={"event": "progress", "done": done, "total": total, "unit": self._unit})

    def _log_tenth(self, done: int, total: int, note: str) -> None:
        tenth = 10 * done // max(total, 1)
        if tenth == self._tenth or total < _FEWEST:
            return
        self._tenth = tenth
        left = (time.monotonic() - self._started) * (total - done) / max(done - self._before, 1)
        time_left = "" if done in (total, self._before) else f", {describe_seconds(left)} left"
        LOG.info(f"{self._unit} {done / total:.0%} ({done:,} of {total:,}){time_left}{f', {note}' if note else ''}")

    def _draw(self, done: int, total: int, note: str) -> None:
        if self._bar is None:
            from tqdm import tqdm

            how = {"desc": self._unit, "ascii": " #", "bar_format": _BAR}
            self._bar = tqdm(total=total, initial=self._before, file=sys.stderr, **how)
        self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(done - self._bar.n)

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def report_step(bar: ProgressBar, progress: Any) -> None:
    """Show a step of a training, which may be one of several folds, and may have been begun before."""
    if bar.done is None or progress.step < bar.done:
        bar.begin(progress.step)
    scored = "" if progress.mean_iou is None else f", mIoU {progress.mean_iou:.3f} at step {progress.validated}"
    bar(progress.step, progress.steps, f"loss {progress.loss:.3f}{scored}")


def _on_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


def set_level(quiet: bool, verbose: bool = False) -> None:
    """Choose which messages of refnet are written: errors only, all, or those between."""
    ROOT.setLevel(logging.ERROR if quiet else logging.DEBUG if verbose else logging.INFO)


def log_lines(lines: Iterable[str]) -> None:
    """Log lines for people."""
    for line in lines:
        LOG.info(line)


def log_warnings(warnings: Iterable[str]) -> None:
    """Log warnings."""
    for warning in warnings:
        LOG.warning(warning)


def on_stop(describe: Callable[[], str]) -> None:
    """Choose what a signal that ends the command makes it say: what is kept, and how to continue."""
    _on_stop[:] = [describe]


def describe_stop() -> str:
    """Return what `on_stop` chose."""
    return _on_stop[0]() if _on_stop else "Stopped. No file was written."


def leave_with(code: int) -> Callable[[int, object], None]:
    """Make a handler that ends the program tidily at the first signal and at once at the second."""

    def leave(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        ended_by.append(code)
        # Not KeyboardInterrupt, which libraries take for an error of their own.
        raise SystemExit(code)

    return leave
