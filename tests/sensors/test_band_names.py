"""Identification of the bands of a file from all its metadata."""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from rasterio.enums import ColorInterp

from refnet_cli.errors import InputError, OptionsError
from refnet_cli.scene.inputs import find_files
from refnet_cli.scene.options import SceneOptions
from refnet_cli.scene.source import Source
from refnet_cli.sensors import PRODUCTS
from refnet_cli.sensors.band_names import BandMetadata, BandNames, band_names, choose_bands
from refnet_cli.sensors.bands import canonical_band
from refnet_cli.sensors.sensor import Modality
from refnet_cli.tiles.window import Window
from tests.helpers.scenes import write

BANDS = ("B02", "B03", "B04", "B08")


@given(st.permutations(PRODUCTS["sentinel-2-l1c"].bands), st.integers(1, 13))
def test_described_bands_are_found_in_any_order(order: list[str], count: int) -> None:
    wanted = sorted(order[:count])
    indexes, how = choose_bands(wanted, order, "optical")
    assert [order[index - 1] for index in indexes] == wanted
    assert how.startswith("description")


def test_bands_by_count() -> None:
    assert choose_bands(["B04", "B11"], [None] * 12, "optical")[0] == (4, 11)
    assert choose_bands(["B04", "B11"], [None] * 13, "optical")[0] == (4, 12)
    assert choose_bands(["B04", "B03"], [None] * 2, "optical") == (
        (1, 2), "count: a guess, 2 unnamed bands are read in the order the network needs: B04, B03.",
    )  # fmt: skip
    assert choose_bands(["VV", "VH"], ["bands", "bands"], "sar")[0] == (1, 2)


def test_numbered_bands_are_not_names() -> None:
    generic = ["B1", "B2", "B3", "B4"]
    assert choose_bands(["B02", "B03", "B04", "B08"], generic, "optical")[1].startswith("count")
    with pytest.raises(InputError, match="--optical-bands"):
        choose_bands(["B02", "B03", "B04"], generic, "optical")


@pytest.mark.parametrize(
    ("wanted", "found", "match"),
    [
        (["B02", "B03"], [None], "has 1 band,"),
        (["B02"], [None] * 5, "5 unnamed bands"),
        (["B02"], ["B3", "B4"], "no band B02"),
        (["B02"], ["B2", "blue", "B4"], "several bands B02"),
    ],
)
def test_bands_that_cannot_be_found(wanted: list[str], found: list[str | None], match: str) -> None:
    with pytest.raises(InputError, match=match):
        choose_bands(wanted, found, "optical")


def test_bands_by_option() -> None:
    wanted, found = ["B02", "B03"], ["x", "green", "blue"]
    assert choose_bands(wanted, found, "optical", ["3", "2"]) == ((3, 2), "option: --optical-bands 3,2.")
    assert choose_bands(wanted, found, "optical", ["B2", "green"])[0] == (3, 2)
    for option in (["3"], ["0", "1"], ["4", "1"], ["B08", "1"]):
        with pytest.raises(OptionsError, match="--optical-bands"):
            choose_bands(wanted, found, "optical", option)


@pytest.mark.parametrize("option", [("B02", "B03"), ("blue", "B3_max"), ("1", "green")])
def test_a_name_of_two_bands_chooses_neither(option: tuple[str, str]) -> None:
    wanted, found = ["B02", "B03"], ["B2_min", "B3_min", "B2_max", "B3_max"]
    with pytest.raises(OptionsError, match=r"Give the number .* --optical-bands .*bands (1 and 3|2 and 4)"):
        choose_bands(wanted, found, "optical", option)
    with pytest.raises(InputError, match=r"Give the number .* --optical-bands \(B02 is the name of bands 1 and 3"):
        choose_bands(wanted, found, "optical")
    for unequivocal in (("3", "4"), ("B2_max", "B3_max")):
        assert choose_bands(wanted, found, "optical", unequivocal)[0] == (3, 4)


@pytest.mark.parametrize(
    ("texts", "names"),
    [
        (("BROADNIR", "NIR"), ("B08", "B8A")),
        (("NIR", "BROADNIR"), ("B8A", "B08")),
        (("NIR", "RED"), ("B08", "B04")),
        (("BROADNIR", "B8"), ("B08", "B08")),
        (("NIR", "NIR"), ("B08", "B08")),
    ],
)
def test_near_infrared_next_to_a_broad_one_is_narrow(texts: tuple[str, str], names: tuple[str, str]) -> None:
    assert band_names(texts, "optical").names == names


