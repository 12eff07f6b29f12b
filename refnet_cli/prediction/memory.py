"""Estimate the memory of a prediction, and choose the batch size and the number of reading threads that fit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from refnet_cli.errors import TryAgainError
from refnet_cli.model.card import Card
from refnet_cli.outputs import OUTPUTS, required_layers
from refnet_cli.outputs.cog import BLOCK
from refnet_cli.prediction.options import PredictOptions
from refnet_cli.scene.options import Combine
from refnet_cli.scene.season import kept_blocks
from refnet_cli.system.memory import MB, ONNX_LAYERS, TORCH_LAYERS, address_space_limit
from refnet_cli.system.onnx_metadata import is_onnx

_LIBRARIES = 750 * MB  # torch or ONNX Runtime, in each process
_OPEN_FILES = 20 * MB  # of each further date, with what they leave between other memory


@dataclass(frozen=True)
class Demand:
    """Memory of a prediction in bytes; measured on CPUs, see benchmarks/README.md."""

    tile: int
    """Side of a tile in pixels."""
    bands: int
    """Number of bands of both sensors."""
    classes: int
    decoder: int
    """Decoder width of the network."""
    weights: int
    """Size of the weights file."""
    width: int
    """Width of the map in pixels."""
    block: int = 512
    layers: int = TORCH_LAYERS
    """Number of arrays with the decoder's width and the tile's size that the network holds at the same time."""
    processes: int = 1
    """Number of processes that run the network on the CPU."""
    outputs: int = 0
    """Memory of further outputs."""
    dates: int = 1
    """Number of dates of a season."""
    combine: Combine | None = None
    """How they become one map."""

    @property
    def base(self) -> int:
        """Libraries, files and GDAL's cache, the shift estimate, weights as read and as prepared, rows in progress."""
        rows = self.tile * self.width * (4 * 3 * (self.classes + 1) + 8)
        others = (self.processes - 1) * (_LIBRARIES + 5 * self.weights // 2)
        files = (self.dates - 1) * _OPEN_FILES
        return 1000 * MB + 5 * self.weights // 2 + others + rows + files + self.outputs

    @property
    def per_tile(self) -> int:
        """One tile in the network, and its bands and probabilities in the input and output queues."""
        pixels = self.tile * self.tile
        return 32 * MB + pixels * (4 * self.layers * self.decoder + 4 * 4 * (self.classes + self.bands))

    @property
    def per_block(self) -> int:
        """One block of the scene."""
        return self.block * self.block * (4 * self.bands + 1)

    @property
    def per_thread(self) -> int:
        """The two blocks that a reading thread holds, of each date for a composite, and the buffers to warp one."""
        held = 2 * self.dates + 4 if self.combine == "composite" else 4
        return held * self.per_block + 32 * MB

    def total(self, batch: int, threads: int) -> int:
        """Total for a batch size and a number of reading threads."""
        kept = 2 * -(-self.width // self.block) + 2
        if self.combine == "ensemble":  # each date has its own thread and keeps its own blocks
            kept = self.dates * min(kept, kept_blocks(self.dates, self.bands, "ensemble"))
            threads = self.dates
        return self.base + batch * self.per_tile + kept * self.per_block + threads * self.per_thread


def fit_to_memory(demand: Demand, batch: int, threads: int, most: int | None) -> tuple[int, int]:
    """Choose a batch size and a number of reading threads that fit into memory; reduce threads before the batch size.

    Parameters
    ----------
    demand : Demand
    batch, threads : int
        Preferred values.
    most : int or None
        Available bytes; None for no limit.

    Returns
    -------
    batch, threads : int

    Raises
    ------
    TryAgainError
        If one tile and one thread do not fit.

    Examples
    --------
    >>> from refnet_cli.system.memory import GB, MB
    >>> demand = Demand(tile=256, bands=6, classes=10, decoder=128, weights=240 * MB, width=10_980)
    >>> fit_to_memory(demand, 4, 8, None), fit_to_memory(demand, 4, 8, 4 * GB), fit_to_memory(demand, 4, 8, 3000 * MB)
    ((4, 8), (4, 8), (2, 4))
    """
    if most is None:
        return batch, threads

    def fits(tiles: int, readers: int) -> bool:
        return demand.total(tiles, readers) <= most

    while batch > 1 and not fits(batch, 1):
        batch -= 1
    # Memory that is too small for another tile may be enough for more threads.
    while threads > 1 and not fits(batch, threads):
        threads -= 1
    if not fits(batch, threads):
        addresses = address_space_limit()
        limit = f" (ulimit -v is {_megabytes(addresses)}, most of it reserved by libraries)" if addresses else ""
        raise TryAgainError(
            f"The prediction needs about {_megabytes(demand.total(1, 1) + MB - 1)} of memory, but only "
            f"{_megabytes(most)} can be used{limit}. Close other programs, raise the limit or --max-memory, or crop "
            "the scene with --bounds."
        )
    return batch, threads


def _megabytes(size: int) -> str:
    return f"{size // MB} MB"


def demand_of(card: Card, weights: Path | None, width: int) -> Demand:
    """Return the memory demand for a map of this width. Without a weights file, the weights are not counted."""
    bands = len(card.optical.bands) + len(card.sar.bands)
    size = weights.stat().st_size if weights else 0
    layers = ONNX_LAYERS if weights and is_onnx(weights) else TORCH_LAYERS
    return Demand(card.tile, bands, card.network.classes, card.network.width, size, width, layers=layers)


def memory_of_outputs(options: PredictOptions, card: Card, width: int) -> int:
    """Return the bytes that smoothing and further outputs take for the rows of tiles and blocks in progress."""
    classes, paths = card.network.classes, options.output_paths
    layers = required_layers(paths)
    copies = 3 * (options.smooth > 0) + 4 * (len(layers) > len(required_layers(())) or options.threshold > 0)
    outputs = [OUTPUTS[kind] for kind in paths]
    per_pixel = sum(output.pixel_memory[0] + output.pixel_memory[1] * classes for output in outputs)
    fixed = sum(output.fixed_memory for output in outputs)
    return card.tile * width * 4 * classes * copies + BLOCK * width * per_pixel + fixed
