"""CastLike becomes Cast: a constant that is cast to the type of an activation depends on nothing."""

from __future__ import annotations

import numpy as np
from onnx import numpy_helper
from tiny_models import model, node

import onnxplain as ox
from onnxplain.engine.graph.canonical import canonicalise
from onnxplain.engine.graph.model import read_model


def test_constants_cast_to_an_activations_type_are_parameters_again() -> None:
    """Counted as depending on x, the slope would turn a linear product into one of degree two."""
    nodes = [
        node("CastLike", "half x", "slope"),
        node("CastLike", "one x", "shift"),
        node("Mul", "x slope", "m"),
        node("Add", "m shift", "y"),
    ]
    proto = model(nodes, {"x": ["N", 3]}, {"y": ["N", 3]}, {"half": np.array(0.5), "one": np.array(1.0)})
    for tensor in proto.graph.initializer:  # of another type than x, so that there is something to cast
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))
    assert [n.op_type for n in canonicalise(read_model(proto)).graph] == ["Mul", "Add"]
    e = ox.explain(proto, np.array([[1.0, -2.0, 4.0]], np.float32), method="fullgrad", target=2)
    assert e.terms is not None
    assert [(i.operator, i.kind, i.parameter) for i in e.terms.info] == [("Add", "explicit", "shift")]
    np.testing.assert_allclose(e.attributions["x"], [[0.0, 0.0, 2.0]])
    np.testing.assert_allclose(e.terms.biases, [[1.0]])


def test_one_operand_is_left() -> None:
    """The other input stays one of the model's, and is read by nothing."""
    proto = model([node("CastLike", "x like", "y")], {"x": ["N", 3], "like": [1]}, {"y": ["N", 3]})
    canonical = canonicalise(read_model(proto))
    assert [(n.op_type, len(n.inputs)) for n in canonical.graph] == [("Cast", 1)]
    assert [v.name for v in canonical.graph.inputs] == ["x", "like"]
