"""Fused operators: onnxruntime's own kernel gives the forward truth, differences of it the gradient's.

Every case is a one-node model. The split model must return what the fused kernel returns (float32), and
its gradient must equal central differences of the split graph in float64 (which the kernels lack).
"""

from __future__ import annotations

import copy
import math
import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from tiny_models import model, node

import onnxplain
from onnxplain.engine.errors import UnsupportedNodeError
from onnxplain.engine.graph.canonical import canonicalise
from onnxplain.engine.graph.model import read_model
from onnxplain.engine.graph.passes.fused.table import known_operators
from onnxplain.engine.rewrite import Rewriter
from onnxplain.engine.session.reference_ops import CORRECTED
from onnxplain.engine.session.session import Session

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Fused:
    """One node: shapes are drawn operands, arrays fixed ones, None left out."""

    op_type: str
    operands: dict[str, Any]
    attributes: dict[str, Any] = field(default_factory=dict)
    outputs: tuple[str, ...] = ("y",)
    wrt: tuple[str, ...] = ()
    domain: str = "com.microsoft"

    @property
    def id(self) -> str:
        given = [k for k, v in self.operands.items() if v is not None]
        return f"{self.op_type}({','.join(given)};{','.join(f'{k}={v}' for k, v in self.attributes.items())})".replace(
            " ", ""
        )


def fused(
    op_type: str,
    operands: dict[str, Any],
    *,
    outputs: str = "y",
    wrt: str = "",
    domain: str = "com.microsoft",
    **attributes: Any,
) -> Fused:
    return Fused(
        op_type, operands, attributes, tuple("" if n == "-" else n for n in outputs.split()), tuple(wrt.split()), domain
    )


def ints(*values: Any, dtype: Any = np.int32) -> Array:
    return np.array(values, dtype=dtype)


X, H = (2, 5, 8), (8,)
QKV = {"query": (2, 5, 8), "key": (2, 6, 8), "value": (2, 6, 8)}
PAST = (2, 2, 3, 4)
COS, SIN = (np.cos(np.outer(np.arange(9), [1.0, 0.3])), np.sin(np.outer(np.arange(9), [1.0, 0.3])))
LENGTHS = {"seqlens_k": ints(4, 3), "total": np.array(5, np.int32)}
WIDE = np.outer(np.arange(9), [1.0, 0.3, 0.1, 0.2, 2.0, 0.5, 0.05, 0.7])
GQA = {"query": (2, 5, 32), "key": (2, 5, 16), "value": (2, 5, 16), "past_key": None, "past_value": None, **LENGTHS}
CACHED = {
    "query": (2, 1, 32), "key": (2, 1, 16), "value": (2, 1, 16), "past_key": (2, 2, 3, 8), "past_value": (2, 2, 3, 8),
    "seqlens_k": ints(3, 3), "total": np.array(4, np.int32),
}  # fmt: skip
NBITS = np.random.default_rng(0).integers(0, 256, size=(6, 3, 8)).astype(np.uint8)