WORDINGS = {
    "B02": ("Blue", "B2", "Band 2 - Blue", "blue_10m", "reflectance_blue", "490 nm", "0.492 µm", "Blau", "bleu",
            "rhos_492", "Sentinel-2 Band 2", "B2, central wavelength 490 nm", "surface reflectance, blue (496.6 nm)"),
    "B03": ("GREEN", "B3_green", "560nm", "Grün", "Green Band", "verde", "S2_B03"),
    "B04": ("red", "RED", "B4_red", "red_10m", "Rot", "rojo", "Band 4 - Red", "Red (665 nm, bandwidth 30 nm)", 
            "rho_665", "SurfaceReflectanceRed", "664.6 nm", "B04 mean"),
    "B05": ("Red Edge 1", "rededge1", "Vegetation red edge (705 nm)", "RedEdge071", "VRE1"),
    "B08": ("NIR", "Near Infrared (842 nm)", "nir_10m", "near-infrared", "B8 (NIR)", "Proche infrarouge", "832.8 nm"),
    "B8A": ("B8A (NIR)", "nir08", "Narrow NIR", "band 8A", "865 nm", "near infrared 864.7nm"),
    "B11": ("SWIR 1", "swir16", "B11 (SWIR)", "SWIR1_20m", "1610 nm", "shortwave infrared 1"),
    "B12": ("SWIR2", "swir22", "2190 nm", "2.19 um"),
    "VV": ("VV", "Sigma0_VV_db", "sigmaVV", "VV_mean", "gamma0-vv", "Intensity_VV", "polVV"),
    "VH": ("Gamma0_VH", "vh", "VH dB"),
}  # fmt: skip


@pytest.mark.parametrize(("band", "text"), [(band, text) for band, texts in WORDINGS.items() for text in texts])
def test_wordings(band: str, text: str) -> None:
    assert canonical_band(text) == band


@pytest.mark.parametrize(
    "text",
    [
        "SR_B4", "sr_band4", "B5 (865 nm)", "B4 (655 nm)", "B5 - NIR", "green-red", "NDVI (B8, B4)", "655 nm", "Band 4",
        "infrared", "thermal infrared", "coh_VV", "VV_stdDev", "VV - VH", "red count", "AOT 490 nm", "red edge", "SWIR",
        "alpha", "B4_mask", "TCI red", "view_zenith_B2", "view_azimuth_B4", "sun_zenith_B2", "VZA_B04", "B8 SAA",
        "localIncidence_VV",
    ],
)  # fmt: skip
def test_what_is_no_band_or_several(text: str) -> None:
    assert canonical_band(text) is None


def said(colours: str) -> list[BandMetadata]:
    """Bands of which nothing but a colour interpretation is known."""
    return [BandMetadata(None, (), colour) for colour in colours.split()]


@given(st.permutations(["red", "green", "blue", "nir"]))
def test_colours_are_found_in_any_order(order: list[str]) -> None:
    named = band_names(said(" ".join(order)), "optical")
    names = {"red": "B04", "green": "B03", "blue": "B02", "nir": "B08"}
    assert list(named.names) == [names[colour] for colour in order]
    assert named.how.startswith("tag: the colour interpretation")


@given(st.permutations(["red", "green", "blue", "undefined"]))
def test_one_silent_band_next_to_red_green_and_blue_is_a_guess(order: list[str]) -> None:
    named = band_names(said(" ".join(order)), "optical")
    assert named.names[order.index("undefined")] == "B08"
    assert named.names[order.index("red")] == "B04"
    assert named.how.startswith("count: a guess")


@pytest.mark.parametrize(
    "colours",
    [
        "red green blue undefined undefined",  # which of the two is NIR?
        "gray green blue undefined",
        "red green blue pan",
        "red red blue undefined",
    ],
)
def test_colours_of_some_bands_are_not_enough(colours: str) -> None:
    named = band_names(said(colours), "optical")
    with pytest.raises(InputError, match="--optical-bands"):
        choose_bands(["B02", "B03", "B04", "B08"], [None] * len(named.names), "optical", named=named)
    option = [str(number) for number in (1, 2, 3, 4)]
    assert choose_bands(["B02", "B03", "B04", "B08"], [None] * 5, "optical", option, named)[0] == (1, 2, 3, 4)


def test_a_count_is_checked_by_the_bands_that_say_something() -> None:
    bands = [BandMetadata()] * 12
    usual = PRODUCTS["sentinel-2-l2a"].bands
    bands[1:4] = said("blue green red")
    assert band_names(bands, "optical").names == usual
    bands[0:3] = said("red green blue")
    with pytest.raises(InputError, match=r"band 1 rule out B01, .*--optical-bands"):
        choose_bands(["B08"], [None] * 12, "optical", named=band_names(bands, "optical"))


def test_bands_that_say_that_they_are_none_do_not_count() -> None:
    texts = [*[None] * 12, "cloud mask"]
    assert band_names(texts, "optical").names == (*PRODUCTS["sentinel-2-l2a"].bands, None)
    assert choose_bands(["VV", "VH"], [None, None, "angle"], "sar")[0] == (1, 2)


