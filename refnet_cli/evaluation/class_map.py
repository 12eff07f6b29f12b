"""Read the grid and the class scheme of a class map."""

from __future__ import annotations

from pathlib import Path

from odc.geo.geobox import GeoBox
from rasterio.enums import ColorInterp

from refnet_cli.classes.codes import tagged_classes
from refnet_cli.classes.schemes import ClassScheme, rename_old
from refnet_cli.errors import InputError, WeightsError
from refnet_cli.raster.raster import Raster, north_up_grid


def describe_map(path: str | Path) -> tuple[GeoBox, ClassScheme | None]:
    """Read the grid of a class map, and its class scheme from the tags and the colour table; None without tags.

    Without a colour table all classes are black. The scheme of a map by refnet 0.1 gets its current name, see
    `rename_old`.

    Raises
    ------
    InputMissingError, InputError
        If the file is unreadable or not usable.
    """
    raster = Raster(path, "map")
    with raster.dataset as dataset:
        grid, tags = north_up_grid(raster), dataset.tags(1)
        names = tagged_classes(tags)
        if "CLASS_SCHEME" not in tags or not names:
            return grid, None
        coloured = dataset.colorinterp[0] == ColorInterp.palette
        colours = dataset.colormap(1) if coloured else dict.fromkeys(names, (0, 0, 0, 255))
    codes = sorted(names)
    try:
        scheme = ClassScheme(
            tags["CLASS_SCHEME"], tuple(codes), tuple(names[code] for code in codes),
            tuple((colours[code][0], colours[code][1], colours[code][2]) for code in codes),
        )  # fmt: skip
        return grid, rename_old(scheme)
    except (WeightsError, KeyError) as error:
        raise InputError(f"The tags of the map {path} are not a valid class scheme: {error}") from error
