"""A matrix times a vector -> times a matrix of one column.

``MatMul(A, v)`` with a vector on the right -> ``Squeeze(MatMul(A, [v]), -1)``, under the old name.

onnxruntime (1.20 to 1.31) takes a Transpose in front of such a product into it (FusedMatMul), and then reads the
matrix as if it had not been transposed, without a word. With a column in the vector's place it is right. A
vector on the left is not concerned.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxplain.engine.graph.builder import names_of
from onnxplain.engine.graph.infer import InferringBuilder
from onnxplain.engine.graph.shapes import constant, rank


class MatrixVectorPass(ir.passes.InPlacePass):
    """See the module's text. Requires inferred ranks and the working opset."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        found = [n for n in model.graph if n.op_type == "MatMul" and n.domain == "" and _has_vector(n)]
        if not found:
            return ir.passes.PassResult(model, modified=False)
        op = InferringBuilder(model.graph, names_of(model.graph))
        op.opset = model.graph.opset_imports.get("", 18)
        for node in found:
            _replace(op, node)
        return ir.passes.PassResult(model, modified=True)


def _has_vector(node: ir.Node) -> bool:
    matrix, vector = node.inputs
    return matrix is not None and vector is not None and rank(vector) == 1 and (rank(matrix) or 0) >= 2


def _replace(op: InferringBuilder, node: ir.Node) -> None:
    op.before = node
    matrix, vector = node.inputs
    known = constant(vector)
    if known is None:
        column = op.Unsqueeze(vector, [1])
    else:
        column = op.constant(np.ascontiguousarray(known[:, None]), name=f"{vector.name if vector else ''}/column")
    product = op.emit("MatMul", [matrix, column], name=node.name)[0]
    new, old = op.Squeeze(product, [-1]), node.outputs[0]
    new.type, new.shape, name = old.type, old.shape, old.name
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    op.graph.remove(node, safe=True)
    old.name, new.name = None, name
