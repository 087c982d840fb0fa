"""``onnxplain demo``: a first result without a model, a picture or a network at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnxplain.cli import options as o
from onnxplain.cli.application import app

METHODS = ("fullgrad", "integrated_gradients", "input_x_gradient")


@app.command()
def demo(
    method: o.Method = None,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="PNG", help="The figure.")] = Path("onnxplain-demo.png"),
    threads: o.Threads = 0,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
) -> None:
    """Explain the network that ships, on the pictures that ship, and draw them all on one page."""
    from onnxplain.cli.explain import Request, answer
    from onnxplain.cli.literals import options_of
    from onnxplain.cli.outputs import destinations
    from onnxplain.models import demo_model, demo_samples

    names = list(dict.fromkeys(method or METHODS))
    pictures = [sample.path for sample in demo_samples()]
    request = Request(
        model=demo_model(), inputs=pictures, methods=options_of([], names), target=None, preset=None, knobs={},
        labels=None, tokens=None, key=None, rows=None, wanted=destinations([out]), provider=None, threads=threads,
        how={},
    )  # fmt: skip
    answer(request, strict=False, as_json=as_json, quiet=quiet)
    if not as_json and not quiet:
        typer.echo("\nnext: onnxplain check YOUR.onnx")
        typer.echo("then: onnxplain explain YOUR.onnx YOUR.jpg --preprocess imagenet -o explained.png")
