"""A SAFE product of either sensor."""

from __future__ import annotations

from pathlib import Path

from refnet_cli.sensors.safe.files import MANIFEST, find_metadata, open_product
from refnet_cli.sensors.safe.optical import OpticalProduct, read_optical
from refnet_cli.sensors.safe.sar import CorrectedProduct, SarProduct, read_sar
from refnet_cli.sensors.safe.xml import parse


def read_safe(path: str | Path) -> OpticalProduct | SarProduct | CorrectedProduct:
    """Read the metadata of a Sentinel-2 (L1C, L2A) or Sentinel-1 (GRD, NRB) SAFE product.

    Parameters
    ----------
    path : str or Path
        The product's folder, its metadata file (MTD_MSIL1C.xml, MTD_MSIL2A.xml, manifest.safe) or its zip.

    Raises
    ------
    InputMissingError
        If the path does not exist or cannot be read.
    InputError
        If it is not such a product, or is damaged or malicious.
    """
    path = Path(path)
    files = open_product(path)
    metadata = find_metadata(files, path.name)
    root = parse(files, metadata)
    return read_sar(files, root) if metadata == MANIFEST else read_optical(files, metadata, root)
