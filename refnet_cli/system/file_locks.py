"""Exclusive and shared locks on open files, for files that several processes use at once.

filelock has exclusive locks only. Shared ones are taken by flock. A lock belongs to the open file and its duplicates,
such as that of a memory map, and is released when the last of them is closed. On Windows there is no shared lock:
there, a file that is mapped cannot be moved or removed in the first place.
"""

from __future__ import annotations

import errno
import time

from filelock import lock_descriptor

from refnet_cli.system.disk import UNSUPPORTED

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

NO_LOCKS = UNSUPPORTED | {errno.ENOLCK, errno.ENOTTY, errno.ENODEV, errno.EPERM}
"""Error numbers of a file system without locks."""
_POLL = 0.02  # seconds between attempts


def lock_exclusive(descriptor: int, wait: bool = False) -> bool:
    """Lock an open file for this process alone; False if another one has a lock on it.

    Raises
    ------
    OSError
        If the file system has no locks, with a number in `NO_LOCKS`, or fails.
    """
    while not lock_descriptor(descriptor, blocking=False):
        if not wait:
            return False
        time.sleep(_POLL)
    return True


def lock_shared(descriptor: int) -> bool:
    """Lock an open file together with others that share it; False if one has it for itself.

    For errors, see `lock_exclusive`.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
