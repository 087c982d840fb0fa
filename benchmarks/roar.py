"""Remove and retrain on digits (minutes) or Fashion-MNIST (longer, by choice), without a training framework.

Run as ``python benchmarks/roar.py digits --model digits-cnn.onnx`` or ``python benchmarks/roar.py fashion-mnist
--model net.onnx --data PLACE``. Digits come with scikit-learn. PLACE is the folder of the four ``.gz`` files of
Fashion-MNIST (Debian: package ``dataset-fashion-mnist``), or an ``.npz`` with x (0..255) and y, of which a fifth
becomes the test set. Results go to ``--out``, which an interrupted run continues; docs/remove-and-retrain.md tells
what came out.
"""

from __future__ import annotations

import argparse
import gzip
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from onnxplain.engine.evaluation.roar import Recipe, roar

Samples = dict[str, np.ndarray[Any, Any]]


def digits(rows: Path | None) -> tuple[Samples, Samples | None]:
    """scikit-learn's 1,797 digits of 8x8 pixels, divided by 16; ``rows``: the test rows, else a fifth by seed."""
    from sklearn.datasets import load_digits  # type: ignore[import-untyped]

    found = load_digits()
    x, y = (found.images / 16).astype(np.float32)[:, None], found.target
    if rows is None:
        return {"x": x, "y": y}, None
    test = np.load(rows)
    train = np.setdiff1d(np.arange(len(x)), test)
    return {"x": x[train], "y": y[train]}, {"x": x[test], "y": y[test]}


def fashion_mnist(place: Path) -> tuple[Samples, Samples | None]:
    """Pictures of 28x28 in 0..1."""
    if place.is_dir():
        return _pair(place, "train"), _pair(place, "t10k")
    with np.load(place) as file:
        return {"x": _pictures(file["x"]), "y": file["y"].astype(np.int64)}, None


def _pair(folder: Path, part: str) -> Samples:
    pixels = gzip.decompress((folder / f"{part}-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((folder / f"{part}-labels-idx1-ubyte.gz").read_bytes())
    return {
        "x": _pictures(np.frombuffer(pixels, np.uint8, offset=16)),
        "y": np.frombuffer(labels, np.uint8, offset=8).astype(np.int64),
    }


def _pictures(pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return (pixels.reshape(-1, 1, 28, 28) / 255).astype(np.float32)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data_set", choices=["digits", "fashion-mnist"])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="see above; for digits: an .npy of the test rows")
    parser.add_argument("--methods", nargs="+", default=["fullgrad", "input_x_gradient", "integrated_gradients"])
    parser.add_argument("--fractions", nargs="+", type=float, default=[0.1, 0.3, 0.5, 0.7])
    parser.add_argument("--modes", nargs="+", default=["roar"], choices=["roar", "kar", "mask"])
    parser.add_argument("--trainings", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("build/roar"))
    return parser.parse_args()


def main() -> None:
    asked = arguments()
    if asked.data_set == "fashion-mnist" and asked.data is None:
        sys.exit("fashion-mnist needs --data: the folder of its .gz files, or an .npz")
    train, test = digits(asked.data) if asked.data_set == "digits" else fashion_mnist(asked.data)
    start = time.perf_counter()

    def told(done: int, total: int, words: str) -> None:
        if words:
            print(f"{time.perf_counter() - start:7.0f} s  {done:3d}/{total}  {words}", file=sys.stderr)

    report = roar(
        asked.model, train, test, methods=asked.methods, fractions=asked.fractions, modes=asked.modes,
        seeds=asked.trainings, recipe=Recipe(epochs=asked.epochs), folder=asked.out / "parts",
        threads=asked.threads, progress=told,
    )  # fmt: skip
    for suffix in ("csv", "json", "png"):
        report.save(asked.out / f"{asked.data_set}.{suffix}")
    print(f"original {report.original:.3f}, retrained on whole samples {np.mean(report.clean):.3f}")
    for row in report.rows():
        print("{method:22} {mode} {fraction:4.0%}  {mean:.3f} ± {std:.3f}  ({without_retraining:.3f})".format(**row))
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
