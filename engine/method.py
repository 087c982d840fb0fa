"""What a method is: options, outputs that it asks of the rewritten graph, and how it reduces them.

One file in ``engine/methods`` with one decorated class makes a method; the command line, the list of
methods and the axiom tests read the registry.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
import onnx_ir as ir

from onnxplain.engine.backward import Adjoints, Lookup, gradients
from onnxplain.engine.errors import OptionError
from onnxplain.engine.explanation import Array, Residual, Terms
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.graph.shapes import dims
from onnxplain.engine.places import Labels, spatial_axes
from onnxplain.engine.registry import Registry
from onnxplain.engine.rewrite import Rewriter, Seed

#: How channels are reduced for a map.
REDUCTIONS = ("sum_abs", "max_abs", "l2", "sum")

#: Host memory for points that wait for their turn (interpolated, noisy or occluded inputs).
STAGING_BYTES = 1 << 27


@dataclass(frozen=True)
class Subject:
    """A tensor that the score is attributed to.

    Attributes:
        name: Its name in the model.
        value: The tensor in the graph under construction.
        labels: What its axes are.
        inner: Whether it is computed by the model rather than fed.
    """

    name: str
    value: ir.Value
    labels: Labels
    inner: bool


@dataclass
class Plan:
    """The rewritten graph while a method adds to it.

    Attributes:
        rewriter: Builds the graph.
        seed: The explained scalar.
        subjects: What is attributed to.
        adjoints: The reverse sweep, once a method asked for gradients.
        slopes: Subject per plain gradient of the score that a method asked for; None where the walk has other rules.
        names: Graph output per key.
        values: Value per key.
        memo: What `build` wants `reduce` to know about this graph.
        output_name: The explained output; None for the model's first float one.
        head: What is explained of it: see :mod:`onnxplain.engine.heads`.
        fed: Graph inputs that the method added, each with the subject whose shape it takes: zeros on the first
            run, and what `Run.evaluate` is given for it later.
        one_by_one: Whether samples go through one at a time: a result is a sum over tensors of which it cannot be
            told which axis counts the samples.
    """

    rewriter: Rewriter
    seed: Seed
    subjects: list[Subject]
    adjoints: Adjoints | None = None
    names: dict[str, str] = field(default_factory=dict)
    memo: dict[str, Any] = field(default_factory=dict)
    output_name: str | None = None
    head: str = "logit"
    fed: dict[str, str] = field(default_factory=dict)
    values: dict[str, ir.Value] = field(default_factory=dict)
    one_by_one: bool = False
    slopes: dict[ir.Value, Subject] | None = None

    def output(self, key: str, value: ir.Value, shape: Any = None) -> None:
        """Return ``value`` from the graph; the method finds it under ``key``."""
        self.values[key] = value
        self.names[key] = self.rewriter.add_output(key, value, shape)

    def gradients(self, lookup: Lookup = gradients) -> dict[str, ir.Value]:
        """Gradient of the score per subject; zero where no path leads to one of several subjects.

        Args:
            lookup: The rules of the walk; plain gradients by default. The first call decides.
        """
        if self.adjoints is None:
            self.adjoints = self.rewriter.backward(self.seed, [s.value for s in self.subjects], lookup)
            self.slopes = {} if lookup is gradients else None
        found = {}
        for subject in self.subjects:
            adjoint = self.adjoints.of.get(subject.value)
            found[subject.name] = adjoint if adjoint is not None else self.rewriter.op.Mul(subject.value, 0.0)
            if self.slopes is not None:
                self.slopes[found[subject.name]] = subject
        return found


class Evaluate(Protocol):
    """Runs the rewritten graph on a batch of points.

    Args:
        points: Array per attributed tensor (and per input that the method added, by name), batch first; other
            inputs are taken from the sample's own feed.
        samples: Which sample of the batch each point belongs to.
        keys: The outputs wanted.
    """

    def __call__(self, points: Mapping[str, Array], samples: Array, keys: Sequence[str]) -> dict[str, Array]: ...


def _nothing_to_carry(spec: str) -> dict[str, list[Array]]:
    raise OptionError(f"'{spec}' is a baseline for inner tensors, and here there is none")


@dataclass
class Run:
    """One call of a compiled explainer, as a method sees it.

    Attributes:
        x: Array per subject, ``[N, ...]``.
        outputs: Results on ``x`` itself, by key (what the method asked for, and ``score``, ``target``).
        evaluate: For methods that need more points than ``x``; targets are those of the clean input.
        seed: Seed of random draws.
        labels: Axes per subject.
        memo: What the method's `build` left for it.
        carry: Subjects at baselines of the model's own inputs: see :meth:`onnxplain.engine.call.Call.carry`.
    """

    x: dict[str, Array]
    outputs: dict[str, Array]
    evaluate: Evaluate
    seed: int
    labels: dict[str, Labels]
    memo: dict[str, Any] = field(default_factory=dict)
    carry: Callable[[str], dict[str, list[Array]]] = field(default=_nothing_to_carry)

    @property
    def score(self) -> Array:
        """``[N]``, float64."""
        return np.asarray(self.outputs["score"], dtype=np.float64)

    def at(self, points: Mapping[str, Array], samples: Array, seed: int | None = None) -> Run:
        """The run that a method would see had it been called at other points, with the clean inputs' targets.

        Args:
            points: Array per attributed tensor, batch first.
            samples: Which sample of this run each point belongs to.
            seed: Of the draws made there; this run's by default.
        """
        outer, owners, carry = self.evaluate, samples, self.carry

        def evaluate(points: Mapping[str, Array], samples: Array, keys: Sequence[str]) -> dict[str, Array]:
            return outer(points, owners[samples], keys)

        return dataclasses.replace(
            self,
            x=dict(points),
            outputs=outer(points, owners, list(self.outputs)),
            evaluate=evaluate,
            seed=self.seed if seed is None else seed,
            carry=lambda spec: {n: [one[owners] for one in arrays] for n, arrays in carry(spec).items()},
        )


@dataclass
class Parts:
    """What a method returns; the explainer adds what is common to all.

    ``standard_errors`` are those of the attributions, for methods that draw at random.
    """

    attributions: dict[str, Array]
    saliency: Array | None = None
    terms: Terms | None = None
    residual: Residual | None = None
    baseline_score: Array | None = None
    signed: bool = False
    notes: list[str] = field(default_factory=list)
    standard_errors: dict[str, Array] = field(default_factory=dict)


@dataclass(frozen=True)
class Variant:
    """A configuration of a method of which other axioms hold than of its defaults.

    Attributes:
        options: What differs from the defaults.
        axioms: Names of the axioms that hold for its attributions.
    """

    options: Mapping[str, Any]
    axioms: frozenset[str]


class Method:
    """Base of all methods; a subclass is a dataclass whose fields are its options.

    Class attributes:
        summary: One line for lists.
        source: Paper and section.
        axioms: Names of the axioms that hold for its attributions (tested over the registry).
        variants: Configurations with axioms of their own.
        quick: Options with which a first look takes a moment, for methods whose defaults take long.
        walks: Whether it evaluates points other than the input, so that inner subjects have to be cut.
        outside: Why its result cannot be made inside a graph, so that it is not written as a file; empty: it can.
    """

    name: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    source: ClassVar[str] = ""
    axioms: ClassVar[frozenset[str]] = frozenset()
    variants: ClassVar[tuple[Variant, ...]] = ()
    quick: ClassVar[Mapping[str, Any]] = {}
    walks: ClassVar[bool] = False
    outside: ClassVar[str] = ""

    def build(self, plan: Plan) -> None:
        """Add this method's outputs to the rewritten graph."""
        raise NotImplementedError

    def reduce(self, run: Run) -> Parts:
        """Make the result from the outputs."""
        raise NotImplementedError

    def ship(self, plan: Plan) -> None:
        """Add this method's whole result to a graph that is shipped: keys ``attribution/NAME``, ``saliency``, ``residual``.

        Raises:
            OptionError: The result cannot be made inside a graph.
        """
        if self.walks:
            why = self.outside or "it chooses its points outside the graph; use a method of one pass"
            raise OptionError(f"method '{self.name}' cannot be written as a file: {why}")
        self.build(plan)

    @property
    def needs_one_chunk(self) -> bool:
        """Whether this configuration mixes the samples of a batch."""
        return False

    @property
    def forward_only(self) -> bool:
        """Whether it runs the model and never differentiates it, so that every model is served as it is."""
        return False

    @property
    def folds_normalization(self) -> bool:
        """Whether BatchNormalization is folded into the convolution in front of it first."""
        return False

    def options(self) -> dict[str, Any]:
        """All options with their values."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # type: ignore[arg-type]


class Direct(Method):
    """A method whose whole result is made by one pass of the graph, so that it can be shipped as one.

    A subclass gives the attribution of each subject; the map is its reduction over channels.
    """

    reduction: str = "sum_abs"

    def __post_init__(self) -> None:
        choose("reduction", self.reduction, REDUCTIONS)

    def attributions(self, plan: Plan) -> dict[str, ir.Value]:
        """Emit the attribution per subject, in its shape; words for the result go to ``plan.memo["notes"]``."""
        raise NotImplementedError

    def prove(self, run: Run, attributions: Mapping[str, Array]) -> Residual | None:
        """What shows that the result is right, where the method has something that does."""
        return None

    def build(self, plan: Plan) -> None:
        deliver(plan, self.attributions(plan), self.reduction)

    def reduce(self, run: Run) -> Parts:
        attributions = {n: run.outputs[f"attribution/{n}"] for n in run.x}
        return Parts(
            attributions,
            run.outputs.get("saliency"),
            residual=self.prove(run, attributions),
            signed=self.reduction == "sum",
            notes=list(run.memo.get("notes", ())),
        )


METHODS: Registry[type[Method]] = Registry("method", "onnxplain.engine.methods", "onnxplain.methods")


def method(name: str) -> Any:
    """Class decorator: make a dataclass of options and register it under ``name``."""

    def register(cls: type[Method]) -> type[Method]:
        cls.name = name
        return METHODS.add(name, dataclass(frozen=True, kw_only=True)(cls))

    return register


def option_names(cls: type[Method]) -> list[str]:
    """Names of a method's options, in the order in which it declares them."""
    return [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]


