"""Methods that only run the model serve what cannot be differentiated, and say nothing of gradients.

Rounding and ArgMax, trees, int8 as it is deployed: every method that claims to be forward only goes through.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tiny_models import assets, model, node

import onnxplain as ox
from onnxplain.engine.errors import BlockedGradientError, OptionError
from onnxplain.engine.method import METHODS, create

Array = np.ndarray[Any, Any]
FORWARD = [name for name, _ in METHODS if create(name, {}).forward_only]
#: Those that need no feature maps.
ANY_INPUT = [name for name in FORWARD if name != "score_cam"]
FEW: dict[str, dict[str, Any]] = {"rise": {"draws": 400, "keep": 0.5}, "lime": {"draws": 200, "alpha": 0.0}}


def rounding() -> onnx.ModelProto:
    """2 round(x0) - round(x1), once the larger of two columns was found by ArgMax and counted in."""
    return model(
        [
            node("Round", "x", "r"), node("MatMul", "r w", "d"), node("ArgMax", "x", "i", axis=1, keepdims=1),
            node("Cast", "i", "c", to=TensorProto.FLOAT), node("Add", "d c", "y"),
        ],
        {"x": ["N", 2]}, {"y": ["N", 1]}, {"w": [[2.0], [-1.0]]},
    )  # fmt: skip


def stump() -> onnx.ModelProto:
    """A forest of one stump: 5 where x1 <= 0.5, else 9."""
    tree = helper.make_node(
        "TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml", name="tree", n_targets=1,
        nodes_treeids=[0, 0, 0], nodes_nodeids=[0, 1, 2], nodes_featureids=[1, 0, 0],
        nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"], nodes_values=[0.5, 0.0, 0.0], nodes_truenodeids=[1, 0, 0],
        nodes_falsenodeids=[2, 0, 0], target_treeids=[0, 0], target_nodeids=[1, 2], target_ids=[0, 0],
        target_weights=[5.0, 9.0],
    )  # fmt: skip
    return model([tree], {"x": ["N", 3]}, {"y": ["N", 1]}, domains=["ai.onnx.ml"])


def test_the_list_is_not_empty() -> None:
    assert {"occlusion", "shapley_sampling", "kernel_shap", "lime", "rise", "score_cam"} <= set(FORWARD)
    assert "gradient" not in FORWARD and "integrated_gradients" not in FORWARD


def test_the_nets_are_what_they_claim() -> None:
    with pytest.raises(BlockedGradientError):
        ox.explain(stump(), np.zeros((1, 3), np.float32), method="gradient")


@pytest.mark.parametrize("method", ANY_INPUT)
def test_trees(method: str) -> None:
    x = np.array([[1.0, 2.0, 3.0], [1.0, 0.2, 3.0]], np.float32)
    e = ox.explain(stump(), x, method=method, **FEW.get(method, {}))
    np.testing.assert_array_equal(e.score, [9.0, 5.0])
    found = e.attributions["x"]
    if method in ("occlusion", "shapley_sampling", "kernel_shap"):
        np.testing.assert_allclose(found, [[0.0, 4.0, 0.0], [0.0, 0.0, 0.0]], atol=1e-6)
    else:
        assert np.argmax(np.abs(found[0])) == 1
    assert not any("gradient" in note for note in e.notes)
    assert not e.blocked and e.quantisation == "none"


@pytest.mark.parametrize("method", ["occlusion", "shapley_sampling", "kernel_shap"])
def test_what_rounding_makes_flat(method: str) -> None:
    """The score less its baseline's 0; ArgMax adds 1 in the first row while its first column is the smaller."""
    x = np.array([[1.2, 3.9], [4.1, 2.0]], np.float32)
    e = ox.explain(rounding(), x, method=method)
    np.testing.assert_array_equal(e.score, [2 - 4 + 1, 8 - 2])
    assert e.attributions["x"].all()


