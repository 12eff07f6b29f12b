"""Labelled scenes in memory, and their split into training and test data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from refnet_cli.classes.schemes import SCHEMES
from refnet_cli.errors import InputMissingError
from refnet_cli.evaluation.raster_labels import RasterLabels
from refnet_cli.scene.options import SceneOptions
from refnet_cli.scene.pair import ScenePair
from refnet_cli.tiles.gaps import fill_gaps
from refnet_cli.tiles.window import Window

SCHEME = SCHEMES["terramesh"]  # scheme of TerraMesh's labels; labels of simulated scenes name their classes
OPTICAL_BANDS, SAR_BANDS = ("B02", "B03", "B04", "B08"), ("VV", "VH")
SIMULATED = SceneOptions(optical_offset=0, sar_scale="power")
"""Known offset and scale of simulated scenes: automatic detection may fail on unusual ones."""
HELD_OUT = 4
"""One in so many scenes is held out for testing."""
TRAINED_COLUMNS, GAP = 130, 8

Float32 = NDArray[np.float32]
UInt8 = NDArray[np.uint8]


class Scene(NamedTuple):
    """Pixels of one place.

    Parameters
    ----------
    name : str
    optical : float32 array, shape (4, H, W)
    sar : float32 array, shape (2, H, W)
        As read, in physical units, NaN where invalid; in a fold, standardised with gaps filled as in predictions.
    labels : uint8 array, shape (H, W)
        Class indices; 0 where there is no label or a sensor has no data.
    """

    name: str
    optical: Float32
    sar: Float32
    labels: UInt8

    def columns(self, start: int, stop: int | None) -> Scene:
        """Return the scene cropped to some columns."""
        cut = np.s_[..., start:stop]
        return Scene(self.name, self.optical[cut], self.sar[cut], self.labels[cut])


class Fold(NamedTuple):
    """Training and test scenes, standardised by the statistics of the training scenes."""

    name: str
    training: list[Scene]
    tested: list[Scene]


class DataSet(NamedTuple):
    """The folds that together give one score."""

    name: str
    kind: str
    """What is held out: ``scenes``, ``places`` or ``columns``."""
    folds: list[Fold]


def find_data_sets(folder: Path) -> Iterator[DataSet]:
    """Read a folder's scenes and yield their splits.

    Parameters
    ----------
    folder : Path
        Either contains folders with ``s2.tif``, ``s1.tif`` and ``labels.tif``, of which some are held out. Or contains
        the folders ``S2L2A``, ``S1RTC`` and ``LULC`` with one file per place: then every place is held out once, and in
        a second data set the eastern columns of all places.

    Raises
    ------
    InputMissingError
        If the folder has neither layout.
    """
    name = folder.resolve().name
    real = [(path, folder / "S1RTC" / path.name, folder / "LULC" / path.name) for path in folder.glob("S2L2A/*.tif")]
    simulated = [(path, path.with_name("s1.tif"), path.with_name("labels.tif")) for path in folder.glob("*/s2.tif")]
    if real:
        places = [read_scene(paths[0].stem, *paths) for paths in sorted(real)]
        yield DataSet(f"{name}: places", "places", list(hold_out_places(places)))
        yield DataSet(f"{name}: columns", "columns", [hold_out_columns(places)])
    elif simulated:
        scenes = [read_scene(paths[0].parent.name, *paths, SIMULATED) for paths in sorted(simulated)]
        yield DataSet(f"{name}: scenes", "scenes", [hold_out_scenes(scenes)])
    else:
        raise InputMissingError(f"{folder} contains neither S2L2A/*.tif nor */s2.tif.")


def read_scene(name: str, optical: Path, sar: Path, labels: Path, options: SceneOptions | None = None) -> Scene:
    """Read a full scene as in training."""
    with ScenePair.open(optical, sar, OPTICAL_BANDS, SAR_BANDS, options) as pair:
        window = Window(0, 0, *pair.grid.shape)
        patch = pair.read(window)
        with RasterLabels.open(labels, pair.grid, SCHEME) as reference:
            indexes = np.where(patch.valid, reference.read(window), 0).astype(np.uint8)
    return Scene(name, patch.optical, patch.sar, indexes)


def hold_out_scenes(scenes: Sequence[Scene]) -> Fold:
    """Return a fold that holds out every fourth scene."""
    tested = list(scenes[HELD_OUT - 1 :: HELD_OUT])
    names = {scene.name for scene in tested}
    return make_fold("held-out scenes", [scene for scene in scenes if scene.name not in names], tested)


def hold_out_places(scenes: Sequence[Scene]) -> Iterator[Fold]:
    """Yield a fold for each held-out place, except places that share no class with the others."""
    for tested in scenes:
        fold = make_fold(tested.name, [scene for scene in scenes if scene.name != tested.name], [tested])
        if fold.tested[0].labels.any():
            yield fold


def hold_out_columns(scenes: Sequence[Scene]) -> Fold:
    """Return a fold that holds out the eastern columns of all scenes, behind a gap."""
    return make_fold(
        "eastern columns",
        [scene.columns(0, TRAINED_COLUMNS) for scene in scenes],
        [scene.columns(TRAINED_COLUMNS + GAP, None) for scene in scenes],
    )


def make_fold(name: str, training: Sequence[Scene], tested: Sequence[Scene]) -> Fold:
    """Return a fold, standardised by the training statistics, without labels of classes missing from training."""
    seen = np.unique(np.concatenate([scene.labels.ravel() for scene in training]))
    means, deviations = [], []
    for pixels in ([scene.optical for scene in training], [scene.sar for scene in training]):
        values = np.concatenate([array.reshape(len(array), -1) for array in pixels], axis=1).astype(np.float64)
        means.append(np.nanmean(values, axis=1)[:, None, None])
        deviations.append(np.nanstd(values, axis=1)[:, None, None])

    def prepare(scene: Scene) -> Scene:
        optical, sar = (
            np.nan_to_num((fill_gaps(array[None])[0] - mean) / deviation, nan=0.0).astype(np.float32)
            for array, mean, deviation in zip((scene.optical, scene.sar), means, deviations, strict=True)
        )
        labels = np.where(np.isin(scene.labels, seen), scene.labels, 0).astype(np.uint8)
        return Scene(scene.name, optical, sar, labels)

    return Fold(name, [prepare(scene) for scene in training], [prepare(scene) for scene in tested])
