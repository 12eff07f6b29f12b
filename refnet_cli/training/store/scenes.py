"""Scenes in the store: what is read once from the files of a date, and of its labels, and how windows are cut from it.

The images of one date and the labels are entries of their own, so that new labels do not have the images read again.
"""

from __future__ import annotations

import ast
import hashlib
import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from refnet_cli.errors import InputError, RefnetError
from refnet_cli.evaluation.confidence import ConfidentLabels
from refnet_cli.evaluation.labels import Labels
from refnet_cli.raster.raster import BLOCK
from refnet_cli.scene.blocks import OneSensorPatch, Patch
from refnet_cli.scene.options import as_paths
from refnet_cli.scene.pair import ScenePair
from refnet_cli.sensors.decisions import Decision
from refnet_cli.sensors.quality import UNREADABLE
from refnet_cli.system.atomic import replacing
from refnet_cli.system.closing import Closing
from refnet_cli.system.options import settings_of_result
from refnet_cli.system.urls import is_remote
from refnet_cli.tiles.window import Window
from refnet_cli.training.config import TrainConfig, TrainScene
from refnet_cli.training.dataset import Cells, recorded_decisions
from refnet_cli.training.store.entries import Entry, New
from refnet_cli.training.store.stamps import Stamps, stamp
from refnet_cli.training.store.tiles import Layout, Tiles
from refnet_cli.types import Float32, UInt8
from refnet_cli.version import __version__

FORMAT = 1
"""Version of the entries; raise it when what is stored changes."""
USABLE, COMPLETE = 1, 2
"""Bits of the layer ``valid``: see `ScenePair.read_valid` and `Patch.valid`."""


class UnreadableError(InputError):
    """A part of the files is unreadable, so the scene is not stored."""


def image_paths(entry: TrainScene) -> list[Path]:
    """Return the paths of a scene's images, and of its grid; URLs are left out."""
    given = [*as_paths(entry.optical), *as_paths(entry.sar), *([entry.grid] if entry.grid else [])]
    return [path for path in given if not is_remote(path)]


def label_paths(entry: TrainScene) -> list[Path]:
    """Return the paths of a scene's labels and of their confidence."""
    return [entry.labels, *([entry.confidence] if entry.confidence else [])]


def is_local(entry: TrainScene) -> bool:
    """Return whether all files of a scene are on this machine: others may change without notice."""
    return not any(map(is_remote, (*as_paths(entry.optical), *as_paths(entry.sar), entry.labels)))


def image_key(entry: TrainScene, config: TrainConfig, stamps: Stamps) -> str:
    """Return the key of a date's images: a digest of all that their values depend on.

    Raises
    ------
    OSError
        If a file is missing.
    """
    about = {
        "optical": list(map(str, as_paths(entry.optical))), "sar": list(map(str, as_paths(entry.sar))),
        "options": settings_of_result(entry.scene), "bands": [config.optical_bands, config.sar_bands],
        "files": stamps.of_inputs(image_paths(entry)),
    }  # fmt: skip
    return _key("images", about)


def label_key(entry: TrainScene, config: TrainConfig, grid: GeoBox, stamps: Stamps) -> str:
    """Return the key of a scene's labels on a grid; see `image_key`."""
    about = {
        "labels": str(entry.labels), "field": entry.label_field, "layer": entry.label_layer,
        "codes": config.label_codes if entry.label_codes is None else entry.label_codes,
        "scheme": asdict(config.classes), "grid": _describe_grid(grid),
        "confidence": [str(entry.confidence), entry.confidence_band],
        "files": stamps.of_inputs(label_paths(entry)),
    }  # fmt: skip
    return _key("labels", about)


def _key(kind: str, about: dict[str, Any]) -> str:
    text = json.dumps([FORMAT, __version__, kind, about], sort_keys=True, default=str)
    return f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:32]}"


