"""The terminal: levels of messages, the progress bar, signals."""

from __future__ import annotations

import logging
import shutil
import signal
import sys
import textwrap
import time
from collections.abc import Callable, Iterable
from typing import Any

import click

from refnet_cli.cli.text import describe_seconds
from refnet_cli.system.log import ROOT, is_json

LOG = logging.getLogger(__name__)
SHORT = 1.0
"""Seconds of what often takes no longer, during which a bar would only flicker."""
SOON, EVERY = 1.0, 10.0
"""Seconds between messages of progress, as JSON: at least, where a percent more is done; and at most."""
_BAR = "{desc} {percentage:3.0f} % |{bar:20}| {n_fmt}/{total_fmt} {elapsed}, {remaining} left{postfix}"
_FEWEST = 10  # things to do, below which lines of progress say nothing new
SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143}
if sys.platform == "win32":
    SIGNALS[signal.SIGBREAK] = 130  # the one that another program can send there
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
    after : float
        Seconds before which nothing is shown, for what often takes no longer.
    """

    def __init__(self, unit: str, quiet: bool, after: float = 0.0) -> None:
        self._unit = unit
        self._after = after
        self._as_json = is_json()
        self._quiet = quiet
        self._bar: Any = None
        self._last, self._percent = -EVERY, 0
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
        if self._quiet or time.monotonic() - self._started < self._after:
            return
        if self._as_json:
            self._log_json(done, total, note)
        elif _on_terminal():
            self._draw(done, total, note)
        else:
            self._log_tenth(done, total, note)

    def _log_json(self, done: int, total: int, note: str) -> None:
        percent = 100 * done // max(total, 1)
        wait = SOON if percent != self._percent else EVERY
        if done == total or time.monotonic() - self._last >= wait:
            self._last, self._percent = time.monotonic(), percent
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
            self._bar.start_t -= time.monotonic() - self._started
        self._bar.set_postfix_str(note, refresh=False)
        if done == self._bar.n:
            self._bar.refresh()
        self._bar.update(done - self._bar.n)

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def report_step(bar: ProgressBar, progress: Any) -> None:
    """Show a training step; the training may be one of several folds, or a resumed one."""
    if bar.done is None or progress.step < bar.done:
        bar.begin(progress.step)
    scored = "" if progress.mean_iou is None else f", mIoU {progress.mean_iou:.3f} at step {progress.validated}"
    bar(progress.step, progress.steps, f"loss {progress.loss:.3f}{scored}")


def print_above_bar(line: str) -> None:
    """Print a line to stdout, above the progress bar if both are on the terminal."""
    if _stdout_on_terminal() and (bars := sys.modules.get("tqdm")):
        bars.tqdm.write(line, file=sys.stdout)
    else:
        click.echo(line)


def print_rows(rows: Iterable[tuple[str, str]]) -> None:
    """Print labels with texts, which a terminal shows in a column of their own."""
    rows = list(rows)
    label = max((len(name) for name, _ in rows), default=0)
    for name, text in rows:
        begin = f"{name:<{label}}  "
        click.echo(_fill(text, begin, " " * len(begin)) if _stdout_on_terminal() else begin + text)


def print_lines(lines: Iterable[str]) -> None:
    """Print lines, which a terminal breaks between words where they are longer than it is wide."""
    for line in lines:
        fits = not _stdout_on_terminal() or len(line) <= shutil.get_terminal_size().columns
        click.echo(line if fits else _fill(line, "", "  "))


def _fill(text: str, begin: str, indent: str) -> str:
    """Break a text between words to the width of the terminal."""
    width = max(shutil.get_terminal_size().columns, 40)
    return textwrap.fill(
        text, width, initial_indent=begin, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _stdout_on_terminal() -> bool:
    return sys.stdout is not None and sys.stdout.isatty()


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
    """Choose what a signal that ends the command makes it say: what is kept, and how to continue; or nothing."""
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
