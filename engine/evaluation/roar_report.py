"""What remove and retrain found: an accuracy per method, share and training, with tables, files and a figure."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxplain.engine.errors import OutputError
from onnxplain.engine.evaluation.degrade import Mode
from onnxplain.engine.explanation import Array, jsonable
from onnxplain.engine.render.png import write_bytes

#: Columns of the table of trainings.
COLUMNS = ("method", "mode", "fraction", "seed", "accuracy", "without_retraining")
#: Forms of a figure.
PICTURES = (".png", ".svg", ".pdf")
#: All that a report can be saved as.
FORMS = (".csv", ".json", *PICTURES)


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        method: What ranked the places.
        mode: ``roar`` (the most salient are removed), ``kar`` (they alone are kept), ``mask`` (which ones they are).
        fraction: Their share.
        seed: Of the training.
        accuracy: Of the retrained net on the degraded test set.
        without_retraining: Of the original net on it.
    """

    method: str
    mode: Mode
    fraction: float
    seed: int
    accuracy: float
    without_retraining: float


@dataclass
class RoarReport:
    """All trainings.

    Attributes:
        runs: One per method, mode, share and seed.
        clean: Accuracy of nets retrained on the whole data, one per seed.
        original: Accuracy of the original net on the whole test set.
        provenance: Model, data, recipe, versions, time.
    """

    runs: list[Run]
    clean: list[float]
    original: float
    provenance: dict[str, Any]

    @property
    def modes(self) -> list[Mode]:
        """Those that were measured."""
        return list(dict.fromkeys(r.mode for r in self.runs))

    @property
    def methods(self) -> list[str]:
        """Those that were measured, in their order."""
        return list(dict.fromkeys(r.method for r in self.runs))

    def curve(self, method: str, mode: Mode = "roar") -> tuple[Array, Array, Array]:
        """Shares, and mean and standard deviation of the accuracy over the trainings, for each of them."""
        found: dict[float, list[float]] = {}
        for run in self.runs:
            if (run.method, run.mode) == (method, mode):
                found.setdefault(run.fraction, []).append(run.accuracy)
        shares = sorted(found)
        return (
            np.array(shares),
            np.array([np.mean(found[t]) for t in shares]),
            np.array([_deviation(found[t]) for t in shares]),
        )

    def rows(self) -> list[dict[str, Any]]:
        """The table: one line per method, mode and share."""
        result = []
        for mode in self.modes:
            for method in self.methods:
                runs = [r for r in self.runs if (r.method, r.mode) == (method, mode)]
                for t, mean, deviation in zip(*self.curve(method, mode), strict=True):
                    same = [r for r in runs if r.fraction == t]
                    result.append(
                        {
                            "method": method,
                            "mode": mode,
                            "fraction": float(t),
                            "mean": float(mean),
                            "std": float(deviation),
                            "trainings": len(same),
                            "without_retraining": same[0].without_retraining,
                        }
                    )
        return result

    def ranking(self, mode: Mode = "roar") -> list[tuple[str, float]]:
        """Methods from the best to the worst, by the mean accuracy over all shares: high for KAR, low else."""
        means = [(m, float(self.curve(m, mode)[1].mean())) for m in self.methods]
        return sorted(means, key=lambda pair: -pair[1] if mode == "kar" else pair[1])

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data."""
        plain: dict[str, Any] = jsonable(
            {
                "provenance": self.provenance,
                "original": self.original,
                "clean": {"accuracy": self.clean, "mean": float(np.mean(self.clean)), "std": _deviation(self.clean)},
                "ranking": {mode: [list(pair) for pair in self.ranking(mode)] for mode in self.modes},
                "table": self.rows(),
                "runs": [vars(r) for r in self.runs],
            }
        )
        return plain

    def save(self, path: str | Path) -> Path:
        """Write ``.csv`` (every training), ``.json`` (everything) or a figure (``.png``, ``.svg``, ``.pdf``).

        Raises:
            OutputError: Unknown suffix, or the file cannot be written.
        """
        path = Path(path)
        suffix = path.suffix.lower()
        if suffix == ".json":
            return write_bytes(path, (json.dumps(self.to_dict(), indent=2) + "\n").encode())
        if suffix == ".csv":
            text = io.StringIO()
            writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows([vars(r) for r in self.runs])
            return write_bytes(path, text.getvalue().encode())
        if suffix in PICTURES:
            return write_bytes(path, self.figure(suffix[1:]))
        raise OutputError(f"cannot write {path}: '{suffix}' is no known form; use one of {', '.join(FORMS)}")

    def figure(self, form: str = "png") -> bytes:
        """Accuracy over the share, a line per method with error bars of one standard deviation, a panel per mode."""
        import matplotlib as mpl
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        with mpl.rc_context():
            mpl.rcdefaults()
            page = Figure(figsize=(5.2 * len(self.modes), 3.9), dpi=150, layout="constrained")
            FigureCanvasAgg(page)
            for i, mode in enumerate(self.modes):
                self._panel(page.add_subplot(1, len(self.modes), i + 1), mode)
            buffer = io.BytesIO()
            page.savefig(buffer, format=form, metadata=_UNDATED.get(form, {}))
        return buffer.getvalue()

    def _panel(self, axes: Any, mode: Mode) -> None:
        lines = ["-", "--", "-.", ":"]
        for i, method in enumerate(self.methods):
            shares, means, deviations = self.curve(method, mode)
            known = method in ("random", "edges")
            axes.errorbar(
                100 * shares, 100 * means, 100 * deviations, label=method, capsize=3, marker="o", markersize=4,
                color="0.55" if method == "random" else "0.25" if method == "edges" else f"C{i % 10}",
                linestyle=":" if known else lines[(i // 10) % 4],
            )  # fmt: skip
        axes.axhline(100 * float(np.mean(self.clean)), color="0.8", linewidth=1, zorder=0)
        axes.set_xlabel(f"most salient places {_DONE[mode]} (%)")
        axes.set_ylabel("accuracy after retraining (%)")
        axes.set_title(TITLES[mode], fontsize=10)
        axes.legend(fontsize=8)


#: What a panel or table is about.
TITLES: dict[Mode, str] = {
    "roar": "ROAR: lower is better",
    "kar": "KAR: higher is better",
    "mask": "mask alone: what the holes tell",
}
_DONE: dict[Mode, str] = {"roar": "removed", "kar": "kept", "mask": "marked"}

#: What keeps a figure's bytes the same from one day to the next.
_UNDATED: dict[str, dict[str, Any]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}


def _deviation(values: Sequence[float]) -> float:
    """Standard deviation over trainings; 0 for one of them."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
