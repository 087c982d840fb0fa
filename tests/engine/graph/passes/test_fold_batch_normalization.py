"""BatchNormalization folded into the convolution in front of it, against the plain pair."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from canonical_run import numbers, operators, run
from onnx import helper
from tiny_models import model, node

from onnxplain.engine.graph.canonical import canonicalise
from onnxplain.engine.graph.model import read_model
from onnxplain.engine.graph.passes.fold_batch_normalization import FoldBatchNormalizationPass

X = numbers(2, 4, 5, 5)


def folded(
    operator: str, group: int = 1, bias: bool = True, tail: str = "y", extra: Any = ()
) -> tuple[list[str], float]:
    """Operators after the pass, and how far the outputs moved."""
    shape = (6, 4 // group, 3, 3) if operator == "Conv" else (4, 6 // group, 3, 3)
    weights = {"w": numbers(*shape), **({"cb": numbers(6)} if bias else {})}
    weights |= {
        "s": numbers(6, seed=1),
        "b": numbers(6, seed=2),
        "m": numbers(6, seed=3),
        "v": np.abs(numbers(6, seed=4)) + 0.1,
    }
    nodes = [
        node(operator, "x w cb" if bias else "x w", "c", group=group),
        node("BatchNormalization", "c s b m v", "y", epsilon=1e-3),
    ]
    proto = model([*nodes, *extra], {"x": ["N", 4, 5, 5]}, {tail: ["N", 6, None, None]}, weights)
    if tail != "y":
        proto.graph.output.append(helper.make_tensor_value_info("y", 1, ["N", 6, None, None]))
    canonical = canonicalise(read_model(proto))
    FoldBatchNormalizationPass()(canonical)
    before, after = run(proto, {"x": X}), run(ir.to_proto(canonical), {"x": X})
    return operators(canonical), max(
        float(np.abs(a - b).max() / np.abs(a).max()) for a, b in zip(before, after, strict=True)
    )


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("operator", "group"), [("Conv", 1), ("Conv", 2), ("ConvTranspose", 1)])
def test_pair_becomes_one(operator: str, group: int, bias: bool) -> None:
    found, error = folded(operator, group, bias)
    assert found == [operator]
    assert error < 1e-5  # weights are multiplied before they are rounded


def test_pairs_that_stay() -> None:
    for found, error in (
        folded("ConvTranspose", 2),
        folded("Conv", tail="z", extra=[node("Relu", "c", "z")]),
        folded("Conv", tail="c"),
    ):
        assert "BatchNormalization" in found
        assert error == 0
