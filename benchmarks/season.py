"""Measure what several cloudy dates of one place are worth: one date, a composite and an ensemble.

The places are simulated. Between the dates the ground stays, and fields, crops, noise, speckle and clouds change. Each
date is clouded over more than 40 %, and its SCL marks the clouds. Prints the table of docs/how-to/several-dates.md.

    python -m benchmarks.season > season.json
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray

from benchmarks.measure import Row
from benchmarks.report import to_json
from refnet_cli.engines.base import Engine
from refnet_cli.engines.load import load_engine
from refnet_cli.engines.options import EngineOptions
from refnet_cli.model.weight_files import default_weights
from refnet_cli.prediction.options import PredictOptions
from refnet_cli.prediction.predict import predict
from refnet_cli.scene.season_files import SceneDate, read_season

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "sample_data"))
import simulate as simulator

DATES = ("2021-05-11", "2021-05-26", "2021-06-10", "2021-06-25", "2021-07-10")
CLOUDED = (0.42, 0.55)
"""Least and largest share of the pixels that clouds cover on a date."""
CLOUD, GROUND = 9, 4
"""Codes of SCL."""
REFLECTANCE = np.array([4200, 4300, 4400, 4700], np.float32)[:, None, None]
"""Of thick cloud, x 10,000, in B02, B03, B04 and B08."""
MISSING = {"nodata": "no data", "use-other": "SAR alone"}
"""What a map has under clouds."""
UInt8 = NDArray[np.uint8]


def make_place(folder: Path, seed: int, size: int) -> UInt8:
    """Simulate the dates of a place, and return its labels (codes of esri-io), shape (size, size)."""
    random = np.random.default_rng([4711, seed])
    signatures = simulator.read_signatures()
    place = simulator.draw_place(random, size, signatures)
    landscape = simulator.balanced_landscape(random, size)
    inside = slice(simulator.MARGIN, -simulator.MARGIN)
    for number, day in enumerate(DATES):
        own = np.random.default_rng([4711, seed, number])
        seen = simulator.look(own, landscape, place, signatures)
        optical = simulator.observe_optical(own, seen, size)
        sar = simulator.observe_sar(own, seen, place)
        depth = simulator.field(own, size, 45)
        cloudy = simulator.top(depth, own.uniform(*CLOUDED))
        thickness = np.clip((depth - depth[cloudy].min()) / 0.3, 0.25, 1) * cloudy
        clouded = np.rint(optical * (1 - thickness) + REFLECTANCE * thickness).astype(np.uint16)
        scl = np.where(cloudy, CLOUD, GROUND).astype(np.uint16)
        bands = np.concatenate([np.where(optical > 0, clouded, 0), scl[None]]).astype(np.uint16)
        simulator.save_scene(folder / f"place_{day}", place, bands[:4], sar, landscape.cover[inside, inside])
        names = (*simulator.OPTICAL_BANDS, "SCL")
        simulator.save(folder / f"place_{day}" / "s2.tif", bands, place.crs, place.transform, names, nodata=0)
    return np.asarray(landscape.cover[inside, inside])


def read_codes(path: Path) -> UInt8:
    """Read a class map."""
    with rasterio.open(path) as file:
        return np.asarray(file.read(1))


def map_season(folder: Path, dates: Sequence[SceneDate], missing: Any, engine: Engine) -> Iterator[tuple[str, UInt8]]:
    """Yield the maps of each date, of the composite and of the ensemble."""
    common: dict[str, Any] = {
        "mask_clouds": True, "missing": missing, "optical_offset": 0.0, "sar_scale": "power", "overwrite": True,
        "resume": False,
    }  # fmt: skip
    output = folder / "map.tif"
    for scene in dates:
        predict(PredictOptions(scene.optical, scene.sar, output=output, **common), engine)
        yield "one date", read_codes(output)
    for combine in ("composite", "ensemble"):
        predict(PredictOptions(season=folder, combine=combine, output=output, **common), engine)
        yield combine, read_codes(output)


def run(places: int, size: int, weights: Path) -> list[Row]:
    """Measure all places; a row for each way and each value of ``--missing``."""
    engine = load_engine(weights, EngineOptions(device="cpu"))
    totals: dict[tuple[str, str], NDArray[np.int64]] = {}
    for seed in range(places):
        with tempfile.TemporaryDirectory() as name:
            labels = make_place(Path(name), seed, size)
            dates = read_season(Path(name))
            for missing in MISSING:
                for what, codes in map_season(Path(name), dates, missing, engine):
                    found = np.array([labels.size, np.count_nonzero(codes), np.count_nonzero(codes == labels)])
                    totals[what, missing] = totals.get((what, missing), np.zeros(3, np.int64)) + found
        print(f"place {seed + 1} of {places}", file=sys.stderr)
    return [_row(what, missing, counts) for (what, missing), counts in totals.items()]


def _row(what: str, missing: str, counts: NDArray[np.int64]) -> Row:
    pixels, mapped, right = counts.tolist()
    return {
        "what": f"{what}, {MISSING[missing]} under clouds", "mapped": mapped / pixels, "accuracy": right / mapped,
        "difference": right / pixels,
    }  # fmt: skip


def to_table(rows: Sequence[Row]) -> str:
    """Return the results as a table in Markdown."""
    lines = ["| map | mapped pixels | correct, of the mapped pixels | correct, of all pixels |", "|---|---|---|---|"]
    lines += [
        f"| {row['what']} | {row['mapped']:.1%} | {row['accuracy']:.1%} | {row['difference']:.1%} |" for row in rows
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line: a table on stderr, JSON on stdout."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.season", description="See benchmarks/README.md.")
    parser.add_argument("--places", type=int, default=3, help="simulated places (default: %(default)s)")
    parser.add_argument("--size", type=int, default=384, help="their side in pixels (default: %(default)s)")
    parser.add_argument("--weights", type=Path, default=default_weights(), help="weights (default: the bundled ones)")
    settings = vars(parser.parse_args(arguments))
    rows = run(**settings)
    print(to_table(rows), file=sys.stderr)
    print(to_json("season", settings, rows))


if __name__ == "__main__":
    main()
