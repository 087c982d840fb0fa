"""Methods against captum 0.9 on the same weights; where captum is not right, the test says why and shows it.

DeepLIFT and DeepSHAP stand in `test_deeplift_captum`, metrics in `test_against_captum`.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import onnx
import pytest
from tiny_models import model, node

torch = pytest.importorskip("torch", reason="needs the torch extra")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # captum's own imports are none of ours
    attr = pytest.importorskip("captum.attr", reason="needs captum beside the torch extra")
from captum.attr._utils import lrp_rules  # noqa: E402
from torch import nn  # noqa: E402
from torch_twins import twin  # noqa: E402

import onnxplain as ox  # noqa: E402

#: captum warns of the hooks that it sets, and of inputs that need no gradient yet.
pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore::UserWarning")]

Array = np.ndarray[Any, Any]

#: captum runs in float64 here, the graph in float32; of the largest attribution.
CLOSE = 1e-4
TARGET = 1


def convolutional(bias: bool = True) -> onnx.ModelProto:
    """Two convolutions with max pooling between them, two dense layers."""
    rng = np.random.default_rng(0)
    weights = {
        "k1": rng.normal(size=(4, 2, 3, 3)) / 2, "b1": bias * rng.normal(size=4),
        "k2": rng.normal(size=(3, 4, 3, 3)) / 3, "b2": bias * rng.normal(size=3),
        "w1": rng.normal(size=(48, 7)) / 3, "c1": bias * rng.normal(size=7),
        "w2": rng.normal(size=(7, 3)), "c2": bias * rng.normal(size=3),
    }  # fmt: skip
    nodes = [
        *(node("Conv", "x k1 b1", "z1", pads=[1, 1, 1, 1]), node("Relu", "z1", "a1")),
        node("MaxPool", "a1", "p1", kernel_shape=[2, 2], strides=[2, 2]),
        *(node("Conv", "p1 k2 b2", "z2", pads=[1, 1, 1, 1]), node("Relu", "z2", "a2"), node("Flatten", "a2", "f")),
        *(node("Gemm", "f w1 c1", "z3"), node("Relu", "z3", "a3"), node("Gemm", "a3 w2 c2", "y")),
    ]
    return model(nodes, {"x": ["N", 2, 8, 8]}, {"y": ["N", 3]}, weights)


#: Places of the modules in the twin.
FIRST_RELU, SECOND_RELU = 1, 4
X = np.random.default_rng(1).normal(size=(3, 2, 8, 8))
BASE = np.random.default_rng(2).normal(size=(3, 2, 8, 8))


def smooth() -> tuple[onnx.ModelProto, nn.Sequential]:
    """Two hidden layers of tanh."""
    rng = np.random.default_rng(3)
    ws = [rng.normal(size=s) / 1.5 for s in ((5, 8), (8, 6), (6, 3))]
    bs = [rng.normal(size=w.shape[1]) for w in ws]
    modules: list[nn.Module] = []
    for w, b in zip(ws, bs, strict=True):
        layer = nn.Linear(*w.shape).double()
        layer.weight.data, layer.bias.data = torch.from_numpy(w.T.copy()), torch.from_numpy(b)
        modules += [layer, nn.Tanh()]
    nodes = [
        *(node("Gemm", "x w0 b0", "z0"), node("Tanh", "z0", "a0"), node("Gemm", "a0 w1 b1", "z1")),
        *(node("Tanh", "z1", "a1"), node("Gemm", "a1 w2 b2", "y")),
    ]
    weights = {f"{k}{i}": v for k, values in (("w", ws), ("b", bs)) for i, v in enumerate(values)}
    return model(nodes, {"x": ["N", 5]}, {"y": ["N", 3]}, weights), nn.Sequential(*modules[:-1])


ROWS, ROW_BASE = np.random.default_rng(4).normal(size=(2, 3, 5))


def tensor(array: Array) -> Any:
    return torch.from_numpy(np.asarray(array, np.float64))


def array(value: Any) -> Array:
    return np.asarray(value.detach().numpy())


def captum(by: Any, x: Array, **options: Any) -> Array:
    return array(by.attribute(tensor(x).requires_grad_(), target=TARGET, **options))


def ours(proto: onnx.ModelProto, x: Array, method: str, **options: Any) -> Array:
    e = ox.explain(proto, x.astype(np.float32), method=method, target=TARGET, threads=1, **options)
    (found,) = e.attributions.values()
    return found.astype(np.float64)


def assert_close(found: Array, wanted: Array) -> None:
    assert np.abs(wanted).max() > 1e-3
    np.testing.assert_allclose(found, wanted, atol=CLOSE * np.abs(wanted).max(), rtol=0)


# ----- gradients and rules at rectifiers ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "theirs"),
    [
        ("absolute_gradient", "Saliency"), ("input_x_gradient", "InputXGradient"),
        ("guided_backprop", "GuidedBackprop"), ("deconvnet", "Deconvolution"),
    ],
)  # fmt: skip
def test_gradients(method: str, theirs: str) -> None:
    proto = convolutional()
    assert_close(ours(proto, X, method), captum(getattr(attr, theirs)(twin(proto).double()), X))


class Functional(nn.Module):
    """The same two layers with the ReLU called as a function."""

    def __init__(self, inner: nn.Sequential) -> None:
        super().__init__()
        self.first, self.last = inner[0], inner[2]

    def forward(self, x: Any) -> Any:
        return self.last(torch.relu(self.first(x)))


def test_rectifiers_that_are_no_modules() -> None:
    """captum hooks ReLU modules: a function is missed, and what it calls Guided Backprop is the plain gradient.

    The exported graph has the same Relu in both cases.
    """
    rng = np.random.default_rng(5)
    proto = model(
        [node("Gemm", "x w b", "z"), node("Relu", "z", "a"), node("Gemm", "a v c", "y")],
        *({"x": ["N", 5]}, {"y": ["N", 3]}),
        {"w": rng.normal(size=(5, 8)), "b": rng.normal(size=8), "v": rng.normal(size=(8, 3)), "c": np.zeros(3)},
    )
    net = twin(proto).double()
    missed = captum(attr.GuidedBackprop(Functional(net)), ROWS)
    np.testing.assert_allclose(missed, captum(attr.Saliency(net), ROWS, abs=False))
    found = ours(proto, ROWS, "guided_backprop")
    assert np.abs(found - missed).max() > 0.1
    assert_close(found, captum(attr.GuidedBackprop(net), ROWS))


# ----- paths --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quadrature", "theirs"),
    [
        ("gauss_legendre", "gausslegendre"), ("riemann_left", "riemann_left"), ("riemann_right", "riemann_right"),
        ("riemann_middle", "riemann_middle"),
    ],
)  # fmt: skip
def test_integrated_gradients(quadrature: str, theirs: str) -> None:
    proto = convolutional()
    wanted = captum(
        attr.IntegratedGradients(twin(proto).double()), X, baselines=tensor(BASE), n_steps=50, method=theirs
    )
    found = ours(proto, X, "integrated_gradients", baseline=BASE, steps=50, quadrature=quadrature, tolerance=None)
    assert_close(found, wanted)


def test_trapezoid() -> None:
    """captum's trapezoidal weights sum to (n - 1) / n: at 50 steps even a linear function gets 0.98 of its due."""
    w = np.random.default_rng(6).normal(size=(5, 3))
    proto = model([node("Gemm", "x w b", "y")], {"x": ["N", 5]}, {"y": ["N", 3]}, {"w": w, "b": np.zeros(3)})
    short = captum(attr.IntegratedGradients(twin(proto).double()), ROWS, n_steps=50, method="riemann_trapezoid")
    np.testing.assert_allclose(short, 0.98 * ROWS * w[:, TARGET], rtol=1e-6)
    found = ours(proto, ROWS, "integrated_gradients", steps=50, quadrature="trapezoid", tolerance=None)
    assert_close(found, ROWS * w[:, TARGET])


