"""STAC Items and their files in the shape of the public collections, whose pixels say where they are.

Ids, asset keys, properties and nodata tags are those of Planetary Computer (sentinel-2-l2a, sentinel-1-rtc,
esa-worldcover, io-lulc-annual-v02) and of Earth Search (sentinel-2-c1-l2a). The images are small parts of the real
tiles, on the real tiles' lattice. A value depends on the item, the band, the column and the row, so it is known for
each place without reading a file: `Optical.reflectance`, `Sar.power` and `Labels.codes` are what tests compare with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import shapely
from numpy.typing import NDArray
from pyproj import Transformer
from rasterio.transform import Affine
from shapely.affinity import translate
from shapely.geometry import MultiPolygon, Polygon, box, mapping

Bounds = tuple[float, float, float, float]
"""West, south, east and north."""
Numbers = NDArray[np.float64]
Json = dict[str, Any]

PIXELS = {
    "B01": 60, "B02": 10, "B03": 10, "B04": 10, "B05": 20, "B06": 20, "B07": 20, "B08": 10, "B8A": 20, "B09": 60,
    "B11": 20, "B12": 20,
}  # fmt: skip
"""Metres of a pixel of each band of level 2A."""
BANDS = tuple(PIXELS)
COMMON = {
    "B01": "coastal", "B02": "blue", "B03": "green", "B04": "red", "B05": "rededge1", "B06": "rededge2",
    "B07": "rededge3", "B08": "nir", "B8A": "nir08", "B09": "nir09", "B11": "swir16", "B12": "swir22",
}  # fmt: skip
"""Asset keys of Earth Search."""
CLEAR, CLOUD, SHADOW, CIRRUS = 4, 9, 3, 10
COG = "image/tiff; application=geotiff; profile=cloud-optimized"
WORLDCOVER_TO_ESRI = {0: 0, 10: 2, 20: 11, 30: 11, 40: 5, 50: 7, 60: 8, 70: 9, 80: 1, 90: 4, 95: 4, 100: 11}
WORLDCOVER_PIXEL = 1 / 12_000
EXTENSIONS = [f"https://stac-extensions.github.io/{name}/schema.json" for name in ("eo/v1.0.0", "projection/v1.0.0")]


def lonlat(bounds: Bounds, epsg: int, shrink: float = 0.0, points: int = 8) -> Polygon | MultiPolygon:
    """Polygon in longitude and latitude around bounds of a CRS, with points on its edges; cut at 180 degrees."""
    west, south, east, north = bounds
    ring = box(west + shrink, south + shrink, east - shrink, north - shrink).exterior
    dense = Polygon([ring.interpolate(share, normalized=True) for share in np.arange(4 * points) / (4 * points)])
    to_degrees = Transformer.from_crs(epsg, 4326, always_xy=True)
    around = shapely.transform(dense, lambda points: np.column_stack(to_degrees.transform(*points.T)))
    if around.bounds[2] - around.bounds[0] < 180:
        return around
    east_of_0 = shapely.transform(around, lambda points: points + (points[:, :1] < 0) * [360.0, 0.0])
    beyond = translate(east_of_0.intersection(box(180, -90, 360, 90)), -360)
    return MultiPolygon([east_of_0.intersection(box(0, -90, 180, 90)), beyond])


def corner(west: float, north: float, pixel: float) -> Affine:
    """Place of an image with square pixels."""
    return Affine(pixel, 0, west, 0, -pixel, north)


def write_cog(path: Path, values: NDArray[np.generic], place: Affine, epsg: int, nodata: float | None) -> Path:
    """Write one band as a tiled GeoTIFF whose directory stands at its beginning.

    It is not compressed, since planes would become so small that one request reads a whole file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path, "w", driver="GTiff", count=1, height=values.shape[0], width=values.shape[1], dtype=values.dtype,
        crs=f"EPSG:{epsg}", transform=place, nodata=nodata, tiled=True, blockxsize=128, blockysize=128,
    ) as file:  # fmt: skip
        file.write(values, 1)
    return path


def inside(areas: Iterable[Bounds], x: Numbers, y: Numbers) -> NDArray[np.bool_]:
    """Whether places lie in any of some rectangles."""
    found = np.zeros(np.broadcast(x, y).shape, bool)
    for west, south, east, north in areas:
        found |= (x >= west) & (x < east) & (y >= south) & (y < north)
    return found


