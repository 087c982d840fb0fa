"""``onnxplain compile``: a model that answers and explains, as one ONNX file."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onnxplain.cli import options as o
from onnxplain.cli.application import app
from onnxplain.cli.console import show_json
from onnxplain.cli.literals import options_of

if TYPE_CHECKING:
    import onnx_ir as ir


@app.command()
def compile(  # noqa: A001 - the name of the command
    model: o.ModelFile,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="Where to write the .onnx file.", show_default=False)
    ],
    method: Annotated[
        str, typer.Option("--method", "-m", metavar="NAME", help="A method of 'onnxplain methods'.")
    ] = "fullgrad",
    option: o.MethodOption = None,
    target: Annotated[
        str,
        typer.Option("--target", "-t", metavar="CLASS", help="'input': the file takes it; 'argmax', or an index."),
    ] = "input",
    weights: Annotated[
        str,
        typer.Option("--weights", metavar="WHERE", help="embedded, external (FILE.data) or shared (in MODEL itself)."),
    ] = "embedded",
    adjoints: Annotated[
        bool, typer.Option("--adjoints", help="Return the adjoints of the input and of every bias, unaggregated.")
    ] = False,
    result: Annotated[
        list[str] | None,
        typer.Option(
            "--result",
            metavar="NAME",
            show_default=False,
            help="Return only this of attribution, saliency and residual; may be repeated.",
        ),
    ] = None,
    half: Annotated[bool, typer.Option("--float16", help="Compute in half precision.")] = False,
    profile: Annotated[
        str | None,
        typer.Option(
            "--profile",
            metavar="NAME",
            show_default=False,
            help="For one execution provider: cpu, cuda, tensorrt, openvino, coreml or web.",
        ),
    ] = None,
    opset: Annotated[
        int | None, typer.Option("--opset", metavar="N", help="A newer opset than 18, up to 21.", show_default=False)
    ] = None,
    points: Annotated[
        str,
        typer.Option(
            "--points",
            metavar="HOW",
            help="Of a path, or noisy copies: batched (side by side), loop (less memory), or how many at a time.",
        ),
    ] = "auto",
    output: o.Output = None,
    head: o.Head = None,
    wrt: o.Wrt = None,
    layout: o.Layout = None,
    quantisation: o.Quantisation = None,
    custom_ops: o.CustomOps = None,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
) -> None:
    """Write a model that explains its own answers, for any runtime.

    The file returns the model's outputs and, beside them, 'attribution', and
    'saliency' and 'residual' where the method has them. It needs an ONNX
    runtime and nothing else.

    onnxplain compile net.onnx -m fullgrad -o net.explained.onnx
    """
    import onnxplain
    from onnxplain.cli.check import show_fallbacks
    from onnxplain.cli.explain import axes_of
    from onnxplain.cli.outputs import check_not_input
    from onnxplain.engine.errors import OptionError
    from onnxplain.engine.shipping.profiles import fallbacks, profile_named

    if out.suffix.lower() != ".onnx":
        raise OptionError(f"cannot write '{out}': the result is an ONNX file; give a name that ends in .onnx")
    check_not_input([out], [model])
    options = options_of(option or [], [method])[method]
    how: dict[str, Any] = {} if quantisation is None else {"quantisation": quantisation}
    explainer = onnxplain.compile(
        model, method=method, output=output, head=head, wrt=wrt or None, layout=axes_of(layout),
        custom_ops=custom_ops or None, **how, **options,
    )  # fmt: skip
    fixed = _target(target)
    form: dict[str, Any] = {"adjoints": adjoints, "half": half, "profile": profile, "opset": opset}
    form["results"] = result or None
    form["points"] = int(points) if points.isdecimal() else points
    explainer.save(out, target=fixed, weights=weights, **form)  # type: ignore[arg-type]
    shipped = explainer.ship(fixed, **form)  # type: ignore[arg-type]
    facts, left = describe(shipped), fallbacks(shipped, profile_named(profile)) if profile else []
    size = out.stat().st_size
    if as_json:
        about = {"profile": profile, "fallbacks": [asdict(f) for f in left]} if profile else {}
        show_json({"written": str(out), "bytes": size, "method": method, **facts, **about})
    elif not quiet:
        if profile:
            show_fallbacks(left, profile)
        for key in ("inputs", "outputs"):
            typer.echo(f"{key:8} {', '.join(facts[key])}")
        typer.echo(f"wrote {out} ({size / 1e6:.1f} MB)" if size >= 1e5 else f"wrote {out} ({size / 1e3:.0f} kB)")


def _target(text: str) -> int | str:
    from onnxplain.engine.errors import TargetError

    if text in ("input", "argmax"):
        return text
    if not text.isdecimal():
        raise TargetError(f"target '{text}' is not understood; give 'input', 'argmax' or an index")
    return int(text)


def describe(model: ir.Model) -> dict[str, list[str]]:
    """Names and types of what the file takes and returns."""

    def words(values: Any) -> list[str]:
        return [
            f"{v.name} {v.dtype.name.lower()}{[str(d) for d in v.shape] if v.shape else ''}".replace("'", "")
            for v in values
        ]

    return {"inputs": words(model.graph.inputs), "outputs": words(model.graph.outputs)}