def test_integrated_gradients_of_a_layer() -> None:
    """Along the straight line between the layer's two values."""
    proto, net = smooth()
    wanted = captum(attr.LayerIntegratedGradients(net, net[1]), ROWS, baselines=tensor(np.zeros((3, 5))), n_steps=50)
    assert_close(ours(proto, ROWS, "integrated_gradients", wrt="a0", baseline="input:zero", steps=50), wanted)


def test_gradient_shap() -> None:
    """Both draw noise, a reference and a place on the way: means over 20,000 draws within their standard errors."""
    proto, net = smooth()
    x, references, sigma = ROWS[:1], ROW_BASE[:2], 0.3
    torch.manual_seed(0)
    shap = attr.GradientShap(net)
    rounds = np.array(
        [captum(shap, x, baselines=tensor(references), stdevs=sigma, n_samples=500)[0] for _ in range(40)]
    )
    e = ox.explain(
        proto, x.astype(np.float32), method="gradient_shap", target=TARGET, draws=20000,
        spread=sigma / float(np.ptp(x)), background=references, threads=1,
    )  # fmt: skip
    error = np.hypot(rounds.std(axis=0, ddof=1) / 40**0.5, e.standard_errors["x"][0])
    gap = np.abs(e.attributions["x"][0] - rounds.mean(axis=0))
    assert (gap < 4 * error).all()
    assert (error < 0.05 * np.abs(rounds.mean(axis=0)).max()).all(), "near enough to tell something"


