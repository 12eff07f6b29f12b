"""What weights need before they may be listed for `refnet weights fetch`, and what they lack."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from refnet_cli.doctor.selftest import ON_CPUS, make_patches
from refnet_cli.engines.load import load_engine
from refnet_cli.engines.options import EngineOptions
from refnet_cli.errors import UnavailableError, WeightsError
from refnet_cli.model.card import Card
from refnet_cli.model.published import RESERVED, PublishedWeights, is_name
from refnet_cli.model.weight_files import verify

SELF_TEST = "self_test"
"""Key of the recorded self-test, in a list's entry or in a card's ``training``."""


@dataclass(frozen=True)
class Check:
    """One thing that was checked."""

    what: str
    passed: bool
    says: str


@dataclass(frozen=True)
class ListingReport:
    """What `check_for_listing` found."""

    name: str
    checks: tuple[Check, ...]
    entry: str
    """The entry for the list, as TOML, in which the addresses are missing."""

    @property
    def missing(self) -> list[Check]:
        """Checks that failed."""
        return [check for check in self.checks if not check.passed]

    def lines(self) -> list[str]:
        """Return the report for people."""
        width = max(len(check.what) for check in self.checks)
        marks = {True: "ok", False: "MISSING"}
        lines = [f"{check.what:<{width}}  {marks[check.passed]:<7}  {check.says}" for check in self.checks]
        return [*lines, "", *self.entry.splitlines()]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON takes it."""
        return asdict(self) | {"missing": [check.what for check in self.missing]}

    def check(self) -> None:
        """Raise `WeightsError` if something is missing."""
        if self.missing:
            names = ", ".join(check.what for check in self.missing)
            raise WeightsError(f"{self.name} cannot be listed yet: {names}. See above what to do.")


def check_for_listing(
    path: Path, entry: PublishedWeights | None = None, scores: Mapping[str, Any] | None = None
) -> ListingReport:
    """Check weights for the list of published ones.

    Parameters
    ----------
    path : Path
    entry : PublishedWeights, optional
        Their entry, if a list has one already.
    scores : mapping, optional
        Scores on the evaluation list; it is missing without.

    Raises
    ------
    WeightsError
        If the file is damaged, or its card or network cannot be used.
    """
    card = verify(path)
    output = run_self_test(path)
    checks = [
        Check("file", True, f"intact, card with SHA-256 {card.sha256[:12]}..."),
        *_check_card(card),
        _check_output(card, entry, output),
        _check_scores(scores),
    ]
    if entry:
        checks.insert(1, _check_entry(path, entry))
    return ListingReport(card.name, tuple(checks), _write_entry(path, card, output))


def run_self_test(path: Path) -> tuple[float, ...]:
    """Return the mean probability of each class that a network gives on simulated tiles, on the CPU.

    The tiles are `refnet_cli.doctor.selftest.make_patches`, in the statistics of the card.

    Raises
    ------
    WeightsError
        If the network cannot be loaded, or gives no probabilities.
    """
    try:
        engine = load_engine(path, EngineOptions(device="cpu", batch=1))
    except UnavailableError as error:
        raise WeightsError(f"The network of {path} cannot be run here: {error}") from error
    try:
        probabilities = engine.predict(*make_patches(engine.card))
    finally:
        engine.close()
    if not np.isfinite(probabilities).all() or np.abs(probabilities.sum(1) - 1).max() > ON_CPUS.probability:
        raise WeightsError(f"The network of {path} gives no probabilities: they are not finite, or do not sum to 1.")
    return tuple(round(float(value), 6) for value in probabilities.mean((0, 2, 3)))


def _check_card(card: Card) -> list[Check]:
    named = is_name(card.name) and card.name not in RESERVED
    licensed = card.licence.strip().lower() not in ("", "unknown")
    lacking = [key for key in ("scenes", "ground", "seen") if not card.training.get(key)]
    return [
        Check("name", named, card.name if named else f"{card.name!r} is taken or no name: letters, digits, - and _"),
        Check("licence", licensed, card.licence if licensed else "name it in the card, as an SPDX identifier"),
        Check(
            "training data", not lacking,
            f"the card lacks training.{', training.'.join(lacking)}: train with refnet train, which writes them"
            if lacking else "scenes, their outlines and what was seen are in the card",
        ),
        Check(
            "scores", bool(card.scores),
            "held-out scores are in the card" if card.scores else "the card has none: train with validation scenes",
        ),
    ]  # fmt: skip


def _check_output(card: Card, entry: PublishedWeights | None, output: Sequence[float]) -> Check:
    recorded = entry.self_test if entry and entry.self_test else card.training.get(SELF_TEST)
    if not recorded:
        return Check("self-test", False, "the network runs, but its output is not recorded: the entry below has it")
    apart = (
        float(np.abs(np.asarray(recorded, float) - output).max()) if len(recorded) == len(output) else float("inf")
    )
    if not apart <= ON_CPUS.probability:
        return Check(
            "self-test", False,
            f"the output differs from the recorded one by {apart:.2g} (limit {ON_CPUS.probability:g}): this is not the "
            "network that was recorded",
        )  # fmt: skip
    return Check("self-test", True, f"the output is the recorded one, within {apart:.1g}")


def _check_scores(scores: Mapping[str, Any] | None) -> Check:
    if scores is None:
        return Check("evaluation", False, "not scored on the evaluation list: give its regions file by --on")
    accuracy, iou = scores["overall_accuracy"], scores["mean_iou"]
    return Check("evaluation", True, f"{accuracy:.1%} right, mean IoU {iou:.3f}, {scores['pixels']:,} labelled pixels")


def _check_entry(path: Path, entry: PublishedWeights) -> Check:
    found = _sha256(path)
    fits = found == entry.sha256 and path.stat().st_size == entry.size
    return Check(
        "entry", fits,
        "size and SHA-256 are those of the list" if fits
        else f"the list has another file: SHA-256 {entry.sha256[:12]}..., this one has {found[:12]}...",
    )  # fmt: skip


def _write_entry(path: Path, card: Card, output: Sequence[float]) -> str:
    return "\n".join([
        f"[weights.{card.name}]",
        "urls = []",
        f'sha256 = "{_sha256(path)}"',
        f"size = {path.stat().st_size}",
        f'licence = "{card.licence}"',
        f"self_test = [{', '.join(f'{value:g}' for value in output)}]",
    ])


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
