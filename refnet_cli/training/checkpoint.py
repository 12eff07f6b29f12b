"""Checkpoints of a training: the last two states to resume from, and the best network."""

from __future__ import annotations

import logging
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from refnet_cli.errors import InputError, OptionsError, OutputError, StorageError
from refnet_cli.system.atomic import replacing
from refnet_cli.version import __version__

LOG = logging.getLogger(__name__)
KEPT = 2
CONFIDENCES = "confidences"
"""Setting that is only compared if the checkpoint has it."""
_UNFINISHED = re.compile(r"\.(step-\d+|best)\.pt\.\d+\.tmp")


class Stateful(Protocol):
    """An object with a state to save: network, optimiser, schedule and so on."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state."""
        ...

    def load_state_dict(self, state: Any) -> Any:
        """Restore the state."""
        ...


class Checkpoints:
    """Checkpoints in a folder, written atomically.

    Parameters
    ----------
    folder : Path
        Created if missing.
    settings : mapping of str to str
        Settings that the training depends on; checkpoints with other settings are refused.
    stateful : mapping of str to Stateful
        Objects to save and restore, by name.

    Raises
    ------
    OutputError
        If the folder cannot be created.
    """

    def __init__(self, folder: Path, settings: Mapping[str, str], stateful: Mapping[str, Stateful]) -> None:
        self._folder, self._settings, self._stateful = folder, dict(settings), dict(stateful)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"Cannot create the folder {folder}: {error.strerror}.") from error

    def remove_unfinished(self) -> None:
        """Remove temporary files of a killed training; no other training may use the folder."""
        for temporary in self._folder.glob(".*.tmp"):
            if _UNFINISHED.fullmatch(temporary.name):
                temporary.unlink(missing_ok=True)

    def save(self, step: int) -> None:
        """Write the state after ``step`` steps, and delete all but the last two checkpoints.

        Raises
        ------
        OutputError, StorageError
            If the checkpoint cannot be written; the previous ones remain.
        """
        state = {name: part.state_dict() for name, part in self._stateful.items()}
        about = {"settings": self._settings, "step": step, "refnet": __version__}
        _write(self._folder / f"step-{step:09}.pt", state | about)
        for old in _newest_first(self._folder)[KEPT:]:
            old.unlink(missing_ok=True)

    def load(self) -> int:
        """Restore the newest intact checkpoint, and return its number of steps; 0 without a checkpoint.

        Raises
        ------
        OptionsError
            If the checkpoint belongs to a training with other settings, or another program wrote it.
        InputError
            If all checkpoints are damaged.
        """
        paths = _newest_first(self._folder)
        for path in paths:
            state = _read(path)
            if state is None:
                LOG.warning(f"checkpoint {path} is damaged and skipped")
                continue
            _check_origin(path, state)
            stored = {CONFIDENCES: self._settings.get(CONFIDENCES)} | _settings_of(state)
            other = sorted(
                name
                for name in self._settings.keys() | stored.keys()
                if stored.get(name) != self._settings.get(name)
            )
            if other:
                raise OptionsError(
                    f"{path} belongs to a training with different settings ({', '.join(other)}). Choose another "
                    "folder, or remove this one."
                )
            for name, part in self._stateful.items():
                part.load_state_dict(state[name])
            return int(state["step"])
        if paths:
            raise InputError(f"All checkpoints in {self._folder} are damaged. Remove the folder to start again.")
        return 0

    def save_best(self, tensors: Mapping[str, Tensor]) -> None:
        """Write the best network so far.

        Raises
        ------
        OutputError, StorageError
            If it cannot be written; the previous one remains.
        """
        _write(self._folder / "best.pt", dict(tensors))

    def load_best(self) -> dict[str, Tensor]:
        """Read the best network.

        Raises
        ------
        InputError
            If it is missing or damaged.
        """
        best = _read(self._folder / "best.pt")
        if best is None:
            raise InputError(f"{self._folder / 'best.pt'} is missing or damaged. Remove the folder to start again.")
        return best


def read_settings(folder: Path) -> dict[str, str] | None:
    """Return the settings in the newest intact checkpoint of a folder; None without one."""
    states = map(_read, _newest_first(folder))
    return next((_settings_of(state) for state in states if state and "settings" in state), None)


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*.pt"), reverse=True)


def _check_origin(path: Path, state: dict[str, Any]) -> None:
    """Refuse checkpoints of other programs; refnet 0.1 stored no version, and its checkpoints can be resumed."""
    if not {"settings", "step"} <= state.keys():
        raise OptionsError(
            f"{path} is not a checkpoint of refnet. Choose another folder: refnet train REGIONS -o FOLDER."
        )
    version = str(state.get("refnet", "0.1"))
    if version != __version__:
        LOG.warning(f"refnet {version} wrote {path}, and refnet {__version__} continues from it")


def _settings_of(state: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings of a checkpoint; refnet 0.1 used the name ``esri-io`` for the scheme ``terramesh``."""
    settings = dict(state["settings"])
    if "refnet" not in state and settings.get("scheme") == "esri-io":
        settings["scheme"] = "terramesh"
    return settings


def _write(path: Path, state: dict[str, Any]) -> None:
    with replacing(path) as temporary:
        try:
            torch.save(state, temporary)
        except RuntimeError as error:  # torch raises it if the disk is full
            raise StorageError(f"Checkpoint {path} could not be written: {error}") from error


def _read(path: Path) -> dict[str, Any] | None:
    """Read a checkpoint without running code from it; None if it is damaged."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError):
        return None
    return state if isinstance(state, dict) else None
