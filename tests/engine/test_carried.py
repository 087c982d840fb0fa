"""Baselines of the model's own inputs, carried to the inner tensor that is attributed to."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny_models import fullgrad_net, node

import onnxplain as ox
from onnxplain.engine.errors import OptionError

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(2)
WORDS, PLACES = RNG.normal(size=(11, 3)).astype(np.float32), RNG.normal(size=(5, 3)).astype(np.float32)
WEIGHTS = RNG.normal(size=(3, 4)).astype(np.float32)
LAST = RNG.normal(size=(4, 2)).astype(np.float32)


def text_net() -> onnx.ModelProto:
    """Words and places looked up and added, tanh of a linear map, mean over tokens; logits of two classes."""
    graph = helper.make_graph(
        [
            node("Gather", "words ids", "embedded", axis=0),
            node("Gather", "places positions", "placed", axis=0),
            node("Add", "embedded placed", "sum"),
            node("MatMul", "sum w", "z"),
            node("Tanh", "z", "a"),
            node("ReduceMean", "a axis", "pooled", keepdims=0),
            node("MatMul", "pooled v", "logits"),
        ],
        "text",
        [helper.make_tensor_value_info(n, TensorProto.INT64, ["N", 5]) for n in ("ids", "positions")],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 2])],
        [
            numpy_helper.from_array(a, n)
            for n, a in (("words", WORDS), ("places", PLACES), ("w", WEIGHTS), ("v", LAST), ("axis", np.array([1])))
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


FEEDS = {"ids": np.array([[1, 5, 7, 0, 0], [3, 3, 10, 2, 9]]), "positions": np.tile(np.arange(5), (2, 1))}


def plain(ids: Array) -> Array:
    return np.asarray(np.tanh((WORDS[ids] + PLACES) @ WEIGHTS).mean(axis=1) @ LAST)


@pytest.mark.parametrize("token", [0, 4])
def test_a_token_in_every_place(token: int) -> None:
    e = ox.explain(text_net(), FEEDS, method="integrated_gradients", baseline=f"token:{token}", target=1)
    assert list(e.attributions) == ["embedded"] and e.baseline_score is not None and e.residual is not None
    np.testing.assert_allclose(e.baseline_score, plain(np.full((2, 5), token))[:, 1], rtol=1e-4)
    gap = plain(FEEDS["ids"])[:, 1] - plain(np.full((2, 5), token))[:, 1]
    np.testing.assert_allclose(e.attributions["embedded"].sum(axis=(1, 2)), gap, atol=1e-4)


def test_several_baselines_for_a_text() -> None:
    """Zero embedding and padding token, averaged: each alone, then the mean."""
    alone = [
        ox.explain(text_net(), FEEDS, method="integrated_gradients", baseline=b, target=0).attributions["embedded"]
        for b in ("zero", "token:0")
    ]
    both = ox.explain(text_net(), FEEDS, method="integrated_gradients", baseline=["zero", "token:0"], target=0)
    np.testing.assert_allclose(both.attributions["embedded"], np.mean(alone, axis=0), atol=1e-6)
    assert np.abs(alone[0] - alone[1]).max() > 0.01


def test_a_deep_tensor_begins_where_the_model_takes_the_token() -> None:
    """Positions stay as they are; only the words are replaced."""
    e = ox.explain(text_net(), FEEDS, method="integrated_gradients", wrt="a", baseline="token:4", target=0)
    start = np.tanh((WORDS[4] + PLACES) @ WEIGHTS)
    end = np.tanh((WORDS[FEEDS["ids"]] + PLACES) @ WEIGHTS)
    np.testing.assert_allclose(e.attributions["a"], (end - start) * LAST[:, 0] / 5, atol=1e-5)


@pytest.mark.parametrize("baseline", ["zero", "0.5", "maximum"])
def test_an_inner_tensor_begins_where_the_model_takes_the_baseline(baseline: str) -> None:
    """Behind the first ReLU: the line starts at relu(conv(baseline)), and ends sum up to the same change."""
    proto, x = fullgrad_net()
    e = ox.explain(proto, x, method="integrated_gradients", wrt="a1", baseline=f"input:{baseline}", target=1)
    value = {"zero": 0.0, "0.5": 0.5, "maximum": float(x.max())}[baseline]
    start = ox.explain(proto, np.full_like(x, value), method="gradient", target=1)
    assert e.baseline_score == pytest.approx(start.score, rel=1e-5)
    assert e.residual is not None and e.residual.ok


def test_every_path_takes_them() -> None:
    for method in ("guided_ig", "idgi"):
        e = ox.explain(text_net(), FEEDS, method=method, baseline="token:0", target=0, steps=100)
        assert e.residual is not None and e.residual.ok
    e = ox.explain(
        text_net(), FEEDS, method="expected_gradients", background=["token:0", "token:4"], target=0, draws=20
    )
    assert e.residual is not None and e.residual.ok


@pytest.mark.parametrize(
    ("baseline", "words"),
    [("input:zero", "no float input"), ("token:word", "write token:0"), ("token:", "write token:0")],
)
def test_what_makes_no_sense_is_refused(baseline: str, words: str) -> None:
    with pytest.raises(OptionError, match=words):
        ox.explain(text_net(), FEEDS, method="integrated_gradients", baseline=baseline)


def test_inputs_take_their_own_baselines() -> None:
    proto, x = fullgrad_net()
    with pytest.raises(OptionError, match="name one with wrt="):
        ox.explain(proto, x, method="integrated_gradients", baseline="input:zero")
    with pytest.raises(OptionError, match="no embedding"):
        ox.explain(proto, x, method="integrated_gradients", baseline="token:0", wrt="a1")
