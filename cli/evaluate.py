"""``onnxplain evaluate``: which explanation can be trusted, on this model and these data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onnxplain.cli import options as o
from onnxplain.cli.application import ANSWER_NO, app
from onnxplain.cli.console import console, progress, show_json, table
from onnxplain.cli.literals import options_of, target_of, value_of

if TYPE_CHECKING:
    from onnxplain.engine.evaluation.report import EvaluationReport
    from onnxplain.engine.evaluation.sanity_report import SanityReport

Configured = dict[str, dict[str, Any]]

_SANITY = "Sanity checks"


@dataclass
class Outcome:
    """What was found; either part may not have been asked for."""

    metrics: EvaluationReport | None
    sanity: SanityReport | None

    def to_dict(self) -> dict[str, Any]:
        """Both as plain data."""
        parts = {"metrics": self.metrics, "sanity": self.sanity}
        return {name: part.to_dict() for name, part in parts.items() if part is not None}


@app.command()
def evaluate(
    model: o.ModelFile,
    data: o.Samples,
    method: o.Method = None,
    option: o.MethodOption = None,
    metric: o.Metric = None,
    metric_option: Annotated[
        list[str] | None,
        typer.Option("--metric-option", metavar="KEY=VALUE", help="Option of a metric, as METRIC.KEY=VALUE."),
    ] = None,
    limit: o.Limit = o.LIMIT,
    sanity: Annotated[
        bool,
        typer.Option(
            "--sanity", rich_help_panel=_SANITY, help="Does the map depend on weights and class? Exit code 1: no."
        ),
    ] = False,
    distribution: Annotated[
        str, typer.Option(metavar="NAME", rich_help_panel=_SANITY, help="normal, normal_0.1, kaiming or permutation.")
    ] = "normal",
    draws: Annotated[int, typer.Option(metavar="N", min=1, rich_help_panel=_SANITY, help="Draws of the weights.")] = 3,
    blocks: Annotated[
        int, typer.Option(metavar="N", min=1, rich_help_panel=_SANITY, help="Steps from the output to the input.")
    ] = 6,
    target: o.TargetText = None,
    output: o.Output = None,
    head: o.Head = None,
    scored: Annotated[
        str, typer.Option("--scored", metavar="KIND", help="What metrics score: probability, logit, ...")
    ] = "probability",
    classes: o.Classes = None,
    key: o.Key = None,
    preprocess: o.Preprocess = None,
    size: o.Size = None,
    mean: o.Mean = None,
    std: o.Std = None,
    scale: o.Scale = None,
    layout: o.Layout = None,
    channel_order: o.ChannelOrder = None,
    provider: o.Provider = None,
    custom_ops: o.CustomOps = None,
    threads: o.Threads = 0,
    seed: o.Seed = 0,
    out: Annotated[
        list[Path] | None,
        typer.Option(
            "--out",
            "-o",
            metavar="PATH",
            rich_help_panel=o.RESULT,
            help="Write .csv, .parquet, .json, or a folder from which an interrupted run goes on. May be repeated.",
        ),
    ] = None,
    labels: o.Labels = None,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
) -> None:
    """Measure how far methods' explanations can be trusted: metrics with intervals, and sanity checks.

    onnxplain evaluate net.onnx photos/ -m fullgrad -m gradcam --sanity -o out/
    """  # fmt: skip
    from onnxplain.cli.datasets import Source

    methods = configured_methods(method, option or [], sanity=sanity)
    metrics = _metrics(metric, metric_option or []) if metric or metric_option or not sanity else None
    folder, files = places(out or [])
    knobs = {"size": size, "mean": mean, "std": std, "scale": scale, "layout": layout, "channel_order": channel_order}
    source = Source.of(model, preprocess, knobs, labels, key, provider, threads, custom_ops)
    samples = source.samples(data, output, classes=classes, limit=limit)
    how: dict[str, Any] = {
        "methods": methods, "target": _classes(target, source.labels), "output": output, "layout": source.layout,
        "seed": seed, "folder": folder,
    }  # fmt: skip
    found = Outcome(None, None)
    with progress(1) as steps:
        if metrics is not None:
            from onnxplain.engine.evaluation.evaluate import evaluate as measure

            found.metrics = measure(
                source.model, samples, metrics=metrics, head=scored, explained_head=head, progress=steps.at, **how
            )
        if sanity:
            from onnxplain.engine.evaluation.sanity import sanity as check

            how |= {"distribution": distribution, "draws": draws, "blocks": blocks}
            found.sanity = check(source.model, samples, head=head, progress=steps.at, **how)
    written = write(found, folder, files)
    if as_json:
        show_json({"model": str(model), **found.to_dict(), "written": [str(path) for path in written]})
    elif not quiet:
        show_outcome(found)
        for path in written:
            typer.echo(f"wrote {path}")
    if found.sanity is not None and not found.sanity.ok:
        raise typer.Exit(ANSWER_NO)


def configured_methods(wanted: list[str] | None, options: list[str], *, sanity: bool) -> Configured:
    """Methods with their options, in the order in which they were named; the usual ones where none was.

    Raises:
        OptionError: Unknown method or option.
    """
    from onnxplain.engine.evaluation.reference import REFERENCES
    from onnxplain.engine.method import create

    usual = ["fullgrad", "input_x_gradient", "integrated_gradients", "random"]
    if sanity:
        usual = ["gradient", "input_x_gradient", "fullgrad", "edges"]
    names = list(dict.fromkeys(wanted or usual))
    known = [name for name in names if name not in REFERENCES]
    given = options_of(options, known)
    for name, values in given.items():
        create(name, values)
    return {name: given.get(name, {}) for name in names}


def _metrics(wanted: list[str] | None, options: list[str]) -> Configured:
    from onnxplain.engine.errors import OptionError
    from onnxplain.engine.evaluation.metric import create_metric, usual_metrics

    found: Configured = {name: {} for name in wanted or usual_metrics()}
    for text in options:
        key, equals, value = text.partition("=")
        owner, dot, name = key.strip().partition(".")
        owners = [owner] if dot else list(found)
        if not equals or any(one not in found for one in owners) or (not dot and len(found) > 1):
            raise OptionError(f"--metric-option '{text}' is not understood; write METRIC.KEY=VALUE for a named metric")
        found[owners[0]][(name if dot else owner).replace("-", "_")] = _hashable(value_of(value.strip()))
    for name, values in found.items():
        create_metric(name, values)
    return found


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _classes(text: str | None, labels: list[str] | None) -> Any:
    from onnxplain.engine.errors import TargetError

    target = target_of(text, labels)
    if target is None or target == "argmax":
        return None
    if isinstance(target, int) or (isinstance(target, list) and len(target) == 1):
        return target if isinstance(target, int) else target[0]
    raise TargetError(f"target '{text}' is not one class; evaluation explains one class, or each sample's own answer")


def places(paths: list[Path]) -> tuple[Path | None, list[Path]]:
    """The folder for results that a run goes on from, and the files to write.

    Raises:
        OutputError: A suffix that is no form, a place that cannot be written, or two folders.
    """
    from importlib.util import find_spec

    from onnxplain.cli.outputs import check_file, check_folder
    from onnxplain.engine.errors import OutputError
    from onnxplain.engine.evaluation.report import FORMS

    folders = [p for p in paths if p.is_dir() or not p.suffix]
    files = [check_file(p) for p in paths if p not in folders]
    for path in files:
        if path.suffix.lower() not in FORMS:
            raise OutputError(f"cannot write '{path}': '{path.suffix}' is no known form; use {', '.join(FORMS)}")
        if path.suffix.lower() == ".parquet" and find_spec("pyarrow") is None:
            raise OutputError(f"cannot write '{path}': the package pyarrow is missing; install it, or use .csv")
    if len(folders) > 1:
        raise OutputError("results are kept in one folder; name one")
    for folder in folders:
        check_folder(folder)
    return (folders[0] if folders else None), files


def write(found: Outcome, folder: Path | None, files: list[Path]) -> list[Path]:
    """Write what was asked for; where there are both parts, the second one's file is ``NAME.sanity.SUFFIX``."""
    from onnxplain.engine.evaluation.report import save_table

    written = []
    if folder is not None:
        files = [*files, folder / "results.csv", folder / "results.json"]
    for path in files:
        if path.suffix.lower() == ".json":
            written.append(save_table(path, [], found.to_dict()))
            continue
        both = found.metrics is not None and found.sanity is not None
        if found.metrics is not None:
            written.append(found.metrics.save(path))
        if found.sanity is not None:
            written.append(found.sanity.save(path.with_suffix(f".sanity{path.suffix}") if both else path))
    return written


