"""Errors while the dates of a season are read: each begins with its date, and keeps its window."""

from __future__ import annotations

from pathlib import Path

import pytest

from refnet_cli.errors import InputError, RefnetError
from refnet_cli.scene.options import Combine, SceneOptions
from refnet_cli.scene.season import open_season
from refnet_cli.scene.season_files import read_season
from refnet_cli.tiles.window import Window
from tests.helpers.seasons import BANDS, DAYS, RADAR, make_season


@pytest.mark.parametrize("combine", ["composite", "ensemble"])
def test_a_block_that_cannot_be_read(combine: Combine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dates = read_season(make_season(tmp_path / "place", DAYS[:2], (60, 50)))
    with open_season(dates, BANDS, RADAR, SceneOptions(), combine) as season:

        def fail(key: tuple[int, int]) -> None:
            error = InputError(f"block {key} is damaged")
            error.window = (0, 0, 60, 50)
            raise error

        monkeypatch.setattr(season.pairs[1], "make_block", fail)  # type: ignore[attr-defined]
        window = Window(0, 0, 60, 50)
        for read in (season.read, season.read_seen, lambda where: list(season.read_tiles(where))):
            with pytest.raises(RefnetError, match=f"^{DAYS[1]}: block") as caught:
                read(window)
            assert caught.value.window == (0, 0, 60, 50)
            assert isinstance(caught.value, InputError)
