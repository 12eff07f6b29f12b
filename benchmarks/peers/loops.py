"""Loops over windows as people write them around a network, and the call of terratorch's tiled inference.

A program of its own, without refnet, so that it can run in a peer's environment and its memory is the loop's alone:

    python loops.py WAY IMAGE NETWORK OUTPUT

``plain`` writes window by window, without overlap. ``averaged`` adds up the probabilities of overlapping windows in
arrays of the scene's size. ``onnx`` is ``plain`` with ONNX Runtime. ``terratorch`` follows the section "Tiled inference
via Python" of its guide to inference. None of them treats pixels without data in any way.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import rasterio
from rasterio.windows import Window

TILE, BATCH = 256, 4
STRIDE = 192
"""Step of ``averaged``: windows share a quarter, as tiles of refnet do."""
OPTICAL = 4
"""Optical bands of the stacked image, which ONNX models take apart from the others."""


def load_torchscript(network: str) -> Callable[[Any], Any]:
    """Return a function from images (N, B, H, W) to probabilities (N, K, H, W), arrays."""
    import torch

    module = torch.jit.load(network)  # type: ignore[no-untyped-call]  # torch has no types here

    def run(images: Any) -> Any:
        with torch.inference_mode():
            return module(torch.from_numpy(images)).numpy()

    return run


def load_onnx(network: str) -> Callable[[Any], Any]:
    """Return the same function of an ONNX model of ``refnet export``, with the defaults of ONNX Runtime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(network, providers=["CPUExecutionProvider"])

    def run(images: Any) -> Any:
        optical, sar = (np.ascontiguousarray(part) for part in (images[:, :OPTICAL], images[:, OPTICAL:]))
        (found,) = session.run(["probabilities"], {"optical": optical, "sar": sar})
        found[:, 0] = 0  # "no data", which is no class to choose
        return found

    return run


def windows_of(height: int, width: int, stride: int) -> Iterator[Window]:
    """Yield windows in steps of ``stride``, those at the edge cut off."""
    for row in range(0, height, stride):
        for column in range(0, width, stride):
            yield Window(column, row, min(TILE, width - column), min(TILE, height - row))


def read(source: Any, window: Window) -> Any:
    """Read a window and pad it to a tile, since networks take only some sizes."""
    image = source.read(window=window, out_dtype=np.float32)
    missing = [(0, 0), (0, TILE - image.shape[1]), (0, TILE - image.shape[2])]
    return np.pad(image, missing, mode="symmetric")


def in_batches(windows: Iterator[Window], batch: int) -> Iterator[list[Window]]:
    """Yield lists of ``batch`` windows, the last one shorter."""
    waiting: list[Window] = []
    for window in windows:
        waiting.append(window)
        if len(waiting) == batch:
            yield waiting
            waiting = []
    if waiting:
        yield waiting


def run_plain(image: str, run: Callable[[Any], Any], output: str, batch: int) -> None:
    """Predict windows without overlap, and write the classes of each before the next is read."""
    with rasterio.open(image) as source, rasterio.open(output, "w", **profile_of(source)) as target:
        for windows in in_batches(windows_of(source.height, source.width, TILE), batch):
            found = run(np.stack([read(source, window) for window in windows]))
            for window, classes in zip(windows, found.argmax(1).astype(np.uint8), strict=True):
                target.write(classes[: window.height, : window.width], 1, window=window)


def run_averaged(image: str, run: Callable[[Any], Any], output: str) -> None:
    """Average the probabilities of overlapping windows, and write the classes at the end."""
    total: Any = None
    with rasterio.open(image) as source:
        count = np.zeros((source.height, source.width), np.float32)
        for windows in in_batches(windows_of(source.height, source.width, STRIDE), BATCH):
            found = run(np.stack([read(source, window) for window in windows]))
            if total is None:
                total = np.zeros((found.shape[1], *count.shape), np.float32)
            for window, probabilities in zip(windows, found, strict=True):
                rows, columns = window.toslices()
                total[:, rows, columns] += probabilities[:, : window.height, : window.width]
                count[rows, columns] += 1
        total /= count
        with rasterio.open(output, "w", **profile_of(source)) as target:
            target.write(total.argmax(0).astype(np.uint8), 1)


def run_terratorch(image: str, network: str, output: str) -> None:
    """Run terratorch's tiled inference over the whole image, with tiles, step and batch of its guide."""
    import rioxarray
    import torch
    from terratorch.tasks.tiled_inference import tiled_inference

    module = torch.jit.load(network)  # type: ignore[no-untyped-call]  # torch has no types here
    values = rioxarray.open_rasterio(image)
    tensor = torch.tensor(values.values, dtype=torch.float, device="cpu").unsqueeze(0)
    found = tiled_inference(module, tensor, crop=256, stride=240, batch_size=16)
    classes = found.squeeze(0).argmax(dim=0).numpy().astype(np.uint8)
    with rasterio.open(image) as source, rasterio.open(output, "w", **profile_of(source)) as target:
        target.write(classes, 1)


def profile_of(source: Any) -> dict[str, Any]:
    """Return the profile of the class map of an image."""
    return {
        "driver": "GTiff", "width": source.width, "height": source.height, "crs": source.crs, "count": 1,
        "transform": source.transform, "dtype": "uint8", "compress": "lzw", "tiled": True,
    }  # fmt: skip


def main(way: str, image: str, network: str, output: str) -> None:
    """Run one of the ways; see the module's docstring."""
    if way == "plain":
        run_plain(image, load_torchscript(network), output, BATCH)
    elif way == "averaged":
        run_averaged(image, load_torchscript(network), output)
    elif way == "onnx":
        run_plain(image, load_onnx(network), output, 1)
    elif way == "terratorch":
        run_terratorch(image, network, output)
    else:
        raise SystemExit(f"Unknown way {way!r}.")


if __name__ == "__main__":
    main(*sys.argv[1:])
