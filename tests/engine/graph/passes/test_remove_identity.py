"""Identity is gone, except where a graph's interface needs it."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import pytest
from canonical_run import numbers, operators, same_outputs
from tiny_models import model, node

X = numbers(2, 3)


def net(nodes: Sequence[onnx.NodeProto], outputs: str) -> onnx.ModelProto:
    return model(nodes, {"x": ["N", 3]}, {n: ["N", 3] for n in outputs.split()}, {"w": numbers(2, 3)})


@pytest.mark.parametrize(
    ("chain", "outputs", "expected"),
    [
        ("x>a a>b b:c", "c", ["Relu"]),
        ("x:a a>b b>c c:y", "y", ["Relu", "Relu"]),
        ("x:a a>b b>y", "y", ["Relu"]),
        ("x>y", "y", ["Identity"]),
        ("x>a a>y", "y", ["Identity"]),
        ("x>y x>z", "y z", ["Identity", "Identity"]),
        ("w>y", "y", ["Identity"]),
        ("x:y y>z", "y z", ["Relu", "Identity"]),
        ("x:a a>y a>z", "y z", ["Relu", "Identity"]),
        ("x:a a>y a:z", "y z", ["Relu", "Relu"]),
    ],
)
def test_identities(chain: str, outputs: str, expected: list[str]) -> None:
    """``a>b`` is an Identity, ``a:b`` a Relu."""
    nodes = []
    for step in chain.split():
        kind = "Identity" if ">" in step else "Relu"
        nodes.append(node(kind, *step.replace(">", ":").split(":")))
    assert operators(same_outputs(net(nodes, outputs), {"x": X}, 0)) == expected


def test_an_output_that_is_an_input() -> None:
    """The graph returns what it is fed, without any node between."""
    proto = net([node("Relu", "x", "y")], "y x")
    canonical = same_outputs(proto, {"x": X}, 0)
    assert [v.name for v in canonical.graph.outputs] == ["y", "x"]
