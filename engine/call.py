"""One batch on its way through a rewritten graph: feeds, targets, and what methods evaluate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import onnx_ir as ir

from onnxplain.engine.carried import carried
from onnxplain.engine.errors import OptionError, TargetError
from onnxplain.engine.explanation import Array
from onnxplain.engine.graph.shapes import dims
from onnxplain.engine.method import Plan
from onnxplain.engine.places import Labels
from onnxplain.engine.rewrite import SCORE
from onnxplain.engine.session.agreement import agreement, widened
from onnxplain.engine.session.batching import BatchRunner, fixed_batch
from onnxplain.engine.session.session import Session
from onnxplain.engine.targets import Target, flat_indices

#: Key of the shadow's form of the explained output.
SHADOW_OUTPUT = "shadow_output"

#: Key of the explained tensor, where it is none of the model's outputs.
EXPLAINED = "explained"


@dataclass
class Program:
    """One rewritten graph with its session.

    Attributes:
        model: The graph.
        plans: What was added to it per explained scalar.
        session, runner: What runs it.
        prelude: What computes attributed inner tensors first, where the graph was cut at them.
    """

    model: ir.Model
    plans: list[Plan]
    session: Session
    runner: BatchRunner
    prelude: BatchRunner | None

    @property
    def plan(self) -> Plan:
        """The first one's."""
        return self.plans[0]


