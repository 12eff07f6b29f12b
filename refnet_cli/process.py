"""Settings of the whole process that make it faster: freed memory, waiting threads, garbage, open files."""

from __future__ import annotations

import ctypes
import gc
import os
from functools import cache

# From glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_MOST = 2**31 - 1
_TURNS = "2000"
_USUAL_FILES = 1024


@cache
def keep_freed_memory() -> bool:
    """Let freed memory stay with the process, for the whole process and for good.

    A network frees and takes the same hundred megabytes for every tile. glibc's malloc gives large pieces back to the
    system at once, and each time they are taken anew the system fills them with zeros, page by page: a third of the
    time of a batch of tiles. Elsewhere, and with other allocators, nothing happens.

    Returns
    -------
    bool
        Whether glibc's malloc was there to be told.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, _MOST))


def let_waiting_threads_sleep() -> None:
    """Have torch's threads on CPUs wait for each other idly; before torch is imported, and unless the user decided.

    GNU's OpenMP, which torch comes with on Linux, lets a thread that has nothing to do turn in circles for some
    milliseconds and keep its core from all others: from the scan's own threads, those that read, and other programs.
    2000 turns, some ten microseconds, still bridge the gap from one operation to the next: on two idle cores a tile
    takes as long as before, beside two other busy programs two thirds or half of that (benchmarks/README.md).
    """
    os.environ.setdefault("GOMP_SPINCOUNT", _TURNS)


def collect_garbage_seldom() -> None:
    """Look for unreachable objects less often.

    The million objects that importing torch makes are not garbage: to look them through again and again takes seconds.
    """
    gc.set_threshold(100_000, 50, 50)


def usable_cores() -> int:
    """Return how many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def allow_open_files(count: int) -> int:
    """Let this process open more files, as far as the system allows that, for the whole process and for good.

    The usual limit of 1024 (``ulimit -n``) protects programs that use ``select``, which refnet and its libraries do
    not; a program may raise it up to the hard limit.

    Parameters
    ----------
    count : int
        Files to be open at once.

    Returns
    -------
    int
        The limit now, which may be below ``count`` or above it.
    """
    try:
        import resource
    except ImportError:  # Windows, where GDAL's files have no limit of this kind
        return max(count, _USUAL_FILES)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= count:
        return max(count, _USUAL_FILES) if soft == resource.RLIM_INFINITY else soft
    allowed = count if hard == resource.RLIM_INFINITY else min(count, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    except (ValueError, OSError):  # macOS has a lower limit that it does not state here
        return soft
    return allowed
