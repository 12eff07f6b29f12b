"""Load pretrained encoders from files into a network."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from refnet_cli.errors import InputMissingError, WeightsError
from refnet_cli.model.band_channels import Statistics, adapt_bands, band_tensors, known_statistics
from refnet_cli.model.encoders import ENCODERS, IMAGENET, EncoderFile, Pretrained, shorten
from refnet_cli.model.refnet import REFNet
from refnet_cli.model.weight_files import is_pickled
from refnet_cli.model.weights import read_pickled
from refnet_cli.sensors.sensor import MODALITIES
from refnet_cli.system.hub import fetch, quiet

_OTHER_BANDS = (
    "If its input is not RGB, name its bands in a table: encoder_weights = "
    "{ optical = { file = ..., sha256 = ..., bands = [...] } }."
)


def load_timm_encoders(net: REFNet, weights: str | Path) -> list[str]:
    """Load timm's pretrained weights, or a file in timm's format without band names, into both encoders.

    Parameters
    ----------
    net : REFNet
        Modified in place.
    weights : str or Path
        ``imagenet``, or a file.

    Returns
    -------
    list of str
        Log lines: what was loaded from where.

    Raises
    ------
    InputMissingError
        If the file is unreadable or cannot be downloaded.
    WeightsError
        If it is damaged or belongs to another network.
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
            + (f", first convolution adapted to {bands} bands by repeating and scaling channels" if adapted else "")
        )
    unused = sorted(set(tensors) - set(loaded)) if set(loaded) <= set(tensors) else []
    return [*decisions, *_describe_unused("pretrained encoders", unused), "decoders and heads: new"]


def load_pretrained(
    net: REFNet, encoders: Pretrained, bands: Mapping[str, tuple[str, ...]]
) -> tuple[list[str], dict[str, Statistics]]:
    """Load pretrained encoders with known bands into a network.

    Parameters
    ----------
    net : REFNet
        Modified in place.
    encoders : Pretrained
    bands : mapping of str to tuple of str
        Input bands of the network by sensor, in order.

    Returns
    -------
    decisions : list of str
        Log lines: what was loaded from where, and which tensors were missing or not used.
    statistics : dict of str to dict
        Mean and standard deviation that an encoder was trained with, by sensor and band.

    Raises
    ------
    InputMissingError
        If a file is unreadable or cannot be downloaded.
    WeightsError
        If a file does not match its checksum or the network.
    """
    decisions: list[str] = []
    statistics: dict[str, Statistics] = {}
    for sensor in MODALITIES:
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
        decisions.append(_describe_statistics(sensor, statistics[sensor], bands[sensor]))
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
    """Refuse a file that does not match the stated checksum."""
    try:
        with path.open("rb") as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
            size = opened.tell()
    except OSError as error:
        raise InputMissingError(f"The {sensor} encoder {path} cannot be read: {error.strerror}.") from error
    if found != file.sha256:
        raise WeightsError(
            f"{path} ({size:,} bytes) is not the expected {sensor} encoder: its SHA-256 is {found}, stated is "
            f"{file.sha256}. Download the file again, or correct the checksum."
        )


def _load_file(
    encoder: nn.Module, architecture: str, path: Path, sensor: str, file: EncoderFile, bands: tuple[str, ...]
) -> list[str]:
    """Load the tensors of a file into an encoder, adapt its bands, and return log lines."""
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
            f"{path} does not fit encoder {architecture!r}: {len(needed)} of {len(own)} tensors are missing "
            f"({shorten(needed)}). Unused tensors: {shorten(unused) or 'none'}. Set encoder to the file's architecture."
        )
    for name in inputs:
        if found[name].ndim != 4 or found[name].shape[1] != len(file.bands):
            raise WeightsError(
                f"{path} takes {_channels(found[name])} bands, but {len(file.bands)} are named: "
                f"{', '.join(file.bands)}. Set bands to the input bands of the encoder, in order."
            )
    full = {f"{sensor}_encoder.{name}": tensor for name, tensor in found.items()}
    decision = adapt_bands(full, sensor, dict(full), architecture, file.bands, bands)
    adapted = {name: full[f"{sensor}_encoder.{name}"] for name in found}
    other = [name for name, tensor in adapted.items() if tensor.shape != own[name].shape]
    if other:
        raise WeightsError(
            f"{path} does not fit encoder {architecture!r}: {len(other)} tensors have another shape ({shorten(other)})."
        )
    encoder.load_state_dict(own | adapted)
    return [
        f"{sensor} encoder: from {file.title} ({file.licence}), file {path.name}, SHA-256 {file.sha256[:12]}..."
        + (f", names without {prefix!r}" if prefix else ""),
        decision,
        *([f"{sensor} tensors: {len(missing)} not found, left new: {shorten(missing)}"] if missing else []),
        *_describe_unused(f"{sensor} tensors", unused),
    ]


def _channels(tensor: Tensor) -> int | str:
    return tensor.shape[1] if tensor.ndim > 1 else "no"


