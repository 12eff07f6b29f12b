"""Images as the sequences of the four scan directions, for libraries that scan sequences only."""

from __future__ import annotations

from importlib.util import find_spec

from torch import Tensor


def in_scan_order(image: Tensor, direction: int) -> Tensor:
    """Return the pixels in the order in which a direction visits them.

    Parameters
    ----------
    image : tensor, shape (N, H, W, C)
    direction : int
        0 row by row, 1 column by column, 2 and 3 are 0 and 1 reversed.

    Returns
    -------
    tensor, shape (N, H * W, C)
    """
    if direction % 2:
        image = image.transpose(1, 2)
    sequence = image.flatten(1, 2)
    return sequence.flip(1) if direction >= 2 else sequence


def in_place(sequence: Tensor, direction: int, height: int, width: int) -> Tensor:
    """Return the image of a sequence, the inverse of `in_scan_order`: shape (N, H * W, C) -> (N, H, W, C)."""
    if direction >= 2:
        sequence = sequence.flip(1)
    batch, _, channels = sequence.shape
    if direction % 2:
        return sequence.reshape(batch, width, height, channels).transpose(1, 2)
    return sequence.reshape(batch, height, width, channels)


def is_installed(module: str) -> bool:
    """Return whether a top-level module can be found, without importing it."""
    try:
        return find_spec(module) is not None
    except ValueError:  # a module inserted into sys.modules has no spec
        return True
