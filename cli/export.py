"""``onnxplain export``: a framework's model to ONNX, outputs compared before the file is there.

A PyTorch network is code, so what is named is a script and the function in it that makes the network. That
function is run; nothing else of the script is guessed at. Keras files and SavedModels hold their network.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onnxplain.cli import options as o
from onnxplain.cli.application import app
from onnxplain.cli.console import console, progress, show_json, table
from onnxplain.engine.errors import ExportError, InputError, OptionError

if TYPE_CHECKING:
    from onnxplain.exporters import ExportReport

_OWN_NAMES = ("opset", "external_data", "fold", "seed", "layout", "sample", "weights")
#: What brings a module that a script may import.
_EXTRAS = {
    "torch": "torch",
    "transformers": "huggingface",
    "tensorflow": "tensorflow",
    "keras": "tensorflow",
    "sklearn": "sklearn",
}
#: Element types that a sample can be asked for in.
DTYPES = ("float32", "float16", "float64", "int64", "int32", "bool")


@app.command()
def export(
    source: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            show_default=False,
            help="SCRIPT.py:FACTORY, a function that returns a model or (model, sample); a .keras or .h5 file; "
            "a SavedModel's folder; a Hugging Face directory; a .pt2 program; a scikit-learn .joblib, .pkl or .skops (reading "
            "a pickle runs the code in it).",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="ONNX", help="The file to write.", show_default=False)],
    sample: Annotated[
        list[str] | None,
        typer.Option(
            "--sample", metavar="SHAPE", help="1x3x224x224, 1x50:int64 or a .npy; one per argument of the model."
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            "--weights",
            metavar="FILE",
            help="Checkpoint for the factory's network: .pt, .safetensors.",
            show_default=False,
        ),
    ] = None,
    opset: Annotated[int, typer.Option("--opset", help="Opset of the file.")] = 18,
    fold: Annotated[bool, typer.Option("--fold", help="Merge BatchNormalization into convolutions.")] = False,
    fixed_batch: Annotated[bool, typer.Option("--fixed-batch", help="Keep the sample's batch size.")] = False,
    external_data: Annotated[
        bool | None,
        typer.Option("--external-data/--one-file", help="Weights beside the file, or in it.", show_default=False),
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option("--layout", metavar="AXES", help="NCHW or NHWC: how the file of a Keras model takes pictures."),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option", "-O", metavar="KEY=VALUE", help="Option of the framework's exporter, as -O open_axes=true."
        ),
    ] = None,
    seed: o.Seed = 0,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
) -> None:
    """Write a PyTorch, TensorFlow, Keras, JAX or scikit-learn model as ONNX, and prove that the file gives the same outputs.

    onnxplain export train.py:make_net --sample 1x3x224x224 -o net.onnx

    onnxplain export train.py:make_net --weights best.safetensors --sample 1x3x224x224 -o net.onnx

    onnxplain export ./my-bert -o bert.onnx

    onnxplain export model.keras -o model.onnx

    onnxplain export pipeline.joblib -o model.onnx
    """  # fmt: skip
    from onnxplain import exporters
    from onnxplain.cli.outputs import check_file

    check_file(out)
    given = [read_sample(text, seed) for text in sample or ()]
    network, own = load_network(source)
    options = exporter_options(option or [], layout) | ({} if weights is None else {"weights": weights})
    if not given and own is None:
        if not draws_sample(network):
            raise InputError("the network's input is not known; give --sample 1x3x224x224, or return (module, sample)")
        options.setdefault("seed", seed)
    arrays = own if not given else given[0] if len(given) == 1 else tuple(given)
    with progress(1) as steps:
        steps.begin("exporting")
        report = exporters.export(
            network,
            arrays,
            out,
            opset=opset,
            dynamic_batch=not fixed_batch,
            external_data=external_data,
            fold=fold,
            **options,
        )
    if as_json:
        show_json(report.to_dict())
    elif not quiet:
        show_export(report)


def exporter_options(given: Sequence[str], layout: str | None) -> dict[str, Any]:
    """What is passed to the framework's exporter.

    Raises:
        OptionError: Not KEY=VALUE, an option that has a name of its own here, or an unknown layout.
    """
    from onnxplain.cli.explain import axes_of
    from onnxplain.cli.literals import value_of

    options: dict[str, Any] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals or not key.isidentifier():
            raise OptionError(f"--option '{text}' is not KEY=VALUE; write -O open_axes=true")
        if key in _OWN_NAMES:
            raise OptionError(f"--option '{text}': there is --{key.replace('_', '-')} for it; use that")
        options[key] = value_of(value)
    return options if layout is None else {**options, "layout": axes_of(layout)}


def draws_sample(network: object) -> bool:
    """Whether the network's exporter can make up an input."""
    from onnxplain.exporters import exporters

    return any(entry.draws_sample and entry.can_export(network) for _, entry in exporters)


