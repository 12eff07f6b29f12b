"""Run a program as a user would, and measure its time and the memory of it and its children (Linux)."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.measure import ROOT

INTERVAL = 0.05  # seconds between two looks at the memory


class Run(NamedTuple):
    """What a program took."""

    seconds: float
    megabytes: float
    """Peak of the resident memory of all processes together, page cache excluded."""
    cpu_seconds: float
    """Processor time, user and system, of all processes: what other load on the machine changes least."""
    failed: str | None
    """Why the program did not finish, or None."""


def watch(command: Sequence[str], folder: Path, limit_mb: float | None = None, timeout: float | None = None) -> Run:
    """Run a program and wait for its end; end it when it passes a limit.

    Parameters
    ----------
    command : sequence of str
    folder : Path
        Folder that the program runs in; ``log.txt`` there takes what it writes.
    limit_mb, timeout : float, optional
        MB of memory and seconds after which the program is ended.
    """
    # The benchmarks set GOMP_SPINCOUNT as refnet does for itself; others run with the defaults of their libraries.
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    environment["PYTHONPATH"] = str(ROOT)
    log = folder / "log.txt"
    started, before = time.perf_counter(), _cpu_of_children()
    peak, failed = 0.0, None
    with log.open("w") as out:
        program = subprocess.Popen(
            list(map(str, command)), cwd=folder, env=environment, stdout=out, stderr=subprocess.STDOUT
        )
        try:
            while program.poll() is None:
                peak = max(peak, memory_of_tree(program.pid))
                if limit_mb and peak > limit_mb:
                    failed = f"needs more than {limit_mb:,.0f} MB"
                elif timeout and time.perf_counter() - started > timeout:
                    failed = f"not finished after {timeout:.0f} s"
                if failed:
                    break
                time.sleep(INTERVAL)
        finally:
            if program.poll() is None:
                for number in _tree(program.pid):
                    os.kill(number, signal.SIGKILL)
            program.wait()
    if failed is None and program.returncode:
        lines = log.read_text(errors="replace").strip().splitlines() or ["no message"]
        failed = f"exit code {program.returncode}: {lines[-1][:200]}"
    return Run(time.perf_counter() - started, peak, _cpu_of_children() - before, failed)


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def memory_of_tree(pid: int) -> float:
    """Return the resident MB of a process and its descendants; at least the peak of any one of them."""
    now, peak = 0.0, 0.0
    for number in _tree(pid):
        try:
            status = Path(f"/proc/{number}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        now += _entry(status, "VmRSS")
        peak = max(peak, _entry(status, "VmHWM"))
    return max(now, peak)


def _entry(status: str, name: str) -> float:
    found = re.search(rf"^{name}:\s+(\d+) kB", status, re.MULTILINE)
    return int(found[1]) / 1024 if found else 0.0  # a process that has ended has no entry


def _tree(pid: int) -> list[int]:
    found = [pid]
    for number in found:
        for children in Path(f"/proc/{number}/task").glob("*/children"):
            try:
                found += map(int, children.read_text().split())
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found
