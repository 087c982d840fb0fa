"""Sizes that follow from the graph become numbers; symbols are kept; outputs stay what they are."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from canonical_run import numbers, operators, same_outputs
from onnx import TensorProto, helper
from tiny_models import model, node

from onnxplain.engine.graph.canonical import canonicalise
from onnxplain.engine.graph.model import read_model
from onnxplain.engine.graph.passes.fold_constants import _EVALUATED, LIMIT
from onnxplain.engine.graph.shapes import dims
from onnxplain.engine.session.reference_ops import CORRECTED

X = numbers(2, 3, 4, 5)
INTS = {
    "zero": np.array([0]), "one": np.array([1]), "two": np.array([2]), "minus": np.array([-1]), "s0": np.array(0),
    "s1": np.array(1), "big": np.array([2**62]), "end": np.array([np.iinfo(np.int64).max]),
}  # fmt: skip


def net(
    nodes: Sequence[onnx.NodeProto], shape: Sequence[Any] = ("N", 3, 4, 5), weights: Mapping[str, Any] | None = None
) -> onnx.ModelProto:
    proto = model(nodes, {"x": shape}, {"y": []}, {**INTS, **(weights or {})})
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    return proto


def result(
    proto: onnx.ModelProto, x: np.ndarray[Any, Any] = X, batch: bool = True, tolerance: float = 0
) -> tuple[list[str], Any]:
    """Operators and the output's sizes, after comparing the outputs for two batches."""
    canonical = same_outputs(proto, {"x": x}, tolerance)
    if batch:
        same_outputs(proto, {"x": np.concatenate([x, x, x])}, tolerance)
    return operators(canonical), dims(canonical.graph.outputs[0])


# ----- 1. small constants ---------------------------------------------------------------------------


def test_small_constants_are_computed() -> None:
    nodes = [node("Add", "k k", "a"), node("Exp", "a", "b"), node("Transpose", "b", "c"), node("Mul", "x c", "y")]
    # 1e-6: NumPy's exponential and the runtime's differ in the last bit.
    found, _ = result(net(nodes, weights={"k": numbers(5, 4)}), tolerance=1e-6)
    assert found == ["Mul"]


def test_large_ones_are_left_to_the_runtime() -> None:
    k = numbers(300, 200)
    assert k.nbytes > LIMIT
    nodes = [node("Transpose", "k", "t"), node("MatMul", "x t", "y")]
    # 1e-4: sums of 300 products, in another order where a weight is laid out otherwise.
    found, _ = result(net(nodes, ("N", 300), {"k": numbers(7, 300)}), numbers(2, 300, seed=1), tolerance=1e-4)
    assert found == ["MatMul"]
    found, _ = result(net(nodes, ("N", 200), {"k": k}), numbers(2, 200, seed=1), tolerance=1e-4)
    assert found == ["Transpose", "MatMul"]


@pytest.mark.parametrize(
    "nodes",
    [
        [node("ConstantOfShape", "huge", "k")],
        [node("Range", "s0 far s1", "k")],
        [node("Tile", "zero far1", "k")],
        [node("Expand", "zero huge", "k")],
        [node("Add", "row column", "k")],
    ],
    ids=lambda n: n[0].op_type,
)
def test_constants_that_would_fill_the_memory(nodes: list[onnx.NodeProto]) -> None:
    """Canonical form of a damaged or hostile file takes no time and no memory."""
    weights = {
        "huge": np.array([60000, 60000]), "far": np.array(10**12), "far1": np.array([10**12]),
        "row": np.zeros((1, 8000), np.int64), "column": np.zeros((8000, 1), np.int64),
    }  # fmt: skip
    start = time.process_time()  # not the clock: the machine may be busy
    canonical = canonicalise(
        read_model(
            net(
                [*nodes, node("Shape", "k", "s"), node("Cast", "s", "t", to=1), node("Add", "x t", "y")],
                ("N", 1),
                weights,
            )
        )
    )
    assert time.process_time() - start < 2
    assert sum(v.const_value.nbytes for v in canonical.graph.initializers.values() if v.const_value) < 1 << 20


def test_what_the_evaluator_gets_wrong_is_not_folded() -> None:
    """Every operator that the session corrects for the reference evaluator is left to the runtime."""
    assert not {c.__name__ for c in CORRECTED} & _EVALUATED


