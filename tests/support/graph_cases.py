"""Checks of whole small graphs: gradient against differences, completeness, onnxruntime, any number of nodes.

The same five checks as :mod:`rule_cases`, for what does not fit into one node with drawn operands.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx.reference import ReferenceEvaluator

from onnxplain.engine.graph.canonical import canonicalise
from onnxplain.engine.graph.model import read_model
from onnxplain.engine.rewrite import Rewriter
from onnxplain.engine.rules.table import BIAS
from onnxplain.engine.session.reference_ops import CORRECTED
from onnxplain.engine.session.session import Session

Array = np.ndarray[Any, Any]
Arrays = dict[str, Array]


def to_float32(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The float64 model with float32 in the place of float64 everywhere."""
    text = onnx.ModelProto()
    text.CopyFrom(proto)
    _narrow(text.graph)
    return text


def _narrow(graph: onnx.GraphProto) -> None:
    double, single = onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT
    for info in (*graph.input, *graph.output, *graph.value_info):
        _narrow_type(info.type)
    for tensor in graph.initializer:
        _narrow_tensor(tensor)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _narrow(attribute.g)
            elif attribute.type == onnx.AttributeProto.TENSOR:
                _narrow_tensor(attribute.t)
            elif attribute.name in ("to", "dtype") and attribute.i == double:
                attribute.i = single
            elif attribute.type == onnx.AttributeProto.TYPE_PROTO:
                _narrow_type(attribute.tp)


def _narrow_type(kind: onnx.TypeProto) -> None:
    which = kind.WhichOneof("value")
    if which == "tensor_type" and kind.tensor_type.elem_type == onnx.TensorProto.DOUBLE:
        kind.tensor_type.elem_type = onnx.TensorProto.FLOAT
    elif which == "sequence_type":
        _narrow_type(kind.sequence_type.elem_type)
    elif which == "optional_type":
        _narrow_type(kind.optional_type.elem_type)


def _narrow_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.data_type == onnx.TensorProto.DOUBLE:
        array = onnx.numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))


def rewritten(
    proto: onnx.ModelProto, wrt: list[str], outputs: list[str], *, biases: bool = True
) -> tuple[Any, list[tuple[str, str]]]:
    """Rewritten model with inputs ``seed_*`` and outputs ``d_*``, and its (bias, adjoint) output pairs."""
    rewriter = Rewriter(canonicalise(read_model(proto)))
    wanted = [rewriter.value(n) for n in wrt]
    seeds = {}
    for name in outputs:
        value = rewriter.value(name)
        assert value.dtype is not None
        seed = rewriter.add_input(f"seed_{name}", value.dtype, None)
        seed.shape = value.shape
        seeds[value] = seed
    adjoints = rewriter.backward_from(seeds, wanted)
    for n, v in zip(wrt, wanted, strict=True):
        rewriter.add_output(f"d_{n}", adjoints.of[v])
    pairs = []
    for node in adjoints.nodes if biases else []:
        entry = BIAS.find(node.domain, node.op_type, rewriter.op.opset)
        assert entry is not None, f"{node.op_type} has a gradient rule and no bias rule"
        for i, part in enumerate(entry.rule(rewriter.op, node)):
            adjoint = adjoints.of.get(node.outputs[part.output])
            if adjoint is not None:
                c = rewriter.add_output(f"c_{node.name}_{i}", part.full(rewriter.op))
                pairs.append((c, rewriter.add_output(f"a_{node.name}_{i}", adjoint)))
    return rewriter.finish(), pairs


