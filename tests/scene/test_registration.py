"""The shift between a SAR and an optical image: estimated, and accepted only if it is reliable."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks import registration
from benchmarks.registration import FAR, NEAR, Pair, errors, estimate, known_shifts, move, turned_pairs, wrong_pairs
from refnet_cli.errors import InputError
from refnet_cli.scene.registration import MIN_PEAK, REACH, WHOLE, Piece, Shift, estimate_shift, spread_pieces
from tests.helpers.quick import few

Float32 = NDArray[np.float32]


BOTH = pytest.mark.parametrize("data", ["simulated", "real"], indirect=True)
SIMULATED_AND_LONG_REAL = pytest.mark.parametrize(
    "data", ["simulated", pytest.param("real", marks=pytest.mark.long)], indirect=True
)

WRONG_PEAK = {"simulated": MIN_PEAK, "real": MIN_PEAK / 1.5}
"""What no peak of images of different ground reaches; the simulated squares are of one kind of ground."""


@pytest.fixture(scope="module")
def pairs(data: Path) -> dict[str, Pair]:
    """Five places and two dates of another one."""
    return registration.read_pairs(data)


@pytest.fixture(scope="module")
def crops(pairs: dict[str, Pair]) -> Pair:
    """A pair that is neither the best nor the worst."""
    return next(pair for name, pair in pairs.items() if name.startswith("38D"))


def speckle(shape: tuple[int, ...], seed: int = 0) -> Float32:
    """Multi-looked speckle in dB."""
    looks = 4.4
    return (10 * np.log10(np.random.default_rng(seed).gamma(looks, 1 / looks, shape))).astype(np.float32)


def synthetic(height: int, width: int, columns: int, rows: int, seed: int = 0) -> tuple[Float32, Float32]:
    """Fields that differ between the sensors, whose edges are the same once the SAR image moves by columns, rows."""
    random = np.random.default_rng(seed)
    margin = REACH
    shape = (height // 12 + 10, width // 12 + 10)
    fields = [np.kron(random.normal(0, 1, shape), np.ones((12, 12))) for _ in range(2)]
    optical = 1500 + 300 * fields[0][margin : margin + height, margin : margin + width]
    inner = np.s_[margin + rows : margin + rows + height, margin + columns : margin + columns + width]
    sar = -12 + 2 * (fields[1] + fields[0] ** 2)[inner] + speckle((2, height, width), seed + 1)
    return np.repeat(optical[None], 3, axis=0).astype(np.float32), sar.astype(np.float32)


def distance(first: Shift, second: Shift) -> float:
    return float(np.hypot(first.columns - second.columns, first.rows - second.rows))


@pytest.mark.parametrize(("columns", "rows"), few([(5, 0), (0, 5), (-4, 3)], (-4, 3)))
def test_the_shift_is_what_the_sar_image_must_move(columns: int, rows: int) -> None:
    found = estimate(*synthetic(256, 256, columns, rows))
    assert found.accepted, found.reason
    assert (found.columns, found.rows) == pytest.approx((columns, rows), abs=0.1)
    moved = move(synthetic(256, 256, columns, rows)[1], found.columns, found.rows)
    again = estimate(synthetic(256, 256, columns, rows)[0], moved)
    assert (again.columns, again.rows) == pytest.approx((0, 0), abs=0.1)


@pytest.mark.parametrize(("columns", "rows"), few([(45, -33), (-45, 45)], (45, -33)))
def test_a_shift_of_45_pixels_is_found_in_a_large_scene(columns: int, rows: int) -> None:
    optical, sar = synthetic(512, 1024, columns, rows)
    halves = (slice(0, 512), slice(512, 1024))
    found = estimate_shift(Piece(0, half.start, optical[..., half], sar[..., half]) for half in halves)
    assert found.accepted, found.reason
    assert found.windows == 32
    assert (found.columns, found.rows) == pytest.approx((columns, rows), abs=0.1)


def test_a_shift_where_the_search_ends_is_rejected() -> None:
    found = estimate(*synthetic(256, 256, 25, 0))
    assert not found.accepted
    assert found.peak > MIN_PEAK
    assert "at the edge of the search (25 pixels)" in found.reason


@SIMULATED_AND_LONG_REAL
def test_pairs_are_accepted(pairs: dict[str, Pair]) -> None:
    found = {name: estimate(pair.optical, pair.sar) for name, pair in pairs.items()}
    assert len(found) == 7
    for name, shift in found.items():
        assert shift.accepted, (name, shift.reason)
        assert shift.windows == 16
        assert shift.peak > 0.16, name
        assert shift.agreeing > 0.7, name


def check_errors(found: NDArray[np.float64]) -> None:
    assert np.median(found) <= 0.05
    assert np.quantile(found, 0.9) <= 0.15


@SIMULATED_AND_LONG_REAL
def test_known_shifts_are_found_to_a_twentieth_of_a_pixel(pairs: dict[str, Pair]) -> None:
    check_errors(errors(registration.by_refnet, pairs, known_shifts(len(pairs), NEAR)))


@pytest.mark.long
@BOTH
@pytest.mark.parametrize("most", [NEAR, FAR])
def test_84_known_shifts_are_found_to_a_twentieth_of_a_pixel(pairs: dict[str, Pair], most: float) -> None:
    check_errors(errors(registration.by_refnet, pairs, known_shifts(12 * len(pairs), most, seed=7)))


@pytest.mark.parametrize(
    ("data", "most"), few(WRONG_PEAK.items(), ("simulated", WRONG_PEAK["simulated"])), indirect=["data"]
)
def test_wrong_pairs_are_rejected(pairs: dict[str, Pair], most: float) -> None:
    wrong = wrong_pairs(pairs)
    chosen = np.random.default_rng(3).permutation(len(wrong))[:3]
    for number in chosen:
        found = estimate(*wrong[number])
        assert not found.accepted
        assert found.peak < most
        assert f"{found.peak:.3f}" in found.reason


@pytest.mark.long
@pytest.mark.parametrize(("data", "most"), WRONG_PEAK.items(), indirect=["data"])
def test_all_wrong_and_turned_pairs_are_rejected(pairs: dict[str, Pair], most: float) -> None:
    wrong = [estimate(*pair) for pair in wrong_pairs(pairs)]
    assert len(wrong) == 40
    assert max(found.peak for found in wrong) < most
    assert not any(found.accepted for found in wrong)
    assert not any(estimate(*pair).accepted for pair in turned_pairs(pairs))


def images_without_edges() -> Iterator[tuple[str, Float32, Float32]]:
    shape = (300, 300)
    fields, _ = synthetic(*shape, 0, 0)
    random = np.random.default_rng(5)
    ripples = ndimage.gaussian_filter(random.normal(0, 1, (3, *shape)), (0, 1, 1)).astype(np.float32)
    level = np.full((2, *shape), -12, np.float32)
    nothing = np.full((2, *shape), np.nan, np.float32)
    yield "calm water", 400 + 8 * ripples, level - 8 + speckle((2, *shape))
    yield "rough water", 400 + 200 * ripples, level - 8 + speckle((2, *shape))
    yield "speckle", fields, level + speckle((2, *shape))
    yield "smoothed speckle", fields, level + ndimage.gaussian_filter(speckle((2, *shape)), (0, 1.5, 1.5))
    yield "constant SAR", fields, level
    yield "constant optical", np.full_like(fields, 1000), level + speckle((2, *shape))
    yield "constant both", np.full_like(fields, 1000), level
    yield "no SAR", fields, nothing
    yield "no optical", np.full_like(fields, np.nan), level + speckle((2, *shape))


WITHOUT_EDGES = [pytest.param(name, *images, id=name) for name, *images in images_without_edges()]


@pytest.mark.parametrize(("name", "optical", "sar"), WITHOUT_EDGES)
def test_images_without_common_edges_are_rejected(name: str, optical: Float32, sar: Float32) -> None:
    found = estimate(optical, sar)
    assert not found.accepted
    if name in ("rough water", "speckle", "smoothed speckle"):
        assert found.windows == 16
        assert found.peak < MIN_PEAK / 1.5
        assert "(at least 0.12)" in found.reason
    else:
        assert np.isnan([found.columns, found.rows, found.peak]).all()
        assert found.reason.startswith("Only 0 windows of 128 x 128 pixels could be compared (at least 12)")


def gaps() -> Iterator[tuple[str, NDArray[np.bool_]]]:
    row, column = np.mgrid[:224, :224]
    random = np.random.default_rng(0)
    yield "block", (row > 60) & (row < 120) & (column > 100) & (column < 170)
    yield "edge of the swath", column > 190 - 0.3 * row
    yield "specks", random.random((224, 224)) < 0.01
    yield "stripes", row // 4 % 16 == 0
    yield "clouds", ndimage.gaussian_filter(random.normal(size=(224, 224)), 8) > 0.025


FEW_GAPS = [pytest.param(gap, id=name, marks=() if name == "clouds" else pytest.mark.long) for name, gap in gaps()]


@SIMULATED_AND_LONG_REAL
@pytest.mark.parametrize("gap", FEW_GAPS)
def test_gaps_hardly_matter(crops: Pair, gap: NDArray[np.bool_]) -> None:
    whole = estimate(crops.optical, crops.sar)
    optical, sar = np.where(gap, np.nan, crops.optical), np.where(gap, np.nan, crops.sar)
    for images in ((optical, crops.sar), (crops.optical, sar), (optical, sar)):
        found = estimate(*images)
        assert found.accepted, found.reason
        assert distance(found, whole) < 0.25


@pytest.mark.parametrize(
    ("data", "most"),
    [("simulated", MIN_PEAK), pytest.param("real", MIN_PEAK / 1.5, marks=pytest.mark.long)],
    indirect=["data"],
)
@pytest.mark.parametrize("gap", FEW_GAPS)
def test_a_gap_that_both_images_have_makes_no_match(
    pairs: dict[str, Pair], gap: NDArray[np.bool_], most: float
) -> None:
    first, second = list(pairs.values())[1:3]
    found = estimate(np.where(gap, np.nan, first.optical), np.where(gap, np.nan, second.sar))
    assert not found.accepted
    assert found.peak < most


@pytest.mark.parametrize("gap", FEW_GAPS)
def test_the_rim_of_a_gap_is_no_edge(gap: NDArray[np.bool_]) -> None:
    # Where gaps were filled with any one value, their rims would be the strongest edges on slopes as steep as these.
    slope = np.linspace(-1, 1, 224, dtype=np.float32) + np.linspace(-1, 1, 224, dtype=np.float32)[:, None]
    texture = ndimage.gaussian_filter(np.random.default_rng(4).normal(0, 1, (3, 224, 224)), (0, 2, 2))
    optical = (3000 + 1000 * slope + 1000 * texture).astype(np.float32)
    sar = speckle((2, 224, 224)) + 7 * slope
    found = estimate(np.where(gap, np.nan, optical), np.where(gap, np.nan, sar))
    assert found.windows >= 12
    assert found.peak < MIN_PEAK / 1.5


def test_calm_water_takes_no_part() -> None:
    random = np.random.default_rng(0)
    land = Piece(0, 0, *synthetic(256, 256, 3, -2))
    water = [
        Piece(0, 512 * number, random.normal(400, 5, (3, 256, 256)).astype(np.float32), speckle((2, 256, 256)) - 20)
        for number in range(1, 4)
    ]
    found = estimate_shift([*water, land])
    assert found.accepted, found.reason
    assert found.windows == 16
    assert (found.columns, found.rows) == pytest.approx((3, -2), abs=0.1)


@SIMULATED_AND_LONG_REAL
def test_one_polarisation_and_one_band_suffice(crops: Pair) -> None:
    both = estimate(crops.optical, crops.sar)
    single = estimate(crops.optical[1:2], crops.sar[:1])
    assert single.accepted, single.reason
    assert distance(single, both) < 0.5
    assert np.isnan(single.polarisation_difference)
    assert both.polarisation_difference < 0.5


@SIMULATED_AND_LONG_REAL
def test_polarisations_that_contradict_each_other_are_rejected(crops: Pair) -> None:
    sar = np.stack([crops.sar[0], move(crops.sar[1:], 3, 0)[0]])
    found = estimate(crops.optical, sar)
    assert not found.accepted
    assert found.polarisation_difference == pytest.approx(3, abs=0.5)


def test_scenes_that_were_joined_are_rejected() -> None:
    parts = [Piece(0, 256 * number, *synthetic(256, 256, 6 * number, 0, seed=number)) for number in range(3)]
    assert all(estimate_shift([part]).accepted for part in parts)
    thirds, halves = estimate_shift(parts), estimate_shift(parts[:2])
    assert thirds.agreeing < 0.4
    assert "do not differ by a uniform shift" in thirds.reason
    assert halves.spread > 1
    assert "varies" in halves.reason
    assert not thirds.accepted
    assert not halves.accepted


@SIMULATED_AND_LONG_REAL
def test_a_small_scene_is_rejected_and_says_so(crops: Pair) -> None:
    for size, windows in ((1, 0), (120, 0), (180, 4)):
        found = estimate(crops.optical[:, :size, :size], crops.sar[:, :size, :size])
        assert (found.accepted, found.windows) == (False, windows)
        assert found.reason.startswith(f"Only {windows} windows of 128 x 128 pixels could be compared (at least 12)")
        assert "too small" in found.reason


@SIMULATED_AND_LONG_REAL
def test_every_window_tells_where_it_lies_and_what_it_says(crops: Pair) -> None:
    found = estimate_shift([Piece(1000, 5000, crops.optical, crops.sar)])
    assert len(found.vectors) == found.windows == 16
    assert {vector.row for vector in found.vectors} == {1064, 1096, 1128, 1160}
    assert {vector.column for vector in found.vectors} == {5064, 5096, 5128, 5160}
    near = [np.hypot(vector.columns - found.columns, vector.rows - found.rows) <= 1.5 for vector in found.vectors]
    assert np.mean(near) == found.agreeing
    assert all(0 < vector.peak < 1 for vector in found.vectors)


@SIMULATED_AND_LONG_REAL
def test_the_same_images_give_the_same_shift_and_leave_them_alone(crops: Pair) -> None:
    optical, sar = crops.optical.copy(), crops.sar.copy()
    assert estimate(optical, sar) == estimate(crops.optical, crops.sar)
    np.testing.assert_array_equal(optical, crops.optical)
    np.testing.assert_array_equal(sar, crops.sar)


@SIMULATED_AND_LONG_REAL
def test_the_result_is_json(crops: Pair) -> None:
    plain = estimate(crops.optical, crops.sar[:1]).to_dict()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain["accepted"] is True
    assert plain["polarisation_difference"] is None
    assert plain["vectors"][0].keys() == {"row", "column", "columns", "rows", "peak"}
    nothing = estimate_shift([]).to_dict()
    assert (nothing["columns"], nothing["windows"], nothing["vectors"]) == (None, 0, [])
    json.dumps(nothing, allow_nan=False)


def test_pieces_that_do_not_belong_together_are_refused() -> None:
    optical, sar = np.ones((3, 64, 64), np.float32), np.ones((2, 64, 64), np.float32)
    with pytest.raises(InputError, match="row 7, column 9"):
        estimate_shift([Piece(7, 9, optical, sar[:, :32])])
    with pytest.raises(InputError, match="row 64, column 0"):
        estimate_shift([Piece(0, 0, optical, sar), Piece(64, 0, optical, sar[:1])])


@pytest.mark.parametrize(
    ("height", "width"),
    [(1, 1), (224, 224), (WHOLE, WHOLE), (769, 300), (1024, 1024), (300, 20_000), (10_980, 10_980), (900, 40_000)],
)
def test_pieces_lie_apart_within_the_scene(height: int, width: int) -> None:
    pieces = spread_pieces(height, width)
    assert 1 <= len(pieces) <= 25
    seen: set[tuple[int, int]] = set()
    for row, column, tall, wide in pieces:
        assert 0 <= row < row + tall <= height
        assert 0 <= column < column + wide <= width
        assert (row % 512, column % 512) == (0, 0)
        assert max(tall, wide) <= 512 or pieces == [(0, 0, height, width)]
        seen.add((row, column))
    assert len(seen) == len(pieces)
    for size, starts in ((height, {row for row, _ in seen}), (width, {column for _, column in seen})):
        assert min(starts) <= size / 4
        assert max(starts) >= size / 2 or size <= WHOLE


def test_the_benchmark_says_what_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="1"):
        registration.main(["--data", str(tmp_path)])
    assert "pip install scikit-image" in capsys.readouterr().err
