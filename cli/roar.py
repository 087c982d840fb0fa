"""``onnxplain roar``: remove what methods find most salient, retrain from scratch, and see how well that goes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onnxplain.cli import options as o
from onnxplain.cli.application import app
from onnxplain.cli.console import console, progress, show_json, table
from onnxplain.cli.literals import options_of

if TYPE_CHECKING:
    from onnxplain.engine.evaluation.roar_report import RoarReport

_TRAINING = "How nets are trained"
_METHODS = ("gradient", "input_x_gradient", "fullgrad")


@app.command()
def roar(
    model: o.ModelFile,
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="An .npz with x (as the model takes it) and y.", show_default=False)
    ],
    test: Annotated[
        Path | None, typer.Option("--test", metavar="FILE", help="Test samples, an .npz likewise; else a part of DATA.")
    ] = None,
    test_share: Annotated[float, typer.Option("--test-share", metavar="T", help="That part.")] = 0.2,
    scale: Annotated[
        str | None, typer.Option("--scale", metavar="F", help="Factor on the samples, for pictures of 0..255: 1/255.")
    ] = None,
    method: o.Method = None,
    option: o.MethodOption = None,
    references: Annotated[
        bool, typer.Option("--references/--no-references", help="Compare with random places and with edges.")
    ] = True,
    fractions: Annotated[
        str,
        typer.Option("--fractions", metavar="LIST", help="Shares of the places; 0.1 to 0.9.", show_default=False),
    ] = "0.1,0.3,0.5,0.7,0.9",
    mode: Annotated[
        str,
        typer.Option(
            "--mode",
            metavar="KIND",
            help="roar (remove), kar (keep alone), mask (show the holes alone); a list: roar,kar.",
        ),
    ] = "roar",
    absolute: Annotated[bool, typer.Option("--absolute", help="Rank places by magnitude.")] = False,
    trainings: Annotated[int, typer.Option("--trainings", min=1, help="From how many first weights.")] = 3,
    epochs: Annotated[
        int, typer.Option("--epochs", min=1, rich_help_panel=_TRAINING, help="Passes over the samples.")
    ] = 20,
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, rich_help_panel=_TRAINING, help="Samples a step.")
    ] = 64,
    optimiser: Annotated[
        str, typer.Option("--optimiser", metavar="NAME", rich_help_panel=_TRAINING, help="adam, adamw or sgd.")
    ] = "adam",
    lr: Annotated[float, typer.Option("--lr", rich_help_panel=_TRAINING, help="Learning rate.")] = 1e-3,
    lr_every: Annotated[
        int | None, typer.Option("--lr-every", rich_help_panel=_TRAINING, help="Epochs after which it falls.")
    ] = None,
    lr_factor: Annotated[float, typer.Option("--lr-factor", rich_help_panel=_TRAINING, help="To this part.")] = 0.1,
    weight_decay: Annotated[
        float, typer.Option("--weight-decay", rich_help_panel=_TRAINING, help="Pull to zero.")
    ] = 0.0,
    momentum: Annotated[float, typer.Option("--momentum", rich_help_panel=_TRAINING, help="Of sgd.")] = 0.9,
    output: o.Output = None,
    head: o.Head = None,
    layout: o.Layout = None,
    threads: o.Threads = 0,
    seed: o.Seed = 0,
    folder: Annotated[
        Path | None,
        typer.Option("--folder", metavar="DIR", rich_help_panel=o.RESULT, help="Go on here when interrupted."),
    ] = None,
    out: Annotated[
        list[Path] | None,
        typer.Option(
            "--out", "-o", metavar="PATH", rich_help_panel=o.RESULT, help=".png, .svg, .pdf, .csv or .json; repeat."
        ),
    ] = None,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
) -> None:
    """Measure methods by remove and retrain (ROAR): nets of the same form learn without the most salient places.

    Needs no training framework. The lower the accuracy stays, the more a method knew.

    onnxplain roar net.onnx train.npz --test test.npz -m fullgrad -m gradient -o roar.png
    """
    from onnxplain.cli.explain import axes_of
    from onnxplain.cli.outputs import check_folder
    from onnxplain.engine.evaluation.roar import Recipe
    from onnxplain.engine.evaluation.roar import roar as measure

    names = list(dict.fromkeys(method or _METHODS))
    places = _writable(out or [])
    if folder is not None:
        check_folder(folder)
    methods = options_of(option or [], [n for n in names if n not in ("random", "edges")])
    methods |= {n: {} for n in ("random", "edges") if references or n in names}
    shares, modes = _numbers(fractions), [m.strip() for m in mode.split(",")]
    recipe = Recipe(epochs, batch_size, optimiser, lr, weight_decay, momentum, lr_every, lr_factor)
    total = trainings * (1 + len(methods) * len(modes) * len(shares))
    with progress(total) as steps:

        def told(done: int, _: int, words: str) -> None:
            steps.done = done
            steps.begin(words)

        report = measure(
            model, _samples(data, scale), None if test is None else _samples(test, scale),
            methods=methods, fractions=shares, modes=modes, seeds=trainings, recipe=recipe,  # type: ignore[arg-type]
            test_share=test_share, absolute=absolute, output=output, head=head, layout=axes_of(layout),
            seed=seed, folder=folder, threads=threads, progress=told,
        )  # fmt: skip
    for path in places:
        report.save(path)
    if as_json:
        show_json({**report.to_dict(), "written": [str(path) for path in places]})
    elif not quiet:
        show_report(report, places)


def _writable(paths: list[Path]) -> list[Path]:
    """Refuse what could not be written, before hours of work.

    Raises:
        OutputError: An unknown suffix, or a place that cannot be written.
    """
    from onnxplain.cli.outputs import check_file
    from onnxplain.engine.errors import OutputError
    from onnxplain.engine.evaluation.roar_report import FORMS

    for path in paths:
        if path.suffix.lower() not in FORMS:
            raise OutputError(f"cannot write '{path}': '{path.suffix}' is no known form; use {', '.join(FORMS)}")
        check_file(path)
    return paths


def _samples(path: Path, scale: str | None) -> Any:
    """The file's arrays, the samples multiplied by ``--scale``."""
    import numpy as np

    from onnxplain.engine.errors import InputError
    from onnxplain.engine.inputs import read_array

    content = read_array(path)
    if not isinstance(content, dict):
        raise InputError(f"'{path}' holds samples without their classes; give an .npz with x and y")
    if scale is None:
        return content
    factor = _number("scale", scale)
    return {k: a.astype(np.float32) * np.float32(factor) if a.ndim > 1 else a for k, a in content.items()}


