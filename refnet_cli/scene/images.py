"""The files of one sensor on the grid of a map: the bands that are used, what their numbers mean, and their pixels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from odc.geo.geobox import GeoBox

from refnet_cli.raster.raster import Raster
from refnet_cli.scene.clouds import Clouds, choose_clouds
from refnet_cli.scene.inputs import Layer
from refnet_cli.scene.optical import OpticalReader
from refnet_cli.scene.options import SceneOptions
from refnet_cli.scene.resample import Part, describe_resampling, make_parts, read_layers
from refnet_cli.scene.sar import SarReader
from refnet_cli.scene.source import Source
from refnet_cli.sensors.band_names import choose_bands
from refnet_cli.sensors.decisions import Decision
from refnet_cli.sensors.sensor import Modality
from refnet_cli.sensors.sentinel2 import EDGES
from refnet_cli.tiles.window import Window
from refnet_cli.types import Bool, Float32


class Chosen(NamedTuple):
    """The bands of a sensor that are used, and how they were found."""

    source: Source
    layers: list[Layer]
    how: str

    @property
    def modality(self) -> Modality:
        """The sensor."""
        return self.source.files.modality


def choose_layers(source: Source, names: Sequence[str], option: Sequence[str] | None) -> Chosen:
    """Find bands by their names in the files of a sensor; see `choose_bands` for parameters and errors."""
    with source.naming():
        indexes, how = choose_bands(names, source.said, source.files.modality, option, source.named)
    return Chosen(source, [source.layers[index - 1] for index in indexes], how)


class OpticalImage:
    """Optical files on a grid.

    Parameters
    ----------
    chosen : Chosen
    parts : sequence of Part
        What feeds the chosen layers on the grid.
    names : sequence of str
        What the bands were taken for.
    grid : GeoBox
    options : SceneOptions
    edges : bool
        Whether the bands that `estimate_shift` compares with SAR are needed too.

    Attributes
    ----------
    decisions : list of Decision
        What the files are, and how that was found out.
    warnings : list of str
        What may spoil a result.
    levels : dict of str to float
        Mean of each band over sampled pixels, reflectance x 10,000; NaN without any.

    Raises
    ------
    InputError
        If the files cannot be understood.
    OptionsError
        If the options do not fit the files.
    """

    def __init__(
        self, chosen: Chosen, parts: Sequence[Part], names: Sequence[str], grid: GeoBox, options: SceneOptions,
        edges: bool,
    ) -> None:  # fmt: skip
        source, layers, how = chosen
        self.source, self._parts = source, parts
        self._mask_errors = options.on_read_error == "mask"
        self._edge_parts = make_parts(source, _edge_layers(source, layers), grid) if edges else []
        with source.naming():
            self._reader = OpticalReader(source, layers, names, options)
        self.decisions = [
            Decision("optical.bands", [source.layers.index(layer) + 1 for layer in layers], how),
            *describe_resampling("optical", parts),
            *self._reader.decisions,
        ]
        self.warnings = list(self._reader.warnings)
        if how.startswith("count: a guess"):
            self.warnings.insert(0, f"Which optical band is which is {how.removeprefix('count: ')}")
        self._clouds: Clouds | None = None
        if options.mask_clouds:
            self._clouds, decision = choose_clouds(source, grid)
            self.decisions.append(decision)
        self.levels = {name: self._reader.levels[layer] for name, layer in zip(names, layers, strict=True)}

    @property
    def files(self) -> set[int]:
        """Numbers of the files that are read."""
        own = {part.file for part in (*self._parts, *self._edge_parts)}
        return own | (self._clouds.files if self._clouds else set())

    def read(
        self, rasters: Mapping[int, Raster], window: Window, counts: Counter[str], cloudy: Bool, broken: Bool
    ) -> Float32:
        """Read reflectance x 10,000, shape (B, H, W), and mark what is masked as cloudy or cannot be read."""
        mark = broken if self._mask_errors else None
        values = read_layers(self._parts, rasters, window, _as_stored, counts, mark)
        values = self._reader.convert(values, counts)
        if self._clouds:
            cloudy |= self._clouds.read(rasters, window).view(bool)
            cloudy &= np.isfinite(values).all(axis=0)
            counts["optical_cloudy"] = int(np.count_nonzero(cloudy))
            values[:, cloudy] = np.nan
        return values

    def read_edges(
        self, rasters: Mapping[int, Raster], window: Window, counts: Counter[str], broken: Bool
    ) -> Float32:
        """Read the bands that show edges best, shape (B, H, W), in a scale that all of them share."""
        mark = broken if self._mask_errors else None
        seen = read_layers(self._edge_parts, rasters, window, _as_stored, counts, mark)
        seen *= self._reader.scale
        return seen


class SarImage:
    """SAR files on a grid.

    Parameters
    ----------
    chosen : Chosen
    parts : sequence of Part
        What feeds the chosen layers on the grid.
    names : sequence of str
        What the bands were taken for.
    options : SceneOptions

    Attributes
    ----------
    decisions : list of Decision
        What the files are, and how that was found out, without those of `describe_place`.
    warnings : list of str
        What may spoil a result.
    levels : dict of str to float
        Mean of each band over sampled pixels, in dB; NaN without any.

    Raises
    ------
    InputError
        If the files cannot be understood.
    OptionsError
        If the options do not fit the files.
    """

    def __init__(
        self, chosen: Chosen, parts: Sequence[Part], names: Sequence[str], options: SceneOptions
    ) -> None:
        self.source, self._layers, how = chosen
        self.parts = parts
        self._mask_errors = options.on_read_error == "mask"
        with self.source.naming():
            self._reader = SarReader(self.source, self._layers, names, how, options)
        self.decisions = self._reader.decisions
        self.warnings = list(self._reader.warnings)
        self.levels = {name: self._reader.levels[layer] for name, layer in zip(names, self._layers, strict=True)}

    @property
    def files(self) -> set[int]:
        """Numbers of the files that are read."""
        return {part.file for part in self.parts}

    def describe_place(self) -> list[Decision]:
        """Say how much of the grid the files cover, and how they come onto it."""
        share = min(part.alignment.share for part in self.parts)
        overlap = Decision("overlap", round(share, 4), f"values: the SAR file covers {share:.1%} of the grid.")
        return [overlap, *describe_resampling("sar", self.parts)]

    def move(self, grid: GeoBox) -> None:
        """Put the files onto another grid."""
        self.parts = make_parts(self.source, self._layers, grid)

    def read(self, rasters: Mapping[int, Raster], window: Window, counts: Counter[str], broken: Bool) -> Float32:
        """Read backscatter in dB, shape (B, H, W), and mark what cannot be read."""

        def convert(values: Float32, file: int, place: Window) -> Float32:
            power = self._reader.power(values, file, place)
            counts["sar_impossible"] += int(np.count_nonzero(np.isfinite(values) & np.isnan(power)))
            return power

        mark = broken if self._mask_errors else None
        power = read_layers(self.parts, rasters, window, convert, counts, mark)
        return self._reader.convert(power, counts)


def _edge_layers(source: Source, chosen: list[Layer]) -> list[Layer]:
    named = {layer.name: layer for layer in (*source.layers, *chosen)}  # of several files of a band, the chosen one
    return [named[name] for name in EDGES if name in named] or chosen


def _as_stored(values: Float32, file: int, window: Window) -> Float32:
    return values
