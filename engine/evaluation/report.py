"""What an evaluation found: a value per method, metric and sample, with intervals, curves and files."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from onnxplain.engine.draws import generator
from onnxplain.engine.errors import OutputError
from onnxplain.engine.evaluation.case import Measured
from onnxplain.engine.evaluation.data import Dataset
from onnxplain.engine.evaluation.metric import Metric
from onnxplain.engine.explanation import Array, jsonable
from onnxplain.engine.loading import Model
from onnxplain.engine.render.png import write_bytes
from onnxplain.engine.session.runtime import versions

#: Resamples of the bootstrap, and what its intervals cover.
RESAMPLES, COVERED = 1000, 0.95
#: Suffixes of files that a report can be written as.
FORMS = (".csv", ".parquet", ".json")


@dataclass(frozen=True)
class Result:
    """One method by one metric.

    Attributes:
        method, options: What explained.
        metric, metric_options: What measured.
        better: Which direction is good.
        values: ``[N]``; NaN where the metric is not defined for a sample.
        curves: Named curves: horizontal axis ``[P]`` and values ``[N, P]``.
        facts: What else the metric records.
    """

    method: str
    options: dict[str, Any]
    metric: str
    metric_options: dict[str, Any]
    better: str
    values: Array
    curves: dict[str, tuple[Array, Array]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        """Over the samples for which the metric is defined."""
        known = self.values[np.isfinite(self.values)]
        return float(known.mean()) if len(known) else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """Bootstrap interval of the mean (percentiles, 1,000 resamples, 95 %)."""
        known = self.values[np.isfinite(self.values)]
        if len(known) < 2:
            return (self.mean, self.mean)
        rows = generator(0).integers(len(known), size=(RESAMPLES, len(known)))
        low, high = np.quantile(known[rows].mean(axis=1), [(1 - COVERED) / 2, (1 + COVERED) / 2])
        return float(low), float(high)

    def row(self) -> dict[str, Any]:
        """One line of the table."""
        low, high = self.interval
        return {
            "method": self.method,
            "metric": self.metric,
            "mean": self.mean,
            "low": low,
            "high": high,
            "samples": int(np.isfinite(self.values).sum()),
            "better": self.better,
        }


@dataclass
class EvaluationReport:
    """All results of one evaluation.

    Attributes:
        results: One per method and metric.
        names: Of the samples.
        provenance: Model, versions, heads, seed.
        pictures: Of the samples, where there are any.
    """

    results: list[Result]
    names: list[str]
    provenance: dict[str, Any]
    pictures: list[Array | None] = field(default_factory=list)

    @staticmethod
    def of(
        model: Model,
        results: list[Result],
        samples: Dataset,
        classes: Array,
        head: str,
        explained: str | None,
        seed: int,
    ) -> EvaluationReport:
        """From the results of a run."""
        provenance = {
            "model": model.source.name,
            "model_sha256": model.source.sha256,
            "versions": versions(),
            "scored": head,
            "explained": explained or "logit",
            "samples": len(samples),
            "classes": [int(c) for c in classes],
            "accuracy": None if samples.labels is None else float(np.mean(classes == samples.labels)),
            "seed": seed,
        }
        return EvaluationReport(results, samples.names, provenance, samples.pictures)

    def result(self, method: str, metric: str) -> Result:
        """One method by one metric; the first of that name."""
        return next(r for r in self.results if r.method == method and r.metric == metric)

    def rows(self) -> list[dict[str, Any]]:
        """The table as data: means and intervals."""
        return [r.row() for r in self.results]

    def values(self) -> list[dict[str, Any]]:
        """Every value: one line per method, metric and sample."""
        return [
            {"method": r.method, "metric": r.metric, "sample": name, "value": float(value)}
            for r in self.results
            for name, value in zip(self.names, r.values, strict=True)
        ]

    def to_dict(self) -> dict[str, Any]:
        """Everything but the pictures, as plain data; NaN becomes None."""
        results = [
            {
                **r.row(),
                "options": r.options,
                "metric_options": r.metric_options,
                "values": r.values,
                "curves": {k: {"at": a, "mean": np.nanmean(v, axis=0)} for k, (a, v) in r.curves.items()},
                "facts": r.facts,
            }
            for r in self.results
        ]
        document: dict[str, Any] = plain({"provenance": self.provenance, "names": self.names, "results": results})
        return document

    def save(self, path: str | Path) -> Path:
        """Write ``.csv`` (every value), ``.parquet`` (the same; needs pyarrow) or ``.json`` (everything).

        Raises:
            OutputError: Unknown suffix, or the file cannot be written.
        """
        return save_table(path, self.values(), self.to_dict())


def save_table(path: str | Path, rows: list[dict[str, Any]], document: dict[str, Any]) -> Path:
    """Write ``.csv`` or ``.parquet`` (rows of the same keys; the latter needs pyarrow) or ``.json`` (the document).

    Raises:
        OutputError: Unknown suffix, or the file cannot be written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == ".json":
        return write_bytes(path, (json.dumps(document, indent=2, allow_nan=False) + "\n").encode())
    if suffix == ".csv":
        return _write_csv(path, rows)
    if suffix == ".parquet":
        return _write_parquet(path, rows)
    raise OutputError(f"cannot write {path}: '{suffix}' is no known form; use {', '.join(FORMS)}")


