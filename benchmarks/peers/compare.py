"""Compare refnet with programs and loops that a user would take instead, around the same network.

Every peer is a program that turns one stacked GeoTIFF and one TorchScript file (or ONNX model) into a class map. It is
started as its user starts it, and measured from outside: seconds from start to exit, peak memory of its processes. See
benchmarks/README.md for the cases and for what each peer is set to.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray

from benchmarks import scene
from benchmarks.measure import ROOT, Row, in_child
from benchmarks.peers import loops, networks, scenes
from benchmarks.peers.install import NotInstalledError, install
from benchmarks.peers.watch import Run, watch
from refnet_cli.classes.schemes import ClassScheme
from refnet_cli.model.weight_files import default_weights, read_card
from refnet_cli.system.process import usable_cores

FOLDER = ROOT / "build" / "peers-venv"
SIZES = (2048, 4096)
LARGE, LIMIT_MB = 10_980, 8 * 1024
WEDGE_SIZE = 1024
TIMEOUT = 1800.0
FIRST = "refnet"
"""The peer that the others are compared with."""
Codes = NDArray[np.uint8]


@dataclass(frozen=True)
class Files:
    """What a peer is given. Paths of networks are those of one kind: the weights' or the free one."""

    image: Path
    optical: Path
    sar: Path
    torchscript: Path
    onnx: Path
    free: bool
    output: Path


@dataclass(frozen=True)
class Peer:
    """A way to map a scene."""

    command: Callable[[Path, Files], list[str]]
    """Returns the command; called with the Python of the peer's environment."""
    packages: tuple[str, ...] = ()
    """What is installed for it; without any, it runs in the environment of the benchmark."""
    libraries: tuple[str, ...] = ("torch", "rasterio")
    """Libraries of the benchmark's environment whose versions are stated."""
    own_grids: bool = False
    """Whether it takes the files of both sensors, each on its own grid."""


def _refnet(python: Path, files: Files) -> list[str]:
    if files.free:
        return _script(python, files, "free")
    names = ["--optical", str(files.optical), "--sar", str(files.sar), "--output", str(files.output)]
    return [str(python), "-m", "refnet_cli", "predict", "--quiet", "--no-resume", *names]


def _script(python: Path, files: Files, network: str | None = None) -> list[str]:
    arguments = [str(files.optical), str(files.sar), network or str(files.torchscript), str(files.output)]
    return [str(python), "-m", "benchmarks.peers.refnet_script", *arguments]


def _loop(way: str) -> Callable[[Path, Files], list[str]]:
    def command(python: Path, files: Files) -> list[str]:
        network = files.onnx if way == "onnx" else files.torchscript
        return [str(python), loops.__file__, way, str(files.image), str(network), str(files.output)]

    return command


def _geo_inference(patch: int) -> Callable[[Path, Files], list[str]]:
    """Return the command with a file of arguments, as its README says: every key is needed."""

    def command(python: Path, files: Files) -> list[str]:
        arguments = {
            "image": str(files.image), "model": str(files.torchscript), "bbox": "None",
            "work_dir": str(files.output.parent / "geo_inference"), "bands_requested": [], "workers": 0,
            "vec": False, "yolo": False, "coco": False, "device": "cpu", "gpu_id": 0, "mgpu": False,
            "classes": read_card(default_weights()).network.classes, "patch_size": patch, "prediction_thr": 0.3,
            "transformers": False, "transformer_flip": False, "transformer_rotate": False,
        }  # fmt: skip
        path = files.output.parent / "args.yaml"
        path.write_text(json.dumps({"arguments": arguments}))  # JSON is YAML
        return [str(python.with_name("geo_inference")), "-a", str(path)]

    return command


PEERS: dict[str, Peer] = {
    FIRST: Peer(_refnet, libraries=("refnet-cli", "torch"), own_grids=True),
    "refnet-torchscript": Peer(_script, libraries=("refnet-cli", "torch"), own_grids=True),
    "plain-loop": Peer(_loop("plain")),
    "averaged-loop": Peer(_loop("averaged")),
    "onnx-loop": Peer(_loop("onnx"), libraries=("onnxruntime", "rasterio")),
    "terratorch": Peer(_loop("terratorch"), ("terratorch",)),
    "geo-inference-256": Peer(_geo_inference(256), ("geo-inference",)),
    "geo-inference-1024": Peer(_geo_inference(1024), ("geo-inference",)),
}
"""What is compared, by name. Names of geo-inference end with its patch size; 1024 is its default."""


