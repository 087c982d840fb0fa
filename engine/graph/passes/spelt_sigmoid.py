"""A sigmoid written out -> Sigmoid: its derivative is finite where the exponential in it is not.

``1 / (1 + exp(-z))``, as ``Reciprocal`` or ``Div``, with the sum either way round -> ``Sigmoid(z)``; ``-z`` is a Neg,
a product with -1, or any tensor at all (``1 / (1 + exp(u))`` is ``Sigmoid(-u)``). In float32 ``exp(89)`` is infinite:
the answer is the right 0, a gradient through the parts is infinity times zero. Converters of classical models write
it for Platt scaling and for one class against the rest.
"""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common

from onnxplain.engine.graph.builder import names_of
from onnxplain.engine.graph.infer import InferringBuilder
from onnxplain.engine.graph.shapes import constant, dims


class SpeltSigmoidPass(ir.passes.InPlacePass):
    """See the module's text. Requires inferred shapes and the working opset."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        found = [(node, u) for node in model.graph if (u := _exponent(node)) is not None]
        if not found:
            return ir.passes.PassResult(model, modified=False)
        op = InferringBuilder(model.graph, names_of(model.graph))
        op.opset = model.graph.opset_imports.get("", 18)
        for node, u in found:
            op.before = node
            z = _negated(u)
            new, old = op.Sigmoid(op.Neg(u) if z is None else z), node.outputs[0]
            new.type, new.shape, name = old.type, old.shape, old.name
            old.replace_all_uses_with(new, replace_graph_outputs=True)
            model.graph.remove(node, safe=True)
            old.name, new.name = None, name
        common.RemoveUnusedNodesPass()(model)
        return ir.passes.PassResult(model, modified=True)


def _exponent(node: ir.Node) -> ir.Value | None:
    """u of ``1 / (1 + exp(u))``."""
    if node.domain or node.op_type not in ("Reciprocal", "Div"):
        return None
    if node.op_type == "Div" and not _is(node.inputs[0], 1.0):
        return None
    total = node.inputs[-1].producer() if node.inputs[-1] is not None else None
    if total is None or total.op_type != "Add" or total.domain:
        return None
    for one, other in (total.inputs, total.inputs[::-1]):
        power = other.producer() if other is not None else None
        if _is(one, 1.0) and power is not None and power.op_type == "Exp" and not power.domain:
            u = power.inputs[0]
            # A one of more axes than the exponential has would give the result another shape.
            return u if u is not None and dims(u) is not None and dims(u) == dims(node.outputs[0]) else None
    return None


def _negated(u: ir.Value) -> ir.Value | None:
    """z of ``-z``."""
    node = u.producer()
    if node is None or node.domain:
        return None
    if node.op_type == "Neg":
        return node.inputs[0]
    if node.op_type == "Mul":
        for one, other in (node.inputs, node.inputs[::-1]):
            if _is(one, -1.0) and other is not None and dims(other) is not None and dims(other) == dims(u):
                return other
    return None


def _is(value: ir.Value | None, number: float) -> bool:
    known = constant(value)
    return known is not None and known.size == 1 and float(known.reshape(-1)[0]) == number
