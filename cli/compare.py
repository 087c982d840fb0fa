"""``onnxplain compare``: what do all methods make of one answer, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from onnxplain.cli import options as o
from onnxplain.cli.application import app
from onnxplain.cli.literals import options_of


@app.command()
def compare(
    model: o.ModelFile,
    inputs: Annotated[
        list[Path], typer.Argument(metavar="INPUTS...", help="Pictures, folders, .npy or .npz.", show_default=False)
    ],
    method: o.Method = None,
    option: o.MethodOption = None,
    without: Annotated[
        list[str] | None,
        typer.Option("--without", "-x", metavar="NAME", help="Method to leave out; may be given several times."),
    ] = None,
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
    threads: o.Threads = 0,
    memory: o.Memory = None,
    seed: o.Seed = 0,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="PATH", rich_help_panel=o.RESULT, help="Picture, .json or a folder.")
    ] = Path("comparison.png"),
    labels: o.Labels = None,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
) -> None:
    """Explain one answer by all methods, on one labelled page.

    Methods that do not suit the model are left out, and the page's notes say why.

    onnxplain compare net.onnx cat.jpg --preprocess imagenet -o methods.png
    """
    from onnxplain.cli.explain import Request, answer
    from onnxplain.cli.outputs import destinations

    names = _methods(method, without)
    how: dict[str, Any] = {"output": output, "head": head, "wrt": None, "seed": seed}
    knobs = {"size": size, "mean": mean, "std": std, "scale": scale, "layout": layout, "channel_order": channel_order}
    request = Request(
        model=model, inputs=inputs, methods=options_of(option or [], names), target=target, preset=preprocess,
        knobs=knobs, labels=labels, tokens=None, key=None, rows=None, wanted=destinations([out]),
        provider=provider, threads=threads, how=how | ({} if memory is None else {"memory_mib": memory}),
        tolerant=method is None,
    )  # fmt: skip
    answer(request, strict=False, as_json=as_json, quiet=quiet)


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
