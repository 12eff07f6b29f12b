"""Numba kernels of the selective scan for CPUs; `refnet_cli.scan.cpu` calls them.

Each unit of work is one sample and one block of channels. For each direction, the kernel steps through the rows or
columns of the (L, D) array, computes dt's projection on the fly and adds to one output. So neither four copies of the
input nor a (4, L, D) array of dt exist. It processes ``CHUNK`` steps at a time in a sequence of small functions. Each
is a loop over a block's channels that LLVM can vectorise: of constant length, over few arrays, without possibly
negative indices or failing divisions. The backward pass starts from the states that the forward pass stored before
every chunk, and recomputes the states in between.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from refnet_cli.scan.cpu import BLOCK, CHUNK

f32 = np.float32
i32 = np.int32
# Without "nnan" and "ninf", so that NaN propagates.
FAST = {"contract", "reassoc", "nsz", "arcp"}


@intrinsic
def _bits_to_float(typing_context: Any, bits: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


@intrinsic
def prefer_wide_vectors(typing_context: Any) -> Any:
    """Let LLVM use 512-bit registers in the calling function if they exist; by default it uses 256 bits."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        # llvmlite's own method supports only attributes without a value.
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')
        return context.get_dummy_value()

    return types.none(), generate


@njit(fastmath=FAST, inline="always")
def exp(x):  # type: ignore[no-untyped-def]
    """Return exp(x) to about one unit in the last place (Cephes' polynomial); clipped below at exp(-87)."""
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
    """Return log(1 + e) for 0 <= e <= 1, with full relative precision near 0 (Cephes' polynomial)."""
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
    """Return the pixel that a direction visits at a step."""
    if direction >= 2:
        step = height * width - 1 - step
    if direction % 2 == 0:
        return step
    return (step % height) * width + step // height


@njit(fastmath=FAST, inline="always")
def _softplus(z, e):  # type: ignore[no-untyped-def]
    """Return log(1 + exp(z)), given e = exp(-|z|)."""
    return (z if z > f32(0) else f32(0)) + _log1p(e)


def compile_kernel(function: Any) -> Any:
    """Compile a function for this processor, cached on disk if a writable folder exists."""
    # numpy's error model: checks for division by zero would prevent vectorisation.
    options: dict[str, Any] = {"fastmath": FAST, "nogil": True, "error_model": "numpy"}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:
        return njit(**options)(function)


@compile_kernel
def _visit(direction, first, steps, height, width, projection, places, low):  # type: ignore[no-untyped-def]
    """Store the pixels of some steps, and the projection's values there."""
    for t in range(steps):
        place = _place(direction, first + t, height, width)
        places[t] = place
        for j in range(low.shape[1]):
            low[t, j] = projection[place, direction, j]


@compile_kernel
def _gather(image, places, steps, start, count, x):  # type: ignore[no-untyped-def]
    for t in range(steps):
        # A slice: an index that might be negative, and so count from the end, would prevent vectorisation.
        pixel = image[places[t], start : start + count]
        for d in range(count):
            x[t, d] = pixel[d]


@compile_kernel
def _scatter(x, places, steps, start, count, image, direction):  # type: ignore[no-untyped-def]
    """Add to the pixels; direction 0 overwrites them."""
    for t in range(steps):
        pixel = image[places[t], start : start + count]
        if direction == 0:
            for d in range(count):
                pixel[d] = x[t, d]
        else:
            for d in range(count):
                pixel[d] += x[t, d]


@njit(inline="always")
def _four(factors, t, j):  # type: ignore[no-untyped-def]
    row = factors[t, j : j + 4]
    return row[0], row[1], row[2], row[3]


