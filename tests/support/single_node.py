"""Gradients and biases of one-node models at chosen numbers, in float32 on onnxruntime.

For what the drawn cases of `rule_cases` avoid on purpose: kinks, ties, infinities, the ends of the range.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper

from onnxplain.engine.graph.canonical import canonicalise
from onnxplain.engine.graph.model import read_model
from onnxplain.engine.rewrite import Rewriter
from onnxplain.engine.rules.table import BIAS
from onnxplain.engine.session.session import Session
from onnxplain.engine.vjp import vjp

Arrays = Mapping[str, Any]


def model_of(
    op_type: str, arrays: Arrays, constants: Sequence[str] = (), *, outputs: int = 1, opset: int = 18, **attributes: Any
) -> onnx.ModelProto:
    """One node reading ``arrays`` in order; those in ``constants`` are initializers, the others inputs."""
    values = {k: np.asarray(v) for k, v in arrays.items()}
    node = helper.make_node(op_type, list(values), [f"y{i}" for i in range(outputs)], **attributes)
    infos = [
        helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
        for k, v in values.items()
        if k not in constants
    ]
    weights = [onnx.numpy_helper.from_array(values[k], k) for k in constants]
    results = [helper.make_empty_tensor_value_info(y) for y in node.output]
    graph = helper.make_graph([node], op_type, infos, results, weights)
    opsets = [helper.make_opsetid("", opset)]
    ir_version = max(8, helper.find_min_ir_version_for(opsets))
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)
    return onnx.shape_inference.infer_shapes(proto)


def outputs_of(model: onnx.ModelProto, arrays: Arrays) -> list[np.ndarray[Any, Any]]:
    """What onnxruntime returns for the plain model."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, {v.name: np.asarray(arrays[v.name]) for v in session.get_inputs()}))


def gradient_of(
    op_type: str,
    arrays: Arrays,
    wrt: Sequence[str] | None = None,
    constants: Sequence[str] = (),
    cotangent: Any = None,
    **options: Any,
) -> dict[str, np.ndarray[Any, Any]]:
    """Gradients of ``<cotangent, y0>`` (of the sum by default) by the operands in ``wrt``."""
    model = model_of(op_type, arrays, constants, **options)
    feeds = {k: np.asarray(v) for k, v in arrays.items() if k not in constants}
    y = outputs_of(model, feeds)[0]
    seed = np.ones_like(y) if cotangent is None else np.asarray(cotangent, y.dtype)
    return vjp(model, feeds, {"y0": seed}, wrt=wrt)


def bias_of(
    op_type: str, arrays: Arrays, wrt: Sequence[str] = ("x",), constants: Sequence[str] = (), **options: Any
) -> np.ndarray[Any, Any]:
    """Sum of the node's bias parts, in the shape of the first result; zeros where it has none."""
    model = model_of(op_type, arrays, constants, **options)
    feeds = {k: np.asarray(v) for k, v in arrays.items() if k not in constants}
    y = outputs_of(model, feeds)[0]
    rewriter = Rewriter(canonicalise(read_model(model)))
    seed = rewriter.op.constant(np.ones_like(y))
    adjoints = rewriter.backward_from({rewriter.value("y0"): seed}, [rewriter.value(n) for n in wrt])
    (node,) = adjoints.nodes
    entry = BIAS.find(node.domain, node.op_type, rewriter.op.opset)
    assert entry is not None, f"{op_type} has no bias rule"
    names = [rewriter.add_output(f"bias{i}", part.value) for i, part in enumerate(entry.rule(rewriter.op, node))]
    found = Session(rewriter.finish(), threads=1).run(feeds)
    return sum((np.broadcast_to(found[n], y.shape) for n in names), np.zeros_like(y))
