"""Engine that runs REF-Net in ONNX Runtime, without torch."""

from __future__ import annotations

import os
import re
import sys
from contextlib import redirect_stdout
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from refnet_cli.engines.base import NOT_FINITE, HalvingEngine
from refnet_cli.engines.providers import DISTRIBUTIONS, INSTALL, ON_CUDA, PROVIDERS
from refnet_cli.errors import OptionsError, UnavailableError, WeightsError
from refnet_cli.model.card import Card
from refnet_cli.model.weight_files import verify
from refnet_cli.system.process import usable_cores
from refnet_cli.types import Float32

NO_MEMORY = r"[Ff]ailed to allocate memory|bad allocation|bad_alloc|CUDA failure 2|out of memory|ALLOC_FAILED"


class OnnxEngine(HalvingEngine):
    """An engine that runs a model of `refnet_cli.export.export_onnx` in ONNX Runtime.

    Parameters
    ----------
    path : Path
    device : str
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
    batch : int, optional
        Patches per batch; the default depends on the device.
    provider : str, optional
        A name from ``PROVIDERS``; by default all available ones that fit the device, in order of preference.
    deterministic : bool
        Whether to use only algorithms that give the same bits in every run.

    Raises
    ------
    InputMissingError, WeightsError
        If the model is missing or damaged, or has no card or a card that does not fit.
    OptionsError
        If device and provider contradict each other.
    UnavailableError
        If ONNX Runtime, the device or the provider is not available.
    """

    def __init__(
        self,
        path: Path,
        device: str = "auto",
        batch: int | None = None,
        *,
        provider: str | None = None,
        deterministic: bool = False,
    ) -> None:
        self.card = verify(path)
        runtime = import_runtime()
        chosen = choose_providers(runtime.get_available_providers(), device, provider)
        self._session = _open_session(runtime, path, chosen, device, deterministic)
        running = [name for name, theirs in PROVIDERS.items() if theirs in self._session.get_providers()]
        # ONNX Runtime continues without a provider whose libraries are missing, and only logs that.
        needed = provider or {"auto": "cpu", "cpu": "cpu"}.get(device, "cuda")
        if needed not in running and not (provider is None and running[0] in ON_CUDA):
            raise UnavailableError(
                f"ONNX Runtime could not start its provider {needed!r}: its libraries are missing or have the wrong "
                f"version. It needs {INSTALL.get(needed, 'none')}."
            )
        _check_fit(path, self._session, self.card)
        self._runtime = runtime
        self._on_cuda = running[0] in ON_CUDA
        self._index = _device_index(device)
        kind = f"cuda:{self._index}" if self._on_cuda else "cpu" if running[0] == "cpu" else running[0]
        self.batch = batch or (16 if self._on_cuda else 1)  # on CPUs larger batches need more memory and save no time
        self._compiles = running[0] != "cpu"
        self._size = self.batch
        self.about = {
            "device": kind,
            "engine": f"ONNX Runtime {runtime.__version__}",
            "providers": ", ".join(running),
            "threads": str(_threads()),
        }

    def _compute(self, optical: Float32, sar: Float32) -> Float32:
        count = len(optical)
        self._size = self._size or count
        # Some providers compile again for each new shape.
        fill = max(self._size - count, 0) if self._compiles else 0
        feed = {
            name: np.concatenate([array, np.repeat(array[-1:], fill, 0)]) if fill else np.ascontiguousarray(array)
            for name, array in (("optical", optical), ("sar", sar))
        }
        probabilities = self._run(feed)[:count]
        if not np.isfinite(probabilities).all():
            raise WeightsError(NOT_FINITE)
        return probabilities

    def _run(self, feed: dict[str, Float32]) -> Float32:
        if not self._on_cuda:
            return np.asarray(self._session.run(["probabilities"], feed)[0], np.float32)
        # Bound arrays are copied once in each direction, and the copies do not wait for each other.
        binding = self._session.io_binding()
        for name, array in feed.items():
            value = self._runtime.OrtValue.ortvalue_from_numpy(array, "cuda", self._index)
            binding.bind_ortvalue_input(name, value)
        binding.bind_output("probabilities", "cuda", self._index)
        self._session.run_with_iobinding(binding)
        return np.asarray(binding.copy_outputs_to_cpu()[0], np.float32)

    def _is_out_of_memory(self, error: Exception) -> bool:
        return isinstance(error, MemoryError) or re.search(NO_MEMORY, str(error)) is not None

    def _pads_batches(self) -> bool:
        return self._compiles and self._size > 1

    def _free_memory(self) -> None:
        self._size = 0  # ONNX Runtime itself releases the memory of a failed run


def import_runtime() -> Any:
    """Import and return ONNX Runtime.

    Raises
    ------
    UnavailableError
        If it is not installed or incomplete, or two of its distributions are installed, which overwrite each other.
    """
    found = installed_runtimes()
    if len(found) > 1:
        raise UnavailableError(
            f"{' and '.join(found)} are installed; they overwrite each other's files. Uninstall both, then install "
            "the one that you need."
        )
    try:
        import onnxruntime

        onnxruntime.set_default_logger_severity(4)
    except ImportError as error:
        raise UnavailableError(
            f"ONNX models need ONNX Runtime ({error}): pip install 'refnet-cli[onnx]', or 'refnet-cli[gpu]' for GPUs."
        ) from error
    except AttributeError as error:
        # Uninstalling one of two distributions has removed files of the other.
        name = next(iter(found), "onnxruntime")
        raise UnavailableError(
            f"ONNX Runtime is incomplete ({error}). Uninstall it, then install it again: pip install "
            f"--force-reinstall {name}."
        ) from error
    return onnxruntime


