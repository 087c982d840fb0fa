"""A kernel that Conv and ConvTranspose share -> one of its own for the ConvTranspose, where channels in and out are equal.

OpenVINO 2025 and 2026 compute such a ConvTranspose with the channels of its kernel exchanged, and say nothing. The
adjoint of a strided convolution is one. Negated twice the kernel is another constant with the same bits; Identity, a
product with 1 and two transpositions are simplified away before the kernels are compared.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxplain.engine.graph.builder import Builder, names_of
from onnxplain.engine.graph.captures import walk
from onnxplain.engine.graph.shapes import dims


class OwnKernelsPass(ir.passes.InPlacePass):
    """See the module's text."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        nodes = list(walk(model.graph))
        shared = {_kernel(n) for n in nodes if n.op_type == "Conv" and n.domain == ""}
        found = [n for n in nodes if n.op_type == "ConvTranspose" and n.domain == "" and _kernel(n) in shared]
        found = [n for n in found if _may_be_square(n)]
        taken = names_of(model.graph) if found else set()
        for node in found:
            assert isinstance(node.graph, ir.Graph)
            op = Builder(node.graph, before=node, taken=taken)
            node.replace_input_with(1, op.Neg(op.Neg(_kernel(node))))
        return ir.passes.PassResult(model, modified=bool(found))


def _kernel(node: ir.Node) -> ir.Value | None:
    return node.inputs[1]


def _may_be_square(node: ir.Node) -> bool:
    """Whether the two sizes that may be exchanged are equal, or not known."""
    kernel = _kernel(node)
    known = dims(kernel) if kernel is not None else None
    return known is None or not isinstance(known[0], int) or not isinstance(known[1], int) or known[0] == known[1]
