"""Commands whose messages are kept in ``docs/transcripts``; see `tests.helpers.transcript`."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from rasterio.transform import array_bounds
from rasterio.warp import transform_bounds
from rasterio.windows import Window

from tests.helpers.programs import ROOT
from tests.helpers.scenes import CARD, write
from tests.helpers.small_models import write_model

SAMPLE = ROOT / "sample_data"
BARS = {r"^\w+ +\d+ % \|.*\n": ""}
"""Bars that a quick machine does not show."""

_FETCH = (
    "refnet fetch --bbox 13.2,52.54,13.27,52.59 --dates 2021-05-01/2021-09-30 --source local.toml "
    "--allow-host 127.0.0.1"
)


@dataclass(frozen=True)
class Case:
    """Commands and the files that they read."""

    make: Callable[[Path], object]
    """Writes the files into an empty folder."""
    commands: tuple[str, ...]
    """Command lines, of which the first word is refnet."""
    long: bool = False
    """Whether they take so long that only `make test-all` runs them."""
    serve: Callable[[Path], AbstractContextManager[object]] = nullcontext
    """Runs servers while the commands run; may write into the folder too."""
    masks: Mapping[str, str] = field(default_factory=dict)
    """Patterns that count as equal, and what replaces them, besides numbers: for what depends on the machine."""


def cut_sample(folder: Path, row: int, column: int, side: int = 224) -> None:
    """Write a square of the sample scene, by its place and side in optical pixels: s2.tif, s1.tif and labels.tif."""
    folder.mkdir(exist_ok=True)
    with rasterio.open(SAMPLE / "s2.tif") as file:
        place, crs = file.transform @ Affine.translation(column, row), file.crs
        bounds = array_bounds(side, side, place)
    for name in ("s2.tif", "s1.tif", "labels.tif"):
        with rasterio.open(SAMPLE / name) as file:
            west, south, east, north = transform_bounds(crs, file.crs, *bounds)
            left, top = (round(number) for number in ~file.transform @ (west, north))
            right, bottom = (round(number) for number in ~file.transform @ (east, south))
            window = Window(left, top, right - left, bottom - top)
            place = file.transform @ Affine.translation(left, top)
            profile = {key: value for key, value in file.profile.items() if not key.startswith(("block", "tiled"))}
            profile |= {"width": window.width, "height": window.height, "transform": place}
            with rasterio.open(folder / name, "w", **profile) as part:
                part.write(file.read(window=window))
                part.descriptions = file.descriptions
                part.update_tags(**file.tags())
                for band in file.indexes:
                    part.update_tags(band, **file.tags(band))


def _make_batch(folder: Path) -> None:
    """Write three scenes, of which the second has a SAR file that is damaged, and their list."""
    rows = ["name,optical,sar"]
    for number, name in enumerate(("37D", "38D", "39D")):
        cut_sample(folder / name, 0, 200 * number)
        (folder / name / "labels.tif").unlink()
        rows.append(f"{name},{name}/s2.tif,{name}/s1.tif")
    damaged = folder / "38D" / "s1.tif"
    damaged.write_bytes(damaged.read_bytes()[:5000])
    (folder / "scenes.csv").write_text("\n".join(rows) + "\n")
    write_model(folder / "small.onnx", card=replace(CARD, name="small"))


def _make_evaluation(folder: Path) -> None:
    """Write a map that differs from its labels along edges."""
    cut_sample(folder, 0, 200)
    shutil.copy(folder / "labels.tif", folder / "map.tif")
    with rasterio.open(folder / "map.tif", "r+") as file:
        file.write(np.roll(file.read(), 3, axis=2))


def _make_shifted(folder: Path) -> None:
    """Write a pair whose SAR image lies off, and a SAR image of another area."""
    cut_sample(folder, 0, 200)
    shutil.copy(folder / "s1.tif", folder / "elsewhere.tif")
    for name, columns, rows in (("s1.tif", -3, -4), ("elsewhere.tif", 900, 0)):
        with rasterio.open(folder / name, "r+") as file:
            file.transform = file.transform @ Affine.translation(columns, rows)


def _make_training(folder: Path) -> None:
    """Write a labelled scene, weights to start from and two regions files, of which one cannot be split."""
    cut_sample(folder, 0, 200)
    _make_weights(folder)
    scene = '\n[[scenes]]\nname = "north"\noptical = "s2.tif"\nsar = "s1.tif"\nlabels = "labels.tif"\n'
    small = 'name = "north"\nscheme = "esri-io"\ninit = "small.safetensors"\nsteps = 20\nbatch = 2\n'
    fits = "crop = 64\ntile = 64\nblock = 640\nvalidate_every = 10\n"
    (folder / "regions.toml").write_text(small + fits + scene)
    (folder / "large.toml").write_text(small + scene)


def _make_weights(folder: Path) -> None:
    """Write weights of a small network that was not trained."""
    import torch

    from refnet_cli.model.refnet import REFNet
    from refnet_cli.model.weights import save_weights

    torch.manual_seed(0)
    card = replace(CARD, name="small", tile=64)
    save_weights(REFNet(card.network).eval(), card, folder / "small.safetensors")


def _make_dates(folder: Path) -> None:
    """Write maps of two dates, and one without tags."""
    codes = np.random.default_rng(0).choice([0, 1, 2, 5, 7], (12, 9)).repeat(10, 0).repeat(10, 1).astype(np.uint8)
    later = codes.copy()
    later[:40, :30][codes[:40, :30] == 2] = 5
    names = {f"CLASS_{code}": name for code, name in CARD.scheme.by_code.items()}
    for name, values in (("2020", codes), ("2024", later), ("untagged", later)):
        path = write(folder / f"{name}.tif", values[None], ("land cover class",))
        if name != "untagged":
            with rasterio.open(path, "r+") as file:
                file.update_tags(1, CLASS_SCHEME=CARD.scheme.name, **names)


@contextmanager
def _serve_scenes(folder: Path) -> Iterator[object]:
    """Serve simulated scenes, their catalogue in local.toml, from a folder elsewhere."""
    from tests.helpers.stac_scenes import serving

    with tempfile.TemporaryDirectory() as name, serving(Path(name)) as world:
        shutil.copy(Path(name) / "local.toml", folder)
        yield world


def _make_nothing(folder: Path) -> None:
    """Leave the folder empty."""


CASES = {
    "batch": Case(
        _make_batch,
        (
            "refnet batch plan scenes.csv --map 'maps/{name}.tif' --weights small.onnx -o tasks.jsonl",
            "refnet batch run tasks.jsonl",
            "refnet batch status tasks.jsonl",
            "refnet batch run tasks.jsonl --json",
        ),
        long=True,
    ),
    "compare": Case(
        _make_dates,
        (
            "refnet compare 2020.tif 2024.tif -o change.tif --table change.csv",
            "refnet compare 2020.tif untagged.tif",
        ),
        long=True,
    ),
    "doctor": Case(_make_nothing, ("refnet doctor",), long=True),
    "evaluate": Case(_make_evaluation, ("refnet evaluate map.tif labels.tif",)),
    "export": Case(_make_weights, ("refnet export small.safetensors -o small.onnx",), long=True),
    "fetch": Case(
        _make_nothing,
        (
            f"{_FETCH} -o berlin --dry-run",
            f"{_FETCH} -o berlin",
            f"{_FETCH.replace('2021', '2020')} -o berlin-2020",
        ),
        long=True,
        serve=_serve_scenes,
        masks=BARS | {r"^  rows .*\n": ""},
    ),
    "predict": Case(
        _make_shifted,
        (
            "refnet predict --optical s2.tif --sar s1.tif -o lulc.tif",
            "refnet predict --optical s2.tif --sar elsewhere.tif -o elsewhere-map.tif",
        ),
        long=True,
        masks=BARS,
    ),
    "register": Case(
        _make_shifted,
        (
            "refnet register --optical s2.tif --sar s1.tif --plot shift.png",
            "refnet register --optical s2.tif --sar elsewhere.tif",
        ),
        long=True,
        masks=BARS,
    ),
    "schemes": Case(_make_nothing, ("refnet schemes", "refnet schemes esri-io")),
    "train": Case(
        _make_training,
        (
            "refnet train large.toml --dry-run",
            "refnet train regions.toml --dry-run",
            "refnet train regions.toml -o runs/north",
        ),
        long=True,
        masks=BARS,
    ),
    "weights": Case(_make_nothing, ("refnet weights info", "refnet weights list")),
}
"""By the names of their transcripts."""