CASES = [
    fused("FusedConv", {"x": (2, 3, 6, 6), "w": (4, 3, 3, 3), "b": (4,)}, activation="Relu", pads=[1, 1, 1, 1]),
    fused("FusedConv", {"x": (2, 3, 6, 6), "w": (4, 3, 3, 3), "b": (4,), "z": (2, 4, 4, 4)}, activation="Tanh"),
    fused("FusedConv", {"x": (2, 3, 6, 6), "w": (4, 3, 3, 3)}, activation="LeakyRelu", activation_params=[0.2], strides=[2, 2]),
    fused("FusedConv", {"x": (2, 4, 6, 6), "w": (4, 1, 3, 3)}, activation="Clip", activation_params=[-1.0, 1.5], group=4),
    fused("FusedConv", {"x": (2, 3, 6, 6), "w": (4, 3, 3, 3)}, activation="HardSigmoid", activation_params=[0.1, 0.4]),
    fused("FusedConv", {"x": (2, 3, 6), "w": (4, 3, 3)}, activation="Sigmoid", auto_pad="SAME_UPPER"),
    fused("FusedMatMul", {"a": (2, 3, 4), "b": (2, 4, 5)}, alpha=0.5),
    fused("FusedMatMul", {"a": (2, 4, 3), "b": (2, 5, 4)}, transA=1, transB=1),
    fused("FusedMatMul", {"a": (3, 2, 4), "b": (2, 4, 5)}, transBatchA=1),
    fused("FusedMatMul", {"a": (4, 2, 3), "b": (4, 2, 5)}, transA=1, transBatchA=1, transBatchB=1),
    fused("TransposeMatMul", {"a": (2, 3, 4), "b": (2, 5, 4)}, transB=1),
    fused("FusedGemm", {"a": (3, 4), "b": (5, 4), "c": (5,)}, activation="Relu", transB=1, alpha=0.5, beta=2.0),
    fused("FusedGemm", {"a": (3, 4), "b": (4, 5)}, activation="LeakyRelu", activation_alpha=0.3),
    fused("Gelu", {"x": X}),
    fused("BiasGelu", {"x": X, "b": H}),
    fused("FastGelu", {"x": X}),
    fused("FastGelu", {"x": X, "b": H}),
    fused("QuickGelu", {"x": X}),
    fused("QuickGelu", {"x": X}, alpha=1.0),
    fused("LayerNormalization", {"x": X, "g": H, "b": H}, domain="", epsilon=1e-3),
    fused("SimplifiedLayerNormalization", {"x": X, "g": H}, domain="", axis=-1, epsilon=1e-3),
    fused("SkipLayerNormalization", {"x": X, "skip": X, "g": H, "b": H, "bias": H}, outputs="y - - total", epsilon=1e-3),
    fused("SkipLayerNormalization", {"x": X, "skip": (5, 8), "g": H}),
    fused("SkipSimplifiedLayerNormalization", {"x": X, "skip": X, "g": H, "bias": H}, outputs="y - - total", epsilon=1e-3),
    fused("RotaryEmbedding", {"x": (2, 5, 8), "p": ints([0, 1, 2, 3, 4], [3, 4, 5, 6, 7], dtype=np.int64), "cos": COS, "sin": SIN}),  # noqa: E501
    fused("RotaryEmbedding", {"x": (2, 2, 5, 4), "p": ints(2, dtype=np.int64), "cos": COS, "sin": SIN}, interleaved=1),
    fused(
        "RotaryEmbedding", {"x": (2, 5, 12), "p": ints(0, dtype=np.int64), "cos": COS, "sin": SIN},
        num_heads=2, rotary_embedding_dim=4,
    ),
    fused("Attention", {"x": X, "w": (8, 24), "b": (24,)}, num_heads=2),
    fused("Attention", {"x": X, "w": (8, 24), "b": (24,), "mask": ints([1, 1, 1, 0, 0], [1, 1, 1, 1, 0])}, num_heads=2),
    fused("Attention", {"x": X, "w": (8, 24), "b": (24,), "mask": ints(3, 5)}, num_heads=4, scale=0.3),
    fused("Attention", {"x": X, "w": (8, 24), "b": (24,)}, num_heads=2, unidirectional=1),
    fused("Attention", {"x": X, "w": (8, 20), "b": (20,)}, num_heads=2, qkv_hidden_sizes=[8, 8, 4]),
    fused(
        "Attention", {"x": X, "w": (8, 24), "b": (24,), "mask": None, "past": (2, 2, 2, 3, 4)},
        num_heads=2, outputs="y present",
    ),
    fused("Attention", {"x": X, "w": (8, 24), "b": (24,), "mask": None, "past": None, "more": (2, 2, 5, 5)}, num_heads=2),
    fused("MultiHeadAttention", QKV, num_heads=2),
    fused("MultiHeadAttention", {**QKV, "bias": (24,)}, num_heads=4),
    fused("MultiHeadAttention", {**QKV, "bias": None, "mask": ints([1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 0])}, num_heads=2),
    fused("MultiHeadAttention", {**QKV, "bias": None, "mask": None, "more": (2, 2, 5, 6)}, num_heads=2, scale=0.2),
    fused("MultiHeadAttention", {"query": X, "key": (2, 2, 6, 4), "value": (2, 2, 6, 4)}, num_heads=2),
    fused("MultiHeadAttention", {"query": (2, 5, 8), "key": (2, 5, 8), "value": (2, 5, 8)}, num_heads=2, unidirectional=1),
    fused(
        "MultiHeadAttention", {**QKV, "bias": None, "mask": None, "more": None, "past_key": PAST, "past_value": PAST},
        num_heads=2, outputs="y k v",
    ),
    fused("GroupQueryAttention", {**GQA, "seqlens_k": ints(4, 4)}, num_heads=4, kv_num_heads=2, outputs="y k v"),
    fused(
        "GroupQueryAttention", {**GQA, "query": (2, 5, 64), "key": (2, 5, 32), "value": (2, 5, 32), "seqlens_k": ints(4, 4), "cos": np.cos(WIDE), "sin": np.sin(WIDE)},  # noqa: E501
        num_heads=4, kv_num_heads=2, do_rotary=1, outputs="y k v",
    ),
    fused("GroupQueryAttention", {**GQA, "seqlens_k": ints(4, 4)}, num_heads=4, kv_num_heads=2, local_window_size=2, softcap=5.0, outputs="y k v"),  # noqa: E501
    fused(
        "GroupQueryAttention", {**GQA, "query": (2, 5, 64), "key": None, "value": None, "seqlens_k": ints(4, 4)},
        num_heads=4, kv_num_heads=2, scale=0.4, outputs="y k v",
    ),
    fused("GroupQueryAttention", CACHED, num_heads=4, kv_num_heads=2, outputs="y k v"),
    fused(
        "GroupQueryAttention", {**CACHED, "query": (1, 2, 32), "key": (1, 2, 16), "value": (1, 2, 16), "past_key": (1, 2, 3, 8), "past_value": (1, 2, 3, 8), "seqlens_k": ints(4), "total": np.array(5, np.int32)},  # noqa: E501
        num_heads=4, kv_num_heads=2, local_window_size=3, outputs="y k v",
    ),
    fused(
        "GroupQueryAttention", {**CACHED, "query": (2, 1, 64), "key": (2, 1, 32), "value": (2, 1, 32), "past_key": (2, 2, 3, 16), "past_value": (2, 2, 3, 16), "cos": np.cos(WIDE), "sin": np.sin(WIDE)},  # noqa: E501
        num_heads=4, kv_num_heads=2, do_rotary=1, outputs="y k v",
    ),
    fused("Attention", {"x": X, "w": (8, 24), "b": (24,), "mask": ints(4, 5, 1, 2)}, num_heads=2),
    fused("Attention", {"x": X, "w": (8, 24), "b": (24,), "mask": ints(5, 3, 2, 0)}, num_heads=4, scale=0.3),
    fused("MatMulNBits", {"a": (2, 5, 48), "b": NBITS, "s": (18,)}, wrt="a", K=48, N=6, bits=4, block_size=16),
    fused("MatMulNBits", {"a": (5, 41), "b": NBITS, "s": (18,), "z": NBITS.reshape(-1)[:12]}, wrt="a", K=41, N=6, bits=4, block_size=16),  # noqa: E501
    fused(
        "MatMulNBits", {"a": (5, 40), "b": np.concatenate([NBITS, NBITS], 2), "s": (18,), "z": None, "g": None, "bias": (6,)},
        wrt="a", K=40, N=6, bits=8, block_size=16,
    ),
    fused("ExpandDims", {"x": X, "axis": np.array(1, np.int32)}),
    fused("Trilu", {"x": X}, upper=0),
    fused("Pad", {"x": (3, 4), "pads": ints(0, 1, 0, 2, dtype=np.int64)}),
    fused("GatherND", {"x": X, "i": ints([0, 1], [1, 4], dtype=np.int64)}),
]  # fmt: skip


