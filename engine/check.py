"""Can this model be explained? All obstacles at once, without running anything."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import onnx_ir as ir

from onnxplain.engine.backward import Adjoints
from onnxplain.engine.errors import OnnxplainError, OptionError, UnsupportedNodeError
from onnxplain.engine.explainer import CompiledExplainer
from onnxplain.engine.graph.model import ModelSource
from onnxplain.engine.graph.names import describe
from onnxplain.engine.graph.shapes import batched_inputs, is_float
from onnxplain.engine.heads import is_rounded, trailing_activation
from onnxplain.engine.loading import Model, load
from onnxplain.engine.method import create
from onnxplain.engine.places import Labels, input_labels
from onnxplain.engine.rewrite import Rewriter
from onnxplain.engine.rules.table import BIAS
from onnxplain.engine.samples import batch_refusals
from onnxplain.engine.session.blame import blaming
from onnxplain.engine.shipping.profiles import Fallback, fallbacks, profile_named
from onnxplain.engine.terms import astray_refusals, bias_terms, refuse_astray


@dataclass(frozen=True)
class OperatorStatus:
    """One operator on the way from the attributed tensors to the target.

    Attributes:
        operator: Its name, with domain.
        count: How many nodes of it lie on the way.
        gradient: Whether all of them can be differentiated.
        bias: Whether full-gradient terms are defined for it.
    """

    operator: str
    count: int
    gradient: bool
    bias: bool


@dataclass(frozen=True)
class Obstacle:
    """A node that stands in the way."""

    node: str
    operator: str
    reason: str
    remedy: str


@dataclass
class CheckReport:
    """The answer of :func:`check`.

    Attributes:
        ok: Whether the model can be explained with respect to ``wrt``.
        problem: What makes it impossible as a whole, empty otherwise.
        obstacles: Every node that cannot be served: without a sound rule, or with samples that see each other.
        blocked: Nodes where part of the gradient ends (no obstacle, but part of the answer is missing).
        incomplete: Nodes at which no full-gradient terms can be given; no obstacle to methods without them.
        operators: Status per operator on the way.
        dynamic: Symbolic or unknown sizes per input.
        opset: The model's opset, and the one that the rewritten graph has.
        quantised: Whether quantised tensors lie on the way (the gradient is straight-through), or the answer is one.
        head: The trailing activation, empty where there is none.
        notes: What else is worth knowing beforehand.
        method: The method that was asked about; empty: what all of them rest on was looked at.
        profile: The execution provider that was asked about.
        fallbacks: What of a file for that provider it would leave to the CPU, as far as its documentation tells.
    """

    ok: bool
    output: str = ""
    wrt: tuple[str, ...] = ()
    problem: str = ""
    obstacles: list[Obstacle] = field(default_factory=list)
    blocked: list[Obstacle] = field(default_factory=list)
    operators: list[OperatorStatus] = field(default_factory=list)
    dynamic: dict[str, list[str]] = field(default_factory=dict)
    opset: tuple[int, int] = (0, 0)
    quantised: bool = False
    head: str = ""
    nodes: int = 0
    incomplete: list[Obstacle] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    method: str = ""
    profile: str = ""
    fallbacks: list[Fallback] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


def check(
    model: ModelSource | Model,
    *,
    target: str | None = None,
    wrt: Sequence[str] | None = None,
    profile: str | None = None,
    method: str | None = None,
) -> CheckReport:
    """Pre-flight.

    Args:
        model: Path, bytes, proto or loaded model.
        target: Name of the output; the first float one by default.
        wrt: Names of the tensors to attribute to; as in ``explain`` by default.
        profile: An execution provider: the report then says what it would leave to the CPU, of a file that
            ``compile(model, method=method).save(path, profile=profile)`` writes.
        method: The method that is asked about: whatever it refuses is an obstacle as well, and what it does without is
            none. By default what methods rest on in general, with a profile fullgrad.

    Raises:
        OptionError: Unknown profile or method, or a method that no file can hold.
        ModelError: The file itself cannot be used.
        TargetError: There is no such output.
        InputError: There is no such tensor.
    """
    loaded = load(model)
    method = method or ("fullgrad" if profile is not None else None)
    with blaming(loaded.canonical, loaded.source.name):
        report, mixed = _check(loaded, target, wrt)
        if method is not None and report.wrt:
            explainer = CompiledExplainer(loaded, create(method, {}), output=target, wrt=wrt, lazily=True)
            _ask(report, explainer, mixed)
        if profile is not None:
            report.profile = profile_named(profile).name
            if report.ok:
                report.fallbacks = fallbacks(explainer.ship(profile=profile), profile_named(profile))
        return report


def _check(loaded: Model, target: str | None, wrt: Sequence[str] | None) -> tuple[CheckReport, list[Obstacle]]:
    """What methods rest on in general, and which obstacles are such to those without gradients as well."""
    rewriter = Rewriter(loaded.canonical)
    output = rewriter.output_value(target)
    names = list(wrt) if wrt is not None else _default_wrt(loaded, rewriter)
    activation, _ = trailing_activation(output)
    report = CheckReport(
        ok=False,
        output=rewriter.own_name(output),
        wrt=tuple(names),
        dynamic={t.name: [str(d) for d in t.shape or () if not isinstance(d, int)] for t in loaded.inputs},
        opset=(loaded.source.opset, rewriter.op.opset),
        head=activation.op_type if activation is not None else "",
        nodes=len(loaded.layers),
    )
    if not names:
        report.problem = "no float input and no embedding lookup to attribute to; name an inner float tensor (wrt)"
        return report, []
    seed = rewriter.seed(target)
    adjoints = rewriter.backward_from(
        {seed.explained: seed.cotangent}, [rewriter.value(n) for n in names], collect=True
    )
    report.quantised = is_rounded(output)
    _fill(report, adjoints, rewriter)
    sources: dict[ir.Value, Labels] = {
        v: input_labels(v) for v in map(rewriter.value, names) if _has_samples(loaded, v)
    }
    mixed = _fill_samples(report, batch_refusals(rewriter.forward_nodes, sources, seed.explained))
    if sources and not adjoints.problem:
        _fill_terms(report, rewriter, adjoints, sources)
    report.ok = not report.obstacles and not report.problem
    return report, mixed


def _default_wrt(model: Model, rewriter: Rewriter) -> list[str]:
    floats = [v for v in rewriter.graph.inputs if is_float(v)]
    batched = [v.name or "" for v in floats if _has_samples(model, v)]
    return batched or model.embeddings()[:1] or [v.name or "" for v in floats]


def _has_samples(model: Model, value: ir.Value) -> bool:
    """Whether a tensor's first axis is taken for the batch: not where one is fed whole, or is a weight."""
    fed = model.canonical.graph.inputs
    return value.const_value is None and (not value.is_graph_input() or value.name in batched_inputs(fed))


