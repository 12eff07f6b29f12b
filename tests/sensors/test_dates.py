"""Acquisition times: real file names, and dates that users give."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refnet_cli.errors import OptionsError
from refnet_cli.sensors.dates import acquisition_range, acquisition_time, parse_dates

TIME, DAY = "2020-07-01T10:10:31Z", "2020-07-01"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("S2A_MSIL2A_20200701T101031_N0214_R022_T32TQM_20200701T130000.SAFE", TIME),
        ("S2C_MSIL1C_20200701T101031_N0214_R022_T32TQM_20200702T130000.SAFE.zip", TIME),
        ("S2A_MSIL2A_20200701T101031_R022_T32TQM_20200901T130000", TIME),
        ("S2A_OPER_PRD_MSIL1C_PDMC_20200702T130000_R022_V20200701T101031_20200701T101031.SAFE", TIME),
        ("L2A_T32TQM_A026231_20200701T101031", TIME),
        ("T32TQM_20200701T101031_B02_10m.jp2", TIME),
        ("L2A_T32TQM_20200701T101031_B02_10m.jp2", TIME),
        ("S2B_T33UVU_20200701T101031_L2A", TIME),
        ("20200701T101031_20200701T101530_T22MHU", TIME),
        ("20200701T101031_T22MHU.B4.tif", TIME),
        ("HLS.S30.T33UVU.2020183T101031.v2.0.Fmask.tif", TIME),
        ("HLS.L30.T33UVU.2020366T101031.v2.0.B02.tif", "2020-12-31T10:10:31Z"),
        ("S2B_33UVU_20200701_0_L2A", DAY),
        ("S2B_9VXK_20200701_1_L2A.tif", DAY),
        ("S1A_IW_GRDH_1SDV_20200701T101031_20200701T101056_033282_03DB2A_1234.SAFE", TIME),
        ("S1A_S3_GRDH_1SDV_20200701T101031_20200701T101056_033282_03DB2A_rtc", TIME),
        ("S1B_EW_GRDM_1SDH_20200701T101031_20200701T101056_033282_03DB2A_1234_COG.SAFE", TIME),
        ("s1a-iw-grd-vv-20200701t101031-20200701t101056-033282-03db2a-001.tiff", TIME),
        ("S1A_IW_20200701T101031_DVP_RTC30_G_gpuned_1234_VV.tif", TIME),
        ("OPERA_L2_RTC-S1_T069-147170-IW1_20200701T101031Z_20230901T000000Z_S1A_30_v1.0_VV.tif", TIME),
        ("scene_20200701.tif", None),
        ("map_20200701T101031.tif", None),
        ("T32TQM_2020.tif", None),
        ("s1.tif", None),
        ("", None),
        ("S2B_33UVU_20201301_0_L2A", None),
        ("T32TQM_20200701T251031_B02_10m.jp2", None),
        ("HLS.S30.T33UVU.2021366T101031.v2.0.B02.tif", None),
        ("HLS.S30.T33UVU.2021000T101031.v2.0.B02.tif", None),
        # The processing time must not stand in for a date that is wrong.
        ("S2A_MSIL2A_20200231T101031_N0214_R022_T32TQM_20200701T130000.SAFE", None),
        ("S1A_IW_GRDH_1SDV_20200231T101031_20200701T101056_033282_03DB2A_1234.SAFE", None),
    ],
)
def test_dates_in_names(name: str, expected: str | None) -> None:
    assert acquisition_time(name) == expected


def test_no_name_makes_an_error() -> None:
    @given(st.from_regex(re.compile(r"(?a:S2A_MSIL2A_\d{8}T\d{6}|HLS\.S30\.T33UVU\.\d{7}T\d{6}|S2A_9XXX_\d{8}_0_L2A)")))
    def check(name: str) -> None:
        when = acquisition_time(name)
        assert when is None or parse_dates(when)[0][:4] in name

    check()


def test_acquisitions_of_both_sensors() -> None:
    early, late = (f"S1A_IW_2020070{day}T050912_DVP_RTC30_G_gpuned_1234_VV.tif" for day in (1, 9))
    optical = ["T32TQM_20200705T101031_B02_10m.jp2", "T32TQM_20200702T101031_B02_10m.jp2", "clouds.tif"]
    assert acquisition_range(optical, [late]) == ("2020-07-02T10:10:31Z", "2020-07-09T05:09:12Z")
    assert acquisition_range(optical, [early]) == ("2020-07-01T05:09:12Z", "2020-07-05T10:10:31Z")
    assert acquisition_range(optical[:1], ["S1A_IW_20200705T101031_DVP_RTC30_G"]) == ("2020-07-05T10:10:31Z",) * 2
    assert acquisition_range(["S2B_33UVU_20200701_0_L2A"], [early]) == ("2020-07-01T00:00:00Z", "2020-07-01T23:59:59Z")
    assert acquisition_range(optical, []) is None
    assert acquisition_range([], [late]) is None
    assert acquisition_range(["s2.tif"], ["s1.tif"]) is None


@given(
    st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1)), st.timedeltas(timedelta(0), timedelta(days=400)),
    st.integers(-23, 23),
)  # fmt: skip
def test_times_are_read_back(start: datetime, duration: timedelta, hours: int) -> None:
    start = start.replace(tzinfo=UTC)
    shift = timedelta(hours=hours)
    zone = f"{'-' if hours < 0 else '+'}{abs(hours):02d}:00"
    texts = [when.isoformat().replace("+00:00", "Z") for when in (start, start + duration)]
    elsewhere = f"{(start + shift).replace(tzinfo=None).isoformat()}{zone}"
    assert parse_dates("/".join(texts)) == tuple(texts)
    assert parse_dates(texts[0]) == parse_dates(texts[0][:-1]) == parse_dates(elsewhere) == (texts[0], texts[0])


def test_days_are_whole() -> None:
    assert parse_dates(" 2020-07-01 ") == ("2020-07-01T00:00:00Z", "2020-07-01T23:59:59Z")
    assert parse_dates("2020-07-01/2020-07-05") == ("2020-07-01T00:00:00Z", "2020-07-05T23:59:59Z")
    assert parse_dates("2020-07-01/2020-07-01") == parse_dates("2020-07-01")


@pytest.mark.parametrize(
    "text",
    ["", "/", "2020", "2020-07", "20200701", "2020-7-1", "2020-13-01", "2021-02-29", "1 July 2020", "2020-07-01/", "..",
     "/2020-07-01", "2020-07-01/..", "2020-07-01T10", "2020-07-01T25:00:00Z", "2020-07-01/2020-07-02/2020-07-03",
     "2020-07-01T10:10:31ZZ", "2020-07-01 10:10:31", "２０２０-07-01", "0001-01-01T00:00:00+05:00", "now"],
)  # fmt: skip
def test_what_is_no_date_is_refused(text: str) -> None:
    with pytest.raises(OptionsError, match=r"is not a date\. Give a day such as 2020-07-01"):
        parse_dates(text)


@pytest.mark.parametrize("text", ["2020-07-05/2020-07-01", "2020-07-01T10:00:00Z/2020-07-01T11:00:00+02:00"])
def test_an_end_before_the_start_is_refused(text: str) -> None:
    with pytest.raises(OptionsError, match="end before they start"):
        parse_dates(text)
