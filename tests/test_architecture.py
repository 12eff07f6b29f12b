"""The shape of the code: who may import whom and what, and what `refnet --help` costs."""

from __future__ import annotations

import ast
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "refnet_cli"

# Each level may import the levels before it, and nothing of its own level.
LEVELS = (
    {"__init__"},
    {"errors"},
    {"remote", "disk", "lazy", "gaps", "atmosphere", "backscatter", "shapes", "hub"},
    {"files", "scene_tables", "tables", "threads", "process", "memory", "log", "onnx_file", "halving"},
    {"workplace", "vectors", "marks", "region_pool"},
    {"journal"},
    {"dates", "products", "smoothing", "tiling", "register", "scan", "seen"},
    {"finishing", "codes"},
    {"schemes"},
    {"card", "translations"},
    {"one_sensor"},
    {"scene", "outputs", "model", "figures", "splits", "band_channels", "encoders"},
    {"low_confidence"},
    {"drift"},
    {"labels", "inspection", "coregistration", "stac_items"},
    {"weights", "losses", "calibration", "inference", "onnx_engine", "confidence"},
    {"encoder_files"},
    {"torch_engine", "several", "regions", "start", "checkpoint", "processes", "history"},
    {"engine", "mapping", "augment", "balance"},
    {"symmetries"},
    {"prediction"},
    {"evaluation", "sampling", "export", "selftest", "tasks"},
    {"planning", "merging", "learned"},
    {"batch", "validation", "doctor"},
    {"train", "usage"},
    {"folds"},
    {"cli"},
    {"__main__"},
)
LEVEL = {module: number for number, modules in enumerate(LEVELS) for module in modules}

# Libraries that only some modules may import, anywhere in their code.
ONLY_IN = {
    "matplotlib": {"figures"},
    "accelerate": {"processes"},
    "rasterio": {"scene", "labels", "confidence", "outputs"},
    "torch": {
        "scan", "model", "losses", "weights", "inference", "torch_engine", "start", "checkpoint", "processes",
        "band_channels", "encoder_files", "sampling", "history", "train", "export", "calibration",
    },
    "onnx": {"scan", "export"},
    "onnxruntime": {"onnx_engine", "export"},
    "click": {"cli", "usage"},
}
# The public names are made on demand, so the package's __init__ mentions every module without importing any.
LAZY = {"__init__"}

SOURCES = sorted(PACKAGE.rglob("*.py"))
ALL_FILES = sorted(
    path
    for folder in ("refnet_cli", "tests", "benchmarks", "sample_data", "weights")
    for path in (ROOT / folder).rglob("*.py")
)
REGISTRIES = {
    "SCANS": "scan",
    "ENGINES": "engine",
    "OUTPUTS": "outputs",
    "LOSSES": "losses",
    "PRODUCTS": "products",
    "SCHEMES": "products",
    "ENCODERS": "encoders",
    "TRANSLATIONS": "translations",
}


def name_of(path: Path) -> str:
    """Return the module of the package that a file belongs to: ``scan`` for ``refnet_cli/scan/kernel.py``."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Yield the dotted name of everything a file imports, inside functions too, and the line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def read_name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_every_module_has_a_place_in_the_order() -> None:
    assert not sorted({name_of(path) for path in SOURCES} - LEVEL.keys())


def test_imports_go_one_way() -> None:
    wrong = []
    for path in SOURCES:
        here = name_of(path)
        if here in LAZY:
            continue
        for imported, line in imports(path):
            package, _, rest = imported.partition(".")
            there = rest.split(".")[0]
            if package != "refnet_cli" or there == "__version__":
                continue
            # A name that is no module is imported from the package instead of from its module.
            if there not in LEVEL or not (there == here or LEVEL[there] < LEVEL[here]):
                wrong.append(f"{read_name(path)}:{line} imports {imported}")
    assert not wrong


def test_libraries_stay_in_their_modules() -> None:
    found = ((path, *entry) for path in SOURCES for entry in imports(path))
    assert not [
        f"{read_name(path)}:{line} imports {imported}"
        for path, imported, line in found
        if name_of(path) not in ONLY_IN.get(imported.split(".")[0], {name_of(path)})
    ]


def test_every_file_says_what_it_is_for() -> None:
    assert not [read_name(path) for path in ALL_FILES if not ast.get_docstring(ast.parse(path.read_text("utf-8")))]


@pytest.mark.parametrize(("registry", "module"), REGISTRIES.items())
def test_registries_are_plain_dicts(registry: str, module: str) -> None:
    """A module-level ``NAME = {...}`` or ``NAME: dict[...] = {...}``, never a class with behaviour of its own."""
    values = []
    for path in SOURCES:
        if name_of(path) != module:
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            if any(isinstance(target, ast.Name) and target.id == registry for target in targets):
                values.append(node.value)  # type: ignore[attr-defined]
    assert len(values) == 1, f"{registry} is defined {len(values)} times in {module}"
    assert isinstance(values[0], ast.Dict | ast.DictComp), f"{registry} is not written as a dict"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60)


def loaded_by(code: str) -> set[str]:
    """Names of the top-level packages that a fresh interpreter has loaded after running some code."""
    finish = "import sys; print('loaded', *sorted({name.split('.')[0] for name in sys.modules}))"
    done = run("-W", "error", "-c", f"import atexit\natexit.register(lambda: exec({finish!r}))\n{code}")
    assert done.returncode == 0, done.stderr
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("loaded "))
    return set(line.split()[1:])


def test_importing_the_package_is_cheap() -> None:
    assert not loaded_by("import refnet_cli") & {"torch", "timm", "numba", "rasterio", "scipy"}


@pytest.mark.parametrize("command", [[], ["predict"], ["train"]], ids=" ".join)
def test_help_never_imports_torch(command: list[str]) -> None:
    arguments = ["refnet", *command, "--help"]
    loaded = loaded_by(f"import sys\nsys.argv = {arguments}\nfrom refnet_cli.cli import main\nmain()")
    assert "click" in loaded
    assert not loaded & {"torch", "timm", "numba"}


def test_help_is_quick() -> None:
    """Processor time, the best of some runs: what else the machine does must not matter."""
    times = []
    for _ in range(4):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert run("-m", "refnet_cli", "--help").returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(times) < 0.5


def test_running_the_package_as_a_module() -> None:
    done = run("-m", "refnet_cli", "--help")
    assert done.returncode == 0, done.stderr
    assert "predict" in done.stdout


def test_no_file_in_git_is_large() -> None:
    """At most 10 MB, and 25 MB for bundled weights."""
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True)
    if listing.returncode:
        pytest.skip("this is not a git checkout")
    files = [ROOT / name for name in listing.stdout.decode().split("\0") if name]
    bundled = {*(ROOT / "weights").glob("*.safetensors"), *(ROOT / "weights").glob("*.onnx")}
    most = {file: 25_000_000 if file in bundled else 10_000_000 for file in files if file.is_file()}
    assert not [str(file) for file in most if file.stat().st_size > most[file]]