# ----- tables ------------------------------------------------------------------------------------


def show_outcome(found: Outcome) -> None:
    """Print one table per metric, best first, then the sanity checks with their verdicts."""
    if found.metrics is not None:
        _show_metrics(found.metrics)
    if found.sanity is not None:
        _show_sanity(found.sanity)


def _show_metrics(report: EvaluationReport) -> None:
    screen = console()
    facts = report.provenance
    accuracy = "" if facts["accuracy"] is None else f", accuracy {facts['accuracy']:.1%}"
    screen.print(f"{Path(facts['model']).name}: {facts['samples']} samples{accuracy}, {facts['scored']} scored")
    for name in dict.fromkeys(r.metric for r in report.results):
        rows = [r.row() for r in report.results if r.metric == name]
        better = rows[0]["better"]
        if better != "none":
            rows.sort(key=lambda r: (r["mean"] != r["mean"], r["mean"] if better == "lower" else -r["mean"]))
        made = table("method", "mean", "95 %", "samples", numbers=("mean", "95 %", "samples"), shrink="method")
        for r in rows:
            interval = f"{_number(r['low'])} .. {_number(r['high'])}"
            made.add_row(r["method"], _number(r["mean"]), interval, str(r["samples"]))
        screen.print()
        screen.print(name + ("" if better == "none" else f" ({better} is better)"), style="bold")
        screen.print(made)


