"""The walk over an ONNX file's outermost fields, against the onnx package; damage of all kinds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from refnet_cli.errors import InputMissingError, RefnetError, WeightsError
from refnet_cli.model.weight_files import METADATA, read_card, read_header, verify
from refnet_cli.system import onnx_metadata as onnx_file
from refnet_cli.system.onnx_metadata import LARGEST_ENTRY, digest, is_onnx, read_metadata
from tests.helpers.limits import permissions_hold
from tests.helpers.quick import examples, few
from tests.helpers.scenes import CARD
from tests.helpers.small_models import entries, make_model, write_model

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
WEIGHTS = Path(__file__).resolve().parents[2] / "weights"
quickly = settings(
    max_examples=examples(150), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_model(tmp_path / "small.onnx")


def varint(value: int) -> bytes:
    """A number as protocol buffers write it."""
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def message(key: bytes, value: bytes) -> bytes:
    return field(14, field(1, key) + field(2, value))


def outcome(call: Callable[[], Any]) -> Any:
    """What a call gives, or the refusal; anything else that it raises is a bug."""
    try:
        return call()
    except (WeightsError, InputMissingError) as error:
        return type(error)


def place_of_card(path: Path) -> tuple[int, int]:
    """Where in the file the card's entry lies: at its end."""
    content = path.read_bytes()
    entry = entries({METADATA: json.dumps(read_card(path).to_dict())})
    assert content.endswith(entry)
    return len(content) - len(entry), len(content)


# --- whole files -----------------------------------------------------------------------------------------------------


@quickly
@given(metadata=st.dictionaries(TEXTS, TEXTS, max_size=6))
def test_metadata_are_those_that_the_onnx_package_wrote(tmp_path: Path, metadata: dict[str, str]) -> None:
    model = make_model()
    onnx.helper.set_model_props(model, metadata)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    assert read_metadata(tmp_path / "m.onnx") == metadata
    assert is_onnx(tmp_path / "m.onnx")


@quickly
@given(metadata=st.dictionaries(TEXTS, TEXTS, max_size=4))
def test_metadata_may_lie_anywhere_in_the_file(tmp_path: Path, metadata: dict[str, str]) -> None:
    """A message may be written in parts: what the onnx package makes of the whole is what we read."""
    plain = make_model().SerializeToString()
    first = varint(1 << 3) + varint(10)
    (tmp_path / "m.onnx").write_bytes(first + entries({"before": "x"}) + plain + entries(metadata))
    found = {entry.key: entry.value for entry in onnx.load(tmp_path / "m.onnx").metadata_props}
    assert read_metadata(tmp_path / "m.onnx") == found == {"before": "x"} | metadata


def test_the_last_of_an_entrys_keys_and_values_counts(tmp_path: Path) -> None:
    twice = field(14, field(2, b"old") + field(1, b"a") + field(1, b"b") + field(2, b"new") + field(7, b"unknown"))
    only_key = field(14, field(1, b"c"))
    content = make_model().SerializeToString() + twice + only_key
    (tmp_path / "m.onnx").write_bytes(content)
    assert {e.key: e.value for e in onnx.load_from_string(content).metadata_props} == {"b": "new", "c": ""}
    assert read_metadata(tmp_path / "m.onnx") == {"b": "new", "c": ""}


def test_fields_of_every_kind_are_passed_over(tmp_path: Path) -> None:
    unknown = (
        varint(900 << 3) + varint(2**64 - 1) + varint(901 << 3 | 1) + bytes(8) + varint(902 << 3 | 5) + bytes(4)
        + field(903, b"\xff" * 300) + field(904, b"")
    )  # fmt: skip
    content = make_model().SerializeToString() + unknown + message(b"k", b"v") + unknown
    (tmp_path / "m.onnx").write_bytes(content)
    assert onnx.load_from_string(content).metadata_props[0].key == "k"
    assert read_metadata(tmp_path / "m.onnx") == {"k": "v"}


