"""Shards: the layers of one block of a map, from which the outputs of the full map are merged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from refnet_cli.classes.schemes import ClassScheme
from refnet_cli.errors import InputError, InputMissingError
from refnet_cli.outputs.base import FileOutput
from refnet_cli.outputs.context import MapContext
from refnet_cli.outputs.journal import FinishedRows, Journal, Planes, read_journal
from refnet_cli.outputs.pictures.quicklook import Quicklook
from refnet_cli.outputs.rows import LAYERS, Rows
from refnet_cli.system.marks import MARK
from refnet_cli.version import __version__


def layer_planes(layers: tuple[str, ...], scheme: ClassScheme) -> Planes:
    """Return a journal's layers by their names in `LAYERS`."""
    kinds = {name: LAYERS[name] for name in layers}
    return {name: (kind.dtype, kind.bands or len(scheme.codes)) for name, kind in kinds.items()}


class Shard(FileOutput):
    """The layers of one block of a map, in records with a checksum.

    Parameters
    ----------
    path : str or Path
    context : MapContext
        The block's. Its quicklook is on the full map's grid, holds only the block's pixels, and goes to a second file.
    layers : tuple of str
        Names in `LAYERS`.
    """

    def __init__(self, path: str | Path, context: MapContext, layers: tuple[str, ...]) -> None:
        self.layers, self._look = layers, context.look
        super().__init__(path, context, [] if context.look is None else [quicklook_path(Path(path))])

    def _start(self, folder: Path) -> None:
        self._working = folder / "shard"
        self._working.unlink(missing_ok=True)
        self._journal = Journal(self._working, self._tags, layer_planes(self.layers, self._scheme))

    def _put(self, rows: Rows) -> None:
        self._journal.add(FinishedRows(rows.row, {name: rows.layer(name) for name in self.layers}))

    def _complete(self, folder: Path, facts: Mapping[str, Any]) -> list[Path]:
        self._journal.close()
        if self._look is None:
            return [self._working]
        mark = {MARK: np.array(__version__)}
        np.savez_compressed(folder / "look.npz", **mark, **self._look.to_arrays())  # type: ignore[arg-type]
        return [self._working, folder / "look.npz"]

    def _close(self) -> None:
        self._journal.close()


def quicklook_path(path: Path) -> Path:
    """Return the path of a shard's quicklook."""
    return path.with_name(f"{path.name}.npz")


def read_look(path: Path) -> Quicklook:
    """Return the quicklook of a shard.

    Raises
    ------
    InputMissingError
        If the file is missing.
    InputError
        If the file is damaged.
    """
    try:
        with np.load(quicklook_path(path), allow_pickle=False) as arrays:
            return Quicklook.from_arrays(arrays)
    except FileNotFoundError as error:
        raise InputMissingError(f"The quicklook {quicklook_path(path)} is missing. Run the batch again.") from error
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise InputError(f"{quicklook_path(path)} is damaged ({error}). Remove it and run the batch again.") from error


def read_shard(
    path: Path, tags: dict[str, str], layers: tuple[str, ...], scheme: ClassScheme, height: int
) -> Iterator[FinishedRows]:
    """Yield the rows of a shard, without changing it.

    Raises
    ------
    InputMissingError
        If the file is missing.
    InputError
        If the file is damaged or belongs to another map.
    """
    found = 0
    try:
        for finished in read_journal(path, tags, layer_planes(layers, scheme)):
            found = finished.row + finished.rows
            yield finished
    except OSError as error:
        raise InputMissingError(f"The shard {path} cannot be read ({error.strerror}). Run the batch again.") from error
    if found != height:
        raise InputError(
            f"{path} is damaged, or a block of another map: only {found} of {height} rows are intact. Remove it and "
            "run the batch again."
        )
