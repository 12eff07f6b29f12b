"""Weights as ONNX models: network, standardisation, softmax and card in one file that needs no torch to run."""

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
from numpy.typing import NDArray
from torch import Tensor, nn

from refnet_cli import __version__
from refnet_cli.card import METADATA, Card, checksum, find_weights, verify
from refnet_cli.errors import OptionsError, StorageError, UnavailableError, WeightsError
from refnet_cli.files import check_ending, check_folder, check_places, replacing
from refnet_cli.gaps import fill_gaps
from refnet_cli.inference import prepare_for_inference
from refnet_cli.marks import check_replaceable
from refnet_cli.model import SS2D, REFNet
from refnet_cli.one_sensor import check_sensors
from refnet_cli.onnx_engine import import_runtime
from refnet_cli.onnx_file import SUFFIX, is_onnx
from refnet_cli.prediction.predict import as_paths, read_tile
from refnet_cli.products import SATELLITES, Modality, other_of
from refnet_cli.scan import available_scans
from refnet_cli.scan import onnx as onnx_scan
from refnet_cli.scene import Paths, SceneOptions, ScenePair, absent_sensor
from refnet_cli.tiling import Tiling
from refnet_cli.torch_engine import Standardise, to_probabilities
from refnet_cli.weights import load_weights

Float32 = NDArray[np.float32]
Tiles = tuple[Float32, Float32]
"""Patches of both sensors as engines take them."""

OPSET = 20
"""Version of ONNX's operators: the first with GELU as a whole."""
INPUTS, OUTPUTS = ("optical", "sar"), ("logits", "probabilities")
PARITY = "refnet_parity"
MOST_APART = 1e-3  # of two logits, in single precision
MOST_DIFFERENT = 0.01  # share of pixels whose class a coarser model may change
BATCHES = (1, 3)  # that both take the samples in
SAMPLES = 6
STEP = 32  # sides of images are multiples of it


class Scene(NamedTuple):
    """Files of a scene; none of a sensor that is absent, and none at all where there is no scene."""

    optical: tuple[Path, ...]
    sar: tuple[Path, ...]

    @property
    def absent(self) -> Modality | None:
        """The sensor that a scene has no files of."""
        return absent_sensor(self.optical or None, self.sar or None)


@dataclass(frozen=True)
class Parity:
    """How far a model's answers are from those of the network in torch, on sample tiles."""

    tiles: int
    source: str
    """What the tiles were cut from."""
    batches: tuple[int, ...]
    """Tiles at once, each way; the worst counts."""
    largest: float
    """Largest difference of two logits."""
    mean: float
    """Mean absolute difference of logits."""
    agreement: float
    """Share of the pixels that get the same class."""


@dataclass(frozen=True)
class Exported:
    """What was written; `to_dict` is what ``refnet export --json`` prints."""

    output: str
    megabytes: float
    opset: int
    precision: str
    card: str
    sha256: str
    parity: Parity

    def to_dict(self) -> dict[str, Any]:
        """Return everything as a plain dict that JSON can hold."""
        return asdict(self)


