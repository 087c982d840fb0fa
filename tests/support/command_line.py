"""Runs commands as a shell would see them, and makes the small models and inputs that they are run on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tiny_models import model, node
from typer.testing import CliRunner

from onnxplain.cli import app

Array = np.ndarray[Any, Any]
WEIGHTS = np.random.default_rng(5).standard_normal((4, 3)).astype(np.float32)


def call(*arguments: object) -> Any:
    """Run one command; the result has ``exit_code``, ``stdout`` and ``stderr``."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


def refused(*arguments: object) -> str:
    """Run a bad request, see that it ends as one should (code 2, one line, no output), and return the line."""
    result = call(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.stderr
    return str(result.stderr)


def saved(proto: onnx.ModelProto, path: Path) -> Path:
    """Write a model and return its path."""
    path.write_bytes(proto.SerializeToString())
    return path


def table_model() -> onnx.ModelProto:
    """``y = x W``: the gradient of class k is column k of :data:`WEIGHTS`."""
    return model([node("MatMul", "x w", "y")], {"x": ["N", 4]}, {"y": ["N", 3]}, {"w": WEIGHTS})


def two_inputs() -> onnx.ModelProto:
    """The sum of two tables."""
    return model([node("Add", "first second", "y")], {"first": ["N", 3], "second": ["N", 3]}, {"y": ["N", 3]})


def series_model() -> onnx.ModelProto:
    """A convolution over 16 steps of 2 channels, then the mean per channel."""
    kernel = np.random.default_rng(2).standard_normal((3, 2, 3)).astype(np.float32)
    nodes = [
        node("Conv", "x k", "c", pads=[1, 1]),
        node("Relu", "c", "r"),
        node("GlobalAveragePool", "r", "p"),
        node("Flatten", "p", "y"),
    ]
    return model(nodes, {"x": ["N", 2, 16]}, {"y": ["N", 3]}, {"k": kernel})


def token_model() -> onnx.ModelProto:
    """Embedding of 6 tokens in 2 numbers, summed over a text of 5, and a linear layer."""
    rng = np.random.default_rng(3)
    nodes = [
        node("Gather", "table ids", "e"),
        node("ReduceSum", "e axes", "s", keepdims=0),
        node("MatMul", "s w", "y"),
    ]
    weights = {"table": rng.standard_normal((6, 2)).astype(np.float32), "w": WEIGHTS[:2]}
    initializers = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    initializers.append(numpy_helper.from_array(np.array([1], np.int64), "axes"))
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["N", 5])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])
    graph = helper.make_graph(nodes, "tokens", [ids], [y], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def picture_model(**metadata: str) -> onnx.ModelProto:
    """Weights on 6 x 6 RGB pixels for two classes, and a Relu in between."""
    rng = np.random.default_rng(4)
    weights = {
        "k": rng.standard_normal((2, 3, 3, 3)).astype(np.float32),
        "b": np.array([0.3, -0.2], np.float32),
        "w": rng.standard_normal((72, 2)).astype(np.float32),
    }
    nodes = [
        node("Conv", "x k b", "c", pads=[1, 1, 1, 1]),
        node("Relu", "c", "r"),
        node("Flatten", "r", "f"),
        node("MatMul", "f w", "y"),
    ]
    made = model(nodes, {"x": ["N", 3, 6, 6]}, {"y": ["N", 2]}, weights)
    for key, value in metadata.items():
        made.metadata_props.add(key=f"onnxplain.{key}", value=value)
    return made


def open_model() -> onnx.ModelProto:
    """A convolution and the mean over pictures of any size, for two classes."""
    kernel = np.random.default_rng(6).standard_normal((2, 3, 3, 3)).astype(np.float32)
    nodes = [
        node("Conv", "x k", "c", pads=[1, 1, 1, 1]),
        node("Relu", "c", "r"),
        node("GlobalAveragePool", "r", "p"),
        node("Flatten", "p", "y"),
    ]
    return model(nodes, {"x": ["N", 3, "H", "W"]}, {"y": ["N", 2]}, {"k": kernel})


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (6, 6)) -> Path:
    """A picture of noise."""
    import cv2

    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    path.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    return path


def array(path: Path, values: Any) -> Path:
    """An ``.npy`` file."""
    np.save(path, values)
    return path


def listing(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, to see that a command left nothing behind."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
