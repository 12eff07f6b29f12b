"""Sentinel-1 files: what their numbers mean, as linear power and dB."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refnet_cli.errors import InputError, OptionsError
from refnet_cli.raster.fills import without_repeated_extremes
from refnet_cli.raster.sample import Sample, mean_of
from refnet_cli.scene.inputs import Layer
from refnet_cli.scene.options import SceneOptions
from refnet_cli.scene.source import FileSample, Source, by_layer, nodata_decision, stored_dtype
from refnet_cli.scene.undeclared import Rules, remove_fills
from refnet_cli.sensors.decisions import Decision
from refnet_cli.sensors.safe import Calibration, SarProduct
from refnet_cli.sensors.sentinel1 import (
    DB_RANGE,
    FILL_VALUES,
    LEAST_GAP,
    MEASURED,
    SarScale,
    check_sar_scale,
    decibels,
    judge_sar_order,
    judge_sar_scale,
    linear_power,
    named_sar_scale,
    remove_border_noise,
)
from refnet_cli.tiles.window import Window
from refnet_cli.types import Float32


class SarReader:
    """Turns the numbers of Sentinel-1 files into linear power.

    Parameters
    ----------
    source : Source
    layers : sequence of Layer
        Bands to read.
    names : sequence of str
        What the bands were taken for.
    bands_how : str
        How that was decided; where by their number, their levels are looked at.
    options : SceneOptions

    Attributes
    ----------
    decisions : list of Decision
        What the numbers mean, and how that was found out.
    warnings : list of str
        What may spoil a result.
    samples : dict
        Levels in dB of pixels spread over each band, float32 arrays of shape (n,).
    levels : dict
        Mean of each band over those of them that lie away from holes; NaN without any.
    empty : bool
        Whether there is no measurement at all, which is an error unless the other sensor may do.

    Raises
    ------
    InputError
        If the files cannot be understood.
    """

    def __init__(
        self, source: Source, layers: Sequence[Layer], names: Sequence[str], bands_how: str, options: SceneOptions
    ) -> None:
        self.warnings: list[str] = []
        self.decisions: list[Decision] = []
        self._calibrations: dict[int, Calibration] = {}
        if isinstance(source.files.product, SarProduct):
            self._calibrations = {
                layer.pieces[0][0]: source.files.product.calibrations[str(layer.name)] for layer in layers
            }
        either = options.missing == "use-other"
        samples = source.sample(layers, either)
        self.empty = either and not any(map(_plausible, by_layer(samples, lambda sample: sample.values)))
        self.scale, how = self._judge_scale(source, layers, samples, options)
        if not self.empty and not self._calibrations:
            self.decisions, self.warnings = remove_fills(source, samples, self._rules())
            samples = source.sample(layers, either) if source.files.fills else samples
            self.empty = either and not any(np.isfinite(sampled.sample.values).any() for sampled in samples)
        if self.empty:
            self.warnings.append(
                f"the SAR input {source.label} has no valid pixel: the map rests on the optical image alone."
            )
        levels = self._levels(samples, lambda sample: sample.values)
        if bands_how.startswith("count") and len({len(level) for level in levels}) == 1:
            bands_how = f"{bands_how} {judge_sar_order(np.stack(levels), names)}".strip()
        self.samples = dict(zip(layers, levels, strict=True))
        clear = self._levels(samples, lambda sample: sample.judged)
        self.levels = {layer: mean_of(level) for layer, level in zip(layers, clear, strict=True)}
        numbers = [source.layers.index(layer) + 1 for layer in layers]
        self.decisions = [
            Decision("sar.bands", numbers, bands_how),
            Decision("sar.scale", self.scale, how),
            nodata_decision(source, layers),
            *self.decisions,
        ]

    def _levels(self, samples: Sequence[FileSample], values: Callable[[Sample], Float32]) -> list[Float32]:
        """Sampled levels in dB of each layer."""
        in_decibels = [
            (file, file.sample._replace(values=decibels(self.power(values(file.sample), file.file, None))))
            for file in samples
        ]
        return by_layer([file._replace(sample=sample) for file, sample in in_decibels], lambda sample: sample.values)

    def _rules(self) -> Rules:
        def level(values: NDArray[Any]) -> NDArray[Any]:
            return decibels(linear_power(values, self.scale))

        def ground(at: float, others: NDArray[Any]) -> bool:
            # Calm water, where levels were clipped.
            return MEASURED[0] <= at <= float(np.nanmin(others))

        return Rules(level, LEAST_GAP, *MEASURED, ground)

    def _judge_scale(
        self, source: Source, layers: Sequence[Layer], samples: Sequence[FileSample], options: SceneOptions
    ) -> tuple[SarScale, str]:
        product = source.files.product
        if isinstance(product, SarProduct):
            if options.sar_scale not in (None, "amplitude"):
                raise OptionsError(f"--sar-scale {options.sar_scale} contradicts {product.path}: GRD holds amplitudes.")
            about = f"{product.kind} numbers of mode {product.mode}, processor {product.processor}"
            return "amplitude", f"tag: {about}, calibrated to gamma nought with the product's own table."
        if self.empty:
            return options.sar_scale or "db", "type: nothing depends on it, for no pixel is valid."
        values = [without_repeated_extremes(band) for band in by_layer(samples, lambda sample: sample.judged)]
        if options.sar_scale is not None:
            check_sar_scale(values, options.sar_scale)
            return options.sar_scale, f"option: --sar-scale {options.sar_scale}."
        places = [layer.pieces[0] for layer in layers]
        said = named_sar_scale(
            [source.rasters[file].dataset.descriptions[band - 1] for file, band in places],
            [Path(source.rasters[file].path).name for file, _ in places],
            [source.rasters[file].dataset.units[band - 1] for file, band in places],
        )
        try:
            return judge_sar_scale(values, stored_dtype(source, layers), said)
        except InputError:
            if any(map(_plausible, by_layer(samples, lambda sample: sample.values))):
                raise
            raise source.empty(" (each band holds one number or fills)") from None

    def power(self, values: Float32, file: int, window: Window | None) -> Float32:
        """Turn values of any unit into linear power; NaN where they are no measurement.

        Parameters
        ----------
        values : float32 array, shape (..., H, W)
        file : int
            Number of the file they are from.
        window : Window or None
            Where in the file; None for values from all over it, which are calibrated with the table's middle.
        """
        if self.empty:
            return np.full_like(values, np.nan)
        calibration = self._calibrations.get(file)
        if calibration is not None:
            # A sample from all over the image is judged with the constant of its middle.
            middle = Window(int(calibration.lines.mean()), int(calibration.pixels[0].mean()), 1, 1)
            values = values / calibration.gamma(*(window or middle))
        power = linear_power(values, self.scale)
        return power if window is None else remove_border_noise(power)

    def convert(self, power: Float32, counts: Counter[str]) -> Float32:
        """Turn linear power into dB within `DB_RANGE`, counting what was clamped."""
        level = decibels(power)
        counts["sar_clamped"] = int(np.count_nonzero((level < DB_RANGE[0]) | (level > DB_RANGE[1])))
        return np.clip(level, *DB_RANGE)


def _plausible(values: Float32) -> bool:
    """Tell whether values may be measurements in some unit: not all the same number."""
    known = values[np.isfinite(values)]
    known = known[(known != 0) & (np.abs(known) < 1e6) & ~np.isin(known, FILL_VALUES)]
    return bool(known.size) and bool(known.min() < known.max())
