"""Run tasks in several processes of this machine."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import replace
from typing import Any

from refnet_cli.batch.failures import Failure
from refnet_cli.batch.outcome import Outcome, failed
from refnet_cli.batch.run import PAUSE, TRIES
from refnet_cli.batch.task import Task
from refnet_cli.errors import TryAgainError
from refnet_cli.prediction.options import PredictOptions
from refnet_cli.system.memory import MB, memory_limit
from refnet_cli.system.process import usable_cores


def run_in_workers(tasks: Iterable[Task], workers: int, overrides: dict[str, Any]) -> Generator[Outcome]:
    """Run tasks in worker processes. A free worker takes the next task.

    A killed worker is replaced and its task tried again, which continues the interrupted run. The workers divide the
    free memory, unless tasks state their limit, and on CPUs the cores, unless OMP_NUM_THREADS is set.

    Parameters
    ----------
    tasks : iterable of Task
    workers : int
    overrides : dict
        See `refnet_cli.batch.run.Runner`.

    Yields
    ------
    Outcome
        One per task, in the order in which they end.
    """
    tasks = list(tasks)
    workers = max(min(workers, len(tasks)), 1)  # idle workers need no share of the memory
    if "max_memory" not in overrides and (most := memory_limit(None)) is not None:
        limit = f"{most // workers // MB}M"
        tasks = [replace(task, options=_with_memory(task.options, limit)) for task in tasks]
    cores = {"OMP_NUM_THREADS": str(max(usable_cores() // workers, 1))} | dict(os.environ)
    idle = [_Worker(overrides, cores) for _ in range(workers)]
    everyone = list(idle)

    def run(task: Task) -> Outcome:
        worker = idle.pop()  # never empty: there are as many threads as workers
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


def _with_memory(options: PredictOptions, limit: str) -> PredictOptions:
    return options if options.max_memory else replace(options, max_memory=limit)


def _try(task: Task, worker: _Worker) -> Outcome:
    for tries in range(1, TRIES + 1):
        outcome = replace(worker.run(task), tries=tries)
        if not outcome.may_pass or worker.ended:
            break
        time.sleep(PAUSE * tries)
    return outcome


class _Worker:
    """A process of this program, ``refnet batch run -``, which reads tasks from stdin."""

    def __init__(self, overrides: dict[str, Any], environment: dict[str, str]) -> None:
        given = [
            text
            for name, value in overrides.items()
            for text in (f"--{name.replace('_', '-')}", *([] if value is True else [str(value)]))
        ]
        # Python's -P keeps the working directory out of the module path, if it is not in this process's.
        path = [] if {"", os.getcwd()} & set(sys.path) else ["-P"]
        self._command = [sys.executable, *path, "-m", "refnet_cli", "batch", "run", "-", "--as-worker", *given]
        self._environment = environment
        self._process: subprocess.Popen[str] | None = None
        self.ended = False

    def run(self, task: Task) -> Outcome:
        """Run a task in the process. If the process ends before the task, the outcome says so."""
        if not self.ended and (self._process is None or self._process.poll() is not None):
            self._close_pipes()
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=self._environment, encoding="utf-8",
                errors="surrogateescape",
            )  # fmt: skip
        process = self._process
        assert process is not None  # it is started by the first task, and `end` comes later
        with suppress(OSError):
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(task.to_line() + "\n")
            process.stdin.flush()
            for line in process.stdout:
                with suppress(ValueError, TypeError):  # a library may have printed a line too
                    return Outcome(**json.loads(line))
        code = process.wait()
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        message = f"The worker process ended before the task ({how}). It may have run out of memory."
        if self.ended:  # ended by `end`: not a failure of the task
            return Outcome(task.id, str(task.path), "failed", TryAgainError.exit_code, message)
        return failed(task, Failure(TryAgainError.exit_code, message))

    def end(self) -> None:
        """End the process. An interrupted task can be resumed."""
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
            with suppress(OSError):  # unwritten text is lost with the process
                if pipe:
                    pipe.close()


def end_with_parent() -> None:
    """End this process as SIGTERM does when the other end of stdin is closed, even during a task.

    Windows has no such notice. There the process ends after the task.
    """
    if not hasattr(select, "poll"):
        return

    def wait() -> None:
        closed = select.poll()
        closed.register(0, 0)  # reports only that stdin was closed
        closed.poll()
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)

    threading.Thread(target=wait, daemon=True, name="refnet-parent").start()
