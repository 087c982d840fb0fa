"""An error in between is the file's fault where the checker or the runtime says so, and ours where neither does."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from custom_operators import net
from onnx import helper
from tiny_models import fullgrad_net, model, node

import onnxplain as ox
from onnxplain.engine.errors import InputError, ModelFileError
from onnxplain.engine.graph.canonical import canonicalise
from onnxplain.engine.graph.model import read_model
from onnxplain.engine.session.blame import blaming, fault_of


def test_a_good_model_is_not_blamed() -> None:
    canonical = canonicalise(read_model(fullgrad_net()[0]))
    assert fault_of(canonical) is None
    with pytest.raises(IndexError, match="ours"), blaming(canonical, "net.onnx"):
        raise IndexError("ours")


def test_this_package_s_errors_pass() -> None:
    canonical = canonicalise(read_model(fullgrad_net()[0]))
    with pytest.raises(InputError, match="as it is"), blaming(canonical, "net.onnx"):
        raise InputError("as it is")
    with pytest.raises(MemoryError), blaming(canonical, "net.onnx"):
        raise MemoryError


def broken(kind: str) -> onnx.ModelProto:
    if kind == "arity":
        return model([helper.make_node("Relu", ["x", "x"], ["y"])], {"x": ["N", 3]}, {"y": ["N", 3]})
    if kind == "attribute":
        return model([node("Concat", "x x", "y", axis=7)], {"x": ["N", 4]}, {"y": ["N", 8]})
    nodes = [node("Split", "x", "y z", axis=-(2**40), num_outputs=2)]
    return model(nodes, {"x": ["N", 4]}, {"y": ["N", 2], "z": ["N", 2]})


@pytest.mark.parametrize("kind", ["arity", "attribute", "at run time"])
def test_a_malformed_model_is(kind: str) -> None:
    canonical = canonicalise(read_model(broken(kind)))
    assert fault_of(canonical)
    for ask in (ox.check, lambda m: ox.compile(m, method="gradient")):
        with pytest.raises(ModelFileError, match=r"malformed .*check it with onnx\.checker"):
            ask(broken(kind))


def test_what_a_runtime_lacks_is_no_fault() -> None:
    assert fault_of(canonicalise(read_model(net("Mystery")))) is None
    proto = fullgrad_net(onnx.TensorProto.DOUBLE)[0]  # the CPU has no convolution in float64
    assert fault_of(canonicalise(read_model(proto))) is None


def test_vjp_blames_as_well() -> None:
    x = np.ones((2, 3), np.float32)
    with pytest.raises(ModelFileError, match="malformed"):
        ox.vjp(broken("arity"), {"x": x}, {"y": x})
