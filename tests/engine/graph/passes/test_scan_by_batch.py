"""Scan of opset 8: every sample by itself, against onnxruntime's kernel of that opset and against differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from graph_cases import check_graph
from onnx import TensorProto, helper
from tiny_models import node

DOUBLE = TensorProto.DOUBLE
X = np.random.default_rng(0).normal(size=(3, 4, 2))
Z = np.random.default_rng(1).normal(size=(3, 4))
S = np.random.default_rng(2).normal(size=(3, 2))


def model(lengths: bool, directions: list[int]) -> onnx.ModelProto:
    """A state of two numbers; each step multiplies it by its own, and a third gives what is kept."""
    body = helper.make_graph(
        [node("Mul", "s e", "se"), node("Add", "se e", "t"), node("Mul", "t k", "tk"), node("Tanh", "tk", "o")],
        "body",
        [helper.make_tensor_value_info(n, DOUBLE, d) for n, d in (("s", [2]), ("e", [2]), ("k", [1]))],
        [helper.make_tensor_value_info(n, DOUBLE, [2]) for n in ("t", "o")],
    )
    attributes: dict[str, Any] = {"body": body, "num_scan_inputs": 2, "directions": directions}
    nodes = [
        node("Unsqueeze", "z", "zc", axes=[2]),
        helper.make_node("Scan", ["n" if lengths else "", "s0", "x", "zc"], ["final", "kept"], **attributes),
    ]
    infos = [helper.make_tensor_value_info(n, DOUBLE, a.shape) for n, a in (("s0", S), ("x", X), ("z", Z))]
    if lengths:
        infos.append(helper.make_tensor_value_info("n", TensorProto.INT64, [3]))
    results = [helper.make_tensor_value_info(n, DOUBLE, d) for n, d in (("final", [3, 2]), ("kept", [3, 4, 2]))]
    graph = helper.make_graph(nodes, "g", infos, results)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 8)], ir_version=3)


@pytest.mark.parametrize("directions", [[0, 0], [1, 0], [1, 1]])
@pytest.mark.parametrize("lengths", [None, [4, 2, 1]])
def test_scan_over_a_batch(lengths: list[int] | None, directions: list[int]) -> None:
    feeds = {"s0": S, "x": X, "z": Z}
    if lengths is not None:
        feeds["n"] = np.asarray(lengths, np.int64)
    check_graph(model(lengths is not None, directions), feeds, ["s0", "x", "z"])


def test_what_lies_behind_the_end_of_a_sequence_has_no_gradient() -> None:
    feeds = {"s0": S, "x": X, "z": Z, "n": np.asarray([4, 2, 1], np.int64)}
    found = check_graph(model(True, [0, 0]), feeds, ["s0", "x", "z"])
    np.testing.assert_array_equal(found["x"][1, 2:], 0)
    np.testing.assert_array_equal(found["z"][2, 1:], 0)
    assert np.abs(found["x"][1, :2]).min() > 0