def _numbers(text: str) -> list[float]:
    return [_number("fractions", part) for part in text.split(",") if part.strip()]


def _number(name: str, text: str) -> float:
    """A number, or a quotient such as 1/255."""
    from onnxplain.engine.errors import OptionError

    above, _, below = text.partition("/")
    try:
        return float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError):
        raise OptionError(
            f"--{name} '{text}' is no number; write for example {'1/255' if name == 'scale' else '0.1,0.5'}"
        ) from None


def show_report(report: RoarReport, written: list[Path]) -> None:
    """Print accuracies by method and share, the best method first."""
    import numpy as np

    from onnxplain.engine.evaluation.roar_report import TITLES

    screen = console()
    deviation = np.std(report.clean, ddof=1) if len(report.clean) > 1 else 0.0
    screen.print(
        f"{len(report.clean)} trainings each; retrained on whole samples {np.mean(report.clean):.1%} ± {deviation:.1%}, "
        f"the original net {report.original:.1%}"
    )
    for mode in report.modes:
        shares = [f"{t:.0%}" for t in report.curve(report.methods[0], mode)[0]]
        made = table(mode, *shares, "mean", numbers=(*shares, "mean"))
        for method, mean in report.ranking(mode):
            _, means, deviations = report.curve(method, mode)
            cells = [f"{100 * m:.1f} ± {100 * d:.1f}" for m, d in zip(means, deviations, strict=True)]
            made.add_row(method, *cells, f"{100 * mean:.1f}")
        screen.print()
        screen.print(made)
        screen.print(f"accuracy in %; {TITLES[mode]}")
    for path in written:
        screen.print(f"wrote {path}")
