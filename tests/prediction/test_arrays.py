"""NumPy arrays in, arrays out: the same as `refnet predict` on files of the same values, whatever the memory layout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray

from refnet_cli.errors import InputError, OptionsError, TryAgainError, WeightsError
from refnet_cli.prediction.arrays import predict_arrays
from refnet_cli.prediction.options import PredictOptions
from refnet_cli.prediction.predict import predict
from tests.helpers.pages import blocks_of, page
from tests.helpers.quick import few
from tests.helpers.scenes import CARD, PlaceEngine, make_pair

Array = NDArray[Any]


class BothEngine(PlaceEngine):
    """Its answer depends on both sensors, and on which pixels of a tile are valid."""

    def predict(self, optical: NDArray[np.float32], sar: NDArray[np.float32]) -> NDArray[np.float32]:
        """Shares of the bands' brightness, SAR with a weight that moves with what is missing."""
        shares = np.zeros((len(optical), self.card.network.classes, *optical.shape[2:]), np.float32)
        shares[:, 1:5] = np.nan_to_num(optical, nan=1.0) + 600
        shares[:, 5:7] = (np.nan_to_num(sar, nan=-30.0) + 40) * (100 + np.isnan(optical[:, :2]).mean())
        shares = np.clip(shares, 0, None)
        return np.asarray(shares / shares.sum(1, keepdims=True), np.float32)


def read(path: Path) -> Array:
    with rasterio.open(path) as file:
        return np.asarray(file.read())


def physical(pair: tuple[Path, Path]) -> tuple[Array, Array]:
    """Reflectance 0..1 and dB of a pair of files."""
    optical, sar = map(read, pair)
    with np.errstate(divide="ignore"):
        return optical.astype(np.float32) / 10_000, 10 * np.log10(sar)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    def punch(optical: Array, sar: Array) -> None:
        optical[:, 10:40, 200:] = 0
        sar[:, 90:, 50:70] = np.nan

    return make_pair(tmp_path, 150, 301, holes=punch)


WITHOUT, BLURRED, ONE_SENSOR, TURNED = (
    {}, {"smooth": 2, "threshold": 0.19}, {"missing": "use-other", "scheme": "worldcover"}, {"tta": True},
)  # fmt: skip


@pytest.mark.parametrize("options", few([WITHOUT, BLURRED, ONE_SENSOR, TURNED], BLURRED, ONE_SENSOR))
def test_arrays_give_the_map_of_the_files(pair: tuple[Path, Path], options: dict[str, Any]) -> None:
    kinds = ("probabilities", "confidence", "quality")
    report = predict(PredictOptions(*pair, pair[0].with_name("lulc.tif"), outputs=kinds, **options), BothEngine())
    found = predict_arrays(
        *map(read, pair), optical_scale="dn", sar_scale="power", engine=BothEngine(), probabilities=True,
        confidence=True, quality=True, **options,
    )  # fmt: skip
    np.testing.assert_array_equal(found.classes, read(Path(report.output))[0])
    files = {kind: read(Path(report.files[kind][0]["path"])) for kind in kinds}
    assert found.probabilities is not None
    np.testing.assert_array_equal(found.quality, files["quality"][0])
    stored = np.rint(np.nan_to_num(found.probabilities, nan=1.02) * 250)  # 255 is nodata
    np.testing.assert_array_equal(stored, files["probabilities"])
    np.testing.assert_array_equal(np.rint(np.nan_to_num(found.confidence, nan=1.02) * 250), files["confidence"])
    assert found.report.valid_share == report.valid_share
    assert found.report.tiles == report.tiles
    assert found.scheme.names == tuple(report.scheme["names"])
    assert not found.report.areas_hectares


def rounded(values: Array) -> Array:
    """Values that float32 and float64 hold alike."""
    return values.astype(np.float32)


LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "Fortran order": np.asfortranarray,
    "negative steps": lambda values: np.ascontiguousarray(values[:, ::-1, ::-1])[:, ::-1, ::-1],
    "last axis first in memory": lambda values: np.moveaxis(np.ascontiguousarray(np.moveaxis(values, 0, -1)), -1, 0),
    "float64": lambda values: values.astype(np.float64),
    "big-endian": lambda values: values.astype(">f4"),
    "read-only": lambda values: np.frombuffer(values.tobytes(), np.float32).reshape(values.shape),
    "masked": lambda values: np.ma.MaskedArray(np.nan_to_num(values, nan=5.0), np.isnan(values)),
    "strided": lambda values: np.repeat(values, 2, axis=2)[:, :, ::2],
}


@pytest.mark.parametrize("layout", few(LAYOUTS, "Fortran order", "negative steps", "masked"))
def test_the_layout_in_memory_changes_nothing(pair: tuple[Path, Path], layout: str) -> None:
    optical, sar = map(rounded, physical(pair))
    optical[:, optical[0] == 0] = np.nan
    found = predict_arrays(optical, sar, engine=BothEngine())
    assert 0.5 < found.report.valid_share < 1
    same = predict_arrays(LAYOUTS[layout](optical), LAYOUTS[layout](sar), engine=BothEngine())
    np.testing.assert_array_equal(same.classes, found.classes)


def test_reflectance_and_decibels_are_the_default(pair: tuple[Path, Path]) -> None:
    found = predict_arrays(*physical(pair), engine=PlaceEngine())
    assert found.report.options["optical_scale"] == "reflectance"
    assert found.report.options["sar_scale"] == "db"
    optical = read(pair[0])
    codes = np.array([CARD.scheme.codes[i] for i in range(4)])[optical.argmax(0)]
    seen = found.classes > 0
    np.testing.assert_array_equal(found.classes[seen], codes[seen])
    assert not found.classes[10:40, 200:].any()
    assert not found.classes[90:, 50:70].any()


