"""A part of a map as it is found, for other parts to be put next to it: no map yet, but all that outputs need of it."""

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
from refnet_cli.outputs.journal import Finished, Journal, Planes, read_journal
from refnet_cli.outputs.pictures.quicklook import Quicklook
from refnet_cli.outputs.rows import LAYERS, Rows
from refnet_cli.system.marks import MARK
from refnet_cli.version import __version__


def planes_of(layers: tuple[str, ...], scheme: ClassScheme) -> Planes:
    """Tell a journal of layers by the names in `LAYERS`."""
    kinds = {name: LAYERS[name] for name in layers}
    return {name: (kind.dtype, kind.bands or len(scheme.codes)) for name, kind in kinds.items()}


class Shard(FileOutput):
    """The layers of a part of a map, row by row, each with a checksum.

    Parameters
    ----------
    path : str or Path
    context : MapContext
        Of the part. The quicklook of the whole map's grid is kept in a second file, without what lies beyond the part.
    layers : tuple of str
        Names in `LAYERS`.
    """

    def __init__(self, path: str | Path, context: MapContext, layers: tuple[str, ...]) -> None:
        self.layers, self._look = layers, context.look
        super().__init__(path, context, [] if context.look is None else [look_of(Path(path))])

    def _start(self, folder: Path) -> None:
        self._working = folder / "shard"
        self._working.unlink(missing_ok=True)
        self._journal = Journal(self._working, self._tags, planes_of(self.layers, self._scheme))

    def _put(self, rows: Rows) -> None:
        self._journal.add(Finished(rows.row, {name: rows.layer(name) for name in self.layers}))

    def _complete(self, folder: Path, facts: Mapping[str, Any]) -> list[Path]:
        self._journal.close()
        if self._look is None:
            return [self._working]
        mark = {MARK: np.array(__version__)}
        np.savez_compressed(folder / "look.npz", **mark, **self._look.to_arrays())  # type: ignore[arg-type]
        return [self._working, folder / "look.npz"]

    def _close(self) -> None:
        self._journal.close()


def look_of(path: Path) -> Path:
    """Return where the quicklook of a shard lies."""
    return path.with_name(f"{path.name}.npz")


def read_look(path: Path) -> Quicklook:
    """Read the quicklook of a shard.

    Raises
    ------
    InputMissingError
        If it is not there.
    InputError
        If it is damaged.
    """
    try:
        with np.load(look_of(path), allow_pickle=False) as arrays:
            return Quicklook.from_arrays(arrays)
    except FileNotFoundError as error:
        raise InputMissingError(f"The quicklook {look_of(path)} is missing: run the batch again.") from error
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise InputError(f"{look_of(path)} is damaged ({error}). Remove it and run the batch again.") from error


def read_shard(
    path: Path, tags: dict[str, str], layers: tuple[str, ...], scheme: ClassScheme, height: int
) -> Iterator[Finished]:
    """Read the rows of a shard, which is not changed.

    Raises
    ------
    InputMissingError
        If it is not there.
    InputError
        If it is damaged or belongs to another map.
    """
    found = 0
    try:
        for finished in read_journal(path, tags, planes_of(layers, scheme)):
            found = finished.row + finished.rows
            yield finished
    except OSError as error:
        raise InputMissingError(f"The shard {path} cannot be read ({error.strerror}): run the batch again.") from error
    if found != height:
        raise InputError(
            f"{path} is damaged, or a part of another map: {found} of {height} rows are whole. Remove it and run the "
            "batch again."
        )
