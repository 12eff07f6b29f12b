"""Sentinel-2 files: what their numbers mean, as reflectance x 10,000."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refnet_cli.errors import InputError, OptionsError
from refnet_cli.raster.fills import without_repeated_extremes, without_repeated_lowest
from refnet_cli.raster.sample import Sample, mean_of
from refnet_cli.scene.inputs import Layer, file_numbers
from refnet_cli.scene.options import SceneOptions
from refnet_cli.scene.source import (
    FileSample,
    Source,
    by_layer,
    nodata_decision,
    of_layers,
    scalings,
    stored_dtype,
)
from refnet_cli.scene.undeclared import Rules, remove_fills
from refnet_cli.sensors.decisions import Decision
from refnet_cli.sensors.offset import (
    as_tags,
    judge_optical_offset,
    refuse_other_offset,
    split_tags,
    stac_contradiction,
    stac_offset,
    told_offset,
)
from refnet_cli.sensors.safe import OpticalProduct
from refnet_cli.sensors.sentinel2 import (
    CLIPPED,
    DARK,
    LEAST_GAP,
    LOWEST,
    POSSIBLE,
    check_optical_scale,
    judge_optical_level,
    judge_optical_scale,
    refuse_impossible_reflectance,
    refuse_landsat,
    refuse_mixed_dates,
    refuse_stretched,
)
from refnet_cli.types import Float32

_NOTHING = "type: nothing depends on it, for no pixel is valid."


class OpticalReader:
    """Turns the numbers of Sentinel-2 files into reflectance x 10,000.

    Parameters
    ----------
    source : Source
    layers : sequence of Layer
        Bands to read.
    names : sequence of str or None
        What the bands were taken for.
    options : SceneOptions

    Attributes
    ----------
    decisions : list of Decision
        What the numbers mean, and how that was found out.
    warnings : list of str
        What may spoil a result.
    samples : dict
        Reflectance x 10,000 of pixels spread over each band, float32 arrays of shape (n,).
    declared : tuple of float
        Scale and offset that the files declare, which reading applies.
    levels : dict
        Mean of each band over those of them that lie away from holes; NaN without any.

    Raises
    ------
    InputError
        If the files cannot be understood.
    """

    def __init__(
        self, source: Source, layers: Sequence[Layer], names: Sequence[str | None], options: SceneOptions
    ) -> None:
        dark = {layer: layer.name for layer in source.layers if layer.name in DARK}
        judged = {**dark, **dict(zip(layers, names, strict=True))}
        self._tags, self._paths = source.tags(judged), source.paths(judged)
        self._tags = {**self._tags, **as_tags(options.stac)}
        refuse_landsat(self._tags, self._paths)
        for image in source.images(layers):
            refuse_mixed_dates(image)
        self.warnings: list[str] = []
        self.decisions = [self._level(source), nodata_decision(source, layers)]
        self.declared = self._scaling_of(source, judged)
        samples = source.sample(list(judged), options.missing == "use-other")
        scale = self._judge_scale(source, layers, samples, options)
        if not isinstance(source.files.product, OpticalProduct):
            samples = self._without_fills(source, list(judged), layers, samples, scale, options)
        offsets = dict(zip(judged, self._judge_offset(source, judged, samples, scale, options), strict=True))
        self.scale = np.float32(scale)
        self.offsets = np.array([offsets[layer] for layer in layers], np.float32)
        self.samples = self._as_reflectance(samples, offsets, scale, lambda sample: sample.values, LOWEST)
        clear = self._as_reflectance(samples, offsets, scale, lambda sample: sample.judged, LOWEST)
        self.levels = {layer: mean_of(sampled) for layer, sampled in clear.items()}
        if not isinstance(source.files.product, OpticalProduct):
            given = options.optical_offset is not None or options.optical_scale is not None
            kind = OptionsError if given else InputError
            numbers = by_layer(samples, lambda sample: sample.judged)
            reflectance = [band * scale - offset for band, offset in zip(numbers, offsets.values(), strict=True)]
            refuse_impossible_reflectance(reflectance, self._about(), kind)

    def _without_fills(
        self,
        source: Source,
        judged: Sequence[Layer],
        layers: Sequence[Layer],
        samples: list[FileSample],
        scale: float,
        options: SceneOptions,
    ) -> list[FileSample]:
        def level(values: NDArray[Any]) -> NDArray[Any]:
            scaled = values * scale
            return np.where((scaled >= POSSIBLE[0]) & (scaled <= POSSIBLE[1]), scaled, np.nan)

        def ground(at: float, others: NDArray[Any]) -> bool:
            return CLIPPED[0] <= at <= CLIPPED[1] and at >= float(np.nanmedian(others, axis=1).max())

        rules = Rules(level, LEAST_GAP, -math.inf, math.inf, ground)
        # What other bands hold in a fill does not matter.
        used = [index for index, layer in enumerate(judged) if layer in layers]
        decisions, warnings = remove_fills(source, of_layers(samples, used), rules)
        self.decisions += decisions
        self.warnings += warnings
        samples = source.sample(judged, options.missing == "use-other") if source.files.fills else samples
        if not any(np.isfinite(sampled.sample.values).any() for sampled in samples):
            self.warnings.append(
                f"the optical input {source.label} has no valid pixel: the map rests on the SAR image alone."
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
        """Sampled reflectance x 10,000 of each layer; NaN where it is impossible."""
        found = {}
        for (layer, offset), sampled in zip(offsets.items(), by_layer(samples, values), strict=True):
            reflectance = sampled * np.float32(scale) - np.float32(offset)
            reflectance[(reflectance < lowest) | (reflectance > POSSIBLE[1])] = np.nan
            found[layer] = reflectance
        return found

    def _about(self) -> str:
        """Say what made the values reflectance."""
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
        return Decision("optical.level", *judge_optical_level(names, self._tags, self._paths))

    def _scaling_of(self, source: Source, judged: Iterable[Layer]) -> tuple[float, float]:
        """Scale and offset that the files declare."""
        declared = set(scalings(source, judged))
        if len(declared) > 1:
            listed = " and ".join(f"{scale:g} and {offset:g}" for scale, offset in sorted(declared))
            raise InputError(
                f"The optical bands declare different scales and offsets ({listed}): give bands that are stored alike."
            )
        (found,) = declared
        return found

    def _judge_scale(
        self, source: Source, layers: Sequence[Layer], samples: Sequence[FileSample], options: SceneOptions
    ) -> float:
        """Factor that makes values, with declared scales applied, reflectance x 10,000."""
        product = source.files.product
        values = [without_repeated_extremes(band) for band in by_layer(samples, lambda sample: sample.judged)]
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
            scale, how = judge_optical_scale(values, dtype)
            lowest = [band.min() for band in by_layer(samples, lambda sample: sample.lowest)]
            highest = [band.max() for band in by_layer(samples, lambda sample: sample.highest)]
            refuse_stretched(lowest, highest, np.issubdtype(np.dtype(dtype), np.integer))
            if declared != 1:
                how = f"tag: the file declares the scale {declared:g}; {how.partition(': ')[2]}"
        self.decisions.append(Decision("optical.scale", scale, how))
        return scale

    def _judge_offset(
        self,
        source: Source,
        judged: Mapping[Layer, str | None],
        samples: Sequence[FileSample],
        scale: float,
        options: SceneOptions,
    ) -> list[float]:
        """What is still to be subtracted from reflectance x 10,000 in each layer; the decision tells it of numbers."""
        product = source.files.product
        factor, added = self.declared
        applied = -added / factor + 0.0
        names = list(judged.values())
        if options.optical_offset is not None:
            offset, how = options.optical_offset, f"option: --optical-offset {options.optical_offset:g}."
        elif isinstance(product, OpticalProduct):
            offset, how = max(product.offsets[str(name)] for name in names), product.offset_how
        elif applied:
            if stated := stac_offset(self._tags):
                refuse_other_offset(stated, (applied, "tag: the offset that they declare"))
            offset, how = applied, "tag: the file declares its own offset, which has been applied."
        else:
            self._refuse_several_offsets(source, judged)
            clear = self._as_reflectance(samples, dict.fromkeys(judged, 0.0), scale, lambda sample: sample.judged)
            values = [without_repeated_lowest(band, LEAST_GAP) for band in clear.values()]
            offset, how = 0.0, _NOTHING
            if any(band.size for band in values):
                offset, how = judge_optical_offset(values, names, self._tags, self._paths)
            if how.startswith("values: a guess"):
                self.warnings.append(f"the offset of {offset:g} in the optical image is {how.partition(': ')[2]}")
        self.decisions.append(Decision("optical.offset", offset, how))
        if isinstance(product, OpticalProduct) and options.optical_offset is None:
            return [product.offsets[str(name)] * 10_000 / product.quantification for name in names]
        return [offset - applied] * len(judged)

    def _refuse_several_offsets(self, source: Source, judged: Iterable[Layer]) -> None:
        """Refuse files that say different things of themselves; record a STAC item that does."""
        _, stac = split_tags(self._tags)
        if found := stac_contradiction(stac):
            self.decisions.append(Decision("optical.stac", "contradictory", f"stac: {found}; the values decide."))
        said: dict[float, str] = {}
        for file in file_numbers(judged):
            told = told_offset({**source.rasters[file].tags, **stac}, [source.rasters[file].path])
            if told:
                said.setdefault(told[0], f"{source.rasters[file].path} {told[0]:g} ({told[1].rstrip('.')})")
        if len(said) > 1:
            raise InputError(
                f"The optical files have different offsets by their tags or names: {'; '.join(said.values())}. "
                "Give files of one product."
            )

    def convert(self, values: Float32, counts: Counter[str]) -> Float32:
        """Turn values as read, shape (B, H, W), into reflectance x 10,000, in place; NaN where that is impossible."""
        values *= self.scale
        values -= self.offsets[:, None, None]
        impossible = (values < LOWEST) | (values > POSSIBLE[1])
        counts["optical_impossible"] = int(np.count_nonzero(impossible))
        if counts["optical_impossible"]:
            values[impossible] = np.nan
        return values