def test_arguments_are_left_as_they_are(pair: tuple[Path, Path]) -> None:
    arrays = physical(pair)
    copies = [array.copy() for array in arrays]
    predict_arrays(*arrays, engine=PlaceEngine())
    for array, copy in zip(arrays, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_bands_by_name_in_any_order(pair: tuple[Path, Path]) -> None:
    optical, sar = physical(pair)
    found = predict_arrays(optical, sar, engine=BothEngine())
    more = np.concatenate([optical[::-1], optical[:1] + 0.1])
    named = predict_arrays(
        more, sar[::-1], engine=BothEngine(), optical_bands=("B08", "B04", "B03", "B02", "B11"), sar_bands=("VH", "VV")
    )
    np.testing.assert_array_equal(named.classes, found.classes)


def percent(optical: Array, sar: Array) -> tuple[Array, Array]:
    return optical * 100, sar


REFUSED: dict[str, tuple[Callable[[Array, Array], tuple[Any, Any]], dict[str, Any], str]] = {
    "reflectance x 10,000": (lambda o, s: (o * 10_000, s), {}, "optical_scale reflectance contradicts the optical"),
    "percent": (percent, {}, "reflectance"),
    "power as dB": (lambda o, s: (o, 10 ** (s / 10)), {}, "sar_scale db contradicts the SAR values"),
    "dB as power": (lambda o, s: (o, s), {"sar_scale": "power"}, "sar_scale power contradicts"),
    "swapped": (lambda o, s: (s, o), {}, r"optical array has the shape \(2, 150, 301\); expected \(4, H, W\)"),
    "bands last": (lambda o, s: (np.moveaxis(o, 0, -1), s), {}, r"np.moveaxis\(array, -1, 0\)"),
    "no bands axis": (lambda o, s: (o[0], s), {}, r"shape \(150, 301\); expected \(4, H, W\)"),
    "other pixels": (lambda o, s: (o, s[:, ::2, ::2]), {}, r"\(150, 301\) rows and columns, the SAR array \(75, 151\)"),
    "too many bands": (lambda o, s: (np.concatenate([o, o]), s), {}, "name them with optical_bands"),
    "unknown band": (lambda o, s: (o, s), {"optical_bands": ("B02", "B03", "B04", "NIR9")}, "NIR9, which Sentinel-2"),
    "missing band": (lambda o, s: (o[:3], s), {"optical_bands": ("B02", "B03", "B04")}, "3 bands, but 4|no band B08"),
    "complex": (lambda o, s: (o.astype(complex), s), {}, "complex numbers"),
    "text": (lambda o, s: (o.astype(str), s), {}, "has the data type <U"),
    "booleans": (lambda o, s: (o > 0, s), {}, "data type bool"),
    "all NaN": (lambda o, s: (o * np.nan, s), {}, "no valid pixel"),
    "empty": (lambda o, s: (o[:, :0], s[:, :0]), {}, "at least 1 each"),
    "neither": (lambda o, s: (None, None), {}, "neither optical nor SAR"),
    "SAR absent": (lambda o, s: (o, None), {}, "not trained to predict without Sentinel-1. Give sar too"),
    "unknown option": (lambda o, s: (o, s), {"bounds": ("0", "0", "1", "1")}, "option bounds is unknown for arrays"),
    "pixel size": (lambda o, s: (o, s), {"pixel_size": 0.0}, "pixel_size is 0.0"),
    "no cloud mask": (lambda o, s: (o, s), {"mask_clouds": True}, "mask_clouds needs a cloud mask"),
    "little memory": (lambda o, s: (o, s), {"max_memory": "20M"}, "memory"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_bad_arrays_are_refused_with_one_clear_error(pair: tuple[Path, Path], what: str) -> None:
    change, options, message = REFUSED[what]
    kinds = (InputError, OptionsError, WeightsError, TryAgainError)
    with pytest.raises(kinds, match=message) as refused:
        predict_arrays(*change(*physical(pair)), **{"engine": PlaceEngine(), **options})
    assert "--" not in str(refused.value)


def test_one_sensor_where_the_weights_allow_it(pair: tuple[Path, Path]) -> None:
    engine = BothEngine(replace(CARD, training={"modality_dropout": 0.2}))
    optical, sar = physical(pair)
    for given in ((optical, None), (None, sar)):
        found = predict_arrays(*given, engine=engine, quality=True)
        assert found.report.sensors == ["optical" if given[1] is None else "sar"]
        assert found.quality is not None
        assert set(np.unique(found.quality)) == {0, 1 if given[1] is None else 2}


def test_pixels_of_other_sizes_are_warned_of(pair: tuple[Path, Path], said: list[str]) -> None:
    found = predict_arrays(*physical(pair), engine=PlaceEngine(), pixel_size=60)
    assert any("60 m wide" in warning for warning in found.report.warnings)
    assert any("60 m wide" in line for line in said)


def test_lazy_arrays_are_computed_once(pair: tuple[Path, Path]) -> None:
    da = pytest.importorskip("dask.array")
    optical, sar = physical(pair)
    computed: list[tuple[int, ...]] = []

    def note(block: Array) -> Array:
        computed.append(block.shape)
        return block

    lazy = da.from_array(optical, chunks=(4, 64, 100)).map_blocks(note, meta=np.empty((0, 0, 0), np.float32))
    found = predict_arrays(lazy, sar, engine=BothEngine())
    assert len(computed) == 3 * 4
    np.testing.assert_array_equal(found.classes, predict_arrays(optical, sar, engine=BothEngine()).classes)


def test_blocks_that_cannot_be_computed_are_named(pair: tuple[Path, Path]) -> None:
    da = pytest.importorskip("dask.array")
    optical, sar = physical(pair)

    def fail(block: Array) -> Array:
        raise ConnectionError("the server is gone")

    lazy = da.from_array(optical, chunks=(4, 64, 100)).map_blocks(fail, meta=np.empty((0, 0, 0), np.float32))
    with pytest.raises(InputError, match=r"block of The optical array cannot be computed .*the server is gone"):
        predict_arrays(lazy, sar, engine=BothEngine())


def test_the_program_of_the_page(pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    optical, sar = physical(pair)
    own = partial(predict_arrays, engine=BothEngine())
    monkeypatch.setattr("refnet_cli.predict_arrays", own, raising=False)
    names: dict[str, Any] = {"optical": optical, "sar": sar}
    exec(blocks_of(page("how-to/arrays"), "python")[0], names)
    np.testing.assert_array_equal(names["found"].classes, own(optical, sar).classes)