def arrays_of(case: Fused, dtype: Any) -> dict[str, Array]:
    rng = np.random.default_rng(zlib.crc32(case.id.encode()))
    found = {}
    for name, operand in case.operands.items():
        if isinstance(operand, tuple):
            found[name] = rng.normal(size=operand).astype(np.float32).astype(dtype)
        elif operand is not None:
            found[name] = operand.astype(dtype) if operand.dtype.kind == "f" else operand
    return found


def model_of(case: Fused, arrays: dict[str, Array], inputs: list[str]) -> onnx.ModelProto:
    names = [k if v is not None else "" for k, v in case.operands.items()]
    one = helper.make_node(case.op_type, names, list(case.outputs), "fused", domain=case.domain, **case.attributes)
    kind = helper.np_dtype_to_tensor_dtype(next(a.dtype for a in arrays.values() if a.dtype.kind == "f"))
    graph = helper.make_graph(
        [one],
        "fused",
        [helper.make_tensor_value_info(n, kind, arrays[n].shape) for n in inputs],
        [helper.make_tensor_value_info(n, kind, None) for n in case.outputs if n],
        [numpy_helper.from_array(a, n) for n, a in arrays.items() if n not in inputs],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def run_fused(proto: onnx.ModelProto, feeds: dict[str, Array]) -> dict[str, Array]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True))


