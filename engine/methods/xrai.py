"""XRAI: regions of the picture ranked by Integrated Gradients from a black and a white baseline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from onnxplain.engine.errors import OptionError
from onnxplain.engine.explanation import Array
from onnxplain.engine.extras import optional
from onnxplain.engine.method import Parts, Plan, Run, method
from onnxplain.engine.methods.path_family import Found, PathMethod
from onnxplain.engine.paths import StraightPath, integrate
from onnxplain.engine.places import Labels, spatial_axes
from onnxplain.engine.quadrature import quadrature
from onnxplain.engine.regions import by_density, overlapping_regions


@method("xrai")
class XRAI(PathMethod):
    """Regions at six scales, added one after the other by the mean attribution of what they newly cover.

    Attributions are Integrated Gradients, averaged over the baselines, and complete as such; the map gives
    every element the mean of the largest channels over the region that covered it first, so that it sums to
    the sum of the largest channels. Needs scikit-image (``pip install 'onnxplain[superpixels]'``).

    Args:
        steps: Of each integral.
        baseline: See :mod:`onnxplain.engine.baselines`; the sample's smallest and largest value everywhere.
        area: Share of the picture after which no more regions are added; the rest gets its own mean.
        fast: Order the regions once, by their whole mean: quicker, and the map's sum is not kept.
    """

    summary: ClassVar[str] = "regions of the picture, ranked by Integrated Gradients from two baselines"
    source: ClassVar[str] = "Kapishnikov et al. 2019, arXiv 1906.02825, section 3"
    quick: ClassVar[Mapping[str, Any]] = {"steps": 20}

    outside: ClassVar[str] = (
        "its regions are found in each picture by a segmentation, which has no form in standard operators; "
        "write integrated_gradients, or kernel_shap with players='grid:8'"
    )

    steps: int = 100
    baseline: Any = ("minimum", "maximum")
    area: float = 1.0
    fast: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.area <= 1:
            raise OptionError(f"area={self.area} is no share of the picture; give more than 0 and at most 1")

    def build(self, plan: Plan) -> None:
        labels = plan.subjects[0].labels
        if len(plan.subjects) != 1 or set(spatial_axes(labels)) != {"y", "x"}:
            raise OptionError("xrai looks for regions in one picture, and this input is none; use integrated_gradients")
        optional("skimage.segmentation", "method 'xrai'", "use integrated_gradients")
        super().build(plan)

    def along(self, run: Run, start: dict[str, Array], change: Array) -> Found:
        path = StraightPath(run.x, start, *quadrature("trapezoid", self.steps))
        return Found(integrate(run, path, np.arange(len(change))))

    def parts(self, run: Run, attributions: dict[str, Array], baseline_score: Array, notes: list[str]) -> Parts:
        result = super().parts(run, attributions, baseline_score, notes)
        ((name, array),) = attributions.items()
        labels = run.labels[name]
        pictures, values = last_channels(run.x[name], labels), last_channels(array, labels)
        maps = [self._map(picture, value.max(axis=-1)) for picture, value in zip(pictures, values, strict=True)]
        result.saliency = np.stack(maps).astype(np.float32)
        return result

    def _map(self, picture: Array, attribution: Array) -> Array:
        """One sample's map ``[H, W]``."""
        flat = attribution.reshape(-1)
        result, free = np.zeros_like(flat), np.ones(flat.size, dtype=bool)
        regions = overlapping_regions(picture)
        for new, mean in by_density(regions.reshape(len(regions), -1), flat, self.fast):
            result[new] = mean
            free &= ~new
            if free.mean() < 1.0 - self.area:
                break
        if free.any():
            result[free] = flat[free].mean()
        return result.reshape(attribution.shape)


def last_channels(array: Array, labels: Labels) -> Array:
    """``[N, H, W, C]``, whatever the layout."""
    places = spatial_axes(labels)
    moved = np.moveaxis(array, [places["y"], places["x"]], [1, 2])
    return moved.reshape(*moved.shape[:3], -1)
