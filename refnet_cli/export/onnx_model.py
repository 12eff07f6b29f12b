"""Export weights as an ONNX model: network, standardisation, softmax and card in one file that runs without torch."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import onnx
import onnx.inliner
import onnxscript
import torch
from torch import Tensor, nn

from refnet_cli.engines.onnx_engine import import_runtime
from refnet_cli.engines.torch_engine import Standardise, to_probabilities
from refnet_cli.errors import OptionsError, StorageError, UnavailableError, WeightsError
from refnet_cli.model.card import Card
from refnet_cli.model.fuse import prepare_for_inference
from refnet_cli.model.one_sensor import check_sensors
from refnet_cli.model.refnet import SS2D, REFNet
from refnet_cli.model.weight_files import METADATA, checksum, find_weights, verify
from refnet_cli.model.weights import load_weights
from refnet_cli.scan import available_scans
from refnet_cli.scan import onnx as onnx_scan
from refnet_cli.scene.absent import absent_sensor
from refnet_cli.scene.blocks import read_tile
from refnet_cli.scene.options import Paths, SceneOptions, as_paths
from refnet_cli.scene.pair import ScenePair
from refnet_cli.sensors import SENSORS
from refnet_cli.sensors.sensor import Modality, other_of
from refnet_cli.system.atomic import replacing
from refnet_cli.system.marks import check_output
from refnet_cli.system.onnx_metadata import SUFFIX, is_onnx
from refnet_cli.system.steps import Steps
from refnet_cli.system.words import count
from refnet_cli.tiles.gaps import fill_gaps
from refnet_cli.tiles.tiling import Tiling
from refnet_cli.types import Float32, Progress
from refnet_cli.version import __version__

Tiles = tuple[Float32, Float32]
"""Patches of both sensors, as engines take them."""

OPSET = 20
"""Version of the ONNX operator set: the first that includes GELU."""
INPUTS, OUTPUTS = ("optical", "sar"), ("logits", "probabilities")
PARITY = "refnet_parity"
MOST_APART = 1e-3  # largest difference of logits in single precision
MOST_DIFFERENT = 0.01  # largest share of pixels whose class a model of lower precision may change
BATCHES = (1, 3)  # batch sizes of the comparison
SAMPLES = 6
STEPS = ("read weights", "cut sample tiles", "trace", "convert", "compare with torch", "write")
"""Stages of an export, in order."""
STEP = 32  # image sides are multiples of it


class Scene(NamedTuple):
    """Files of a scene; empty for an absent sensor, and both empty without a scene."""

    optical: tuple[Path, ...]
    sar: tuple[Path, ...]

    @property
    def absent(self) -> Modality | None:
        """The sensor without files, if the scene has files of one sensor only."""
        return absent_sensor(self.optical or None, self.sar or None)


@dataclass(frozen=True)
class Parity:
    """Differences between an exported model and the network in torch, on sample tiles."""

    tiles: int
    source: str
    """Origin of the tiles."""
    batches: tuple[int, ...]
    """Batch sizes; the largest differences among them count."""
    largest: float
    """Largest difference of two logits."""
    mean: float
    """Mean absolute difference of logits."""
    agreement: float
    """Share of the pixels that get the same class."""


@dataclass(frozen=True)
class Exported:
    """The exported model; ``refnet export --json`` prints `to_dict`."""

    output: str
    megabytes: float
    opset: int
    precision: str
    card: str
    sha256: str
    parity: Parity

    def to_dict(self) -> dict[str, Any]:
        """Return everything as a plain dict for JSON."""
        return asdict(self)


class Deployed(nn.Module):
    """The network with its pre- and postprocessing: physical units in, logits and probabilities out.

    Parameters
    ----------
    net : REFNet
        The network after `prepare_for_inference`.
    card : Card
    """

    def __init__(self, net: REFNet, card: Card) -> None:
        super().__init__()
        self.net = net
        self.standardise = nn.ModuleList([Standardise(card.optical), Standardise(card.sar)])
        self.without = card.training.get("without")
        self.temperature = card.temperature

    def forward(self, optical: Tensor, sar: Tensor) -> tuple[Tensor, Tensor]:
        """Map (N, Bo, H, W) and (N, Bs, H, W), NaN where invalid, to logits and probabilities, (N, K, H, W)."""
        images = [
            torch.zeros_like(image) if name == self.without else standardise(image)
            for name, standardise, image in zip(INPUTS, self.standardise, (optical, sar), strict=True)
        ]
        logits: Tensor = self.net(*images, auxiliary=False).logits
        return logits, to_probabilities(logits, self.temperature)


def _deploy(net: REFNet, card: Card) -> Deployed:
    # Chosen before tracing, during which kernels cannot be tested.
    kernel = "torch" if available_scans("cpu", card.network.states)["cpu"] else "cpu"
    return Deployed(prepare_for_inference(net).use_scan(kernel), card).eval()


def export_onnx(
    weights: str | Path,
    output: str | Path,
    *,
    precision: Literal["fp32", "fp16"] = "fp32",
    quantize: Literal["int8"] | None = None,
    optical: Paths | None = None,
    sar: Paths | None = None,
    options: SceneOptions | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Exported:
    """Export weights as an ONNX model, and compare it with the network in torch.

    Batch size, height and width are dynamic; height and width must be multiples of 32. The MSIE decoders are omitted.

    Parameters
    ----------
    weights : str or Path
        Safetensors with a card, or the name of bundled weights.
    output : str or Path
        The model to write, ``.onnx``; written atomically.
    precision : {"fp32", "fp16"}
        Number format of weights and computation, except for the scan, the norms and the softmax; fp16 is for GPUs.
    quantize : {"int8"}, optional
        Compute convolutions in 8-bit integers, with ranges calibrated on the scene.
    optical, sar : path, or sequence of paths, optional
        Scene for the sample tiles; by default tiles are random, with the card's statistics. One sensor is enough if the
        weights can map without the other; random tiles of both sensors are then added.
    options : SceneOptions, optional
        Options of the scene.
    overwrite : bool
        Whether to replace an existing file that refnet did not write.
    progress : callable, optional
        Called at the start and after each of `STEPS` with the number of finished stages and of all.

    Raises
    ------
    InputMissingError, InputError
        If weights or scene cannot be read.
    WeightsError
        If the weights are damaged or need a sensor that the scene lacks, or lower precision changes the class of more
        than 1% of the pixels.
    OptionsError, OutputError, StorageError
        If options contradict each other, or the model cannot be written.
    UnavailableError
        If ONNX Runtime is missing, or the exported model differs from the network.
    """
    weights, output = find_weights(weights), Path(output)
    scene = Scene(as_paths(optical), as_paths(sar))
    _check_options(weights, precision, quantize)
    check_output(output, [SUFFIX], "an ONNX model", [weights, *scene.optical, *scene.sar], overwrite)
    import_runtime()
    steps = Steps(progress, len(STEPS))
    net, card = load_weights(weights)
    _check_scene(scene, card, quantize)
    deployed = _deploy(net, card)
    steps.count()
    tiles, source = _take_tiles(scene, card, options, 2 * SAMPLES if quantize else SAMPLES)
    steps.count()
    traced = _trace(deployed, card)
    steps.count()
    model, tiles = _convert(traced, tiles, precision, quantize)
    steps.count()
    parity = compare(model.SerializeToString(), deployed, tiles, source)
    _refuse_coarse(parity, precision, quantize)
    steps.count()
    sha256 = _write(model, card, parity, output)
    steps.count()
    return Exported(str(output), output.stat().st_size / 1e6, OPSET, quantize or precision, card.name, sha256, parity)


def _check_options(weights: Path, precision: str, quantize: str | None) -> None:
    if is_onnx(weights):
        raise OptionsError(f"{weights} is already an ONNX model. Pass the weights from which it was exported.")
    if quantize and precision != "fp32":
        raise OptionsError("--quantize and --precision contradict each other. Leave out one of them.")


def _check_scene(scene: Scene, card: Card, quantize: str | None) -> None:
    """Refuse a scene of one sensor if the weights, or the calibration of ranges, need both."""
    if any(scene):
        check_sensors(card, scene.absent)
    if quantize and not all(scene) and (not any(scene) or scene.absent != card.training.get("without")):
        raise OptionsError("--quantize calibrates its ranges on a real scene. Pass --optical and --sar.")


def _take_tiles(scene: Scene, card: Card, options: SceneOptions | None, count: int) -> tuple[Tiles, str]:
    """Return sample tiles and their origin; random tiles are added to test an absent sensor's encoder."""
    drawn = "random fields with the card's statistics"
    if not any(scene):
        return draw_tiles(card, count), drawn
    tiles = _read_tiles(scene, card, options, count)
    names = " and ".join(paths[0].name for paths in scene if paths)
    if scene.absent is None or scene.absent == card.training.get("without"):
        return tiles, names
    optical, sar = (np.concatenate(pair) for pair in zip(tiles, draw_tiles(card, count), strict=True))
    return (optical, sar), f"{names} ({SENSORS[other_of(scene.absent)].satellite} alone) and {drawn}"


