"""Scenes of one sensor: which sensor is absent, and the options that need it."""

from __future__ import annotations

from dataclasses import replace

from refnet_cli.errors import OptionsError
from refnet_cli.products import SENSOR_NAMES, Modality
from refnet_cli.scene.inputs import Paths
from refnet_cli.scene.options import SceneOptions

_OPTIONS: dict[Modality, tuple[str, ...]] = {
    "optical": ("optical_bands", "optical_offset", "optical_scale", "mask_clouds"),
    "sar": ("sar_bands", "sar_scale"),
}


def absent_sensor(optical: Paths | None, sar: Paths | None) -> Modality | None:
    """Return the sensor that no files are given of; None if there are files of both.

    Raises
    ------
    OptionsError
        If no files are given at all.
    """
    if optical is None and sar is None:
        raise OptionsError("Neither optical nor SAR files are given: give --optical, --sar or both.")
    return "optical" if optical is None else "sar" if sar is None else None


def without_absent(options: SceneOptions, absent: Modality | None) -> SceneOptions:
    """Return the options for a scene that lacks a sensor.

    What ``missing`` says of pixels that one sensor alone saw has no meaning there, nor has ``coreg="check"``.

    Raises
    ------
    OptionsError
        If an option needs the absent sensor.
    """
    if absent is None:
        return options
    what = SENSOR_NAMES[absent]
    values = {name: getattr(options, name) for name in _OPTIONS[absent]}
    given = [f"--{name.replace('_', '-')}" for name, value in values.items() if not (value is None or value is False)]
    if given:
        raise OptionsError(
            f"{' and '.join(given)} {'needs' if len(given) == 1 else 'need'} {what} files. Give them with --{absent}, "
            f"or remove {' and '.join(given)}."
        )
    if options.coreg in ("auto", "require"):
        raise OptionsError(
            f"--coreg {options.coreg} compares SAR with the optical image, but no {what} file is given: give one with "
            f"--{absent}, or leave --coreg out."
        )
    if options.extent == "intersection":
        raise OptionsError(
            f"--extent intersection needs optical and SAR files, but no {what} file is given: give one with "
            f"--{absent}, or limit the map with --bounds."
        )
    return replace(options.scene, missing="nodata", coreg="off")
