"""int8 EfficientNet-Lite0 against the float network that it was made of, on ten pictures of ImageNet.

The figures of ``docs/quantisation.md``. The network is one of the development models, the pictures are those of
foolbox 3.3.4 (under ``ONNXPLAIN_MODELS``, or installed); where one is not here, everything is skipped and says so.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import cv2
import numpy as np
import pytest
from real_models import locate
from tiny_models import assets

import onnxplain as ox

Array = np.ndarray[Any, Any]
FOLDER, PICTURES = assets(), locate("foolbox/data/imagenet_00_243.jpg")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        FOLDER is None, reason="the development models are not here; name their folder in ONNXPLAIN_ASSETS"
    ),
    pytest.mark.skipif(PICTURES is None, reason="foolbox 3.3.4 is not here; name its folder in ONNXPLAIN_MODELS"),
]


@cache
def pictures() -> Array:
    """The network's own preprocessing: the middle of the picture, bicubic, (x - 127) / 128."""
    assert PICTURES is not None
    found = []
    for path in sorted(PICTURES.parent.glob("imagenet_*.jpg"))[:10]:
        image = cv2.imread(str(path))[:, :, ::-1]
        side = int(min(image.shape[:2]) * 224 / 256)
        y, x = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
        image = cv2.resize(image[y : y + side, x : x + side], (224, 224), interpolation=cv2.INTER_CUBIC)
        found.append(((image.astype(np.float32) - 127) / 128).transpose(2, 0, 1))
    return np.stack(found).astype(np.float32)


@cache
def model(kind: str) -> ox.Model:
    assert FOLDER is not None
    return ox.load(FOLDER / f"efficientnet-lite0-{kind}.onnx", threads=1)


@cache
def classes() -> tuple[int, ...]:
    return tuple(int(t) for t in explained("op18", "gradient", "straight_through").target)  # type: ignore[union-attr]


@cache
def explained(kind: str, method: str, quantisation: str) -> ox.Explanation:
    target = None if (kind, method) == ("op18", "gradient") else list(classes())
    return ox.explain(model(kind), pictures(), method=method, target=target, quantisation=quantisation)


def cosines(a: Array, b: Array, *, centred: bool = False) -> Array:
    first, second = (x.reshape(len(x), -1).astype(np.float64) for x in (a, b))
    if centred:
        first, second = (x - x.mean(axis=1, keepdims=True) for x in (first, second))
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return np.asarray((first * second).sum(axis=1) / lengths)


QUANTISATIONS = ["straight_through", "float_shadow"]


@pytest.mark.parametrize("quantisation", QUANTISATIONS)
@pytest.mark.parametrize("method", ["fullgrad", "gradcam"])
def test_maps_are_those_of_the_float_network(method: str, quantisation: str) -> None:
    """At least 0.9 as they are, and without their mean, which all positive maps share; another picture's is far away."""
    ours, truth = (
        explained("int8-qdq", method, quantisation).saliency,
        explained("op18", method, "straight_through").saliency,
    )
    assert ours is not None and truth is not None
    assert cosines(ours, truth).min() >= 0.9
    assert cosines(ours, truth, centred=True).min() >= 0.9
    assert np.median(cosines(np.roll(ours, 1, axis=0), truth, centred=True)) < 0.7


@pytest.mark.parametrize("quantisation", QUANTISATIONS)
def test_the_gradient_itself_agrees_less_and_is_never_zero(quantisation: str) -> None:
    """Gates of ReLU6 flip under rounding, as they do in the float network under half a level of grey: see the page."""
    e, truth = explained("int8-qdq", "gradient", quantisation), explained("op18", "gradient", "straight_through")
    ours = next(iter(e.attributions.values()))
    assert np.abs(ours).reshape(len(ours), -1).max(axis=1).min() > 0
    found = cosines(ours, next(iter(truth.attributions.values())))
    assert found.min() >= 0.5
    assert np.median(found) >= 0.7
    assert e.quantisation == quantisation
    assert not any("zero everywhere" in note for note in e.notes)
