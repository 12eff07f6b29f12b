"""Every way refnet refuses, each with the exit code of the command line tool.

A message says what was found, what was wanted and what to do about it.
"""

from __future__ import annotations


class RefnetError(Exception):
    """Base of all errors that are the caller's to mend; anything else is a bug."""

    exit_code = 70


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
