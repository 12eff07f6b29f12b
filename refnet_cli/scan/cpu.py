"""The selective scan for CPUs: numba kernels that never lay out the four directions in memory.

Each unit of work is one sample and one block of channels. The kernel walks the rows or the columns of the (L, D) array
in each direction, computes dt's projection on the way and adds into one output, so that neither four copies of the
input nor the (4, L, D) array of dt exist. The loops over a block's channels have a constant length and touch few arrays
each, which is what lets LLVM turn them into vector instructions. The backward pass starts from the states that the
forward pass kept every ``CHUNK`` steps and recomputes what lies between them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from torch import Tensor

BLOCK = 64
CHUNK = 64

f32 = np.float32
i32 = np.int32
# Without "nnan" and "ninf": a NaN that comes in must come out.
FAST = {"contract", "reassoc", "nsz", "arcp"}


@intrinsic
def _bits_to_float(typing_context: Any, bits: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


@njit(fastmath=FAST, inline="always")
def _exp(x):  # type: ignore[no-untyped-def]
    """exp to about one unit in the last place (Cephes' polynomial); below -87 it stays at the smallest normal."""
    x = f32(-87.0) if x < f32(-87.0) else x
    x = f32(88.0) if x > f32(88.0) else x
    power = np.floor(x * f32(1.4426950408889634) + f32(0.5))
    r = x - power * f32(0.693359375) + power * f32(2.12194440e-4)
    p = f32(1.9875691500e-4)
    p = p * r + f32(1.3981999507e-3)
    p = p * r + f32(8.3334519073e-3)
    p = p * r + f32(4.1665795894e-2)
    p = p * r + f32(1.6666665459e-1)
    p = p * r + f32(5.0000001201e-1)
    p = p * r * r + r + f32(1.0)
    return p * _bits_to_float((i32(power) + i32(127)) << i32(23))  # type: ignore[call-arg]


@njit(fastmath=FAST, inline="always")
def _log1p(e):  # type: ignore[no-untyped-def]
    """log(1 + e) for 0 <= e <= 1, with full relative precision near 0 (Cephes' polynomial)."""
    large = e > f32(0.41421356)
    x = f32(0.5) * e - f32(0.5) if large else e
    p = f32(7.0376836292e-2)
    p = p * x - f32(1.1514610310e-1)
    p = p * x + f32(1.1676998740e-1)
    p = p * x - f32(1.2420140846e-1)
    p = p * x + f32(1.4249322787e-1)
    p = p * x - f32(1.6668057665e-1)
    p = p * x + f32(2.0000714765e-1)
    p = p * x - f32(2.4999993993e-1)
    p = p * x + f32(3.3333331174e-1)
    square = x * x
    result = x + (p * x * square - f32(0.5) * square)
    return result + f32(0.6931471805599453) if large else result


@njit(inline="always")
def _place(direction, step, height, width):  # type: ignore[no-untyped-def]
    """Pixel that a direction visits at a step."""
    if direction >= 2:
        step = height * width - 1 - step
    if direction % 2 == 0:
        return step
    return (step % height) * width + step // height


@njit(fastmath=FAST, inline="always")
def _project(low, weight, bias, rank, z):  # type: ignore[no-untyped-def]
    """Fill z = weight low + bias for a block of channels."""
    for d in range(BLOCK):
        z[d] = bias[d]
    for r in range(rank):
        factor = low[r]
        for d in range(BLOCK):
            z[d] += factor * weight[r, d]


@njit(fastmath=FAST, inline="always")
def _softplus(z, e):  # type: ignore[no-untyped-def]
    """log(1 + exp(z)), given e = exp(-|z|)."""
    return (z if z > f32(0) else f32(0)) + _log1p(e)


def _compile(function: Any) -> Any:
    """Compile for this processor, once and for all where a folder for it can be written."""
    try:
        return njit(fastmath=FAST, nogil=True, cache=True)(function)
    except RuntimeError:
        return njit(fastmath=FAST, nogil=True)(function)


@_compile
def _forward(u, projection, weight, bias, a, skip, height, width, y, kept):  # type: ignore[no-untyped-def]
    """Scan one sample and block: u (L, n), projection (L, 4, R + 2S), the rest padded to BLOCK channels; adds to y."""
    length, count = u.shape
    rank = weight.shape[1]
    states = a.shape[1]
    dt = np.empty(BLOCK, f32)
    x = np.zeros(BLOCK, f32)
    out = np.zeros(BLOCK, f32)
    h = np.empty((states, BLOCK), f32)
    keep = kept.shape[1] > 0
    for k in range(4):
        h[:] = f32(0)
        for step in range(length):
            if keep and step % CHUNK == 0:
                kept[k, step // CHUNK] = h
            place = _place(k, step, height, width)
            for d in range(count):
                x[d] = u[place, d]
            values = projection[place, k]
            _project(values, weight[k], bias[k], rank, dt)
            for d in range(BLOCK):
                dt[d] = _softplus(dt[d], _exp(-abs(dt[d])))
            for d in range(BLOCK):
                out[d] = skip[k, d] * x[d]
                x[d] *= dt[d]
            for s in range(states):
                b = values[rank + s]
                c = values[rank + states + s]
                for d in range(BLOCK):
                    state = _exp(dt[d] * a[k, s, d]) * h[s, d] + b * x[d]
                    h[s, d] = state
                    out[d] += c * state
            for d in range(count):
                y[place, d] += out[d]


@_compile
def _backward(  # type: ignore[no-untyped-def]
    u, projection, weight, bias, a, skip, height, width, kept, grad, d_u, d_projection, d_weight, d_bias, d_a, d_skip
):
    """Gradients of one sample and block; adds to every ``d_`` array (d_projection is this block's share alone)."""
    length, count = u.shape
    rank = weight.shape[1]
    states = a.shape[1]
    chunks = kept.shape[1]
    dt = np.empty((CHUNK, BLOCK), f32)
    slope = np.empty((CHUNK, BLOCK), f32)
    x = np.zeros((CHUNK, BLOCK), f32)
    decay = np.empty((CHUNK, states, BLOCK), f32)
    h = np.empty((CHUNK + 1, states, BLOCK), f32)
    d_h = np.empty((states, BLOCK), f32)
    d_dt = np.empty(BLOCK, f32)
    d_x = np.empty(BLOCK, f32)
    g = np.zeros(BLOCK, f32)
    for k in range(4):
        d_h[:] = f32(0)
        for chunk in range(chunks - 1, -1, -1):
            first = chunk * CHUNK
            steps = min(CHUNK, length - first)
            h[0] = kept[k, chunk]
            for t in range(steps):
                place = _place(k, first + t, height, width)
                for d in range(count):
                    x[t, d] = u[place, d]
                values = projection[place, k]
                _project(values, weight[k], bias[k], rank, dt[t])
                for d in range(BLOCK):
                    z = dt[t, d]
                    e = _exp(-abs(z))
                    slope[t, d] = (f32(1) if z > f32(0) else e) / (f32(1) + e)
                    dt[t, d] = _softplus(z, e)
                for s in range(states):
                    b = values[rank + s]
                    for d in range(BLOCK):
                        factor = _exp(dt[t, d] * a[k, s, d])
                        decay[t, s, d] = factor
                        h[t + 1, s, d] = factor * h[t, s, d] + b * dt[t, d] * x[t, d]
            for t in range(steps - 1, -1, -1):
                place = _place(k, first + t, height, width)
                values = projection[place, k]
                d_values = d_projection[place, k]
                for d in range(count):
                    g[d] = grad[place, d]
                for d in range(BLOCK):
                    d_dt[d] = f32(0)
                    d_x[d] = g[d] * skip[k, d]
                    d_skip[k, d] += g[d] * x[t, d]
                for s in range(states):
                    b = values[rank + s]
                    c = values[rank + states + s]
                    d_b = f32(0)
                    d_c = f32(0)
                    for d in range(BLOCK):
                        d_h[s, d] += c * g[d]
                        d_c += g[d] * h[t + 1, s, d]
                        d_b += d_h[s, d] * dt[t, d] * x[t, d]
                    for d in range(BLOCK):
                        d_x[d] += d_h[s, d] * b * dt[t, d]
                        d_dt[d] += d_h[s, d] * b * x[t, d]
                    for d in range(BLOCK):
                        # Through the decay exp(dt A), whose derivative is itself.
                        carried = d_h[s, d] * decay[t, s, d]
                        through = carried * h[t, s, d]
                        d_dt[d] += through * a[k, s, d]
                        d_a[k, s, d] += through * dt[t, d]
                        d_h[s, d] = carried
                    d_values[rank + s] = d_b
                    d_values[rank + states + s] = d_c
                for d in range(BLOCK):
                    d_dt[d] *= slope[t, d]
                    d_bias[k, d] += d_dt[d]
                for r in range(rank):
                    low = values[r]
                    d_low = f32(0)
                    for d in range(BLOCK):
                        d_weight[k, r, d] += d_dt[d] * low
                        d_low += d_dt[d] * weight[k, r, d]
                    d_values[r] = d_low
                for d in range(count):
                    d_u[place, d] += d_x[d]


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="scan")


def _run(work: Callable[[int, int], None], units: Iterator[tuple[int, int]]) -> None:
    """Run ``work(sample, block)`` for all units on as many threads as torch uses."""
    threads = torch.get_num_threads()
    if threads == 1:
        for unit in units:
            work(*unit)
    else:
        for future in [_pool(threads).submit(work, *unit) for unit in units]:
            future.result()


def _blocks(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """(..., D) padded with zeros and split into (blocks, ..., BLOCK)."""
    padding = -array.shape[-1] % BLOCK
    padded = np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, padding)])
    return np.ascontiguousarray(np.moveaxis(padded.reshape(*array.shape[:-1], -1, BLOCK), -2, 0))


