"""Files of polygons: GeoPackage, FlatGeobuf and GeoParquet, written piece by piece and read back.

The same features, in the same order, give the same bytes.
"""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, ClassVar, NamedTuple
from urllib.parse import quote

import numpy as np
import pyogrio
import pyproj
from numpy.typing import NDArray
from pyogrio.errors import DataLayerError, DataSourceError, FeatureError, FieldError, GeometryError

from refnet_cli.errors import OptionsError, UnavailableError
from refnet_cli.system.disk import point_of
from refnet_cli.system.marks import GEOPACKAGE_TIME

LAYER = "land_cover"
"""Name of the layer."""
FIELDS = ("class_code", "class_name", "area_ha", "pixels", "confidence")
"""Names of the fields."""
_AT_ONCE = 50_000  # features to read back
_ERRORS = (DataLayerError, DataSourceError, FeatureError, FieldError, GeometryError)
# What a crash leaves is thrown away, so that nothing has to be safe from one; the files bear no time of their making.
_GDAL = {
    "OGR_CURRENT_DATE": GEOPACKAGE_TIME,
    "OGR_SQLITE_JOURNAL": "OFF",
    # Without POSIX locks, which network drives may lack: only this run writes in the hidden folder.
    "SQLITE_USE_OGR_VFS": "YES",
    "OGR_SQLITE_SYNCHRONOUS": "OFF",
    "GDAL_PAM_ENABLED": "NO",
    "GDAL_NUM_THREADS": "1",
}


class Features(NamedTuple):
    """Polygons with what is said of each, all of the same length."""

    wkb: NDArray[np.object_]
    """Bytes."""
    class_code: NDArray[np.int32]
    class_name: NDArray[np.object_]
    area_ha: NDArray[np.float64]
    pixels: NDArray[np.int64]
    confidence: NDArray[np.float64]

    @classmethod
    def joined(cls, several: Sequence[Features]) -> Features:
        """Return several after each other."""
        columns: list[Any] = [np.concatenate(parts) for parts in zip(*several, strict=True)]
        return cls(*columns)

    def part(self, which: slice) -> Features:
        """Return some of them."""
        columns: list[Any] = [column[which] for column in self]
        return Features(*columns)

    def checksums(self) -> int:
        """Return the sum of the features' checksums, which does not depend on their order."""
        numbers = np.rec.fromarrays(
            [self.class_code, self.area_ha, self.pixels, self.confidence], dtype="<i4, <f8, <i8, <f8"
        ).tobytes()
        size = len(numbers) // max(len(self.wkb), 1)
        return sum(
            zlib.crc32(wkb, zlib.crc32(name.encode(), zlib.crc32(numbers[size * place : size * (place + 1)])))
            for place, (wkb, name) in enumerate(zip(self.wkb, self.class_name, strict=True))
        )


class VectorFile(ABC):
    """A file of polygons that grows.

    Parameters
    ----------
    folder : Path
        Where it grows.
    crs : str
        Coordinate system, as WKT.
    tags : mapping of str to str
        Provenance.
    """

    media_type: ClassVar[str]

    def __init__(self, folder: Path, crs: str, tags: Mapping[str, str]) -> None:
        self._folder, self._crs, self._tags = folder, crs, dict(tags)
        self.count, self._checksum = 0, 0

    def write(self, features: Features) -> None:
        """Take the next features.

        Raises
        ------
        OSError
            If the disk is full.
        """
        self._append(features)
        self.count += len(features.wkb)
        self._checksum += features.checksums()

    def complete(self, bounds: tuple[float, float, float, float] | None) -> Path:
        """Make the file complete, read it back, and return where it is.

        Parameters
        ----------
        bounds : tuple of float, optional
            Of all polygons, if there is one.

        Raises
        ------
        OSError
            If it does not hold what was written.
        """
        path = self._finish(bounds)
        count, checksum = 0, 0
        for features in self._read(path):
            count += len(features.wkb)
            checksum += features.checksums()
        if (count, checksum) != (self.count, self._checksum):
            raise OSError(errno.EIO, "the polygons did not come back as they were written")
        return path

    def close(self) -> None:  # noqa: B027 most have nothing open
        """Let go of what is open."""

    @abstractmethod
    def _append(self, features: Features) -> None:
        """Write the next features."""

    @abstractmethod
    def _finish(self, bounds: tuple[float, float, float, float] | None) -> Path:
        """Return the complete file."""

    @abstractmethod
    def _read(self, path: Path) -> Iterator[Features]:
        """Yield what the file holds, in any order."""


