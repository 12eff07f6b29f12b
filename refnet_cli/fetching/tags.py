"""Tags of fetched files: where each comes from, and how it is to be read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from refnet_cli.classes.schemes import SCHEMES
from refnet_cli.fetching.labels import SCHEME
from refnet_cli.fetching.layers import Facts, Layer
from refnet_cli.fetching.plan import ScenePlan
from refnet_cli.raster.acquired import ACQUIRED
from refnet_cli.raster.fills import COMPLETE


def describe_layer(plan: ScenePlan, layer: Layer, facts: dict[str, Facts]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the tags of a file and of its first band."""
    tags = {"REFNET_FETCH_SOURCE": plan.source, "REFNET_FETCH_DECISIONS": "; ".join(plan.decisions)}
    band_tags: dict[str, str] = {}
    tags["REFNET_FETCH_VALID"] = f"{facts[layer.name].share:.4f}"
    tags |= dict([COMPLETE])
    if plan.left_out:
        tags["REFNET_FETCH_LEFT_OUT"] = " ".join(plan.left_out)
    if layer.name in ("optical", "source"):
        items = [item for date in plan.optical for item in date.items]
        tags[ACQUIRED] = _span(items)
        tags["REFNET_FETCH_ITEMS"] = " ".join(item.id for item in items)
    if layer.name == "optical":
        tags |= {"PROCESSING_LEVEL": plan.level, "BOA_OFFSET_APPLIED": "true", "REFNET_FETCH_METHOD": plan.method}
    elif layer.name == "source":
        counts = np.zeros(len(plan.optical) + 1, np.int64)
        counted = facts["source"].values[: len(counts)]
        counts[: len(counted)] = counted
        if plan.method == "best":
            band_tags = {
                f"SOURCE_{number}": f"{date.items[0].day} {' '.join(item.id for item in date.items)}"
                for number, date in enumerate(plan.optical, 1)
            }
            band_tags |= {f"PIXELS_{number}": str(pixels) for number, pixels in enumerate(counts)}
        else:
            band_tags = {"SOURCE": "number of dates of the median"}
    elif layer.name == "sar":
        tags |= {
            ACQUIRED: _span(plan.sar), "REFNET_FETCH_ITEMS": " ".join(item.id for item in plan.sar),
            "RELATIVE_ORBIT": str(plan.sar[0].orbit), "ORBIT_STATE": plan.sar[0].direction,
        }  # fmt: skip
    else:
        scheme = SCHEMES[SCHEME]
        tags["REFNET_FETCH_ITEMS"] = " ".join(item.id for item in plan.labels)
        tags["LABELS"] = f"{plan.labels_product} {plan.labels[0].when.year}"
        names = {f"CLASS_{code}": name for code, name in scheme.by_code.items()}
        band_tags = {"CLASS_SCHEME": scheme.name, **names}
    return tags, band_tags


def _span(items: Sequence[Any]) -> str:
    times = sorted(item.acquired for item in items)
    return f"{times[0]}/{times[-1]}"
