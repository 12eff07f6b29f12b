"""What is said while a server does not answer."""

from __future__ import annotations

import logging
import time

import pytest

from refnet_cli.errors import TryAgainError
from refnet_cli.fetching import http
from refnet_cli.fetching.catalogues import CATALOGUES


def test_a_server_that_does_not_answer_is_named_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    caplog.set_level(logging.INFO)
    asked = http.Http(next(iter(CATALOGUES.values())))

    def fail() -> None:
        raise http._RepeatError("the name of the server cannot be resolved")

    for path in ("a", "b"):
        with pytest.raises(TryAgainError, match=r"cannot be resolved \(\d attempts\).*network and proxy"):
            asked._repeat(f"https://files.example/{path}?token=secret", fail)
    (line,) = (record.message for record in caplog.records if record.levelno == logging.INFO)
    assert line.startswith("files.example: the name of the server cannot be resolved; trying")
