"""Numba kernels of a VSS block before and after its selective scan; `refnet_cli.model.vss_cpu` calls them.

Layers 16 to 64 channels wide are bound by memory and by calls, not by arithmetic. These kernels take some pixels at a
time through all layers that stand between two scans, so that intermediate results stay in the processor's first cache:
layer norm, projection, depthwise convolution, SiLU and the scan's projection before it; layer norm, projection, layer
norm and MLP with both residuals after it. Each pixel is computed by the same operations in the same order, wherever it
stands in an image or a batch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from refnet_cli.model.vss_cpu import LANES
from refnet_cli.scan.cpu_kernels import FAST, compile_kernel, exp, f32, prefer_wide_vectors

TOGETHER = 4
"""Pixels computed at once: their sums and a row of weights fit the 16 registers of AVX2."""
CHUNK = 16
"""Pixels taken through all layers after the scan, and through layer norm and projection before it."""
ERF_END = 3.8325069**2
"""Square from which on float32 has no number nearer to the error function than 1."""


def _product(pixels: int) -> Any:
    """Return a function that adds products of some pixels and a column block of a matrix to an array.

    Written in LLVM's language, because its vectoriser does not keep the sums in registers: they would be loaded and
    stored for every product.
    """

    @intrinsic
    def add(typing_context: Any, x: Any, pixel: Any, weight: Any, column: Any, out: Any) -> Any:
        """Compute out[pixel + p, column + c] += x[pixel + p] @ weight[:, column + c], p < pixels, c < LANES."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            _generate_product(context, builder, signature.args, arguments, pixels)
            return context.get_dummy_value()

        return types.none(x, types.int64, weight, types.int64, out), generate

    return add


def _generate_product(context: Any, builder: Any, kinds: Any, arguments: Any, pixels: int) -> None:
    unpack: Any = cgutils.unpack_tuple
    integer, vector = ir.IntType(64), ir.VectorType(ir.FloatType(), LANES)
    x, weight, out = (context.make_array(kinds[i])(context, builder, arguments[i]) for i in (0, 2, 4))
    _, pixel, _, column, _ = arguments

    def rows(array: Any, start: Any, count: int) -> list[Any]:
        stride = unpack(builder, array.shape)[1]
        numbers = [builder.add(start, integer(p)) for p in range(count)]
        return [builder.gep(array.data, [builder.mul(number, stride)]) for number in numbers]

    def vector_at(row: Any, offset: Any) -> Any:
        return builder.bitcast(builder.gep(row, [offset]), vector.as_pointer())

    targets = [vector_at(row, column) for row in rows(out, pixel, pixels)]
    factors = rows(x, pixel, pixels)
    count, columns = unpack(builder, weight.shape)
    begun = [builder.load(target, align=4) for target in targets]
    before, body, after = builder.block, builder.append_basic_block("product"), builder.append_basic_block("sum")
    builder.branch(body)
    builder.position_at_end(body)
    k = builder.phi(integer)
    sums = [builder.phi(vector) for _ in targets]
    row = builder.load(vector_at(weight.data, builder.add(builder.mul(k, columns), column)), align=4)
    empty, first = ir.Constant(vector, ir.Undefined), ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    added = []
    for factor, total in zip(factors, sums, strict=True):
        number = builder.insert_element(empty, builder.load(builder.gep(factor, [k])), ir.IntType(32)(0))
        product = builder.fmul(builder.shuffle_vector(number, empty, first), row, flags=["contract"])
        added.append(builder.fadd(product, total, flags=["contract"]))
    following = builder.add(k, integer(1))
    for phi, start, new in zip([k, *sums], [integer(0), *begun], [following, *added], strict=True):
        phi.add_incoming(start, before)
        phi.add_incoming(new, body)
    builder.cbranch(builder.icmp_signed("<", following, count), body, after)
    builder.position_at_end(after)
    for target, total in zip(targets, added, strict=True):
        builder.store(total, target, align=4)


