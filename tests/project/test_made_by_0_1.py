"""What users have from 0.1 works, or is refused with the command to run; nothing is deleted."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from refnet_cli.model.card import Card
from refnet_cli.model.weight_files import read_card
from tests.helpers.batches import Ended, here
from tests.made_by_0_1 import FILES, unpack, unpack_run

DECIDED = ("optical.scale", "optical.offset", "optical.bands", "sar.scale", "sar.bands")
PREDICT = ("predict", "--optical", "s2.tif", "--sar", "s1.tif", "--device", "cpu", "--batch", 1)


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as 0.1 left it, in which commands run."""
    folder = unpack(tmp_path)
    monkeypatch.chdir(folder)
    return folder


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each file but locks, which name their present owner."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "lock")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def hold_kept(before: dict[str, str], folder: Path, but: str = "$") -> None:
    """All files have their bytes, except those that the command continues or makes again."""
    after = digests(folder)
    assert [name for name, sha in before.items() if after.get(name) != sha and not re.match(but, name)] == []


def run_or_follow(capfd: Any, *words: object) -> Ended:
    """Run a command; if it is refused, hold that no file changed, and do what the message says, at most twice."""
    for _ in range(2):
        before = digests(Path())
        ended = here(capfd, *words)
        if ended.code == 0:
            return ended
        hold_kept(before, Path())
        words = (*words, *advice_of(ended))
    return here(capfd, *words)


def advice_of(ended: Ended) -> list[str]:
    """Options that a message names; where it names a line of the regions file, that line is changed."""
    told = ended.err + ended.out.replace('\\"', '"')
    if found := re.search(r'scheme = "terramesh"', told):
        regions = Path("regions.toml")
        regions.write_text(re.sub("^scheme = .*$", found[0], regions.read_text(), flags=re.MULTILINE))
        return []
    options = re.search(r"--(?:no-resume|overwrite|[a-z-]*scheme terramesh)", told)
    assert options, told
    return options[0].split()


def read_codes(path: str) -> np.ndarray:
    with rasterio.open(path) as file:
        return np.asarray(file.read(1))


@pytest.mark.parametrize("name", ["map/lulc.tif", "north.tif"])
def test_maps_are_intact(name: str, made: Path, capfd: Any) -> None:
    ended = here(capfd, "verify", name)
    assert (ended.code, ended.err) == (0, "")


def test_maps_are_scored_by_their_class_names(made: Path, capfd: Any) -> None:
    """Codes 5 and 6 were built area and bare ground; both files use the codes of 0.1."""
    ended = run_or_follow(capfd, "evaluate", "map/lulc.tif", "labels.tif", "--json")
    assert ended.code == 0, ended.err
    scores = json.loads(ended.out)
    codes, truth = read_codes("map/lulc.tif"), read_codes("labels.tif")
    both = (codes > 0) & (truth > 0)
    assert scores["overall_accuracy"] == pytest.approx((codes == truth)[both].mean())
    for name, code in (("Crops", 4), ("Built area", 5), ("Bare ground", 6)):
        assert scores["labelled"][name] == np.count_nonzero(both & (truth == code)) > 0


@pytest.mark.parametrize("name", ["tiny.safetensors", "tiny.onnx"])
def test_weights_are_intact(name: str, made: Path, capfd: Any) -> None:
    ended = here(capfd, "weights", "verify", name)
    assert (ended.code, ended.err) == (0, "")
    assert read_card(made / name).sha256 in ended.out


def test_a_card_means_what_it_meant(made: Path) -> None:
    stored = json.loads((FILES / "tiny.card.json").read_text())
    card = read_card(made / "tiny.safetensors")
    assert card == Card.from_dict(stored)
    assert card.sha256 == stored["sha256"]
    assert [*card.scheme.names] == [*stored["scheme"]["names"]]
    assert [*card.scheme.codes] == [*stored["scheme"]["codes"]]


