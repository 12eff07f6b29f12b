"""Check fetched scenes: which can be learned from, and contact sheets to look at."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from world_scenes import AGREEMENT, Scene

from refnet_cli.classes.schemes import SCHEMES
from refnet_cli.errors import RefnetError
from refnet_cli.outputs.pictures.quicklook import Quicklook
from refnet_cli.scene.coregistration import find_shift
from refnet_cli.system.atomic import replacing, write_text_atomic

LEAST_SEEN = 0.8
"""Least share of a scene's pixels that each sensor must see."""
LEAST_LABELLED, LEAST_AGREEMENT = 0.3, 0.3
"""Least shares of pixels with a label, and of these with the same class in both maps."""
MOST_SHIFT = 2.0
"""Most pixels between the sensors, where the estimate is reliable."""
PANELS = ("optical", "SAR", "labels", "labels where both maps agree")
SIDE, GAP, LINE, ROWS = 230, 8, 20, 12
UNKNOWN = (225, 225, 225)


@dataclass(frozen=True)
class Check:
    """What was measured of a scene."""

    scene: str
    kept: bool
    reason: str
    """Why it is dropped; "" if it is kept."""
    optical: float = 0.0
    """Share of pixels with optical data."""
    sar: float = 0.0
    labelled: float = 0.0
    agreement: float = 0.0
    """Share of the labelled pixels whose class is the same in the second map."""
    shift: float = float("nan")
    """Pixels that SAR lies off; NaN where that cannot be told."""


def check_scene(scene: Scene, failed: Mapping[str, str], dropped: Sequence[str]) -> Check:
    """Measure a scene, and decide whether it is kept.

    Parameters
    ----------
    scene : Scene
    failed : mapping of str to str
        Why scenes were not fetched, by name.
    dropped : sequence of str
        Scenes and places that a person has struck out.
    """
    if not scene.complete:
        return Check(scene.name, False, failed.get(scene.name, "not fetched: it may lie in two UTM zones"))
    with rasterio.open(scene.folder / "s2.tif") as file:
        optical = float((file.read() > 0).all(axis=0).mean())
    with rasterio.open(scene.folder / "s1.tif") as file:
        values = file.read()
        sar = float((np.isfinite(values) & (values != file.nodata)).all(axis=0).mean())
    with rasterio.open(scene.folder / "labels.tif") as file:
        labels = file.read(1) > 0
    with rasterio.open(scene.folder / AGREEMENT) as file:
        same = (file.read(2) == 100) & labels
    labelled, agreement = float(labels.mean()), float(same.sum() / max(labels.sum(), 1))
    shift = float("nan")
    if not (reason := _too_little(optical, sar, labelled, agreement)):
        try:
            found = find_shift(scene.folder / "s2.tif", scene.folder / "s1.tif").shift
            shift = float(np.hypot(found.columns, found.rows)) if found.accepted else shift
        except RefnetError as error:
            reason = f"no shift can be estimated: {error}"
        if shift > MOST_SHIFT:
            reason = f"SAR lies {shift:.1f} pixels off (limit {MOST_SHIFT:g})"
    if {scene.name, scene.place.name} & set(dropped):
        reason = "struck out in dropped.txt"
    return Check(scene.name, not reason, reason, *(round(x, 4) for x in (optical, sar, labelled, agreement, shift)))


def _too_little(optical: float, sar: float, labelled: float, agreement: float) -> str:
    for what, share, least in (
        ("optical data", optical, LEAST_SEEN), ("SAR data", sar, LEAST_SEEN), ("labels", labelled, LEAST_LABELLED),
    ):  # fmt: skip
        if share < least:
            return f"{what} in {share:.0%} of the pixels (limit {least:.0%})"
    if agreement < LEAST_AGREEMENT:
        return f"the two maps agree on {agreement:.0%} of the labels (limit {LEAST_AGREEMENT:.0%})"
    return ""


def write_checks(path: Path, checks: Sequence[Check]) -> None:
    """Write the checks as CSV."""
    text = io.StringIO()
    table = csv.DictWriter(text, [field.name for field in fields(Check)], lineterminator="\n")
    table.writeheader()
    table.writerows(asdict(check) | {"kept": int(check.kept)} for check in checks)
    write_text_atomic(path, text.getvalue())


def read_kept(path: Path) -> set[str]:
    """Return the names of the scenes that a table of checks keeps."""
    with path.open(newline="", encoding="utf-8") as file:
        return {row["scene"] for row in csv.DictReader(file) if row["kept"] == "1"}


def draw_sheets(folder: Path, scenes: Sequence[Scene], checks: Sequence[Check]) -> list[Path]:
    """Draw contact sheets of the scenes that were fetched, the dropped ones first, and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = [(scene, check) for scene, check in zip(scenes, checks, strict=True) if scene.complete]
    drawn.sort(key=lambda pair: (pair[1].kept, pair[0].name))
    sheets = []
    for first in range(0, len(drawn), ROWS):
        path = folder / f"sheet-{first // ROWS + 1:03d}.png"
        sheet = _draw_sheet(drawn[first : first + ROWS])
        with replacing(path) as temporary:
            sheet.save(temporary, "png")
        sheets.append(path)
    return sheets


def _draw_sheet(drawn: Sequence[tuple[Scene, Check]]) -> Image.Image:
    row = LINE + SIDE + GAP
    sheet = Image.new("RGB", (len(PANELS) * (SIDE + GAP) + GAP, LINE + len(drawn) * row), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    for number, name in enumerate(PANELS):
        draw.text((GAP + number * (SIDE + GAP), 3), name, fill="black", font=font)
    for number, (scene, check) in enumerate(drawn):
        top = LINE + number * row
        text = f"{scene.name}, {scene.place.region}: {'dropped: ' + check.reason if check.reason else 'kept'}"
        draw.text((GAP, top + 2), text, fill="firebrick" if check.reason else "black", font=font)
        for column, picture in enumerate(_panels(scene)):
            panel = Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.NEAREST)
            sheet.paste(panel, (GAP + column * (SIDE + GAP), top + LINE))
    return sheet


def _panels(scene: Scene) -> list[NDArray[np.uint8]]:
    """Return the pictures of a scene, shape (H, W, 3)."""
    with rasterio.open(scene.folder / "s2.tif") as file:
        optical: NDArray[Any] = np.where((stored := file.read()) > 0, stored, np.nan).astype(np.float32)
        bands = file.descriptions
    with rasterio.open(scene.folder / "s1.tif") as file:
        power = file.read()
        seen = np.isfinite(power) & (power > 0)
        sar = np.where(seen, 10 * np.log10(np.where(seen, power, 1)), np.nan).astype(np.float32)
        polarisations = file.descriptions
    with rasterio.open(scene.folder / "labels.tif") as file:
        labels = file.read(1)
    with rasterio.open(scene.folder / AGREEMENT) as file:
        same = file.read(2) == 100
    height, width = labels.shape
    look = Quicklook(height, width, bands, polarisations)
    look.add(0, 0, optical, sar)
    scheme = SCHEMES["esri-io"]
    palette = np.full((256, 3), UNKNOWN, np.uint8)
    palette[list(scheme.codes)] = scheme.colours
    pictures = [look.optical_picture()[..., :3], look.sar_picture()[..., :3]]
    return [*pictures, palette[labels], palette[np.where(same, labels, 0)]]
