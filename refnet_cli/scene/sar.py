"""Conversion of Sentinel-1 files to linear power and dB."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refnet_cli.errors import InputError, OptionsError
from refnet_cli.raster.fills import without_repeated_extremes
from refnet_cli.raster.sample import Sample, mean_or_nan
from refnet_cli.scene.fill_values import FillRules, mask_fill_values
from refnet_cli.scene.inputs import Layer
from refnet_cli.scene.options import SceneOptions
from refnet_cli.scene.source import FileSample, Source, by_layer, nodata_decision, stored_dtype
from refnet_cli.sensors.calibration import Calibration
from refnet_cli.sensors.decisions import Decision
from refnet_cli.sensors.safe.sar import SarProduct
from refnet_cli.sensors.sentinel1 import (
    DB_RANGE,
    FILL_VALUES,
    MEASURED,
    MIN_GAP,
    SarScale,
    check_sar_band_order,
    check_sar_scale,
    decibels,
    detect_sar_scale,
    linear_power,
    remove_border_noise,
    sar_scale_from_metadata,
)
from refnet_cli.tiles.window import Window
from refnet_cli.types import Float32


class SarReader:
    """Converts the stored values of Sentinel-1 files to linear power.

    Parameters
    ----------
    source : Source
    layers : sequence of Layer
        Bands to read.
    names : sequence of str
        The names that the bands are read as.
    bands_how : str
        The evidence for the names. If it is the number of bands, their levels are checked.
    options : SceneOptions

    Attributes
    ----------
    decisions : list of Decision
        The interpretation of the stored values, with evidence.
    warnings : list of str
        Possible reasons for a poor result.
    samples : dict
        Levels in dB of sampled pixels of each band, float32 arrays of shape (n,).
    levels : dict
        Mean of each band over the samples away from nodata; NaN without any.
    empty : bool
        Whether there are no measurements. This is an error unless the other sensor may be used alone.

    Raises
    ------
    InputError
        If the files cannot be interpreted.
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
        self.scale, how = self._detect_scale(source, layers, samples, options)
        if not self.empty and not self._calibrations:
            self.decisions, self.warnings = mask_fill_values(source, samples, self._rules())
            samples = source.sample(layers, either) if source.files.fills else samples
            self.empty = either and not any(np.isfinite(sampled.sample.values).any() for sampled in samples)
        if self.empty:
            self.warnings.append(
                f"the SAR input {source.label} has no valid pixel: the map is based on the optical image alone."
            )
        levels = self._levels(samples, lambda sample: sample.values)
        if bands_how.startswith("count") and len({len(level) for level in levels}) == 1:
            bands_how = f"{bands_how} {check_sar_band_order(np.stack(levels), names)}".strip()
        self.samples = dict(zip(layers, levels, strict=True))
        clear = self._levels(samples, lambda sample: sample.interior_values)
        self.levels = {layer: mean_or_nan(level) for layer, level in zip(layers, clear, strict=True)}
        numbers = [source.layers.index(layer) + 1 for layer in layers]
        self.decisions = [
            Decision("sar.bands", numbers, bands_how),
            Decision("sar.scale", self.scale, how),
            nodata_decision(source, layers),
            *self.decisions,
        ]

    def _levels(self, samples: Sequence[FileSample], values: Callable[[Sample], Float32]) -> list[Float32]:
        """Return the sampled levels in dB of each layer."""
        in_decibels = [
            (file, file.sample._replace(values=decibels(self.power(values(file.sample), file.file, None))))
            for file in samples
        ]
        return by_layer([file._replace(sample=sample) for file, sample in in_decibels], lambda sample: sample.values)

    def _rules(self) -> FillRules:
        def level(values: NDArray[Any]) -> NDArray[Any]:
            return decibels(linear_power(values, self.scale))

        def is_ground(at: float, others: NDArray[Any]) -> bool:
            # Calm water, where the level was clipped.
            return MEASURED[0] <= at <= float(np.nanmin(others))

        return FillRules(level, MIN_GAP, *MEASURED, is_ground)

    def _detect_scale(
        self, source: Source, layers: Sequence[Layer], samples: Sequence[FileSample], options: SceneOptions
    ) -> tuple[SarScale, str]:
        product = source.files.product
        if isinstance(product, SarProduct):
            if options.sar_scale not in (None, "amplitude"):
                raise OptionsError(
                    f"--sar-scale {options.sar_scale} contradicts {product.path}: GRD contains amplitudes. "
                    "Omit the option."
                )
            about = f"{product.kind} amplitudes of mode {product.mode}, processor {product.processor}"
            return "amplitude", f"tag: {about}, calibrated to gamma nought with the product's table."
        if self.empty:
            return options.sar_scale or "db", "type: irrelevant, because no pixel is valid."
        values = [without_repeated_extremes(band) for band in by_layer(samples, lambda sample: sample.interior_values)]
        if options.sar_scale is not None:
            check_sar_scale(values, options.sar_scale)
            return options.sar_scale, f"option: --sar-scale {options.sar_scale}."
        places = [layer.pieces[0] for layer in layers]
        declared = sar_scale_from_metadata(
            [source.rasters[file].dataset.descriptions[band - 1] for file, band in places],
            [Path(source.rasters[file].path).name for file, _ in places],
            [source.rasters[file].dataset.units[band - 1] for file, band in places],
        )
        try:
            return detect_sar_scale(values, stored_dtype(source, layers), declared)
        except InputError:
            if any(map(_plausible, by_layer(samples, lambda sample: sample.values))):
                raise
            raise source.empty(" (each band contains only one value or fill values)") from None

    def power(self, values: Float32, file: int, window: Window | None) -> Float32:
        """Convert values of any unit to linear power; NaN where they are not measurements.

        Parameters
        ----------
        values : float32 array, shape (..., H, W)
        file : int
            Number of their file.
        window : Window or None
            Their window in the file; None for a sample of the file, which is calibrated with the table's centre.
        """
        if self.empty:
            return np.full_like(values, np.nan)
        calibration = self._calibrations.get(file)
        if calibration is not None:
            # A sample of the full image is calibrated with the constant of its centre.
            middle = Window(int(calibration.lines.mean()), int(calibration.pixels[0].mean()), 1, 1)
            values = values / calibration.gamma(*(window or middle))
        power = linear_power(values, self.scale)
        return power if window is None else remove_border_noise(power)

    def convert(self, power: Float32, counts: Counter[str]) -> Float32:
        """Convert linear power to dB, clamp it to `DB_RANGE`, and count the clamped values."""
        level = decibels(power)
        counts["sar_clamped"] = int(np.count_nonzero((level < DB_RANGE[0]) | (level > DB_RANGE[1])))
        return np.clip(level, *DB_RANGE)


def _plausible(values: Float32) -> bool:
    """Return whether values may be measurements in some unit: valid and not all equal."""
    known = values[np.isfinite(values)]
    known = known[(known != 0) & (np.abs(known) < 1e6) & ~np.isin(known, FILL_VALUES)]
    return bool(known.size) and bool(known.min() < known.max())
