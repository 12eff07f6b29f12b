"""Read pretrained encoders from files, and put them into a network."""

from __future__ import annotations

import math
from pathlib import Path

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from refnet_cli.card import is_pickled
from refnet_cli.errors import InputMissingError, WeightsError
from refnet_cli.hub import fetch, quiet
from refnet_cli.model import REFNet
from refnet_cli.weights import read_checkpoint


def load_plain(net: REFNet, weights: str | Path) -> list[str]:
    """Put timm's pretrained weights, or a file of such, into both encoders, whose bands it does not name.

    Parameters
    ----------
    net : REFNet
        It is changed.
    weights : str or Path
        ``imagenet``, or a file.

    Returns
    -------
    list of str
        A line each for people: what was taken from where.

    Raises
    ------
    InputMissingError
        If the file cannot be read or fetched.
    WeightsError
        If it is damaged or of another network.
    """
    name = net.config.encoder
    path = _fetch_imagenet(name) if weights == "imagenet" else Path(weights)
    origin = f"timm's pretrained {name}" if weights == "imagenet" else path.name
    tensors = read_tensors(path)
    shapes = {tensor.shape for tensor in tensors.values()}
    decisions = []
    for modality, bands in (("optical", net.config.optical_bands), ("sar", net.config.sar_bands)):
        loaded = _load_timm(name, bands, tensors, path)
        net.get_submodule(f"{modality}_encoder").load_state_dict(loaded)
        adapted = any(tensor.shape not in shapes for tensor in loaded.values())
        decisions.append(
            f"{modality} encoder: from {origin}"
            + (f", its first convolution adapted to {bands} bands by repeating and scaling channels" if adapted else "")
        )
    return [*decisions, "decoders and heads: new"]


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors by name of a safetensors file or a PyTorch checkpoint, read as data only."""
    if is_pickled(path):
        return read_checkpoint(path)
    try:
        return load_file(path)
    except SafetensorError as error:
        raise WeightsError(f"{path} is neither a safetensors file nor a PyTorch checkpoint: {error}.") from error


def _load_timm(name: str, bands: int, tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Tensors of an encoder, by the encoder's names, that timm made of a checkpoint's.

    timm loads what it finds and is silent about the rest. So the same is done with numbers that are none: what stays
    a number does not come from the checkpoint.
    """
    loaded = _adapt_timm(name, bands, tensors, path)
    marked = _adapt_timm(name, bands, {key: _mark(tensor) for key, tensor in tensors.items()}, path)
    missing = [key for key, tensor in marked.items() if tensor.is_floating_point() and not tensor.isnan().all()]
    if missing:
        raise WeightsError(
            f"{path} is not the weights of encoder {name!r}: {len(missing)} tensors are missing, first "
            f"{', '.join(missing[:3])}."
        )
    return loaded


def _mark(tensor: Tensor) -> Tensor:
    return torch.full_like(tensor, math.nan) if tensor.is_floating_point() else tensor


def _adapt_timm(name: str, bands: int, tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    try:
        with quiet():
            encoder: nn.Module = timm.create_model(
                name,
                pretrained=True,
                features_only=True,
                in_chans=bands,
                pretrained_cfg_overlay={"state_dict": dict(tensors)},
            )
    except (RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())[:300]
        raise WeightsError(f"{path} is not the weights of encoder {name!r} for {bands} bands: {reason}") from error
    return encoder.state_dict()


def _fetch_imagenet(encoder: str) -> Path:
    """File of timm's pretrained weights, from the hub's cache or the network."""
    known = timm.models.get_pretrained_cfg(encoder)
    if not known or not known.hf_hub_id:
        elsewhere = f", but {known.url}" if known and known.url else ""
        raise InputMissingError(
            f"timm names no pretrained weights on the hub for encoder {encoder!r}{elsewhere}: "
            "give a file of them as --encoder-weights, or train without."
        )
    filename = known.hf_hub_filename or "model.safetensors"
    return fetch(
        known.hf_hub_id, filename, None, f"The pretrained weights of encoder {encoder!r}",
        f"give it as --encoder-weights {filename}.",
    )  # fmt: skip
