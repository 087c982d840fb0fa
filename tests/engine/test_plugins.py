"""Rules of plug-ins: who gets asked, at which version, and what may not be registered."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from custom_operators import CUBE, DOMAIN, RELU, Cube, Relu, X, net
from onnx import parser

import onnxplain as ox
from onnxplain import rules
from onnxplain.engine.errors import OptionError, RuleError, SessionError, UnsupportedNodeError
from onnxplain.engine.rules.table import BIAS, FLAT, GRADIENT


@pytest.fixture(autouse=True)
def undone() -> Iterator[None]:
    with rules.temporary():
        yield


def relu_rules(**options: Any) -> None:
    """The gate, as a plug-in would write it."""

    @rules.gradient("Relu", domain=DOMAIN, **options)
    def relu(op: Any, node: Any, dy: Any) -> list[Any]:
        return [op.Where(op.Greater(node.x(), 0.0), dy, op.Mul(dy, 0.0))]

    rules.homogeneous(1, "Relu", domain=DOMAIN, **options)
    rules.result_like("Relu", domain=DOMAIN)


def expected_gradient(x: np.ndarray[Any, Any], column: int) -> np.ndarray[Any, Any]:
    """Of the net with a Relu in the middle, by hand."""
    w, b, v = (onnx.numpy_helper.to_array(t) for t in net("Relu").graph.initializer)
    gate = x @ w + b > 0
    return (gate * v[:, column]) @ w.T


# ----- refused, and made to work ---------------------------------------------------------------------


def test_a_strange_relu_is_refused() -> None:
    with pytest.raises(UnsupportedNodeError, match=rf"'the_strange_one' \({DOMAIN}::Relu\).*plug-in") as caught:
        ox.explain(net("Relu"), X, method="gradient", providers="reference", custom_ops=Relu)
    assert caught.value.node == "the_strange_one"
    report = ox.check(net("Relu"))
    assert not report.ok
    assert [o.operator for o in report.obstacles] == [f"{DOMAIN}::Relu"]


def test_what_is_not_known_behind_it_points_at_it() -> None:
    """Without a word on its result, the operator behind it has no rank to go by."""
    model = net("Cube")
    del model.graph.value_info[:]
    rules.gradient("Cube", domain=DOMAIN)(lambda op, node, dy: [dy])
    with pytest.raises(UnsupportedNodeError, match=r"MatMul.*'the_strange_one' \(org.example::Cube\).*rules.result"):
        ox.explain(model, X, method="gradient", providers="reference", custom_ops=Cube)


@pytest.mark.parametrize("how", ["class", "function"])
def test_a_rule_makes_it_work(how: str) -> None:
    relu_rules()
    if how == "class":
        e = ox.explain(net("Relu"), X, method="fullgrad", target=1, providers="reference", custom_ops=[Relu])
    else:
        e = ox.explain(net("Relu", RELU), X, method="fullgrad", target=1)
    assert e.residual is not None and e.residual.ok
    gradient = ox.vjp(
        net("Relu") if how == "class" else net("Relu", RELU),
        {"x": X}, {"y": np.tile(np.float32([0, 1]), (3, 1))},
        providers="reference" if how == "class" else None, custom_ops=Relu if how == "class" else None,
    )  # fmt: skip
    np.testing.assert_allclose(gradient["x"], expected_gradient(X, 1), rtol=1e-5, atol=1e-6)
    assert ox.check(net("Relu")).ok


def test_a_rule_of_another_domain_does_not_count() -> None:
    @rules.elementwise("Relu", domain="com.example")
    def relu(op: Any, node: Any) -> Any:
        return op.Sign(op.Relu(node.x()))

    with pytest.raises(UnsupportedNodeError):
        ox.vjp(net("Relu"), {"x": X}, {"y": np.ones((3, 2), np.float32)}, providers="reference", custom_ops=Relu)


def test_nothing_computes_it() -> None:
    """The rule is there, the operator is not: the error names the way out."""
    relu_rules()
    with pytest.raises(SessionError, match="custom_ops"):
        ox.explain(net("Relu"), X, method="gradient")


def test_by_installed_entry_point(tmp_path: Path) -> None:
    """A distribution that is installed and does nothing else: its folder and its metadata on the path."""
    (tmp_path / "example_rules.py").write_text(
        "from onnxplain import rules\n\n\n"
        "@rules.elementwise('Cube', domain='org.example')\n"
        "def cube(op, node):\n    return op.Mul(op.Mul(node.x(), node.x()), 3.0)\n"
    )
    made = tmp_path / "example_rules-1.0.dist-info"
    made.mkdir()
    (made / "METADATA").write_text("Metadata-Version: 2.1\nName: example-rules\nVersion: 1.0\n")
    (made / "entry_points.txt").write_text("[onnxplain.rules]\nexample = example_rules\n")
    (tmp_path / "net.onnx").write_bytes(net("Cube", CUBE).SerializeToString())
    np.save(tmp_path / "x.npy", X)
    code = (
        "import sys, numpy as np\n"
        f"sys.path.insert(0, {str(tmp_path)!r}) if 'with' in sys.argv else None\n"
        f"folder = {str(tmp_path)!r}\n"
        "import onnxplain as ox\n"
        "listed = [o['operator'] for o in ox.operators() if o['domain'] == 'org.example']\n"
        "print(listed, ox.check(folder + '/net.onnx').operators)\n"
        "e = ox.explain(folder + '/net.onnx', np.load(folder + '/x.npy'), method='fullgrad')\n"
        "assert e.residual.ok\n"
    )
    run = subprocess.run([sys.executable, "-c", code, "with"], capture_output=True, text=True, check=True)
    assert run.stdout.startswith("['Cube'] ")
    assert "org.example::Cube" in run.stdout  # the rule is asked, though the model has a body for the operator
    alone = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert alone.stdout.startswith("[] ")
    assert "Cube" not in alone.stdout


def test_a_broken_plug_in_breaks_nothing_else(tmp_path: Path) -> None:
    made = tmp_path / "broken-1.0.dist-info"
    made.mkdir()
    (made / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (made / "entry_points.txt").write_text("[onnxplain.rules]\nbad = there_is_no_such_module\n")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import onnxplain as ox\n"
        "print(bool(ox.explain(ox.demo_model(), ox.demo_input()).residual.ok))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "True"
    assert run.stderr.count("plug-in 'bad' of the distribution 'broken' cannot be loaded") == 1
    assert "Traceback" not in run.stderr


# ----- versions --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("version", "factor"), [(1, 1.0), (2, 1.0), (3, 10.0), (7, 10.0)])
def test_the_newest_rule_not_newer_than_the_model_is_taken(version: int, factor: float) -> None:
    for since, scale in ((1, 1.0), (3, 10.0)):

        @rules.gradient("Cube", domain=DOMAIN, since=since)
        def cube(op: Any, node: Any, dy: Any, scale: float = scale) -> list[Any]:
            return [op.Mul(dy, scale)]

    y = np.ones((3, 2), np.float32)
    found = ox.vjp(net("Cube", version=version), {"x": X}, {"y": y}, providers="reference", custom_ops=Cube)
    w, _, v = (onnx.numpy_helper.to_array(t) for t in net("Cube").graph.initializer)
    np.testing.assert_allclose(found["x"], factor * (y @ v.T) @ w.T, rtol=1e-5)


def test_a_rule_for_later_versions_serves_no_earlier_one() -> None:
    rules.gradient("Cube", domain=DOMAIN, since=2)(lambda op, node, dy: [dy])
    with pytest.raises(UnsupportedNodeError, match=f"{DOMAIN}::Cube"):
        ox.vjp(net("Cube"), {"x": X}, {"y": np.ones((3, 2), np.float32)}, providers="reference", custom_ops=Cube)


def test_the_version_is_the_domain_s_inside_branches() -> None:
    rules.gradient("Cube", domain=DOMAIN, since=4)(lambda op, node, dy: [op.Mul(dy, 7.0)])
    model = parser.parse_model(f"""
        <ir_version: 8, opset_import: ["" : 18, "{DOMAIN}" : 4]>
        net (float[2, 3] x, bool c) => (float[2, 3] y) {{
            y = If (c) <then_branch = a () => (float[2, 3] p) {{ p = {DOMAIN}.Cube(x) }},
                        else_branch = b () => (float[2, 3] q) {{ q = Neg(x) }}>
        }}
    """)
    x = np.ones((2, 3), np.float32)
    feeds = {"x": x, "c": np.array(True)}
    found = ox.vjp(model, feeds, {"y": x}, wrt=["x"], providers="reference", custom_ops=Cube)
    np.testing.assert_array_equal(found["x"], 7 * x)


# ----- what stays of a model-local function ----------------------------------------------------------


def test_a_rule_goes_before_a_function_s_body() -> None:
    """Like a custom gradient: the body computes, the rule differentiates."""
    rules.gradient("Relu", domain=DOMAIN)(lambda op, node, dy: [dy])
    y = np.tile(np.float32([0, 1]), (3, 1))
    found = ox.vjp(net("Relu", RELU), {"x": X}, {"y": y})
    w, _, v = (onnx.numpy_helper.to_array(t) for t in net("Relu").graph.initializer)
    np.testing.assert_allclose(found["x"], (y @ v.T) @ w.T, rtol=1e-5, atol=1e-6)


def test_without_a_rule_the_body_is_differentiated() -> None:
    found = ox.vjp(net("Relu", RELU), {"x": X}, {"y": np.tile(np.float32([0, 1]), (3, 1))})
    np.testing.assert_allclose(found["x"], expected_gradient(X, 1), rtol=1e-5, atol=1e-6)


def test_functions_that_stay_come_to_the_working_opset() -> None:
    """A body of an old opset beside a graph that was written up to 18."""
    relu_rules()
    old = parser.parse_function(
        '<opset_import: ["" : 10], domain: "org.example"> Relu (x) => (y) { y = Clip <min = 0.0> (x) }'
    )
    model = net("Relu", old)
    model.opset_import[0].version = 10
    e = ox.explain(model, X, method="gradient", target=1)
    np.testing.assert_allclose(e.attributions["x"], expected_gradient(X, 1), rtol=1e-5, atol=1e-6)


def test_what_stands_behind_has_a_type_and_sizes() -> None:
    """Reshape and Gemm behind a custom operator need both; the plug-in's word for them is taken."""
    rules.gradient("Cube", domain=DOMAIN)(lambda op, node, dy: [op.Mul(dy, op.Mul(op.Mul(node.x(), node.x()), 3.0))])
    rules.result_like("Cube", domain=DOMAIN)
    model = parser.parse_model(f"""
        <ir_version: 8, opset_import: ["" : 18, "{DOMAIN}" : 1]>
        net (float[N, 2, 3] x) => (float[N, M] y) {{
            a = {DOMAIN}.Cube(x)
            b = {DOMAIN}.Cube(a)
            c = Flatten(b)
            y = LayerNormalization(c, s)
        }}
    """)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(6, np.float32), "s"))
    layers = {layer.output: layer.shape for layer in ox.load(model).layers}
    assert layers["b"] == ("N", 2, 3)
    assert layers["y"] == ("N", 6)
    x = np.random.default_rng(0).normal(size=(2, 2, 3)).astype(np.float32)
    assert ox.verify(model, x, providers="reference", custom_ops=Cube).ok