@dataclass(frozen=True)
class _Piece:
    """Part of a real tile or scene."""

    bounds: Bounds
    """In metres, on multiples of 60 m."""
    epsg: int
    number: int
    """What sets its values apart from those of other items."""
    folder: Path
    url: str

    @property
    def _geometry(self) -> Json:
        around = lonlat(self.bounds, self.epsg)
        return {"geometry": mapping(around), "bbox": list(around.bounds)}

    def centres(self, pixel: float) -> tuple[Numbers, Numbers]:
        """Coordinates of the pixels' centres, as a row and a column."""
        west, south, east, north = self.bounds
        return np.arange(west + pixel / 2, east, pixel)[None], np.arange(north - pixel / 2, south, -pixel)[:, None]

    def projected(self, pixel: float) -> Json:
        """What an asset says of its grid."""
        west, south, east, north = self.bounds
        return {
            "proj:bbox": list(self.bounds),
            "proj:shape": [round((north - south) / pixel), round((east - west) / pixel)],
            "proj:transform": [pixel, 0.0, west, 0.0, -pixel, north],
        }

    def write(self, path: str, values: NDArray[np.generic], pixel: float, nodata: float | None) -> str:
        """Write a file and return its URL."""
        place = corner(self.bounds[0], self.bounds[3], pixel)
        write_cog(self.folder / path, values, place, self.epsg, nodata)
        return f"{self.url}/{path}"


