"""Measure the time of each scan kernel at each level of the network, relative to a matrix product.

The sizes are those of one 256 x 256 tile in the published preset, one VSS block at a time: 128 x 128 pixels at level 1
to 8 x 8 at level 5, 256 channels, rank 8, state size 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measure import Row, check_limit, compare, medians
from benchmarks.networks import PRODUCT, PUBLISHED, finish, matrix_product
from refnet_cli.model.refnet import LEVELS, SS2D
from refnet_cli.scan import SCANS, available_scans, selective_scan
from refnet_cli.system.process import keep_freed_memory

TILE = 256
# Most pixels for the step-by-step kernel, which takes one Python step per pixel: above, it needs half a minute or more.
# Its gradients are even slower.
LOOP_PIXELS = {"forward": 1024, "forward+backward": 256}
BARS = {"cpu forward": 0.6, "cpu forward+backward": 2.5}
FASTER_THAN_TORCH = 10.0

Arguments = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
"""Arguments of `selective_scan`: u, projection, dt_weight, dt_bias, a_log and d_skip."""


def make_arguments(side: int, device: str) -> Arguments:
    """Return arguments for an image of ``side`` x ``side`` pixels, all with gradients."""
    torch.manual_seed(side)
    block = SS2D(PUBLISHED.width, PUBLISHED.states)
    u = torch.randn(1, side, side, 2 * PUBLISHED.width)
    projection = torch.unflatten(F.linear(u, block.x_projection.flatten(0, 1)), -1, (4, -1))

    def place(x: Tensor) -> Tensor:
        return x.detach().to(device).requires_grad_()

    dt = place(block.dt_weight), place(block.dt_bias)
    return place(u), place(projection), *dt, place(block.a_log), place(block.d_skip)


def forward(scan: str, arguments: Arguments) -> None:
    """Run the scan as in inference."""
    with torch.inference_mode():
        selective_scan(*arguments, scan)
    finish(str(arguments[0].device))


def forward_backward(scan: str, arguments: Arguments) -> None:
    """Run the scan as in training, with all gradients."""
    y = selective_scan(*arguments, scan)
    torch.autograd.grad(y, arguments, torch.ones_like(y))
    finish(str(arguments[0].device))


MODES: dict[str, Callable[[str, Arguments], None]] = {
    "forward": forward,
    "forward+backward": forward_backward,
}


def measure_level(level: int, repeats: int, device: str, only: Sequence[str] = tuple(SCANS)) -> list[Row]:
    """Measure the given kernels that can run relative to the matrix product, and ``torch`` relative to ``cpu``."""
    side = TILE // 2**level
    arguments = make_arguments(side, device)
    scans = available_scans(torch.device(device).type, PUBLISHED.states)
    actions = {
        f"{scan} {mode}": partial(action, scan, arguments)
        for scan, missing in scans.items()
        for mode, action in MODES.items()
        if missing is None and scan in only and (scan != "loop" or side * side <= LOOP_PIXELS[mode])
    }
    taken = medians({PRODUCT: matrix_product(device), **actions}, repeats)
    rows = []
    for name in actions:
        row = compare(f"level {level}, {name}", taken[name], PRODUCT, taken[PRODUCT])
        rows.append(check_limit(row, "ratio", at_most=BARS[name]) if level == 1 and name in BARS else row)
    for mode in MODES if scans["cpu"] is None and {"cpu", "torch"} <= set(only) else ():
        ours = f"cpu {mode}"
        row = compare(f"level {level}, torch {mode}", taken[f"torch {mode}"], ours, taken[ours])
        rows.append(check_limit(row, "ratio", at_least=FASTER_THAN_TORCH) if level == 1 else row)
    return rows


def run(repeats: int = 5, device: str = "cpu", levels: Sequence[int] = range(1, LEVELS + 1)) -> list[Row]:
    """Measure all kernels that can run on a device.

    Parameters
    ----------
    repeats : int
        Runs per time measurement; medians are reported.
    device : str
        A torch device.
    levels : sequence of int
        Levels of the network, 1 to 5.
    """
    keep_freed_memory()  # as engines do
    measure_level(LEVELS, 1, device)  # warm-up: compiles kernels
    return [row for level in levels for row in measure_level(level, repeats, device)]
