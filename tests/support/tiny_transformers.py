"""Tiny transformers written out operator by operator: one block of attention, and a vision transformer."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto
from tiny_models import model, node

Array = np.ndarray[Any, Any]


def _gelu(name: str, x: str, form: str, weights: dict[str, Any]) -> list[onnx.NodeProto]:
    weights |= {"root2": np.array(np.sqrt(2.0)), "one": np.array(1.0), "half": np.array(0.5)}
    if form == "silu":
        return [node("Sigmoid", x, f"{name}_s"), node("Mul", f"{x} {name}_s", name)]
    return [
        node("Div", f"{x} root2", f"{name}_d"),
        node("Erf", f"{name}_d", f"{name}_e"),
        node("Add", f"{name}_e one", f"{name}_p"),
        node("Mul", f"half {name}_p", f"{name}_g"),
        node("Mul", f"{x} {name}_g", name),
    ]


def block(
    name: str, x: str, y: str, weights: dict[str, Any], *, width: int, heads: int, rng: Any, gate: str = "gelu"
) -> list[onnx.NodeProto]:
    """A pre-norm block on ``[N, T, D]``: heads split off and joined again by Reshape and Transpose."""
    head = width // heads

    def w(key: str, *shape: int) -> str:
        weights[f"{name}_{key}"] = rng.normal(size=shape) / np.sqrt(shape[0])
        return f"{name}_{key}"

    def n(key: str) -> str:
        return f"{name}_{key}"

    weights |= {
        "split": np.array([0, -1, heads, head]),
        "join": np.array([0, -1, width]),
        "temperature": np.array(1 / np.sqrt(head)),
    }
    nodes = [node("LayerNormalization", f"{x} {w('s1', width)} {w('b1', width)}", n("n1"), epsilon=1e-6)]
    for key in "qkv":
        nodes += [
            node("MatMul", f"{n('n1')} {w(f'w{key}', width, width)}", n(f"{key}m")),
            node("Add", f"{n(f'{key}m')} {w(f'b{key}', width)}", n(f"{key}a")),
            node("Reshape", f"{n(f'{key}a')} split", n(f"{key}r")),
            node("Transpose", n(f"{key}r"), n(key), perm=[0, 2, 3, 1] if key == "k" else [0, 2, 1, 3]),
        ]
    nodes += [
        node("Mul", f"{n('q')} temperature", n("qs")),
        node("MatMul", f"{n('qs')} {n('k')}", n("scores")),
        node("Softmax", n("scores"), n("attention"), axis=-1),
        node("MatMul", f"{n('attention')} {n('v')}", n("mixed")),
        node("Transpose", n("mixed"), n("mt"), perm=[0, 2, 1, 3]),
        node("Reshape", f"{n('mt')} join", n("mj")),
        node("MatMul", f"{n('mj')} {w('wo', width, width)}", n("om")),
        node("Add", f"{n('om')} {w('bo', width)}", n("oa")),
        node("Add", f"{x} {n('oa')}", n("stream")),
        node("LayerNormalization", f"{n('stream')} {w('s2', width)} {w('b2', width)}", n("n2"), epsilon=1e-6),
        node("MatMul", f"{n('n2')} {w('w1', width, 2 * width)}", n("um")),
        node("Add", f"{n('um')} {w('bu', 2 * width)}", n("up")),
        *_gelu(n("act"), n("up"), gate, weights),
        node("MatMul", f"{n('act')} {w('w2', 2 * width, width)}", n("dm")),
        node("Add", f"{n('dm')} {w('bd', width)}", n("down")),
        node("Add", f"{n('stream')} {n('down')}", y),
    ]
    return nodes


def attention_block(gate: str = "gelu", dtype: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """``[N, 3, 4]`` -> block -> mean over the tokens -> two classes."""
    rng = np.random.default_rng(8)
    weights: dict[str, Any] = {"head": rng.normal(size=(4, 2)), "offset": rng.normal(size=2), "axis1": np.array([1])}
    nodes = [
        *block("b0", "x", "z", weights, width=4, heads=1, rng=rng, gate=gate),
        node("ReduceMean", "z axis1", "pooled", keepdims=0),
        node("Gemm", "pooled head offset", "y"),
    ]
    return model(nodes, {"x": ["N", 3, 4]}, {"y": ["N", 2]}, weights, dtype=dtype)


def vision_transformer(
    *,
    readout: str = "class",
    blocks: int = 2,
    gate: str = "gelu",
    dtype: int = TensorProto.FLOAT,
    rows: int = 3,
    columns: int = 4,
) -> tuple[onnx.ModelProto, Array]:
    """Patches of 2 x 2 pixels, a class token in front, positions, blocks, a normalisation, a linear head.

    Args:
        readout: ``class``: the class token by Gather; ``mean``: all tokens; ``patches``: the mean of the patches.
        blocks, gate, rows, columns: Size, activation (``gelu`` written out, ``silu``) and the grid.
        dtype: Of weights and input.
    """
    rng = np.random.default_rng(12)
    width, tokens = 8, rows * columns
    weights: dict[str, Any] = {
        "kernel": rng.normal(size=(width, 3, 2, 2)) / 3,
        "kernel_bias": rng.normal(size=width),
        "to_rows": np.array([0, width, -1]),
        "class_token": rng.normal(size=(1, 1, width)),
        "positions": rng.normal(size=(1, tokens + 1, width)),
        "first": np.array([0]),
        "second": np.array([1]),
        "end": np.array([2**31 - 1]),
        "here": np.array(0),
        "axis1": np.array([1]),
        "tail": np.array([1, width]),
        "scale": rng.uniform(0.5, 1.5, width),
        "shift": rng.normal(size=width),
        "head": rng.normal(size=(width, 3)),
        "offset": rng.normal(size=3),
    }
    nodes = [
        node("Conv", "x kernel kernel_bias", "patches", strides=[2, 2]),
        node("Reshape", "patches to_rows", "flat"),
        node("Transpose", "flat", "sequence", perm=[0, 2, 1]),
        node("Shape", "x", "n", start=0, end=1),
        node("Concat", "n tail", "n11", axis=0),
        node("Expand", "class_token n11", "token"),
        node("Concat", "token sequence", "tokens", axis=1),
        node("Add", "tokens positions", "z0"),
    ]
    for i in range(blocks):
        nodes += block(f"b{i}", f"z{i}", f"z{i + 1}", weights, width=width, heads=2, rng=rng, gate=gate)
    nodes.append(node("LayerNormalization", f"z{blocks} scale shift", "norm", epsilon=1e-6))
    if readout == "class":
        nodes.append(node("Gather", "norm here", "pooled", axis=1))
    elif readout == "mean":
        nodes.append(node("ReduceMean", "norm axis1", "pooled", keepdims=0))
    else:
        nodes += [
            node("Slice", "norm second end second", "only"),
            node("ReduceMean", "only axis1", "pooled", keepdims=0),
        ]
    nodes.append(node("Gemm", "pooled head offset", "y"))
    shape = ["N", 3, 2 * rows, 2 * columns]
    proto = model(nodes, {"x": shape}, {"y": ["N", 3]}, weights, dtype=dtype)
    x = rng.normal(size=(2, 3, 2 * rows, 2 * columns))
    return proto, x.astype(np.float64 if dtype == TensorProto.DOUBLE else np.float32)
