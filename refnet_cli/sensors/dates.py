"""Acquisition times: read from file names or parsed from an option."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime, time

from refnet_cli.errors import OptionsError
from refnet_cli.sensors import SENSORS

_FORMATS = {8: "%Y%m%d", 14: "%Y%jT%H%M%S", 15: "%Y%m%dT%H%M%S"}
_DATE = re.compile(r"\d{4}-\d\d-\d\d(T\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)?)?", re.ASCII)


def acquisition_time(name: str) -> str | None:
    """Read a scene's acquisition time from the name of its file or folder.

    Parameters
    ----------
    name : str
        Name without parent folders.

    Returns
    -------
    str or None
        Start of the acquisition in ISO 8601, UTC; only the day if the name has no time. None if the name does not
        follow a sensor's naming convention or the date is invalid.

    Examples
    --------
    >>> acquisition_time("S2A_MSIL2A_20200701T101031_N0214_R022_T32TQM_20200701T130000.SAFE")
    '2020-07-01T10:10:31Z'
    >>> acquisition_time("T32TQM_20200701T101031_B02_10m.jp2")
    '2020-07-01T10:10:31Z'
    >>> acquisition_time("HLS.S30.T33UVU.2020183T101031.v2.0.B02.tif")
    '2020-07-01T10:10:31Z'
    >>> acquisition_time("S2B_33UVU_20200701_0_L2A")
    '2020-07-01'
    >>> acquisition_time("S1A_IW_GRDH_1SDV_20200703T050912_20200703T050937_033282_03DB2A_1234.SAFE")
    '2020-07-03T05:09:12Z'
    >>> acquisition_time("s1a-iw-grd-vv-20200703t050912-20200703t050937-033282-03db2a-001.tiff")
    '2020-07-03T05:09:12Z'
    >>> acquisition_time("S1A_IW_20200703T050912_DVP_RTC30_G_gpuned_1234_VV.tif")
    '2020-07-03T05:09:12Z'
    >>> acquisition_time("scene_20200701.tif"), acquisition_time("S2B_33UVU_20200231_0_L2A")
    (None, None)
    """
    patterns = (pattern for sensor in SENSORS.values() for pattern in sensor.dates)
    found = next((match[1] for pattern in patterns if (match := re.search(pattern, name.upper(), re.ASCII))), None)
    if found is None:
        return None
    pattern = _FORMATS[len(found)]
    try:
        when = datetime.strptime(found, pattern).replace(tzinfo=UTC)
    except ValueError:
        return None
    if when.strftime(pattern) != found:  # strptime reads day 366 of a common year as 1 January
        return None
    return when.date().isoformat() if len(found) == 8 else _text(when)


def acquisition_range(*sensors: Iterable[str]) -> tuple[str, str] | None:
    """Return the time range in which the scenes of a map were acquired, according to their file names.

    Parameters
    ----------
    *sensors : iterable of str
        File or folder names of each sensor that has files, as for `acquisition_time`.

    Returns
    -------
    tuple of (str, str) or None
        The earliest and latest acquisition of all sensors, in ISO 8601, UTC. A day without a time counts from its first
        to its last second. None if no name of one of the sensors has a date.

    Examples
    --------
    >>> sar = ["S1A_IW_20200630T050912_DVP_RTC30_G_gpuned_1234_VV.tif", "dem.tif"]
    >>> acquisition_range(["S2B_33UVU_20200701_0_L2A"], sar)
    ('2020-06-30T05:09:12Z', '2020-07-01T23:59:59Z')
    >>> acquisition_range(["S2B_33UVU_20200701_0_L2A"], ["s1.tif"]) is None
    True
    """
    spans = []
    for names in sensors:
        found = [_span(when) for name in names if (when := acquisition_time(name))]
        if not found:
            return None
        spans += found
    return _text(min(start for start, _ in spans)), _text(max(end for _, end in spans))


def parse_dates(text: str) -> tuple[str, str]:
    """Parse the acquisition dates that a user gives.

    Parameters
    ----------
    text : str
        A day, a time, or two of them separated by ``/``. Times without a time zone are UTC.

    Returns
    -------
    tuple of (str, str)
        Start and end in ISO 8601, UTC. A day lasts from its first to its last second.

    Raises
    ------
    OptionsError
        If the text is not a date or ends before it starts.

    Examples
    --------
    >>> parse_dates("2020-07-01")
    ('2020-07-01T00:00:00Z', '2020-07-01T23:59:59Z')
    >>> parse_dates("2020-07-01T12:10:31+02:00")
    ('2020-07-01T10:10:31Z', '2020-07-01T10:10:31Z')
    >>> parse_dates("2020-07-01/2020-07-05T05:09:12Z")
    ('2020-07-01T00:00:00Z', '2020-07-05T05:09:12Z')
    """
    parts = text.strip().split("/")
    try:
        spans = [_span(part) for part in parts]
    except (ValueError, OverflowError):
        spans = []
    if not 1 <= len(spans) <= 2:
        raise OptionsError(
            f"{text!r} is not a date. Give a day such as 2020-07-01, a time such as 2020-07-01T10:10:31Z, or two of "
            "them separated by /."
        )
    start, end = spans[0][0], spans[-1][1]
    if start > end:
        raise OptionsError(f"The dates {text!r} end before they start. Give the earlier one first.")
    return _text(start), _text(end)


def _span(text: str) -> tuple[datetime, datetime]:
    if not _DATE.fullmatch(text):
        raise ValueError(f"{text!r} is not a date.")
    start = datetime.fromisoformat(text)
    start = start.replace(tzinfo=UTC) if start.tzinfo is None else start.astimezone(UTC)
    return start, start if "T" in text else datetime.combine(start, time(23, 59, 59), UTC)


def _text(when: datetime) -> str:
    return when.isoformat().replace("+00:00", "Z")
