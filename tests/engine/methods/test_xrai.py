"""XRAI: the greedy order written out element by element, sums that are kept, and the regions themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from tiny_models import fullgrad_net, model, node

import onnxplain as ox
from onnxplain.engine.errors import OptionError
from onnxplain.engine.regions import SIDE, by_density, overlapping_regions

Array = np.ndarray[Any, Any]


def patches(size: int = 48, last: bool = False) -> tuple[onnx.ModelProto, Array]:
    """A dark picture with two bright squares; the score is the sum over the first of them."""
    x = np.zeros((size, size, 3), np.float32)
    x[6:18, 6:18], x[28:42, 26:40] = (1.0, 0.9, 0.8), (0.7, 1.0, 0.9)
    weights = np.zeros_like(x)
    weights[6:18, 6:18] = 1.0
    axes = (size, size, 3) if last else (3, size, size)
    arrays = [a if last else np.moveaxis(a, -1, 0) for a in (x, weights)]
    proto = model(
        [node("Mul", "x w", "p"), node("ReduceSum", "p axes", "y", keepdims=0)],
        {"x": ["N", *axes]},
        {"y": ["N"]},
        {"w": arrays[1], "axes": np.array([1, 2, 3])},
    )
    return proto, arrays[0][None]


@pytest.mark.parametrize("last", [False, True])
def test_the_region_that_counts_stands_out(last: bool) -> None:
    proto, x = patches(last=last)
    e = ox.explain(proto, x, method="xrai", steps=5, layout="channels_last" if last else "channels_first")
    assert e.saliency is not None
    heat = e.saliency[0]
    assert heat[7:17, 7:17].min() > 5 * np.abs(heat[28:42, 26:40]).max()
    assert e.residual is not None and e.residual.ok


@pytest.mark.parametrize("size", [48, 224])
def test_map_sums_to_the_largest_channels(size: int) -> None:
    proto, x = patches(size)
    e = ox.explain(proto, x, method="xrai", steps=3)
    assert e.saliency is not None
    assert e.saliency.sum(dtype=np.float64) == pytest.approx(e.attributions["x"][0].max(axis=0).sum(), rel=1e-4)


def test_attributions_are_integrated_gradients_from_both_ends() -> None:
    proto, x = fullgrad_net()
    batch = np.concatenate([x, -x])
    e = ox.explain(proto, batch, method="xrai", steps=40, target=1)
    ends = [batch.min(axis=(1, 2, 3), keepdims=True), batch.max(axis=(1, 2, 3), keepdims=True)]
    parts = [
        ox.explain(
            proto, batch, method="integrated_gradients", baseline=np.broadcast_to(end, batch.shape), steps=40, target=1,
            quadrature="trapezoid", tolerance=None,
        ).attributions["x"]
        for end in ends
    ]  # fmt: skip
    np.testing.assert_allclose(e.attributions["x"], np.mean(parts, axis=0), atol=1e-5)


def naive(regions: Array, attribution: Array, least: float, fast: bool) -> list[tuple[set[int], float]]:
    """Sets of elements, scored anew in every turn."""
    left = [set(np.flatnonzero(r)) for r in regions]
    whole = [np.mean([attribution[i] for i in r]) for r in left]
    covered: set[int] = set()
    order = []
    while True:
        possible = [(i, r - covered) for i, r in enumerate(left) if len(r - covered) >= least]
        if not possible:
            return order
        scores = [whole[i] if fast else np.mean([attribution[p] for p in new]) for i, new in possible]
        i, new = possible[int(np.argmax(scores))]
        order.append((new, float(max(scores))))
        covered |= new
        left[i] = set()


@pytest.mark.parametrize("fast", [False, True])
def test_order_against_the_definition(fast: bool) -> None:
    rng = np.random.default_rng(4)
    attribution = rng.normal(size=40 * 40)
    corners = rng.integers(0, 30, size=(25, 2))
    regions = np.zeros((25, 40, 40), bool)
    for region, (i, j) in zip(regions, corners, strict=True):
        region[i : i + rng.integers(2, 11), j : j + rng.integers(2, 11)] = True
    flat = regions.reshape(25, -1)
    wanted = naive(flat, attribution, 50 * 1600 / SIDE**2, fast)
    found = list(by_density(flat, attribution, fast))
    assert len(found) == len(wanted) > 10
    for (new, mean), (elements, score) in zip(found, wanted, strict=True):
        assert set(np.flatnonzero(new)) == elements
        assert mean == pytest.approx(score, abs=1e-9)


def test_regions_cover_the_picture_at_every_scale() -> None:
    rng = np.random.default_rng(0)
    picture = np.kron(rng.normal(size=(6, 8)), np.ones((10, 10)))[..., None] + 0.01 * rng.normal(size=(60, 80, 3))
    regions = overlapping_regions(picture)
    assert regions.shape[1:] == (60, 80) and len(regions) > 10
    assert (regions.sum(axis=0) >= 6).all()
    np.testing.assert_array_equal(regions, overlapping_regions(picture * 7.0 - 3.0))


def test_a_share_of_the_picture() -> None:
    proto, x = patches()
    e = ox.explain(proto, x, method="xrai", steps=3, area=0.1)
    assert e.saliency is not None and len(np.unique(e.saliency)) < len(
        np.unique(ox.explain(proto, x, method="xrai", steps=3).saliency)
    )


def test_what_is_no_picture_is_refused() -> None:
    proto = model([node("MatMul", "x w", "y")], {"x": ["N", 2]}, {"y": ["N", 1]}, {"w": np.ones((2, 1))})
    with pytest.raises(OptionError, match="regions in one picture"):
        ox.compile(proto, method="xrai")
    for options in ({"area": 0.0}, {"area": 1.5}, {"steps": 0}):
        with pytest.raises(OptionError):
            ox.compile(patches()[0], method="xrai", **options)


def test_without_scikit_image(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    with pytest.raises(OptionError, match="onnxplain\\[superpixels\\]"):
        ox.compile(patches()[0], method="xrai")
