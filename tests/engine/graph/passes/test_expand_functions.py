"""Operators that run through their function bodies: the same check as for rules, and what the pass leaves alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator
from rule_cases import Case, case, check, parametrize, uniform

from onnxplain.engine.graph.canonical import canonicalise
from onnxplain.engine.graph.model import read_model
from onnxplain.engine.graph.passes.expand_functions import EXPANDED
from onnxplain.engine.rules import load_rules
from onnxplain.engine.rules.table import GRADIENT
from onnxplain.engine.vjp import vjp

CLASSES = np.asarray([2, 0, 1, 2], np.int64)
#: Class weights, whose sum is divided by.
POSITIVE: dict[str, Any] = {"batch": False, "draw": uniform(0.2, 1.0)}
PLACES = np.asarray([[2, 0, 1], [1, 1, 0]], np.int64)


def attention(**arguments: Any) -> Case:
    """Head size 16: the body keeps its scale in float32, where 1/16 has an exact fourth root."""
    return case("Attention", opset=arguments.pop("opset", 23), batch=False, **arguments)


MASKED_ROW = np.asarray([[0.0, -1.0, 0.5], [-np.inf] * 3])
CASES = [
    case("NegativeLogLikelihoodLoss", x=(4, 3), t=CLASSES, opset=13, batch=False),
    case("NegativeLogLikelihoodLoss", x=(4, 3), t=CLASSES, reduction="none", opset=18, batch=False),
    case("NegativeLogLikelihoodLoss", x=(4, 3), t=CLASSES, reduction="sum", opset=22, batch=False),
    case("NegativeLogLikelihoodLoss", x=(4, 3), t=CLASSES, ignore_index=0, opset=22, batch=False),
    case("NegativeLogLikelihoodLoss", x=(4, 3), t=CLASSES, w=(3,), wrt=("x",), opset=12, batch=False),
    case("NegativeLogLikelihoodLoss", x=(2, 3, 3), t=PLACES, w=(3,), opset=22, ignore_index=1, **POSITIVE),
    case("SoftmaxCrossEntropyLoss", x=(4, 3), t=CLASSES, opset=13, batch=False),
    case("SoftmaxCrossEntropyLoss", x=(4, 3), t=CLASSES, reduction="none", opset=18, outputs=2, batch=False),
    case("SoftmaxCrossEntropyLoss", x=(2, 3, 3), t=PLACES, ignore_index=2, opset=22, batch=False),
    case("SoftmaxCrossEntropyLoss", x=(2, 3, 3), t=PLACES, w=(3,), opset=12, **POSITIVE),
    attention(q=(2, 4, 3, 16), k=(2, 4, 5, 16), v=(2, 4, 5, 6)),
    attention(q=(2, 4, 3, 16), k=(2, 2, 5, 16), v=(2, 2, 5, 4), m=(3, 5), is_causal=1, softcap=2.0),
    attention(q=(2, 3, 8), k=(2, 3, 8), v=(2, 3, 8), q_num_heads=2, kv_num_heads=2, scale=0.25, wrt=("q", "v")),
    attention(q=(1, 2, 2, 16), k=(1, 2, 3, 16), v=(1, 2, 3, 4), m=MASKED_ROW, opset=24),
    attention(q=(1, 2, 2, 16), k=(1, 2, 1, 16), v=(1, 2, 1, 4), m=None, pk=(1, 2, 2, 16), pv=(1, 2, 2, 4),
              opset=24, runtime=False),
    case("RotaryEmbedding", x=(2, 3, 4, 8), c=(2, 4, 4), s=(2, 4, 4), opset=23, batch=False),
    case("RotaryEmbedding", x=(2, 4, 24), c=(2, 4, 4), s=(2, 4, 4), num_heads=3, interleaved=1, opset=23, batch=False),
    case("RotaryEmbedding", x=(1, 3, 4, 8), c=(6, 2), s=(6, 2), p=np.asarray([[0, 1, 2, 5]]), rotary_embedding_dim=4,
         opset=23, batch=False),
]  # fmt: skip


def linear_attention(**arguments: Any) -> Case:
    """Four query heads of width 2 to two of keys; the state does not depend on the query."""
    options = {"q_num_heads": 4, "kv_num_heads": 2, "opset": 27, "outputs": 2, "runtime": False}
    return case("LinearAttention", q=(2, 3, 8), k=(2, 3, 4), v=(2, 3, 6), **{**options, **arguments})


NEWER = [
    case("SwiGLU", a=(2, 5), b=(2, 5), opset=28, runtime=False),
    linear_attention(update_rule="linear"),
    linear_attention(p=(2, 2, 2, 3), d=(2, 3, 2), update_rule="gated"),
    linear_attention(p=None, d=None, b=(2, 3, 2), update_rule="delta", scale=0.7),
    linear_attention(p=(2, 2, 2, 3), d=(2, 3, 4), b=(2, 3, 1)),
]


@parametrize(CASES + NEWER)
def test_expanded(case: Case) -> None:
    check(case)


def test_what_is_expanded_has_no_rule_that_would_never_run() -> None:
    load_rules()
    assert not EXPANDED & set(GRADIENT.operators())


def test_a_body_of_an_opset_that_no_runtime_loads_is_written_down_to_one_that_it_does() -> None:
    shapes = {"x": (2, 3, 6), "w": (3, 1, 4), "b": (3,), "past": (2, 3, 3)}
    infos = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, s) for n, s in shapes.items()]
    results = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in ("y", "state")]
    node = helper.make_node("CausalConvWithState", list(shapes), ["y", "state"], activation="silu")
    graph = helper.make_graph([node], "g", infos, results)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 27)], ir_version=13)
    rng = np.random.default_rng(0)
    feeds = {n: rng.normal(size=s).astype(np.float32) * 0.3 for n, s in shapes.items()}
    plain = ReferenceEvaluator(model)
    seed = rng.normal(size=(2, 3, 6)).astype(np.float32)
    found = vjp(model, feeds, {"y": seed})
    for name, x in feeds.items():
        direction = rng.normal(size=x.shape).astype(np.float32)
        up, down = (plain.run(["y"], {**feeds, name: x + h * direction})[0] for h in (1e-2, -1e-2))
        # float32 differences over a step of 1e-2 are right to about 1e-4.
        assert np.vdot(seed, up - down) / 2e-2 == pytest.approx(np.vdot(found[name], direction), abs=1e-3)


def test_steps_and_batch_of_linear_attention_may_be_known_only_at_run_time() -> None:
    shapes = {"q": ("N", "T", 8), "k": ("N", "T", 4), "v": ("N", "T", 6), "past": ("N", 2, 2, 3), "d": ("N", "T", 2)}
    sizes = {"N": 2, "T": 3}
    rng = np.random.default_rng(0)
    fixed = {n: tuple(sizes[d] if isinstance(d, str) else d for d in s) for n, s in shapes.items()}
    feeds = {n: rng.normal(size=s).astype(np.float32) for n, s in fixed.items()}
    seeds = {n: rng.normal(size=s).astype(np.float32) for n, s in {"y": (2, 3, 12), "state": (2, 2, 2, 3)}.items()}
    found = []
    for known in (shapes, fixed):
        infos = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, s) for n, s in known.items()]
        results = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in seeds]
        node = helper.make_node(
            "LinearAttention", list(shapes), list(seeds), q_num_heads=4, kv_num_heads=2, update_rule="gated"
        )
        graph = helper.make_graph([node], "g", infos, results)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 27)], ir_version=13)
        found.append(vjp(model, feeds, seeds))
    for name in shapes:
        np.testing.assert_allclose(found[0][name], found[1][name], rtol=1e-5, atol=1e-6)


def test_unknown_types_leave_the_node_to_be_refused() -> None:
    node = helper.make_node("RotaryEmbedding", ["u", "c", "s"], ["y"], name="rotary")
    unknown = helper.make_node("Mystery", ["x"], ["u"], domain="third.party")
    infos = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in ("x", "c", "s")]
    graph = helper.make_graph(
        [unknown, node], "g", infos, [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)]
    )
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid("third.party", 1)]
    model = canonicalise(read_model(helper.make_model(graph, opset_imports=opsets, ir_version=10)))
    assert [n.op_type for n in model.graph] == ["Mystery", "RotaryEmbedding"]