_add_product, _add_product_of_one = _product(TOGETHER), _product(1)


@compile_kernel
def multiply(x, weight, out):  # type: ignore[no-untyped-def]
    """Add x (P, J) @ weight (J, K) to out (P, K), K a multiple of ``LANES``; all C-contiguous."""
    prefer_wide_vectors()  # type: ignore[call-arg]
    pixels = x.shape[0]
    together = pixels // TOGETHER * TOGETHER
    for column in range(0, weight.shape[1], LANES):
        for p in range(0, together, TOGETHER):
            _add_product(x, p, weight, column, out)
        for p in range(together, pixels):
            _add_product_of_one(x, p, weight, column, out)


@compile_kernel
def normalise(x, weight, bias, epsilon, out):  # type: ignore[no-untyped-def]
    """Write the layer norm of each row of x (P, C) to out."""
    prefer_wide_vectors()  # type: ignore[call-arg]
    channels = len(weight)
    share = f32(1) / f32(channels)
    for p in range(x.shape[0]):
        row, result = x[p], out[p]
        total = f32(0)
        for c in range(channels):
            total += row[c]
        mean = total * share
        squares = f32(0)
        for c in range(channels):
            squares += (row[c] - mean) * (row[c] - mean)
        factor = f32(1) / np.sqrt(squares * share + epsilon)
        for c in range(channels):
            result[c] = (row[c] - mean) * factor * weight[c] + bias[c]


@njit(fastmath=FAST, inline="always")
def _erf(x):  # type: ignore[no-untyped-def]
    """Return the error function to about 2e-7, and exactly 1 from ``ERF_END`` on.

    The quotient of polynomials is that of Eigen (MPL 2.0), which XLA uses too.
    """
    square = x * x
    square = f32(16) if square > f32(16) else square
    p = f32(-2.72614225801306e-10)
    p = p * square + f32(2.77068142495902e-08)
    p = p * square - f32(2.10102402082508e-06)
    p = p * square - f32(5.69250639462346e-05)
    p = p * square - f32(7.34990630326855e-04)
    p = p * square - f32(2.95459980854025e-03)
    p = p * square - f32(1.60960333262415e-02)
    q = f32(-1.45660718464996e-05)
    q = q * square - f32(2.13374055278905e-04)
    q = q * square - f32(1.68282697438203e-03)
    q = q * square - f32(7.37332916720468e-03)
    q = q * square - f32(1.42647390514189e-02)
    inside = x * p / q
    end = f32(1) if x > f32(0) else f32(-1)
    return end if square >= f32(ERF_END) else inside


@compile_kernel
def apply_gelu(x, bias):  # type: ignore[no-untyped-def]
    """Replace each row of x (P, C) by the GELU of its sum with the bias."""
    prefer_wide_vectors()  # type: ignore[call-arg]
    for p in range(x.shape[0]):
        row = x[p]
        for c in range(len(bias)):
            biased = row[c] + bias[c]
            row[c] = f32(0.5) * biased * (f32(1) + _erf(biased * f32(0.7071067811865476)))


@compile_kernel
def apply_silu(x):  # type: ignore[no-untyped-def]
    """Replace the numbers of a vector by x / (1 + exp(-x))."""
    prefer_wide_vectors()  # type: ignore[call-arg]
    for i in range(len(x)):
        x[i] = x[i] / (f32(1) + exp(-x[i]))