class Comparison:
    """The files of a run, made when they are first needed, and its measurements.

    Parameters
    ----------
    folder : Path
        For scenes, networks and maps; several GB with the large scene.
    environments : Path
        Where the environments of the peers are, or are made.
    timeout : float
        Seconds after which a program is ended.
    """

    def __init__(self, folder: Path, environments: Path, timeout: float = TIMEOUT) -> None:
        self.folder, self.environments, self.timeout = folder, environments, timeout
        self.weights = default_weights()
        self.card = read_card(self.weights)

    def _made(self, name: str, make: Callable[[Path], object]) -> Path:
        path = self.folder / name
        if not path.exists():
            make(path)
        return path

    def files(self, image: Path, free: bool, pair: tuple[Path, Path] | None = None) -> Files:
        """Return what a peer is given for an image, and for a pair of files if it takes these."""
        bands, classes = len(self.card.optical.bands), self.card.network.classes
        sar = len(self.card.sar.bands)
        if free:
            script = self._made("free.pt", lambda path: networks.export_free_torchscript(classes, path))
            model = self.folder / "free.onnx"
            if find_spec("onnx"):
                self._made(model.name, lambda path: networks.export_free_onnx(bands, sar, classes, path))
        else:
            script = self._made("network.pt", lambda path: networks.export_torchscript(self.weights, path))
            model = self.weights.with_suffix(".onnx")
        work = self.folder / "work"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        optical, radar = pair or (image, image)
        return Files(image, optical, radar, script, model, free, work / "map.tif")

    def stack(self, size: int, wedge: bool = False, declared: bool = True) -> Path:
        """Return the stacked scene of a size."""
        name = f"stack-{size}{'-wedge' * wedge}{'-undeclared' * (not declared)}.tif"
        return self._made(name, lambda path: scenes.make_stack(path, size, wedge=wedge, declared=declared))

    def run(self, name: str, files: Files, limit_mb: float | None = None) -> Run:
        """Run a peer once, and leave its map at ``files.output``."""
        peer, python = PEERS[name], Path(sys.executable)
        try:
            if peer.packages:
                python, _ = install(self.environments / peer.packages[0], peer.packages)
        except NotInstalledError as error:
            return Run(0, 0, 0, f"not installed: {error}")
        found = watch(peer.command(python, files), files.output.parent, limit_mb, self.timeout)
        made = sorted(files.output.parent.glob("geo_inference/*_mask_*.tif"))
        if made:
            made[0].rename(files.output)
        if found.failed is None and not files.output.exists():
            return found._replace(failed="it wrote no map")
        return found

    def measure_network(self, name: str, size: int) -> Row:
        """Measure the network of the weights on a stacked scene, and the share of pixels unlike an undivided pass."""
        image = self.stack(size)
        files = self.files(image, free=False)
        whole = self._made(f"undivided-{size}.npy", lambda path: in_child(predict_undivided, str(image), str(path)))
        row = _row(name, f"network, {size} x {size}", self.run(name, files))
        if "failed" not in row:
            row["unlike_undivided"] = float((self._read(name, files.output) != np.load(whole)).mean())
        return row

    def measure_free(self, name: str, size: int, limit_mb: float | None = None) -> Row:
        """Measure the free network on a stacked scene."""
        files = self.files(self.stack(size), free=True)
        under = f", under {limit_mb / 1024:.0f} GB" if limit_mb else ""
        return _row(name, f"free network, {size} x {size}{under}", self.run(name, files, limit_mb))

    def measure_second_grid(self, name: str, size: int) -> Row:
        """Measure the free network on files in two UTM zones, warping and stacking them for peers that need it."""
        optical, sar = self.folder / f"s2-{size}.tif", self.folder / f"s1-{size}.tif"
        if not sar.exists():
            scene.make_pair(self.folder, size)
        stack, made = self.folder / "warped.tif", Run(0, 0, 0, None)
        files = self.files(stack, free=True, pair=(optical, sar))
        if not PEERS[name].own_grids:
            made = watch(
                [sys.executable, "-m", "benchmarks.peers.scenes", str(optical), str(sar), str(stack)],
                files.output.parent, timeout=self.timeout,
            )  # fmt: skip
        found = self.run(name, files)
        row = _row(name, f"second grid, free network, {size} x {size}", found)
        if "failed" not in row:
            row |= {
                "seconds": found.seconds + made.seconds, "cpu_seconds": found.cpu_seconds + made.cpu_seconds,
                "peak_mb": max(found.megabytes, made.megabytes), "stacking": made.seconds,
            }  # fmt: skip
        stack.unlink(missing_ok=True)
        return row

    def measure_wedge(self, name: str, declared: bool) -> Row:
        """Measure which class the map has where a wedge of all bands has no data."""
        files = self.files(self.stack(WEDGE_SIZE, wedge=True, declared=declared), free=True)
        case = f"wedge, {'declared' if declared else 'NaN not declared'}"
        row = _row(name, case, self.run(name, files))
        if "failed" not in row:
            with rasterio.open(files.output) as file:
                empty = file.read_masks(1) == 0
            wedge = scenes.in_wedge(np.arange(WEDGE_SIZE), WEDGE_SIZE)
            row |= {"kept_empty": float(empty[wedge].mean()), "data_lost": float(empty[~wedge].mean())}
        return row

    def _read(self, name: str, path: Path) -> Codes:
        """Return a map as numbers of classes; refnet writes the codes of the scheme."""
        with rasterio.open(path) as file:
            codes: Codes = file.read(1)
        return to_numbers(codes, self.card.scheme) if PEERS[name].own_grids else codes


