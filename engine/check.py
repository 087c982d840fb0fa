"""Can this model be explained? All obstacles at once, without running anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from onnxplain.engine.backward import Adjoints
from onnxplain.engine.explainer import CompiledExplainer
from onnxplain.engine.graph.model import ModelSource
from onnxplain.engine.graph.names import describe
from onnxplain.engine.graph.shapes import is_float
from onnxplain.engine.heads import is_rounded, trailing_activation
from onnxplain.engine.loading import Model, load
from onnxplain.engine.method import create
from onnxplain.engine.rewrite import Rewriter
from onnxplain.engine.rules.table import BIAS
from onnxplain.engine.session.blame import blaming
from onnxplain.engine.shipping.profiles import Fallback, fallbacks, profile_named


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
        obstacles: Every node without a sound rule.
        blocked: Nodes where part of the gradient ends (no obstacle, but part of the answer is missing).
        operators: Status per operator on the way.
        dynamic: Symbolic or unknown sizes per input.
        opset: The model's opset, and the one that the rewritten graph has.
        quantised: Whether quantised tensors lie on the way (the gradient is straight-through), or the answer is one.
        head: The trailing activation, empty where there is none.
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
    method: str = "fullgrad",
) -> CheckReport:
    """Pre-flight.

    Args:
        model: Path, bytes, proto or loaded model.
        target: Name of the output; the first float one by default.
        wrt: Names of the tensors to attribute to; as in ``explain`` by default.
        profile: An execution provider: the report then says what it would leave to the CPU, of a file that
            ``compile(model, method=method).save(path, profile=profile)`` writes.
        method: What that file computes.

    Raises:
        OptionError: Unknown profile or method, or a method that no file can hold.
        ModelError: The file itself cannot be used.
        TargetError: There is no such output.
        InputError: There is no such tensor.
    """
    loaded = load(model)
    with blaming(loaded.canonical, loaded.source.name):
        report = _check(loaded, target, wrt)
        if profile is not None:
            report.profile = profile_named(profile).name
            if report.ok:
                explainer = CompiledExplainer(loaded, create(method, {}), output=target, wrt=wrt, lazily=True)
                report.fallbacks = fallbacks(explainer.ship(profile=profile), profile_named(profile))
        return report


def _check(loaded: Model, target: str | None, wrt: Sequence[str] | None) -> CheckReport:
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
        return report
    seed = rewriter.seed(target)
    adjoints = rewriter.backward_from(
        {seed.explained: seed.cotangent}, [rewriter.value(n) for n in names], collect=True
    )
    report.quantised = is_rounded(output)
    _fill(report, adjoints, rewriter)
    return report


def _default_wrt(model: Model, rewriter: Rewriter) -> list[str]:
    floats = [v.name or "" for v in rewriter.graph.inputs if is_float(v)]
    return floats or model.embeddings()[:1]


def _fill(report: CheckReport, adjoints: Adjoints, rewriter: Rewriter) -> None:
    found = [Obstacle(o.node, o.operator, o.reason, o.hint) for o in adjoints.obstacles]
    report.obstacles = list(dict.fromkeys(found))
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
    report.ok = not report.obstacles and not report.problem


__all__ = ["CheckReport", "Obstacle", "OperatorStatus", "check"]
