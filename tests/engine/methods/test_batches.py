"""Every method treats a batch as its samples one by one, in chunks as in one go, and the same seed gives the same bytes.

Found by the registry: a new method is tested here without a line of its own.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
from tiny_models import fullgrad_net, perceptron
from tiny_transformers import vision_transformer

import onnxplain as ox
from onnxplain.engine.errors import OptionError

Array = np.ndarray[Any, Any]
#: Methods with many samples take few: what is shown does not depend on how many they are.
METHODS = {entry["name"]: entry["quick"] for entry in ox.methods()}
X = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)


@cache
def nets() -> dict[str, tuple[onnx.ModelProto, Array]]:
    proto, x = fullgrad_net()
    pictures = np.concatenate([x, 0.3 - x])
    return {
        "pictures": (proto, pictures),
        "rows": (perceptron(), X),
        "patches": vision_transformer(blocks=1),
    }


@cache
def pairs() -> tuple[tuple[str, str], ...]:
    """Methods and nets; those that draw feature maps refuse rows, and those for attention take transformers alone."""
    found = []
    for method in METHODS:
        takes = []
        for net, (proto, _) in nets().items():
            if net == "patches" and "pictures" in takes:
                continue
            try:
                ox.compile(proto, method=method, threads=1)
            except OptionError:
                continue
            takes.append(net)
        assert {"pictures", "patches"} & set(takes), f"{method} has to take pictures, or patches of them"
        found += [(method, net) for net in takes]
    return tuple(found)


def assert_same(found: ox.Explanation, wanted: ox.Explanation, rows: slice) -> None:
    arrays = [(array, wanted.attributions[name][rows]) for name, array in found.attributions.items()]
    if found.saliency is not None and wanted.saliency is not None:
        arrays.append((found.saliency, wanted.saliency[rows]))
    assert arrays
    for a, b in arrays:
        # 1e-4 of the largest: a rescaled map divides by differences of sums, which magnifies rounding.
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(b).max() + 1e-12)


@pytest.mark.parametrize(("method", "net"), pairs())
def test_a_batch_is_its_samples_one_by_one(method: str, net: str) -> None:
    """Also of methods that draw at random: draws are keyed by their number, not by the place in the batch."""
    proto, x = nets()[net]
    explainer = ox.compile(proto, method=method, threads=1, **METHODS[method])
    whole = explainer(x, seed=1)
    for n in range(len(x)):
        assert_same(explainer(x[n : n + 1], seed=1), whole, slice(n, n + 1))


@pytest.mark.parametrize(("method", "net"), pairs())
def test_chunks_change_nothing(method: str, net: str) -> None:
    """A budget that lets one sample through at a time, against all at once."""
    proto, x = nets()[net]
    whole = ox.explain(proto, x, method=method, seed=1, threads=1, **METHODS[method])
    cut = ox.explain(proto, x, method=method, seed=1, threads=1, memory_mib=1e-4, **METHODS[method])
    assert_same(cut, whole, slice(None))


@pytest.mark.parametrize(("method", "net"), [pair for pair in pairs() if pair[1] != "rows"])
def test_the_same_seed_gives_the_same_bytes(method: str, net: str) -> None:
    proto, x = nets()[net]
    first, second = (ox.explain(proto, x, method=method, seed=5, threads=1, **METHODS[method]) for _ in range(2))
    for name, array in first.attributions.items():
        assert array.tobytes() == second.attributions[name].tobytes()
    if first.saliency is not None:
        assert second.saliency is not None
        assert first.saliency.tobytes() == second.saliency.tobytes()
