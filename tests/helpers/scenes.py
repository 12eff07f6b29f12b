"""Small scene pairs and free engines that tests make for themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.transform import Affine

from refnet_cli.classes.schemes import SCHEMES
from refnet_cli.model.card import Card, Modality
from refnet_cli.model.config import REFNetConfig
from refnet_cli.training.config import TrainScene

CARD = Card(
    name="free",
    network=REFNetConfig(encoder="test_resnet", optical_bands=4, sar_bands=2, classes=10, width=16, msie=False),
    optical=Modality(("B02", "B03", "B04", "B08"), "reflectance x 10000", (400, 600, 500, 2500), (200, 200, 300, 900)),
    sar=Modality(("VV", "VH"), "dB", (-11.0, -17.5), (4.0, 4.5)),
    scheme=SCHEMES["esri-io"],
)
DRAWN = np.array([0, 1, 2, 0, 0, 0, 0, 0, 0, 4])
"""For each class index, how bright `make_labelled_scene` draws it."""
PLACE = Affine(10, 0, 500_000, 0, -10, 5_300_000)


def write(
    path: Path,
    values: NDArray[np.generic],
    names: tuple[str, ...],
    transform: Affine = PLACE,
    crs: str = "EPSG:32633",
    nodata: float | None = 0,
) -> Path:
    """Write a tiled GeoTIFF of bands (B, H, W)."""
    with rasterio.open(
        path, "w", driver="GTiff", count=len(values), height=values.shape[1], width=values.shape[2], crs=crs,
        transform=transform, dtype=values.dtype, nodata=nodata, tiled=True, blockxsize=256, blockysize=256,
        compress="deflate",
    ) as file:  # fmt: skip
        file.write(values)
        file.descriptions = names
    return path


def make_pair(
    folder: Path, height: int, width: int, sar_pixel: float = 10.0, holes: Callable[..., None] | None = None
) -> tuple[Path, Path]:
    """Write an optical and a SAR file of the same ground; ``holes(optical, sar)`` may edit the arrays before."""
    random = np.random.default_rng(height * 10_007 + width)
    optical = random.integers(100, 900, (4, height, width)).astype(np.uint16)
    optical[3] += 1500
    rows, columns = (max(round(size * 10 / sar_pixel), 1) for size in (height, width))
    sar = np.stack([np.full((rows, columns), 0.08), np.full((rows, columns), 0.015)]).astype(np.float32)
    sar *= random.gamma(4, 0.25, sar.shape).astype(np.float32)
    if holes:
        holes(optical, sar)
    scaled = Affine(sar_pixel, 0, PLACE.c, 0, -sar_pixel, PLACE.f)
    return (
        write(folder / "s2.tif", optical, ("B02", "B03", "B04", "B08")),
        write(folder / "s1.tif", sar, ("VV", "VH"), scaled, nodata=None),
    )


def use_small_blocks(patch: pytest.MonkeyPatch, side: int = 64) -> None:
    """Read scenes in blocks of this side, so that a small one has several, and seams between them."""
    for module in ("blocks", "pair"):
        patch.setattr(f"refnet_cli.scene.{module}.BLOCK", side)


def make_labelled_scene(
    folder: Path, split: Literal["train", "validation"] | None = None, seed: int = 0
) -> TrainScene:
    """Stripes of water, trees and rangeland that each sensor sees plainly; a corner without labels, one without SAR."""
    folder.mkdir(parents=True)
    place = Affine.translation(100_000 * seed, 0) @ PLACE  # each seed's ground is its own
    random = np.random.default_rng(seed)
    rows, columns = np.indices((160, 144))
    labels = np.choose((columns // 24 + rows // 40) % 3, [1, 2, 4])
    labels[:20, :20] = 0
    optical = 300 * labels + random.integers(0, 60, (4, *labels.shape)) + 100
    sar = 0.005 * 3.0 ** np.stack([labels, labels - 1.5]) * random.gamma(5, 0.2, (2, *labels.shape))
    sar[:, -20:, -20:] = np.nan
    return TrainScene(
        write(folder / "s2.tif", optical.astype(np.uint16), ("B02", "B03", "B04", "B08"), place),
        write(folder / "s1.tif", sar.astype(np.float32), ("VV", "VH"), place, nodata=None),
        write(folder / "labels.tif", np.where(labels == 4, 11, labels)[None].astype(np.uint8), ("labels",), place),
        name=folder.name,
        split=split,
    )


def name_classes(labels: Path) -> None:
    """Let labels of `make_labelled_scene` say in their tags what the codes mean, as simulated scenes do."""
    with rasterio.open(labels, "r+") as file:
        file.update_tags(1, **{f"CLASS_{code}": name for code, name in CARD.scheme.by_code.items()})


class PlaceEngine:
    """Free engine whose answer at a pixel depends on that pixel's values alone, so that any tiling gives one map."""

    batch = 3

    def __init__(self, card: Card = CARD) -> None:
        self.card = replace(card, tile=128)
        self.about = {"device": "none"}
        self.calls = 0

    def predict(self, optical: NDArray[np.float32], sar: NDArray[np.float32]) -> NDArray[np.float32]:
        """Shares that sum to one, by the optical bands' values."""
        self.calls += len(optical)
        shares = np.zeros((len(optical), self.card.network.classes, *optical.shape[2:]), np.float32)
        shares[:, 1:5] = np.nan_to_num(optical, nan=1.0) + 1
        return shares / shares.sum(1, keepdims=True)


def grid_of(path: Path) -> GeoBox:
    """Grid of a file."""
    with rasterio.open(path) as file:
        return GeoBox(file.shape, file.transform, file.crs)
