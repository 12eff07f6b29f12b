"""Sentinel-2 files: what their numbers mean, as reflectance x 10,000."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from refnet_cli.errors import InputError
from refnet_cli.scene.inputs import Layer
from refnet_cli.scene.judge import (
    Decision,
    check_optical_scale,
    judge_optical_level,
    judge_optical_offset,
    judge_optical_scale,
    refuse_landsat,
    refuse_mixed_dates,
    told_offset,
)
from refnet_cli.scene.options import SceneOptions
from refnet_cli.scene.raster import Float32
from refnet_cli.scene.safe import OpticalProduct
from refnet_cli.scene.source import Source, nodata_decision, scalings, stored_dtype

_DARK = ("B02", "B03", "B04", "B10", "B11", "B12")  # bands in which nearly every scene has dark ground
_POSSIBLE = (-5000.0, 65_534.0)  # reflectance x 10,000; 65,535 marks saturated pixels


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
    samples : dict
        Reflectance x 10,000 of pixels spread over each band, float32 arrays of shape (n,).

    Raises
    ------
    InputError
        If the files cannot be understood.
    """

    def __init__(
        self, source: Source, layers: Sequence[Layer], names: Sequence[str | None], options: SceneOptions
    ) -> None:
        dark = {layer: layer.name for layer in source.layers if layer.name in _DARK}
        judged = {**dark, **dict(zip(layers, names, strict=True))}
        self._tags, self._paths = source.tags(judged), source.paths(judged)
        refuse_landsat(self._tags, self._paths)
        for image in source.images(layers):
            refuse_mixed_dates(image)
        samples = source.sample(list(judged))
        self.decisions = [self._level(source), nodata_decision(source, layers)]
        scale = self._judge_scale(source, layers, samples, options)
        for sampled in samples:
            sampled *= scale
        offsets = dict(zip(judged, self._judge_offset(source, judged, samples, options), strict=True))
        self.scale = np.float32(scale)
        self.offsets = np.array([offsets[layer] for layer in layers], np.float32)
        self.samples = {
            layer: sampled - np.float32(offsets[layer]) for layer, sampled in zip(judged, samples, strict=True)
        }

    def _level(self, source: Source) -> Decision:
        product = source.files.product
        if isinstance(product, OpticalProduct):
            how = f"tag: the metadata of {product.name}, processing baseline {product.baseline}."
            return Decision("optical.level", product.level, how)
        names = [layer.name for layer in source.layers]
        return Decision("optical.level", *judge_optical_level(names, self._tags, self._paths))

    def _judge_scale(
        self, source: Source, layers: Sequence[Layer], samples: Sequence[Float32], options: SceneOptions
    ) -> float:
        """Factor that makes values, with declared scales applied, reflectance x 10,000."""
        product = source.files.product
        declared = {scaling[0] for scaling in scalings(source, layers)} - {1.0}
        if isinstance(product, OpticalProduct):
            scale = 10_000 / product.quantification
            how = f"tag: the metadata's quantification value is {product.quantification:g}."
        elif options.optical_scale:
            check_optical_scale(samples, options.optical_scale)
            scale, how = {"dn": 1.0, "reflectance": 10_000.0}[options.optical_scale], "option: --optical-scale."
        else:
            scale, how = judge_optical_scale(samples, stored_dtype(source, layers))
            if declared:
                listed = ", ".join(f"{factor:g}" for factor in sorted(declared))
                how = f"tag: the file declares the scale {listed}; {how.partition(': ')[2]}"
        self.decisions.append(Decision("optical.scale", scale, how))
        return scale

    def _judge_offset(
        self, source: Source, judged: Mapping[Layer, str | None], samples: Sequence[Float32], options: SceneOptions
    ) -> list[float]:
        """What is still to be subtracted from reflectance x 10,000 in each layer; the decision tells it of numbers."""
        product = source.files.product
        declared = set(scalings(source, judged))
        if len(declared) > 1:
            listed = " and ".join(f"{scale:g} and {offset:g}" for scale, offset in sorted(declared))
            raise InputError(
                f"The optical bands declare different scales and offsets ({listed}): give bands that are stored alike."
            )
        ((factor, added),) = declared
        applied = -added / factor + 0.0
        names = list(judged.values())
        if options.optical_offset is not None:
            offset, how = options.optical_offset, f"option: --optical-offset {options.optical_offset:g}."
        elif isinstance(product, OpticalProduct):
            offset, how = max(product.offsets[str(name)] for name in names), product.offset_how
        elif applied:
            offset, how = applied, "tag: the file declares its own offset, which has been applied."
        else:
            self._refuse_several_offsets(source, judged)
            offset, how = judge_optical_offset(samples, names, self._tags, self._paths)
        self.decisions.append(Decision("optical.offset", offset, how))
        if isinstance(product, OpticalProduct) and options.optical_offset is None:
            return [product.offsets[str(name)] * 10_000 / product.quantification for name in names]
        return [offset - applied] * len(judged)

    def _refuse_several_offsets(self, source: Source, judged: Iterable[Layer]) -> None:
        """Refuse files that say different things of themselves."""
        said: dict[float, str] = {}
        for file in dict.fromkeys(file for layer in judged for file, _ in layer.pieces):
            told = told_offset(source.rasters[file].tags, [source.rasters[file].path])
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
        impossible = (values < _POSSIBLE[0]) | (values > _POSSIBLE[1])
        counts["optical_impossible"] = int(np.count_nonzero(impossible))
        if counts["optical_impossible"]:
            values[impossible] = np.nan
        return values