def drawn(case: Fused) -> list[str]:
    return list(case.wrt) or [k for k, v in case.operands.items() if isinstance(v, tuple)]


@pytest.mark.parametrize("case", CASES, ids=[c.id for c in CASES])
def test_split_returns_what_the_fused_kernel_returns(case: Fused) -> None:
    arrays = arrays_of(case, np.float32)
    proto = model_of(case, arrays, drawn(case))
    feeds = {n: arrays[n] for n in drawn(case)}
    expected = run_fused(proto, feeds)
    rewriter = Rewriter(canonicalise(read_model(proto)))
    assert all(n.domain == "" for n in rewriter.graph), [(n.op_type, n.meta) for n in rewriter.graph]
    found = Session(rewriter.finish(), threads=1).run(feeds)
    for name, y in expected.items():
        assert found[name].shape == y.shape
        assert np.max(np.abs(found[name] - y)) <= 1e-5 * max(1.0, np.max(np.abs(y))), name


@pytest.mark.parametrize("case", CASES, ids=[c.id for c in CASES])
def test_gradient_of_the_split_equals_differences(case: Fused) -> None:
    arrays = arrays_of(case, np.float64)
    proto, names = model_of(case, arrays, drawn(case)), drawn(case)
    feeds = {n: arrays[n] for n in names}
    rng = np.random.default_rng(3)
    rewriter = Rewriter(canonicalise(read_model(proto)))
    plain = onnx_proto(rewriter)
    runner = ReferenceEvaluator(plain, new_ops=CORRECTED)
    with np.errstate(all="ignore"):
        results = dict(zip(runner.output_names, runner.run(None, feeds), strict=True))
        seeds = {n: rng.normal(size=y.shape) for n, y in results.items()}

        def scalar(h: float, direction: dict[str, Array]) -> float:
            moved = runner.run(None, {n: x + h * direction[n] for n, x in feeds.items()})
            return sum(float(np.vdot(seeds[n], y)) for n, y in zip(runner.output_names, moved, strict=True))

        found = onnxplain.vjp(proto, feeds, seeds, wrt=names, providers="reference")
        for _ in range(2):
            direction = {n: rng.normal(size=x.shape) for n, x in feeds.items()}
            slopes = [(scalar(h, direction) - scalar(-h, direction)) / (2 * h) for h in (1e-4, 5e-5)]
            numeric = (4 * slopes[1] - slopes[0]) / 3
            analytic = sum(float(np.vdot(found[n], direction[n])) for n in names)
            scale = sum(float(np.linalg.norm(found[n]) * np.linalg.norm(direction[n])) for n in names) + 1e-3
            assert abs(numeric - analytic) <= 1e-7 * scale


def onnx_proto(rewriter: Rewriter) -> onnx.ModelProto:
    import onnx_ir as ir

    return copy.deepcopy(ir.to_proto(rewriter.model))


@pytest.mark.parametrize("lengths", [(2, 3), (0, 2), (1, 1)])
@pytest.mark.parametrize("rotary", [False, True])
def test_a_cache_that_is_filled_differently_for_each_sample(lengths: tuple[int, int], rotary: bool) -> None:
    """New keys stand behind those that count; what lies beyond the last one is anything, in the runtime too."""
    wide = {
        "query": (2, 1, 64),
        "key": (2, 1, 32),
        "value": (2, 1, 32),
        "past_key": (2, 2, 3, 16),
        "past_value": (2, 2, 3, 16),
    }
    tables = {"cos": np.cos(WIDE), "sin": np.sin(WIDE)} if rotary else {}
    case = fused(
        "GroupQueryAttention", {**CACHED, **wide, "seqlens_k": ints(*lengths), **tables},
        num_heads=4, kv_num_heads=2, do_rotary=int(rotary), outputs="y k v",
    )  # fmt: skip
    arrays = arrays_of(case, np.float32)
    proto = model_of(case, arrays, drawn(case))
    feeds = {n: arrays[n] for n in drawn(case)}
    expected = run_fused(proto, feeds)
    found = Session(Rewriter(canonicalise(read_model(proto))).finish(), threads=1).run(feeds)
    np.testing.assert_allclose(found["y"], expected["y"], atol=1e-5)
    for b, last in enumerate(lengths):
        for name in "kv":
            np.testing.assert_allclose(found[name][b, :, : last + 1], expected[name][b, :, : last + 1], atol=1e-6)
    seed = {"y": np.ones_like(expected["y"])}
    gradient = onnxplain.vjp(proto, feeds, seed, wrt=["past_value"])["past_value"]
    unused = np.arange(3)[None, :] >= np.array(lengths)[:, None]
    assert not gradient.transpose(0, 2, 1, 3)[unused].any()
    assert np.abs(gradient).max() > 0


