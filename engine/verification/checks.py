"""The checks, each of which makes one row: what is compared, with which tolerance, and what the figures say."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from onnxplain.engine.differences import DOUBLE, SINGLE, Summary
from onnxplain.engine.errors import OnnxplainError, SessionError
from onnxplain.engine.explanation import Array, Explanation
from onnxplain.engine.graph.passes.dequantize import is_quantised
from onnxplain.engine.loading import Model
from onnxplain.engine.method import create
from onnxplain.engine.session.batching import fixed_batch
from onnxplain.engine.session.providers import REFERENCE, SHORT, ProviderSpec, resolve
from onnxplain.engine.session.runtime import import_runtime
from onnxplain.engine.session.session import OutOfTimeError, Session, time_limit
from onnxplain.engine.verification import nodes
from onnxplain.engine.verification.probe import WIDEST, Probe, Question, doubled, weight_bytes
from onnxplain.engine.verification.report import NodeFinding, Row

Arrays = Mapping[str, Array]

#: Largest difference of two gradients, relative to their length, that is put down to rounding.
ROUNDING = 1e-3
#: How many times the gradient's own change under rounding of the input two computations may be apart.
MAGNIFIED = 5
#: A difference of this part of a gradient's length says nothing.
MEANINGLESS = 0.3
#: As ROUNDING, for providers that multiply in shorter formats (TF32 has 10 bits).
SHORTER = 2e-2
#: Largest difference of the model's own outputs, relative to the largest of them.
OUTPUTS = {"float32": 1e-5, "float64": 1e-12}
#: Providers that only pass work on, and are no other arithmetic.
_NOT_COMPARED = ("AzureExecutionProvider",)


@dataclass
class Subject:
    """What all checks look at.

    Attributes:
        model: The loaded model.
        question: The samples, with the target that was explained.
        probe: The model on the provider that was asked for.
        directions: Random directions per check of slopes.
        seed: Of all draws.
        seconds: What the reference evaluator may take for one check, and a search for a culprit.
    """

    model: Model
    question: Question
    probe: Probe
    directions: int
    seed: int
    seconds: float

    @property
    def batched(self) -> list[str]:
        """Inputs whose first axis is the batch."""
        return self.probe.explainer.batched

    @property
    def count(self) -> int:
        """Number of samples."""
        return len(self.probe.result)

    def place(self, row: int = 0) -> nodes.Place:
        """One sample, for a search; as often as the model has to be fed it."""
        feeds = self.question.only([row] * self.batch, self.batched).feeds
        explainer = self.probe.explainer
        return nodes.Place(
            self.model, dict(feeds), list(self.probe.x), explainer.output, explainer.providers, self.seconds
        )

    @cached_property
    def wrong_rules(self) -> tuple[NodeFinding, ...]:
        """Nodes with a wrong rule; searched once, however many checks fail."""
        return _search(lambda: nodes.wrong_rules(self.place()))

    @cached_property
    def alone(self) -> Probe:
        """The first sample by itself, on the provider that was asked for."""
        probe = Probe(self.model, self.question.only([0] * self.batch, self.batched))
        probe.start()
        return probe

    @property
    def batch(self) -> int:
        """How many rows the model has to be fed at least."""
        return fixed_batch(self.probe.explainer.model, frozenset(self.batched)) or 1

    @cached_property
    def rounding(self) -> float:
        """How far the gradient itself goes, relative to its length, when the input changes in its last digits.

        Two right computations differ by no less: where a number that a kink depends on is all rounding, they may
        take the kink's two sides.
        """
        x, row = self.alone.x, np.zeros(1, dtype=np.int64)
        rng = np.random.default_rng(self.seed)
        here = self.alone.gradients({n: a[:1] for n, a in x.items()}, row)
        gaps = []
        for _ in range(3):
            points = {}
            for n, a in x.items():
                step = 2 * float(np.finfo(a.dtype).eps) * rng.standard_normal((1, *a.shape[1:]))
                points[n] = (a[:1] * (1 + step)).astype(a.dtype)
            gaps += [_gap(here[n], g) for n, g in self.alone.gradients(points, row).items()]
        return max(gaps)

    def allowed(self, gap: float, least: float) -> float:
        """What two gradients of the same sample may differ by."""
        return least if gap <= least else max(least, MAGNIFIED * self.rounding)


# ----- gradient against finite differences ----------------------------------------------------------


def slopes(subject: Subject) -> Row:
    """The rewritten graph as it is deployed."""
    kind = str(subject.probe.result.provenance.get("dtype", "float"))
    exact = kind == "double"
    subject.probe.ready()
    summary = subject.probe.slopes(DOUBLE if exact else SINGLE, subject.directions, subject.seed)
    return _slopes_row("gradient", summary, subject, "float64" if exact else "float32")


def exact_slopes(subject: Subject) -> Row:
    """The same graph in float64 on the reference evaluator, as far as that is quick enough."""
    name = "gradient in float64"
    if weight_bytes(subject.model) > WIDEST:
        return Row(name, "undecided", "not tried: the weights are too large for the reference evaluator")
    start = time.monotonic()
    try:
        with time_limit(subject.seconds):
            probe = Probe(doubled(subject.model), subject.question.only([0], subject.batched), REFERENCE)
            probe.start()
            begun = time.monotonic()
            probe.ready()
            once = time.monotonic() - begun
            left = subject.seconds - (time.monotonic() - start)
            count = min(subject.directions, int(left / (10 * max(once, 1e-6))))
            if count < 3:
                raise OutOfTimeError(f"one pass takes {once:.1f} s on the reference evaluator; give more seconds")
            summary = probe.slopes(DOUBLE, count, subject.seed)
    except OutOfTimeError as e:
        return Row(name, "undecided", f"{e} (seconds={subject.seconds:g})")
    except (OnnxplainError, MemoryError) as e:
        return Row(name, "undecided", f"the reference evaluator cannot run this model: {e}")
    return _slopes_row(name, summary, subject, "float64")


def _slopes_row(name: str, summary: Summary, subject: Subject, precision: str) -> Row:
    figures = {
        "precision": precision, "directions": summary.directions, "judged": summary.judged,
        "differing": summary.differing, "kinks": summary.kinks, "rounding": summary.rounding, "error": summary.error,
    }  # fmt: skip
    aside = [f"{n} {word}" for n, word in ((summary.kinks, "at kinks"), (summary.rounding, "in rounding")) if n]
    words = f"{summary.judged} of {summary.directions} directions judged" + (
        f", {' and '.join(aside)}" if aside else ""
    )
    if summary.flat and summary.judged:
        words = "the score does not move along any direction: the model is flat at these samples"
    elif summary.judged:
        words += f"; largest difference {_short(summary.error)} of the expected slope"
    if is_quantised(subject.model.canonical):
        words += "; through the float form, as rounding has no slope"
    found: tuple[NodeFinding, ...] = ()
    if summary.verdict == "fail":
        found = subject.wrong_rules
        words = f"{summary.differing} directions differ; {words}"
        if not found:
            words += "; no node differs on its own"
    return Row(name, summary.verdict, words, figures, found)


def _short(number: float) -> str:
    return "0" if number == 0 else f"{number:.1e}".replace("e-0", "e-")


def _search(run: Any) -> tuple[NodeFinding, ...]:
    """The culprits, or none where the search itself cannot be made."""
    try:
        return tuple(run())
    except (OnnxplainError, MemoryError):
        return ()


# ----- what a result promises -----------------------------------------------------------------------


def completeness(subject: Subject) -> Row:
    """The full-gradient identity: score = <gradient, input> + bias terms."""
    name = "completeness"
    try:
        explainer = subject.question.explainer(subject.model, create("fullgrad", {}))
        found: Explanation = explainer(dict(subject.question.feeds), target=subject.question.target)
    except OnnxplainError as e:
        return Row(name, "undecided", f"there are no full-gradient terms: {e}")
    residual = found.residual
    if residual is None:
        return Row(name, "undecided", "the method gives no residual for this model")
    worst = float(np.max(residual.relative))
    words = f"the terms leave {_short(worst)} of their size over (allowed: {_short(residual.tolerance)})"
    verdict = "pass" if residual.ok else "fail"
    figures = {"relative": worst, "absolute": float(np.max(np.abs(residual.absolute))), "tolerance": residual.tolerance}
    return Row(name, verdict, words, figures)  # type: ignore[arg-type]


def determinism(subject: Subject) -> Row:
    """The same call again, on the same session and on a new one: equal bytes."""
    first = subject.probe.result
    again = Probe(subject.model, subject.question)
    runs = [subject.probe.start(), again.start()]
    gaps = [max(_gap(first.attributions[n], r.attributions[n]) for n in first.attributions) for r in runs]
    same = [_bytes(r) == _bytes(first) for r in runs]
    if all(same):
        return Row("determinism", "pass", "run again, and rewritten again: the same bytes", {"difference": 0.0})
    words = f"{'run' if not same[0] else 'rewritten'} again, the gradient differs by {_short(max(gaps))} of its length"
    return Row(
        "determinism",
        "fail",
        words,
        {"difference": max(gaps)},
        _search(lambda: nodes.rerun_difference(subject.place())),
    )


def _bytes(e: Explanation) -> bytes:
    return b"".join(a.tobytes() for a in (e.score, *e.attributions.values(), *e.outputs.values()))


def _gap(a: Array, b: Array) -> float:
    """Length of the difference relative to the first one's."""
    wide = a.astype(np.float64)
    return float(np.linalg.norm(wide - b) / max(float(np.linalg.norm(wide)), 1e-300)) if a.size else 0.0


