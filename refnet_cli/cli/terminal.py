"""What the terminal shows: lines on stderr, the progress bar, signals."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

from refnet_cli.system.log import LOG

SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143}
ended_by: list[int] = []
"""Exit codes of the signals that came."""


class ProgressBar:
    """A progress bar on a terminal, nothing elsewhere; called with the number of things done and of all.

    Parameters
    ----------
    unit : str
        What is counted, in the plural.
    quiet : bool
        Show nothing at all.
    """

    def __init__(self, unit: str, quiet: bool) -> None:
        self._unit = unit
        self._hidden = quiet or not _on_terminal() or LOG.as_json
        self._quiet = quiet
        self._bar: Any = None

    def __enter__(self) -> ProgressBar:
        return self

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Show how many are done, and a note."""
        if not self._quiet:
            LOG.progress(done, total, self._unit, note)
        if self._hidden:
            return
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(total=total, unit=f" {self._unit}", file=sys.stderr)
        self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(done - self._bar.n)

    def say(self, line: str) -> None:
        """Write a line to stderr, above the bar."""
        if self._bar is None:
            say_line(line)
        else:
            self._bar.write(line, file=sys.stderr)

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()


def report_step(bar: ProgressBar, progress: Any, quiet: bool) -> None:
    """Show a step of a training: on the bar, or every 50 steps as a line where there is no terminal."""
    scored = "" if progress.mean_iou is None else f", mIoU {progress.mean_iou:.3f}"
    bar(progress.step, progress.steps, f"loss {progress.loss:.3f}{scored}")
    if not quiet and not _on_terminal() and progress.step % 50 == 0:
        say([f"step {progress.step} of {progress.steps}, loss {progress.loss:.4f}"])


def _on_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


def say(lines: Sequence[str]) -> None:
    """Write lines to stderr."""
    for line in lines:
        say_line(line)


def say_line(line: str) -> None:
    """Write a line to stderr."""
    LOG.say(line)


def leave_with(code: int) -> Callable[[int, object], None]:
    """Make a handler that ends the program tidily at the first signal and at once at the second."""

    def leave(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        ended_by.append(code)
        # Not KeyboardInterrupt, which libraries take for an error of their own.
        raise SystemExit(code)

    return leave
