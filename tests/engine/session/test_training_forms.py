"""What onnxruntime-training does not differentiate, handed over in another form, agrees with the engine's own rule."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from second_oracle import CLOSE, agree, needed, normal
from tiny_models import model, node

from onnxplain.engine.session.training_forms import FORMS
from onnxplain.engine.session.training_graph import RIGHT

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "second-opinion.md").read_text(encoding="utf-8")

#: A node or two from x to y: what it is, weights, shape of x, opset.
Case = tuple[list[onnx.NodeProto], dict[str, Any], tuple[int, ...], int]

_R = (2, 3, 4)
_P = (2, 4, 6, 6)

CASES: dict[str, Case] = {
    "Softplus": ([node("Softplus", "x", "y")], {}, _R, 18),
    "Elu": ([node("Elu", "x", "y", alpha=0.7)], {}, _R, 18),
    "Celu": ([node("Celu", "x", "y", alpha=0.7)], {}, _R, 18),
    "Selu": ([node("Selu", "x", "y")], {}, _R, 18),
    "Selu of other numbers": ([node("Selu", "x", "y", alpha=1.5, gamma=1.2)], {}, _R, 18),
    "PRelu": ([node("PRelu", "x s", "y")], {"s": normal(3, 1)}, _R, 18),
    "ThresholdedRelu": ([node("ThresholdedRelu", "x", "y", alpha=0.3)], {}, _R, 18),
    "HardSigmoid": ([node("HardSigmoid", "x", "y", alpha=0.4)], {}, _R, 18),
    "HardSwish": ([node("HardSwish", "x", "y")], {}, _R, 18),
    "Mish": ([node("Mish", "x", "y")], {}, _R, 18),
    "Softsign": ([node("Softsign", "x", "y")], {}, _R, 18),
    "Sinh": ([node("Sinh", "x", "y")], {}, _R, 18),
    "Cosh": ([node("Cosh", "x", "y")], {}, _R, 18),
    "Tan": ([node("Tan", "x", "y")], {}, _R, 18),
    "Gelu": ([node("Gelu", "x", "y", approximate="tanh")], {}, _R, 20),
    "Sum": ([node("Sum", "x w v", "y")], {"w": normal(4), "v": normal(3, 1)}, _R, 18),
    "Mean": ([node("Mean", "x w v", "y")], {"w": normal(4), "v": normal(3, 1)}, _R, 18),
    "Where": ([node("Where", "c x w", "y")], {"c": normal(2, 3, 4) > 0, "w": normal(4)}, _R, 18),
    "Where of a smaller branch": ([node("Where", "c w x", "y")], {"c": normal(5, 2, 3, 4) > 0, "w": normal(4)}, _R, 18),
    "Pow": ([node("Exp", "x", "e"), node("Pow", "e p", "y")], {"p": np.float32(2.5)}, _R, 18),
    "Pow of a smaller base": ([node("Pow", "x p", "y")], {"p": np.full((5, 1, 1, 1), 3, np.float32)}, _R, 18),
    "Split": ([node("Split", "x", "a b", axis=2, num_outputs=2), node("Mul", "a b", "y")], {}, _R, 18),
    "Split with a part left over": ([node("Split", "x n", "a y", axis=1)], {"n": np.array([1, 2])}, _R, 18),
    "ReduceMax": ([node("ReduceMax", "x a", "y", keepdims=0)], {"a": np.array([1, 2])}, _R, 18),
    "ReduceMax of all": ([node("ReduceMax", "x", "y")], {}, _R, 18),
    "ReduceMin": ([node("ReduceMin", "x a", "y")], {"a": np.array([-1])}, _R, 20),
    "ReduceMax of ties": (
        [node("Relu", "x", "r"), node("ReduceMax", "r a", "m"), node("Sub", "r m", "y")], {"a": np.array([-2])}, _R, 18,
    ),
    "GlobalMaxPool": ([node("GlobalMaxPool", "x", "y")], {}, _P, 18),
    "ReduceL1": ([node("ReduceL1", "x a", "y")], {"a": np.array([1])}, _R, 18),
    "ReduceSumSquare": ([node("ReduceSumSquare", "x a", "y", keepdims=0)], {"a": np.array([1])}, _R, 18),
    "ReduceLogSum": ([node("Exp", "x", "e"), node("ReduceLogSum", "e a", "y")], {"a": np.array([2])}, _R, 18),
    "BatchNormalization": (
        [node("BatchNormalization", "x w b m v", "y")],
        {"w": normal(3), "b": normal(3), "m": normal(3), "v": np.float32([1, 2, 3])}, _R, 18,
    ),
    "LayerNormalization": ([node("LayerNormalization", "x w", "y", axis=1)], {"w": normal(3, 4)}, _R, 18),
    "InstanceNormalization": ([node("InstanceNormalization", "x w b", "y")], {"w": normal(4), "b": normal(4)}, _P, 18),
    "GroupNormalization": (
        [node("GroupNormalization", "x w b", "y", num_groups=2)], {"w": normal(4), "b": normal(4)}, _P, 21,
    ),
    "GroupNormalization by groups": (
        [node("GroupNormalization", "x w b", "y", num_groups=2)], {"w": normal(2), "b": normal(2)}, _P, 18,
    ),
    "DepthToSpace": ([node("DepthToSpace", "x", "y", blocksize=2)], {}, _P, 18),
    "DepthToSpace, columns first": ([node("DepthToSpace", "x", "y", blocksize=2, mode="CRD")], {}, _P, 18),
    "SpaceToDepth": ([node("SpaceToDepth", "x", "y", blocksize=3)], {}, _P, 18),
    "Resize": ([node("Resize", "x - s", "y")], {"s": np.float32([1, 1, 2, 1.5])}, _P, 18),
    "Resize, linear": (
        [node("Resize", "x - - n", "y", mode="linear", coordinate_transformation_mode="align_corners")],
        {"n": np.array([2, 4, 9, 4])}, _P, 18,
    ),
    "Resize, cubic": (
        [node("Resize", "x - s", "y", mode="cubic", cubic_coeff_a=-0.5, exclude_outside=1, axes=[2, 3])],
        {"s": np.float32([1.7, 0.6])}, _P, 18,
    ),
    "Resize, linear, smoothed": (
        [node("Resize", "x - s", "y", mode="linear", antialias=1)], {"s": np.float32([1, 1, 0.5, 0.4])}, _P, 18,
    ),
    "ConvTranspose": ([node("ConvTranspose", "x k b", "y")], {"k": normal(4, 3, 3, 2), "b": normal(3)}, _P, 18),
    "ConvTranspose in full": (
        [node("ConvTranspose", "x k b", "y", strides=[2, 3], pads=[1, 0, 2, 1], dilations=[2, 1], group=2,
              output_padding=[1, 2])],
        {"k": normal(4, 3, 3, 2), "b": normal(6)}, _P, 18,
    ),
    "ConvTranspose of series": ([node("ConvTranspose", "x k", "y", strides=[3])], {"k": normal(3, 2, 2)}, _R, 18),
}  # fmt: skip


def test_every_form_has_a_case() -> None:
    assert {n.op_type for nodes, *_ in CASES.values() for n in nodes} >= set(FORMS)


@needed
@pytest.mark.parametrize("name", CASES)
def test_it_agrees_with_the_engine(name: str) -> None:
    nodes, weights, shape, opset = CASES[name]
    nodes = [*nodes, node("Sin", "y", "z")]  # so that the values count, not the derivative alone
    proto = model(nodes, {"x": list(shape)}, {"z": []}, weights, opset=opset)
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    x = normal(*shape, seed=5)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    seed = normal(*session.run(None, {"x": x})[0].shape, seed=6)
    wanted = ["x", *(n for n, v in weights.items() if n in "wbvk" and np.asarray(v).dtype.kind == "f")]
    if name.endswith("Normalization"):
        wanted = [n for n in wanted if n != "v"]
    agree(proto, {"x": x}, {"z": seed}, wanted)


@needed
def test_large_numbers_neither_overflow_nor_vanish() -> None:
    for kind in ("Softplus", "Elu", "Selu", "Mish"):
        proto = model([node(kind, "x", "y")], {"x": [6]}, {"y": [6]})
        x = np.float32([-200, -90, 0, 1e-3, 90, 200])
        agree(proto, {"x": x}, {"y": np.ones(6, np.float32)})


def test_the_page_lists_the_operators() -> None:
    rows = [row.split("|")[2].split() for row in PAGE.split("## What it serves")[1].splitlines() if row.count("|") == 3]
    assert rows[2:] == [sorted(RIGHT - set(FORMS), key=str.lower), sorted(FORMS, key=str.lower)]


@needed
def test_the_example_of_the_page_on_the_network_that_ships() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    made: dict[str, Any] = {}
    exec(compile(code, "second-opinion.md", "exec"), made)
    assert len(made["names"]) > 5 and set(made["own"]) == set(made["other"]) == set(made["names"])
    for name, wanted in made["own"].items():
        assert np.linalg.norm(made["other"][name] - wanted) <= CLOSE * np.linalg.norm(wanted), name
