"""Configuration of the network."""

from __future__ import annotations

from dataclasses import dataclass

from refnet_cli.errors import WeightsError


@dataclass(frozen=True)
class REFNetConfig:
    """Configuration of the network; the defaults are the published values.

    Raises
    ------
    WeightsError
        If a value is invalid.
    """

    encoder: str = "resnet50"
    """Any timm model with five levels of features at strides 2 to 32."""
    optical_bands: int = 3
    sar_bands: int = 2
    classes: int = 9
    """Number of logits K, including class 0, "no data"."""
    width: int = 128
    """Decoder width C."""
    states: int = 1
    """State size S of the selective scan."""
    drop_path: float = 0.1
    """Share of samples for which a residual branch is dropped in training."""
    msie: bool = True
    """Whether the network has MSIE decoders; prediction does not need them."""

    def __post_init__(self) -> None:
        for name, low, high in (
            ("classes", 2, 256), ("width", 1, 2048), ("optical_bands", 1, 64), ("sar_bands", 1, 64), ("states", 1, 64),
        ):  # fmt: skip
            check_range(name, getattr(self, name), low, high)
        if not self.encoder:
            raise WeightsError("encoder is empty; it must be the name of a timm model.")
        if not 0 <= self.drop_path < 1:
            raise WeightsError(f"drop_path is {self.drop_path}; it must be from 0 to below 1.")


def check_range(name: str, value: float, low: float, high: float) -> None:
    """Refuse a number that is out of range, or NaN."""
    if not low <= value <= high:
        raise WeightsError(f"{name} is {value}; it must be from {low:g} to {high:g}.")
