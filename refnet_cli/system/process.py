"""Process-wide settings for speed: freed memory, idle threads, garbage collection, open files."""

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
    """Keep freed memory in the process, permanently.

    A network frees and allocates the same hundred megabytes for every tile. glibc's malloc returns large blocks to the
    system at once, and the system zeroes them page by page when they are allocated again: a third of the time of a
    batch of tiles. No effect with other allocators.

    Returns
    -------
    bool
        Whether glibc's malloc accepted the setting.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, _MOST))


def limit_openmp_spinning() -> None:
    """Limit how long torch's idle CPU threads spin; call before torch is imported. A user's own setting is kept.

    GNU's OpenMP, which torch uses on Linux, lets an idle thread spin for some milliseconds. It then blocks its core for
    the scan's own threads, the reading threads and other programs. 2000 iterations, some ten microseconds, still bridge
    the gap between two operations. On two idle cores a tile takes as long as before; next to two other busy programs it
    takes between half and two thirds of the time (benchmarks/README.md).
    """
    os.environ.setdefault("GOMP_SPINCOUNT", _TURNS)


def reduce_garbage_collection() -> None:
    """Run the garbage collector less often.

    Importing torch creates a million objects that are not garbage; scanning them repeatedly takes seconds.
    """
    gc.set_threshold(100_000, 50, 50)


def usable_cores() -> int:
    """Return how many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_read_threads() -> int:
    """Return the default number of reading threads: one per core and at most 8, as more do not read faster."""
    return min(usable_cores(), 8)


def raise_open_file_limit(count: int) -> int:
    """Raise this process's limit of open files permanently, as far as the system allows.

    The usual limit of 1024 (``ulimit -n``) protects programs that use ``select``. refnet and its libraries do not. A
    program may raise the limit up to the hard limit.

    Parameters
    ----------
    count : int
        Files to be open at once.

    Returns
    -------
    int
        The new limit, which may be below or above ``count``.
    """
    try:
        import resource
    except ImportError:  # Windows has no such limit for GDAL's files
        return max(count, _USUAL_FILES)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= count:
        return max(count, _USUAL_FILES) if soft == resource.RLIM_INFINITY else soft
    allowed = count if hard == resource.RLIM_INFINITY else min(count, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    except (ValueError, OSError):  # macOS has a lower limit than it states here
        return soft
    return allowed