def test_embedding_is_looked_up_summed_and_normalised() -> None:
    rng = np.random.default_rng(5)
    weights = {
        k: rng.normal(size=s).astype(np.float32)
        for k, s in {"word": (11, 8), "pos": (7, 8), "seg": (2, 8), "g": (8,), "b": (8,)}.items()
    }
    operands = {
        "ids": ints([1, 4, 9, 0], [3, 3, 10, 2]), "segments": ints([0, 0, 1, 1], [0, 1, 1, 1]),
        **weights, "mask": ints([1, 1, 1, 0], [1, 1, 0, 0]),
    }  # fmt: skip
    names = list(operands)
    one = helper.make_node(
        "EmbedLayerNormalization", names, ["y", "index", "total"], "embed", domain="com.microsoft", epsilon=1e-3
    )
    graph = helper.make_graph(
        [one], "g", [helper.make_tensor_value_info(n, TensorProto.INT32, [2, 4]) for n in ("ids", "segments", "mask")],
        [helper.make_tensor_value_info("y", 1, None), helper.make_tensor_value_info("index", 6, None), helper.make_tensor_value_info("total", 1, None)],  # noqa: E501
        [numpy_helper.from_array(a, n) for n, a in weights.items()],
    )  # fmt: skip
    proto = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)], ir_version=8
    )
    feeds = {n: operands[n] for n in ("ids", "segments", "mask")}
    expected = run_fused(proto, feeds)
    found = Session(Rewriter(canonicalise(read_model(proto))).finish(), threads=1).run(feeds)
    for name, y in expected.items():
        np.testing.assert_allclose(found[name], y, rtol=1e-5, atol=1e-5)
    assert onnxplain.vjp(proto, feeds, {"y": np.ones_like(expected["y"])}, wrt=["total"])["total"].shape == (2, 4, 8)


def test_channels_last_convolution_equals_the_usual_one() -> None:
    """onnxruntime's CPU build has no float kernel for it: the truth is Conv between transposes."""
    rng = np.random.default_rng(6)
    weights = {"w": rng.normal(size=(4, 3, 3, 3)), "b": rng.normal(size=4)}
    last = model(
        [node("NhwcConv", "x w b", "y", domain="com.microsoft", pads=[1, 1, 1, 1], strides=[2, 2])],
        {"x": [2, 6, 6, 3]}, {"y": [2, 3, 3, 4]}, weights, domains=["com.microsoft"],
    )  # fmt: skip
    first = model(
        [node("Conv", "x w b", "y", pads=[1, 1, 1, 1], strides=[2, 2])],
        {"x": [2, 3, 6, 6]},
        {"y": [2, 4, 3, 3]},
        weights,
    )
    x, seed = rng.normal(size=(2, 3, 6, 6)).astype(np.float32), rng.normal(size=(2, 4, 3, 3)).astype(np.float32)
    found = onnxplain.vjp(last, {"x": x.transpose(0, 2, 3, 1)}, {"y": seed.transpose(0, 2, 3, 1)})["x"]
    expected = onnxplain.vjp(first, {"x": x}, {"y": seed})["x"]
    np.testing.assert_allclose(found.transpose(0, 3, 1, 2), expected, rtol=1e-5, atol=1e-6)


def erf_gelu(x: Array) -> Array:
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


WITHOUT_KERNEL = {
    "BiasDropout": (("x", "b", "s"), lambda x, b, s, w: x + b + s),
    "BiasAdd": (("x", "b", "s"), lambda x, b, s, w: x + b + s),
    "BiasSplitGelu": (("x", "b"), lambda x, b, s, w: (x + b)[..., :4] * erf_gelu((x + b)[..., 4:])),
    "GemmFastGelu": (
        ("x", "w", "b"),
        lambda x, b, s, w: (z := x @ w + b) * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))),
    ),
}