# ----- layers and neurons -------------------------------------------------------------------------------


def test_internal_influence() -> None:
    proto, net = smooth()
    wanted = captum(attr.InternalInfluence(net, net[1]), ROWS, baselines=tensor(ROW_BASE), n_steps=50)
    assert_close(ours(proto, ROWS, "internal_influence", layer="a0", baseline=ROW_BASE, steps=50), wanted)


@pytest.mark.parametrize("neuron", [0, 5])
def test_neuron_conductance(neuron: int) -> None:
    """With Gauss points; captum's own default here is its trapezoid, whose weights sum to 0.98."""
    proto, net = smooth()
    conductance = attr.NeuronConductance(net, net[1])
    options: dict[str, Any] = {"neuron_selector": neuron, "baselines": tensor(ROW_BASE), "n_steps": 50}
    wanted = captum(conductance, ROWS, method="gausslegendre", **options)
    found = ours(proto, ROWS, "neuron_conductance", layer="a0", neuron=neuron, baseline=ROW_BASE, steps=50)
    assert_close(found, wanted)
    np.testing.assert_allclose(captum(conductance, ROWS, **options), 0.98 * wanted, rtol=0.01, atol=1e-4)


def test_layer_conductance() -> None:
    """captum takes each stretch's gradient at its far end: forth and back, the mean of both is our trapezoid.

    With evenly spaced points that have both ends: those of its other rules leave out a piece of the way.
    """
    proto, net = smooth()
    conductance = attr.LayerConductance(net, net[1])
    options = {"n_steps": 400, "method": "riemann_trapezoid"}
    there = captum(conductance, ROWS, baselines=tensor(ROW_BASE), **options)
    back = captum(conductance, ROW_BASE, baselines=tensor(ROWS), **options)
    found = ours(proto, ROWS, "layer_conductance", layer="a0", baseline=ROW_BASE, steps=400, tolerance=None)
    assert_close(found, (there - back) / 2)
    assert np.abs(found - there).max() > CLOSE * np.abs(there).max(), "one way alone is further off"
    rise = (net(tensor(ROWS)) - net(tensor(ROW_BASE)))[:, TARGET].detach().numpy()
    np.testing.assert_allclose(found.sum(axis=1), rise, atol=CLOSE)


def test_grad_cam() -> None:
    """captum returns the sum over channels at the layer's own size."""
    proto = convolutional()
    net = twin(proto).double()
    wanted = captum(attr.LayerGradCam(net, net[SECOND_RELU]), X)
    assert_close(ours(proto, X, "gradcam", layer="a2", relu=False).sum(axis=1, keepdims=True), wanted)


def test_layer_times_its_gradient() -> None:
    proto = convolutional()
    net = twin(proto).double()
    wanted = captum(attr.LayerGradientXActivation(net, net[FIRST_RELU]), X)
    assert_close(ours(proto, X, "input_x_gradient", wrt="a1"), wanted)
    assert_close(ours(proto, X, "hirescam", layer="a1", relu=False), wanted)


# ----- relevance ----------------------------------------------------------------------------------------


class Chain(nn.Module):
    """Modules one after the other, flattened by a function: captum has no rule for a module that does it."""

    def __init__(self, modules: nn.Sequential) -> None:
        super().__init__()
        self.inner = nn.ModuleList(m for m in modules if not isinstance(m, nn.Flatten))

    def forward(self, x: Any) -> Any:
        for module in self.inner:
            x = module(x.flatten(1) if isinstance(module, nn.Linear) and x.ndim > 2 else x)
        return x


def relevance(proto: onnx.ModelProto, x: Array, rule: Any = None) -> Array:
    net = Chain(twin(proto).double())
    for module in net.inner:
        if rule is not None and isinstance(module, (nn.Conv2d, nn.Linear)):
            module.rule = rule()
    return captum(attr.LRP(net), x)


def test_relevance_by_the_epsilon_rule() -> None:
    proto = convolutional()
    assert_close(ours(proto, X, "lrp", epsilon=1e-9), relevance(proto, X))


@pytest.mark.parametrize(
    ("theirs", "composite"),
    [
        (lambda: lrp_rules.GammaRule(0.25, set_bias_to_zero=True), [{"rule": "gamma", "gamma": 0.25, "signed": False}]),
        (lambda: lrp_rules.Alpha1_Beta0_Rule(set_bias_to_zero=True), [{"rule": "alpha_beta", "alpha": 1, "beta": 0}]),
    ],
    ids=["gamma", "alpha 1 beta 0"],
)
def test_relevance_of_positive_operands(theirs: Any, composite: Any) -> None:
    """Where inputs are not negative, and biases left out; the other two cases are told apart below."""
    proto, x = convolutional(), np.abs(X)
    # Sums of one sign and of both: stabilisers of 1e-9 on either side.
    found = ours(proto, x, "lrp", composite=composite, bias="ignore", epsilon=1e-9)
    assert_close(found, relevance(proto, x, theirs))


