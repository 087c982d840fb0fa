"""Verification on whole models: right ones pass, kinks and all; wrong ones fail, and the node is named."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from custom_operators import CUBE, DOMAIN, Cube, X, net
from onnx import TensorProto
from onnx.reference.op_run import OpRun
from tiny_models import example_one, fullgrad_net, model, node

import onnxplain as ox
from onnxplain import rules
from onnxplain.engine.errors import InputError, OptionError, TargetError, UnsupportedNodeError
from onnxplain.engine.rules import load_rules
from onnxplain.engine.rules.table import GRADIENT, Entry
from onnxplain.engine.session import reference_ops

Array = np.ndarray[Any, Any]
ALL = ["gradient", "gradient in float64", "completeness", "determinism", "samples", "outputs", "provider reference"]


@pytest.fixture(autouse=True)
def undone() -> Iterator[None]:
    with rules.temporary():
        yield


def verdicts(report: ox.VerifyReport) -> dict[str, str]:
    return {row.name: row.verdict for row in report.rows}


def kinky(width: int = 400, depth: int = 3, batch: Any = "N") -> onnx.ModelProto:
    """Layers of ReLUs without biases: every unit meets its kink at zero, and a black input lies on all of them."""
    rng = np.random.default_rng(0)
    nodes, weights, before = [], {}, "x"
    for i in range(depth):
        rows = 30 if i == 0 else width
        weights[f"w{i}"] = (rng.normal(size=(rows, width)) / np.sqrt(rows)).astype(np.float32)
        nodes += [node("MatMul", f"{before} w{i}", f"z{i}"), node("Relu", f"z{i}", f"a{i}")]
        before = f"a{i}"
    weights["v"] = rng.normal(size=(width, 3)).astype(np.float32)
    nodes.append(node("MatMul", f"{before} v", "y"))
    return model(nodes, {"x": [batch, 30]}, {"y": [batch, 3]}, weights)


# ----- right models ----------------------------------------------------------------------------------


def test_the_demo_network() -> None:
    report = ox.verify(ox.demo_model(), ox.demo_input(), threads=1)
    assert verdicts(report) == dict.fromkeys(ALL, "pass")
    assert report.ok
    assert report["gradient in float64"].figures["error"] < 1e-6
    assert report.provenance["samples"] == 4
    assert len(report.provenance["target"]) == 4
    assert json.loads(report.to_json())["ok"] is True


@pytest.mark.parametrize("x", ["random", "black", "mixed"])
@pytest.mark.parametrize("seed", range(3))
def test_a_net_full_of_kinks(x: str, seed: int) -> None:
    values = np.random.default_rng(1).normal(size=(2, 30)).astype(np.float32)
    if x != "random":
        values[:, : 30 if x == "black" else 20] = 0
    report = ox.verify(kinky(), values, target=1, threads=1, seed=seed)
    found = verdicts(report)
    assert found.pop("provider reference") == "pass"
    if x == "black":  # the decomposition of zero is zero
        found.pop("completeness")
    assert set(found.values()) == {"pass"}, report


def test_max_pooling_over_ties() -> None:
    """Windows of equal numbers: one of them is taken, and nearby points have no ties."""
    net_, x = fullgrad_net()
    assert ox.verify(net_, np.repeat(np.round(x), 2, axis=0), threads=1).ok
    assert ox.verify(net_, np.ones_like(x), threads=1).ok


def test_several_inputs_and_a_fixed_batch() -> None:
    two = model([node("Mul", "a b", "m"), node("Tanh", "m", "y")], {"a": [2, 3], "b": [2, 3]}, {"y": [2, 3]})
    x = {k: np.random.default_rng(i).normal(size=(2, 3)).astype(np.float32) for i, k in enumerate("ab")}
    report = ox.verify(two, x, threads=1)
    assert report.ok, report
    assert verdicts(report)["samples"] == "pass"
    single = kinky(20, 1, batch=1)
    report = ox.verify(single, np.ones((1, 30), np.float32), threads=1)
    assert report.ok
    assert "one sample at a time" in report["samples"].words


def test_token_ids_are_verified_at_their_embedding() -> None:
    rng = np.random.default_rng(3)
    nodes = [node("Gather", "table ids", "e"), node("Tanh", "e", "t"), node("ReduceSum", "t axes", "y", keepdims=0)]
    proto = model(nodes, {"ids": ["N", 5]}, {"y": ["N", 4]}, {"table": rng.normal(size=(9, 4)), "axes": np.array([1])})
    proto.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64
    report = ox.verify(proto, rng.integers(0, 9, (3, 5)), threads=1)
    assert report.ok, report
    assert report.provenance["wrt"] == ["e"]


def test_a_model_in_float64() -> None:
    """Told to 1e-6 by the model's own format."""
    report = ox.verify(example_one(TensorProto.DOUBLE), np.array([[3.0, 0.5]]), providers="reference")
    assert report.ok, report
    assert report["gradient"].figures["precision"] == "float64"


