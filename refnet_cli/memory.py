"""What the process does with memory that it has freed."""

from __future__ import annotations

import ctypes
from functools import cache

# From glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_MOST = 2**31 - 1


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