@compile_kernel
def _add_products(factors, rows, count, out):  # type: ignore[no-untyped-def]
    """Add factors (T, count) @ rows (count, BLOCK) to out (T, BLOCK), in 4 x 4 blocks to save memory accesses."""
    prefer_wide_vectors()  # type: ignore[call-arg]
    flat_rows, flat_out = rows.reshape(-1), out.reshape(-1)
    squares, squares_across = out.shape[0] // 4 * 4, count // 4 * 4
    for t in range(0, squares, 4):
        # One array with constant strides: LLVM checks each pair of arrays for overlap before it vectorises.
        total = flat_out[t * BLOCK : (t + 4) * BLOCK]
        for j in range(0, squares_across, 4):
            e0, e1, e2, e3 = _four(factors, t, j)
            f0, f1, f2, f3 = _four(factors, t + 1, j)
            g0, g1, g2, g3 = _four(factors, t + 2, j)
            h0, h1, h2, h3 = _four(factors, t + 3, j)
            row = flat_rows[j * BLOCK : (j + 4) * BLOCK]
            for d in range(BLOCK):
                r0, r1, r2, r3 = row[d], row[d + BLOCK], row[d + 2 * BLOCK], row[d + 3 * BLOCK]
                total[d] += (e0 * r0 + e1 * r1) + (e2 * r2 + e3 * r3)
                total[d + BLOCK] += (f0 * r0 + f1 * r1) + (f2 * r2 + f3 * r3)
                total[d + 2 * BLOCK] += (g0 * r0 + g1 * r1) + (g2 * r2 + g3 * r3)
                total[d + 3 * BLOCK] += (h0 * r0 + h1 * r1) + (h2 * r2 + h3 * r3)
        for j in range(squares_across, count):
            e, f, g, h = factors[t, j], factors[t + 1, j], factors[t + 2, j], factors[t + 3, j]
            row = flat_rows[j * BLOCK : (j + 1) * BLOCK]
            for d in range(BLOCK):
                total[d] += e * row[d]
                total[d + BLOCK] += f * row[d]
                total[d + 2 * BLOCK] += g * row[d]
                total[d + 3 * BLOCK] += h * row[d]
    for t in range(squares, out.shape[0]):
        for j in range(count):
            factor, row = factors[t, j], rows[j]
            for d in range(BLOCK):
                out[t, d] += factor * row[d]


@compile_kernel
def _project(low, weight, rank, z):  # type: ignore[no-untyped-def]
    """Compute z = weight low for a block of channels."""
    z[:] = f32(0)
    _add_products(low, weight, rank, z)


@compile_kernel
def _apply_softplus(z, bias):  # type: ignore[no-untyped-def]
    """Replace z by softplus(z + bias)."""
    prefer_wide_vectors()  # type: ignore[call-arg]
    for t in range(z.shape[0]):
        for d in range(BLOCK):
            biased = z[t, d] + bias[d]
            z[t, d] = _softplus(biased, exp(-abs(biased)))


@compile_kernel
def _apply_skip(x, dt, skip, out):  # type: ignore[no-untyped-def]
    """Initialise the output with the skip, and multiply x by the time steps."""
    for t in range(x.shape[0]):
        for d in range(BLOCK):
            out[t, d] = skip[d] * x[t, d]
            x[t, d] *= dt[t, d]


@compile_kernel
def _decays(dt, a, decay):  # type: ignore[no-untyped-def]
    prefer_wide_vectors()  # type: ignore[call-arg]
    for t in range(dt.shape[0]):
        for d in range(BLOCK):
            decay[t, d] = exp(dt[t, d] * a[d])


@compile_kernel
def _recur(decay, x, low, b_column, c_column, steps, h, out):  # type: ignore[no-untyped-def]
    for t in range(steps):
        b, c = low[t, b_column], low[t, c_column]
        for d in range(BLOCK):
            state = decay[t, d] * h[d] + b * x[t, d]
            h[d] = state
            out[t, d] += c * state


@compile_kernel
def _scan_one_state(  # type: ignore[no-untyped-def]
    u, dt, places, steps, start, low, b_column, c_column, constants, y, direction
):
    """Scan some steps of a whole block with one state, and add the result to y; direction 0 overwrites.

    Does in one loop what `_gather`, `_apply_skip`, `_decays`, `_recur` and `_scatter` do, with the same operations in
    the same order. ``constants`` (3, BLOCK) has a, the skip, and the state h, which is replaced: in one array, because
    LLVM checks each pair of arrays for overlap.
    """
    prefer_wide_vectors()  # type: ignore[call-arg]
    flat = constants.reshape(-1)
    for t in range(steps):
        b, c, delta = low[t, b_column], low[t, c_column], dt[t]
        x, pixel = u[places[t], start : start + BLOCK], y[places[t], start : start + BLOCK]
        if direction == 0:
            for d in range(BLOCK):
                state = exp(delta[d] * flat[d]) * flat[d + 2 * BLOCK] + b * (x[d] * delta[d])
                flat[d + 2 * BLOCK] = state
                pixel[d] = flat[d + BLOCK] * x[d] + c * state
        else:
            for d in range(BLOCK):
                state = exp(delta[d] * flat[d]) * flat[d + 2 * BLOCK] + b * (x[d] * delta[d])
                flat[d + 2 * BLOCK] = state
                pixel[d] += flat[d + BLOCK] * x[d] + c * state


