"""docs/add-a-metric.md: its example is a metric, and measures what it says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from evaluation_cases import given, linear

from onnxplain.engine.evaluation.metric import METRICS, create_metric

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "add-a-metric.md").read_text()


def block(name: str) -> str:
    found = re.search(rf"<!-- {name} -->\n```python\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    return found.group(1)


@pytest.fixture
def registered() -> Iterator[None]:
    METRICS.names()  # all others first
    exec(compile(block("metric"), "add-a-metric.md", "exec", dont_inherit=True), {"__name__": "add_a_metric"})
    yield
    del METRICS._entries["top_place"]


@pytest.mark.usefixtures("registered")
def test_the_example_measures_what_it_says() -> None:
    x = np.array([[3.0, 1.0, 4.0], [1.0, 1.0, 2.0]])
    found = create_metric("top_place").measure(given(linear(np.ones(3)), x, x))
    assert found.values == pytest.approx([0.5, 0.5])


@pytest.mark.usefixtures("registered")
def test_the_example_is_used_as_shown(capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(block("use"), "add-a-metric.md", "exec", dont_inherit=True), {})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [["gradient", "top_place"], ["random", "top_place"]]


def test_what_the_page_says_of_a_case_is_there() -> None:
    case = given(linear(np.ones(3)), np.ones((1, 3)), np.ones((1, 3)))
    names = re.findall(r"`case\.(\w+)", PAGE)
    assert len(names) > 8
    for name in names:
        assert hasattr(case, name), name
