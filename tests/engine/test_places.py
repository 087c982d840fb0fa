"""Places followed through nets: kept where they correspond, lost where they must be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from canonical_run import numbers
from tiny_models import fullgrad_net, model, node

from onnxplain.engine.axes import Joined
from onnxplain.engine.errors import OptionError
from onnxplain.engine.graph.canonical import canonicalise
from onnxplain.engine.graph.model import read_model
from onnxplain.engine.places import Labels, find_places, input_labels, spatial_axes

YX: Labels = ("batch", None, "y", "x")
YX_LAST: Labels = ("batch", "y", "x", None)
TOKENS: Labels = ("batch", "t", None)


def places(
    nodes: Sequence[onnx.NodeProto], shape: Sequence[Any], weights: Any = None, layout: str = "auto", outputs: str = "y"
) -> dict[str, Labels]:
    """Labels by value name."""
    proto = model(nodes, {"x": shape}, {n: [] for n in outputs.split()}, weights)
    for value in proto.graph.output:
        value.type.tensor_type.ClearField("shape")
    return of(proto, layout)


def of(proto: onnx.ModelProto, layout: str = "auto") -> dict[str, Labels]:
    graph = canonicalise(read_model(proto)).graph
    x = next(v for v in graph.inputs if v.name == "x")
    found = find_places(graph, {x: input_labels(x, layout)})
    return {v.name or "": labels for v, labels in found.items()}


def first(nodes: Sequence[onnx.NodeProto], shape: Sequence[Any], weights: Any = None, layout: str = "auto") -> Labels:
    """Labels of the input."""
    return places(nodes, shape, weights, layout)["x"]


# ----- inputs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "layout", "expected"),
    [
        (["N", 3, 8, 8], "auto", YX),
        (["N", 8, 8, 3], "auto", YX_LAST),
        (["N", 1, 8, 8], "auto", YX),
        (["N", 8, 8, 7], "auto", YX),
        (["N", 3, 8, 3], "auto", YX),
        (["N", 3, 8, 8], "channels_last", YX_LAST),
        (["N", 8, 8, 3], "channels_first", YX),
        (["N", 6, 100], "auto", ("batch", None, "t")),
        (["N", 100, 1], "auto", ("batch", "t", None)),
        (["N", 1, 100], "auto", ("batch", None, "t")),
        (["N", 1, 1], "auto", ("batch", None, "t")),
        (["N", 100, 6], "channels_last", TOKENS),
        (["N", 10], "auto", ("batch", "t")),
        (["N", 1, 4, 5, 6], "auto", ("batch", None, "z", "y", "x")),
        (["N"], "auto", ("batch",)),
        ([], "auto", ()),
    ],
)
def test_labels_of_inputs(shape: list[Any], layout: str, expected: Labels) -> None:
    assert first([node("Relu", "x", "y")], shape, layout=layout) == expected


def test_layout_by_what_reads_the_input() -> None:
    """What the operators say goes before what the sizes look like."""
    conv = {"w": numbers(2, 8, 3, 3)}
    assert first([node("Conv", "x w", "y")], ["N", 8, 8, 3], conv) == YX
    nodes = [node("Mul", "x k", "m"), node("Transpose", "m", "t", perm=[0, 3, 1, 2]), node("Conv", "t w", "y")]
    assert first(nodes, ["N", 3, 8, 8], {**conv, "k": numbers(1)}) == YX_LAST


def test_unknown_layout() -> None:
    with pytest.raises(OptionError, match="unknown layout 'nhwc'"):
        first([node("Relu", "x", "y")], ["N", 3, 8, 8], layout="nhwc")


def test_axes_by_place() -> None:
    assert spatial_axes(YX) == {"y": 2, "x": 3}
    assert spatial_axes(("batch", None)) == {}


# ----- networks -------------------------------------------------------------------------------------


def test_a_convolutional_net() -> None:
    found = of(fullgrad_net()[0])
    assert all(found[n] == YX for n in ("z1", "a1", "p1", "z2", "a2"))
    assert found["flat"] == ("batch", Joined(((None, 2), ("y", 2), ("x", 2))))
    assert found["logits"] == ("batch", None)


def test_a_residual_net_with_gates() -> None:
    """Squeeze-and-excitation: the gate has one place, the product has the picture's."""
    nodes = [
        node("Conv", "x w", "c", pads=[1, 1, 1, 1]),
        node("BatchNormalization", "c s s s s", "n"),
        node("GlobalAveragePool", "n", "g"),
        node("Conv", "g v", "e"),
        node("Sigmoid", "e", "gate"),
        node("Mul", "n gate", "m"),
        node("Add", "m x", "r"),
        node("Resize", "r - scales", "u"),
        node("Pad", "u pads", "y"),
    ]
    weights = {"w": numbers(3, 3, 3, 3), "v": numbers(3, 3, 1, 1), "s": abs(numbers(3)), "scales": numbers(4) * 0 + 2.0}
    found = places(nodes, ["N", 3, 8, 8], {**weights, "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1])})
    assert all(found[n] == YX for n in ("c", "n", "m", "r", "u", "y"))


def test_a_net_with_channels_last() -> None:
    nodes = [
        node("Transpose", "x", "t", perm=[0, 3, 1, 2]),
        node("Conv", "t w", "c"),
        node("Relu", "c", "r"),
        node("Transpose", "r", "b", perm=[0, 2, 3, 1]),
        node("Add", "b k", "a"),
        node("MatMul", "a v", "y"),
    ]
    found = places(nodes, ["N", 8, 8, 3], {"w": numbers(2, 3, 3, 3), "k": numbers(2), "v": numbers(2, 5)})
    assert found["x"] == YX_LAST
    assert found["c"] == found["r"] == YX
    assert found["b"] == found["a"] == found["y"] == YX_LAST


def test_a_transformer_block() -> None:
    """Positions hold along the residual stream; scores between positions have two."""
    nodes = [
        *(node("MatMul", f"x w{i}", i) for i in "qkv"),
        node("Transpose", "k", "kt", perm=[0, 2, 1]),
        node("MatMul", "q kt", "scores"),
        node("Softmax", "scores", "weights", axis=-1),
        node("MatMul", "weights v", "mixed"),
        node("MatMul", "mixed wo", "out"),
        node("Add", "x out", "stream"),
        node("LayerNormalization", "stream scale", "n"),
        node("MatMul", "n wq", "up"),
        node("Relu", "up", "act"),
        node("ReduceMean", "act one", "y", keepdims=0),
    ]
    weights = {**{f"w{i}": numbers(4, 4) for i in "qkvo"}, "scale": numbers(4), "one": np.array([1])}
    found = places(nodes, ["N", 7, 4], weights, layout="channels_last")
    assert all(found[n] == TOKENS for n in ("q", "k", "v", "stream", "n", "up", "act"))
    assert found["kt"] == ("batch", None, "t")
    assert found["scores"] == found["weights"] == ("batch", "t", "t")
    assert found["mixed"] == found["out"] == TOKENS
    assert found["y"] == ("batch", None)


def test_patches_become_a_sequence() -> None:
    """Rows and columns of patches in one axis, a class token in front, heads split off and joined with the batch."""
    nodes = [
        node("Conv", "x w", "patches", strides=[4, 4]),
        node("Reshape", "patches to", "rows"),
        node("Transpose", "rows", "tokens", perm=[0, 2, 1]),
        node("Concat", "token tokens", "all", axis=1),
        node("Reshape", "all heads", "split"),
        node("Transpose", "split", "byhead", perm=[0, 2, 1, 3]),
        node("Reshape", "byhead batches", "merged"),
        node("Reshape", "merged back", "again"),
        node("Transpose", "again", "bytoken", perm=[0, 2, 1, 3]),
        node("Reshape", "bytoken join", "stream"),
        node("Slice", "stream one end one", "only"),
        node("Gather", "stream zero", "class", axis=1),
        node("Reshape", "only grid", "y"),
    ]
    weights = {
        "w": numbers(6, 3, 4, 4), "token": numbers(1, 1, 6), "zero": np.array(0), "one": np.array([1]),
        "end": np.array([2**40]), "to": np.array([0, 6, -1]), "heads": np.array([1, -1, 2, 3]),
        "batches": np.array([2, -1, 3]), "back": np.array([-1, 2, 7, 3]), "join": np.array([1, 7, 6]),
        "grid": np.array([1, 2, 3, 6]),
    }  # fmt: skip
    found = places(nodes, [1, 3, 8, 12], weights, outputs="y class")
    grid = (("y", 2), ("x", 3))
    assert found["patches"] == YX
    assert found["rows"] == ("batch", None, Joined(grid))
    assert found["all"] == ("batch", Joined(grid, 1), None)
    assert found["split"] == ("batch", Joined(grid, 1), None, None)
    assert found["merged"][1:] == (Joined(grid, 1), None)
    assert found["bytoken"] == ("batch", Joined(grid, 1), None, None)
    assert found["stream"] == ("batch", Joined(grid, 1), None)
    assert found["only"] == ("batch", Joined(grid), None)
    assert found["class"] == ("batch", None)
    assert found["y"] == YX_LAST


# ----- operators ------------------------------------------------------------------------------------

INTS = {"i1": [1], "i2": [2], "i3": [3], "i0": [0], "ax": [2, 3], "m1": [-1]}


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([node("Transpose", "x", "y")], ("x", "y", None, "batch")),
        ([node("Transpose", "x", "y", perm=[0, 1, 3, 2])], ("batch", None, "x", "y")),
        ([node("Concat", "x x", "y", axis=1)], YX),
        ([node("Concat", "x x", "y", axis=-1)], ("batch", None, "y", None)),
        ([node("Concat", "x x", "y", axis=0)], (None, None, "y", "x")),
        ([node("Slice", "x i1 i3 i1", "y")], YX),
        ([node("Slice", "x i1 i3 ax0", "y")], ("batch", None, None, "x")),
        ([node("Slice", "x i0 i1 i0", "y")], YX),
        ([node("ReduceMean", "x i1", "y", keepdims=0)], ("batch", "y", "x")),
        ([node("ReduceMean", "x i1", "y", keepdims=1)], YX),
        ([node("ReduceMean", "x ax", "y", keepdims=0)], ("batch", None)),
        ([node("ReduceMean", "x m1", "y", keepdims=0)], ("batch", None, "y")),
        ([node("ReduceMean", "x", "y", keepdims=0)], None),
        ([node("Unsqueeze", "x i1", "y")], ("batch", None, None, "y", "x")),
        ([node("Unsqueeze", "x m1", "y")], ("batch", None, "y", "x", None)),
        ([node("Unsqueeze", "x i1", "u"), node("Squeeze", "u i1", "y")], YX),
        ([node("MatMul", "x w", "y")], ("batch", None, "y", None)),
        ([node("MatMul", "x x", "y")], YX),
        ([node("MatMul", "w x", "y")], ("batch", None, None, "x")),
        ([node("Flatten", "x", "y")], ("batch", Joined(((None, 3), ("y", 6), ("x", 6))))),
        ([node("Flatten", "x", "y", axis=2)], None),
        ([node("Einsum", "x", "y", equation="nchw->ncwh")], ("batch", None, "x", "y")),
        ([node("Einsum", "x x", "y", equation="nchi,nchj->nij")], ("batch", "x", "x")),
        ([node("Gather", "x i1", "y", axis=3)], ("batch", None, "y", None)),
        ([node("Gather", "x i1", "y", axis=0)], None),
        ([node("ReverseSequence", "x lens", "y")], None),
        ([node("Transpose", "x", "t", perm=[0, 1, 3, 2]), node("Add", "x t", "y")], None),
        ([node("Add", "x k", "y")], YX),
        ([node("Where", "c x k", "y")], YX),
        ([node("Softmax", "x", "y", axis=1)], YX),
        ([node("CumSum", "x s3", "y")], None),
    ],
    ids=lambda v: v[-1].op_type if isinstance(v, list) else None,
)
def test_operators(nodes: list[onnx.NodeProto], expected: Labels | None) -> None:
    weights: dict[str, Any] = {k: np.array(v) for k, v in INTS.items()}
    weights |= {
        "ax0": np.array([-2]),
        "w": numbers(6, 6),
        "k": numbers(1),
        "c": np.array([True]),
        "s3": np.array(3),
        "lens": np.array([6] * 3),
    }
    assert places(nodes, ["N", 3, 6, 6], weights).get("y") == expected