def one_layer() -> onnx.ModelProto:
    """y = x [1, -1] + 1 at x = (3, 1): gamma 1 doubles the first weight."""
    weights = {"w": np.array([[0.0, 1.0], [0.0, -1.0]]), "b": np.array([0.0, 1.0])}
    return model([node("Gemm", "x w b", "y")], {"x": ["N", 2]}, {"y": ["N", 2]}, weights)


def test_gamma_rule_with_a_bias() -> None:
    """The rule favours positive weights and biases alike; captum's leaves the bias as it is, and shares out more.

    z = 3; numerators 6 and -1, the bias 1 becomes 2: each numerator times 3 / (6 - 1 + 2), in captum 3 / (6 - 1 + 1).
    """
    x = np.array([[3.0, 1.0]])
    theirs = relevance(one_layer(), x, lambda: lrp_rules.GammaRule(1.0))
    np.testing.assert_allclose(theirs, [[6 * 3 / 6, -3 / 6]], rtol=1e-6)
    found = ours(one_layer(), x, "lrp", composite=[{"rule": "gamma", "gamma": 1.0, "signed": False}])
    np.testing.assert_allclose(found, [[6 * 3 / 7, -3 / 7]], rtol=1e-5)


def test_alpha_beta_rule_with_negative_inputs() -> None:
    """The rule takes positive contributions a w; captum's takes positive weights, whatever the sign of a.

    At x = (3, -1) the contributions are 3 and 1: both positive. captum drops the second with its weight.
    """
    x = np.array([[3.0, -1.0]])
    theirs = relevance(one_layer(), x, lambda: lrp_rules.Alpha1_Beta0_Rule(set_bias_to_zero=True))
    np.testing.assert_allclose(theirs, [[5, 0]], rtol=1e-6)
    found = ours(one_layer(), x, "lrp", composite=[{"rule": "alpha_beta", "alpha": 1, "beta": 0}], bias="ignore")
    np.testing.assert_allclose(found, [[5 * 3 / 4, 5 / 4]], rtol=1e-5)


# ----- perturbations ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("window", "stride"), [(2, 2), (4, 2), (1, 1)])
@pytest.mark.parametrize("value", [0.0, 0.4])
def test_occlusion(window: int, stride: int, value: float) -> None:
    """captum gives every element the mean drop of its windows; here drops are shared out among a window's elements."""
    proto = convolutional()
    wanted = captum(
        attr.Occlusion(twin(proto).double()), X,
        sliding_window_shapes=(2, window, window), strides=(2, stride, stride), baselines=value,
    )  # fmt: skip
    found = ours(proto, X, "occlusion", window=window, stride=stride, value=value)
    assert_close(found * (2 * window**2), wanted)


def test_ablation_of_single_features() -> None:
    proto, net = smooth()
    assert_close(ours(proto, ROWS, "occlusion", window=1), captum(attr.FeatureAblation(net), ROWS))


@pytest.mark.parametrize("groups", [None, [0, 0, 1, 2, 2]])
def test_shapley_values(groups: list[int] | None) -> None:
    """All orders there, all coalitions here: both exact. captum gives a group's value to each of its elements."""
    proto, net = smooth()
    mask = None if groups is None else torch.tensor([groups])
    wanted = captum(attr.ShapleyValues(net), ROWS, baselines=tensor(ROW_BASE), feature_mask=mask)
    players = "features" if groups is None else np.array(groups)
    found = ours(proto, ROWS, "kernel_shap", baseline=ROW_BASE, players=players)
    sizes = np.ones(5) if groups is None else np.bincount(groups)[groups]
    assert_close(found * sizes, wanted)


def test_sampled_shapley_values_come_near() -> None:
    """Both draw orders: each within its own errors of captum's exact values."""
    proto, net = smooth()
    wanted = captum(attr.ShapleyValues(net), ROWS)
    e = ox.explain(proto, ROWS.astype(np.float32), method="shapley_sampling", target=TARGET, permutations=400)
    assert (np.abs(e.attributions["x"] - wanted) <= 4.5 * e.standard_errors["x"] + 1e-6).all()
    sampled = captum(attr.ShapleyValueSampling(net), ROWS, n_samples=400)
    assert (np.abs(sampled - wanted) <= 4.5 * e.standard_errors["x"] + 1e-6).all()