def to_numbers(codes: Codes, scheme: ClassScheme) -> Codes:
    """Return the numbers 1, 2, ... of classes for their codes; other codes become 0."""
    table = np.zeros(256, np.uint8)
    table[list(scheme.codes)] = np.arange(1, len(scheme.codes) + 1)
    return table[codes]


def predict_undivided(image: str, output: str) -> float:
    """Write the class numbers of a pass of refnet's engine over a whole stacked image; call it in a child process."""
    from refnet_cli.engines.load import load_engine
    from refnet_cli.engines.options import EngineOptions

    engine = load_engine(default_weights(), EngineOptions(device="cpu"))
    bands = len(engine.card.optical.bands)
    with rasterio.open(image) as file:
        values = file.read()[None]
    found = engine.predict(np.ascontiguousarray(values[:, :bands]), np.ascontiguousarray(values[:, bands:]))[0]
    np.save(output, (1 + found[1:].argmax(0)).astype(np.uint8))
    return float(found.size)


def _row(name: str, case: str, found: Run) -> Row:
    row: Row = {"what": f"{case}: {name}", "case": case, "peer": name}
    if found.failed:
        return row | {"failed": found.failed}
    return row | {"seconds": found.seconds, "cpu_seconds": found.cpu_seconds, "peak_mb": found.megabytes}


def run(
    only: Sequence[str] = tuple(PEERS),
    cases: Sequence[str] = ("network", "free", "second-grid", "wedge"),
    sizes: Sequence[int] = SIZES,
    large: bool = False,
    environments: Path = FOLDER,
    work: Path | None = None,
    merge: Path | None = None,
) -> list[Row]:
    """Measure the peers, one after the other.

    Parameters
    ----------
    only : sequence of str
        Names of ``PEERS``.
    cases : sequence of str
        From ``CASES``.
    sizes : sequence of int
        Sizes of the scenes in pixels. The network of the weights, and the second grid, are measured at the smallest
        only.
    large : bool
        Whether to measure a scene of 10,980 x 10,980 pixels too, with the free network and 8 GB of memory.
    environments : Path
        Where the environments of the peers are, or are made.
    work : Path, optional
        Folder of scenes, networks and maps, which are kept there and used again; by default a temporary one.
    merge : Path, optional
        Results of an earlier run. Rows that are not measured again are kept.
    """
    kept: list[Row] = json.loads(merge.read_text())["results"] if merge else []
    with tempfile.TemporaryDirectory() as temporary:
        folder = (work or Path(temporary)).resolve()  # programs run in a folder of their own
        folder.mkdir(parents=True, exist_ok=True)
        comparison = Comparison(folder, environments.resolve())
        rows = []
        for name in only:
            for case in cases:
                rows += [_told(row) for row in CASES[case](comparison, name, sizes)]
            if large:
                rows.append(_told(comparison.measure_free(name, LARGE, LIMIT_MB)))
    return add_ratios(merge_rows(kept, rows))


