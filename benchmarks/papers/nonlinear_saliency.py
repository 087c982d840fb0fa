"""Recipe (e), nonlinear saliency (2110.06639): how specific are maps to classes other than the first?

Run as ``python benchmarks/papers/nonlinear_saliency.py ASSETS --pictures FOLDER``. The method is inspired by the paper,
whose text was not accessible; an earlier abstract says "equal or better specificity ... especially so for classes
other than the top ranked".

What specific means is not obvious, and three things are measured for the first class against the second and the fifth:

- *signed*: rank correlation of both maps. Shown, but nothing is concluded: the log-probabilities of two leading classes
  fall when the other rises, so linear methods give opposite maps whatever the net has learned.
- *magnitude*: rank correlation of both magnitudes, where opposite maps are equal. Low for noise, too.
- *own effect*: fall of the logit of a class when the tenth of the places goes that its own map ranks highest, minus its
  fall when those go that the other class's map ranks highest; mean of both classes. Maps that know nothing of the
  classes, or nothing of the net, have 0. This one decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from common import Array, Request, decided, fashion_mnist, finish, imagenet, interval, keep, model, request
from scipy.stats import spearmanr

import onnxplain as ox
from onnxplain.engine.evaluation.scorer import Scorer

METHODS: dict[str, dict[str, Any]] = {
    "nonlinear_saliency": {"steps": 15, "reduction": "sum"},
    "gradient": {"reduction": "sum"},
    "smoothgrad": {"reduction": "sum", "draws": 10},
    "gradcam": {"relu": False},
    "occlusion": {},
    "random": {},
}
#: For the large network: with the default, windows of 15 pixels, occlusion alone would take ten minutes.
LARGE = METHODS | {"occlusion": {"window": 32, "stride": 16}}
#: And so many pictures.
LARGE_COUNT = 8
RANKS = {0: "first", 1: "second", 4: "fifth"}
REMOVED = 0.1


def maps(net: ox.Model, x: Array, method: str, options: dict[str, Any], head: str, seed: int) -> dict[int, Array]:
    """Maps ``[N, places]`` of the classes of some ranks."""
    if method == "random":
        return {k: np.random.default_rng([seed, k]).normal(size=(len(x), x[0, 0].size)) for k in RANKS}
    targets = [ox.Target.rank(k) for k in RANKS]
    found = ox.explain(net, x, method=method, target=targets, seed=seed, head=head, **options)
    return {k: np.asarray(e.saliency).reshape(len(x), -1) for k, e in zip(RANKS, found, strict=True)}


def correlated(a: Array, b: Array) -> Array:
    """Rank correlation, sample by sample."""
    return np.array([spearmanr(one, other).statistic for one, other in zip(a, b, strict=True)])


def falls(scorer: Scorer, x: Array, classes: dict[int, Array], found: dict[int, Array], fill: float) -> Any:
    """Fall of the logit of a class (first key) when what another's map (second key) ranks highest goes, ``[N]``."""
    rows, clean = np.arange(len(x)), scorer.outputs(x)
    count = round(REMOVED * x[0, 0].size)
    fallen = {}
    for mapped, values in found.items():
        gone = np.zeros(values.shape, dtype=bool)
        np.put_along_axis(gone, np.argsort(-values, axis=1, kind="stable")[:, :count], True, axis=1)
        emptied = np.where(gone.reshape(len(x), 1, *x.shape[2:]), np.float32(fill), x).astype(x.dtype)
        after = scorer.outputs(emptied)
        for scored, index in classes.items():
            fallen[scored, mapped] = clean[rows, index] - after[rows, index]
    return fallen


@dataclass
class Trial:
    """A network with its pictures.

    Attributes:
        title: What it is called.
        net, x: The network and its pictures.
        methods: With their options.
        fills: What removed pixels become, by name: black, and grey where that is another number.
    """

    title: str
    net: ox.Model
    x: Array
    methods: dict[str, dict[str, Any]]
    fills: dict[str, float]


#: The three measures by method and by rank of the other class.
Found = dict[str, dict[int, dict[str, Array]]]


