"""Points of a path side by side in the batch, or in a loop: the same numbers, and which of the two a file gets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from tiny_models import assets, fullgrad_net, model, node

import onnxplain as ox
from onnxplain.engine.errors import OptionError
from onnxplain.engine.shipping.profiles import profile_named
from onnxplain.engine.shipping.staging import BUDGET_BYTES, MOST_COPIES, Staging
from onnxplain.engine.verification.probe import doubled

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(3)

METHODS: dict[str, dict[str, Any]] = {
    "integrated_gradients": {"steps": 5, "tolerance": None},
    "smoothgrad": {"draws": 5},
    "vargrad": {"draws": 5},
    "expected_gradients": {"draws": 5, "background": RNG.normal(size=(3, 1, 4, 4)).astype(np.float32)},
    "gradient_shap": {"draws": 5, "background": RNG.normal(size=(3, 1, 4, 4)).astype(np.float32), "spread": 0.2},
}

#: Sums of five float32 numbers in one order or another.
CLOSE = 1e-6


def run(path: Path, feeds: dict[str, Array]) -> dict[str, Array]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True))


def operators(path: Path) -> list[str]:
    return [n.op_type for n in onnx.load(path).graph.node]


def batch() -> tuple[onnx.ModelProto, Array]:
    proto, x = fullgrad_net()
    return proto, np.concatenate([x, x[..., ::-1] * 0.7, x + 0.3]).astype(np.float32)


def with_batch(proto: onnx.ModelProto, size: int) -> onnx.ModelProto:
    """The same model, exported with a fixed batch."""
    copy = onnx.ModelProto.FromString(proto.SerializeToString())
    for value in (*copy.graph.input, *copy.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = size
    return copy


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("points", ["loop", "batched", 1, 2, 5])
def test_all_forms_give_the_calls_numbers(method: str, points: Any, tmp_path: Path) -> None:
    proto, x = batch()
    explainer = ox.compile(proto, method=method, threads=1, **METHODS[method])
    path = explainer.save(tmp_path / "e.onnx", points=points)
    onnx.checker.check_model(str(path), full_check=True)
    assert ("Loop" in operators(path)) == (points == "loop")
    target = np.array([1, 0, -1])
    found = run(path, {"x": x, "target": target})
    e = explainer(x, target=[1, 0, int(found["logits"][2].argmax())])
    wanted = e.attributions["x"]
    np.testing.assert_allclose(found["attribution"], wanted, atol=CLOSE * np.abs(wanted).max())
    if e.residual is not None:
        np.testing.assert_allclose(found["residual"], e.residual.absolute, atol=1e-5)


def test_a_number_of_points_takes_as_many_copies_as_it_needs(tmp_path: Path) -> None:
    proto, _ = batch()
    explainer = ox.compile(proto, method="integrated_gradients", steps=5, tolerance=None)
    copies = {}
    for points in (1, 2, 3, "batched"):
        found = operators(explainer.save(tmp_path / "e.onnx", points=points))  # type: ignore[arg-type]
        copies[points] = found.count("Conv")
    once = copies["batched"]
    own = (copies[1] - once) / 4  # what one more copy adds
    assert own >= 1
    assert copies == {1: once + 4 * own, 2: once + 2 * own, 3: once + own, "batched": once}


def test_other_inputs_and_their_rows_go_along(tmp_path: Path) -> None:
    """Every point of a sample sees the mask of that sample, and no other's."""
    nodes = [
        node("Cast", "mask", "m", to=1),
        node("Mul", "x m", "masked"),
        node("Gemm", "masked w", "h"),
        node("Tanh", "h", "t"),
        node("Gemm", "t v", "y"),
    ]
    weights = {"w": RNG.normal(size=(6, 4)), "v": RNG.normal(size=(4, 3))}
    proto = model(nodes, {"x": ["N", 6], "mask": ["N", 6]}, {"y": ["N", 3]}, weights)
    proto.graph.input[1].type.tensor_type.elem_type = onnx.TensorProto.INT64
    x = RNG.normal(size=(4, 6)).astype(np.float32)
    mask = RNG.integers(0, 2, size=(4, 6))
    for method in ("integrated_gradients", "smoothgrad"):
        explainer = ox.compile(proto, method=method, **METHODS[method])
        wanted = explainer({"x": x, "mask": mask}, target=[0, 1, 2, 0]).attributions["x"]
        path = explainer.save(tmp_path / "e.onnx", points="batched")
        found = run(path, {"x": x, "mask": mask, "target": np.array([0, 1, 2, 0])})
        np.testing.assert_allclose(found["attribution"], wanted, atol=CLOSE * np.abs(wanted).max())


