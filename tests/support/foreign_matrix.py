"""What the other runtimes are shown: ten methods on small networks, and on five of the collection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from tiny_models import assets, fullgrad_net, model, node

import onnxplain as ox
from onnxplain.models import demo_model

Array = np.ndarray[Any, Any]

#: Ten methods, as different from each other as they come, with work that is fixed and short.
METHODS: dict[str, dict[str, Any]] = {
    "gradient": {},
    "input_x_gradient": {},
    "fullgrad": {},
    "guided_backprop": {},
    "gradcam": {},
    "layercam": {},
    "lrp": {},
    "deeplift": {},
    "integrated_gradients": {"steps": 6, "tolerance": None},
    "smoothgrad": {"draws": 4},
}


def series() -> onnx.ModelProto:
    """Smooth: no kink at all."""
    rng = np.random.default_rng(1)
    nodes = [
        node("Conv", "x k", "c", pads=[2, 2]),
        node("Tanh", "c", "t"),
        node("GlobalAveragePool", "t", "p"),
        node("Flatten", "p", "f"),
        node("Gemm", "f w b", "y"),
    ]
    weights = {"k": rng.normal(size=(6, 2, 5)), "w": rng.normal(size=(6, 3)), "b": rng.normal(size=3)}
    return model(nodes, {"x": ["N", 2, 20]}, {"y": ["N", 3]}, weights)


def table() -> onnx.ModelProto:
    """Scaled, normalised, through a LayerNormalization and a Gelu spelt with Erf."""
    rng = np.random.default_rng(2)
    nodes = [
        node("Gemm", "x w b", "h"),
        node("LayerNormalization", "h g", "n"),
        node("Mul", "n root", "s"),
        node("Erf", "s", "e"),
        node("Add", "e one", "o"),
        node("Mul", "n o", "a"),
        node("Gemm", "a v", "z"),
        node("Softmax", "z", "y", axis=1),
    ]
    weights = {
        "w": rng.normal(size=(5, 8)), "b": rng.normal(size=8), "g": rng.normal(size=8), "root": np.array(0.7071),
        "one": np.array(1.0), "v": rng.normal(size=(8, 4)),
    }  # fmt: skip
    return model(nodes, {"x": ["N", 5]}, {"y": ["N", 4]}, weights)


@dataclass(frozen=True)
class Case:
    """A model and its input.

    Attributes:
        seed: Of the input, chosen so that float32 and float64 agree in Python: no number lies next to a kink.
        count: Number of samples.
        words: How many different words there are; 0: the input is of floats, between 0 and 1.
        blocks: How many blocks of one colour a picture is wide and high; 0: every place has its own. The fewer
            different numbers there are, the fewer lie next to a kink: a large network has millions.
    """

    seed: int = 8
    count: int = 2
    words: int = 0
    blocks: int = 0


MADE: dict[str, Any] = {"pictures": lambda: fullgrad_net()[0], "series": series, "table": table, "demo": demo_model}

#: Five of the collection: max-pooling, residual blocks, a series, words, and a large one with ReLU6.
COLLECTED = ("fmnist-vgg-small", "fmnist-resnet-bn", "gunpoint-fcn", "sentiment-textcnn", "efficientnet-lite0-op18")

#: Of these, what takes minutes.
LARGE = ("efficientnet-lite0-op18",)

CASES: dict[str, Case] = {
    "pictures": Case(),
    "series": Case(),
    "table": Case(count=3),
    "demo": Case(),
    "fmnist-vgg-small": Case(),
    "fmnist-resnet-bn": Case(),
    "gunpoint-fcn": Case(),
    "sentiment-textcnn": Case(words=400),
    "efficientnet-lite0-op18": Case(seed=19, count=1, blocks=2),
}


def names() -> list[str]:
    """The models that are here."""
    return [*MADE, *(COLLECTED if assets() is not None else ())]


@cache
def source(name: str) -> tuple[Any, str, Array]:
    """Model, its input's name, and an input."""
    folder = assets()
    loaded = ox.load(MADE[name]() if name in MADE else Path(folder or ".") / f"{name}.onnx", threads=1)
    case, given = CASES[name], loaded.inputs[0]
    rng = np.random.default_rng(case.seed)
    shape = [case.count, *(int(d) for d in (given.shape or ())[1:])]
    if case.words:
        return loaded, given.name, rng.integers(0, case.words, size=shape)
    if not case.blocks:
        return loaded, given.name, rng.uniform(size=shape).astype(np.float32)
    x = rng.uniform(size=[*shape[:2], case.blocks, case.blocks]).astype(np.float32)
    return loaded, given.name, x.repeat(shape[2] // case.blocks, axis=2).repeat(shape[3] // case.blocks, axis=3)


@dataclass(frozen=True)
class Made:
    """One compiled file.

    Attributes:
        model, method: Of what it was made; the model as it is has no method.
        path: Where it is.
        feeds: What it is given.
        call: What the Python call says.
    """

    model: str
    method: str
    path: Path
    feeds: Mapping[str, Array]
    call: ox.Explanation


def compiled(folder: Path, name: str) -> dict[str, Made]:
    """Every method on a model that it suits, by name, and the model itself."""
    proto, feed, x = source(name)
    plain = folder / f"{name}.onnx"
    onnx.save(proto.source.proto, plain)
    made = {}
    for method, options in METHODS.items():
        try:
            explainer = ox.compile(proto, method=method, threads=1, **options)
        except ox.OnnxplainError:
            continue  # Grad-CAM of a table, Guided Backpropagation without a ReLU
        path = explainer.save(folder / f"{name}.{method}.onnx")
        target = np.arange(len(x)) % 2
        call = explainer({feed: x}, target=target)
        made[f"{name}.{method}"] = Made(name, method, path, {feed: x, "target": target}, call)
    made[name] = Made(name, "", plain, {feed: x}, call)
    return made


def gaps(found: Mapping[str, Array], call: ox.Explanation) -> dict[str, Array]:
    """Differences from the Python call, relative to the largest element of each result."""
    (attribution,) = call.attributions.values()
    wanted = {"attribution": attribution, "saliency": call.saliency, **call.outputs}
    result = {}
    for name, array in wanted.items():
        assert array is not None
        result[name] = np.abs(found[name] - array) / max(float(np.abs(array).max()), 1e-12)
    return result
