"""The selective scan for CPUs: a custom torch operator on kernels that numba compiles.

Exporters can trace the operator without numba.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from refnet_cli.scan.directions import is_installed

BLOCK = 64
CHUNK = 32


def missing_for_cpu(device: str, states: int = 1) -> str | None:
    """Return why this kernel cannot run S states on a torch device type, or None if it can.

    The first call compiles the forward kernel, or loads it from numba's cache, and scans an image of a few pixels.
    """
    if device != "cpu":
        return f"it runs on CPUs only, not on {device!r}"
    if not is_installed("numba"):
        return "numba is not installed: pip install 'refnet-cli[torch]'"
    try:
        import numba

        settings: Any = numba.config
        if settings.DISABLE_JIT:
            return "NUMBA_DISABLE_JIT is set, but the kernel must be compiled: unset it"
        arguments = ((1, 2, 3, 5), (1, 2, 3, 4, 2 + 2 * states), (4, 5, 2), (4, 5), (4, 5, states), (4, 5))
        problem = _Problem(*(torch.ones(shape) for shape in arguments))
        if np.isfinite(_scan_forward(problem, keep=False)[0]).all():
            return None
        return "numba compiles it incorrectly: it returned values that are not finite"
    except Exception as error:  # of numba, LLVM or the disk; the torch kernel needs none of them
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        if isinstance(error, ImportError):
            return f"numba cannot be imported ({reason[:300]}): pip install --force-reinstall numba"
        return f"numba cannot compile it ({reason[:300]}): {_remedy(error)}"


def _remedy(error: Exception) -> str:
    if isinstance(error, OSError) or "cannot cache" in str(error):
        return "set NUMBA_CACHE_DIR to a writable folder"
    settings = sorted(name for name in os.environ if name.startswith("NUMBA_") and name != "NUMBA_CACHE_DIR")
    unset = f"unset {', '.join(settings)}, or " if settings else ""
    return f"{unset}install another version of numba"


@cache
def _kernels() -> ModuleType:
    # Imported late: if numba is broken, the other kernels still run.
    from refnet_cli.scan import cpu_kernels

    return cpu_kernels


def compiled_kernels() -> str:
    """Return where numba stores the kernels compiled for this processor, and whether they exist yet."""
    reason = missing_for_cpu("cpu")
    if reason is not None:
        return f"none: {reason}"
    folder: Path | None = _kernels().kernel_folder()
    if folder is None:
        return "in memory only, compiled at every start (no writable cache folder; set NUMBA_CACHE_DIR)"
    ready = folder.is_dir() and any(folder.glob("cpu_kernels.*.nbi"))
    return f"{folder} ({'ready' if ready else 'compiled on first use'})"


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="scan")


def run_units(work: Callable[[int, int], None], units: Iterator[tuple[int, int]]) -> None:
    """Run ``work(sample, part)`` for all units on as many threads as torch uses."""
    threads = torch.get_num_threads()
    if threads == 1:
        for unit in units:
            work(*unit)
    else:
        for future in [_pool(threads).submit(work, *unit) for unit in units]:
            future.result()


def _blocks(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Pad (..., D) with zeros and split it into (blocks, ..., BLOCK)."""
    padding = -array.shape[-1] % BLOCK
    padded = np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, padding)])
    return np.ascontiguousarray(np.moveaxis(padded.reshape(*array.shape[:-1], -1, BLOCK), -2, 0))


def _numpy(tensor: Tensor) -> np.ndarray[Any, Any]:
    return tensor.detach().float().contiguous().numpy()


class _Problem:
    """The arguments of one scan as numpy arrays, split into blocks of channels."""

    def __init__(
        self, u: Tensor, projection: Tensor, dt_weight: Tensor, dt_bias: Tensor, a_log: Tensor, d_skip: Tensor
    ) -> None:
        self.batch, self.height, self.width, self.channels = u.shape
        self.length = self.height * self.width
        self.u = _numpy(u).reshape(self.batch, self.length, self.channels)
        self.projection = _numpy(projection).reshape(self.batch, self.length, 4, -1)
        self.weight = _blocks(_numpy(dt_weight.transpose(1, 2)))
        self.bias = _blocks(_numpy(dt_bias))
        self.a = _blocks(_numpy(-torch.exp(a_log.detach().float()).transpose(1, 2)))
        self.skip = _blocks(_numpy(d_skip))
        self.blocks = len(self.bias)
        self.states = self.a.shape[2]

    def units(self) -> Iterator[tuple[int, int]]:
        return ((sample, block) for sample in range(self.batch) for block in range(self.blocks))


