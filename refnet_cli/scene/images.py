"""Images of one sensor on the map grid: the bands used, the conversion to physical values, and the pixels."""

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
from refnet_cli.scene.resample import BandGroup, align_bands, describe_resampling, read_layers
from refnet_cli.scene.sar import SarReader
from refnet_cli.scene.source import Source
from refnet_cli.sensors.band_names import choose_bands
from refnet_cli.sensors.decisions import Decision
from refnet_cli.sensors.quality import CLEAR
from refnet_cli.sensors.sensor import Modality
from refnet_cli.sensors.sentinel2 import EDGES
from refnet_cli.tiles.window import Window
from refnet_cli.types import Bool, Float32


class SelectedBands(NamedTuple):
    """The bands of a sensor that are used, and the evidence for them."""

    source: Source
    layers: list[Layer]
    how: str

    @property
    def modality(self) -> Modality:
        """The sensor."""
        return self.source.files.modality


def select_bands(source: Source, names: Sequence[str], option: Sequence[str] | None) -> SelectedBands:
    """Select the bands of a source by name; see `choose_bands` for parameters and errors."""
    with source.error_context():
        indexes, how = choose_bands(names, source.descriptions, source.files.modality, option, source.band_names)
    return SelectedBands(source, [source.layers[index - 1] for index in indexes], how)


class OpticalImage:
    """Optical files on a grid.

    Parameters
    ----------
    chosen : SelectedBands
    groups : sequence of BandGroup
        The groups of bands that fill the chosen layers on the grid.
    names : sequence of str
        The names that the bands are read as.
    grid : GeoBox
    options : SceneOptions
    edges : bool
        Whether to read also the bands that `estimate_shift` compares with SAR.

    Attributes
    ----------
    decisions : list of Decision
        The detected properties of the files, with evidence.
    warnings : list of str
        Possible reasons for a poor result.
    levels : dict of str to float
        Mean of each band over sampled pixels, as reflectance x 10,000; NaN without any.

    Raises
    ------
    InputError
        If the files cannot be interpreted.
    OptionsError
        If the options contradict the files.
    """

    def __init__(
        self,
        chosen: SelectedBands,
        groups: Sequence[BandGroup],
        names: Sequence[str],
        grid: GeoBox,
        options: SceneOptions,
        edges: bool,
    ) -> None:
        source, layers, how = chosen
        self.source, self._groups = source, groups
        self._mask_errors = options.on_read_error == "mask"
        self._edge_groups = align_bands(source, _edge_layers(source, layers), grid) if edges else []
        with source.error_context():
            self._reader = OpticalReader(source, layers, names, options)
        self.decisions = [
            Decision("optical.bands", [source.layers.index(layer) + 1 for layer in layers], how),
            *describe_resampling("optical", groups),
            *self._reader.decisions,
        ]
        self.warnings = list(self._reader.warnings)
        if how.startswith("count: a guess"):
            self.warnings.insert(0, f"the order of the optical bands is {how.removeprefix('count: ')}")
        self._clouds: Clouds | None = None
        if options.masks_clouds or options.cloud_classes or options.cloud_buffer:
            self._clouds, decisions = choose_clouds(source, grid, options)
            self.decisions += decisions
        self.levels = {name: self._reader.levels[layer] for name, layer in zip(names, layers, strict=True)}

    @property
    def files(self) -> set[int]:
        """Numbers of the files that are read."""
        own = {group.file for group in (*self._groups, *self._edge_groups)}
        return own | (self._clouds.files if self._clouds else set())

    def read(
        self, rasters: Mapping[int, Raster], window: Window, counts: Counter[str], cloudy: Bool, broken: Bool
    ) -> Float32:
        """Read reflectance x 10,000, shape (B, H, W), and mark cloudy and unreadable pixels."""
        mark = broken if self._mask_errors else None
        values = read_layers(self._groups, rasters, window, _as_stored, counts, mark)
        values = self._reader.convert(values, counts)
        if self._clouds:
            cloudy |= self._clouds.read(rasters, window) != CLEAR
            cloudy &= np.isfinite(values).all(axis=0)
            counts["optical_cloudy"] = int(np.count_nonzero(cloudy))
            values[:, cloudy] = np.nan
        return values

    def read_edges(
        self, rasters: Mapping[int, Raster], window: Window, counts: Counter[str], broken: Bool
    ) -> Float32:
        """Read the bands with the clearest edges, shape (B, H, W), with a common scale."""
        mark = broken if self._mask_errors else None
        seen = read_layers(self._edge_groups, rasters, window, _as_stored, counts, mark)
        seen *= self._reader.scale
        return seen


class SarImage:
    """SAR files on a grid.

    Parameters
    ----------
    chosen : SelectedBands
    groups : sequence of BandGroup
        The groups of bands that fill the chosen layers on the grid.
    names : sequence of str
        The names that the bands are read as.
    options : SceneOptions

    Attributes
    ----------
    decisions : list of Decision
        The detected properties of the files, with evidence, without those of `describe_alignment`.
    warnings : list of str
        Possible reasons for a poor result.
    levels : dict of str to float
        Mean of each band over sampled pixels, in dB; NaN without any.

    Raises
    ------
    InputError
        If the files cannot be interpreted.
    OptionsError
        If the options contradict the files.
    """

    def __init__(
        self, chosen: SelectedBands, groups: Sequence[BandGroup], names: Sequence[str], options: SceneOptions
    ) -> None:
        self.source, self._layers, how = chosen
        self.groups = groups
        self._mask_errors = options.on_read_error == "mask"
        with self.source.error_context():
            self._reader = SarReader(self.source, self._layers, names, how, options)
        self.decisions = self._reader.decisions
        self.warnings = list(self._reader.warnings)
        self.levels = {name: self._reader.levels[layer] for name, layer in zip(names, self._layers, strict=True)}

    @property
    def files(self) -> set[int]:
        """Numbers of the files that are read."""
        return {group.file for group in self.groups}

    def describe_alignment(self) -> list[Decision]:
        """Return the share of the grid that the files cover, and how they are resampled to it."""
        share = min(group.alignment.share for group in self.groups)
        overlap = Decision("overlap", round(share, 4), f"values: the SAR file covers {share:.1%} of the grid.")
        return [overlap, *describe_resampling("sar", self.groups)]

    def move(self, grid: GeoBox) -> None:
        """Align the files with another grid."""
        self.groups = align_bands(self.source, self._layers, grid)

    def read(self, rasters: Mapping[int, Raster], window: Window, counts: Counter[str], broken: Bool) -> Float32:
        """Read backscatter in dB, shape (B, H, W), and mark unreadable pixels."""

        def convert(values: Float32, file: int, window: Window) -> Float32:
            power = self._reader.power(values, file, window)
            counts["sar_impossible"] += int(np.count_nonzero(np.isfinite(values) & np.isnan(power)))
            return power

        mark = broken if self._mask_errors else None
        power = read_layers(self.groups, rasters, window, convert, counts, mark)
        return self._reader.convert(power, counts)


def _edge_layers(source: Source, chosen: list[Layer]) -> list[Layer]:
    named = {layer.name: layer for layer in (*source.layers, *chosen)}  # prefer chosen layers among equal names
    return [named[name] for name in EDGES if name in named] or chosen


def _as_stored(values: Float32, file: int, window: Window) -> Float32:
    return values
