"""Read pretrained encoders from files, and put them into a network."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from refnet_cli.band_channels import Statistics, adapt_bands, band_tensors, known_statistics
from refnet_cli.card import is_pickled
from refnet_cli.encoders import ENCODERS, IMAGENET, SENSORS, EncoderFile, Pretrained, shorten
from refnet_cli.errors import InputMissingError, WeightsError
from refnet_cli.hub import fetch, quiet
from refnet_cli.model import REFNet
from refnet_cli.weights import read_pickled

_OTHER_BANDS = (
    "If its input is not red, green and blue, name its bands in a table: encoder_weights = "
    "{ optical = { file = ..., sha256 = ..., bands = [...] } }."
)


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
    path = _fetch_imagenet(name) if weights == IMAGENET else Path(weights)
    origin = f"timm's pretrained {name}" if weights == IMAGENET else path.name
    tensors = _without_common_prefix(read_tensors(path))
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
    unused = sorted(set(tensors) - set(loaded)) if set(loaded) <= set(tensors) else []
    return [*decisions, *_say_unused("pretrained encoders", unused), "decoders and heads: new"]


def load_pretrained(
    net: REFNet, encoders: Pretrained, bands: Mapping[str, tuple[str, ...]]
) -> tuple[list[str], dict[str, Statistics]]:
    """Put pretrained encoders whose bands are known into a network.

    Parameters
    ----------
    net : REFNet
        It is changed.
    encoders : Pretrained
    bands : mapping of str to tuple of str
        Bands of the network's inputs by sensor, in order.

    Returns
    -------
    decisions : list of str
        A line each for people: what was taken from where, and which tensors were not found or not used.
    statistics : dict of str to dict
        By sensor and band, the mean and standard deviation that an encoder was trained with, of the bands it knows.

    Raises
    ------
    InputMissingError
        If a file cannot be read or fetched.
    WeightsError
        If a file is another one than its checksum says, or does not fit the network.
    """
    decisions, statistics = [], {}
    for sensor in SENSORS:
        file = encoders.files.get(sensor)
        if file is None:
            decisions.append(f"{sensor} encoder: new")
            statistics[sensor] = Statistics()
            continue
        path = file.file or _fetch_file(sensor, file)
        _check_file(path, sensor, file)
        encoder = net.get_submodule(f"{sensor}_encoder")
        decisions += _load_file(encoder, net.config.encoder, path, sensor, file, bands[sensor])
        modality = file.statistics(sensor)
        statistics[sensor] = known_statistics(modality, bands[sensor]) if modality else Statistics()
        decisions.append(_say_statistics(sensor, statistics[sensor], bands[sensor]))
    return [*decisions, "decoders and heads: new"], statistics


def _fetch_file(sensor: str, file: EncoderFile) -> Path:
    repository, commit, filename = file.hub_file()
    known = f'name = "{file.name}"' if file.name else "bands = [...]"
    name = filename.rsplit("/", 1)[-1]
    return fetch(
        repository, filename, commit, f"The {sensor} encoder {file.title!r}",
        f"put {name} next to the regions file, which then says encoder_weights = {{ {sensor} = {{ {known}, "
        f'file = "{name}", sha256 = "{file.sha256[:8]}..." }} }}.',
    )  # fmt: skip


def _check_file(path: Path, sensor: str, file: EncoderFile) -> None:
    """Refuse a file that is not the one whose checksum is stated."""
    try:
        with path.open("rb") as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
            size = opened.tell()
    except OSError as error:
        raise InputMissingError(f"The {sensor} encoder {path} cannot be read: {error.strerror}.") from error
    if found != file.sha256:
        raise WeightsError(
            f"{path} ({size:,} bytes) is not the {sensor} encoder that is stated: its SHA-256 is {found}, stated is "
            f"{file.sha256}. Remove the file and fetch it again, or correct the checksum."
        )


def _load_file(
    encoder: nn.Module, architecture: str, path: Path, sensor: str, file: EncoderFile, bands: tuple[str, ...]
) -> list[str]:
    """Put a file's tensors into an encoder, with the channels that its bands need; return what to say of it."""
    tensors = read_tensors(path)
    own = encoder.state_dict()
    inputs = band_tensors(architecture, len(file.bands))
    prefix = _find_prefix(path, sensor, file.prefix, own, tensors, inputs[0])
    found = {name: tensors[prefix + name] for name in own if prefix + name in tensors}
    missing = [name for name in own if name not in found]
    unused = sorted(tensors.keys() - {prefix + name for name in found})
    needed = [name for name in missing if own[name].is_floating_point()]
    if needed:
        raise WeightsError(
            f"{path} is not the weights of encoder {architecture!r}: {len(needed)} of {len(own)} tensors are missing "
            f"({shorten(needed)}). Not used are {shorten(unused) or 'none'}. Set encoder to the network of the file."
        )
    for name in inputs:
        if found[name].ndim != 4 or found[name].shape[1] != len(file.bands):
            raise WeightsError(
                f"{path} takes {_channels(found[name])} bands, but {len(file.bands)} are named: "
                f"{', '.join(file.bands)}. Name the bands of the file's input, in order."
            )
    full = {f"{sensor}_encoder.{name}": tensor for name, tensor in found.items()}
    said = adapt_bands(full, sensor, dict(full), architecture, file.bands, bands)
    adapted = {name: full[f"{sensor}_encoder.{name}"] for name in found}
    other = [name for name, tensor in adapted.items() if tensor.shape != own[name].shape]
    if other:
        raise WeightsError(
            f"{path} is not the weights of encoder {architecture!r}: {len(other)} tensors have another shape "
            f"({shorten(other)})."
        )
    encoder.load_state_dict(own | adapted)
    return [
        f"{sensor} encoder: from {file.title} ({file.licence}), file {path.name}, SHA-256 {file.sha256[:12]}..."
        + (f", names without {prefix!r}" if prefix else ""),
        said,
        *([f"{sensor} tensors: {len(missing)} not found, which stay new: {shorten(missing)}"] if missing else []),
        *_say_unused(f"{sensor} tensors", unused),
    ]


