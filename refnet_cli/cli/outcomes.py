"""Show the outcomes of a batch: lines and a progress bar for people, lines of JSON for programs."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

from refnet_cli.cli.terminal import ProgressBar, on_stop, print_above_bar
from refnet_cli.cli.text import describe_seconds
from refnet_cli.system.log import context
from refnet_cli.system.words import count

if TYPE_CHECKING:
    from refnet_cli.batch.outcome import Outcome
    from refnet_cli.batch.task import Task

LOG = logging.getLogger(__name__)


class Follow:
    """Shows outcomes.

    Parameters
    ----------
    what : str
        What a task makes: scene, block or map.
    tasks : sequence of Task, optional
        All tasks, if they are known beforehand.
    as_json : bool
        Print outcomes as lines of JSON to a terminal too.
    """

    def __init__(self, what: str, tasks: Sequence[Task] | None, as_json: bool) -> None:
        self._what = what
        self._names = short_names(tasks or ())
        self._total = None if tasks is None else len(tasks)
        self._as_json = as_json or sys.stdout is None or not sys.stdout.isatty()
        self._counts: Counter[str] = Counter()
        self._warned = False
        self._skipped = 0  # and not yet reported
        self._started = time.monotonic()
        on_stop(self._describe_stop)

    def __call__(self, outcomes: Generator[Outcome], bar: ProgressBar | None = None) -> None:
        """Show outcomes, and count them on the bar."""
        with closing(outcomes):
            self._move(bar)
            for outcome in outcomes:
                self._log(outcome)
                if self._as_json:
                    print_json(outcome)
                self._move(bar)
        self._log_skipped()

    def finish(self) -> None:
        """Show the totals, and exit with 1 if any task failed."""
        LOG.info(self._describe_all())
        if self._warned and not self._as_json:
            LOG.info("The .json next to each map holds its warnings.")
        if self._counts["failed"]:
            raise SystemExit(1)

    def show_tiles(self, bar: ProgressBar, task: Task, done: int, total: int) -> None:
        """Show the progress of a task on the bar."""
        if self._total:
            name = self._names.get(str(task.path), str(task.path))
            bar(self._counts.total(), self._total, f"{name} {done / max(total, 1):.0%}")

    def _move(self, bar: ProgressBar | None) -> None:
        if bar and self._total:
            bar(self._counts.total(), self._total)

    def _log(self, outcome: Outcome) -> None:
        plain = outcome.status == "skipped" and not outcome.warnings
        if not plain:
            self._log_skipped()
        self._counts[outcome.status] += 1
        self._skipped += plain
        if plain:
            return
        self._warned |= bool(outcome.warnings)
        about = {"event": outcome.status, "code": outcome.code, "window": outcome.window}
        place = {"done": self._counts.total(), "total": self._total, "unit": f"{self._what}s"}
        text = f"{self._place()} {self._names.get(outcome.output, outcome.output)} {describe_outcome(outcome)}"
        with context(scene=outcome.output):
            if outcome.failed:
                LOG.error(text, extra=about | place | {"mark": "! "})
            else:
                LOG.info(text, extra=about | place)

    def _log_skipped(self) -> None:
        if self._skipped:
            LOG.info(f"{self._place()} {count(self._skipped, self._what)} done before")
        self._skipped = 0

    def _place(self) -> str:
        return f"[{self._counts.total()}{f'/{self._total}' if self._total else ''}]"

    def _describe_all(self) -> str:
        words = {"done": "done", "skipped": "done before", "failed": "failed"}
        found = [f"{self._counts[status]:,} {word}" for status, word in words.items() if self._counts[status]]
        took = describe_seconds(time.monotonic() - self._started)
        again = " The same command tries them again." if self._counts["failed"] else ""
        return f"{', '.join(found) or 'nothing to do'}, in {took}.{again}"

    def _describe_stop(self) -> str:
        done = self._counts["done"] + self._counts["skipped"]
        of = f" of {self._total:,}" if self._total else ""
        return f"Stopped. {done:,}{of} {self._what}s are done. The same command continues with the others."


def short_names(tasks: Sequence[Task]) -> dict[str, str]:
    """Return names for the outputs of tasks, relative to the folder that all have in common."""
    paths = {str(task.path): os.path.abspath(task.path) for task in tasks}
    folder = os.path.commonpath([os.path.dirname(path) for path in paths.values()]) if paths else ""
    return {given: os.path.relpath(path, folder) for given, path in paths.items()}


def noun_for(tasks: Sequence[Task]) -> str:
    """Return what a task makes: scene or block."""
    return "block" if any(task.block for task in tasks) else "scene"


def describe_outcome(outcome: Outcome) -> str:
    """Return the outcome of a task as text, without the task's name."""
    tries = f", {outcome.tries} tries" if outcome.tries > 1 else ""
    if outcome.failed:
        return f"failed, code {outcome.code}{tries}: {outcome.message}"
    warnings = f", {count(len(outcome.warnings), 'warning')}" if outcome.warnings else ""
    took = "done before" if outcome.status == "skipped" else f"done {describe_seconds(outcome.seconds)}"
    return f"{took}{tries}{warnings}"


def print_json(outcome: Outcome) -> None:
    """Print an outcome as a line of JSON without delay."""
    print_above_bar(outcome.to_line())
    if sys.stdout is not None:
        sys.stdout.flush()
