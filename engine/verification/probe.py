"""A model under test: its score and its gradient at any points, in one number format on one provider.

What runs is what explaining runs: the same rewritten graph, the same batches, the same targets. In float64
the model is the same one with every float widened, on the reference evaluator.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from onnxplain.engine.differences import Precision, Summary, compare, summarise
from onnxplain.engine.errors import TargetError
from onnxplain.engine.explainer import CompiledExplainer
from onnxplain.engine.explanation import Array, Explanation
from onnxplain.engine.graph.passes.dequantize import is_quantised
from onnxplain.engine.graph.passes.double import DoublePass
from onnxplain.engine.loading import Model
from onnxplain.engine.method import Method, Parts, Plan, Run
from onnxplain.engine.rewrite import SCORE
from onnxplain.engine.session.providers import ProviderSpec
from onnxplain.engine.targets import as_target, as_targets

#: Weights above this many bytes are not widened to float64.
WIDEST = 1 << 29


@dataclass(frozen=True)
class Question:
    """What is verified: the choices of a call of :func:`onnxplain.verify` that explaining shares.

    Attributes:
        feeds: Array per input, few samples.
        target: The explained scalar; the argmax is settled by the first run.
        how: Keywords of :class:`CompiledExplainer`.
    """

    feeds: Mapping[str, Array]
    target: Any
    how: Mapping[str, Any]

    def explainer(self, model: Model, method: Method, **changes: Any) -> CompiledExplainer:
        """A compiled explainer with these choices."""
        return CompiledExplainer(model, method, **{**self.how, **changes})

    def settled(self, explanation: Explanation) -> Question:
        """The same question with the element that was explained, so that rounding cannot change what is asked."""
        if explanation.target is None:
            return self
        return Question(self.feeds, np.asarray(explanation.target), self.how)

    def only(self, rows: Sequence[int], batched: Sequence[str]) -> Question:
        """The same question for some of the samples."""
        places = np.asarray(rows)
        feeds = {n: a[places] if n in batched else a for n, a in self.feeds.items()}
        fixed = isinstance(self.target, np.ndarray) and self.target.ndim > 0 and len(self.target) > 1
        return Question(feeds, self.target[places] if fixed else self.target, self.how)


@dataclass(frozen=True)
class _Plain(Method):
    """The gradient or only the score, with every attributed tensor free to be moved."""

    name: ClassVar[str] = "verify"
    walks: ClassVar[bool] = True

    differentiates: bool = True
    seen: list[Run] = field(default_factory=list)

    def build(self, plan: Plan) -> None:
        for name, gradient in plan.gradients().items() if self.differentiates else ():
            plan.output(f"gradient/{name}", gradient)

    def reduce(self, run: Run) -> Parts:
        self.seen[:] = [run]
        names = run.x if self.differentiates else ()
        return Parts({n: run.outputs[f"gradient/{n}"] for n in names})

    def options(self) -> dict[str, Any]:
        return {}


class Probe:
    """Score and gradient of one model on one provider.

    Args:
        model: The model, or its :func:`doubled` form.
        question: What is asked.
        providers: Other providers than the question's.

    Attributes:
        explainer: What gives the gradient.
        result: Its explanation of the question's samples; attributions are plain gradients.
    """

    def __init__(self, model: Model, question: Question, providers: str | Sequence[ProviderSpec] | None = None) -> None:
        self.question = question
        self.changes: dict[str, Any] = {} if providers is None else {"providers": providers}
        if is_quantised(model.canonical):  # rounding has no slope that differences could find
            self.changes["quantisation"] = "float_shadow"
        self.model = model
        self._gradient = _Plain()
        self._score = _Plain(differentiates=False)
        self.explainer = question.explainer(model, self._gradient, **self.changes)
        self._forward = question.explainer(model, self._score, **self.changes)

    def start(self) -> Explanation:
        """Explain the samples; everything else needs that first."""
        if as_targets(self.question.target) is not None:
            raise TargetError("verify takes one target at a time; give one, and call it again for the others")
        feeds, target = dict(self.question.feeds), as_target(self.question.target)
        self.result: Explanation = self.explainer(feeds, target=target)
        return self.result

    def ready(self) -> float:
        """Prepare the score's graph, too; gives the score of the first sample."""
        feeds, target = dict(self.question.feeds), as_target(self.question.target)
        return float(self._forward(feeds, target=target).score[0])

    @property
    def x(self) -> dict[str, Array]:
        """The attributed tensors, in the type in which they are fed."""
        declared = self.explainer.declared
        found = self._gradient.seen[0].x
        return {n: a.astype(declared[n][0]) if n in declared else a for n, a in found.items()}

    def evaluate(self, points: Mapping[str, Array], samples: Array) -> Array:
        """Scores at points."""
        return self._score.seen[0].evaluate(points, samples, [SCORE])[SCORE]

    def gradients(self, points: Mapping[str, Array], samples: Array) -> dict[str, Array]:
        """Gradients at points."""
        keys = [f"gradient/{n}" for n in points]
        found = self._gradient.seen[0].evaluate(points, samples, keys)
        return {n: found[f"gradient/{n}"] for n in points}

    def slopes(self, precision: Precision, count: int, seed: int, rounds: int = 3) -> Summary:
        """Finite differences against the gradient; more directions are drawn while too few can be judged."""
        directions = []
        for turn in range(rounds):
            directions += compare(
                self.evaluate, self.gradients, self.x, precision, count=count, seed=seed + 7919 * turn
            )
            if summarise(directions).verdict != "undecided":
                break
        return summarise(directions)


def weight_bytes(model: Model) -> int:
    """Bytes of all weights."""
    values = model.canonical.graph.initializers.values()
    return sum(v.const_value.nbytes for v in values if v.const_value is not None)


def doubled(model: Model) -> Model:
    """The model with every float in float64."""
    wide: ir.Model = model.canonical.clone()
    DoublePass()(wide)
    twin = copy.copy(model)
    twin.__dict__.pop("folded", None)
    twin.__dict__["canonical"] = wide
    return twin