def _find_prefix(
    path: Path, sensor: str, stated: str | None, own: Iterable[str], tensors: Mapping[str, Tensor], first: str
) -> str:
    """Return the prefix of an encoder's tensor names in a file: the one that matches the most tensors."""
    if stated is not None:
        return stated if not stated or stated.endswith(".") else f"{stated}."
    prefixes = [name.removesuffix(first) for name in tensors if name == first or name.endswith(f".{first}")]
    counts = {prefix: sum(prefix + name in tensors for name in own) for prefix in prefixes}
    best = sorted(prefix for prefix, count in counts.items() if count == max(counts.values()))
    if len(best) > 1:
        raise WeightsError(
            f"{path} contains {len(best)} encoders, with the prefixes {shorten(list(map(repr, best)))}. "
            f'Choose one: encoder_weights = {{ {sensor} = {{ ..., prefix = "{best[0]}" }} }}.'
        )
    return best[0] if best else ""


def _describe_unused(what: str, unused: list[str]) -> list[str]:
    return [f"{what}: {len(unused)} in the file not used: {shorten(unused)}"] if unused else []


def _describe_statistics(sensor: str, known: Statistics, bands: tuple[str, ...]) -> str:
    measured = [band for band in bands if band not in known]
    parts = {"from the encoder": list(known), "measured": measured}
    return f"{sensor} statistics: " + "; ".join(f"{', '.join(names)} {how}" for how, names in parts.items() if names)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file or a PyTorch checkpoint, without running code from it."""
    try:
        pickled = is_pickled(path)
    except InputMissingError as error:
        names = ", ".join((IMAGENET, *ENCODERS))
        raise InputMissingError(f"{error} Check the path, or choose known encoders: {names}.") from error
    if pickled:
        return _tensors_within(read_pickled(path), path)
    try:
        return load_file(path)
    except SafetensorError as error:
        raise WeightsError(f"{path} is neither a safetensors file nor a PyTorch checkpoint: {error}.") from error


def _tensors_within(state: Any, path: Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint by name: those of its ``state_dict``, otherwise of all dicts of tensors.

    Names in a nested dict get the dict's name and a dot as prefix, unless it is the only dict.
    """
    found = state.get("state_dict", state) if isinstance(state, Mapping) else None
    while isinstance(found, Mapping) and not any(isinstance(value, Tensor) for value in found.values()):
        tables = [value for value in found.values() if isinstance(value, Mapping) and _flat(value)]
        if len(tables) != 1:
            break
        found = tables[0]
    tensors = _flat(found) if isinstance(found, Mapping) else {}
    if not tensors:
        raise WeightsError(f"{path} contains no named tensors.")
    return tensors


def _flat(table: Mapping[Any, Any]) -> dict[str, Tensor]:
    """Return the tensors by dotted name; skip entries whose keys are not str, as in an optimiser's state."""
    tensors: dict[str, Tensor] = {}
    for name, value in table.items():
        if isinstance(name, str) and isinstance(value, Tensor):
            tensors[name] = value
        elif isinstance(name, str) and isinstance(value, Mapping):
            tensors |= {f"{name}.{inner}": tensor for inner, tensor in _flat(value).items()}
    return tensors


def _without_common_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove the first part of all names, up to the dot, if it is the same, as added by a wrapper module."""
    while len({name.partition(".")[0] for name in tensors}) == 1 and all("." in name for name in tensors):
        tensors = {name.partition(".")[2]: tensor for name, tensor in tensors.items()}
    return tensors


def _load_timm(name: str, bands: int, tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return the encoder's tensors after timm loaded a checkpoint into it.

    timm silently ignores missing tensors. To detect them, load the checkpoint a second time with NaN: tensors that are
    not NaN do not come from the checkpoint.
    """
    loaded = _adapt_timm(name, bands, tensors, path)
    marked = _adapt_timm(name, bands, {key: _mark(tensor) for key, tensor in tensors.items()}, path)
    missing = [key for key, tensor in marked.items() if tensor.is_floating_point() and not tensor.isnan().all()]
    if missing:
        raise WeightsError(
            f"{path} does not fit encoder {name!r}: {len(missing)} tensors are missing, first "
            f"{', '.join(missing[:3])}. {_OTHER_BANDS}"
        )
    return loaded


def _mark(tensor: Tensor) -> Tensor:
    return torch.full_like(tensor, math.nan) if tensor.is_floating_point() else tensor


def _adapt_timm(name: str, bands: int, tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    import timm  # takes two seconds

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
            f"{path} does not fit encoder {name!r} with {bands} bands: {reason} {_OTHER_BANDS}"
        ) from error
    return encoder.state_dict()


def _fetch_imagenet(encoder: str) -> Path:
    """Return the file of timm's pretrained weights, from the cache or the Hugging Face hub."""
    import timm  # takes two seconds

    known = timm.models.get_pretrained_cfg(encoder)
    if not known or not known.hf_hub_id:
        elsewhere = f", but {known.url}" if known and known.url else ""
        raise InputMissingError(
            f"timm has no pretrained weights on the Hugging Face hub for encoder {encoder!r}{elsewhere}. "
            "Give a file: --encoder-weights FILE, or train without pretrained weights."
        )
    filename = known.hf_hub_filename or "model.safetensors"
    return fetch(
        known.hf_hub_id, filename, None, f"The pretrained weights of encoder {encoder!r}",
        f"give it as --encoder-weights {filename}.",
    )  # fmt: skip
