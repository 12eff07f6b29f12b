"""When scenes were acquired: from the names of their files, or from an option's text."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime, time

from refnet_cli.errors import OptionsError
from refnet_cli.sensors import SENSORS

_FORMATS = {8: "%Y%m%d", 14: "%Y%jT%H%M%S", 15: "%Y%m%dT%H%M%S"}
_DATE = re.compile(r"\d{4}-\d\d-\d\d(T\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)?)?", re.ASCII)


def acquisition_of(name: str) -> str | None:
    """Find when a scene was acquired in the name of its file or folder.

    Parameters
    ----------
    name : str
        Without folders.

    Returns
    -------
    str or None
        The acquisition's beginning in ISO 8601, UTC; only the day where the name tells no more. None where the name
        is none that a sensor's files have, or its date is impossible.

    Examples
    --------
    >>> acquisition_of("S2A_MSIL2A_20200701T101031_N0214_R022_T32TQM_20200701T130000.SAFE")
    '2020-07-01T10:10:31Z'
    >>> acquisition_of("T32TQM_20200701T101031_B02_10m.jp2")
    '2020-07-01T10:10:31Z'
    >>> acquisition_of("HLS.S30.T33UVU.2020183T101031.v2.0.B02.tif")
    '2020-07-01T10:10:31Z'
    >>> acquisition_of("S2B_33UVU_20200701_0_L2A")
    '2020-07-01'
    >>> acquisition_of("S1A_IW_GRDH_1SDV_20200703T050912_20200703T050937_033282_03DB2A_1234.SAFE")
    '2020-07-03T05:09:12Z'
    >>> acquisition_of("s1a-iw-grd-vv-20200703t050912-20200703t050937-033282-03db2a-001.tiff")
    '2020-07-03T05:09:12Z'
    >>> acquisition_of("S1A_IW_20200703T050912_DVP_RTC30_G_gpuned_1234_VV.tif")
    '2020-07-03T05:09:12Z'
    >>> acquisition_of("scene_20200701.tif"), acquisition_of("S2B_33UVU_20200231_0_L2A")
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
    if when.strftime(pattern) != found:  # the 366th day of 365 was taken for the next year's first
        return None
    return when.date().isoformat() if len(found) == 8 else _text(when)


def acquired(*sensors: Iterable[str]) -> tuple[str, str] | None:
    """Find when the scenes of a map were acquired in the names of their files.

    Parameters
    ----------
    *sensors : iterable of str
        Names of the files or folders of each sensor that has some, as `acquisition_of` takes them.

    Returns
    -------
    tuple of (str, str) or None
        The earliest and the latest acquisition of all sensors, in ISO 8601, UTC; a day of which no time is known
        counts from its beginning to its end. None where no name of one sensor tells.

    Examples
    --------
    >>> acquired(["S2B_33UVU_20200701_0_L2A"], ["S1A_IW_20200630T050912_DVP_RTC30_G_gpuned_1234_VV.tif", "dem.tif"])
    ('2020-06-30T05:09:12Z', '2020-07-01T23:59:59Z')
    >>> acquired(["S2B_33UVU_20200701_0_L2A"], ["s1.tif"]) is None
    True
    """
    spans = []
    for names in sensors:
        found = [_span(when) for name in names if (when := acquisition_of(name))]
        if not found:
            return None
        spans += found
    return _text(min(start for start, _ in spans)), _text(max(end for _, end in spans))


def read_dates(text: str) -> tuple[str, str]:
    """Read when scenes were acquired, as a user gives it.

    Parameters
    ----------
    text : str
        A day, a time, or two of them with ``/`` between them; in UTC, unless a time tells another zone.

    Returns
    -------
    tuple of (str, str)
        Start and end in ISO 8601, UTC; of a day, its beginning and its last second.

    Raises
    ------
    OptionsError
        If it is none of these, or ends before it starts.

    Examples
    --------
    >>> read_dates("2020-07-01")
    ('2020-07-01T00:00:00Z', '2020-07-01T23:59:59Z')
    >>> read_dates("2020-07-01T12:10:31+02:00")
    ('2020-07-01T10:10:31Z', '2020-07-01T10:10:31Z')
    >>> read_dates("2020-07-01/2020-07-05T05:09:12Z")
    ('2020-07-01T00:00:00Z', '2020-07-05T05:09:12Z')
    """
    parts = text.strip().split("/")
    try:
        spans = [_span(part) for part in parts]
    except (ValueError, OverflowError):
        spans = []
    if not 1 <= len(spans) <= 2:
        raise OptionsError(
            f"{text!r} is no date: give a day as 2020-07-01, a time as 2020-07-01T10:10:31Z, or two of them with "
            "/ between them."
        )
    start, end = spans[0][0], spans[-1][1]
    if start > end:
        raise OptionsError(f"The dates {text!r} end before they start: give the earlier one first.")
    return _text(start), _text(end)


def _span(text: str) -> tuple[datetime, datetime]:
    if not _DATE.fullmatch(text):
        raise ValueError(f"{text!r} is no date.")
    start = datetime.fromisoformat(text)
    start = start.replace(tzinfo=UTC) if start.tzinfo is None else start.astimezone(UTC)
    return start, start if "T" in text else datetime.combine(start, time(23, 59, 59), UTC)


def _text(when: datetime) -> str:
    return when.isoformat().replace("+00:00", "Z")