def test_words_are_looked_up_once_and_their_vectors_travel(tmp_path: Path) -> None:
    nodes = [
        node("Gather", "table ids", "e"),
        node("Tanh", "e", "t"),
        node("ReduceMean", "t axes", "p", keepdims=0),
        node("Gemm", "p w", "y"),
    ]
    weights = {"table": RNG.normal(size=(9, 4)), "axes": np.array([1]), "w": RNG.normal(size=(4, 2))}
    proto = model(nodes, {"ids": ["N", 5]}, {"y": ["N", 2]}, weights)
    proto.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    ids = RNG.integers(0, 9, size=(3, 5))
    explainer = ox.compile(proto, method="integrated_gradients", **METHODS["integrated_gradients"])
    path = explainer.save(tmp_path / "e.onnx", points="batched")
    (wanted,) = explainer(ids, target=[0, 1, 1]).attributions.values()
    found = run(path, {"ids": ids, "target": np.array([0, 1, 1])})
    np.testing.assert_allclose(found["attribution"], wanted, atol=CLOSE * np.abs(wanted).max())
    loaded = onnx.load(path).graph
    looked_up = [n for n in loaded.node if n.op_type == "Gather" and n.input[0] == "table"]
    assert len(looked_up) == 1


#: Methods that take scores and plain gradients at their points, and nothing else of the graph.
GROWING = {
    **METHODS,
    "idgi": {"steps": 5},
    "blur_ig": {"steps": 5, "sigma": 2.0},
    "smoothed": {"draws": 5, "around": "gradient"},
    "rise": {"draws": 5, "cells": 2},
}


@pytest.mark.parametrize("method", GROWING)
@pytest.mark.parametrize("size", [1, 3])
def test_a_fixed_batch_grows_inside_where_the_graph_allows_it(size: int, method: str, tmp_path: Path) -> None:
    proto, x = batch()
    fixed = with_batch(proto, size)
    explainer = ox.compile(fixed, method=method, **GROWING[method])
    path = explainer.save(tmp_path / "e.onnx", points="batched")
    free = ox.compile(proto, method=method, **GROWING[method])
    assert operators(path).count("Conv") == operators(free.save(tmp_path / "f.onnx", points="batched")).count("Conv")
    first = onnx.load(path).graph.input[0].type.tensor_type.shape.dim[0]
    assert first.dim_value == size, "the interface stays as it was"
    found = run(path, {"x": x[:size], "target": np.zeros(size, np.int64)})
    wanted = free(x[:size], target=0).attributions["x"]
    np.testing.assert_allclose(found["attribution"], wanted, atol=CLOSE * np.abs(wanted).max())


def test_a_fixed_batch_grows_with_an_input_that_no_gradient_reaches(tmp_path: Path) -> None:
    nodes = [node("Floor", "b", "f"), node("Tanh", "a", "t"), node("Add", "t f", "s"), node("Gemm", "s w", "y")]
    weights = {"w": RNG.normal(size=(4, 3))}
    proto = model(nodes, {"a": [2, 4], "b": [2, 4]}, {"y": [2, 3]}, weights)
    feeds = {name: RNG.normal(size=(2, 4)).astype(np.float32) for name in "ab"}
    explainer = ox.compile(proto, method="integrated_gradients", **METHODS["integrated_gradients"])
    path = explainer.save(tmp_path / "e.onnx", points="batched")
    # The answer, the score of the baseline, and all points at once.
    assert operators(path).count("Tanh") == 2 + 1
    found = run(path, {**feeds, "target": np.array([0, 2])})
    wanted = explainer(feeds, target=[0, 2]).attributions
    np.testing.assert_allclose(found["attribution/a"], wanted["a"], atol=CLOSE * np.abs(wanted["a"]).max())
    assert not found["attribution/b"].any() and not wanted["b"].any()


