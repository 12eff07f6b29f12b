"""A made-up third sensor, described here as a file of `refnet_cli.sensors` would and entered in `SENSORS`.

What depends on `SENSORS` alone works with it: names of bands, dates, units, decisions, bands to show. No map can be
made of it: the network takes two sensors, and the pixels of these are read in their units by `refnet_cli.scene.optical`
and `refnet_cli.scene.sar`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from refnet_cli.errors import InputError, OptionsError
from refnet_cli.prediction.options import PredictOptions
from refnet_cli.raster.raster import Raster
from refnet_cli.scene.fill_values import FillRules, mask_fill_values
from refnet_cli.scene.inputs import find_files
from refnet_cli.scene.options import SceneOptions
from refnet_cli.scene.source import Source, nodata_decision
from refnet_cli.scene.swapped import refuse_swapped
from refnet_cli.sensors import PRODUCTS, SENSORS
from refnet_cli.sensors.band_names import band_names, choose_bands
from refnet_cli.sensors.bands import band_of_file, candidate_bands, canonical_band
from refnet_cli.sensors.dates import acquisition_time
from refnet_cli.sensors.decisions import refuse_guesses
from refnet_cli.sensors.sensor import BandNaming, Candidates, Product, Sensor
from refnet_cli.tiles.window import Window
from tests.helpers.scenes import PLACE, write

BANDS = ("T10", "T11")


def _codes(text: str) -> set[str]:
    return set(re.findall(r"(?<![A-Z0-9])T1[01](?![A-Z0-9])", text))


def _meanings(text: str) -> list[Candidates]:
    return [({*BANDS}, "T10")] if re.search(r"(?<![a-z])thermal(?![a-z])", text.lower()) else []


def _read_metadata(
    tags: Mapping[str, str], path: str, descriptions: Sequence[str | None], units: Sequence[str | None]
) -> tuple[str, str] | None:
    text = next((text for text in descriptions if text and text.endswith(("kelvin", "celsius"))), None)
    return (text.rpartition(" ")[2], f"description: {text}.") if text else None


THERMAL = Sensor(
    name="thermal",
    satellite="Kelvin-1",
    unit="K",
    card_unit="K",
    bands=BANDS,
    naming=BandNaming(_codes, "T1[01]", _meanings, is_filename_ending=lambda text: text == "thermal"),
    products=(Product("kelvin-1", BANDS),),
    quicklook_bands=(("T11", "T10"),),
    mission="K1",
    product_name="K1A_TIR",
    dates=(r"K1A_TIR_(\d{8}T\d{6})",),
    metadata_label="units by description",
    read_metadata=_read_metadata,
    recognises_values=lambda values, dtype: dtype.kind == "f" and 230 < float(np.median(values)) < 340,
    named_by_number=True,
)


@pytest.fixture
def thermal(monkeypatch: pytest.MonkeyPatch) -> Sensor:
    monkeypatch.setitem(SENSORS, "thermal", THERMAL)
    return THERMAL


def temperatures(low: float = 270.0) -> np.ndarray:
    """Two bands in kelvin that rise to the right."""
    return np.stack([np.linspace(low + band, low + 30, 64 * 64).reshape(64, 64) for band in (0, 2)]).astype(np.float32)


def opened(stack: ExitStack, path: Path | list[Path], modality: str = "thermal") -> Source:
    (files,) = find_files(path, modality, SceneOptions())  # type: ignore[arg-type]
    return Source(files, stack)


def test_its_bands_are_unknown_without_it() -> None:
    assert [canonical_band(text) for text in ("T10", "thermal")] == [band_of_file("K1A_T10.tif"), None] == [None] * 2


@pytest.mark.parametrize(
    ("text", "band"), [("T10", "T10"), ("Brightness T11 (K)", "T11"), ("thermal", "T10"), ("T11 thermal", "T11"),
                       ("T10/T11", None), ("T10 B04", None), ("thermal mask", None)],
)  # fmt: skip
def test_its_bands_are_recognised_in_descriptions(thermal: Sensor, text: str, band: str | None) -> None:
    assert canonical_band(text) == band


def test_bands_of_the_other_sensors_stay_what_they_are(thermal: Sensor) -> None:
    for product in PRODUCTS.values():
        assert [canonical_band(band) for band in product.bands] == list(product.bands)
        assert [band_of_file(f"scene_{band}.tif") for band in product.bands] == list(product.bands)
    assert candidate_bands("red") == {"B04"}
    assert canonical_band("infrared") is None


def test_its_bands_and_dates_are_recognised_in_names_of_files(thermal: Sensor) -> None:
    name = "K1A_TIR_20240501T101112_T11.tif"
    assert band_of_file(name) == "T11"
    assert band_of_file("valley_thermal_30m.tif") == "T10"
    assert acquisition_time(name) == "2024-05-01T10:11:12Z"


def test_its_bands_are_chosen_by_name_and_by_number(thermal: Sensor) -> None:
    assert choose_bands(["T11"], ["T10", "T11"], "thermal")[0] == (2,)
    names, how, *_ = band_names([None, None], "thermal")
    assert (names, how.partition(":")[0]) == (BANDS, "count")
    with pytest.raises(OptionsError, match="--thermal-bands names 1 band,"):
        choose_bands(BANDS, ["a", "b"], "thermal", ["1"])


def test_a_folder_of_all_sensors_is_taken_apart(tmp_path: Path, thermal: Sensor) -> None:
    for band in ("B02", "VV", "T10"):
        write(tmp_path / f"{band}.tif", temperatures()[:1], (band,), nodata=None)
    for modality, band in (("optical", "B02"), ("sar", "VV"), ("thermal", "T10")):
        (files,) = find_files(tmp_path, modality, SceneOptions())  # type: ignore[arg-type]
        assert [Path(path).stem for path in files.paths] == [band]


@pytest.mark.parametrize(
    ("name", "texts", "found"),
    [
        ("a.tif", ("T10", "T11"), "its bands are T10, T11"),
        ("K1A_TIR_x.tif", (None, None), "its file name is that of a Kelvin-1 product"),
        ("a.tif", (None, None), "the median of its float32 values is 285, as in K"),
    ],
)
def test_its_files_are_told_by_bands_name_or_unit(
    tmp_path: Path, thermal: Sensor, name: str, texts: tuple[str, str], found: str
) -> None:
    path = write(tmp_path / name, temperatures(), texts, nodata=None)
    with ExitStack() as stack:
        refuse_swapped([opened(stack, path)], by_values=True)
        with pytest.raises(InputError, match=rf"is a thermal image \({re.escape(found)}\)\. Pass it with --thermal"):
            refuse_swapped([opened(stack, path, "sar")], by_values=True)


def test_pieces_of_one_image_are_of_one_unit(tmp_path: Path, thermal: Sensor) -> None:
    right = PLACE @ PLACE.translation(64, 0)
    for unit, joined in (("kelvin", True), ("celsius", False)):
        first = write(tmp_path / "a.tif", temperatures(), ("T10 kelvin", "T11 kelvin"), nodata=None)
        second = write(tmp_path / "b.tif", temperatures(), (f"T10 {unit}", f"T11 {unit}"), right, nodata=None)
        with ExitStack() as stack:
            source = opened(stack, [first, second])
            assert bool(source.files.mosaics) == joined
            assert ("units by description kelvin and celsius" in source.band_names.not_joined) != joined


def test_its_decisions_are_recorded(tmp_path: Path, thermal: Sensor) -> None:
    values = temperatures()
    values[:, 10:30, 20:40] = -9999
    with ExitStack() as stack:
        source = opened(stack, write(tmp_path / "a.tif", values, BANDS, nodata=None))
        rules = FillRules(lambda stored: np.where(stored > 0, stored, np.nan), 0.5, 150, 400, lambda at, others: False)
        decisions, _ = mask_fill_values(source, source.sample(source.layers), rules)
        assert nodata_decision(source, source.layers).what == "thermal.nodata"
        assert [(decision.what, decision.is_guess) for decision in decisions] == [("thermal.fill", True)]
        read, _ = source.rasters[0].read_masked([1, 2], Window(0, 0, 64, 64))
    assert np.array_equal(np.isnan(read), values == -9999)
    with pytest.raises(OptionsError, match=r"thermal\.fill .* Declare fill values as nodata"):
        refuse_guesses(decisions)


def test_zero_is_a_value_where_another_number_is_declared(tmp_path: Path, thermal: Sensor) -> None:
    values = temperatures()
    values[:, :8] = 0
    path = write(tmp_path / "a.tif", values, BANDS, nodata=-1)
    for name, zeros in (("thermal", 0), ("optical", 8 * 64)):
        raster = Raster(path, name)
        read, _ = raster.read_valid([1], Window(0, 0, 64, 64))
        raster.close()
        assert np.count_nonzero(np.isnan(read)) == zeros


def test_bands_of_its_quicklook_are_chosen(thermal: Sensor) -> None:
    choose = SENSORS["thermal"].choose_quicklook_bands
    assert [choose(names) for names in (["T10", "T11"], ["T11", "T10"], ["T10"])] == [[1, 0], [0, 1], [0]]
    assert choose(["a", "b", "c"]) == [0, 1]


def test_the_network_takes_two_sensors_still(thermal: Sensor) -> None:
    assert PredictOptions("a.tif", "b.tif", "c.tif").sensors == ("optical", "sar")
