"""Canonical graph -> rewritten graph: the model's own outputs, and beside them what a method asks for.

The rewritten graph takes the model's inputs and ``target`` (int64 ``[N]``: one flat index per sample, -1
for the largest element), ``cotangent`` (float, in the shape of the explained output) or ``reference``
(likewise: what similarity is measured to), so that one session serves every class. It returns the
model's outputs unchanged and any named values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir

from onnxplain.engine.backward import Adjoints, Lookup, backward, gradients
from onnxplain.engine.errors import InputError, TargetError
from onnxplain.engine.forms import indicator
from onnxplain.engine.graph.builder import PREFIX, Builder
from onnxplain.engine.graph.canonical import ir_version_for
from onnxplain.engine.graph.collector import uncollected
from onnxplain.engine.graph.passes.full_pads import FullPadsPass
from onnxplain.engine.graph.passes.own_kernels import OwnKernelsPass
from onnxplain.engine.graph.passes.remove_unused import RemoveUnusedPass
from onnxplain.engine.graph.passes.widen import HALVES
from onnxplain.engine.graph.shadow import SHADOW, add_shadow
from onnxplain.engine.graph.shapes import dims, is_float
from onnxplain.engine.heads import Head, explained_value
from onnxplain.engine.layout import cast_like

TargetKind = Literal["index", "rank", "weights", "cosine", "distance"]

#: Names of what the rewritten graph takes and returns beside the model's own inputs and outputs.
TARGET, COTANGENT, REFERENCE, SCORE = "target", "cotangent", "reference", "score"


@dataclass(frozen=True)
class Slot:
    """One explained scalar as the graph has to know it; which class, weights or reference is fed later.

    Attributes:
        kind: ``index`` (an element, or the largest), ``rank`` (the k-th largest as well), ``weights`` (a weighted
            sum), ``cosine`` (similarity to a reference), ``distance`` (negative squared distance to it).
        output: Name of the output; None for the explainer's own.
        whole: The output has no batch axis: all of it belongs to the one sample.
    """

    kind: TargetKind = "index"
    output: str | None = None
    whole: bool = False


@dataclass(frozen=True)
class Seed:
    """The scalar that is explained.

    Attributes:
        explained: The tensor that it is taken from.
        cotangent: Its derivative with respect to ``explained``, in that shape.
        score: The scalar per sample, ``[N]``.
        index: The flat index that was explained per sample, ``[N]``; None where no element is singled out.
        feed: Name of the graph input that says what is explained.
    """

    explained: ir.Value
    cotangent: ir.Value
    score: ir.Value
    index: ir.Value | None
    feed: str = TARGET


class Rewriter:
    """Builds one rewritten graph.

    Args:
        canonical: The canonical model; it is copied, weights are shared.
        quantisation: How quantised activations are differentiated: see :mod:`onnxplain.engine.graph.shadow`.
        keep_quantised: Leave them as they are, for what runs the model and does not differentiate it.

    Attributes:
        shadowed: Whether a float form stands beside the model's own nodes; what is found by name is its.
    """

    @uncollected()
    def __init__(
        self, canonical: ir.Model, quantisation: str = "straight_through", *, keep_quantised: bool = False
    ) -> None:
        self.model = canonical.clone()
        self.shadowed = add_shadow(self.model, quantisation, keep_quantised=keep_quantised)
        self.graph = self.model.graph
        self.forward_nodes: list[ir.Node] = list(self.graph)
        self.op = Builder(self.graph)
        self._values = {v.name: v for v in (*self.graph.inputs, *self.graph.initializers.values()) if v.name}
        for node in self.forward_nodes:
            self._values.update({v.name: v for v in node.outputs if v.name})
        self._original_inputs = set(self.graph.inputs)
        self._output_names = {v.name for v in self.graph.outputs}
        self.added_inputs: list[str] = []
        self.added_outputs: list[str] = []

    # ----- finding values -------------------------------------------------------------------------

    def value(self, name: str) -> ir.Value:
        """Input, initializer or inner tensor by name.

        Raises:
            InputError: There is none of that name.
        """
        try:
            return self._values.get(f"{SHADOW}{name}") or self._values[name]
        except KeyError:
            raise InputError(
                f"the model has no tensor named '{name}'; "
                f"its inputs are {', '.join(repr(v.name) for v in self.graph.inputs)}"
            ) from None

    def output_value(self, name: str | None = None) -> ir.Value:
        """A graph output or an inner tensor by name; the first float output by default.

        Raises:
            TargetError: There is none of that name, or none of floats.
        """
        outputs = list(self.graph.outputs)[: len(self.graph.outputs) - len(self.added_outputs)]
        names = ", ".join(f"'{v.name}'" for v in outputs)
        if name is None:
            found = next((v for v in outputs if is_float(v)), None)
            if found is None:
                raise TargetError(f"no output of the model is a float tensor ({names}); nothing can be differentiated")
            return self.value(found.name or "")
        found = next((v for v in outputs if v.name == name), self._values.get(name))
        if found is None or found.const_value is not None or found in self._original_inputs:
            raise TargetError(f"the model has no output '{name}'; it has {names}, and inner tensors can be named")
        if not is_float(found):
            raise TargetError(f"output '{name}' is no float tensor and has no gradient; choose one of {names}")
        return self.value(name)

    def is_inner(self, value: ir.Value) -> bool:
        """Whether a value is none of the model's own outputs."""
        return self.own_name(value) not in self._output_names

    def _explained(self, value: ir.Value, head: Head) -> ir.Value:
        """An output under the head; an inner tensor (a neuron of it is explained) as it is.

        Raises:
            TargetError: A head that an inner tensor has not.
        """
        if not self.is_inner(value):
            return explained_value(self.op, value, head)
        if head in ("probability", "log_probability"):
            raise TargetError(f"head='{head}' is for the model's outputs; the inner tensor '{value.name}' has none")
        return value

    # ----- what is explained ----------------------------------------------------------------------

    def seed(
        self,
        output: str | None = None,
        head: Head = "logit",
        kind: TargetKind = "index",
        whole: bool = False,
        fixed: int | Literal["argmax"] | None = None,
    ) -> Seed:
        """Append what selects the explained scalar.

        Args:
            output: Name of the output, or of an inner tensor; the first float output by default.
            head: See :mod:`onnxplain.engine.heads`.
            kind: See :class:`Slot`: ``index`` and ``rank`` add the input ``target``, ``weights`` the input
                ``cotangent``, the others the input ``reference``.
            whole: See :class:`Slot`.
            fixed: The flat index, or the largest element: no input is added.
        """
        explained = self._with_batch(self._explained(self.output_value(output), head), whole)
        if dims(explained) == ():
            raise TargetError(
                f"output '{self.output_value(output).name}' is one number for the whole batch, so samples cannot be told "
                "apart; choose another output, or use vjp"
            )
        if kind in ("index", "rank"):
            return self._element(explained, output, head, kind, whole, fixed)
        if head == "margin":
            raise TargetError("the margin head needs a class index; give one, or Target.margin for two given classes")
        if kind == "weights":
            return self._weighted(explained)
        return self._similarity(explained, kind)

    def _with_batch(self, value: ir.Value, whole: bool) -> ir.Value:
        if not whole:
            return value
        known = dims(value)
        result = self.op.Unsqueeze(value, [0])
        result.shape = None if known is None else ir.Shape([1, *known])
        return result

    def _weighted(self, explained: ir.Value) -> Seed:
        op = self.op
        cotangent = self._like(COTANGENT, explained)
        score = op.ReduceSum(op.Flatten(op.Mul(explained, cotangent), axis=1), [1], keepdims=0)
        return Seed(explained, cotangent, score, None, cotangent.name or COTANGENT)

    def _like(self, name: str, explained: ir.Value) -> ir.Value:
        known = dims(explained)
        shape = None if known is None else ("N", *known[1:])
        return self.add_input(name, explained.dtype or ir.DataType.FLOAT, shape)

    def _similarity(self, explained: ir.Value, kind: TargetKind) -> Seed:
        """Cosine of the angle to the reference, or the negative squared distance from it."""
        op = self.op
        reference = self._like(REFERENCE, explained)
        flat, other = op.Flatten(explained, axis=1), op.Flatten(reference, axis=1)
        if kind == "distance":
            apart = op.Sub(flat, other)
            value = op.Neg(op.ReduceSum(op.Mul(apart, apart), [1], keepdims=1))
        else:
            lengths = [op.Sqrt(op.ReduceSum(op.Mul(v, v), [1], keepdims=1)) for v in (flat, other)]
            smallest = np.finfo((explained.dtype or ir.DataType.FLOAT).numpy()).tiny
            value = op.ReduceSum(op.Mul(flat, other), [1], keepdims=1)
            value = op.Div(value, op.Max(op.Mul(*lengths), float(smallest)))
        known = dims(explained)
        value.shape = ir.Shape([known[0] if known is not None else None, 1])
        one = ir.tensor(np.ones(1, (explained.dtype or ir.DataType.FLOAT).numpy()))
        cotangent = op.ConstantOfShape(op.Shape(value), value=one)
        cotangent.shape = value.shape
        return Seed(value, cotangent, op.Squeeze(value, [1]), None, reference.name or REFERENCE)

    def _element(
        self,
        explained: ir.Value,
        output: str | None,
        head: Head,
        kind: TargetKind,
        whole: bool,
        fixed: int | Literal["argmax"] | None,
    ) -> Seed:
        op = self.op
        known = dims(explained)
        target = self.add_input(TARGET, ir.DataType.INT64, ("N",)) if fixed is None else None
        flat = explained if len(known or ()) == 2 else op.Flatten(explained, axis=1)
        if isinstance(fixed, int):
            index = op.Expand(op.constant([fixed], ir.DataType.INT64), op.Slice(op.Shape(flat), [0], [1]))
        else:
            judged = self._judged(flat, output, head, whole)
            ranked = kind == "rank" and target is not None
            index = self._ranked(judged, target) if ranked and target else op.ArgMax(judged, axis=1, keepdims=0)
            index = index if target is None else op.Where(op.Less(target, 0), index, target)
        cotangent = self._one_hot(index, flat)
        if head == "margin":
            if known is not None and all(d == 1 for d in known[1:]):
                raise TargetError(
                    "the margin head needs at least two classes, and the output has one; use head='logit'"
                )
            lowest = op.constant(np.finfo((explained.dtype or ir.DataType.FLOAT).numpy()).min, explained.dtype)
            others = op.Where(op.Greater(cotangent, 0.0), lowest, flat)
            cotangent = op.Sub(cotangent, self._one_hot(op.ArgMax(others, axis=1, keepdims=0), flat))
        score = op.ReduceSum(op.Mul(flat, cotangent), [1], keepdims=0)
        if flat is not explained:
            cotangent = op.Reshape(cotangent, op.Shape(explained))
        cotangent.shape = explained.shape
        return Seed(explained, cotangent, score, index, (target.name if target is not None else None) or TARGET)

    def _ranked(self, judged: ir.Value, target: ir.Value) -> ir.Value:
        """Index of the (-target)-th largest element per sample; the largest where the target is not negative."""
        op = self.op
        rank = op.Max(op.Neg(target), op.constant(1, ir.DataType.INT64))
        most = op.ReduceMax(rank, [0], keepdims=1)
        _, order = op.emit("TopK", [judged, most], outputs=2, axis=1)
        place = op.Unsqueeze(op.Sub(rank, op.constant(1, ir.DataType.INT64)), [1])
        return op.Squeeze(op.GatherElements(order, place, axis=1), [1])

    def _judged(self, flat: ir.Value, output: str | None, head: Head, whole: bool) -> ir.Value:
        """What says which element is the largest: the model's own answer, where a shadow stands beside it."""
        value = self.output_value(output)
        if not self.shadowed or self.is_inner(value):
            return flat
        name = self.own_name(value)
        own = next(v for v in self.graph.outputs if v.name == name)
        value = self.op.Flatten(self._with_batch(explained_value(self.op, own, head), whole), axis=1)
        return self.op.Cast(value, to=ir.DataType.FLOAT.value) if own.dtype in HALVES else value

    def own_name(self, value: ir.Value) -> str:
        """The name under which the user knows a value, whose shadow it may be."""
        return (value.name or "").removeprefix(SHADOW)

    def _one_hot(self, index: ir.Value, flat: ir.Value) -> ir.Value:
        op = self.op
        known = dims(flat)
        width = known[1] if known is not None and len(known) == 2 else None
        depth = op.constant(width, ir.DataType.INT64) if isinstance(width, int) else op.Gather(op.Shape(flat), 1)
        if "OneHot" in op.lacks and "Equal" not in op.lacks:
            classes = op.Range(op.constant(0, ir.DataType.INT64), depth, op.constant(1, ir.DataType.INT64))
            return indicator(op, op.Equal(op.Unsqueeze(index, [-1]), classes), flat)
        # onnxruntime has it on the CPU for one float type only.
        found = op.OneHot(index, depth, op.constant([0.0, 1.0], ir.DataType.FLOAT), axis=-1)
        return cast_like(op, found, flat)

    def backward(self, seed: Seed, wanted: Sequence[ir.Value], lookup: Lookup = gradients) -> Adjoints:
        """Append the reverse sweep from ``seed`` to the wanted values."""
        return self.backward_from({seed.explained: seed.cotangent}, wanted, lookup)

    @uncollected()
    def backward_from(
        self,
        seeds: dict[ir.Value, ir.Value],
        wanted: Sequence[ir.Value],
        lookup: Lookup = gradients,
        *,
        collect: bool = False,
    ) -> Adjoints:
        """Append the reverse sweep from any seeds (cotangents by value)."""
        return backward(self.op, list(self.graph), seeds, wanted, lookup, collect=collect)

    def cut(self, name: str) -> ir.Value:
        """Make an inner tensor an input of the rewritten graph; what computed it is dropped where unused."""
        old = self.value(name)
        new = ir.Value(name=name, type=old.type, shape=old.shape)
        old.name = self.op.unique_name(f"{name}/computed")
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        self.graph.inputs.append(new)
        self._values[name] = new
        return new

    # ----- interface ------------------------------------------------------------------------------

    def add_input(self, name: str, dtype: ir.DataType, shape: Sequence[int | str | None] | None) -> ir.Value:
        """Append a graph input; a name that the model uses already gets the project's prefix."""
        value = ir.Value(
            name=self.op.unique_name(name),
            type=ir.TensorType(dtype),
            shape=None if shape is None else ir.Shape(list(shape)),
        )
        self.graph.inputs.append(value)
        self.added_inputs.append(value.name or name)
        return value

    def add_output(self, name: str, value: ir.Value, shape: ir.Shape | Sequence[int | str | None] | None = None) -> str:
        """Return ``value`` under a name of its own; the name that it really got is the result.

        What was added to the graph takes the name itself: a copy behind it would be an output that a runtime computes
        first, the whole way to it, before anything else that hangs on that way.
        """
        node = value.producer()
        added = node is not None and node.graph is self.graph and (node.name or "").startswith(PREFIX)
        found_by_name = (value.name or "").startswith(SHADOW)
        if added and not found_by_name and not value.is_graph_output():
            result = value
            result.name = self.op.unique_name(name)
        else:
            result = self.op.Identity(value, name=name)
        result.shape = ir.Shape(list(shape)) if shape is not None else value.shape
        self.graph.outputs.append(result)
        self.added_outputs.append(result.name or name)
        return result.name or name

    def _drop_unused_inputs(self) -> None:
        """Inputs that only fed what was cut away; the model's interface is kept otherwise."""
        if any(v.name in self._values and v not in self._original_inputs for v in self.graph.inputs):
            kept = [v for v in self.graph.inputs if v.uses() or v.is_graph_output()]
            self.graph.inputs.clear()
            self.graph.inputs.extend(kept)

    @uncollected()
    def finish(self, metadata: dict[str, str] | None = None) -> ir.Model:
        """Drop what no output needs, stamp versions, and give the model back."""
        RemoveUnusedPass()(self.model)
        FullPadsPass()(self.model)
        if self.op.portable:
            OwnKernelsPass()(self.model)
        self._drop_unused_inputs()
        self.model.ir_version = ir_version_for(self.graph.opset_imports)
        self.model.producer_name = PREFIX
        self.model.metadata_props.update(metadata or {})
        return self.model
