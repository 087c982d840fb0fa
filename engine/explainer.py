"""Rewrites once, opens one session, explains many times."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxplain.engine.errors import InputError, OptionError, SessionError, TargetError
from onnxplain.engine.explanation import Array, Explanation
from onnxplain.engine.graph.passes.dequantize import is_quantised
from onnxplain.engine.graph.shadow import QUANTISATIONS
from onnxplain.engine.graph.shapes import Dims, dims, is_float
from onnxplain.engine.heads import HEADS, Head, trailing_activation
from onnxplain.engine.inputs import validate_feeds
from onnxplain.engine.loading import Model
from onnxplain.engine.method import Method, Parts, Plan, Run, Subject
from onnxplain.engine.places import input_labels
from onnxplain.engine.rewrite import COTANGENT, SCORE, TARGET, Rewriter, TargetKind
from onnxplain.engine.session.agreement import agreement, widened
from onnxplain.engine.session.batching import DEFAULT_BUDGET_MIB, BatchRunner, fixed_batch
from onnxplain.engine.session.providers import ProviderSpec
from onnxplain.engine.session.runtime import versions
from onnxplain.engine.session.session import Session
from onnxplain.engine.targets import Target, as_target, flat_indices

#: Key of the shadow's form of the explained output.
SHADOW_OUTPUT = "shadow_output"


@dataclass
class _Program:
    """One rewritten graph with its session."""

    model: ir.Model
    plan: Plan
    session: Session
    runner: BatchRunner
    prelude: BatchRunner | None
    names: dict[str, str]
    explained: ir.Value


class CompiledExplainer:
    """One model, one method, any number of calls.

    Args:
        model: The loaded model.
        method: The configured method.
        output: Name of the explained output; the first float one by default.
        head: ``logit`` (the default), ``probability``, ``log_probability`` or ``margin``.
        wrt: What the score is attributed to: names of float inputs or inner tensors. By default all
            float inputs; for models fed with integers, the result of the largest embedding lookup.
        layout: Axes of the attributed tensor: ``auto``, ``channels_first``, ``channels_last``.
        providers: Execution providers; the model handle's by default.
        memory_mib: Budget for intermediate results; batches go through in chunks that fit.
        threads: Threads inside an operator; the model handle's by default.
        quantisation: How a model with quantised activations is differentiated: ``straight_through`` (rounds
            as the model does, the gradient passes where nothing saturates) or ``float_shadow`` (no rounding).
    """

    def __init__(
        self,
        model: Model,
        method: Method,
        *,
        output: str | None = None,
        head: str | None = None,
        wrt: str | Sequence[str] | None = None,
        layout: str = "auto",
        providers: str | Sequence[ProviderSpec] | None = None,
        memory_mib: float = DEFAULT_BUDGET_MIB,
        threads: int | None = None,
        quantisation: str = "straight_through",
    ) -> None:
        if quantisation not in QUANTISATIONS:
            raise OptionError(f"unknown quantisation '{quantisation}'; choose one of {', '.join(QUANTISATIONS)}")
        self.quantisation = quantisation
        if head is not None and head not in HEADS:
            raise OptionError(f"unknown head '{head}'; choose one of {', '.join(HEADS)}")
        if not memory_mib > 0:
            raise OptionError(f"memory_mib={memory_mib} must be positive")
        self.source = model
        self.method = method
        self.head: Head = head or "logit"  # type: ignore[assignment]
        self.output = output
        self.layout = layout
        self.providers = providers if providers is not None else model.providers
        self.memory_mib = memory_mib
        self.threads = threads if threads is not None else model.threads
        self.wrt = [wrt] if isinstance(wrt, str) else list(wrt) if wrt is not None else None
        self._programs: dict[TargetKind, _Program] = {}
        self.program("index")

    # ----- building -------------------------------------------------------------------------------

    @property
    def model(self) -> ir.Model:
        """The rewritten graph."""
        return self.program("index").model

    def save(self, path: str | Path) -> Path:
        """Write the rewritten graph as an ONNX file.

        It takes the model's inputs and ``target`` (int64 ``[N]``, -1 for the largest element), and returns
        the model's outputs, ``score``, and the values from which the method makes its result.

        Raises:
            OutputError: The file cannot be written.
        """
        from onnxplain.engine.saving import write_model

        return write_model(self.model, Path(path))

    def program(self, kind: TargetKind) -> _Program:
        """The rewritten graph for indices or for weights, built on first use."""
        if kind not in self._programs:
            self._programs[kind] = self._build(kind)
        return self._programs[kind]

    def _base(self) -> ir.Model:
        return self.source.folded if self.method.folds_normalization else self.source.canonical

    def _build(self, kind: TargetKind) -> _Program:
        rewriter = Rewriter(self._base(), self.quantisation)
        names = self._subject_names(rewriter)
        inner = [n for n in names if n not in self.declared]
        prelude = self._prelude(inner) if inner and self.method.walks else None
        subjects = [self._subject(rewriter, n, n in inner, prelude is not None) for n in names]
        seed = rewriter.seed(self.output, self.head, kind)
        plan = Plan(rewriter, seed, subjects)
        self.method.build(plan)
        plan.output(SCORE, seed.score, ("N",))
        if rewriter.shadowed:
            plan.output(SHADOW_OUTPUT, rewriter.output_value(self.output))
        if seed.index is not None:
            plan.output("explained_index", seed.index, ("N",))
        for subject in subjects:
            if subject.inner and prelude is None:
                plan.output(f"value/{subject.name}", subject.value)
        model = rewriter.finish({"onnxplain.method": self.method.name})
        session = Session(model, self.providers, threads=self.threads)
        fed_whole = {v.name or "" for v in self.source.canonical.graph.inputs} - set(self.batched)
        batched = [v.name or "" for v in model.graph.inputs if v.name not in fed_whole]
        budget = float("inf") if self.method.needs_one_chunk else self.memory_mib
        runner = BatchRunner(session, model, batched, budget)
        return _Program(model, plan, session, runner, prelude, dict(plan.names), seed.explained)

    @cached_property
    def batched(self) -> list[str]:
        """Names of the model's inputs whose first axis is the batch; the others are fed whole.

        Where some inputs leave their first size open, those; in a model of fixed sizes, the inputs whose
        first size is that of the first input.
        """
        sizes = {v.name or "": dims(v) for v in self.source.canonical.graph.inputs}
        first = {n: known[0] if known else None for n, known in sizes.items() if known != ()}
        if any(not isinstance(size, int) for size in first.values()):
            return [n for n, size in first.items() if not isinstance(size, int)]
        return [n for n, size in first.items() if size == next(iter(first.values()))]

    @cached_property
    def declared(self) -> dict[str, tuple[Any, Dims | None]]:
        """Type and sizes per input; the batch is open, as any multiple of a fixed one goes through in pieces."""
        known = self.source.declared()
        return {
            name: (dtype, shape if shape is None or name not in self.batched else ("N", *shape[1:]))
            for name, (dtype, shape) in known.items()
        }

    def _subject_names(self, rewriter: Rewriter) -> list[str]:
        if self.wrt is not None:
            if not self.wrt:
                raise InputError("wrt names no tensor; name one, or leave it out for the model's float inputs")
            for name in self.wrt:
                self._check_subject(name, rewriter.value(name))
            return self.wrt
        floats = [v.name or "" for v in rewriter.graph.inputs if is_float(v) and v.name in self.batched]
        if floats:
            return floats
        embeddings = self.source.embeddings()
        if not embeddings:
            raise InputError(
                "the model has no float input and no embedding lookup to attribute to; "
                "name an inner float tensor with wrt="
            )
        return embeddings[:1]

    def _check_subject(self, name: str, value: ir.Value) -> None:
        if not is_float(value):
            raise InputError(f"'{name}' is no float tensor and cannot be attributed to; name a float one")
        if value.const_value is not None or (name in self.declared and name not in self.batched):
            raise InputError(
                f"'{name}' is one tensor for the whole batch and has no attribution per sample; use vjp for its gradient"
            )

    def _subject(self, rewriter: Rewriter, name: str, inner: bool, cut: bool) -> Subject:
        value = rewriter.value(name)
        labels = input_labels(value, self.layout)
        if inner and cut:
            value = rewriter.cut(name)
        return Subject(name, value, labels, inner)

    def _prelude(self, names: Sequence[str]) -> BatchRunner:
        """What computes inner subjects from the model's inputs."""
        rewriter = Rewriter(self._base(), self.quantisation)
        rewriter.graph.outputs.clear()
        for name in names:
            rewriter.graph.outputs.append(rewriter.value(name))
        model = rewriter.finish()
        session = Session(model, self.providers, threads=self.threads)
        return BatchRunner(session, model, self.batched, self.memory_mib)

    # ----- running --------------------------------------------------------------------------------

    def __call__(self, x: Any, *, target: Any = None, seed: int = 0, strict: bool = False) -> Explanation:
        """Explain a batch.

        Args:
            x: Array, batch first, or ``{input name: array}``.
            target: See :func:`onnxplain.engine.targets.as_target`.
            seed: Of random draws, where the method makes any.
            strict: Raise when a result does not prove itself within its tolerance.

        Raises:
            InputError: Wrong names, shapes, types, NaN or infinity.
            TargetError: Target out of range.
            SessionError: The runtime failed, or the result is not finite.
            ResidualError: ``strict``, and the residual is past the tolerance.
        """
        feeds = validate_feeds(self._named(x), self.declared)
        chosen = as_target(target)
        program = self.program(chosen.kind)
        count = self._count(feeds)
        call = _Call(self, program, feeds, chosen, count)
        parts = self.method.reduce(Run(call.subjects, call.first, call.evaluate, seed, call.labels, program.plan.memo))
        explanation = self._explanation(call, parts, seed)
        if strict:
            explanation.require_proof()
        return explanation

    def _named(self, x: Any) -> dict[str, Any]:
        if isinstance(x, Mapping):
            return dict(x)
        names = [v.name or "" for v in self.source.canonical.graph.inputs]
        if len(names) != 1:
            raise InputError(
                f"the model has {len(names)} inputs ({', '.join(names)}); give a dictionary of arrays by name"
            )
        return {names[0]: x}

    def _count(self, feeds: Mapping[str, Array]) -> int:
        lengths = {n: len(feeds[n]) for n in self.batched}
        if len(set(lengths.values())) > 1:
            raise InputError(f"the inputs have different numbers of samples ({lengths}); give all of them the same")
        return next(iter(lengths.values()), 1)

    def _explanation(self, call: _Call, parts: Parts, seed: int) -> Explanation:
        for name, array in parts.attributions.items():
            if not np.isfinite(array).all():
                bad = int(np.argmax(~np.isfinite(array.reshape(len(array), -1)).all(axis=1)))
                raise SessionError(
                    f"the attribution of '{name}' is not finite for sample {bad}: "
                    "the model's own numbers overflow there; check the input's scale, or use providers='reference' to see where"
                )
        notes = list(parts.notes)
        zero = [n for n in range(call.count) if all(not np.any(a[n]) for a in parts.attributions.values())]
        if zero:
            notes.append(
                f"the gradient is zero everywhere for sample(s) {zero[:10]}: the model is flat there, or saturated"
            )
        path = call.program.plan.adjoints.path if call.program.plan.adjoints is not None else None
        quantised = is_quantised(self.source.canonical)
        notes += [call.agreement["words"]] if call.agreement else []
        output = call.program.plan.rewriter.output_value(self.output)
        return Explanation(
            attributions=parts.attributions,
            saliency=parts.saliency,
            score=call.score,
            target=call.target,
            target_shape=call.target_shape,
            head=self.head,
            output=call.output,
            outputs=call.own_outputs,
            method=self.method.name,
            options=self.method.options(),
            head_note=self._head_note(output),
            seed=seed,
            terms=parts.terms,
            baseline_score=parts.baseline_score,
            residual=parts.residual,
            quantisation=self.quantisation if quantised else "none",
            blocked=tuple(f"{b.node} ({b.operator}): {b.remedy}" for b in path.blocked) if path is not None else (),
            notes=tuple(notes),
            signed=parts.signed,
            provenance=self._provenance(call),
        )

    def _head_note(self, output: ir.Value) -> str:
        node, _ = trailing_activation(output)
        if node is None:
            return ""
        if self.head in ("logit", "margin"):
            return f"the output ends in {node.op_type}; the logit in front of it is explained"
        return f"the output ends in {node.op_type}"

    @cached_property
    def _fixed(self) -> dict[str, Any]:
        return {"model": self.source.source.name, "model_sha256": self.source.source.sha256, "versions": versions()}

    def _provenance(self, call: _Call) -> dict[str, Any]:
        program = call.program
        dtype = program.explained.dtype
        return {
            **self._fixed,
            "providers": program.session.providers,
            "provider_nodes": program.session.assignment(),
            "dtype": dtype.name.lower() if dtype is not None else "unknown",
            "threads": self.threads,
            "memory_mib": self.memory_mib,
            "platform": platform.machine(),
            **({"shadow": call.agreement} if call.agreement else {}),
        }


