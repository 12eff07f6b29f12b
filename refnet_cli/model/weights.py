"""Save and load weights: safetensors files with a card in the header, written atomically and loaded strictly."""

from __future__ import annotations

import json
import pickle
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from refnet_cli.classes.schemes import SCHEMES
from refnet_cli.errors import InputMissingError, StorageError, WeightsError
from refnet_cli.model.card import Card
from refnet_cli.model.published_checkpoint import from_published
from refnet_cli.model.refnet import REFNet, load_strictly
from refnet_cli.model.weight_files import checksum, find_weights, verify
from refnet_cli.sensors import SENSORS
from refnet_cli.sensors.sensor import MODALITIES
from refnet_cli.system.atomic import replacing
from refnet_cli.system.config import read_toml
from refnet_cli.system.marks import check_output
from refnet_cli.system.onnx_metadata import is_onnx
from refnet_cli.system.steps import Steps
from refnet_cli.types import Progress


def save_weights(net: REFNet, card: Card, path: str | Path) -> Card:
    """Write a network with its card atomically.

    Parameters
    ----------
    net : REFNet
    card : Card
        Its checksum is replaced.
    path : str or Path

    Returns
    -------
    Card
        The card with its checksum.

    Raises
    ------
    WeightsError
        If the card describes another network.
    OutputError
        If the folder is not writable.
    StorageError
        If writing fails, for example because the disk is full.
    """
    if card.network != net.config:
        raise WeightsError(f"The card describes {card.network}, but the network is {net.config}.")
    path = Path(path)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in net.state_dict().items()}
    with replacing(path) as temporary:
        # The checksum covers the stored card and tensors, so write once without it and once with it.
        _write(tensors, card, temporary)
        card = replace(card, sha256=checksum(temporary))
        _write(tensors, card, temporary)
        try:
            verify(temporary)
        except WeightsError as error:
            raise StorageError(f"{path} was corrupted when it was written: {error} Check the disk.") from error
    return card


def _write(tensors: dict[str, torch.Tensor], card: Card, path: Path) -> None:
    # Not save_file, which makes the file readable for its owner only.
    path.write_bytes(save(tensors, metadata={"refnet": json.dumps(card.to_dict())}))


def load_weights(path: str | Path, *, msie: bool = False) -> tuple[REFNet, Card]:
    """Load a network and its card.

    Parameters
    ----------
    path : str or Path
        A safetensors file with a card, or the name of bundled weights, such as ``"refnet-base"``.
    msie : bool
        Keep the MSIE decoders if the file has them. Prediction does not need them.

    Returns
    -------
    net : REFNet
        In evaluation mode.
    card : Card

    Raises
    ------
    InputMissingError
        If the file does not exist.
    WeightsError
        If the file is damaged, or card and tensors do not match.
    """
    path = find_weights(path)
    if is_onnx(path):
        raise WeightsError(
            f"{path} is an ONNX model, which only works for prediction. Give the safetensors file it was exported from."
        )
    card = verify(path)
    tensors = load_file(path)
    config = card.network
    if config.msie and not msie:
        config = replace(config, msie=False)
        tensors = without_msie(tensors)
    net = REFNet(config, initialise=False)
    load_strictly(net, tensors)
    return net.eval(), replace(card, network=config)


def without_msie(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Remove the tensors of the MSIE decoders and their heads."""
    parts = ("optical_msie.", "sar_msie.", "optical_head.", "sar_head.")
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(parts)}


def read_checkpoint(path: str | Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a PyTorch checkpoint or of its ``state_dict``; see `read_pickled`.

    Raises
    ------
    InputMissingError
        If the file does not exist.
    WeightsError
        If it contains anything other than tensors and plain values.
    """
    state = read_pickled(path)
    tensors = state.get("state_dict", state) if isinstance(state, dict) else None
    if not isinstance(tensors, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in tensors.items()
    ):
        raise WeightsError(f"{path} must contain a dict of tensors by name, or a 'state_dict' with them.")
    return tensors


def read_pickled(path: str | Path) -> Any:
    """Read a PyTorch file, and refuse code in it.

    Raises
    ------
    InputMissingError
        If the file does not exist.
    WeightsError
        If it contains anything other than tensors and plain values.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise InputMissingError(f"Checkpoint {path} cannot be read: {error.strerror}.") from error
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise WeightsError(
            f"{path} is not a checkpoint of tensors and plain values: {str(error).splitlines()[0]}"
        ) from error


def import_published(
    checkpoint: str | Path,
    output: str | Path,
    card: str | Path,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Convert a published checkpoint to weights with a card.

    Parameters
    ----------
    checkpoint : str or Path
        A ``.pth`` file saved by the authors' code.
    output : str or Path
        Weights to write.
    card : str or Path
        TOML file with the card's entries without ``network``, ``format_version`` and ``sha256``, which are derived from
        the tensors; ``scheme`` may be a name from ``SCHEMES``.
    overwrite : bool
        Replace an existing file that refnet did not write.
    progress : callable, optional
        Called at the start and after each of a few steps with the number of finished steps and of all.

    Returns
    -------
    Path
        ``output``.

    Raises
    ------
    InputMissingError, OutputError, StorageError
        If a file cannot be read or written.
    OptionsError
        If the output's name does not end in ``.safetensors``.
    ConfigError, WeightsError
        If the checkpoint or the card does not fit.
    """
    entries = read_toml(Path(card))
    check_output(Path(output), [".safetensors"], "weights", [Path(checkpoint)], overwrite)
    steps = Steps(progress, 3)
    tensors = read_checkpoint(checkpoint)
    steps.count()
    net = from_published(tensors)
    steps.count()
    if derived := sorted({"network", "format_version", "sha256"} & entries.keys()):
        raise WeightsError(f"{card} must not say {', '.join(derived)}: the checkpoint does.")
    if isinstance(scheme := entries.get("scheme"), str):
        if scheme not in SCHEMES:
            raise WeightsError(f"{card}: class scheme {scheme!r} is unknown; choose one of {', '.join(SCHEMES)}.")
        entries["scheme"] = SCHEMES[scheme].to_dict()
    for sensor in MODALITIES:
        if isinstance(entries.get(sensor), dict):
            entries[sensor].setdefault("unit", SENSORS[sensor].card_unit)
    save_weights(net, Card.from_dict(entries | {"network": asdict(net.config)}, card), output)
    steps.count()
    return Path(output)
