"""Every method keeps the axioms that it declares.

A method names its axioms in its class, and those of configurations that differ (`variants`); each name has one
check here, on nets whose answers are known. A name without a check fails, so that nothing is claimed that is
not tested; and each cell of the literature's matrix of methods and axioms has to be declared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from tiny_models import example_one, example_two, fullgrad_net, model, node, perceptron

import onnxplain as ox
from onnxplain.engine.errors import OptionError

Array = np.ndarray[Any, Any]
METHODS = {entry["name"]: entry for entry in ox.methods()}

#: Random masks, thousands of them: what these declare holds for the same draws, however many.
FEWER = {name: METHODS[name]["quick"] for name in ("rise", "lime")}

#: float32 through a few layers; path integrals have their own tolerance on top.
ROUNDING = 1e-5


@dataclass(frozen=True)
class Subject:
    """A method in one configuration."""

    method: str
    options: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        return "-".join([self.method, *(f"{k}={v}" for k, v in self.options)])

    @property
    def axioms(self) -> frozenset[str]:
        """What it declares."""
        entry = METHODS[self.method]
        if not self.options:
            return frozenset(entry["axioms"])
        return frozenset(next((v["axioms"] for v in entry["variants"] if v["options"] == dict(self.options)), ()))

    def explain(self, proto: onnx.ModelProto, x: Any, **more: Any) -> ox.Explanation:
        options = {**FEWER.get(self.method, {}), **dict(self.options), **more}
        return ox.explain(proto, np.asarray(x, np.float32), method=self.method, threads=1, **options)

    def attribution(self, proto: onnx.ModelProto, x: Any, **more: Any) -> Array:
        return self.explain(proto, x, **more).attributions["x"].astype(np.float64)

    def takes(self, proto: onnx.ModelProto) -> bool:
        try:
            ox.compile(proto, method=self.method, threads=1, **dict(self.options))
        except OptionError:
            return False
        return True


def subject(name: str, **options: Any) -> Subject:
    return Subject(name, tuple(options.items()))


SUBJECTS = [subject(name) for name in METHODS]
SUBJECTS += [subject(name, **v["options"]) for name, entry in METHODS.items() for v in entry["variants"]]


def tolerance(e: ox.Explanation) -> float:
    """What the method itself promises, for those whose sums are approximate."""
    return max(ROUNDING, e.residual.tolerance if e.residual is not None else 0.0)


def total(arrays: dict[str, Array]) -> Array:
    """Per sample, the sum over everything that was attributed to."""
    return np.sum([a.reshape(len(a), -1).sum(axis=1, dtype=np.float64) for a in arrays.values()], axis=0)


def magnitude(arrays: dict[str, Array]) -> Array:
    return total({n: np.abs(a) for n, a in arrays.items()})


def accepted(s: Subject, *activations: str, **sizes: Any) -> list[onnx.ModelProto]:
    """The two-layer nets that the method takes: some are defined for ReLU alone, and that one they have to take."""
    nets = [perceptron("Relu", **sizes)]
    return nets + [net for a in activations if s.takes(net := perceptron(a, **sizes))]


X = np.random.default_rng(1).normal(size=(5, 4))


def dummy(s: Subject) -> None:
    """A feature that no weight reads gets nothing. Wide, so that a share of 2 % is some units."""
    for proto in accepted(s, "Tanh", hidden=96):
        found = s.attribution(proto, X)
        assert not found[:, -1].any()
        assert np.abs(found[:, :-1]).max() > 1e-3, "and the others get something, or this shows nothing"


def completeness(s: Subject) -> None:
    """Attributions sum to f(x) - f(baseline)."""
    proto, x = fullgrad_net()
    rows = [(perceptron(activation), X) for activation in ("Relu", "Tanh")]
    for net, points in rows if s.takes(rows[0][0]) else [(proto, np.concatenate([x, -x]))]:
        e = s.explain(net, points)
        assert e.baseline_score is not None
        change = e.score - e.baseline_score
        scale = np.maximum(magnitude(e.attributions), np.abs(change))
        assert (np.abs(total(e.attributions) - change) <= tolerance(e) * scale).all()
        assert np.abs(change).max() > 0.1


def completeness_without_biases(s: Subject) -> None:
    """On ReLU nets without biases attributions sum to f(x)."""
    e = s.explain(perceptron(bias=0.0), X)
    assert (np.abs(total(e.attributions) - e.score) <= tolerance(e) * magnitude(e.attributions)).all()
    assert np.abs(e.score).max() > 0.1


def conservation(s: Subject) -> None:
    """Without biases what arrives is what began; wide, so that no unit is without a contribution of either sign."""
    x = np.random.default_rng(2).normal(size=(5, 40))
    e = s.explain(perceptron(bias=0.0, features=40, hidden=40, dummy=False), x)
    # Up to the stabiliser: 1e-4 in a sum of 1 at the largest.
    assert (np.abs(total(e.attributions) - e.score) <= 1e-3 * magnitude(e.attributions)).all()
    assert np.abs(e.score).max() > 0.1


def full_completeness(s: Subject) -> None:
    """Attributions and bias terms sum to f(x), on piecewise linear and on smooth nets."""
    for activation in ("Relu", "Tanh", "Sigmoid", "Elu"):
        e = s.explain(perceptron(activation), X)
        assert e.terms is not None
        whole = total(e.attributions) + e.terms.biases.sum(axis=1)
        assert (np.abs(whole - e.score) <= ROUNDING * e.terms.magnitude).all()


def implementation_invariance(s: Subject) -> None:
    """Two forms of relu(relu(x1) - 1 - relu(x2)) get the same attributions, on both sides of the kinks."""
    x = np.array([[3.0, 1.0], [4.0, 0.5], [2.5, -1.0], [0.5, 1.0], [-2.0, 3.0], [1.5, 3.0]])
    one, two = (s.explain(make(), x) for make in (example_one, example_two))
    found = [e.attributions["x"].astype(np.float64) for e in (one, two)]
    scale = np.abs(found[0]).sum(axis=1, keepdims=True) + 1e-6
    assert (np.abs(found[0] - found[1]) <= 2 * max(tolerance(one), tolerance(two)) * scale).all()
    assert np.abs(found[0]).max() > 0.1


def _combined(s: Subject, proto: onnx.ModelProto, of: Callable[[ox.Explanation], Array]) -> None:
    parts = [of(s.explain(proto, X, target=t)) for t in (0, 1)]
    e = s.explain(proto, X, target=ox.Target.weights([2.0, -3.0, 0.0]))
    scale = 2 * np.abs(parts[0]) + 3 * np.abs(parts[1])
    gap = np.abs(of(e) - (2 * parts[0] - 3 * parts[1]))
    assert (gap <= tolerance(e) * scale.sum(axis=1, keepdims=True)).all()


def linearity(s: Subject) -> None:
    """In the output head: explaining 2 y0 - 3 y1 gives 2 times the one minus 3 times the other."""
    for proto in accepted(s, "Tanh"):
        _combined(s, proto, lambda e: e.attributions["x"].astype(np.float64))


def _pair(e: ox.Explanation) -> Array:
    """The full gradient's input terms and bias terms, side by side."""
    assert e.terms is not None
    return np.concatenate([e.attributions["x"].reshape(len(e.score), -1), e.terms.biases], axis=1)


