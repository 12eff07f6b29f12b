"""Small seasons: several dates of one place, with clouds in their SCL."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rasterio

from tests.helpers.scenes import PLACE, write

BANDS, RADAR = ("B02", "B03", "B04", "B08"), ("VV", "VH")
DAYS = ("2021-05-02", "2021-06-01", "2021-06-21", "2021-07-01", "2021-08-20")
SHAPE = 140, 152


def make_season(
    folder: Path, days: tuple[str, ...] = DAYS, shape: tuple[int, int] = SHAPE, orbits: tuple[int, ...] = (22,) * 9
) -> Path:
    """Write dated folders of s2.tif with SCL and s1.tif, and return their folder.

    The second date has the offset of baseline 04.00, the third SAR in dB; each has a cloud of its own and holes.
    """
    for number, day in enumerate(days):
        random = np.random.default_rng([7, number])
        place = folder / f"place_{day}"
        place.mkdir(parents=True)
        optical = random.integers(300, 900, (5, *shape)).astype(np.uint16)
        optical[3] += 1500
        optical[4] = 4
        top, left = shape[0] * number // 9, shape[1] * number // 6
        optical[4, top : top + shape[0] // 2, left : left + shape[1] // 2] = 9
        optical[:4, -5:, :] = 0  # what no date saw
        optical[:4, 3:8, shape[1] // 3 + number : shape[1] // 2] = 0
        if number == 1:
            optical[:4] = np.where(optical[:4] > 0, optical[:4] + 1000, 0)
        power = np.stack([np.full(shape, 0.08), np.full(shape, 0.015)])
        power *= random.gamma(4, 0.25, power.shape)
        power[:, :, -5 - number :] = np.nan
        radar = 10 * np.log10(power) if number == 2 else power
        write(place / "s2.tif", optical, (*BANDS, "SCL"))
        write(place / "s1.tif", radar.astype(np.float32), RADAR, nodata=None)
        with rasterio.open(place / "s2.tif", "r+") as file:
            file.update_tags(PROCESSING_BASELINE="04.00" if number == 1 else "03.00")
        with rasterio.open(place / "s1.tif", "r+") as file:
            file.update_tags(RELATIVE_ORBIT=str(orbits[number]), ORBIT_STATE="ascending")
    return folder


def write_season(path: Path, rows: list[tuple[str, str, str]], columns: str = "date,optical,sar") -> Path:
    """Write a table."""
    lines = [columns, *(",".join(row) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def table_of(folder: Path, days: tuple[str, ...] = DAYS) -> Path:
    """Write the table of a folder of `make_season`, the last date first."""
    rows = [(day, f"place_{day}/s2.tif", f"place_{day}/s1.tif") for day in reversed(days)]
    return write_season(folder / "season.csv", rows)


__all__ = ["BANDS", "DAYS", "PLACE", "RADAR", "SHAPE", "make_season", "table_of", "write_season"]
