"""Chunks: equal to the whole, within the budget, smaller when memory runs out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from canonical_run import numbers
from onnx import TensorProto, helper
from tiny_models import fullgrad_net, model, node, simple_model

from onnxplain.engine.errors import InputError, SessionError
from onnxplain.engine.graph.canonical import canonicalise
from onnxplain.engine.graph.model import read_model
from onnxplain.engine.session import batching
from onnxplain.engine.session.batching import BatchRunner, chunk_size, fixed_batch, sample_bytes
from onnxplain.engine.session.session import Session

MIB = 2**20


def canonical(proto: Any) -> ir.Model:
    return canonicalise(read_model(proto))


class Limited:
    """A session that has memory for a number of samples, and counts."""

    on_processor = False

    def __init__(self, samples: int, scalar: bool = False) -> None:
        self.samples, self.scalar = samples, scalar
        self.sizes: list[int] = []

    def run(self, feeds: Mapping[str, Any], outputs: Sequence[str] | None = None) -> dict[str, Any]:
        size = len(feeds["x"])
        self.sizes.append(size)
        if size > self.samples:
            raise MemoryError("Failed to allocate memory")
        return {"y": np.sum(feeds["x"]) if self.scalar else feeds["x"] * 2}


def limited(
    samples: int, budget: float = float("inf"), proto: Any = None, **options: Any
) -> tuple[Limited, BatchRunner]:
    session = Limited(samples, **options)
    return session, BatchRunner(session, canonical(proto or simple_model()), ["x"], budget)  # type: ignore[arg-type]


# ----- sizes ----------------------------------------------------------------------------------------


def test_bytes_of_a_sample() -> None:
    """Counted by hand: z, a, y of two float32 each."""
    assert sample_bytes(canonical(simple_model()), {"x": numbers(7, 2)}) == 3 * 2 * 4


def test_bytes_with_sizes_of_the_feeds() -> None:
    nodes = [node("Relu", "x", "a"), node("Transpose", "a", "y", perm=[0, 2, 1])]
    graph = canonical(model(nodes, {"x": ["N", "C", "T"]}, {"y": ["N", "T", "C"]}))
    assert sample_bytes(graph, {"x": numbers(5, 3, 11)}) == 2 * 3 * 11 * 4


def test_chunks_follow_the_budget() -> None:
    graph, feeds = canonical(simple_model()), {"x": numbers(9, 2)}
    assert chunk_size(graph, feeds, 100 * 24 / MIB) == 100
    assert chunk_size(graph, feeds, 1 / MIB) == 1
    assert chunk_size(graph, feeds, float("inf")) > 10**9
    session, runner = limited(10**9, 4 * 24 / MIB)
    runner.run(feeds)
    assert session.sizes == [4, 4, 1]


def test_an_input_of_whole_runs_does_not_count_as_batch() -> None:
    nodes = [node("MatMul", "x k", "y")]
    proto = model(nodes, {"k": ["A", "B"], "x": ["N", "A"]}, {"y": ["N", "B"]})
    graph = canonical(proto)
    feeds = {"k": numbers(3, 50), "x": numbers(9, 3)}
    assert sample_bytes(graph, feeds, {"x"}) == 50 * 4
    assert fixed_batch(graph, {"x"}) is None


# ----- running --------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [1, 2, 5, 64])
def test_chunks_equal_the_whole(samples: int) -> None:
    proto, _ = fullgrad_net()
    graph = canonical(proto)
    session = Session(graph, threads=1)
    x = numbers(11, 1, 4, 4)
    whole = session.run({"x": x})["logits"]
    per_sample = sample_bytes(graph, {"x": x})
    runner = BatchRunner(session, graph, ["x"], samples * per_sample / MIB)
    # 1e-6: the runtime may multiply matrices of other heights in another order.
    np.testing.assert_allclose(runner.run({"x": x})["logits"], whole, rtol=1e-6, atol=1e-6)
    places = [place for place, _ in runner.chunks({"x": x})]
    assert [i for p in places for i in range(p.start, p.stop)] == list(range(11))
    assert all(p.stop - p.start <= samples for p in places)


class Counting(Session):
    """A session that notes how many samples came at a time."""

    def __init__(self, graph: ir.Model, threads: int = 1) -> None:
        super().__init__(graph, threads=threads)
        self.sizes: list[int] = []

    def run(self, feeds: Mapping[str, Any], outputs: Sequence[str] | None = None) -> dict[str, Any]:
        self.sizes.append(len(feeds["x"]))
        return super().run(feeds, outputs)


def chunks(proto: Any, x: Any, budget: float = 1024, threads: int = 1, outputs: Sequence[str] | None = None) -> int:
    session = Counting(canonical(proto), threads)
    BatchRunner(session, canonical(proto), ["x"], budget).run({"x": x}, outputs)
    assert max(session.sizes) == session.sizes[0]
    return session.sizes[0]


def test_a_processor_gets_what_its_cache_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """So much per thread, or as much as the weights take; here 1 MiB, and samples of 1/32 MiB."""
    monkeypatch.setattr(batching, "_CACHED_MIB", 1)
    proto = model([node("Relu", "x", "y")], {"x": ["N", 2**13]}, {"y": ["N", 2**13]})
    x = np.zeros((80, 2**13), np.float32)
    assert chunks(proto, x) == 32
    assert chunks(proto, x, threads=2) == 64
    assert chunks(proto, x, budget=0.25) == 8
    assert chunks(proto, x, budget=float("inf")) == 80
    weights = np.zeros((48, 2**13))  # 1.5 MiB
    heavy = model([node("MatMul", "x w", "y")], {"x": ["N", 48]}, {"y": ["N", 2**13]}, {"w": weights})
    assert chunks(heavy, np.zeros((80, 48), np.float32)) == 48


@pytest.mark.parametrize("outputs", [{"y": ["N", 2**13], "z": []}, {"y": ["N", 2**13], "z": [1]}], ids=str)
def test_outputs_that_cannot_be_joined_keep_the_batch_together(
    outputs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "_CACHED_MIB", 1)
    proto = model(
        [node("Relu", "x", "y"), node("ReduceMax", "x", "m", keepdims=0), node("Reshape", "m s", "z")],
        {"x": ["N", 2**13]},
        outputs,
        {"s": np.asarray(outputs["z"], np.int64)},
    )
    x = np.zeros((50, 2**13), np.float32)
    assert chunks(proto, x) == 50
    assert chunks(proto, x, outputs=["y"]) < 50


def test_inputs_that_are_not_batched_are_passed_whole() -> None:
    proto = model([node("MatMul", "x k", "y")], {"k": ["A", "B"], "x": ["N", "A"]}, {"y": ["N", "B"]})
    graph = canonical(proto)
    feeds = {"k": numbers(3, 4), "x": numbers(9, 3)}
    found = BatchRunner(Session(graph, threads=1), graph, ["x"], 32 / MIB).run(feeds)["y"]
    # 1e-6: float32 sums of three products.
    np.testing.assert_allclose(found, feeds["x"] @ feeds["k"], rtol=1e-6, atol=1e-6)


def test_the_first_input_need_not_be_the_batched_one() -> None:
    """A fixed size of an input that is passed whole is no fixed batch."""
    proto = model([node("Mul", "k x", "y")], {"k": [3], "x": ["N", 3]}, {"y": ["N", 3]})
    graph = canonical(proto)
    feeds = {"k": numbers(3), "x": numbers(7, 3)}
    runner = BatchRunner(Session(graph, threads=1), graph, ["x"], 24 / MIB)
    np.testing.assert_array_equal(runner.run(feeds)["y"], feeds["k"] * feeds["x"])
    assert runner.run({"k": feeds["k"], "x": feeds["x"][:1]})["y"].shape == (1, 3)


def test_fixed_batches() -> None:
    proto = model([node("Relu", "x", "y")], {"x": [2, 3]}, {"y": [2, 3]})
    graph = canonical(proto)
    assert fixed_batch(graph) == fixed_batch(graph, {"x"}) == 2
    runner = BatchRunner(Session(graph, threads=1), graph, ["x"], 1 / MIB)
    x = numbers(6, 3)
    np.testing.assert_array_equal(runner.run({"x": x})["y"], np.maximum(x, 0))
    with pytest.raises(InputError, match="exactly 2, and 5 samples"):
        runner.run({"x": x[:5]})


@pytest.mark.parametrize(
    ("lengths", "words"), [((3, 2), "different numbers"), ((0, 0), "no sample")], ids=["different", "none"]
)
def test_lengths_that_do_not_fit(lengths: tuple[int, int], words: str) -> None:
    proto = model([node("Add", "a b", "y")], {"a": ["N", 3], "b": ["N", 3]}, {"y": ["N", 3]})
    runner = BatchRunner(Session(canonical(proto), threads=1), canonical(proto), ["a", "b"])
    with pytest.raises(InputError, match=words):
        runner.run({k: numbers(n, 3) for k, n in zip("ab", lengths, strict=True)})


def test_nothing_batched_is_one_run() -> None:
    proto = model([node("Relu", "x", "y")], {"x": [3]}, {"y": [3]})
    x = numbers(3)
    found = BatchRunner(Session(canonical(proto), threads=1), canonical(proto), []).run({"x": x})
    np.testing.assert_array_equal(found["y"], np.maximum(x, 0))


def test_a_number_for_all_samples_cannot_be_joined() -> None:
    x = numbers(4, 2)
    _, runner = limited(2, scalar=True)
    with pytest.raises(SessionError, match="output 'y' is one number"):
        runner.run({"x": x})
    _, runner = limited(4, scalar=True)
    assert runner.run({"x": x})["y"].ndim == 0


# ----- out of memory --------------------------------------------------------------------------------


def test_chunks_are_halved_until_they_fit() -> None:
    session, runner = limited(3)
    x = numbers(16, 2)
    np.testing.assert_array_equal(runner.run({"x": x})["y"], 2 * x)
    assert session.sizes == [16, 8, 4, *[2] * 8]
    session.sizes.clear()
    runner.run({"x": x})
    assert session.sizes == [2] * 8  # what was learnt is kept


def test_memory_that_runs_out_later() -> None:
    session, runner = limited(8)
    x = numbers(16, 2)
    done = []
    for place, part in runner.chunks({"x": x}):
        done.append((place.start, place.stop))
        np.testing.assert_array_equal(part["y"], 2 * x[place])
        session.samples = 2
    assert done[0] == (0, 8)
    assert done[1:] == [(i, i + 2) for i in range(8, 16, 2)]


def test_one_sample_that_does_not_fit() -> None:
    _, runner = limited(0)
    with pytest.raises(SessionError, match="one sample alone"):
        runner.run({"x": numbers(4, 2)})
    fixed = simple_model()
    fixed.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 2]))
    _, runner = limited(0, proto=fixed)
    with pytest.raises(SessionError, match="fixed batch of 4"):
        runner.run({"x": numbers(4, 2)})
