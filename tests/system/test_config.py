"""Everything that people write is read in one way: whatever is wrong with it, the error names the file and the key."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refnet_cli.batch.task_list import read_tasks
from refnet_cli.classes.crosswalk import read_crosswalk
from refnet_cli.classes.scheme_files import find_scheme, read_label_codes
from refnet_cli.classes.schemes import SCHEMES, ClassScheme
from refnet_cli.cli.options import read_config
from refnet_cli.errors import ConfigError, InputError, OptionsError, RefnetError, WeightsError
from refnet_cli.model.card import Card, Modality
from refnet_cli.model.config import REFNetConfig
from refnet_cli.model.weight_files import METADATA, read_card
from refnet_cli.model.weights import import_published
from refnet_cli.prediction.distribution import InputDistribution
from refnet_cli.prediction.drift import DISTRIBUTIONS, distributions_of
from refnet_cli.prediction.options import PredictOptions
from refnet_cli.system.config import read, some
from refnet_cli.training.regions_file import read_regions
from tests.helpers.quick import examples
from tests.helpers.scenes import CARD

Entries = dict[str, Any]
Place = tuple[str | int, ...]


def to_toml(value: Any) -> str:
    """Write a value as TOML does inside a line."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{to_toml(key)} = {to_toml(entry)}" for key, entry in value.items()) + " }"
    if isinstance(value, list):
        return f"[{', '.join(map(to_toml, value))}]"
    return str(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


def write_toml(path: Path, entries: Entries) -> None:
    path.write_text("".join(f"{to_toml(key)} = {to_toml(value)}\n" for key, value in entries.items()), encoding="utf-8")


def write_line(path: Path, entries: Entries) -> None:
    path.write_text(json.dumps(entries) + "\n")


def write_safetensors(path: Path, card: Entries) -> None:
    header = json.dumps({"__metadata__": {METADATA: json.dumps(card)}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)


def write_onnx(path: Path, card: Entries) -> None:
    """Write no more of a model than its version and metadata."""

    def field(number: int, content: bytes) -> bytes:
        size = len(content)
        return bytes([number << 3 | 2, size & 0x7F | 0x80, size >> 7 & 0x7F | 0x80, size >> 14]) + content

    path.write_bytes(b"\x08\x0a" + field(14, field(1, METADATA.encode()) + field(2, json.dumps(card).encode())))


@dataclass(frozen=True)
class File:
    """A kind of file that people write."""

    name: str
    write: Callable[[Path, Entries], None]
    read: Callable[[Path], Any]
    error: type[RefnetError]
    valid: Entries
    needed: tuple[str, ...] = ()
    """Places without which it is none."""
    free: tuple[str, ...] = ()
    """Tables whose keys are the user's."""
    anything: tuple[str, ...] = ()
    """Tables that hold anything."""


SHA = "a" * 64
OPTIONS: Entries = {
    "optical": "s2.tif", "sar": ["vv.tif", "vh.tif"], "output": "map.tif", "outputs": ["areas", "stac"],
    "sar_bands": ["VV", "VH"], "optical_offset": 0, "stac": {"s2:processing_baseline": "05.10"}, "strict": True,
    "extent": "optical", "bounds": [13.1, 52, 13.5, 53, "EPSG:4326"], "grid": "grid.tif", "weights": "own.onnx",
    "smooth": 2, "threshold": 0.5, "overlap": 32, "date": "2020-07-01", "precision": "fp32",
}  # fmt: skip
REGIONS: Entries = {
    "name": "mine", "label_codes": {"10": "Vineyard", "20": 2}, "steps": 3, "batch": 2, "crop": 64, "jitter": 0.1,
    "class_weights": {"Vineyard": 1, "Orchard": 2.5}, "freeze": "encoders", "clip": 1.5, "split": "random",
    "encoder_weights": {
        "optical": {
            "file": "x.pth", "sha256": SHA, "bands": ["B02", "B03"], "level": "L2A", "mean": [400, 600.5],
            "std": [200, 300],
        },
        "sar": "decur",
    },
    "encoder_sha256": {"sar": SHA},
    "scheme": {
        "name": "two", "classes": {"1": {"name": "Vineyard", "colour": "#aa0077"}, "2": "Orchard"}, "ignore": [9],
    },
    "scenes": [
        {"name": "north", "optical": "s2.tif", "sar": ["s1.tif"], "labels": "l.tif", "mask_clouds": True},
        {
            "sar": "s1.tif", "labels": "l.gpkg", "label_field": "class", "label_codes": {"1": 1}, "label_weight": 0.5,
            "confidence": "c.tif", "confidence_band": 2, "sar_scale": "db",
        },
    ],
}  # fmt: skip
CARD_ENTRIES: Entries = json.loads(json.dumps(replace(CARD, temperature=1.5, training={"steps": [1]}).to_dict()))
MADE_BY_TENSORS = "network", "format_version", "sha256"
OF_CARDS = (
    "name", "network", "optical", "sar", "scheme", "optical.bands", "sar.mean", "sar.std", "scheme.codes",
    "scheme.colours",
)  # fmt: skip
TASK: Entries = {
    "id": "a", "optical": ["/s2.tif"], "sar": "/s1.tif", "output": "/map.tif", "refnet": "0.2", "block": [0, 0, 64, 64],
    "options": {"weights": "/own.onnx", "smooth": 2, "threshold": 0.5, "strict": True, "stac": {"a": "b"}},
}  # fmt: skip
MAPPING: Entries = {"Water": "Wet", "Trees": 2, "4": 2, "5": 2, "7": 2, "8": 2, "9": 1, "10": 0, "11": 2}
SCHEME: Entries = {"name": "two", "classes": {"1": {"name": "Wet", "colour": "#0000ff"}, "2": "Dry"}, "ignore": [9]}


def import_card(path: Path) -> Card:
    made = import_published("x.pth", path.with_suffix(".safetensors"), path)
    return read_card(made)


def read_seen(path: Path) -> Any:
    return distributions_of(replace(CARD, training={DISTRIBUTIONS: json.loads(path.read_text())}))


FILES = [
    File("run.toml", write_toml, lambda path: read_config(PredictOptions, path), ConfigError, OPTIONS, free=("stac",)),
    File(
        "regions.toml", write_toml, read_regions, ConfigError, REGIONS, ("scheme.classes",),
        ("label_codes", "class_weights", "scheme.classes", "scenes[1].label_codes", "encoder_sha256"),
    ),
    File("tasks.jsonl", write_line, read_tasks, ConfigError, TASK, ("output",), ("options.stac",)),
    File(
        "w.safetensors", write_safetensors, read_card, WeightsError, CARD_ENTRIES, OF_CARDS,
        anything=("training", "scores"),
    ),
    File("w.onnx", write_onnx, read_card, WeightsError, CARD_ENTRIES, OF_CARDS, anything=("training", "scores")),
    File(
        "card.toml", write_toml, import_card, WeightsError,
        {name: entry for name, entry in CARD_ENTRIES.items() if name not in MADE_BY_TENSORS},
        tuple(name for name in OF_CARDS if name != "network"), anything=("training", "scores"),
    ),
    File(
        "scheme.toml", write_toml, lambda path: find_scheme(str(path)), OptionsError, SCHEME, ("classes",), ("classes",)
    ),
    File(
        "crosswalk.toml", write_toml, lambda path: read_crosswalk(SCHEMES["esri-io"], str(path)), OptionsError,
        SCHEME | {"mapping": MAPPING}, ("classes", "mapping"), ("classes", "mapping"),
    ),
    File(
        "known.toml", write_toml, lambda path: read_crosswalk(SCHEMES["esri-io"], str(path)), OptionsError,
        {"scheme": "dfc2020", "mapping": MAPPING | {"Water": 8}}, ("mapping",), ("mapping",),
    ),
    File(
        "codes.toml", write_toml, read_label_codes, OptionsError, {"mapping": {"1": "Wet", "2": 0}, "ignore": [9]},
        free=("mapping",),
    ),
]  # fmt: skip
BY_NAME = {file.name: file for file in FILES}


@pytest.fixture(autouse=True)
def no_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an import make a card of nothing but what its file says."""

    class Net:
        config = CARD.network

    def save(net: Net, card: Card, path: Path) -> None:
        write_safetensors(path, json.loads(json.dumps(card.to_dict())))

    monkeypatch.setattr("refnet_cli.model.weights.read_checkpoint", lambda path: None)
    monkeypatch.setattr("refnet_cli.model.weights.from_published", lambda state: Net)
    monkeypatch.setattr("refnet_cli.model.weights.save_weights", save)


def name_of(place: Place) -> str:
    """As an error writes it: keys that are the user's in brackets, as indexes are."""
    tables = "stac|label_codes|class_weights|classes|mapping|encoder_sha256"
    text = ""
    for key in place:
        users = isinstance(key, int) or re.search(rf"(^|\.)({tables})$", text)
        text += f"[{key!r}]" if users else f".{key}"
    return text.removeprefix(".")


def places(value: Any, place: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Every place of a file, with its value."""
    if place:
        yield place, value
    for key, entry in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(entry, (*place, key))


def inside(entries: Any, place: Place) -> Any:
    for key in place:
        entries = entries[key]
    return entries


def changed(entries: Entries, place: Place, value: Any) -> Entries:
    made = deepcopy(entries)
    inside(made, place[:-1])[place[-1]] = value
    return made


def without(entries: Entries, place: Place) -> Entries:
    made = deepcopy(entries)
    del inside(made, place[:-1])[place[-1]]
    return made


def checked(file: File) -> list[tuple[Place, Any]]:
    return [
        (place, value)
        for place, value in places(file.valid)
        if not any(name_of(place).startswith((f"{table}.", f"{table}[")) for table in file.anything)
    ]


def refusal(file: File, entries: Entries, folder: Path) -> str:
    """Return what a file is refused with; the error is of the right kind and names the file."""
    path = folder / file.name
    file.write(path, entries)
    with pytest.raises(file.error) as refused:
        file.read(path)
    assert type(refused.value) is file.error
    assert str(path) in str(refused.value)
    return str(refused.value)


def wrong_values(value: Any) -> st.SearchStrategy[Any]:
    """Values of other types than a place has, and than a path or several texts in its place might have."""
    tables = st.just([[1]]) | st.just([{}])
    if isinstance(value, dict):
        return st.booleans() | st.floats(0, 1) | tables
    if isinstance(value, bool):
        return st.integers(0, 1) | st.sampled_from(["true", "", "yes"]) | tables
    if isinstance(value, int | float):
        return st.booleans() | st.just([value]) | st.just(math.nan) | st.just({"no": 1}) | tables
    return st.booleans() | st.just({"no": 1}) | tables


TYPED = [(file.name, place, value) for file in FILES for place, value in checked(file)]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_the_examples_are_right(file: File, tmp_path: Path) -> None:
    file.write(tmp_path / file.name, file.valid)
    file.read(tmp_path / file.name)


@settings(max_examples=examples(300), deadline=None)
@given(data=st.data(), chosen=st.sampled_from(TYPED))
def test_a_value_of_a_wrong_type(
    data: st.DataObject, chosen: tuple[str, Place, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    name, place, value = chosen
    wrong = data.draw(wrong_values(value))
    said = refusal(BY_NAME[name], changed(BY_NAME[name].valid, place, wrong), tmp_path_factory.mktemp("wrong"))
    assert name_of(place) in said
    assert "must be" in said or "unknown entries no" in said


NUMBERS = [
    (name, place)
    for name, place, value in TYPED
    if isinstance(value, int | float) and not isinstance(value, bool)
    # Among texts a number is a text.
    and not re.search(r"label_codes|mapping|ignore|bounds", name_of(place))
]  # fmt: skip


@settings(max_examples=examples(200), deadline=None)
@given(chosen=st.sampled_from(NUMBERS), wrong=st.sampled_from([True, math.nan, math.inf, "1"]))
def test_a_number_that_is_none(
    chosen: tuple[str, Place], wrong: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    name, place = chosen
    said = refusal(BY_NAME[name], changed(BY_NAME[name].valid, place, wrong), tmp_path_factory.mktemp("number"))
    needed = "(a whole number|a number|balanced or a table of numbers|finite)"
    assert re.search(rf"{re.escape(name_of(place))} is {wrong!r}; it must be {needed}", said)


TABLES = [
    (file, place)
    for file in FILES
    if file.name != "codes.toml"  # which may hold other things too
    for place in [(), *(place for place, value in checked(file) if isinstance(value, dict))]
    if name_of(place) not in (*file.free, *file.anything)
]


@settings(max_examples=examples(200), deadline=None)
@given(chosen=st.sampled_from(TABLES), key=st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=9))
def test_an_unknown_key(chosen: tuple[File, Place], key: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    file, table = chosen
    said = refusal(file, changed(file.valid, (*table, f"x{key}"), 1), tmp_path_factory.mktemp("unknown"))
    shown = f"x{key}" if key.isprintable() else repr(f"x{key}")
    assert f"unknown entries {shown}; known are " in said
    assert name_of(table) in said


@pytest.mark.parametrize(
    ("name", "place"), [(file.name, place) for file in FILES for place in file.needed], ids=lambda value: value
)
def test_a_missing_key(name: str, place: str, tmp_path: Path) -> None:
    said = refusal(BY_NAME[name], without(BY_NAME[name].valid, tuple(place.split("."))), tmp_path)
    assert f"{place} is missing; it must be a " in said


def test_all_faults_are_said_at_once(tmp_path: Path) -> None:
    entries = changed(REGIONS, ("steps",), "many")
    entries = changed(entries, ("scenes", 0, "colour"), "red")
    entries = changed(entries, ("scenes", 1, "label_weight"), -1)
    entries = changed(entries, ("encoder_weights", "optical", "mean", 1), True)
    entries = without(entries, ("scheme", "classes"))
    first, *lines = refusal(BY_NAME["regions.toml"], entries, tmp_path).splitlines()
    assert first.endswith("regions.toml: 5 entries are wrong.")
    assert sorted(line[:40] for line in lines) == [
        "  encoder_weights.optical.mean[1] is Tru", "  scenes[0]: unknown entries colour; kno",
        "  scenes[1]: scene-1: label_weight is -1", "  scheme.classes is missing; it must be ",
        "  steps is 'many'; it must be a whole nu",
    ]  # fmt: skip


def test_what_is_no_table(tmp_path: Path) -> None:
    for name in ("w.safetensors", "tasks.jsonl"):
        for value in ([1, 2], 3, None, "text"):
            assert "it must be a table" in refusal(BY_NAME[name], value, tmp_path)  # type: ignore[arg-type]
    assert "scenes[1] is 3; it must be a table" in refusal(
        BY_NAME["regions.toml"], changed(REGIONS, ("scenes", 1), 3), tmp_path
    )


def test_long_values_and_keys_that_are_no_text_are_shown_shortened(tmp_path: Path) -> None:
    assert len(refusal(BY_NAME["run.toml"], changed(OPTIONS, ("smooth",), "x" * 10_000), tmp_path)) < 1000
    said = refusal(BY_NAME["w.safetensors"], changed(CARD_ENTRIES, ("\x1b[2J\n",), 1), tmp_path)
    assert "\x1b" not in said
    assert r"unknown entries '\x1b[2J\n'" in said


def test_an_error_of_another_kind_stays_that(tmp_path: Path) -> None:
    write_toml(tmp_path / "run.toml", OPTIONS | {"optical": "https://a.org/a b.tif"})
    with pytest.raises(InputError, match="spaces"):
        read_config(PredictOptions, tmp_path / "run.toml")


def test_a_bug_in_a_dataclass_is_no_fault_of_the_file() -> None:
    with pytest.raises(ZeroDivisionError):
        read(Broken, {"number": 0}, "x")


@dataclass(frozen=True)
class Broken:
    """Fails for a reason of its own."""

    number: int

    def __post_init__(self) -> None:
        assert 1 / self.number


# What was written comes back.

TEXTS = st.text(max_size=9)
FINITE = st.floats(-1e6, 1e6)


@st.composite
def schemes(draw: st.DrawFn) -> ClassScheme:
    codes = draw(st.lists(st.integers(1, 255), min_size=1, max_size=5, unique=True))
    colour = st.tuples(*[st.integers(0, 255)] * 3)
    texts, colours = (draw(st.tuples(*[one] * len(codes))) for one in (TEXTS, colour))
    return ClassScheme(draw(TEXTS), tuple(codes), texts, colours)


@st.composite
def modalities(draw: st.DrawFn, unit: str) -> Modality:
    bands = draw(st.lists(st.text(min_size=1, max_size=4), min_size=1, max_size=4, unique=True))
    kinds = FINITE | st.integers(-9, 9), st.floats(1e-3, 1e4)
    means, deviations = (draw(st.tuples(*[kind] * len(bands))) for kind in kinds)
    return Modality(tuple(bands), unit, means, deviations)


@st.composite
def cards(draw: st.DrawFn) -> Card:
    optical, sar = draw(modalities("reflectance x 10000")), draw(modalities("dB"))
    scheme = draw(schemes())
    network = REFNetConfig(
        draw(st.text(min_size=1)), len(optical.bands), len(sar.bands), scheme.classes, draw(st.integers(1, 2048)),
        draw(st.integers(1, 64)), draw(st.floats(0, 0.99)), draw(st.booleans()),
    )  # fmt: skip
    plain = st.sampled_from([{}, {"steps": [1, None, True, "x"], "": {"seen": {"B02": 1.5}}}])
    return Card(
        draw(TEXTS), network, optical, sar, scheme, draw(st.sampled_from([64, 256, 4096])), draw(TEXTS), draw(plain),
        draw(plain), draw(TEXTS), draw(st.floats(0.05, 20)), sha256=draw(TEXTS),
    )  # fmt: skip


def through_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


@given(card=cards())
def test_a_card_comes_back(card: Card) -> None:
    assert Card.from_dict(through_json(card.to_dict())) == card
    assert Card.from_dict(card.to_dict()) == card
    assert json.dumps(Card.from_dict(card.to_dict()).to_dict()) == json.dumps(card.to_dict())  # a checksum covers it


@given(scheme=schemes())
def test_a_scheme_comes_back(scheme: ClassScheme) -> None:
    assert ClassScheme.from_dict(through_json(scheme.to_dict())) == scheme


@given(count=st.integers(1, 4), data=st.data())
def test_a_distribution_comes_back(count: int, data: st.DataObject) -> None:
    def rows(*shape: int) -> Any:
        if not shape:
            return data.draw(FINITE)
        return tuple(rows(*shape[1:]) for _ in range(shape[0]))

    bands = tuple(f"B{n}" for n in range(count))
    known = InputDistribution(bands, rows(count, 3), rows(count), rows(count, count), rows(count, 2))
    assert InputDistribution.from_dict(through_json(known.to_dict())) == known


def test_options_come_back(tmp_path: Path) -> None:
    write_toml(tmp_path / "run.toml", OPTIONS)
    options = PredictOptions(**read_config(PredictOptions, tmp_path / "run.toml"))
    plain = {name: value for name, value in through_json(options.to_dict()).items() if value is not None}
    assert PredictOptions(**read(some(PredictOptions), plain, "x", Path("/elsewhere"))) == options
    assert options.bounds == ("13.1", "52", "13.5", "53", "EPSG:4326")
    assert (options.optical, options.sar) == (tmp_path / "s2.tif", (tmp_path / "vv.tif", tmp_path / "vh.tif"))
    assert type(options.optical_offset) is float


@pytest.mark.parametrize(("written", "meant"), [("stepz", "steps"), ("learning-rate", "learning_rate"), ("qqq", "")])
def test_a_misspelt_key(written: str, meant: str) -> None:
    @dataclass
    class Settings:
        steps: int = 1
        learning_rate: float = 1.0

    with pytest.raises(ConfigError) as refused:
        read(Settings, {written: 1}, "x.toml")
    assert str(refused.value).endswith(f" Did you mean {meant}?" if meant else "learning_rate.")
