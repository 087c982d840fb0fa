"""Recipe (a), FullGrad (1905.00780): the least salient places are removed, and the answer should hardly move.

Run as ``python benchmarks/papers/fullgrad.py ASSETS --pictures FOLDER``. The paper removes pixels (black) on
ImageNet and finds FullGrad's curve below the input gradient's and below random removal. ROAR is
``benchmarks/roar.py``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from common import Request, fashion_mnist, figure, finish, imagenet, model, request

import onnxplain as ox

METHODS = ("fullgrad", "absolute_gradient", "input_x_gradient", "integrated_gradients", "gradcam", "random")
FRACTIONS = (0.001, 0.005, 0.01, 0.03, 0.05, 0.07, 0.1)


def measured(asked: Request, name: str, x: Any, fill: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Curves and means by method."""
    settings = {"pixel_perturbation": {"fractions": FRACTIONS, "fill": fill, "order": "least", "absolute": True}}
    methods: dict[str, dict[str, Any]] = {m: {} for m in METHODS}
    methods["integrated_gradients"] = {"steps": 25, "tolerance": None}
    report = ox.evaluate(model(asked, name), x, methods=methods, metrics=settings, seed=asked.seed, threads=1)
    results = {r.method: r for r in report.results}
    curves = {m: (np.array(FRACTIONS), r.curves["change"][1].mean(axis=0)) for m, r in results.items()}
    return curves, {m: (r.mean, r.interval) for m, r in results.items()}


def main() -> None:
    """Measure, and say whether the order of the paper's figure was found."""
    asked = request(__doc__ or "", limit=100)
    panels, rows, claims, numbers = {}, [], {}, {}
    nets = [("Fashion-MNIST, VGG", "fmnist-vgg-small", fashion_mnist(asked)[0], "black")]
    if asked.pictures is not None:
        nets.append(("ImageNet, EfficientNet-Lite0", "efficientnet-lite0-op18", imagenet(asked)[0], "black"))
        nets.append(("the same, blurred", "efficientnet-lite0-op18", imagenet(asked)[0], "blur"))
    for title, name, x, fill in nets:
        panels[title], means = measured(asked, name, x, fill)
        numbers[title] = means
        rows += [[title, len(x), m, mean, f"{low:.3g} to {high:.3g}"] for m, (mean, (low, high)) in means.items()]
        order = [means[m][0] for m in ("fullgrad", "absolute_gradient", "random")]
        claims[f"{title}: FullGrad moves the answer less than the input gradient"] = order[0] < order[1]
        claims[f"{title}: the input gradient moves it less than random removal"] = order[1] < order[2]
    columns = ["net", "pictures", "method", "mean change", "95 % interval"]
    finish(asked, "fullgrad", columns, rows, claims, numbers)
    figure(asked, "fullgrad", panels, "share removed, least salient first")


if __name__ == "__main__":
    main()
