"""Embedding lookups in both forms: the same table looked up by rows, and multiplied with ones and zeros."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tiny_models import model, node

import onnxplain as ox
from onnxplain.engine.errors import InputError

RNG = np.random.default_rng(0)
TABLE, W = RNG.normal(size=(7, 4)), RNG.normal(size=(4, 3))
IDS = np.array([[1, 0, 6, 2, 2], [5, 4, 3, 2, 1]])

#: How rows of the table get to ``e``.
FORMS = {
    "gather": [node("Gather", "table ids", "e", axis=0)],
    "equal": [
        node("Unsqueeze", "ids last", "u"), node("Equal", "u range", "q"), node("Cast", "q", "hot", to=1),
        node("MatMul", "hot table", "e"),
    ],
    "one_hot": [node("OneHot", "ids depth values", "hot"), node("MatMul", "hot table", "e")],
}  # fmt: skip
PADDING = [
    node("Equal", "ids zero", "q"), node("Cast", "q", "mask", to=1), node("MatMul", "mask seven", "e"),
]  # fmt: skip


def net(first: list[onnx.NodeProto], rank: int = 3) -> onnx.ModelProto:
    tail = [node("Tanh", "e", "t"), node("ReduceMean", "t one", "m", keepdims=0), node("MatMul", "m w", "y")]
    if rank == 2:
        tail = [node("Tanh", "e", "m"), node("MatMul", "m w", "y")]
    weights: dict[str, Any] = {
        "table": TABLE, "w": W, "range": np.arange(7), "last": np.array([2]), "one": np.array([1]), "depth": np.array(7),
        "values": np.array([0.0, 1.0]), "zero": np.array(0), "seven": RNG.normal(size=(5, 4)),
    }  # fmt: skip
    proto = model([*first, *tail], {}, {"y": ["N", 3]}, weights)
    proto.graph.input.append(helper.make_tensor_value_info("ids", TensorProto.INT64, ["N", 5]))
    return proto


@pytest.mark.parametrize("form", FORMS)
def test_words_are_explained_whatever_form_the_lookup_has(form: str) -> None:
    e = ox.explain(net(FORMS[form]), IDS, method="fullgrad", target=1)
    rows = TABLE[IDS]
    slope = (1 - np.tanh(rows) ** 2) * W[:, 1] / 5
    np.testing.assert_allclose(e.attributions["e"], rows * slope, rtol=1e-4, atol=1e-6)
    assert e.residual is not None and e.residual.relative.max() < 1e-6
    assert e.saliency is not None and e.saliency.shape == (2, 5)
    assert ox.check(net(FORMS[form])).ok


@pytest.mark.parametrize("form", FORMS)
def test_a_token_as_baseline(form: str) -> None:
    """Every word replaced by the one with number 0: the integral is the difference of the scores."""
    e = ox.explain(net(FORMS[form]), IDS, method="integrated_gradients", baseline="token:0", target=1)
    scores = [np.tanh(TABLE[ids]).mean(axis=1) @ W[:, 1] for ids in (IDS, np.zeros_like(IDS))]
    np.testing.assert_allclose(e.attributions["e"].sum(axis=(1, 2)), scores[0] - scores[1], rtol=1e-4)


def test_a_mask_is_no_lookup() -> None:
    """Where the padding is, times weights per place: ones and zeros, of one comparison instead of one per row."""
    with pytest.raises(InputError, match="no embedding lookup"):
        ox.explain(net(PADDING, rank=2), IDS, method="gradient")
