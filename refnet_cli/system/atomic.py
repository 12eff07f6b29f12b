"""Atomic writes: a file appears complete or not at all, and an output never overwrites an input."""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from refnet_cli.errors import InputError, InputMissingError, OptionsError, OutputError, RefnetError, StorageError
from refnet_cli.system.disk import UNSUPPORTED, is_full, short_reason, sync
from refnet_cli.system.urls import Remote, hide_secrets, is_remote

_CANNOT_CREATE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG,
                  errno.EEXIST, errno.ELOOP}  # fmt: skip
STALE_SECONDS = 3600
"""Age in seconds above which a temporary file counts as stale."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to a file, and move it over the file on success.

    Missing folders are created, and removed again on failure.

    Parameters
    ----------
    path : Path
        The file to create or replace.

    Yields
    ------
    Path
        The temporary file to write.

    Raises
    ------
    OutputError
        If the file cannot be created there.
    StorageError
        If writing fails, for example because the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    created: list[Path] = []
    _remove_stale(path)
    try:
        created = create_folder(path.parent)
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    except OSError as error:
        raise explain(path, error) from error
    finally:
        with suppress(OSError):  # the error above already names the cause
            temporary.unlink(missing_ok=True)
        remove_empty(created)


def create_folder(folder: Path) -> list[Path]:
    """Create a folder and its missing parents, and return the created folders, innermost first.

    Raises
    ------
    OSError
        If a folder cannot be created.
    """
    missing = [part for part in (folder, *folder.parents) if not part.is_dir()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        remove_empty(missing)
        raise
    return missing


def check_folder(path: Path) -> None:
    """Check that a file's folder exists or can be created, before long work begins.

    Raises
    ------
    OutputError
        If it cannot.
    """
    above = next(part for part in (path.parent, *path.parent.parents) if os.path.lexists(part))  # at last . or /
    try:
        if not above.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(above))
        if not os.access(above, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(above))
    except OSError as error:
        raise explain(path, error) from error


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove those folders that are empty, in this order."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def write_text_atomic(path: Path, text: str) -> None:
    """Write a text to a file atomically, in UTF-8; see `replacing`."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def check_ending(path: Path, endings: Sequence[str], what: str, remedy: str = "") -> None:
    """Check that a file name's extension matches the format that will be written.

    Parameters
    ----------
    path : Path
    endings : sequence of str
        The accepted extensions, the usual one first.
    what : str
        The file's content with its article, such as "the class map, a GeoTIFF".
    remedy : str
        What to do; by default, to use the usual extension.

    Raises
    ------
    OptionsError
        If the extension is another.
    """
    if path.suffix.lower() not in endings:
        remedy = remedy or f"Use {path.with_suffix(endings[0])}."
        expected = " or ".join(filter(None, endings))
        raise OptionsError(f"{path} is not a valid name for {what}: it must end in {expected}. {remedy}")


def _remove_stale(path: Path) -> None:
    """Remove stale temporary files, left by runs that were killed while they wrote the same file.

    Younger files stay: on a shared disk, a run on another machine may be writing them.
    """
    name = re.compile(re.escape(f".{path.name}.") + r"\d+\.tmp")
    with suppress(OSError):
        for entry in os.scandir(path.parent):
            if name.fullmatch(entry.name) and time.time() - entry.stat(follow_symlinks=False).st_mtime > STALE_SECONDS:
                os.unlink(entry.path)


def explain(path: Path, error: Exception, folder: Path | None = None) -> RefnetError:
    """Return the refnet error that explains why a file could not be written.

    Parameters
    ----------
    path : Path
        The file, under the user's name for it.
    error : Exception
        The error of the operating system or a library.
    folder : Path, optional
        The hidden folder with the unfinished file. A test write there shows whether the disk is full, if the error does
        not.
    """
    number = error.errno if isinstance(error, OSError) else None
    if number in _CANNOT_CREATE:
        return OutputError(f"{path} cannot be created: {error}. Choose a folder that you may write to.")
    if number in UNSUPPORTED:
        return OutputError(
            f"{path} cannot be created: {error}. The file system does not support this operation. Choose a folder on "
            "another disk."
        )
    reason = short_reason(error)
    if is_full(error, folder):
        return StorageError(
            f"Writing {path} failed: {reason}. The disk may be full, or a limit on file sizes reached. "
            "Free some space and run again. No partial files remain."
        )
    return StorageError(
        f"Writing {path} failed: {reason}. No partial files remain. Check the disk or the network drive, or "
        "choose a folder on another one, and run again."
    )


def check_distinct_paths(outputs: Iterable[Path | None], inputs: Iterable[Path | Remote | None]) -> None:
    """Check that no output is the same file as an input or another output, also through links.

    Parameters
    ----------
    outputs, inputs : iterable of Path or None
        None stands for a file that was not requested. Remote inputs are skipped.

    Raises
    ------
    OptionsError
        If two are the same file; the message names both.
    """
    taken = [path for path in inputs if path and not isinstance(path, Remote)]
    for output in outputs:
        if output is None:
            continue
        for other in taken:
            same = output.exists() and other.exists() and os.path.samefile(output, other)
            if same or output.resolve() == other.resolve():
                raise OptionsError(f"Output {output} is the same file as {other}. Choose another name.")
        taken.append(output)


def _where(text: str) -> str:
    """Say from which folder a path that is not there was looked up, or what it holds that only a shell replaces."""
    if text.startswith("~"):
        return ": only an unquoted ~ is your home folder"
    return "" if os.path.isabs(text) else f" in {os.getcwd()}"


def local_file(path: str | Path, what: str) -> str:
    """Check that a path is a readable local file, and return it as text.

    Raises
    ------
    InputMissingError, InputError
        If it is not; the message calls the file ``what``.
    """
    text = os.fspath(path)
    # pathlib drops one of a URL's two slashes.
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", text) or text.startswith("/vsi"):
        allowed = is_remote(text) and what in ("optical", "SAR")
        raise InputError(
            f"The {what} input {hide_secrets(text)} is not a local file. Download it and give its path"
            + (", or pass --allow-remote." if allowed else ".")
        )
    # Names that are too long count as missing here, without an error.
    if not os.path.isfile(text) or not os.access(text, os.R_OK):
        if os.path.exists(text):
            raise InputMissingError(f"The {what} file {text} cannot be read. Check its permissions.")
        raise InputMissingError(f"The {what} file {text} does not exist{_where(text)}. Check the path.")
    return text