def full_linearity(s: Subject) -> None:
    """In the output head, of input terms and bias terms alike."""
    for proto in accepted(s, "Tanh"):
        _combined(s, proto, _pair)


def rising() -> onnx.ModelProto:
    """1 - relu(1 - x): from 0 at 0 to 1 at 1, and flat from there."""
    return model(
        [node("Sub", "one x", "s"), node("Relu", "s", "r"), node("Sub", "one r", "y")],
        {"x": ["N", 1]},
        {"y": ["N", 1]},
        {"one": np.array([1.0])},
    )


def sensitivity(s: Subject) -> None:
    """The score rises by 1 between the baseline 0 and x = 2, where it is flat: x is to be named."""
    assert np.abs(s.attribution(rising(), [[2.0]])).min() > 0.1


def sensitivity_unless_stationary(s: Subject) -> None:
    """The same where there is a slope to start on."""
    assert np.abs(s.attribution(rising(), [[0.5]])).min() > 1e-3


def full_sensitivity(s: Subject) -> None:
    """Input term and bias terms as a pair: they differ where x and x' differ and the scores do."""
    pairs = _pair(s.explain(rising(), [[2.0], [0.0]]))
    assert np.abs(pairs[0] - pairs[1]).max() > 0.1


def sensitivity_one(s: Subject) -> None:
    """What a feature gets is exactly what the score loses when it is set to 0, by a runtime of its own."""
    proto = perceptron("Tanh")
    x = X.astype(np.float32)
    found = s.attribution(proto, x, target=1)

    def f(points: Array) -> Array:
        return np.asarray(ReferenceEvaluator(proto).run(None, {"x": points})[0])[:, 1]

    for i in range(x.shape[1]):
        without = x.copy()
        without[:, i] = 0
        np.testing.assert_allclose(found[:, i], f(x) - f(without), atol=ROUNDING)


