"""Times taken in turn, ratios of them, bars to hold them to, and the memory of processes (Linux).

Nothing here imports torch: the memory of what does without it can so be measured.
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
    """Run actions in turn, again and again, so that all suffer alike from what else the machine does.

    Parameters
    ----------
    actions : mapping of callables
    repeats : int
        How often each runs.

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
    """Return a row of results: ``seconds`` of something, and their ratio over those of something else."""
    return {
        "what": what,
        "seconds": seconds,
        "over": over,
        "other_seconds": other_seconds,
        "ratio": seconds / other_seconds,
    }


def hold(row: Row, measure: str, *, at_most: float | None = None, at_least: float | None = None) -> Row:
    """Hold one measure of a row to a bar.

    Parameters
    ----------
    row : dict
    measure : str
        Key of the number that counts.
    at_most, at_least : float, optional
        One of the two.

    Returns
    -------
    dict
        The row with ``limit``, ``bar`` (the same in words) and ``kept``.

    Examples
    --------
    >>> hold({"what": "a scene", "megabytes": 2100.0}, "megabytes", at_most=2000)
    {'what': 'a scene', 'megabytes': 2100.0, 'limit': 2000, 'bar': 'megabytes at most 2000', 'kept': False}
    """
    if at_most is not None:
        return {**row, "limit": at_most, "bar": f"{measure} at most {at_most:g}", "kept": row[measure] <= at_most}
    if at_least is not None:
        return {**row, "limit": at_least, "bar": f"{measure} at least {at_least:g}", "kept": row[measure] >= at_least}
    raise ValueError("Neither at_most nor at_least was given.")


def memory(entry: str) -> float:
    """MB of this process by an entry of ``/proc/self/status``: ``VmRSS`` is held now, ``VmHWM`` was the most."""
    found = re.search(rf"^{entry}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    if found is None:
        raise ValueError(f"/proc/self/status has no entry {entry}.")
    return int(found[1]) / 1024


def forget_peak() -> None:
    """Give freed memory back and let ``VmHWM`` start again at what is held now."""
    # Memory that was freed but kept would hide as much of what is taken next.
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def in_child(function: Callable[..., float], *arguments: str, environment: Mapping[str, str] | None = None) -> float:
    """Call a module's function in a process of its own, and return its number; ``environment`` is added to this one."""
    # getrusage would not do: its peak is inherited from the parent.
    module, name = function.__module__, function.__name__
    code = f"import sys; from {module} import {name}; print({name}(*sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True,
        env=os.environ | (environment or {}),
    )  # fmt: skip
    return float(done.stdout.split()[-1])  # the function may have written too


def peak_of_refnet(*arguments: str) -> float:
    """MB that the command line tool takes at most; called in a process of its own."""
    from refnet_cli.cli.main import run

    code = run(arguments)
    if code:
        raise RuntimeError(f"refnet {' '.join(arguments)} failed with {code}.")
    return memory("VmHWM")
