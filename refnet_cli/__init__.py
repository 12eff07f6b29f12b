"""Land use and land cover maps from Sentinel-1 and Sentinel-2 scenes with REF-Net.

Public names are imported when they are first used, so that ``import refnet_cli`` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.2.0.dev0"

if TYPE_CHECKING:
    from refnet_cli.card import Card, REFNetConfig
    from refnet_cli.engine import EngineOptions, load_engine
    from refnet_cli.errors import RefnetError
    from refnet_cli.evaluation.evaluate import evaluate
    from refnet_cli.export import export_onnx
    from refnet_cli.inspection import inspect
    from refnet_cli.model import Prediction, REFNet, from_published
    from refnet_cli.outputs import ClassMap
    from refnet_cli.prediction.predict import PredictOptions, predict
    from refnet_cli.products import PRODUCTS, SCHEMES
    from refnet_cli.regions import TrainConfig
    from refnet_cli.scene import ScenePair
    from refnet_cli.tiling import Tiling
    from refnet_cli.train import fit
    from refnet_cli.weights import load_weights, save_weights

_HOMES = {
    "Card": "card",
    "ClassMap": "outputs",
    "EngineOptions": "engine",
    "PRODUCTS": "products",
    "Prediction": "model",
    "PredictOptions": "prediction.predict",
    "REFNet": "model",
    "REFNetConfig": "card",
    "RefnetError": "errors",
    "SCHEMES": "products",
    "ScenePair": "scene",
    "Tiling": "tiling",
    "TrainConfig": "regions",
    "evaluate": "evaluation.evaluate",
    "export_onnx": "export",
    "fit": "train",
    "from_published": "model",
    "inspect": "inspection",
    "load_engine": "engine",
    "load_weights": "weights",
    "predict": "prediction.predict",
    "save_weights": "weights",
}

__all__ = [
    "PRODUCTS",
    "SCHEMES",
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
    "evaluate",
    "export_onnx",
    "fit",
    "from_published",
    "inspect",
    "load_engine",
    "load_weights",
    "predict",
    "save_weights",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from refnet_cli.lazy import public

    return public(name, f"{__name__}.{_HOMES[name]}")