# ----- what may be registered ------------------------------------------------------------------------


def test_a_second_rule_is_refused_unless_it_replaces() -> None:
    rules.gradient("Cube", domain=DOMAIN)(lambda op, node, dy: [dy])
    with pytest.raises(RuleError, match=r"org.example::Cube has a gradient rule from version 1 .*replace=True"):
        rules.gradient("Cube", domain=DOMAIN)(lambda op, node, dy: [dy])
    rules.gradient("Cube", domain=DOMAIN, since=2)(lambda op, node, dy: [dy])
    second = rules.gradient("Cube", domain=DOMAIN, replace=True)(lambda op, node, dy: [None])
    entry = GRADIENT.find(DOMAIN, "Cube", 1)
    assert entry is not None and entry.rule is second


@pytest.mark.parametrize(
    ("operator", "domain", "words"),
    [
        ("Relu", "", "has a rule of this package"),
        ("Relu", "ai.onnx", "has a rule of this package"),
        ("Shape", "", "has a rule of this package"),
        ("Attention", "", "written out in simpler operators"),
        ("FusedConv", "com.microsoft", "written out in simpler operators"),
    ],
)
def test_what_this_package_serves_is_not_taken_over(operator: str, domain: str, words: str) -> None:
    with pytest.raises(RuleError, match=words):
        rules.gradient(operator, domain=domain, replace=True)(lambda op, node, dy: [dy])
    with pytest.raises(RuleError, match=words):
        rules.no_gradient(operator, domain=domain, reported=False)


