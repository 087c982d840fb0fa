"""The report of an evaluation as one HTML file: pictures, maps, curves, metrics, verdicts, model card, provenance."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from onnxplain.engine.evaluation.agreement import Agreement
from onnxplain.engine.evaluation.metric import METRICS
from onnxplain.engine.evaluation.report import EvaluationReport, Result, plain
from onnxplain.engine.evaluation.sanity_report import SanityReport
from onnxplain.engine.explanation import Array
from onnxplain.engine.loading import Model
from onnxplain.engine.render import html
from onnxplain.engine.render.overlay import overlay
from onnxplain.engine.render.png import write_bytes

#: Longest side of a picture on the page, in pixels.
SIDE = 224


@dataclass
class Shown:
    """One sample with its maps.

    Attributes:
        name: What it is called.
        answer: The class that is explained, in words.
        picture: uint8 RGB, if there is one.
        maps: Per method: the map, and whether its sign means something.
    """

    name: str
    answer: str
    picture: Array | None
    maps: dict[str, tuple[Array, bool]] = field(default_factory=dict)


def write_page(
    path: str | Path,
    model: Model,
    metrics: EvaluationReport | None,
    sanity: SanityReport | None = None,
    shown: Sequence[Shown] = (),
    title: str = "",
    agreement: Agreement | None = None,
) -> Path:
    """Write the report; it needs no network to be read.

    Args:
        path: Where to.
        model: What was explained.
        metrics: What was measured, if anything was.
        sanity: What the sanity checks found, if there were any.
        shown: Samples to show.
        title: Heading; made from the model's name by default.
        agreement: How alike the methods' maps are, if they were compared.

    Raises:
        OutputError: The file cannot be written.
    """
    sections: dict[str, str] = {}
    if sanity is not None:
        sections["Verdicts"] = _verdicts(sanity)
    if metrics is not None:
        sections["Metrics"] = _metrics(metrics)
        drawn = _curves(metrics)
        if drawn:
            sections["Curves"] = drawn
    if agreement is not None and len(agreement.methods) > 1:
        sections["Agreement"] = _agreement(agreement)
    if shown:
        sections["Maps"] = _maps(shown)
    sections["Model"] = _model(model)
    sections["Provenance"] = _provenance(metrics, sanity)
    lead = f'<p class="soft">{html.text(_lead(metrics, sanity))}</p>'
    content = html.page(title or f"Explanations of {Path(model.source.name).name}", sections, lead)
    return write_bytes(Path(path), content.encode())


def _lead(metrics: EvaluationReport | None, sanity: SanityReport | None) -> str:
    facts = (metrics or sanity).provenance if metrics is not None or sanity is not None else {}  # type: ignore[union-attr]
    parts = [f"{facts.get('samples', 0)} samples"]
    if facts.get("accuracy") is not None:
        parts.append(f"accuracy {facts['accuracy']:.1%}")
    parts += [f"{facts[k]} {word}" for k, word in (("explained", "explained"), ("scored", "scored")) if facts.get(k)]
    return ", ".join(parts) + f", seed {facts.get('seed', 0)}"


# ----- verdicts ---------------------------------------------------------------------------------------


def _verdicts(report: SanityReport) -> str:
    rows = {}
    for method, verdict in report.verdicts.items():
        found = [r for r in report.results if r.method == method]
        reasons = [f"{r.check}: {r.evidence(r.decisive).reason}" for r in found]
        rows[f"{html.badge(verdict)} {html.text(method)}"] = reasons
    words = (
        "<p>Does a map depend on what the network has learnt, and on the class that it is asked about? A map that stays "
        "as it was when the weights are drawn anew, or when another class is explained, shows the picture and not the "
        "decision.</p>"
    )
    details = [
        [
            *(row[k] for k in ("method", "check", "similarity")),
            *(_number(row[k]) for k in ("first", "last", "null_image", "null_network")),
            f"{_number(row['kept'])} ({_number(row['low'])} to {_number(row['high'])})",
            html.badge(row["verdict"]) if row["decides"] else row["verdict"],
        ]
        for row in report.rows()
    ]
    columns = [
        "method",
        "check",
        "similarity",
        "first step",
        "last step",
        "other picture",
        "other net",
        "kept",
        "verdict",
    ]
    remarks = "".join(f"<p>{html.text(remark)}</p>" for remark in report.remarks)
    evidence_table = html.table(columns, details, columns[3:8])
    return f"{words}{html.entries(rows)}{remarks}<details><summary>Evidence</summary>{evidence_table}</details>"


# ----- metrics ----------------------------------------------------------------------------------------


def _metrics(report: EvaluationReport) -> str:
    methods = list(dict.fromkeys(r.method for r in report.results))
    names = list(dict.fromkeys(r.metric for r in report.results))
    rows = []
    for name in names:
        found = {r.method: r for r in report.results if r.metric == name}
        best = _best([r for r in found.values() if r.method not in ("random", "edges")])
        better = next(iter(found.values())).better
        arrow = {"higher": "↑ higher is better", "lower": "↓ lower is better", "none": ""}[better]
        label = html.Markup(f'{html.text(name)}<br><span class="soft small">{html.text(arrow)}</span>')
        rows.append([label, *(_cell(found.get(m), m == best) for m in methods)])
    explained = [[n, METRICS.get(n).summary, METRICS.get(n).source] for n in names]
    return (
        "<p>Means over the samples with bootstrapped 95 % intervals.</p>"
        f"{html.table(['metric', *methods], rows, methods)}"
        f"<details><summary>What they measure</summary>{html.table(['metric', 'what', 'source'], explained)}</details>"
    )


def _best(results: Sequence[Result]) -> str:
    """The method with the best mean; none where direction or values say nothing."""
    known = [r for r in results if np.isfinite(r.mean)]
    if not known or known[0].better == "none":
        return ""
    return (max if known[0].better == "higher" else min)(known, key=lambda r: r.mean).method


def _cell(result: Result | None, best: bool) -> Any:
    if result is None or not np.isfinite(result.mean):
        return "-"
    low, high = result.interval
    mean = html.text(_number(result.mean))
    shown = f'<span class="best">{mean}</span>' if best else mean
    return html.Markup(f'{shown}<br><span class="soft small">{_number(low)} to {_number(high)}</span>')


def _number(value: float) -> str:
    return f"{value:.3g}" if np.isfinite(value) else "-"


def _curves(report: EvaluationReport) -> str:
    drawn = []
    for metric in dict.fromkeys(r.metric for r in report.results):
        results = [r for r in report.results if r.metric == metric]
        for curve in dict.fromkeys(name for r in results for name in r.curves):
            lines = {
                r.method: (r.curves[curve][0], np.nanmean(r.curves[curve][1], axis=0))
                for r in results
                if curve in r.curves and len(r.curves[curve][0]) > 1
            }
            if lines:
                drawn.append(html.figure(html.curves(lines, "", f"{metric}: {curve}"), f"{metric}, {curve}"))
    return f'<div class="grid curves">{"".join(drawn)}</div>' if drawn else ""


# ----- agreement --------------------------------------------------------------------------------------

#: What a number of each matrix is.
_LIKENESS = {
    "spearman": "Spearman: correlation of ranks; signs count.",
    "ssim": "SSIM: structure of the maps' magnitudes.",
    "top_k": "Overlap: share of the {top:.0%} most salient places in common.",
}


def _agreement(found: Agreement) -> str:
    count = max((len(v) for pairs in found.values.values() for v in pairs.values()), default=0)
    words = (
        f"<p>How alike the methods' maps of the same samples are, on average over {count}; 1 is equal. Agreement does not "
        "tell who is right, as methods may share a mistake. It tells how many opinions there are.</p>"
    )
    defined = [m for m, pairs in found.values.items() if any(np.isfinite(v).any() for v in pairs.values())]
    drawn = [html.matrix(found.methods, found.matrix(m), _LIKENESS.get(m, m).format(top=found.top)) for m in defined]
    return f'{words}<div class="matrices">{"".join(drawn)}</div>'


# ----- maps -------------------------------------------------------------------------------------------


def _maps(shown: Sequence[Shown]) -> str:
    parts = []
    for sample in shown:
        figures = []
        if sample.picture is not None:
            figures.append(html.figure(html.image(_sized(sample.picture), sample.name), "input"))
        for method, (values, signed) in sample.maps.items():
            ground = sample.picture if sample.picture is not None else _blank(values)
            flat = values if values.ndim == 2 else values.reshape(1, -1)
            drawn = overlay(ground, flat, signed=signed, size=SIDE)
            figures.append(html.figure(html.image(drawn, f"{method} on {sample.name}"), method))
        parts.append(f"<h3>{html.text(sample.name)}: {html.text(sample.answer)}</h3>")
        parts.append(f'<div class="grid">{"".join(figures)}</div>')
    return "".join(parts)


def _blank(values: Array) -> Array:
    """White ground for a map that belongs to no picture; a series becomes a band."""
    height, width = values.shape if values.ndim == 2 else (max(8, values.size // 6), values.size)
    return np.full((height, width, 3), 255, np.uint8)


def _sized(picture: Array) -> Array:
    """A small picture enlarged by whole pixels, so that it stands beside its maps in their size."""
    factor = max(1, SIDE // max(picture.shape[:2]))
    return np.ascontiguousarray(picture.repeat(factor, axis=0).repeat(factor, axis=1))


# ----- the model and the run --------------------------------------------------------------------------


def _model(model: Model) -> str:
    weights = sum(
        v.const_value.nbytes for v in model.canonical.graph.initializers.values() if v.const_value is not None
    )
    facts: list[list[Any]] = [
        ["file", model.source.name],
        ["SHA-256", model.source.sha256],
        ["opset", model.source.opset],
        ["nodes", len(model.layers)],
        ["weights", f"{weights / 1e6:.1f} MB"],
        *(["input", f"{t.name}: {t.dtype}{list(t.shape or ())}"] for t in model.inputs),
        *(["output", f"{t.name}: {t.dtype}{list(t.shape or ())}"] for t in model.outputs),
        *([k, v] for k, v in sorted(model.metadata.items()) if len(v) < 200),
    ]
    return html.table(["", ""], facts)


def _provenance(metrics: EvaluationReport | None, sanity: SanityReport | None) -> str:
    parts: Mapping[str, Any] = {
        "metrics": None if metrics is None else metrics.provenance,
        "sanity": None if sanity is None else sanity.provenance,
    }
    settings = None
    if metrics is not None:
        settings = [
            {k: getattr(r, k) for k in ("method", "options", "metric", "metric_options", "facts")}
            for r in metrics.results
        ]
    document = plain({**{k: v for k, v in parts.items() if v is not None}, "settings": settings})
    text = html.text(json.dumps(document, indent=1))
    return f"<details><summary>Everything that decides these numbers</summary><pre>{text}</pre></details>"
