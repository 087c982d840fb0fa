"""Composites as users write them: which node gets which rule, and what is said where that is not possible."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tiny_models import fullgrad_net, model, node

import onnxplain as ox
from onnxplain.engine.errors import OptionError, UnsupportedNodeError
from onnxplain.engine.propagation.catalogue import RULES
from onnxplain.engine.propagation.recipes import PRESETS, composite

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 5)).astype(np.float32)


def stack(depth: int = 4) -> onnx.ModelProto:
    """Layers d0, d1, ... with ReLU between them."""
    nodes, last = [], "x"
    for k in range(depth):
        nodes += [node("Gemm", f"{last} w{k}", f"d{k}"), node("Relu", f"d{k}", f"a{k}")]
        last = f"a{k}"
    weights = {f"w{k}": RNG.normal(size=(5, 5)) + 0.3 for k in range(depth)}
    return model(nodes[:-1], {"x": ["N", 5]}, {f"d{depth - 1}": ["N", 5]}, weights)


NET = stack()


def lrp(entries: Any, x: Array = X) -> Array:
    return ox.explain(NET, x, method="lrp", composite=entries, target=0, threads=1).attributions["x"]


def at(*layers: int) -> list[dict[str, Any]]:
    return [{"names": [f"d{k}_node" for k in layers], "rule": "z_plus"}]


@pytest.mark.parametrize(
    ("where", "layers"),
    [
        ({"first": 1}, (0,)),
        ({"first": 2}, (0, 1)),
        ({"last": 1}, (3,)),
        ({"last": 3}, (1, 2, 3)),
        ({"first": 3, "last": 3}, (1, 2)),
        ({"names": "d[02]_*"}, (0, 2)),
        ({"operators": ["Gemm"], "names": ["d1_node", "d3_*"]}, (1, 3)),
        ({}, (0, 1, 2, 3)),
    ],
    ids=str,
)
def test_an_entry_holds_where_it_says(where: dict[str, Any], layers: tuple[int, ...]) -> None:
    found = lrp([{**where, "rule": "z_plus"}])
    np.testing.assert_array_equal(found, lrp(at(*layers)))
    other = tuple(k for k in range(4) if k not in layers)
    if other:
        assert np.abs(found - lrp(at(*other))).max() > 1e-3


def test_the_first_entry_that_serves_wins() -> None:
    flat = {"first": 1, "rule": "flat"}
    np.testing.assert_array_equal(lrp([flat, {"rule": "z_plus"}]), lrp([flat, *at(1, 2, 3)]))
    np.testing.assert_array_equal(lrp([{"rule": "z_plus"}, flat]), lrp(at(0, 1, 2, 3)))


def test_first_and_last_are_counted_along_the_longest_way() -> None:
    """x -> p -> q -> + <- r <- x, and then h: r is a first layer, and next to the last as well."""
    nodes = [
        *(node("Gemm", "x w", "p"), node("Gemm", "p w", "q"), node("Gemm", "x w", "r")),
        *(node("Add", "q r", "s"), node("Gemm", "s w", "h")),
    ]
    proto = model(nodes, {"x": ["N", 5]}, {"h": ["N", 5]}, {"w": RNG.normal(size=(5, 5))})

    def explain(entry: dict[str, Any]) -> Array:
        return ox.explain(proto, X, method="lrp", composite=[{**entry, "rule": "z_plus"}], target=1).attributions["x"]

    np.testing.assert_array_equal(explain({"first": 1}), explain({"names": ["p_node", "r_node"]}))
    np.testing.assert_array_equal(explain({"last": 2}), explain({"names": ["q_node", "r_node", "h_node"]}))


def test_entries_take_the_methods_numbers_where_they_give_none() -> None:
    whole = ox.explain(NET, X, method="lrp", composite=[{"rule": "z_plus"}], epsilon=0.5, target=0).attributions["x"]
    np.testing.assert_array_equal(whole, lrp([{"rule": "z_plus", "epsilon": 0.5}]))
    assert np.abs(whole - lrp([{"rule": "z_plus"}])).max() > 1e-3


TOML = """
base = "epsilon_plus"

[[rule]]
operators = ["Gemm"]
last = 1
rule = "epsilon"
epsilon = 0.25

