"""Measure the cost of many scenes relative to one long run, and of further outputs relative to the class map.

Scenes are simulated as in `scene`: every SAR pixel has to be warped. Seconds are per tile and include start-up and
loading of the network. They are per tile because several scenes have more edges, and so more tiles, than one scene of
the same area.

    python -m benchmarks batch > batch.json
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from benchmarks.measure import ROOT, Row, check_limit, compare, medians
from benchmarks.scene import make_pair
from refnet_cli.outputs import OUTPUTS
from refnet_cli.tiles.tiling import Tiling

SIDES = {"scenes": 1024, "single": 2048}
COUNT = 4
"""Scenes of a batch, with about as many tiles in total as the single scene."""


def refnet(*arguments: str) -> None:
    """Run the command line tool."""
    subprocess.run([sys.executable, "-m", "refnet_cli", *arguments], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)


def run_batch(folder: Path, pair: tuple[Path, Path], workers: int | None = None) -> None:
    """Map one pair repeatedly, as a batch of several scenes."""
    maps = folder / "maps"
    shutil.rmtree(maps, ignore_errors=True)
    maps.mkdir()
    tasks = folder / "tasks.jsonl"
    lines = [
        json.dumps({"optical": [str(pair[0])], "sar": [str(pair[1])], "output": str(maps / f"{number}.tif")})
        for number in range(COUNT)
    ]
    tasks.write_text("\n".join(lines))
    refnet("batch", "run", str(tasks), *(["--workers", str(workers)] if workers else []))


def run_single(folder: Path, pair: tuple[Path, Path], *outputs: str) -> None:
    """Map one pair."""
    further = [text for kind in outputs for text in ("-o", kind)]
    refnet(
        "predict", "--optical", str(pair[0]), "--sar", str(pair[1]), "-o", str(folder / "map.tif"), "-q", *further
    )  # fmt: skip


def run(repeats: int) -> list[Row]:
    """Run all measurements.

    Parameters
    ----------
    repeats : int
        Runs per time measurement.

    Returns
    -------
    list of dict
        Rows with seconds per tile.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pairs = {what: make_pair(folder, side) for what, side in SIDES.items()}
        tiles = {what: len(Tiling(side, side)) * (COUNT if what == "scenes" else 1) for what, side in SIDES.items()}
        every = [kind for kind in OUTPUTS if kind not in ("classes", "stac")]
        taken = medians(
            {
                "single": partial(run_single, folder, pairs["single"]),
                "scenes": partial(run_batch, folder, pairs["scenes"]),
                "workers": partial(run_batch, folder, pairs["scenes"], 2),
                "outputs": partial(run_single, folder, pairs["single"], *every),
            },
            repeats,
        )
    single = taken["single"] / tiles["single"]
    per_scene = compare(f"{COUNT} scenes in one process", taken["scenes"] / tiles["scenes"], "one long run", single)
    return [
        check_limit(per_scene, "ratio", at_most=1.1),
        compare(f"{COUNT} scenes in 2 workers", taken["workers"] / tiles["scenes"], "one long run", single),
        compare("all outputs but stac", taken["outputs"] / tiles["single"], "the class map alone", single),
    ]