def create(name: str, options: Mapping[str, Any]) -> Method:
    """A configured method.

    Raises:
        OptionError: Unknown method or option, or a value that the method refuses.
    """
    cls = METHODS.get(name)
    return cls(**checked_options(cls, "method", name, options))


def checked_options(cls: type, kind: str, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options for a dataclass, once it has all of them and their types are what it declares.

    Args:
        cls: The dataclass.
        kind, name: What it is called in messages.
        options: By name.

    Raises:
        OptionError: An unknown option, or a value of another type.
    """
    known = [f.name for f in dataclasses.fields(cls)]
    for key in options:
        if key not in known:
            offered = ", ".join(known) or "none"
            raise OptionError(f"{kind} '{name}' has no option '{key}'; its options: {offered}")
    # Written out as text where the module postpones annotations, else the types themselves.
    kinds = {f.name: f.type.__name__ if isinstance(f.type, type) else str(f.type) for f in dataclasses.fields(cls)}
    return {key: _of_kind(key, value, kinds[key]) for key, value in options.items()}


#: Written type of an option -> what it may hold, in Python and in words; other types are the method's own matter.
_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "bool": ((bool, np.bool_), "true or false"),
    "int": ((int, np.integer), "a whole number"),
    "float": ((int, float, np.integer, np.floating), "a number"),
    "str": ((str,), "a name"),
    "tuple[str, ...]": ((str, list, tuple), "a list of names"),
}


def _of_kind(key: str, value: Any, written: str) -> Any:
    """The value, once its type is one that the option's own type allows."""
    plain = written.removesuffix(" | None")
    if plain not in _KINDS or (value is None and plain != written):
        return value
    allowed, words = _KINDS[plain]
    if not isinstance(value, allowed) or (isinstance(value, bool) and plain in ("int", "float")):
        raise OptionError(f"{key}={value!r} is not possible; give {words}")
    if isinstance(value, (list, tuple)):
        if not all(isinstance(item, str) for item in value):
            raise OptionError(f"{key}={value!r} is not possible; give {words}")
        return tuple(value)
    return value


def choose(name: str, value: Any, allowed: Sequence[Any]) -> None:
    """Refuse an option value that is not one of ``allowed``.

    Raises:
        OptionError: It is not.
    """
    if value not in allowed:
        raise OptionError(f"{name}={value!r} is not possible; choose one of {', '.join(map(repr, allowed))}")


def deliver(plan: Plan, found: Mapping[str, ir.Value], reduction: str) -> None:
    """Return attributions from the graph, and their map where there is one subject.

    Args:
        plan: The graph.
        found: Per subject, in its shape.
        reduction: Of channels.
    """
    for subject in plan.subjects:
        found[subject.name].shape = subject.value.shape
        plan.output(f"attribution/{subject.name}", found[subject.name], subject.value.shape)
    if len(plan.subjects) == 1:
        subject = plan.subjects[0]
        saliency = reduced(plan.rewriter.op, found[subject.name], subject.labels, reduction)
        plan.output("saliency", saliency, _without_channels(subject))


def _without_channels(subject: Subject) -> list[Any] | None:
    known = dims(subject.value)
    return None if known is None else [known[i] for i in (0, *spatial_axes(subject.labels).values())]


def reduced(op: Builder, value: ir.Value, labels: Labels, how: str) -> ir.Value:
    """Emit :func:`reduce_channels`: one value per place."""
    channels = [i for i in range(1, len(labels)) if i not in spatial_axes(labels).values()]
    if not channels:
        return value if how == "sum" else op.Abs(value)
    if how == "max_abs":
        return op.ReduceMax(op.Abs(value), channels, keepdims=0)
    emit = {"sum_abs": op.ReduceL1, "l2": op.ReduceL2, "sum": op.ReduceSum}[how]
    return emit(value, channels, keepdims=0)


def reduce_channels(array: Array, labels: Labels, how: str) -> Array:
    """One value per place: ``sum_abs``, ``sum``, ``max_abs`` or ``l2`` over the axes that are no places."""
    channels = tuple(i for i in range(1, array.ndim) if i not in spatial_axes(labels).values())
    if not channels:
        return np.abs(array) if how in ("sum_abs", "max_abs", "l2") else array
    if how == "sum_abs":
        return np.asarray(np.abs(array).sum(axis=channels))
    if how == "max_abs":
        return np.asarray(np.abs(array).max(axis=channels))
    if how == "l2":
        return np.asarray(np.sqrt((array**2).sum(axis=channels)))
    return np.asarray(array.sum(axis=channels))
