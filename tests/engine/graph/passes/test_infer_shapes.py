"""Types and shapes as the general pass finds them, without what it costs; weights are put back as they were."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common
import pytest
from mutants import originals
from tiny_models import model, node

from onnxplain.engine.graph.canonical import _forget_declared_shapes
from onnxplain.engine.graph.model import read_model
from onnxplain.engine.graph.passes.infer_shapes import InferAgainPass, InferShapesPass


def described(made: ir.Model) -> dict[str, Any]:
    values = (y for n in ir.traversal.RecursiveGraphIterator(made.graph) for y in n.outputs)
    return {v.name or "": (v.dtype, None if v.shape is None else tuple(str(d) for d in v.shape)) for v in values}


@pytest.mark.parametrize("name", list(originals()))
def test_like_the_general_pass(name: str) -> None:
    ours, general = (read_model(originals()[name]).to_ir() for _ in range(2))
    for made in (ours, general):
        _forget_declared_shapes(made)
    InferShapesPass()(ours)
    common.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(general)
    assert described(ours) == described(general)
    assert any(shape for _, shape in described(ours).values()) or name == "fused"  # of whose operators nothing is known


def test_sizes_from_constants_and_large_weights_put_back() -> None:
    """Small constants are shown by content, because sizes are computed from them; large ones by type and shape."""
    weights = {"to": np.array([0, -1]), "w": np.ones((12, 900)), "b": np.zeros(900)}
    proto = model(
        [node("Reshape", "x to", "r"), node("MatMul", "r w", "m"), node("Add", "m b", "y")],
        {"x": ["N", 3, 4]}, {"y": ["N", 900]}, weights,
    )  # fmt: skip
    made = read_model(proto).to_ir()
    _forget_declared_shapes(made)
    before = {k: v.const_value for k, v in made.graph.initializers.items()}
    InferShapesPass()(made)
    assert described(made)["r"] == (ir.DataType.FLOAT, ("N", "12"))
    assert described(made)["y"] == (ir.DataType.FLOAT, ("N", "900"))
    assert [v.name for v in made.graph.inputs] == ["x"]
    assert {k: v.const_value for k, v in made.graph.initializers.items()} == before
    assert all(v.is_initializer() and not v.is_graph_input() for v in made.graph.initializers.values())


def test_an_unknown_operator_stops_it_and_nothing_else() -> None:
    proto = model(
        [node("Relu", "x", "a"), node("Mystery", "a", "m", domain="org.example"), node("Neg", "m", "y")],
        {"x": ["N", 3]}, {"y": ["N", 3]}, domains=["org.example"],
    )  # fmt: skip
    made = read_model(proto).to_ir()
    _forget_declared_shapes(made)
    InferShapesPass()(made)
    found = described(made)
    assert found["a"] == (ir.DataType.FLOAT, ("N", "3"))
    assert found["m"] == (None, None)


def test_where_everything_is_known_nothing_is_inferred(monkeypatch: pytest.MonkeyPatch) -> None:
    made = read_model(originals()["convolution"]).to_ir()
    InferShapesPass()(made)
    monkeypatch.setattr("onnx.shape_inference.infer_shapes", lambda *_, **__: pytest.fail("there is nothing to infer"))
    assert not InferAgainPass()(made).modified


def test_where_something_is_unknown_it_is_inferred_again() -> None:
    made = read_model(originals()["convolution"]).to_ir()
    InferShapesPass()(made)
    value = made.graph[2].outputs[0]
    value.shape = None
    assert InferAgainPass()(made).modified
    assert value.shape is not None