def _channels(tensor: Tensor) -> int | str:
    return tensor.shape[1] if tensor.ndim > 1 else "no"


def _find_prefix(
    path: Path, sensor: str, stated: str | None, own: Iterable[str], tensors: Mapping[str, Tensor], first: str
) -> str:
    """Return what the names of an encoder's tensors begin with in a file: what most of them are found by."""
    if stated is not None:
        return stated if not stated or stated.endswith(".") else f"{stated}."
    prefixes = [name.removesuffix(first) for name in tensors if name == first or name.endswith(f".{first}")]
    counts = {prefix: sum(prefix + name in tensors for name in own) for prefix in prefixes}
    best = sorted(prefix for prefix, count in counts.items() if count == max(counts.values()))
    if len(best) > 1:
        raise WeightsError(
            f"{path} holds {len(best)} encoders, whose tensors' names begin with {shorten(list(map(repr, best)))}. "
            f'State which, as encoder_weights = {{ {sensor} = {{ ..., prefix = "{best[0]}" }} }}.'
        )
    return best[0] if best else ""


def _say_unused(what: str, unused: list[str]) -> list[str]:
    return [f"{what}: {len(unused)} of the file not used: {shorten(unused)}"] if unused else []


def _say_statistics(sensor: str, known: Statistics, bands: tuple[str, ...]) -> str:
    measured = [band for band in bands if band not in known]
    parts = {"of the encoder": list(known), "measured": measured}
    return f"{sensor} statistics: " + "; ".join(f"{', '.join(names)} {how}" for how, names in parts.items() if names)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors by name of a safetensors file or a PyTorch checkpoint, read as data only."""
    try:
        pickled = is_pickled(path)
    except InputMissingError as error:
        names = ", ".join((IMAGENET, *ENCODERS))
        raise InputMissingError(f"{error} Check the path, or give the name of known encoders: {names}.") from error
    if pickled:
        return _tensors_within(read_pickled(path), path)
    try:
        return load_file(path)
    except SafetensorError as error:
        raise WeightsError(f"{path} is neither a safetensors file nor a PyTorch checkpoint: {error}.") from error


def _tensors_within(state: Any, path: Path) -> dict[str, Tensor]:
    """Tensors by name of what a checkpoint holds: those of its ``state_dict``, else of all tables of tensors in it.

    Names in a table follow the table's own, with a dot between them, unless it is the only one.
    """
    found = state.get("state_dict", state) if isinstance(state, Mapping) else None
    while isinstance(found, Mapping) and not any(isinstance(value, Tensor) for value in found.values()):
        tables = [value for value in found.values() if isinstance(value, Mapping) and _flat(value)]
        if len(tables) != 1:
            break
        found = tables[0]
    tensors = _flat(found) if isinstance(found, Mapping) else {}
    if not tensors:
        raise WeightsError(f"{path} holds no tensors by name.")
    return tensors


def _flat(table: Mapping[Any, Any]) -> dict[str, Tensor]:
    """Tensors by dotted name; entries whose keys are no names, as an optimiser's, are left out."""
    tensors: dict[str, Tensor] = {}
    for name, value in table.items():
        if isinstance(name, str) and isinstance(value, Tensor):
            tensors[name] = value
        elif isinstance(name, str) and isinstance(value, Mapping):
            tensors |= {f"{name}.{inner}": tensor for inner, tensor in _flat(value).items()}
    return tensors


def _without_common_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Leave out what all names begin with, up to a dot, as a wrapper around the network adds it."""
    while len({name.partition(".")[0] for name in tensors}) == 1 and all("." in name for name in tensors):
        tensors = {name.partition(".")[2]: tensor for name, tensor in tensors.items()}
    return tensors


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
            f"{', '.join(missing[:3])}. {_OTHER_BANDS}"
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
        raise WeightsError(
            f"{path} is not the weights of encoder {name!r} for {bands} bands: {reason} {_OTHER_BANDS}"
        ) from error
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