class GeoPackage(VectorFile):
    """A GeoPackage with a spatial index, the tags as metadata of its layer.

    Of those of the whole file, GDAL would write a copy next to it (.aux.xml) whenever it is read.
    """

    media_type = "application/geopackage+sqlite3"
    _indexed = True

    def __init__(self, folder: Path, crs: str, tags: Mapping[str, str]) -> None:
        super().__init__(folder, crs, tags)
        self._path = folder / "growing.gpkg"
        self._append(_nothing())

    def _append(self, features: Features) -> None:
        first = not self._path.exists()
        # Version 1.2 is what all that is in use reads without a warning.
        about = {"version": "1.2", "spatial_index": self._indexed, "layer_metadata": self._tags or None}
        with _gdal():
            pyogrio.raw.write(
                self._path, features.wkb, list(features[1:]), list(FIELDS), driver="GPKG", layer=LAYER,
                geometry_type="Polygon", crs=self._crs, append=not first,
                **(about if first else {}),
            )  # fmt: skip

    def _finish(self, bounds: tuple[float, float, float, float] | None) -> Path:
        if self._indexed:
            self._check_index()
        return self._path

    def _check_index(self) -> None:
        """Compare the index with the number of polygons: GDAL writes it last and reports no fault in this."""
        uri = f"file:{quote(os.fsencode(self._path.absolute()))}?mode=ro&immutable=1"
        try:
            with closing(sqlite3.connect(uri, uri=True)) as database:
                found = [database.execute(question).fetchone()[0] for question in (
                    "PRAGMA quick_check(1)", f"SELECT count(*) FROM rtree_{LAYER}_geom_rowid",
                    "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size",
                )]  # fmt: skip
        except sqlite3.Error as error:
            raise OSError(errno.EIO, f"the index of the polygons is damaged ({error})") from error
        if found != ["ok", self.count, self._path.stat().st_size]:
            raise OSError(errno.EIO, "the index of the polygons did not come back as it was written")

    def _read(self, path: Path) -> Iterator[Features]:
        for start in range(0, self._stored(path), _AT_ONCE):
            yield _read(path, where=f"fid > {start} AND fid <= {start + _AT_ONCE}")

    def _stored(self, path: Path) -> int:
        with _gdal():
            return int(pyogrio.read_info(path, layer=LAYER, force_feature_count=True)["features"])


class FlatGeobuf(GeoPackage):
    """A FlatGeobuf with a spatial index, in whose order the features are; the tags are its description, as JSON."""

    media_type = "application/vnd.flatgeobuf"
    _indexed = False  # cannot grow itself: a GeoPackage does

    def _finish(self, bounds: tuple[float, float, float, float] | None) -> Path:
        path = self._folder / "complete.fgb"
        about = {"description": json.dumps(self._tags, ensure_ascii=False, sort_keys=True)} if self._tags else {}
        with _gdal(), pyogrio.raw.open_arrow(self._path, layer=LAYER, use_pyarrow=False) as (meta, stream):
            pyogrio.raw.write_arrow(
                stream, path, driver="FlatGeobuf", layer=LAYER, geometry_name=meta["geometry_name"],
                geometry_type="Polygon", crs=self._crs, **about,
            )  # fmt: skip
        return path

    def _read(self, path: Path) -> Iterator[Features]:
        stored = self._stored(path)
        for start in range(0, stored, _AT_ONCE):
            yield _read(path, fids=np.arange(start, min(start + _AT_ONCE, stored)))


