"""``onnxplain report``: pictures, maps, curves, metrics and verdicts in one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onnxplain.cli import options as o
from onnxplain.cli.application import app
from onnxplain.cli.console import progress, show_json

if TYPE_CHECKING:
    from onnxplain.cli.datasets import Source
    from onnxplain.engine.evaluation.agreement import Agreement
    from onnxplain.engine.evaluation.data import Dataset
    from onnxplain.engine.evaluation.page import Shown

#: Methods are compared on so many samples, where there are as many.
COMPARED = 20


@app.command()
def report(
    model: o.ModelFile,
    data: o.Samples,
    method: o.Method = None,
    option: o.MethodOption = None,
    metric: o.Metric = None,
    sanity: Annotated[bool, typer.Option("--sanity/--no-sanity", help="Sanity checks with verdicts.")] = True,
    limit: o.Limit = o.LIMIT,
    pictures: Annotated[int, typer.Option("--pictures", metavar="N", min=0, help="Samples whose maps are shown.")] = 8,
    title: Annotated[str, typer.Option("--title", metavar="TEXT", help="Heading of the page.")] = "",
    classes: o.Classes = None,
    key: o.Key = None,
    output: o.Output = None,
    head: o.Head = None,
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
    resume: Annotated[
        Path | None,
        typer.Option("--resume", metavar="FOLDER", help="Keep results here, and go on from those that are there."),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", rich_help_panel=o.RESULT, help="The .html file.")
    ] = Path("report.html"),
    labels: o.Labels = None,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
) -> None:
    """Write one HTML file that shows how far explanations of a model can be trusted.

    onnxplain report net.onnx photos/ -m fullgrad -m gradcam -o report.html
    """
    from onnxplain.cli.datasets import Source
    from onnxplain.cli.evaluate import configured_methods
    from onnxplain.cli.outputs import check_file, check_folder
    from onnxplain.engine.errors import OutputError
    from onnxplain.engine.evaluation.evaluate import evaluate
    from onnxplain.engine.evaluation.page import write_page
    from onnxplain.engine.evaluation.report import plain
    from onnxplain.engine.evaluation.sanity import sanity as check

    if out.suffix.lower() not in (".html", ".htm"):
        raise OutputError(f"cannot write '{out}': the report is a page; give a name that ends in .html")
    check_file(out)
    if resume is not None:
        check_folder(resume)
    methods = configured_methods(method, option or [], sanity=False)
    knobs = {"size": size, "mean": mean, "std": std, "scale": scale, "layout": layout, "channel_order": channel_order}
    source = Source.of(model, preprocess, knobs, labels, key, provider, threads, custom_ops)
    samples = source.samples(data, output, classes=classes, limit=limit)
    how: dict[str, Any] = {
        "methods": methods, "output": output, "layout": source.layout, "seed": seed, "folder": resume,
    }  # fmt: skip
    with progress(1) as steps:
        found = evaluate(source.model, samples, metrics=metric, explained_head=head, progress=steps.at, **how)
        checked = check(source.model, samples, head=head, progress=steps.at, **how) if sanity else None
        shown, agreement = compared(source, samples, methods, pictures, output=output, head=head, seed=seed)
    write_page(out, source.model, found, checked, shown[:pictures], title, agreement)
    if as_json:
        document = {"written": str(out), "bytes": out.stat().st_size, "metrics": found.rows()}
        document |= {"verdicts": {} if checked is None else checked.verdicts, "agreement": agreement.rows()}
        show_json(plain(document))
    elif not quiet:
        typer.echo(f"wrote {out} ({out.stat().st_size / 1e6:.1f} MB)")


def compared(
    source: Source,
    samples: Dataset,
    methods: dict[str, dict[str, Any]],
    count: int,
    *,
    output: str | None,
    head: str | None,
    seed: int,
) -> tuple[list[Shown], Agreement]:
    """The first samples (at least :data:`COMPARED`) with their maps by every method, and how alike these are."""
    from onnxplain.engine.evaluation.agreement import measurable, pairwise
    from onnxplain.engine.evaluation.evaluate import explained
    from onnxplain.engine.evaluation.page import Shown
    from onnxplain.engine.evaluation.scorer import Scorer

    scorer = Scorer(source.model, output, layout=source.layout)
    few = samples.subset(slice(max(count, COMPARED)))
    classes = scorer.classes(few.x)
    shown = [
        Shown(name, _answer(int(c), source.labels), picture)
        for name, c, picture in zip(few.names, classes, few.pictures, strict=True)
    ]
    maps = {}
    for name, options in methods.items():
        case = explained(source.model, scorer, few, classes, name, options, seed, output, head, source.layout)
        maps[name] = case.saliency
        for sample, values in zip(shown, case.saliency, strict=True):
            sample.maps[name] = (values, case.signed)
    return shown, pairwise(maps, measurable(), seed=seed)


def _answer(index: int, labels: list[str] | None) -> str:
    return labels[index] if labels and index < len(labels) else f"class {index}"