def _describe_grid(grid: GeoBox) -> dict[str, Any]:
    return {"shape": list(grid.shape), "transform": list(grid.transform)[:6], "crs": str(grid.crs)}


def images_of(pair: ScenePair, config: TrainConfig) -> New:
    """Return the entry for the images of an open pair.

    Its tiles raise `UnreadableError` where a file is unreadable, and `OSError` if the files change meanwhile.
    """
    layout = Layout(*pair.grid.shape)
    layers = {"valid": ("u1", 0)}
    for name, bands in (("optical", config.optical_bands), ("sar", config.sar_bands)):
        if pair.absent != name:
            layers[name] = ("<f4", len(bands))
    files = [stamp(path) for path in pair.files if path.is_file()]
    return New(layout, dtype := layout.dtype(layers), lambda: _read_images(pair, layout, dtype), lambda: {
        "grid": _describe_grid(pair.grid), "absent": pair.absent, "files": files,
        "bands": [len(config.optical_bands), len(config.sar_bands)],
        "decisions": [[found.what, _as_text(found.value), found.how] for found in recorded_decisions(pair)],
    })  # fmt: skip


def _as_text(value: Any) -> str:
    """Return a decision's value as a literal of Python, which keeps tuples."""
    text = repr(value)
    if ast.literal_eval(text) != value:
        raise ValueError(f"{text} is not a literal.")
    return text


def _read_images(pair: ScenePair, layout: Layout, dtype: np.dtype[np.void]) -> Iterator[NDArray[np.void]]:
    pair.prefetch(Window(0, 0, *layout).pieces(BLOCK))
    for window in layout.windows():
        try:
            patch, seen = pair.read(window), pair.read_seen(window)
        except InputError as error:
            raise UnreadableError(str(error)) from error
        if (seen & UNREADABLE).any():
            raise UnreadableError(f"{window} are unreadable in part.")
        valid = USABLE * pair.usable(seen) + np.uint8(COMPLETE) * patch.valid
        yield _tile(dtype, {"valid": valid, "optical": patch.optical, "sar": patch.sar})


def labels_of(labels: Labels, grid: GeoBox) -> New:
    """Return the entry for open labels; see `images_of`."""
    layout = Layout(*grid.shape)
    layers = {"labels": ("u1", 0)} | ({"confidence": ("<f4", 0)} if isinstance(labels, ConfidentLabels) else {})
    dtype = layout.dtype(layers)
    return New(layout, dtype, lambda: _read_labels(labels, layout, dtype), lambda: {"warnings": list(labels.warnings)})


def _read_labels(labels: Labels, layout: Layout, dtype: np.dtype[np.void]) -> Iterator[NDArray[np.void]]:
    for window in layout.windows():
        try:
            values: dict[str, NDArray[Any]] = {"labels": labels.read(window)}
            if isinstance(labels, ConfidentLabels):
                values["confidence"] = labels.confidence.read(window)
        except InputError as error:
            raise UnreadableError(str(error)) from error
        yield _tile(dtype, values)


def _tile(dtype: np.dtype[np.void], values: Mapping[str, NDArray[Any]]) -> NDArray[np.void]:
    """Return a tile with these values in its upper left; the rest is 0."""
    tile = np.zeros(1, dtype)
    for name in dtype.names or ():
        height, width = values[name].shape[-2:]
        tile[name][0][..., :height, :width] = values[name]
    return tile


