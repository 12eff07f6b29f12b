"""Deterministic REF-Net weights, so that reference outputs can be kept without the weights themselves.

`keys-*.json` lists every name and shape of a published checkpoint. Two machines get the same numbers, because NumPy
keeps the stream of PCG64 stable, so that the outputs in `*.npz` can be compared.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def fill(name: str, shape: tuple[int, ...]) -> NDArray[np.generic]:
    """Return one tensor of a published REF-Net checkpoint by its name there: float32, or int64 for counters."""
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "num_batches_tracked":
        return np.array(1, dtype=np.int64)
    if leaf == "running_var":
        a = rng.uniform(0.8, 1.2, shape)
    elif leaf == "running_mean":
        a = rng.normal(0, 0.1, shape)
    elif leaf == "A_logs":
        a = rng.uniform(-1, 1, shape)
    elif leaf == "Ds":
        a = rng.uniform(0, 0.5, shape)
    elif leaf == "dt_projs_bias":
        a = rng.uniform(-4, 0, shape)
    elif leaf == "x_proj_weight":
        a = rng.normal(0, 2 / np.sqrt(shape[-1]), shape)
    elif leaf == "dt_projs_weight":
        a = rng.normal(0, 0.3, shape)
    elif leaf == "weight" and len(shape) == 1:
        a = rng.uniform(0.4, 0.8, shape)
    elif leaf == "bias":
        a = rng.normal(0, 0.1, shape)
    else:
        a = rng.normal(0, np.sqrt(1.0 / np.prod(shape[1:])), shape)
    return a.astype(np.float32)


def state_dict(keys_file: Path) -> dict[str, NDArray[np.generic]]:
    """Return all tensors of a checkpoint by name, in the order of its file of keys."""
    shapes = json.loads(keys_file.read_text())
    return {name: fill(name, tuple(shape)) for name, shape in shapes.items()}


def inputs(
    seed: int, batch: int, optical: int, sar: int, height: int, width: int, classes: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    """Return optical (N, C, H, W), SAR (N, C, H, W) and labels (N, H, W) from 0 to classes - 1, where 0 is ignored."""
    rng = np.random.Generator(np.random.PCG64(seed))
    x = rng.normal(0, 1, (batch, optical, height, width)).astype(np.float32)
    y = rng.normal(0, 1, (batch, sar, height, width)).astype(np.float32)
    t = rng.integers(0, classes, (batch, height, width))
    return x, y, t
