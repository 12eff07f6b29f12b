"""Every public name, imported alone and after the others, called or constructed, with and without the extras.

An interpreter that has imported the third-party libraries, and nothing of refnet, forks a child for each import.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import refnet_cli

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "refnet_cli"
NAMES = [name for name in refnet_cli.__all__ if name != "__version__"]
EXTRAS = (
    "torch,torchvision,timm,safetensors,accelerate,triton,numba,llvmlite,onnx,onnxscript,onnxruntime,matplotlib,"
    "huggingface_hub,tensorboard,xarray"
)
NEED_EXTRAS = {
    "Prediction", "REFNet", "TrainConfig", "export_onnx", "fit", "from_published", "load_weights", "predict_xarray",
    "save_weights",
}  # fmt: skip

CHILD = """
import importlib, json, os, sys, warnings
warnings.simplefilter("ignore")
hidden, orders, root = json.loads(sys.argv[1])
sys.path.insert(0, root)
if hidden:
    from tests.helpers.hidden import hide
    hide(hidden.split(","))
for library in ("numpy", "rasterio", "pyogrio", "shapely", "odc.geo.geobox", "scipy.signal", "torch", "timm", "numba",
                "safetensors.torch", "onnx", "onnxscript", "onnxruntime", "matplotlib", "accelerate"):
    try:
        importlib.import_module(library)
    except ImportError:
        pass
assert not any(name.split(".")[0] == "refnet_cli" for name in sys.modules)


def use(name, value):
    \"\"\"Call or construct; errors are those that a user is to see.\"\"\"
    from refnet_cli.errors import RefnetError
    uses = {
        "PRODUCTS": lambda: value["sentinel-2-l2a"],
        "SCHEMES": lambda: value["esri-io"],
        "ArrayPrediction": lambda: value(None, None, None),
        "Card": lambda: value.from_dict({}),
        "ClassMap": lambda: value("nowhere/map.tif", *grid()),
        "EngineOptions": lambda: value(device="cpu"),
        "PredictOptions": lambda: value("a.tif", "b.tif", "c.tif"),
        "Prediction": lambda: value(1, 2, 3),
        "REFNet": lambda: value(config()),
        "REFNetConfig": lambda: value(classes=5),
        "RefnetError": lambda: value("text"),
        "ScenePair": lambda: value.open("no.tif", "no.tif", ["B02"], ["VV"]),
        "Tiling": lambda: value(100, 100, 64, 16),
        "TrainConfig": lambda: value(scenes=()),
        "compare": lambda: value("no.tif", "nothing.tif"),
        "evaluate": lambda: value("no.tif", "no.tif"),
        "export_onnx": lambda: value("no.safetensors", "a.onnx"),
        "fit": lambda: value(train_config() if "torch" in sys.modules else None, "nowhere/run"),
        "from_published": lambda: value({}),
        "inspect": lambda: value("no.tif", None),
        "load_engine": lambda: value("no.safetensors"),
        "load_weights": lambda: value("no.safetensors"),
        "predict": lambda: value(options()),
        "predict_arrays": lambda: value(None, None),
        "predict_xarray": lambda: value(None, None),
        "save_weights": lambda: value(network(), bundled(), "nowhere/w.safetensors"),
    }

    def grid():
        from odc.geo.geobox import GeoBox
        from rasterio.transform import Affine
        from refnet_cli import SCHEMES
        return GeoBox((8, 8), Affine(10, 0, 0, 0, -10, 0), "EPSG:32633"), SCHEMES["esri-io"], {}

    def config():
        from refnet_cli import REFNetConfig
        return REFNetConfig(encoder="test_resnet", width=16)

    def train_config():
        from refnet_cli import TrainConfig
        from refnet_cli.training.config import TrainScene
        return TrainConfig(scenes=[TrainScene("no.tif", "no.tif", "no.tif")], encoder="test_resnet", device="cpu")

    def options():
        from refnet_cli import PredictOptions
        return PredictOptions("no.tif", "no.tif", "map.tif")

    def network():
        from refnet_cli import REFNet
        return REFNet(config())

    def bundled():
        from refnet_cli.model.weight_files import default_weights, read_card
        return read_card(default_weights())

    try:
        return type(uses[name]()).__name__
    except RefnetError as error:
        return f"{type(error).__name__}: {error}"
    except Exception as error:
        return f"BUG {type(error).__name__}: {error}"


