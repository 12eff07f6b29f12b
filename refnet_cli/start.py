"""What a training starts from: nothing, REF-Net weights of one's own or a published checkpoint, or timm's encoders.

Every way begins with a fresh network, whose new parts depend on the seed alone, and puts what is known in its place.
Each decision is a line for people: what was taken from where, and what is new.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from refnet_cli.card import Card, Modality, REFNetConfig, is_pickled
from refnet_cli.errors import InputMissingError, OptionsError, WeightsError
from refnet_cli.model import REFNet, from_published, load_strictly
from refnet_cli.products import ClassScheme, canonical_band
from refnet_cli.weights import load_weights, read_checkpoint

HEADS = ("head", "optical_head", "sar_head")
CONNECT_SECONDS = 5.0
# The bases are what the hub's HTTP library raises; which library that is differs between versions of the hub.
_NETWORK_ERRORS: tuple[Any, ...] = (OSError, *HfHubHTTPError.__bases__)

Statistics = dict[str, tuple[float, float]]


class Start(NamedTuple):
    """A network to train, and how it came about."""

    net: REFNet
    optical_statistics: Statistics
    """Mean and standard deviation, by optical band, that the network was trained with; only of the bands it knows."""
    sar_statistics: Statistics
    """The same for the SAR bands."""
    decisions: list[str]
    """A line each for people: what was taken from where, and what is new."""


def start(
    config: REFNetConfig,
    optical_bands: tuple[str, ...],
    sar_bands: tuple[str, ...],
    scheme: ClassScheme,
    init: Path | None,
    encoder_weights: str | Path | None,
    seed: int,
) -> Start:
    """Make the network that a training starts from.

    Parameters
    ----------
    config : REFNetConfig
        The network wanted.
    optical_bands, sar_bands : tuple of str
        Bands of its inputs, in order.
    scheme : ClassScheme
        Classes of its output.
    init : Path, optional
        REF-Net weights with a card, or a published checkpoint. Other classes and other bands are adapted to.
    encoder_weights : str or Path, optional
        ``imagenet`` for timm's pretrained encoders, or a file of such weights.
    seed : int
        What is new depends on it alone.

    Returns
    -------
    Start

    Raises
    ------
    OptionsError
        If both ``init`` and ``encoder_weights`` are given.
    InputMissingError
        If a file cannot be read or fetched.
    WeightsError
        If weights are damaged or do not fit the network.
    """
    if init is not None and encoder_weights is not None:
        raise OptionsError("--init already brings encoders; give either it or --encoder-weights, not both.")
    torch.manual_seed(seed)
    net = REFNet(config)
    if init is not None:
        return _from_refnet(net, Path(init), {"optical": optical_bands, "sar": sar_bands}, scheme)
    if encoder_weights is not None:
        return Start(net, {}, {}, _load_encoders(net, encoder_weights))
    return Start(net, {}, {}, ["network: from scratch"])


def freeze_encoders(net: REFNet) -> None:
    """Let the encoders take no gradients; `set_training` keeps their batch norms as they are, too."""
    for encoder in (net.optical_encoder, net.sar_encoder):
        encoder.requires_grad_(False)


def set_training(net: REFNet, frozen: bool) -> None:
    """Put a network in training mode, but encoders that are frozen in evaluation mode."""
    net.train()
    if frozen:
        net.optical_encoder.eval()
        net.sar_encoder.eval()


def _from_refnet(net: REFNet, init: Path, bands: dict[str, tuple[str, ...]], scheme: ClassScheme) -> Start:
    card: Card | None = None
    if is_pickled(init):
        theirs = from_published(read_checkpoint(init))
    else:
        theirs, card = load_weights(init, msie=True)
    _check_network(init, theirs.config, net.config)
    new, known = net.state_dict(), theirs.state_dict()
    tensors = new | {name: tensor for name, tensor in known.items() if name in new}
    decisions = [f"network: from {init.name}"]
    statistics: dict[str, Statistics] = {"optical": {}, "sar": {}}
    for name, wanted in bands.items():
        if card is None:
            decisions.append(_count_bands(init, name, getattr(theirs.config, f"{name}_bands"), wanted))
            continue
        modality: Modality = getattr(card, name)
        decisions.append(_adapt_bands(tensors, name, known, net.config.encoder, modality.bands, wanted))
        statistics[name] = _known_statistics(modality, wanted)
    if card is None:
        rows, said = _count_classes(theirs.config.classes, scheme)
    else:
        rows, said = _match_classes(card.scheme, scheme)
    _adapt_heads(tensors, new, known, rows)
    decisions.append(said)
    if net.config.msie != theirs.config.msie:
        decisions.append("MSIE decoders: " + ("new, the weights have none" if net.config.msie else "left out"))
    load_strictly(net, tensors)
    return Start(net, statistics["optical"], statistics["sar"], decisions)


def _check_network(init: Path, found: REFNetConfig, wanted: REFNetConfig) -> None:
    """Refuse weights of another network; a tag of timm's, after a dot, only names pretrained weights."""
    if found.encoder.partition(".")[0] == wanted.encoder.partition(".")[0] and (found.width, found.states) == (
        wanted.width, wanted.states,
    ):  # fmt: skip
        return
    theirs, ours = (f"encoder {c.encoder!r}, width {c.width}, states {c.states}" for c in (found, wanted))
    remedy = f'set encoder = "{found.encoder}" and width = {found.width} in the regions file'
    if found.states != wanted.states:
        remedy = "choose other weights"
    raise WeightsError(f"{init} has {theirs}; wanted are {ours}: {remedy}.")


