"""What the tests of training share."""

from __future__ import annotations

import pytest

from tests.helpers.trainings import shorten


@pytest.fixture
def short_trainings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what does not matter to most tests, trainings do little; see `shorten`."""
    shorten(monkeypatch)
