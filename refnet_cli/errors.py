"""The errors that refnet raises on purpose, each with the exit code of the command-line tool.

A message states what was found, what was expected and what to do about it.
"""

from __future__ import annotations

import errno
import re

# Optional libraries, and the extra of refnet-cli that installs each.
EXTRAS = dict.fromkeys(
    ("torch", "timm", "numba", "llvmlite", "safetensors", "accelerate", "huggingface_hub", "matplotlib"), "torch"
) | {
    "onnx": "export", "onnxscript": "export", "pystac_client": "fetch", "requests": "fetch", "xarray": "xarray",
    "omnicloudmask": "clouds",
}  # fmt: skip


class RefnetError(Exception):
    """Base of all errors that the caller can fix; anything else is a bug."""

    exit_code = 70
    window: tuple[int, int, int, int] | None = None
    """Row, column, height and width of the pixels that cannot be used, where they are known."""


class OptionsError(RefnetError):
    """Raised for options that contradict each other or the files."""

    exit_code = 64


class InputError(RefnetError):
    """Raised for input that was read but cannot be used."""

    exit_code = 65


class InputMissingError(RefnetError):
    """Raised for input that is missing or unreadable."""

    exit_code = 66


class UnavailableError(RefnetError):
    """Raised when a requested device, kernel or backend is not available."""

    exit_code = 69


class OutputError(RefnetError):
    """Raised when an output file cannot be created."""

    exit_code = 73


class StorageError(RefnetError):
    """Raised when reading or writing fails midway, for example on a full disk."""

    exit_code = 74


class TryAgainError(RefnetError):
    """Raised for a temporary obstacle: a lock, or too little memory for even one tile."""

    exit_code = 75


class ConfigError(RefnetError):
    """Raised for a configuration file that cannot be parsed or does not fit."""

    exit_code = 78


class WeightsError(RefnetError):
    """Raised for weights that are damaged or do not fit."""

    exit_code = 78


def as_known(error: Exception) -> RefnetError | None:
    """Return the `RefnetError` that an error amounts to, or None if the error is a bug.

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
