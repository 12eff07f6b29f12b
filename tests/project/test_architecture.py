"""The shape of the code: who may import whom and what, and what `refnet --help` costs."""

from __future__ import annotations

import ast
import graphlib
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "refnet_cli"

# A package imports what stands below it, nothing next to it and nothing above it.
FLOORS = (
    {"errors", "types", "version"},
    {"system"},
    {"sensors", "tiles", "scan"},
    {"classes"},
    {"raster"},
    {"scene", "model", "outputs"},
    {"evaluation", "plots", "engines"},
    {"prediction", "export", "fetching"},
    {"training", "batch", "doctor"},
    {"cli"},
    {"__main__"},
)
FLOOR = {package: number for number, packages in enumerate(FLOORS) for package in packages}

# Libraries that only some packages may import, anywhere in their code.
ONLY_IN = {
    "click": {"cli"},
    "matplotlib": {"plots"},
    "rasterio": {"raster", "scene", "outputs", "evaluation", "fetching"},
    "torch": {"scan", "model", "engines", "training", "export"},
    "accelerate": {"training"},
    "onnx": {"scan", "export"},
    "onnxruntime": {"engines", "export"},
    "filelock": {"system"},
    "jinja2": {"outputs"},
    "cattrs": {"system"},
    "pystac": {"outputs"},
    "pystac_client": {"fetching"},
    "requests": {"fetching"},
    "xarray": {"raster", "prediction"},
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
    "ENGINES": "engines",
    "OUTPUTS": "outputs",
    "LOSSES": "training",
    "PRODUCTS": "sensors",
    "SENSORS": "sensors",
    "SCHEMES": "classes",
    "ENCODERS": "model",
    "CROSSWALKS": "classes",
    "CATALOGUES": "fetching",
}


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def name_of(path: Path) -> str:
    """Return the package or module at the root that a file belongs to: ``scan`` for ``refnet_cli/scan/cpu.py``."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path: Path, inside: bool = True) -> Iterator[tuple[str, int]]:
    """Yield the dotted name of everything a file imports, perhaps inside functions too, and the line."""
    tree = tree_of(path)
    for node in ast.walk(tree) if inside else tree.body:
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def read_name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_every_package_has_a_floor() -> None:
    assert {name_of(path) for path in SOURCES} - LAZY == FLOOR.keys()


def test_imports_go_down() -> None:
    wrong = []
    for path in SOURCES:
        here = name_of(path)
        for imported, line in imports(path) if here not in LAZY else ():
            package, _, rest = imported.partition(".")
            there = rest.split(".")[0]
            # A name that is no module is imported from the package's root instead of from its module.
            if package == "refnet_cli" and there != here and FLOOR.get(there, len(FLOORS)) >= FLOOR[here]:
                wrong.append(f"{read_name(path)}:{line} imports {imported}")
    assert not wrong


def test_modules_do_not_import_each_other_in_circles() -> None:
    files = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in SOURCES}
    imported = {}
    for module, path in files.items():
        found = {name if name in files else name.rpartition(".")[0] for name, _ in imports(path, inside=False)}
        imported[module] = found & files.keys() - {module} if name_of(path) not in LAZY else ()
    graphlib.TopologicalSorter(imported).prepare()  # raises CycleError


def test_libraries_stay_in_their_modules() -> None:
    found = ((path, *entry) for path in SOURCES for entry in imports(path))
    assert not [
        f"{read_name(path)}:{line} imports {imported}"
        for path, imported, line in found
        if name_of(path) not in ONLY_IN.get(imported.split(".")[0], {name_of(path)})
    ]


def test_every_file_says_what_it_is_for() -> None:
    begins = re.compile(r'(#.*\n|\n)*r?"""\s*\S')
    assert not [read_name(path) for path in ALL_FILES if not begins.match(path.read_text("utf-8"))]


@pytest.mark.parametrize(("registry", "module"), REGISTRIES.items())
def test_registries_are_plain_dicts(registry: str, module: str) -> None:
    """A module-level ``NAME = {...}`` or ``NAME: dict[...] = {...}``, never a class with behaviour of its own."""
    values = []
    for path in SOURCES:
        if name_of(path) != module:
            continue
        for node in tree_of(path).body:
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


@pytest.mark.parametrize("command", [[], ["predict"], ["train"], ["fetch"]], ids=" ".join)
def test_help_never_imports_torch(command: list[str]) -> None:
    arguments = ["refnet", *command, "--help"]
    loaded = loaded_by(f"import sys\nsys.argv = {arguments}\nfrom refnet_cli.cli.main import main\nmain()")
    assert "click" in loaded
    assert not loaded & {"torch", "timm", "numba", "rasterio", "pystac", "cattrs"}


def test_libraries_of_single_outputs_are_imported_when_these_are_made() -> None:
    paths = (PACKAGE / "outputs").rglob("*.py")
    top = {name.split(".")[0] for path in paths for name, _ in imports(path, inside=False)}
    assert "rasterio" in top
    assert not top & {"jinja2", "pyarrow", "pyogrio", "pystac"}


def test_a_prediction_says_what_it_reads_before_it_imports_much() -> None:
    options = "['predict', '--optical', 'no.tif', '--sar', 'nothing.tif', '-o', 'a.tif']"
    loaded = loaded_by(
        "import refnet_cli.cli.predict as command, refnet_cli.cli.main as main\n"
        "def leave(options): raise SystemExit\n"
        f"command.log_reading = leave\ntry: main.run({options})\nexcept SystemExit: pass"
    )
    assert "click" in loaded
    assert not loaded & {"odc", "pyogrio", "pyproj", "rasterio", "scipy", "shapely", "torch"}


@pytest.mark.long
def test_predicting_with_the_default_weights_imports_neither_timm_nor_torch_s_compiler() -> None:
    """Either takes a second. Torch's compiler imports sympy."""
    loaded = loaded_by(
        "import numpy as np\n"
        "from refnet_cli.engines.load import load_engine\n"
        "images = (np.ones((1, bands, 64, 64), np.float32) for bands in (4, 2))\n"
        "assert np.isfinite(load_engine('refnet-base').predict(*images)).all()"
    )
    assert "torch" in loaded
    assert not loaded & {"sympy", "timm", "torchvision"}


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