@pytest.mark.parametrize("name", ["tiny.safetensors", "tiny.onnx"])
def test_maps_of_weights_keep_the_codes_of_their_card(name: str, made: Path, capfd: Any) -> None:
    before = digests(made)
    ended = here(capfd, *PREDICT, "--weights", name, "-o", "new.tif", "--bounds", "244040,6202500,244680,6203780")
    assert ended.code == 0, ended.err
    with rasterio.open("new.tif") as file:
        tags = file.tags(1)
    scheme = json.loads((FILES / "tiny.card.json").read_text())["scheme"]
    for code, class_name in zip(scheme["codes"], scheme["names"], strict=True):
        assert tags[f"CLASS_{code}"] == class_name
    hold_kept(before, made)


def test_a_config_decides_what_it_decided(made: Path, capfd: Any) -> None:
    before = digests(made)
    ended = here(capfd, "predict", "--config", "run.toml", "-o", "new.tif")
    assert ended.code == 0, ended.err
    assert "map/lulc.tif" not in ended.out
    said = []
    for name in ("map/lulc.tif", "new.tif"):
        with rasterio.open(name) as file:
            decisions = json.loads(file.tags()["REFNET_DECISIONS"])
        said.append({made["what"]: made["value"] for made in decisions if made["what"] in DECIDED})
    assert said[0] == said[1]
    assert len(said[0]) == len(DECIDED)
    hold_kept(before, made)


def test_tasks_that_are_done_are_known(made: Path, capfd: Any) -> None:
    before = digests(made)
    ended = here(capfd, "batch", "status", "blocks.jsonl")
    assert ended.code == 1
    assert "1 of 2 blocks done" in ended.err
    assert ended.out.splitlines() == [str(made / "wide.tif.blocks" / "000512-000000.shard")]
    hold_kept(before, made)


@pytest.mark.long
def test_tasks_are_run_to_the_end(made: Path, capfd: Any) -> None:
    """The first of the maps may have to be made again, as other weights are bundled now."""
    before = digests(made)
    ended = run_or_follow(capfd, "batch", "run", "tasks.jsonl", "--device", "cpu")
    assert ended.code == 0, ended.err
    assert (made / "south.tif").exists()
    again = ended.outcomes[0]["status"] == "done"
    hold_kept(before, made, "north" if again else "$")
    assert here(capfd, "batch", "status", "tasks.jsonl").code == 0


def test_blocks_of_two_versions_are_not_put_together(made: Path, capfd: Any) -> None:
    """What one version decides differently would show at their border."""
    before = digests(made)
    ended = here(capfd, "batch", "run", "blocks.jsonl")
    assert ended.statuses == {"failed": 1, "done": 1}
    (refused,) = (outcome for outcome in ended.outcomes if outcome["status"] == "failed")
    assert refused["code"] == 64
    assert "000000-000000.shard" in refused["message"]
    assert "--overwrite" in refused["message"]
    hold_kept(before, made)
    ended = here(capfd, "batch", "merge", "blocks.jsonl")
    assert ended.code == 1
    (outcome,) = ended.outcomes
    assert outcome["code"] in (64, 65)
    assert "000000-000000.shard" in outcome["message"]
    assert not (made / "wide.tif").exists()
    hold_kept(before, made)


def test_an_interrupted_run_leads_to_the_map_of_an_undisturbed_one(made: Path, capfd: Any) -> None:
    before = digests(made)
    for output in ("map.tif", "other.tif"):
        ended = run_or_follow(capfd, *PREDICT, "--weights", "tiny.onnx", "-o", output)
        assert ended.code == 0, ended.err
    assert (made / "map.tif").read_bytes() == (made / "other.tif").read_bytes()
    hold_kept(before, made, r"\.map\.tif\.refnet/")


def test_cards_load_as_terramesh(made: Path) -> None:
    """The stored card keeps the name that its checksum covers."""
    assert json.loads((FILES / "tiny.card.json").read_text())["scheme"]["name"] == "esri-io"
    for name in ("tiny.safetensors", "tiny.onnx"):
        assert read_card(made / name).scheme.name == "terramesh"


