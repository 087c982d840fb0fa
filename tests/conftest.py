"""Fixtures that more than one folder of tests uses."""

from __future__ import annotations

import pytest


@pytest.fixture
def det_without_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    """Det as an operator that nobody wrote a rule for, for tests of what is then said."""
    from onnxplain.engine.rules import load_rules
    from onnxplain.engine.rules.table import GRADIENT

    load_rules()
    monkeypatch.delitem(GRADIENT._entries, ("", "Det"))
