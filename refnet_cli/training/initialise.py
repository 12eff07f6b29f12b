"""Initialise the network of a training: from scratch, from REF-Net weights, or with pretrained encoders.

Start with a random network that depends on the seed alone, then copy the available tensors into it. Each decision is
logged: what was copied from where, and what is new.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from refnet_cli.classes.schemes import ClassScheme
from refnet_cli.errors import OptionsError, WeightsError
from refnet_cli.model.band_channels import Statistics, adapt_bands, known_statistics, match_names
from refnet_cli.model.card import Card, Modality
from refnet_cli.model.config import REFNetConfig
from refnet_cli.model.encoder_files import load_pretrained, load_timm_encoders
from refnet_cli.model.encoders import Chosen, Pretrained, compare_levels
from refnet_cli.model.published_checkpoint import from_published
from refnet_cli.model.refnet import REFNet, load_strictly
from refnet_cli.model.weight_files import is_pickled
from refnet_cli.model.weights import load_weights, read_checkpoint
from refnet_cli.training.config import TrainConfig
from refnet_cli.training.dataset import LabelledScene

HEADS = ("head", "optical_head", "sar_head")


class InitialNetwork(NamedTuple):
    """A network to train, with the statistics of its known bands and a log of its initialisation."""

    net: REFNet
    optical_statistics: Statistics
    """Mean and standard deviation of each optical band that the initial weights were trained with."""
    sar_statistics: Statistics
    """The same for the SAR bands."""
    decisions: list[str]
    """Log lines: what was copied from where, and what is new."""


def initialise(
    config: REFNetConfig,
    optical_bands: tuple[str, ...],
    sar_bands: tuple[str, ...],
    scheme: ClassScheme,
    init: Path | None,
    encoder_weights: Chosen,
    seed: int,
) -> InitialNetwork:
    """Create the initial network of a training.

    Parameters
    ----------
    config : REFNetConfig
        Settings of the network.
    optical_bands, sar_bands : tuple of str
        Input bands, in order.
    scheme : ClassScheme
        Output classes.
    init : Path, optional
        REF-Net weights with a card, or a published checkpoint. Differing classes and bands are adapted.
    encoder_weights : "imagenet", Path or Pretrained, optional
        timm's pretrained encoders, a file with such weights, or encoders with known bands.
    seed : int
        Seed of all new tensors.

    Returns
    -------
    InitialNetwork

    Raises
    ------
    OptionsError
        If both ``init`` and ``encoder_weights`` are given.
    InputMissingError
        If a file cannot be read or downloaded.
    WeightsError
        If weights are damaged or do not fit the network.
    """
    if init is not None and encoder_weights is not None:
        raise OptionsError("--init already includes encoders. Give either --init or --encoder-weights.")
    torch.manual_seed(seed)
    net = REFNet(config)
    if init is not None:
        return _from_refnet(net, Path(init), {"optical": optical_bands, "sar": sar_bands}, scheme)
    if isinstance(encoder_weights, Pretrained):
        bands = {"optical": optical_bands, "sar": sar_bands}
        decisions, statistics = load_pretrained(net, encoder_weights, bands)
        return InitialNetwork(net, statistics["optical"], statistics["sar"], decisions)
    if encoder_weights is not None:
        return InitialNetwork(net, {}, {}, load_timm_encoders(net, encoder_weights))
    return InitialNetwork(net, {}, {}, ["network: from scratch"])


def initialise_from_config(config: TrainConfig, scenes: Sequence[LabelledScene]) -> InitialNetwork:
    """Create the initial network of a config, and compare the encoder's processing level with the scenes'."""
    init = Path(config.init) if config.init else None
    made = initialise(
        config.network, config.optical_bands, config.sar_bands, config.classes, init, config.encoders, config.seed
    )
    levels = {scene.name: scene.decided.get("optical.level") for scene in scenes}
    return made._replace(decisions=[*made.decisions, *compare_levels(config.encoders, levels)])


def freeze_encoders(net: REFNet) -> None:
    """Disable gradients of the encoders; `set_training` freezes their batch norms too."""
    for encoder in (net.optical_encoder, net.sar_encoder):
        encoder.requires_grad_(False)


def set_training(net: REFNet, frozen: bool) -> None:
    """Put a network in training mode, and frozen encoders in evaluation mode."""
    net.train()
    if frozen:
        net.optical_encoder.eval()
        net.sar_encoder.eval()


def _from_refnet(net: REFNet, init: Path, bands: dict[str, tuple[str, ...]], scheme: ClassScheme) -> InitialNetwork:
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
        rows, decision = _count_classes(theirs.config.classes, scheme)
    else:
        rows, decision = _match_classes(card.scheme, scheme)
    _adapt_heads(tensors, new, known, rows)
    decisions.append(decision)
    if net.config.msie != theirs.config.msie:
        decisions.append("MSIE decoders: " + ("new, the weights have none" if net.config.msie else "removed"))
    load_strictly(net, tensors)
    return InitialNetwork(net, statistics["optical"], statistics["sar"], decisions)


def _check_network(init: Path, found: REFNetConfig, needed: REFNetConfig) -> None:
    """Refuse weights of another architecture; ignore timm's tag after the dot, which only names pretrained weights."""
    if found.encoder.partition(".")[0] == needed.encoder.partition(".")[0] and (found.width, found.states) == (
        needed.width, needed.states,
    ):  # fmt: skip
        return
    theirs, ours = (f"encoder {c.encoder!r}, width {c.width}, states {c.states}" for c in (found, needed))
    remedy = f'Set encoder = "{found.encoder}" and width = {found.width} in the regions file'
    if found.states != needed.states:
        remedy = "Choose other weights"
    raise WeightsError(f"{init} has {theirs}, but the config has {ours}. {remedy}.")