def test_a_model_in_float16() -> None:
    proto = model(
        [node("MatMul", "x w", "z"), node("Tanh", "z", "y")], {"x": ["N", 40]}, {"y": ["N", 3]},
        {"w": np.random.default_rng(0).normal(size=(40, 3)) / 6}, dtype=TensorProto.FLOAT16,
    )  # fmt: skip
    x = np.random.default_rng(1).normal(size=(2, 40)).astype(np.float16)
    report = ox.verify(proto, x, threads=1)
    assert report.ok, report


def test_a_quantised_model_goes_through_its_float_form() -> None:
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.normal(size=(6, 4)).astype(np.float32), "s": np.float32(0.02), "z": np.int8(0),
    }  # fmt: skip
    nodes = [
        node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z", "d"),
        node("MatMul", "d w", "m"), node("Tanh", "m", "y"),
    ]  # fmt: skip
    report = ox.verify(
        model(nodes, {"x": ["N", 6]}, {"y": ["N", 4]}, weights), rng.normal(size=(2, 6)).astype(np.float32)
    )
    assert report.ok, report
    assert "rounding has no slope" in report["gradient"].words


def test_heads_targets_and_inner_tensors() -> None:
    proto = kinky(40, 2)
    proto.graph.node.append(node("Softmax", "y", "p", axis=-1))
    proto.graph.output[0].name = "p"
    x = np.random.default_rng(1).normal(size=(3, 30)).astype(np.float32)
    for how in ({"head": "probability"}, {"head": "margin"}, {"target": [0, 2, 1]}, {"wrt": "a0"},
                {"target": ox.Target.weights([1.0, -1.0, 0.5])}):  # fmt: skip
        assert ox.verify(proto, x, threads=1, **how).ok, how


# ----- wrong ones, and the node that is to blame -----------------------------------------------------


def wrong_cube(factor: float) -> None:
    @rules.gradient("Cube", domain=DOMAIN)
    def cube(op: Any, node: Any, dy: Any) -> list[Any]:
        return [op.Mul(dy, op.Mul(op.Mul(node.x(), node.x()), 3.0 * factor))]

    rules.result_like("Cube", domain=DOMAIN)
    rules.homogeneous(3, "Cube", domain=DOMAIN)


@pytest.mark.parametrize("how", ["class", "function"])
def test_a_wrong_rule_of_a_plug_in(how: str) -> None:
    wrong_cube(1.1)
    given: dict[str, Any] = {"providers": "reference", "custom_ops": Cube} if how == "class" else {"threads": 1}
    report = ox.verify(net("Cube", *([CUBE] if how == "function" else [])), X, **given)
    assert not report.ok
    rows = [report["gradient in float64"], *([report["gradient"]] if how == "function" else [])]
    for row in rows:
        assert row.verdict == "fail", report
        first = row.nodes[0]
        assert (first.node, first.operator, first.tensor) == ("the_strange_one", f"{DOMAIN}::Cube", "z")
        assert first.figures["error"] == pytest.approx(0.1, rel=0.2)
        assert len(row.nodes) == 1
    assert report["completeness"].verdict == "fail"
    assert "the_strange_one" in str(report)
    assert f"{DOMAIN}::Cube" in report.to_json()


def test_a_right_rule_of_a_plug_in() -> None:
    wrong_cube(1.0)
    assert ox.verify(net("Cube", CUBE), X, threads=1).ok
    assert ox.verify(net("Cube"), X, providers="reference", custom_ops=Cube).ok