@pytest.mark.parametrize("op_type", WITHOUT_KERNEL)
def test_operators_without_a_kernel_for_the_cpu_equal_their_formula(op_type: str) -> None:
    names, formula = WITHOUT_KERNEL[op_type]
    rng = np.random.default_rng(8)
    arrays = {n: rng.normal(size=s).astype(np.float32) for n, s in {"x": X, "b": H, "s": X, "w": (8, 8)}.items()}
    proto = model(
        [node(op_type, " ".join(names), "y", domain="com.microsoft")], {"x": X}, {"y": None},
        {n: arrays[n] for n in names[1:]}, domains=["com.microsoft"],
    )  # fmt: skip
    found = Session(Rewriter(canonicalise(read_model(proto))).finish(), threads=1).run({"x": arrays["x"]})["y"]
    np.testing.assert_allclose(found, formula(*(arrays[n] for n in "xbsw")), rtol=1e-5, atol=1e-5)


def test_complementary_error_function_of_tf2onnx() -> None:
    """The standard has no Erfc, and no runtime either: the truth is the C library's."""
    x = np.array([[-2.0, -0.3, 0.0, 0.7, 1.9]], np.float32)
    proto = model([node("Erfc", "x", "y")], {"x": ["N", 5]}, {"y": ["N", 5]}, opset=17)
    found = Session(Rewriter(canonicalise(read_model(proto))).finish(), threads=1).run({"x": x})["y"]
    np.testing.assert_allclose(found, [[math.erfc(v) for v in x[0]]], rtol=1e-5, atol=1e-6)
    slope = onnxplain.vjp(proto, {"x": x}, {"y": np.ones_like(x)})["x"]
    np.testing.assert_allclose(slope, -2 / math.sqrt(math.pi) * np.exp(-(x**2)), rtol=1e-5)


def test_ranks_are_known_behind_the_first_fused_node() -> None:
    """Inference of the standard stops at a foreign node; the transposed batch of the second one needs a rank."""
    proto = model(
        [
            node("BiasGelu", "x b", "h", domain="com.microsoft"),
            node("Reshape", "h shape", "r"),
            node("FusedMatMul", "r w", "y", domain="com.microsoft", transA=1),
        ],
        {"x": ["N", 6]}, {"y": None}, {"b": np.ones(6), "shape": np.array([0, 2, 3]), "w": np.ones((2, 4))},
        domains=["com.microsoft"],
    )  # fmt: skip
    assert onnxplain.check(proto).ok


@pytest.mark.parametrize(
    ("case", "words"),
    [
        (fused("FusedConv", {"x": (2, 3, 6, 6), "w": (4, 3, 3, 3)}, activation="Mystery"), "Mystery"),
        (
            fused("MatMulNBits", {"a": (2, 48), "b": NBITS, "s": (18,)}, wrt="a", K=48, N=6, bits=3, block_size=16),
            "bits=3",
        ),
        (fused("Attention", {"x": X, "w": (8, 24), "b": (24,)}, num_heads=2, do_rotary=1), "do_rotary=1"),
        (fused("GroupQueryAttention", GQA, num_heads=4, kv_num_heads=2, smooth_softmax=1), "smooth_softmax=1"),
        (fused("GroupQueryAttention", CACHED, num_heads=4, kv_num_heads=2), "does not return it"),
        (fused("SkipLayerNormalization", {"x": X, "skip": X, "g": H}, outputs="y mean"), "output 1"),
    ],
    ids=lambda v: v.op_type if isinstance(v, Fused) else None,
)
def test_what_cannot_be_split_is_refused_with_the_reason(case: Fused, words: str) -> None:
    arrays = arrays_of(case, np.float32)
    proto = model_of(case, arrays, drawn(case))
    with pytest.raises(UnsupportedNodeError, match=words) as caught:
        onnxplain.vjp(
            proto, {n: arrays[n] for n in drawn(case)}, {"y": np.zeros((2, 5, 8), np.float32)}, wrt=drawn(case)[:1]
        )
    assert caught.value.node == "fused"
    assert f"com.microsoft::{case.op_type}" in str(caught.value)


def test_unknown_contrib_operator_is_told_which_are_known() -> None:
    proto = model(
        [node("Mystery", "x", "y", domain="com.microsoft")], {"x": [2, 3]}, {"y": [2, 3]}, domains=["com.microsoft"]
    )
    with pytest.raises(UnsupportedNodeError) as caught:
        onnxplain.vjp(proto, {"x": np.zeros((2, 3), np.float32)}, {"y": np.zeros((2, 3), np.float32)})
    assert all(name in str(caught.value) for name in known_operators())