@dataclass(frozen=True)
class Optical(_Piece):
    """A Sentinel-2 acquisition of a tile, as one processing baseline made it."""

    tile: str = "32UPU"
    time: datetime = datetime(2021, 6, 15, 10, 20, 21)
    baseline: str = "03.00"
    clouds: tuple[Bounds, ...] = ()
    shadows: tuple[Bounds, ...] = ()
    swath: Bounds | None = None
    """Where there are measurements; None for everywhere."""
    dark: tuple[Bounds, ...] = ()
    """Where stored values are at and below the offset."""
    cloud_cover: float | None = None
    platform: str = "2A"
    orbit: int = 65
    processed: str = "20210616T120000"

    @property
    def offset(self) -> int:
        """What was added to the stored values."""
        return 1000 if self.baseline >= "04.00" else 0

    @property
    def id(self) -> str:
        """Id on Planetary Computer, which leaves the baseline out."""
        return f"S{self.platform}_MSIL2A_{self.time:%Y%m%dT%H%M%S}_R{self.orbit:03d}_T{self.tile}_{self.processed}"

    @property
    def product(self) -> str:
        """ESA's name of the product."""
        number = self.baseline.replace(".", "")
        return (
            f"S{self.platform}_MSIL2A_{self.time:%Y%m%dT%H%M%S}_N{number}_R{self.orbit:03d}_T{self.tile}"
            f"_{self.processed}.SAFE"
        )

    def _plane(self, band: str, x: Numbers, y: Numbers) -> Numbers:
        """Values of a plane over the ground, which interpolation between pixels keeps, in whole numbers."""
        pixel, number = PIXELS[band], BANDS.index(band)
        column = np.floor((x - self.bounds[0]) / pixel) * (pixel // 10)
        row = np.floor((self.bounds[3] - y) / pixel) * (pixel // 10)
        return 150 + 37 * number + 350 * self.number + (2 + number % 3) * column + (2 + number // 3 % 3) * row

    def stored(self, band: str, x: Numbers, y: Numbers) -> Numbers:
        """Stored values at places; 0 for no data."""
        values = self._plane(band, x, y) + self.offset
        dark = inside(self.dark, x, y)
        values = np.where(dark, self.offset - 6 + np.floor(x / 60) % 8 if self.offset else 1, values)
        return np.where(self.valid(x, y), values, 0)

    def reflectance(self, band: str, x: Numbers, y: Numbers) -> Numbers:
        """What a fetched file must hold: without the offset, at least 1, and 0 for no data."""
        stored = self.stored(band, x, y)
        return np.where(stored == 0, 0, np.maximum(stored - self.offset, 1))

    def valid(self, x: Numbers, y: Numbers) -> NDArray[np.bool_]:
        """Whether there are measurements at places."""
        area = self.bounds if self.swath is None else self.swath
        return inside([self.bounds], x, y) & inside([area], x, y)

    def scl(self, x: Numbers, y: Numbers) -> NDArray[np.uint8]:
        """Scene classification at places."""
        x, y = np.floor(x / 20) * 20 + 10, np.floor(y / 20) * 20 + 10
        classes = np.full(np.broadcast(x, y).shape, CLEAR, np.uint8)
        classes[inside(self.shadows, x, y)] = SHADOW
        classes[inside(self.clouds, x, y)] = CLOUD
        classes[~self.valid(x, y)] = 0
        return classes

    def clear(self, x: Numbers, y: Numbers) -> NDArray[np.bool_]:
        """Whether places are seen without cloud and shadow."""
        return np.isin(self.scl(x, y), [CLEAR])

    def write_band(self, path: str, band: str, nodata: float | None) -> str:
        """Write the file of a band, or SCL, and return its URL."""
        pixel = 20 if band == "SCL" else PIXELS[band]
        x, y = self.centres(pixel)
        values = self.scl(x, y) if band == "SCL" else self.stored(band, x, y).astype(np.uint16)
        return self.write(path, values, pixel, nodata)

    @property
    def cover(self) -> float:
        """Percentage of the tile under clouds; what the catalogue says."""
        if self.cloud_cover is not None:
            return self.cloud_cover
        classes = self.scl(*self.centres(20))
        return round(100 * float((classes == CLOUD).mean()), 6)

    def _properties(self) -> Json:
        orbit, stamp = f"{31_000 + self.time.timetuple().tm_yday:06d}", f"{self.time:%Y%m%dT%H%M%S}"
        maker = f"S{self.platform}_OPER_MSI_L2A"
        return {
            "datetime": f"{self.time:%Y-%m-%dT%H:%M:%S}.024000Z",
            "constellation": "Sentinel 2",
            "instruments": ["msi"],
            "eo:cloud_cover": self.cover,
            "s2:processing_baseline": self.baseline,
            "s2:product_type": "S2MSI2A",
            "s2:datatake_id": f"GS{self.platform}_{stamp}_{orbit}_N{self.baseline}",
            "s2:datatake_type": "INS-NOBS",
            "s2:product_uri": self.product,
            "s2:granule_id": f"{maker}_TL_ESRI_{self.processed}_A{orbit}_T{self.tile}_N{self.baseline}",
            "s2:datastrip_id": f"{maker}_DS_ESRI_{self.processed}_S{stamp}_N{self.baseline}",
            "s2:generation_time": f"{datetime.strptime(self.processed, '%Y%m%dT%H%M%S'):%Y-%m-%dT%H:%M:%S}.000Z",
            "s2:degraded_msi_data_percentage": 0.0,
            "s2:nodata_pixel_percentage": round(100 * float((~self.valid(*self.centres(20))).mean()), 6),
            "s2:high_proba_clouds_percentage": self.cover,
            "s2:mean_solar_zenith": 27.4,
            "s2:mean_solar_azimuth": 152.1,
            "s2:reflectance_conversion_factor": 0.97,
        }

    def planetary_computer(self) -> Json:
        """Write the files and return the Item of ``sentinel-2-l2a``."""
        name, stamp = self.product, f"{self.time:%Y%m%dT%H%M%S}"
        root = f"sentinel2-l2/{self.tile[:2]}/{self.tile[2]}/{self.tile[3:]}/{self.time:%Y/%m/%d}/{name}"
        images = f"{root}/GRANULE/L2A_T{self.tile}_A031234_{stamp}/IMG_DATA"
        assets: Json = {}
        for number, band in enumerate((*BANDS, "SCL")):
            pixel = 20 if band == "SCL" else PIXELS[band]
            # Some of the real files have the tag and some have not.
            nodata = None if (number + self.number) % 2 or band == "SCL" else 0
            href = self.write_band(f"{images}/R{pixel}m/T{self.tile}_{stamp}_{band}_{pixel}m.tif", band, nodata)
            assets[band] = {
                "href": href, "type": COG, "roles": ["data"], "gsd": float(pixel), **self.projected(pixel),
                "title": f"{band} - {pixel}m",
            }  # fmt: skip
            if band != "SCL":
                assets[band]["eo:bands"] = [{"name": band, "common_name": COMMON[band]}]
        for band, pixel in (("AOT", 10), ("WVP", 10), ("visual", 10)):
            href = f"{self.url}/{images}/R{pixel}m/T{self.tile}_{stamp}_{band}_{pixel}m.tif"
            assets[band] = {"href": href, "type": COG, "roles": ["data"], "gsd": float(pixel), **self.projected(pixel)}
        for key, path in (
            ("safe-manifest", "manifest.safe"),
            ("product-metadata", "MTD_MSIL2A.xml"),
            ("granule-metadata", f"GRANULE/L2A_T{self.tile}_A031234_{stamp}/MTD_TL.xml"),
        ):
            assets[key] = {"href": f"{self.url}/{root}/{path}", "type": "application/xml", "roles": ["metadata"]}
        properties = self._properties() | {
            "platform": f"Sentinel-{self.platform}",
            "s2:mgrs_tile": self.tile,
            "sat:orbit_state": "descending",
            "sat:relative_orbit": self.orbit,
            "proj:epsg": self.epsg,
        }
        return item(self.id, "sentinel-2-l2a", properties, assets, self._geometry)

    def earth_search(self) -> Json:
        """Write the files and return the Item of ``sentinel-2-c1-l2a``."""
        name = f"S{self.platform}_T{self.tile}_{self.time:%Y%m%dT%H%M%S}_L2A"
        tile = f"{self.tile[:2]}/{self.tile[2]}/{self.tile[3:]}"
        root = f"sentinel-2-c1-l2a/{tile}/{self.time.year}/{self.time.month}/{name}"
        assets: Json = {}
        for band in (*BANDS, "SCL"):
            pixel = 20 if band == "SCL" else PIXELS[band]
            grid = self.projected(pixel)
            stored = {"nodata": 0, "data_type": "uint8" if band == "SCL" else "uint16", "spatial_resolution": pixel}
            if band != "SCL":
                stored |= {"scale": 0.0001, "offset": -0.1 if self.offset else 0}
            assets[COMMON.get(band, "scl")] = {
                "href": self.write_band(f"{root}/{band}.tif", band, 0), "type": COG, "gsd": pixel,
                "title": f"{band} - {pixel}m", "roles": ["data", "reflectance"] if band != "SCL" else ["data"],
                "proj:shape": grid["proj:shape"], "proj:transform": grid["proj:transform"], "raster:bands": [stored],
                "file:checksum": "1220" + hashlib.sha256(f"{name}{band}".encode()).hexdigest(),
            }  # fmt: skip
        properties = self._properties() | {
            "platform": f"sentinel-{self.platform.lower()}",
            "constellation": "sentinel-2",
            "grid:code": f"MGRS-{self.tile}",
            "mgrs:utm_zone": int(self.tile[:2]),
            "mgrs:latitude_band": self.tile[2],
            "mgrs:grid_square": self.tile[3:],
            "s2:tile_id": f"S{self.platform}_OPER_MSI_L2A_TL_2APS_{self.processed}_T{self.tile}_N{self.baseline}",
            "proj:code": f"EPSG:{self.epsg}",
            "processing:software": {"sentinel-2-c1-l2a-to-stac": "v2024.02.01"},
            "earthsearch:payload_id": f"roda-sentinel-2-c1-l2a/workflow-sentinel-2-c1-l2a-to-stac/{name}",
            "storage:platform": "AWS",
            "storage:requester_pays": False,
            "storage:region": "us-west-2",
        }
        return item(name, "sentinel-2-c1-l2a", properties, assets, self._geometry)


@dataclass(frozen=True)
class Sar(_Piece):
    """A Sentinel-1 scene on Planetary Computer: gamma nought in power, nodata -32768."""

    time: datetime = datetime(2021, 6, 15, 5, 25, 2)
    state: str = "descending"
    orbit: int = 168
    polarisations: tuple[str, ...] = ("VV", "VH")
    platform: str = "1A"
    seen: Bounds | None = None
    """Where there are measurements; None for everywhere."""

    @property
    def id(self) -> str:
        """The Item's id."""
        kind, end = {1: "1SSV", 2: "1SDV"}[len(self.polarisations)], self.time + timedelta(seconds=25)
        # All frames of a pass have the same absolute orbit and datatake.
        passed = 36_000 + int((self.time - datetime(2021, 1, 1)) / timedelta(minutes=98.7))
        return (
            f"S{self.platform}_IW_GRDH_{kind}_{self.time:%Y%m%dT%H%M%S}_{end:%Y%m%dT%H%M%S}_{passed:06d}_"
            f"{passed + 9000:06X}_rtc"
        )

    def power(self, name: str, x: Numbers, y: Numbers) -> NDArray[np.float32]:
        """Gamma nought at places; NaN for no data."""
        column, row = np.floor((x - self.bounds[0]) / 10), np.floor((self.bounds[3] - y) / 10)
        values = 0.02 + 0.03 * self.number + 1e-4 * column + 3e-5 * row
        values = values * {"VV": 1.0, "VH": 0.23}[name]
        area = self.bounds if self.seen is None else self.seen
        seen = inside([self.bounds], x, y) & inside([area], x, y)
        return np.where(seen, values, np.nan).astype(np.float32)

    def write_band(self, path: str, name: str) -> str:
        """Write the file of a polarisation and return its URL."""
        values = self.power(name, *self.centres(10))
        return self.write(path, np.where(np.isnan(values), np.float32(-32768), values), 10, -32768)

    def planetary_computer(self) -> Json:
        """Write the files and return the Item of ``sentinel-1-rtc``."""
        end = self.time + timedelta(seconds=25)
        folder = f"sentinel1-grd-rtc/GRD/{self.time.year}/{self.time.month}/{self.time.day}/IW/DV/{self.id[:-4]}_A30F"
        assets = {}
        for name in self.polarisations:
            key = name.lower()
            assets[key] = {
                "href": self.write_band(f"{folder}/measurement/iw-{key}.rtc.tiff", name), "type": COG,
                "roles": ["data"], "title": f"{name}: terrain-corrected gamma naught values of signal",
                "raster:bands": [{"nodata": -32768, "data_type": "float32", "spatial_resolution": 10.0}],
            }  # fmt: skip
        properties = {
            "datetime": f"{self.time:%Y-%m-%dT%H:%M:%S}.500000Z",
            "start_datetime": f"{self.time:%Y-%m-%dT%H:%M:%S}.000000Z",
            "end_datetime": f"{end:%Y-%m-%dT%H:%M:%S}.000000Z",
            "platform": f"SENTINEL-{self.platform}",
            "constellation": "Sentinel-1",
            "proj:epsg": self.epsg,
            **self.projected(10),
            "sar:instrument_mode": "IW",
            "sar:frequency_band": "C",
            "sar:product_type": "GRD",
            "sar:polarizations": list(self.polarisations),
            "sar:center_frequency": 5.405,
            "sar:looks_range": 5,
            "sar:looks_azimuth": 1,
            "sar:pixel_spacing_range": 10,
            "sar:pixel_spacing_azimuth": 10,
            "sar:resolution_range": 20,
            "sar:resolution_azimuth": 22,
            "sat:orbit_state": self.state,
            "sat:absolute_orbit": int(self.id.split("_")[6]),
            "sat:relative_orbit": self.orbit,
            "sat:platform_international_designator": "2014-016A",
            "s1:orbit_source": "RESORB",
            "s1:datatake_id": str(int(self.id.split("_")[7], 16)),
            "s1:resolution": "high",
            "s1:processing_level": "1",
            "s1:product_timeliness": "Fast-24h",
            "s1:instrument_configuration_ID": "7",
        }
        return item(self.id, "sentinel-1-rtc", properties, assets, self._geometry)


@dataclass(frozen=True)
class Labels:
    """A year's land cover, of WorldCover in degrees or of IO/Esri in metres; its pattern is the ground's."""

    bounds: Bounds
    """In the units of ``epsg``."""
    epsg: int
    year: int
    folder: Path
    url: str
    tile: str
    codes_of: Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.uint8]]
    """Codes at columns and rows of pixels."""

    @property
    def pixel(self) -> float:
        """Size of a pixel in the units of the CRS."""
        return WORLDCOVER_PIXEL if self.epsg == 4326 else 10.0

    def position(self, x: Numbers, y: Numbers) -> tuple[Numbers, Numbers]:
        """Column and row, with their fractions, of coordinates in the file's CRS."""
        return (x - self.bounds[0]) / self.pixel, (self.bounds[3] - y) / self.pixel

    def codes(self, x: Numbers, y: Numbers) -> NDArray[np.uint8]:
        """Codes at coordinates in the file's CRS; 0 outside."""
        column, row = self.position(x, y)
        found = self.codes_of(np.floor(column).astype(int), np.floor(row).astype(int)).astype(np.uint8)
        return np.where(inside([self.bounds], x, y), found, 0).astype(np.uint8)

    def _write(self, path: str) -> tuple[str, list[int], list[float]]:
        west, south, east, north = self.bounds
        shape = [round((north - south) / self.pixel), round((east - west) / self.pixel)]
        values = self.codes_of(np.arange(shape[1])[None], np.arange(shape[0])[:, None]).astype(np.uint8)
        place = corner(west, north, self.pixel)
        write_cog(self.folder / path, np.broadcast_to(values, shape), place, self.epsg, 0)
        return f"{self.url}/{path}", shape, list(place)[:6]

    @property
    def _geometry(self) -> Json:
        around = lonlat(self.bounds, self.epsg)
        return {"geometry": mapping(around), "bbox": list(around.bounds)}

    def worldcover(self) -> Json:
        """Write the file and return the Item of ``esa-worldcover``."""
        version = {2020: "v100", 2021: "v200"}[self.year]
        name = f"ESA_WorldCover_10m_{self.year}_{version}_{self.tile}"
        href, shape, place = self._write(f"esa-worldcover/{version}/{self.year}/map/{name}_Map.tif")
        assets = {
            "map": {
                "href": href, "type": COG, "roles": ["data"], "title": "Land Cover Classes", "proj:shape": shape,
                "proj:transform": place,
                "raster:bands": [{"nodata": 0, "data_type": "uint8", "spatial_resolution": 10}],
            },
            "input_quality": {"href": href.replace("_Map", "_InputQuality"), "type": COG, "roles": ["metadata"]},
        }  # fmt: skip
        properties = {
            "datetime": None,
            "start_datetime": f"{self.year}-01-01T00:00:00Z",
            "end_datetime": f"{self.year}-12-31T23:59:59Z",
            "created": f"{self.year + 1}-10-28T00:00:00Z",
            "mission": "sentinel-1, sentinel-2",
            "platform": "sentinel-1a, sentinel-1b, sentinel-2a, sentinel-2b",
            "instruments": ["c-sar", "msi"],
            "proj:epsg": 4326,
            "grid:code": f"ESAWORLDCOVER-{self.tile}",
            "esa_worldcover:product_tile": self.tile,
            "esa_worldcover:product_version": {2020: "1.0.0", 2021: "2.0.0"}[self.year],
        }
        return item(name, "esa-worldcover", properties, assets, self._geometry)

    def io_lulc(self) -> Json:
        """Write the file and return the Item of ``io-lulc-annual-v02``; its year ends with the next's first day."""
        path = f"io-lulc/nine-class/{self.tile}_{self.year}0101-{self.year + 1}0101.tif"
        href, shape, place = self._write(path)
        assets = {
            "data": {
                "href": href, "type": COG, "roles": ["data"], "title": "Global land cover data",
                "raster:bands": [{"nodata": 0, "spatial_resolution": 10}],
                "file:size": (self.folder / path).stat().st_size,
                "file:values": [{"values": [code], "summary": str(code)} for code in (0, 1, 2, 4, 5, 7, 8, 9, 10, 11)],
            }
        }  # fmt: skip
        properties = {
            "datetime": None,
            "start_datetime": f"{self.year}-01-01T00:00:00Z",
            "end_datetime": f"{self.year + 1}-01-01T00:00:00Z",
            "io:tile_id": self.tile,
            "io:supercell_id": self.tile,
            "proj:epsg": self.epsg,
            "proj:bbox": list(self.bounds),
            "proj:shape": shape,
            "proj:transform": place,
        }
        return item(f"{self.tile}-{self.year}", "io-lulc-annual-v02", properties, assets, self._geometry)


def item(name: str, collection: str, properties: Json, assets: Json, geometry: Json) -> Json:
    """A STAC Item."""
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": EXTENSIONS,
        "id": name,
        "collection": collection,
        **geometry,
        "properties": properties,
        "links": [],
        "assets": assets,
    }


