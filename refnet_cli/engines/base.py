"""Base of the engines: fills nodata pixels, and halves the batch when memory runs out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol

import numpy as np

from refnet_cli.errors import TryAgainError
from refnet_cli.model.card import Card
from refnet_cli.tiles.gaps import fill_gaps
from refnet_cli.types import Float32

NOT_FINITE = (
    "The network returned NaN or infinite values: its weights are damaged, or the precision is too low for them. "
    "Use a higher precision or other weights."
)


class HalvingEngine(ABC):
    """An engine that splits a batch in halves, repeatedly, when its device runs out of memory.

    `refnet_cli.tiles.gaps.fill_gaps` fills each sensor's nodata pixels before the network sees them.
    """

    batch: int
    about: dict[str, str]

    def predict(self, optical: Float32, sar: Float32) -> Float32:
        """Classify a batch of patches; see `refnet_cli.engines.base.Engine.predict`.

        Raises
        ------
        TryAgainError
            If the device's memory is too small for a single patch.
        WeightsError
            If the network returns NaN or infinite values.
        """
        return self._predict(fill_gaps(optical), fill_gaps(sar))

    def _predict(self, optical: Float32, sar: Float32) -> Float32:
        try:
            return self._compute(optical, sar)
        except Exception as error:  # of types that only the engine's library knows
            if not self._is_out_of_memory(error):
                raise
            if len(optical) == 1 and not self._pads_batches():
                device = self.about["device"]
                advice = "Close other programs" if device == "cpu" else "Free some memory, or use --device cpu"
                raise TryAgainError(f"Not enough memory on {device} for a single tile. {advice}.") from error
        # Outside the except clause, where the error would keep the failed attempt's memory alive.
        self._free_memory()
        if len(optical) == 1:
            return self._predict(optical, sar)
        half = len(optical) // 2
        self.batch = min(self.batch, half)
        return np.concatenate([self._predict(optical[part], sar[part]) for part in (np.s_[:half], np.s_[half:])])

    def close(self) -> None:
        """Release cached memory; the network's memory is released with the engine itself."""
        self._free_memory()

    @abstractmethod
    def _compute(self, optical: Float32, sar: Float32) -> Float32:
        """Classify a batch in one pass."""

    @abstractmethod
    def _is_out_of_memory(self, error: Exception) -> bool:
        """Return whether an error means that memory ran out."""

    @abstractmethod
    def _pads_batches(self) -> bool:
        """Return whether a single patch is padded to a larger batch, whose size was compiled."""

    @abstractmethod
    def _free_memory(self) -> None:
        """Release cached memory; the next batch sets the size to which later batches are padded."""


class Engine(Protocol):
    """The interface of a network for `refnet_cli.prediction.predict`."""

    card: Card
    batch: int
    """Patches per batch."""
    about: dict[str, str]
    """Facts for the report: device, scan kernel and the reason for it, precision, and so on; ``warning`` if any."""

    def predict(self, optical: Float32, sar: Float32) -> Float32:
        """Classify a batch of patches.

        Parameters
        ----------
        optical : float32 array, shape (N, Bo, H, W)
            Reflectance x 10,000, NaN where invalid; filled by `refnet_cli.tiles.gaps.fill_gaps` before the network
            sees it.
        sar : float32 array, shape (N, Bs, H, W)
            Backscatter in dB, NaN where invalid; filled likewise.

        Returns
        -------
        float32 array, shape (N, K, H, W)
            Probabilities.
        """

    def close(self) -> object:
        """Release all resources; the engine cannot predict afterwards."""
