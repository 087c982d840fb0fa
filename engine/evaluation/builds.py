"""Two builds of a model on the same samples: did quantisation, or a new version, change the answers, or the reasons?

Both explain the class that the first build answers, so that a flipped answer is seen as such and not as another map.
Maps are compared with their sign where they have one. Builds may call their input differently, take another float
type, or have channels on another axis.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxplain.engine.errors import InputError, OptionError, OutputError
from onnxplain.engine.evaluation.data import as_dataset
from onnxplain.engine.evaluation.evaluate import Choice, Progress, explained
from onnxplain.engine.evaluation.report import plain, save_table
from onnxplain.engine.evaluation.sanity import signed_map
from onnxplain.engine.evaluation.scorer import Scorer
from onnxplain.engine.evaluation.similarity import cosine, mean_known, overlap, spearman
from onnxplain.engine.explanation import Array
from onnxplain.engine.graph.model import ModelSource
from onnxplain.engine.loading import Model, load
from onnxplain.engine.places import Labels, spatial_axes
from onnxplain.engine.session.runtime import versions

#: What a threshold may be set on: at least (maps), at most (answers).
AT_LEAST, AT_MOST = ("cosine", "spearman", "overlap"), ("output_max", "output_mean", "flips")


@dataclass(frozen=True)
class Drift:
    """One method's maps by both builds.

    Attributes:
        method, options: What explained.
        cosine, spearman, overlap: ``[N]``; NaN where a map has no contrast.
        null: Means of the three between maps of different samples by the first build: what no likeness is.
        maps: ``[2, N, places...]``, float32.
        signed: Whether they have both signs.
    """

    method: str
    options: dict[str, Any]
    cosine: Array
    spearman: Array
    overlap: Array
    null: dict[str, float]
    maps: Array
    signed: bool


@dataclass
class BuildReport:
    """How far two builds of a model differ.

    Attributes:
        names: Of the samples.
        classes: ``[2, N]``: what each build answers.
        output_max, output_mean: ``[N]``: largest and mean distance of the explained output.
        drifts: One per method.
        provenance: Both models, versions, head, seed.
        pictures: Of the samples, where there are any.
    """

    names: list[str]
    classes: Array
    output_max: Array
    output_mean: Array
    drifts: list[Drift]
    provenance: dict[str, Any]
    pictures: list[Array | None]

    @property
    def flips(self) -> Array:
        """``[N]``: whether the builds answer different classes."""
        return np.asarray(self.classes[0] != self.classes[1])

    @property
    def worst(self) -> Array:
        """Numbers of the samples, those first whose maps differ most (by cosine, over the methods)."""
        least = np.min([np.nan_to_num(d.cosine, nan=-2.0) for d in self.drifts], axis=0)
        return np.lexsort((np.arange(len(least)), least))

    def measured(self, name: str) -> dict[str, Array]:
        """Values behind a threshold's name, by method; of the output under an empty name."""
        if name in AT_LEAST:
            return {d.method: getattr(d, name) for d in self.drifts}
        return {"": np.asarray(getattr(self, name), dtype=np.float64)}

    def breaches(self, thresholds: Mapping[str, float]) -> list[str]:
        """What lies past a threshold, in words; empty when all hold.

        Args:
            thresholds: ``cosine``, ``spearman``, ``overlap``: at least so much, on every sample; ``output_max``,
                ``output_mean``: at most so much, on every sample; ``flips``: at most so many. ``mean.`` in front takes
                the mean over samples instead of the worst one (of flips, the share).

        Raises:
            OptionError: Unknown name.
        """
        found = []
        for key, bound in thresholds.items():
            kind, _, rest = key.rpartition(".")
            if rest not in (*AT_LEAST, *AT_MOST) or kind not in ("", "mean"):
                known = ", ".join((*AT_LEAST, *AT_MOST))
                raise OptionError(f"there is no threshold '{key}'; use {known}, or mean. in front of one of them")
            for method, values in self.measured(rest).items():
                value, where = self._extreme(rest, values, mean=bool(kind))
                holds = operator.ge if rest in AT_LEAST else operator.le
                if not holds(value, bound):  # so that NaN, a map without contrast, holds nowhere
                    side = "below" if rest in AT_LEAST else "above"
                    owner = f"{method}: " if method else ""
                    found.append(f"{owner}{key} is {value:.4g}{where}, {side} {bound:g}")
        return found

    def _extreme(self, name: str, values: Array, *, mean: bool) -> tuple[float, str]:
        if mean:
            return float(values.mean()), ""
        if name == "flips":
            return float(values.sum()), ""
        order = np.nan_to_num(values, nan=-np.inf if name in AT_LEAST else np.inf)
        place = int(order.argmin() if name in AT_LEAST else order.argmax())
        return float(values[place]), f" on {self.names[place]}"

    def rows(self) -> list[dict[str, Any]]:
        """One line per sample and method, the worst samples first."""
        return [
            {
                "sample": self.names[n],
                "method": d.method,
                "cosine": float(d.cosine[n]),
                "spearman": float(d.spearman[n]),
                "overlap": float(d.overlap[n]),
                "output_max": float(self.output_max[n]),
                "output_mean": float(self.output_mean[n]),
                "class_a": int(self.classes[0, n]),
                "class_b": int(self.classes[1, n]),
                "flip": bool(self.flips[n]),
            }
            for n in self.worst
            for d in self.drifts
        ]

    def summary(self) -> dict[str, Any]:
        """Means and extremes over all samples."""
        return {
            "samples": len(self.names),
            "flips": int(self.flips.sum()),
            "output_max": float(self.output_max.max()),
            "output_mean": float(self.output_mean.mean()),
            "methods": [
                {
                    "method": d.method,
                    **{f"mean_{k}": float(mean_known(getattr(d, k))) for k in AT_LEAST},
                    **{f"least_{k}": self._extreme(k, getattr(d, k), mean=False)[0] for k in AT_LEAST},
                    **{f"null_{k}": d.null[k] for k in AT_LEAST},
                }
                for d in self.drifts
            ],
        }

    def to_dict(self) -> dict[str, Any]:
        """Everything but the maps, as plain data; NaN becomes None."""
        found: dict[str, Any] = plain({"provenance": self.provenance, **self.summary(), "worst_first": self.rows()})
        return found

    def save(self, path: str | Path, *, count: int = 6) -> Path:
        """Write ``.csv``, ``.parquet`` (a line per sample and method), ``.json`` (everything) or ``.png``.

        Raises:
            OutputError: Unknown suffix, maps that cannot be drawn, or the file cannot be written.
        """
        if Path(path).suffix.lower() == ".png":
            from onnxplain.engine.render.png import write_bytes

            return write_bytes(Path(path), self.picture(count))
        return save_table(path, self.rows(), self.to_dict())

    @property
    def drawable(self) -> bool:
        """Whether the maps are those of pictures."""
        return self.drifts[0].maps.ndim == 4

    def picture(self, count: int = 6) -> bytes:
        """PNG of the worst samples: the picture, and each method's map by both builds side by side.

        Raises:
            OutputError: The maps are none of pictures.
        """
        from onnxplain.engine.render.grid import Cell, Row, grid

        if not self.drawable:
            raise OutputError("the maps are not those of pictures and cannot be drawn; write .csv, .parquet or .json")
        rows = []
        for n in self.worst[:count]:
            cells = [
                Cell(d.maps[build, n], d.signed, f"cosine {d.cosine[n]:.2f}" if build else "")
                for d in self.drifts
                for build in (0, 1)
            ]
            shape = self.drifts[0].maps.shape[2:]
            picture = self.pictures[n]
            shown = np.full((*shape, 3), 255, np.uint8) if picture is None else picture
            first, second = self.classes[:, n]
            words = f"{first}, then {second}" if first != second else f"class {first}"
            rows.append(Row(shown, cells, label=self.names[n], caption=words))
        columns = [f"{d.method}, {build}" for d in self.drifts for build in ("first", "second")]
        files = [Path(self.provenance[key]["model"]).name for key in ("first", "second")]
        return grid(rows, columns, title=f"{files[0]} and {files[1]}, worst first")