for order in orders:
    reading, writing = os.pipe()
    if not os.fork():
        try:
            import refnet_cli
            found = {name: getattr(importlib.import_module("refnet_cli"), name) for name in order}
            said = {name: use(name, value) for name, value in found.items()}
            same = all(callable(getattr(refnet_cli, name)) == callable(value) for name, value in found.items())
            importlib.import_module("refnet_cli.export")
        except BaseException as error:
            said, same = {"*": f"BUG {type(error).__name__}: {error}"}, False
        os.write(writing, json.dumps([said, same]).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        print(pipe.read(), flush=True)
    os.wait()
"""


def use_all(hidden: str, orders: list[list[str]]) -> list[tuple[dict[str, str], bool]]:
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-c", CHILD, json.dumps([hidden, orders, str(ROOT)])], cwd=folder, capture_output=True,
            text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


ORDERS = [[name] for name in NAMES] + [NAMES, NAMES[::-1], [*NAMES[7:], *NAMES[:7]], sorted(NAMES, key=str.lower)]


@pytest.mark.long
def test_every_name_is_used_alone_and_after_the_others() -> None:
    for said, same in use_all("", ORDERS):
        assert same
        for name, what in said.items():
            assert not what.startswith(("BUG", "UnavailableError")), f"{name}: {what}"


@pytest.mark.long
def test_every_name_is_used_in_several_orders_in_an_install_without_extras() -> None:
    for said, same in use_all(EXTRAS, ORDERS):
        assert same
        for name, what in said.items():
            assert not what.startswith("BUG"), f"{name}: {what}"
            if name in NEED_EXTRAS:
                assert what.startswith("UnavailableError: "), f"{name}: {what}"
                assert "pip install 'refnet-cli[" in what


@pytest.mark.parametrize("hidden", ["onnx,onnxscript", "numba,llvmlite", "matplotlib"])
@pytest.mark.long
def test_one_library_that_is_missing(hidden: str) -> None:
    for said, _ in use_all(hidden, [NAMES]):
        wrong = {name: what for name, what in said.items() if what.startswith("BUG")}
        assert not wrong
        refused = {name for name, what in said.items() if what.startswith("UnavailableError")}
        assert refused <= {"onnx,onnxscript": {"export_onnx"}, "matplotlib": {"fit", "TrainConfig"}}.get(hidden, set())


def test_no_name_is_that_of_a_module() -> None:
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    modules = {path.stem for path in PACKAGE.glob("*.py")} | packages
    functions = {name for name in refnet_cli.__all__ if name != "__version__"}
    assert not functions & modules
    assert modules >= {"cli", "scan", "export"}


def test_each_name_has_a_home() -> None:
    assert set(refnet_cli._HOMES) == set(NAMES)
    assert sorted(refnet_cli.__all__) == sorted({*NAMES, "__version__"})
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = refnet_cli.nothing


def test_a_missing_name_is_refused_whatever_is_done_with_it() -> None:
    from refnet_cli.errors import UnavailableError
    from refnet_cli.system.lazy import Missing

    missing = Missing("REFNet", "needs torch, which is not installed: pip install 'refnet-cli[torch]'.")
    uses = [
        lambda: missing(), lambda: missing.from_dict, lambda: isinstance(1, missing),  # type: ignore[arg-type]
        lambda: type("Mine", (missing,), {}), lambda: issubclass(int, missing),  # type: ignore[arg-type]
    ]  # fmt: skip
    for use in uses[:3] + uses[4:]:
        with pytest.raises(UnavailableError, match="REFNet needs torch"):
            use()
    with pytest.raises(UnavailableError, match="REFNet needs torch"):
        exec("class Mine(missing): pass", {"missing": missing})
    assert not hasattr(missing, "__wrapped__")
