"""Files that appear whole or not at all, and never in the place of what is read."""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from refnet_cli.errors import InputError, InputMissingError, OptionsError, OutputError, RefnetError, StorageError
from refnet_cli.system.disk import UNSUPPORTED, is_full, point_of, sync
from refnet_cli.system.urls import Remote, hide_secrets, is_remote

_NO_PLACE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG,
             errno.EEXIST, errno.ELOOP}  # fmt: skip


LEFT = 3600  # seconds after which a temporary file belongs to no one


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path next to a file; what is written there takes the file's place when all went well.

    A missing folder is created, and removed again where that fails.

    Parameters
    ----------
    path : Path
        The file to make or to replace.

    Yields
    ------
    Path
        Where to write.

    Raises
    ------
    OutputError
        If the file cannot be made there.
    StorageError
        If writing fails, for example because the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    created: list[Path] = []
    _remove_left(path)
    try:
        created = create_folder(path.parent)
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    except OSError as error:
        raise explain(path, error) from error
    finally:
        with suppress(OSError):  # what is in the way of it is in the way of the file, and told of that
            temporary.unlink(missing_ok=True)
        remove_empty(created)


def create_folder(folder: Path) -> list[Path]:
    """Create a folder and those above it that are missing, and return them, the innermost first.

    Raises
    ------
    OSError
        If one cannot be created.
    """
    missing = [part for part in (folder, *folder.parents) if not part.is_dir()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        remove_empty(missing)
        raise
    return missing


def check_folder(path: Path) -> None:
    """Refuse a file's name where its folder is neither there nor can be created, before long work begins.

    Raises
    ------
    OutputError
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
    """Remove the folders, in this order, in which nothing lies."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def write_whole(path: Path, text: str) -> None:
    """Write a text in UTF-8 to a file, which appears whole or not at all; see `replacing`."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def check_ending(path: Path, endings: Sequence[str], what: str, remedy: str = "") -> None:
    """Refuse a file's name whose ending promises another format than the file will have.

    Parameters
    ----------
    path : Path
    endings : sequence of str
        Those that are right, the usual one first.
    what : str
        What is written, with its article, as "the class map, a GeoTIFF".
    remedy : str
        What to do; by default to take the usual ending.

    Raises
    ------
    OptionsError
    """
    if path.suffix.lower() not in endings:
        ends = f"does not end in {' or '.join(filter(None, endings))}"
        remedy = remedy or f"Give {path.with_suffix(endings[0])}."
        raise OptionsError(f"{path} {ends}, as the name of {what} does. {remedy}")


def _remove_left(path: Path) -> None:
    """Remove what runs left that were killed while they wrote the same file.

    Only after an hour, more than writing takes: on a shared disk, another machine's run may be at it.
    """
    name = re.compile(re.escape(f".{path.name}.") + r"\d+\.tmp")
    with suppress(OSError):
        for entry in os.scandir(path.parent):
            if name.fullmatch(entry.name) and time.time() - entry.stat(follow_symlinks=False).st_mtime > LEFT:
                os.unlink(entry.path)


def explain(path: Path, error: Exception, folder: Path | None = None) -> RefnetError:
    """Return the error that says why a file could not be written.

    Parameters
    ----------
    path : Path
        The file, as the user knows it.
    error : Exception
        What the operating system or a library said.
    folder : Path, optional
        The hidden folder with the unfinished file, to find out whether the disk is full where the error does not say.
    """
    number = error.errno if isinstance(error, OSError) else None
    if number in _NO_PLACE:
        return OutputError(f"{path} cannot be made: {error}. Choose a place where files may be written.")
    if number in UNSUPPORTED:
        return OutputError(
            f"{path} cannot be made: {error}. The file system lacks this operation; choose a folder on another disk."
        )
    reason = point_of(error)
    if is_full(error, folder):
        return StorageError(
            f"Writing {path} failed: {reason}. The disk may be full, or a limit on file sizes reached; "
            "make room and run again. Nothing unfinished was left behind."
        )
    return StorageError(
        f"Writing {path} failed: {reason}. Nothing unfinished remains. Check the disk or the network drive, or "
        "choose a folder on another one, and run again."
    )


def check_places(outputs: Iterable[Path | None], inputs: Iterable[Path | Remote | None]) -> None:
    """Refuse to write over what is read, also through links, or to one place twice.

    Parameters
    ----------
    outputs, inputs : iterable of Path or None
        None stands for a file that was not asked for. What is fetched is passed over.

    Raises
    ------
    OptionsError
        Naming the two that are one file.
    """
    taken = [path for path in inputs if path and not isinstance(path, Remote)]
    for output in outputs:
        if output is None:
            continue
        for other in taken:
            same = output.exists() and other.exists() and os.path.samefile(output, other)
            if same or output.resolve() == other.resolve():
                raise OptionsError(f"Output {output} is the same file as {other}; choose another name.")
        taken.append(output)


def local_file(path: str | Path, what: str) -> str:
    """Return a path as text once it is known to lead to a file on this machine that may be read.

    Raises
    ------
    InputMissingError, InputError
        If it does not; ``what`` says what the file is to the user.
    """
    text = os.fspath(path)
    # A path keeps one slash of a URL's two.
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", text) or text.startswith("/vsi"):
        allowed = is_remote(text) and what in ("optical", "SAR")
        raise InputError(
            f"The {what} input {hide_secrets(text)} is not a local file: download it and give its path"
            + (", or have it fetched with --allow-remote." if allowed else ".")
        )
    # These take a name that is too long for one that does not exist.
    if not os.path.isfile(text) or not os.access(text, os.R_OK):
        state = "cannot be read" if os.path.exists(text) else "does not exist"
        raise InputMissingError(f"The {what} file {text} {state}: check the path and its permissions.")
    return text
