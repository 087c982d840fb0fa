"""Replaces RNN, GRU and LSTM by their equations in simpler operators, which have rules.

Per direction, with the projection of all inputs ``X W^T + b`` as one product in front:

1. at most :data:`UNROLLED` steps, their number known -> the steps one after the other;
2. otherwise -> a Scan over the steps.

All attributes of the operators are served: directions, activations with alpha and beta, peepholes, clip,
``input_forget``, ``linear_before_reset``, both layouts, sequence lengths, initial states.

Every node is lowered, whether it lies on a differentiated path or not: the canonical graph is made once,
before anybody says what is differentiated, and what comes after it (bias terms, names of layers, checks)
then sees one form. A step past the end of a sample's sequence leaves its states as they are and gives
zeros, which is the same as running it over its own length only, in both directions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import onnx_ir.passes.common as common

from onnxplain.engine.errors import UnsupportedNodeError
from onnxplain.engine.graph.builder import Builder, names_of
from onnxplain.engine.graph.captures import walk
from onnxplain.engine.graph.names import STEPS, describe, label
from onnxplain.engine.graph.passes.fold_constants import FoldConstantsPass
from onnxplain.engine.graph.passes.recurrent_cells import CELLS, Activation, Cell, activations_of
from onnxplain.engine.graph.shapes import dims, set_dims

#: Sequences of at most this known length are unrolled.
UNROLLED = 32


class LowerRecurrentPass(ir.passes.InPlacePass):
    """See the module's text. Requires the working opset and inferred shapes."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        found = [n for n in walk(model.graph) if n.op_type in CELLS and n.domain == ""]
        modified = bool(found)
        if modified:
            taken = names_of(model.graph)
            for node in found:
                if isinstance(node.graph, ir.Graph):
                    _Lowering(node, Builder(node.graph, before=node, taken=taken)).run()
            common.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(model)
            FoldConstantsPass()(model)
        return ir.passes.PassResult(model, modified=modified)


@dataclass
class _Run:
    """What one direction gives: ``Y [T, B, H]`` and the last states ``[B, H]``."""

    steps: ir.Value
    states: list[ir.Value]


