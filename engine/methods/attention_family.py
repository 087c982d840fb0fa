"""What attention methods share: matrices of all blocks multiplied up, the row that is read, and its map."""

from __future__ import annotations

import onnx_ir as ir

from onnxplain.engine.attention import Attentions, find_attentions, identity_like
from onnxplain.engine.axes import Labels, unfolding
from onnxplain.engine.errors import OptionError
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.shapes import dims
from onnxplain.engine.method import Method, Parts, Plan, Run
from onnxplain.engine.psi import MapSum


class AttentionMethod(Method):
    """The subclass gives each block's matrix ``[N, T, T]``, and how it goes on from the product so far.

    Attributions are per position of the sequence, on its grid of places; a class token has no place and is left out.
    """

    align_corners: bool = True

    def matrices(self, plan: Plan, found: Attentions) -> list[ir.Value]:
        """Emit one matrix per attention, in forward order."""
        raise NotImplementedError

    def step(self, op: Builder, matrix: ir.Value, product: ir.Value | None, identity: ir.Value) -> ir.Value:
        """Emit the product with one more block; None stands for the identity."""
        raise NotImplementedError

    def build(self, plan: Plan) -> None:
        found = find_attentions(plan)
        op = plan.rewriter.op
        matrices = self.matrices(plan, found)
        known = dims(found.values[0])
        if matrices[0].shape is None and known is not None:
            matrices[0].shape = ir.Shape([None, *known[-2:]])
        identity = identity_like(op, matrices[0])
        product: ir.Value | None = None
        for matrix in matrices:
            product = self.step(op, matrix, product, identity)
        assert product is not None, "there is at least one attention"
        relevance = found.rows.of(op, product)
        relevance.shape = ir.Shape([None, known[-1] if known is not None else None])
        self._draw(plan, found, relevance)

    def _draw(self, plan: Plan, found: Attentions, relevance: ir.Value) -> None:
        op, subject = plan.rewriter.op, plan.subjects[0]
        labels: Labels = ("batch", found.sequence)
        way = unfolding(labels, dims(relevance))
        if way is None:
            raise OptionError(
                "the sizes of the grid of tokens are known only at run time, so that no map can be drawn; "
                "give the model's input fixed sizes"
            )
        places = way.apply(op, relevance)
        name = found.values[-1].name or ""
        plan.memo.update(
            name=name,
            reason=f"attention in {len(found.values)} block(s), up to '{name}'; the sequence is {found.rows.reason}",
        )
        plan.output("places", places, places.shape)
        total = MapSum(op, subject.value, subject.labels, self.align_corners)
        total.add(places, places, way.labels)
        result = total.finish()
        assert result is not None
        plan.output("map", result, None)

    def ship(self, plan: Plan) -> None:
        super().ship(plan)
        plan.output(f"attribution/{plan.memo['name']}", plan.values["places"], plan.values["places"].shape)

    def reduce(self, run: Run) -> Parts:
        attributions = {run.memo["name"]: run.outputs["places"]}
        return Parts(attributions, run.outputs["map"], notes=[run.memo["reason"]])
