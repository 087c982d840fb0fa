"""``onnxplain verify``: is the gradient right on this model and these data? Exit code 0: yes, 1: no."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onnxplain.cli import options as o
from onnxplain.cli.application import ANSWER_NO, app
from onnxplain.cli.console import console, progress, show_json, table

if TYPE_CHECKING:
    from onnxplain.engine.verification.report import VerifyReport

_COLOURS = {"pass": "green", "fail": "bold red", "undecided": "yellow"}


@app.command()
def verify(
    model: o.ModelFile,
    inputs: Annotated[
        list[Path], typer.Argument(metavar="INPUTS...", help="Pictures, folders, .npy or .npz.", show_default=False)
    ],
    target: o.TargetText = None,
    output: o.Output = None,
    head: o.Head = None,
    wrt: o.Wrt = None,
    directions: Annotated[
        int, typer.Option("--directions", min=3, help="Random directions along which the gradient is checked.")
    ] = 8,
    seconds: Annotated[
        float, typer.Option("--seconds", help="What one check in float64 may take, and a search for a wrong node.")
    ] = 30.0,
    preprocess: o.Preprocess = None,
    size: o.Size = None,
    mean: o.Mean = None,
    std: o.Std = None,
    scale: o.Scale = None,
    layout: o.Layout = None,
    channel_order: o.ChannelOrder = None,
    key: o.Key = None,
    rows: o.Rows = None,
    provider: o.Provider = None,
    custom_ops: o.CustomOps = None,
    threads: o.Threads = 0,
    seed: o.Seed = 0,
    labels: o.Labels = None,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
) -> None:
    """Check gradients on a model and data of yours: against finite differences, and each promise by itself.

    Exit code 0: verified; 1: something failed, or nothing could be shown.

    onnxplain verify net.onnx cat.jpg --preprocess imagenet
    """
    import onnxplain

    knobs = {"size": size, "mean": mean, "std": std, "scale": scale, "layout": layout, "channel_order": channel_order}
    loaded = onnxplain.load(model, providers=provider, threads=threads, custom_ops=custom_ops or None)
    feeds, meant = _read(loaded, model, inputs, target, labels, preprocess, knobs, key, rows)
    with progress(1) as steps:
        steps.begin(f"verifying {model.name}")
        report = onnxplain.verify(
            loaded, feeds, target=meant, output=output, head=head, wrt=wrt or None, directions=directions,
            seconds=seconds, seed=seed,
        )  # fmt: skip
        steps.finish()
    if as_json:
        show_json(report.to_dict())
    elif not quiet:
        show_report(report)
    if not report.ok:
        raise typer.Exit(ANSWER_NO)


def _read(
    loaded: Any,
    model: Path,
    inputs: list[Path],
    target: str | None,
    labels: Path | None,
    preset: str | None,
    knobs: dict[str, str | None],
    key: str | None,
    rows: str | None,
) -> tuple[dict[str, Any], Any]:
    """The first batch of what was named, and the target."""
    from onnxplain.cli.explain import axes_of, labels_of
    from onnxplain.cli.literals import target_of
    from onnxplain.cli.samples import Reader, declared_preprocessing

    preprocessing, of_card = declared_preprocessing(model, loaded.metadata, preset, knobs)
    named = labels_of(labels, of_card, loaded.metadata)
    layout = axes_of(preprocessing.layout if preprocessing is not None else knobs["layout"])
    samples = Reader(loaded, preprocessing, layout, key, rows).read(inputs)
    batch = samples.batches[0]
    meant = target_of(target, named)
    if isinstance(meant, list) and len(meant) == len(samples.samples):
        meant = [meant[place] for place in batch.places]
    return batch.feeds, meant


def show_report(report: VerifyReport) -> None:
    """Print one line per check, the nodes to blame under it, and the verdict last."""
    from rich.text import Text

    screen = console()
    made = table("check", "verdict", "why", shrink="why")
    for row in report.rows:
        made.add_row(row.name, Text(row.verdict, style=_COLOURS[row.verdict]), row.words)
        for node in row.nodes:
            made.add_row("", "", Text(f"node '{node.node}' ({node.operator}): {node.words}", style="yellow"))
    screen.print(made)
    screen.print()
    if report.ok:
        left = f"; {len(report.undecided)} checks could not be decided" if report.undecided else ""
        screen.print(Text.assemble(("verified: ", "bold green"), f"the gradient is the derivative here{left}"))
    elif report.failed:
        names = ", ".join(row.name for row in report.failed)
        screen.print(Text.assemble(("no: ", "bold red"), f"failed: {names}"))
    else:
        screen.print(Text.assemble(("no: ", "bold red"), "too little could be shown; give other samples or more time"))
