"""A small ONNX model with a card, made by the onnx package alone: what engines take for an exported network."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from refnet_cli.model.card import Card
from refnet_cli.model.weight_files import METADATA, checksum
from tests.helpers.scenes import CARD

Free = dict[str, str]


def make_model(bands: int = 4, layers: int = 2, classes: int = 10, output: str = "probabilities") -> onnx.ModelProto:
    """Each pixel's probabilities by its own values: standardised, invalid ones as 0, a linear map, softmax."""
    random = np.random.default_rng(5)
    nodes, constants = [], {"kernel": random.normal(0, 1e-3, (classes, bands + layers, 1, 1)), "zero": 0.0}
    for name in ("optical", "sar"):
        nodes += [
            helper.make_node("IsNaN", [name], [f"{name}_bad"]),
            helper.make_node("Where", [f"{name}_bad", "zero", name], [f"{name}_good"]),
        ]
    nodes += [
        helper.make_node("Concat", ["optical_good", "sar_good"], ["both"], axis=1),
        helper.make_node("Conv", ["both", "kernel"], ["logits"]),
        helper.make_node("Softmax", ["logits"], [output], axis=1),
    ]

    def image(name: str, count: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", count, "rows", "columns"])

    graph = helper.make_graph(
        nodes, "small", [image("optical", bands), image("sar", layers)], [image(output, classes)],
        [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in constants.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10, producer_name="small")


def entries(metadata: Free) -> bytes:
    """Metadata as the bytes that follow those of a model."""
    props = [onnx.StringStringEntryProto(key=key, value=value) for key, value in metadata.items()]
    return bytes(onnx.ModelProto(metadata_props=props).SerializeToString())


def write_model(path: Path, model: onnx.ModelProto | None = None, card: Card | None = CARD) -> Path:
    """Write a model with a card and its checksum, or without any."""
    body = (model or make_model()).SerializeToString() + entries({"other": "ä" * 200})
    path.write_bytes(body)
    if card is not None:
        for _ in range(2):
            path.write_bytes(body + entries({METADATA: json.dumps(card.to_dict())}))
            card = replace(card, sha256=checksum(path))
    return path