def symmetry(s: Subject) -> None:
    """Features that the function treats alike and that have the same value get the same."""
    weights = np.array([[1.0, -0.5, 2.0], [1.0, -0.5, 2.0], [0.3, 0.7, -1.0]])
    for activation in ("Relu", "Tanh"):
        proto = model(
            [node("Gemm", "x w b", "z"), node(activation, "z", "a"), node("MatMul", "a v", "y")],
            {"x": ["N", 3]},
            {"y": ["N", 1]},
            {"w": weights, "b": np.array([0.1, 0.5, -0.3]), "v": np.array([[1.0], [2.0], [-0.7]])},
        )
        x = np.array([[0.5, 0.5, 1.0], [-1.0, -1.0, 0.2], [2.0, 2.0, -2.0]])
        found = s.attribution(proto, x)
        np.testing.assert_allclose(found[:, 0], found[:, 1], rtol=ROUNDING)
        assert np.abs(found[:, 0]).max() > 0.1


def weak_dependence(s: Subject) -> None:
    """Inside one linear region the attribution does not move with the input."""
    proto, x = fullgrad_net()
    first, second = (s.attribution(proto, x * (1 + step), target=1) for step in (0.0, 1e-4))
    np.testing.assert_allclose(second, first, rtol=ROUNDING, atol=ROUNDING)
    assert np.abs(first).max() > 0.1


def full_weak_dependence(s: Subject) -> None:
    """The same of the gradient and the bias terms, which together are the full gradient."""
    proto, x = fullgrad_net()
    found = []
    for points in (x, x * np.float32(1 + 1e-4)):
        e = s.explain(proto, points, target=1)
        assert e.terms is not None
        found.append(np.concatenate([(e.attributions["x"] / points).ravel(), e.terms.biases.ravel()]))
    np.testing.assert_allclose(found[1], found[0], rtol=ROUNDING, atol=ROUNDING)
    assert np.abs(found[0]).max() > 0.1


def completeness_along_the_way(s: Subject) -> None:
    """Attributions sum to the change of the score between the input and where the same journey ends."""
    for activation in ("Relu", "Tanh"):
        proto = perceptron(activation)
        e = s.explain(proto, X, target=1)
        end = X + s.attribution(proto, X, target=1, returns="displacement")
        change = subject("gradient").explain(proto, end, target=1).score - e.score
        assert (np.abs(total(e.attributions) - change) <= tolerance(e) * magnitude(e.attributions)).all()
        assert np.abs(change).max() > 0.1


AXIOMS: dict[str, Callable[[Subject], None]] = {
    check.__name__: check
    for check in (
        *(completeness, completeness_along_the_way, completeness_without_biases, conservation, dummy),
        *(full_completeness, full_linearity, full_sensitivity, full_weak_dependence, implementation_invariance),
        *(linearity, sensitivity, sensitivity_one, sensitivity_unless_stationary, symmetry, weak_dependence),
    )
}


@pytest.mark.parametrize(("s", "axiom"), [(s, a) for s in SUBJECTS for a in sorted(s.axioms)], ids=str)
def test_declared_axiom_holds(s: Subject, axiom: str) -> None:
    assert axiom in AXIOMS, f"'{axiom}' has no check; write one here, or take it out of {s.method}'s axioms"
    AXIOMS[axiom](s)


# ----- the literature's matrix ------------------------------------------------------------------------

FULL = "full_completeness full_linearity full_weak_dependence full_sensitivity dummy"
PATH = "completeness dummy implementation_invariance linearity sensitivity"
DIFFERENCES = "completeness dummy linearity sensitivity"

