"""The products of a scene: layers that are read together, from the items of a plan to files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refnet_cli.classes.schemes import SCHEMES
from refnet_cli.errors import InputMissingError, OptionsError, StorageError
from refnet_cli.fetching.catalogues import Catalogue
from refnet_cli.fetching.labels import SCHEME, LabelMosaic
from refnet_cli.fetching.layers import Facts, Layer, Rows, count_facts, write_layer
from refnet_cli.fetching.optical import Composite, OpticalDate
from refnet_cli.fetching.options import POLARISATIONS
from refnet_cli.fetching.plan import ScenePlan
from refnet_cli.fetching.reading import Reader
from refnet_cli.fetching.sar import SarMosaic
from refnet_cli.fetching.tags import describe_layer


@dataclass(frozen=True)
class Product:
    """Layers that are read together."""

    name: str
    layers: tuple[Layer, ...]
    rows: Rows
    pixel_bytes: int
    """Bytes of memory that a pixel takes while it is read."""


def products_of(plan: ScenePlan, about: Catalogue, reader: Reader) -> list[Product]:
    """Return the products of a plan: optical, and SAR and labels where it has any.

    Raises
    ------
    OptionsError
        If the catalogue has no collection for what is planned.
    """
    grid = plan.grid.grid()
    if about.optical is None:
        raise OptionsError(f"{about.title} has no Sentinel-2 collection.")
    dates = [OpticalDate(date.items, date.clear) for date in plan.optical]
    composite = Composite(dates, plan.bands, plan.method, about.optical, grid, reader)
    layers = (
        Layer("optical", "s2.tif", "uint16", 0, plan.bands),
        Layer("source", "source.tif", "uint16", 0, ("source",), overviews="NEAREST"),
    )
    together = (len(dates) if plan.method == "median" else 1) * 2
    found = [Product("optical", layers, composite, 2 * len(plan.bands) * together)]
    if plan.sar:
        if about.sar is None:
            raise OptionsError(f"{about.title} has no Sentinel-1 collection.")
        mosaic = SarMosaic(plan.sar, POLARISATIONS, about.sar, grid, reader)
        layer = Layer("sar", "s1.tif", "float32", about.sar.nodata, POLARISATIONS, unit="power")
        found.append(Product("sar", (layer,), mosaic, 16))
    if plan.labels:
        labels = LabelMosaic(plan.labels, about.labels[plan.labels_product], grid, reader)
        found.append(Product("labels", (_label_layer(),), labels, 4))
    return found


def write_product(
    plan: ScenePlan, product: Product, journal: Path, identity: dict[str, Any]
) -> tuple[list[tuple[Layer, Path]], list[str]]:
    """Write the files of a product from its journal.

    Returns
    -------
    files : list of (Layer, Path)
    warnings : list of str

    Raises
    ------
    InputMissingError
        If no pixel has optical or SAR data.
    StorageError
        If the journal is not whole.
    """
    grid = plan.grid.grid()
    facts = count_facts(journal, identity, product.layers, product.pixel_bytes, grid.shape[1])
    for layer in product.layers:
        if facts[layer.name].pixels != grid.shape[0] * grid.shape[1]:
            raise StorageError(f"{journal} is damaged. Fetch again with --no-resume.")
    warnings = _check_share(plan, product, facts)
    made = []
    for layer in product.layers:
        tags, band_tags = describe_layer(plan, layer, facts)
        path = write_layer(
            journal, identity, product.layers, layer, grid, product.pixel_bytes, tags, band_tags
        )
        made.append((layer, path))
    return made, warnings


def _check_share(plan: ScenePlan, product: Product, facts: Mapping[str, Facts]) -> list[str]:
    """Refuse a product without any data; return a warning of one with less than planned."""
    share = facts[product.layers[0].name].share
    if share == 0 and product.name != "labels":
        raise InputMissingError(
            f"The {product.name} files of {plan.name} have no data in the area, although the catalogue says so. "
            "Give other --dates, or another --source."
        )
    limit = {"optical": plan.clear - 0.02, "sar": 0.98, "labels": 0.5}[product.name]
    if share >= limit:
        return []
    return [f"{plan.name}: {product.layers[0].file} has data in {share:.1%} of the pixels only"]


def _label_layer() -> Layer:
    scheme = SCHEMES[SCHEME]
    colours = {code: (*colour, 255) for code, colour in zip(scheme.codes, scheme.colours, strict=True)}
    return Layer(
        "labels", "labels.tif", "uint8", 0, ("labels",), overviews="MODE", colours={0: (0, 0, 0, 0)} | colours
    )
