"""Give the first convolution of an encoder its channels by band name."""

from __future__ import annotations

from collections.abc import Sequence

import timm
import torch
from torch import Tensor

from refnet_cli.errors import WeightsError
from refnet_cli.model.card import Modality
from refnet_cli.sensors.bands import canonical_band

Statistics = dict[str, tuple[float, float]]
"""Mean and standard deviation by band."""


def adapt_bands(
    tensors: dict[str, Tensor],
    modality: str,
    known: dict[str, Tensor],
    encoder: str,
    found: Sequence[str],
    needed: Sequence[str],
) -> str:
    """Give the first convolution its channels by band name; a new band gets the mean of all channels.

    Parameters
    ----------
    tensors : dict of str to Tensor
        By name, with ``MODALITY_encoder.`` before an encoder's names; what sees the bands is replaced in it.
    modality : str
        ``optical`` or ``sar``.
    known : dict of str to Tensor
        The tensors that channels are taken from, by the same names.
    encoder : str
        Name of the timm model.
    found, needed : sequence of str
        Bands of ``known`` and of ``tensors``, in order.

    Returns
    -------
    str
        A line for people: which bands were taken over, are new, or are left out.

    Raises
    ------
    WeightsError
        If the encoder cannot be adapted to other bands.
    """
    places = places_of(plain_bands(found), plain_bands(needed))
    taken = {place for place in places if place is not None}
    # New bands take the place of those left out; any more must not make the sum over the bands larger than it was.
    scale = min(1.0, len(found) / len(needed)) if None in places else 1.0
    if places != list(range(len(found))):
        for name in band_tensors(encoder, len(found)):
            weight = known[f"{modality}_encoder.{name}"]
            mean = weight.mean(1)
            channels = [mean if place is None else weight[:, place] for place in places]
            tensors[f"{modality}_encoder.{name}"] = torch.stack(channels, 1) * scale
    parts = {
        "taken over": [band for band, place in zip(needed, places, strict=True) if place is not None],
        "new, as the mean of all": [band for band, place in zip(needed, places, strict=True) if place is None],
        "left out": [band for place, band in enumerate(found) if place not in taken],
    }
    return f"{modality} bands: " + "; ".join(f"{', '.join(names)} {what}" for what, names in parts.items() if names)


def places_of(found: Sequence[str], needed: Sequence[str]) -> list[int | None]:
    """Where each needed name is among those found; None where it is not."""
    return [found.index(name) if name in found else None for name in needed]


def plain_bands(bands: Sequence[str]) -> list[str]:
    """Return the canonical names of bands; of bands that have none, the name in lower case."""
    return [canonical_band(band) or band.casefold() for band in bands]


def band_tensors(encoder: str, bands: int) -> list[str]:
    """Name an encoder's tensors that see the bands: those whose shape changes with their number."""
    few, more = (
        timm.create_model(encoder, features_only=True, in_chans=number).state_dict() for number in (bands, bands + 1)
    )
    names = [name for name, tensor in few.items() if tensor.shape != more[name].shape]
    if not all(few[name].ndim == 4 and few[name].shape[1] == bands for name in names):
        raise WeightsError(f"Encoder {encoder!r} cannot be adapted to other bands; train with those of the weights.")
    return names


def known_statistics(modality: Modality, needed: Sequence[str]) -> Statistics:
    """Return mean and standard deviation of those needed bands that a modality has, by their needed names."""
    places = places_of(plain_bands(modality.bands), plain_bands(needed))
    return {
        band: (modality.mean[place], modality.std[place])
        for band, place in zip(needed, places, strict=True)
        if place is not None
    }
