"""Time measurements in turn, their ratios and limits, and the memory of processes (Linux).

This module does not import torch, so that the memory of code without torch can be measured.
"""

from __future__ import annotations

import ctypes
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

Row = dict[str, Any]


def medians(actions: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Run actions repeatedly in turn, so that other load on the machine affects all equally.

    Parameters
    ----------
    actions : mapping of callables
    repeats : int
        Runs per action.

    Returns
    -------
    dict
        Median seconds of each action.
    """
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(repeats):
        for name, action in actions.items():
            started = time.perf_counter()
            action()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def compare(what: str, seconds: float, over: str, other_seconds: float) -> Row:
    """Return a row of results: the seconds of a measurement, and their ratio to those of another."""
    return {
        "what": what,
        "seconds": seconds,
        "over": over,
        "other_seconds": other_seconds,
        "ratio": seconds / other_seconds,
    }


def check_limit(row: Row, measure: str, *, at_most: float | None = None, at_least: float | None = None) -> Row:
    """Compare one measure of a row with a limit.

    Parameters
    ----------
    row : dict
    measure : str
        Key of the measure.
    at_most, at_least : float, optional
        The limit; give one of the two.

    Returns
    -------
    dict
        The row with ``limit``, ``bar`` (the limit in words) and ``kept``.

    Examples
    --------
    >>> check_limit({"what": "a scene", "megabytes": 2100.0}, "megabytes", at_most=2000)
    {'what': 'a scene', 'megabytes': 2100.0, 'limit': 2000, 'bar': 'megabytes at most 2000', 'kept': False}
    """
    if at_most is not None:
        return {**row, "limit": at_most, "bar": f"{measure} at most {at_most:g}", "kept": row[measure] <= at_most}
    if at_least is not None:
        return {**row, "limit": at_least, "bar": f"{measure} at least {at_least:g}", "kept": row[measure] >= at_least}
    raise ValueError("Neither at_most nor at_least was given.")


def memory(entry: str) -> float:
    """Return MB of this process from ``/proc/self/status``: ``VmRSS`` is the current memory, ``VmHWM`` the peak."""
    found = re.search(rf"^{entry}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    if found is None:
        raise ValueError(f"/proc/self/status has no entry {entry!r}.")
    return int(found[1]) / 1024


def reset_peak() -> None:
    """Release freed memory to the system and reset ``VmHWM`` to the current memory."""
    # Freed memory that the allocator keeps would hide later allocations.
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def in_child(function: Callable[..., float], *arguments: str, environment: Mapping[str, str] | None = None) -> float:
    """Call a module's function in a child process and return its number; ``environment`` extends this process's."""
    # getrusage is unsuitable: its peak is inherited from the parent.
    module, name = function.__module__, function.__name__
    code = f"import sys; from {module} import {name}; print({name}(*sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True,
        env=os.environ | (environment or {}),
    )  # fmt: skip
    return float(done.stdout.split()[-1])  # the function may print too


def peak_of_refnet(*arguments: str) -> float:
    """Return the peak MB of the command-line tool; call it in a child process."""
    from refnet_cli.cli.main import run

    code = run(arguments)
    if code:
        raise RuntimeError(f"refnet {' '.join(arguments)} failed with {code}.")
    return memory("VmHWM")
