"""Recipe (c), Integrated Gradients (1703.01365): steps against convergence, baselines; pictures, text, a sequence.

Run as ``python benchmarks/papers/integrated_gradients.py ASSETS --pictures FOLDER``. The paper recommends 20 to 300
steps, checked by how far the attributions are from summing to the change of the score (within about 5 %).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from common import Request, fashion_mnist, figure, finish, imagenet, model, request

import onnxplain as ox
from onnxplain.engine.quadrature import RULES

STEPS = (10, 20, 50, 100, 300)


def inputs(asked: Request) -> dict[str, tuple[ox.Model, Any, dict[str, Any]]]:
    """Models with their inputs, and options of their own."""
    found: dict[str, tuple[ox.Model, Any, dict[str, Any]]] = {
        "pictures (VGG)": (model(asked, "fmnist-vgg-small"), fashion_mnist(asked)[0][:8], {}),
        "pictures (Tanh, Softplus)": (model(asked, "fmnist-mlp"), fashion_mnist(asked)[0][:8], {}),
    }
    with np.load(asked.assets / "data" / "gunpoint_test.npz") as file:
        series = next(file[k] for k in file.files if file[k].ndim > 1).reshape(-1, 1, 150)[:8].astype(np.float32)
    found["sequence (1-D FCN)"] = (model(asked, "gunpoint-fcn"), series, {})
    words = np.random.default_rng(asked.seed).integers(1, 500, size=(8, 50))
    found["text (embedding)"] = (model(asked, "sentiment-textcnn"), words, {"baseline": "token:0"})
    if asked.pictures is not None:
        found["ImageNet (ReLU6)"] = (model(asked, "efficientnet-lite0-op18"), imagenet(asked)[0][:2], {})
    return found


def main() -> None:
    """Deltas by steps and quadrature, and how much the baseline matters."""
    asked = request(__doc__ or "", limit=8)
    rows, panels, numbers = [], {}, {}
    enough: dict[str, bool | None] = {}
    for title, (net, x, options) in inputs(asked).items():
        panels[title] = {}
        for rule in RULES if "ImageNet" not in title else ("gauss_legendre", "riemann_right"):
            deltas = []
            for steps in STEPS:
                e = ox.explain(
                    net, x, method="integrated_gradients", steps=steps, quadrature=rule, tolerance=None, **options
                )
                assert e.residual is not None
                deltas.append(float(e.residual.relative.mean()))
            panels[title][rule] = (np.array(STEPS), np.array(deltas))
            rows.append([title, rule, *deltas])
        best = {rule: y[STEPS.index(300)] for rule, (_, y) in panels[title].items()}
        enough[f"{title}: 300 steps of the right rule come within 5 %"] = bool(best["riemann_right"] < 0.05)
        numbers[title] = {rule: y for rule, (_, y) in panels[title].items()}
    finish(asked, "integrated_gradients", ["model", "rule", *(f"{n} steps" for n in STEPS)], rows, enough, numbers)
    figure(asked, "integrated_gradients", panels, "steps")


if __name__ == "__main__":
    main()
