"""Recipe (c), Integrated Gradients (1703.01365): steps against convergence, baselines; pictures, text, a sequence.

Run as ``python benchmarks/papers/integrated_gradients.py ASSETS --pictures FOLDER``. The paper recommends 20 to 300
steps, checked by how far the attributions are from summing to the change of the score (within about 5 %), and a
baseline that holds no signal: black for pictures, zero embeddings for text.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
from common import Request, fashion_mnist, figure, finish, imagenet, model, request
from scipy.stats import spearmanr

import onnxplain as ox

STEPS = (10, 20, 50, 100, 200, 300)
RULES = ("riemann_right", "trapezoid", "gauss_legendre")
#: The large network gets fewer.
LARGE_RULES = ("riemann_right", "gauss_legendre")
BASELINES = ("zero", "mean", "blur", "maximum", "noise:5")
ENOUGH = 0.05


def inputs(asked: Request) -> dict[str, tuple[ox.Model, Any, dict[str, Any]]]:
    """Models with their inputs, and options of their own."""
    clothes = fashion_mnist(asked)[0]
    found: dict[str, tuple[ox.Model, Any, dict[str, Any]]] = {
        "pictures (VGG)": (model(asked, "fmnist-vgg-small"), clothes, {}),
        "pictures (Tanh, Softplus)": (model(asked, "fmnist-mlp"), clothes, {}),
    }
    with np.load(asked.assets / "data" / "gunpoint_test.npz") as file:
        series = next(file[k] for k in file.files if file[k].ndim > 1).reshape(-1, 1, 150).astype(np.float32)
    found["sequence (1-D FCN)"] = (model(asked, "gunpoint-fcn"), series[: asked.limit], {})
    words = np.random.default_rng(asked.seed).integers(1, 500, size=(asked.limit, 50))
    found["text (embedding)"] = (model(asked, "sentiment-textcnn"), words, {"baseline": "token:0"})
    if asked.pictures is not None:
        found["ImageNet (ReLU6)"] = (model(asked, "efficientnet-lite0-op18"), imagenet(asked)[0], {})
    return found


def explained(net: ox.Model, x: Any, **options: Any) -> ox.Explanation:
    """Attributions of the logit of the class that the net answers, however far from complete they are."""
    return ox.explain(net, x, method="integrated_gradients", tolerance=None, **options)


def deltas(asked: Request) -> tuple[list[list[Any]], dict[str, Any], dict[str, bool | None]]:
    """Relative distance from the change of the score, by steps and quadrature: median over the samples."""
    rows: list[list[Any]] = []
    panels: dict[str, Any] = {}
    claims: dict[str, bool | None] = {}
    for title, (net, x, options) in inputs(asked).items():
        large = "ImageNet" in title
        panels[title] = {}
        for rule in LARGE_RULES if large else RULES:
            found = []
            for count in STEPS:
                e = explained(net, x, steps=count, quadrature=rule, **options)
                assert e.residual is not None
                assert e.baseline_score is not None
                found.append(float(np.median(np.abs(e.residual.absolute / (e.score - e.baseline_score)))))
            panels[title][rule] = (np.array(STEPS), np.array(found))
            rows.append([title, rule, *found])
        for count in (20, STEPS[-1]):
            error = panels[title]["riemann_right"][1][STEPS.index(count)]
            claims[f"{title}: {count} steps of the right rule come within 5 %"] = bool(error < ENOUGH)
    return rows, panels, claims


def baselines(asked: Request) -> dict[str, float]:
    """Mean rank correlation of maps from two baselines (VGG)."""
    net, x = model(asked, "fmnist-vgg-small"), fashion_mnist(asked)[0]
    maps = {b: np.asarray(explained(net, x, steps=50, baseline=b).saliency).reshape(len(x), -1) for b in BASELINES}
    return {
        f"{a} and {b}": float(np.nanmean([spearmanr(p, q).statistic for p, q in zip(maps[a], maps[b], strict=True)]))
        for a, b in combinations(BASELINES, 2)
    }


def main() -> None:
    """Deltas by steps and quadrature, and how much the baseline matters."""
    asked = request(__doc__ or "", limit=8)
    rows, panels, claims = deltas(asked)
    alike = baselines(asked)
    rows += [["rank correlation of maps", pair, value, *["-"] * (len(STEPS) - 1)] for pair, value in alike.items()]
    numbers = {"deltas": {t: {r: y for r, (_, y) in lines.items()} for t, lines in panels.items()}, "baselines": alike}
    columns = ["model", "rule, or baselines", *(f"{n} steps" for n in STEPS)]
    finish(asked, "integrated_gradients", columns, rows, claims, numbers)
    figure(asked, "integrated_gradients", panels, "steps", "relative distance from the change", ("log", "log"))


if __name__ == "__main__":
    main()