def test_random_numbers_stay() -> None:
    nodes = [node("RandomNormalLike", "k", "r", seed=1.0), node("Add", "x r", "y")]
    assert operators(canonicalise(read_model(net(nodes, weights={"k": numbers(5)})))) == ["RandomNormalLike", "Add"]


def test_division_by_zero_is_left_alone() -> None:
    nodes = [
        node("Shape", "x", "s"),
        node("Gather", "s zero", "n"),
        node("Sub", "one one", "z"),
        node("Div", "n z", "d"),
    ]
    proto = net([*nodes, node("Cast", "d", "f", to=1), node("Add", "x f", "y")])
    assert canonicalise(read_model(proto))


# ----- 2. and 3. sizes ------------------------------------------------------------------------------

FLATTEN = [
    node("Shape", "x", "s"),
    node("Gather", "s zero", "n", axis=0),
    node("Concat", "n minus", "to", axis=0),
    node("Reshape", "x to", "y"),
]


def test_view_by_the_batch() -> None:
    """torch's ``x.view(x.size(0), -1)``."""
    found, shape = result(net(FLATTEN))
    assert found[-1] == "Reshape"
    assert shape == ("N", 60)


def test_view_by_scalars_that_are_unsqueezed() -> None:
    nodes = [
        node("Shape", "x", "s"),
        *(node("Gather", f"s k{i}", f"g{i}", axis=0) for i in range(4)),
        node("Mul", "g2 g3", "hw"),
        *(node("Unsqueeze", f"{v} zero", f"u_{v}") for v in ("g0", "g1", "hw")),
        node("Concat", "u_g0 u_g1 u_hw", "to", axis=0),
        node("Reshape", "x to", "r"),
        node("Transpose", "r", "y", perm=[0, 2, 1]),
    ]
    found, shape = result(net(nodes, weights={f"k{i}": np.array(i) for i in range(4)}))
    assert shape == ("N", 20, 3)
    assert "Mul" not in found


def test_sizes_in_int32_keep_their_type() -> None:
    """A partly known shape cast to int32: what becomes a number is an int32 as well."""
    nodes = [
        node("Shape", "x", "s"),
        node("Cast", "s", "s32", to=TensorProto.INT32),
        node("Slice", "s32 one two", "c"),
        node("Add", "c i32", "c1"),
        node("Cast", "c1", "c64", to=TensorProto.INT64),
        node("Concat", "minus c64 one one", "to", axis=0),
        node("Expand", "one to2", "ignored"),
        node("Gather", "s32 s0", "n32"),
        node("Cast", "n32", "n", to=TensorProto.FLOAT),
        node("Cast", "c1", "cf", to=TensorProto.FLOAT),
        node("Add", "n cf", "f"),
        node("Add", "x f", "y"),
    ]
    _, shape = result(net(nodes, weights={"i32": np.array([0], np.int32), "to2": np.array([2])}))
    assert shape == ("N", 3, 4, 5)


@pytest.mark.parametrize("amounts", [[1, 2], [1, 2, 0, 1]])
def test_padding_as_torch_exports_it(amounts: list[int]) -> None:
    """``F.pad``: amounts completed with zeros, reversed pair by pair, then transposed, all in the graph."""
    given = np.array(amounts)
    nodes = [
        node("Shape", "pad", "len"),
        node("Sub", "eight len", "missing"),
        node("ConstantOfShape", "missing", "zeros", value=helper.make_tensor("v", TensorProto.INT64, [1], [0])),
        node("Concat", "pad zeros", "all", axis=0),
        node("Reshape", "all pairs", "rows"),
        node("Slice", "rows minus first zero minus", "reversed"),
        node("Transpose", "reversed", "columns", perm=[1, 0]),
        node("Reshape", "columns minus", "flat"),
        node("Cast", "flat", "pads", to=TensorProto.INT64),
        node("Pad", "x pads", "y", mode="constant"),
    ]
    weights = {"pad": given, "eight": np.array([8]), "pairs": np.array([-1, 2]), "first": np.array([-(2**63) + 1])}
    found, shape = result(net(nodes, weights=weights))
    assert found == ["Pad"]
    extra = sum(amounts[2:]) if len(amounts) > 2 else 0
    assert shape == ("N", 3, 4 + extra, 5 + sum(amounts[:2]))