def mixing(subject: Subject) -> Row:
    """Every sample explained alone, or, where the model takes batches of one size, among other neighbours."""
    name = "samples"
    fixed = fixed_batch(subject.probe.explainer.model, frozenset(subject.batched))
    if fixed == 1:
        return Row(name, "pass", "the model takes one sample at a time")
    question, count = subject.question, subject.count
    if count == 1:
        question, count = _with_neighbour(subject), 2
    whole = Probe(subject.model, question)
    together = whole.start()
    question = question.settled(together)
    gaps = []
    for row in range(min(count, 4)):
        # Where batches have one size, the sample fills the batch: its neighbours are copies of itself.
        alone = Probe(subject.model, question.only([row] * (fixed or 1), subject.batched)).start()
        gaps.append(max(_gap(together.attributions[n][row], a[0]) for n, a in alone.attributions.items()))
    worst = max(gaps)
    allowed = subject.allowed(worst, ROUNDING)
    words = f"alone and in a batch, gradients differ by at most {_short(worst)} of their length (allowed: {_short(allowed)})"
    figures = {"difference": worst, "tolerance": allowed}
    if worst <= allowed:
        return _within(name, words, figures)
    found: tuple[NodeFinding, ...] = ()
    if fixed is None:
        place = replace(subject.place(), feeds=question.only([0], subject.batched).feeds)
        found = _search(lambda: nodes.mixing_difference(place, question.feeds, subject.batched, ROUNDING))
    return Row(name, "fail", words, figures, found)


