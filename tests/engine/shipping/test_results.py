"""A file returns what was asked for, the same numbers as the whole file, and computes nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import onnxplain as ox
from onnxplain.engine.errors import OptionError
from onnxplain.engine.shipping.results import RESULTS
from onnxplain.models import demo_model


def _returned(path: Path, x: np.ndarray) -> dict[str, np.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    found = session.run(None, {session.get_inputs()[0].name: x, "target": np.full(len(x), 3)})
    return dict(zip(names, found, strict=True))


@pytest.mark.parametrize("results", [["saliency"], ["attribution", "saliency"], ["residual"], ["saliency", "residual"]])
def test_what_is_asked_for_is_what_the_whole_file_gives(results: list[str], tmp_path: Path) -> None:
    explainer = ox.compile(demo_model(), method="fullgrad", threads=1)
    x = ox.demo_input()[:2]
    whole = _returned(explainer.save(tmp_path / "whole.onnx"), x)
    some = _returned(explainer.save(tmp_path / "some.onnx", results=results), x)
    assert [n for n in some if n in RESULTS] == results
    assert list(some)[: -len(results)] == [n for n in whole if n not in RESULTS]
    for name, value in some.items():
        # Other fusions round differently; a residual is itself the rounding of a sum, of the size of the score.
        scale = np.abs(whole["saliency" if name == "saliency" else next(iter(whole))]).max()
        np.testing.assert_allclose(value, whole[name], rtol=1e-5, atol=1e-5 * scale)


def test_what_nobody_asks_for_is_not_computed() -> None:
    explainer = ox.compile(demo_model(), method="fullgrad", threads=1)

    def count(op_type: str, *results: str) -> int:
        return sum(n.op_type == op_type for n in explainer.ship(results=results or None).graph)

    # Sums over adjoints are the residual's, their extremes the map's.
    assert count("ReduceSum", "saliency") < count("ReduceSum")
    assert count("ReduceMin", "saliency") == count("ReduceMin") > 0
    assert count("ReduceMin", "residual") == 0
    assert count("ReduceSum", "attribution") == count("ReduceMin", "attribution") == 0


def test_what_is_not_there_is_refused() -> None:
    explainer = ox.compile(demo_model(), method="gradient", threads=1)
    with pytest.raises(OptionError, match="method 'gradient' has no residual; leave it out of results"):
        explainer.ship(results=["saliency", "residual"])
    with pytest.raises(OptionError, match="'map' is nothing that a file returns; choose from attribution, saliency"):
        explainer.ship(results=["map"])
    with pytest.raises(OptionError, match="results names nothing"):
        explainer.ship(results=[])
    with pytest.raises(OptionError, match="a file of adjoints has all of them"):
        explainer.ship(adjoints=True, results=["saliency"])