class StoredImages:
    """The images of one date, from an entry."""

    def __init__(self, entry: Entry) -> None:
        about = entry.about
        self.key = entry.path.name
        self.tiles = Tiles(Layout(*about["grid"]["shape"]), entry.tiles)
        self.grid = GeoBox(tuple(about["grid"]["shape"]), Affine(*about["grid"]["transform"]), about["grid"]["crs"])
        self.absent = about["absent"]
        self.bands = dict(zip(("optical", "sar"), about["bands"], strict=True))
        self.decisions = tuple(Decision(what, ast.literal_eval(value), how) for what, value, how in about["decisions"])

    def read(self, window: Window, inside: Window) -> Patch:
        """Read a window that may extend beyond the grid, with NaN there; ``inside`` is its part inside."""
        images = [self._read(name, window, inside) for name in ("optical", "sar")]
        return OneSensorPatch(*images) if self.absent else Patch(*images)

    def _read(self, name: str, window: Window, inside: Window) -> Float32:
        shape = self.bands[name], window.height, window.width
        if name == self.absent:
            return np.full(shape, np.nan, np.float32)
        image = np.empty(shape, np.float32) if inside == window else np.full(shape, np.nan, np.float32)
        self.tiles.copy(name, inside, image[:, *inside.slices_in(window)])
        return image


class StoredScene(Closing):
    """A labelled scene from the store, read as `refnet_cli.training.dataset.SceneFiles`; any number of threads may."""

    def __init__(self, entry: TrainScene, images: StoredImages, labels: Entry) -> None:
        self.entry, self._images = entry, images
        self.grid, self.decisions = images.grid, images.decisions
        self.warnings: tuple[str, ...] = tuple(labels.about["warnings"])
        self._labels = Tiles(images.tiles.layout, labels.tiles)
        self._folder = labels.path

    def close(self) -> None:
        """Do nothing: the store keeps the arrays."""

    def prefetch(self, windows: Iterable[Window]) -> None:
        """Do nothing: there is nothing to prepare."""

    def read_labels(self, window: Window) -> UInt8:
        """See `SceneFiles.read_labels`."""
        usable = self._images.tiles.read("valid", window) & USABLE
        return np.where(usable > 0, self._labels.read("labels", window), 0).astype(np.uint8)

    def read(self, window: Window) -> tuple[Patch, UInt8]:
        """See `SceneFiles.read`."""
        inside = window.clip(*self.grid.shape)
        patch = self._images.read(window, inside)
        found = self._labels.read("labels", inside)
        found[self._images.tiles.read("valid", inside) & COMPLETE == 0] = 0
        if inside == window:
            return patch, found
        labels = np.zeros((window.height, window.width), np.uint8)
        labels[inside.slices_in(window)] = found
        return patch, labels

    def read_weights(self, window: Window) -> Float32:
        """See `SceneFiles.read_weights`."""
        weights = np.full((window.height, window.width), self.entry.label_weight, np.float32)
        if "confidence" in self._labels:
            inside = window.clip(*self.grid.shape)
            weights[inside.slices_in(window)] *= self._labels.read("confidence", inside)
        return weights

    def counts_path(self, windows: Sequence[Window], cell: int) -> Path:
        """Return the file for the counts of labels in cells of some windows."""
        text = json.dumps([FORMAT, __version__, self._images.key, cell, [list(window) for window in windows]])
        return self._folder / f"counts-{hashlib.sha256(text.encode()).hexdigest()[:32]}.npz"


def load_counts(path: Path, number: int, classes: int) -> list[Cells] | None:
    """Return the counts of labels in ``number`` windows by `save_counts`; None if they are missing or damaged."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            lengths, cells = arrays["lengths"], Cells(arrays["windows"], arrays["counts"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    total = int(lengths.sum())
    if (lengths.shape, cells.windows.shape, cells.counts.shape) != ((number,), (total, 4), (total, classes)):
        return None
    ends = np.cumsum(lengths)[:-1]
    return [Cells(*pair) for pair in zip(*(np.split(each, ends) for each in cells), strict=True)]


def save_counts(path: Path, found: Sequence[Cells]) -> None:
    """Keep the counts of labels in windows, where that is possible."""
    windows, counts = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
    lengths = np.array([len(cells.windows) for cells in found], np.int64)
    with suppress(RefnetError, OSError), replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, windows=windows, counts=counts, lengths=lengths)
