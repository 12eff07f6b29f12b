"""Polygon files: GeoPackage, FlatGeobuf and GeoParquet, written in batches and read back.

Equal features in equal order give equal bytes. pyogrio is imported when a file is opened: it imports pandas where that
is installed, which takes half a second.
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
import pyproj
from numpy.typing import NDArray

from refnet_cli.errors import OptionsError, UnavailableError
from refnet_cli.system.disk import short_reason
from refnet_cli.system.marks import GEOPACKAGE_TIME

LAYER = "land_cover"
"""Name of the layer."""
FIELDS = ("class_code", "class_name", "area_ha", "pixels", "confidence")
"""Names of the fields."""
_AT_ONCE = 50_000  # features that are read back at once
# After a crash the file is deleted, so SQLite need not protect it. The fixed date keeps equal files equal.
_GDAL = {
    "OGR_CURRENT_DATE": GEOPACKAGE_TIME,
    "OGR_SQLITE_JOURNAL": "OFF",
    # Without POSIX locks, which network drives may lack. Only this run writes in the hidden folder.
    "SQLITE_USE_OGR_VFS": "YES",
    "OGR_SQLITE_SYNCHRONOUS": "OFF",
    "GDAL_PAM_ENABLED": "NO",
    "GDAL_NUM_THREADS": "1",
}


class Features(NamedTuple):
    """Polygons and their fields, as arrays of equal length."""

    wkb: NDArray[np.object_]
    """Geometries as WKB bytes."""
    class_code: NDArray[np.int32]
    class_name: NDArray[np.object_]
    area_ha: NDArray[np.float64]
    pixels: NDArray[np.int64]
    confidence: NDArray[np.float64]

    @classmethod
    def joined(cls, several: Sequence[Features]) -> Features:
        """Return the concatenated features."""
        columns: list[Any] = [np.concatenate(parts) for parts in zip(*several, strict=True)]
        return cls(*columns)

    def part(self, which: slice) -> Features:
        """Return a slice of the features."""
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
    """A polygon file that is written in batches.

    Parameters
    ----------
    folder : Path
        Folder of the unfinished file.
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
        """Write the next features.

        Raises
        ------
        OSError
            If the disk is full.
        """
        self._append(features)
        self.count += len(features.wkb)
        self._checksum += features.checksums()

    def complete(self, bounds: tuple[float, float, float, float] | None) -> Path:
        """Complete the file, read it back, and return its path.

        Parameters
        ----------
        bounds : tuple of float, optional
            Bounds of all polygons; None if there are none.

        Raises
        ------
        OSError
            If the file differs from what was written.
        """
        path = self._finish(bounds)
        count, checksum = 0, 0
        for features in self._read(path):
            count += len(features.wkb)
            checksum += features.checksums()
        if (count, checksum) != (self.count, self._checksum):
            raise OSError(errno.EIO, "the polygons differ from what was written")
        return path

    def close(self) -> None:  # noqa: B027 most have nothing open
        """Close open files."""

    @abstractmethod
    def _append(self, features: Features) -> None:
        """Write the next features."""

    @abstractmethod
    def _finish(self, bounds: tuple[float, float, float, float] | None) -> Path:
        """Return the complete file."""

    @abstractmethod
    def _read(self, path: Path) -> Iterator[Features]:
        """Yield the file's features, in any order."""