class Deployed(nn.Module):
    """The network with all that predicting does before and after it: physical units in, logits and probabilities out.

    Parameters
    ----------
    net : REFNet
        Made ready by `prepare_for_inference`.
    card : Card
    """

    def __init__(self, net: REFNet, card: Card) -> None:
        super().__init__()
        self.net = net
        self.standardise = nn.ModuleList([Standardise(card.optical), Standardise(card.sar)])
        self.without = card.training.get("without")
        self.temperature = card.temperature

    def forward(self, optical: Tensor, sar: Tensor) -> tuple[Tensor, Tensor]:
        """(N, Bo, H, W) and (N, Bs, H, W), NaN where invalid -> logits and probabilities, (N, K, H, W)."""
        images = [
            torch.zeros_like(image) if name == self.without else standardise(image)
            for name, standardise, image in zip(INPUTS, self.standardise, (optical, sar), strict=True)
        ]
        logits: Tensor = self.net(*images, auxiliary=False).logits
        return logits, to_probabilities(logits, self.temperature)


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
) -> Exported:
    """Write weights as an ONNX model, held against the network in torch.

    Batch, height and width are free; both sides of the images must be multiples of 32. The MSIE decoders are left out.

    Parameters
    ----------
    weights : str or Path
        Safetensors with a card, or the name of bundled weights.
    output : str or Path
        Model to write, ``.onnx``; it appears whole or not at all.
    precision : {"fp32", "fp16"}
        Number format of the weights and of all but the scan, the norms and the softmax; fp16 is for GPUs.
    quantize : {"int8"}, optional
        Compute convolutions in whole numbers of 8 bits, whose ranges are taken from the scene.
    optical, sar : path, or sequence of paths, optional
        A scene to take the sample tiles from; by default they are drawn at random by the card's statistics. One sensor
        is enough for weights that can do without the other; tiles of both are drawn at random too then.
    options : SceneOptions, optional
        Of the scene.
    overwrite : bool
        Replace an existing file that refnet did not write.

    Raises
    ------
    InputMissingError, InputError
        If weights or scene cannot be read.
    WeightsError
        If the weights are damaged, or a coarser model changes the class of more than a hundredth of the pixels; or if
        the scene is of one sensor and the weights need the other one too.
    OptionsError
        If options contradict each other.
    OutputError, StorageError
        If the model cannot be written.
    UnavailableError
        If ONNX Runtime is not there, or the exported model is not the network.
    """
    weights, output = find_weights(weights), Path(output)
    scene = Scene(as_paths(optical), as_paths(sar))
    _check_options(weights, output, precision, quantize)
    check_places([output], [weights, *scene.optical, *scene.sar])
    check_replaceable([output], overwrite)
    check_folder(output)
    import_runtime()
    net, card = load_weights(weights)
    _check_scene(scene, card, quantize)
    # Before the exporter traces, which cannot try kernels.
    kernel = "torch" if available_scans("cpu", card.network.states)["cpu"] else "cpu"
    deployed = Deployed(prepare_for_inference(net).use_scan(kernel), card).eval()
    tiles, source = _take_tiles(scene, card, options, 2 * SAMPLES if quantize else SAMPLES)
    with tempfile.TemporaryDirectory() as folder:
        model = _trace(deployed, card)
        if precision == "fp16":
            model = _halve_precision(model)
        model = onnx.inliner.inline_local_functions(model)
        if quantize:
            learned, tiles = _part(tiles)
            model = _quantize(model, learned, Path(folder))
        found = compare(model.SerializeToString(), deployed, tiles, source)
        _refuse_coarse(found, precision, quantize)
        card = _write(model, card, found, output)
    return Exported(
        output=str(output), megabytes=output.stat().st_size / 1e6, opset=OPSET,
        precision=quantize or precision, card=card.name, sha256=card.sha256, parity=found,
    )  # fmt: skip


def _check_options(weights: Path, output: Path, precision: str, quantize: str | None) -> None:
    if is_onnx(weights):
        raise OptionsError(f"{weights} is an ONNX model already; give the weights that it was made of.")
    check_ending(output, [SUFFIX], "an ONNX model")
    if quantize and precision != "fp32":
        raise OptionsError("--quantize and --precision contradict each other: give one of them.")


def _check_scene(scene: Scene, card: Card, quantize: str | None) -> None:
    """Refuse a scene of one sensor if the weights need both, or if ranges of both are needed."""
    if any(scene):
        check_sensors(card, scene.absent)
    if quantize and not all(scene) and (not any(scene) or scene.absent != card.training.get("without")):
        raise OptionsError("--quantize takes the ranges of all numbers from a real scene: give --optical and --sar.")


