"""Side by side in one run: pixel perturbation of five methods here, and by Quantus through its torch path.

    python benchmarks/metrics.py --model fmnist-lenet.onnx --data fmnist_test.npz [--rounds 5]

100 pictures, 10 fractions (8 to 80 of 784 pixels, about 1 to 10 %, most salient first), 5 methods. Quantus gets
the same network, built in torch from the file's weights, the same classes and, for the measurement alone, the same
maps; its PixelFlipping steps by 8 pixels and gives the same scores at these fractions, which is checked before
anything is timed. It has no way to stop there and goes on to the last pixel. So a second table times the whole
curve on both sides, 14 steps of 56 pixels: equal work, point by point.

Every figure is the median over rounds in which both sides take turns, in one process, on one thread.
Needs the torch extra, captum, quantus and pandas.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

PICTURES, PIXELS = 100, 784
#: Ours and theirs, with what makes them the same computation; Quantus fixes ten points of the trapezoid rule.
METHODS: dict[str, tuple[dict[str, Any], str]] = {
    "gradient": ({}, "Gradient"),
    "input_x_gradient": ({}, "InputXGradient"),
    "integrated_gradients": ({"steps": 9, "quadrature": "trapezoid", "tolerance": None}, "IntegratedGradients"),
    "deconvnet": ({}, "Deconvolution"),
    "deeplift": ({}, "DeepLift"),
}
#: Step in pixels and number of fractions: the protocol, and the whole curve.
SETTINGS = {"1 to 10 %": (8, 10), "whole curve": (56, 14)}

Array = np.ndarray[Any, Any]


class Sides:
    """Both tools on one network and the same pictures."""

    def __init__(self, model: Path, data: Path) -> None:
        import onnx
        import quantus
        import torch

        sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))
        from torch_twins import twin

        import onnxplain
        from onnxplain.engine.evaluation.scorer import Scorer

        torch.set_num_threads(1)
        self.quantus, self.model = quantus, model
        self.loaded = onnxplain.load(model, threads=1)
        self.x = (np.load(data)["x"][:PICTURES] / 255).astype(np.float32)
        self.net = twin(onnx.load(model))
        self.scorer = Scorer(self.loaded)
        self.classes = self.scorer.classes(self.x)

    def explained(self, method: str) -> Any:
        from onnxplain.engine.evaluation.data import as_dataset
        from onnxplain.engine.evaluation.evaluate import explained

        samples = as_dataset(self.x, self.scorer)
        return explained(self.loaded, self.scorer, samples, self.classes, method, METHODS[method][0])

    def ours(self, case: Any, step: int, fractions: int) -> Array:
        from onnxplain.engine.evaluation.metric import create_metric

        shares = tuple(step * (k + 1) / PIXELS for k in range(fractions))
        metric = create_metric("pixel_perturbation", {"fractions": shares, "order": "most"})
        case._clean.clear()  # the clean score is part of the work
        return np.asarray(metric.measure(case).curves["change"][1])

    def theirs(self, maps: Array, step: int, fractions: int) -> Array:
        metric = self.quantus.PixelFlipping(
            features_in_step=step, perturb_baseline=0.0, abs=False, normalise=False, disable_warnings=True,
            display_progressbar=False,
        )  # fmt: skip
        scores = metric(
            model=self.net, x_batch=self.x, y_batch=self.classes, a_batch=maps, softmax=True, channel_first=True,
            batch_size=PICTURES,
        )  # fmt: skip
        return np.array(scores)[:, :fractions]

    def their_maps(self, method: str) -> Array:
        return np.asarray(self.quantus.explain(self.net, self.x, self.classes, method=METHODS[method][1]))


def check(sides: Sides) -> None:
    """Refuse to time two different computations: the same maps, and the same curves of them."""
    for method in METHODS:
        case = sides.explained(method)
        maps = sides.their_maps(method)
        if method == "integrated_gradients":
            maps = maps / 0.9  # the weights of captum's trapezoid rule of ten points sum to 0.9
        off = np.abs(maps - case.attribution).max() / np.abs(maps).max()
        # Ties are broken in other ways; a little noise, the same on both sides, leaves none.
        case.attribution = case.attribution + 1e-9 * np.random.default_rng(0).normal(size=case.attribution.shape)
        case.saliency = case.attribution[:, 0]
        for step, fractions in SETTINGS.values():
            found = sides.ours(case, step, fractions)
            clean = case.clean[:, None]
            want = np.abs(clean - sides.theirs(case.attribution, step, fractions)) / clean
            apart = float(np.abs(found - want).max())
            print(f"{method}: maps {off:.1e} apart, {fractions} fractions {apart:.1e} apart")
            if apart > 1e-5:
                raise SystemExit("the two do not compute the same")


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def turns(rounds: int, here: Callable[[str], object], there: Callable[[str], object]) -> list[tuple[float, float]]:
    """Seconds for all methods on both sides, round by round."""

    def all_of(run: Callable[[str], object]) -> float:
        return seconds(lambda: [run(method) for method in METHODS])

    return [(all_of(here), all_of(there)) for _ in range(rounds)]


def measure(sides: Sides, rounds: int) -> None:
    cases = {m: sides.explained(m) for m in METHODS}
    maps = {m: sides.their_maps(m) for m in METHODS}
    print("\n| | here | Quantus | ratio (quartiles) |\n|---|---|---|---|")
    for name, setting in SETTINGS.items():
        ours, theirs = partial(one_curve, sides.ours, cases, setting), partial(one_curve, sides.theirs, maps, setting)
        line(f"measuring, {name}, {setting[1]} fractions", turns(rounds, ours, theirs))
    few = SETTINGS["1 to 10 %"]
    whole = turns(
        rounds,
        lambda m: sides.ours(sides.explained(m), *few),
        lambda m: sides.theirs(sides.their_maps(m), *few),
    )
    line("explaining and measuring, 1 to 10 %", whole)
    line("explaining alone, sessions opened anew", turns(rounds, sides.explained, sides.their_maps))


def one_curve(run: Callable[..., Array], given: dict[str, Any], setting: tuple[int, int], method: str) -> Array:
    return run(given[method], *setting)


def line(name: str, both: list[tuple[float, float]]) -> None:
    here, there = np.array(both).T
    low, middle, high = np.percentile(there / here, [25, 50, 75])
    print(f"| {name} | {np.median(here):.2f} s | {np.median(there):.2f} s | **{middle:.1f}** ({low:.1f}-{high:.1f}) |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help=".npz with uint8 pictures in 'x'")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sides = Sides(given.model, given.data)
        check(sides)
        measure(sides, given.rounds)


if __name__ == "__main__":
    main()
