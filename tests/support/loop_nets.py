"""Recurrent nets written as Loop and Scan, time-major inside, in the form in which TensorFlow's exporter writes them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

Array = np.ndarray[Any, Any]
WIDTH, HIDDEN, CLASSES, STEPS = 3, 4, 2, 5
END = 2**31 - 1


def _node(kind: str, operands: str, result: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, [n if n != "-" else "" for n in operands.split()], [result], **attributes)


def _info(name: str, shape: Any, kind: int = TensorProto.DOUBLE) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def _cell(p: str) -> list[onnx.NodeProto]:
    """``s2 = z s + (1 - z) tanh(...)``: the gates are cut out of one product with bounds for both axes."""
    return [
        _node("MatMul", f"{p}e W{p}", f"{p}ex"),
        _node("Add", f"{p}ex b{p}", f"{p}eb"),
        _node("MatMul", f"{p}s R{p}", f"{p}sr"),
        _node("Add", f"{p}sr c{p}", f"{p}sb"),
        _node("Add", f"{p}eb {p}sb", f"{p}all"),
        _node("Slice", f"{p}all from_0 to_h both", f"{p}zg"),
        _node("Slice", f"{p}all from_h to_end both", f"{p}ng"),
        _node("Sigmoid", f"{p}zg", f"{p}z"),
        _node("Tanh", f"{p}ng", f"{p}n"),
        _node("Sub", f"{p}s {p}n", f"{p}d"),
        _node("Mul", f"{p}z {p}d", f"{p}zd"),
        _node("Add", f"{p}n {p}zd", f"{p}s2"),
        _node("Identity", f"{p}s2", f"{p}k"),
    ]


def _initial(p: str, x: str) -> list[onnx.NodeProto]:
    """Zeros, as many rows as ``x`` (batch first) has samples."""
    return [
        _node("Shape", x, f"{p}shape"),
        _node("Cast", f"{p}shape", f"{p}small", to=TensorProto.INT32),
        _node("Slice", f"{p}small zero one zero", f"{p}count"),
        _node("Concat", f"{p}count hidden", f"{p}packed", axis=0),
        _node("Cast", f"{p}packed", f"{p}sizes", to=TensorProto.INT64),
        _node("Expand", f"nought {p}sizes", f"{p}zeros"),
    ]


def _loop(p: str, x: str) -> list[onnx.NodeProto]:
    """All states of a layer over ``x`` (batch first), batch first."""
    body = [
        _node("Identity", f"{p}go", f"{p}on"),
        _node("Gather", f"{p}time {p}i", f"{p}e", axis=0),
        *_cell(p),
    ]
    graph = helper.make_graph(
        body,
        f"{p}body",
        [_info(f"{p}i", [], TensorProto.INT64), _info(f"{p}go", [], TensorProto.BOOL), _info(f"{p}s", None)],
        [_info(f"{p}on", None, TensorProto.BOOL), _info(f"{p}s2", None), _info(f"{p}k", None)],
    )
    return [
        _node("Transpose", x, f"{p}time", perm=[1, 0, 2]),
        *_initial(p, x),
        _node("Shape", f"{p}time", f"{p}steps_", start=0, end=1),
        _node("Squeeze", f"{p}steps_ zero", f"{p}steps"),
        helper.make_node(
            "Loop", [f"{p}steps", "true", f"{p}zeros"], [f"{p}last", f"{p}all_steps"], f"{p}loop", body=graph
        ),
        _node("Transpose", f"{p}all_steps", f"{p}y", perm=[1, 0, 2]),
    ]


def _scan(p: str, x: str) -> list[onnx.NodeProto]:
    """The same as a Scan."""
    graph = helper.make_graph(
        _cell(p),
        f"{p}body",
        [_info(f"{p}s", None), _info(f"{p}e", None)],
        [_info(f"{p}s2", None), _info(f"{p}k", None)],
    )
    return [
        _node("Transpose", x, f"{p}time", perm=[1, 0, 2]),
        *_initial(p, x),
        helper.make_node(
            "Scan", [f"{p}zeros", f"{p}time"], [f"{p}last", f"{p}all_steps"], f"{p}scan", body=graph, num_scan_inputs=1
        ),
        _node("Transpose", f"{p}all_steps", f"{p}y", perm=[1, 0, 2]),
    ]


LAYERS = {"Loop": _loop, "Scan": _scan}


def _weights(layers: int) -> dict[str, Array]:
    rng = np.random.default_rng(5)
    found: dict[str, Array] = {}
    for i in range(layers):
        width = WIDTH if i == 0 else HIDDEN
        found |= {
            f"Wl{i}_": rng.normal(size=(width, 2 * HIDDEN)) / 2,
            f"Rl{i}_": rng.normal(size=(HIDDEN, 2 * HIDDEN)) / 2,
            f"bl{i}_": rng.normal(size=2 * HIDDEN) / 3,
            f"cl{i}_": rng.normal(size=2 * HIDDEN) / 3,
        }
    return found | {"head": rng.normal(size=(HIDDEN, CLASSES)), "bias": rng.normal(size=CLASSES)}


def recurrent_net(
    kinds: tuple[str, ...], batch: int | str | None = "N", *, time_major: bool = False
) -> onnx.ModelProto:
    """Layers one behind the other; ``x [N, T, 3]`` to ``y [N, 2]``, float64.

    Args:
        kinds: ``Loop`` or ``Scan`` per layer.
        batch: Size of the batch as the file has it.
        time_major: The input is ``[T, N, 3]``.
    """
    nodes, last = [], "x"
    if time_major:
        nodes, last = [_node("Transpose", "x", "swapped", perm=[1, 0, 2])], "swapped"
    for i, kind in enumerate(kinds):
        nodes += LAYERS[kind](f"l{i}_", last)
        last = f"l{i}_y"
    nodes += [
        _node("ReduceMean", f"{last} places", "mean", keepdims=0),
        _node("MatMul", "mean head", "scores"),
        _node("Add", "scores bias", "y"),
    ]
    constants: dict[str, Any] = {
        "zero": [0],
        "one": [1],
        "places": [1],
        "from_0": [0, 0],
        "from_h": [0, HIDDEN],
        "to_h": [END, HIDDEN],
        "to_end": [END, END],
        "both": [0, 1],
        "hidden": np.asarray([HIDDEN], np.int32),
        "nought": np.zeros(()),
        "true": np.asarray(True),
    }
    shape = ["T", batch, WIDTH] if time_major else [batch, STEPS if batch != "N" else "T", WIDTH]
    weights = {k: np.asarray(v) for k, v in {**constants, **_weights(len(kinds))}.items()}
    graph = helper.make_graph(
        nodes,
        "recurrent",
        [_info("x", shape)],
        [_info("y", None)],
        [onnx.numpy_helper.from_array(v, k) for k, v in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
