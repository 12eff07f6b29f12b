"""Everything a training needs to go on: the last two states of it, and the best network."""

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
"""Setting that is not compared where a checkpoint does not hold it."""
_UNFINISHED = re.compile(r"\.(step-\d+|best)\.pt\.\d+\.tmp")


class Part(Protocol):
    """What has a state: network, optimiser, schedule and the like."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state."""
        ...

    def load_state_dict(self, state: Any) -> Any:
        """Restore the state."""
        ...


class Checkpoints:
    """Checkpoints in a folder, each a file that appears whole or not at all.

    Parameters
    ----------
    folder : Path
        Made if it is missing.
    settings : mapping of str to str
        What the training depends on; checkpoints of other settings are refused.
    parts : mapping of str to Part
        What a checkpoint holds, by name.

    Raises
    ------
    OutputError
        If the folder cannot be made.
    """

    def __init__(self, folder: Path, settings: Mapping[str, str], parts: Mapping[str, Part]) -> None:
        self._folder, self._settings, self._parts = folder, dict(settings), dict(parts)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"Folder {folder} cannot be made: {error.strerror}.") from error

    def remove_unfinished(self) -> None:
        """Remove what a training left that was killed while it wrote; no other may be writing here."""
        for temporary in self._folder.glob(".*.tmp"):
            if _UNFINISHED.fullmatch(temporary.name):
                temporary.unlink(missing_ok=True)

    def _paths(self) -> list[Path]:
        """Return the checkpoints, the newest first."""
        return sorted(self._folder.glob("step-*.pt"), reverse=True)

    def save(self, step: int) -> None:
        """Write the state after ``step`` steps, and let go of all but the last two.

        Raises
        ------
        OutputError, StorageError
            If it cannot be written; the others stay.
        """
        state = {name: part.state_dict() for name, part in self._parts.items()}
        about = {"settings": self._settings, "step": step, "refnet": __version__}
        _write(self._folder / f"step-{step:09}.pt", state | about)
        for old in self._paths()[KEPT:]:
            old.unlink(missing_ok=True)

    def load(self) -> int:
        """Restore the newest state that is intact, and return the number of steps done; 0 where there is none.

        Raises
        ------
        OptionsError
            If it belongs to another training, or another program wrote it.
        InputError
            If there are checkpoints and all are damaged.
        """
        paths = self._paths()
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
                    f"{path} belongs to a training with other {', '.join(other)}; choose another folder or remove it."
                )
            for name, part in self._parts.items():
                part.load_state_dict(state[name])
            return int(state["step"])
        if paths:
            raise InputError(f"All checkpoints in {self._folder} are damaged. Remove that folder to start again.")
        return 0

    def save_best(self, tensors: Mapping[str, Tensor]) -> None:
        """Write the best network so far.

        Raises
        ------
        OutputError, StorageError
            If it cannot be written; the one before stays.
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
            raise InputError(f"{self._folder / 'best.pt'} is missing or damaged; remove the folder to start again.")
        return best


def _check_origin(path: Path, state: dict[str, Any]) -> None:
    """Refuse what another program wrote; 0.1 noted no version, and its checkpoints can be gone on with."""
    if not {"settings", "step"} <= state.keys():
        raise OptionsError(f"{path} is no checkpoint of refnet. Choose another folder: refnet train REGIONS -o FOLDER.")
    version = str(state.get("refnet", "0.1"))
    if version != __version__:
        LOG.warning(f"refnet {version} wrote {path}, and refnet {__version__} continues from it")


def _settings_of(state: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings that a checkpoint holds; 0.1 called the scheme ``terramesh`` ``esri-io``."""
    settings = dict(state["settings"])
    if "refnet" not in state and settings.get("scheme") == "esri-io":
        settings["scheme"] = "terramesh"
    return settings


def _write(path: Path, state: dict[str, Any]) -> None:
    with replacing(path) as temporary:
        try:
            torch.save(state, temporary)
        except RuntimeError as error:  # what torch makes of a full disk
            raise StorageError(f"Checkpoint {path} could not be written: {error}") from error


def _read(path: Path) -> dict[str, Any] | None:
    """Read a checkpoint as data only; None if it is damaged."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError):
        return None
    return state if isinstance(state, dict) else None
