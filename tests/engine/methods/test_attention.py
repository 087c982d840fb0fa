"""Attention rollout and gradient-weighted attention, from the model's own probabilities, in NumPy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from tiny_models import fullgrad_net, model, node
from tiny_transformers import attention_block, block, vision_transformer

import onnxplain as ox
from onnxplain.engine.errors import OptionError

Array = np.ndarray[Any, Any]
BLOCKS = ("b0", "b1")


def with_shifts(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with an input added to every attention, and the attentions among the outputs."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    nodes = []
    for n in copy.graph.node:
        nodes.append(n)
        if n.op_type == "Softmax":
            name = n.output[0]
            n.output[0] = f"{name}_own"
            nodes.append(helper.make_node("Add", [f"{name}_own", f"{name}_shift"], [name]))
            copy.graph.input.append(helper.make_tensor_value_info(f"{name}_shift", TensorProto.DOUBLE, None))
            copy.graph.output.append(helper.make_tensor_value_info(name, TensorProto.DOUBLE, None))
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    return copy


def probabilities_and_slopes(readout: str, x: Array, target: int) -> tuple[list[Array], list[Array]]:
    """Per block ``[heads, T, T]`` of one sample: attention, and the score's slope by it (central differences)."""
    proto, _ = vision_transformer(readout=readout, dtype=TensorProto.DOUBLE)
    run = ReferenceEvaluator(with_shifts(proto)).run
    zeros = {f"{b}_attention_shift": np.zeros((1, 2, 13, 13)) for b in BLOCKS}
    values = dict(zip(["y", *[f"{b}_attention" for b in BLOCKS]], run(None, {"x": x, **zeros}), strict=True))
    count, step = 2 * 13 * 13, 1e-5
    slopes = []
    for b in BLOCKS:
        shift = step * np.eye(count).reshape(count, 2, 13, 13)
        many = np.repeat(x, count, axis=0)
        ends = [run(["y"], {"x": many, **zeros, f"{b}_attention_shift": s * shift})[0][:, target] for s in (1, -1)]
        slopes.append(((ends[0] - ends[1]) / (2 * step)).reshape(2, 13, 13))
    return [values[f"{b}_attention"][0] for b in BLOCKS], slopes


def read(matrix: Array, readout: str) -> Array:
    rows = {"class": matrix[0], "mean": matrix.mean(axis=0), "patches": matrix[1:].mean(axis=0)}
    return np.asarray(rows[readout][1:].reshape(3, 4))