def test_an_operator_has_to_be_named() -> None:
    with pytest.raises(RuleError, match="no operator was named"):
        rules.gradient(domain=DOMAIN)(lambda op, node, dy: [dy])


def test_flat_and_differentiable_at_once() -> None:
    rules.gradient("Cube", domain=DOMAIN)(lambda op, node, dy: [dy])
    with pytest.raises(RuleError, match="has a gradient rule"):
        rules.no_gradient("Cube", domain=DOMAIN, reported=True)


def test_no_gradient_is_reported_on_the_result() -> None:
    rules.no_gradient("Cube", domain=DOMAIN, reported=True, remedy="leave it out")
    with pytest.raises(ox.OnnxplainError, match="leave it out"):
        ox.explain(net("Cube"), X, method="gradient", providers="reference", custom_ops=Cube)


def test_temporary_takes_everything_back() -> None:
    before = GRADIENT.operators(), BIAS.operators(), dict(FLAT)
    with rules.temporary():
        relu_rules()
        rules.no_gradient("Mystery", domain=DOMAIN, reported=False)
        assert (DOMAIN, "Relu") in GRADIENT.operators()
    assert before == (GRADIENT.operators(), BIAS.operators(), dict(FLAT))
    with pytest.raises(UnsupportedNodeError):
        ox.vjp(net("Relu"), {"x": X}, {"y": np.ones((3, 2), np.float32)}, providers="reference", custom_ops=Relu)


def test_a_rule_that_gives_nothing_for_an_active_operand_is_refused() -> None:
    rules.gradient("Cube", domain=DOMAIN)(lambda op, node, dy: [None])
    with pytest.raises(UnsupportedNodeError, match="gives no gradient for operand 0"):
        ox.vjp(net("Cube"), {"x": X}, {"y": np.ones((3, 2), np.float32)}, providers="reference", custom_ops=Cube)


@pytest.mark.parametrize("given", ["missing.so", 3, int, [Cube, 3.5]])
def test_implementations_that_are_none(given: Any) -> None:
    with pytest.raises(OptionError, match=r"custom.op"):
        ox.explain(ox.demo_model(), ox.demo_input(), method="gradient", custom_ops=given)
