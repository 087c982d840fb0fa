"""The identity <a, y> = sum <dx, x> + sum <a, c> on models of more than one node, in float64."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from onnxplain.engine.graph.canonical import canonicalise
from onnxplain.engine.graph.model import read_model
from onnxplain.engine.rewrite import Rewriter
from onnxplain.engine.rules.table import BIAS
from onnxplain.engine.session.session import Session

Array = np.ndarray[Any, Any]


def sides(
    proto: onnx.ModelProto, feeds: Mapping[str, Array], seed: Array, wrt: Sequence[str] = ("x",)
) -> tuple[float, list[float]]:
    """The left side, and the terms of the right one: per operand in ``wrt``, then per node bias."""
    rewriter = Rewriter(canonicalise(read_model(proto)))
    y = rewriter.output_value()
    assert y.dtype is not None
    cotangent = rewriter.add_input("seed", y.dtype, None)
    cotangent.shape = y.shape
    wanted = [rewriter.value(name) for name in wrt]
    adjoints = rewriter.backward_from({y: cotangent}, wanted)
    pairs = [(rewriter.add_output(f"d_{i}", adjoints.of[v]), wrt[i]) for i, v in enumerate(wanted)]
    for node in adjoints.nodes:
        entry = BIAS.find(node.domain, node.op_type, rewriter.op.opset)
        assert entry is not None, f"{node.op_type} has a gradient rule and no bias rule"
        for i, part in enumerate(entry.rule(rewriter.op, node)):
            adjoint = rewriter.add_output(f"a_{node.name}_{i}", adjoints.of[node.outputs[part.output]])
            pairs.append((adjoint, rewriter.add_output(f"c_{node.name}_{i}", part.value)))
    run = Session(rewriter.finish(), "reference").run({**feeds, "seed": seed})
    known = {**feeds, **run}
    terms = [float(np.sum(known[a] * np.broadcast_to(known[c], known[a].shape))) for a, c in pairs]
    return float(np.vdot(seed, next(iter(run.values())))), terms


def assert_complete(
    proto: onnx.ModelProto, feeds: Mapping[str, Array], seed: Array, wrt: Sequence[str] = ("x",)
) -> None:
    """Both sides agree to rounding, relative to the sum of magnitudes."""
    total, terms = sides(proto, feeds, seed, wrt)
    scale = abs(total) + sum(abs(t) for t in terms)
    assert np.isfinite(scale), f"{total} against {terms}"
    assert abs(total - sum(terms)) <= 1e-10 * scale, f"{total} against {terms}"