REDUCTIONS = sorted({s.name for s in onnx.defs.get_all_schemas() if s.name.startswith("Reduce")})


@pytest.mark.parametrize("kind", REDUCTIONS)
def test_every_reduction_keeps_its_other_axes(kind: str) -> None:
    found = places([node(kind, "x i1", "y", keepdims=0)], ["N", 3, 6, 6], {"i1": np.array([1])})
    assert found["y"] == ("batch", "y", "x")


def test_results_whose_rank_is_not_known_have_no_place() -> None:
    """A sum with an operand of any rank may have its axes anywhere."""
    proto = model([node("Add", "x other", "y")], {"x": ["N", 3, 6, 6], "other": []}, {"y": []})
    for value in (proto.graph.input[1], proto.graph.output[0]):
        value.type.tensor_type.ClearField("shape")
    assert "y" not in of(proto)


def test_an_unknown_domain_ends_the_places() -> None:
    proto = model(
        [node("Relu", "x", "z", domain="org.example"), node("Relu", "x", "y")],
        {"x": ["N", 3, 6, 6]}, {"y": ["N", 3, 6, 6], "z": ["N", 3, 6, 6]}, domains=["org.example"],
    )  # fmt: skip
    found = of(proto)
    assert found["y"] == YX
    assert "z" not in found