def read_sample(text: str, seed: int) -> Any:
    """An example input: ``1x3x224x224`` (normal draws), ``1x50:int64`` (zeros), or an ``.npy`` or ``.npz`` file.

    Raises:
        InputError: None of these.
    """
    import numpy as np

    if text.lower().endswith((".npy", ".npz")):
        from onnxplain.engine.inputs import read_array

        return read_array(text)
    shape_text, _, dtype = text.partition(":")
    try:
        shape = tuple(int(part) for part in shape_text.lower().split("x"))
    except ValueError:
        shape = ()
    dtype = dtype or "float32"
    if not shape or min(shape) < 1 or dtype not in DTYPES:
        raise InputError(
            f"--sample '{text}' is no shape; write 1x3x224x224, 1x50:int64 ({', '.join(DTYPES)}), or a .npy"
        )
    if dtype.startswith("float"):
        return np.random.default_rng(seed).standard_normal(shape).astype(dtype)
    return np.zeros(shape, dtype)


def load_network(source: str) -> tuple[Any, Any]:
    """The network that ``source`` names, and the sample that came with it or None.

    Raises:
        ExportError: No such file or function, it failed, or a checkpoint that holds weights alone.
    """
    script, colon, factory = source.rpartition(":")
    path = Path(script if colon and not Path(source).exists() else source)
    if path.suffix != ".py":
        return (path if _holds_network(path) else _program(path)), None
    if not factory or not colon:
        raise ExportError(
            f"'{source}' does not name a function; write {path.name}:make_net, a function that returns it"
        )
    if not path.is_file():
        raise ExportError(f"there is no script '{path}'; check the path")
    made = _call(path, factory)
    return made if isinstance(made, tuple) and len(made) == 2 else (made, None)


def _holds_network(path: Path) -> bool:
    from onnxplain.exporters import huggingface, sklearn_files, tensorflow_files

    return path.exists() and any(kind.is_model(path) for kind in (huggingface, sklearn_files, tensorflow_files))


def _call(path: Path, factory: str) -> Any:
    """Import the script as Python would (its folder on the path), and call the function."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ExportError(f"'{path}' cannot be imported; give a Python script")
    module = importlib.util.module_from_spec(spec)
    folder = str(path.resolve().parent)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow would greet before the answer
    sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
        make = getattr(module, factory, None)
        if not callable(make):
            raise ExportError(f"'{path}' has no function '{factory}'; name one that returns the network")
        return make()
    except ExportError:
        raise
    except ModuleNotFoundError as error:
        name = error.name or ""
        hint = f"pip install 'onnxplain[{_EXTRAS[name]}]'" if name in _EXTRAS else f"install {name}"
        if name in ("jax", "flax", "jax2onnx"):
            from onnxplain.exporters.jax import INSTALL

            hint = INSTALL
        raise ExportError(f"'{path}' needs {error.name}, which is not installed; {hint}") from error
    except (Exception, SystemExit) as error:  # the user's own code: anything
        frames = traceback.extract_tb(error.__traceback__)
        line = next((frame.lineno for frame in reversed(frames) if Path(frame.filename).resolve() == path.resolve()), 0)
        reason = " ".join(str(error).split()) or "no message"
        raise ExportError(f"'{path}', line {line}: {type(error).__name__}: {reason}; correct the script") from error
    finally:
        sys.path.remove(folder)


def _program(path: Path) -> Any:
    """An exported program from a ``.pt2`` file; other checkpoints hold weights and no network."""
    if path.is_dir():
        raise ExportError(
            f"the folder '{path}' holds neither a saved_model.pb nor a config.json with its model_type; give a SavedModel's "
            "folder, a Hugging Face directory, or a file"
        )
    if not path.is_file():
        raise ExportError(
            f"there is no file '{path}'; give SCRIPT.py:FACTORY, a Hugging Face directory, a Keras or scikit-learn file, a "
            "SavedModel's folder or a .pt2"
        )
    if path.suffix != ".pt2":
        raise ExportError(
            f"'{path}' holds weights and no network that could be exported; write a function that builds the network "
            f"and give SCRIPT.py:FACTORY --weights {path}"
        )
    try:
        import torch
    except ImportError:
        raise ExportError("a .pt2 program needs PyTorch: pip install 'onnxplain[torch]'") from None
    from onnxplain.exporters.torch_models import quiet

    try:
        with quiet():
            return torch.export.load(path)
    except Exception as error:  # zip, pickle and torch raise a dozen unrelated types
        reason = (str(error).strip().splitlines() or ["damaged"])[0]
        raise ExportError(f"'{path}' is no exported program: {reason}; write it with torch.export.save") from error


def show_export(report: ExportReport) -> None:
    """Print what was written and how well it agrees."""
    screen = console()
    screen.print(f"wrote {report.path}: opset {report.opset}, IR {report.ir_version}, by {report.exporter}")
    made = table("tensor", "type", "shape", "differs by", "allowed", shrink="tensor")
    for kind, tensors in (("in", report.inputs), ("out", report.outputs)):
        for tensor in tensors:
            shape = "x".join("?" if size is None else str(size) for size in tensor.shape)
            found, allowed = report.max_difference.get(tensor.name), report.tolerance.get(tensor.name)
            words = ["" if value is None else f"{value:.1e}" for value in (found, allowed)]
            made.add_row(f"{kind} {tensor.name}", tensor.dtype, shape, *words)
    screen.print(made)
    screen.print(_counted(report.operators))
    if report.folded:
        screen.print(f"folded: {', '.join(map(str, report.folded))}")
    for note in report.notes:
        screen.print(f"note: {note}", style="yellow")


def _counted(operators: dict[str, int]) -> str:
    ordered: Sequence[tuple[str, int]] = sorted(operators.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{name} {count}" for name, count in ordered)
