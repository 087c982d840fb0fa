"""Recipe (a), FullGrad (1905.00780): the least salient places are removed, and the answer should hardly move.

Run as ``python benchmarks/papers/fullgrad.py ASSETS --pictures FOLDER``. The paper removes pixels (black) on
ImageNet and finds FullGrad's curve below the input gradient's and below random removal. Scored is the probability
of the class that the net answers; places are ranked by magnitude. ROAR is ``benchmarks/roar.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from common import Request, decided, fashion_mnist, figure, finish, imagenet, model, request

import onnxplain as ox

METHODS = ("fullgrad", "absolute_gradient", "random", "input_x_gradient", "integrated_gradients", "gradcam")
OPTIONS: dict[str, dict[str, Any]] = {"integrated_gradients": {"steps": 10, "tolerance": None}}
FRACTIONS = (0.001, 0.005, 0.01, 0.03, 0.05, 0.07, 0.1)


def measured(asked: Request, name: str, x: Any, fill: str, methods: Sequence[str]) -> dict[str, Any]:
    """Results by method."""
    settings = {"pixel_perturbation": {"fractions": FRACTIONS, "fill": fill, "order": "least", "absolute": True}}
    chosen = {m: OPTIONS.get(m, {}) for m in methods}
    report = ox.evaluate(model(asked, name), x, methods=chosen, metrics=settings, seed=asked.seed, threads=1)
    return {r.method: r for r in report.results}


def main() -> None:
    """Measure, and say whether the order of the paper's figure was found."""
    asked = request(__doc__ or "", limit=60)
    panels, rows, numbers = {}, [], {}
    claims: dict[str, bool | None] = {}
    small, large = "fmnist-vgg-small", "efficientnet-lite0-op18"
    clothes = fashion_mnist(asked)[0]
    runs = [("Fashion-MNIST, black", small, clothes, "black", METHODS)]
    runs.append(("Fashion-MNIST, noise", small, clothes, "noise", METHODS))
    if asked.pictures is not None:
        photos = imagenet(asked)[0]
        runs.append(("ImageNet, black", large, photos, "black", METHODS[:4]))
        runs.append(("ImageNet, blurred", large, photos, "blur", METHODS[:3]))
    for title, name, x, fill, methods in runs:
        found = measured(asked, name, x, fill, methods)
        panels[title] = {m: (np.array(FRACTIONS), r.curves["change"][1].mean(axis=0)) for m, r in found.items()}
        numbers[title] = {m: {"mean": r.mean, "interval": r.interval} for m, r in found.items()}
        rows += [[title, len(x), m, r.mean, f"{r.interval[0]:.3g} to {r.interval[1]:.3g}"] for m, r in found.items()]
        full, gradient, random = (found[m].values for m in METHODS[:3])
        claims[f"{title}: FullGrad moves the answer less than the input gradient"] = decided(gradient - full)
        claims[f"{title}: the input gradient moves it less than random removal"] = decided(random - gradient)
        claims[f"{title}: FullGrad moves it less than random removal"] = decided(random - full)
    columns = ["net, fill", "pictures", "method", "mean change", "95 % interval"]
    finish(asked, "fullgrad", columns, rows, claims, numbers)
    figure(asked, "fullgrad", panels, "share removed, least salient first", "relative change", ("log", "linear"))


if __name__ == "__main__":
    main()
