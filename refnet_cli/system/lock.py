"""The hidden folder next to an output in which a run works: locked, and swept when its owner has died."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from refnet_cli.errors import TryAgainError
from refnet_cli.system.atomic import create_folder, explain, remove_empty
from refnet_cli.system.closing import Closing
from refnet_cli.system.disk import UNSUPPORTED

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]
    import msvcrt

LOCK = "lock"
_HELD = {errno.EAGAIN, errno.EACCES, errno.EDEADLK}  # the last one is Windows' answer
_NO_LOCKS = UNSUPPORTED | {errno.ENOLCK, errno.ENOTTY, errno.ENODEV, errno.EPERM}
_TRIES = 20
_LONGEST = 200  # bytes of a file's name, of which most systems allow 255


def workplace_of(output: Path) -> Path:
    """Return the hidden folder of an output, whose links are followed before."""
    name = output.name
    if len(name.encode(errors="surrogateescape")) > _LONGEST:
        name = hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()
    return output.parent / f".{name}.refnet"


class Workplace(Closing):
    """A hidden folder next to an output, which one run at a time may have.

    A missing folder for the output is created, and removed again if nothing lies in it in the end.

    The lock is the operating system's and falls with the process that holds it, however that ends; what the folder
    holds then is the next owner's. As a context manager it lets go on leaving, and removes the folder unless `keep` was
    called.

    Some network file systems have no locks. There it goes on with a warning, and refuses only if the process that
    signed last is another one that still runs on this machine.

    Parameters
    ----------
    output : Path
        The file to make; links are to be followed before.

    Raises
    ------
    OutputError
        If there is no place for a folder next to the output.
    TryAgainError
        If another run has it; says which.
    StorageError
        If the file system fails.

    Attributes
    ----------
    warnings : list of str
        What the user should know of the file system.
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self.folder = workplace_of(output)
        self.warnings: list[str] = []
        self._kept: tuple[str, ...] = ()
        self._created: list[Path] = []
        try:
            for _ in range(_TRIES):
                if self._enter():
                    return
        except BaseException:
            remove_empty(self._created)
            raise
        raise TryAgainError(f"{output}: the folder {self.folder} is taken and left again and again; try again.")

    def _enter(self) -> bool:
        """Take the lock; False if its file was removed by the one who had it before."""
        lock = self.folder / LOCK
        try:
            self._created = create_folder(self.output.parent) or self._created
            with suppress(FileExistsError):  # Path.mkdir looks whether it is there, when it may be gone again
                os.mkdir(self.folder)
            self._descriptor = os.open(lock, os.O_CREAT | os.O_RDWR | getattr(os, "O_NOFOLLOW", 0), 0o666)
        except FileNotFoundError:  # another run has just removed the folder, or the one above it
            return False
        except OSError as error:
            raise explain(self.output, error) from error
        try:
            self._lock()
        except BaseException:
            os.close(self._descriptor)
            raise
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(self._descriptor), os.stat(lock)):
                try:
                    self._sign()
                except OSError as error:
                    self.close()
                    raise explain(self.output, error) from error
                return True
        os.close(self._descriptor)
        return False

    def _lock(self) -> None:
        """Lock the open file, as far as the file system can."""
        try:
            _lock(self._descriptor)
        except OSError as error:
            text = os.read(self._descriptor, 1000).decode(errors="replace").strip()
            if error.errno in _HELD:
                raise TryAgainError(
                    f"{self.output} is being made by another run ({text or 'which has just begun'}): wait until it has "
                    "ended, or choose another output."
                ) from None
            if error.errno not in _NO_LOCKS:
                raise explain(self.output, error) from error
            if (other := _other_process(text)) is not None:
                raise TryAgainError(
                    f"{self.output} is being made by process {other} on this machine: wait until it has ended, or "
                    f"choose another output. If process {other} does something else, remove {self.folder}."
                ) from None
            self.warnings = [
                f"the file system of {self.output.parent} has no file locks ({error.strerror}): refnet cannot tell "
                "whether another run writes the same output; start only one run for each output."
            ]

    def _sign(self) -> None:
        owner = {"host": socket.gethostname(), "pid": os.getpid(), "started": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, json.dumps(owner).encode(), 0)

    def sweep(self, *kept: str) -> None:
        """Remove what earlier runs left, but for files of these names."""
        for entry in self.folder.iterdir():
            if entry.name in (LOCK, *kept):
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)

    def keep(self, *names: str) -> None:
        """Leave files of these names to the next run."""
        self._kept = names

    def close(self) -> None:
        """Let go; may be called more than once."""
        if self._descriptor < 0:
            return
        kept = [name for name in self._kept if (self.folder / name).exists()]
        with suppress(OSError):
            self.sweep(*kept)
            # The lock's file goes last and while it is held, so that nobody else can hold one that is about to go.
            if not kept:
                (self.folder / LOCK).unlink(missing_ok=True)
        os.close(self._descriptor)
        self._descriptor = -1
        if not kept:
            with suppress(OSError):
                self.folder.rmdir()
            remove_empty(self._created)


def _lock(descriptor: int) -> None:
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    else:
        module: Any = msvcrt
        os.lseek(descriptor, 4096, os.SEEK_SET)  # beyond the text, which others read
        module.locking(descriptor, module.LK_NBLCK, 1)


def _other_process(signature: str) -> int | None:
    """Return the process that signed a lock's file, if it is another one that runs on this machine."""
    try:
        owner = json.loads(signature)
        host, process = owner["host"], int(owner["pid"])
        if host != socket.gethostname() or process == os.getpid() or os.name == "nt":  # where kill would end it
            return None
        os.kill(process, 0)
    except PermissionError:  # it is another user's
        return process
    except (ValueError, TypeError, KeyError, OverflowError, ProcessLookupError):
        return None
    return process
