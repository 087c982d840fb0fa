"""Recipe (e), nonlinear saliency (2110.06639): how specific are maps to classes other than the first?

Run as ``python benchmarks/papers/nonlinear_saliency.py ASSETS --pictures FOLDER``. The method is inspired by the paper,
whose text was not accessible; an earlier abstract says "equal or better specificity ... especially so for classes
other than the top ranked". Specificity here: how unlike the maps of the first, second and fifth class are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from common import Request, fashion_mnist, finish, imagenet, model, request
from scipy.stats import spearmanr

import onnxplain as ox

METHODS: dict[str, dict[str, Any]] = {
    "nonlinear_saliency": {"steps": 20},
    "gradient": {"reduction": "sum"},
    "smoothgrad": {"reduction": "sum", "draws": 10},
    "gradcam": {"relu": False},
    "occlusion": {},
}


def specific(net: ox.Model, x: Any, method: str, options: dict[str, Any], seed: int) -> tuple[float, float]:
    """Mean rank correlation of the map of the first class with those of the second and the fifth."""
    targets = [ox.Target.rank(k) for k in (0, 1, 4)]
    first, second, fifth = ox.explain(
        net, x, method=method, target=targets, seed=seed, head="log_probability", **options
    )
    found = []
    for other in (second, fifth):
        pairs = zip(_rows(first), _rows(other), strict=True)
        found.append(float(np.nanmean([spearmanr(a, b).statistic for a, b in pairs])))
    return found[0], found[1]


def _rows(e: ox.Explanation) -> Any:
    assert e.saliency is not None
    return e.saliency.reshape(len(e), -1)


def main() -> None:
    """Measure."""
    asked: Request = request(__doc__ or "", limit=20)
    nets = [("Fashion-MNIST, VGG", model(asked, "fmnist-vgg-small"), fashion_mnist(asked)[0])]
    if asked.pictures is not None:
        nets.append(("ImageNet, EfficientNet-Lite0", model(asked, "efficientnet-lite0-op18"), imagenet(asked)[0][:6]))
    rows, claims, numbers = [], {}, {}
    for title, net, x in nets:
        found = {m: specific(net, x, m, options, asked.seed) for m, options in METHODS.items()}
        rows += [[title, m, *pair] for m, pair in found.items()]
        numbers[title] = found
        others = {m: pair for m, pair in found.items() if m != "nonlinear_saliency"}
        for place, name in enumerate(("second", "fifth")):
            mine = found["nonlinear_saliency"][place]
            claims[f"{title}: maps of first and {name} class least alike by nonlinear saliency"] = mine <= min(
                pair[place] for pair in others.values()
            )
    finish(asked, "nonlinear_saliency", ["net", "method", "first, second", "first, fifth"], rows, claims, numbers)


if __name__ == "__main__":
    main()