def draw_tiles(card: Card, count: int) -> Tiles:
    """Return random tiles: coarse and fine fields with the card's mean and deviation, and nodata gaps.

    Returns
    -------
    optical, sar : float32 arrays, shapes (count, Bo, tile, tile) and (count, Bs, tile, tile)
    """
    random = np.random.default_rng(0)
    found = []
    for modality in (card.optical, card.sar):
        shape = (count, len(modality.bands), card.tile, card.tile)
        field = np.zeros(shape, np.float32)
        for cell in (card.tile // 2, card.tile // 16, 1):
            coarse = random.standard_normal((*shape[:2], card.tile // cell, card.tile // cell), np.float32)
            field += coarse.repeat(cell, 2).repeat(cell, 3)
        field = field / field.std() * np.reshape(modality.std, (-1, 1, 1)) + np.reshape(modality.mean, (-1, 1, 1))
        field[:, :, : card.tile // 8, : card.tile // 8] = np.nan
        found.append(np.asarray(field, np.float32))
    return found[0], found[1]


def _read_tiles(scene: Scene, card: Card, options: SceneOptions | None, count: int) -> Tiles:
    """Read tiles spread over a scene, choosing those with the most valid pixels."""
    with ScenePair.open(
        scene.optical or None, scene.sar or None, card.optical.bands, card.sar.bands, options or SceneOptions()
    ) as pair:
        height, width = pair.grid.shape
        windows = [window for row in Tiling(height, width, card.tile, 0).rows() for window in row]
        spread = windows[:: max(len(windows) // (4 * count), 1)]
        share = {window: float(pair.usable(pair.read_seen(window.clip(height, width))).mean()) for window in spread}
        best = sorted(spread, key=lambda window: -share[window])[:count]
        patches = [read_tile(pair, window) for window in best]
    optical, sar = (np.stack(images) for images in zip(*patches, strict=True))
    return fill_gaps(optical), fill_gaps(sar)


def _trace(deployed: Deployed, card: Card) -> onnx.ModelProto:
    """Export the network by torch, with the scan as one function."""
    # All sizes are distinct: the exporter would treat equal sizes as one dimension.
    shapes = (2, 2 * STEP, 3 * STEP)
    example = tuple(
        torch.zeros(shapes[0], bands, *shapes[1:])
        for bands in (card.network.optical_bands, card.network.sar_bands)
    )
    height, width = (STEP * torch.export.Dim(name, min=2, max=128) for name in ("rows", "columns"))
    free = {0: torch.export.Dim("batch", min=1, max=4096), 2: height, 3: width}
    with _quiet():
        program = torch.onnx.export(
            deployed, example, dynamo=True, dynamic_shapes=(free, free), input_names=INPUTS, output_names=OUTPUTS,
            opset_version=OPSET, custom_translation_table={torch.ops.refnet.selective_scan.default: _translate_scan()},
        )  # fmt: skip
    assert program is not None  # None only if exported to a file
    model: onnx.ModelProto = program.model_proto
    for part in (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output, model.graph):
        part.ClearField("metadata_props")  # source lines of each node
    rank = next(module.dt_weight.shape[-1] for module in deployed.modules() if isinstance(module, SS2D))
    model.functions.append(onnx_scan.make_function(rank, card.network.states, OPSET))
    return model


def _translate_scan() -> Any:
    """Return the translation of torch's selective scan into a call of the ONNX function."""
    if not onnx.defs.has(onnx_scan.NAME, domain=onnx_scan.DOMAIN):
        onnx.defs.register_schema(onnx_scan.schema())
    operators = onnxscript.values.Opset(onnx_scan.DOMAIN, onnx_scan.VERSION)

    # The argument keep, and a second result, are for gradients.
    def translate(
        u: Any, projection: Any, dt_weight: Any, dt_bias: Any, a_log: Any, d_skip: Any, keep: bool
    ) -> tuple[Any]:
        return (operators.SelectiveScan(u, projection, dt_weight, dt_bias, a_log, d_skip),)

    return translate


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the exporters' progress messages, logs and warnings."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.inference_mode():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _convert(
    model: onnx.ModelProto, tiles: Tiles, precision: str, quantize: str | None
) -> tuple[onnx.ModelProto, Tiles]:
    """Return the model in its precision, and the remaining tiles for the comparison."""
    if precision == "fp16":
        model = _halve_precision(model)
    model = onnx.inliner.inline_local_functions(model)
    if not quantize:
        return model, tiles
    learned, tiles = _part(tiles)
    return _quantize(model, learned), tiles


def _halve_precision(model: onnx.ModelProto) -> onnx.ModelProto:
    """Convert to half precision, except inputs, outputs, the scan, norms, softmax and standardisation."""
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    kept = [*DEFAULT_OP_BLOCK_LIST, onnx_scan.NAME, "LayerNormalization", "Softmax", "IsNaN"]
    first = [node.name for node in model.graph.node if set(node.input) & set(INPUTS)]
    halved = OnnxModel(
        convert_float_to_float16(
            model, keep_io_types=True, disable_shape_infer=True, op_block_list=kept, node_block_list=first
        )
    )
    halved.topological_sort()  # it appends the conversions of inputs
    result: onnx.ModelProto = halved.model
    result.graph.ClearField("value_info")  # it leaves some unconverted
    return result


def _part(tiles: Tiles) -> tuple[Tiles, Tiles]:
    """Return every other tile for calibration and the rest for the comparison; a single tile serves both."""
    if len(tiles[0]) == 1:
        return tiles, tiles
    (even, odd) = (tuple(part[start::2] for part in tiles) for start in (0, 1))
    return (even[0], even[1]), (odd[0], odd[1])


class _Samples:
    """Sample tiles, one by one, for ONNX Runtime's calibration."""

    def __init__(self, tiles: Tiles) -> None:
        self._left = [dict(zip(INPUTS, pair, strict=True)) for pair in zip(*(t[:, None] for t in tiles), strict=True)]

    def get_next(self) -> dict[str, Float32] | None:
        return self._left.pop() if self._left else None


def _quantize(model: onnx.ModelProto, tiles: Tiles) -> onnx.ModelProto:
    """Quantize convolutions to 8-bit integers.

    Excludes convolutions with much effect on the result and little on the time: the first one of each encoder, which
    sees the full range of the bands, depthwise ones, and the head.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    first = [
        next(node.name for node in convolutions if node.input[1].startswith(f"net.{name}_encoder.")) for name in INPUTS
    ]
    kept = [
        node.name
        for node in convolutions
        if node.input[1].startswith("net.head.") or any(a.name == "group" and a.i > 1 for a in node.attribute)
    ]
    with _quiet(), tempfile.TemporaryDirectory() as folder:
        quantized = Path(folder, "quantized.onnx")
        quantize_static(
            model, quantized, _Samples(tiles), quant_format=QuantFormat.QDQ, per_channel=True, reduce_range=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, op_types_to_quantize=["Conv"],
            nodes_to_exclude=[*first, *kept],
        )  # fmt: skip
        return onnx.load(quantized)


def compare(model: bytes, deployed: nn.Module, tiles: Tiles, source: str) -> Parity:
    """Compare a model in ONNX Runtime with the network in torch, both on the CPU.

    Parameters
    ----------
    model : bytes
        A serialised ONNX model.
    deployed : Deployed
    tiles : pair of float32 arrays, shapes (N, Bo, H, W) and (N, Bs, H, W)
    source : str
        Origin of the tiles, for the report.
    """
    runtime = import_runtime()
    session = runtime.InferenceSession(model, providers=["CPUExecutionProvider"])
    count = len(tiles[0])
    with torch.inference_mode():
        expected = np.concatenate([
            deployed(*(torch.from_numpy(part[i : i + 1]) for part in tiles))[0].numpy() for i in range(count)
        ])
    largest, means, agreement = 0.0, [], 1.0
    for batch in BATCHES:
        parts = [slice(start, start + batch) for start in range(0, count, batch)]
        found = np.concatenate([
            session.run([OUTPUTS[0]], {name: tile[part] for name, tile in zip(INPUTS, tiles, strict=True)})[0]
            for part in parts
        ])
        difference = np.abs(found - expected)
        largest = max(largest, float(difference.max()))
        means.append(float(difference.mean()))
        agreement = min(agreement, float((found.argmax(1) == expected.argmax(1)).mean()))
    return Parity(count, source, BATCHES, largest, max(means), agreement)


def _refuse_coarse(parity: Parity, precision: str, quantize: str | None) -> None:
    """Raise an error if the model differs too much from the network; NaN counts as a difference."""
    source = f"{count(parity.tiles, 'tile')} ({parity.source})"
    if precision == "fp32" and not quantize and not parity.largest < MOST_APART:
        raise UnavailableError(
            f"Logits of {source} differ by {parity.largest:.2g} from torch's (limit {MOST_APART:g}): this combination "
            f"of torch {torch.__version__}, onnxscript and ONNX Runtime exports these weights incorrectly. Try other "
            "versions."
        )
    if not parity.agreement >= 1 - MOST_DIFFERENT:
        raise WeightsError(
            f"In {quantize or precision}, {1 - parity.agreement:.2%} of the pixels of {source} change their class "
            f"(limit {MOST_DIFFERENT:.0%}). Export these weights in fp32."
        )


def _write(model: onnx.ModelProto, card: Card, parity: Parity, output: Path) -> str:
    """Write the model with its card, checksum and parity, verify it, and return its checksum."""
    model.producer_name, model.producer_version = "refnet", __version__
    model.doc_string = f"REF-Net, weights {card.name}"
    onnx.checker.check_model(model, full_check=True)
    model.ClearField("metadata_props")
    with replacing(output) as temporary:
        # Metadata entries are appended at the file's end: concatenated protobuf messages merge into one.
        body = model.SerializeToString() + _entries({PARITY: json.dumps(asdict(parity))})
        temporary.write_bytes(body + _entries({METADATA: json.dumps(card.to_dict())}))
        card = replace(card, sha256=checksum(temporary))
        temporary.write_bytes(body + _entries({METADATA: json.dumps(card.to_dict())}))
        try:
            verify(temporary)
        except WeightsError as error:
            raise StorageError(f"{output} differs on the disk from what was written: {error}") from error
    return card.sha256


def _entries(metadata: dict[str, str]) -> bytes:
    """Return metadata as bytes that can be appended to a model."""
    entries = (onnx.StringStringEntryProto(key=key, value=value) for key, value in metadata.items())
    return bytes(onnx.ModelProto(metadata_props=entries).SerializeToString())
