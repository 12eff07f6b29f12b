"""Single-sensor scenes: the absent sensor, and the options that need it."""

from __future__ import annotations

from dataclasses import replace

from refnet_cli.errors import OptionsError
from refnet_cli.scene.options import SceneOptions
from refnet_cli.sensors import SENSORS
from refnet_cli.sensors.sensor import Modality

_OPTIONS: dict[Modality, tuple[str, ...]] = {
    "optical": (
        "optical_bands", "optical_offset", "optical_scale", "mask_clouds", "cloud_mask", "cloud_classes",
        "cloud_buffer",
    ),
    "sar": ("sar_bands", "sar_scale"),
}  # fmt: skip
_OF_BOTH = ("coreg", "extent")


def options_that_need(sensor: Modality) -> tuple[str, ...]:
    """Return the names of the options that mean nothing for a scene without files of a sensor."""
    return _OPTIONS[sensor] + _OF_BOTH


def absent_sensor(optical: object, sar: object) -> Modality | None:
    """Return the sensor without files; None if both have files.

    Raises
    ------
    OptionsError
        If neither sensor has files.
    """
    if optical is None and sar is None:
        raise OptionsError("There are neither optical nor SAR files. Pass --optical, --sar or both.")
    return "optical" if optical is None else "sar" if sar is None else None


def single_sensor_options(options: SceneOptions, absent: Modality | None) -> SceneOptions:
    """Return the options for a scene without one of the sensors.

    ``missing`` and ``coreg="check"`` have no effect in such a scene, so they are reset.

    Raises
    ------
    OptionsError
        If an option needs the absent sensor.
    """
    if absent is None:
        return options
    what = SENSORS[absent].name
    values = {name: getattr(options, name) for name in _OPTIONS[absent]}
    given = [f"--{name.replace('_', '-')}" for name, value in values.items() if not (value is None or value is False)]
    if given:
        raise OptionsError(
            f"{' and '.join(given)} {'needs' if len(given) == 1 else 'need'} {what} files. Pass them with --{absent}, "
            f"or remove {' and '.join(given)}."
        )
    if options.coreg in ("auto", "require"):
        raise OptionsError(
            f"--coreg {options.coreg} compares SAR with the optical image, but there is no {what} file. Pass one with "
            f"--{absent}, or omit --coreg."
        )
    if options.extent == "intersection":
        raise OptionsError(
            f"--extent intersection needs optical and SAR files, but there is no {what} file. Pass one with "
            f"--{absent}, or limit the map with --bounds."
        )
    return replace(options.scene, missing="nodata", coreg="off")