class _Call:
    """One batch on its way through a program."""

    def __init__(
        self, owner: CompiledExplainer, program: _Program, feeds: dict[str, Array], target: Target, count: int
    ) -> None:
        self.owner = owner
        self.program = program
        self.count = count
        self.output = program.plan.rewriter.own_name(program.plan.rewriter.output_value(owner.output))
        self.feeds = dict(feeds)
        self.labels = {s.name: s.labels for s in program.plan.subjects}
        rewriter = program.plan.rewriter
        self._added = rewriter.added_inputs[-1] if rewriter.added_inputs else TARGET
        if program.prelude is not None:
            self.feeds.update(program.prelude.run({n: feeds[n] for n in program.prelude.session.inputs}))
        known = {v.name or "" for v in program.model.graph.inputs}
        self.feeds = {n: a for n, a in self.feeds.items() if n in known}
        self._set_target(target)
        results = program.runner.run(self.feeds)
        self.first = {key: results[name] for key, name in program.names.items()}
        self.own_outputs = {n: a for n, a in results.items() if n not in program.names.values()}
        self._check_target(target)
        self.subjects = {
            s.name: self.first[f"value/{s.name}"] if f"value/{s.name}" in self.first else widened(self.feeds[s.name])
            for s in program.plan.subjects
        }
        self.agreement = agreement(self.own_outputs.get(self.output), self.first.get(SHADOW_OUTPUT))

    def _static_shape(self) -> tuple[int, ...] | None:
        known = dims(self.program.explained)
        if known is None or not all(isinstance(d, int) for d in known[1:]):
            return None
        return tuple(int(d) for d in known[1:] if isinstance(d, int))

    def _set_target(self, target: Target) -> None:
        shape = self._static_shape()
        if target.kind == "index":
            if shape is None and self._needs_shape(target.value):
                shape = self._shape_by_running()
            self.feeds[self._added] = flat_indices(target, self.count, shape)
            return
        weights = np.asarray(target.value)
        if weights.dtype.kind not in "fiub" or not np.isfinite(weights).all():
            raise TargetError("the weights hold something else than finite numbers; give a number per output element")
        full = (self.count, *(shape if shape is not None else self._shape_by_running()))
        try:
            dtype = (self.program.explained.dtype or ir.DataType.FLOAT).numpy()
            self.feeds[self._added] = np.ascontiguousarray(np.broadcast_to(weights, full).astype(dtype))
        except ValueError:
            raise TargetError(
                f"weights of shape {weights.shape} do not fit an output of shape {full}; "
                "give one sample's or the whole batch's"
            ) from None

    @staticmethod
    def _needs_shape(value: Any) -> bool:
        """Whether an index means something only once the output's shape is known."""
        array = np.asarray(value)
        return array.dtype.kind in "iu" and (isinstance(value, tuple) or array.ndim > 1 or bool((array < 0).any()))

    def _shape_by_running(self) -> tuple[int, ...]:
        """Shape of one sample's output where the graph does not tell: from the index program, without a target."""
        program = self.owner.program("index")
        added = program.plan.rewriter.added_inputs[-1]
        feeds = {n: a for n, a in self.feeds.items() if n != self._added}
        results = program.runner.run({**feeds, added: np.full(self.count, -1, dtype=np.int64)}, [self.output])
        return tuple(results[self.output].shape[1:])

    def _check_target(self, target: Target) -> None:
        shape = self._static_shape()
        if shape is None:
            shape = tuple(self.own_outputs[self.output].shape[1:])
        self.target_shape = shape or (1,)
        self.score = np.asarray(self.first[SCORE], dtype=np.float64).reshape(-1)
        if target.kind == "weights":
            self.target: Array | None = None
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
        feeds = {}
        for name, array in self.feeds.items():
            feeds[name] = array[samples] if name in self.program.runner.batched else array
        for subject in self.program.plan.subjects:
            feeds[subject.name] = points[subject.name].astype(self.feeds[subject.name].dtype, copy=False)
        if self.target is not None:
            feeds[self._added] = self.target[samples]
        fixed = fixed_batch(self.program.model, self.program.runner.batched)
        extra = -len(samples) % fixed if fixed is not None else 0
        if extra:  # a model with a fixed batch gets the last point again to fill it up
            feeds = {
                n: np.concatenate([a, np.repeat(a[-1:], extra, axis=0)]) if n in self.program.runner.batched else a
                for n, a in feeds.items()
            }
        names = [self.program.names[k] for k in keys]
        results = self.program.runner.run(feeds, names)
        return {k: results[n][: len(samples)] for k, n in zip(keys, names, strict=True)}


__all__ = ["COTANGENT", "CompiledExplainer"]
