"""Framework models to ONNX, with the outputs compared before anybody relies on the file.

Each module of this package (and each plug-in of the entry-point group ``onnxplain.exporters``) registers
an :class:`Exporter`. :func:`export` asks them in turn and uses the first that knows the object. No
framework is imported here: an exporter looks at what the process has imported already, and imports its
framework inside its functions.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxplain.engine.errors import ExportError, OptionError
from onnxplain.engine.registry import Registry
from onnxplain.exporters.report import ExportReport, Folded, TensorInfo

__all__ = ["ExportReport", "ExportRequest", "Exporter", "Folded", "TensorInfo", "export", "exporters"]


@dataclass(frozen=True)
class ExportRequest:
    """What the user asked for, the same for every framework; see :func:`export` for the meaning of each field."""

    path: Path
    opset: int = 18
    dynamic_batch: bool = True
    external_data: bool | None = None
    fold: bool = False
    input_names: tuple[str, ...] | None = None
    output_names: tuple[str, ...] | None = None
    tolerance: float | None = None


@dataclass(frozen=True)
class Exporter:
    """One framework's way to ONNX.

    Args:
        accepts: The kinds of object it takes, as a message names them.
        can_export: Whether it takes an object; must not import the framework.
        export: ``export(obj, sample, request, *, its own options) -> ExportReport``.
        draws_sample: Whether it takes None for the sample, and draws one where the model says enough.
    """

    accepts: str
    can_export: Callable[[object], bool]
    export: Callable[..., ExportReport]
    draws_sample: bool = False


exporters: Registry[Exporter] = Registry("exporter", "onnxplain.exporters", "onnxplain.exporters")


def export(
    obj: object,
    sample: Any,
    path: str | Path,
    *,
    opset: int = 18,
    dynamic_batch: bool = True,
    external_data: bool | None = None,
    fold: bool = False,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    tolerance: float | None = None,
    **options: Any,
) -> ExportReport:
    """Write a framework's model as ONNX and prove that the file gives the same outputs.

    The file is written beside ``path`` under another name, run, compared with the framework at the
    sample and at a second one (another batch size where the batch is dynamic), and moved to ``path``
    only when all outputs agree. A failed export leaves nothing behind.

    Args:
        obj: The model: ``torch.nn.Module`` or ``torch.export.ExportedProgram``, or what a plug-in takes.
        sample: One example input, batch first: an array or tensor, a tuple of them in the order of the
            model's arguments, or a dict from argument name to array.
        path: The ``.onnx`` file to write; its folder has to exist.
        opset: Opset of the file.
        dynamic_batch: Leave the first axis of the inputs open. It is the axis whose length all batched
            inputs of the sample share with its first tensor; other inputs keep their shape.
        external_data: Weights in ``<path>.data`` beside the file: True or False force it, None takes one
            file below 2 GB.
        fold: Let the framework's exporter fold BatchNormalization into convolutions and merge equal
            weights, as deployed models have it. False keeps every normalisation and bias where the
            network has it, which is what bias-based methods want to see.
        input_names: Names for the graph inputs; the default is the names of the model's arguments.
        output_names: Names for the graph outputs; the default is ``output`` or the keys of a dict of
            outputs, else ``output_0``, ``output_1``, ...
        tolerance: Largest difference accepted, relative to the largest magnitude in that output. The
            default follows the output's type: 1e-4 for float32 (``verify.TOLERANCES``).
        **options: Options of the exporter; see its module.

    Returns:
        What was written and how well it agrees.

    Raises:
        ExportError: No exporter takes the object, the framework cannot export it, or the file disagrees.
        InputError: The sample is not made of tensors or arrays.
        OptionError: An option or opset outside what the exporter offers.
        OutputError: The file cannot be written where it was asked for.
    """
    request = ExportRequest(
        Path(path),
        opset,
        dynamic_batch,
        external_data,
        fold,
        _names("input_names", input_names),
        _names("output_names", output_names),
        tolerance,
    )
    if tolerance is not None and not tolerance >= 0:
        raise OptionError(f"tolerance={tolerance} is no bound on a difference; give a number of 0 or more")
    for name, exporter in exporters:
        if exporter.can_export(obj):
            _check_options(name, exporter, options)
            return exporter.export(obj, sample, request, **options)
    accepted = "; ".join(exporter.accepts for _, exporter in exporters)
    kind = obj if isinstance(obj, type) else type(obj)
    what = f"the class {kind.__qualname__} itself" if kind is obj else f"an object of type {kind.__qualname__}"
    raise ExportError(f"cannot export {what}: no exporter knows it; give one of: {accepted}")


def _check_options(name: str, exporter: Exporter, options: dict[str, Any]) -> None:
    known = [p.name for p in inspect.signature(exporter.export).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for option in options:
        if option not in known:
            raise OptionError(f"the {name} exporter has no option '{option}'; it has {', '.join(known) or 'none'}")


def _names(option: str, names: Sequence[str] | None) -> tuple[str, ...] | None:
    if names is None:
        return None
    if isinstance(names, str):
        raise OptionError(f"{option} is the text '{names}'; give a list of names, [{names!r}] for one")
    if len(set(names)) != len(names) or not all(names):
        raise OptionError(f"{option} {list(names)} has an empty or repeated name; every name has to be its own")
    return tuple(names)