class GeoParquet(VectorFile):
    """GeoParquet 1.1 with WKB; the tags are in the file's metadata."""

    media_type = "application/vnd.apache.parquet"

    def __init__(self, folder: Path, crs: str, tags: Mapping[str, str]) -> None:
        super().__init__(folder, crs, tags)
        import pyarrow
        import pyarrow.parquet

        self._path = folder / "growing.parquet"
        kinds = ("binary", "int32", "string", "float64", "int64", "float64")
        self._schema = pyarrow.schema([
            pyarrow.field(name, pyarrow.type_for_alias(kind), nullable=False)
            for name, kind in zip(("geometry", *FIELDS), kinds, strict=True)
        ])  # fmt: skip
        # With Arrow's own schema in the file, readers of that would not see what is known at the end alone.
        self._writer = pyarrow.parquet.ParquetWriter(
            self._path, self._schema, compression="zstd", store_schema=False
        )

    def _append(self, features: Features) -> None:
        import pyarrow

        columns = [pyarrow.array(values, kind) for values, kind in zip(features, self._schema.types, strict=True)]
        self._writer.write_table(pyarrow.table(columns, schema=self._schema), row_group_size=len(features.wkb))

    def _finish(self, bounds: tuple[float, float, float, float] | None) -> Path:
        column: dict[str, Any] = {
            "encoding": "WKB",
            "geometry_types": ["Polygon"],
            "crs": pyproj.CRS.from_wkt(self._crs).to_json_dict(),
            "orientation": "counterclockwise",
            "edges": "planar",
        }
        if bounds:
            column["bbox"] = list(bounds)
        about = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
        self._writer.add_key_value_metadata({"geo": json.dumps(about), **self._tags})
        self._writer.close()
        return self._path

    def _read(self, path: Path) -> Iterator[Features]:
        import pyarrow
        import pyarrow.parquet

        try:
            with pyarrow.parquet.ParquetFile(path) as file:
                for number in range(file.num_row_groups):
                    table = file.read_row_group(number)
                    yield Features(*(column.to_numpy(zero_copy_only=False) for column in table.columns))
        except pyarrow.ArrowInvalid as error:
            raise OSError(errno.EIO, point_of(error)) from error

    def close(self) -> None:
        """See `VectorFile.close`."""
        self._writer.close()


VECTORS: dict[str, type[VectorFile]] = {".gpkg": GeoPackage, ".fgb": FlatGeobuf, ".parquet": GeoParquet}
"""By the ending of the file's name."""


def vector_kind(path: Path) -> type[VectorFile]:
    """Return what writes a file of this name.

    Raises
    ------
    OptionsError
        If its ending is none of `VECTORS`.
    UnavailableError
        If a library for it is missing.
    """
    kind = VECTORS.get(path.suffix.lower())
    if kind is None:
        raise OptionsError(
            f"{path} has none of the endings {', '.join(VECTORS)}: polygons are a GeoPackage, a FlatGeobuf or a "
            "GeoParquet by the ending of their name."
        )
    if kind is GeoParquet:
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError as error:
            raise UnavailableError(
                f"{path} needs pyarrow ({error}): pip install 'refnet-cli[parquet]', or choose a name that ends in "
                ".gpkg or .fgb."
            ) from error
    return kind


def _nothing() -> Features:
    text, number = np.empty(0, object), np.empty(0)
    return Features(text, number.astype(np.int32), text, number, number.astype(np.int64), number)


def _read(path: Path, **which: Any) -> Features:
    with _gdal():
        about, _, wkb, values = pyogrio.raw.read(path, layer=LAYER, columns=list(FIELDS), **which)
    return Features(wkb, *(dict(zip(about["fields"], values, strict=True))[name] for name in FIELDS))


@contextmanager
def _gdal() -> Iterator[None]:
    """Set pyogrio's GDAL, which is not rasterio's, and have it fail as files do."""
    before = {name: pyogrio.get_gdal_config_option(name) for name in _GDAL}
    pyogrio.set_gdal_config_options(_GDAL)
    try:
        yield
    except _ERRORS as error:
        raise OSError(errno.EIO, point_of(error)) from error
    finally:
        pyogrio.set_gdal_config_options(before)