def _fill(report: CheckReport, adjoints: Adjoints, rewriter: Rewriter) -> None:
    report.obstacles = list(dict.fromkeys(map(_obstacle, adjoints.obstacles)))
    report.problem = adjoints.problem
    report.blocked = [Obstacle(b.node, b.operator, "the gradient ends here", b.remedy) for b in adjoints.path.blocked]
    report.quantised |= any(n.op_type == "QuantizeLinear" for n in adjoints.path.nodes)
    counts: dict[str, list[bool]] = {}
    bias: dict[str, bool] = {}
    for node in adjoints.nodes:
        name = describe(node.ir)
        counts.setdefault(name, []).append(node not in adjoints.failed)
        bias[name] = BIAS.find(node.domain, node.op_type, node.version(rewriter.op.opset)) is not None
    report.operators = [OperatorStatus(n, len(each), all(each), bias[n]) for n, each in sorted(counts.items())]


def _obstacle(refusal: UnsupportedNodeError) -> Obstacle:
    return Obstacle(refusal.node, refusal.operator, refusal.reason, refusal.hint)


def _fill_samples(report: CheckReport, refusals: Iterable[OnnxplainError]) -> list[Obstacle]:
    """Where the first axis does not count samples, which every method takes it to do."""
    mixed = []
    for refusal in refusals:
        if isinstance(refusal, UnsupportedNodeError):
            mixed.append(_obstacle(refusal))
        else:
            report.problem = f"{report.problem}; {refusal}" if report.problem else str(refusal)
    report.obstacles = list(dict.fromkeys([*report.obstacles, *mixed]))
    return mixed


def _fill_terms(report: CheckReport, rewriter: Rewriter, adjoints: Adjoints, sources: dict[ir.Value, Labels]) -> None:
    """What stands in the way of full-gradient terms alone."""
    refused: list[UnsupportedNodeError] = []
    terms = bias_terms(rewriter.op, adjoints, sources, refused=refused)
    refused += astray_refusals(terms)
    known = {o.node for o in report.obstacles}
    report.incomplete = list(dict.fromkeys(o for o in map(_obstacle, refused) if o.node not in known))
    try:
        refuse_astray(any(t.samples is None for t in terms) and not report.incomplete and not report.obstacles)
    except OptionError as error:
        report.notes.append(f"full-gradient terms: {error}")


def _ask(report: CheckReport, explainer: CompiledExplainer, mixed: list[Obstacle]) -> None:
    """Let a method build its graph: what it refuses stands in its way, and nothing else does."""
    report.method = explainer.method.name
    general = mixed if explainer.method.forward_only else report.obstacles
    try:
        explainer.draft()
    except UnsupportedNodeError as refusal:
        own = _obstacle(refusal)
        more = report.incomplete if own in report.incomplete else [own]
        report.obstacles = list(dict.fromkeys([*general, *more]))
        report.incomplete = [o for o in report.incomplete if o not in more]
    except OnnxplainError as refusal:
        report.obstacles, report.problem = list(general), report.problem or str(refusal)
    else:
        report.obstacles, report.problem = [], ""
    report.ok = not report.obstacles and not report.problem


__all__ = ["CheckReport", "Obstacle", "OperatorStatus", "check"]