def installed_runtimes() -> dict[str, str]:
    """Return the versions of the installed distributions of ONNX Runtime; they share a module, so only one is valid."""
    found = {}
    for name in DISTRIBUTIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def choose_providers(available: list[str], device: str = "auto", provider: str | None = None) -> list[str]:
    """Return the execution providers that will run a model.

    Parameters
    ----------
    available : list of str
        Available providers, by ONNX Runtime's names.
    device : str
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
    provider : str, optional
        A name from ``PROVIDERS``.

    Returns
    -------
    list of str
        Names from ``PROVIDERS``, in order of preference; the CPU, which runs what others cannot, is last.

    Raises
    ------
    OptionsError
        If the device or provider is unknown, or the provider does not run on the device.
    UnavailableError
        If no such provider is available.

    Examples
    --------
    >>> choose_providers(["CUDAExecutionProvider", "CPUExecutionProvider"])
    ['cuda', 'cpu']
    >>> choose_providers(["CUDAExecutionProvider", "CPUExecutionProvider"], "cpu")
    ['cpu']
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise OptionsError(f"Unknown device {device!r}. Use auto, cpu, cuda or cuda:N.")
    if provider is not None and provider not in PROVIDERS:
        raise OptionsError(f"Unknown provider {provider!r}. Use one of {', '.join(PROVIDERS)}.")
    there = [name for name, theirs in PROVIDERS.items() if theirs in available]
    fitting = {"auto": list(PROVIDERS), "cpu": ["cpu"]}.get(device, list(ON_CUDA))
    if provider is not None:
        if provider not in fitting:
            raise OptionsError(f"The provider {provider!r} does not run on --device {device}. Leave out one of them.")
        fitting = [provider]
    chosen = [name for name in fitting if name in there]
    if not chosen:
        raise UnavailableError(
            f"This ONNX Runtime has no provider {' or '.join(fitting)}, only {', '.join(there)}. "
            f"Install {INSTALL.get(fitting[-1], 'onnxruntime')}, or use --device cpu."
        )
    return chosen if chosen[-1] == "cpu" else [*chosen, "cpu"]


def _open_session(runtime: Any, path: Path, providers: list[str], device: str, deterministic: bool) -> Any:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = _threads()
    options.log_severity_level = 4  # real problems raise exceptions
    options.use_deterministic_compute = deterministic
    if any(name in ON_CUDA for name in providers):
        # Loads CUDA's libraries from pip's folders, which ONNX Runtime does not search by itself.
        with redirect_stdout(sys.stderr):  # prints missing libraries
            getattr(runtime, "preload_dlls", lambda: None)()
    index = {"device_id": _device_index(device)}
    settings = [
        (PROVIDERS[name], index | {"trt_engine_cache_enable": True, "trt_engine_cache_path": str(_engine_folder())})
        if name == "tensorrt"
        else (PROVIDERS[name], index if name == "cuda" else {})
        for name in providers
    ]
    try:
        with redirect_stdout(sys.stderr):  # prints the providers of a second attempt
            session = runtime.InferenceSession(str(path), options, providers=settings)
    except Exception as error:  # of types that only ONNX Runtime's internal modules define
        if re.search(NO_MEMORY, str(error)):
            raise MemoryError(str(error)) from error
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise WeightsError(f"ONNX Runtime {runtime.__version__} cannot load {path}: {first}") from error
    _check_device(session, device)
    session.disable_fallback()  # otherwise it would continue on another provider after an error, and print so
    return session


def _check_device(session: Any, device: str) -> None:
    """Check that the session runs on the requested GPU: after a failure, ONNX Runtime falls back without settings.

    Raises
    ------
    UnavailableError
        If it runs on another GPU.
    """
    running = session.get_provider_options().get(PROVIDERS["cuda"], {})
    found = int(running.get("device_id", _device_index(device)))
    if found != _device_index(device):
        raise UnavailableError(f"ONNX Runtime started on cuda:{found} instead of {device}, because TensorRT failed.")


def _engine_folder() -> Path:
    """Return the cache folder of TensorRT's compiled engines; compiling takes minutes."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "refnet" / "tensorrt"


def _threads() -> int:
    """Return the number of threads: OMP_NUM_THREADS, as in torch, else the number of usable cores."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdecimal() and int(given) > 0 else usable_cores()


def _device_index(device: str) -> int:
    return int(device.partition(":")[2] or 0)


def _check_fit(path: Path, session: Any, card: Card) -> None:
    """Check the model's inputs and outputs against its card."""
    found = {value.name: value.shape for value in (*session.get_inputs(), *session.get_outputs())}
    needed = {
        "optical": card.network.optical_bands, "sar": card.network.sar_bands, "probabilities": card.network.classes
    }  # fmt: skip
    for name, layers in needed.items():
        shape = found.get(name)
        if shape is None or len(shape) != 4 or shape[1] != layers:
            raise WeightsError(
                f"{path} does not fit its card: {name} {f'has shape {shape}' if shape else 'is missing'}; expected "
                f"shape (N, {layers}, H, W)."
            )