@pytest.mark.long
def test_maps_of_old_weights_say_which_codes_they_keep(made: Path, capfd: Any) -> None:
    """And `--scheme esri-io` writes the official ones."""
    words = (*PREDICT, "--weights", "tiny.safetensors")
    assert here(capfd, *words, "-o", "old.tif").code == 0
    assert here(capfd, *words, "-o", "new.tif", "--scheme", "esri-io").code == 0
    tables = []
    for name, scheme in (("old.tif", "terramesh"), ("new.tif", "esri-io")):
        with rasterio.open(name) as file:
            tags = file.tags(1)
        assert tags["CLASS_SCHEME"] == scheme
        tables.append({tags[key]: int(key[6:]) for key in tags if re.fullmatch(r"CLASS_\d+", key)})
    old, new = read_codes("old.tif"), read_codes("new.tif")
    assert (new[old == 0] == 0).all()
    for class_name, code in tables[0].items():
        assert (new[old == code] == tables[1][class_name]).all()


def test_a_scheme_that_contradicts_a_map_is_an_error(made: Path, capfd: Any) -> None:
    """The map of 0.1 says esri-io, and by its classes' names means terramesh."""
    ended = here(capfd, "evaluate", "map/lulc.tif", "labels.tif", "--scheme", "esri-io")
    assert ended.code == 64, ended.err


def test_labels_of_0_1_are_refused_where_esri_io_is_stated(made: Path, capfd: Any) -> None:
    """They hold 3 or 6, which the official table lacks."""
    before = digests(made)
    ended = here(capfd, "train", "regions.toml", "-o", "new", "--dry-run")
    assert ended.code == 65, ended.err
    assert 'scheme = "terramesh"' in ended.err
    hold_kept(before, made)
    assert advice_of(ended) == []  # changes the regions file
    assert here(capfd, "train", "regions.toml", "-o", "new", "--dry-run").code == 0


@pytest.mark.parametrize(
    ("words", "option"),
    [
        pytest.param(("predict", "--config", "run.toml"), "--overwrite", marks=pytest.mark.long),
        ((*PREDICT, "--weights", "tiny.onnx", "-o", "map.tif"), "--no-resume"),
        pytest.param(
            ("batch", "run", "tasks.jsonl", "--index", "0", "--of", "2"), "--overwrite", marks=pytest.mark.long
        ),
        (("batch", "run", "blocks.jsonl", "--index", "0", "--of", "2"), "--overwrite"),
    ],
)
def test_what_would_be_replaced_is_kept_until_asked(
    words: tuple[object, ...], option: str, made: Path, capfd: Any
) -> None:
    before = digests(made)
    ended = here(capfd, *words)
    assert ended.code != 0
    assert option in ended.err + ended.out
    hold_kept(before, made)
    ended = here(capfd, *words, option)
    assert ended.code == 0, ended.err


def test_blocks_made_again_are_the_map_of_a_single_run(made: Path, capfd: Any) -> None:
    assert here(capfd, "batch", "run", "blocks.jsonl", "--overwrite").statuses == {"done": 2}
    assert here(capfd, "batch", "merge", "blocks.jsonl").code == 0
    assert here(capfd, *PREDICT, "--weights", "tiny.onnx", "-o", "single.tif").code == 0
    assert (read_codes("wide.tif") == read_codes("single.tif")).all()


def steps_of(run: Path) -> np.ndarray:
    """Numbers of the table of steps."""
    return np.loadtxt(run / "steps.csv", delimiter=",", skiprows=1)


@pytest.mark.long
@pytest.mark.parametrize(("name", "steps"), [("interrupted", 4), ("trained", 6)])
def test_trainings_go_on(name: str, steps: int, made: Path, capfd: Any) -> None:
    """They end where 0.1 ended when nothing interrupted it."""
    whole = steps_of(unpack_run(made, "trained"))
    run = unpack_run(made, name)
    before = digests(made)
    ended = run_or_follow(capfd, "train", "regions.toml", "-o", name)
    assert ended.code == 0, ended.err
    assert f"resuming after step {steps}" in ended.err
    assert read_card(run / "tiny.safetensors").training["steps_done"] == 6
    np.testing.assert_allclose(steps_of(run), whole, rtol=1e-3)
    hold_kept(before, made, f"{name}/|regions.toml")


def test_no_file_holds_a_path_of_another_machine() -> None:
    """`unpack` replaces one folder; another one would be looked for where tests run."""
    texts = [path for path in FILES.rglob("*") if path.is_file() and path.suffix != ".xz"]
    assert texts
    for path in texts:
        assert not re.findall(rb"/(?:home|root|tmp|work|Users)/[\w./-]*", path.read_bytes()), path
