"""A transposed convolution does not share a square kernel with a convolution."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from tiny_models import model, node

import onnxplain as ox
from onnxplain.engine.graph.passes.own_kernels import OwnKernelsPass

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(0)


def pair(channels: tuple[int, int], *, shared: bool = True) -> onnx.ModelProto:
    """A convolution, and a transposed one with the same kernel or another."""
    first, second = channels
    nodes = [node("Conv", "x k", "c", pads=[1, 1, 1, 1]), node("ConvTranspose", "c k" if shared else "c w", "y")]
    weights = {"k": RNG.normal(size=(second, first, 3, 3))}
    if not shared:
        weights["w"] = RNG.normal(size=(second, first, 3, 3))
    return model(nodes, {"x": ["N", first, 6, 6]}, {"y": ["N", first, 8, 8]}, weights)


def kernels(proto: onnx.ModelProto) -> set[str]:
    return {n.input[1] for n in proto.graph.node if n.op_type in ("Conv", "ConvTranspose")}


@pytest.mark.parametrize(
    ("channels", "shared", "changed"),
    [((3, 3), True, True), ((3, 3), False, False), ((3, 4), True, False)],
    ids=["square", "not shared", "not square"],
)
def test_what_is_changed(channels: tuple[int, int], shared: bool, changed: bool) -> None:
    proto = pair(channels, shared=shared)
    graph = ir.from_proto(proto)
    assert OwnKernelsPass()(graph).modified == changed
    after = ir.to_proto(graph)
    assert len(kernels(after)) == (1 if shared and not changed else 2)
    x = RNG.normal(size=(2, channels[0], 6, 6)).astype(np.float32)
    results = [
        onnxruntime.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
        for m in (proto, after)
    ]
    np.testing.assert_array_equal(*results)


def strided() -> onnx.ModelProto:
    nodes = [
        node("Conv", "x k", "c", pads=[1, 1, 1, 1], strides=[2, 2]),
        node("Tanh", "c", "t"),
        node("GlobalAveragePool", "t", "p"),
        node("Flatten", "p", "y"),
    ]
    return model(nodes, {"x": ["N", 3, 8, 8]}, {"y": ["N", 3]}, {"k": RNG.normal(size=(3, 3, 3, 3))})


def test_files_have_it_in_their_plain_form(tmp_path: Path) -> None:
    """The adjoint of a strided convolution is a transposed one."""
    explainer = ox.compile(strided(), method="gradient")
    assert len(kernels(onnx.load(explainer.save(tmp_path / "plain.onnx")))) == 2
    assert len(kernels(onnx.load(explainer.save(tmp_path / "fast.onnx", portable=False)))) == 1


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="needs the package openvino")
def test_openvino_gives_the_gradient(tmp_path: Path) -> None:
    import openvino

    explainer = ox.compile(strided(), method="gradient")
    path = explainer.save(tmp_path / "e.onnx", target=1)
    x = RNG.normal(size=(2, 3, 8, 8)).astype(np.float32)
    found = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})({"x": x})[1]
    wanted = explainer(x, target=1).attributions["x"]
    np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max())