@compile_kernel
def forward(u, projection, weight, bias, a, skip, height, width, start, y, kept):  # type: ignore[no-untyped-def]
    """Scan one sample and block: u (L, D) from channel ``start``, projection (L, 4, R + 2S); writes y (L, D)."""
    length = u.shape[0]
    count = min(BLOCK, u.shape[1] - start)
    rank, states = weight.shape[1], a.shape[1]
    places = np.empty(CHUNK, np.int64)
    low = np.zeros((CHUNK, projection.shape[2]), f32)
    x = np.zeros((CHUNK, BLOCK), f32)
    dt = np.empty((CHUNK, BLOCK), f32)
    decay = np.empty((CHUNK, BLOCK), f32)
    out = np.empty((CHUNK, BLOCK), f32)
    constants = np.empty((2 + states, BLOCK), f32)
    h = constants[2:]
    for k in range(4):
        constants[0], constants[1] = a[k, 0], skip[k]
        h[:] = f32(0)
        for first in range(0, length, CHUNK):
            steps = min(CHUNK, length - first)
            if kept.shape[1] > 0:
                kept[k, first // CHUNK] = h
            _visit(k, first, steps, height, width, projection, places, low)
            _project(low, weight[k], rank, dt)
            _apply_softplus(dt, bias[k])
            if states == 1 and count == BLOCK:
                _scan_one_state(u, dt, places, steps, start, low, rank, rank + 1, constants, y, k)
                continue
            _gather(u, places, steps, start, count, x)
            _apply_skip(x, dt, skip[k], out)
            for s in range(states):
                _decays(dt, a[k, s], decay)
                _recur(decay, x, low, rank + s, rank + states + s, steps, h[s], out)
            _scatter(out, places, steps, start, count, y, k)


@compile_kernel
def _apply_softplus_with_slope(z, bias, slope):  # type: ignore[no-untyped-def]
    prefer_wide_vectors()  # type: ignore[call-arg]
    for t in range(z.shape[0]):
        for d in range(BLOCK):
            biased = z[t, d] + bias[d]
            e = exp(-abs(biased))
            slope[t, d] = (f32(1) if biased > f32(0) else e) / (f32(1) + e)
            z[t, d] = _softplus(biased, e)


@compile_kernel
def _recur_and_keep(decay, dt_x, low, b_column, steps, h):  # type: ignore[no-untyped-def]
    """Compute the states h[1:] from h[0]."""
    prefer_wide_vectors()  # type: ignore[call-arg]
    flat = h.reshape(-1)
    for t in range(steps):
        b, before_and_after = low[t, b_column], flat[t * BLOCK : (t + 2) * BLOCK]
        for d in range(BLOCK):
            before_and_after[d + BLOCK] = decay[t, d] * before_and_after[d] + b * dt_x[t, d]


@compile_kernel
def _recur_back(decay, grad, low, c_column, steps, carried, d_h):  # type: ignore[no-untyped-def]
    """Compute the gradients of the states, from the last to the first; ``carried`` is the gradient from later steps."""
    prefer_wide_vectors()  # type: ignore[call-arg]
    flat = d_h.reshape(-1)
    last = steps - 1
    for d in range(BLOCK):
        d_h[last, d] = carried[d] + low[last, c_column] * grad[last, d]
    for back in range(1, steps):
        t = last - back
        c, this_and_next = low[t, c_column], flat[t * BLOCK : (t + 2) * BLOCK]
        for d in range(BLOCK):
            this_and_next[d] = this_and_next[d + BLOCK] * decay[t + 1, d] + c * grad[t, d]
    for d in range(BLOCK):
        carried[d] = d_h[0, d] * decay[0, d]


@compile_kernel
def _differentiate_skip(grad, x, dt, skip, d_x, d_skip, dt_x):  # type: ignore[no-untyped-def]
    prefer_wide_vectors()  # type: ignore[call-arg]
    for t in range(grad.shape[0]):
        for d in range(BLOCK):
            dt_x[t, d] = dt[t, d] * x[t, d]
        for d in range(BLOCK):
            d_x[t, d] = grad[t, d] * skip[d]
            d_skip[d] += grad[t, d] * x[t, d]


@compile_kernel
def _differentiate_step(  # type: ignore[no-untyped-def]
    decay, grad, d_h, h, dt, x, dt_x, a, low, b_column, c_column, steps, d_dt, d_x, d_low, d_a
):
    """Propagate gradients through b dt x into the state, exp(dt A) and the output c h."""
    prefer_wide_vectors()  # type: ignore[call-arg]
    for t in range(steps):
        b = low[t, b_column]
        d_b, d_c = f32(0), f32(0)
        for d in range(BLOCK):
            d_c += grad[t, d] * h[t + 1, d]
            d_b += d_h[t, d] * dt_x[t, d]
        for d in range(BLOCK):
            into, through = b * d_h[t, d], d_h[t, d] * decay[t, d] * h[t, d]
            d_x[t, d] += into * dt[t, d]
            d_dt[t, d] += into * x[t, d] + through * a[d]
            d_a[d] += through * dt[t, d]
        d_low[t, b_column] = d_b
        d_low[t, c_column] = d_c


@compile_kernel
def _differentiate_softplus(slope, d_dt, d_bias):  # type: ignore[no-untyped-def]
    prefer_wide_vectors()  # type: ignore[call-arg]
    for t in range(slope.shape[0]):
        for d in range(BLOCK):
            d_dt[t, d] *= slope[t, d]
            d_bias[d] += d_dt[t, d]


@compile_kernel
def _dot_products(left, rows, count, steps, out):  # type: ignore[no-untyped-def]
    """Compute out (T, count) = left (T, BLOCK) @ rows (count, BLOCK).T, four columns at a time to save loads."""
    prefer_wide_vectors()  # type: ignore[call-arg]
    flat = rows.reshape(-1)
    fours = count // 4 * 4
    for t in range(steps):
        for j in range(0, fours, 4):
            row = flat[j * BLOCK : (j + 4) * BLOCK]
            s0, s1, s2, s3 = f32(0), f32(0), f32(0), f32(0)
            for d in range(BLOCK):
                s0 += left[t, d] * row[d]
                s1 += left[t, d] * row[d + BLOCK]
                s2 += left[t, d] * row[d + 2 * BLOCK]
                s3 += left[t, d] * row[d + 3 * BLOCK]
            out[t, j], out[t, j + 1], out[t, j + 2], out[t, j + 3] = s0, s1, s2, s3
        for j in range(fours, count):
            total = f32(0)
            for d in range(BLOCK):
                total += left[t, d] * rows[j, d]
            out[t, j] = total


@compile_kernel
def backward(  # type: ignore[no-untyped-def]
    u, projection, weight, bias, a, skip, height, width, start, kept, grad,
    d_u, d_projection, d_weight, d_bias, d_a, d_skip,
):  # fmt: skip
    """Compute the gradients of one sample and block; writes d_u and this block's d_projection, adds to the others."""
    length = u.shape[0]
    count = min(BLOCK, u.shape[1] - start)
    rank, states = weight.shape[1], a.shape[1]
    places = np.empty(CHUNK, np.int64)
    low = np.zeros((CHUNK, projection.shape[2]), f32)
    d_low = np.empty((CHUNK, projection.shape[2]), f32)
    x, g = np.zeros((CHUNK, BLOCK), f32), np.zeros((CHUNK, BLOCK), f32)
    work = np.empty((7, CHUNK, BLOCK), f32)
    dt, slope, decay, dt_x, d_dt, d_x, d_h = work[0], work[1], work[2], work[3], work[4], work[5], work[6]
    h = np.empty((CHUNK + 1, BLOCK), f32)
    carried = np.empty((states, BLOCK), f32)
    for k in range(4):
        carried[:] = f32(0)
        for chunk in range(kept.shape[1] - 1, -1, -1):
            first = chunk * CHUNK
            steps = min(CHUNK, length - first)
            _visit(k, first, steps, height, width, projection, places, low)
            # Steps beyond the last must not contribute.
            g[steps:] = f32(0)
            _gather(u, places, steps, start, count, x)
            _gather(grad, places, steps, start, count, g)
            _project(low, weight[k], rank, dt)
            _apply_softplus_with_slope(dt, bias[k], slope)
            _differentiate_skip(g, x, dt, skip[k], d_x, d_skip[k], dt_x)
            d_dt[:] = f32(0)
            for s in range(states):
                b_column, c_column = rank + s, rank + states + s
                _decays(dt, a[k, s], decay)
                h[0] = kept[k, chunk, s]
                _recur_and_keep(decay, dt_x, low, b_column, steps, h)
                _recur_back(decay, g, low, c_column, steps, carried[s], d_h)
                _differentiate_step(
                    decay, g, d_h, h, dt, x, dt_x, a[k, s], low, b_column, c_column, steps, d_dt, d_x, d_low, d_a[k, s]
                )
            _differentiate_softplus(slope, d_dt, d_bias[k])
            _add_products(low.T.copy(), d_dt, steps, d_weight[k])
            _dot_products(d_dt, weight[k], rank, steps, d_low)
            for t in range(steps):
                for j in range(low.shape[1]):
                    d_projection[places[t], k, j] = d_low[t, j]
            _scatter(d_x, places, steps, start, count, d_u, k)


def kernel_folder() -> Path | None:
    """Return the cache folder of the compiled kernels, or None if no folder is writable."""
    folder = forward.stats.cache_path
    return Path(folder) if folder else None
