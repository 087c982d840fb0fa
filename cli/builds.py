"""Two builds of a model on the command line: what ``compare`` does when it is given two ``.onnx`` files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from onnxplain.cli.application import ANSWER_NO
from onnxplain.cli.console import console, progress, show_json, table
from onnxplain.engine.errors import OptionError, OutputError

if TYPE_CHECKING:
    from onnxplain.engine.evaluation.builds import BuildReport

#: Samples in the table and on the picture.
SHOWN = 6


@dataclass
class BuildRequest:
    """What was asked for."""

    first: Path
    second: Path
    data: list[Path]
    methods: dict[str, dict[str, Any]]
    thresholds: list[str]
    output: str | None
    head: str | None
    preset: str | None
    knobs: dict[str, str | None]
    provider: str | None
    threads: int
    seed: int
    limit: int
    key: str | None
    labels: Path | None
    out: Path | None
    custom_ops: list[Path] | None = None


def thresholds_of(texts: Sequence[str]) -> dict[str, float]:
    """``cosine=0.9`` and its like as numbers.

    Raises:
        OptionError: Not of that form, or no such threshold.
    """
    from onnxplain.engine.evaluation.builds import AT_LEAST, AT_MOST

    found = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            found[name.strip()] = float(value)
            if not math.isfinite(found[name.strip()]):
                raise ValueError(value)
        except ValueError:
            raise OptionError(f"--threshold '{text}' is not understood; write for example cosine=0.9") from None
        if name.strip().removeprefix("mean.") not in (*AT_LEAST, *AT_MOST):
            known = ", ".join((*AT_LEAST, *AT_MOST))
            raise OptionError(f"there is no threshold '{name}'; use {known}, or mean. in front of one of them")
    return found


def destination(path: Path | None) -> Path | None:
    """Refuse a file that could not be written later.

    Raises:
        OutputError: No known form, or not writable.
    """
    from onnxplain.cli.outputs import check_file
    from onnxplain.engine.evaluation.report import FORMS

    if path is None:
        return None
    known = (".png", *FORMS)
    if path.suffix.lower() not in known:
        raise OutputError(f"cannot write '{path}': '{path.suffix}' is no known form; use {', '.join(known)}")
    return check_file(path)


def compare_two(request: BuildRequest, *, as_json: bool, quiet: bool) -> None:
    """Compare, print what came out, write what was asked for; exit code 1 past a threshold."""
    import onnxplain
    from onnxplain.cli.datasets import Source
    from onnxplain.engine.evaluation.builds import compare_builds

    thresholds = thresholds_of(request.thresholds)
    out = destination(request.out)
    r = request
    source = Source.of(r.first, r.preset, r.knobs, r.labels, r.key, r.provider, r.threads, r.custom_ops)
    second = onnxplain.load(r.second, providers=r.provider, threads=r.threads, custom_ops=r.custom_ops)
    samples = source.samples(r.data, r.output, classes=None, limit=r.limit)
    how: dict[str, Any] = {"output": r.output, "head": r.head or "logit", "layout": source.layout, "seed": r.seed}
    if r.methods:
        how["methods"] = r.methods
    with progress(1) as steps:
        report = compare_builds(source.model, second, samples, progress=steps.at, **how)
    breaches = report.breaches(thresholds)
    if out is None and report.drawable:
        out = Path("comparison.png")
    written = [] if out is None else [report.save(out, count=SHOWN)]
    if as_json:
        verdict = {"thresholds": thresholds, "breaches": breaches, "ok": not breaches}
        show_json({**verdict, **report.to_dict(), "written": [str(path) for path in written]})
    elif not quiet:
        show_builds(report, source.labels)
        for line in breaches:
            console().print(f"no: {line}", style="bold red")
        for path in written:
            typer.echo(f"wrote {path}")
    if breaches:
        raise typer.Exit(ANSWER_NO)


def show_builds(report: BuildReport, labels: Sequence[str] | None) -> None:
    """Print the drift of answers and of maps, then the worst samples."""
    screen = console()
    facts, count = report.summary(), len(report.names)
    names = [Path(report.provenance[key]["model"]).name for key in ("first", "second")]
    screen.print(f"{names[0]} and {names[1]}, {count} samples")
    screen.print(
        f"answers: {facts['flips']} of {count} flipped; {report.provenance['head']} off by "
        f"{facts['output_mean']:.3g} in the mean, {facts['output_max']:.3g} at most"
    )
    numbers = ("cosine", "least", "rank", "overlap", "null")
    made = table("method", *numbers, numbers=numbers, shrink="method")
    for m in facts["methods"]:
        values = (m["mean_cosine"], m["least_cosine"], m["mean_spearman"], m["mean_overlap"], m["null_cosine"])
        made.add_row(m["method"], *(_number(v) for v in values))
    screen.print(made)
    screen.print("null: cosine of maps of different samples", style="dim")
    screen.print()
    worst = table("worst first", "method", "cosine", "rank", "overlap", "answer",
                  numbers=("cosine", "rank", "overlap"), shrink="worst first")  # fmt: skip
    for row in report.rows()[: SHOWN * len(report.drifts)]:
        likeness = (row["cosine"], row["spearman"], row["overlap"])
        first, second = (_named(row[key], labels) for key in ("class_a", "class_b"))
        answer = f"{first} -> {second}" if row["flip"] else first
        worst.add_row(row["sample"], row["method"], *(_number(v) for v in likeness), answer)
    screen.print(worst)


def _number(value: float) -> str:
    return "-" if value != value else f"{value:.3f}"


def _named(number: int, labels: Sequence[str] | None) -> str:
    return labels[number] if labels and number < len(labels) else str(number)
