"""Disk errors: unsupported operations, full disks, and the relevant part of a library's message."""

from __future__ import annotations

import errno
import os
import re
from contextlib import suppress
from pathlib import Path

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Error numbers of a full disk, an exhausted quota, and a limit on file sizes."""
UNSUPPORTED = frozenset({errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL})
"""Error numbers of a file system that lacks an operation. FUSE, CIFS and 9p also return EINVAL."""
_NO_FOLDERS = UNSUPPORTED | {errno.EBADF, errno.EISDIR, errno.ENOTTY, errno.EPERM, errno.EACCES, errno.EROFS}
"""Error numbers of a system that cannot sync folders. Some return EBADF, because a folder is not open for writing."""
_PROBE = 1 << 20  # bytes of the test write
_LONGEST = 300  # most characters that are quoted of a library's message


def sync(path: Path) -> None:
    """Flush a file, or a folder's entries, to the disk, if the file system supports it.

    Raises
    ------
    OSError
        If the disk fails. Lack of support is not an error: the system then writes the data later.
    """
    is_folder = path.is_dir()
    if is_folder and os.name == "nt":  # Windows cannot open folders
        return
    try:
        descriptor = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
    except PermissionError:
        if is_folder:  # a writable folder may be unreadable
            return
        raise
    try:
        sync_descriptor(descriptor, is_folder)
    finally:
        os.close(descriptor)


def sync_descriptor(descriptor: int, is_folder: bool = False) -> None:
    """Flush an open file or folder to the disk, as `sync` does."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (_NO_FOLDERS if is_folder else UNSUPPORTED):
            raise


def is_full(error: Exception, folder: Path | None = None) -> bool:
    """Return whether a write failed for lack of disk space.

    GDAL and SQLite report no error number. Their message may hold the operating system's text; otherwise a test write
    decides.

    Parameters
    ----------
    error : Exception
    folder : Path, optional
        The folder where the write failed, with the unfinished files still in it.
    """
    if isinstance(error, OSError) and error.errno in FULL:
        return True
    texts = [os.strerror(number) for number in FULL] + ["disk is full"]
    if any(text in str(cause) for cause in _causes(error) for text in texts):
        return True
    return folder is not None and _is_out_of_space(folder)


def _is_out_of_space(folder: Path) -> bool:
    probe = folder / "probe"
    try:
        if resource is not None:
            limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
            largest = max((entry.stat().st_size for entry in os.scandir(folder) if entry.is_file()), default=0)
            if limit != resource.RLIM_INFINITY and largest + _PROBE > limit:
                return True
        with open(probe, "wb", buffering=0) as file:
            left = _PROBE
            while left:
                left -= file.write(bytes(left))
            sync_descriptor(file.fileno())
        return False
    except OSError as error:
        return error.errno in FULL
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)


def _causes(error: BaseException) -> list[BaseException]:
    """Return an error and its chain of causes, the deepest last."""
    found = [error]
    while (cause := found[-1].__cause__) is not None and cause not in found:
        found.append(cause)
    return found


def short_reason(error: BaseException) -> str:
    """Return the part of a library's message that states the reason, on one line.

    GDAL quotes SQL scripts before the reason, refers to an earlier error, and recommends its own options.

    Examples
    --------
    >>> short_reason(OSError(f"sqlite3_exec(CREATE TABLE {'a' * 5000};) failed: database is locked"))
    'database is locked'
    """
    cause = _causes(error)[-1] if "previous exception" in str(error) else error
    text = " ".join(str(cause).split()) or type(cause).__name__
    text = re.split(r"[;.]? It might help to ", text)[0]
    if len(text) > _LONGEST or re.match(r"sqlite3?_\w+\(", text):
        text = text.rpartition(" failed: ")[2]
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 2 :]}"
    return text
