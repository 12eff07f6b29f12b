"""Exported models against the network in torch: any batch and size, invalid pixels, all real scenes."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache
from itertools import cycle
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch

from refnet_cli.classes.schemes import SCHEMES
from refnet_cli.cli.main import run
from refnet_cli.engines.load import load_engine
from refnet_cli.errors import InputError, OptionsError, OutputError, StorageError, WeightsError
from refnet_cli.export import INPUTS, OUTPUTS, PARITY, Exported, export_onnx
from refnet_cli.export.onnx_model import STEPS
from refnet_cli.model import refnet
from refnet_cli.model.card import Card, Modality
from refnet_cli.model.config import REFNetConfig
from refnet_cli.model.refnet import REFNet
from refnet_cli.model.weight_files import read_card, verify
from refnet_cli.model.weights import load_weights, save_weights
from refnet_cli.scene.blocks import Patch, read_tile
from refnet_cli.scene.options import SceneOptions
from refnet_cli.scene.pair import ScenePair
from refnet_cli.system.onnx_metadata import read_metadata
from refnet_cli.tiles.tiling import Tiling
from tests.golden import Golden
from tests.helpers.limits import file_size_limit
from tests.helpers.once import once
from tests.helpers.quick import few
from tests.helpers.real_data import EARTHNET, SSL4EO
from tests.helpers.scenes import CARD as FREE
from tests.helpers.scenes import make_pair
from tests.helpers.small_models import make_model

ROOT = Path(__file__).resolve().parents[2]
BASE = ROOT / "weights" / "refnet-base.onnx"
SAMPLE = ROOT / "sample_data" / "s2.tif", ROOT / "sample_data" / "s1.tif"
CARD = replace(
    FREE, name="tiny", licence="CC0-1.0", tile=64,
    network=REFNetConfig(encoder="resnet18", optical_bands=4, sar_bands=2, classes=10, width=16, msie=True),
)  # fmt: skip
WARM = replace(CARD, temperature=1.7)
PUBLISHED = {
    "optical": ((763.8806, 919.1531, 1013.227), (248.1907, 173.0708, 141.8084)),
    "sar": ((-12.542, -19.7742), (2.4201, 2.5095)),
}
Tiles = tuple[np.ndarray, np.ndarray]


# --- tools -----------------------------------------------------------------------------------------------------------


def save(path: Path, card: Card = CARD) -> Path:
    torch.manual_seed(0)
    net = REFNet(card.network).eval()
    for module in net.modules():  # norms as training leaves them: not the identity
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    save_weights(net, card, path)
    return path


def with_few_levels(patch: pytest.MonkeyPatch) -> None:
    """Have networks two levels of features instead of five and half of their VSS blocks, each kind once.

    Exporting takes as long as a network is deep.
    """
    kinds = [refnet.VSSBlock, torch.nn.Identity, torch.nn.Identity, refnet.VSSBlock, refnet.VSSBlock, torch.nn.Identity]
    blocks = cycle(kinds)  # share and difference of each level, then the decoder's

    def make(name: str, bands: int) -> tuple[torch.nn.Module, list[int]]:
        encoder = timm.create_model(name, features_only=True, in_chans=bands, out_indices=(0, 1))
        return encoder, encoder.feature_info.channels()

    patch.setattr(refnet, "VSSBlock", lambda *settings: next(blocks)(*settings))
    patch.setattr(refnet, "LEVELS", 2)
    patch.setattr(refnet, "_make_encoder", make)


@pytest.fixture
def weights(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    with_few_levels(monkeypatch)
    return once(tmp_path_factory, "export-weights", lambda folder: save(folder / "tiny.safetensors", WARM))


@pytest.fixture
def exported(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Exported]:
    def export(folder: Path) -> tuple[Path, Exported]:
        path, steps = folder / "tiny.onnx", []
        made = export_onnx(weights, path, progress=lambda done, total: steps.append((done, total)))
        assert steps == [(done, len(STEPS)) for done in range(len(STEPS) + 1)]
        return path, made

    return once(tmp_path_factory, "exported", export)


@cache
def session(path: Path) -> Any:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def patches(count: int, height: int, width: int, seed: int = 0) -> Tiles:
    random = np.random.default_rng(seed)
    optical = random.uniform(100, 3000, (count, 4, height, width)).astype(np.float32)
    return optical, random.uniform(-25, -5, (count, 2, height, width)).astype(np.float32)


def in_onnx(running: Any, tiles: Tiles) -> list[np.ndarray]:
    found: list[np.ndarray] = running.run(OUTPUTS, dict(zip(INPUTS, tiles, strict=True)))
    return found


@cache
def in_torch(weights: Path) -> Callable[[Tiles], np.ndarray]:
    """Logits by the network as it was trained, standardised by numpy: nothing that exporting makes use of."""
    net, card = load_weights(weights)
    net = net.use_scan("cpu")

    def standardise(image: np.ndarray, modality: Modality) -> torch.Tensor:
        mean, std = (np.reshape(np.array(x, np.float32), (-1, 1, 1)) for x in (modality.mean, modality.std))
        filled = np.where(np.isnan(image), mean, image)
        return torch.from_numpy(((filled - mean) / std).astype(np.float32))

    @torch.inference_mode()
    def logits(tiles: Tiles) -> np.ndarray:
        images = [standardise(*pair) for pair in zip(tiles, (card.optical, card.sar), strict=True)]
        return np.asarray(net(*images, auxiliary=False).logits.numpy())

    return logits


def softmax(logits: np.ndarray, temperature: float = 1) -> np.ndarray:
    return np.asarray(torch.from_numpy(logits / np.float32(temperature)).softmax(1).numpy())


def assert_alike(found: Iterable[np.ndarray], wanted: np.ndarray, temperature: float = WARM.temperature) -> None:
    """Logits within 1e-3, probabilities their softmax, and 99.9 % of the classes."""
    logits, probabilities = found
    assert np.isfinite(logits).all()
    assert np.abs(logits - wanted).max() < 1e-3
    assert np.abs(probabilities - softmax(wanted, temperature)).max() < 1e-3
    assert (logits.argmax(1) == wanted.argmax(1)).mean() >= 0.999
    assert np.array_equal(probabilities.argmax(1), logits.argmax(1))


def cut(pair: ScenePair, tile: int, most: int = 99) -> Tiles:
    """Tiles of a whole scene, or some of them from corner to corner, without data beyond its edges."""
    windows = [window for row in Tiling(*pair.grid.shape, tile).rows() for window in row]
    chosen = np.unique(np.linspace(0, len(windows) - 1, min(most, len(windows))).round().astype(int))
    parts: list[Patch] = [read_tile(pair, windows[i]) for i in chosen]
    return np.stack([part.optical for part in parts]), np.stack([part.sar for part in parts])


# --- a tiny network --------------------------------------------------------------------------------------------------


def test_the_model_is_sound_and_states_its_operators(exported: tuple[Path, Exported]) -> None:
    path, report = exported
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert {entry.domain: entry.version for entry in model.opset_import}[""] == report.opset >= 18
    assert model.producer_name == "refnet"
    kinds = {node.op_type for node in model.graph.node}
    assert "Scan" in kinds
    assert "Softmax" in kinds
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    assert not model.functions
    assert report.megabytes == pytest.approx(path.stat().st_size / 1e6)
    assert [child.name for child in path.parent.iterdir() if child.suffix not in (".onnx", ".safetensors")] == []


def test_batch_and_sides_are_free_and_all_else_is_not(exported: tuple[Path, Exported]) -> None:
    running = session(exported[0])
    shapes = {value.name: value.shape for value in (*running.get_inputs(), *running.get_outputs())}
    assert list(shapes) == [*INPUTS, *OUTPUTS] == ["optical", "sar", "logits", "probabilities"]
    for name, layers in {"optical": 4, "sar": 2, "logits": 10, "probabilities": 10}.items():
        assert [isinstance(size, str) for size in shapes[name]] == [True, False, True, True]
        assert shapes[name][1] == layers


def test_card_and_parity_are_in_the_metadata(exported: tuple[Path, Exported]) -> None:
    path, report = exported
    card = verify(path)
    assert replace(card, sha256="") == replace(WARM, network=replace(CARD.network, msie=False))
    assert card.sha256 == report.sha256
    stored = json.loads(read_metadata(path)[PARITY])
    assert stored == json.loads(json.dumps(report.to_dict()["parity"]))
    assert stored["largest"] < 1e-3
    assert 0 <= stored["mean"] <= stored["largest"]
    assert stored["agreement"] >= 0.999
    assert len(set(stored["batches"])) == 2
    assert stored["tiles"] >= max(stored["batches"])


def test_the_auxiliary_decoders_are_left_out(exported: tuple[Path, Exported], weights: Path) -> None:
    net, _ = load_weights(weights, msie=True)
    assert any("msie" in name for name in net.state_dict())
    model = onnx.load(exported[0])
    names = [*(tensor.name for tensor in model.graph.initializer), *(node.name for node in model.graph.node)]
    assert not [name for name in names if "msie" in name or "optical_head" in name or "sar_head" in name]
    bare, _ = load_weights(weights)
    assert exported[0].stat().st_size < 4 * sum(p.numel() for p in bare.parameters()) + 2**20


def test_nothing_tells_of_the_machine(exported: tuple[Path, Exported]) -> None:
    content = exported[0].read_bytes()
    places = {str(ROOT), str(Path.cwd()), str(exported[0].parent), str(Path(torch.__file__).parent), str(Path.home())}
    for name in (*(place for place in places if len(place) > 2), "refnet_cli/", "site-packages", ".py", "Traceback"):
        assert name.encode() not in content, name
    if len(socket.gethostname()) > 6:
        assert socket.gethostname().encode() not in content


@pytest.mark.parametrize(
    ("count", "height", "width"),
    few([(1, 64, 64), (1, 96, 64), (3, 64, 160), (2, 256, 64), (5, 64, 64), (1, 64, 352)], (1, 64, 64), (3, 64, 160)),
)
def test_any_batch_and_size_is_as_in_torch(
    exported: tuple[Path, Exported], weights: Path, count: int, height: int, width: int
) -> None:
    tiles = patches(count, height, width)
    assert_alike(in_onnx(session(exported[0]), tiles), in_torch(weights)(tiles))


def test_invalid_pixels_count_as_the_mean(exported: tuple[Path, Exported], weights: Path) -> None:
    optical, sar = patches(3, 64, 96)
    optical[0, 2, 10:20], optical[1], sar[2, :, :, 5:9] = np.nan, np.nan, np.nan
    running = session(exported[0])
    found = in_onnx(running, (optical, sar))
    assert_alike(found, in_torch(weights)((optical, sar)))
    filled = optical.copy()
    means = np.reshape(np.array(CARD.optical.mean, np.float32), (-1, 1, 1))
    filled = np.where(np.isnan(filled), means, filled).astype(np.float32)
    assert np.abs(in_onnx(running, (filled, sar))[0] - found[0]).max() < 1e-5


def test_whole_batches_without_any_data(exported: tuple[Path, Exported], weights: Path) -> None:
    tiles = np.full((2, 4, 64, 64), np.nan, np.float32), np.full((2, 2, 64, 64), np.nan, np.float32)
    assert_alike(in_onnx(session(exported[0]), tiles), in_torch(weights)(tiles))


def test_the_engines_give_the_same(exported: tuple[Path, Exported], weights: Path) -> None:
    tiles = patches(3, 64, 64)
    ours, theirs = (load_engine(path).predict(*tiles) for path in (exported[0], weights))
    assert np.abs(ours - theirs).max() < 1e-3
    assert (ours.argmax(1) == theirs.argmax(1)).mean() >= 0.999


@pytest.mark.parametrize(("precision", "most"), [("fp32", 1e-5), pytest.param("fp16", 2e-2, marks=pytest.mark.long)])
def test_the_temperature_is_in_the_model(
    exported: tuple[Path, Exported], weights: Path, tmp_path: Path, precision: Literal["fp32", "fp16"], most: float
) -> None:
    """Logits stay what they are; their softmax knows the temperature."""
    path = exported[0]
    if precision == "fp16":
        path = tmp_path / "half.onnx"
        export_onnx(weights, path, precision=precision)
    assert verify(path).temperature == 1.7
    tiles = patches(3, 64, 96)
    logits, probabilities = in_onnx(session(path), tiles)
    assert np.abs(logits - in_torch(weights)(tiles)).max() < (1e-4 if precision == "fp32" else 0.1)
    assert np.abs(probabilities - softmax(logits, 1.7)).max() < most
    ours, theirs = (load_engine(p).predict(*tiles) for p in (path, weights))
    assert np.abs(ours - probabilities).max() < most  # which another number of threads may change
    assert np.abs(ours - theirs).max() < most
    plain = softmax(logits)
    assert np.abs(ours - plain).max() > 0.01
    assert precision == "fp16" or np.array_equal(ours.argmax(1), plain.argmax(1))


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["m", "m.tif", "m.safetensors", "m.onnx.gz"])
def test_the_outputs_suffix_must_be_onnx(weights: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(OptionsError, match=r"\.onnx"):
        export_onnx(weights, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_options_that_contradict_each_other(weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.onnx"
    with pytest.raises(OptionsError, match="contradict"):
        export_onnx(weights, out, precision="fp16", quantize="int8", optical=SAMPLE[0], sar=SAMPLE[1])
    with pytest.raises(OptionsError, match="--optical and --sar"):
        export_onnx(weights, out, quantize="int8")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("given", ["optical", "sar"])
def test_tiles_of_one_sensor_need_weights_that_can(given: str, weights: Path, tmp_path: Path) -> None:
    files: dict[str, Any] = {given: SAMPLE[given == "sar"]}
    with pytest.raises(WeightsError, match=f"Give --{'sar' if given == 'optical' else 'optical'} too"):
        export_onnx(weights, tmp_path / "m.onnx", **files)
    able = save(tmp_path / "able.safetensors", replace(CARD, training={"modality_dropout": 0.2}))
    with pytest.raises(OptionsError, match="--optical and --sar"):
        export_onnx(able, tmp_path / "m.onnx", quantize="int8", **files)
    assert not list(tmp_path.glob("*.onnx"))


@pytest.mark.parametrize(
    ("training", "sources"),
    [
        pytest.param({"modality_dropout": 0.2}, {"blank": 6, "whole": 6}, marks=pytest.mark.long),
        ({"without": "sar"}, {"blank": 6, "whole": 0}),
    ],
)
def test_a_scene_of_one_sensor_tests_both_encoders(
    training: dict[str, Any], sources: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tiles in which the other sensor is blank would not show that its encoder was exported wrongly."""
    held: list[Tiles] = []

    def hold(model: bytes, deployed: Any, tiles: Tiles, source: str) -> None:
        held.append(tiles)
        assert SAMPLE[0].name in source
        assert ("Sentinel-2 alone" in source and "random" in source) is (sources["whole"] > 0)
        raise InterruptedError

    with_few_levels(monkeypatch)
    monkeypatch.setattr("refnet_cli.export.onnx_model._trace", lambda *_: make_model())
    monkeypatch.setattr("refnet_cli.export.onnx_model.compare", hold)
    path = save(tmp_path / "able.safetensors", replace(CARD, training=training))
    with pytest.raises(InterruptedError):
        export_onnx(path, tmp_path / "m.onnx", optical=SAMPLE[0])
    ((optical, sar),) = held
    blank = np.isnan(sar).all(axis=(1, 2, 3))
    assert {"blank": int(blank.sum()), "whole": int((~blank).sum())} == sources
    assert np.isfinite(optical).any(axis=(1, 2, 3)).all()


