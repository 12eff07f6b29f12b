"""Small SAFE products that tests make for themselves, with the names, folders and metadata of real ones."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.control import GroundControlPoint
from rasterio.transform import Affine
from rasterio.warp import transform

BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
NATIVE = dict(zip(BANDS, (60, 10, 10, 10, 20, 20, 20, 10, 20, 60, 60, 20, 20), strict=True))
# Upper left corners, on the 60 m grid. The second tile lies in the next zone; the first one's eastern half is in it.
TILES = {"32TQS": (699_960, 5_200_020), "33TTN": (244_380, 5_202_180)}
SENSED, ORBIT = "20220125T101229", "A025530"

Bands = Mapping[str, NDArray[np.floating[Any]]]
Constants = Callable[[NDArray[np.floating[Any]], NDArray[np.floating[Any]]], NDArray[np.floating[Any]]]


def random_ground(height: int = 240, width: int = 240, seed: int = 0) -> dict[str, NDArray[np.float64]]:
    """Reflectance of all bands at 10 m (H, W): fields of 300 m with noise, from -0.02 to 1.1."""
    random = np.random.default_rng(seed)
    levels = random.uniform(0, 0.6, (len(BANDS), -(-height // 30), -(-width // 30)))
    fields = levels.repeat(30, 1).repeat(30, 2)[:, :height, :width]
    fields = fields + random.normal(0, 0.01, fields.shape)
    fields[:, :6, :6], fields[:, :6, 6:12] = -0.02, 1.1
    return dict(zip(BANDS, fields, strict=True))


def at_resolution(values: NDArray[Any], metres: int) -> NDArray[np.float64]:
    """Means of the blocks of a 10 m grid that make up the pixels of a coarser one; NaN spreads."""
    side = metres // 10
    height, width = values.shape
    return values.reshape(height // side, side, width // side, side).mean((1, 3))


def to_numbers(reflectance: NDArray[Any], offset: float) -> NDArray[np.uint16]:
    """Numbers as products hold them: 0 where there is no measurement, and there alone."""
    numbers = np.clip(np.round(reflectance * 10_000) + offset, 1, 65_534)
    return np.where(np.isnan(reflectance), 0, numbers).astype(np.uint16)


@dataclass(frozen=True)
class Naming:
    """How a product's files are called, which has changed over the years."""

    level: str
    baseline: str
    tiles: Sequence[str]

    @property
    def long(self) -> bool:
        """Level 1C from before December 2016."""
        return self.level == "L1C" and self.baseline <= "02.04"

    @property
    def prefix(self) -> str:
        """Level 2A of ESA's pilot."""
        return "L2A_" if self.level == "L2A" and self.baseline < "02.07" else ""

    @property
    def product(self) -> str:
        if self.long:
            return f"S2A_OPER_PRD_MSIL1C_PDMC_20160717T202905_R022_V{SENSED}_{SENSED}.SAFE"
        number = self.baseline.replace(".", "")
        return f"S2B_MSI{self.level}_{SENSED}_N{number}_R022_T{self.tiles[0]}_20220125T125411.SAFE"

    @property
    def metadata(self) -> str:
        if self.long:
            return self.product.replace("PRD_MSI", "MTD_SAF").replace(".SAFE", ".xml")
        return f"MTD_MSI{self.level}.xml"

    def granule(self, tile: str) -> str:
        if self.long:
            return f"S2A_OPER_MSI_L1C_TL_MPS__20160717T125454_{ORBIT}_T{tile}_N{self.baseline}"
        return f"{self.level}_T{tile}_{ORBIT}_20220125T101227"

    def tile_metadata(self, tile: str) -> str:
        if self.long:
            return f"S2A_OPER_MTD_L1C_TL_MPS__20160717T125454_{ORBIT}_T{tile}.xml"
        return "MTD_TL.xml"

    def image(self, tile: str, content: str, metres: int) -> str:
        if self.long:
            return f"IMG_DATA/S2A_OPER_MSI_L1C_TL_MPS__20160717T125454_{ORBIT}_T{tile}_{content}.jp2"
        if self.level == "L1C":
            return f"IMG_DATA/T{tile}_{SENSED}_{content}.jp2"
        return f"IMG_DATA/R{metres}m/{self.prefix}T{tile}_{SENSED}_{content}_{metres}m.jp2"

    def clouds(self, tile: str) -> str:
        if self.baseline >= "04.00":
            return "QI_DATA/MSK_CLASSI_B00.jp2"
        if self.long:
            return f"QI_DATA/S2A_OPER_MSK_CLOUDS_MPS__20160717T125454_{ORBIT}_T{tile}_B00_MSIL1C.gml"
        return "QI_DATA/MSK_CLOUDS_B00.gml"

    def resolutions(self, band: str) -> Iterator[int]:
        """Resolutions, in metres, at which a product holds a band."""
        if self.level == "L1C":
            yield NATIVE[band]
        elif band != "B10":
            for metres in (10, 20, 60):
                finer = band == "B01" and metres == 20 and self.baseline >= "04.00"
                if (metres >= NATIVE[band] or finer) and not (band == "B08" and metres > 10):
                    yield metres