@pytest.mark.parametrize(("factor", "float32"), [(1.3, "fail"), (1.0001, "pass")])
def test_a_wrong_rule_in_a_net_full_of_kinks(factor: float, float32: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kinks are no excuse: what float32 cannot tell from rounding, float64 does."""
    load_rules()
    right = GRADIENT.find("", "Relu", 18)
    assert right is not None

    def scaled(op: Any, node: Any, dy: Any) -> list[Any]:
        (part,) = right.rule(op, node, dy)
        return [op.Mul(part, factor)]

    monkeypatch.setitem(GRADIENT._entries, ("", "Relu"), [Entry(scaled)])
    report = ox.verify(kinky(200, 2), np.random.default_rng(1).normal(size=(2, 30)).astype(np.float32), threads=1)
    assert report["gradient"].verdict == float32
    assert report["gradient in float64"].verdict == "fail"
    assert [n.node for n in report["gradient in float64"].nodes] == ["a1_node", "a0_node"]  # from the target backwards
    assert {n.operator for n in report["gradient in float64"].nodes} == {"Relu"}


def test_an_operator_that_is_called_flat_and_is_not() -> None:
    """Its gradient ends at a node that no rule is asked for."""
    rules.no_gradient("Cube", domain=DOMAIN, reported=False)
    rules.result_like("Cube", domain=DOMAIN)
    proto = net("Cube", CUBE)
    proto.graph.node.append(node("Add", "y s", "sum"))
    proto.graph.node.append(node("ReduceSum", "x one", "s", keepdims=1))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1]), "one"))
    proto.graph.output[0].name = "sum"
    report = ox.verify(proto, X, threads=1)
    assert report["gradient in float64"].verdict == "fail", report
    assert [n.node for n in report["gradient in float64"].nodes] == ["the_strange_one"]


def test_samples_that_mix() -> None:
    """A mean over the batch inside the model: the gradient of a row depends on the others."""
    proto = model(
        [
            node("MatMul", "x w", "z"), node("ReduceMean", "z axes", "mean", keepdims=1),
            node("Mul", "z mean", "c"), node("MatMul", "c v", "y"),
        ],
        {"x": ["N", 4]}, {"y": ["N", 2]},
        {"w": np.random.default_rng(0).normal(size=(4, 5)), "v": np.random.default_rng(1).normal(size=(5, 2)),
         "axes": np.array([0])},
    )  # fmt: skip
    report = ox.verify(proto, X, target=0, threads=1)
    assert report["samples"].verdict == "fail", report
    assert report["samples"].nodes[0].tensor == "mean"
    assert report["samples"].nodes[0].operator == "ReduceMean"


class Trembling(OpRun):
    """Adds noise that nobody can repeat."""

    op_domain = DOMAIN

    def _run(self, x: Array) -> tuple[Array]:
        return ((x + 1e-3 * np.random.default_rng().normal(size=x.shape)).astype(x.dtype),)


def test_what_is_not_deterministic() -> None:
    rules.gradient("Trembling", domain=DOMAIN)(lambda op, node, dy: [op.Mul(dy, node.y)])
    rules.result_like("Trembling", domain=DOMAIN)
    report = ox.verify(net("Trembling"), X, target=0, providers="reference", custom_ops=Trembling)
    assert report["determinism"].verdict == "fail", report
    assert report["determinism"].nodes[0].node == "the_strange_one"
    assert not report.ok


class Tanh(OpRun):
    """Another provider's Tanh, wrong in the third digit."""

    op_domain = ""

    def _run(self, x: Array) -> tuple[Array]:
        return ((np.tanh(x) * 1.01).astype(x.dtype),)


def test_a_provider_that_computes_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference_ops, "CORRECTED", [*reference_ops.CORRECTED, Tanh])
    proto = model(
        [node("MatMul", "x w", "z"), node("Tanh", "z", "t"), node("Exp", "t", "y")], {"x": ["N", 4]}, {"y": ["N", 5]},
        {"w": np.random.default_rng(0).normal(size=(4, 5))},
    )  # fmt: skip
    report = ox.verify(proto, X, target=0, threads=1)
    row = report["provider reference"]
    assert row.verdict == "fail"
    assert (row.nodes[0].node, row.nodes[0].operator) == ("t_node", "Tanh")