def _take_tiles(scene: Scene, card: Card, options: SceneOptions | None, count: int) -> tuple[Tiles, str]:
    """Return sample tiles and what they are; those of a scene of one sensor say nothing of the other's encoder."""
    drawn = "random fields with the card's statistics"
    if not any(scene):
        return draw_tiles(card, count), drawn
    tiles = _read_tiles(scene, card, options, count)
    names = " and ".join(paths[0].name for paths in scene if paths)
    if scene.absent is None or scene.absent == card.training.get("without"):
        return tiles, names
    optical, sar = (np.concatenate(pair) for pair in zip(tiles, draw_tiles(card, count), strict=True))
    return (optical, sar), f"{names} ({SATELLITES[other_of(scene.absent)]} alone) and {drawn}"


def draw_tiles(card: Card, count: int) -> Tiles:
    """Draw tiles at random: fields, coarse and fine, with the card's mean and deviation, and holes without data.

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
    """Read tiles from all over a scene, of those that its sensors saw the most of."""
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
    """Have torch export the network, with the scan as one function."""
    # Sizes that differ from each other, and from all others, or the exporter would take them for the same.
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
    assert program is not None  # as exporting to memory returns it
    model: onnx.ModelProto = program.model_proto
    for part in (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output, model.graph):
        part.ClearField("metadata_props")  # where in the program each came from, line by line
    rank = next(module.dt_weight.shape[-1] for module in deployed.modules() if isinstance(module, SS2D))
    model.functions.append(onnx_scan.make_function(rank, card.network.states, OPSET))
    return model


def _translate_scan() -> Any:
    """Translate torch's selective scan into a call of our function."""
    if not onnx.defs.has(onnx_scan.NAME, domain=onnx_scan.DOMAIN):
        onnx.defs.register_schema(onnx_scan.schema())
    operators = onnxscript.values.Opset(onnx_scan.DOMAIN, onnx_scan.VERSION)

    # Torch's operator says whether to keep states for gradients, and returns them too.
    def translate(
        u: Any, projection: Any, dt_weight: Any, dt_bias: Any, a_log: Any, d_skip: Any, keep: bool
    ) -> tuple[Any]:
        return (operators.SelectiveScan(u, projection, dt_weight, dt_bias, a_log, d_skip),)

    return translate


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep exporters from telling how they get on."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.inference_mode():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _halve_precision(model: onnx.ModelProto) -> onnx.ModelProto:
    """Turn all into half precision but inputs, outputs, the scan, norms, softmax and standardisation."""
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    kept = [*DEFAULT_OP_BLOCK_LIST, onnx_scan.NAME, "LayerNormalization", "Softmax", "IsNaN"]
    first = [node.name for node in model.graph.node if set(node.input) & set(INPUTS)]
    halved = OnnxModel(
        convert_float_to_float16(
            model, keep_io_types=True, disable_shape_infer=True, op_block_list=kept, node_block_list=first
        )
    )
    halved.topological_sort()  # the conversions of inputs come last
    result: onnx.ModelProto = halved.model
    result.graph.ClearField("value_info")  # of which it leaves some as they were
    return result


def _part(tiles: Tiles) -> tuple[Tiles, Tiles]:
    """Every other tile to take ranges from, and the others, to be held against torch; a single one serves for both."""
    if len(tiles[0]) == 1:
        return tiles, tiles
    (even, odd) = (tuple(part[start::2] for part in tiles) for start in (0, 1))
    return (even[0], even[1]), (odd[0], odd[1])


class _Samples:
    """Feeds sample tiles, one by one, to ONNX Runtime's calibration."""

    def __init__(self, tiles: Tiles) -> None:
        self._left = [dict(zip(INPUTS, pair, strict=True)) for pair in zip(*(t[:, None] for t in tiles), strict=True)]

    def get_next(self) -> dict[str, Float32] | None:
        return self._left.pop() if self._left else None