def specific(asked: Request, trial: Trial, head: str) -> dict[str, Found]:
    """The three measures, by fill."""
    scorer, x = Scorer(trial.net, head="logit"), trial.x
    order = np.argsort(-scorer.outputs(x), axis=1, kind="stable")
    classes = {k: order[:, k] for k in RANKS}
    out: dict[str, Found] = {fill: {} for fill in trial.fills}
    for method, options in trial.methods.items():
        found = maps(trial.net, x, method, options, head, asked.seed)
        alike = {k: correlated(found[0], found[k]) for k in list(RANKS)[1:]}
        alike_in_size = {k: correlated(np.abs(found[0]), np.abs(found[k])) for k in alike}
        for fill, value in trial.fills.items():
            fallen = falls(scorer, x, classes, found, value)
            out[fill][method] = {
                k: {
                    "signed": alike[k],
                    "magnitude": alike_in_size[k],
                    "own": (fallen[0, 0] - fallen[0, k] + fallen[k, k] - fallen[k, 0]) / 2,
                }
                for k in alike
            }
    return out


def main() -> None:
    """Measure."""
    asked = request(__doc__ or "", limit=50)
    clothes = fashion_mnist(asked)[0]
    trials = [Trial("Fashion-MNIST", model(asked, "fmnist-vgg-small"), clothes, METHODS, {"black": 0.0})]
    if asked.pictures is not None:
        photos = imagenet(asked)[0][:LARGE_COUNT]
        fills = {"black": float(photos.min()), "grey": 0.0}
        trials.append(Trial("ImageNet", model(asked, "efficientnet-lite0-op18"), photos, LARGE, fills))
    rows, numbers = [], {}
    claims: dict[str, bool | None] = {}
    for trial, head in product(trials, ("log_probability", "logit")):
        for fill, found in specific(asked, trial, head).items():
            title = f"{trial.title}, {head}, {fill}"
            numbers[title] = {m: {RANKS[k]: v for k, v in each.items()} for m, each in found.items()}
            rows += [[title, *cells] for cells in table(found)]
            for k in list(RANKS)[1:]:
                mine = found["nonlinear_saliency"][k]["own"]
                for other in ("gradient", "smoothgrad", "gradcam", "occlusion"):
                    words = f"{title}, first and {RANKS[k]} class: more own effect than {other}"
                    claims[words] = decided(mine - found[other][k]["own"])
    columns = ["net, explained, fill", "method", "other class", "signed", "magnitude", "own effect", "95 % interval"]
    finish(asked, "nonlinear_saliency", columns, rows, claims, numbers)
    drawn(asked, numbers)


def table(found: Found) -> list[list[Any]]:
    """Means, and the interval of the own effect."""
    rows: list[list[Any]] = []
    for method, each in found.items():
        for k, v in each.items():
            low, high = interval(v["own"])
            means = [float(np.nanmean(v[name])) for name in ("signed", "magnitude", "own")]
            rows.append([method, RANKS[k], *means, f"{low:.3g} to {high:.3g}"])
    return rows


def drawn(asked: Request, numbers: dict[str, Any]) -> None:
    """Own effect of each method as bars, with intervals."""
    from matplotlib.figure import Figure

    across = 2 if len(numbers) < 6 else 3
    down = -(-len(numbers) // across)
    drawing = Figure(figsize=(3.7 * across, 3.1 * down), layout="constrained")
    for place, (title, found) in enumerate(numbers.items()):
        axes = drawing.add_subplot(down, across, place + 1)
        for shift, name in ((-0.2, "second"), (0.2, "fifth")):
            values = [each[name]["own"] for each in found.values()]
            means = np.array([np.mean(v) for v in values])
            ends = np.array([interval(v) for v in values]).T
            errors = np.abs(ends - means)
            axes.bar(np.arange(len(values)) + shift, means, 0.38, yerr=errors, label=f"first and {name} class")
        axes.set_xticks(np.arange(len(found)), [m.replace("_", "\n") for m in found], fontsize=6)
        axes.set_title(title, fontsize=9)
        axes.tick_params(axis="y", labelsize=8)
        axes.set_ylabel("own effect (logit)" if place % across == 0 else "", fontsize=8)
        axes.grid(alpha=0.3, axis="y")
        if place == 0:
            axes.legend(fontsize=7)
    keep(drawing, asked.out / "nonlinear_saliency.png")


if __name__ == "__main__":
    main()
