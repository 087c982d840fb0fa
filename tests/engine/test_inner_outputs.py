"""A neuron as the explained scalar: ``output=`` names an inner tensor, the target an element of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from tiny_models import fullgrad_net, model, node

import onnxplain as ox
from onnxplain.engine.errors import TargetError

Array = np.ndarray[Any, Any]


def value_of(proto: onnx.ModelProto, name: str, x: Array) -> Array:
    """An inner tensor by the reference evaluator."""
    opened = onnx.ModelProto.FromString(proto.SerializeToString())
    opened.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    return np.asarray(ReferenceEvaluator(opened).run([name], {"x": x})[0])


@pytest.mark.parametrize("target", [(1, 2, 3), (0, 0, 1), 27])
def test_the_gradient_of_a_neuron(target: Any) -> None:
    """Against differences of the neuron itself; a1 is relu(conv(x)), linear around its active elements."""
    proto, x = fullgrad_net()
    place = target if isinstance(target, tuple) else np.unravel_index(target, (2, 4, 4))
    e = ox.explain(proto, x, method="gradient", output="a1", target=target)
    value = value_of(proto, "a1", x)[0]
    assert e.score[0] == pytest.approx(float(value[place]), rel=1e-5)
    assert e.output == "a1" and e.target_shape == (2, 4, 4)
    step = 1e-2
    for i in range(4):
        for j in range(4):
            moved = x.copy()
            moved[0, 0, i, j] += step
            slope = (value_of(proto, "a1", moved)[0][place] - value[place]) / step
            assert e.attributions["x"][0, 0, i, j] == pytest.approx(float(slope), abs=1e-3)


def test_without_a_target_the_strongest_neuron() -> None:
    proto, x = fullgrad_net()
    batch = np.concatenate([x, -x])
    e = ox.explain(proto, batch, method="gradient", output="a2")
    values = value_of(proto, "a2", batch).reshape(2, -1)
    np.testing.assert_array_equal(e.target, values.argmax(axis=1))
    np.testing.assert_allclose(e.score, values.max(axis=1), rtol=1e-5)


@pytest.mark.parametrize("method", ["integrated_gradients", "guided_ig", "fullgrad", "smoothgrad", "occlusion"])
def test_any_method(method: str) -> None:
    proto, x = fullgrad_net()
    e = ox.explain(proto, x, method=method, output="z2", target=(1, 0, 1))
    assert e.score[0] == pytest.approx(float(value_of(proto, "z2", x)[0, 1, 0, 1]), rel=1e-5)
    assert e.residual is None or e.residual.ok
    assert np.abs(e.attributions["x"]).max() > 0


def test_a_layer_attributed_to_a_neuron_behind_it() -> None:
    proto, x = fullgrad_net()
    e = ox.explain(
        proto, x, method="integrated_gradients", output="z2", target=(0, 1, 1), wrt="a1", baseline="input:zero"
    )
    start = value_of(proto, "z2", np.zeros_like(x))[0, 0, 1, 1]
    assert e.baseline_score == pytest.approx([float(start)], rel=1e-5)
    assert e.residual is not None and e.residual.ok


def test_a_softmax_inside_is_explained_as_it_is() -> None:
    """Gates and attention weights: no logit is looked for in front of an inner tensor."""
    proto = model([node("Softmax", "x", "gate", axis=1), node("Mul", "gate x", "y")], {"x": ["N", 3]}, {"y": ["N", 3]})
    x = np.array([[0.5, -1.0, 2.0]], np.float32)
    p = np.exp(x[0]) / np.exp(x[0]).sum()
    e = ox.explain(proto, x, method="gradient", output="gate", target=0)
    assert e.score[0] == pytest.approx(p[0], rel=1e-5) and e.head_note == ""
    np.testing.assert_allclose(e.attributions["x"][0], p[0] * (np.eye(3)[0] - p), rtol=1e-5)


def test_weights_over_a_layer() -> None:
    proto, x = fullgrad_net()
    weights = np.zeros((2, 4, 4))
    weights[1] = 1.0
    e = ox.explain(proto, x, method="gradient", output="a1", target=ox.Target.weights(weights))
    assert e.score[0] == pytest.approx(float(value_of(proto, "a1", x)[0, 1].sum()), rel=1e-5)


def test_open_sizes() -> None:
    """Sizes that only a run tells: a tuple index needs them."""
    proto = model(
        [node("Relu", "x", "a"), node("ReduceSum", "a axes", "y", keepdims=0)],
        {"x": ["N", 2, "length"]},
        {"y": ["N"]},
        {"axes": np.array([1, 2])},
    )
    x = np.arange(10, dtype=np.float32).reshape(1, 2, 5) - 3
    e = ox.explain(proto, x, method="gradient", output="a", target=(1, 4))
    assert e.score[0] == 6.0 and np.flatnonzero(e.attributions["x"]).tolist() == [9]
    assert ox.explain(proto, x, method="gradient", output="a").target_shape == (2, 5)


def test_refusals() -> None:
    proto, x = fullgrad_net()
    for name in ("nothing", "x", "w1"):
        with pytest.raises(TargetError, match="has no output"):
            ox.explain(proto, x, method="gradient", output=name)
    with pytest.raises(TargetError, match="inner tensor"):
        ox.explain(proto, x, method="gradient", output="a1", head="probability")