def _within(name: str, words: str, figures: Mapping[str, Any]) -> Row:
    """Pass, unless so much is allowed that it means nothing."""
    if figures["tolerance"] <= MEANINGLESS:
        return Row(name, "pass", words, figures)
    return Row(name, "undecided", f"{words}: the last digits of the input decide this gradient", figures)


def _with_neighbour(subject: Subject) -> Question:
    """One sample and, behind it, the same with its float numbers in another order."""
    rng = np.random.default_rng(subject.seed)

    def neighbour(array: Array) -> Array:
        return rng.permutation(array.reshape(-1)).reshape(array.shape) if array.dtype.kind == "f" else array

    feeds = {
        n: np.concatenate([a, neighbour(a)]) if n in subject.batched else a for n, a in subject.question.feeds.items()
    }
    target = subject.question.target
    return Question(
        feeds, target[0] if isinstance(target, np.ndarray) and target.ndim == 1 else target, subject.question.how
    )


def own_outputs(subject: Subject) -> Row:
    """The rewritten graph returns what the file as it is returns."""
    name = "outputs"
    explainer = subject.probe.explainer
    try:
        plain = Session(
            subject.model.source.to_ir(),
            explainer.providers,
            threads=explainer.threads,
            custom_ops=explainer.custom_ops,
        )
        expected = plain.run(dict(subject.question.feeds), None)
    except (OnnxplainError, MemoryError) as e:
        return Row(name, "undecided", f"the file cannot be run as it is: {e}")
    worst, where, allowed = 0.0, "", 0.0
    for output, y in expected.items():
        found = subject.probe.result.outputs.get(output)
        if found is None or not isinstance(y, np.ndarray):
            continue
        tolerance = OUTPUTS.get(y.dtype.name, 1e-2 if y.dtype.kind == "f" else 0.0)
        gap = nodes.relative_gap(0.0)(y, found)
        if gap - tolerance > worst - allowed or not where:
            worst, where, allowed = gap, output, tolerance
    words = f"'{where}' differs from the plain model's by {_short(worst)} of the largest number (allowed: {_short(allowed)})"
    figures = {"difference": worst, "tolerance": allowed}
    if worst <= allowed:
        return Row(name, "pass", words, figures)
    culprits = _search(lambda: nodes.output_difference(subject.place(), allowed))
    return Row(name, "fail", words, figures, culprits)


