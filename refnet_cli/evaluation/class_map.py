"""Read the grid and the class scheme of a class map."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from odc.geo.geobox import GeoBox
from rasterio.enums import ColorInterp

from refnet_cli.classes.codes import tagged_classes
from refnet_cli.classes.scheme_files import find_scheme
from refnet_cli.classes.schemes import SCHEMES, ClassScheme, rename_old
from refnet_cli.errors import InputError, OptionsError, WeightsError
from refnet_cli.raster.raster import Raster, north_up_grid


def describe_map(path: str | Path, what: str = "map") -> tuple[GeoBox, ClassScheme | None]:
    """Read the grid of a class map, and its class scheme as `tagged_scheme` does.

    Raises
    ------
    InputMissingError, InputError
        If the file is unreadable or not usable; the message calls it ``what``.
    """
    raster = Raster(path, what)
    with raster.dataset:
        return north_up_grid(raster), tagged_scheme(raster)


def tagged_scheme(raster: Raster) -> ClassScheme | None:
    """Return a class map's scheme from the tags and the colour table; None without tags.

    Without a colour table all classes are black. The scheme of a map by refnet 0.1 gets its current name, see
    `rename_old`.

    Raises
    ------
    InputError
        If the tags are no valid scheme.
    """
    dataset = raster.dataset
    tags = dataset.tags(1)
    names = tagged_classes(tags)
    if "CLASS_SCHEME" not in tags or not names:
        return None
    coloured = dataset.colorinterp[0] == ColorInterp.palette
    colours = dataset.colormap(1) if coloured else dict.fromkeys(names, (0, 0, 0, 255))
    codes = sorted(names)
    try:
        scheme = ClassScheme(
            tags["CLASS_SCHEME"], tuple(codes), tuple(names[code] for code in codes),
            tuple((colours[code][0], colours[code][1], colours[code][2]) for code in codes),
        )  # fmt: skip
        return rename_old(scheme)
    except (WeightsError, KeyError) as error:
        raise InputError(f"The tags of the map {raster.path} are not a valid class scheme: {error}") from error


def choose_scheme(
    map_path: str | Path, tagged: ClassScheme | None, asked: str | None, option: str = "--scheme"
) -> tuple[ClassScheme, Mapping[str, str]]:
    """Return a map's class scheme, as given or from the tags, and the label codes to ignore.

    Parameters
    ----------
    map_path : str or Path
    tagged : ClassScheme or None
        From the map's tags.
    asked : str or None
        Name or TOML file, see `find_scheme`.
    option : str
        The option that gives it, for messages.

    Raises
    ------
    OptionsError
        If there is neither, or one contradicts the other.
    """
    scheme, ignored = (tagged, {}) if asked is None else find_scheme(str(asked))
    if scheme is None:
        raise OptionsError(
            f"{map_path} has no tags with its class scheme. Give it with {option}: {', '.join(SCHEMES)}, or your own "
            ".toml file."
        )
    if tagged is not None:
        _refuse_contradiction(map_path, tagged, scheme, option)
    return scheme, ignored


def _refuse_contradiction(map_path: str | Path, tagged: ClassScheme, asked: ClassScheme, option: str) -> None:
    """Refuse a scheme with other names for the map's codes than the map's tags."""
    names = asked.by_code
    other = [code for code, name in tagged.by_code.items() if names.get(code, "").casefold() != name.casefold()]
    if other:
        listed = ", ".join(f"{code} {tagged.by_code[code]}" for code in other)
        old = ", which refnet 0.1 called 'esri-io'" if tagged.name == "terramesh" else ""
        raise OptionsError(
            f"The tags of {map_path} state the class scheme {tagged.name!r}{old}, with {listed}. Scheme "
            f"{asked.name!r} has other names for these codes. Remove {option}: it is only for maps without these tags."
        )
