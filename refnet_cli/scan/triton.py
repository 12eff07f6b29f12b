"""The selective scan for GPUs as Triton kernels, without copies of the image for the four directions.

A scan over 16,384 pixels leaves a GPU idle if only samples and channels run in parallel. So each path through the image
is split into chunks of ``CHUNK`` steps. All chunks are scanned in parallel from zero; a short scan over their ends
gives the states from which they should have started; all chunks are scanned again from there. Each pass recomputes dt,
so that no (4, L, D) array of it exists. A direction and its reverse share chunks: one program adds both to the output,
first for rows, then for columns. So no atomics are needed, and equal inputs give equal bits. The backward pass runs the
same three steps against the directions, from the chunks' stored states; its scratch memory is S times u in float32.

The kernels are correct in Triton's interpreter and compile for GPUs. They have not run on a GPU yet, so they run only
on request.
"""

from __future__ import annotations

import os
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from refnet_cli.errors import UnavailableError
from refnet_cli.scan.directions import is_installed

CHUNK = 64
BLOCK = 32


def missing_for_triton(device: str, states: int = 1) -> str | None:
    """Return why this kernel cannot run on a torch device type, or None if it can."""
    if device == "mps" or (device == "cpu" and os.environ.get("TRITON_INTERPRET") != "1"):
        return f"it runs on GPUs that Triton supports, not on {device!r}"
    if not is_installed("triton"):
        return "Triton is not installed: pip install triton (on Linux it comes with torch)"
    return None


def _kernels() -> ModuleType:
    try:
        from refnet_cli.scan import triton_kernels
    except (ImportError, OSError) as error:
        raise UnavailableError(
            f"Triton cannot be imported ({error}). Install the release that matches the installed torch, or use "
            "another scan kernel, for example with REFNET_SCAN=torch."
        ) from error
    return triton_kernels


def _power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()


class _Launch:
    """The grid, sizes and arguments that all kernels of one scan share."""

    def __init__(self, u: Tensor, projection: Tensor, dt_weight: Tensor, dt_bias: Tensor, a_log: Tensor) -> None:
        self.kernels = _kernels()
        self.u = u
        self.batch, self.height, self.width, self.channels = u.shape
        self.length = self.height * self.width
        self.rank, self.states = dt_weight.shape[-1], a_log.shape[-1]
        self.chunks = -(-self.length // CHUNK)
        self.blocks = -(-self.channels // BLOCK)
        self.a = -torch.exp(a_log.float()).contiguous()
        self.time = (projection, dt_weight, dt_bias, self.a)
        self.sizes = (self.height, self.width, self.channels, self.rank, self.states, self.chunks)
        self.meta = {"BLOCK": BLOCK, "STATES": _power_of_two(self.states), "num_warps": 1}
        self.chunk_meta = {**self.meta, "CHUNK": CHUNK, "RANKS": _power_of_two(self.rank)}

    def empty(self, *shape: int) -> Tensor:
        return self.u.new_empty(shape, dtype=torch.float32)

    def starts(self, source: Tensor, adjoint: bool) -> Tensor:
        """Return the chunks' initial states, or the adjoints of their final states; (N, 4, chunks, S, D)."""
        start = self.empty(self.batch, 4, self.chunks, self.states, self.channels)
        time = self.empty(self.batch, 4, self.chunks, self.channels)
        self.kernels.ends[self.chunks, 4 * self.batch, self.blocks](
            source, *self.time, start, time, *self.sizes, ADJOINT=adjoint, **self.chunk_meta
        )
        self.kernels.carry[4 * self.batch, self.blocks](
            start, time, self.a, self.channels, self.states, self.chunks, ADJOINT=adjoint, **self.meta
        )
        return start

    def outputs(self, d_skip: Tensor, start: Tensor) -> Tensor:
        y = torch.zeros_like(self.u, dtype=torch.float32)
        for path in range(2):
            self.kernels.apply[self.chunks, self.batch, self.blocks](
                self.u, *self.time, d_skip, start, y, *self.sizes, PATH=path, **self.chunk_meta
            )
        return y

    def gradients(self, d_skip: Tensor, start: Tensor, grad: Tensor) -> list[Tensor]:
        adjoint = self.starts(grad, adjoint=True)
        scratch = self.empty(self.batch, self.length, self.states, self.channels)
        d_u = torch.zeros_like(self.u, dtype=torch.float32)
        d_projection = self.empty(self.blocks, *self.time[0].shape)
        shares = [self.empty(self.batch, self.chunks, *x.shape) for x in (*self.time[1:], d_skip)]
        d_weight, d_bias, d_a, d_through = shares
        for path in range(2):
            self.kernels.gradients[self.chunks, self.batch, self.blocks](
                self.u, *self.time, d_skip, start, adjoint, grad, scratch,
                d_u, d_projection, d_weight, d_bias, d_a, d_through,
                *self.sizes, self.batch, PATH=path, **self.chunk_meta,
            )  # fmt: skip
        d_weight, d_bias, d_a, d_through = (share.sum((0, 1)) for share in shares)
        # A = -exp(A_log), so dA/dA_log = A.
        return [d_u, d_projection.sum(0), d_weight, d_bias, d_a * self.a, d_through]


class _SelectiveScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Tensor) -> Tensor:
        arguments = tuple(argument.contiguous() for argument in arguments)
        launch = _Launch(*arguments[:5])
        start = launch.starts(arguments[0], adjoint=False)
        ctx.save_for_backward(*arguments, start)
        return launch.outputs(arguments[5], start).to(arguments[0].dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        *arguments, start = ctx.saved_tensors
        found = _Launch(*arguments[:5]).gradients(arguments[5], start, grad.contiguous())
        return tuple(gradient.to(argument.dtype) for gradient, argument in zip(found, arguments, strict=True))


def selective_scan_triton(
    u: Tensor, projection: Tensor, dt_weight: Tensor, dt_bias: Tensor, a_log: Tensor, d_skip: Tensor
) -> Tensor:
    """Run the four-direction selective scan in Triton; see `refnet_cli.scan.selective_scan`."""
    y: Tensor = _SelectiveScan.apply(u, projection, dt_weight, dt_bias, a_log, d_skip)
    return y