class _Lowering:
    def __init__(self, node: ir.Node, op: Builder) -> None:
        self.node = node
        self.op = op
        self.kind = CELLS[node.op_type]
        self.batch_first = bool(self._attribute("layout", 0))
        direction = str(self._attribute("direction", "forward"))
        self.directions = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[direction]
        x, recurrence = self._input(0), self._input(2)
        if x is None or recurrence is None:
            raise self._unsupported("an operand is missing", "the model is malformed; check it with onnx.checker")
        if dims(x) is None and not x.is_graph_input():
            # Behind a branch that squeezes at run time nothing is inferred, but the operator allows three axes only.
            set_dims(x, [None, None, None])
        self.x = self.op.Transpose(x, perm=[1, 0, 2]) if self.batch_first else x
        self.dtype = x.dtype or ir.DataType.FLOAT
        known, size = dims(x), (dims(recurrence) or (None,))[-1]
        hidden = self._attribute("hidden_size", size if isinstance(size, int) else None)
        if hidden is None:
            raise self._unsupported("its hidden_size is not known", "export the model with constant weights")
        self.hidden = int(hidden)
        self.length = known[1 if self.batch_first else 0] if known is not None and len(known) == 3 else None
        self.batch = known[0 if self.batch_first else 1] if known is not None and len(known) == 3 else None
        self.mask = self._mask()

    # ----- operands ------------------------------------------------------------------------------

    def _attribute(self, name: str, default: Any) -> Any:
        attribute = self.node.attributes.get(name)
        return default if attribute is None else attribute.value

    def _input(self, index: int) -> ir.Value | None:
        return self.node.inputs[index] if index < len(self.node.inputs) else None

    def _unsupported(self, reason: str, hint: str) -> UnsupportedNodeError:
        return UnsupportedNodeError(label(self.node), describe(self.node), reason, hint)

    def _of_direction(self, index: int, d: int, axis: int = 0) -> ir.Value | None:
        value = self._input(index)
        return None if value is None else self.op.Gather(value, d, axis=axis)

    def _sizes(self) -> tuple[ir.Value, ir.Value]:
        """Number of steps and of samples, ``int64[1]`` each."""
        shape = self.op.Shape(self.x)
        return self.op.Slice(shape, [0], [1]), self.op.Slice(shape, [1], [2])

    def _mask(self) -> ir.Value | None:
        """``[T, B, 1]``: whether the step belongs to the sample's sequence."""
        lengths = self._input(4)
        if lengths is None:
            return None
        op = self.op
        steps = op.Range(0, op.Squeeze(self._sizes()[0], [0]), 1)
        return op.Less(op.Unsqueeze(steps, [1, 2]), op.Unsqueeze(op.Cast(lengths, to=ir.DataType.INT64.value), [0, 2]))

    def _initial(self, index: int, d: int) -> ir.Value:
        given = self._of_direction(index, d, axis=1 if self.batch_first else 0)
        if given is not None:
            return given
        shape = self.op.Concat(self._sizes()[1], [self.hidden], axis=0)
        return self.op.ConstantOfShape(shape, value=ir.tensor([0], dtype=self.dtype))

    # ----- one direction -------------------------------------------------------------------------

    def _cell(self, d: int) -> tuple[Cell, ir.Value]:
        """The step function of a direction, and its projected inputs ``[T, B, gates H]``."""
        op = self.op
        weight, recurrence, bias = (self._of_direction(i, d) for i in (1, 2, 3))
        assert weight is not None
        assert recurrence is not None
        parts = op.emit("Split", [bias], outputs=2, axis=0, num_outputs=2) if bias is not None else [None, None]
        clip = self._attribute("clip", None)
        cell = self.kind(
            activations=self._activations(d),
            hidden=self.hidden,
            recurrence=recurrence,
            clip=None if not clip else float(clip),
            peephole=self._of_direction(7, d) if self.node.op_type == "LSTM" else None,
            coupled=bool(self._attribute("input_forget", 0)),
            reset_after=bool(self._attribute("linear_before_reset", 0)),
            unsupported=self._unsupported,
        )
        projected = op.MatMul(self.x, op.Transpose(weight, perm=[1, 0]))
        producer = projected.producer()
        assert producer is not None
        producer.meta[STEPS] = (label(self.node), describe(self.node))
        total = cell.prepare(op, *parts)
        return cell, projected if total is None else op.Add(projected, total)

    def _activations(self, d: int) -> list[Activation]:
        names = self._attribute("activations", None)
        scales = (self._attribute("activation_alpha", None), self._attribute("activation_beta", None))
        listed = [n.decode() if isinstance(n, bytes) else str(n) for n in names] if names else []
        alpha, beta = ([float(v) for v in s] if s else [] for s in scales)
        every = activations_of(listed or list(self.kind.default) * len(self.directions), alpha, beta, self._unsupported)
        count = len(self.kind.default)
        return every[d * count : (d + 1) * count]

    def _direction(self, d: int, reverse: bool) -> _Run:
        cell, projected = self._cell(d)
        states = [self._initial(5 + i, d) for i in range(cell.states)]
        for state in states:
            set_dims(state, [self.batch, self.hidden])
        if isinstance(self.length, int) and 0 < self.length <= UNROLLED:
            return self._unrolled(cell, projected, states, reverse, self.length)
        return self._scanned(cell, projected, states, reverse)

    def _step(
        self, op: Builder, cell: Cell, x: ir.Value, states: list[ir.Value], mask: ir.Value | None
    ) -> tuple[ir.Value, list[ir.Value]]:
        """Result and new states of one step."""
        after = cell.step(op, x, states)
        if mask is None:
            return after[0], after
        zero = op.constant(0, self.dtype)
        return op.Where(mask, after[0], zero), [op.Where(mask, s, old) for s, old in zip(after, states, strict=True)]

    def _unrolled(self, cell: Cell, projected: ir.Value, states: list[ir.Value], reverse: bool, length: int) -> _Run:
        op = self.op
        xs = self._pieces(projected, length)
        masks = self._pieces(self.mask, length) if self.mask is not None else [None] * length
        results: list[ir.Value] = []
        order = range(length)
        for t in reversed(order) if reverse else order:
            y, states = self._step(op, cell, xs[t], states, masks[t])
            results.append(op.Unsqueeze(y, [0]))
        steps = results[::-1] if reverse else results
        return _Run(op.Concat(*steps, axis=0) if length > 1 else steps[0], states)

    def _pieces(self, value: ir.Value, length: int) -> list[ir.Value]:
        op = self.op
        parts = op.emit("Split", [value], outputs=length, axis=0, num_outputs=length) if length > 1 else [value]
        return [op.Squeeze(p, [0]) for p in parts]

    def _scanned(self, cell: Cell, projected: ir.Value, states: list[ir.Value], reverse: bool) -> _Run:
        body = ir.Graph(
            [], [], nodes=[], opset_imports=dict(self.op.graph.opset_imports), name=self.op.unique_name("step")
        )
        inner = self.op.inside(body)
        sequences = [projected] if self.mask is None else [projected, self.mask]
        formals = [
            ir.Value(name=self.op.unique_name(f"{label(self.node)}/{stem}"), type=value.type)
            for stem, value in zip(["state"] * len(states) + ["x", "mask"], [*states, *sequences], strict=False)
        ]
        body.inputs.extend(formals)
        before, now = formals[: len(states)], formals[len(states) :]
        y, after = self._step(inner, cell, now[0], before, now[1] if len(now) > 1 else None)
        body.outputs.extend([*after, inner.Identity(y)])
        backwards = int(reverse)
        *last, steps = self.op.emit(
            "Scan",
            [*states, *sequences],
            outputs=len(states) + 1,
            body=body,
            num_scan_inputs=len(sequences),
            scan_input_directions=[backwards] * len(sequences),
            scan_output_directions=[backwards],
        )
        for value in (*last, steps):
            value.type = ir.TensorType(self.dtype)
        return _Run(steps, last)

    # ----- the whole node ------------------------------------------------------------------------

    def run(self) -> None:
        """Emit the equations and put their results in the place of the node's."""
        runs = [self._direction(d, reverse) for d, reverse in enumerate(self.directions)]
        used = [bool(y.uses()) or y.is_graph_output() for y in self.node.outputs]
        for i, old in enumerate(self.node.outputs):
            if used[i]:
                self._replace(old, self._all_steps(runs) if i == 0 else self._last([r.states[i - 1] for r in runs]))
        graph = self.node.graph
        if graph is not None:
            graph.remove(self.node, safe=True)

    def _all_steps(self, runs: list[_Run]) -> ir.Value:
        """``[T, D, B, H]``, or ``[B, T, D, H]`` with the batch first."""
        op = self.op
        parts = [op.Unsqueeze(r.steps, [1]) for r in runs]
        joined = op.Concat(*parts, axis=1) if len(parts) > 1 else parts[0]
        return op.Transpose(joined, perm=[2, 0, 1, 3]) if self.batch_first else joined

    def _last(self, states: list[ir.Value]) -> ir.Value:
        """``[D, B, H]``, or ``[B, D, H]`` with the batch first."""
        axis = 1 if self.batch_first else 0
        parts = [self.op.Unsqueeze(s, [axis]) for s in states]
        return self.op.Concat(*parts, axis=axis) if len(parts) > 1 else parts[0]

    @staticmethod
    def _replace(old: ir.Value, new: ir.Value) -> None:
        new.type, new.shape = old.type or new.type, old.shape
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        new.name, old.name = old.name, None
