"""Rules of pooling; ``distinct`` keeps ties out of the maxima."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator
from rule_cases import Case, case, check, distinct, model_of, parametrize

from onnxplain.engine.graph.canonical import canonicalise
from onnxplain.engine.graph.model import read_model
from onnxplain.engine.rewrite import Rewriter
from onnxplain.engine.session.reference_ops import CORRECTED
from onnxplain.engine.session.session import Session

CASES = [
    case("MaxPool", x=(2, 3, 9), kernel_shape=[3], strides=[2], draw=distinct),
    case("MaxPool", x=(2, 3, 6, 8), kernel_shape=[2, 2], strides=[2, 2], draw=distinct),
    case("MaxPool", x=(2, 3, 6, 9), kernel_shape=[2, 3], strides=[2, 3], draw=distinct),
    case("MaxPool", x=(2, 3, 8), kernel_shape=[4], strides=[4], draw=distinct),
    case("MaxPool", x=(2, 3, 7, 7), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], draw=distinct),
    case("MaxPool", x=(2, 3, 7, 7), kernel_shape=[3, 3], strides=[1, 1], draw=distinct),
    case("MaxPool", x=(2, 3, 8, 8), kernel_shape=[3, 2], strides=[2, 2], dilations=[2, 1], draw=distinct),
    case("MaxPool", x=(2, 3, 7, 8), kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1, draw=distinct),
    case("MaxPool", x=(2, 3, 7, 7), kernel_shape=[2, 2], strides=[2, 2], auto_pad="SAME_UPPER", draw=distinct),
    case("MaxPool", x=(2, 3, 7, 7), kernel_shape=[2, 2], strides=[2, 2], auto_pad="SAME_LOWER", draw=distinct),
    case("MaxPool", x=(2, 2, 4, 5, 4), kernel_shape=[2, 2, 2], strides=[2, 2, 2], draw=distinct),
    case("MaxPool", x=(2, 3, 6, 6), kernel_shape=[2, 2], strides=[2, 2], storage_order=1, draw=distinct),
    case("MaxPool", x=(2, 3, 6, 6), kernel_shape=[2, 2], opset=8, draw=distinct),
    case("AveragePool", x=(2, 3, 9), kernel_shape=[3], strides=[2]),
    case("AveragePool", x=(2, 3, 6, 8), kernel_shape=[2, 2], strides=[2, 2]),
    case("AveragePool", x=(2, 3, 7, 9), kernel_shape=[2, 2], strides=[2, 2]),
    case("AveragePool", x=(2, 3, 7, 7), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    case("AveragePool", x=(2, 3, 7, 7), kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1),
    case("AveragePool", x=(2, 3, 7, 7), kernel_shape=[3, 3], pads=[1, 0, 1, 2]),
    case("AveragePool", x=(2, 3, 8, 7), kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1, symbolic=False),
    case(
        *("AveragePool",), x=(2, 3, 8, 7), kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1, pads=[1, 1, 1, 1],
        count_include_pad=1, symbolic=False,
    ),
    case("AveragePool", x=(2, 3, 7, 7), kernel_shape=[2, 2], strides=[2, 2], auto_pad="SAME_UPPER"),
    case("AveragePool", x=(2, 2, 4, 4, 6), kernel_shape=[2, 2, 3], strides=[2, 2, 3]),
    case("AveragePool", x=(2, 3, 8, 8), kernel_shape=[2, 2], dilations=[2, 2], strides=[1, 2], opset=19),
    case("GlobalAveragePool", x=(2, 3, 5, 4)),
    case("GlobalAveragePool", x=(2, 3, 5)),
    case("GlobalMaxPool", x=(2, 3, 5, 4), draw=distinct),
    case("GlobalMaxPool", x=(2, 3, 5), draw=distinct),
    case("LpPool", x=(2, 3, 9), kernel_shape=[3], strides=[2]),
    case("LpPool", x=(2, 3, 6, 8), kernel_shape=[2, 2], strides=[2, 2]),
    case("LpPool", x=(2, 3, 7, 7), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], p=3),
    case("LpPool", x=(2, 3, 7, 7), kernel_shape=[3, 3], pads=[1, 0, 1, 2], p=1),
    case("LpPool", x=(2, 3, 7, 7), kernel_shape=[2, 2], strides=[2, 2], auto_pad="SAME_UPPER", symbolic=False),
    case("LpPool", x=(2, 3, 8, 8), kernel_shape=[2, 2], dilations=[2, 2], strides=[1, 2]),
    case("LpPool", x=(2, 2, 4, 4, 6), kernel_shape=[2, 2, 3], strides=[2, 2, 3], opset=11),
    case("GlobalLpPool", x=(2, 3, 5, 4)),
    case("GlobalLpPool", x=(2, 3, 5), p=1),
    case("GlobalLpPool", x=(2, 3, 5, 2, 2), p=3),
    case("MaxUnpool", x=(1, 1, 2, 2), i=np.asarray([[[[5, 7], [13, 15]]]]), kernel_shape=[2, 2], strides=[2, 2], batch=False),
    case("MaxUnpool", x=(1, 1, 3), i=np.asarray([[[1, 1, 3]]]), kernel_shape=[2], batch=False, symbolic=False),
    case("MaxUnpool", x=(1, 1, 2, 2), i=np.asarray([[[[0, 3], [9, 10]]]]), shape=np.asarray([1, 1, 4, 4]), kernel_shape=[2, 2],
         strides=[2, 2], batch=False, symbolic=False),
]  # fmt: skip


@parametrize(CASES)
def test_rule(case: Case) -> None:
    check(case)


#: What has to be missing for windows that tile a picture to be taken by indices, as all others are.
BY_INDICES = frozenset({"Tile"})


def max_pool_gradient(case: Case, x: Any, lacks: frozenset[str], sizes: str) -> Any:
    """Gradient of <u, MaxPool(x)> in onnxruntime, by a graph for a provider that lacks something."""
    rewriter = Rewriter(canonicalise(read_model(model_of(case, {"x": x}, ["x"], sizes))))
    rewriter.op.lacks = lacks
    y = rewriter.value("y0")
    seed = rewriter.add_input("seed", y.dtype, None)  # type: ignore[arg-type]
    seed.shape = y.shape
    adjoints = rewriter.backward_from({y: seed}, [rewriter.value("x")])
    rewriter.add_output("dx", adjoints.of[rewriter.value("x")])
    model = rewriter.finish()
    assert any(len(n.outputs) > 1 for n in model.graph) == (lacks == BY_INDICES)
    (forward,) = ReferenceEvaluator(model_of(case, {"x": x}, ["x"], sizes), new_ops=CORRECTED).run(None, {"x": x})
    u = np.random.default_rng(1).integers(-4, 5, np.shape(forward)).astype(np.float32)
    return Session(model, threads=1).run({"x": x, "seed": u}, ["dx"])["dx"]


WITHOUT_INDICES = [{"MaxPool/Indices", "Tile"}, {"ScatterElements", "Tile"}, {"MaxPool/Indices", "Equal", "Greater"}]


@pytest.mark.parametrize("lacks", WITHOUT_INDICES, ids=lambda lacks: "-".join(sorted(lacks)))
@pytest.mark.parametrize(
    ("case", "sizes"),
    [
        pytest.param(c, sizes, id=f"{c.id}-{sizes}")
        for c in CASES
        if c.op_type == "MaxPool"
        for sizes in ("static", "batch", *(() if "auto_pad" in c.attributes else ("none",)))
    ],
)
def test_max_pool_without_indices(case: Case, sizes: str, lacks: set[str]) -> None:
    """The same numbers to the bit, with ties in nearly every window: whole numbers, of which sums are exact."""
    x = np.random.default_rng(0).integers(-2, 2, case.operands["x"]).astype(np.float32)
    expected = max_pool_gradient(case, x, BY_INDICES, sizes)
    np.testing.assert_array_equal(max_pool_gradient(case, x, frozenset(lacks), sizes), expected)


TILING = [
    c
    for c in CASES
    if c.op_type == "MaxPool" and c.attributes["kernel_shape"] == c.attributes.get("strides")
    if len(c.attributes["kernel_shape"]) < 3 and "auto_pad" not in c.attributes
]


@parametrize(TILING)
def test_max_pool_of_tiles(case: Case) -> None:
    """Comparisons find the same winners, to the bit, with ties in nearly every window."""
    x = np.random.default_rng(0).integers(-2, 2, case.operands["x"]).astype(np.float32)
    x[0, 0] = -np.inf
    expected = max_pool_gradient(case, x, BY_INDICES, "batch")
    np.testing.assert_array_equal(max_pool_gradient(case, x, frozenset(), "batch"), expected)
