"""The check that plug-ins use in their tests: right rules pass, wrong ones are told from each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from custom_operators import CUBE, DOMAIN, RELU, Cube
from onnx import parser

from onnxplain import rules
from onnxplain.engine.errors import RuleError

X = np.random.default_rng(0).normal(size=(2, 3)) + 0.1


@pytest.fixture(autouse=True)
def undone() -> Iterator[None]:
    with rules.temporary():
        yield


def cube_rule(factor: float = 3.0) -> None:
    @rules.gradient("Cube", domain=DOMAIN)
    def cube(op: Any, node: Any, dy: Any) -> list[Any]:
        return [op.Mul(dy, op.Mul(op.Mul(node.x(), node.x()), factor))]

    rules.result_like("Cube", domain=DOMAIN)


@pytest.mark.parametrize("implementation", [Cube, CUBE], ids=["class", "function"])
def test_right(implementation: Any) -> None:
    cube_rule()
    rules.homogeneous(3, "Cube", domain=DOMAIN)
    found = rules.gradcheck("Cube", X, domain=DOMAIN, implementation=implementation)
    assert found.operator == f"{DOMAIN}::Cube"
    assert found.precision == "float64"
    assert found.error < 1e-6
    assert found.completeness is not None
    assert found.completeness < 1e-12
    assert found.directions == 6
    assert found.symbolic


@pytest.mark.parametrize("factor", [3.001, 2.0, -3.0, 0.0])
def test_wrong(factor: float) -> None:
    cube_rule(factor)
    with pytest.raises(RuleError, match=r"org.example::Cube, by operand 0: the gradient rule differs"):
        rules.gradcheck("Cube", X, domain=DOMAIN, implementation=Cube)


def test_wrong_bias() -> None:
    cube_rule()
    rules.homogeneous(2, "Cube", domain=DOMAIN)
    with pytest.raises(RuleError, match="the bias rule leaves"):
        rules.gradcheck("Cube", X, domain=DOMAIN, implementation=Cube)


def test_without_a_bias_rule() -> None:
    cube_rule()
    assert rules.gradcheck("Cube", X, domain=DOMAIN, implementation=Cube).completeness is None


def test_without_a_rule() -> None:
    with pytest.raises(RuleError, match=r"org.example::Cube: there is no rule"):
        rules.gradcheck("Cube", X, domain=DOMAIN, implementation=Cube)


def test_a_zero_that_is_none() -> None:
    rules.gradient("Cube", domain=DOMAIN)(lambda op, node, dy: [rules.ZERO])
    with pytest.raises(RuleError, match="differs"):
        rules.gradcheck("Cube", X, domain=DOMAIN, implementation=Cube)


def test_one_of_several_operands() -> None:
    """Each is checked alone: the error names the one whose derivative is wrong."""
    product = parser.parse_function(
        '<opset_import: ["" : 18], domain: "org.example"> Product (a, b) => (y) { y = Mul(a, b) }'
    )
    rules.gradient("Product", domain=DOMAIN)(lambda op, node, dy: [op.Mul(dy, node.x(1)), op.Mul(dy, node.x(1))])
    with pytest.raises(RuleError, match="by operand 1:"):
        rules.gradcheck("Product", X, X + 1, domain=DOMAIN, implementation=product)
    assert rules.gradcheck("Product", X, X + 1, domain=DOMAIN, implementation=product, wrt=[0]).directions == 6


def test_broadcasting_has_to_be_undone() -> None:
    total = parser.parse_function(
        '<opset_import: ["" : 18], domain: "org.example"> Total (a, b) => (y) { y = Add(a, b) }'
    )
    row = np.random.default_rng(2).normal(size=3)
    rules.gradient("Total", domain=DOMAIN, broadcasts=True)(lambda op, node, dy: [dy, dy])
    assert rules.gradcheck("Total", X, row, domain=DOMAIN, implementation=total).symbolic
    rules.gradient("Total", domain=DOMAIN, replace=True)(lambda op, node, dy: [dy, dy])
    with pytest.raises((RuleError, ValueError)):
        rules.gradcheck("Total", X, row, domain=DOMAIN, implementation=total)


def test_several_results() -> None:
    parts = parser.parse_function(
        '<opset_import: ["" : 18], domain: "org.example"> Parts (x) => (p, n) { p = Relu(x) m = Neg(x) n = Relu(m) }'
    )

    @rules.gradient("Parts", domain=DOMAIN)
    def both(op: Any, node: Any, positive: Any, negative: Any) -> list[Any]:
        gate = op.Sign(node.outputs[0])
        return [op.Sub(op.Mul(positive, gate), op.Mul(negative, op.Sub(1.0, gate)))]

    rules.result_like("Parts", domain=DOMAIN)
    rules.homogeneous(1, "Parts", domain=DOMAIN)
    assert rules.gradcheck("Parts", X, domain=DOMAIN, outputs=2, implementation=parts).error < 1e-6


def test_sizes_that_the_rule_takes_for_known() -> None:
    """Right with static sizes; with symbols it gives another number, which is worse than a refusal."""

    def careless(op: Any, node: Any, dy: Any) -> list[Any]:
        sizes = node.dims()
        scale = 3.0 if all(isinstance(d, int) for d in sizes) else 2.0
        return [op.Mul(dy, op.Mul(op.Mul(node.x(), node.x()), scale))]

    def careful(op: Any, node: Any, dy: Any) -> list[Any]:
        if not all(isinstance(d, int) for d in node.dims()):
            raise node.unsupported("its sizes are not known", "fix them")
        return [op.Mul(dy, op.Mul(op.Mul(node.x(), node.x()), 3.0))]

    rules.result_like("Cube", domain=DOMAIN)
    rules.gradient("Cube", domain=DOMAIN)(careless)
    with pytest.raises(RuleError, match="where sizes are known only at run time"):
        rules.gradcheck("Cube", X, domain=DOMAIN, implementation=Cube)
    rules.gradient("Cube", domain=DOMAIN, replace=True)(careful)
    assert not rules.gradcheck("Cube", X, domain=DOMAIN, implementation=Cube).symbolic


def test_operands_that_show_nothing() -> None:
    rules.elementwise("Relu", domain=DOMAIN)(lambda op, node: op.Sign(node.y))
    with pytest.raises(RuleError, match="flat at these operands"):
        rules.gradcheck("Relu", -np.ones((2, 3)), domain=DOMAIN, implementation=RELU)
    with pytest.raises(RuleError, match="no operand is of floats"):
        rules.gradcheck("Relu", np.arange(3), domain=DOMAIN, implementation=RELU)


def test_the_package_s_own_operators() -> None:
    """The same function checks a rule that nobody plugged in, operands left out included."""
    x = np.random.default_rng(1).normal(size=(1, 2, 5, 5))
    w = np.random.default_rng(2).normal(size=(3, 2, 3, 3))
    assert rules.gradcheck("Conv", x, w, domain="", attributes={"pads": [1, 1, 1, 1]}, wrt=[0]).symbolic
    assert rules.gradcheck("Clip", X, None, np.array(0.4), domain="").error < 1e-6


def test_a_library_of_operators() -> None:
    """What onnxruntime loads, in float32: two results, and a matrix inverse."""
    extensions = pytest.importorskip("onnxruntime_extensions", reason="needs onnxruntime-extensions (extra test)")
    library = extensions.get_library_path()
    contrib = "ai.onnx.contrib"

    @rules.gradient("Inverse", domain=contrib)
    def inverse(op: Any, node: Any, dy: Any) -> list[Any]:
        """dX = -Y^T dY Y^T."""
        transposed = op.Transpose(node.y, perm=[1, 0])
        return [op.Neg(op.MatMul(op.MatMul(transposed, dy), transposed))]

    rules.result_like("Inverse", domain=contrib)
    rules.homogeneous(-1, "Inverse", domain=contrib)
    x = np.random.default_rng(3).normal(size=(3, 3)) + 3 * np.eye(3)
    found = rules.gradcheck("Inverse", x, domain=contrib, implementation=library)
    assert found.precision == "float32"
    assert found.error < 0.02

    rules.gradient("Inverse", domain=contrib, replace=True)(
        lambda op, node, dy: [op.Neg(op.MatMul(op.MatMul(node.y, dy), node.y))]
    )
    with pytest.raises(RuleError, match="differs"):
        rules.gradcheck("Inverse", x, domain=contrib, implementation=library)