def _count_bands(init: Path, modality: str, found: int, wanted: tuple[str, ...]) -> str:
    """Take the bands of a checkpoint that names none in the order given, if the number fits."""
    if found != len(wanted):
        raise WeightsError(
            f"{init} takes {found} {modality} bands and does not name them; wanted are {len(wanted)} "
            f"({', '.join(wanted)}). Import it with a card that names them, then start from that: "
            "refnet weights import."
        )
    return f"{modality} bands: the checkpoint names none; they are taken to be {', '.join(wanted)}"


def _adapt_bands(
    tensors: dict[str, Tensor],
    modality: str,
    known: dict[str, Tensor],
    encoder: str,
    found: Sequence[str],
    wanted: Sequence[str],
) -> str:
    """Give the first convolution its channels by band name; a new band gets the mean of all channels."""
    places = _places(_plain_bands(found), _plain_bands(wanted))
    taken = {place for place in places if place is not None}
    # New bands take the place of those left out; any more must not make the sum over the bands larger than it was.
    scale = min(1.0, len(found) / len(wanted)) if None in places else 1.0
    if places != list(range(len(found))):
        for name in _band_tensors(encoder, len(found)):
            weight = known[f"{modality}_encoder.{name}"]
            mean = weight.mean(1)
            channels = [mean if place is None else weight[:, place] for place in places]
            tensors[f"{modality}_encoder.{name}"] = torch.stack(channels, 1) * scale
    parts = {
        "taken over": [band for band, place in zip(wanted, places, strict=True) if place is not None],
        "new, as the mean of all": [band for band, place in zip(wanted, places, strict=True) if place is None],
        "left out": [band for place, band in enumerate(found) if place not in taken],
    }
    return f"{modality} bands: " + "; ".join(f"{', '.join(names)} {what}" for what, names in parts.items() if names)


def _places(found: Sequence[str], wanted: Sequence[str]) -> list[int | None]:
    """Where each wanted name is among those found; None where it is not."""
    return [found.index(name) if name in found else None for name in wanted]


def _plain_bands(bands: Sequence[str]) -> list[str]:
    return [canonical_band(band) or band.casefold() for band in bands]


def _band_tensors(encoder: str, bands: int) -> list[str]:
    """Name an encoder's tensors that see the bands: those whose shape changes with their number."""
    few, more = (
        timm.create_model(encoder, features_only=True, in_chans=number).state_dict() for number in (bands, bands + 1)
    )
    names = [name for name, tensor in few.items() if tensor.shape != more[name].shape]
    if not all(few[name].ndim == 4 and few[name].shape[1] == bands for name in names):
        raise WeightsError(f"Encoder {encoder!r} cannot be adapted to other bands; train with those of the weights.")
    return names