# ----- provider against provider --------------------------------------------------------------------


def providers(subject: Subject) -> list[Row]:
    """One row per other provider at hand, and one for the reference evaluator."""
    own = resolve(subject.probe.explainer.providers)
    used = {p if isinstance(p, str) else p[0] for p in own}
    names = [] if used == {REFERENCE} else [REFERENCE]
    available = [p for p in import_runtime().get_available_providers() if p not in _NOT_COMPARED]
    return [_provider(subject, p) for p in [*(p for p in available if p not in used), *names]]


def _provider(subject: Subject, provider: str) -> Row:
    short = {full: s for s, full in SHORT.items()}.get(provider, provider)
    name = f"provider {short}"
    start = time.monotonic()
    try:
        with time_limit(subject.seconds):
            chosen: Sequence[ProviderSpec] = [provider]
            other = Probe(subject.model, subject.alone.question, chosen)
            found = other.start()
    except OutOfTimeError as e:
        return Row(name, "undecided", f"{e} (seconds={subject.seconds:g})")
    except (OnnxplainError, MemoryError) as e:
        kind = "cannot run this model" if isinstance(e, SessionError) else "cannot be used"
        return Row(name, "undecided", f"it {kind}: {e}")
    first = subject.alone.result
    gradient = max(_gap(first.attributions[n], a) for n, a in found.attributions.items())
    size = max(abs(float(first.score[0])), float(np.max(np.abs(first.outputs[first.output][:1]), initial=0.0)), 1e-30)
    score = abs(float(found.score[0] - first.score[0])) / size
    allowed = subject.allowed(gradient, ROUNDING if provider in (REFERENCE, SHORT["cpu"]) else SHORTER)
    words = f"gradients differ by {_short(gradient)} of their length, scores by {_short(score)} (allowed: {_short(allowed)})"
    figures = {"gradient": gradient, "score": score, "tolerance": allowed, "seconds": time.monotonic() - start}
    if gradient <= allowed and score <= allowed:
        return _within(name, words, figures)
    found_nodes = _search(lambda: nodes.provider_difference(subject.place(), [provider], allowed))
    if not found_nodes:
        words += "; no node differs on its own: a fusion, or rounding that a kink magnifies"
    return Row(name, "fail", words, figures, found_nodes)