@pytest.mark.parametrize("method", FORWARD)
def test_nothing_moves_the_score(method: str) -> None:
    """The note that every method has for an empty answer, in words that fit."""
    proto = model([node("Conv", "x w", "f"), node("GlobalAveragePool", "f", "p"), node("Flatten", "p", "h"),
                   node("Sign", "h", "s"), node("Abs", "s", "y")],
                  {"x": ["N", 1, 4, 4]}, {"y": ["N", 1]}, {"w": np.ones((1, 1, 1, 1))})  # fmt: skip
    x = np.arange(1.0, 17.0, dtype=np.float32).reshape(1, 1, 4, 4)
    options = {"baseline": 0.5} if method not in ("occlusion", "smoothed") else {"value": 0.5}
    e = ox.explain(proto, x, method=method, **options, **FEW.get(method, {}))
    if method in ("occlusion", "shapley_sampling", "kernel_shap"):
        assert not e.attributions["x"].any()
        assert any(note.startswith("nothing that was tried moves the score") for note in e.notes)
    assert not any("gradient" in note for note in e.notes)


@pytest.mark.parametrize("method", ANY_INPUT)
def test_two_inputs(method: str) -> None:
    """y = 3 a0 - 2 b1: each input gets what its own features do."""
    proto = model(
        [node("MatMul", "a v", "s"), node("MatMul", "b w", "t"), node("Add", "s t", "y")],
        {"a": ["N", 2], "b": ["N", 2]}, {"y": ["N", 1]}, {"v": [[3.0], [0.0]], "w": [[0.0], [-2.0]]},
    )  # fmt: skip
    feeds = {"a": np.array([[1.0, 5.0]], np.float32), "b": np.array([[5.0, 2.0]], np.float32)}
    e = ox.explain(proto, feeds, method=method, **FEW.get(method, {}))
    assert e.saliency is None
    if method != "rise":
        np.testing.assert_allclose(e.attributions["a"], [[3.0, 0.0]], atol=1e-5)
        np.testing.assert_allclose(e.attributions["b"], [[0.0, -4.0]], atol=1e-5)


@pytest.mark.parametrize(
    ("method", "few"),
    [
        ("occlusion", {"window": 112, "stride": 112}), ("rise", {"draws": 2}), ("lime", {"draws": 3, "players": "grid:2"}),
        ("score_cam", {"channels": 2}), ("shapley_sampling", {"players": "grid:2", "permutations": 1}),
        ("kernel_shap", {"players": "grid:2"}),
    ],
)  # fmt: skip
def test_int8_as_it_is_deployed(method: str, few: dict[str, Any]) -> None:
    """The score is the int8 model's own, bit by bit, and no straight-through gradient is spoken of."""
    folder = assets()
    if folder is None:
        pytest.skip("the development models are not here")
    x = np.random.default_rng(0).normal(size=(1, 3, 224, 224)).astype(np.float32)
    e = ox.explain(folder / "efficientnet-lite0-int8-qdq.onnx", x, method=method, threads=1, **few)
    assert e.quantisation == "none" and "shadow" not in e.provenance
    assert e.target is not None and e.score[0] == e.outputs[e.output][0, e.target[0]]


def test_rise_and_lime_refuse_what_they_cannot_do() -> None:
    x = np.zeros((1, 3), np.float32)
    for method, options in (
        ("rise", {"draws": 0}), ("rise", {"keep": 0.0}), ("rise", {"baseline": "noise:2"}), ("lime", {"draws": 0}),
        ("lime", {"kernel_width": 0.0}), ("lime", {"alpha": -1.0}), ("lime", {"players": "words"}),
        ("shapley_sampling", {"permutations": 0}), ("shapley_sampling", {"permutations": 3, "antithetic": True}),
        ("kernel_shap", {"draws": 1}), ("kernel_shap", {"draws": 4, "players": "features"}),
    ):  # fmt: skip
        with pytest.raises(OptionError):
            ox.explain(stump(), x, method=method, **options)
