"""How much memory ``refnet predict`` takes at most, over what it reckons with beforehand.

The reckoning is `refnet_cli.prediction.memory.Demand`.

Each prediction is a process of its own, given batch and reading threads, on a pair that `scene` makes, so that every
pixel is warped. What counts is the process's peak as the kernel tells it, libraries that are mapped included.

What is reckoned must never be less than what is taken, lest runs be killed, and should not be much more, lest tiles and
threads be given up for nothing.

    python -m benchmarks.memory > memory.json
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path

from benchmarks.measure import Row, hold, in_child, peak_of_refnet
from benchmarks.scene import make_pair
from refnet_cli.classes.schemes import SCHEMES
from refnet_cli.model.card import Card, Modality
from refnet_cli.model.weight_files import default_weights, read_card
from refnet_cli.prediction.memory import demand_of
from refnet_cli.system.memory import MB

WIDTHS, BATCHES, THREADS = (512, 2048, 6000), (1, 2, 4), (1, 2)
ROWS = {"default": 600, "published": 256}
"""Height of the scenes; the published preset takes a second for a tile and gets a single row of them."""
LEAST = 0.66
"""Of what was reckoned, what has to be taken."""


def published_weights(folder: Path) -> Path:
    """Write weights of the published preset, random, with the MSIE decoders that predicting reads but does not use."""
    from benchmarks.networks import PUBLISHED, make_network
    from refnet_cli.model.weights import save_weights

    path = folder / "published.safetensors"
    optical = Modality(("B02", "B03", "B04"), "reflectance x 10000", (400, 600, 500), (200, 200, 300))
    sar = Modality(("VV", "VH"), "dB", (-11.0, -17.5), (4.0, 4.5))
    save_weights(make_network(PUBLISHED), Card("published preset", PUBLISHED, optical, sar, SCHEMES["dfc2020"]), path)
    return path


NETWORKS: dict[str, Callable[[Path], Path]] = {
    "default": lambda _: default_weights(),
    "published": published_weights,
}


def measure(
    pair: tuple[Path, Path],
    width: int,
    weights: Path,
    batch: int,
    threads: int,
    repeats: int = 1,
    *,
    first: bool = False,
) -> Row:
    """Predict a pair again and again: the most that is taken, in MB, over what was reckoned.

    With ``first``, the kernels are compiled again, as in the first run after installing.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = {"optical": pair[0], "sar": pair[1], "weights": weights, "output": Path(folder) / "map.tif"}
        chosen = {"device": "cpu", "batch": batch, "read-threads": threads, "max-memory": "1T"}
        options = [f"--{name}={value}" for name, value in (files | chosen).items()]
        environment = {"NUMBA_CACHE_DIR": folder} if first else {}
        call = partial(in_child, peak_of_refnet, "predict", "--quiet", *options, environment=environment)
        peak = max(call() for _ in range(repeats))
    reckoned = demand_of(read_card(weights), weights, width).total(batch, threads) / MB
    what = f"{width} wide, batch {batch}, threads {threads}{', first run' * first}"
    row = {"what": what, "megabytes": peak, "over": "reckoned", "other_megabytes": reckoned, "ratio": peak / reckoned}
    return hold(row, "ratio", at_most=1)


def run(
    repeats: int = 1,
    widths: Sequence[int] = WIDTHS,
    batches: Sequence[int] = BATCHES,
    threads: Sequence[int] = THREADS,
    networks: Sequence[str] = tuple(NETWORKS),
) -> list[Row]:
    """Measure every combination.

    Parameters
    ----------
    repeats : int
        How often each prediction is made; the greatest peak counts.
    widths : sequence of int
        Of the scenes, in pixels.
    batches, threads : sequence of int
        Tiles at once, and reading threads.
    networks : sequence of str
        From ``NETWORKS``.
    """
    found = []
    with tempfile.TemporaryDirectory() as name:
        for network in networks:
            weights = NETWORKS[network](Path(name))
            made: list[Row] = []
            for width in widths:
                pair = make_pair(Path(name), width, ROWS[network])
                if not made:  # the least of all, to which compiling adds most
                    made.append(measure(pair, width, weights, min(batches), min(threads), first=True))
                made += [measure(pair, width, weights, *chosen, repeats) for chosen in product(batches, threads)]
            found += [row | {"what": f"{network}, {row['what']}"} for row in made]
    least = min(found, key=lambda row: float(row["ratio"]))
    return [*found, hold(least | {"what": f"least: {least['what']}"}, "ratio", at_least=LEAST)]


if __name__ == "__main__":
    from benchmarks.__main__ import main

    main(["memory", *sys.argv[1:]])
