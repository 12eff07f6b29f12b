"""What all engines do alike: fill pixels without data, and go on with half as many patches where memory lacks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol

import numpy as np

from refnet_cli.errors import TryAgainError
from refnet_cli.model.card import Card
from refnet_cli.tiles.gaps import fill_gaps
from refnet_cli.types import Float32

NOT_FINITE = (
    "The network answers with numbers that are none: its weights are damaged, or its precision is too coarse for them."
)


class HalvingEngine(ABC):
    """An engine that computes a batch in halves, and halves of these, where its device's memory asks for it.

    Its network sees each sensor's pixels without data as `refnet_cli.tiles.gaps.fill_gaps` fills them.
    """

    batch: int
    about: dict[str, str]

    def predict(self, optical: Float32, sar: Float32) -> Float32:
        """Classify a batch of patches; see `refnet_cli.engines.base.Engine.predict`.

        Raises
        ------
        TryAgainError
            If the device's memory does not hold a single patch.
        WeightsError
            If the network's answer is not finite.
        """
        return self._predict(fill_gaps(optical), fill_gaps(sar))

    def _predict(self, optical: Float32, sar: Float32) -> Float32:
        try:
            return self._compute(optical, sar)
        except Exception as error:  # of kinds that only the engine's library names
            if not self._lacks_memory(error):
                raise
            if len(optical) == 1 and not self._fills_up():
                device = self.about["device"]
                advice = "Close other programs" if device == "cpu" else "Free some, or use --device cpu"
                raise TryAgainError(f"Not enough memory on {device} for a single tile. {advice}.") from error
        # Out of the except clause, in which the error would keep what the failed attempt holds.
        self._free_memory()
        if len(optical) == 1:
            return self._predict(optical, sar)
        half = len(optical) // 2
        self.batch = min(self.batch, half)
        return np.concatenate([self._predict(optical[part], sar[part]) for part in (np.s_[:half], np.s_[half:])])

    def close(self) -> None:
        """Give back the memory that is kept for later; the network's goes with the engine itself."""
        self._free_memory()

    @abstractmethod
    def _compute(self, optical: Float32, sar: Float32) -> Float32:
        """Classify a batch at once."""

    @abstractmethod
    def _lacks_memory(self, error: Exception) -> bool:
        """Whether an error says that memory lacks."""

    @abstractmethod
    def _fills_up(self) -> bool:
        """Whether a single patch is computed as a larger batch, of a size that was compiled."""

    @abstractmethod
    def _free_memory(self) -> None:
        """Give back what is kept for later; the next batch says again to which size others are filled up."""


class Engine(Protocol):
    """What `refnet_cli.prediction.predict` needs of a network."""

    card: Card
    batch: int
    """How many patches to give at once."""
    about: dict[str, str]
    """What it computes on and with, for the report: device, scan kernel and why, and the like; ``warning`` if there is
    one."""

    def predict(self, optical: Float32, sar: Float32) -> Float32:
        """Classify a batch of patches.

        Parameters
        ----------
        optical : float32 array, shape (N, Bo, H, W)
            Reflectance x 10,000, NaN where invalid; filled by `refnet_cli.tiles.gaps.fill_gaps` before the network
            sees it.
        sar : float32 array, shape (N, Bs, H, W)
            Decibels, likewise.

        Returns
        -------
        float32 array, shape (N, K, H, W)
            Probabilities.
        """

    def close(self) -> object:
        """Give back what it holds; it cannot predict afterwards."""
