"""Attention masks of -inf through several rules at once: the whole identity holds, and nothing is NaN.

``<dy, y> = <dx, x> + sum <a, c>`` over all nodes, for every way in which exporters write a masked Softmax.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from onnxplain.engine.graph.canonical import canonicalise
from onnxplain.engine.graph.model import read_model
from onnxplain.engine.rewrite import Rewriter
from onnxplain.engine.rules.table import BIAS
from onnxplain.engine.session.session import Session

node = helper.make_node
KEEP = np.array([[True, False, False], [True, True, False], [True, True, True]])
DECOMPOSED = [
    node("ReduceMax", ["s", "last"], ["m"], keepdims=1),
    node("Sub", ["s", "m"], ["d"]),
    node("Exp", ["d"], ["e"]),
    node("ReduceSum", ["e", "last"], ["t"], keepdims=1),
    node("Div", ["e", "t"], ["y"]),
]
FORMS = {
    "Add, Softmax": [node("Add", ["x", "mask"], ["s"]), node("Softmax", ["s"], ["y"])],
    "Where, Softmax": [node("Where", ["keep", "x", "low"], ["s"]), node("Softmax", ["s"], ["y"])],
    "Add, in parts": [node("Add", ["x", "mask"], ["s"]), *DECOMPOSED],
    "Where, in parts": [node("Where", ["keep", "x", "low"], ["s"]), *DECOMPOSED],
    "Max, Softmax": [
        node("Add", ["x", "mask"], ["r"]),
        node("Max", ["r", "least"], ["s"]),
        node("Softmax", ["s"], ["y"]),
    ],
}


@pytest.mark.parametrize("mask_is_an_input", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_masked_attention_is_complete(form: str, mask_is_an_input: bool) -> None:
    values: dict[str, np.ndarray[Any, Any]] = {
        "mask": np.where(KEEP, np.float32(0), np.float32(-np.inf)),
        "keep": KEEP,
        "low": np.asarray(-np.inf, np.float32),
        "least": np.asarray(np.finfo(np.float32).min, np.float32),
        "last": np.array([-1], np.int64),
    }
    used = {name for n in FORMS[form] for name in n.input} & set(values)
    fed = {"mask", "low"} & used if mask_is_an_input else set()
    infos = [
        helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, values[n].shape if n in values else [3, 3])
        for n in ("x", *sorted(fed))
    ]
    result = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [3, 3])
    weights = [onnx.numpy_helper.from_array(values[n], n) for n in sorted(used - fed)]
    graph = helper.make_graph(FORMS[form], "masked", infos, [result], weights)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)

    rng = np.random.default_rng(5)
    x, dy = rng.normal(size=(2, 3, 3)).astype(np.float32)
    rewriter = Rewriter(canonicalise(read_model(proto)))
    wanted = rewriter.value("x")
    adjoints = rewriter.backward_from({rewriter.value("y"): rewriter.op.constant(dy)}, [wanted])
    gradient = rewriter.add_output("dx", adjoints.of[wanted])
    pairs = []
    for primal in adjoints.nodes:
        entry = BIAS.find(primal.domain, primal.op_type, 18)
        assert entry is not None
        for part in entry.rule(rewriter.op, primal):
            adjoint = adjoints.of[primal.outputs[part.output]]
            pairs.append((rewriter.add_output("c", part.value), rewriter.add_output("a", adjoint)))
    run = Session(rewriter.finish(), threads=1).run({"x": x, **{n: values[n] for n in fed}})

    p = np.where(KEEP, np.exp(x.astype(np.float64)), 0)
    p /= p.sum(-1, keepdims=True)
    np.testing.assert_allclose(run["y"], p, rtol=1e-5)
    np.testing.assert_allclose(run[gradient], p * (dy - (p * dy).sum(-1, keepdims=True)), rtol=1e-4, atol=1e-6)
    terms = [np.vdot(run[gradient], x)] + [np.sum(run[a] * run[c]) for c, a in pairs]
    assert np.isfinite(terms).all()
    total = np.vdot(run["y"], dy)
    assert abs(total - sum(terms)) <= 1e-5 * sum(abs(t) for t in terms)