@pytest.mark.parametrize("readout", ["class", "mean", "patches"])
def test_against_numpy(readout: str) -> None:
    proto, pictures = vision_transformer(readout=readout)
    x = pictures[:1]
    attention, slopes = probabilities_and_slopes(readout, x.astype(np.float64), 2)
    rollout, weighted = np.eye(13), np.eye(13)
    for a, g in zip(attention, slopes, strict=True):
        mixed = (a.mean(axis=0) + np.eye(13)) / 2
        rollout = mixed / mixed.sum(axis=1, keepdims=True) @ rollout
        weighted = weighted + np.maximum(a * g, 0).mean(axis=0) @ weighted
    for method, matrix in (("attention_rollout", rollout), ("attention_gradient", weighted)):
        e = ox.explain(proto, x, method=method, target=2, threads=1)
        assert list(e.attributions) == ["b1_attention"]
        expected = read(matrix, readout)
        np.testing.assert_allclose(e.attributions["b1_attention"][0], expected, rtol=1e-3, atol=1e-6)
        assert e.saliency is not None and e.saliency.shape == (1, 6, 8)
        np.testing.assert_allclose(e.saliency[0, ::5, ::7], expected[::2, ::3], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("heads", ["mean", "max", "min"])
def test_heads(heads: str) -> None:
    proto, x = vision_transformer()
    attention, _ = probabilities_and_slopes("class", x[:1].astype(np.float64), 0)
    product = np.eye(13)
    for a in attention:
        mixed = getattr(np, heads)(a, axis=0) + np.eye(13)
        product = mixed / mixed.sum(axis=1, keepdims=True) @ product
    e = ox.explain(proto, x[:1], method="attention_rollout", heads=heads)
    np.testing.assert_allclose(e.attributions["b1_attention"][0], read(product, "class"), rtol=1e-4)


def test_rollout_is_a_distribution_over_tokens() -> None:
    """Text without extra tokens: all of it has a place, so it sums to one; and no class matters."""
    x = np.random.default_rng(0).normal(size=(3, 3, 4)).astype(np.float32)
    found = [
        ox.explain(attention_block(), x, method="attention_rollout", target=t, layout="channels_last") for t in (0, 1)
    ]
    assert found[0].saliency is not None and found[0].saliency.shape == (3, 3)
    np.testing.assert_allclose(found[0].saliency.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(found[0].saliency, found[1].saliency)
    assert any("does not depend on the target" in note for note in found[0].notes)


def test_gradients_tell_classes_apart() -> None:
    proto, x = vision_transformer()
    a, b = (ox.explain(proto, x, method="attention_gradient", target=t).map() for t in (0, 1))
    assert np.corrcoef(a.ravel(), b.ravel())[0, 1] < 0.99


def heads_with_batch(last: list[onnx.NodeProto], **weights: Any) -> onnx.ModelProto:
    """One attention on [N heads, T, d], as some exporters write it, and what is done with its result ``o``."""
    rng = np.random.default_rng(4)
    return model(
        [
            *(node("MatMul", f"x w{c}", f"{c}p") for c in "qkv"),
            *(node("Reshape", f"{c}p split", f"{c}s") for c in "qkv"),
            *(node("Transpose", f"{c}s", f"{c}h", perm=[0, 2, 1, 3]) for c in "qkv"),
            *(node("Reshape", f"{c}h join", c) for c in "qkv"),
            node("Transpose", "k", "kt", perm=[0, 2, 1]),
            node("MatMul", "q kt", "scores"),
            node("Softmax", "scores", "p", axis=-1),
            node("MatMul", "p v", "mixed"),
            node("Reshape", "mixed apart", "m4"),
            node("Transpose", "m4", "mt", perm=[0, 2, 1, 3]),
            node("Reshape", "mt flat", "o"),
            *last,
        ],
        {"x": ["N", 5, 4]},
        {"y": ["N", 2]},
        {
            **{f"w{c}": rng.normal(size=(4, 4)) for c in "qkv"}, "u": rng.normal(size=(4, 2)),
            "split": np.array([-1, 5, 2, 2]), "join": np.array([-1, 5, 2]), "apart": np.array([-1, 2, 5, 2]),
            "flat": np.array([-1, 5, 4]), "one": np.array([1]), "two": np.array([2]), "last": np.array(-1), **weights,
        },
    )  # fmt: skip


def expected_rollout(x: Array, row: Any) -> Array:
    rng = np.random.default_rng(4)
    q, k, _ = (
        (x @ rng.normal(size=(4, 4)).astype(np.float32)).reshape(-1, 5, 2, 2).transpose(0, 2, 1, 3) for _ in "qkv"
    )
    scores = q @ k.transpose(0, 1, 3, 2)
    p = np.exp(scores - scores.max(axis=-1, keepdims=True))
    a = (p / p.sum(axis=-1, keepdims=True)).mean(axis=1)
    rows = (a + np.eye(5)) / 2
    return np.asarray(rows.mean(axis=1) if row is None else rows[:, row])


SQUEEZED = [node("Squeeze", "t one", "s"), node("MatMul", "s u", "y")]
POOLED = [node("Transpose", "o", "ot", perm=[0, 2, 1]), node("GlobalAveragePool", "ot", "t")]


@pytest.mark.parametrize(
    ("last", "row"),
    [
        ([node("Gather", "o last", "t", axis=1), node("MatMul", "t u", "y")], -1),
        ([node("Slice", "o one two one", "t"), *SQUEEZED], 1),
        ([node("ReduceMean", "o one", "t", keepdims=1), *SQUEEZED], None),
        ([*POOLED, node("Squeeze", "t two", "s"), node("MatMul", "s u", "y")], None),
    ],
    ids=["last position", "slice", "mean kept", "pooled"],
)
def test_forms(last: list[onnx.NodeProto], row: Any) -> None:
    x = np.random.default_rng(1).normal(size=(2, 5, 4)).astype(np.float32)
    e = ox.explain(heads_with_batch(last), x, method="attention_rollout", layout="channels_last", threads=1)
    np.testing.assert_allclose(e.saliency, expected_rollout(x, row), rtol=1e-4, atol=1e-6)


REFUSED = [
    ([node("ReduceMax", "o one", "t", keepdims=0), node("MatMul", "t u", "y")], "reads the sequence 'o' as a whole"),
    ([node("Flatten", "o", "t"), node("MatMul", "t all", "y")], "as a whole"),
    ([node("MatMul", "o u", "y")], "a value for every position"),
    (
        [
            node("Gather", "o last", "t", axis=1),
            node("ReduceMean", "o one", "r", keepdims=0),
            node("Add", "t r", "s"),
            node("MatMul", "s u", "y"),
        ],
        "in several ways",
    ),
]


@pytest.mark.parametrize("method", ["attention_rollout", "attention_gradient"])
@pytest.mark.parametrize(("last", "words"), REFUSED)
def test_what_cannot_be_told_is_refused(method: str, last: list[onnx.NodeProto], words: str) -> None:
    proto = heads_with_batch(last, all=np.ones((20, 2)))
    if "every" in words:
        proto.graph.output[0].type.tensor_type.ClearField("shape")
    with pytest.raises(OptionError, match=words):
        ox.explain(proto, np.ones((1, 5, 4), np.float32), method=method, layout="channels_last")


@pytest.mark.parametrize("method", ["attention_rollout", "attention_gradient"])
def test_no_attention(method: str) -> None:
    proto, x = fullgrad_net()
    with pytest.raises(OptionError, match="there is no attention between 'x' and the answer"):
        ox.explain(proto, x, method=method)


def test_sequences_that_change_are_refused() -> None:
    """Between the blocks every second token is dropped."""
    rng = np.random.default_rng(0)
    weights: dict[str, Any] = {"u": rng.normal(size=(4, 2)), "axis1": np.array([1]), "pairs": np.array([0, -1, 8])}
    weights |= {"down": rng.normal(size=(8, 4))}
    nodes = [
        *block("b0", "x", "z0", weights, width=4, heads=2, rng=rng),
        node("Reshape", "z0 pairs", "r"),
        node("MatMul", "r down", "merged"),
        *block("b1", "merged", "z1", weights, width=4, heads=2, rng=rng),
        node("ReduceMean", "z1 axis1", "m", keepdims=0),
        node("MatMul", "m u", "y"),
    ]
    proto = model(nodes, {"x": ["N", 6, 4]}, {"y": ["N", 2]}, weights)
    with pytest.raises(OptionError, match="over different sequences"):
        ox.explain(proto, np.ones((1, 6, 4), np.float32), method="attention_rollout", layout="channels_last")


@pytest.mark.parametrize("method", ["attention_rollout", "attention_gradient"])
def test_as_a_file(method: str, tmp_path: Path) -> None:
    """The saved graph gives map and attribution without this package."""
    proto, x = vision_transformer()
    explainer = ox.compile(proto, method=method, threads=1)
    explainer.save(tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    found = dict(zip(names, session.run(None, {"x": x, "target": np.array([1, 2])}), strict=True))
    e = explainer(x, target=[1, 2])
    np.testing.assert_allclose(found["saliency"], e.saliency, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(found["attribution"], e.attributions["b1_attention"], rtol=1e-5, atol=1e-7)