def _known_statistics(modality: Modality, wanted: Sequence[str]) -> Statistics:
    places = _places(_plain_bands(modality.bands), _plain_bands(wanted))
    return {
        band: (modality.mean[place], modality.std[place])
        for band, place in zip(wanted, places, strict=True)
        if place is not None
    }


def _count_classes(found: int, wanted: ClassScheme) -> tuple[list[int | None], str]:
    """Rows of a head whose classes have no names: all of them if the number fits, else none."""
    if found != wanted.classes:
        return [None] * wanted.classes, f"head: new, for the checkpoint has {found} classes instead of {wanted.classes}"
    names = ", ".join(wanted.names)
    return list(range(found)), f"head: taken over; the checkpoint names no classes, they are taken to be {names}"


def _match_classes(found: ClassScheme, wanted: ClassScheme) -> tuple[list[int | None], str]:
    """Row of the known head for each row of the new one, by class name; row 0 is "no data" in both."""
    theirs, ours = ([name.strip().casefold() for name in scheme.names] for scheme in (found, wanted))
    places = _places(theirs, ours)
    rows = [0, *(None if place is None else place + 1 for place in places)]
    taken = [name for name, place in zip(wanted.names, places, strict=True) if place is not None]
    new = [name for name, place in zip(wanted.names, places, strict=True) if place is None]
    if not taken:
        return rows, f"head: new; the weights know {', '.join(found.names)}"
    said = f"head: {len(taken)} class{'es' * (len(taken) != 1)} taken over ({', '.join(taken)})"
    return rows, said + (f", {len(new)} new ({', '.join(new)})" if new else "")


def _adapt_heads(
    tensors: dict[str, Tensor], new: dict[str, Tensor], known: dict[str, Tensor], rows: Sequence[int | None]
) -> None:
    """Put the known rows of every head that both networks have into the new head."""
    ours = [row for row, theirs in enumerate(rows) if theirs is not None]
    theirs = [row for row in rows if row is not None]
    for name in (f"{head}.classify.{part}" for head in HEADS for part in ("weight", "bias")):
        if name in new and name in known:
            tensors[name] = new[name].clone()
            tensors[name][ours] = known[name][theirs]


def _load_encoders(net: REFNet, weights: str | Path) -> list[str]:
    """Put pretrained weights into both encoders."""
    name = net.config.encoder
    path = _fetch(name) if weights == "imagenet" else Path(weights)
    origin = f"timm's pretrained {name}" if weights == "imagenet" else path.name
    tensors = _read_tensors(path)
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


def _read_tensors(path: Path) -> dict[str, Tensor]:
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
        with _quiet():
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


def _fetch(encoder: str) -> Path:
    """File of timm's pretrained weights, from the hub's cache or the network."""
    known = timm.models.get_pretrained_cfg(encoder)
    if not known or not known.hf_hub_id:
        elsewhere = f", but {known.url}" if known and known.url else ""
        raise InputMissingError(
            f"timm names no pretrained weights on the hub for encoder {encoder!r}{elsewhere}: "
            "give a file of them as --encoder-weights, or train without."
        )
    filename = known.hf_hub_filename or "model.safetensors"
    cached = try_to_load_from_cache(known.hf_hub_id, filename)
    if isinstance(cached, str):
        return Path(cached)
    url = hf_hub_url(known.hf_hub_id, filename)
    try:
        with _quiet():
            # Fails at once, where the download would try again for a minute.
            get_hf_file_metadata(url, timeout=CONNECT_SECONDS)
            return Path(hf_hub_download(known.hf_hub_id, filename))
    except _NETWORK_ERRORS as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputMissingError(
            f"The pretrained weights of encoder {encoder!r} could not be fetched ({reason}): "
            f"fetch {url} and give it as --encoder-weights {filename}."
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep warnings of timm and the hub from the user, who is told in our words."""
    loggers = [logging.getLogger(name) for name in ("timm", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
