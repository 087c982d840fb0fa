"""``onnxplain explain``: why did the model say so, in figures, tables and raw arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onnxplain.cli import options as o
from onnxplain.cli.application import app
from onnxplain.cli.console import progress, show_json
from onnxplain.cli.literals import options_of, target_of
from onnxplain.engine.errors import InputError

if TYPE_CHECKING:
    from onnxplain.cli.outputs import Destination
    from onnxplain.cli.results import Results
    from onnxplain.cli.samples import Samples

_LAYOUTS = {"NCHW": "channels_first", "NHWC": "channels_last"}


@dataclass
class Request:
    """What was asked for, with everything that can be judged without the model already judged.

    ``tolerant`` leaves methods out that do not suit the model, instead of refusing the request. What is not ``needed``
    (a default figure) is left unwritten where the inputs cannot be drawn.
    """

    model: Path
    inputs: list[Path]
    methods: dict[str, dict[str, Any]]
    target: str | None
    preset: str | None
    knobs: dict[str, str | None]
    labels: Path | None
    tokens: Path | None
    key: str | None
    rows: str | None
    wanted: list[Destination]
    provider: str | None
    threads: int
    how: dict[str, Any]
    tolerant: bool = False
    custom_ops: list[Path] | None = None
    needed: bool = True
    texts: Sequence[str] = ()


@app.command()
def explain(
    model: o.ModelFile,
    inputs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="INPUTS...", help="Pictures, folders, .npy or .npz.", show_default=False),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option("--text", metavar="TEXT", help="A text, cut into tokens by --tokens. May be repeated."),
    ] = None,
    method: o.Method = None,
    option: o.MethodOption = None,
    target: o.TargetText = None,
    output: o.Output = None,
    head: o.Head = None,
    wrt: o.Wrt = None,
    preprocess: o.Preprocess = None,
    size: o.Size = None,
    mean: o.Mean = None,
    std: o.Std = None,
    scale: o.Scale = None,
    layout: o.Layout = None,
    channel_order: o.ChannelOrder = None,
    key: Annotated[str | None, typer.Option("--key", metavar="NAME", help="Which array of an .npz to take.")] = None,
    rows: Annotated[str | None, typer.Option("--rows", metavar="ROWS", help="Rows of arrays: 3, 0:8 or 0,5,7.")] = None,
    quantisation: o.Quantisation = None,
    provider: o.Provider = None,
    custom_ops: o.CustomOps = None,
    threads: o.Threads = 0,
    memory: o.Memory = None,
    seed: o.Seed = 0,
    strict: o.Strict = False,
    out: Annotated[
        list[Path] | None,
        typer.Option(
            "--out",
            "-o",
            metavar="PATH",
            rich_help_panel=o.RESULT,
            help="Write .png, .npz, .json, .safetensors, or a folder. May be repeated.",
        ),
    ] = None,
    labels: o.Labels = None,
    tokens: Annotated[
        Path | None,
        typer.Option(
            "--tokens",
            metavar="FILE",
            rich_help_panel=o.RESULT,
            help="tokenizer.json or its folder; to name ids, any vocabulary.",
        ),
    ] = None,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
) -> None:
    """Explain what a model said about pictures, series, tables or texts.

    onnxplain explain net.onnx cat.jpg --preprocess imagenet -o cat.png
    """  # fmt: skip
    from onnxplain.cli.outputs import destinations

    if not inputs and not text:
        raise InputError("there is nothing to explain; give INPUTS (pictures, folders, .npy or .npz), or --text")
    names = list(dict.fromkeys(method or ["fullgrad"]))
    how: dict[str, Any] = {} if quantisation is None else {"quantisation": quantisation}
    how |= {"output": output, "head": head, "wrt": wrt or None, "seed": seed}
    knobs = {"size": size, "mean": mean, "std": std, "scale": scale, "layout": layout, "channel_order": channel_order}
    request = Request(
        model=model, inputs=inputs or [], methods=options_of(option or [], names), target=target, preset=preprocess,
        knobs=knobs, labels=labels, tokens=tokens, key=key, rows=rows, wanted=destinations(out or []),
        provider=provider, threads=threads, how=how | ({} if memory is None else {"memory_mib": memory}),
        custom_ops=custom_ops or None, texts=text or [],
    )  # fmt: skip
    answer(request, strict=strict, as_json=as_json, quiet=quiet)


def answer(request: Request, *, strict: bool, as_json: bool, quiet: bool) -> None:
    """Run a request, print what came out, write what was asked for."""
    from onnxplain.cli.outputs import write
    from onnxplain.cli.results import document, show_results

    results, samples, axes = run(request)
    unproven = strict and not results.ok
    written = [] if unproven else write(request.wanted, results, samples, axes)
    if as_json:
        show_json({**document(results, timing=True), "written": [str(path) for path in written]})
    elif not quiet:
        show_results(results)
        for path in written:
            typer.echo(f"wrote {path}")
    if unproven:
        results.require_proof()


def run(request: Request) -> tuple[Results, Samples, tuple[str | None, ...]]:
    """Read the model and the inputs, and explain them."""
    import onnxplain
    from onnxplain.cli.figures import DRAWN
    from onnxplain.cli.outputs import check_not_input, check_possible
    from onnxplain.cli.results import Results, check_labels, kind_of, run_methods
    from onnxplain.cli.samples import Reader, declared_preprocessing
    from onnxplain.cli.texts import read_vocabulary
    from onnxplain.engine.method import create
    from onnxplain.engine.targets import as_targets

    check_not_input((one.path for one in request.wanted), request.inputs)
    for name, given in request.methods.items():
        create(name, given)
    model = onnxplain.load(
        request.model, providers=request.provider, threads=request.threads, custom_ops=request.custom_ops
    )
    metadata = model.metadata
    preprocessing, card_labels = declared_preprocessing(request.model, metadata, request.preset, request.knobs)
    labels = labels_of(request.labels, card_labels, metadata)
    vocabulary = read_vocabulary(request.tokens) if request.tokens is not None else {}
    target = target_of(request.target, labels)
    layout = layout_of(preprocessing, request.knobs)
    reader = Reader(model, preprocessing, layout, request.key, request.rows, request.tokens)
    samples = reader.read(request.inputs, request.texts)
    kind = kind_of(model, samples, request.how.get("wrt"))
    if not request.needed and kind not in DRAWN:
        request.wanted.clear()
    check_possible(
        request.wanted,
        kind,
        len(samples.samples) * len(request.methods) * len(as_targets(target) or [0]),
        len(samples.batches),
    )
    with progress(len(request.methods) * len(samples.batches)) as steps:
        refused: dict[str, str] | None = {} if request.tolerant else None
        columns = run_methods(model, samples, request.methods, target, steps, refused, layout=layout, **request.how)
    notes = check_labels(labels, columns, named=request.labels is not None)
    notes += [f"{name} is left out: {reason}" for name, reason in (refused or {}).items()]
    plain = preprocessing.to_dict() if preprocessing is not None else None
    results = Results(model, samples.samples, labels, columns, kind, plain, vocabulary, notes)
    return results, samples, reader.axes()


def layout_of(preprocessing: Any, knobs: dict[str, str | None]) -> str:
    """The engine's word for what was declared."""
    return axes_of(preprocessing.layout if preprocessing is not None else knobs.get("layout"))


def axes_of(layout: str | None) -> str:
    """The engine's word for what ``--layout`` says."""
    from onnxplain.engine.errors import OptionError

    if not layout:
        return "auto"
    if layout.upper() not in _LAYOUTS:
        raise OptionError(f"--layout '{layout}' is unknown; use NCHW or NHWC")
    return _LAYOUTS[layout.upper()]


def labels_of(named: Path | None, of_card: Path | None, metadata: dict[str, str]) -> list[str] | None:
    """Class names: from the file that was named, else from the card's, else from the model itself."""
    from onnxplain.engine.inputs import labels_from_metadata, read_labels

    path = named if named is not None else of_card
    return read_labels(path) if path is not None else labels_from_metadata(metadata)
