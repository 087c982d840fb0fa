"""Every method keeps the axioms that it declares, and treats a batch as its samples one by one.

A method names its axioms in its class; each name has one check here, on nets whose answers are known. A
name without a check fails, so that nothing is claimed that is not tested.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from tiny_models import example_one, example_two, fullgrad_net, model, node
from transformers import vision_transformer

import onnxplain as ox
from onnxplain.engine.errors import OptionError

Array = np.ndarray[Any, Any]
METHODS = {entry["name"]: frozenset(entry["axioms"]) for entry in ox.methods()}

#: float32 through a few layers; path integrals have their own tolerance on top.
ROUNDING = 1e-5


def explain(method: str, proto: onnx.ModelProto, x: Any, **options: Any) -> ox.Explanation:
    return ox.explain(proto, np.asarray(x, np.float32), method=method, threads=1, **options)


def attribution(method: str, proto: onnx.ModelProto, x: Any, **options: Any) -> Array:
    return explain(method, proto, x, **options).attributions["x"].astype(np.float64)


def tolerance(e: ox.Explanation) -> float:
    """What the method itself promises, for those whose sums are approximate."""
    return max(ROUNDING, e.residual.tolerance if e.residual is not None else 0.0)


def mlp(activation: str = "Relu", features: int = 4) -> onnx.ModelProto:
    """Two layers with biases; the last feature has no weight at all."""
    rng = np.random.default_rng(5)
    first = rng.normal(size=(features, 6))
    first[-1] = 0
    return model(
        [node("Gemm", "x w b", "z"), node(activation, "z", "a"), node("Gemm", "a v c", "y")],
        {"x": ["N", features]},
        {"y": ["N", 3]},
        {"w": first, "b": rng.normal(size=6), "v": rng.normal(size=(6, 3)), "c": rng.normal(size=3)},
    )


def accepted(method: str, *activations: str) -> list[onnx.ModelProto]:
    """The two-layer nets that the method takes: some are defined for ReLU alone, and that one they have to take."""
    nets = [mlp("Relu")]
    for activation in activations:
        try:
            ox.compile(mlp(activation), method=method)
        except OptionError:
            continue
        nets.append(mlp(activation))
    return nets


X = np.random.default_rng(1).normal(size=(5, 4))


def dummy(method: str) -> None:
    """A feature that no weight reads gets nothing."""
    for proto in accepted(method, "Tanh"):
        found = attribution(method, proto, X)
        assert not found[:, -1].any()
        assert np.abs(found[:, :-1]).max() > 1e-3, "and the others get something, or this shows nothing"


def completeness(method: str) -> None:
    """Attributions sum to f(x) - f(baseline)."""
    for activation in ("Relu", "Tanh"):
        e = explain(method, mlp(activation), X)
        assert e.baseline_score is not None
        parts = e.attributions["x"].astype(np.float64)
        scale = np.maximum(np.abs(parts).sum(axis=1), np.abs(e.score - e.baseline_score))
        gap = np.abs(parts.sum(axis=1) - (e.score - e.baseline_score))
        assert (gap <= tolerance(e) * scale).all()
        assert np.abs(e.score - e.baseline_score).max() > 0.1


def full_completeness(method: str) -> None:
    """Attributions and bias terms sum to f(x), on piecewise linear and on smooth nets."""
    for activation in ("Relu", "Tanh", "Sigmoid", "Elu"):
        e = explain(method, mlp(activation), X)
        assert e.terms is not None
        total = e.attributions["x"].astype(np.float64).sum(axis=1) + e.terms.biases.sum(axis=1)
        assert (np.abs(total - e.score) <= ROUNDING * e.terms.magnitude).all()


def implementation_invariance(method: str) -> None:
    """Two forms of relu(relu(x1) - 1 - relu(x2)) get the same attributions, on both sides of the kinks."""
    x = np.array([[3.0, 1.0], [4.0, 0.5], [2.5, -1.0], [0.5, 1.0], [-2.0, 3.0], [1.5, 3.0]])
    one, two = (explain(method, make(), x) for make in (example_one, example_two))
    found = [e.attributions["x"].astype(np.float64) for e in (one, two)]
    scale = np.abs(found[0]).sum(axis=1, keepdims=True) + 1e-6
    assert (np.abs(found[0] - found[1]) <= 2 * max(tolerance(one), tolerance(two)) * scale).all()
    assert np.abs(found[0]).max() > 0.1


def linearity(method: str) -> None:
    """In the output head: explaining 2 y0 - 3 y1 gives 2 times the one minus 3 times the other."""
    for proto in accepted(method, "Tanh"):
        parts = [attribution(method, proto, X, target=t) for t in (0, 1)]
        e = explain(method, proto, X, target=ox.Target.weights([2.0, -3.0, 0.0]))
        expected = 2 * parts[0] - 3 * parts[1]
        scale = 2 * np.abs(parts[0]) + 3 * np.abs(parts[1])
        gap = np.abs(e.attributions["x"] - expected)
        assert (gap <= tolerance(e) * scale.sum(axis=1, keepdims=True)).all()


def sensitivity(method: str) -> None:
    """1 - relu(1 - x) rises from 0 to 1 between the baseline 0 and x = 2, where it is flat: x is to be named."""
    proto = model(
        [node("Sub", "one x", "s"), node("Relu", "s", "r"), node("Sub", "one r", "y")],
        {"x": ["N", 1]},
        {"y": ["N", 1]},
        {"one": np.array([1.0])},
    )
    assert np.abs(attribution(method, proto, [[2.0]])).min() > 0.1


def symmetry(method: str) -> None:
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
        found = attribution(method, proto, x)
        np.testing.assert_allclose(found[:, 0], found[:, 1], rtol=ROUNDING)
        assert np.abs(found[:, 0]).max() > 0.1


def weak_dependence(method: str) -> None:
    """Inside one linear region the attribution does not move with the input."""
    proto, x = fullgrad_net()
    first, second = (attribution(method, proto, x * (1 + s), target=1) for s in (0.0, 1e-4))
    np.testing.assert_allclose(second, first, rtol=ROUNDING, atol=ROUNDING)
    assert np.abs(first).max() > 0.1


AXIOMS: dict[str, Callable[[str], None]] = {
    check.__name__: check
    for check in (
        *(dummy, completeness, full_completeness, implementation_invariance, linearity, sensitivity, symmetry),
        weak_dependence,
    )
}


@pytest.mark.parametrize(
    ("method", "axiom"), [(m, a) for m, declared in METHODS.items() for a in sorted(declared)], ids=str
)
def test_declared_axiom_holds(method: str, axiom: str) -> None:
    assert axiom in AXIOMS, f"'{axiom}' has no check; write one here, or take it out of {method}'s axioms"
    AXIOMS[axiom](method)


#: What must not hold: a check that these pass could not tell anything.
BROKEN = [
    ("gradient", "completeness"),
    ("gradient", "sensitivity"),
    ("gradient", "full_completeness"),
    ("absolute_gradient", "linearity"),
    ("input_x_gradient", "weak_dependence"),
    ("input_x_gradient", "sensitivity"),
    ("integrated_gradients", "weak_dependence"),
    ("lrp", "sensitivity"),
    ("lrp", "weak_dependence"),
]


@pytest.mark.parametrize(("method", "axiom"), BROKEN, ids=str)
def test_checks_can_fail(method: str, axiom: str) -> None:
    assert axiom not in METHODS[method]
    with pytest.raises(AssertionError):
        AXIOMS[axiom](method)


# ----- samples do not mix -----------------------------------------------------------------------------


def nets() -> dict[str, tuple[onnx.ModelProto, Array]]:
    proto, x = fullgrad_net()
    pictures = np.concatenate([x, -x, x * 0.5 + 0.3, x[:, :, ::-1]])
    return {
        "pictures": (proto, pictures),
        "rows": (mlp(), X[:4].astype(np.float32)),
        "patches": vision_transformer(blocks=1),
    }


def pairs() -> list[tuple[str, str]]:
    """Methods and nets; those that draw feature maps refuse rows, and those for attention take transformers alone."""
    found = []
    for method in METHODS:
        takes = []
        for net, (proto, _) in nets().items():
            if net == "patches" and "pictures" in takes:
                continue
            try:
                ox.compile(proto, method=method, threads=1)
            except OptionError:
                continue
            takes.append(net)
        assert {"pictures", "patches"} & set(takes), f"{method} has to take pictures, or patches of them"
        found += [(method, net) for net in takes]
    return found


def assert_same(found: ox.Explanation, wanted: ox.Explanation, rows: slice) -> None:
    arrays = [(array, wanted.attributions[name][rows]) for name, array in found.attributions.items()]
    if found.saliency is not None and wanted.saliency is not None:
        arrays.append((found.saliency, wanted.saliency[rows]))
    assert arrays
    for a, b in arrays:
        # 1e-4 of the largest: a rescaled map divides by differences of sums, which magnifies rounding.
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(b).max() + 1e-12)


@pytest.mark.parametrize(("method", "net"), pairs())
def test_a_batch_is_its_samples_one_by_one(method: str, net: str) -> None:
    """Methods that draw at random number their draws by the place in the batch: there, the first samples."""
    proto, x = nets()[net]
    explainer = ox.compile(proto, method=method, threads=1)
    whole = explainer(x, seed=1)
    assert_same(explainer(x[:2], seed=1), whole, slice(0, 2))
    other = explainer(x, seed=2)
    first = "x" if "x" in whole.attributions else next(iter(whole.attributions))
    if np.array_equal(other.attributions[first], whole.attributions[first]):
        for n in range(len(x)):
            assert_same(explainer(x[n : n + 1], seed=1), whole, slice(n, n + 1))


@pytest.mark.parametrize(("method", "net"), pairs())
def test_chunks_change_nothing(method: str, net: str) -> None:
    """A budget that lets one sample through at a time, against all at once."""
    proto, x = nets()[net]
    whole = ox.explain(proto, x, method=method, seed=1, threads=1)
    cut = ox.explain(proto, x, method=method, seed=1, threads=1, memory_mib=1e-4)
    assert_same(cut, whole, slice(None))


@pytest.mark.parametrize(("method", "net"), [pair for pair in pairs() if pair[1] != "rows"])
def test_the_same_seed_gives_the_same_bytes(method: str, net: str) -> None:
    proto, x = nets()[net]
    first, second = (ox.explain(proto, x, method=method, seed=5, threads=1) for _ in range(2))
    for name, array in first.attributions.items():
        assert array.tobytes() == second.attributions[name].tobytes()
    if first.saliency is not None:
        assert second.saliency is not None
        assert first.saliency.tobytes() == second.saliency.tobytes()
