"""Measure the time of a tile relative to the floor of its arithmetic, and the memory of a large tile.

The floor of a tile is the FLOP count of its convolutions and matrix products, at the rate of a large matrix product
that is measured in turn with the network. Scans and elementwise operations are not counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import Row, check_limit, compare, in_child, medians, memory, reset_peak
from benchmarks.memory import published_weights
from benchmarks.networks import PRODUCT, PRODUCT_FLOP, PUBLISHED, make_inputs, make_network, matrix_product
from refnet_cli.engines.load import load_engine
from refnet_cli.engines.options import EngineOptions
from refnet_cli.export import draw_tiles, export_onnx
from refnet_cli.model.config import REFNetConfig
from refnet_cli.model.fuse import prepare_for_inference
from refnet_cli.model.refnet import SMALLEST_SIDE, REFNet
from refnet_cli.model.weight_files import default_weights
from refnet_cli.model.weights import load_weights
from refnet_cli.system.process import keep_freed_memory

BATCHES = {256: 4, 512: 1}
FLOOR_LIMIT = 2.0
PEAK_LIMIT = 1500.0


def count_flop(net: REFNet, side: int) -> int:
    """Return the FLOP of convolutions and matrix products for one tile, without the MSIE decoders."""
    optical, sar = make_inputs(net.config, 1, side)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(optical, sar, auxiliary=False)
    return int(counter.get_total_flops())


@torch.inference_mode()
def run_network(net: REFNet, scan: str, inputs: tuple[Tensor, Tensor]) -> None:
    """Run the network with a scan kernel."""
    net.use_scan(scan)(*inputs, auxiliary=False)


def measure_tiles(
    name: str, net: REFNet, side: int, batch: int, repeats: int, scans: Sequence[str] = ("cpu", "torch")
) -> list[Row]:
    """Measure the seconds per tile with each kernel, relative to the floor.

    Parameters
    ----------
    name : str
        Name of the network.
    net : REFNet
        The network, before `prepare_for_inference`.
    side : int
        Tile size in pixels.
    batch : int
        Tiles per batch.
    repeats : int
        Runs per time measurement.
    scans : sequence of str
        Names of kernels.
    """
    flop = count_flop(net, side)
    prepared = prepare_for_inference(net)
    inputs = make_inputs(net.config, batch, side)
    for scan in scans:
        run_network(prepared, scan, make_inputs(net.config, 1, SMALLEST_SIDE))  # warm-up: compiles the kernel
    actions = {scan: lambda scan=scan: run_network(prepared, scan, inputs) for scan in scans}
    taken = medians({PRODUCT: matrix_product(), **actions}, repeats)
    rate = PRODUCT_FLOP / taken[PRODUCT]
    return [
        compare(f"{name}, {side} x {side}, batch {batch}, {scan}", taken[scan] / batch, "floor", flop / rate)
        | {"gigaflop": flop / 1e9, "gigaflop_per_second": rate / 1e9}
        for scan in scans
    ]


def peak_of_forward(encoder: str, width: str, side: str) -> float:
    """Return the peak MB of one forward pass above the memory held before; call it in a child process."""
    net = prepare_for_inference(make_network(REFNetConfig(encoder=encoder, width=int(width))))
    keep_freed_memory()
    inputs = make_inputs(net.config, 1, int(side))
    run_network(net, "cpu", make_inputs(net.config, 1, SMALLEST_SIDE))
    reset_peak()
    before = memory("VmRSS")
    run_network(net, "cpu", inputs)
    return memory("VmHWM") - before


def measure_peak(config: REFNetConfig, side: int) -> Row:
    """Measure the memory of one forward pass with the ``cpu`` kernel at batch 1."""
    megabytes = in_child(peak_of_forward, config.encoder, str(config.width), str(side))
    return {"what": f"peak memory above the weights, {side} x {side}, batch 1, cpu", "megabytes": megabytes}


def measure_runtime(name: str, weights: Path, model: Path, repeats: int, batches: Sequence[int] = (1, 4)) -> list[Row]:
    """Measure an ONNX model in ONNX Runtime relative to torch, both as `refnet predict` runs them on CPUs.

    Parameters
    ----------
    name : str
        Name of the network.
    weights, model : Path
        Weights, and their export by `refnet_cli.export`.
    repeats : int
        Runs per time measurement.
    batches : sequence of int
        Batch sizes in tiles.
    """
    rows = []
    for batch in batches:
        engines = {path: load_engine(path, EngineOptions("cpu", batch)) for path in (weights, model)}
        tiles = draw_tiles(engines[weights].card, batch)
        actions = {
            engine.about.get("engine", "torch"): partial(engine.predict, *tiles) for engine in engines.values()
        }
        medians(actions, 1)  # warm-up: allocates buffers and compiles kernels
        (torch_name, by_torch), (runtime, by_runtime) = medians(actions, repeats).items()
        what = f"{name}, {engines[weights].card.tile} x {engines[weights].card.tile}, batch {batch}, {runtime}"
        rows.append(compare(what, by_runtime / batch, torch_name, by_torch / batch))
    return rows


def run(repeats: int = 5) -> list[Row]:
    """Measure the published preset with random weights, and the bundled weights.

    Parameters
    ----------
    repeats : int
        Runs per time measurement; medians are reported.
    """
    keep_freed_memory()  # as engines do
    published = make_network(PUBLISHED)
    rows = []
    for name, net in (("published preset", published), ("default weights", load_weights(default_weights())[0])):
        for side, batch in BATCHES.items():
            rows += measure_tiles(name, net, side, batch, repeats)
    rows[0] = check_limit(rows[0], "ratio", at_most=FLOOR_LIMIT)  # published preset, 256 x 256, cpu
    with TemporaryDirectory() as name:
        folder = Path(name)
        weights = published_weights(folder)
        export_onnx(weights, folder / "published.onnx")
        rows += measure_runtime("published preset", weights, folder / "published.onnx", repeats)
    rows += measure_runtime("default weights", default_weights(), default_weights().with_suffix(".onnx"), repeats)
    # This kernel needs many seconds per tile, so it runs once.
    rows += measure_tiles("published preset", published, 256, 1, repeats=1, scans=["loop"])
    return [*rows, check_limit(measure_peak(PUBLISHED, 512), "megabytes", at_most=PEAK_LIMIT)]
