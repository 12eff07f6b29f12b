"""VSS blocks for inference on CPUs: what stands before and after the scan runs in two numba kernels."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refnet_cli.model.refnet import VSSBlock
from refnet_cli.scan import choose_scan, selective_scan
from refnet_cli.scan.cpu import run_units

LANES = 16
"""Channels that the kernels compute at once, one vector of 512 bits; widths must be multiples of it."""
WIDEST = 64
"""Widest block for which the kernels are faster than torch's layers."""
ROWS = 16
"""Rows of a unit of work before the scan; two further rows are projected for the convolution."""
PIXELS = 1024
"""Pixels of a unit of work after the scan."""
_log = logging.getLogger(__name__)

Array = np.ndarray[Any, Any]


class NarrowVSSBlock(nn.Module):
    """A VSS block without gradients whose layers run in two kernels on CPUs, with the scan between them.

    The block itself runs where the kernels cannot: on other devices, in torch.compile and exporters, and with other
    scan kernels than ``cpu``. Results differ by float rounding only, and do not depend on threads or on the batch.

    Parameters
    ----------
    block : VSSBlock
        In evaluation mode. Its weights must not change afterwards.
    """

    def __init__(self, block: VSSBlock) -> None:
        super().__init__()
        self.block = block
        scan = block.ss2d
        first, second = block.mlp[0], block.mlp[2]
        rank_and_states = scan.x_projection.shape[1]
        x_weight = scan.x_projection.flatten(0, 1)
        x_weight = F.pad(x_weight, (0, 0, 0, -len(x_weight) % LANES))
        self._columns = 4 * rank_and_states
        self._before = (
            *_norm(block.norm), _transposed(scan.in_projection.weight), _transposed(scan.convolution.weight.flatten(1)),
            _transposed(x_weight),
        )  # fmt: skip
        weight, bias, epsilon = _norm(scan.norm)
        mlp_weight, mlp_bias, mlp_epsilon = _norm(block.mlp_norm)
        self._after = (
            epsilon, weight, bias, _transposed(scan.out_projection.weight), mlp_epsilon, mlp_weight, mlp_bias,
            _transposed(first.weight), _numpy(first.bias), _transposed(second.weight), _numpy(second.bias),
        )  # fmt: skip

    @staticmethod
    def suits(block: VSSBlock) -> bool:
        """Return whether the kernels can compute a block, and are faster than torch's layers."""
        width = block.norm.weight.shape[0]
        return width % LANES == 0 and width <= WIDEST and block.norm.weight.device.type == "cpu"

    def forward(self, x: Tensor) -> Tensor:
        """Return the features, (N, C, H, W) -> (N, C, H, W)."""
        if self._can_run(x):
            return self._run(x)
        result: Tensor = self.block(x)
        return result

    def _can_run(self, x: Tensor) -> bool:
        if torch.compiler.is_compiling() or torch.compiler.is_exporting() or torch.is_grad_enabled():
            return False
        scan = self.block.ss2d
        if x.device.type != "cpu" or x.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
            return False
        return choose_scan("cpu", scan.a_log.shape[-1], scan.scan).name == "cpu" and can_compile()

    def _run(self, x: Tensor) -> Tensor:
        pixels = x.permute(0, 2, 3, 1).contiguous()  # (N, H, W, C)
        u, projection = self._scan_inputs(pixels)
        scan = self.block.ss2d
        directions = torch.unflatten(projection, -1, (4, -1))
        weights = scan.dt_weight, scan.dt_bias, scan.a_log, scan.d_skip
        y = selective_scan(u, directions, *weights, scan.scan)
        return self._output(pixels, y).permute(0, 3, 1, 2)

    def _scan_inputs(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return u, (N, H, W, D), and its projection, (N, H, W, 4 (R + 2S))."""
        samples, height, width, channels = pixels.shape
        u, projection = (pixels.new_empty(samples, height, width, size) for size in (2 * channels, self._columns))
        x, u_, projection_ = (_samples(tensor) for tensor in (pixels, u, projection))

        def work(sample: int, first: int) -> None:
            last = min(first + ROWS, height)
            _kernels().before_scan(
                x[sample], height, width, first, last, *self._before, u_[sample], projection_[sample]
            )

        run_units(work, _units(samples, height, ROWS))
        return u, projection

    def _output(self, pixels: Tensor, y: Tensor) -> Tensor:
        """Return the block's output, (N, H, W, C), from its input and the scan's output."""
        out = torch.empty_like(pixels)
        x, y_, out_ = (_samples(tensor) for tensor in (pixels, y, out))
        length = x.shape[1]

        def work(sample: int, first: int) -> None:
            last = min(first + PIXELS, length)
            _kernels().after_scan(x[sample], y_[sample], first, last, *self._after, out_[sample])

        run_units(work, _units(len(x), length, PIXELS))
        return out


@cache
def can_compile() -> bool:
    """Return whether numba compiles the kernels, or loads them from its cache; warn and return False if it does not."""
    block = VSSBlock(LANES, 1, 0.0).eval()
    image = torch.ones(1, LANES, 2, 3)
    try:
        with torch.inference_mode():
            found = NarrowVSSBlock(block)._run(image)
    except Exception as error:  # of numba, LLVM or the disk; torch's layers need none of them
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        _log.warning("numba cannot compile the kernels of narrow layers (%s). Torch's layers run instead", reason)
        return False
    return bool(torch.isfinite(found).all())


def _kernels() -> Any:
    # Imported late: if numba is broken, torch's layers still run.
    from refnet_cli.model import vss_kernels

    return vss_kernels


def _units(samples: int, length: int, step: int) -> Iterator[tuple[int, int]]:
    return ((sample, first) for sample in range(samples) for first in range(0, length, step))


def _samples(tensor: Tensor) -> Array:
    """Return (N, H, W, C) as an array (N, H * W, C)."""
    return tensor.flatten(1, 2).numpy()


def _numpy(tensor: Any) -> Array:
    array: Array = tensor.detach().float().contiguous().numpy()
    return array


def _transposed(matrix: Any) -> Array:
    return _numpy(matrix.t())


def _norm(norm: nn.LayerNorm) -> tuple[Array, Array, np.float32]:
    return _numpy(norm.weight), _numpy(norm.bias), np.float32(norm.eps)
