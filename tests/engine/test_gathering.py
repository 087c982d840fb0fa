"""Gathering: parts come back by key, and what belongs to one layer is computed while its adjoint is fresh."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxplain as ox
from onnxplain.engine.gathering import Gathering
from onnxplain.engine.rewrite import Rewriter


def _run(model: ir.Model, x: np.ndarray) -> dict[str, np.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(None, {"x": x}), strict=True))


def _rewriter() -> Rewriter:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 1, 3])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    return Rewriter(ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)))


@pytest.mark.parametrize("keys", ["a", "ab", "aabab"])
def test_parts_come_back_by_key(keys: str) -> None:
    rewriter = _rewriter()
    gathering, op = Gathering(rewriter.op), rewriter.op
    for i, key in enumerate(keys):
        part = op.Mul(rewriter.value("x"), float(i + 1))
        gathering.put(key, part if i % 2 else op.Slice(part, [0], [2], [2]), 3 if i % 2 else 2)
    for key, value in gathering.hand_out().items():
        rewriter.add_output(str(key), value)
    found = _run(rewriter.finish(), x := np.random.default_rng(0).normal(size=(2, 1, 3)).astype(np.float32))
    for key in set(keys):
        wanted = [x[..., : 3 if i % 2 else 2] * np.float32(i + 1) for i, k in enumerate(keys) if k == key]
        np.testing.assert_array_equal(found[key], np.concatenate(wanted, axis=2))


def test_nothing_put_in_is_nothing_handed_out() -> None:
    assert Gathering(_rewriter().op).hand_out() == {}


def _network(path: Path) -> None:
    """Three convolutions with ReLU6 behind each, then the mean."""
    rng, nodes, weights, name = np.random.default_rng(0), [], [], "x"
    weights += [numpy_helper.from_array(np.float32(v), n) for v, n in ((0, "low"), (6, "high"))]
    for i, channels in enumerate((3, 4, 4)):
        kernel = rng.normal(size=(4, channels, 3, 3)).astype(np.float32)
        weights += [numpy_helper.from_array(kernel, f"w{i}")]
        weights += [numpy_helper.from_array(rng.normal(size=4).astype(np.float32), f"b{i}")]
        nodes += [helper.make_node("Conv", [name, f"w{i}", f"b{i}"], [f"c{i}"], pads=[1] * 4, name=f"conv{i}")]
        nodes += [helper.make_node("Clip", [f"c{i}", "low", "high"], [f"y{i}"], name=f"clip{i}")]
        name = f"y{i}"
    nodes += [helper.make_node("GlobalAveragePool", [name], ["mean"]), helper.make_node("Flatten", ["mean"], ["out"])]
    graph = helper.make_graph(
        nodes, "net", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["N", 4])], weights,
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)


def test_a_layer_is_drawn_before_the_sweep_goes_on(tmp_path: Path) -> None:
    """In the runtime's own order, reductions and the sweep's convolutions take turns."""
    import onnxruntime

    _network(tmp_path / "net.onnx")
    file = ox.compile(tmp_path / "net.onnx", method="fullgrad").save(tmp_path / "fg.onnx")
    options = onnxruntime.SessionOptions()
    options.enable_profiling, options.profile_file_prefix = True, str(tmp_path / "profile")
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    session.run(None, {"x": np.ones((1, 3, 8, 8), np.float32), "target": np.array([0])})
    events = json.loads(Path(session.end_profiling()).read_text("utf-8"))
    kinds = [e["args"]["op_name"] for e in events if str(e.get("name", "")).endswith("_kernel_time")]
    turns = "".join("c" if "Conv" in kind else "a" for kind in kinds if "Conv" in kind or kind == "Abs")
    # Forward three times; then per layer its map and the way down, and the input's own map.
    assert turns == "ccc" + "ac" * 3 + "a"
