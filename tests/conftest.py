"""Fixtures that more than one folder of tests uses."""

from __future__ import annotations

import os

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # one thread for each of the processes that share the machine
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What the oldest runtime does not do is known by name."""
    from oldest_runtime import mark

    mark(items)


@pytest.fixture
def det_without_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    """Det as an operator that nobody wrote a rule for, for tests of what is then said."""
    from onnxplain.engine.rules import load_rules
    from onnxplain.engine.rules.table import GRADIENT

    load_rules()
    monkeypatch.delitem(GRADIENT._entries, ("", "Det"))
