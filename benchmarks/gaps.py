"""Measure how nodata gaps affect the map next to them: the same scenes with and without artificial gaps.

Wedges, as at the edge of a swath, and holes, as from clouds, are cut into one sensor or both. The score is the error
rate of pixels that both sensors see within 16 pixels of a gap, relative to their error rate without the gap.

    python sample_data/simulate.py varied --varied --seed 50000 --size 512 --count 10
    python -m benchmarks.gaps --data varied > gaps.json
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.folds import SIMULATED, Scene, read_scene
from benchmarks.measure import Row, check_limit
from benchmarks.report import to_json
from refnet_cli.engines.base import Engine
from refnet_cli.engines.load import load_engine
from refnet_cli.engines.options import EngineOptions
from refnet_cli.model.card import Modality
from refnet_cli.model.weight_files import default_weights
from refnet_cli.tiles.gaps import fill_gaps
from refnet_cli.tiles.tiling import Tiling

Float32 = NDArray[np.float32]
UInt8 = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Fill = Callable[[Float32, Modality], Float32]
"""Returns an image (B, H, W) with its gaps filled."""

NEAR = 16
SENSORS = {"optical": (True, False), "SAR": (False, True), "both": (True, True)}
SAMPLE = Path(__file__).resolve().parents[1] / "sample_data"


def by_mean(image: Float32, modality: Modality) -> Float32:
    """Fill gaps with each band's training mean, as in refnet 0.1."""
    return np.asarray(np.where(np.isnan(image), np.reshape(modality.mean, (-1, 1, 1)), image), np.float32)


def by_nearest(image: Float32, modality: Modality) -> Float32:
    """Fill gaps from the nearest pixel, as refnet does."""
    return np.asarray(fill_gaps(image[None])[0])


def by_mirror(image: Float32, modality: Modality) -> Float32:
    """Fill gaps by reflection at the nearest pixel; where the mirrored pixel is missing, use the one nearest to it."""
    gaps = np.isnan(image).any(axis=0)
    if gaps.all():
        return image
    nearest = ndimage.distance_transform_edt(gaps, return_distances=False, return_indices=True)
    behind = 2 * nearest - np.indices(gaps.shape)
    rows, columns = (np.clip(places, 0, size - 1) for places, size in zip(behind, gaps.shape, strict=True))
    rows, columns = nearest[:, rows, columns]
    return np.asarray(image[:, rows, columns])


FILLS: Mapping[str, Fill] = {"mean": by_mean, "nearest": by_nearest, "mirror": by_mirror}


