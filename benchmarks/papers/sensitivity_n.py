"""Recipe (b), the modified-gradient framework (1711.06104): Sensitivity-n by method and activation function.

Run as ``python benchmarks/papers/sensitivity_n.py ASSETS``. A small convolutional net on Fashion-MNIST is trained
four times, by this package's own trainer, with ReLU, tanh, sigmoid and softplus. The paper finds Integrated
Gradients and DeepLIFT nearly identical, Occlusion best for small n and falling behind for large n, and
Gradient x Input the same as epsilon-LRP on ReLU nets.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import onnx
from common import Request, fashion_mnist, figure, finish, request

import onnxplain as ox

METHODS: dict[str, dict[str, Any]] = {
    "input_x_gradient": {},
    "lrp": {"mode": "modified_gradient", "epsilon": 1e-4},
    "integrated_gradients": {"steps": 50, "tolerance": None},
    "deeplift": {},
    "occlusion": {"window": 1, "stride": 1},
}
ACTIVATIONS = ("Relu", "Tanh", "Sigmoid", "Softplus")
SIZES = (1, 4, 16, 64, 256, 627)
#: Sigmoids have a slope of 1/4 at most: with first weights made for ReLU, nothing would come back through five of them.
GAIN = {"Sigmoid": 3.0}


def trained(asked: Request, activation: str) -> tuple[ox.Model, float]:
    """LeNet with another activation function, trained from scratch on 3,000 pictures, tested on 1,000 others."""
    proto = onnx.load(asked.assets / "fmnist-lenet.onnx")
    for node in proto.graph.node:
        if node.op_type == "Relu":
            node.op_type = activation
    x, y = fashion_mnist(asked, 4_000)
    trainer = ox.Trainer(proto, lr=2e-3)
    trainer.initialise(asked.seed)  # fit alone would go on from the weights of the file
    trainer.values *= np.float32(GAIN.get(activation, 1.0))
    trainer.fit(x[1000:], y[1000:], epochs=4, batch_size=32, seed=asked.seed)
    accuracy = trainer.accuracy(x[:1000], y[:1000])
    print(f"{activation}: {accuracy:.1%}", file=sys.stderr, flush=True)
    return ox.load(trainer.model(), threads=1), accuracy


def main() -> None:
    """Measure four nets by five methods."""
    asked = request(__doc__ or "", limit=12)
    x, _ = fashion_mnist(asked)
    panels, rows, numbers = {}, [], {}
    claims: dict[str, bool | None] = {}
    settings = {"sensitivity_n": {"sizes": SIZES, "subsets": 100}}
    for activation in ACTIVATIONS:
        net, accuracy = trained(asked, activation)
        report = ox.evaluate(net, x, methods=METHODS, metrics=settings, head="logit", seed=asked.seed, threads=1)
        curves = {r.method: np.nanmean(next(iter(r.curves.values()))[1], axis=0) for r in report.results}
        panels[f"{activation} ({accuracy:.1%})"] = {m: (np.array(SIZES), c) for m, c in curves.items()}
        numbers[activation] = {"accuracy": accuracy, "curves": curves}
        rows += [[activation, f"{accuracy:.1%}", m, *(float(v) for v in c)] for m, c in curves.items()]
        ig, lift, occlusion = (curves[m] for m in ("integrated_gradients", "deeplift", "occlusion"))
        claims[f"{activation}: Integrated Gradients and DeepLIFT within 0.1 of each other at every n"] = bool(
            np.abs(ig - lift).max() < 0.1
        )
        others = [c[0] for m, c in curves.items() if m != "occlusion"]
        claims[f"{activation}: Occlusion best at n = 1"] = bool(occlusion[0] >= max(others))
        if activation == "Relu":
            claims["Relu: Gradient x Input equals epsilon-LRP"] = bool(
                np.nanmax(np.abs(curves["input_x_gradient"] - curves["lrp"])) < 0.02
            )
        claims[f"{activation}: Occlusion below Integrated Gradients at n = {SIZES[-2]}"] = bool(occlusion[-2] < ig[-2])
    finish(asked, "sensitivity_n", ["net", "accuracy", "method", *(f"n = {n}" for n in SIZES)], rows, claims, numbers)
    figure(asked, "sensitivity_n", panels, "n", "correlation over subsets", ("log", "linear"))


if __name__ == "__main__":
    main()
