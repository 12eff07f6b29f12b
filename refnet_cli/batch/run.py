"""Many scenes: each an idempotent unit, run one after the other, in workers, or by any scheduler."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from refnet_cli.batch.failures import Failure, forget_failure, record_failure
from refnet_cli.batch.mosaic import blocks_by_map, merge
from refnet_cli.batch.task import (
    Task,
    identify,
    is_finished,
    is_merged,
    other_version,
    read_sidecar,
    sha256_of_weights,
    write_sidecar,
)
from refnet_cli.errors import OptionsError, RefnetError, StorageError, TryAgainError, UnavailableError, as_known
from refnet_cli.model.weight_files import find_weights
from refnet_cli.prediction.job import load
from refnet_cli.prediction.options import PredictOptions
from refnet_cli.prediction.predict import predict
from refnet_cli.prediction.report import Report
from refnet_cli.system.marks import check_replaceable
from refnet_cli.system.memory import MB, memory_limit
from refnet_cli.system.process import usable_cores
from refnet_cli.types import Progress
from refnet_cli.version import __version__

if TYPE_CHECKING:
    from refnet_cli.engines.base import Engine

TRIES = 3
"""How often a scene is tried that fails for reasons that pass."""
PASSING = (StorageError.exit_code, TryAgainError.exit_code)
TaskProgress = Callable[[Task, int, int], None]
_PAUSE = 1.0  # seconds before what failed is tried again, and longer each time
BUG = 70


@dataclass(frozen=True)
class Outcome:
    """What became of a task: a line of what ``refnet batch run`` prints."""

    id: str
    output: str
    status: str
    """done, skipped (because it was done before) or failed."""
    code: int = 0
    """As the exit code of ``refnet predict`` would be."""
    message: str = ""
    seconds: float = 0.0
    tries: int = 1
    files: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    window: tuple[int, int, int, int] | None = None
    """Row, column, height and width of the pixels that cannot be used, where they made the task fail."""

    def to_line(self) -> str:
        """Return it as a line of JSON."""
        return json.dumps(asdict(self))

    @property
    def failed(self) -> bool:
        """Whether there is no result."""
        return self.status == "failed"

    @property
    def worth_a_try(self) -> bool:
        """Whether what hindered it may have passed."""
        return self.failed and self.code in PASSING


@dataclass
class Runner:
    """Runs tasks in this process; networks are loaded once and kept.

    Parameters
    ----------
    overrides : dict
        Options of `PredictOptions` that hold in place of the tasks' own, such as the device.
    progress : callable, optional
        Called with a task, how many of its tiles are done, and of how many.
    """

    overrides: dict[str, Any] = field(default_factory=dict)
    progress: TaskProgress | None = None
    _engines: dict[tuple[Any, ...], tuple[Engine, int]] = field(default_factory=dict)

    def run(self, task: Task) -> Outcome:
        """Run a task, unless it is done; errors are told in the outcome."""
        task = replace(task, options=replace(task.options, **self.overrides))
        return _attempt(task, partial(self._predict, task))

    def _predict(self, task: Task) -> Report:
        options = task.options
        weights = find_weights(options.weights)
        options = replace(options, weights=weights)
        key = weights, sha256_of_weights(weights), options.engine
        if key not in self._engines:
            engine = load(options, weights)
            self._engines[key] = engine, engine.batch
        engine, batch = self._engines[key]
        engine.batch = batch  # which a scene may have lowered for itself
        progress = partial(self.progress, task) if self.progress else None
        try:
            return predict(options, engine, progress=progress, block=task.map_block)
        except TryAgainError:
            self._engines.pop(key)[0].close()
            raise

    def close(self) -> None:
        """Give back what the networks hold."""
        while self._engines:
            self._engines.popitem()[1][0].close()


def _attempt(task: Task, make: Callable[[], Report], command: str = "run") -> Outcome:
    """Make what a task is to make, unless it is done, and write its sidecar."""
    started = time.monotonic()
    identity = task.id
    try:
        identity = identify(task)
        overwrite = task.options.overwrite
        to_merge = task.block is not None and not is_merged(task)
        version = other_version(read_sidecar(task.sidecar), exactly=to_merge)
        done = is_finished(task, identity)
        if version and not overwrite and (task.block or not done):
            raise OptionsError(
                f"{task.path} was made by refnet {version}, and refnet {__version__} makes another one. Finish the "
                f"batch with refnet {version}, or have it made again: refnet batch {command} TASKS --overwrite."
            )
        if done and not (version and overwrite):
            forget_failure(task.path)
            kept = [f"{task.path} was made by refnet {version}; --overwrite makes it again."] if version else []
            return Outcome(identity, str(task.path), "skipped", warnings=kept)
        check_replaceable([task.sidecar], overwrite)
        report = make()
        files = [file for made in report.files.values() for file in made]
        write_sidecar(task.path, identity, files, {"report": report.to_dict()})
        forget_failure(task.path)
        made = [file["path"] for file in files]
        seconds = round(time.monotonic() - started, 3)
        return Outcome(identity, str(task.path), "done", 0, "", seconds, 1, made, report.warnings)
    except Exception as error:  # a bug that one scene meets is told too, and must not cost the others
        known = as_known(error)
        code, message = (known.exit_code, str(known)) if known else (BUG, f"{type(error).__name__}: {error}")
        seconds, window = round(time.monotonic() - started, 3), known.window if known else None
        return _failed(task, Failure(code, message, window), id=identity, seconds=seconds)


def _failed(task: Task, failure: Failure, **more: Any) -> Outcome:
    """Record the failure of a task, and return it as its outcome."""
    record_failure(task.path, failure)
    about = {"id": task.id, "output": str(task.path), "status": "failed"} | asdict(failure) | more
    return Outcome(**about)


def share(tasks: Sequence[Task], index: int, of: int) -> list[Task]:
    """Return every ``of``-th task, beginning with number ``index``, from 0."""
    return list(tasks[index::of])


def run_here(
    tasks: Iterable[Task], overrides: dict[str, Any], pause: float = _PAUSE, progress: TaskProgress | None = None
) -> Generator[Outcome]:
    """Run tasks one after the other; what failed for reasons that pass is tried again at the end.

    Parameters
    ----------
    tasks : iterable of Task
    overrides, progress
        See `Runner`.
    pause : float
        Seconds before the first of these tries; the next one waits twice as long.

    Yields
    ------
    Outcome
        One for each task.
    """
    runner = Runner(overrides, progress)
    waiting = list(tasks)
    try:
        for tries in range(1, TRIES + 1):
            again = []
            for task in waiting:
                outcome = replace(runner.run(task), tries=tries)
                if outcome.worth_a_try and tries < TRIES:
                    again.append(task)
                else:
                    yield outcome
            waiting = again
            if waiting:
                time.sleep(pause * tries)
    finally:
        runner.close()


def run_in_workers(tasks: Iterable[Task], workers: int, overrides: dict[str, Any]) -> Generator[Outcome]:
    """Run tasks in processes of their own, which take the next one as they are free.

    A worker that is killed is replaced, and its scene tried again; what it had finished is not lost. Workers share out
    the memory that is free, unless tasks say how much they may take, and on CPUs the cores, unless OMP_NUM_THREADS is
    set.

    Parameters
    ----------
    tasks : iterable of Task
    workers : int
    overrides : dict
        See `Runner`.

    Yields
    ------
    Outcome
        One for each task, as they come to be.
    """
    tasks = list(tasks)
    workers = max(min(workers, len(tasks)), 1)  # those that would have nothing to do need no share
    if "max_memory" not in overrides and (most := memory_limit(None)) is not None:
        fair = f"{most // workers // MB}M"
        tasks = [replace(task, options=_with_memory(task.options, fair)) for task in tasks]
    cores = {"OMP_NUM_THREADS": str(max(usable_cores() // workers, 1))} | dict(os.environ)
    idle = [_Worker(overrides, cores) for _ in range(workers)]
    everyone = list(idle)

    def run(task: Task) -> Outcome:
        worker = idle.pop()  # there are as many threads
        try:
            return _try(task, worker)
        finally:
            idle.append(worker)

    with ThreadPoolExecutor(workers, "refnet-batch") as pool:
        try:
            for done in as_completed([pool.submit(run, task) for task in tasks]):
                yield done.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in everyone:
                worker.end()


def _with_memory(options: PredictOptions, most: str) -> PredictOptions:
    return options if options.max_memory else replace(options, max_memory=most)


def _try(task: Task, worker: _Worker) -> Outcome:
    for tries in range(1, TRIES + 1):
        outcome = replace(worker.run(task), tries=tries)
        if not outcome.worth_a_try or worker.ended:
            break
        time.sleep(_PAUSE * tries)
    return outcome


class _Worker:
    """A process that runs tasks: this program with ``batch run -``, which reads tasks from stdin."""

    def __init__(self, overrides: dict[str, Any], environment: dict[str, str]) -> None:
        given = [
            text
            for name, value in overrides.items()
            for text in (f"--{name.replace('_', '-')}", *([] if value is True else [str(value)]))
        ]
        # The working directory is searched for modules only where it is here.
        path = [] if {"", os.getcwd()} & set(sys.path) else ["-P"]
        self._command = [sys.executable, *path, "-m", "refnet_cli", "batch", "run", "-", "--as-worker", *given]
        self._environment = environment
        self._process: subprocess.Popen[str] | None = None
        self.ended = False

    def run(self, task: Task) -> Outcome:
        """Have a task run; a worker that dies of it is told in the outcome."""
        if not self.ended and (self._process is None or self._process.poll() is not None):
            self._close_pipes()
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=self._environment, encoding="utf-8",
                errors="surrogateescape",
            )  # fmt: skip
        process = self._process
        assert process is not None  # only the first task makes one, and before the end
        with suppress(OSError):
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(task.to_line() + "\n")
            process.stdin.flush()
            for line in process.stdout:
                with suppress(ValueError, TypeError):  # a library may have printed something of its own
                    return Outcome(**json.loads(line))
        code = process.wait()
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        message = f"Its process ended by itself ({how}), as it happens where memory runs out."
        if self.ended:  # by `end`, which is no failure of the task
            return Outcome(task.id, str(task.path), "failed", TryAgainError.exit_code, message)
        return _failed(task, Failure(TryAgainError.exit_code, message))

    def end(self) -> None:
        """End the process; what it is at can be gone on with."""
        self.ended = True
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(10)
            self._process.kill()
            self._process.wait()
        self._close_pipes()

    def _close_pipes(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout) if self._process else ():
            with suppress(OSError):  # what was not yet written goes nowhere
                if pipe:
                    pipe.close()


def end_with_parent() -> None:
    """End this process as by SIGTERM once nobody holds the other end of stdin, even in the midst of a scene."""
    if not hasattr(select, "poll"):  # Windows, where it ends after the scene
        return

    def wait() -> None:
        closed = select.poll()
        closed.register(0, 0)  # reports only that it is closed
        closed.poll()
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)

    threading.Thread(target=wait, daemon=True, name="refnet-parent").start()


def run_lines(lines: Iterable[str], overrides: dict[str, Any]) -> Generator[Outcome]:
    """Run tasks as their lines come in, each once, as a worker does."""
    runner = Runner(overrides)
    try:
        for line in lines:
            if line.strip():
                yield runner.run(Task.from_line(line, Path.cwd() / "-"))
    finally:
        runner.close()


_RUNNERS: dict[str, Runner] = {}
_ONE_AT_A_TIME = Lock()


def run_remotely(line: str, overrides: dict[str, Any]) -> dict[str, Any]:
    """Run a task in a process of a cluster, which keeps its networks for the next one.

    A process may be given several at once, in threads; they wait for each other, for they share a network.

    Raises
    ------
    TryAgainError
        If it fails for a reason that passes, for the cluster to try it elsewhere.
    """
    key = json.dumps(overrides, sort_keys=True)
    with _ONE_AT_A_TIME:
        runner = _RUNNERS.setdefault(key, Runner(overrides))
        outcome = runner.run(Task.from_line(line, Path.cwd() / "-"))
    if outcome.worth_a_try:
        raise TryAgainError(outcome.message)
    return asdict(outcome)


def run_on_dask(tasks: Sequence[Task], address: str, overrides: dict[str, Any]) -> Generator[Outcome]:
    """Run tasks on a cluster of dask.distributed, one task a scene.

    Where workers declare a resource GPU, each scene takes one. The cluster has to see the same files.

    Parameters
    ----------
    tasks : sequence of Task
    address : str
        Of its scheduler, as tcp://host:8786.
    overrides : dict
        See `Runner`.

    Yields
    ------
    Outcome
        One for each task, as they come to be.

    Raises
    ------
    UnavailableError
        If dask.distributed is not installed, or the scheduler is not there.
    """
    try:
        from dask.distributed import Client
        from dask.distributed import as_completed as completed
    except ImportError as error:
        raise UnavailableError("--dask needs dask.distributed: pip install 'refnet-cli[dask]'.") from error
    try:
        client: Any = Client(address, timeout=20)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        raise UnavailableError(f"There is no Dask scheduler at {address}: {error}.") from error
    with client:
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
        gpus = {"resources": {"GPU": 1}} if any("GPU" in (worker.get("resources") or {}) for worker in workers) else {}
        futures = {
            client.submit(run_remotely, task.to_line(), overrides, retries=TRIES - 1, pure=False, **gpus): task
            for task in tasks
        }
        for future in completed(list(futures)):  # type: ignore[no-untyped-call]
            yield _outcome_of(future, futures[future])


def _outcome_of(future: Any, task: Task) -> Outcome:
    error = future.exception()
    if error is None:
        return Outcome(**future.result())
    known = error if isinstance(error, RefnetError) else TryAgainError(f"{type(error).__name__}: {error}")
    return _failed(task, Failure(known.exit_code, str(known), known.window), tries=TRIES)


def missing(tasks: Iterable[Task]) -> list[Task]:
    """Return the tasks that are not done."""
    return [task for task in tasks if not is_finished(task, identify(task))]


def merge_maps(
    tasks: Sequence[Task], overwrite: bool = False, progress: Progress | None = None
) -> Generator[Outcome]:
    """Put the blocks of maps together, but for maps that are done.

    Parameters
    ----------
    tasks : sequence of Task
    overwrite : bool
        Replace existing files that refnet did not write, even if the tasks do not allow it.
    progress : callable, optional
        Called with how many blocks are put together, and of how many in all maps.

    Yields
    ------
    Outcome
        One for each map of which there are blocks.

    Raises
    ------
    OptionsError
        If there are none.
    """
    if not blocks_by_map(tasks):
        raise OptionsError("These tasks have no blocks to merge: refnet batch plan --blocks makes some.")
    if overwrite:
        tasks = [replace(task, options=replace(task.options, overwrite=True)) for task in tasks]
    maps, before = blocks_by_map(tasks), 0
    total = sum(map(len, maps))

    def report(done: int) -> None:
        if progress:
            progress(before + done, total)

    for blocks in maps:
        task = replace(blocks[0], block=None)
        yield _attempt(task, partial(merge, blocks, report), "merge")
        before += len(blocks)
        report(0)
