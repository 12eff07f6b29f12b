"""What a training starts from: nothing, REF-Net weights of one's own or a published checkpoint, or pretrained encoders.

Every way begins with a fresh network, whose new parts depend on the seed alone, and puts what is known in its place.
Each decision is a line for people: what was taken from where, and what is new.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from refnet_cli.classes.schemes import ClassScheme
from refnet_cli.errors import OptionsError, WeightsError
from refnet_cli.model.band_channels import Statistics, adapt_bands, known_statistics, places_of
from refnet_cli.model.card import Card, Modality
from refnet_cli.model.config import REFNetConfig
from refnet_cli.model.encoder_files import load_plain, load_pretrained
from refnet_cli.model.encoders import Chosen, Pretrained, compare_levels
from refnet_cli.model.refnet import REFNet, from_published, load_strictly
from refnet_cli.model.weight_files import is_pickled
from refnet_cli.model.weights import load_weights, read_checkpoint
from refnet_cli.training.config import TrainConfig
from refnet_cli.training.dataset import LabelledScene

HEADS = ("head", "optical_head", "sar_head")


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
    encoder_weights: Chosen,
    seed: int,
) -> Start:
    """Make the network that a training starts from.

    Parameters
    ----------
    config : REFNetConfig
        The network to initialise.
    optical_bands, sar_bands : tuple of str
        Bands of its inputs, in order.
    scheme : ClassScheme
        Classes of its output.
    init : Path, optional
        REF-Net weights with a card, or a published checkpoint. Other classes and other bands are adapted to.
    encoder_weights : "imagenet", Path or Pretrained, optional
        timm's pretrained encoders, a file of such weights, or encoders whose bands are known.
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
    if isinstance(encoder_weights, Pretrained):
        bands = {"optical": optical_bands, "sar": sar_bands}
        decisions, statistics = load_pretrained(net, encoder_weights, bands)
        return Start(net, statistics["optical"], statistics["sar"], decisions)
    if encoder_weights is not None:
        return Start(net, {}, {}, load_plain(net, encoder_weights))
    return Start(net, {}, {}, ["network: from scratch"])


def start_network(config: TrainConfig, scenes: Sequence[LabelledScene]) -> Start:
    """Make the network that a config starts from, see `start`, and compare its encoders with the scenes' levels."""
    init = Path(config.init) if config.init else None
    made = start(
        config.network, config.optical_bands, config.sar_bands, config.classes, init, config.encoders, config.seed
    )
    levels = {scene.name: scene.decided.get("optical.level") for scene in scenes}
    return made._replace(decisions=[*made.decisions, *compare_levels(config.encoders, levels)])


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
    for name, needed in bands.items():
        if card is None:
            decisions.append(_count_bands(init, name, getattr(theirs.config, f"{name}_bands"), needed))
            continue
        modality: Modality = getattr(card, name)
        decisions.append(adapt_bands(tensors, name, known, net.config.encoder, modality.bands, needed))
        statistics[name] = known_statistics(modality, needed)
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


def _check_network(init: Path, found: REFNetConfig, needed: REFNetConfig) -> None:
    """Refuse weights of another network; a tag of timm's, after a dot, only names pretrained weights."""
    if found.encoder.partition(".")[0] == needed.encoder.partition(".")[0] and (found.width, found.states) == (
        needed.width, needed.states,
    ):  # fmt: skip
        return
    theirs, ours = (f"encoder {c.encoder!r}, width {c.width}, states {c.states}" for c in (found, needed))
    remedy = f'set encoder = "{found.encoder}" and width = {found.width} in the regions file'
    if found.states != needed.states:
        remedy = "choose other weights"
    raise WeightsError(f"{init} has {theirs}; the training asks for {ours}: {remedy}.")


def _count_bands(init: Path, modality: str, found: int, needed: tuple[str, ...]) -> str:
    """Take the bands of a checkpoint that names none in the order given, if the number fits."""
    if found != len(needed):
        raise WeightsError(
            f"{init} takes {found} {modality} bands and does not name them; the training has {len(needed)} "
            f"({', '.join(needed)}). Import it with a card that names them, then start from that: "
            "refnet weights import."
        )
    return f"{modality} bands: the checkpoint names none; they are taken to be {', '.join(needed)}"


def _count_classes(found: int, needed: ClassScheme) -> tuple[list[int | None], str]:
    """Rows of a head whose classes have no names: all of them if the number fits, else none."""
    if found != needed.classes:
        return [None] * needed.classes, f"head: new, for the checkpoint has {found} classes instead of {needed.classes}"
    names = ", ".join(needed.names)
    return list(range(found)), f"head: taken over; the checkpoint names no classes, they are taken to be {names}"


def _match_classes(found: ClassScheme, needed: ClassScheme) -> tuple[list[int | None], str]:
    """Row of the known head for each row of the new one, by class name; row 0 is "no data" in both."""
    theirs, ours = ([name.strip().casefold() for name in scheme.names] for scheme in (found, needed))
    places = places_of(theirs, ours)
    rows = [0, *(None if place is None else place + 1 for place in places)]
    taken = [name for name, place in zip(needed.names, places, strict=True) if place is not None]
    new = [name for name, place in zip(needed.names, places, strict=True) if place is None]
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
