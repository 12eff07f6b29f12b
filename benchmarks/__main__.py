"""Run a benchmark: ``python -m benchmarks NAME`` writes a table to stderr and JSON to stdout."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import batch, crops, fetch, gpu, learning, memory, report, scan, scene, tile, train
from benchmarks.measure import Row
from benchmarks.peers import compare as peers
from benchmarks.variants import VARIANTS
from refnet_cli.model.refnet import LEVELS


def run_train(steps: int, parts: Sequence[str], size: int) -> list[Row]:
    """Measure training steps by kernel, and what crops cost."""
    rows = train.run(steps) if "kernels" in parts else []
    return rows + (crops.run(size) if "crops" in parts else [])


BENCHMARKS: dict[str, Callable[..., list[Row]]] = {
    "scan": scan.run,
    "tile": tile.run,
    "scene": scene.run,
    "memory": memory.run,
    "batch": batch.run,
    "train": run_train,
    "learning": learning.run,
    "gpu": gpu.run,
    "fetch": fetch.run,
    "peers": peers.run,
}
TABLES: dict[str, Callable[[list[Row]], str]] = {"learning": learning.to_table, "peers": peers.to_table}
"""Table functions of the benchmarks that measure something other than time and memory."""
ENVIRONMENT: dict[str, Callable[[], dict[str, Any]]] = {
    "gpu": gpu.describe_environment,
    "peers": peers.describe_peers,
}
"""Functions that return further entries of the results."""


def make_parser() -> argparse.ArgumentParser:
    """Return the parser; its options are the arguments of each benchmark's ``run``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Benchmarks; see benchmarks/README.md.")
    commands = parser.add_subparsers(dest="benchmark", required=True)
    made = {
        "scan": commands.add_parser("scan", help="time of the selective scan kernels"),
        "tile": commands.add_parser("tile", help="time and memory of one tile in the network"),
        "scene": commands.add_parser("scene", help="time and memory of refnet predict, from files to a map"),
        "memory": commands.add_parser("memory", help="peak memory of refnet predict, compared with its estimate"),
        "batch": commands.add_parser("batch", help="time of batches and of further outputs"),
        "train": commands.add_parser("train", help="time of training steps and of crops"),
        "learning": commands.add_parser("learning", help="accuracy of the network, its ablations and other models"),
        "gpu": commands.add_parser("gpu", help="all measurements on a GPU"),
        "fetch": commands.add_parser("fetch", help="time, memory and bytes read of refnet fetch"),
        "peers": commands.add_parser("peers", help="refnet and what one could use instead, around the same network"),
    }
    for name, default in (("scan", 5), ("tile", 5), ("scene", 3), ("memory", 1), ("batch", 3), ("gpu", 5)):
        made[name].add_argument("--repeats", type=_count, default=default, help="measurements (default: %(default)s)")
    made["scan"].add_argument("--device", default="cpu", help="torch device (default: %(default)s)")
    made["scan"].add_argument(
        "--levels", type=int, nargs="+", choices=range(1, LEVELS + 1), default=list(range(1, LEVELS + 1)),
        help="levels of the network (default: all)",
    )  # fmt: skip
    made["scene"].add_argument(
        "--sizes", nargs="+", choices=scene.SIZES, default=list(scene.SIZES),
        help="scene sizes (default: all; large takes minutes and 3 GB of disk)",
    )  # fmt: skip
    add = made["memory"].add_argument
    add("--widths", type=_count, nargs="+", default=list(memory.WIDTHS), help="scene widths in pixels")
    add("--batches", type=_count, nargs="+", default=list(memory.BATCHES), help="tiles per batch")
    add("--threads", type=_count, nargs="+", default=list(memory.THREADS), help="reading threads")
    add("--networks", nargs="+", choices=memory.NETWORKS, default=list(memory.NETWORKS), help="default: all")
    made["fetch"].add_argument(
        "--size", type=_count, default=fetch.SIZE,
        help="pixels along a side (default: %(default)s; 10980 takes minutes and 6 GB of disk)",
    )  # fmt: skip
    add = made["gpu"].add_argument
    add("--device", default="cuda", help="torch device (default: %(default)s)")
    add("--devices", help="several devices, as for refnet predict --device (default: all GPUs, if several)")
    add("--batches", type=_count, nargs="+", default=list(gpu.BATCHES), help="tiles per batch (default: 1 4 16 64)")
    add("--networks", nargs="+", choices=memory.NETWORKS, default=list(memory.NETWORKS), help="default: all")
    add("--variants", nargs="+", choices=gpu.VARIANTS, default=list(gpu.VARIANTS), help="default: all")
    add("--levels", type=int, nargs="*", choices=range(1, LEVELS + 1), default=list(range(1, LEVELS + 1)))
    add("--size", type=_count, default=gpu.SIZE, help="size of the larger scene in pixels (default: %(default)s)")
    add = made["train"].add_argument
    add("--steps", type=_count, default=20, help="steps per kernel (default: %(default)s)")
    add("--parts", nargs="+", choices=("kernels", "crops"), default=["kernels", "crops"], help="default: all")
    add("--size", type=_count, default=crops.SIZE, help="side of the scene for crops (default: %(default)s)")
    add = made["learning"].add_argument
    add("--data", type=Path, nargs="+", required=True, metavar="FOLDER", help="folders of labelled scenes")
    add("--output", type=Path, default=Path("learning.json"), help="finished runs (default: %(default)s)")
    add("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="variants (default: all)")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    add("--steps", type=_count, help="steps per training (default: 400 if scenes are held out, else 120)")
    add("--learning-rate", type=float, default=learning.BUDGET.learning_rate, help="default: %(default)s")
    add = made["peers"].add_argument
    add("--only", nargs="+", choices=peers.PEERS, default=list(peers.PEERS), help="peers (default: all)")
    add("--cases", nargs="*", choices=peers.CASES, default=list(peers.CASES), help="cases (default: all)")
    add("--sizes", type=_count, nargs="+", default=list(peers.SIZES), help="scene sizes in pixels (default: 2048 4096)")
    add("--large", action="store_true", help="also the free network on 10,980 x 10,980 pixels under 8 GB")
    add("--environments", type=Path, default=peers.FOLDER, metavar="FOLDER", help="default: build/peers-venv")
    add("--work", type=Path, metavar="FOLDER", help="keep scenes and networks here (default: a temporary folder)")
    add("--merge", type=Path, metavar="FILE", help="results of an earlier run, whose other rows are kept")
    return parser


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("it must be at least 1")
    return number


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a benchmark from the command line."""
    settings = vars(make_parser().parse_args(arguments))
    benchmark = settings.pop("benchmark")
    rows = BENCHMARKS[benchmark](**settings)
    more = ENVIRONMENT.get(benchmark, dict)()
    print(TABLES.get(benchmark, report.to_table)(rows), file=sys.stderr)
    print(report.to_json(benchmark, settings, rows, **more))


if __name__ == "__main__":
    main()
