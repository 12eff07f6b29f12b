"""Given cloud masks, classes of SCL, growth in metres, and a model's clouds, against slow twins on whole arrays."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.transform import Affine
from scipy import ndimage

from refnet_cli.errors import InputError, InputMissingError, OptionsError, UnavailableError
from refnet_cli.prediction.options import PredictOptions
from refnet_cli.prediction.predict import predict
from refnet_cli.scene import cloud_model
from refnet_cli.scene.options import SceneOptions
from refnet_cli.scene.pair import ScenePair
from refnet_cli.sensors.quality import CLOUD, SCL_CLASSES
from refnet_cli.tiles.window import Window
from tests.helpers.batches import here
from tests.helpers.scenes import PLACE, PlaceEngine, make_pair, use_small_blocks, write

Mask = NDArray[np.bool_]
SHAPE, BLOCK = (150, 140), 80


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    use_small_blocks(monkeypatch, BLOCK)


@pytest.fixture(scope="module")
def pair_of_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_pair(tmp_path_factory.mktemp("pair"), *SHAPE)


def blobs(shape: tuple[int, int] = SHAPE, seed: int = 0) -> Mask:
    """Scattered pixels and spots, at the seams of blocks and the edges too."""
    random = np.random.default_rng(seed)
    found = np.asarray(random.random(shape) < 1e-3)
    found[BLOCK - 3 : BLOCK - 2, BLOCK - 2 : BLOCK - 1] = found[0, 5] = found[-1, -1] = True
    found[25:33, 50:65] = True
    return found


def cloudy(files: tuple[Path, Path], **options: Any) -> Mask:
    """What is masked as cloud on the whole grid."""
    with ScenePair.open(*files, ["B02", "B08"], ["VV"], SceneOptions(**options)) as pair:
        seen = pair.read_seen(Window(0, 0, *pair.grid.shape))
        masked = seen & CLOUD > 0
        assert pair.counts["optical_cloudy"] == masked.sum()
        assert np.isnan(pair.read(Window(0, 0, *pair.grid.shape)).optical[:, masked]).all()
    return np.asarray(masked)


def mask_file(folder: Path, codes: NDArray[Any], name: str = "mask.tif", **how: Any) -> Path:
    return write(folder / name, codes[None] if codes.ndim == 2 else codes, ("codes",) * (codes.ndim - 1), **how)


@pytest.mark.parametrize(
    ("codes", "masked"), [("", (1, 2, 3)), (":1,3", (1, 3)), (":2", (2,))], ids=["all but 0", "two", "one"]
)
def test_a_mask_with_codes(pair_of_files: tuple[Path, Path], tmp_path: Path, codes: str, masked: Any) -> None:
    values = np.random.default_rng(0).integers(0, 4, SHAPE).astype(np.uint8)
    path = mask_file(tmp_path, values, nodata=None)
    np.testing.assert_array_equal(cloudy(pair_of_files, cloud_mask=f"{path}{codes}"), np.isin(values, masked))


def test_nodata_of_a_mask_is_unknown_but_for_0(pair_of_files: tuple[Path, Path], tmp_path: Path) -> None:
    """What is unknown is masked, but does not grow."""
    values = np.zeros(SHAPE, np.uint8)
    values[:10] = 255
    values[79, 80] = 1
    expected = np.zeros(SHAPE, bool)
    expected[:10] = True
    expected[77:82, 80] = expected[79, 78:83] = expected[78:81, 79:82] = True
    for nodata, wanted in ((255, expected), (0, ndimage.binary_dilation(values > 0, disc(20)))):
        path = mask_file(tmp_path, values, nodata=nodata)
        np.testing.assert_array_equal(cloudy(pair_of_files, cloud_mask=path, cloud_buffer=20), wanted)


def disc(metres: float, pixel: float = 10.0) -> Mask:
    size = int(metres // pixel)
    rows, columns = np.indices((2 * size + 1,) * 2) - size
    return np.asarray(np.hypot(rows, columns) * pixel <= metres)


def test_a_mask_on_another_grid(pair_of_files: tuple[Path, Path], tmp_path: Path) -> None:
    """Coarser pixels by nearest; where the mask does not reach, nothing is clear."""
    values = blobs((50, 40)).astype(np.uint8)
    path = mask_file(tmp_path, values, transform=PLACE @ PLACE.scale(3), nodata=None)
    expected = np.ones(SHAPE, bool)
    there = np.kron(values, np.ones((3, 3), np.uint8))[: SHAPE[0], : SHAPE[1]] > 0
    expected[: there.shape[0], : there.shape[1]] = there
    np.testing.assert_array_equal(cloudy(pair_of_files, cloud_mask=path), expected)


@pytest.mark.parametrize("metres", [4, 10, 45, 100, 5000])
def test_growth_is_the_distance_in_metres(pair_of_files: tuple[Path, Path], tmp_path: Path, metres: float) -> None:
    """The slow twin grows the mask of the whole grid at once; it has seams of blocks in both directions."""
    clouds = blobs()
    path = mask_file(tmp_path, clouds.astype(np.uint8), nodata=None)
    expected = ndimage.distance_transform_edt(~clouds, sampling=10.0) <= metres + 1e-6
    np.testing.assert_array_equal(cloudy(pair_of_files, cloud_mask=path, cloud_buffer=metres), expected)


def test_growth_does_not_depend_on_the_part_that_is_mapped(pair_of_files: tuple[Path, Path], tmp_path: Path) -> None:
    path = mask_file(tmp_path, blobs(seed=3).astype(np.uint8), nodata=None)
    whole = cloudy(pair_of_files, cloud_mask=path, cloud_buffer=95)
    west, north = PLACE.c + 10 * 27, PLACE.f - 10 * 17
    bounds = tuple(map(str, (west, north - 10 * 100, west + 10 * 83, north)))
    part = cloudy(pair_of_files, cloud_mask=path, cloud_buffer=95, bounds=bounds)
    np.testing.assert_array_equal(part, whole[17:117, 27:110])


def test_growth_where_pixels_are_not_square_on_the_ground(tmp_path: Path) -> None:
    """In degrees a pixel at 60 N is half as wide as high."""
    place = Affine(1e-4, 0, 15, 0, -1e-4, 60)
    random = np.random.default_rng(0)
    bands = random.integers(100, 900, (2, *SHAPE)).astype(np.uint16)
    optical = write(tmp_path / "s2.tif", bands, ("B02", "B08"), place, "EPSG:4326")
    power = random.gamma(4, 0.02, (1, *SHAPE)).astype(np.float32)
    sar = write(tmp_path / "s1.tif", power, ("VV",), place, "EPSG:4326")
    clouds = np.zeros(SHAPE, np.uint8)
    clouds[79, 70] = 1
    path = write(tmp_path / "mask.tif", clouds[None], ("x",), place, "EPSG:4326", nodata=None)
    rows, columns = np.nonzero(cloudy((optical, sar), cloud_mask=path, cloud_buffer=100))
    assert (rows.min(), rows.max()) == (79 - 8, 79 + 8)
    assert (columns.min(), columns.max()) == (70 - 17, 70 + 17)


def test_classes_of_scl_by_name_and_number(pair_of_files: tuple[Path, Path], tmp_path: Path) -> None:
    values = np.random.default_rng(1).integers(0, 12, SHAPE).astype(np.uint8)
    path = mask_file(tmp_path, values, "T32_SCL.tif", nodata=0)
    cases: list[tuple[str, dict[str, Any], tuple[int, ...]]] = [
        ("", {}, (0, 1, 3, 8, 9, 10)),
        ("", {"cloud_classes": ("snow", "cirrus", "9")}, (0, 9, 10, 11)),
        (":shadow,cloud-high", {}, (3, 9)),
        (":3,9", {}, (3, 9)),
    ]
    for codes, more, masked in cases:
        np.testing.assert_array_equal(
            cloudy(pair_of_files, cloud_mask=f"{path}{codes}", **more), np.isin(values, masked), err_msg=codes
        )
    stack = make_with_mask(tmp_path, values, "SCL")
    with_product = cloudy((stack, pair_of_files[1]), mask_clouds=True, cloud_classes=("dark",))
    np.testing.assert_array_equal(with_product, np.isin(values, (0, SCL_CLASSES.index("dark"))))


def make_with_mask(folder: Path, values: NDArray[Any], name: str) -> Path:
    random = np.random.default_rng(5)
    bands = random.integers(100, 900, (5, *values.shape)).astype(np.uint16)
    bands[4] = values
    return write(folder / "stack.tif", bands, ("B02", "B03", "B04", "B08", name), nodata=None)


def test_both_masks_together(pair_of_files: tuple[Path, Path], tmp_path: Path) -> None:
    first, second = blobs(seed=1), blobs(seed=2)
    stack = make_with_mask(tmp_path, np.where(first, 9, 4), "SCL")
    path = mask_file(tmp_path, second.astype(np.uint8), nodata=None)
    found = cloudy((stack, pair_of_files[1]), mask_clouds=True, cloud_mask=path)
    np.testing.assert_array_equal(found, first | second)


def test_what_cannot_be_a_mask(pair_of_files: tuple[Path, Path], tmp_path: Path) -> None:
    plain = np.zeros(SHAPE, np.uint8)
    several = mask_file(tmp_path, np.zeros((2, *SHAPE), np.uint8), "two.tif")
    shares = mask_file(tmp_path, np.full(SHAPE, 0.3, np.float32), "share.tif", nodata=None)
    far = mask_file(tmp_path, plain, "far.tif", transform=PLACE.translation(1e6, 0) @ PLACE)
    good = mask_file(tmp_path, plain)
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"cloud_mask": several}, InputError, "has 2 bands"),
        ({"cloud_mask": shares}, InputError, r"value 0\.3, but codes are whole"),
        ({"cloud_mask": far}, InputError, "does not overlap"),
        ({"cloud_mask": tmp_path / "none.tif"}, InputMissingError, r"none\.tif"),
        ({"cloud_mask": f"{good}:shadow"}, OptionsError, "Pass numbers"),
        ({"cloud_mask": good, "cloud_classes": ("snow",)}, OptionsError, "another one"),
        ({"cloud_mask": good, "cloud_classes": ("fog",)}, OptionsError, r"fog is no class.*shadow \(3\)"),
        ({"cloud_mask": good, "cloud_buffer": 5001}, OptionsError, "from 0 to 5000 m"),
        ({"cloud_buffer": 10}, OptionsError, "--cloud-buffer needs --mask-clouds or --cloud-mask"),
        ({"cloud_mask": "https://a.org/mask.tif"}, OptionsError, "Download"),
    ]
    for options, error, match in cases:
        with pytest.raises(error, match=match):
            cloudy(pair_of_files, **options)


def test_what_was_masked_is_counted(pair_of_files: tuple[Path, Path], tmp_path: Path, capfd: Any) -> None:
    clouds = blobs()
    path = mask_file(tmp_path, clouds.astype(np.uint8), nodata=None)
    output = tmp_path / "map.tif"
    options = PredictOptions(
        *pair_of_files, output=output, cloud_mask=f"{path}:1", cloud_buffer=30.0, coreg="off",
        outputs=("quality", "report"),
    )  # fmt: skip
    report = predict(options, PlaceEngine())
    share = report.counts["optical_cloudy"] / clouds.size
    assert report.cloud_share == pytest.approx(share)
    assert share > 2 * clouds.mean()
    with rasterio.open(output) as made, rasterio.open(tmp_path / "map_quality.tif") as quality:
        assert float(made.tags()["REFNET_CLOUD_SHARE"]) == pytest.approx(share, abs=1e-6)
        assert "mask.tif" in made.tags()["REFNET_DECISIONS"]
        assert np.count_nonzero(quality.read(2) == 4) == report.counts["optical_cloudy"]
    assert "Masked as cloud or shadow" in (tmp_path / "map_report.html").read_text()
    with pytest.raises(Exception, match="same file"):
        predict(PredictOptions(*pair_of_files, output=path, cloud_mask=path, coreg="off"), PlaceEngine())


class StandIn:
    """Stands in for the package: what is bright in red is cloud, what is dark in near infrared shadow."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def predict_from_array(self, image: NDArray[Any], patch_size: int, patch_overlap: int) -> NDArray[np.uint8]:
        assert patch_overlap < patch_size <= min(image.shape[1:])
        assert np.isfinite(image).all()
        self.shapes.append(image.shape)
        codes = np.zeros((1, *image.shape[1:]), np.uint8)
        codes[0][image[2] < 1600] = 3
        codes[0][image[0] > 880] = 1
        codes[0, (image == 0).all(axis=0)] = 0
        return codes


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    found = StandIn()
    module = types.ModuleType("omnicloudmask")
    vars(module).update(predict_from_array=found.predict_from_array, __version__="0.0")
    monkeypatch.setitem(sys.modules, "omnicloudmask", module)
    return found


