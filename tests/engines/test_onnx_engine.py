"""The ONNX Runtime engine: providers, scarce memory, models that do not fit; a fake runtime where hardware lacks."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import rasterio
from onnx import TensorProto, helper

from refnet_cli.cli.main import run
from refnet_cli.engines import onnx_engine
from refnet_cli.engines.load import load_engine
from refnet_cli.engines.onnx_engine import OnnxEngine, choose_providers, import_runtime
from refnet_cli.engines.options import EngineOptions
from refnet_cli.engines.providers import INSTALL, PROVIDERS
from refnet_cli.errors import InputMissingError, OptionsError, TryAgainError, UnavailableError, WeightsError
from refnet_cli.model.card import Modality
from refnet_cli.model.weight_files import read_card
from tests.helpers.scenes import CARD, make_pair
from tests.helpers.small_models import make_model, write_model

ROOT = Path(__file__).resolve().parents[2]
STRIP = "239040,6202220,246720,6204780"
"""Of the sample, 768 x 256 pixels."""
BASE = ROOT / "weights" / "refnet-base.onnx"
GPU = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]


def patches(count: int, side: int = 32) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    optical = random.uniform(100, 3000, (count, 4, side, side)).astype(np.float32)
    return optical, random.uniform(-25, -5, (count, 2, side, side)).astype(np.float32)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "small.onnx")


# --- which provider --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("available", [c for n in range(1, 7) for c in itertools.combinations(PROVIDERS, n)])
def test_the_best_providers_that_are_there_and_fit_are_taken(available: tuple[str, ...]) -> None:
    """In every order in which ONNX Runtime may list them, with the CPU behind all, which is always there."""
    available = tuple(dict.fromkeys([*available, "cpu"]))
    order = list(PROVIDERS)
    assert order == ["tensorrt", "cuda", "openvino", "directml", "coreml", "cpu"]
    for listed in itertools.islice(itertools.permutations(available), 24):
        theirs = [*(PROVIDERS[name] for name in listed), "AzureExecutionProvider"]
        assert choose_providers(theirs) == sorted(available, key=order.index)
        assert choose_providers(theirs, "cpu") == ["cpu"]
        for name in available:
            assert choose_providers(theirs, "auto", name) == list(dict.fromkeys([name, "cpu"]))
        on_cuda = [name for name in ("tensorrt", "cuda") if name in available]
        for device in ("cuda", "cuda:0", "cuda:13"):
            if on_cuda:
                assert choose_providers(theirs, device) == [*on_cuda, "cpu"]
            else:
                with pytest.raises(UnavailableError, match="onnxruntime-gpu"):
                    choose_providers(theirs, device)


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:1"])
@pytest.mark.parametrize("provider", PROVIDERS)
def test_providers_that_contradict_the_device_or_are_missing(device: str, provider: str) -> None:
    fits = device == "auto" or provider in {"cpu": ["cpu"]}.get(device, ["tensorrt", "cuda"])
    if not fits:
        with pytest.raises(OptionsError, match="Leave out one of them") as contradictory:
            choose_providers(list(PROVIDERS.values()), device, provider)
        assert contradictory.value.exit_code == 64
    elif provider != "cpu":
        with pytest.raises(UnavailableError) as missing:
            choose_providers(["CPUExecutionProvider"], device, provider)
        assert missing.value.exit_code == 69
        assert f"Install {INSTALL[provider]}" in str(missing.value)
        assert provider in str(missing.value)


@pytest.mark.parametrize("device", ["", "gpu", "CUDA", "cuda:", "cuda:-1", "cuda:x", "cpu:0", "cuda:1 ", "cpu\n"])
def test_unknown_devices_are_refused(device: str) -> None:
    with pytest.raises(OptionsError, match="Unknown device"):
        choose_providers(GPU, device)


@pytest.mark.parametrize("provider", ["", "CPU", "CUDAExecutionProvider", "rocm"])
def test_unknown_providers_are_refused(provider: str) -> None:
    with pytest.raises(OptionsError, match="Unknown provider"):
        choose_providers(GPU, "auto", provider)


# --- a runtime that only claims to have providers --------------------------------------------------------------------


class FakeBinding:
    def __init__(self, session: FakeSession) -> None:
        self.session = session
        self.inputs: dict[str, np.ndarray] = {}
        self.bound: list[tuple[str, str, int]] = []

    def bind_ortvalue_input(self, name: str, value: Any) -> None:
        self.inputs[name] = value.array
        self.bound.append((name, value.device, value.index))

    def bind_output(self, name: str, device: str, index: int) -> None:
        self.bound.append((name, device, index))

    def copy_outputs_to_cpu(self) -> list[np.ndarray]:
        return [self.session.compute(self.inputs)]


class FakeSession:
    """Answers with what each pixel's values give; takes only so many patches at once."""

    limit = 99
    message = "Failed to allocate memory for requested buffer of size 1"
    started: tuple[str, ...] | None = None

    def __init__(self, path: str, options: Any, providers: list[tuple[str, dict[str, Any]]]) -> None:
        self.settings = dict(providers)
        self.options = options
        self.shapes: list[int] = []
        self.bindings: list[FakeBinding] = []

    def get_providers(self) -> list[str]:
        return [name for name in self.settings if self.started is None or name in self.started]

    def get_provider_options(self) -> dict[str, dict[str, Any]]:
        return {name: self.settings[name] for name in self.get_providers()}

    def disable_fallback(self) -> None:
        self.may_fall_back = False

    def get_inputs(self) -> list[Any]:
        shapes = {"optical": ["n", 4, "h", "w"], "sar": ["n", 2, "h", "w"]}
        return [SimpleNamespace(name=name, shape=shape) for name, shape in shapes.items()]

    def get_outputs(self) -> list[Any]:
        shapes = {"logits": ["n", 10, "h", "w"], "probabilities": ["n", 10, "h", "w"]}
        return [SimpleNamespace(name=name, shape=shape) for name, shape in shapes.items()]

    def compute(self, feed: dict[str, np.ndarray]) -> np.ndarray:
        assert all(array.dtype == np.float32 and array.flags.c_contiguous for array in feed.values())
        count = len(feed["optical"])
        assert len(feed["sar"]) == count
        self.shapes.append(count)
        if count > self.limit:
            raise RuntimeError(f"[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : {self.message}")
        return answer(feed["optical"], feed["sar"])

    def run(self, outputs: list[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        assert outputs == ["probabilities"]
        return [self.compute(feed)]

    def io_binding(self) -> FakeBinding:
        self.bindings.append(FakeBinding(self))
        return self.bindings[-1]

    def run_with_iobinding(self, binding: FakeBinding) -> None:
        assert binding is self.bindings[-1]


def answer(optical: np.ndarray, sar: np.ndarray) -> np.ndarray:
    shares = np.ones((len(optical), 10, *optical.shape[2:]), np.float32)
    shares[:, :4], shares[:, 4:6] = optical / 1000, -sar
    return np.asarray(shares / shares.sum(1, keepdims=True), np.float32)


class FakeRuntime:
    __version__ = "1.99"
    SessionOptions = SimpleNamespace

    def __init__(self, available: list[str]) -> None:
        self.available = available
        self.preloaded = 0

        class Session(FakeSession):
            pass

        self.InferenceSession = Session

    def get_available_providers(self) -> list[str]:
        return self.available

    def preload_dlls(self) -> None:
        self.preloaded += 1

    class OrtValue:
        @staticmethod
        def ortvalue_from_numpy(array: np.ndarray, device: str, index: int) -> Any:
            return SimpleNamespace(array=array, device=device, index=index)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeRuntime:
    runtime = FakeRuntime(GPU)
    monkeypatch.setattr(onnx_engine, "import_runtime", lambda: runtime)
    return runtime


def session_of(engine: OnnxEngine) -> Any:
    return engine._session


@pytest.mark.parametrize(
    ("device", "provider", "started"),
    [
        ("cuda", None, ["CPUExecutionProvider"]),
        ("cuda:1", None, ["CPUExecutionProvider"]),
        ("auto", "cuda", ["CPUExecutionProvider"]),
        ("auto", "tensorrt", ["CPUExecutionProvider"]),
        ("auto", "tensorrt", ["CUDAExecutionProvider", "CPUExecutionProvider"]),
        ("cuda", "tensorrt", ["CUDAExecutionProvider", "CPUExecutionProvider"]),
    ],
)
def test_a_provider_that_the_runtime_drops_in_silence_is_missed(
    model: Path, gpu: FakeRuntime, device: str, provider: str | None, started: list[str]
) -> None:
    gpu.InferenceSession.started = tuple(started)
    with pytest.raises(UnavailableError) as caught:
        OnnxEngine(model, device, provider=provider)
    assert repr(provider or "cuda") in str(caught.value)
    assert INSTALL[provider or "cuda"] in str(caught.value)


def test_without_wishes_what_starts_is_taken(model: Path, gpu: FakeRuntime) -> None:
    gpu.InferenceSession.started = ("CPUExecutionProvider",)
    about = OnnxEngine(model).about
    assert (about["device"], about["providers"]) == ("cpu", "cpu")
    gpu.InferenceSession.started = ("CUDAExecutionProvider", "CPUExecutionProvider")
    for device in ("auto", "cuda"):
        about = OnnxEngine(model, device).about
        assert (about["device"], about["providers"]) == ("cuda:0", "cuda, cpu")


def test_devices_and_providers_are_handed_on(
    model: Path, gpu: FakeRuntime, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    settings = session_of(OnnxEngine(model, "cuda:2")).settings
    assert list(settings) == GPU
    assert settings["CUDAExecutionProvider"]["device_id"] == settings["TensorrtExecutionProvider"]["device_id"] == 2
    assert str(tmp_path) in settings["TensorrtExecutionProvider"]["trt_engine_cache_path"]
    assert gpu.preloaded == 1
    assert list(session_of(OnnxEngine(model, "cpu")).settings) == ["CPUExecutionProvider"]
    assert gpu.preloaded == 1


@pytest.mark.parametrize("device", ["auto", "cuda:3"])
def test_on_cuda_both_ways_are_bound(model: Path, gpu: FakeRuntime, device: str) -> None:
    engine = OnnxEngine(model, device, batch=2)
    optical, sar = patches(2)
    assert np.array_equal(engine.predict(optical[..., ::2], sar[..., ::2]), answer(optical[..., ::2], sar[..., ::2]))
    index = 3 if device == "cuda:3" else 0
    expected = {(name, "cuda", index) for name in ("optical", "sar", "probabilities")}
    assert set(session_of(engine).bindings[0].bound) == expected


def test_on_cpus_nothing_is_bound(model: Path, gpu: FakeRuntime) -> None:
    engine = OnnxEngine(model, "cpu", batch=4)
    optical, sar = patches(3)
    assert np.array_equal(engine.predict(optical, sar), answer(optical, sar))
    assert session_of(engine).bindings == []
    assert session_of(engine).shapes == [3]


@pytest.mark.parametrize("available", [GPU, ["DmlExecutionProvider"], ["CoreMLExecutionProvider"]])
def test_batches_are_filled_up_but_on_the_cpu(model: Path, gpu: FakeRuntime, available: list[str]) -> None:
    gpu.available = [*available, "CPUExecutionProvider"]
    engine = OnnxEngine(model, batch=5)
    for count in (5, 3, 1):
        optical, sar = patches(count)
        assert np.array_equal(engine.predict(optical, sar), answer(optical, sar))
    assert session_of(engine).shapes == [5, 5, 5]


MESSAGES = [
    "Failed to allocate memory for requested buffer of size 268435456",
    "Available memory of 0 is smaller than requested bytes of 4; bad allocation",
    "std::bad_alloc",
    "CUDA failure 2: out of memory ; GPU=0 ; hostname=x",
    "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED",
]


@pytest.mark.parametrize("limit", [1, 2, 3, 4])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("message", MESSAGES)
def test_scarce_memory_halves_the_batch_and_nothing_else(
    model: Path, gpu: FakeRuntime, limit: int, device: str, message: str
) -> None:
    gpu.InferenceSession.limit, gpu.InferenceSession.message = limit, message
    engine = OnnxEngine(model, device, batch=7)
    for count in (7, 1, 5):
        optical, sar = patches(count)
        assert np.array_equal(engine.predict(optical, sar), answer(optical, sar))
    assert 1 <= engine.batch <= max(limit, 3)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_what_batches_are_filled_with_is_given_up_first(model: Path, gpu: FakeRuntime, count: int) -> None:
    """A scene of few tiles needs no more memory than these."""
    gpu.InferenceSession.limit = count
    engine = OnnxEngine(model, "cuda", batch=16)
    optical, sar = patches(count)
    assert np.array_equal(engine.predict(optical, sar), answer(optical, sar))


def test_no_memory_for_a_single_tile(model: Path, gpu: FakeRuntime) -> None:
    gpu.InferenceSession.limit = 0
    for device in ("cpu", "cuda"):
        with pytest.raises(TryAgainError, match="single tile"):
            OnnxEngine(model, device).predict(*patches(3))


def test_other_faults_are_not_taken_for_scarce_memory(model: Path, gpu: FakeRuntime) -> None:
    gpu.InferenceSession.limit, gpu.InferenceSession.message = 0, "Non-zero status code returned"
    with pytest.raises(RuntimeError, match="Non-zero"):
        OnnxEngine(model).predict(*patches(2))


def test_answers_that_are_no_numbers_are_refused(
    model: Path, gpu: FakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu.InferenceSession, "compute", lambda self, feed: np.full((1, 10, 2, 2), np.nan, np.float32))
    with pytest.raises(WeightsError, match="NaN or infinite"):
        OnnxEngine(model).predict(*patches(1))


# --- installations ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "others", [("onnxruntime-gpu",), ("onnxruntime-directml",), ("onnxruntime-gpu", "onnxruntime-openvino")]
)
def test_two_distributions_in_one_place_are_refused(others: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "onnxruntime" or name in others:
            return "1.2"
        raise onnx_engine.PackageNotFoundError(name)

    monkeypatch.setattr(onnx_engine, "version", version)
    with pytest.raises(UnavailableError) as caught:
        import_runtime()
    for name in ("onnxruntime", *others):
        assert name in str(caught.value)
    assert "Uninstall both" in str(caught.value)


def test_a_missing_runtime_is_told(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UnavailableError, match=r"refnet-cli\[onnx\]") as caught:
        OnnxEngine(model)
    assert caught.value.exit_code == 69


def test_what_uninstalling_one_of_two_left_over_is_told(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder without its code, which Python imports as an empty package."""
    monkeypatch.setitem(sys.modules, "onnxruntime", SimpleNamespace())
    with pytest.raises(UnavailableError, match="install"):
        OnnxEngine(model)


# --- real models -----------------------------------------------------------------------------------------------------


def test_batches_of_any_size_give_the_same(model: Path) -> None:
    optical, sar = patches(5)
    wanted = OnnxEngine(model, batch=5).predict(optical, sar)
    assert wanted.dtype == np.float32
    assert wanted.shape == (5, 10, 32, 32)
    assert wanted.sum(1) == pytest.approx(1, abs=1e-5)
    for batch in (1, 2, 5):
        engine = OnnxEngine(model, "cpu", batch)
        parts = [slice(i, i + batch) for i in range(0, 5, batch)]
        found = np.concatenate([engine.predict(optical[part], sar[part]) for part in parts])
        assert found == pytest.approx(wanted, abs=1e-6)


def test_invalid_pixels_and_arrays_in_any_order(model: Path) -> None:
    optical, sar = patches(2)
    # Six rows and two columns, of which no pixel is equally near to two others.
    optical[0, 1, 3:9], sar[1, :, :, 4:6] = np.nan, np.nan
    engine = OnnxEngine(model)
    found = engine.predict(optical, sar)
    assert np.isfinite(found).all()
    assert np.array_equal(engine.predict(np.asfortranarray(optical), np.asfortranarray(sar)), found)
    assert np.array_equal(engine.predict(optical[..., ::-1], sar[..., ::-1]), found[..., ::-1])


def test_the_engine_tells_what_it_runs_on(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    engine = load_engine(model, EngineOptions(batch=2))
    assert isinstance(engine, OnnxEngine)
    assert engine.about["engine"].startswith("ONNX Runtime 1.")
    assert (engine.about["device"], engine.about["providers"], engine.about["threads"]) == ("cpu", "cpu", "3")
    assert engine.batch == 2
    assert session_of(engine).get_session_options().intra_op_num_threads == 3
    engine.close()


@pytest.mark.long
def test_the_number_of_threads_changes_no_class(monkeypatch: pytest.MonkeyPatch) -> None:
    optical, sar = patches(1, 64)
    classes = []
    for threads in ("1", "2", "3"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        classes.append(OnnxEngine(BASE, "cpu").predict(optical, sar).argmax(1))
    assert np.array_equal(classes[0], classes[1])
    assert np.array_equal(classes[0], classes[2])


def test_models_without_a_card_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bare = write_model(tmp_path / "bare.onnx", card=None)
    with pytest.raises(WeightsError, match="has no refnet card"):
        OnnxEngine(bare)
    code, message = predict(capsys, SAMPLE, bare, tmp_path / "map.tif")
    assert code == 78
    assert "has no refnet card" in message
    assert list(tmp_path.iterdir()) == [bare]


RGB = Modality(CARD.optical.bands[:3], CARD.optical.unit, CARD.optical.mean[:3], CARD.optical.std[:3])


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (make_model(bands=3), "optical"),
        (make_model(layers=1), "sar"),
        (make_model(classes=9), "probabilities"),
        (make_model(output="shares"), "probabilities"),
    ],
    ids=["bands", "layers", "classes", "output"],
)
def test_models_that_do_not_fit_their_card_are_refused(tmp_path: Path, model: Any, name: str) -> None:
    with pytest.raises(WeightsError, match=f"does not fit its card: {name} (has|is)"):
        OnnxEngine(write_model(tmp_path / "m.onnx", model))


def test_a_card_for_other_bands_is_refused(tmp_path: Path) -> None:
    card = replace(CARD, optical=RGB, network=replace(CARD.network, optical_bands=3))
    with pytest.raises(WeightsError, match="does not fit its card"):
        OnnxEngine(write_model(tmp_path / "m.onnx", card=card))


def test_images_without_rows_and_columns_are_refused(tmp_path: Path) -> None:
    model = make_model()
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("optical", TensorProto.FLOAT, ["batch", 4]))
    with pytest.raises(WeightsError):
        OnnxEngine(write_model(tmp_path / "m.onnx", model))


@pytest.mark.parametrize("where", [0.1, 0.5, 0.9])
def test_damaged_models_are_refused(tmp_path: Path, where: float) -> None:
    content = bytearray(BASE.read_bytes())
    content[int(where * len(content))] ^= 0x10
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(WeightsError):
        OnnxEngine(tmp_path / "m.onnx")


def test_truncated_and_missing_models_are_refused(tmp_path: Path, model: Path) -> None:
    (tmp_path / "cut.onnx").write_bytes(BASE.read_bytes()[:-9])
    with pytest.raises(WeightsError):
        load_engine(tmp_path / "cut.onnx")
    with pytest.raises(InputMissingError):
        OnnxEngine(tmp_path / "none.onnx")


@pytest.mark.parametrize("message", ["", "\n", "first\nsecond"])
def test_whatever_the_runtime_says_of_a_model_is_told_in_one_line(
    model: Path, gpu: FakeRuntime, monkeypatch: pytest.MonkeyPatch, message: str
) -> None:
    def fail(*arguments: Any, **settings: Any) -> None:
        raise RuntimeError(message)

    monkeypatch.setattr(gpu, "InferenceSession", fail)
    with pytest.raises(WeightsError, match="cannot load") as caught:
        OnnxEngine(model)
    assert "\n" not in str(caught.value)


def test_models_that_the_runtime_cannot_load_are_refused_in_one_line(tmp_path: Path) -> None:
    model = make_model()
    model.graph.node[0].op_type = "Unheard"
    with pytest.raises(WeightsError, match="cannot load") as caught:
        OnnxEngine(write_model(tmp_path / "m.onnx", model))
    assert "\n" not in str(caught.value)


# --- through the command line ----------------------------------------------------------------------------------------


SAMPLE = ROOT / "sample_data" / "s2.tif", ROOT / "sample_data" / "s1.tif"


def predict(
    capsys: pytest.CaptureFixture[str], pair: tuple[Path, Path], weights: Path, output: Path, *options: str
) -> tuple[int, str]:
    files = ["--optical", pair[0], "--sar", pair[1], "--weights", weights, "-o", output]
    code = run(["predict", *map(str, files), *options])
    streams = capsys.readouterr()
    assert "Traceback" not in streams.err
    return code, streams.err if code else streams.out


def classes(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read(1)


@pytest.mark.long
def test_the_shipped_weights_map_the_sample_alike_in_both_forms(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    maps = []
    for suffix, options in ((".onnx", ["--provider", "cpu"]), (".safetensors", [])):
        output = tmp_path / f"{suffix[1:]}.tif"
        code, out = predict(
            capsys, SAMPLE, BASE.with_suffix(suffix), output, "--device", "cpu", "--json", "--bounds", STRIP, *options
        )
        assert code == 0, out
        assert ("ONNX Runtime" in json.dumps(json.loads(out))) == (suffix == ".onnx")
        maps.append(classes(output))
    assert (maps[0] == maps[1]).mean() >= 0.999
    assert len(np.unique(maps[0])) > 4


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (EngineOptions(scan="cpu"), "--scan"),
        (EngineOptions(precision="fp16"), "--precision"),
        (EngineOptions(precision="bf16"), "--precision"),
        (EngineOptions(compile=True), "--compile"),
    ],
    ids=str,
)
def test_options_of_torch_are_refused_for_onnx(model: Path, options: EngineOptions, name: str) -> None:
    with pytest.raises(OptionsError, match=name) as caught:
        load_engine(model, options)
    assert caught.value.exit_code == 64


@pytest.mark.parametrize(
    ("suffix", "options", "code"),
    [
        (".safetensors", ("--provider", "cpu"), 64),
        pytest.param(".onnx", ("--scan", "cpu"), 64, marks=pytest.mark.long),
        pytest.param(".onnx", ("--provider", "cuda", "--device", "cpu"), 64, marks=pytest.mark.long),
        (".onnx", ("--provider", "tensorrt"), 69),
    ],
)
def test_exit_codes_of_options_that_do_not_fit(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    suffix: str,
    options: tuple[str, ...],
    code: int,
) -> None:
    runtime = FakeRuntime(["CPUExecutionProvider"])
    monkeypatch.setattr(onnx_engine, "import_runtime", lambda: runtime)
    pair = make_pair(tmp_path, 64, 64)
    found, message = predict(capsys, pair, BASE.with_suffix(suffix), tmp_path / "map.tif", *options)
    assert found == code
    assert options[0] in message or options[1] in message
    assert sorted(tmp_path.iterdir()) == sorted(pair)


def test_predicting_needs_neither_torch_nor_onnx(model: Path) -> None:
    """Where only ONNX Runtime is installed."""
    script = f"""
import sys
sys.modules |= dict.fromkeys(["torch", "onnx", "onnxscript", "timm"])
import numpy as np
from refnet_cli.engines.load import load_engine
engine = load_engine({str(model)!r})
print(engine.predict(np.zeros((1, 4, 32, 32), np.float32), np.zeros((1, 2, 32, 32), np.float32)).shape)
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "(1, 10, 32, 32)", done.stderr


def test_the_shipped_forms_have_one_card() -> None:
    onnx, torch = (read_card(BASE.with_suffix(suffix)) for suffix in (".onnx", ".safetensors"))
    assert replace(onnx, sha256="") == replace(torch, sha256="", network=replace(torch.network, msie=False))
