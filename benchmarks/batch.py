"""What many scenes cost compared with one long run, and further outputs compared with the class map.

Scenes are made as for `scene`: every pixel of SAR has to be warped. Seconds are those of whole programs, start and
loading of the network included, over the tiles that they predict, since scenes of their own have more edges and so more
tiles than one of the same ground.

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

from benchmarks.measure import ROOT, Row, compare, hold, medians
from benchmarks.scene import make_pair
from refnet_cli.outputs import OUTPUTS
from refnet_cli.tiles.tiling import Tiling

SIDES = {"scenes": 1024, "single": 2048}
COUNT = 4
"""Scenes of a batch, which together have about as many tiles as the single one."""


def refnet(*arguments: str) -> None:
    """Run the command line tool."""
    subprocess.run([sys.executable, "-m", "refnet_cli", *arguments], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)


def run_batch(folder: Path, pair: tuple[Path, Path], workers: int | None = None) -> None:
    """Map one pair again and again as if it were many."""
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
    """Measure all of it.

    Parameters
    ----------
    repeats : int
        Runs of each.

    Returns
    -------
    list of dict
        Seconds are those of a tile.
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
        hold(per_scene, "ratio", at_most=1.1),
        compare(f"{COUNT} scenes in 2 workers", taken["workers"] / tiles["scenes"], "one long run", single),
        compare("all outputs but stac", taken["outputs"] / tiles["single"], "the class map alone", single),
    ]
