"""Options that mean the same in every command, as annotated types; each is written once, here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

_INPUT = "Preprocessing of pictures"
_RUN = "How it runs"
RESULT = "What comes out"
#: Samples that are taken unless --limit says otherwise; 0 takes all.
LIMIT = 100

ModelFile = Annotated[Path, typer.Argument(metavar="MODEL", help="The .onnx file.", show_default=False)]

Samples = Annotated[
    list[Path],
    typer.Argument(
        metavar="DATA...", help="A folder with a subfolder per class, an .npz, or files.", show_default=False
    ),
]
Classes = Annotated[
    Path | None, typer.Option("--classes", metavar="CSV", help="Classes of a folder's files: path, class.")
]


def limit_option(panel: str | None = None) -> Any:
    """``--limit`` in a panel of the help."""
    return typer.Option("--limit", metavar="N", min=0, rich_help_panel=panel, help="At most N samples; 0 for all.")


def key_option(panel: str | None = None) -> Any:
    """``--key`` in a panel of the help."""
    return typer.Option("--key", metavar="NAME", rich_help_panel=panel, help="Which array of an .npz to take.")


Limit = Annotated[int, limit_option()]
Key = Annotated[str | None, key_option()]
Rows = Annotated[str | None, typer.Option("--rows", metavar="ROWS", help="Rows of arrays: 3, 0:8 or 0,5,7.")]

Metric = Annotated[
    list[str] | None,
    typer.Option("--metric", "-M", metavar="NAME", help="Metric; the usual ones. May be given several times."),
]
Method = Annotated[
    list[str] | None,
    typer.Option("--method", "-m", metavar="NAME", help="A method of 'onnxplain methods'; may be given several times."),
]
MethodOption = Annotated[
    list[str] | None,
    typer.Option(
        "--option", "-O", metavar="KEY=VALUE",
        help="Option of the method, as -O steps=100; METHOD.KEY=VALUE for one of several methods.",
    ),
]  # fmt: skip
TargetText = Annotated[
    str | None,
    typer.Option(
        "--target",
        "-t",
        metavar="CLASS",
        help="Index, label, 'argmax' (the default), a comma list (one per sample), top:3, rank:1 or margin:A,B.",
    ),
]
Output = Annotated[str | None, typer.Option("--output", metavar="NAME", help="Model output; the first float one.")]
Head = Annotated[
    str | None,
    typer.Option("--head", metavar="KIND", help="logit (the default), probability, log_probability or margin."),
]
Wrt = Annotated[
    list[str] | None,
    typer.Option("--wrt", metavar="NAME", help="Tensor to attribute to; the float inputs. May be repeated."),
]

Quantisation = Annotated[
    str | None,
    typer.Option(
        "--quantisation",
        metavar="HOW",
        rich_help_panel=_RUN,
        help="Models in int8: straight_through (the default) or float_shadow (no rounding).",
    ),
]
Provider = Annotated[
    str | None,
    typer.Option(
        "--provider",
        metavar="NAMES",
        rich_help_panel=_RUN,
        help="cpu (the default), cuda, 'cuda:device_id=1,cpu', reference, ...",
    ),
]
CustomOps = Annotated[
    list[Path] | None,
    typer.Option(
        "--custom-ops",
        metavar="LIBRARY",
        rich_help_panel=_RUN,
        help="Library of the model's custom operators, loaded into this process. May be repeated.",
    ),
]
Threads = Annotated[
    int, typer.Option("--threads", min=0, rich_help_panel=_RUN, help="Threads; 0 lets the runtime choose.")
]
Memory = Annotated[
    float | None, typer.Option("--memory", metavar="MIB", rich_help_panel=_RUN, help="Memory for intermediate results.")
]
Seed = Annotated[int, typer.Option("--seed", min=0, rich_help_panel=_RUN, help="Seed of random draws.")]
Strict = Annotated[
    bool, typer.Option("--strict", rich_help_panel=_RUN, help="Exit code 1 when a result does not prove itself.")
]

Preprocess = Annotated[
    str | None,
    typer.Option(
        "--preprocess", "-p", metavar="NAME", rich_help_panel=_INPUT, help="Preset (imagenet, ...) or a TOML card."
    ),
]
Size = Annotated[
    str | None, typer.Option("--size", metavar="HxW", rich_help_panel=_INPUT, help="224, 224x192 or 'original'.")
]
Mean = Annotated[
    str | None, typer.Option("--mean", metavar="M", rich_help_panel=_INPUT, help="One number, or one a channel: a,b,c.")
]
Std = Annotated[str | None, typer.Option("--std", metavar="S", rich_help_panel=_INPUT, help="Likewise; it divides.")]
Scale = Annotated[
    str | None, typer.Option("--scale", metavar="F", rich_help_panel=_INPUT, help="Factor on pixels of 0..255: 1/255.")
]
Layout = Annotated[str | None, typer.Option("--layout", metavar="AXES", rich_help_panel=_INPUT, help="NCHW or NHWC.")]
ChannelOrder = Annotated[
    str | None, typer.Option("--channel-order", metavar="ORDER", rich_help_panel=_INPUT, help="RGB, BGR or GRAY.")
]

Labels = Annotated[
    Path | None,
    typer.Option("--labels", metavar="FILE", rich_help_panel=RESULT, help="Class names: one a line, or JSON."),
]
AsJson = Annotated[bool, typer.Option("--json", rich_help_panel=RESULT, help="One JSON document on standard output.")]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", rich_help_panel=RESULT, help="Print nothing but errors (and --json).")
]
