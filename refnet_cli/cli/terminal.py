"""The terminal: levels of messages, the progress bar, signals."""

from __future__ import annotations

import logging
import signal
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

from refnet_cli.system.log import ROOT, is_json

LOG = logging.getLogger(__name__)
EVERY = 10.0
"""Seconds between messages of progress, as JSON."""
SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143}
ended_by: list[int] = []
"""Exit codes of the signals that came."""


class ProgressBar:
    """A progress bar on a terminal, messages of progress as JSON; called with the number done and the total.

    Parameters
    ----------
    unit : str
        What is counted, in the plural.
    quiet : bool
        Show nothing at all.
    """

    def __init__(self, unit: str, quiet: bool) -> None:
        self._unit = unit
        self._logged = is_json() and not quiet
        self._hidden = quiet or not _on_terminal() or is_json()
        self._bar: Any = None
        self._last = -EVERY

    def __enter__(self) -> ProgressBar:
        return self

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Show how many are done, and a note."""
        if self._logged and (done == total or time.monotonic() - self._last >= EVERY):
            self._last = time.monotonic()
            LOG.info(note, extra={"event": "progress", "done": done, "total": total, "unit": self._unit})
        if self._hidden:
            return
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(total=total, unit=f" {self._unit}", file=sys.stderr)
        self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(done - self._bar.n)

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()


def report_step(bar: ProgressBar, progress: Any) -> None:
    """Show a step of a training: on the bar, or every 50 steps as a line where there is no terminal."""
    scored = "" if progress.mean_iou is None else f", mIoU {progress.mean_iou:.3f}"
    bar(progress.step, progress.steps, f"loss {progress.loss:.3f}{scored}")
    if not _on_terminal() and progress.step % 50 == 0:
        LOG.info(f"step {progress.step} of {progress.steps}, loss {progress.loss:.4f}")


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


def leave_with(code: int) -> Callable[[int, object], None]:
    """Make a handler that ends the program tidily at the first signal and at once at the second."""

    def leave(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        ended_by.append(code)
        # Not KeyboardInterrupt, which libraries take for an error of their own.
        raise SystemExit(code)

    return leave
