"""What there is in ``../shared/data``: real scenes, which are not part of the project."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

ALL = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
PLACES = ("282D_485L_3_3", "38D_378R_2_3", "433D_629L_3_1", "609U_541L_3_0", "637U_59R_1_3")
# Level 1C of 282D, 433D and 609U holds the offset: the darkest pixels of the cirrus band, which sees next to nothing of
# the ground, are 1004, 1011 and 1036; those of 38D and 637U are 54 and 8. Level 2A: the darkest of 433D is 969 (B07)
# and nine of its bands begin between 1031 and 1170; 282D and 637U have zeros and ones, 38D 257, 609U (snow) 108.
SHIFTED = {"S2L2A": ("433D_629L_3_1",), "S2L1C": ("282D_485L_3_3", "433D_629L_3_1", "609U_541L_3_0")}
EARTHNET = {
    "S2A_MSIL2A_20170613T101031_87_48": "S1A_IW_GRDH_1SDV_20170613T165043_33UUP_87_48",
    "S2A_MSIL2A_20170617T113321_36_85": "S1A_IW_GRDH_1SDV_20170617T064724_29UPU_36_85",
    "S2A_MSIL2A_20170617T113321_4_55": "S1A_IW_GRDH_1SDV_20170617T064724_29UPU_4_55",
    "S2A_MSIL2A_20171221T112501_56_35": "S1A_IW_GRDH_1SDV_20171221T064238_29SND_56_35",
    "S2B_MSIL2A_20170924T93020_69_24": "S1A_IW_GRDH_1SDV_20170925T043256_35VPK_69_24",
    "S2B_MSIL2A_20180204T94161_57_38": "S1A_IW_GRDH_1SDV_20180204T043253_35VPK_57_38",
}
SSL4EO = {
    ("s2a", "20200604T054639_20200604T054831_T43RCP"): "S1A_IW_GRDH_1SDV_20200607T010800_20200607T010825_032904",
    ("s2a", "20200813T054639_20200813T054952_T43RCP"): "S1A_IW_GRDH_1SDV_20200903T131212_20200903T131237_034195",
    ("s2c", "20200604T054639_20200604T054831_T43RCP"): "S1A_IW_GRDH_1SDV_20200607T010800_20200607T010825_032904",
    ("s2c", "20200823T054639_20200823T055618_T43RCP"): "S1A_IW_GRDH_1SDV_20200903T131212_20200903T131237_034195",
}


def each_source(simulated: Iterable[Any], real: Iterable[Any], *marks: pytest.MarkDecorator) -> list[Any]:
    """Cases for the fixture ``data``: some with simulated files, and some with real ones, which may be marked.

    A case is a tuple of the test's other arguments, or the only one.
    """

    def cases(source: str, given: Iterable[Any], marks: tuple[pytest.MarkDecorator, ...] = ()) -> list[Any]:
        words = [case if isinstance(case, tuple) else (case,) for case in given]
        return [pytest.param(source, *case, id="-".join(map(str, (source, *case))), marks=marks) for case in words]

    return cases("simulated", simulated) + cases("real", real, marks)