def worldcover_codes(column: NDArray[np.int64], row: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Blocks of 15 x 15 pixels of every class of WorldCover, and of no data."""
    codes = np.array(list(WORLDCOVER_TO_ESRI), np.uint8)
    return codes[(column // 15 + 5 * (row // 15)) % len(codes)]


def io_codes(column: NDArray[np.int64], row: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Blocks of 15 x 15 pixels of every class of IO/Esri's map, of clouds and of no data."""
    codes = np.array([0, 1, 2, 4, 5, 7, 8, 9, 10, 11], np.uint8)
    return codes[(column // 15 + 3 * (row // 15)) % len(codes)]


@dataclass
class World:
    """Items with what each of them holds."""

    folder: Path
    url: str
    items: list[Json] = field(default_factory=list)
    optical: dict[str, Optical] = field(default_factory=dict)
    sar: dict[str, Sar] = field(default_factory=dict)
    labels: dict[str, Labels] = field(default_factory=dict)

    def add(self, one: Optical | Sar | Labels, catalogue: str = "planetary_computer") -> Json:
        """Write the files of an acquisition or a map, and keep its Item."""
        made: Json = getattr(one, catalogue)()
        self.items.append(made)
        kept: Any = self.optical if isinstance(one, Optical) else self.sar if isinstance(one, Sar) else self.labels
        kept[made["id"]] = one
        return made


EPSG = 32632
AREA: Bounds = (703_200, 5_390_100, 706_200, 5_393_100)
"""300 x 300 pixels of 10 m, in two tiles that overlap."""
WEST_TILE: Bounds = (702_000, 5_389_800, 705_600, 5_393_400)
EAST_TILE: Bounds = (703_800, 5_389_800, 707_400, 5_393_400)
BOTH: Bounds = (WEST_TILE[0], WEST_TILE[1], EAST_TILE[2], EAST_TILE[3])
DATES = "2021-06-01/2021-08-31"


def part(left: float, top: float, right: float, bottom: float) -> Bounds:
    """Rectangle in pixels of `AREA`."""
    west, _, _, north = AREA
    return west + 10 * left, north - 10 * bottom, west + 10 * right, north - 10 * top


def berlin(folder: Path, url: str) -> World:
    """A summer over two tiles: four dates, two baselines, duplicates, two orbits of SAR, and labels.

    - 15 June, best: small clouds. The west tile twice, of baselines 03.00 and 05.00; the east tile of 03.00 alone. The
      swath of the west tile ends inside the overlap.
    - 5 July, baseline 05.00: clouds over a third.
    - 20 July, baseline 03.00: clouds elsewhere, and over one place that no date sees.
    - 4 August: the catalogue says 97 % clouds, and so it is.
    - SAR: descending orbit 168 in two frames on the optical date and again twelve days later, ascending orbit 44 a day
      later, descending orbit 95 in July, and one on the optical date itself without VH.
    """
    world = World(folder, url)
    common: Json = {"epsg": EPSG, "folder": folder, "url": url}
    west, east = {"bounds": WEST_TILE, "tile": "32UPU"}, {"bounds": EAST_TILE, "tile": "32UQU"}
    never = part(40, 240, 48, 248)
    june = datetime(2021, 6, 15, 10, 20, 21)
    clouds = (part(100, 60, 140, 100), part(20, 200, 40, 210), never)
    shadows = (part(100, 104, 140, 112),)
    dark = (part(20, 10, 32, 22),)
    ends = (WEST_TILE[0], WEST_TILE[1], 704_800, WEST_TILE[3])  # the swath of the west tile
    first = Optical(**common, **west, number=0, time=june, clouds=clouds, shadows=shadows, swath=ends)
    world.add(first)
    world.add(replace(first, number=1, baseline="05.00", processed="20230131T041500", dark=dark))
    world.add(Optical(**common, **east, number=2, time=june, clouds=clouds, shadows=shadows))
    july = datetime(2021, 7, 5, 10, 20, 21)
    third = (part(150, 0, 250, 300), never)
    for number, tile in ((3, west), (4, east)):
        world.add(Optical(**common, **tile, number=number, time=july, baseline="05.00", clouds=third,
                          processed="20230205T101500"))  # fmt: skip
    later = datetime(2021, 7, 20, 10, 15, 59)
    half = (part(150, 150, 300, 300), part(0, 0, 60, 300), never)
    for number, tile in ((5, west), (6, east)):
        world.add(Optical(**common, **tile, number=number, time=later, clouds=half, orbit=22, platform="2B",
                          processed="20210721T030000"))  # fmt: skip
    august = datetime(2021, 8, 4, 10, 20, 21)
    for number, tile in ((7, west), (8, east)):
        world.add(Optical(**common, **tile, number=number, time=august, clouds=(BOTH,), cloud_cover=97.2,
                          processed="20210805T030000"))  # fmt: skip
    _add_sar(world, common)
    degrees = lonlat(BOTH, EPSG).bounds
    lattice = tuple(round(value * 12_000) + more for value, more in zip(degrees, (-9, -9, 9, 9), strict=True))
    bounds = tuple(number / 12_000 for number in lattice)
    for year, shift in ((2020, 7), (2021, 0)):
        world.add(Labels(bounds, 4326, year, folder, url, "N48E009", lambda column, row, shift=shift: worldcover_codes(
            column + shift, row)), "worldcover")  # type: ignore[arg-type, misc] # fmt: skip
    for year in (2020, 2021):
        world.add(Labels(BOTH, EPSG, year, folder, url, "32U", lambda column, row, year=year: io_codes(
            column + year, row)), "io_lulc")  # type: ignore[misc] # fmt: skip
    return world


def _add_sar(world: World, common: Json) -> None:
    middle = 5_391_600
    upper, lower = (BOTH[0], middle - 600, BOTH[2], BOTH[3]), (BOTH[0], BOTH[1], BOTH[2], middle + 600)
    descending = datetime(2021, 6, 15, 5, 25, 2)
    world.add(Sar(**common, bounds=upper, number=0, time=descending, seen=(BOTH[0], middle, BOTH[2], BOTH[3])))
    world.add(Sar(**common, bounds=lower, number=1, time=descending + timedelta(seconds=25),
                  seen=(BOTH[0], BOTH[1], BOTH[2], middle)))  # fmt: skip
    ascending = datetime(2021, 6, 16, 17, 8, 30)
    world.add(Sar(**common, bounds=BOTH, number=2, time=ascending, state="ascending", orbit=44, platform="1B"))
    world.add(Sar(**common, bounds=BOTH, number=3, time=datetime(2021, 7, 14, 5, 17, 1), orbit=95))
    world.add(Sar(**common, bounds=BOTH, number=4, time=datetime(2021, 6, 15, 16, 58, 0), state="ascending", orbit=117,
                  polarisations=("VV",)))  # fmt: skip
    world.add(Sar(**common, bounds=BOTH, number=5, time=descending + timedelta(days=12)))


@dataclass(frozen=True)
class Border:
    """A meridian at which two zones meet."""

    lon: float
    lat: float
    zones: tuple[int, int]
    """EPSG codes west and east of it."""
    tiles: tuple[str, str]


ANTIMERIDIAN = Border(180.0, -16.8, (32760, 32701), ("60KZG", "01KAB"))
TWELVE = Border(12.0, 48.6, (32632, 32633), ("32UQU", "33UTP"))


def across(border: Border, folder: Path, url: str) -> World:
    """One date of two tiles on each side of a border, which reach beyond it, and a pass of SAR in both zones."""
    world = World(folder, url)
    for number, (epsg, tile) in enumerate(zip(border.zones, border.tiles, strict=True)):
        x, y = Transformer.from_crs(4326, epsg, always_xy=True).transform(border.lon, border.lat)
        west, north = round(x / 60) * 60 - (2400 if number == 0 else 1200), round(y / 60) * 60 + 1800
        common: Json = {"epsg": epsg, "folder": folder, "url": url, "bounds": (west, north - 3600, west + 3600, north)}
        world.add(Optical(**common, number=number, tile=tile, time=datetime(2021, 6, 15, 22, 10, 21)))
        sar = datetime(2021, 6, 15, 5, 25, 2) + timedelta(seconds=25 * number)
        world.add(Sar(**common, number=number, time=sar))
    return world