def plain(value: Any) -> Any:
    """As :func:`~onnxplain.engine.explanation.jsonable`, with None for NaN and infinity."""
    return _without_nan(jsonable(value))


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_nan(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_without_nan(v) for v in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    import io

    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return write_bytes(path, text.getvalue().encode())


def _write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    import io

    try:
        import pyarrow as pa
        import pyarrow.parquet as parquet
    except ImportError:
        raise OutputError("the .parquet form needs the package pyarrow: pip install pyarrow, or use .csv") from None
    buffer = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(rows), buffer)
    return write_bytes(path, buffer.getvalue())


class Store:
    """Results on disk, so that an interrupted run goes on where it was.

    A result is found again only for the same model, samples, classes, heads, seed, method, metric and options.
    """

    def __init__(
        self, folder: str | Path | None, sha256: str, samples: Dataset, classes: Array, *settings: Any
    ) -> None:
        self.folder = Path(folder) if folder is not None else None
        digest = hashlib.sha256(sha256.encode())
        for array in (samples.x, classes, samples.masks):
            digest.update(b"-" if array is None else np.ascontiguousarray(array).tobytes())
        digest.update(repr((settings, versions())).encode())
        self._run = digest.hexdigest()
        if self.folder is not None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise OutputError(f"cannot make '{self.folder}': {error.strerror}; choose another place") from None

    def _path(self, method: str, options: Mapping[str, Any], metric: Metric) -> Path:
        assert self.folder is not None
        key = json.dumps(
            [self._run, method, jsonable(options), metric.name, jsonable(metric.options())], sort_keys=True
        )
        return self.folder / f"{method}.{metric.name}.{hashlib.sha256(key.encode()).hexdigest()[:16]}.npz"

    def get(self, method: str, options: Mapping[str, Any], metric: Metric) -> Result | None:
        """A result of an earlier run."""
        if self.folder is None or not (path := self._path(method, options, metric)).exists():
            return None
        try:
            with np.load(path, allow_pickle=False) as file:
                meta = json.loads(str(file["meta"]))
                curves = {k: (file[f"at/{k}"], file[f"curve/{k}"]) for k in meta["curves"]}
                return self._result(method, options, metric, Measured(file["values"], curves, meta["facts"]))
        except (OSError, ValueError, KeyError):
            return None  # half of a file from a machine that stopped: measured again

    def put(self, method: str, options: Mapping[str, Any], metric: Metric, measured: Measured) -> Result:
        """Keep a result."""
        if self.folder is not None:
            import io

            buffer = io.BytesIO()
            meta = json.dumps({"curves": list(measured.curves), "facts": jsonable(measured.facts)})
            arrays = {f"at/{k}": a for k, (a, _) in measured.curves.items()}
            arrays |= {f"curve/{k}": v for k, (_, v) in measured.curves.items()}
            everything: dict[str, Any] = {"values": measured.values, "meta": np.array(meta), **arrays}
            np.savez_compressed(buffer, **everything)
            write_bytes(self._path(method, options, metric), buffer.getvalue())
        return self._result(method, options, metric, measured)

    @staticmethod
    def _result(method: str, options: Mapping[str, Any], metric: Metric, measured: Measured) -> Result:
        values = np.asarray(measured.values, dtype=np.float64)
        return Result(
            method, dict(options), metric.name, metric.options(), metric.better, values, measured.curves, measured.facts
        )


__all__ = ["FORMS", "EvaluationReport", "Result", "Store", "plain", "save_table"]