def test_outputs_that_rewriting_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass of the canonical form that is wrong: the tensor where it begins is named."""
    from onnxplain.engine.graph import canonical

    def clumsy(source: Any, **how: Any) -> Any:
        made = right(source, **how)
        weight = made.graph.initializers["w1"]
        weight.const_value = ir.tensor(weight.const_value.numpy() * np.float32(1.01), name="w1")
        return made

    right = canonical.canonicalise
    monkeypatch.setattr("onnxplain.engine.loading.canonicalise", clumsy)
    proto, x = fullgrad_net()
    report = ox.verify(proto, x, threads=1)
    assert report["outputs"].verdict == "fail", report
    assert report["outputs"].nodes[0].tensor == "z1"


# ----- undecided, and bad requests -------------------------------------------------------------------


def test_a_flat_model_is_not_verified() -> None:
    report = ox.verify(kinky(20, 1), np.full((1, 30), -1.0, np.float32), target=0, threads=1)
    flat = model([node("Relu", "x", "y")], {"x": ["N", 3]}, {"y": ["N", 3]})
    report = ox.verify(flat, -np.ones((1, 3), np.float32), target=0, threads=1)
    assert report["gradient"].verdict == "undecided"
    assert "flat" in report["gradient"].words
    assert not report.ok
    assert not report.failed


def test_time_is_limited() -> None:
    """The evaluator is stopped between two nodes, and everything else goes on."""
    report = ox.verify(kinky(), np.ones((1, 30), np.float32), target=1, threads=1, seconds=1e-6)
    assert report["gradient in float64"].verdict == "undecided"
    assert "seconds" in report["gradient in float64"].words
    assert report["provider reference"].verdict == "undecided"
    assert report["gradient"].verdict == "pass"
    assert report.ok


def test_without_bias_rules_there_is_no_completeness() -> None:
    rules.gradient("Cube", domain=DOMAIN)(lambda op, node, dy: [op.Mul(dy, op.Mul(op.Mul(node.x(), node.x()), 3.0))])
    report = ox.verify(net("Cube", CUBE), X, threads=1)
    assert report["completeness"].verdict == "undecided"
    assert report.ok


def test_bad_requests() -> None:
    proto, x = fullgrad_net()
    with pytest.raises(OptionError, match="directions=2"):
        ox.verify(proto, x, directions=2)
    with pytest.raises(OptionError, match="seconds=0"):
        ox.verify(proto, x, seconds=0)
    with pytest.raises(InputError):
        ox.verify(proto, x[0])
    with pytest.raises(InputError, match="dictionary"):
        ox.verify(model([node("Add", "a b", "y")], {"a": [1, 2], "b": [1, 2]}, {"y": [1, 2]}), x)
    with pytest.raises(TargetError, match="one target at a time"):
        ox.verify(proto, x, target=ox.Target.top_k(2))
    with pytest.raises(TargetError):
        ox.verify(proto, x, target=99)
    with pytest.raises(UnsupportedNodeError):
        ox.verify(net("Mystery"), X)


def test_the_report_as_data() -> None:
    report = ox.verify(kinky(20, 1), np.ones((1, 30), np.float32), target=0, threads=1)
    document = json.loads(report.to_json())
    assert [row["name"] for row in document["rows"]] == ALL
    assert document["provenance"]["model_sha256"] == ox.load(kinky(20, 1)).source.sha256
    assert document["provenance"]["seed"] == 0
    with pytest.raises(KeyError):
        report["nothing"]
    lines = str(report).splitlines()
    assert len(lines) == 1 + len(ALL)
    assert lines[0].endswith(": ok")


def test_the_same_seed_gives_the_same_report() -> None:
    x = np.random.default_rng(1).normal(size=(2, 30)).astype(np.float32)

    def figures(seed: int) -> Any:
        return ox.verify(kinky(50, 1), x, threads=1, seed=seed)["gradient"].figures

    assert figures(1) == figures(1) != figures(2)