def compare_builds(
    first: ModelSource | Model,
    second: ModelSource | Model,
    data: Any,
    *,
    methods: Choice = ("input_x_gradient", "fullgrad"),
    output: str | None = None,
    head: str = "logit",
    layout: str = "auto",
    top: float = 0.1,
    limit: int | None = None,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
) -> BuildReport:
    """Compare two builds of a model: a new version, a quantised file, another export.

    Args:
        first: The build that is trusted; its answers are explained.
        second: The build to be judged.
        data: Samples, as the first build takes them: see :func:`onnxplain.engine.evaluation.data.as_dataset`.
        methods: Names, with options if wanted. Maps of coarse layers (``gradcam``) and of magnitudes (``fullgrad``)
            are steady; gradients of single pixels move more under rounding than what the model looks at does.
        output: The explained output, by the same name in both; the first float one by default.
        head: What is explained and whose distance is measured.
        layout: Axes of the inputs.
        top: Share of the places that count as most salient, for ``overlap``.
        limit: At most so many samples.
        seed: Of random draws and of ties.
        threads: Threads inside an operator.
        progress: Told of every step.

    Raises:
        InputError: Samples that do not fit one of the builds, or outputs of different sizes.
        OptionError: Unknown method or option.
    """
    builds = [load(m, threads=threads or 0) for m in (first, second)]
    scorers = [Scorer(m, output, head, layout) for m in builds]
    samples = as_dataset(data, scorers[0], limit=limit)
    x = arranged(samples.x, scorers[0].labels, scorers[1].labels)
    both = [samples, as_dataset(x, scorers[1])]
    outputs = [s.outputs(d.x).reshape(len(samples), -1) for s, d in zip(scorers, both, strict=True)]
    if outputs[0].shape != outputs[1].shape:
        sizes = " and ".join(str(o.shape[1]) for o in outputs)
        raise InputError(f"the builds' outputs have {sizes} numbers; name outputs that agree with output=")
    distance = np.abs(outputs[0] - outputs[1])
    classes = np.stack([o.argmax(axis=1) for o in outputs])
    work = list(methods.items()) if isinstance(methods, Mapping) else [(name, {}) for name in methods]
    if not work:
        raise OptionError("no method was named; name at least one")
    drifts = []
    for number, (name, options) in enumerate(work):
        maps = []
        for build, (model, scorer, own) in enumerate(zip(builds, scorers, both, strict=True)):
            if progress is not None:
                progress(2 * number + build, 2 * len(work), f"{name}: {('first', 'second')[build]} build")
            case = explained(model, scorer, own, classes[0], name, options, seed, output, head, layout)
            maps.append(signed_map(case))
        drifts.append(_drift(name, dict(options), maps, top, seed))
    if progress is not None:
        progress(2 * len(work), 2 * len(work), "done")
    provenance: dict[str, Any] = {
        key: {"model": m.source.name, "model_sha256": m.source.sha256}
        for key, m in zip(("first", "second"), builds, strict=True)
    }
    provenance |= {"head": head, "top": top, "seed": seed, "versions": versions()}
    return BuildReport(
        samples.names, classes, distance.max(axis=1), distance.mean(axis=1), drifts, provenance, samples.pictures
    )