def test_the_digest_is_that_of_the_file_without_the_entry(path: Path) -> None:
    start, end = place_of_card(path)
    content = path.read_bytes()
    assert digest(path, without=METADATA) == hashlib.sha256(content[:start] + content[end:]).digest()
    assert digest(path, without="nothing") == hashlib.sha256(content).digest()


def test_cards_survive(path: Path) -> None:
    card = verify(path)
    assert replace(card, sha256="") == CARD
    assert len(card.sha256) == 64


@pytest.mark.parametrize("shipped", sorted(WEIGHTS.glob("*.onnx")), ids=lambda path: path.name)
def test_shipped_models_are_intact_and_the_onnx_package_reads_the_same(shipped: Path) -> None:
    assert verify(shipped).name == "refnet-base"
    model = onnx.load(shipped)
    assert read_metadata(shipped) == {entry.key: entry.value for entry in model.metadata_props}


# --- damage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", few([1, 5], 5))
def test_every_byte_counts(path: Path, step: int) -> None:
    """A changed byte is noticed, unless the card says the same with it, as with another kind of white space."""
    content, card = path.read_bytes(), read_card(path)
    start, end = place_of_card(path)
    for at in range(0, len(content), step):
        for flip in (0x01, 0x80) if at < start else (0x15, 0x29):
            damaged = bytearray(content)
            damaged[at] ^= flip
            path.write_bytes(damaged)
            found = outcome(lambda: verify(path))
            if found != WeightsError:
                assert start <= at < end
                assert found == card


@pytest.mark.parametrize("added", [b"\0", b"\x7a\0", field(903, b"x"), message(b"k", b"v"), field(7, b"")], ids=repr)
def test_added_bytes_are_noticed(path: Path, added: bytes) -> None:
    content = path.read_bytes()
    start, _ = place_of_card(path)
    for damaged in (content + added, content[:start] + added + content[start:], added + content):
        path.write_bytes(damaged)
        with pytest.raises(WeightsError):
            verify(path)


def test_a_second_card_is_noticed(path: Path) -> None:
    """Whichever of two ONNX Runtime takes, and the onnx package's checker takes none."""
    content = path.read_bytes()
    start, _ = place_of_card(path)
    other = entries({METADATA: json.dumps(replace(read_card(path), notice="Forged.").to_dict())})
    for damaged in (content + other, content[:start] + other + content[start:], content + content[start:]):
        path.write_bytes(damaged)
        with pytest.raises(WeightsError):
            verify(path)


@pytest.mark.parametrize("step", few([1, 5], 5))
def test_every_truncation_is_refused(path: Path, step: int) -> None:
    content = path.read_bytes()
    for length in range(0, len(content), step):
        path.write_bytes(content[:length])
        assert outcome(lambda: verify(path)) is WeightsError


@quickly
@given(content=st.binary(max_size=300))
@example(b"")
@example(b"\x08")
@example(b"\x08\x0a\x72")
@example(b"\x08\x0a" + b"\xff" * 30)
@example(b"\x08\x0a\x72\x02\x0a\x01")
@example(b"\x08\x0a\x72\x03\x0a\x01\xff")
@example(b"\x08\x0a\x70\x05")
@example(b"\x08\x0a\x73\x74")
def test_random_bytes_are_read_or_refused(tmp_path: Path, content: bytes) -> None:
    for start in (b"", b"\x08\x0a", b"\x08\x0a\x72"):
        (tmp_path / "m.onnx").write_bytes(start + content)
        read = outcome(lambda: read_metadata(tmp_path / "m.onnx"))
        walked = outcome(lambda: digest(tmp_path / "m.onnx", METADATA))
        assert (read is WeightsError) == (walked is WeightsError)
        # A tiny file is never mistaken for one with a card.
        assert outcome(lambda: verify(tmp_path / "m.onnx")) is WeightsError


@quickly
@given(data=st.data())
def test_several_changes_at_once_are_refused(path: Path, data: st.DataObject) -> None:
    content = bytearray(write_model(path).read_bytes())
    start, _ = place_of_card(path)
    for at in data.draw(st.sets(st.integers(0, start - 1), min_size=1, max_size=6)):
        content[at] = data.draw(st.integers(0, 255).filter(lambda value, at=at: value != content[at]))
    path.write_bytes(content[: data.draw(st.integers(start, len(content)))])
    assert outcome(lambda: verify(path)) is WeightsError


