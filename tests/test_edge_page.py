"""The page on edge boxes: its lines on binding give what the Python call gives, here on the processor."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

import onnxplain as ox

PAGE = Path(__file__).resolve().parent.parent / "docs" / "edge.md"


def test_binding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = re.search(r"<!-- binding -->\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None
    x, target = ox.demo_input()[:2], np.array([9, 2])
    explainer = ox.compile(ox.demo_model(), method="fullgrad")
    explainer.save(tmp_path / "explained.onnx")
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {
        "onnxruntime": onnxruntime,
        "providers": ["CPUExecutionProvider"],
        "device": "cpu",
        "x": x,
        "target": target,
    }
    exec(compile(found[1], PAGE.name, "exec"), scope)
    expected = explainer(x, target=list(target))
    np.testing.assert_allclose(
        np.squeeze(scope["saliency"].numpy()),
        np.squeeze(expected.saliency),
        rtol=0,
        atol=1e-5 * expected.saliency.max(),
    )
    assert scope["logits"].shape() == [2, 10]