def test_a_model_by_cells(pair_of_files: tuple[Path, Path], model: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    with rasterio.open(pair_of_files[0]) as file:
        _, _, red, infrared = file.read()
    expected = (red > 880) | (infrared < 1600)
    np.testing.assert_array_equal(cloudy(pair_of_files, cloud_mask="omnicloudmask"), expected)
    assert model.shapes == [(3, *SHAPE)]
    monkeypatch.setattr(cloud_model, "CELL", 45)
    monkeypatch.setattr(cloud_model, "MARGIN", 12)
    model.shapes.clear()
    np.testing.assert_array_equal(cloudy(pair_of_files, cloud_mask="omnicloudmask"), expected)
    assert len(model.shapes) == 4 * 4  # each cell once
    assert max(shape[1] for shape in model.shapes) == 69
    grown = cloudy(pair_of_files, cloud_mask="omnicloudmask", cloud_buffer=25)
    np.testing.assert_array_equal(grown, ndimage.binary_dilation(expected, disc(25)))


def test_what_the_model_cannot_do(
    pair_of_files: tuple[Path, Path], tmp_path: Path, model: StandIn, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    values = np.random.default_rng(0).integers(100, 900, (2, *SHAPE)).astype(np.uint16)
    two = write(tmp_path / "two.tif", values, ("B02", "B08"))
    with pytest.raises(OptionsError, match="no band named B04 and B03"):
        cloudy((two, pair_of_files[1]), cloud_mask="omnicloudmask")
    fine = write(
        tmp_path / "fine.tif", np.ones((1, 64, 64), np.uint8), ("x",), PLACE @ PLACE.scale(0.5), nodata=None
    )
    with pytest.raises(OptionsError, match="5 x 5 m"):
        cloudy(pair_of_files, cloud_mask="omnicloudmask", grid=fine)

    def fail(*_: Any, **__: Any) -> Any:
        raise ValueError("Force download failed due to the above error.") from ConnectionError("cannot reach the hub")

    monkeypatch.setattr(sys.modules["omnicloudmask"], "predict_from_array", fail)
    with pytest.raises(UnavailableError, match=r"ConnectionError: cannot reach the hub.*~/.local/share/omnicloudmask"):
        cloudy(pair_of_files, cloud_mask="omnicloudmask")
    monkeypatch.setitem(sys.modules, "omnicloudmask", None)
    optical, sar = pair_of_files
    done = here(
        capfd, "predict", "--optical", optical, "--sar", sar, "-o", tmp_path / "x.tif", "--cloud-mask", "omnicloudmask"
    )
    assert done.code == 69, done.err
    assert "pip install 'refnet-cli[clouds]'" in done.err


def test_the_package_itself_with_a_small_network(
    pair_of_files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its weights come from the network, so a network of one layer takes their place; all else is the package's."""
    pytest.importorskip("omnicloudmask")
    import torch
    from omnicloudmask import cloud_mask

    network = torch.nn.Conv2d(3, 4, 1)
    with torch.no_grad():
        network.weight[:] = torch.tensor([[0, 0, 0], [9, 0, 0], [0, 0, 0], [0, 0, -9]])[..., None, None]
        network.bias[:] = torch.tensor([9.0, 0, -9, 0])
    monkeypatch.setattr(cloud_mask, "collect_models", lambda **_: [network.eval()])
    found = cloudy(pair_of_files, cloud_mask="omnicloudmask")
    with rasterio.open(pair_of_files[0]) as file:
        _, _, red, infrared = file.read().astype(float)
    scores = [(band - band.mean()) / band.std() for band in (red, infrared)]
    sure = (abs(scores[0] - 1) > 0.1) & (abs(scores[1] + 1) > 0.1)
    expected = (scores[0] > 1) | (scores[1] < -1)
    assert (found == expected)[sure].mean() > 0.99
