"""Adapt the first convolution of an encoder to other bands."""

from __future__ import annotations

from collections.abc import Sequence

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
    """Copy the channels of the first convolution by band name; a new band gets the mean of all channels.

    Parameters
    ----------
    tensors : dict of str to Tensor
        Tensors by name, with the prefix ``MODALITY_encoder.``; the first convolution is replaced in place.
    modality : str
        ``optical`` or ``sar``.
    known : dict of str to Tensor
        Tensors to copy channels from, with the same names.
    encoder : str
        Name of the timm model.
    found, needed : sequence of str
        Bands of ``known`` and of ``tensors``, in order.

    Returns
    -------
    str
        Log line: which bands were copied, are new, or were removed.

    Raises
    ------
    WeightsError
        If the encoder does not support other bands.
    """
    matches = match_names(plain_bands(found), plain_bands(needed))
    copied = {match for match in matches if match is not None}
    # New bands replace removed ones; additional bands must not increase the sum over the bands.
    scale = min(1.0, len(found) / len(needed)) if None in matches else 1.0
    if matches != list(range(len(found))):
        for name in band_tensors(encoder, len(found)):
            weight = known[f"{modality}_encoder.{name}"]
            mean = weight.mean(1)
            channels = [mean if match is None else weight[:, match] for match in matches]
            tensors[f"{modality}_encoder.{name}"] = torch.stack(channels, 1) * scale
    parts = {
        "copied": [band for band, match in zip(needed, matches, strict=True) if match is not None],
        "new (mean of all bands)": [band for band, match in zip(needed, matches, strict=True) if match is None],
        "removed": [band for index, band in enumerate(found) if index not in copied],
    }
    return f"{modality} bands: " + "; ".join(f"{', '.join(names)} {what}" for what, names in parts.items() if names)


def match_names(found: Sequence[str], needed: Sequence[str]) -> list[int | None]:
    """Return the index of each needed name in ``found``; None if it is missing."""
    return [found.index(name) if name in found else None for name in needed]


def plain_bands(bands: Sequence[str]) -> list[str]:
    """Return the canonical names of bands, or the name in lower case if there is none."""
    return [canonical_band(band) or band.casefold() for band in bands]


def band_tensors(encoder: str, bands: int) -> list[str]:
    """Return the names of an encoder's tensors whose shape depends on the number of bands."""
    import timm  # takes two seconds, and most trainings keep the bands of their weights

    few, more = (
        timm.create_model(encoder, features_only=True, in_chans=number).state_dict() for number in (bands, bands + 1)
    )
    names = [name for name, tensor in few.items() if tensor.shape != more[name].shape]
    if not all(few[name].ndim == 4 and few[name].shape[1] == bands for name in names):
        raise WeightsError(f"Encoder {encoder!r} cannot be adapted to other bands. Use the bands of the weights.")
    return names


def known_statistics(modality: Modality, needed: Sequence[str]) -> Statistics:
    """Return mean and standard deviation of the needed bands that a modality has."""
    matches = match_names(plain_bands(modality.bands), plain_bands(needed))
    return {
        band: (modality.mean[match], modality.std[match])
        for band, match in zip(needed, matches, strict=True)
        if match is not None
    }
