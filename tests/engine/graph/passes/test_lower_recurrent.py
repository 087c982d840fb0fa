"""RNN, GRU, LSTM as their equations: equal to the runtime's kernels, and to the equations in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper
from recurrent_cases import CASES, Recurrent, build, feeds_of, numpy_recurrent

from onnxplain.engine.graph.canonical import canonicalise
from onnxplain.engine.graph.model import read_model
from onnxplain.engine.session.session import Session

Array = np.ndarray[Any, Any]


def runtime(proto: onnx.ModelProto, feeds: dict[str, Array]) -> list[Array]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return list(onnxruntime.InferenceSession(proto.SerializeToString(), options).run(None, feeds))


def operators(model: ir.Model) -> set[str]:
    return {n.op_type for n in model.graph.all_nodes()}


@pytest.mark.parametrize("dynamic", [False, True], ids=["unrolled", "scan"])
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.id)
def test_results_are_those_of_the_equations(case: Recurrent, dynamic: bool) -> None:
    """Exactly, in float64; the equations are written in NumPy, step by step and sample by sample."""
    arrays = case.arrays()
    lowered = canonicalise(read_model(build(case, arrays, dynamic=dynamic)))
    assert not operators(lowered) & {"RNN", "GRU", "LSTM"}
    assert ("Scan" in operators(lowered)) == dynamic
    found = Session(lowered, "reference").run(feeds_of(case, arrays))
    for name, expected in numpy_recurrent(case, arrays).items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-10, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("dynamic", [False, True], ids=["unrolled", "scan"])
@pytest.mark.parametrize("case", [c for c in CASES if c.runtime], ids=lambda c: c.id)
def test_results_are_those_of_the_runtime(case: Recurrent, dynamic: bool) -> None:
    arrays = case.arrays(np.float32)
    proto = build(case, arrays, dynamic=dynamic)
    feeds = feeds_of(case, arrays)
    found = Session(canonicalise(read_model(proto)), threads=1).run(feeds)
    for output, expected in zip(proto.graph.output, runtime(proto, feeds), strict=True):
        # float32 rounding, and the runtime's own polynomials for Sigmoid and Tanh.
        np.testing.assert_allclose(found[output.name], expected, atol=1e-5 * max(1.0, np.abs(expected).max()))


def test_long_known_sequences_become_a_scan() -> None:
    case = Recurrent("LSTM", steps=33)
    lowered = canonicalise(read_model(build(case, case.arrays(), dynamic=False)))
    assert "Scan" in operators(lowered)


def test_an_lstm_in_a_branch_is_lowered() -> None:
    case = Recurrent("LSTM")
    arrays = case.arrays(np.float32)
    inner = build(case, arrays, dynamic=True).graph
    then = helper.make_graph(list(inner.node), "t", [], [inner.output[0]])
    other = helper.make_graph(
        [helper.make_node("Identity", ["Y_"], ["Z"])], "e", [], [helper.make_empty_tensor_value_info("Z")]
    )
    nodes = [
        helper.make_node("ReduceSum", ["X"], ["s"], keepdims=0),
        helper.make_node("Greater", ["s", "zero"], ["c"]),
        helper.make_node("If", ["c"], ["Y"], then_branch=then, else_branch=other),
    ]
    scalars = [onnx.numpy_helper.from_array(np.asarray(v, np.float32), k) for k, v in [("zero", 0.0), ("Y_", 1.0)]]
    # The branch's own result has another name than the If's.
    then.node[0].output[0] = then.output[0].name = "inner_Y"
    result = helper.make_tensor_value_info("Y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", list(inner.input), [result], [*inner.initializer, *scalars])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    lowered = canonicalise(read_model(proto))
    assert "LSTM" not in operators(lowered)
    for sign in (1.0, -1.0):
        feeds = {**feeds_of(case, arrays), "X": sign * np.abs(arrays["X"])}
        np.testing.assert_allclose(Session(lowered, threads=1).run(feeds)["Y"], runtime(proto, feeds)[0], atol=1e-6)


def _with(kind: str, **attributes: Any) -> Callable[[], Recurrent]:
    return lambda: Recurrent(kind, attributes=attributes)


@pytest.mark.parametrize("make", [_with("RNN", activations=["Cosine"])], ids=["activation"])
def test_what_cannot_be_served_is_refused(make: Callable[[], Recurrent]) -> None:
    from onnxplain.engine.errors import UnsupportedNodeError

    case = make()
    with pytest.raises(UnsupportedNodeError, match="Cosine"):
        canonicalise(read_model(build(case, case.arrays(), dynamic=False)))
