"""What a resumed run reports of its input is what an undisturbed one reports."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from refnet_cli.outputs.journal import FinishedRows, Journal, read_journal
from refnet_cli.prediction.options import PredictOptions
from refnet_cli.prediction.predict import predict
from tests.helpers.batches import make_scene, punch
from tests.helpers.quick import few
from tests.helpers.scenes import PlaceEngine
from tests.helpers.seasons import make_season

Array = NDArray[Any]


class Dying(PlaceEngine):
    """Stops the run at some tile."""

    def __init__(self, last: int) -> None:
        super().__init__()
        self.last = last

    def predict(self, optical: Array, sar: Array) -> Array:
        if self.calls >= self.last:
            time.sleep(0.3)  # the rows that are finished are written in another thread
            raise KeyboardInterrupt
        return super().predict(optical, sar)


@pytest.mark.parametrize("combine", few([None, "composite", "ensemble"], "ensemble"))
def test_counts_are_those_of_an_undisturbed_run(combine: Any, tmp_path: Path) -> None:
    """Also where no output has the blocks of the finished rows read again."""
    if combine:
        given: dict[str, Any] = {"season": make_season(tmp_path / "in", ("2021-05-02", "2021-06-01"), (720, 130))}
        given |= {"combine": combine, "mask_clouds": True}
    else:
        given = dict(zip(("optical", "sar"), make_scene(tmp_path / "in", 720, 130, holes=punch), strict=True))
    given |= {"coreg": "off", "read_threads": 1}
    whole = predict(PredictOptions(output=tmp_path / "whole.tif", **given), PlaceEngine())
    assert sum(whole.counts.values()) > 1000
    again = PredictOptions(output=tmp_path / "map.tif", **given)
    with pytest.raises(KeyboardInterrupt):
        predict(again, Dying(whole.tiles["run"] * 3 // 4))
    resumed = predict(again, PlaceEngine())
    assert resumed.resumed_rows > 512
    assert resumed.counts == whole.counts
    assert resumed.sha256 == whole.sha256


def test_a_cut_journal_has_the_counts_of_its_rows(tmp_path: Path) -> None:
    planes = {"codes": (np.uint8, 1)}
    path = tmp_path / "journal"
    journal = Journal(path, {}, planes)
    for number in range(4):
        counts = {f"{number},0": {"seen": number}} if number != 2 else {}
        journal.add(FinishedRows(2 * number, {"codes": np.full((2, 5), number, np.uint8)}), counts)
    journal.close()
    stored = path.read_bytes()
    for cut in range(len(stored)):
        path.write_bytes(stored[:cut])
        rows = [found.row for found in read_journal(path, {}, planes)]
        opened = Journal(path, {}, planes)
        counted = opened.counts()
        assert [found.row for found in opened.replay()] == rows
        assert opened.next_row == 2 * len(rows)
        opened.close()
        wanted = {f"{row // 2},0": {"seen": row // 2} for row in rows if row != 4}
        assert json.dumps(wanted)[:-1] in json.dumps(counted)
        assert len(counted) <= len(wanted) + 1
