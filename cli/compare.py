"""``onnxplain compare``: what do all methods make of one answer, or one method of two builds, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from onnxplain.cli import options as o
from onnxplain.cli.application import app
from onnxplain.cli.builds import BuildRequest, compare_two
from onnxplain.cli.literals import options_of

_BUILDS = "Comparing builds"
#: Methods that builds are compared by unless others are named.
BUILDS_BY = ("input_x_gradient", "fullgrad")


@app.command()
def compare(
    model: o.ModelFile,
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="[MODEL2] INPUTS...",
            help="Pictures, folders, .npy or .npz; a second build first.",
            show_default=False,
        ),
    ],
    method: o.Method = None,
    option: o.MethodOption = None,
    without: Annotated[
        list[str] | None,
        typer.Option("--without", "-x", metavar="NAME", help="Method to leave out; may be given several times."),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer draws and steps, for a first look; -O goes before it.")
    ] = False,
    target: o.TargetText = None,
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
    memory: o.Memory = None,
    seed: o.Seed = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="PATH",
            rich_help_panel=o.RESULT,
            help="Picture (comparison.png), .json or a folder; of builds also .csv or .parquet.",
        ),
    ] = None,
    threshold: Annotated[
        list[str] | None,
        typer.Option(
            "--threshold",
            metavar="NAME=NUMBER",
            rich_help_panel=_BUILDS,
            help="Exit code 1 past it: cosine, spearman, overlap, output_max, output_mean, flips; mean. in front.",
        ),
    ] = None,
    limit: Annotated[int, o.limit_option(_BUILDS)] = o.LIMIT,
    key: Annotated[str | None, o.key_option(_BUILDS)] = None,
    labels: o.Labels = None,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
) -> None:
    """Explain one answer by all methods, on one labelled page; or compare two builds of a model.

    Methods that do not suit the model are left out, and the notes say why. All
    of them take minutes on a network for photographs: most of it rise,
    kernel_shap, lime, gradient_shap and expected_gradients, which run the model
    hundreds or thousands of times. --quick is a first look in a fraction of
    that; -x leaves one out. With a second .onnx file: how far answers and maps
    of the two builds differ, worst samples first.

    onnxplain compare net.onnx cat.jpg --preprocess imagenet -o methods.png

    onnxplain compare net.onnx net-int8.onnx photos/ --threshold flips=0
    """  # fmt: skip
    from onnxplain.cli.explain import Request, answer
    from onnxplain.cli.outputs import destinations
    from onnxplain.engine.errors import OptionError

    knobs = {"size": size, "mean": mean, "std": std, "scale": scale, "layout": layout, "channel_order": channel_order}
    if inputs[0].suffix.lower() == ".onnx":
        _check_builds(inputs, without, target, memory, quick)
        named = list(dict.fromkeys(method or []))
        wanted = BuildRequest(
            first=model, second=inputs[0], data=inputs[1:], methods=options_of(option or [], named or list(BUILDS_BY)),
            thresholds=threshold or [], output=output, head=head, preset=preprocess, knobs=knobs, provider=provider,
            threads=threads, seed=seed, limit=limit, key=key, labels=labels, out=out, custom_ops=custom_ops or None,
        )  # fmt: skip
        compare_two(wanted, as_json=as_json, quiet=quiet)
        return
    if threshold or key:
        raise OptionError("--threshold and --key compare two builds; name the second .onnx file after the first")
    names = _methods(method, without)
    how: dict[str, Any] = {"output": output, "head": head, "wrt": None, "seed": seed}
    request = Request(
        model=model, inputs=inputs, methods=_options(option or [], names, quick), target=target, preset=preprocess,
        knobs=knobs, labels=labels, tokens=None, key=None, rows=None, wanted=destinations([out or Path("comparison.png")]),
        provider=provider, threads=threads, how=how | ({} if memory is None else {"memory_mib": memory}),
        tolerant=method is None, custom_ops=custom_ops or None, needed=out is not None,
    )  # fmt: skip
    answer(request, strict=False, as_json=as_json, quiet=quiet)


def _check_builds(
    inputs: list[Path], without: list[str] | None, target: str | None, memory: float | None, quick: bool
) -> None:
    from onnxplain.engine.errors import InputError, OptionError

    if len(inputs) < 2:
        raise InputError("two builds need samples to be compared on; name a folder, pictures or an .npz behind them")
    if without or target is not None or memory is not None or quick:
        raise OptionError(
            "--without, --target, --memory and --quick are for one model; builds explain the first one's answers"
        )


def _options(given: list[str], names: list[str], quick: bool) -> dict[str, dict[str, Any]]:
    """Options per method: those that were given, before those of a quick look."""
    from onnxplain.engine.method import METHODS

    found = options_of(given, names)
    return {name: {**METHODS.get(name).quick, **found[name]} for name in names} if quick else found


def _methods(wanted: list[str] | None, without: list[str] | None) -> list[str]:
    """Those that were named, or all of the registry, less what is to be left out."""
    from onnxplain.engine.errors import OptionError
    from onnxplain.engine.method import METHODS

    names = list(dict.fromkeys(wanted)) if wanted else [name for name, _ in METHODS]
    for name in without or []:
        METHODS.get(name)
        names = [other for other in names if other != name]
    if not names:
        raise OptionError("no method is left; leave --without out, or name fewer there")
    return names
