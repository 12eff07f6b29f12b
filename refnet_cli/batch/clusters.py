"""Run tasks on a cluster: with Dask, or in remote functions of any other scheduler."""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from dataclasses import asdict
from pathlib import Path
from threading import Lock
from typing import Any

from refnet_cli.batch.failures import Failure
from refnet_cli.batch.outcome import Outcome, failed
from refnet_cli.batch.run import TRIES, Runner
from refnet_cli.batch.task import Task
from refnet_cli.errors import RefnetError, TryAgainError, UnavailableError

_RUNNERS: dict[str, Runner] = {}
_ONE_AT_A_TIME = Lock()


def run_remotely(line: str, overrides: dict[str, Any]) -> dict[str, Any]:
    """Run a task in a process of a cluster. The process keeps its networks for further tasks.

    Calls in several threads of one process wait for each other, because they share a network.

    Parameters
    ----------
    line : str
        A line of a file of tasks.
    overrides : dict
        Options that replace those of the task, such as the device.

    Returns
    -------
    dict
        The fields of `refnet_cli.batch.outcome.Outcome`.

    Raises
    ------
    TryAgainError
        If the failure is temporary; the cluster can try the task elsewhere.
    """
    key = json.dumps(overrides, sort_keys=True)
    with _ONE_AT_A_TIME:
        runner = _RUNNERS.setdefault(key, Runner(overrides))
        outcome = runner.run(Task.from_line(line, Path.cwd() / "-"))
    if outcome.may_pass:
        raise TryAgainError(outcome.message)
    return asdict(outcome)


def run_on_dask(tasks: Sequence[Task], address: str, overrides: dict[str, Any]) -> Generator[Outcome]:
    """Run tasks on a cluster of dask.distributed, whose workers must see the same files.

    If workers declare a resource GPU, each task takes one.

    Parameters
    ----------
    tasks : sequence of Task
    address : str
        Address of the scheduler, such as tcp://host:8786.
    overrides : dict
        See `refnet_cli.batch.run.Runner`.

    Yields
    ------
    Outcome
        One per task, in the order in which they end.

    Raises
    ------
    UnavailableError
        If dask.distributed is not installed, or the scheduler does not answer.
    """
    try:
        from dask.distributed import Client
        from dask.distributed import as_completed as completed
    except ImportError as error:
        raise UnavailableError("--dask needs dask.distributed: pip install 'refnet-cli[dask]'.") from error
    try:
        client: Any = Client(address, timeout=20)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        raise UnavailableError(f"No Dask scheduler answers at {address}: {error}.") from error
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
    return failed(task, Failure(known.exit_code, str(known), known.window), tries=TRIES)
