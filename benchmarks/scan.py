"""How long each scan kernel takes at each level of the network, compared with a matrix product.

The sizes are those of one 256 x 256 tile in the published preset, one VSS block at a time: 128 x 128 pixels at level 1
to 8 x 8 at level 5, 256 channels, rank 8, state size 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measure import Row, compare, hold, medians
from benchmarks.networks import PRODUCT, PUBLISHED, finish, matrix_product
from refnet_cli.model.refnet import LEVELS, SS2D
from refnet_cli.scan import SCANS, available_scans, selective_scan
from refnet_cli.system.process import keep_freed_memory

TILE = 256
# The step-by-step kernel takes a Python step for each pixel, and its gradients take longer the more steps there were:
# above so many pixels, it would be half a minute and more.
LOOP_PIXELS = {"forward": 1024, "forward+backward": 256}
BARS = {"cpu forward": 0.6, "cpu forward+backward": 2.5}
FASTER_THAN_TORCH = 10.0

Arguments = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
"""What `selective_scan` takes: u, projection, dt_weight, dt_bias, a_log and d_skip."""


def make_arguments(side: int, device: str) -> Arguments:
    """Make the arguments for an image of ``side`` x ``side`` pixels, all of them wanting gradients."""
    torch.manual_seed(side)
    block = SS2D(PUBLISHED.width, PUBLISHED.states)
    u = torch.randn(1, side, side, 2 * PUBLISHED.width)
    projection = torch.unflatten(F.linear(u, block.x_projection.flatten(0, 1)), -1, (4, -1))

    def place(x: Tensor) -> Tensor:
        return x.detach().to(device).requires_grad_()

    dt = place(block.dt_weight), place(block.dt_bias)
    return place(u), place(projection), *dt, place(block.a_log), place(block.d_skip)


def forward(scan: str, arguments: Arguments) -> None:
    """Scan as in predicting."""
    with torch.inference_mode():
        selective_scan(*arguments, scan)
    finish(str(arguments[0].device))


def forward_backward(scan: str, arguments: Arguments) -> None:
    """Scan as in training, with the gradients of everything."""
    y = selective_scan(*arguments, scan)
    torch.autograd.grad(y, arguments, torch.ones_like(y))
    finish(str(arguments[0].device))


MODES: dict[str, Callable[[str, Arguments], None]] = {
    "forward": forward,
    "forward+backward": forward_backward,
}


def measure_level(level: int, repeats: int, device: str, only: Sequence[str] = tuple(SCANS)) -> list[Row]:
    """Measure every kernel of those named that can run, over the matrix product, and then ``torch`` over ``cpu``."""
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
        rows.append(hold(row, "ratio", at_most=BARS[name]) if level == 1 and name in BARS else row)
    for mode in MODES if scans["cpu"] is None and {"cpu", "torch"} <= set(only) else ():
        ours = f"cpu {mode}"
        row = compare(f"level {level}, torch {mode}", taken[f"torch {mode}"], ours, taken[ours])
        rows.append(hold(row, "ratio", at_least=FASTER_THAN_TORCH) if level == 1 else row)
    return rows


def run(repeats: int = 5, device: str = "cpu", levels: Sequence[int] = range(1, LEVELS + 1)) -> list[Row]:
    """Measure all kernels that can run on a device.

    Parameters
    ----------
    repeats : int
        How often each time is taken; the medians count.
    device : str
        A torch device.
    levels : sequence of int
        Levels of the network, 1 to 5.
    """
    keep_freed_memory()  # as engines do
    measure_level(LEVELS, 1, device)  # kernels are compiled at the first call
    return [row for level in levels for row in measure_level(level, repeats, device)]
