"""Every way refnet refuses, each with the exit code of the command line tool.

A message says what was found, what was expected and what to do about it.
"""

from __future__ import annotations

import errno
import re

# What is not installed with every refnet, and what to install for it.
EXTRAS = dict.fromkeys(
    ("torch", "timm", "numba", "llvmlite", "safetensors", "accelerate", "huggingface_hub", "matplotlib"), "torch"
) | {"onnx": "export", "onnxscript": "export"}


class RefnetError(Exception):
    """Base of all errors that the caller can fix; anything else is a bug."""

    exit_code = 70
    window: tuple[int, int, int, int] | None = None
    """Row, column, height and width of the pixels that cannot be used, where they are known."""


class OptionsError(RefnetError):
    """Options that contradict each other or the files."""

    exit_code = 64


class InputError(RefnetError):
    """Input that was read but cannot be used."""

    exit_code = 65


class InputMissingError(RefnetError):
    """Input that is missing or unreadable."""

    exit_code = 66


class UnavailableError(RefnetError):
    """A device, kernel or backend that was asked for and is not there."""

    exit_code = 69


class OutputError(RefnetError):
    """Output that cannot be made."""

    exit_code = 73


class StorageError(RefnetError):
    """An input or output operation that failed under way, such as a full disk."""

    exit_code = 74


class TryAgainError(RefnetError):
    """A passing hindrance: a lock, or too little memory even for one tile."""

    exit_code = 75


class ConfigError(RefnetError):
    """A configuration file that cannot be understood or does not fit."""

    exit_code = 78


class WeightsError(RefnetError):
    """Weights that are damaged or do not fit."""

    exit_code = 78


def as_known(error: Exception) -> RefnetError | None:
    """Return the error of ours that another stands for, None if it is a bug.

    Parameters
    ----------
    error : Exception
        Any error that a command raised.
    """
    if isinstance(error, RefnetError):
        return error
    no_memory = r"can't allocate memory|cannot allocate memory|bad_alloc|can't start new thread|map segment"
    if isinstance(error, MemoryError) or re.search(no_memory, str(error), re.IGNORECASE):
        return TryAgainError("Memory ran out. Close other programs, or use a smaller --batch or --max-memory.")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
        return StorageError(f"{error.filename or 'A file'} could not be read or written: {error.strerror}.")
    if isinstance(error, ModuleNotFoundError) and error.name in EXTRAS:
        remedy = f"pip install 'refnet-cli[{EXTRAS[error.name]}]'"
        return UnavailableError(f"This needs {error.name}, which is not installed: {remedy}.")
    return None
