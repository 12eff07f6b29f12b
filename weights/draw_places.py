"""Draw real places: both sensors, the labels, the map and its confidence.

``python weights/draw_places.py WEIGHTS PLACES [--country Austria] [--terramesh FOLDER] [--out out/places]`` writes one
PNG per place and contact sheets of twelve, the worst places first. Pictures of third-party data are third-party data:
do not commit them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from places import (
    OPTICAL_BANDS,
    SAR_BANDS,
    SCHEME,
    Place,
    read_config,
    read_places,
    read_terramesh,
    regions_text,
    split_by_country,
)
from score import Mapped, map_region

from refnet_cli.classes.schemes import SCHEMES
from refnet_cli.engines.torch_engine import TorchEngine
from refnet_cli.model.weights import load_weights
from refnet_cli.outputs.pictures.quicklook import Quicklook
from refnet_cli.tiles.window import Window
from refnet_cli.training.dataset import SceneFiles

PANELS = ("optical", "SAR: VV, VH, VV - VH", "labels", "map", "confidence")
SIDE, GAP, LINE = 250, 8, 20
SHEET = 12  # places on a contact sheet
UNKNOWN = (225, 225, 225)

UInt8 = NDArray[np.uint8]


class Drawn(NamedTuple):
    """The panels of a place."""

    name: str
    title: str
    panels: list[Image.Image]
    """Pictures of `SIDE` x `SIDE` pixels."""
    classes: set[int]
    """Class indices, from 1, in labels and map."""
    accuracy: float
    """Overall accuracy; -1 without labels."""


def draw_place(place: Place, region: SceneFiles, mapped: Mapped) -> Drawn:
    """Draw the panels of a place."""
    height, width = mapped.labels.shape
    patch = region.pair.read(Window(0, 0, height, width))
    look = Quicklook(height, width, OPTICAL_BANDS, SAR_BANDS)
    look.add(0, 0, patch.optical, patch.sar)
    grey = np.rint(255 * mapped.confidence).astype(np.uint8)
    confidence = np.where((mapped.predicted > 0)[..., None], grey[..., None], UNKNOWN).astype(np.uint8)
    pictures = (
        look.optical_picture(), look.sar_picture(), paint(mapped.labels), paint(mapped.predicted), confidence,
    )  # fmt: skip
    accuracy = mapped.accuracy
    level, share = place.level or "no optical", (mapped.labels > 0).mean()
    shown = "no labels" if accuracy is None else f"{accuracy:.0%} right, {share:.0%} labelled"
    return Drawn(
        place.name,
        f"{place.name}   {place.country}, {level}, {place.label_source}: {shown}",
        [fit(picture) for picture in pictures],
        set(np.unique([*mapped.labels.ravel(), *mapped.predicted.ravel()]).tolist()) - {0},
        -1.0 if accuracy is None else accuracy,
    )


def paint(indexes: UInt8) -> UInt8:
    """Return class indices (H, W) in the scheme's colours, shape (H, W, 3); 0 is light grey."""
    palette = np.array([UNKNOWN, *SCHEMES[SCHEME].colours], np.uint8)
    return palette[indexes]


def fit(picture: UInt8) -> Image.Image:
    """Return a picture resized to a panel; transparent pixels become light grey."""
    image = Image.fromarray(picture).convert("RGBA")
    ground = Image.new("RGBA", image.size, (*UNKNOWN, 255))
    ground.alpha_composite(image)
    factor = SIDE / max(image.size)
    width, height = (max(round(side * factor), 1) for side in image.size)
    panel = Image.new("RGB", (SIDE, SIDE), "white")
    panel.paste(ground.convert("RGB").resize((width, height), Image.Resampling.NEAREST))
    return panel


def draw_sheet(places: Sequence[Drawn]) -> Image.Image:
    """Draw places below each other, with the panels' names above and a legend below."""
    width = len(PANELS) * (SIDE + GAP) + GAP
    classes = sorted(set().union(*(place.classes for place in places)))
    row = LINE + SIDE + GAP
    sheet = Image.new("RGB", (width, LINE + len(places) * row + 2 * LINE), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=13)
    for number, name in enumerate(PANELS):
        draw.text((GAP + number * (SIDE + GAP), 3), name, fill="black", font=font)
    for number, place in enumerate(places):
        top = LINE + number * row
        draw.text((GAP, top + 2), place.title, fill="black", font=font)
        for column, panel in enumerate(place.panels):
            sheet.paste(panel, (GAP + column * (SIDE + GAP), top + LINE))
    left, top = GAP, sheet.height - LINE - LINE // 2
    for name, colour in legend(classes):
        draw.rectangle((left, top, left + LINE, top + LINE - 6), fill=colour, outline="grey")
        draw.text((left + LINE + 4, top), name, fill="black", font=font)
        left += LINE + 20 + round(font.getlength(name))
    return sheet


def legend(classes: Iterable[int]) -> Iterator[tuple[str, tuple[int, int, int]]]:
    """Yield name and colour of the classes and of unknown pixels."""
    scheme = SCHEMES[SCHEME]
    yield from ((scheme.names[index - 1], scheme.colours[index - 1]) for index in classes)
    yield "unknown", UNKNOWN


def draw_places(weights: Path, places: Sequence[Place], folder: Path) -> list[Path]:
    """Map places and draw each of them, and all on contact sheets, the worst first.

    Returns
    -------
    list of Path
        The contact sheets.
    """
    net, card = load_weights(weights)
    engine = TorchEngine(net, card)
    config = read_config(regions_text("", places))
    drawn = []
    folder.mkdir(parents=True, exist_ok=True)
    for place, scene in zip(places, config.scenes, strict=True):
        with SceneFiles.open(scene, config) as region:
            drawn.append(draw_place(place, region, map_region(region, engine)))
        draw_sheet(drawn[-1:]).save(folder / f"{place.name}.png")
    drawn.sort(key=lambda place: place.accuracy)
    sheets = []
    for first in range(0, len(drawn), SHEET):
        sheets.append(folder / f"sheet-{first // SHEET:02}.png")
        draw_sheet(drawn[first : first + SHEET]).save(sheets[-1])
    return sheets


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Draw real places with their labels and maps.")
    parser.add_argument("weights", type=Path)
    parser.add_argument("places", type=Path)
    parser.add_argument("--country", help="draw only places of this country, which should not be in the training data")
    parser.add_argument("--terramesh", type=Path, help="folder of TerraMesh samples to draw too")
    parser.add_argument("--out", type=Path, default=Path("out/places"))
    given = parser.parse_args()
    places = read_places(given.places.resolve())
    if given.terramesh:
        places += read_terramesh(given.terramesh.resolve())
    if given.country:
        _, places = split_by_country(places, given.country)
    for sheet in draw_places(given.weights, places, given.out):
        sys.stdout.write(f"{sheet}\n")


if __name__ == "__main__":
    main()
