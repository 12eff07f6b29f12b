"""Land use and land cover maps from Sentinel-1 and Sentinel-2 scenes with REF-Net.

Public names are imported on first use, so ``import refnet_cli`` is cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from refnet_cli.version import __version__

if TYPE_CHECKING:
    from refnet_cli.classes.schemes import SCHEMES
    from refnet_cli.engines.load import load_engine
    from refnet_cli.engines.options import EngineOptions
    from refnet_cli.errors import RefnetError
    from refnet_cli.evaluation.change.compare import compare
    from refnet_cli.evaluation.evaluate import evaluate
    from refnet_cli.export import export_onnx
    from refnet_cli.model.card import Card
    from refnet_cli.model.config import REFNetConfig
    from refnet_cli.model.published_checkpoint import from_published
    from refnet_cli.model.refnet import Prediction, REFNet
    from refnet_cli.model.weights import load_weights, save_weights
    from refnet_cli.outputs.cog import ClassMap
    from refnet_cli.prediction.arrays import ArrayPrediction, predict_arrays
    from refnet_cli.prediction.inspection import inspect
    from refnet_cli.prediction.options import PredictOptions
    from refnet_cli.prediction.predict import predict
    from refnet_cli.prediction.xarrays import predict_xarray
    from refnet_cli.scene.pair import ScenePair
    from refnet_cli.sensors import PRODUCTS
    from refnet_cli.tiles.tiling import Tiling
    from refnet_cli.training.config import TrainConfig
    from refnet_cli.training.fit import fit

_HOMES = {
    "ArrayPrediction": "prediction.arrays",
    "Card": "model.card",
    "ClassMap": "outputs.cog",
    "EngineOptions": "engines.options",
    "PRODUCTS": "sensors",
    "Prediction": "model.refnet",
    "PredictOptions": "prediction.options",
    "REFNet": "model.refnet",
    "REFNetConfig": "model.card",
    "RefnetError": "errors",
    "SCHEMES": "classes.schemes",
    "ScenePair": "scene.pair",
    "Tiling": "tiles.tiling",
    "TrainConfig": "training.fit",  # needs torch, and so do the config's checks
    "compare": "evaluation.change.compare",
    "evaluate": "evaluation.evaluate",
    "export_onnx": "export",
    "fit": "training.fit",
    "from_published": "model.published_checkpoint",
    "inspect": "prediction.inspection",
    "load_engine": "engines.load",
    "load_weights": "model.weights",
    "predict": "prediction.predict",
    "predict_arrays": "prediction.arrays",
    "predict_xarray": "prediction.xarrays",
    "save_weights": "model.weights",
}

__all__ = [
    "PRODUCTS",
    "SCHEMES",
    "ArrayPrediction",
    "Card",
    "ClassMap",
    "EngineOptions",
    "PredictOptions",
    "Prediction",
    "REFNet",
    "REFNetConfig",
    "RefnetError",
    "ScenePair",
    "Tiling",
    "TrainConfig",
    "__version__",
    "compare",
    "evaluate",
    "export_onnx",
    "fit",
    "from_published",
    "inspect",
    "load_engine",
    "load_weights",
    "predict",
    "predict_arrays",
    "predict_xarray",
    "save_weights",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from refnet_cli.system.lazy import public

    return public(name, f"{__name__}.{_HOMES[name]}")