@pytest.mark.parametrize("length", [2**31 - 1, 2**31, 2**32, 2**62, 2**63, 2**64 - 1, 2**69])
@pytest.mark.parametrize("number", [7, 14, 900])
def test_huge_lengths_are_refused_at_once(path: Path, length: int, number: int) -> None:
    path.write_bytes(b"\x08\x0a" + varint(number << 3 | 2) + varint(length) + b"x")
    with pytest.raises(WeightsError, match="exceeds its message"):
        read_metadata(path)


def test_metadata_too_long_to_be_any_are_refused_unread(path: Path) -> None:
    """A sparse file of a size that would not fit into memory."""
    length = 2**45
    inner = b"\x12" + varint(length)
    with path.open("wb") as file:
        file.write(b"\x08\x0a\x72" + varint(length + len(inner)) + inner)
        try:
            file.truncate(file.tell() + length)
        except OSError:
            length = LARGEST_ENTRY + 1
            inner = b"\x12" + varint(length)
            file.seek(0)
            file.write(b"\x08\x0a\x72" + varint(length + len(inner)) + inner)
            file.truncate(file.tell() + length)
    with pytest.raises(WeightsError, match="metadata entry has"):
        read_metadata(path)


def test_text_that_is_none_is_refused(path: Path) -> None:
    path.write_bytes(path.read_bytes() + message(b"k", b"\xff\xfe"))
    with pytest.raises(WeightsError, match="not an ONNX model, or is damaged"):
        read_metadata(path)


def test_a_file_that_shrinks_under_way_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"\x08\x0a" + field(7, b"x" * 9_000)
    path.write_bytes(content[:200])
    monkeypatch.setattr(onnx_file, "_size", lambda file: len(content))
    with pytest.raises(WeightsError):
        digest(path, METADATA)


# --- other files -----------------------------------------------------------------------------------------------------


def test_safetensors_are_never_taken_for_onnx(tmp_path: Path) -> None:
    """Not even where the header's length begins with the byte that models begin with."""
    other = tmp_path / "w.safetensors"
    for size in range(8, 8 + 256 * 3):
        header = json.dumps({"__metadata__": {"refnet": "{}"}}).encode().ljust(max(size, 40))
        other.write_bytes(len(header).to_bytes(8, "little") + header)
        assert not is_onnx(other)
    header = b"{}".ljust(8)
    other.write_bytes(len(header).to_bytes(8, "little") + header)
    assert not is_onnx(other)
    assert read_header(other)[0] == {}


def test_onnx_is_never_taken_for_safetensors(path: Path) -> None:
    for producer in ("", "pytorch", "refnet", "{}{}{}{}", "x" * 300):
        model = make_model()
        model.producer_name = producer
        path.write_bytes(model.SerializeToString())
        assert is_onnx(path)
        with pytest.raises(WeightsError, match="not a safetensors file"):
            read_header(path)


def test_models_without_a_card_are_refused(path: Path) -> None:
    path.write_bytes(make_model().SerializeToString() + entries({"other": "{}"}))
    with pytest.raises(WeightsError, match="has no refnet card"):
        read_card(path)
    path.write_bytes(make_model().SerializeToString() + entries({METADATA: "{"}))
    with pytest.raises(WeightsError, match=r"card of .* is damaged"):
        read_card(path)


def test_what_cannot_be_opened_is_missing(tmp_path: Path) -> None:
    for other in (tmp_path, tmp_path / "none.onnx", tmp_path / "none" / "x.onnx"):
        assert not is_onnx(other)
        for read in (read_metadata, lambda path: digest(path, METADATA), verify):
            with pytest.raises(InputMissingError):
                read(other)


def test_what_may_not_be_read_is_missing(path: Path) -> None:
    path.chmod(0)
    with permissions_hold(), pytest.raises(InputMissingError, match="cannot be read"):
        read_metadata(path)


def test_refusals_name_the_file_in_one_line(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(RefnetError) as caught:
        verify(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