@pytest.mark.parametrize(
    "band",
    [
        BandMetadata("B04", ("blue",)),
        BandMetadata("B04", (), "blue"),
        BandMetadata("red", ("842 nm",)),
        BandMetadata(None, ("B02",), "red"),
    ],
)
def test_a_band_that_contradicts_itself_is_refused(band: BandMetadata) -> None:
    named = band_names([band, BandMetadata("B03")], "optical")
    with pytest.raises(InputError, match=r"band 1 contradict each other .*--optical-bands"):
        choose_bands(["B04", "B03"], [band.description, "B03"], "optical", named=named)
    assert choose_bands(["B04", "B03"], [band.description, "B03"], "optical", ["1", "2"], named)[0] == (1, 2)


@pytest.mark.parametrize("pattern", ["SR_B{}", "sr_band{}"])
def test_landsat_names_are_refused(pattern: str) -> None:
    texts = [pattern.format(number) for number in (2, 3, 4, 5)]
    with pytest.raises(InputError, match=r"Landsat.*--optical-bands"):
        choose_bands(["B02", "B03", "B04", "B05"], texts, "optical")


@pytest.mark.parametrize(
    ("texts", "named"),
    [
        (["Band 1", "Band 2", "Band 3", "Band 4"], False),
        (["1", "2", "3", "4"], False),
        (["Band 2", "Band 3", "Band 4", "Band 8"], True),
        (["band_2", "band_3", "band_4", "band_8A"], True),
    ],
)
def test_numbers_in_a_row_are_no_names_and_others_are(texts: list[str], named: bool) -> None:
    found = band_names(texts, "optical")
    assert found.names == (("B02", "B03", "B04", found.names[3]) if named else (None,) * 4)
    assert bool(found.how) == named


@pytest.mark.parametrize(
    ("key", "texts"),
    [
        ("BandName", BANDS), ("BANDNAME", BANDS), ("wavelength", ("492.4", "559.8", "664.6", "832.8")),
        ("central_wavelength", ("0.49", "0.56", "0.665", "0.842")), ("STANDARD_NAME", ("blue", "green", "red", "nir")),
        ("long_name", ("Blue band", "Green band", "Red band", "NIR band")),
        ("common_name", ("blue", "green", "red", "nir")),
    ],
)  # fmt: skip
def test_tags_of_bands_name_them(tmp_path: Path, key: str, texts: tuple[str, ...]) -> None:
    order = [2, 0, 3, 1]
    path = write(tmp_path / "s2.tif", np.full((4, 20, 20), 500, np.uint16), (None,) * 4)
    with rasterio.open(path, "r+") as file:
        for band, number in enumerate(order, 1):
            file.update_tags(band, **{key: texts[number]})
    found = bands_of(path)
    assert list(found.names) == [BANDS[number] for number in order]
    assert found.how.startswith("tag:")


@pytest.mark.parametrize("text", ["['B08', 'B04', 'B03', 'B02']", "B8 B4 B3 B2", "nir;red;green;blue"])
def test_a_list_in_the_tags_of_a_file_names_its_bands(tmp_path: Path, text: str) -> None:
    path = write(tmp_path / "s2.tif", np.full((4, 20, 20), 500, np.uint16), (None,) * 4)
    with rasterio.open(path, "r+") as file:
        file.update_tags(band_names=text)
    assert bands_of(path).names == ("B08", "B04", "B03", "B02")


def test_tags_that_number_bands_in_a_row_are_no_names() -> None:
    bands = [BandMetadata(None, (f"B{number}",)) for number in range(1, 5)]
    assert band_names(bands, "optical").names == (None,) * 4
    assert band_names([*bands[1:], BandMetadata(None, ("B8",))], "optical").names == BANDS


def test_landsat_of_hls_is_refused_for_what_it_is(tmp_path: Path) -> None:
    """Its B05 is near infrared, as its tag says; that is no mistake in its name."""
    path = write(tmp_path / "HLS.L30.T33UUP.2020001T101010.v2.0.B05.tif", np.full((1, 9, 9), 500, np.int16), (None,))
    with rasterio.open(path, "r+") as file:
        file.update_tags(long_name="NIR_Narrow")
    with pytest.raises(InputError, match="Landsat"):
        bands_of(path)


@pytest.mark.parametrize(("band", "name"), [("B05", "Red_Edge1"), ("B8A", "NIR_Narrow"), ("B08", "NIR_Broad")])
def test_names_of_hls_agree_with_its_files(tmp_path: Path, band: str, name: str) -> None:
    image = np.full((1, 9, 9), 500, np.int16)
    path = write(tmp_path / f"HLS.S30.T33UUP.2020001T101010.v2.0.{band}.tif", image, (None,))
    with rasterio.open(path, "r+") as file:
        file.update_tags(long_name=name)
    assert bands_of(path).names == (band,)


