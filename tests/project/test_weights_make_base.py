"""The steps that make the default weights: each goes on where it was interrupted, and the last one needs the others."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "weights"))
import make_base
import places

from refnet_cli.training.config import TrainConfig


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Trainings, in the order in which they ended; each writes weights at once."""
    ended: list[str] = []

    def fit(config: TrainConfig, folder: Path) -> None:
        (folder / "refnet-base.safetensors").write_bytes(b"")
        ended.append(folder.name)

    monkeypatch.setattr(make_base, "fit", fit)
    return ended


@pytest.fixture
def maker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: list[str]) -> make_base.WeightsBuilder:
    """Of the TerraMesh samples and an Austrian place."""
    samples = places.read_terramesh(tmp_path)
    own = [replace(samples[0], name="a1", country="Austria", group="AT", label_codes=None)]
    monkeypatch.setattr(make_base, "read_places", lambda folder: own)
    monkeypatch.setattr(make_base, "label_classes", lambda learned: {1, 2})
    return make_base.WeightsBuilder(tmp_path / "out", tmp_path, tmp_path)


def score_nothing(weights: Path, places: Any, country: str, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{country}.json").write_text(json.dumps({"country": country}))


def test_a_country_that_was_interrupted_between_its_scores_goes_on(
    maker: make_base.WeightsBuilder, tmp_path: Path, trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(make_base, "score_fold", score_nothing)
    monkeypatch.setattr(make_base, "score_terramesh", stop)
    with pytest.raises(KeyboardInterrupt):
        maker.fold("Austria")
    monkeypatch.setattr(make_base, "score_terramesh", lambda *_: {"L2A": 1})
    maker.fold("Austria")
    scores = tmp_path / "out" / "scores"
    assert json.loads((scores / "terramesh-282D.json").read_text()) == {"L2A": 1}
    monkeypatch.setattr(make_base, "score_fold", stop)
    maker.fold("Austria")
    assert trained == ["pretrained", "without-Austria"]


def test_each_sample_is_left_out_with_one_country() -> None:
    """Either it lies there, or the country's fold leaves it out by name."""
    assert sorted(sample for sample in make_base.FOLDS.values() if sample) == sorted(places.TERRAMESH_PLACES)


def test_a_fold_learns_from_neither_its_country_nor_its_sample(
    maker: make_base.WeightsBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(make_base, "score_fold", score_nothing)
    monkeypatch.setattr(make_base, "score_terramesh", lambda *_: {})
    for country, gone in (("Austria", {"a1", "282D"}), ("Canada", {"609U"})):
        maker.fold(country)
        text = (tmp_path / "out" / f"without-{country}" / "regions.toml").read_text()
        named = {name for name in ("a1", *places.TERRAMESH_PLACES) if f'name = "{name}"' in text}
        assert named == {"a1", *places.TERRAMESH_PLACES} - gone


def test_weights_are_not_finished_without_all_scores(
    maker: make_base.WeightsBuilder, tmp_path: Path, trained: list[str]
) -> None:
    scores = tmp_path / "out" / "scores"
    scores.mkdir()
    for country, sample in make_base.FOLDS.items():
        for name in {country, f"terramesh-{sample}"} - {"Ireland"}:
            (scores / f"{name}.json").write_text("{}")
    with pytest.raises(SystemExit, match=r"missing: Ireland, forest\. Run them first"):
        maker.finish()
    assert trained == []


def test_weights_of_other_settings_are_doubted(
    maker: make_base.WeightsBuilder,
    trained: list[str],
    monkeypatch: pytest.MonkeyPatch,
    said: list[str],
) -> None:
    assert maker.pretrained() == maker.pretrained()
    assert not said
    monkeypatch.setattr(make_base, "PRETRAINING", "steps = 5\n")
    maker.pretrained()
    (warning,) = said
    assert "pretrained/refnet-base.safetensors was trained with other settings" in warning
    assert trained == ["pretrained"]
