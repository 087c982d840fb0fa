"""What the recipes share: data, the command line, tables and figures."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import onnxplain as ox

Array = np.ndarray[Any, Any]
#: Dots per inch of figures.
DPI = 80


@dataclass
class Request:
    """What the command line asked for.

    Attributes:
        assets: Folder of the development models, with ``data/fmnist_test.npz`` below it.
        pictures: Folder of labelled ImageNet pictures ``*_LABEL.jpg``; None leaves that part out.
        limit: At most so many samples.
        seed: Of random draws.
        out: Folder for the table, the figure and the numbers.
    """

    assets: Path
    pictures: Path | None
    limit: int
    seed: int
    out: Path
    begun: float


def request(description: str, limit: int) -> Request:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("assets", type=Path, help="folder of the development models")
    parser.add_argument("--pictures", type=Path, help="folder of ImageNet pictures, NAME_LABEL.jpg")
    parser.add_argument("--limit", type=int, default=limit, help="at most so many samples")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--out", type=Path, default=Path("papers"), help="folder for what comes out")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    return Request(given.assets, given.pictures, given.limit, given.seed, given.out, time.perf_counter())


def fashion_mnist(asked: Request, count: int | None = None) -> tuple[Array, Array]:
    """Test pictures ``[N, 1, 28, 28]`` in 0..1 and their classes."""
    with np.load(asked.assets / "data" / "fmnist_test.npz") as file:
        x, y = file["x"], file["y"]
    x = x.reshape(-1, 1, 28, 28).astype(np.float32)
    x = x / 255 if x.max() > 1 else x
    return x[: count or asked.limit], y[: count or asked.limit]


def imagenet(asked: Request) -> tuple[Array, Array]:
    """Pictures as EfficientNet-Lite0 takes them, ``[N, 3, 224, 224]``, and their classes."""
    from onnxplain.engine.cards import resolve
    from onnxplain.engine.pictures import read_picture

    assert asked.pictures is not None
    files = sorted(asked.pictures.glob("imagenet_*.jpg"))[: asked.limit]
    card = resolve("efficientnet-lite", {}, {})
    assert card is not None
    arrays = [card.normalise(card.view(read_picture(path))) for path in files]
    return np.concatenate(arrays), np.array([int(path.stem.rsplit("_", 1)[1]) for path in files])


def model(asked: Request, name: str) -> ox.Model:
    """A development model."""
    return ox.load(asked.assets / f"{name}.onnx", threads=1)


def decided(differences: Any) -> bool | None:
    """Whether paired differences are above 0: by the 95 % bootstrap interval of their mean; None where it holds 0."""
    low, high = interval(differences)
    return True if low > 0 else False if high < 0 else None


def interval(values: Any) -> tuple[float, float]:
    """95 % bootstrap interval of the mean over samples (1,000 resamples, fixed draw); NaN are left out."""
    known = np.asarray(values, dtype=np.float64)
    known = known[np.isfinite(known)]
    if not len(known):
        return float("nan"), float("nan")
    rows = np.random.default_rng(0).integers(len(known), size=(1000, len(known)))
    low, high = np.quantile(known[rows].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


def finish(
    asked: Request,
    name: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    claims: Mapping[str, bool | None],
    numbers: Any,
) -> None:
    """Print the table and what was found again, and keep both.

    Args:
        asked: The request.
        name: Of the recipe.
        columns, rows: The table.
        claims: What the paper found, and whether it was found again; None where this run cannot tell.
        numbers: Everything that was measured.
    """
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(_shown(cell) for cell in row) + " |" for row in rows]
    words = {True: "found again", False: "NOT found again", None: "cannot be told here"}
    lines += ["", *(f"- {claim}: **{words[held]}**" for claim, held in claims.items())]
    lines += ["", f"seed {asked.seed}, {time.perf_counter() - asked.begun:.0f} s"]
    print("\n".join(lines))
    (asked.out / f"{name}.md").write_text("\n".join(lines) + "\n")
    (asked.out / f"{name}.json").write_text(json.dumps(_plain(numbers), indent=1) + "\n")


def _shown(cell: Any) -> str:
    return f"{cell:.3g}" if isinstance(cell, float) else str(cell)


def _plain(value: Any) -> Any:
    from onnxplain.engine.explanation import jsonable

    return jsonable(value)


def figure(
    asked: Request,
    name: str,
    panels: Mapping[str, Mapping[str, tuple[Array, Array]]],
    label: str,
    upright: str,
    scales: tuple[str, str] = ("linear", "linear"),
) -> None:
    """Curves, at most three panels in a row.

    Args:
        asked: The request.
        name: Of the recipe.
        panels: Curves ``(x, y)`` by name, by title.
        label, upright: What the axes show.
        scales: Of the axes: ``linear`` or ``log``.
    """
    from matplotlib.figure import Figure

    across = min(3, len(panels)) if len(panels) != 4 else 2
    down = -(-len(panels) // across)
    drawing = Figure(figsize=(3.7 * across, 3.1 * down), layout="constrained")
    for place, (title, lines) in enumerate(panels.items()):
        axes = drawing.add_subplot(down, across, place + 1)
        for line, (x, y) in lines.items():
            axes.plot(x, y, marker="o", markersize=3, label=line)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel(label, fontsize=8)
        axes.set_ylabel(upright if place % across == 0 else "", fontsize=8)
        axes.set_xscale(scales[0])
        axes.set_yscale(scales[1])
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    keep(drawing, asked.out / f"{name}.png")


def keep(drawing: Any, path: Path) -> None:
    """Write a figure as a small PNG of 64 colours."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    drawing.set_dpi(DPI)
    canvas = FigureCanvasAgg(drawing)
    canvas.draw()
    Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").quantize(64).save(path, optimize=True)