def test_an_onnx_model_is_not_exported_again(tmp_path: Path) -> None:
    with pytest.raises(OptionsError, match="already an ONNX model"):
        export_onnx(BASE, tmp_path / "m.onnx")


def test_inputs_are_not_overwritten(weights: Path, tmp_path: Path) -> None:
    for other in (weights, *SAMPLE):
        link = tmp_path / f"{other.name}.onnx"
        link.symlink_to(other)
        before = other.read_bytes()
        with pytest.raises(OptionsError, match="same file"):
            export_onnx(weights, link, optical=SAMPLE[0], sar=SAMPLE[1])
        assert other.read_bytes() == before


def test_damaged_weights_are_refused_and_the_old_model_stays(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_text("old")
    (tmp_path / "w.safetensors").write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(WeightsError, match="damaged"):
        export_onnx(tmp_path / "w.safetensors", tmp_path / "m.onnx", overwrite=True)
    assert (tmp_path / "m.onnx").read_text() == "old"


def test_exit_codes_and_one_line_messages(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["-o", str(tmp_path / "m.onnx")]
    for arguments, code in (
        ([str(weights), *out, "--quantize", "int8"], 64),
        ([str(weights), "-o", str(tmp_path / "m.bin")], 64),
        ([str(tmp_path / "none.safetensors"), *out], 66),
        ([str(SAMPLE[0]), *out], 78),
        ([str(weights), *out, "--optical", str(tmp_path / "none.tif"), "--sar", str(SAMPLE[1])], 66),
    ):
        assert run(["export", *arguments]) == code
        error = capsys.readouterr().err.strip()
        assert "Traceback" not in error
        assert error.splitlines()[-1].startswith("refnet: ")
    assert not list(tmp_path.iterdir())


def test_a_scene_that_cannot_be_used_is_refused_before_exporting(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "s2.tif").write_text("no image")
    with pytest.raises(InputError):
        export_onnx(weights, tmp_path / "m.onnx", optical=tmp_path / "s2.tif", sar=SAMPLE[1])


@pytest.mark.long
def test_a_full_disk_leaves_the_old_model_and_nothing_else(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_text("old")
    with file_size_limit(2**20), pytest.raises(StorageError, match="disk may be full"):
        export_onnx(weights, tmp_path / "m.onnx", overwrite=True)
    assert (tmp_path / "m.onnx").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_a_model_in_the_place_of_a_folder_is_refused_before_exporting(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        export_onnx(weights, tmp_path / "file" / "m.onnx")


# --- other networks, coarser models ----------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("sensor", ["optical", "sar"])
def test_a_sensor_that_was_left_out_stays_out(tmp_path: Path, sensor: str) -> None:
    card = replace(
        CARD, training={"without": sensor}, scheme=replace(SCHEMES["esri-io"], **two_classes()),
        network=replace(CARD.network, classes=3, states=2, msie=False),
    )  # fmt: skip
    path = save(tmp_path / "w.safetensors", card)
    export_onnx(path, tmp_path / "m.onnx")
    running, tiles = session(tmp_path / "m.onnx"), patches(2, 64, 96)
    other = patches(2, 64, 96, seed=7)
    swapped = (other[0], tiles[1]) if sensor == "optical" else (tiles[0], other[1])
    found = in_onnx(running, tiles)
    assert np.array_equal(found[0], in_onnx(running, swapped)[0])
    blank = tuple(np.full_like(a, np.nan) if name == sensor else a for name, a in zip(INPUTS, tiles, strict=True))
    assert_alike(found, in_torch(path)((blank[0], blank[1])), temperature=1)
    (last,) = (node for node in onnx.load(tmp_path / "m.onnx").graph.node if OUTPUTS[1] in node.output)
    assert (last.op_type, list(last.input)) == ("Softmax", [OUTPUTS[0]])  # nothing where the temperature is 1
    ours, theirs = (load_engine(p).predict(*tiles) for p in (tmp_path / "m.onnx", path))
    assert np.abs(ours - theirs).max() < 1e-3


def two_classes() -> dict[str, Any]:
    scheme = SCHEMES["esri-io"]
    return {"codes": scheme.codes[:2], "names": scheme.names[:2], "colours": scheme.colours[:2]}


@pytest.mark.long
def test_exporting_twice_gives_the_same_bytes(exported: tuple[Path, Exported], weights: Path, tmp_path: Path) -> None:
    export_onnx(weights, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == exported[0].read_bytes()


@pytest.mark.long
def test_half_precision(weights: Path, tmp_path: Path) -> None:
    pair = make_pair(tmp_path, 200, 160)
    report = export_onnx(weights, tmp_path / "h.onnx", precision="fp16", optical=pair[0], sar=pair[1])
    assert report.precision == "fp16"
    assert report.parity.agreement >= 0.99
    model = onnx.load(tmp_path / "h.onnx")
    onnx.checker.check_model(model, full_check=True)
    halves = [tensor for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT16]
    assert halves
    numbers = sum(parameter.numel() for parameter in load_weights(weights)[0].parameters())
    assert (tmp_path / "h.onnx").stat().st_size < 0.65 * 4 * numbers
    optical, sar = patches(2, 96, 64)
    optical[0, :, :9] = np.nan
    ours, theirs = (load_engine(path).predict(optical, sar) for path in (tmp_path / "h.onnx", weights))
    assert ours.dtype == np.float32
    assert (ours.argmax(1) == theirs.argmax(1)).mean() >= 0.98


@pytest.mark.long
def test_whole_numbers_are_near_or_refused_with_the_share(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights, out = BASE.with_suffix(".safetensors"), tmp_path / "q.onnx"
    scene = ["--optical", str(SAMPLE[0]), "--sar", str(SAMPLE[1])]
    code = run(["export", str(weights), "-o", str(out), "--quantize", "int8", "--json", *scene])
    streams = capsys.readouterr()
    if code:
        assert code == 78
        assert "% of the pixels" in streams.err
        assert not list(tmp_path.iterdir())
        return
    parity = json.loads(streams.out)["parity"]
    assert parity["agreement"] >= 0.99
    assert out.stat().st_size < 0.6 * BASE.stat().st_size
    assert json.loads(read_metadata(out)[PARITY]) == parity


# --- what must be shown ----------------------------------------------------------------------------------------------


class Both:
    """A model and the network in torch that it was made of."""

    def __init__(self, model: Path, weights: Path) -> None:
        self.session, self.logits = session(model), in_torch(weights)

    def hold(self, name: str, tiles: Tiles) -> None:
        """Hold one against the other at two batch sizes; print the largest difference of logits and the agreement."""
        count = len(tiles[0])
        wanted = np.concatenate([self.logits((tiles[0][i : i + 1], tiles[1][i : i + 1])) for i in range(count)])
        largest, agreement = 0.0, 1.0
        for batch in {1, count}:
            parts = [slice(i, i + batch) for i in range(0, count, batch)]
            logits = np.concatenate([in_onnx(self.session, (tiles[0][part], tiles[1][part]))[0] for part in parts])
            largest = max(largest, float(np.abs(logits - wanted).max()))
            agreement = min(agreement, float((logits.argmax(1) == wanted.argmax(1)).mean()))
        scale = float(wanted.std())
        print(f"{name}: {count} tiles, logits ({scale:.2g}) within {largest:.2g}, {agreement:.4%} alike")  # noqa: T201
        assert largest < 1e-3
        assert agreement >= 0.999


@pytest.mark.long
def test_the_shipped_weights_agree_on_the_sample() -> None:
    card = read_card(BASE)
    with ScenePair.open(*SAMPLE, card.optical.bands, card.sar.bands) as pair:
        tiles = cut(pair, card.tile, 2)
    assert np.isnan(tiles[0]).any()
    Both(BASE, BASE.with_suffix(".safetensors")).hold("sample", tiles)


Files = Path | tuple[Path, ...]


def pairs_in(data: Path) -> dict[str, tuple[Files, Files]]:
    """All pairs that have the bands of the weights; those in cross_utm have VV alone."""
    found: dict[str, tuple[Files, Files]] = {}
    for sar in sorted((data / "terramind" / "S1RTC").glob("*.tif")):
        for level in ("S2L1C", "S2L2A"):
            found[f"terramind {level} {sar.stem}"] = data / "terramind" / level / sar.name, sar
    for optical in sorted((data / "bigearthnet" / "BigEarthNet-S2-Example").iterdir()):
        found[optical.name] = optical, data / "bigearthnet" / "BigEarthNet-S1-Example" / EARTHNET[optical.name]
    for (level, date), radar in SSL4EO.items():
        (sar,) = (data / "ssl4eo" / "s1" / "0000200").glob(radar + "*")
        found[f"ssl4eo {level} {date}"] = data / "ssl4eo" / level / "0000200" / date, sar
    return found


def hold_all(both: Both, card: Card, data: Path, most: int) -> None:
    pairs = pairs_in(data)
    assert len(pairs) >= 10 + 1 + len(SSL4EO)
    for name, files in pairs.items():
        with ScenePair.open(*files, card.optical.bands, card.sar.bands, SceneOptions()) as pair:
            both.hold(name, cut(pair, card.tile, most))


@pytest.mark.long
@pytest.mark.parametrize("data", ["simulated", "real"], indirect=True)
def test_the_shipped_weights_agree_on_all_pairs(data: Path) -> None:
    hold_all(Both(BASE, BASE.with_suffix(".safetensors")), read_card(BASE), data, 4)


@pytest.mark.long
@pytest.mark.parametrize("data", ["simulated", "real"], indirect=True)
def test_the_published_network_agrees_on_all_pairs(data: Path, tmp_path: Path) -> None:
    golden = Golden("resnet50")
    card = replace(
        CARD, name="published", network=golden.net.config, scheme=SCHEMES["dfc2020"], tile=256,
        optical=Modality(("B04", "B03", "B02"), "reflectance x 10000", *PUBLISHED["optical"]),
        sar=Modality(("VV", "VH"), "dB", *PUBLISHED["sar"]),
    )  # fmt: skip
    weights, model = tmp_path / "published.safetensors", tmp_path / "published.onnx"
    save_weights(golden.net, card, weights)
    parity = export_onnx(weights, model).parity
    assert parity.largest < 1e-3
    assert parity.agreement >= 0.999
    # Its own inputs, whose logits the published code gave.
    shape = (-1, 1, 1)
    tiles = [
        (image.numpy() * np.reshape(modality.std, shape) + np.reshape(modality.mean, shape)).astype(np.float32)
        for image, modality in ((golden.optical, card.optical), (golden.sar, card.sar))
    ]
    logits = in_onnx(session(model), (tiles[0], tiles[1]))[0]
    assert np.abs(logits - golden.stored["logits"]).max() < 1e-3
    hold_all(Both(model, weights), card, data, 1)
