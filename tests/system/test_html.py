"""What notebooks show: small, escaped, and true to the numbers."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser

import numpy as np

from refnet_cli.evaluation.areas import estimate_areas
from refnet_cli.evaluation.scores import score
from refnet_cli.prediction.report import Report
from refnet_cli.system.html import table
from tests.helpers.scenes import CARD


class Balanced(HTMLParser):
    """Fails where a tag is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_scores_and_estimates() -> None:
    matrix = np.array([[40, 10], [5, 45]])
    names = "<b>water</b>", "trees & more"
    shown = replace(score(matrix, names), area_estimates=estimate_areas(matrix, np.array([30.0, 70.0]), names))
    text = shown._repr_html_()
    Balanced(text)
    assert "<b>water" not in text
    assert "85.0%" in text
    assert "trees &amp; more" in text
    assert "±" in text


def test_card_and_report() -> None:
    text = replace(CARD, notice="a < b")._repr_html_()
    Balanced(text)
    assert "a &lt; b" in text
    assert "both are needed" in text
    report = Report(
        "lulc.tif", {"name": "free"}, {"height": 10, "width": 20}, "", [], {}, CARD.scheme.to_dict(), {},
        areas_hectares={CARD.scheme.names[0]: 1.5, CARD.scheme.names[1]: 0.5}, valid_share=0.5,
        warnings=["<script>"],
    )  # fmt: skip
    text = report._repr_html_()
    Balanced(text)
    assert "75.0%" in text
    assert "<script>" not in text
    assert text.count("background:rgb") == 2
    assert len(text) < 3000
    Balanced(replace(report, areas_hectares={})._repr_html_())


def test_a_table_of_nothing() -> None:
    Balanced(table([]))
