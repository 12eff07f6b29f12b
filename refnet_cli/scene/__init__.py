"""Scene pairs: opens their files, decides and records what they are, owns the grid, and reads windows of it."""

from refnet_cli.raster.georeference import crs_name, pixel_metres, to_degrees
from refnet_cli.raster.raster import BLOCK, Raster, north_up_grid
from refnet_cli.raster.warp import Alignment
from refnet_cli.scene.absent import absent_sensor, without_absent
from refnet_cli.scene.exchanged import advising_exchange, refuse_exchanged
from refnet_cli.scene.grid import GridNeededError, choose_zone, crop, result_grid, warn_of_zone
from refnet_cli.scene.inputs import Layer, find_files
from refnet_cli.scene.optical import OpticalReader
from refnet_cli.scene.options import Coregistration, Paths, SceneOptions
from refnet_cli.scene.pair import Patch, ScenePair
from refnet_cli.scene.resample import describe_resampling, make_parts
from refnet_cli.scene.sar import SarReader
from refnet_cli.scene.source import Source
from refnet_cli.sensors.band_names import choose_bands
from refnet_cli.sensors.decisions import Decision, refuse_guesses
from refnet_cli.sensors.sentinel2 import EDGES

__all__ = [
    "BLOCK",
    "EDGES",
    "Alignment",
    "Coregistration",
    "Decision",
    "GridNeededError",
    "Layer",
    "OpticalReader",
    "Patch",
    "Paths",
    "Raster",
    "SarReader",
    "SceneOptions",
    "ScenePair",
    "Source",
    "absent_sensor",
    "advising_exchange",
    "choose_bands",
    "choose_zone",
    "crop",
    "crs_name",
    "describe_resampling",
    "find_files",
    "make_parts",
    "north_up_grid",
    "pixel_metres",
    "refuse_exchanged",
    "refuse_guesses",
    "result_grid",
    "to_degrees",
    "warn_of_zone",
    "without_absent",
]
