"""The hidden folder next to an output in which a run works. One run at a time has it.

filelock locks a file in it, by `lock_descriptor`: flock on Unix, LockFileEx on Windows. The file is opened, written and
removed here, and not by filelock's class `FileLock`, because that

- uses the mere existence of a file where flock is missing (ENOSYS), which outlives a kill, or else fails;
- fails where locks fail in another way, as ENOLCK on network drives, and closes the file, which is to name its owner;
- says the same of a lock that another run has and of one whose file was just removed, which is to be tried again;
- has a lock as long as its file has any name. NFS gives a new name to a file that is removed while another run has it
  open, and two runs would have the lock: here the file's own name must lead to it;
- creates a missing folder, which nobody removes then.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import time
from contextlib import suppress
from pathlib import Path

from filelock import lock_descriptor

from refnet_cli.errors import TryAgainError
from refnet_cli.system.atomic import create_folder, explain, remove_empty
from refnet_cli.system.closing import Closing
from refnet_cli.system.file_locks import NO_LOCKS

LOCK = "lock"
_OWNER_START = 1 if os.name == "nt" else 0  # in the file; Windows lets nobody read the locked byte, the first
_TRIES = 20
_LONGEST = 200  # bytes of a file's name, of which most systems allow 255


def work_folder_of(output: Path) -> Path:
    """Return the hidden folder of an output, whose links are resolved."""
    name = output.name
    if len(name.encode(errors="surrogateescape")) > _LONGEST:
        name = hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()
    return output.parent / f".{name}.refnet"


class WorkFolder(Closing):
    """A hidden folder next to an output for unfinished files. One run at a time has it.

    A missing folder for the output is created, and removed again if it is empty in the end.

    The operating system holds the lock and releases it when the process ends, in whatever way. The next run then finds
    what the folder holds. `close`, or the end of a ``with`` statement, releases the lock and removes the folder, unless
    `keep_for_next_run` names files in it.

    Some network file systems have no locks. There the run goes on with a warning. It is refused only if the last owner
    is another process that still runs on this machine.

    Parameters
    ----------
    output : Path
        The file to make, with links resolved.

    Raises
    ------
    OutputError
        If no folder can be made next to the output.
    TryAgainError
        If another run has the folder. The message names that run.
    StorageError
        If the file system fails.

    Attributes
    ----------
    warnings : list of str
        What the user should know of the file system.
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self.path = work_folder_of(output)
        self.warnings: list[str] = []
        self._kept: tuple[str, ...] = ()
        self._created: list[Path] = []
        try:
            for _ in range(_TRIES):
                if self._acquire():
                    return
        except BaseException:
            remove_empty(self._created)
            raise
        raise TryAgainError(f"{output}: the folder {self.path} is taken and left again and again; try again.")

    def _acquire(self) -> bool:
        """Create the folder and lock it; False if the previous owner removed it meanwhile."""
        lock = self.path / LOCK
        try:
            self._created = create_folder(self.output.parent) or self._created
            with suppress(FileExistsError):  # Path.mkdir looks whether it is there, when it may be gone again
                os.mkdir(self.path)
            self._descriptor = os.open(lock, os.O_CREAT | os.O_RDWR | getattr(os, "O_NOFOLLOW", 0), 0o666)
        except FileNotFoundError:  # another run has just removed the folder, or the one above it
            return False
        except OSError as error:
            raise explain(self.output, error) from error
        try:
            self._lock_file()
        except BaseException:
            os.close(self._descriptor)
            raise
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(self._descriptor), os.stat(lock)):
                try:
                    self._write_owner()
                except OSError as error:
                    self.close()
                    raise explain(self.output, error) from error
                return True
        os.close(self._descriptor)
        return False

    def _lock_file(self) -> None:
        """Lock the open file, or go on without a lock where the file system has none."""
        try:
            if lock_descriptor(self._descriptor, blocking=False):
                return
        except OSError as error:
            self._go_on_without_lock(error)
            return
        raise TryAgainError(
            f"{self.output} is being made by another run ({self._read_owner() or 'which has just begun'}): wait until "
            "it has ended, or choose another output."
        )

    def _go_on_without_lock(self, error: OSError) -> None:
        """Warn that there are no locks; refuse if the last owner is another process that still runs on this machine."""
        if error.errno not in NO_LOCKS:
            raise explain(self.output, error) from error
        if (other := _running_owner(self._read_owner())) is not None:
            raise TryAgainError(
                f"{self.output} is being made by process {other} on this machine: wait until it has ended, or "
                f"choose another output. If process {other} does something else, remove {self.path}."
            ) from None
        self.warnings = [
            f"the file system of {self.output.parent} has no file locks ({error.strerror}): refnet cannot tell "
            "whether another run writes the same output; start only one run for each output."
        ]

    def _read_owner(self) -> str:
        """Return the text of the file, which the last owner wrote."""
        os.lseek(self._descriptor, _OWNER_START, os.SEEK_SET)
        return os.read(self._descriptor, 1000).decode(errors="replace").strip()

    def _write_owner(self) -> None:
        """Write who has the folder."""
        owner = {"host": socket.gethostname(), "pid": os.getpid(), "started": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
        os.ftruncate(self._descriptor, 0)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        os.write(self._descriptor, b" " * _OWNER_START + json.dumps(owner).encode())

    def remove_leftovers(self, *kept: str) -> None:
        """Remove what earlier runs left, except files of these names."""
        for entry in self.path.iterdir():
            if entry.name in (LOCK, *kept):
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)

    def keep_for_next_run(self, *names: str) -> None:
        """Have `close` leave files of these names for the next run."""
        self._kept = names

    def close(self) -> None:
        """Release the lock and remove the folder; may be called more than once."""
        if self._descriptor < 0:
            return
        kept = [name for name in self._kept if (self.path / name).exists()]
        with suppress(OSError):
            self.remove_leftovers(*kept)
            # The lock's file goes last and while it is held, so that nobody else can hold one that is about to go.
            if not kept:
                (self.path / LOCK).unlink(missing_ok=True)
        os.close(self._descriptor)
        self._descriptor = -1
        if not kept:
            with suppress(OSError):
                self.path.rmdir()
            remove_empty(self._created)


def _running_owner(text: str) -> int | None:
    """Return the process that a lock's file names, if it is another one and runs on this machine."""
    try:
        owner = json.loads(text)
        host, process = owner["host"], int(owner["pid"])
        if host != socket.gethostname() or process == os.getpid() or os.name == "nt":  # where kill would end it
            return None
        os.kill(process, 0)
    except PermissionError:  # it is another user's
        return process
    except (ValueError, TypeError, KeyError, OverflowError, ProcessLookupError):
        return None
    return process