@pytest.mark.parametrize(
    ("flatten", "grows"),
    [([1, -1], True), ([-1, 12], True), ([1, 12], True), ([12], False)],
    ids=["batch written down", "batch left over", "both written down", "batch lost"],
)
def test_a_batch_that_is_written_into_the_graph(flatten: list[int], grows: bool, tmp_path: Path) -> None:
    """A Reshape that names the batch copies it instead; one that drops it makes the method go point by point."""
    nodes = [node("Tanh", "x", "t"), node("Reshape", "t flat", "f")]
    nodes += [node("Unsqueeze", "f zero", "u")] if len(flatten) == 1 else [node("Identity", "f", "u")]
    nodes += [node("Gemm", "u w", "h"), node("Tanh", "h", "y")]
    weights = {"flat": np.array(flatten), "zero": np.array([0]), "w": RNG.normal(size=(12, 3))}
    proto = model(nodes, {"x": [1, 3, 4]}, {"y": [1, 3]}, weights)
    x = RNG.normal(size=(1, 3, 4)).astype(np.float32)
    explainer = ox.compile(proto, method="integrated_gradients", **METHODS["integrated_gradients"])
    path = explainer.save(tmp_path / "e.onnx", points="batched")
    # The answer, the baseline's score, and the points: all at once, or five copies.
    assert operators(path).count("Gemm") == (2 + 2 if grows else 2 + 10)
    found = run(path, {"x": x, "target": np.array([1])})
    wanted = explainer(x, target=1).attributions["x"]
    np.testing.assert_allclose(found["attribution"], wanted, atol=CLOSE * np.abs(wanted).max())


def test_memory_and_the_provider_decide() -> None:
    proto, _ = batch()
    nodes = ox.load(proto).canonical.graph
    assert Staging().at_once(50, nodes, free=True) == 50
    assert Staging().at_once(50, nodes, free=False) is None, "fifty copies of a network help nobody"
    openvino = profile_named("openvino")
    assert Staging(profile=openvino).at_once(50, nodes, free=False) == 1, "which cannot load a loop"
    assert Staging(profile=profile_named("cuda")).at_once(50, nodes, free=False) is None
    assert Staging("loop").at_once(50, nodes, free=True) is None
    assert Staging(20).at_once(50, nodes, free=True) == 17, "three pieces of nearly the same size"
    # A network whose points take a quarter of the budget each.
    big = model([node("Tanh", "x", "y")], {"x": ["N", BUDGET_BYTES // 16]}, {"y": ["N", BUDGET_BYTES // 16]})
    large = ox.load(big).canonical.graph
    assert Staging().at_once(4 * MOST_COPIES, large, free=True) == 4
    assert Staging().at_once(4 * MOST_COPIES + 1, large, free=True) is None


@pytest.mark.parametrize("points", [0, -3, "many", True, 1.5])
def test_what_is_no_number_of_points(points: Any, tmp_path: Path) -> None:
    explainer = ox.compile(batch()[0], method="smoothgrad", draws=2)
    with pytest.raises(OptionError, match="points="):
        explainer.save(tmp_path / "e.onnx", points=points)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(assets() is None, reason="needs the collection of models")
def test_where_a_loop_differs_float32_cannot_tell_two_numbers_apart(tmp_path: Path) -> None:
    """At one point of this path two numbers of a max-pooling window are 9e-8 of the largest apart in float64.

    In a loop's body onnxruntime has no convolutions in blocks, because their weights stand outside, and sums round
    otherwise: another number of the window wins. The batch has the call's kernels, and the call's winner.
    """
    loaded = ox.load((assets() or Path()) / "fmnist-vgg-small.onnx", threads=1)
    x = np.random.default_rng(7).uniform(size=(2, 1, 28, 28)).astype(np.float32)
    options: dict[str, Any] = {"steps": 6, "tolerance": None}
    explainer = ox.compile(loaded, method="integrated_gradients", threads=1, **options)
    call = explainer(x, target=[0, 1]).attributions["image"]
    wide = ox.compile(doubled(loaded), method="integrated_gradients", providers="reference", **options)
    exact = wide(x.astype(np.float64), target=[0, 1]).attributions["image"]
    feeds, largest = {"image": x, "target": np.array([0, 1])}, np.abs(exact).max()
    batched = run(explainer.save(tmp_path / "b.onnx"), feeds)["attribution"]
    loop = run(explainer.save(tmp_path / "l.onnx", points="loop"), feeds)["attribution"]
    assert np.abs(batched - call).max() < CLOSE * largest
    apart = np.abs(loop - call) > 10 * CLOSE * largest
    rows, columns = apart.any(axis=(0, 1, 3)).sum(), apart.any(axis=(0, 1, 2)).sum()
    assert rows * columns <= 14 * 14, "what one cell of the second pooling sees"
    nearer = np.minimum(np.abs(loop - exact), np.abs(call - exact))
    assert nearer.max() < CLOSE * largest, "either winner is float64's"
