"""ONNX Runtime's execution providers, and what to install for each."""

from __future__ import annotations

PROVIDERS = {
    "tensorrt": "TensorrtExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "directml": "DmlExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "cpu": "CPUExecutionProvider",
}
"""Execution providers by refnet's names, in order of preference."""
DISTRIBUTIONS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino")
ON_CUDA = ("tensorrt", "cuda")
INSTALL = {
    "tensorrt": "onnxruntime-gpu and TensorRT's libraries",
    "cuda": "onnxruntime-gpu, instead of onnxruntime",
    "openvino": "onnxruntime-openvino, instead of onnxruntime",
    "directml": "onnxruntime-directml, instead of onnxruntime (Windows)",
    "coreml": "onnxruntime on macOS",
}
