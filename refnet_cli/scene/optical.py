"""Conversion of Sentinel-2 files to reflectance x 10,000."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refnet_cli.errors import InputError, OptionsError
from refnet_cli.raster.fills import without_repeated_extremes, without_repeated_lowest
from refnet_cli.raster.sample import Sample, mean_or_nan
from refnet_cli.scene.fill_values import FillRules, mask_fill_values
from refnet_cli.scene.inputs import Layer, file_numbers
from refnet_cli.scene.options import SceneOptions
from refnet_cli.scene.source import (
    FileSample,
    Source,
    by_layer,
    declared_scalings,
    nodata_decision,
    restrict_samples,
    stored_dtype,
)
from refnet_cli.sensors.decisions import Decision
from refnet_cli.sensors.offset import (
    detect_optical_offset,
    offset_from_metadata,
    refuse_conflicting_offsets,
    split_tags,
    stac_conflict,
    stac_offset,
    stac_tags,
)
from refnet_cli.sensors.safe.optical import OpticalProduct
from refnet_cli.sensors.sentinel2 import (
    CLIPPED,
    DARK,
    LOWEST,
    MIN_GAP,
    POSSIBLE,
    check_optical_scale,
    detect_optical_level,
    detect_optical_scale,
    refuse_impossible_reflectance,
    refuse_landsat,
    refuse_mixed_dates,
    refuse_stretched,
)
from refnet_cli.types import Float32

_NOTHING = "type: irrelevant, because no pixel is valid."


class OpticalReader:
    """Converts the stored values of Sentinel-2 files to reflectance x 10,000.

    Parameters
    ----------
    source : Source
    layers : sequence of Layer
        Bands to read.
    names : sequence of str or None
        The names that the bands are read as.
    options : SceneOptions

    Attributes
    ----------
    decisions : list of Decision
        The interpretation of the stored values, with evidence.
    warnings : list of str
        Possible reasons for a poor result.
    samples : dict
        Reflectance x 10,000 of sampled pixels of each band, float32 arrays of shape (n,).
    declared : tuple of float
        Scale and offset that the files declare. Reading applies them.
    levels : dict
        Mean of each band over the samples away from nodata; NaN without any.

    Raises
    ------
    InputError
        If the files cannot be interpreted.
    """

    def __init__(
        self, source: Source, layers: Sequence[Layer], names: Sequence[str | None], options: SceneOptions
    ) -> None:
        dark = {layer: layer.name for layer in source.layers if layer.name in DARK}
        checked = {**dark, **dict(zip(layers, names, strict=True))}
        self._tags, self._paths = source.tags(checked), source.paths(checked)
        self._tags = {**self._tags, **stac_tags(options.stac)}
        refuse_landsat(self._tags, self._paths)
        for image in source.images(layers):
            refuse_mixed_dates(image)
        self.warnings: list[str] = []
        self.decisions = [self._level(source), nodata_decision(source, layers)]
        self.declared = self._declared_scaling(source, checked)
        samples = source.sample(list(checked), options.missing == "use-other")
        scale = self._detect_scale(source, layers, samples, options)
        if not isinstance(source.files.product, OpticalProduct):
            samples = self._mask_fill_values(source, list(checked), layers, samples, scale, options)
        offsets = dict(zip(checked, self._detect_offset(source, checked, samples, scale, options), strict=True))
        self.scale = np.float32(scale)
        self.offsets = np.array([offsets[layer] for layer in layers], np.float32)
        self.samples = self._as_reflectance(samples, offsets, scale, lambda sample: sample.values, LOWEST)
        clear = self._as_reflectance(samples, offsets, scale, lambda sample: sample.interior_values, LOWEST)
        self.levels = {layer: mean_or_nan(sampled) for layer, sampled in clear.items()}
        if not isinstance(source.files.product, OpticalProduct):
            given = options.optical_offset is not None or options.optical_scale is not None
            kind = OptionsError if given else InputError
            numbers = by_layer(samples, lambda sample: sample.interior_values)
            reflectance = [band * scale - offset for band, offset in zip(numbers, offsets.values(), strict=True)]
            refuse_impossible_reflectance(reflectance, self._describe_scaling(), kind)

    def _mask_fill_values(
        self,
        source: Source,
        checked: Sequence[Layer],
        layers: Sequence[Layer],
        samples: list[FileSample],
        scale: float,
        options: SceneOptions,
    ) -> list[FileSample]:
        def level(values: NDArray[Any]) -> NDArray[Any]:
            scaled = values * scale
            return np.where((scaled >= POSSIBLE[0]) & (scaled <= POSSIBLE[1]), scaled, np.nan)

        def is_ground(at: float, others: NDArray[Any]) -> bool:
            return CLIPPED[0] <= at <= CLIPPED[1] and at >= float(np.nanmedian(others, axis=1).max())

        rules = FillRules(level, MIN_GAP, -math.inf, math.inf, is_ground)
        # Only the bands used decide on fill values.
        used = [index for index, layer in enumerate(checked) if layer in layers]
        decisions, warnings = mask_fill_values(source, restrict_samples(samples, used), rules)
        self.decisions += decisions
        self.warnings += warnings
        samples = source.sample(checked, options.missing == "use-other") if source.files.fills else samples
        if not any(np.isfinite(sampled.sample.values).any() for sampled in samples):
            self.warnings.append(
                f"the optical input {source.label} has no valid pixel: the map is based on the SAR image alone."
            )
        return samples

    def _as_reflectance(
        self,
        samples: Sequence[FileSample],
        offsets: Mapping[Layer, float],
        scale: float,
        values: Callable[[Sample], Float32],
        lowest: float = POSSIBLE[0],
    ) -> dict[Layer, Float32]:
        """Return the sampled reflectance x 10,000 of each layer; NaN where it is impossible."""
        found = {}
        for (layer, offset), sampled in zip(offsets.items(), by_layer(samples, values), strict=True):
            reflectance = sampled * np.float32(scale) - np.float32(offset)
            reflectance[(reflectance < lowest) | (reflectance > POSSIBLE[1])] = np.nan
            found[layer] = reflectance
        return found

    def _describe_scaling(self) -> str:
        """Return the scales and offsets that were applied, for messages."""
        decided = {decision.what: decision.value for decision in self.decisions}
        factor, added = self.declared
        declared = [f"the file declares the scale {factor:g} and the offset {added:g}"] * (self.declared != (1.0, 0.0))
        return ", ".join([*declared, f"scale {decided['optical.scale']:g}, offset {decided['optical.offset']:g}"])

    def _level(self, source: Source) -> Decision:
        product = source.files.product
        if isinstance(product, OpticalProduct):
            how = f"tag: the metadata of {product.name}, processing baseline {product.baseline}."
            return Decision("optical.level", product.level, how)
        names = [layer.name for layer in source.layers]
        return Decision("optical.level", *detect_optical_level(names, self._tags, self._paths))

    def _declared_scaling(self, source: Source, checked: Iterable[Layer]) -> tuple[float, float]:
        """Return the scale and offset that the files declare."""
        declared = set(declared_scalings(source, checked))
        if len(declared) > 1:
            listed = " and ".join(f"{scale:g} and {offset:g}" for scale, offset in sorted(declared))
            raise InputError(
                f"The optical bands declare different scales and offsets ({listed}). Use bands that are stored alike."
            )
        (found,) = declared
        return found

    def _detect_scale(
        self, source: Source, layers: Sequence[Layer], samples: Sequence[FileSample], options: SceneOptions
    ) -> float:
        """Return the factor that converts values, with declared scales applied, to reflectance x 10,000."""
        product = source.files.product
        values = [without_repeated_extremes(band) for band in by_layer(samples, lambda sample: sample.interior_values)]
        empty = not any(band.size for band in values)
        declared = self.declared[0]
        if isinstance(product, OpticalProduct):
            scale = 10_000 / product.quantification
            how = f"tag: the metadata's quantification value is {product.quantification:g}."
        elif options.optical_scale:
            if not empty:
                check_optical_scale(values, options.optical_scale)
            scale, how = {"dn": 1.0, "reflectance": 10_000.0}[options.optical_scale], "option: --optical-scale."
        elif empty:
            scale, how = 1.0, _NOTHING
        else:
            dtype = stored_dtype(source, layers)
            scale, how = detect_optical_scale(values, dtype)
            lowest = [band.min() for band in by_layer(samples, lambda sample: sample.lowest)]
            highest = [band.max() for band in by_layer(samples, lambda sample: sample.highest)]
            refuse_stretched(lowest, highest, np.issubdtype(np.dtype(dtype), np.integer))
            if declared != 1:
                how = f"tag: the file declares the scale {declared:g}; {how.partition(': ')[2]}"
        self.decisions.append(Decision("optical.scale", scale, how))
        return scale

    def _detect_offset(
        self,
        source: Source,
        checked: Mapping[Layer, str | None],
        samples: Sequence[FileSample],
        scale: float,
        options: SceneOptions,
    ) -> list[float]:
        """Return the offset to subtract from the reflectance x 10,000 of each layer. Record it as for stored values."""
        product = source.files.product
        factor, added = self.declared
        applied = -added / factor + 0.0
        names = list(checked.values())
        if options.optical_offset is not None:
            offset, how = options.optical_offset, f"option: --optical-offset {options.optical_offset:g}."
        elif isinstance(product, OpticalProduct):
            offset, how = max(product.offsets[str(name)] for name in names), product.offset_how
        elif applied:
            if stated := stac_offset(self._tags):
                refuse_conflicting_offsets(stated, (applied, "tag: the declared offset"))
            offset, how = applied, "tag: the offset declared in the file, which has been applied."
        else:
            self._refuse_mixed_offsets(source, checked)
            no_offsets = dict.fromkeys(checked, 0.0)
            interior = self._as_reflectance(samples, no_offsets, scale, lambda sample: sample.interior_values)
            values = [without_repeated_lowest(band, MIN_GAP) for band in interior.values()]
            offset, how = 0.0, _NOTHING
            if any(band.size for band in values):
                offset, how = detect_optical_offset(values, names, self._tags, self._paths)
            if how.startswith("values: a guess"):
                self.warnings.append(f"the offset of {offset:g} in the optical image is {how.partition(': ')[2]}")
        self.decisions.append(Decision("optical.offset", offset, how))
        if isinstance(product, OpticalProduct) and options.optical_offset is None:
            return [product.offsets[str(name)] * 10_000 / product.quantification for name in names]
        return [offset - applied] * len(checked)

    def _refuse_mixed_offsets(self, source: Source, checked: Iterable[Layer]) -> None:
        """Refuse files with different offsets in their metadata. Record a contradictory STAC Item."""
        _, stac = split_tags(self._tags)
        if conflict := stac_conflict(stac):
            self.decisions.append(Decision("optical.stac", "contradictory", f"stac: {conflict}; the values decide."))
        found: dict[float, str] = {}
        for file in file_numbers(checked):
            raster = source.rasters[file]
            declared = offset_from_metadata({**raster.tags, **stac}, [raster.path])
            if declared:
                found.setdefault(declared[0], f"{raster.path} {declared[0]:g} ({declared[1].rstrip('.')})")
        if len(found) > 1:
            raise InputError(
                f"The optical files have different offsets in their tags or names: {'; '.join(found.values())}. "
                "Use files of one product."
            )

    def convert(self, values: Float32, counts: Counter[str]) -> Float32:
        """Convert values as read, shape (B, H, W), to reflectance x 10,000 in place; NaN where it is impossible."""
        values *= self.scale
        values -= self.offsets[:, None, None]
        impossible = (values < LOWEST) | (values > POSSIBLE[1])
        counts["optical_impossible"] = int(np.count_nonzero(impossible))
        if counts["optical_impossible"]:
            values[impossible] = np.nan
        return values
