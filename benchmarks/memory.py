"""Measure the peak memory of ``refnet predict`` relative to its own estimate, `refnet_cli.prediction.memory.Demand`.

Each prediction runs in its own process, with a given batch size and number of reading threads, on a pair from `scene`,
so that every pixel is warped. The peak is that of the process as reported by the kernel, including mapped libraries.

The estimate must never be below the peak, or runs would be killed. It should not be much above it, or tiles and threads
would be reduced needlessly.

    python -m benchmarks.memory > memory.json
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path

from benchmarks.measure import Row, check_limit, in_child, peak_of_refnet
from benchmarks.scene import make_pair
from refnet_cli.classes.schemes import SCHEMES
from refnet_cli.model.card import Card, Modality
from refnet_cli.model.weight_files import default_weights, read_card
from refnet_cli.prediction.memory import demand_of
from refnet_cli.system.memory import MB

WIDTHS, BATCHES, THREADS = (512, 2048, 6000), (1, 2, 4), (1, 2)
ROWS = {"default": 600, "published": 256}
"""Height of the scenes. The published preset needs a second per tile, so its scenes have a single row of tiles."""
LEAST = 0.66
"""Lower bound of peak over estimate."""


def published_weights(folder: Path) -> Path:
    """Write random weights of the published preset, with the MSIE decoders, which predictions read but do not use."""
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
    """Predict a pair repeatedly, and return the peak in MB relative to the estimate.

    With ``first``, the kernels are compiled again, as in the first run after an installation.
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
    return check_limit(row, "ratio", at_most=1)


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
        Runs of each prediction; the largest peak is reported.
    widths : sequence of int
        Widths of the scenes in pixels.
    batches, threads : sequence of int
        Batch sizes in tiles, and numbers of reading threads.
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
                if not made:  # the smallest run, where compiling adds the largest share
                    made.append(measure(pair, width, weights, min(batches), min(threads), first=True))
                made += [measure(pair, width, weights, *chosen, repeats) for chosen in product(batches, threads)]
            found += [row | {"what": f"{network}, {row['what']}"} for row in made]
    least = min(found, key=lambda row: float(row["ratio"]))
    return [*found, check_limit(least | {"what": f"least: {least['what']}"}, "ratio", at_least=LEAST)]


if __name__ == "__main__":
    from benchmarks.__main__ import main

    main(["memory", *sys.argv[1:]])
