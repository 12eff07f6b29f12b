"""REF-Net in ONNX Runtime, as an engine: predicts without torch."""

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
    """A model that `refnet_cli.export.export_onnx` made, in ONNX Runtime.

    Parameters
    ----------
    path : Path
    device : str
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
    batch : int, optional
        Patches at once; by default what suits the device.
    provider : str, optional
        A name from ``PROVIDERS``; by default all that are there and fit the device, the best first.
    deterministic : bool
        Whether only algorithms may run that give the same bits each time.

    Raises
    ------
    InputMissingError, WeightsError
        If there is no model, or one that is damaged, carries no card or does not fit it.
    OptionsError
        If device and provider contradict each other.
    UnavailableError
        If ONNX Runtime, the device or the provider is not there.
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
        # ONNX Runtime goes on without a provider whose libraries it does not find, and only logs that.
        needed = provider or {"auto": "cpu", "cpu": "cpu"}.get(device, "cuda")
        if needed not in running and not (provider is None and running[0] in ON_CUDA):
            raise UnavailableError(
                f"ONNX Runtime could not start its provider {needed!r}, whose libraries are missing or do not fit "
                f"its version; it needs {INSTALL.get(needed, 'none')}."
            )
        _check_fit(path, self._session, self.card)
        self._runtime = runtime
        self._on_cuda = running[0] in ON_CUDA
        self._index = _device_index(device)
        kind = f"cuda:{self._index}" if self._on_cuda else "cpu" if running[0] == "cpu" else running[0]
        self.batch = batch or (16 if self._on_cuda else 1)  # on CPUs more take more memory and no less time
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
        # Providers that compile do so again for each shape.
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
        # What is bound is copied once in each direction, and no copy waits for another.
        binding = self._session.io_binding()
        for name, array in feed.items():
            value = self._runtime.OrtValue.ortvalue_from_numpy(array, "cuda", self._index)
            binding.bind_ortvalue_input(name, value)
        binding.bind_output("probabilities", "cuda", self._index)
        self._session.run_with_iobinding(binding)
        return np.asarray(binding.copy_outputs_to_cpu()[0], np.float32)

    def _lacks_memory(self, error: Exception) -> bool:
        return isinstance(error, MemoryError) or re.search(NO_MEMORY, str(error)) is not None

    def _fills_up(self) -> bool:
        return self._compiles and self._size > 1

    def _free_memory(self) -> None:
        self._size = 0  # what a failed run took, ONNX Runtime gives back by itself


def import_runtime() -> Any:
    """Import ONNX Runtime.

    Raises
    ------
    UnavailableError
        If it is not installed, or two of its distributions that overwrite each other are.
    """
    found = installed_runtimes()
    if len(found) > 1:
        raise UnavailableError(
            f"{' and '.join(found)} are installed, which overwrite each other's files: uninstall both, then install "
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
        # Of two distributions in one folder, uninstalling one took the other's files too.
        name = next(iter(found), "onnxruntime")
        raise UnavailableError(
            f"ONNX Runtime is not whole ({error}): uninstall it, then install it again: pip install --force-reinstall "
            f"{name}."
        ) from error
    return onnxruntime


def installed_runtimes() -> dict[str, str]:
    """Versions of the distributions of ONNX Runtime that are installed; they share one module, so one is right."""
    found = {}
    for name in DISTRIBUTIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def choose_providers(available: list[str], device: str = "auto", provider: str | None = None) -> list[str]:
    """Choose which of ONNX Runtime's execution providers are to run a model.

    Parameters
    ----------
    available : list of str
        In ONNX Runtime's words.
    device : str
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
    provider : str, optional
        A name from ``PROVIDERS``.

    Returns
    -------
    list of str
        Names from ``PROVIDERS``, the best first; the CPU, which runs what others cannot, is the last.

    Raises
    ------
    OptionsError
        If there is no such device or provider, or one is not for the other.
    UnavailableError
        If it is not there.

    Examples
    --------
    >>> choose_providers(["CUDAExecutionProvider", "CPUExecutionProvider"])
    ['cuda', 'cpu']
    >>> choose_providers(["CUDAExecutionProvider", "CPUExecutionProvider"], "cpu")
    ['cpu']
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise OptionsError(f"There is no device {device!r}; use auto, cpu, cuda or cuda:N.")
    if provider is not None and provider not in PROVIDERS:
        raise OptionsError(f"There is no provider {provider!r}; choose one of {', '.join(PROVIDERS)}.")
    there = [name for name, theirs in PROVIDERS.items() if theirs in available]
    fitting = {"auto": list(PROVIDERS), "cpu": ["cpu"]}.get(device, list(ON_CUDA))
    if provider is not None:
        if provider not in fitting:
            raise OptionsError(f"The provider {provider!r} does not run on --device {device}: leave one of them out.")
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
    options.log_severity_level = 4  # what matters comes as an exception
    options.use_deterministic_compute = deterministic
    if any(name in ON_CUDA for name in providers):
        # From where pip puts CUDA's libraries, which ONNX Runtime does not search by itself.
        with redirect_stdout(sys.stderr):  # it prints what it does not find
            getattr(runtime, "preload_dlls", lambda: None)()
    index = {"device_id": _device_index(device)}
    settings = [
        (PROVIDERS[name], index | {"trt_engine_cache_enable": True, "trt_engine_cache_path": str(_engine_folder())})
        if name == "tensorrt"
        else (PROVIDERS[name], index if name == "cuda" else {})
        for name in providers
    ]
    try:
        with redirect_stdout(sys.stderr):  # it prints with which providers it tries again
            session = runtime.InferenceSession(str(path), options, providers=settings)
    except Exception as error:  # of kinds that only ONNX Runtime's inner modules name
        if re.search(NO_MEMORY, str(error)):
            raise MemoryError(str(error)) from error
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise WeightsError(f"ONNX Runtime {runtime.__version__} cannot load {path}: {first}") from error
    _check_device(session, device)
    session.disable_fallback()  # or it would go on elsewhere after an error, and say so on stdout
    return session


def _check_device(session: Any, device: str) -> None:
    """Refuse another GPU than asked for: where a provider fails, ONNX Runtime tries others, without their settings.

    Raises
    ------
    UnavailableError
        If it is another one.
    """
    running = session.get_provider_options().get(PROVIDERS["cuda"], {})
    found = int(running.get("device_id", _device_index(device)))
    if found != _device_index(device):
        raise UnavailableError(f"ONNX Runtime started on cuda:{found} instead of {device}, because TensorRT failed.")


def _engine_folder() -> Path:
    """Where TensorRT keeps what it has compiled, which takes minutes."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "refnet" / "tensorrt"


def _threads() -> int:
    """Threads to compute in: as many as there are cores to use, or as OMP_NUM_THREADS says, as torch has it."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdecimal() and int(given) > 0 else usable_cores()


def _device_index(device: str) -> int:
    return int(device.partition(":")[2] or 0)


def _check_fit(path: Path, session: Any, card: Card) -> None:
    """Hold the model's inputs and outputs against its card."""
    found = {value.name: value.shape for value in (*session.get_inputs(), *session.get_outputs())}
    needed = {
        "optical": card.network.optical_bands, "sar": card.network.sar_bands, "probabilities": card.network.classes
    }  # fmt: skip
    for name, layers in needed.items():
        shape = found.get(name)
        if shape is None or len(shape) != 4 or shape[1] != layers:
            raise WeightsError(
                f"{path} does not fit its card: {name} is {shape or 'missing'}; it must be {layers} layers of images."
            )