#: Row of the matrix: what holds (exactly or numerically), and what does not.
MATRIX: list[tuple[Subject, str, str]] = [
    (subject("gradient"), "dummy implementation_invariance linearity weak_dependence", "completeness sensitivity"),
    (
        subject("input_x_gradient"),
        "completeness_without_biases dummy implementation_invariance linearity",
        "completeness weak_dependence sensitivity",
    ),
    (subject("fullgrad"), FULL, "completeness implementation_invariance"),
    (subject("integrated_gradients"), PATH, "weak_dependence"),
    (subject("expected_gradients"), PATH, "weak_dependence"),
    (subject("deeplift"), DIFFERENCES, "implementation_invariance weak_dependence"),
    (subject("deeplift", rule="reveal_cancel"), DIFFERENCES, "implementation_invariance weak_dependence"),
    (
        subject("lrp"),
        "conservation dummy linearity",
        "completeness implementation_invariance weak_dependence sensitivity",
    ),
    (subject("lrp", mode="modified_gradient"), "dummy linearity", "implementation_invariance weak_dependence"),
    *(
        (
            subject("lrp", composite=preset),
            "conservation dummy",
            "implementation_invariance linearity weak_dependence sensitivity",
        )
        for preset in ("excitation_backprop", "epsilon_plus", "epsilon_alpha2_beta1")
    ),
    (
        subject("occlusion", window=1, stride=1, per_channel=True),
        "sensitivity_one dummy implementation_invariance linearity sensitivity",
        "completeness weak_dependence",
    ),
    (subject("shapley_sampling", permutations=1), PATH, "weak_dependence"),
    (
        subject("smoothgrad"),
        "dummy implementation_invariance linearity",
        "completeness weak_dependence sensitivity",
    ),
    *(
        (
            subject(name),
            "dummy weak_dependence",
            "completeness implementation_invariance linearity sensitivity",
        )
        for name in ("guided_backprop", "deconvnet")
    ),
    (
        subject("rectgrad"),
        "dummy",
        "completeness implementation_invariance linearity weak_dependence sensitivity",
    ),
    (
        subject("idgi"),
        "completeness dummy implementation_invariance sensitivity",
        "linearity weak_dependence",
    ),
    (
        subject("nonlinear_saliency", returns="path_attribution"),
        "completeness_along_the_way dummy implementation_invariance sensitivity_unless_stationary",
        "linearity weak_dependence",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("s", "holds", "fails"), MATRIX, ids=[str(row[0]) for row in MATRIX])
def test_the_matrix_is_declared(s: Subject, holds: str, fails: str) -> None:
    assert set(holds.split()) <= s.axioms
    assert not set(fails.split()) & s.axioms


#: What does not hold in general, and which the small nets here do not show: z+ shares out whatever it is handed, so
#: that it is linear in what begins; noise reaches the same kinks from two neighbouring points; and both forms of the
#: one function are ReLU nets of one gradient (DeepLIFT's rescale rule tells them apart).
NOT_SHOWN = {("lrp", "linearity"), ("smoothgrad", "weak_dependence"), ("rectgrad", "linearity")}


def shown(s: Subject, axiom: str) -> bool:
    return (s.method, axiom) not in NOT_SHOWN and (axiom != "implementation_invariance" or s == subject("deeplift"))


BROKEN = [(s, axiom) for s, _, fails in MATRIX for axiom in fails.split() if shown(s, axiom)]
BROKEN += [
    (subject("gradient"), "full_completeness"),
    (subject("gradient"), "completeness_without_biases"),
    (subject("absolute_gradient"), "linearity"),
    (subject("occlusion"), "conservation"),
    (subject("nonlinear_saliency"), "completeness_along_the_way"),
    (subject("nonlinear_saliency"), "sensitivity"),
    (subject("gradient"), "sensitivity_one"),
    (subject("gradient"), "full_sensitivity"),
    (subject("gradient"), "full_linearity"),
    (subject("vargrad"), "symmetry"),
    (subject("vargrad"), "sensitivity_unless_stationary"),
    (subject("rectgrad", tau=0.0), "linearity"),
    (subject("rise", draws=50), "dummy"),
    (subject("lrp", composite="epsilon_plus"), "full_weak_dependence"),
]


@pytest.mark.parametrize(("s", "axiom"), BROKEN, ids=str)
def test_checks_can_fail(s: Subject, axiom: str) -> None:
    """A check that what must not hold would pass could not tell anything."""
    assert axiom not in s.axioms
    with pytest.raises(AssertionError):
        AXIOMS[axiom](s)


@pytest.mark.parametrize("axiom", AXIOMS)
def test_each_check_is_seen_to_fail(axiom: str) -> None:
    assert any(axiom == broken for _, broken in BROKEN)
