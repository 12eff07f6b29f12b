"""Distil measured signatures of land-cover classes into sample_data/signatures.json, which the simulation draws from.

``python sample_data/make_signatures.py MEASUREMENTS [OUTPUT]`` reads entries by class, source and season or place, each
with mean, percentiles and correlations of eleven bands. It keeps, for the six bands of the simulation, how classes
differ between places, with correlations and snow for `vary.py`, and how their pixels vary inside one scene.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

BANDS = ("B02", "B03", "B04", "B08", "VV", "VH")
OPTICAL = 4
SEASONS = ("djf", "mam", "jja", "son")
# The simulation's class -> the measurements' classes; flooded vegetation was measured inside one scene only.
CLASSES = {
    "water": ("water",), "trees": ("trees",), "crops": ("crops",), "built": ("built",), "bare": ("bare",),
    "rangeland": ("rangeland (grass)", "rangeland (shrub)"),
}  # fmt: skip
SOURCE = (
    "Measured on real pixels. between_places: Sentinel-2 L2A and Sentinel-1 GRD pixels of monthly composites all "
    "over the world, labelled by ESA WorldCover, by season of the hemisphere (median; spread = standard "
    "deviation, for reflectance of its natural logarithm). inside_scene: spread and correlation inside one place "
    "on one date, averaged over up to four places labelled by Esri/Impact Observatory; speckle included. "
    "between_correlation: of the pixels of between_places, seasons averaged. snow: percentiles of pixels in Canada "
    "that ESA WorldCover calls bare, December to February; about half of them lay under snow. Contains"
    " modified Copernicus Sentinel data. Units: reflectance x 10000 and dB."
)


def average(values: list[NDArray[np.float64]], weights: list[float]) -> NDArray[np.float64]:
    """Weighted mean of equally shaped arrays."""
    return np.asarray(np.average(values, axis=0, weights=weights))


def distil(measurements: dict[str, Any]) -> dict[str, Any]:
    """Return what signatures.json holds, made of the measurements' entries."""
    entries = measurements["entries"]
    at = [measurements["features"].index(band) for band in BANDS]

    def take(entry: dict[str, Any], key: str) -> NDArray[np.float64]:
        return np.array(entry[key])[at]

    def spread(entry: dict[str, Any]) -> NDArray[np.float64]:
        low, high = np.maximum(take(entry, "p5")[:OPTICAL], 20), take(entry, "p95")[:OPTICAL]
        # 3.29 standard deviations of a normal distribution lie between its 5th and 95th percentile.
        return np.concatenate([np.log(high / low) / 3.29, take(entry, "std")[OPTICAL:]])

    between: dict[str, Any] = {}
    alike: dict[str, Any] = {}
    for name, measured in CLASSES.items():
        between[name] = {}
        everywhere = [e for e in entries if e["class"] in measured and e["source"].startswith("world")]
        correlations = [np.array(e["correlation"])[np.ix_(at, at)] for e in everywhere]
        alike[name] = average(correlations, [float(e["n"]) for e in everywhere]).round(2).tolist()
        for season in SEASONS:
            there = [
                e for e in entries
                if e["class"] in measured and e["source"].startswith("world") and e["group"] == season
            ]  # fmt: skip
            weights = [float(e["n"]) for e in there]
            between[name][season] = {
                "median": average([take(e, "p50") for e in there], weights).round(2).tolist(),
                "spread": average([spread(e) for e in there], weights).round(3).tolist(),
            }
    inside = {}
    for name in (*CLASSES, "flooded vegetation"):
        there = [e for e in entries if e["class"] == name and e["source"].startswith("terramind")]
        weights = [float(np.sqrt(e["n"])) for e in there]
        inside[name] = {
            "spread": average([spread(e) for e in there], weights).round(3).tolist(),
            "correlation": average([np.array(e["correlation"])[np.ix_(at, at)] for e in there], weights)
            .round(3)
            .tolist(),
        }
    (winter,) = (
        e for e in entries if e["class"] == "bare" and e["source"].startswith("canada") and e["group"] == "djf"
    )
    snow = {key: take(winter, key).round(2).tolist() for key in ("p50", "p95", "std")}
    return {
        "source": SOURCE,
        "bands": list(BANDS),
        "between_places": between,
        "inside_scene": inside,
        "between_correlation": alike,
        "snow": snow,
    }


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Distil measured signatures for the simulation.")
    parser.add_argument("measurements", type=Path)
    parser.add_argument("output", type=Path, nargs="?", default=Path(__file__).with_name("signatures.json"))
    options = parser.parse_args()
    signatures = distil(json.loads(options.measurements.read_text()))
    options.output.write_text(json.dumps(signatures, indent=1) + "\n")


if __name__ == "__main__":
    main()