@compile_kernel
def filter_row(above, here, below, weight, out):  # type: ignore[no-untyped-def]
    """Convolve a row of pixels depthwise: three rows (W + 2, D), weight (9, D) -> out (W, D)."""
    prefer_wide_vectors()  # type: ignore[call-arg]
    channels = out.shape[1]
    flat = weight.reshape(-1)
    for w in range(out.shape[0]):
        a, b, c = above[w : w + 3].reshape(-1), here[w : w + 3].reshape(-1), below[w : w + 3].reshape(-1)
        pixel = out[w]
        for d in range(channels):
            left = a[d] * flat[d] + b[d] * flat[d + 3 * channels] + c[d] * flat[d + 6 * channels]
            d1 = d + channels
            middle = a[d1] * flat[d1] + b[d1] * flat[d1 + 3 * channels] + c[d1] * flat[d1 + 6 * channels]
            d2 = d1 + channels
            right = a[d2] * flat[d2] + b[d2] * flat[d2 + 3 * channels] + c[d2] * flat[d2 + 6 * channels]
            pixel[d] = left + middle + right


@compile_kernel
def copy_numbers(numbers, out):  # type: ignore[no-untyped-def]
    """Write a vector to another; numpy's assignment of slices is slower for few numbers."""
    for i in range(len(numbers)):
        out[i] = numbers[i]


@compile_kernel
def add_numbers(numbers, out):  # type: ignore[no-untyped-def]
    """Add a vector to another."""
    for i in range(len(numbers)):
        out[i] += numbers[i]


@compile_kernel
def before_scan(  # type: ignore[no-untyped-def]
    x, height, width, first, last, norm_weight, norm_bias, epsilon, in_weight, filters, x_weight, u, projection
):
    """Compute the scan's inputs for the rows ``first`` to ``last`` - 1 of a sample.

    Reads x (L, C); in_weight (C, D), filters (9, D), x_weight (D, K'). Writes u (L, D) and projection (L, K), K <= K'.
    """
    inner = in_weight.shape[1]
    rows = np.zeros((3, width + 2, inner), f32)  # projected rows, with the convolution's zeros left and right
    normed = np.empty((CHUNK, x.shape[1]), f32)
    projected = np.empty((width, x_weight.shape[1]), f32)
    for row in range(first - 1, last + 1):
        current = rows[row % 3]
        current[1 : width + 1] = f32(0)
        if 0 <= row < height:
            for w in range(0, width, CHUNK):
                pixels = min(CHUNK, width - w)
                place = row * width + w
                normalise(x[place : place + pixels], norm_weight, norm_bias, epsilon, normed)
                multiply(normed[:pixels], in_weight, current[w + 1 : w + 1 + pixels])
        if row > first:
            place = (row - 1) * width
            out = u[place : place + width]
            filter_row(rows[(row - 2) % 3], rows[(row - 1) % 3], current, filters, out)
            apply_silu(out.reshape(-1))
            projected[:] = f32(0)
            multiply(out, x_weight, projected)
            projection[place : place + width] = projected[:, : projection.shape[1]]


@compile_kernel
def after_scan(  # type: ignore[no-untyped-def]
    x, y, first, last, epsilon, norm_weight, norm_bias, out_weight,
    mlp_epsilon, mlp_norm_weight, mlp_norm_bias, weight1, bias1, weight2, bias2, out,
):  # fmt: skip
    """Compute the block's output for the pixels ``first`` to ``last`` - 1, from its input x and the scan's output y."""
    wide = np.empty((CHUNK, y.shape[1]), f32)
    narrow = np.empty((CHUNK, x.shape[1]), f32)
    hidden = np.empty((CHUNK, len(bias1)), f32)
    for place in range(first, last, CHUNK):
        end = min(place + CHUNK, last)
        pixels = end - place
        result = out[place:end]
        normalise(y[place:end], norm_weight, norm_bias, epsilon, wide)
        copy_numbers(x[place:end].reshape(-1), result.reshape(-1))
        multiply(wide[:pixels], out_weight, result)
        normalise(result, mlp_norm_weight, mlp_norm_bias, mlp_epsilon, narrow)
        hidden[:] = f32(0)
        multiply(narrow[:pixels], weight1, hidden[:pixels])
        apply_gelu(hidden, bias1)
        for p in range(pixels):
            add_numbers(bias2, result[p])
        multiply(hidden[:pixels], weight2, result)