class GeoPackage(VectorFile):
    """A GeoPackage with a spatial index, and the tags as metadata of its layer.

    As metadata of the file, GDAL would copy them to an .aux.xml whenever the file is read.
    """

    media_type = "application/geopackage+sqlite3"
    _indexed = True

    def __init__(self, folder: Path, crs: str, tags: Mapping[str, str]) -> None:
        super().__init__(folder, crs, tags)
        self._path = folder / "growing.gpkg"
        self._append(_nothing())

    def _append(self, features: Features) -> None:
        first = not self._path.exists()
        # Programs in use read version 1.2 without a warning.
        about = {"version": "1.2", "spatial_index": self._indexed, "layer_metadata": self._tags or None}
        with _gdal() as pyogrio:
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
        """Compare the index with the number of polygons: GDAL writes it last and does not report failures."""
        uri = f"file:{quote(os.fsencode(self._path.absolute()))}?mode=ro&immutable=1"
        try:
            with closing(sqlite3.connect(uri, uri=True)) as database:
                found = [database.execute(question).fetchone()[0] for question in (
                    "PRAGMA quick_check(1)", f"SELECT count(*) FROM rtree_{LAYER}_geom_rowid",
                    "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size",
                )]  # fmt: skip
        except sqlite3.Error as error:
            raise OSError(errno.EIO, f"the spatial index is damaged ({error})") from error
        if found != ["ok", self.count, self._path.stat().st_size]:
            raise OSError(errno.EIO, "the spatial index is incomplete")

    def _read(self, path: Path) -> Iterator[Features]:
        for start in range(0, self._stored(path), _AT_ONCE):
            yield _read(path, where=f"fid > {start} AND fid <= {start + _AT_ONCE}")

    def _stored(self, path: Path) -> int:
        with _gdal() as pyogrio:
            return int(pyogrio.read_info(path, layer=LAYER, force_feature_count=True)["features"])


class FlatGeobuf(GeoPackage):
    """A FlatGeobuf with a spatial index, which sorts the features; its description holds the tags as JSON."""

    media_type = "application/vnd.flatgeobuf"
    _indexed = False  # of the temporary GeoPackage: a FlatGeobuf cannot be appended to

    def _finish(self, bounds: tuple[float, float, float, float] | None) -> Path:
        path = self._folder / "complete.fgb"
        about = {"description": json.dumps(self._tags, ensure_ascii=False, sort_keys=True)} if self._tags else {}
        with _gdal() as pyogrio, pyogrio.raw.open_arrow(self._path, layer=LAYER, use_pyarrow=False) as (meta, stream):
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
    """GeoParquet 1.1 with WKB geometries; the file's metadata holds the tags."""

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
        # Metadata added at the end is missing from an embedded Arrow schema, and its readers would not see it.
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
            raise OSError(errno.EIO, short_reason(error)) from error

    def close(self) -> None:
        """See `VectorFile.close`."""
        self._writer.close()


VECTORS: dict[str, type[VectorFile]] = {".gpkg": GeoPackage, ".fgb": FlatGeobuf, ".parquet": GeoParquet}
"""Formats by file extension."""


def vector_kind(path: Path) -> type[VectorFile]:
    """Return the format that a file's extension selects.

    Raises
    ------
    OptionsError
        If the extension is not in `VECTORS`.
    UnavailableError
        If the format's library is missing.
    """
    kind = VECTORS.get(path.suffix.lower())
    if kind is None:
        raise OptionsError(
            f"{path} must end in .gpkg (GeoPackage), .fgb (FlatGeobuf) or .parquet (GeoParquet): the extension selects "
            "the format."
        )
    if kind is GeoParquet:
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError as error:
            raise UnavailableError(
                f"{path} needs pyarrow ({error}): pip install 'refnet-cli[parquet]', or use a name that ends in .gpkg "
                "or .fgb."
            ) from error
    return kind


def _nothing() -> Features:
    text, number = np.empty(0, object), np.empty(0)
    return Features(text, number.astype(np.int32), text, number, number.astype(np.int64), number)


def _read(path: Path, **which: Any) -> Features:
    with _gdal() as pyogrio:
        about, _, wkb, values = pyogrio.raw.read(path, layer=LAYER, columns=list(FIELDS), **which)
    return Features(wkb, *(dict(zip(about["fields"], values, strict=True))[name] for name in FIELDS))


@contextmanager
def _gdal() -> Iterator[Any]:
    """Yield pyogrio with its GDAL, which is separate from rasterio's, configured, and raise its errors as OSError."""
    import pyogrio
    from pyogrio.errors import DataLayerError, DataSourceError, FeatureError, FieldError, GeometryError

    before = {name: pyogrio.get_gdal_config_option(name) for name in _GDAL}
    pyogrio.set_gdal_config_options(_GDAL)
    try:
        yield pyogrio
    except (DataLayerError, DataSourceError, FeatureError, FieldError, GeometryError) as error:
        raise OSError(errno.EIO, short_reason(error)) from error
    finally:
        pyogrio.set_gdal_config_options(before)
