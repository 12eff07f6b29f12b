"""How much memory a prediction takes, and how it is shared out: tiles at once, tiles in waiting, blocks kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from refnet_cli.errors import TryAgainError
from refnet_cli.model.card import Card
from refnet_cli.outputs import OUTPUTS, union_of_layers
from refnet_cli.outputs.cog import BLOCK
from refnet_cli.prediction.options import PredictOptions
from refnet_cli.system.memory import MB, ONNX_LAYERS, TORCH_LAYERS, most_addresses
from refnet_cli.system.onnx_metadata import is_onnx

_LIBRARIES = 750 * MB  # of the network, in each process


@dataclass(frozen=True)
class Demand:
    """What a prediction takes, in bytes; measured on CPUs, see benchmarks/README.md."""

    tile: int
    """Side of a tile in pixels."""
    bands: int
    """Of both sensors together."""
    classes: int
    decoder: int
    """Decoder width of the network."""
    weights: int
    """Size of the network's weights."""
    width: int
    """Of the map, in pixels."""
    block: int = 512
    layers: int = TORCH_LAYERS
    """Arrays of the decoder's width and the tile's size that the network takes at once."""
    processes: int = 1
    """In which networks compute, on the CPU."""
    outputs: int = 0
    """What further outputs take."""

    @property
    def base(self) -> int:
        """Libraries, GDAL's cache, the search for a shift, weights as read and as prepared, and the rows in work."""
        rows = self.tile * self.width * (4 * 3 * (self.classes + 1) + 8)
        others = (self.processes - 1) * (_LIBRARIES + 5 * self.weights // 2)
        return 1000 * MB + 5 * self.weights // 2 + others + rows + self.outputs

    @property
    def per_tile(self) -> int:
        """A tile in the network, and its bands and probabilities in the queues before and behind it."""
        pixels = self.tile * self.tile
        return 32 * MB + pixels * (4 * self.layers * self.decoder + 4 * 4 * (self.classes + self.bands))

    @property
    def per_block(self) -> int:
        """A block of the scene."""
        return self.block * self.block * (4 * self.bands + 1)

    @property
    def per_thread(self) -> int:
        """The two blocks that a reading thread has ahead, and what it takes to warp one."""
        return 4 * self.per_block + 32 * MB

    def total(self, batch: int, threads: int) -> int:
        """All of a prediction with so many tiles at once and reading threads."""
        kept = 2 * -(-self.width // self.block) + 2
        return self.base + batch * self.per_tile + kept * self.per_block + threads * self.per_thread


def share_out(demand: Demand, batch: int, threads: int, most: int | None) -> tuple[int, int]:
    """Choose tiles at once and reading threads so that a prediction fits; threads are given up before tiles.

    Parameters
    ----------
    demand : Demand
    batch, threads : int
        What would be best.
    most : int or None
        Bytes that there are; None for any number.

    Returns
    -------
    batch, threads : int

    Raises
    ------
    TryAgainError
        If a single tile and thread are too much; states the need.

    Examples
    --------
    >>> from refnet_cli.system.memory import GB, MB
    >>> demand = Demand(tile=256, bands=6, classes=10, decoder=128, weights=240 * MB, width=10_980)
    >>> share_out(demand, 4, 8, None), share_out(demand, 4, 8, 4 * GB), share_out(demand, 4, 8, 3000 * MB)
    ((4, 8), (4, 8), (2, 4))
    """
    if most is None:
        return batch, threads

    def fits(tiles: int, readers: int) -> bool:
        return demand.total(tiles, readers) <= most

    while batch > 1 and not fits(batch, 1):
        batch -= 1
    # What is too little for another tile may do for threads.
    while threads > 1 and not fits(batch, threads):
        threads -= 1
    if not fits(batch, threads):
        addresses = most_addresses()
        limit = f" (ulimit -v is {_floored(addresses)}, of which libraries reserve most)" if addresses else ""
        raise TryAgainError(
            f"Predicting takes about {_floored(demand.total(1, 1) + MB - 1)}, and {_floored(most)} may be used{limit}: "
            "close other programs, raise the limit or --max-memory, or cut the scene with --bounds."
        )
    return batch, threads


def _floored(size: int) -> str:
    return f"{size // MB} MB"


def demand_of(card: Card, weights: Path | None, width: int) -> Demand:
    """Return what predicting a map of a width takes; without weights, what holds them is not counted."""
    bands = len(card.optical.bands) + len(card.sar.bands)
    size = weights.stat().st_size if weights else 0
    layers = ONNX_LAYERS if weights and is_onnx(weights) else TORCH_LAYERS
    return Demand(card.tile, bands, card.network.classes, card.network.width, size, width, layers=layers)


def memory_of_outputs(options: PredictOptions, card: Card, width: int) -> int:
    """Bytes that smoothing and outputs take in addition to the map's own, for rows of tiles and of blocks in work."""
    classes, places = card.network.classes, options.places
    layers = union_of_layers(places)
    copies = 3 * (options.smooth > 0) + 4 * (len(layers) > len(union_of_layers(())) or options.threshold > 0)
    outputs = [OUTPUTS[kind] for kind in places]
    per_pixel = sum(output.pixel_memory[0] + output.pixel_memory[1] * classes for output in outputs)
    fixed = sum(output.fixed_memory for output in outputs)
    return card.tile * width * 4 * classes * copies + BLOCK * width * per_pixel + fixed