def _quantize(model: onnx.ModelProto, tiles: Tiles, folder: Path) -> onnx.ModelProto:
    """Have ONNX Runtime compute convolutions in whole numbers of 8 bits.

    Not those on which the result hangs most and the time least: the first of each encoder, which sees the bands' whole
    range, depthwise ones, and the head.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    quantized = folder / "quantized.onnx"
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    first = [
        next(node.name for node in convolutions if node.input[1].startswith(f"net.{name}_encoder.")) for name in INPUTS
    ]
    kept = [
        node.name
        for node in convolutions
        if node.input[1].startswith("net.head.") or any(a.name == "group" and a.i > 1 for a in node.attribute)
    ]
    with _quiet():
        quantize_static(
            model, quantized, _Samples(tiles), quant_format=QuantFormat.QDQ, per_channel=True, reduce_range=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, op_types_to_quantize=["Conv"],
            nodes_to_exclude=[*first, *kept],
        )  # fmt: skip
    return onnx.load(quantized)


def compare(model: bytes, deployed: nn.Module, tiles: Tiles, source: str) -> Parity:
    """Hold a model in ONNX Runtime, on the CPU, against the network in torch.

    Parameters
    ----------
    model : bytes
        A serialised ONNX model.
    deployed : Deployed
    tiles : pair of float32 arrays, shapes (N, Bo, H, W) and (N, Bs, H, W)
    source : str
        What the tiles are, for the report.
    """
    runtime = import_runtime()
    session = runtime.InferenceSession(model, providers=["CPUExecutionProvider"])
    count = len(tiles[0])
    with torch.inference_mode():
        wanted = np.concatenate([
            deployed(*(torch.from_numpy(part[i : i + 1]) for part in tiles))[0].numpy() for i in range(count)
        ])
    largest, means, agreement = 0.0, [], 1.0
    for batch in BATCHES:
        parts = [slice(start, start + batch) for start in range(0, count, batch)]
        found = np.concatenate([
            session.run([OUTPUTS[0]], {name: tile[part] for name, tile in zip(INPUTS, tiles, strict=True)})[0]
            for part in parts
        ])
        difference = np.abs(found - wanted)
        largest = max(largest, float(difference.max()))
        means.append(float(difference.mean()))
        agreement = min(agreement, float((found.argmax(1) == wanted.argmax(1)).mean()))
    return Parity(count, source, BATCHES, largest, max(means), agreement)


def _refuse_coarse(parity: Parity, precision: str, quantize: str | None) -> None:
    """Refuse a model that is not the network any more; a NaN is none either."""
    source = f"{parity.tiles} tiles ({parity.source})"
    if precision == "fp32" and not quantize and not parity.largest < MOST_APART:
        raise UnavailableError(
            f"Logits of {source} differ by {parity.largest:.2g} from torch's, and {MOST_APART:g} may: this combination "
            f"of torch {torch.__version__}, onnxscript and ONNX Runtime exports these weights wrongly. Try others."
        )
    if not parity.agreement >= 1 - MOST_DIFFERENT:
        raise WeightsError(
            f"In {quantize or precision}, {1 - parity.agreement:.2%} of the pixels of {source} get another class, and "
            f"{MOST_DIFFERENT:.0%} may: these weights do not bear it. Export them in fp32."
        )


def _write(model: onnx.ModelProto, card: Card, parity: Parity, output: Path) -> Card:
    """Write the model with its card, checksum and parity; read it back."""
    model.producer_name, model.producer_version = "refnet", __version__
    model.doc_string = f"REF-Net, weights {card.name}"
    onnx.checker.check_model(model, full_check=True)
    model.ClearField("metadata_props")
    with replacing(output) as temporary:
        # Entries of their own at the file's end: a message may be written in parts, one behind the other.
        body = model.SerializeToString() + _entries({PARITY: json.dumps(asdict(parity))})
        temporary.write_bytes(body + _entries({METADATA: json.dumps(card.to_dict())}))
        card = replace(card, sha256=checksum(temporary))
        temporary.write_bytes(body + _entries({METADATA: json.dumps(card.to_dict())}))
        try:
            verify(temporary)
        except WeightsError as error:
            raise StorageError(f"{output} did not come back from the disk as it was written: {error}") from error
    return card


def _entries(metadata: dict[str, str]) -> bytes:
    """Metadata as the bytes to put behind a model's own."""
    entries = (onnx.StringStringEntryProto(key=key, value=value) for key, value in metadata.items())
    return bytes(onnx.ModelProto(metadata_props=entries).SerializeToString())
