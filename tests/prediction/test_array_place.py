"""Arrays have no place, and what is said of them names none."""

from __future__ import annotations

import json

import numpy as np

from refnet_cli.prediction.arrays import predict_arrays
from tests.helpers.scenes import PlaceEngine


def test_decisions_name_no_reference_system() -> None:
    random = np.random.default_rng(0)
    optical, sar = random.uniform(0.02, 0.3, (4, 40, 50)), random.uniform(-20, -8, (2, 40, 50))
    report = predict_arrays(optical, sar, engine=PlaceEngine(), pixel_size=20).report
    (grid,) = [made for made in report.decisions if made["what"] == "grid"]
    assert grid["value"] == [40, 50]
    assert "20 m" in grid["how"]
    assert "no place" in grid["how"]
    assert "EPSG" not in json.dumps(report.to_dict()) + json.dumps(report.provenance.tags) + report._repr_html_()