def _number(value: float) -> str:
    return "-" if value != value else f"{value:.4g}"


_BY = {"spearman": "rank", "spearman_absolute": "|rank|"}
_COLORS = {"pass": "green", "fail": "bold red", "undecided": "yellow"}


def _show_sanity(report: SanityReport) -> None:
    from rich.text import Text

    screen = console()
    numbers = ("first", "last", "null", "kept")
    made = table("method", "by", *numbers, "verdict", numbers=numbers, shrink="method")
    verdicts = report.verdicts
    for method in report.methods:
        made.add_row(Text(method, "bold"), *[""] * 5, Text(verdicts[method], f"bold {_COLORS[verdicts[method]]}"))
        for r in (r for r in report.results if r.method == method):
            e = r.evidence(r.decisive)
            steps = list(e.steps.values())
            kept = "-" if e.kept != e.kept else f"{e.kept:.0%} ({100 * e.low:.0f} .. {100 * e.high:.0f})"
            cells = [f"{v:.2f}" for v in (steps[0], steps[-1], e.null_image)]
            verdict = Text(e.verdict, _COLORS[e.verdict])
            made.add_row(f"  {r.check}", _BY.get(r.decisive, r.decisive), *cells, kept, verdict)
    screen.print()
    screen.print("sanity checks: how alike maps stay under fresh weights, or for other classes", style="bold")
    screen.print(made)
    screen.print()
    for line in (*report.remarks, *dict.fromkeys(n for r in report.results for n in r.notes)):
        screen.print(f"note: {line}", style="yellow")
