"""Integrated Gradients against the literature's examples and against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_models import example_one, example_two, model, node, simple_model

import onnxplain as ox
from onnxplain.engine.errors import OptionError
from onnxplain.engine.quadrature import RULES, quadrature

X = np.array([[3.0, 1.0]], dtype=np.float32)


@pytest.mark.parametrize("make", [example_one, example_two])
def test_two_implementations_of_one_function(make: object) -> None:
    """IG is (1.5, -0.5) for both forms; 100 right-hand steps put a node on the kink and are exact."""
    proto = make()  # type: ignore[operator]
    e = ox.explain(proto, X, method="integrated_gradients", steps=100, quadrature="riemann_right", tolerance=None)
    np.testing.assert_allclose(e.attributions["x"], [[1.5, -0.5]], atol=1e-6)
    assert e.residual is not None and e.residual.absolute == pytest.approx(0.0, abs=1e-6)
    e = ox.explain(proto, np.array([[-10.0, -5.0]], np.float32), method="integrated_gradients")
    np.testing.assert_array_equal(e.attributions["x"], 0.0)


@pytest.mark.parametrize("make", [example_one, example_two])
def test_gradient_and_product(make: object) -> None:
    proto = make()  # type: ignore[operator]
    np.testing.assert_array_equal(ox.explain(proto, X, method="gradient").attributions["x"], [[1.0, -1.0]])
    np.testing.assert_array_equal(ox.explain(proto, X, method="input_x_gradient").attributions["x"], [[3.0, -1.0]])
    e = ox.explain(proto, X, method="fullgrad")
    assert e.terms is not None
    np.testing.assert_allclose(e.terms.biases.sum(axis=1), [-1.0])
    np.testing.assert_allclose(e.terms.total, [1.0])


def test_trapezoid_at_a_kink() -> None:
    """50 intervals with the derivative at the kink taken as zero give (1.47, -0.49)."""
    e = ox.explain(example_one(), X, method="integrated_gradients", steps=50, quadrature="trapezoid", tolerance=None)
    np.testing.assert_allclose(e.attributions["x"], [[1.47, -0.49]], atol=1e-6)


def test_given_baseline() -> None:
    x = np.array([[2.0, 0.0], [3.0, 0.0]], dtype=np.float32)
    e = ox.explain(example_one(), x, method="integrated_gradients", baseline=np.array([1.0, 0.0]))
    np.testing.assert_allclose(e.attributions["x"], [[1.0, 0.0], [2.0, 0.0]], atol=1e-5)


@pytest.mark.parametrize(("target", "expected"), [(0, (1.075, -3.225)), (1, (0.55, -1.65))])
def test_two_layer_net(target: int, expected: tuple[float, float]) -> None:
    e = ox.explain(
        simple_model(), np.array([[1.0, 3.0]], np.float32), method="integrated_gradients", target=target,
        tolerance=1e-3, max_steps=20000, quadrature="riemann_middle",
    )  # fmt: skip
    np.testing.assert_allclose(e.attributions["x"][0], expected, atol=2e-2)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("steps", [1, 2, 7, 50])
def test_weights_sum_to_one(rule: str, steps: int) -> None:
    points, weights = quadrature(rule, steps)
    assert weights.sum() == pytest.approx(1.0, abs=1e-12)
    assert points.min() >= 0.0 and points.max() <= 1.0
    assert len(points) == steps + (rule == "trapezoid")


@pytest.mark.parametrize(
    ("rule", "degree", "steps"),
    [
        ("gauss_legendre", 9, 5),
        ("trapezoid", 1, 3),
        ("riemann_middle", 1, 3),
        ("riemann_left", 0, 3),
        ("riemann_right", 0, 3),
    ],
)
def test_exact_degree(rule: str, degree: int, steps: int) -> None:
    """Each rule integrates polynomials exactly up to its degree, and not beyond."""
    points, weights = quadrature(rule, steps)
    for k in range(degree + 1):
        assert np.dot(weights, points**k) == pytest.approx(1.0 / (k + 1), abs=1e-12)
    assert abs(np.dot(weights, points ** (degree + 1)) - 1.0 / (degree + 2)) > 1e-6


def quadratic() -> object:
    """f = sum x^2 (w . x), a cubic."""
    return model(
        [node("Mul", "x x", "s"), node("Mul", "s x", "c"), node("MatMul", "c w", "y")],
        {"x": ["N", 3]},
        {"y": ["N", 1]},
        {"w": np.array([[1.0], [-2.0], [0.5]])},
    )


def test_cubic_in_closed_form() -> None:
    """f = sum w x^3: IG_i = w_i (x_i - b_i) (x_i^2 + x_i b_i + b_i^2), exact with two Gauss points."""
    rng = np.random.default_rng(0)
    x, b = rng.normal(size=(4, 3)).astype(np.float32), rng.normal(size=(4, 3)).astype(np.float32)
    e = ox.explain(quadratic(), x, method="integrated_gradients", steps=2, baseline=b, tolerance=None)
    expected = np.array([1.0, -2.0, 0.5]) * (x**3 - b**3)
    np.testing.assert_allclose(e.attributions["x"], expected, rtol=1e-4, atol=1e-5)


def test_steps_are_doubled_until_the_delta_is_met() -> None:
    # A kink at alpha = 1/3, which halving never meets exactly.
    x = np.array([[3.0, 0.0], [-4.0, 0.0]], dtype=np.float32)
    coarse = ox.explain(
        example_two(), x, method="integrated_gradients", steps=4, quadrature="riemann_left", tolerance=None
    )
    fine = ox.explain(
        example_two(),
        x,
        method="integrated_gradients",
        steps=4,
        quadrature="riemann_left",
        tolerance=5e-3,
        max_steps=5000,
    )
    assert coarse.residual is not None and fine.residual is not None
    assert coarse.residual.relative.max() > 5e-3 >= fine.residual.relative.max()
    assert any("integrated with" in n for n in fine.notes)
    stopped = ox.explain(
        example_two(),
        x,
        method="integrated_gradients",
        steps=4,
        quadrature="riemann_left",
        tolerance=1e-9,
        max_steps=16,
    )
    assert stopped.residual is not None and not stopped.residual.ok


def test_several_baselines_are_averaged() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 3)).astype(np.float32)
    ones, zero = np.ones(3, np.float32), np.zeros(3, np.float32)
    both = ox.explain(quadratic(), x, method="integrated_gradients", baseline=[zero, ones])
    alone = [
        ox.explain(quadratic(), x, method="integrated_gradients", baseline=b).attributions["x"] for b in (zero, ones)
    ]
    np.testing.assert_allclose(both.attributions["x"], np.mean(alone, axis=0), atol=1e-5)
    assert both.residual is not None and both.residual.ok


@pytest.mark.parametrize("baseline", ["zero", "mean", "minimum", "maximum", "blur", "noise", "noise:3", 0.5])
def test_named_baselines_are_complete(baseline: object) -> None:
    from tiny_models import fullgrad_net

    proto, x = fullgrad_net()
    e = ox.explain(proto, np.concatenate([x, x[..., ::-1]]), method="integrated_gradients", baseline=baseline, target=1)
    assert e.residual is not None and e.baseline_score is not None
    total = e.attributions["x"].reshape(2, -1).sum(axis=1)
    np.testing.assert_allclose(total + e.residual.absolute, e.score - e.baseline_score, atol=1e-4)
    assert e.residual.relative.max() < 0.05


def test_noise_does_not_depend_on_chunks() -> None:
    from tiny_models import fullgrad_net

    proto, x = fullgrad_net()
    batch = np.concatenate([x, -x, 2 * x]).copy()
    a = ox.explain(proto, batch, method="integrated_gradients", baseline="noise:2", seed=4, target=0)
    b = ox.explain(proto, batch, method="integrated_gradients", baseline="noise:2", seed=4, target=0, memory_mib=0.01)
    np.testing.assert_allclose(a.attributions["x"], b.attributions["x"], atol=1e-5)
    c = ox.explain(proto, batch, method="integrated_gradients", baseline="noise:2", seed=5, target=0)
    assert not np.allclose(a.attributions["x"], c.attributions["x"], atol=1e-3)


@pytest.mark.parametrize(
    "options",
    [{"baseline": "grey"}, {"baseline": np.zeros(7)}, {"steps": 0}, {"quadrature": "simpson"}, {"tolerance": -1.0}],
)
def test_bad_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(OptionError):
        ox.explain(example_one(), X, method="integrated_gradients", **options)  # type: ignore[arg-type]


# ----- rows of symbols ------------------------------------------------------------------------------------


def motif_net() -> object:
    """A strand of DNA, one-hot [N, 4, length]: how strongly GATA is found anywhere, against TTTT."""
    letters = "ACGT"
    filters = np.zeros((2, 4, 4))
    for row, motif in enumerate(("GATA", "TTTT")):
        for place, letter in enumerate(motif):
            filters[row, letters.index(letter), place] = 1.0
    return model(
        [
            node("Conv", "x w b", "z"),
            node("Relu", "z", "a"),
            node("ReduceMax", "a axis", "found", keepdims=0),
            node("MatMul", "found v", "y"),
        ],
        {"x": ["N", 4, "length"]},
        {"y": ["N", 2]},
        {"w": filters, "b": np.full(2, -2.5), "axis": np.array([2]), "v": np.array([[2.0, -1.0], [-1.0, 2.0]])},
    )


def one_hot(strand: str) -> np.ndarray:
    return np.array([[letter == s for s in strand] for letter in "ACGT"], np.float32)[None]


@pytest.mark.parametrize(("strand", "target", "start"), [("CCGCGATACCC", 0, 4), ("CTTTTCCAGCC", 1, 1)])
def test_one_hot_sequences(strand: str, target: int, start: int) -> None:
    """Only the letters that are there get anything, all four of the motif the same, and they sum to the rise of 3."""
    e = ox.explain(motif_net(), one_hot(strand), method="integrated_gradients", target=target, tolerance=1e-3)
    attribution = e.attributions["x"][0]
    assert not attribution[one_hot(strand)[0] == 0].any()
    per_place = attribution.sum(axis=0)
    wanted = np.zeros(len(strand))
    wanted[start : start + 4] = 3.0 / 4
    np.testing.assert_allclose(per_place, wanted, atol=5e-3)
    assert e.saliency is not None and e.saliency.shape == (1, len(strand))
    np.testing.assert_allclose(e.saliency[0], per_place, atol=1e-6)


def test_a_uniform_letter_as_baseline() -> None:
    """Each letter a quarter: zero would be no strand at all. Letters that are not there count as well."""
    e = ox.explain(motif_net(), one_hot("CCGCGATACCC"), method="integrated_gradients", target=0, baseline=0.25)
    assert e.residual is not None and e.residual.ok
    np.testing.assert_allclose(e.attributions["x"].sum(), e.score - e.baseline_score, atol=0.05)
    assert np.abs(e.attributions["x"][0].sum(axis=0)[4:8]).min() > 0.5


@pytest.mark.parametrize("head", ["logit", "probability", "log_probability", "margin"])
def test_heads(head: str) -> None:
    """Whatever is explained, the attributions sum to its own change, which is computed here."""
    rng = np.random.default_rng(6)
    w, x = rng.normal(size=(4, 3)), rng.normal(size=(2, 4)).astype(np.float32)
    proto = model(
        [node("MatMul", "x w", "z"), node("Softmax", "z", "p", axis=1)], {"x": ["N", 4]}, {"p": ["N", 3]}, {"w": w}
    )

    def scalar(rows: np.ndarray) -> np.ndarray:
        z = rows @ w
        log_p = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
        others = np.maximum(z[:, 0], z[:, 2])
        return {"logit": z[:, 1], "probability": np.exp(log_p[:, 1]), "log_probability": log_p[:, 1],
                "margin": z[:, 1] - others}[head]  # fmt: skip

    e = ox.explain(proto, x, method="integrated_gradients", target=1, head=head, tolerance=1e-3, max_steps=3200)
    change = scalar(x.astype(np.float64)) - scalar(np.zeros((1, 4)))
    np.testing.assert_allclose(e.score, scalar(x.astype(np.float64)), rtol=1e-4)
    np.testing.assert_allclose(e.attributions["x"].sum(axis=1), change, atol=5e-3)
