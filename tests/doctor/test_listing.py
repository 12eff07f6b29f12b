"""refnet weights verify --for-listing: what weights lack before they may be listed."""

from __future__ import annotations

import hashlib
import json
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from refnet_cli.cli.main import run
from refnet_cli.doctor.listing import check_for_listing, run_self_test
from refnet_cli.errors import WeightsError
from refnet_cli.model.published import PublishedWeights
from tests.helpers.scenes import CARD
from tests.helpers.small_models import make_model, write_model

GOOD = replace(
    CARD, name="tiny", licence="CC0-1.0", scores={"validation": {}},
    training={"scenes": 3, "ground": [[0, 0, 1, 1]], "seen": {"L2A": 3}},
)  # fmt: skip
SCORES = {"overall_accuracy": 0.9, "mean_iou": 0.5, "pixels": 1000}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_model(tmp_path / "tiny.onnx", card=GOOD)


def entry_of(path: Path, **changed: object) -> PublishedWeights:
    data = path.read_bytes()
    entry = PublishedWeights(
        ("https://example.com/tiny.onnx",), hashlib.sha256(data).hexdigest(), len(data), "CC0-1.0",
        self_test=run_self_test(path),
    )  # fmt: skip
    return replace(entry, **changed)  # type: ignore[arg-type]


def test_weights_with_all_they_need_may_be_listed(path: Path) -> None:
    report = check_for_listing(path, entry_of(path), SCORES)
    assert report.missing == []
    report.check()
    # What it prints is the entry.
    printed = tomllib.loads(report.entry)["weights"]["tiny"]
    assert PublishedWeights(**(printed | {"urls": ("https://example.com/tiny.onnx",)})).sha256 == entry_of(path).sha256


def test_the_self_test_is_of_the_network(path: Path, tmp_path: Path) -> None:
    output = run_self_test(path)
    assert sum(output) == pytest.approx(1, abs=1e-5)
    assert run_self_test(path) == output
    model = make_model()
    kernel = model.graph.initializer[0]
    kernel.raw_data = bytes(len(kernel.raw_data))
    other = write_model(tmp_path / "other.onnx", model, GOOD)
    assert run_self_test(other) == pytest.approx([1 / len(output)] * len(output), abs=1e-6)
    report = check_for_listing(other, entry_of(other, self_test=output), SCORES)
    assert [check.what for check in report.missing] == ["self-test"]
    assert "not the network that was recorded" in report.missing[0].says


def test_each_lack_is_named(path: Path, tmp_path: Path) -> None:
    assert [check.what for check in check_for_listing(path).missing] == ["self-test", "evaluation"]
    bare = write_model(tmp_path / "bare.onnx", card=replace(CARD, name="refnet-base", licence="unknown"))
    lacking = {check.what for check in check_for_listing(bare).missing}
    assert lacking == {"name", "licence", "training data", "scores", "self-test", "evaluation"}
    report = check_for_listing(path, entry_of(path, sha256="0" * 64), SCORES)
    assert [check.what for check in report.missing] == ["entry"]
    with pytest.raises(WeightsError, match="cannot be listed yet: entry"):
        report.check()


def test_a_damaged_file_is_refused(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"CC0-1.0", b"CC0-2.0"))
    with pytest.raises(WeightsError, match="is damaged"):
        check_for_listing(path)


def test_the_command(path: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["weights", "verify", str(path), "--for-listing"]) == 78
    printed = capfd.readouterr()
    assert "MISSING" in printed.out
    assert "[weights.tiny]" in printed.out
    assert "cannot be listed yet: self-test, evaluation" in " ".join(printed.err.split())
    listed = tmp_path / "list.toml"
    listed.write_text(
        'hosts = ["example.com"]\n' + check_for_listing(path).entry.replace("[]", '["https://example.com/t.onnx"]')
    )
    assert run(["weights", "verify", str(path), "--for-listing", "--list", str(listed), "--json"]) == 78
    assert json.loads(capfd.readouterr().out)["missing"] == ["evaluation"]
    assert run(["weights", "verify", str(path), "--json"]) == 2


@pytest.mark.long
def test_bundled_weights_are_scored_on_a_regions_file(capfd: pytest.CaptureFixture[str]) -> None:
    regions = Path(__file__).resolve().parents[2] / "sample_data" / "regions.toml"
    run(["weights", "verify", "refnet-base", "--for-listing", "--on", str(regions), "--json"])
    found = json.loads(capfd.readouterr().out)
    assert "evaluation" not in found["missing"]
    assert found["missing"] == ["name", "self-test"]
