"""Run tasks in this process. A finished task is skipped, so a batch can be started again at any time."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refnet_cli.batch.failures import Failure, forget_failure
from refnet_cli.batch.finished import is_finished, is_merged
from refnet_cli.batch.identity import identify, sha256_of_weights
from refnet_cli.batch.outcome import Outcome, failed
from refnet_cli.batch.sidecar import other_version, read_sidecar, write_sidecar
from refnet_cli.batch.task import Task
from refnet_cli.errors import OptionsError, TryAgainError, as_known
from refnet_cli.model.weight_files import find_weights
from refnet_cli.prediction.job import load
from refnet_cli.prediction.options import PredictOptions
from refnet_cli.prediction.predict import predict
from refnet_cli.prediction.report import Report
from refnet_cli.system.marks import check_replaceable
from refnet_cli.version import __version__

if TYPE_CHECKING:
    from refnet_cli.engines.base import Engine

TRIES = 3
"""Number of tries of a task with a temporary failure."""
PAUSE = 1.0
"""Seconds before a second try; the third waits twice as long."""
BUG = 70
"""Exit code of an unexpected error."""
TaskProgress = Callable[[Task, int, int], None]


@dataclass
class Runner:
    """Runs tasks in this process. Networks are loaded once and kept.

    Parameters
    ----------
    overrides : dict
        Options of `PredictOptions` that replace those of the tasks, such as the device.
    progress : callable, optional
        Called with a task, the number of its finished tiles and the number of all.
    """

    overrides: dict[str, Any] = field(default_factory=dict)
    progress: TaskProgress | None = None
    _engines: dict[tuple[Any, ...], tuple[Engine, int]] = field(default_factory=dict)

    def run(self, task: Task) -> Outcome:
        """Run a task unless it is finished. An error becomes the outcome."""
        task = replace(task, options=replace(task.options, **self.overrides))
        return attempt(task, partial(self._predict, task))

    def _predict(self, task: Task) -> Report:
        options: PredictOptions = task.options
        weights = find_weights(options.weights)
        options = replace(options, weights=weights)
        key = weights, sha256_of_weights(weights), options.engine
        if key not in self._engines:
            engine = load(options, weights)
            self._engines[key] = engine, engine.batch
        engine, batch = self._engines[key]
        engine.batch = batch  # an earlier scene may have reduced it
        progress = partial(self.progress, task) if self.progress else None
        try:
            return predict(options, engine, progress=progress, block=task.map_block)
        except TryAgainError:
            self._engines.pop(key)[0].close()
            raise

    def close(self) -> None:
        """Close the loaded networks."""
        while self._engines:
            self._engines.popitem()[1][0].close()


def attempt(task: Task, make: Callable[[], Report], command: str = "run") -> Outcome:
    """Make the result of a task unless it is finished, and write its sidecar.

    Parameters
    ----------
    task : Task
    make : callable
        Writes the result.
    command : str
        The command of ``refnet batch``, for error messages.
    """
    started = time.monotonic()
    identity = task.id
    try:
        identity = identify(task)
        if outcome := _skip(task, identity, command):
            return outcome
        check_replaceable([task.sidecar], task.options.overwrite)
        report = make()
        files = [file for made in report.files.values() for file in made]
        write_sidecar(task.path, identity, files, {"report": report.to_dict()})
        forget_failure(task.path)
        paths = [file["path"] for file in files]
        seconds = round(time.monotonic() - started, 3)
        return Outcome(identity, str(task.path), "done", 0, "", seconds, 1, paths, report.warnings)
    except Exception as error:  # an unexpected error of one scene must not stop the others
        known = as_known(error)
        code, message = (known.exit_code, str(known)) if known else (BUG, f"{type(error).__name__}: {error}")
        seconds, window = round(time.monotonic() - started, 3), known.window if known else None
        return failed(task, Failure(code, message, window), id=identity, seconds=seconds)


def _skip(task: Task, identity: str, command: str) -> Outcome | None:
    """Return the outcome of a finished task; None if it must be run.

    Raises
    ------
    OptionsError
        If the result is of a version whose maps differ, and may not be replaced.
    """
    overwrite = task.options.overwrite
    to_merge = task.block is not None and not is_merged(task)
    version = other_version(read_sidecar(task.sidecar), exactly=to_merge)
    done = is_finished(task, identity)
    if version and not overwrite and (task.block or not done):
        raise OptionsError(
            f"{task.path} was made by refnet {version}, and the result of refnet {__version__} differs. Finish the "
            f"batch with refnet {version}, or make it again with refnet batch {command} TASKS --overwrite."
        )
    if not done or (version and overwrite):
        return None
    forget_failure(task.path)
    kept = [f"{task.path} was made by refnet {version} and is kept; --overwrite makes it again."] if version else []
    return Outcome(identity, str(task.path), "skipped", warnings=kept)


def share(tasks: Sequence[Task], index: int, of: int) -> list[Task]:
    """Return every ``of``-th task, starting with number ``index``, from 0."""
    return list(tasks[index::of])


def run_here(
    tasks: Iterable[Task], overrides: dict[str, Any], pause: float = PAUSE, progress: TaskProgress | None = None
) -> Generator[Outcome]:
    """Run tasks one after the other. Tasks with a temporary failure are tried again at the end.

    Parameters
    ----------
    tasks : iterable of Task
    overrides, progress
        See `Runner`.
    pause : float
        Seconds before the second try; the third waits twice as long.

    Yields
    ------
    Outcome
        One per task.
    """
    runner = Runner(overrides, progress)
    waiting = list(tasks)
    try:
        for tries in range(1, TRIES + 1):
            again = []
            for task in waiting:
                outcome = replace(runner.run(task), tries=tries)
                if outcome.may_pass and tries < TRIES:
                    again.append(task)
                else:
                    yield outcome
            waiting = again
            if waiting:
                time.sleep(pause * tries)
    finally:
        runner.close()


def run_lines(lines: Iterable[str], overrides: dict[str, Any]) -> Generator[Outcome]:
    """Run each task once, as soon as its line of JSON arrives."""
    runner = Runner(overrides)
    try:
        for line in lines:
            if line.strip():
                yield runner.run(Task.from_line(line, Path.cwd() / "-"))
    finally:
        runner.close()
