"""Random shapes for CutMix and gaps."""

from __future__ import annotations

import math

import numpy as np

from refnet_cli.types import Bool

MOST_PARTS = 3
AREA = 0.2, 0.8  # minimum and maximum share of the image
MOST_CUT = 0.45  # maximum share of a side that is cut at each end
STRETCH = 0.35, 1.0  # minimum and maximum ratio of an ellipse's axes


def random_shape(height: int, width: int, random: np.random.Generator) -> Bool:
    """Draw a union of one to three half-planes and ellipses that covers 20% to 80% of an image.

    Parameters
    ----------
    height, width : int
        Size in pixels.
    random : numpy.random.Generator

    Returns
    -------
    bool array, shape (H, W)
        True inside the shape.
    """
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32) / np.float32(max(height, width))
    distances = np.full((height, width), np.inf, np.float32)
    for _ in range(int(random.integers(1, MOST_PARTS + 1))):
        turn = random.uniform(0, 2 * math.pi)
        down, right = rows - np.float32(random.random()), columns - np.float32(random.random())
        along = np.float32(math.cos(turn)) * right + np.float32(math.sin(turn)) * down
        if random.random() < 0.5:
            across = np.float32(math.cos(turn)) * down - np.float32(math.sin(turn)) * right
            along = np.hypot(along, across / np.float32(random.uniform(*STRETCH)))
        np.minimum(distances, along, out=distances)
    # The pixels closest to the parts are inside, so that the shape has the drawn area.
    inside = int(random.uniform(*AREA) * distances.size)
    limit = float(np.partition(distances, inside, axis=None)[inside])
    return distances <= limit


def random_frame(height: int, width: int, random: np.random.Generator) -> Bool:
    """Draw a rectangle: each side of the image loses up to 45% with a probability of one half.

    Parameters
    ----------
    height, width : int
        Size in pixels.
    random : numpy.random.Generator

    Returns
    -------
    bool array, shape (H, W)
        True inside the rectangle.
    """
    inside = np.zeros((height, width), bool)
    cuts = random.uniform(0, MOST_CUT, 4) * (random.random(4) < 0.5)
    top, bottom = round(height * cuts[0]), height - round(height * cuts[1])
    left, right = round(width * cuts[2]), width - round(width * cuts[3])
    inside[top:bottom, left:right] = True
    return inside


def near_seam(inside: Bool) -> Bool:
    """Return the pixels with a neighbour, out of eight, on the other side of the shape's edge.

    Parameters
    ----------
    inside : bool array, shape (H, W)

    Returns
    -------
    bool array, shape (H, W)

    Examples
    --------
    >>> near_seam(np.array([[True, True, False, False]])).tolist()
    [[False, True, True, False]]
    """
    # Count the pixels inside in each 3 x 3 neighbourhood; the seam is near if the count is neither 0 nor 9.
    counts = inside.astype(np.uint8)
    for axis in (0, 1):
        padded = np.pad(counts, [(1, 1) if axis == number else (0, 0) for number in (0, 1)], "edge")
        counts = padded.take(range(inside.shape[axis]), axis) + counts
        counts += padded.take(range(2, inside.shape[axis] + 2), axis)
    return (counts > 0) & (counts < 9)
