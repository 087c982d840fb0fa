"""Rewrites once, opens one session, explains many times."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import onnx_ir as ir

from onnxplain.engine.call import EXPLAINED, SHADOW_OUTPUT, Call, Program, View
from onnxplain.engine.errors import InputError, OptionError, SessionError, TargetError
from onnxplain.engine.explanation import Array, Explanation
from onnxplain.engine.graph.passes.dequantize import is_quantised
from onnxplain.engine.graph.shadow import QUANTISATIONS
from onnxplain.engine.graph.shapes import Dims, batched_inputs, dims, is_float
from onnxplain.engine.heads import HEADS, Head, in_words
from onnxplain.engine.inputs import validate_feeds
from onnxplain.engine.loading import Model
from onnxplain.engine.method import Method, Parts, Plan, Run, Subject
from onnxplain.engine.places import input_labels
from onnxplain.engine.rewrite import COTANGENT, SCORE, Rewriter, Slot
from onnxplain.engine.samples import check_batch_first
from onnxplain.engine.session.batching import DEFAULT_BUDGET_MIB, BatchRunner
from onnxplain.engine.session.blame import blaming
from onnxplain.engine.session.custom_ops import CustomOps
from onnxplain.engine.session.providers import ProviderSpec, resolve
from onnxplain.engine.session.runtime import versions
from onnxplain.engine.session.session import Session
from onnxplain.engine.shipping.profiles import forms_for, profile_named, profile_of, reasons
from onnxplain.engine.shipping.spelling import spell
from onnxplain.engine.targets import Answer, Target, Targets, as_target, as_targets, flat_indices, settled

if TYPE_CHECKING:
    from onnxplain.engine.shipping.staging import Points
    from onnxplain.engine.shipping.weights import Weights


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
        custom_ops: What implements the model's custom operators; the model handle's by default.
        profile: The provider whose forms the graphs get (``onnxplain.engine.shipping.profiles``): by default, here
            the provider that runs them, and in files the plain forms that all of them compute alike.
        lazily: Build nothing before the first call, whose target may name another output.
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
        custom_ops: CustomOps | None = None,
        profile: str | None = None,
        lazily: bool = False,
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
        self.custom_ops = custom_ops if custom_ops is not None else model.custom_ops
        self.profile = profile_named(profile) if profile is not None else None
        self.memory_mib = memory_mib
        self.threads = threads if threads is not None else model.threads
        self.wrt = [wrt] if isinstance(wrt, str) else list(wrt) if wrt is not None else None
        self._programs: dict[tuple[Slot, ...], Program] = {}
        if not lazily:
            self.program()

    # ----- building -------------------------------------------------------------------------------

    @property
    def model(self) -> ir.Model:
        """The rewritten graph."""
        return self.program().model

    def ship(
        self,
        target: int | Literal["input", "argmax"] = "input",
        *,
        adjoints: bool = False,
        half: bool = False,
        portable: bool | None = None,
        profile: str | None = None,
        opset: int | None = None,
        points: Points = "auto",
        results: Sequence[str] | None = None,
    ) -> ir.Model:
        """The explainer as one model, for any runtime: see :mod:`onnxplain.engine.shipping.shipment`.

        Args:
            target: ``input``: the file takes ``target``; ``argmax`` or a flat index: it is fixed.
            adjoints: Whatever the method, return ``gradient`` and the adjoint of every bias position: see
                :mod:`onnxplain.engine.shipping.adjoints`.
            half: Compute in float16.
            portable: Only forms that every known runtime computes alike; False takes onnxruntime's fastest, which
                its own CPU and CUDA kernels compute rightly. By default what the profile says, else True.
            profile: The provider that the file is for: operators that it lacks are written in others where that is
                exact; :func:`onnxplain.engine.shipping.profiles.fallbacks` tells what is left. The one given to
                ``compile`` by default.
            opset: A newer opset than the working one (18, unless the model needs a newer one), up to 21.
            points: How many points of a path, or noisy copies, lie side by side in the batch: ``batched`` (all), a
                number, or ``loop`` (one, in a Loop); by default see :mod:`onnxplain.engine.shipping.staging`.
            results: What the file returns of ``attribution``, ``saliency`` and ``residual``, and computes; all by default.

        Raises:
            OptionError: The method cannot be written as a file, or the options do not fit together.
            TargetError: The index is out of range.
        """
        from onnxplain.engine.shipping.adjoints import ship_adjoints
        from onnxplain.engine.shipping.half import in_half_precision
        from onnxplain.engine.shipping.opsets import stamp
        from onnxplain.engine.shipping.shipment import ship
        from onnxplain.engine.shipping.staging import Staging

        aim = profile_named(profile) if profile is not None else self.profile
        rewriter = self._rewriter()
        rewriter.op.portable, rewriter.op.lacks = forms_for(aim, portable), aim.lacks if aim is not None else ()
        subjects = [self._subject(rewriter, n, n not in self.declared, False) for n in self._subject_names(rewriter)]
        seed = rewriter.seed(self.output, self.head, "index", fixed=None if target == "input" else target)
        check_batch_first(rewriter.forward_nodes, {s.value: s.labels for s in subjects}, seed.explained)
        if isinstance(target, int):
            self._check_fixed(target, dims(seed.explained))
        facts = {**self._fixed, "head": self.head, "target": target, "quantisation": self.quantisation}
        facts["model"] = Path(self.source.source.name).name  # no folder of this machine
        facts |= {"profile": aim.name} if aim is not None else {}
        if adjoints:
            model = ship_adjoints(rewriter, subjects, seed, self.output, facts, results)
        else:
            staging = Staging(points, self.batched, aim)
            model = ship(self.method, rewriter, subjects, seed, self.output, facts, staging, results)
        if opset is not None:
            stamp(model, opset, aim)
        return in_half_precision(model) if half else model

    @staticmethod
    def _check_fixed(target: int, known: Dims | None) -> None:
        sizes = [d for d in (known or ())[1:] if isinstance(d, int)]
        complete = known is not None and len(sizes) == len(known) - 1
        flat_indices(Target.index(target), 1, tuple(sizes) if complete else None)
        if target < 0:
            raise TargetError(f"target {target} is out of range for a fixed target; count from 0, or use 'argmax'")

    def save(
        self,
        path: str | Path,
        *,
        target: int | Literal["input", "argmax"] = "input",
        weights: Weights = "embedded",
        adjoints: bool = False,
        half: bool = False,
        portable: bool | None = None,
        profile: str | None = None,
        opset: int | None = None,
        points: Points = "auto",
        results: Sequence[str] | None = None,
    ) -> Path:
        """Write one self-contained ONNX file that answers and explains, without this package.

        It takes the model's inputs and ``target`` (int64 ``[N]``, -1 for the largest element; absent where it
        is fixed) and returns the model's outputs, ``attribution``, and ``saliency`` and ``residual`` where the
        method has them.

        Args:
            path: Where to.
            target, adjoints, half, portable, profile, opset, points, results: See :meth:`ship`.
            weights: ``embedded``; ``external``: in ``<path>.data``; ``shared``: in the model's own file, which
                has to lie in the same folder and stay there.

        Raises:
            OptionError: The method cannot be written as a file, or weights cannot be shared.
            TargetError: The index is out of range.
            OutputError: The file cannot be written.
        """
        from onnxplain.engine.shipping.weights import write

        form: dict[str, Any] = {"half": half, "portable": portable, "profile": profile, "opset": opset}
        model = self.ship(target, adjoints=adjoints, points=points, results=results, **form)
        return write(model, Path(path), weights, self.source.source)

    def program(self, *slots: Slot) -> Program:
        """The rewritten graph for these explained scalars (one element of the output by default), built on first use."""
        slots = slots or (Slot(),)
        if slots not in self._programs:
            with blaming(self.source.canonical, self.source.source.name):
                self._programs[slots] = self._build(slots)
        return self._programs[slots]

    def _base(self) -> ir.Model:
        return self.source.folded if self.method.folds_normalization else self.source.canonical

    @property
    def _as_deployed(self) -> bool:
        """Whether int8 stays int8: where the model is only run, unless its float form was asked for."""
        return self.method.forward_only and self.quantisation == "straight_through"

    def _rewriter(self) -> Rewriter:
        rewriter = Rewriter(self._base(), self.quantisation, keep_quantised=self._as_deployed)
        running = self.profile or profile_of(resolve(self.providers))
        rewriter.op.portable, rewriter.op.lacks = running.portable, running.lacks
        return rewriter

    def draft(self, slots: Sequence[Slot] = (Slot(),)) -> tuple[Rewriter, list[Plan]]:
        """The rewritten graph with all that the method adds, and no session: what a method refuses is refused here."""
        rewriter = self._rewriter()
        names = self._subject_names(rewriter)
        subjects = [self._subject(rewriter, n, n not in self.declared, self.method.walks) for n in names]
        plans = [self._plan(rewriter, slot, subjects) for slot in slots]
        for subject in subjects:
            if subject.inner and not self.method.walks:
                plans[0].output(f"value/{subject.name}", subject.value)
        return rewriter, plans

    def _build(self, slots: Sequence[Slot]) -> Program:
        rewriter, plans = self.draft(slots)
        inner = [s.name for s in plans[0].subjects if s.inner]
        prelude = self._prelude(inner) if inner and self.method.walks else None
        model = rewriter.finish({"onnxplain.method": self.method.name})
        spell(model, rewriter.op.lacks)
        session = Session(model, self.providers, threads=self.threads, custom_ops=self.custom_ops)
        budget = float("inf") if self.method.needs_one_chunk else self.memory_mib
        if any(p.one_by_one for p in plans):
            budget = 0.0
        return Program(model, plans, session, self._runner(session, model, budget), prelude)

    def _plan(self, rewriter: Rewriter, slot: Slot, subjects: list[Subject]) -> Plan:
        output = slot.output or self.output
        seed = rewriter.seed(output, self.head, slot.kind, slot.whole)
        check_batch_first(rewriter.forward_nodes, {s.value: s.labels for s in subjects}, seed.explained)
        plan = Plan(rewriter, seed, subjects, output_name=output, head=self.head)
        if rewriter.is_inner(rewriter.output_value(output)):
            plan.output(EXPLAINED, seed.explained)
        self.method.build(plan)
        plan.output(SCORE, seed.score, ("N",))
        if rewriter.shadowed:
            plan.output(SHADOW_OUTPUT, rewriter.output_value(output))
        if seed.index is not None:
            plan.output("explained_index", seed.index, ("N",))
        return plan

    def _runner(self, session: Session, model: ir.Model, budget: float) -> BatchRunner:
        fed_whole = {v.name or "" for v in self.source.canonical.graph.inputs} - set(self.batched)
        batched = [v.name or "" for v in model.graph.inputs if v.name not in fed_whole]
        return BatchRunner(session, model, batched, budget)

    @cached_property
    def _plain(self) -> BatchRunner:
        """The model alone."""
        rewriter = Rewriter(self.source.canonical, keep_quantised=True)
        explained = rewriter.output_value(self.output)
        if rewriter.is_inner(explained):
            rewriter.graph.outputs.append(explained)
        model = rewriter.finish()
        session = Session(model, self.providers, threads=self.threads, custom_ops=self.custom_ops)
        return self._runner(session, model, self.memory_mib)

    def answer(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """The model's own outputs; nothing is explained."""
        return self._plain.run({n: feeds[n] for n in self._plain.session.inputs})

    @cached_property
    def batched(self) -> list[str]:
        """Names of the model's inputs whose first axis is the batch: see :func:`batched_inputs`."""
        return batched_inputs(self.source.canonical.graph.inputs)

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
        rewriter = self._rewriter()
        rewriter.graph.outputs.clear()
        for name in names:
            rewriter.graph.outputs.append(rewriter.value(name))
        model = rewriter.finish()
        session = Session(model, self.providers, threads=self.threads, custom_ops=self.custom_ops)
        return BatchRunner(session, model, self.batched, self.memory_mib)

    # ----- running --------------------------------------------------------------------------------

    @overload
    def __call__(self, x: Any, *, target: Targets, seed: int = 0, strict: bool = False) -> list[Explanation]: ...

    @overload
    def __call__(self, x: Any, *, target: Any = None, seed: int = 0, strict: bool = False) -> Explanation: ...

    def __call__(
        self, x: Any, *, target: Any = None, seed: int = 0, strict: bool = False
    ) -> Explanation | list[Explanation]:
        """Explain a batch.

        Args:
            x: Array, batch first, or ``{input name: array}``.
            target: See :func:`onnxplain.engine.targets.as_target`. Several (:class:`Targets`, or a list of
                :class:`Target`) give a list of explanations; methods of one pass make them all in one run that
                shares the forward pass, the others go target by target.
            seed: Of random draws, where the method makes any.
            strict: Raise when a result does not prove itself within its tolerance.

        Raises:
            InputError: Wrong names, shapes, types, NaN or infinity.
            TargetError: Target out of range.
            SessionError: The runtime failed, or the result is not finite.
            ResidualError: ``strict``, and the residual is past the tolerance.
        """
        feeds = validate_feeds(self._named(x), self.declared)
        several = as_targets(target)
        count = self._count(feeds)
        asked = list(several) if several is not None else [as_target(target)]
        targets = settled(asked, lambda: Answer(self.answer(feeds), self._own_name, count))
        groups = [[t] for t in targets] if self.method.walks else [targets]
        explanations = [e for group in groups for e in self._explain(feeds, group, count, seed)]
        if strict:
            for explanation in explanations:
                explanation.require_proof()
        return explanations if several is not None else explanations[0]

    def _explain(self, feeds: dict[str, Array], targets: Sequence[Target], count: int, seed: int) -> list[Explanation]:
        """One run of one graph; an explanation per target."""
        if count != 1 and any(t.whole for t in targets):
            raise TargetError("an output without a batch axis belongs to one sample; explain one sample at a time")
        slots = [Slot(t.kind, t.output, t.whole) for t in targets if t.kind != "lazy"]
        call = Call(self, self.program(*slots), feeds, targets, count)
        return [self._explanation(view, self._reduce(view, seed), seed) for view in call.views]

    def _reduce(self, view: View, seed: int) -> Parts:
        call = view.call
        run = Run(call.subjects, view.first, view.evaluate, seed, call.labels, view.plan.memo, call.carry)
        return self.method.reduce(run)

    @cached_property
    def _own_name(self) -> str:
        rewriter = Rewriter(self.source.canonical, keep_quantised=True)
        return rewriter.own_name(rewriter.output_value(self.output))

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

    def _explanation(self, view: View, parts: Parts, seed: int) -> Explanation:
        for name, array in parts.attributions.items():
            if not np.isfinite(array).all():
                bad = int(np.argmax(~np.isfinite(array.reshape(len(array), -1)).all(axis=1)))
                raise SessionError(
                    f"the attribution of '{name}' is not finite for sample {bad}: "
                    "the model's own numbers overflow there; check the input's scale, or use providers='reference' to see where"
                )
        notes = list(parts.notes)
        zero = [n for n in range(view.call.count) if all(not np.any(a[n]) for a in parts.attributions.values())]
        if zero:
            what = (
                "nothing that was tried moves the score"
                if self.method.forward_only
                else "the gradient is zero everywhere"
            )
            notes.append(f"{what} for sample(s) {zero[:10]}: the model is flat there, or saturated")
        adjoints = view.plan.adjoints
        if adjoints is not None:
            notes += [f"its map is zero: {why}" for why in adjoints.unreached.values()]
        quantised = is_quantised(self.source.canonical) and not self._as_deployed
        notes += [view.agreement["words"]] if view.agreement else []
        session = view.call.program.session
        notes += [f"{n} did not load ({why}); it ran on {session.providers[0]}" for n, why in session.absent.items()]
        rewriter = view.plan.rewriter
        output = rewriter.output_value(view.plan.output_name)
        head, head_note = (self.head, "") if rewriter.is_inner(output) else in_words(output, self.head)
        return Explanation(
            attributions=parts.attributions,
            saliency=parts.saliency,
            score=view.score,
            target=view.target,
            target_shape=view.target_shape,
            target_words=view.request.words,
            head=head,
            output=view.output,
            outputs=view.call.own_outputs,
            method=self.method.name,
            options=self.method.options(),
            head_note=head_note,
            seed=seed,
            terms=parts.terms,
            baseline_score=parts.baseline_score,
            residual=parts.residual,
            quantisation=self.quantisation if quantised else "none",
            blocked=tuple(map(str, adjoints.path.blocked)) if adjoints is not None else (),
            notes=tuple(notes),
            signed=parts.signed,
            standard_errors=parts.standard_errors,
            provenance=self._provenance(view),
        )

    @cached_property
    def _fixed(self) -> dict[str, Any]:
        return {"model": self.source.source.name, "model_sha256": self.source.source.sha256, "versions": versions()}

    def _provenance(self, view: View) -> dict[str, Any]:
        program = view.call.program
        dtype = view.plan.seed.explained.dtype
        return {
            **self._fixed,
            "providers": program.session.providers,
            "provider_nodes": program.session.assignment(),
            "fell_back": reasons(program.session.fallen(), profile_of(program.session.providers)),
            "dtype": dtype.name.lower() if dtype is not None else "unknown",
            "threads": self.threads,
            "memory_mib": self.memory_mib,
            "platform": platform.machine(),
            **({"shadow": view.agreement} if view.agreement else {}),
        }


__all__ = ["COTANGENT", "CompiledExplainer"]
