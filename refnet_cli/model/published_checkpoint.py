"""The checkpoints of the network's authors, with their names of tensors."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from refnet_cli.errors import WeightsError
from refnet_cli.model.config import REFNetConfig
from refnet_cli.model.refnet import LEVELS, REFNet, load_strictly

_PUBLISHED_VSS = {
    "norm": "norm",
    "op.in_proj": "ss2d.in_projection",
    "op.conv2d": "ss2d.convolution",
    "op.out_norm": "ss2d.norm",
    "op.out_proj": "ss2d.out_projection",
    "norm2": "mlp_norm",
    "mlp.fc1": "mlp.0",
    "mlp.fc2": "mlp.2",
    "op.x_proj_weight": "ss2d.x_projection",
    "op.dt_projs_weight": "ss2d.dt_weight",
    "op.dt_projs_bias": "ss2d.dt_bias",
    "op.A_logs": "ss2d.a_log",
    "op.Ds": "ss2d.d_skip",
}
_PUBLISHED_RES = {"conv1": "convolution1", "bn1": "norm1", "conv2": "convolution2", "bn2": "norm2"}


def published_names() -> dict[str, str]:
    """Return the mapping from tensor name prefixes in a published checkpoint to those here."""
    names = {
        "opt_encoder": "optical_encoder",
        "sar_encoder": "sar_encoder",
        "seg_head.0": "head.classify",
        "opt_seg_head.0": "optical_head.classify",
        "sar_seg_head.0": "sar_head.classify",
    }

    def add(published: str, ours: str, parts: dict[str, str]) -> None:
        names.update({f"decoder.{published}.{a}": f"{ours}.{b}" for a, b in parts.items()})

    for i in range(1, LEVELS + 1):
        at = i - 1
        names[f"decoder.opt_proj_layer{i}"] = f"optical_projection.{at}"
        names[f"decoder.sar_proj_layer{i}"] = f"sar_projection.{at}"
        names[f"decoder.fuse_layer{i}.share_conv.0"] = f"mdf_blocks.{at}.share_convolution"
        names[f"decoder.fuse_layer{i}.share_conv.1"] = f"mdf_blocks.{at}.share_norm"
        add(f"fuse_layer{i}.share_st_block.1", f"mdf_blocks.{at}.share_vss", _PUBLISHED_VSS)
        add(f"fuse_layer{i}.diff_st_block.1", f"mdf_blocks.{at}.difference_vss", _PUBLISHED_VSS)
        add(f"fuse_layer{i}.smooth_layer", f"mdf_blocks.{at}.fuse", _PUBLISHED_RES)
        add(f"st_block_{i}.1", f"mdf_decoder.vss.{at}", _PUBLISHED_VSS)
        for number, modality in enumerate(("mdf_decoder", "optical_msie", "sar_msie"), start=1):
            if number > 1:
                add(f"{modality[:3]}_fuse_layer_{i}", f"{modality}.enhance.{at}", _PUBLISHED_RES)
            if i < LEVELS:
                add(f"smooth_layer_{i}{number}", f"{modality}.top_down.refine.{at}", _PUBLISHED_RES)
    return names


def rename_published(name: str, prefixes: dict[str, str]) -> str:
    """Return the name here of a tensor in a published checkpoint.

    Parameters
    ----------
    name : str
        For example ``decoder.fuse_layer1.share_conv.0.weight``.
    prefixes : dict
        From `published_names`.

    Raises
    ------
    WeightsError
        If the network has no such tensor.
    """
    prefix = name
    while prefix not in prefixes:
        prefix, dot, _ = prefix.rpartition(".")
        if not dot:
            raise WeightsError(f"{name!r} is not a tensor of a published REF-Net checkpoint.")
    return prefixes[prefix] + name[len(prefix) :]


def from_published(state: dict[str, Any]) -> REFNet:
    """Build a network from a published checkpoint.

    Parameters
    ----------
    state : dict
        The file's dict with a ``state_dict``, or the tensors by name; with or without the MSIE decoders.

    Returns
    -------
    REFNet
        In evaluation mode, with the config inferred from names and shapes.

    Raises
    ------
    WeightsError
        If tensors are missing, unknown or have other shapes.
    """
    tensors: dict[str, Tensor] = state.get("state_dict", state)
    prefixes = published_names()
    renamed = {rename_published(name.removeprefix("module."), prefixes): x for name, x in tensors.items()}
    net = REFNet(_infer_config(renamed), initialise=False)
    expected = net.state_dict()
    for name, target in expected.items():
        if name in renamed and name.endswith((".a_log", ".d_skip")):
            if renamed[name].numel() != target.numel():
                raise WeightsError(f"{name} has {renamed[name].numel()} numbers; it must have {target.numel()}.")
            # Published as (4D, S) and (4D): all channels of direction 0 first.
            renamed[name] = renamed[name].reshape(target.shape)
    load_strictly(net, renamed)
    return net.eval()


def _infer_config(tensors: dict[str, Tensor]) -> REFNetConfig:
    """Infer the settings from the names and shapes of renamed published tensors."""
    try:
        return REFNetConfig(
            encoder=_infer_resnet(tensors),
            optical_bands=tensors["optical_encoder.conv1.weight"].shape[1],
            sar_bands=tensors["sar_encoder.conv1.weight"].shape[1],
            classes=tensors["head.classify.weight"].shape[0],
            width=tensors["head.classify.weight"].shape[1],
            states=tensors["mdf_decoder.vss.0.ss2d.a_log"].shape[1],
            msie="optical_head.classify.weight" in tensors,
        )
    except KeyError as error:
        raise WeightsError(f"The checkpoint lacks {error.args[0]!r}, so it is not a REF-Net.") from error


def _infer_resnet(tensors: dict[str, Tensor]) -> str:
    blocks: tuple[int, ...] = tuple(
        len({name.split(".")[2] for name in tensors if name.startswith(f"optical_encoder.layer{layer}.")})
        for layer in range(1, LEVELS)
    )
    bottleneck = "optical_encoder.layer1.0.conv3.weight" in tensors
    known: dict[tuple[tuple[int, ...], bool], str] = {
        ((2, 2, 2, 2), False): "resnet18",
        ((3, 4, 6, 3), False): "resnet34",
        ((3, 4, 6, 3), True): "resnet50",
        ((3, 4, 23, 3), True): "resnet101",
    }
    if (blocks, bottleneck) not in known:
        raise WeightsError(f"The checkpoint's encoder has {blocks} blocks per layer, which matches no known ResNet.")
    return known[blocks, bottleneck]