@pytest.mark.parametrize(
    ("to", "expected"), [("two", ("N", 2)), ("s", ("N", 1)), ("mixed", ("N", 4))], ids=["wider", "own shape", "mixed"]
)
def test_expand(to: str, expected: tuple[Any, ...]) -> None:
    nodes = [
        node("Shape", "x", "s"),
        node("Gather", "s zero", "n"),
        node("Concat", "n four", "mixed", axis=0),
        node("Expand", f"x {to}", "y"),
    ]
    _, shape = result(net(nodes, ("N", 1), {"four": np.array([4])}), numbers(2, 1))
    assert shape == expected


def test_expand_of_an_unknown_rank() -> None:
    """The operand may have more axes than the sizes tell, so nothing is known of the result."""
    proto = net([node("Expand", "x one", "y")], ("N",))
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    canonical = same_outputs(proto, {"x": X}, 0)
    assert dims(canonical.graph.outputs[0]) is None


@pytest.mark.parametrize(
    ("sizes", "shape", "allow_zero", "expected"),
    [
        ([0, -1], ("N", 3, 4, 5), 0, ("N", 60)),
        ([0, 0, -1], ("N", 3, 4, 5), 0, ("N", 3, 20)),
        ([-1, 3, 20], ("N", 3, 4, 5), 0, ("N", 3, 20)),
        ([-1], ("N", 3, 4, 5), 0, (None,)),
        ([2, -1], (2, 3, 4, 5), 0, (2, 60)),
        ([0, 12, 5], ("N", 3, "H", 5), 0, ("N", 12, 5)),
        ([-1, 12, 5], ("N", 3, 4, 5), 1, ("N", 12, 5)),
    ],
)
def test_sizes_of_reshape(sizes: list[int], shape: tuple[Any, ...], allow_zero: int, expected: tuple[Any, ...]) -> None:
    proto = net([node("Reshape", "x to", "y", allowzero=allow_zero)], shape, {"to": np.array(sizes)})
    _, found = result(proto, batch=shape[0] == "N")
    for a, b in zip(found, expected, strict=True):
        assert a == b or not isinstance(b, int)  # inference may call an open size by a name of its own
        assert isinstance(a, int) == isinstance(b, int)


def test_reshape_by_zero_of_what_is_not_known() -> None:
    """A 0 copies a size: where that size is unknown the result's is, and not 0."""
    proto = net([node("Reshape", "x to", "r"), node("Relu", "r", "y")], ("N",), {"to": np.array([0, -1])})
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    canonical = same_outputs(proto, {"x": X}, 0)
    assert 0 not in (dims(canonical.graph.outputs[0]) or ())


def test_zero_is_a_size_where_the_node_says_so() -> None:
    x = numbers(0, 3)
    proto = net([node("Reshape", "x to", "y", allowzero=1)], (0, 3), {"to": np.array([3, 0])})
    canonical = same_outputs(proto, {"x": x}, 0)
    assert dims(canonical.graph.outputs[0]) == (3, 0)


@pytest.mark.parametrize(
    ("operator", "operand", "expected"),
    [("Add", "two", 7), ("Sub", "one", 4), ("Mul", "two", 10), ("Div", "two", 2), ("Div", "minus2", -2)],
)
def test_arithmetic_on_sizes(operator: str, operand: str, expected: int) -> None:
    nodes = [
        node("Shape", "x", "s"),
        node("Slice", "s m1 end", "w"),
        node(operator, f"w {operand}", "a"),
        node("Cast", "a", "f", to=1),
        node("Add", "x f", "y"),
    ]
    proto = net(nodes, weights={"minus2": np.array([-2]), "m1": np.array([-1])})
    canonical = same_outputs(proto, {"x": X}, 0)
    constants = [v.const_value.numpy() for v in canonical.graph.initializers.values() if v.const_value is not None]
    assert operators(canonical) == ["Add"]
    assert any(c.reshape(-1).tolist() == [expected] for c in constants)


def test_shape_with_start_and_end() -> None:
    nodes = [node("Shape", "x", "s", start=-2), node("ConstantOfShape", "s", "k"), node("Add", "x k", "y")]
    assert result(net(nodes))[0] == ["Add"]
    nodes = [
        node("Shape", "x", "s", start=0, end=1),
        node("Concat", "s minus", "to", axis=0),
        node("Reshape", "x to", "y"),
    ]
    assert result(net(nodes))[1] == ("N", 60)


def test_a_folded_value_that_is_an_output_stays_computed() -> None:
    proto = net([node("Add", "k k", "y"), node("Relu", "x", "z")], weights={"k": numbers(3)})
    assert "Add" in operators(same_outputs(proto, {"x": X}, 0))
    assert proto.graph.output[0].name == "y"
