"""Small models by name, written out operator by operator, for tests that know the answer."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray[Any, Any]


def assets() -> Path | None:
    """Folder of the development models, from ``ONNXPLAIN_ASSETS`` or beside the checkout; None without."""
    candidates = [os.environ.get("ONNXPLAIN_ASSETS"), Path(__file__).resolve().parents[3] / "shared" / "assets"]
    return next((Path(c) for c in candidates if c and Path(c).is_dir()), None)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[Any]],
    outputs: Mapping[str, Sequence[Any]],
    weights: Mapping[str, Any] | None = None,
    *,
    opset: int = 18,
    dtype: int = TensorProto.FLOAT,
    domains: Sequence[str] = (),
) -> onnx.ModelProto:
    """A model; weights are cast to ``dtype`` when they are floats."""
    kind = helper.tensor_dtype_to_np_dtype(dtype)
    initializers = []
    for name, value in (weights or {}).items():
        array = np.asarray(value)
        initializers.append(numpy_helper.from_array(array.astype(kind) if array.dtype.kind == "f" else array, name))
    graph = helper.make_graph(
        list(nodes),
        "tiny",
        [helper.make_tensor_value_info(n, dtype, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, dtype, s) for n, s in outputs.items()],
        initializers,
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=max(8, helper.find_min_ir_version_for(opsets[:1])))


def node(op_type: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    """A node; names are separated by blanks, ``-`` is an omitted input."""
    names = ["" if n == "-" else n for n in inputs.split()]
    return helper.make_node(op_type, names, outputs.split(), name=f"{outputs.split()[0]}_node", **attributes)


def forest() -> onnx.ModelProto:
    """One stump that gives probabilities: (0.9, 0.1) where x1 <= 0.5, else (0.2, 0.8)."""
    tree = helper.make_node(
        "TreeEnsembleClassifier", ["x"], ["label", "probabilities"], domain="ai.onnx.ml", post_transform="NONE",
        nodes_treeids=[0, 0, 0], nodes_nodeids=[0, 1, 2], nodes_featureids=[1, 0, 0],
        nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"], nodes_values=[0.5, 0.0, 0.0], nodes_truenodeids=[1, 0, 0],
        nodes_falsenodeids=[2, 0, 0], class_treeids=[0, 0, 0, 0], class_nodeids=[1, 1, 2, 2], class_ids=[0, 1, 0, 1],
        class_weights=[0.9, 0.1, 0.2, 0.8], classlabels_int64s=[0, 1],
    )  # fmt: skip
    proto = model([tree], {"x": ["N", 2]}, {"label": ["N"], "probabilities": ["N", 2]}, domains=["ai.onnx.ml"])
    proto.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    return proto


def fullgrad_net(dtype: int = TensorProto.FLOAT) -> tuple[onnx.ModelProto, Array]:
    """The small convolutional net with a known full-gradient decomposition, and its input."""
    i, j = np.meshgrid(np.arange(4), np.arange(4), indexing="ij")
    x = ((3 * i + 5 * j) % 7 - 3) / 2 + 0.1 * i - 0.05 * j
    first = np.array([[[[0, 1, 0], [1, -2, 1], [0, 1, 0]]], [[[0.5, 0, -0.5], [1, 0, -1], [0.5, 0, -0.5]]]])
    o, c, u, v = np.meshgrid(*map(np.arange, (2, 2, 3, 3)), indexing="ij")
    second = ((5 * (18 * o + 9 * c + 3 * u + v)) % 7 - 3) / 4
    rows, columns = np.meshgrid(np.arange(2), np.arange(8), indexing="ij")
    last = ((3 * columns + 2 * rows) % 5 - 2) / 2
    proto = model(
        [
            node("Conv", "x w1 b1", "z1", pads=[1, 1, 1, 1]),
            node("Relu", "z1", "a1"),
            node("MaxPool", "a1", "p1", kernel_shape=[2, 2], strides=[2, 2]),
            node("Conv", "p1 w2 b2", "z2", pads=[1, 1, 1, 1]),
            node("Relu", "z2", "a2"),
            node("Flatten", "a2", "flat"),
            node("Gemm", "flat w3 b3", "logits", transB=1),
        ],
        {"x": ["N", 1, 4, 4]},
        {"logits": ["N", 2]},
        {
            "w1": first, "b1": np.array([0.5, -0.25]), "w2": second, "b2": np.array([-0.5, 0.25]),
            "w3": last, "b3": np.array([0.1, -0.2]),
        },
        dtype=dtype,
    )  # fmt: skip
    return proto, x.reshape(1, 1, 4, 4).astype(helper.tensor_dtype_to_np_dtype(dtype))


def example_one(dtype: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """``relu(relu(x1) - 1 - relu(x2))``, x of shape [N, 2]."""
    return model(
        [
            node("Relu", "x", "a"),
            node("MatMul", "a w", "d"),
            node("Sub", "d one", "e"),
            node("Relu", "e", "y"),
        ],
        {"x": ["N", 2]},
        {"y": ["N", 1]},
        {"w": np.array([[1.0], [-1.0]]), "one": np.array(1.0)},
        dtype=dtype,
    )


def example_two(dtype: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """``relu(relu(x1 - 1) - relu(x2))``: the same function, written differently."""
    return model(
        [
            node("Sub", "x shift", "s"),
            node("Relu", "s", "a"),
            node("MatMul", "a w", "d"),
            node("Relu", "d", "y"),
        ],
        {"x": ["N", 2]},
        {"y": ["N", 1]},
        {"w": np.array([[1.0], [-1.0]]), "shift": np.array([1.0, 0.0])},
        dtype=dtype,
    )


def simple_model(dtype: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """Two layers: W1 = [[1, -1], [-1, 1]], b1 = (1.5, -1), ReLU, W2 = [[1.1, 1.4], [-0.5, 1]], b2 = (0, 2)."""
    return model(
        [node("Gemm", "x w1 b1", "z"), node("Relu", "z", "a"), node("Gemm", "a w2 b2", "y")],
        {"x": ["N", 2]},
        {"y": ["N", 2]},
        {
            "w1": np.array([[1.0, -1.0], [-1.0, 1.0]]), "b1": np.array([1.5, -1.0]),
            "w2": np.array([[1.1, 1.4], [-0.5, 1.0]]), "b2": np.array([0.0, 2.0]),
        },
        dtype=dtype,
    )  # fmt: skip


def perceptron(
    activation: str = "Relu", *, features: int = 4, hidden: int = 6, bias: float = 1.0, dummy: bool = True
) -> onnx.ModelProto:
    """Two layers, three classes; the last feature has no weight at all unless ``dummy`` is off."""
    rng = np.random.default_rng(5)
    first = rng.normal(size=(features, hidden))
    if dummy:
        first[-1] = 0
    return model(
        [node("Gemm", "x w b", "z"), node(activation, "z", "a"), node("Gemm", "a v c", "y")],
        {"x": ["N", features]},
        {"y": ["N", 3]},
        {
            "w": first, "b": bias * rng.normal(size=hidden), "v": rng.normal(size=(hidden, 3)),
            "c": bias * rng.normal(size=3),
        },
    )  # fmt: skip