def _drift(name: str, options: dict[str, Any], maps: list[Array], top: float, seed: int) -> Drift:
    a, b = maps
    if a.shape != b.shape:
        raise InputError(f"{name} gives maps of shape {a.shape[1:]} and {b.shape[1:]}; the builds see different places")
    signed = bool((a < 0).any() or (b < 0).any())
    own = _likeness(a, b, top, seed)
    other = _likeness(a, np.roll(a, 1, axis=0), top, seed)
    null = {k: float(mean_known(v)) if len(a) > 1 else float("nan") for k, v in other.items()}
    return Drift(name, options, **own, null=null, maps=np.stack(maps).astype(np.float32), signed=signed)


def _likeness(a: Array, b: Array, top: float, seed: int) -> dict[str, Array]:
    return {"cosine": cosine(a, b), "spearman": spearman(a, b), "overlap": overlap(a, b, top, seed)}


def arranged(x: Array, own: Labels, other: Labels) -> Array:
    """Samples with the channel axis where another build has it."""
    axes = [[i for i in range(1, len(labels)) if i not in spatial_axes(labels).values()] for labels in (own, other)]
    if len(own) != len(other) or len(axes[0]) != 1 or len(axes[1]) != 1 or axes[0] == axes[1]:
        return x
    return np.ascontiguousarray(np.moveaxis(x, axes[0][0], axes[1][0]))


__all__ = ["AT_LEAST", "AT_MOST", "BuildReport", "Drift", "arranged", "compare_builds"]