class Owner(Protocol):
    """What a call needs of the explainer that it belongs to."""

    def answer(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """The model's own outputs."""
        ...


class Call:
    """One batch through one program: a single run of the graph, shared by all of the program's targets.

    Attributes:
        count: Number of samples.
        own_outputs: The model's own outputs.
        views: One per target.
    """

    def __init__(
        self, owner: Owner, program: Program, feeds: dict[str, Array], targets: Sequence[Target], count: int
    ) -> None:
        self.owner = owner
        self.program = program
        self.count = count
        self._given = feeds
        self.feeds = dict(feeds)
        self.labels: dict[str, Labels] = {s.name: s.labels for s in program.plan.subjects}
        if program.prelude is not None:
            self.feeds.update(program.prelude.run({n: feeds[n] for n in program.prelude.session.inputs}))
        known = {v.name or "" for v in program.model.graph.inputs}
        self.feeds = {n: a for n, a in self.feeds.items() if n in known}
        self.views = [View(self, plan, target) for plan, target in zip(program.plans, targets, strict=True)]
        for plan in program.plans:
            self.feeds.update({name: np.zeros_like(widened(self.feeds[s])) for name, s in plan.fed.items()})
        results = program.runner.run(self.feeds)
        added = {name for plan in program.plans for name in plan.names.values()}
        self.own_outputs = {n: a for n, a in results.items() if n not in added}
        for view in self.views:
            view.receive(results)
        first = self.views[0].first
        self.subjects = {
            s.name: first[f"value/{s.name}"] if f"value/{s.name}" in first else widened(self.feeds[s.name])
            for s in program.plan.subjects
        }

    def carry(self, spec: str) -> dict[str, list[Array]]:
        """Attributed inner tensors as the model computes them from a baseline of its own inputs.

        Args:
            spec: ``input:KIND``: float inputs at a baseline of :mod:`onnxplain.engine.baselines`, or a number;
                ``token:ID``: that token in every place of the input that the embedding looks up.

        Returns:
            Arrays ``[N, ...]`` per tensor, one for each of several baselines.

        Raises:
            OptionError: No inner tensor is attributed to, the model has no such inputs, or unknown words.
        """
        prelude = self.program.prelude
        if prelude is None:
            raise OptionError(
                f"baseline '{spec}' is for inner tensors, which the model computes from its inputs; "
                f"name one with wrt=, or give '{spec.partition(':')[2]}'"
            )
        given = {n: self._given[n] for n in prelude.session.inputs}
        sets = carried(spec, given, prelude.model, {n for n in given if n in prelude.batched})
        found = [prelude.run(feeds) for feeds in sets]
        return {n: [widened(one[n]) for one in found] for n in found[0]}

    @cached_property
    def answer(self) -> dict[str, Array]:
        """The model's own outputs before anything is explained."""
        return self.owner.answer(self._given)


class View:
    """One target of a call.

    Attributes:
        plan: What the graph returns for it.
        output: Name of the explained output.
        first: Results on the batch itself, by key.
        score: ``[N]``, float64.
        target: Flat index per sample, ``[N]``; None where no element is singled out.
        target_shape: Shape of one sample's output.
        agreement: How well a shadow's output fits the model's own.
    """

    def __init__(self, call: Call, plan: Plan, target: Target) -> None:
        self.call = call
        self.plan = plan
        self.request = target
        self.output = plan.rewriter.own_name(plan.rewriter.output_value(plan.output_name))
        self.first: dict[str, Array] = {}
        self._feed_target()

    # ----- before the run ---------------------------------------------------------------------------

    def _feed_target(self) -> None:
        target, shape = self.request, self._static_shape()
        feed, count = self.plan.seed.feed, self.call.count
        if target.kind in ("index", "rank"):
            if shape is None and self._needs_shape(target):
                shape = self._shape_by_running()
            self.call.feeds[feed] = flat_indices(target, count, shape)
            return
        values = np.asarray(target.value)
        what = "weights" if target.kind == "weights" else "reference"
        if values.dtype.kind not in "fiub" or not np.isfinite(values).all():
            raise TargetError(f"the {what} hold something else than finite numbers; give a number per output element")
        full = (count, *(shape if shape is not None else self._shape_by_running()))
        given = self._input_shape(feed, full)
        try:
            dtype = (self.plan.seed.explained.dtype or ir.DataType.FLOAT).numpy()
            self.call.feeds[feed] = np.ascontiguousarray(np.broadcast_to(values, given).astype(dtype))
        except ValueError:
            raise TargetError(
                f"{what} of shape {values.shape} do not fit an output of shape {given}; "
                "give one sample's or the whole batch's"
            ) from None

    def _input_shape(self, feed: str, full: tuple[int, ...]) -> tuple[int, ...]:
        """Shape that the added input takes: the output's own, which a similarity has made one number of."""
        if self.request.kind == "weights":
            return full
        output = self.call.answer[self.output].shape
        return (1, *output) if self.request.whole else tuple(output)

    def _static_shape(self) -> tuple[int, ...] | None:
        known = dims(self.plan.seed.explained)
        if known is None or not all(isinstance(d, int) for d in known[1:]):
            return None
        return tuple(int(d) for d in known[1:] if isinstance(d, int))

    @staticmethod
    def _needs_shape(target: Target) -> bool:
        """Whether an index means something only once the output's shape is known."""
        if target.kind == "rank":
            return True
        array = np.asarray(target.value)
        named = array.dtype.kind in "iu"
        return named and (isinstance(target.value, tuple) or array.ndim > 1 or bool((array < 0).any()))

    def _shape_by_running(self) -> tuple[int, ...]:
        """Shape of one sample's output where the graph does not tell."""
        shape = self.call.answer[self.output].shape
        return tuple(shape) if self.request.whole else tuple(shape[1:])

    # ----- after it ---------------------------------------------------------------------------------

    def receive(self, results: Mapping[str, Array]) -> None:
        """Take the results of the run, and look whether the target was there."""
        self.first = {key: results[name] for key, name in self.plan.names.items()}
        shape = self._static_shape()
        if shape is None:
            own = self.first.get(EXPLAINED, self.call.own_outputs.get(self.output, np.empty(0))).shape
            shape = tuple(own) if self.request.whole else tuple(own[1:])
        self.target_shape = shape or (1,)
        self.score = np.asarray(self.first[SCORE], dtype=np.float64).reshape(-1)
        self.agreement = agreement(self.call.own_outputs.get(self.output), self.first.get(SHADOW_OUTPUT))
        self.target: Array | None = None
        if "explained_index" not in self.first:
            return
        self.target = np.asarray(self.first["explained_index"], dtype=np.int64).reshape(-1)
        size = int(np.prod(self.target_shape))
        if (self.target >= size).any():
            raise TargetError(
                f"target {int(self.target.max())} is out of range: "
                f"the explained output has {size} elements, 0 to {size - 1}"
            )

    def evaluate(self, points: Mapping[str, Array], samples: Array, keys: Sequence[str]) -> dict[str, Array]:
        """Outputs at other points, each with the target of its sample's clean input."""
        runner = self.call.program.runner
        feeds = {}
        for name, array in self.call.feeds.items():
            feeds[name] = array[samples] if name in runner.batched else array
        for name in (*(s.name for s in self.plan.subjects), *self.plan.fed):
            if name in points or name not in self.plan.fed:
                feeds[name] = points[name].astype(self.call.feeds[name].dtype, copy=False)
        if self.target is not None:
            feeds[self.plan.seed.feed] = self.target[samples]
        fixed = fixed_batch(self.call.program.model, runner.batched)
        extra = -len(samples) % fixed if fixed is not None else 0
        if extra:  # a model with a fixed batch gets the last point again to fill it up
            feeds = {
                n: np.concatenate([a, np.repeat(a[-1:], extra, axis=0)]) if n in runner.batched else a
                for n, a in feeds.items()
            }
        names = [self.plan.names[k] for k in keys]
        results = runner.run(feeds, names)
        return {k: results[n][: len(samples)] for k, n in zip(keys, names, strict=True)}
