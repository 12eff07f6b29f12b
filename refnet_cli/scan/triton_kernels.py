"""Triton kernels of `refnet_cli.scan.triton`, which explains how they work together; importing this needs Triton.

A path traverses the image: 0 row by row, 1 column by column. It is split into chunks. Direction k follows path k % 2,
and directions 2 and 3 run against it, so that a direction and its reverse share chunks. One program handles one chunk,
one block of channels and one sample.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _place(path: tl.constexpr, position, height, width):  # type: ignore[no-untyped-def]
    """Return the pixel at a position of a path."""
    if path == 0:
        return position
    else:
        return (position % height) * width + position // height


@triton.jit
def _softplus(z):  # type: ignore[no-untyped-def]
    """Return log(1 + exp(z)), with full relative precision far below 0 (Cephes' log1p), and its derivative."""
    e = tl.exp(-tl.abs(z))
    large = e > 0.41421356
    x = tl.where(large, 0.5 * e - 0.5, e)
    p = 7.0376836292e-2
    p = p * x - 1.1514610310e-1
    p = p * x + 1.1676998740e-1
    p = p * x - 1.2420140846e-1
    p = p * x + 1.4249322787e-1
    p = p * x - 1.6668057665e-1
    p = p * x + 2.0000714765e-1
    p = p * x - 2.4999993993e-1
    p = p * x + 3.3333331174e-1
    log1p = x + (p * x * x * x - 0.5 * x * x)
    log1p = tl.where(large, log1p + 0.6931471805599453, log1p)
    return tl.where(z > 0, z, 0.0) + log1p, tl.where(z > 0, 1.0, e) / (1.0 + e)


@triton.jit
def _load_time(weight, bias, k, d, r, channels, rank):  # type: ignore[no-untyped-def]
    """Load a direction's weights (ranks, block) and bias (block) of dt."""
    inside = d < channels
    w = tl.load(
        weight + (k * channels + d)[None, :] * rank + r[:, None], mask=inside[None, :] & (r < rank)[:, None], other=0.0
    ).to(tl.float32)
    return w, tl.load(bias + k * channels + d, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _load_states(a, k, d, s, channels, states):  # type: ignore[no-untyped-def]
    """Load a direction's A, shape (states, block)."""
    mask = (d < channels)[None, :] & (s < states)[:, None]
    return tl.load(a + (k * channels + d)[None, :] * states + s[:, None], mask=mask, other=0.0)


@triton.jit
def ends(  # type: ignore[no-untyped-def]
    source, projection, weight, bias, a, end, time,
    height, width, channels, rank, states, chunks,
    ADJOINT: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr, RANKS: tl.constexpr, STATES: tl.constexpr,
):  # fmt: skip
    """Scan every chunk from zero; store its last state in ``end`` and the sum of its dt in ``time``.

    With ADJOINT the source is y's gradient, and the scan runs against the direction, for the adjoints of the states.
    """
    chunk = tl.program_id(0)
    k = tl.program_id(1) % 4
    sample = (tl.program_id(1) // 4).to(tl.int64)
    d = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    r = tl.arange(0, RANKS)
    s = tl.arange(0, STATES)
    inside = d < channels
    length = height * width
    first = chunk * CHUNK
    steps = tl.minimum(CHUNK, length - first)
    w, offset = _load_time(weight, bias, k, d, r, channels, rank)
    decay_rate = _load_states(a, k, d, s, channels, states)
    h = tl.zeros((STATES, BLOCK), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    backwards = (k >= 2) != ADJOINT
    for step in range(steps):
        position = first + tl.where(backwards, steps - 1 - step, step)
        place = sample * length + tl.where(k % 2 == 0, position, (position % height) * width + position // height)
        values = projection + (place * 4 + k) * (rank + 2 * states)
        low = tl.load(values + r, mask=r < rank, other=0.0).to(tl.float32)
        dt, _ = _softplus(tl.sum(low[:, None] * w, axis=0) + offset)
        x = tl.load(source + place * channels + d, mask=inside, other=0.0).to(tl.float32)
        decay = tl.exp(dt[None, :] * decay_rate)
        total += dt
        if ADJOINT:
            c = tl.load(values + rank + states + s, mask=s < states, other=0.0).to(tl.float32)
            h = decay * (h + c[:, None] * x[None, :])
        else:
            b = tl.load(values + rank + s, mask=s < states, other=0.0).to(tl.float32)
            h = decay * h + b[:, None] * (dt * x)[None, :]
    row = (sample * 4 + k) * chunks + chunk
    mask = inside[None, :] & (s < states)[:, None]
    tl.store(end + (row * states + s[:, None]) * channels + d[None, :], h, mask=mask)
    tl.store(time + row * channels + d, total, mask=inside)


@triton.jit
def carry(  # type: ignore[no-untyped-def]
    end, time, a, channels, states, chunks,
    ADJOINT: tl.constexpr, BLOCK: tl.constexpr, STATES: tl.constexpr,
):  # fmt: skip
    """Scan over the chunks' ends, in place: each becomes the initial state of its chunk."""
    k = tl.program_id(0) % 4
    sample = (tl.program_id(0) // 4).to(tl.int64)
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    s = tl.arange(0, STATES)
    mask = (d < channels)[None, :] & (s < states)[:, None]
    decay_rate = _load_states(a, k, d, s, channels, states)
    h = tl.zeros((STATES, BLOCK), tl.float32)
    backwards = (k >= 2) != ADJOINT
    for step in range(chunks):
        row = (sample * 4 + k) * chunks + tl.where(backwards, chunks - 1 - step, step)
        pointers = end + (row * states + s[:, None]) * channels + d[None, :]
        local = tl.load(pointers, mask=mask, other=0.0)
        total = tl.load(time + row * channels + d, mask=d < channels, other=0.0)
        tl.store(pointers, h, mask=mask)
        h = tl.exp(total[None, :] * decay_rate) * h + local


@triton.jit
def apply(  # type: ignore[no-untyped-def]
    u, projection, weight, bias, a, skip, start, y,
    height, width, channels, rank, states, chunks,
    PATH: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr, RANKS: tl.constexpr, STATES: tl.constexpr,
):  # fmt: skip
    """Scan every chunk from its initial state, along the path and against it, and add both to y."""
    chunk = tl.program_id(0)
    sample = tl.program_id(1).to(tl.int64)
    d = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    r = tl.arange(0, RANKS)
    s = tl.arange(0, STATES)
    inside = d < channels
    state_mask = inside[None, :] & (s < states)[:, None]
    length = height * width
    first = chunk * CHUNK
    steps = tl.minimum(CHUNK, length - first)
    for against in tl.static_range(2):
        k = PATH + 2 * against
        w, offset = _load_time(weight, bias, k, d, r, channels, rank)
        decay_rate = _load_states(a, k, d, s, channels, states)
        through = tl.load(skip + k * channels + d, mask=inside, other=0.0).to(tl.float32)
        row = (sample * 4 + k) * chunks + chunk
        h = tl.load(start + (row * states + s[:, None]) * channels + d[None, :], mask=state_mask, other=0.0)
        for step in range(steps):
            position = first + (steps - 1 - step if against else step)
            place = sample * length + _place(PATH, position, height, width)
            values = projection + (place * 4 + k) * (rank + 2 * states)
            low = tl.load(values + r, mask=r < rank, other=0.0).to(tl.float32)
            b = tl.load(values + rank + s, mask=s < states, other=0.0).to(tl.float32)
            c = tl.load(values + rank + states + s, mask=s < states, other=0.0).to(tl.float32)
            x = tl.load(u + place * channels + d, mask=inside, other=0.0).to(tl.float32)
            dt, _ = _softplus(tl.sum(low[:, None] * w, axis=0) + offset)
            h = tl.exp(dt[None, :] * decay_rate) * h + b[:, None] * (dt * x)[None, :]
            out = tl.load(y + place * channels + d, mask=inside, other=0.0)
            out += tl.sum(c[:, None] * h, axis=0) + through * x
            tl.store(y + place * channels + d, out, mask=inside)
        # The reverse direction reads values that other threads of this program have just written.
        tl.debug_barrier()


@triton.jit
def gradients(  # type: ignore[no-untyped-def]
    u, projection, weight, bias, a, skip, start, adjoint, grad, scratch,
    d_u, d_projection, d_weight, d_bias, d_a, d_skip,
    height, width, channels, rank, states, chunks, batch,
    PATH: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr, RANKS: tl.constexpr, STATES: tl.constexpr,
):  # fmt: skip
    """Compute the gradients of every chunk, for the direction along the path and the one against it.

    A forward pass stores the state before each step in ``scratch``; the backward pass reads it. Adds to d_u. The other
    gradients are partial sums: d_projection per block, the parameters' per sample and chunk.
    """
    chunk = tl.program_id(0)
    sample = tl.program_id(1).to(tl.int64)
    block = tl.program_id(2)
    d = block * BLOCK + tl.arange(0, BLOCK)
    r = tl.arange(0, RANKS)
    s = tl.arange(0, STATES)
    inside = d < channels
    state_mask = inside[None, :] & (s < states)[:, None]
    length = height * width
    first = chunk * CHUNK
    steps = tl.minimum(CHUNK, length - first)
    columns = rank + 2 * states
    for against in tl.static_range(2):
        k = PATH + 2 * against
        w, offset = _load_time(weight, bias, k, d, r, channels, rank)
        decay_rate = _load_states(a, k, d, s, channels, states)
        through = tl.load(skip + k * channels + d, mask=inside, other=0.0).to(tl.float32)
        row = (sample * 4 + k) * chunks + chunk
        state_pointers = (row * states + s[:, None]) * channels + d[None, :]
        h = tl.load(start + state_pointers, mask=state_mask, other=0.0)
        for step in range(steps):
            position = first + (steps - 1 - step if against else step)
            place = sample * length + _place(PATH, position, height, width)
            values = projection + (place * 4 + k) * columns
            low = tl.load(values + r, mask=r < rank, other=0.0).to(tl.float32)
            b = tl.load(values + rank + s, mask=s < states, other=0.0).to(tl.float32)
            x = tl.load(u + place * channels + d, mask=inside, other=0.0).to(tl.float32)
            dt, _ = _softplus(tl.sum(low[:, None] * w, axis=0) + offset)
            tl.store(scratch + (place * states + s[:, None]) * channels + d[None, :], h, mask=state_mask)
            h = tl.exp(dt[None, :] * decay_rate) * h + b[:, None] * (dt * x)[None, :]
        # The backward pass reads values that other threads of this program have just written.
        tl.debug_barrier()
        # The adjoint of this chunk's last state, from later chunks.
        handed = tl.load(adjoint + state_pointers, mask=state_mask, other=0.0)
        sum_weight = tl.zeros((RANKS, BLOCK), tl.float32)
        sum_a = tl.zeros((STATES, BLOCK), tl.float32)
        sum_bias = tl.zeros((BLOCK,), tl.float32)
        sum_skip = tl.zeros((BLOCK,), tl.float32)
        for step in range(steps):
            position = first + (step if against else steps - 1 - step)
            place = sample * length + _place(PATH, position, height, width)
            values = projection + (place * 4 + k) * columns
            low = tl.load(values + r, mask=r < rank, other=0.0).to(tl.float32)
            b = tl.load(values + rank + s, mask=s < states, other=0.0).to(tl.float32)
            c = tl.load(values + rank + states + s, mask=s < states, other=0.0).to(tl.float32)
            x = tl.load(u + place * channels + d, mask=inside, other=0.0).to(tl.float32)
            g = tl.load(grad + place * channels + d, mask=inside, other=0.0).to(tl.float32)
            before = tl.load(
                scratch + (place * states + s[:, None]) * channels + d[None, :], mask=state_mask, other=0.0
            )
            dt, slope = _softplus(tl.sum(low[:, None] * w, axis=0) + offset)
            decay = tl.exp(dt[None, :] * decay_rate)
            h = decay * before + b[:, None] * (dt * x)[None, :]
            d_h = handed + c[:, None] * g[None, :]
            handed = decay * d_h
            # Through the decay exp(dt A), which is its own derivative.
            d_exponent = handed * before
            d_x = tl.sum(d_h * b[:, None], axis=0)
            d_z = slope * (d_x * x + tl.sum(d_exponent * decay_rate, axis=0))
            sum_weight += low[:, None] * d_z[None, :]
            sum_bias += d_z
            sum_a += d_exponent * dt[None, :]
            sum_skip += g * x
            share = d_projection + ((block.to(tl.int64) * batch * length + place) * 4 + k) * columns
            tl.store(share + r, tl.sum(w * d_z[None, :], axis=1), mask=r < rank)
            tl.store(share + rank + s, tl.sum(d_h * (dt * x)[None, :], axis=1), mask=s < states)
            tl.store(share + rank + states + s, tl.sum(h * g[None, :], axis=1), mask=s < states)
            out = tl.load(d_u + place * channels + d, mask=inside, other=0.0)
            tl.store(d_u + place * channels + d, out + d_x * dt + g * through, mask=inside)
        row = (sample * chunks + chunk) * 4 + k
        weight_mask = inside[None, :] & (r < rank)[:, None]
        tl.store(d_weight + (row * channels + d)[None, :] * rank + r[:, None], sum_weight, mask=weight_mask)
        tl.store(d_a + (row * channels + d)[None, :] * states + s[:, None], sum_a, mask=state_mask)
        tl.store(d_bias + row * channels + d, sum_bias, mask=inside)
        tl.store(d_skip + row * channels + d, sum_skip, mask=inside)
        tl.debug_barrier()
