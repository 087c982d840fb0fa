"""Runs a model as it is and in canonical form, both on onnxruntime, for tests of the passes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime

from onnxplain.engine.graph.canonical import canonicalise
from onnxplain.engine.graph.model import read_model

Array = np.ndarray[Any, Any]


def run(proto: onnx.ModelProto, feeds: Mapping[str, Array]) -> list[Array]:
    """What onnxruntime returns, without its optimiser, which would hide what the passes do."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(feeds)))


def operators(model: ir.Model) -> list[str]:
    """Operators of the main graph, in order."""
    return [n.op_type for n in model.graph]


def same_outputs(proto: onnx.ModelProto, feeds: Mapping[str, Array], tolerance: float = 1e-6) -> ir.Model:
    """The canonical form, after checking that it is valid and returns what the model returns.

    The tolerance is for another order of additions; what only moves numbers is asked for with 0.
    """
    before = run(proto, feeds)
    canonical = canonicalise(read_model(proto))
    after_proto = ir.to_proto(canonical)
    shaped = all(v.type.tensor_type.HasField("shape") for v in proto.graph.input)  # the checker insists on ranks
    if shaped and all(n.domain == "" for n in canonical.graph.all_nodes()):
        onnx.checker.check_model(after_proto)
    after = run(after_proto, feeds)
    assert [o.name for o in proto.graph.output] == [o.name for o in after_proto.graph.output]
    for a, b in zip(before, after, strict=True):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        np.testing.assert_allclose(b, a, rtol=tolerance, atol=tolerance)
    return canonical


def numbers(*shape: int, dtype: Any = np.float32, seed: int = 0) -> Array:
    """Drawn numbers, no two alike."""
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)
