"""A compression that this GDAL lacks."""

from __future__ import annotations

from pathlib import Path

import pytest

from refnet_cli.errors import InputError
from refnet_cli.prediction.inspection import inspect


def test_a_missing_codec_is_no_damage(shared: Path) -> None:
    path = shared / "cases" / "remedy-that-does-not-help" / "s2_jxl.tif"
    try:
        inspect(path, None)
    except InputError as error:
        message = str(error)
    else:
        pytest.skip("this GDAL reads JPEG XL")
    assert str(path) in message
    assert "JXL" in message
    assert "gdal_translate -co COMPRESS=DEFLATE" in message
    assert "Repair or re-download" not in message