def zone_of(tile: str) -> str:
    """Coordinate reference system of a tile by its name."""
    return f"EPSG:32{6 if tile[2] >= 'N' else 7}{tile[:2]}"


def make_optical_safe(
    folder: Path,
    level: str = "L2A",
    baseline: str = "05.09",
    *,
    tiles: Mapping[str, tuple[float, float]] | None = None,
    reflectance: Mapping[str, Bands] | None = None,
    classes: Mapping[str, NDArray[np.uint8]] | None = None,
    clouds: Mapping[str, NDArray[np.uint8]] | None = None,
    listed: bool | None = None,
    zipped: bool = False,
) -> Path:
    """Write a Sentinel-2 product and return its folder or zip.

    ``tiles`` gives upper left corners (by default that of 32TQS); for each of them ``reflectance`` gives the bands to
    write at 10 m (H, W), sides divisible by 6 (by default those of `random_ground` with the tile's place in ``tiles``
    as seed), ``classes`` the scene classification at 20 m (by default vegetation) and ``clouds`` opaque clouds, cirrus
    and snow at 60 m (3, H, W) (by default none). ``listed`` says whether the metadata lists the offsets, by default
    from baseline 04.00 on, when 1000 is added. Level 1C up to baseline 02.04 and level 2A up to 02.06 get the names of
    their time.
    """
    tiles = tiles or {"32TQS": TILES["32TQS"]}
    naming = Naming(level, baseline, list(tiles))
    root = folder / naming.product
    images = []
    for seed, (tile, corner) in enumerate(tiles.items()):
        bands = reflectance[tile] if reflectance else random_ground(seed=seed)
        granule = root / "GRANULE" / naming.granule(tile)
        height, width = next(iter(bands.values())).shape
        scl = classes[tile] if classes else np.full((height // 2, width // 2), 4, np.uint8)
        cloud = clouds[tile] if clouds else np.zeros((3, height // 6, width // 6), np.uint8)
        images.append((tile, _write_bands(granule, naming, tile, corner, bands)))
        _write_masks(granule, naming, tile, corner, scl, cloud)
        _save(granule / naming.tile_metadata(tile), _tile_metadata(naming, tile, corner, (height, width)))
    listed = baseline >= "04.00" if listed is None else listed
    _save(root / naming.metadata, _product_metadata(naming, images, listed))
    _save(root / "manifest.safe", _MANIFEST.format(content="", kind="Sentinel-2 MSI", extra=""))
    return _zip(root) if zipped else root


def _write_bands(granule: Path, naming: Naming, tile: str, corner: tuple[float, float], bands: Bands) -> list[str]:
    """Write a granule's images and return their names without ending, as metadata lists them."""
    offset = 1000 if "04.00" <= naming.baseline < "99" else 0
    written = []
    for band, values in bands.items():
        for metres in naming.resolutions(band):
            name = naming.image(tile, band, metres)
            write_jp2(granule / name, to_numbers(at_resolution(values, metres), offset)[None], corner, metres, tile)
            written.append(name.removesuffix(".jp2"))
    return written


def _write_masks(
    granule: Path,
    naming: Naming,
    tile: str,
    corner: tuple[float, float],
    scl: NDArray[np.uint8],
    cloud: NDArray[np.uint8],
) -> None:
    if naming.level == "L2A":
        for metres in (20, 60):
            coarse = scl[:: metres // 20, :: metres // 20]
            write_jp2(granule / naming.image(tile, "SCL", metres), coarse[None], corner, metres, tile)
    name = naming.clouds(tile)
    if name.endswith(".jp2"):
        write_jp2(granule / name, cloud, corner, 60, tile)
    else:
        _save(granule / name, '<?xml version="1.0"?><eop:Mask xmlns:eop="http://www.opengis.net/eop/2.0"/>')


def write_jp2(
    path: Path, values: NDArray[np.generic], corner: tuple[float, float], metres: int, tile: str = "32TQS"
) -> None:
    """Write bands (B, H, W) as lossless JPEG 2000, placed as images of a tile are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path, "w", driver="JP2OpenJPEG", count=len(values), height=values.shape[1], width=values.shape[2],
        dtype=values.dtype, crs=zone_of(tile), transform=Affine(metres, 0, corner[0], 0, -metres, corner[1]),
        QUALITY="100", REVERSIBLE="YES", YCBCR420="NO",
    ) as file:  # fmt: skip
        file.write(values)


def make_grd_safe(
    folder: Path,
    *,
    power: Mapping[str, NDArray[np.floating[Any]]] | None = None,
    ground: Affine | None = None,
    crs: str = "EPSG:32632",
    constants: Constants | None = None,
    kind: str = "GRD",
    zipped: bool = False,
) -> Path:
    """Write a Sentinel-1 product of an ascending pass and return its folder or zip.

    ``power`` gives gamma nought, linear, of each polarisation (H, W), NaN where the radar saw nothing (by default
    480 x 400 pixels of grass with speckle in VV and VH); ``ground`` leads from columns and rows to ``crs`` (by default
    pixels of 10 m about the middle of tile 32TQS, rows to the north and columns to the east as seen by the satellite).
    ``constants`` gives the constants of gamma nought from rows and columns (by default some that are bilinear, so that
    `bilinear_constants` holds between the vectors too). The numbers are rounded, as real ones are.
    """
    power = power or _speckle(480, 400)
    height, width = next(iter(power.values())).shape
    ground = ground or ascending_ground(height, width)
    constants = constants or bilinear_constants
    root = folder / f"S1B_IW_{kind}{'H' if kind == 'GRD' else '_'}_1SDV_{_PASS}_026269_032297_ECC8.SAFE"
    for number, (polarisation, values) in enumerate(power.items(), 1):
        times = "20210401t052623-20210401t052648-026269-032297"
        name = f"s1b-iw-{kind.lower()}-{polarisation.lower()}-{times}-{number:03}"
        numbers = np.round(np.sqrt(values) * constants(*np.indices(values.shape).astype(float)))
        _write_grd(root / f"measurement/{name}.tiff", np.nan_to_num(numbers).astype(np.uint16), ground, crs)
        header = _HEADER.format(kind=kind, polarisation=polarisation, number=number)
        _save(root / f"annotation/{name}.xml", f"{_XML}<product>{header}</product>")
        vectors = _calibration_vectors(height, width, constants)
        _save(
            root / f"annotation/calibration/calibration-{name}.xml",
            f"{_XML}<calibration>{header}{vectors}</calibration>",
        )
        _save(root / f"annotation/calibration/noise-{name}.xml", f"{_XML}<noise>{header}</noise>")
    _save(root / "manifest.safe", _grd_manifest(kind, list(power)))
    return _zip(root) if zipped else root


def bilinear_constants(rows: NDArray[np.floating[Any]], columns: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Constants of gamma nought that `make_grd_safe` gives by default: falling along a row, as real ones do."""
    return 640 - 0.2 * columns + 0.03 * rows + 0.0001 * rows * columns


def ascending_ground(height: int, width: int, pixel: float = 10.0) -> Affine:
    """From columns and rows to EPSG:32632 about the middle of the default granule of tile 32TQS."""
    left, top = TILES["32TQS"]
    middle = Affine.translation(left + 1200, top - 1200)
    return middle @ Affine.rotation(13.6) @ Affine.scale(pixel) @ Affine.translation(-width / 2, -height / 2)


def _speckle(height: int, width: int) -> dict[str, NDArray[np.float64]]:
    random = np.random.default_rng(1)
    return {name: mean * random.gamma(4, 0.25, (height, width)) for name, mean in (("VV", 0.08), ("VH", 0.015))}


def _write_grd(path: Path, numbers: NDArray[np.uint16], ground: Affine, crs: str) -> None:
    """Write amplitudes placed by a grid of 10 x 21 ground control points alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = numbers.shape
    grid = np.meshgrid(np.linspace(0, height - 1, 10).round(), np.linspace(0, width - 1, 21).round(), indexing="ij")
    rows, columns = (axis.ravel() for axis in grid)
    places = [ground @ (column, row) for row, column in zip(rows, columns, strict=True)]
    longitudes, latitudes = transform(crs, "EPSG:4326", *zip(*places, strict=True))
    points = [
        GroundControlPoint(row=row, col=column, x=longitude, y=latitude, z=0.0, id=str(number))
        for number, (row, column, longitude, latitude) in enumerate(
            zip(rows, columns, longitudes, latitudes, strict=True), 1
        )
    ]
    with rasterio.open(
        path, "w", driver="GTiff", count=1, height=height, width=width, dtype="uint16", gcps=points, crs="EPSG:4326"
    ) as file:
        file.write(numbers, 1)


def _calibration_vectors(height: int, width: int, constants: Constants) -> str:
    """Vectors each 120 rows, and beyond the last as real ones are, with values each 40 columns and at the last."""
    columns = np.unique([*range(0, width, 40), width - 1]).astype(float)
    vectors = []
    for row in range(0, height + 120, 120):
        gamma = constants(np.full(columns.shape, float(row)), columns)
        lists = {
            "pixel": " ".join(f"{value:.0f}" for value in columns),
            "sigmaNought": " ".join(f"{value:.6e}" for value in gamma * 1.15),
            "betaNought": " ".join(["4.740000e+02"] * len(columns)),
            "gamma": " ".join(f"{value:.6e}" for value in gamma),
            "dn": " ".join(["4.740000e+02"] * len(columns)),
        }
        inner = "".join(f'<{tag} count="{len(columns)}">{text}</{tag}>\n' for tag, text in lists.items())
        vectors.append(
            "<calibrationVector>\n<azimuthTime>2021-04-01T05:26:23.794457</azimuthTime>\n"
            f"<line>{row}</line>\n{inner}</calibrationVector>\n"
        )
    return f'<calibrationVectorList count="{len(vectors)}">\n{"".join(vectors)}</calibrationVectorList>\n'


def _grd_manifest(kind: str, polarisations: list[str]) -> str:
    tags = "".join(
        f"<s1sarl1:transmitterReceiverPolarisation>{polarisation}</s1sarl1:transmitterReceiverPolarisation>\n"
        for polarisation in polarisations
    )
    content = _SENTINEL1.format(kind=kind, polarisations=tags)
    spaces = "".join(
        f' xmlns:{prefix}="http://www.esa.int/safe/sentinel-1.0{path}"'
        for prefix, path in (("safe", ""), ("s1", "/sentinel-1"), ("s1sarl1", "/sentinel-1/sar/level-1"))
    )
    return _MANIFEST.format(content=content, kind="Sentinel-1 IW Level-1", extra=spaces)


def _product_metadata(naming: Naming, images: list[tuple[str, list[str]]], listed: bool) -> str:
    level, own = naming.level, "L2A_" if naming.prefix else ""
    uri = f"PRODUCT_URI{'_2A' if own else ''}"
    granules = "".join(
        f'<{"Granules" if naming.long else "Granule"} granuleIdentifier="{naming.granule(tile)}" '
        f'imageFormat="JPEG2000">\n{_image_list(naming, tile, names)}</{"Granules" if naming.long else "Granule"}>\n'
        for tile, names in images
    )
    quantification = '<QUANTIFICATION_VALUE unit="none">10000</QUANTIFICATION_VALUE>'
    if level == "L2A":
        quantification = "".join(
            f'<{own}{what}_QUANTIFICATION_VALUE unit="none">{value}</{own}{what}_QUANTIFICATION_VALUE>\n'
            for what, value in (("BOA", "10000"), ("AOT", "1000.0"), ("WVP", "1000.0"))
        )
    group, tag = ("Radiometric_Offset_List", "RADIO_ADD_OFFSET")
    if level == "L2A":
        group, tag = ("BOA_ADD_OFFSET_VALUES_LIST", "BOA_ADD_OFFSET")
    offsets = "".join(f'<{tag} band_id="{number}">-1000</{tag}>\n' for number in range(13))
    return _PRODUCT.format(
        level=level[1:], own=own, baseline=naming.baseline, uri=f"<{uri}>{naming.product}</{uri}>", granules=granules,
        quantification=quantification, offsets=f"<{group}>\n{offsets}</{group}>" if listed else "",
        version="13" if naming.long else "14", query=_query(naming),
    )  # fmt: skip


def _query(naming: Naming) -> str:
    if not naming.long:
        return "<PRODUCT_FORMAT>SAFE_COMPACT</PRODUCT_FORMAT>"
    bands = "".join(f"<BAND_NAME>{band.replace('B0', 'B')}</BAND_NAME>" for band in BANDS)
    return f"<Band_List>{bands}</Band_List><PRODUCT_FORMAT>SAFE</PRODUCT_FORMAT>"


def _image_list(naming: Naming, tile: str, names: list[str]) -> str:
    if naming.long:
        return "".join(f"<IMAGE_ID>{name.rpartition('/')[2]}</IMAGE_ID>\n" for name in names)
    tag = f"IMAGE_FILE{'_2A' if naming.prefix else ''}"
    return "".join(f"<{tag}>GRANULE/{naming.granule(tile)}/{name}</{tag}>\n" for name in names)


def _tile_metadata(naming: Naming, tile: str, corner: tuple[float, float], shape: tuple[int, int]) -> str:
    sizes = "".join(
        f'<Size resolution="{metres}">\n<NROWS>{shape[0] * 10 // metres}</NROWS>\n'
        f"<NCOLS>{shape[1] * 10 // metres}</NCOLS>\n</Size>\n"
        for metres in (10, 20, 60)
    )
    places = "".join(
        f'<Geoposition resolution="{metres}">\n<ULX>{corner[0]:.0f}</ULX>\n<ULY>{corner[1]:.0f}</ULY>\n'
        f"<XDIM>{metres}</XDIM>\n<YDIM>-{metres}</YDIM>\n</Geoposition>\n"
        for metres in (10, 20, 60)
    )
    return _TILE.format(
        level=naming.level[1:], baseline=naming.baseline, tile=tile, zone=zone_of(tile), sizes=sizes, places=places
    )


def _save(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _zip(root: Path) -> Path:
    """Pack a product as data hubs hand it out, and leave the zip alone."""
    path = root.with_name(f"{root.name}.zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for member in (root, *sorted(root.rglob("*"))):
            file.write(member, member.relative_to(root.parent))
    shutil.rmtree(root)
    return path


_PASS = "20210401T052623_20210401T052648"
_XML = '<?xml version="1.0" encoding="UTF-8"?>\n'

_PRODUCT = """<?xml version="1.0" encoding="UTF-8" standalone="no"?>
<n1:Level-{level}_User_Product xmlns:n1="https://psd-{version}.sentinel2.eo.esa.int/PSD/User_Product_Level-{level}.xsd">
  <n1:General_Info>
    <{own}Product_Info>
      <PRODUCT_START_TIME>2022-01-25T10:12:29.024Z</PRODUCT_START_TIME>
      {uri}
      <PROCESSING_LEVEL>Level-{level}</PROCESSING_LEVEL>
      <PRODUCT_TYPE>S2MSI{level}</PRODUCT_TYPE>
      <PROCESSING_BASELINE>{baseline}</PROCESSING_BASELINE>
      <Query_Options completeSingleTile="true">
        {query}
      </Query_Options>
      <{own}Product_Organisation>
        <Granule_List>
{granules}
        </Granule_List>
      </{own}Product_Organisation>
    </{own}Product_Info>
    <{own}Product_Image_Characteristics>
      <Special_Values>
        <SPECIAL_VALUE_TEXT>NODATA</SPECIAL_VALUE_TEXT>
        <SPECIAL_VALUE_INDEX>0</SPECIAL_VALUE_INDEX>
      </Special_Values>
      <Special_Values>
        <SPECIAL_VALUE_TEXT>SATURATED</SPECIAL_VALUE_TEXT>
        <SPECIAL_VALUE_INDEX>65535</SPECIAL_VALUE_INDEX>
      </Special_Values>
      {quantification}
      {offsets}
      <Reflectance_Conversion>
        <U>0.976</U>
        <Solar_Irradiance_List>
          <SOLAR_IRRADIANCE bandId="0" unit="W/m²/µm">1874.3</SOLAR_IRRADIANCE>
        </Solar_Irradiance_List>
      </Reflectance_Conversion>
    </{own}Product_Image_Characteristics>
  </n1:General_Info>
</n1:Level-{level}_User_Product>
"""

_TILE = """<?xml version="1.0" encoding="UTF-8" standalone="no"?>
<n1:Level-{level}_Tile_ID xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/S2_PDI_Level-{level}_Tile_Metadata.xsd">
  <n1:General_Info>
    <TILE_ID metadataLevel="Brief">S2B_OPER_MSI_L{level}_TL_2BPS_20220125T125411_A025530_T{tile}_N{baseline}</TILE_ID>
  </n1:General_Info>
  <n1:Geometric_Info>
    <Tile_Geocoding metadataLevel="Brief">
      <HORIZONTAL_CS_NAME>WGS84 / UTM zone</HORIZONTAL_CS_NAME>
      <HORIZONTAL_CS_CODE>{zone}</HORIZONTAL_CS_CODE>
{sizes}{places}
    </Tile_Geocoding>
  </n1:Geometric_Info>
</n1:Level-{level}_Tile_ID>
"""

_MANIFEST = """<?xml version="1.0" encoding="UTF-8"?>
<xfdu:XFDU xmlns:xfdu="urn:ccsds:schema:xfdu:1"{extra}>
  <informationPackageMap>
    <xfdu:contentUnit unitType="SAFE Archive Information Package" textInfo="{kind} Product"/>
  </informationPackageMap>
  <metadataSection>
{content}
  </metadataSection>
</xfdu:XFDU>
"""

_SENTINEL1 = """    <metadataObject ID="processing"><metadataWrap><xmlData>
      <safe:processing name="GRD Post Processing" start="2021-04-01T06:46:21.447386">
        <safe:facility country="France" name="Copernicus S1 Core Ground Segment" organisation="ESA">
          <safe:software name="Sentinel-1 IPF" version="003.31"/>
        </safe:facility>
        <safe:resource name="S1B_IW_RAW__0SDV.SAFE" role="Level-0 Product">
          <safe:processing name="Generation of Sentinel-1 L0 SAR Product"><safe:facility name="PAC1">
            <safe:software name="" version=""/>
          </safe:facility></safe:processing>
        </safe:resource>
      </safe:processing>
    </xmlData></metadataWrap></metadataObject>
    <metadataObject ID="platform"><metadataWrap><xmlData>
      <safe:platform><safe:familyName>SENTINEL-1</safe:familyName><safe:number>B</safe:number><safe:instrument>
        <safe:extension>
          <s1sarl1:instrumentMode><s1sarl1:mode>IW</s1sarl1:mode><s1sarl1:swath>IW</s1sarl1:swath></s1sarl1:instrumentMode>
        </safe:extension>
      </safe:instrument></safe:platform>
    </xmlData></metadataWrap></metadataObject>
    <metadataObject ID="generalProductInformation"><metadataWrap><xmlData>
      <s1sarl1:standAloneProductInformation>
{polarisations}
        <s1sarl1:productType>{kind}</s1sarl1:productType>
      </s1sarl1:standAloneProductInformation>
    </xmlData></metadataWrap></metadataObject>
    <metadataObject ID="acquisitionPeriod"><metadataWrap><xmlData>
      <safe:acquisitionPeriod>
        <safe:startTime>2021-04-01T05:26:23.794457</safe:startTime>
        <safe:stopTime>2021-04-01T05:26:48.793373</safe:stopTime>
      </safe:acquisitionPeriod>
    </xmlData></metadataWrap></metadataObject>"""

_HEADER = """
<adsHeader>
  <missionId>S1B</missionId>
  <productType>{kind}</productType>
  <polarisation>{polarisation}</polarisation>
  <mode>IW</mode>
  <swath>IW</swath>
  <startTime>2021-04-01T05:26:23.794457</startTime>
  <imageNumber>{number:03}</imageNumber>
</adsHeader>
"""