def plain32(proto: onnx.ModelProto, feeds: Arrays) -> list[Array]:
    """onnxruntime's results for the plain model."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))


def check_graph(
    proto: onnx.ModelProto,
    feeds: Arrays,
    wrt: list[str],
    *,
    runtime: bool = True,
    biases: bool = True,
    plain: Any = None,
) -> Arrays:
    """All checks on a float64 model; gives the float64 gradients by operand.

    Args:
        proto: The model; all its float outputs are seeded at random.
        feeds: Array per input.
        wrt: Inputs to differentiate.
        runtime: Whether onnxruntime runs it in float32.
        biases: Whether completeness is checked.
        plain: Evaluates the plain model on feeds; ``onnx.reference`` by default.
    """
    names = [o.name for o in proto.graph.output]
    evaluate = plain or _evaluator(proto)
    results = dict(zip(names, evaluate(feeds), strict=True))
    outputs = [n for n, y in results.items() if y.dtype.kind == "f"]
    rng = np.random.default_rng(7)
    seeds = {n: np.asarray(rng.normal(size=results[n].shape)) for n in outputs}
    model, pairs = rewritten(proto, wrt, outputs, biases=biases)
    run = Session(model, "reference").run({**feeds, **{f"seed_{n}": s for n, s in seeds.items()}})
    for n, y in results.items():
        np.testing.assert_allclose(run[n], y, rtol=1e-10, atol=1e-12, err_msg="rewriting changed the output")
    found = {n: run[f"d_{n}"] for n in wrt}
    _check_differences(evaluate, names, feeds, seeds, found)
    if biases:
        total = sum(float(np.vdot(seeds[n], run[n])) for n in outputs)
        terms = [float(np.vdot(found[n], feeds[n])) for n in wrt]
        terms += [float(np.sum(np.broadcast_to(run[c], run[a].shape) * run[a])) for c, a in pairs]
        scale = sum(map(abs, terms)) + abs(total) + 1e-30
        assert abs(total - sum(terms)) <= 1e-9 * scale, f"completeness: {total} against {sum(terms)}"
    if runtime:
        _check_runtime(to_float32(proto), feeds, seeds, found, wrt, outputs, biases)
    return found


def _evaluator(proto: onnx.ModelProto) -> Callable[[Arrays], list[Array]]:
    evaluator = ReferenceEvaluator(proto, new_ops=CORRECTED)
    return lambda feeds: [np.asarray(y) for y in evaluator.run(None, feeds)]


def _check_differences(evaluate: Any, names: list[str], feeds: Arrays, seeds: Arrays, found: Arrays) -> None:
    rng = np.random.default_rng(11)

    def scalar(shift: Arrays, h: float) -> float:
        moved = {n: x + h * shift[n] if n in shift else x for n, x in feeds.items()}
        results = dict(zip(names, evaluate(moved), strict=True))
        return sum(float(np.vdot(s, results[n])) for n, s in seeds.items())

    for _ in range(3):
        direction = {n: rng.normal(size=feeds[n].shape) for n in found}
        slopes = [(scalar(direction, h) - scalar(direction, -h)) / (2 * h) for h in (1e-4, 5e-5)]
        numeric = (4 * slopes[1] - slopes[0]) / 3
        analytic = sum(float(np.vdot(g, direction[n])) for n, g in found.items())
        scale = sum(float(np.linalg.norm(g) * np.linalg.norm(direction[n])) for n, g in found.items()) + 1e-3
        assert abs(numeric - analytic) <= 1e-7 * scale, f"gradient: differences {numeric}, rule {analytic}"


def _check_runtime(
    proto: onnx.ModelProto,
    feeds: Arrays,
    seeds: Arrays,
    found: Arrays,
    wrt: list[str],
    outputs: list[str],
    biases: bool,
) -> None:
    narrow = {n: x.astype(np.float32) if x.dtype == np.float64 else x for n, x in feeds.items()}
    model, _ = rewritten(proto, wrt, outputs, biases=biases)
    run = Session(model, threads=1).run({**narrow, **{f"seed_{n}": s.astype(np.float32) for n, s in seeds.items()}})
    for info, y in zip(proto.graph.output, plain32(proto, narrow), strict=True):
        if y.size:
            assert np.max(np.abs(run[info.name] - y)) <= 1e-5 * max(1.0, float(np.max(np.abs(y)))), "the output changed"
    for n in wrt:
        gap = np.linalg.norm(run[f"d_{n}"] - found[n])
        assert gap <= 2e-5 * max(float(np.linalg.norm(found[n])), 1e-2), f"float32 gradient of {n}: off by {gap}"