def _count_bands(init: Path, modality: str, found: int, needed: tuple[str, ...]) -> str:
    """Assume the given band order for a checkpoint without band names; refuse a different number of bands."""
    if found != len(needed):
        raise WeightsError(
            f"{init} has {found} {modality} bands without names, but the config has {len(needed)} "
            f"({', '.join(needed)}). Import the checkpoint with a card that names its bands (refnet weights import), "
            "and start from the result."
        )
    return f"{modality} bands: the checkpoint has no band names; {', '.join(needed)} is assumed"


def _count_classes(found: int, needed: ClassScheme) -> tuple[list[int | None], str]:
    """Return the rows to copy from a head without class names: all of them if the number fits, otherwise none."""
    if found != needed.classes:
        return [None] * needed.classes, f"head: new, the checkpoint has {found} classes instead of {needed.classes}"
    names = ", ".join(needed.names)
    return list(range(found)), f"head: copied; the checkpoint has no class names, {names} is assumed"


def _match_classes(found: ClassScheme, needed: ClassScheme) -> tuple[list[int | None], str]:
    """Return the known head's row for each row of the new head, by class name; row 0 is "no data" in both."""
    theirs, ours = ([name.strip().casefold() for name in scheme.names] for scheme in (found, needed))
    matches = match_names(theirs, ours)
    rows = [0, *(None if match is None else match + 1 for match in matches)]
    copied = [name for name, match in zip(needed.names, matches, strict=True) if match is not None]
    new = [name for name, match in zip(needed.names, matches, strict=True) if match is None]
    if not copied:
        return rows, f"head: new; the weights know {', '.join(found.names)}"
    decision = f"head: {len(copied)} class{'es' * (len(copied) != 1)} copied ({', '.join(copied)})"
    return rows, decision + (f", {len(new)} new ({', '.join(new)})" if new else "")


def _adapt_heads(
    tensors: dict[str, Tensor], new: dict[str, Tensor], known: dict[str, Tensor], rows: Sequence[int | None]
) -> None:
    """Copy the known rows of every head that both networks have into the new head."""
    ours = [row for row, theirs in enumerate(rows) if theirs is not None]
    theirs = [row for row in rows if row is not None]
    for name in (f"{head}.classify.{part}" for head in HEADS for part in ("weight", "bias")):
        if name in new and name in known:
            tensors[name] = new[name].clone()
            tensors[name][ours] = known[name][theirs]