def _scan_forward(problem: _Problem, keep: bool) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    p = problem
    chunks = -(-p.length // CHUNK) if keep else 0
    y = torch.empty(p.u.shape).numpy()  # aligned with cache lines, unlike numpy's
    kept = np.empty((p.batch, p.blocks, 4, chunks, p.states, BLOCK), np.float32)

    kernels = _kernels()

    def work(sample: int, block: int) -> None:
        kernels.forward(
            p.u[sample], p.projection[sample], p.weight[block], p.bias[block], p.a[block], p.skip[block],
            p.height, p.width, block * BLOCK, y[sample], kept[sample, block],
        )  # fmt: skip

    run_units(work, p.units())
    return y, kept


def _scan_backward(problem: _Problem, kept: np.ndarray[Any, Any], grad: np.ndarray[Any, Any]) -> list[Tensor]:
    p = problem
    d_u = np.empty_like(p.u)
    d_projection = np.empty((p.blocks, *p.projection.shape), np.float32)
    shares = [np.zeros((p.batch, *array.shape), np.float32) for array in (p.weight, p.bias, p.a, p.skip)]

    kernels = _kernels()

    def work(sample: int, block: int) -> None:
        kernels.backward(
            p.u[sample], p.projection[sample], p.weight[block], p.bias[block], p.a[block], p.skip[block],
            p.height, p.width, block * BLOCK, kept[sample, block], grad[sample],
            d_u[sample], d_projection[block, sample], *(share[sample, block] for share in shares),
        )  # fmt: skip

    run_units(work, p.units())
    d_weight, d_bias, d_a, d_skip = (_join(share.sum(0), p.channels) for share in shares)
    d_a *= _join(p.a, p.channels)  # A = -exp(A_log), so dA/dA_log = A
    arrays = d_u, d_weight.swapaxes(1, 2), d_bias, d_a.swapaxes(1, 2), d_skip
    tensors = [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]
    return [tensors[0], torch.from_numpy(d_projection).sum(0), *tensors[1:]]


def _join(blocks: np.ndarray[Any, Any], channels: int) -> np.ndarray[Any, Any]:
    """Return the inverse of `_blocks`."""
    joined = np.moveaxis(blocks, 0, -2)
    return joined.reshape(*joined.shape[:-2], -1)[..., :channels].copy()


def _scan(
    u: Tensor, projection: Tensor, dt_weight: Tensor, dt_bias: Tensor, a_log: Tensor, d_skip: Tensor, keep: bool
) -> tuple[Tensor, Tensor]:
    y, kept = _scan_forward(_Problem(u, projection, dt_weight, dt_bias, a_log, d_skip), keep)
    return torch.from_numpy(y).view(u.shape).to(u.dtype), torch.from_numpy(kept)


_operator = torch.library.custom_op("refnet::selective_scan", _scan, mutates_args=(), device_types="cpu")


@_operator.register_fake
def _(
    u: Tensor, projection: Tensor, dt_weight: Tensor, dt_bias: Tensor, a_log: Tensor, d_skip: Tensor, keep: bool
) -> tuple[Tensor, Tensor]:
    batch, height, width, channels = u.shape
    chunks = -(-height * width // CHUNK) if keep else 0
    kept = u.new_empty((batch, -(-channels // BLOCK), 4, chunks, a_log.shape[-1], BLOCK), dtype=torch.float32)
    return torch.empty_like(u, memory_format=torch.contiguous_format), kept


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:6], output[1])
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 7
    *inputs, kept = ctx.saved_tensors
    problem = _Problem(*inputs)
    gradients = _scan_backward(problem, kept.numpy(), _numpy(grad).reshape(problem.u.shape))
    return *(g.view(x.shape).to(x.dtype) for g, x in zip(gradients, inputs, strict=True)), None


_operator.register_autograd(_differentiate, setup_context=_remember)


def selective_scan_cpu(
    u: Tensor, projection: Tensor, dt_weight: Tensor, dt_bias: Tensor, a_log: Tensor, d_skip: Tensor
) -> Tensor:
    """Run the four-direction selective scan on the CPU; see `refnet_cli.scan.selective_scan`."""
    arguments = (u, projection, dt_weight, dt_bias, a_log, d_skip)
    keep = torch.is_grad_enabled() and any(x.requires_grad for x in arguments)
    traced = torch.compiler.is_compiling() or torch.compiler.is_exporting()
    # Only gradients and tracing need the operator, whose first call imports torch's compiler, which takes a second.
    y: Tensor = (_operator if keep or traced else _scan)(*arguments, keep)[0]
    return y
