"""Attention over a sequence, steps first or samples first, in the forms in which PyTorch's exporters write it."""

from __future__ import annotations

import numpy as np
import onnx
from tiny_models import model, node

WIDTH, CLASSES, STEPS = 4, 3, 5

#: ``joined``: heads are joined with the samples, scores are ``[2 N, T, T]``. ``apart``: ``[N, 2, T, T]``.
#: ``traced``: as joined, and the number of steps of the keys is written down, as tracing does.
FORMS = ("joined", "apart", "traced")


def attention_net(form: str = "joined", *, batch_first: bool = False) -> onnx.ModelProto:
    """Self-attention with two heads and a linear layer per step: ``[T, N, 4]`` -> ``[T, N, 3]``, all of it open.

    Args:
        form: One of :data:`FORMS`.
        batch_first: ``[N, T, 4]`` -> ``[N, T, 3]``, the same in between.
    """
    draw = np.random.default_rng(7)
    weights = {f"W{p}": draw.normal(size=(WIDTH, WIDTH)) for p in "qkv"} | {"Wo": draw.normal(size=(WIDTH, CLASSES))}
    numbers = {"zero": [0], "one": [1], "two": [2], "width": [WIDTH], "traced": [STEPS]}
    nodes = [
        node("Transpose", "x", "steps", perm=[1, 0, 2]) if batch_first else node("Identity", "x", "steps"),
        node("Shape", "steps", "sizes"),
        node("Slice", "sizes zero one", "t"),
        node("Slice", "sizes one two", "n"),
        node("Mul", "n two", "rows"),
        node("Concat", "t rows two", "wanted", axis=0),
        node("Concat", "traced rows two", "written", axis=0),
        node("Concat", "n two t two", "heads", axis=0),
        node("Concat", "t n width", "back", axis=0),
    ]
    for p in "qkv":
        shape = "written" if form == "traced" and p != "q" else "wanted"
        nodes += [node("MatMul", f"steps W{p}", f"{p}1"), node("Reshape", f"{p}1 {shape}", f"{p}2")]
        nodes += [node("Transpose", f"{p}2", f"{p}3", perm=[1, 0, 2])]
        nodes += [node("Reshape", f"{p}3 heads", p) if form == "apart" else node("Identity", f"{p}3", p)]
    apart = form == "apart"
    nodes += [
        node("Transpose", "k", "columns", perm=[0, 1, 3, 2] if apart else [0, 2, 1]),
        node("MatMul", "q columns", "scores"),
        node("Softmax", "scores", "shares", axis=-1),
        node("MatMul", "shares v", "mixed"),
        node("Transpose", "mixed", "again", perm=[2, 0, 1, 3] if apart else [1, 0, 2]),
        node("Reshape", "again back", "together"),
        node("MatMul", "together Wo", "z"),
        node("Transpose", "z", "y", perm=[1, 0, 2]) if batch_first else node("Identity", "z", "y"),
    ]
    first = ["N", "T"] if batch_first else ["T", "N"]
    arrays = {name: np.asarray(value) for name, value in numbers.items()}
    return model(nodes, {"x": [*first, WIDTH]}, {"y": [*first, CLASSES]}, weights | arrays)