[[rule]]
names = ["d1_*", "d2_*"]
rule = "gamma"
gamma = 0.5
"""


def test_a_file_is_the_entries_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(TOML)
    expected = [
        {"operators": ["Gemm"], "last": 1, "rule": "epsilon", "epsilon": 0.25},
        {"names": ["d1_*", "d2_*"], "rule": "gamma", "gamma": 0.5},
        *PRESETS["epsilon_plus"],
    ]
    assert list(composite(path).entries) == expected
    np.testing.assert_array_equal(lrp(str(path)), lrp(expected))
    e = ox.explain(NET, X, method="lrp", composite=path)
    assert e.options["composite"] == expected, "a record must not depend on the file"
    assert ox.explain(NET, X, method="lrp", composite="epsilon_plus").options["composite"] == "epsilon_plus"


def test_the_record_can_be_written(tmp_path: Path) -> None:
    e = ox.explain(NET, X, method="lrp", composite=[{"first": 1, "rule": "z_box", "low": -1, "high": [2.0]}])
    e.save(tmp_path / "e.npz")
    assert ox.Explanation.load(tmp_path / "e.npz").options["composite"][0]["rule"] == "z_box"


@pytest.mark.parametrize("name", PRESETS)
def test_presets_conserve_and_differ_from_plain_epsilon(name: str) -> None:
    proto, x = fullgrad_net()
    e = ox.explain(proto, np.concatenate([x, -x]), method="lrp", composite=name, target=1, threads=1)
    assert e.residual is not None
    np.testing.assert_array_less(e.residual.relative, 1e-5)
    plain = ox.explain(proto, np.concatenate([x, -x]), method="lrp", target=1, threads=1)
    assert np.abs(e.attributions["x"] - plain.attributions["x"]).max() > 0.01
    assert not [n for n in e.notes if "served no node" in n]


def test_rules_of_gradients_are_mixed_in_gradient_methods() -> None:
    """Guided at the upper ReLU, DeconvNet at the lower ones, by hand."""
    entries = [{"names": ["a2_node"], "rule": "guided"}, {"rule": "deconvnet"}]
    found = ox.explain(NET, X, method="gradient", composite=entries, target=0, threads=1).attributions["x"]
    w = [onnx.numpy_helper.to_array(t).astype(np.float64) for t in NET.graph.initializer]
    a = X.astype(np.float64)
    z = []
    for k in range(4):
        z.append(a @ w[k])
        a = np.maximum(z[-1], 0)
    dy = np.tile(w[3][:, 0], (2, 1))
    dy = np.maximum(dy, 0) * (z[2] > 0) @ w[2].T
    dy = np.maximum(dy, 0) @ w[1].T
    dy = np.maximum(dy, 0) @ w[0].T
    assert np.abs(dy).max() > 0.1
    np.testing.assert_allclose(found, dy, rtol=1e-4, atol=1e-5)


def test_a_gradient_rule_takes_nodes_out() -> None:
    entries = [{"names": ["a*"], "rule": "gradient"}, {"rule": "guided"}]
    found = ox.explain(NET, X, method="gradient", composite=entries, target=0).attributions["x"]
    np.testing.assert_array_equal(found, ox.explain(NET, X, method="gradient", target=0).attributions["x"])


def test_entries_that_serve_nothing_are_told() -> None:
    e = ox.explain(NET, X, method="lrp", composite=[{"names": ["conv*"], "rule": "gamma"}, {"rule": "z_plus"}])
    assert [n for n in e.notes if "entry 1" in n and "served no node" in n]
    assert not [n for n in e.notes if "entry 2" in n]


WRONG: list[tuple[Any, str]] = [
    ("epsilon_pluss", "no composite 'epsilon_pluss'; choose one of epsilon_plus"),
    ("there_is_none.toml", "cannot be read: No such file"),
    ([], "no entry"),
    (7, "give the name of a preset"),
    ([{}], "entry 1: it names no rule; the rules are alpha_beta"),
    ([{"rule": "z_plus"}, {"rule": "gama"}], "entry 2: there is no rule 'gama'"),
    ([{"rule": "gamma", "gama": 1}], "has no option 'gama'; its options: gamma, signed, epsilon, bias"),
    ([{"rule": "gamma", "gamma": "much"}], "gamma='much' is not possible for the rule 'gamma'; give a number"),
    ([{"rule": "gamma", "gamma": -1}], "give 0 or more"),
    ([{"rule": "epsilon", "epsilon": 0}], "give a positive number"),
    ([{"rule": "epsilon", "bias": "keep"}], "give 'absorb' or 'ignore'"),
    ([{"rule": "alpha_beta", "alpha": 3}], "alpha - beta has to be 1"),
    ([{"rule": "z_box", "low": "dark"}], "a number, or a list with one per channel"),
    ([{"rule": "flat", "first": 0}], "first=0 is not possible; give the number of layers, from 1"),
    ([{"rule": "flat", "names": []}], "give a list of names"),
    ([{"rule": "flat", "operators": ["Convolution"]}], "there is no operator 'Convolution'"),
    ([{"rule": "guided"}], "the rule 'guided' carries gradient back, and lrp carries relevance"),
    ({"rules": []}, "unknown key 'rules'"),
    ({"base": "mine"}, "base='mine' is no preset"),
]


@pytest.mark.parametrize(("given", "words"), WRONG, ids=lambda v: str(v)[:30])
def test_what_is_not_possible_is_one_clear_sentence(given: Any, words: str) -> None:
    with pytest.raises(OptionError) as caught:
        ox.explain(NET, X, method="lrp", composite=given)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_errors_of_a_file_name_it_and_the_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text("[[rule]]\nrule = \n")
    with pytest.raises(OptionError, match=r"bad\.toml is not TOML: .*line 2"):
        composite(path)
    path.write_text('[[rule]]\nrule = "gamma"\nfirst = "one"\n')
    with pytest.raises(OptionError, match=r"bad\.toml, entry 1: first='one'"):
        composite(path)


def test_relevance_rules_are_refused_by_gradient_methods() -> None:
    with pytest.raises(OptionError, match="gradient carries gradient"):
        ox.explain(NET, X, method="gradient", composite="epsilon_plus")
    with pytest.raises(OptionError, match="leave it out, or use mode='layerwise'"):
        ox.explain(NET, X, method="lrp", mode="modified_gradient", composite="epsilon_plus")


def test_pass_is_refused_where_shapes_differ() -> None:
    proto = model([node("Gemm", "x w", "y")], {"x": ["N", 5]}, {"y": ["N", 2]}, {"w": np.ones((5, 2))})
    with pytest.raises(UnsupportedNodeError, match="needs an operand of the result's shape"):
        ox.explain(proto, X, method="lrp", composite=[{"rule": "pass"}])


def test_every_rule_is_documented() -> None:
    page = (Path(__file__).parents[3] / "docs" / "composites.md").read_text()
    for name, rule in RULES.items():
        assert rule.summary
        assert f"`{name}`" in page, f"docs/composites.md does not name the rule '{name}'"
        for option in rule.options():
            assert f"`{option}`" in page, f"docs/composites.md does not name the option '{option}' of '{name}'"
    for name in PRESETS:
        assert f"`{name}`" in page