def test_tags_of_a_single_band_name_it(tmp_path: Path) -> None:
    path = write(tmp_path / "x.tif", np.full((1, 20, 20), 0.05, np.float32), (None,), nodata=None)
    with rasterio.open(path, "r+") as file:
        file.update_tags(POLARISATION="VH")
    assert bands_of(path, "sar").names == ("VH",)


def bands_of(path: Path, modality: Modality = "optical") -> BandNames:
    """What the bands of a file are taken for."""
    with ExitStack() as stack:
        return Source(find_files(path, modality, SceneOptions())[0], stack).band_names


@pytest.mark.parametrize("colours", ["blue green red nir", "coastal blue green red rededge rededge nir swir swir"])
def test_colours_are_read_from_files(tmp_path: Path, colours: str) -> None:
    listed = colours.split()
    path = write(tmp_path / "s2.tif", np.full((len(listed), 20, 20), 500, np.uint16), (None,) * len(listed))
    with rasterio.open(path, "r+") as file:
        file.colorinterp = [ColorInterp[colour] for colour in listed]
    names = {"blue": "B02", "green": "B03", "red": "B04", "nir": "B08", "coastal": "B01"}
    assert bands_of(path).names == tuple(names.get(colour) for colour in listed)


def test_eight_bit_pictures_have_colours_by_default(tmp_path: Path) -> None:
    """They are refused for being pictures, and not for lacking bands."""
    path = write(tmp_path / "rgb.tif", np.full((3, 64, 64), 90, np.uint8), (None,) * 3)
    assert bands_of(path).names == (None,) * 3


def test_near_infrared_that_a_writer_declared_alpha_is_said(tmp_path: Path) -> None:
    """As some do with the fourth band of any image; the advice makes it a band."""
    path = write(tmp_path / "s2.tif", np.full((4, 20, 20), 500, np.uint16), (None,) * 4)
    with rasterio.open(path, "r+") as file:
        file.colorinterp = [ColorInterp[colour] for colour in ("red", "green", "blue", "alpha")]
    wanted = ["B02", "B03", "B04", "B08"]
    named = bands_of(path)
    with pytest.raises(InputError) as refusal:
        choose_bands(wanted, [None] * 3, "optical", named=named)
    with pytest.raises(OptionsError, match="gdal_translate -colorinterp_4 undefined"):
        choose_bands(wanted, [None] * 3, "optical", ["3", "2", "1", "4"], named)
    (advice,) = re.findall(r"`gdal_translate -colorinterp_(\d) undefined (\S+) (\S+)`", str(refusal.value))
    assert advice[1] == str(path)
    with rasterio.open(path, "r+") as file:  # what gdal_translate does
        file.colorinterp = [*file.colorinterp[:3], ColorInterp.undefined]
    assert advice[0] == "4"
    assert choose_bands(wanted, [None] * 4, "optical", named=bands_of(path))[0] == (3, 2, 1, 4)


# --- alpha bands -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32"])
@pytest.mark.parametrize("nodata", [None, 0, 7])
@pytest.mark.parametrize("how", ["colour", "description"])
@pytest.mark.parametrize("first", [False, True])
def test_alpha_bands_mask_and_are_no_bands(
    tmp_path: Path, dtype: str, nodata: int | None, how: str, first: bool
) -> None:
    """Whatever GDAL makes of them: it takes those of fractions, and of files with nodata, for no masks."""
    image = np.full((5, 20, 20), 500).astype(dtype)
    image[0 if first else 4] = 255
    image[0 if first else 4, 5:9, 3:6] = 0
    names = ("alpha" if first else "B02", "B03", "B04", "B08", "B02" if first else "alpha")
    path = write(tmp_path / "s2.tif", image, names if how == "description" else (None,) * 5, nodata=nodata)
    if how == "colour":
        with rasterio.open(path, "r+") as file:
            colours = [ColorInterp.undefined] * 5
            colours[0 if first else 4] = ColorInterp.alpha
            file.colorinterp = colours
    with ExitStack() as stack:
        source = Source(find_files(path, "optical", SceneOptions())[0], stack)
        assert [layer.pieces[0][1] for layer in source.layers] == ([2, 3, 4, 5] if first else [1, 2, 3, 4])
        values, _ = source.rasters[0].read_valid([2, 3], Window(0, 0, 20, 20))
    expected = np.full((2, 20, 20), 500.0)
    expected[:, 5:9, 3:6] = np.nan
    np.testing.assert_array_equal(values, expected)