CASES: dict[str, Callable[[Comparison, str, Sequence[int]], list[Row]]] = {
    "network": lambda on, name, sizes: [on.measure_network(name, min(sizes))],
    "free": lambda on, name, sizes: [on.measure_free(name, size) for size in sizes],
    "second-grid": lambda on, name, sizes: [on.measure_second_grid(name, min(sizes))],
    "wedge": lambda on, name, sizes: [on.measure_wedge(name, declared) for declared in (True, False)],
}


def _told(row: Row) -> Row:
    said = row.get("failed") or f"{row['seconds']:.4g} s, {row['peak_mb']:.0f} MB"
    print(f"{row['what']}: {said}", file=sys.stderr, flush=True)
    return row


def merge_rows(kept: Sequence[Row], rows: Sequence[Row]) -> list[Row]:
    """Return earlier rows with those measured again replaced, in the order of cases and peers."""
    found = {(row["case"], row["peer"]): row for row in (*kept, *rows)}
    cases = list(dict.fromkeys(case for case, _ in found))
    order = [*PEERS, *sorted({name for _, name in found} - PEERS.keys())]
    return [found[case, name] for case in sorted(cases) for name in order if (case, name) in found]


def add_ratios(rows: Sequence[Row]) -> list[Row]:
    """Add to each row that has seconds those of refnet in the same case, and the ratio to them."""
    first = {row["case"]: row["seconds"] for row in rows if row["peer"] == FIRST and "seconds" in row}
    return [
        row | {"over": FIRST, "other_seconds": first[row["case"]], "ratio": row["seconds"] / first[row["case"]]}
        if "seconds" in row and row["case"] in first else row
        for row in rows
    ]  # fmt: skip


def describe_peers(environments: Path = FOLDER) -> dict[str, Any]:
    """Return the versions of what each peer consists of, and the threads they may use."""
    found: dict[str, Any] = {}
    for name, peer in PEERS.items():
        written = environments / (peer.packages or ("",))[0] / "versions.json"
        if peer.packages:
            found[name] = json.loads(written.read_text()) if written.exists() else "not installed"
        else:
            found[name] = {library: _version(library) for library in peer.libraries}
    return {"peers": found, "threads": usable_cores()}


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "not installed"


def to_table(rows: Sequence[Row]) -> str:
    """Return the results as a plain-text table, case by case."""
    cells = [("case", "peer", "seconds", "ratio", "CPU s", "peak MB", "")]
    cells += [
        (row["case"], row["peer"], _number(row, "seconds", ".1f"), _number(row, "ratio", ".2f"),
         _number(row, "cpu_seconds", ".1f"), _number(row, "peak_mb", ".0f"), note(row))
        for row in rows
    ]  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells
    )


def _number(row: Row, key: str, form: str) -> str:
    return format(row[key], form) if key in row else ""


def note(row: Row) -> str:
    """Return what else a row says, in words."""
    if "failed" in row:
        return f"failed: {row['failed']}"
    if "unlike_undivided" in row:
        return f"{row['unlike_undivided']:.2%} of the pixels unlike an undivided pass"
    if "kept_empty" in row:
        return f"{row['kept_empty']:.1%} of the wedge is no data, and {row['data_lost']:.1%} of the rest"
    if row.get("stacking"):
        return f"{row['stacking']:.1f} s of it for warping and stacking"
    return ""