def _numpy(tensor: Tensor) -> np.ndarray[Any, Any]:
    return tensor.detach().float().contiguous().numpy()


class _Problem:
    """The arguments of one scan as numpy arrays, cut into blocks of channels."""

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

    def part(self, block: int) -> slice:
        return slice(block * BLOCK, min((block + 1) * BLOCK, self.channels))


def _scan_forward(problem: _Problem, keep: bool) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    p = problem
    chunks = -(-p.length // CHUNK) if keep else 0
    y = np.zeros_like(p.u)
    kept = np.empty((p.batch, p.blocks, 4, chunks, p.states, BLOCK), f32)

    def work(sample: int, block: int) -> None:
        part = p.part(block)
        _forward(
            p.u[sample, :, part], p.projection[sample], p.weight[block], p.bias[block], p.a[block], p.skip[block],
            p.height, p.width, y[sample, :, part], kept[sample, block],
        )  # fmt: skip

    _run(work, p.units())
    return y, kept


def _scan_backward(problem: _Problem, kept: np.ndarray[Any, Any], grad: np.ndarray[Any, Any]) -> list[Tensor]:
    p = problem
    d_u = np.zeros_like(p.u)
    d_projection = np.empty((p.blocks, *p.projection.shape), f32)
    shares = [np.zeros((p.batch, *array.shape), f32) for array in (p.weight, p.bias, p.a, p.skip)]

    def work(sample: int, block: int) -> None:
        part = p.part(block)
        _backward(
            p.u[sample, :, part], p.projection[sample], p.weight[block], p.bias[block], p.a[block], p.skip[block],
            p.height, p.width, kept[sample, block], grad[sample, :, part],
            d_u[sample, :, part], d_projection[block, sample], *(share[sample, block] for share in shares),
        )  # fmt: skip

    _run(work, p.units())
    d_weight, d_bias, d_a, d_skip = (_join(share.sum(0), p.channels) for share in shares)
    d_a *= _join(p.a, p.channels)  # A = -exp(A_log), so dA/dA_log = A
    arrays = d_u, d_projection.sum(0), d_weight.swapaxes(1, 2), d_bias, d_a.swapaxes(1, 2), d_skip
    return [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]


def _join(blocks: np.ndarray[Any, Any], channels: int) -> np.ndarray[Any, Any]:
    """Inverse of `_blocks`."""
    joined = np.moveaxis(blocks, 0, -2)
    return joined.reshape(*joined.shape[:-2], -1)[..., :channels].copy()


@torch.library.custom_op("refnet::selective_scan", mutates_args=(), device_types="cpu")
def _operator(
    u: Tensor, projection: Tensor, dt_weight: Tensor, dt_bias: Tensor, a_log: Tensor, d_skip: Tensor, keep: bool
) -> tuple[Tensor, Tensor]:
    y, kept = _scan_forward(_Problem(u, projection, dt_weight, dt_bias, a_log, d_skip), keep)
    return torch.from_numpy(y).view(u.shape).to(u.dtype), torch.from_numpy(kept)


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
    """Four-direction selective scan on the CPU; see `refnet_cli.scan.selective_scan`."""
    arguments = (u, projection, dt_weight, dt_bias, a_log, d_skip)
    keep = torch.is_grad_enabled() and any(x.requires_grad for x in arguments)
    y: Tensor = _operator(*arguments, keep)[0]
    return y
