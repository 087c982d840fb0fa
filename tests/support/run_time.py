"""One-node models all of whose operands are fed at run time, for rules that must not rely on constants."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper

from onnxplain.engine.graph.canonical import canonicalise
from onnxplain.engine.graph.model import read_model
from onnxplain.engine.rewrite import Rewriter
from onnxplain.engine.rules.table import BIAS
from onnxplain.engine.session.session import Session

Array = np.ndarray[Any, Any]


def ints(*values: int) -> Array:
    """An int64 vector."""
    return np.asarray(values, np.int64)


def model(nodes: list[onnx.NodeProto], feeds: Mapping[str, Array], opset: int = 18) -> onnx.ModelProto:
    """A model from ``feeds``, none of whose sizes are told, to the tensor ``y`` of the type of ``x``."""
    infos = [
        helper.make_tensor_value_info(
            k, helper.np_dtype_to_tensor_dtype(v.dtype), [f"{k}{i}" if k == "x" else v.shape[i] for i in range(v.ndim)]
        )
        for k, v in feeds.items()
    ]
    y = helper.make_tensor_value_info("y", infos[0].type.tensor_type.elem_type, None)
    return helper.make_model(
        helper.make_graph(nodes, "g", infos, [y]), opset_imports=[helper.make_opsetid("", opset)], ir_version=9
    )


def gradient(proto: onnx.ModelProto, feeds: Mapping[str, Array], seed: Array, wrt: str = "x") -> Array:
    """Gradient of <seed, first output> with respect to ``wrt``, by onnxruntime."""
    rewriter = Rewriter(canonicalise(read_model(proto)))
    y = rewriter.output_value()
    assert y.dtype is not None
    cotangent = rewriter.add_input("seed", y.dtype, None)
    adjoints = rewriter.backward_from({y: cotangent}, [rewriter.value(wrt)])
    name = rewriter.add_output("dx", adjoints.of[rewriter.value(wrt)])
    return Session(rewriter.finish(), threads=1).run({**feeds, "seed": seed.astype(y.dtype.numpy())})[name]


def of_one_node(op_type: str, feeds: Mapping[str, Array], seed: Array, opset: int = 18, **attributes: Any) -> Array:
    """Gradient of one node with respect to ``x``, its first operand; all others are fed as well."""
    node = helper.make_node(op_type, list(feeds), ["y"], **attributes)
    return gradient(model([node], feeds, opset), feeds, seed)


def terms_of(proto: onnx.ModelProto, feeds: Mapping[str, Array], seed: Array) -> list[tuple[str, str, Array]]:
    """(kind, name, value) of every part of the first node's bias, for a gradient with respect to ``x``."""
    rewriter = Rewriter(canonicalise(read_model(proto)))
    y = rewriter.output_value()
    assert y.dtype is not None
    cotangent = rewriter.add_input("seed", y.dtype, None)
    node = rewriter.backward_from({y: cotangent}, [rewriter.value("x")]).nodes[0]
    entry = BIAS.find(node.domain, node.op_type, rewriter.op.opset)
    assert entry is not None
    parts = [(t.kind, t.name, rewriter.add_output("c", t.value)) for t in entry.rule(rewriter.op, node)]
    run = Session(rewriter.finish(), threads=1).run({**feeds, "seed": seed})
    return [(kind, name, run[output]) for kind, name, output in parts]


def scattered(numbers: Array, seed: Array, shape: tuple[int, ...]) -> Array:
    """What a move of elements owes its operand: the seed added up at the element numbers, -1 left out."""
    total = np.zeros(int(np.prod(shape)) + 1, seed.dtype)
    np.add.at(total, numbers, seed)
    return total[:-1].reshape(shape)