def cut_out(shape: tuple[int, int], seed: int) -> Mask:
    """Return a random mask of gaps: a wedge, and holes 3 to 50 pixels across, six per 512 x 512 pixels."""
    random = np.random.default_rng(seed)
    rows, columns = np.indices(shape)
    angle = random.uniform(0, 2 * np.pi)
    across = (rows - shape[0] / 2) * np.sin(angle) + (columns - shape[1] / 2) * np.cos(angle)
    gaps = np.asarray(across > random.uniform(0.22, 0.36) * shape[0])
    for _ in range(max(6 * shape[0] * shape[1] // 512**2, 1)):
        row, column, turn = random.uniform((0, 0, 0), (*shape, np.pi))
        radius, ratio = np.exp(random.uniform(np.log(1.5), np.log(25))), random.uniform(0.4, 1)
        along = (rows - row) * np.cos(turn) + (columns - column) * np.sin(turn)
        aside = (columns - column) * np.cos(turn) - (rows - row) * np.sin(turn)
        gaps |= along**2 + (aside / ratio) ** 2 < radius**2
    return gaps


def predict_scene(scene: Scene, engine: Engine, fill: Fill) -> UInt8:
    """Classify a scene (at least one tile) in tiles without overlap, so that blending does not hide a gap's effect."""
    card, (height, width) = engine.card, scene.labels.shape
    total = np.zeros((card.network.classes, height, width), np.float32)
    for windows in Tiling(height, width, card.tile, 0).rows():
        tiles = [np.s_[:, w.row : w.row + w.height, w.column : w.column + w.width] for w in windows]
        optical = np.stack([fill(scene.optical[tile], card.optical) for tile in tiles])
        sar = np.stack([fill(scene.sar[tile], card.sar) for tile in tiles])
        for tile, probabilities in zip(tiles, engine.predict(optical, sar), strict=True):
            total[tile] += probabilities
    return np.asarray(1 + total[1:].argmax(0), np.uint8)


def with_gaps(scene: Scene, gaps: Mask, sensor: str) -> Scene:
    """Return the scene with gaps in one sensor or both; labels are unchanged."""
    optical, sar = (
        np.where(gaps, np.float32(np.nan), image) if cut else image
        for image, cut in zip((scene.optical, scene.sar), SENSORS[sensor], strict=True)
    )
    return Scene(scene.name, optical, sar, scene.labels)


def count_wrong(scene: Scene, gaps: Mask, engine: Engine, fill: Fill) -> dict[str, NDArray[np.int64]]:
    """Count, for gaps in each sensor: pixels near gaps, errors without gaps, errors with gaps, changed pixels."""
    near = (ndimage.distance_transform_edt(~gaps) <= NEAR) & ~gaps & (scene.labels > 0)
    labels, before = scene.labels[near], predict_scene(scene, engine, fill)[near]
    counts = {}
    for sensor in SENSORS:
        after = predict_scene(with_gaps(scene, gaps, sensor), engine, fill)[near]
        counts[sensor] = np.array(
            [near.sum(), (before != labels).sum(), (after != labels).sum(), (after != before).sum()]
        )
    return counts


def run(data: Path, weights: Path) -> list[Row]:
    """Measure all fill methods on the sample scene and the scenes of a folder; one row per method and sensor."""
    engine = load_engine(weights, EngineOptions(device="cpu"))
    totals: dict[tuple[str, str], NDArray[np.int64]] = {}
    for number, folder in enumerate([SAMPLE, *sorted(path.parent for path in data.glob("*/s2.tif"))]):
        scene = read_scene(folder.name, folder / "s2.tif", folder / "s1.tif", folder / "labels.tif", SIMULATED)
        gaps = cut_out(scene.labels.shape, number)
        for name, fill in FILLS.items():
            for sensor, counts in count_wrong(scene, gaps, engine, fill).items():
                totals[name, sensor] = totals.get((name, sensor), 0) + counts
        print(folder.name, file=sys.stderr)
    return list(_rows(totals))


def _rows(totals: Mapping[tuple[str, str], NDArray[np.int64]]) -> Iterator[Row]:
    for name in FILLS:
        for sensor in SENSORS:
            yield _row(f"{name}: gaps in {sensor}", totals[name, sensor])
        pooled = _row(f"{name}: all", sum((totals[name, sensor] for sensor in SENSORS), np.zeros(4, np.int64)))
        yield check_limit(pooled, "ratio", at_most=1.15) if name == "nearest" else pooled


def _row(what: str, counts: NDArray[np.int64]) -> Row:
    pixels, before, after, changed = counts.tolist()
    return {
        "what": what, "pixels": pixels, "wrong": after / pixels, "over": "the same pixels without gaps",
        "other_wrong": before / pixels, "ratio": after / before, "changed": changed / pixels,
    }  # fmt: skip


def to_table(rows: Sequence[Row]) -> str:
    """Return the results as a plain-text table."""
    lines = [f"{'what':24} {'wrong':>7} {'without':>8} {'ratio':>6} {'changed':>8}"]
    lines += [
        f"{row['what']:24} {row['wrong']:7.4f} {row['other_wrong']:8.4f} {row['ratio']:6.3f} {row['changed']:8.4f}"
        for row in rows
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line: a table on stderr, JSON on stdout."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gaps", description="See benchmarks/README.md.")
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="folder of simulated scenes")
    parser.add_argument("--weights", type=Path, default=default_weights(), help="weights (default: the bundled ones)")
    settings = vars(parser.parse_args(arguments))
    rows = run(**settings)
    print(to_table(rows), file=sys.stderr)
    print(to_json("gaps", settings, rows))


if __name__ == "__main__":
    main()
