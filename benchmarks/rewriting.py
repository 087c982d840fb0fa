"""How long it takes to rewrite graphs of many nodes, and to check them: is it linear?

    python benchmarks/rewriting.py [--nodes 1000 2000 5000 10000] [--rounds 5]

Two families: a *chain* of elementwise operators, and a *mixed* graph of convolutions, normalisations, products,
residual branches and reshapes, as exporters write them. Tensors are tiny: what is timed is the handling of
nodes. Every figure is processor time, the least of all rounds: what else the machine does only ever adds to it.
"""

from __future__ import annotations

import argparse
import itertools
import platform
import time
from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CHANNELS, SIZE = 4, 6

STEPS = ("read", "canonical form", "rewrite", "all three", "ms per 1000 nodes", "check")


def chain(count: int) -> onnx.ModelProto:
    """Elementwise operators, one after the other."""
    kinds = ("Relu", "Sigmoid", "Tanh", "Softplus")
    nodes = [helper.make_node(kinds[i % 4], [f"t{i}"], [f"t{i + 1}"], name=f"n{i}") for i in range(count - 1)]
    return _model(nodes, f"t{count - 1}", {})


def mixed(count: int) -> onnx.ModelProto:
    """Blocks of ten nodes with a branch around each."""
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.normal(size=(CHANNELS, CHANNELS, 3, 3)) / 6,
        "b": rng.normal(size=CHANNELS),
        "row": rng.normal(size=(SIZE, SIZE)) / 3,
        "scale": np.ones(SIZE),
        "flat": np.array([0, CHANNELS, -1]),
        "square": np.array([0, CHANNELS, SIZE, SIZE]),
    }
    nodes: list[onnx.NodeProto] = []
    last = "t0"

    def add(kind: str, *operands: str, **attributes: object) -> str:
        name = f"t{len(nodes) + 1}"
        nodes.append(helper.make_node(kind, operands, [name], name=f"n{len(nodes)}", **attributes))
        return name

    while len(nodes) < count - 1:
        before = last
        last = add("Conv", last, "w", "b", pads=[1, 1, 1, 1])
        last = add("Relu", last)
        last = add("MatMul", last, "row")
        last = add("LayerNormalization", last, "scale", axis=-1)
        last = add("Sigmoid", last)
        last = add("Mul", last, before)
        last = add("Reshape", last, "flat")
        last = add("Softmax", last, axis=-1)
        last = add("Reshape", last, "square")
        last = add("Add", last, before)
    return _model(nodes, last, weights)


def _model(nodes: list[onnx.NodeProto], last: str, weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    nodes.append(helper.make_node("GlobalAveragePool", [last], ["y"], name="head"))
    shape = ["N", CHANNELS, SIZE, SIZE]
    graph = helper.make_graph(
        nodes,
        "benchmark",
        [helper.make_tensor_value_info("t0", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", CHANNELS, 1, 1])],
        [numpy_helper.from_array(v.astype(np.float32) if v.dtype.kind == "f" else v, k) for k, v in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def once(data: bytes) -> dict[str, float]:
    """Seconds per step, one time."""
    import onnxplain
    from onnxplain.engine.graph.canonical import canonicalise
    from onnxplain.engine.graph.model import read_model
    from onnxplain.engine.rewrite import Rewriter

    times = [time.process_time()]
    source = read_model(data)
    times.append(time.process_time())
    canonical = canonicalise(source)
    times.append(time.process_time())
    rewriter = Rewriter(canonical)
    seed = rewriter.seed()
    adjoints = rewriter.backward(seed, [rewriter.value("t0")])
    rewriter.add_output("gradient", adjoints.of[rewriter.value("t0")])
    rewriter.finish()
    times.append(time.process_time())
    assert onnxplain.check(data).ok
    times.append(time.process_time())
    read, form, rewrite, check = (b - a for a, b in itertools.pairwise(times))
    return {
        "read": read,
        "canonical form": form,
        "rewrite": rewrite,
        "all three": read + form + rewrite,
        "check": check,
    }


def measure(make: Callable[[int], onnx.ModelProto], count: int, rounds: int) -> dict[str, float]:
    """The least of all rounds, per step."""
    proto = make(count)
    data = proto.SerializeToString()
    runs = [once(data) for _ in range(rounds)]
    best = {step: min(run[step] for run in runs) for step in runs[0]}
    best["ms per 1000 nodes"] = 1e6 * best["all three"] / len(proto.graph.node)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, nargs="*", default=[1000, 2000, 5000, 10000])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    once(chain(10).SerializeToString())  # imports, rules, schemas
    print(f"{platform.machine()}, Python {platform.python_version()}, least of {arguments.rounds} rounds, seconds\n")
    print("| graph | nodes | " + " | ".join(STEPS) + " |")
    print("|" + "---|" * (len(STEPS) + 2))
    for make in (chain, mixed):
        for count in arguments.nodes:
            found = measure(make, count, arguments.rounds)
            cells = [f"{found[s]:.0f}" if s.startswith("ms") else f"{found[s]:.2f}" for s in STEPS]
            print(f"| {make.__name__} | {count} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
