"""PyTorch models to ONNX: batch left open, every normalisation and bias kept, nothing private in the file.

PyTorch's own exporter does the translation. Around it, this module decides what that exporter leaves to
chance: a batch of one is traced as two, because one is taken for a constant; layers are folded only when
asked for; modules are exported as they behave in evaluation, and left as they were found.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from onnxplain.engine.errors import ExportError, OptionError
from onnxplain.exporters import Exporter, ExportReport, ExportRequest, cleanup, exporters, verify, writing
from onnxplain.exporters.torch_models import ModuleSource, Source, quiet, source_of, to_numpy
from onnxplain.exporters.torch_weights import load_weights

if TYPE_CHECKING:
    import torch

OPSETS = range(18, 26)
# Names of layers; all other metadata of PyTorch's exporter is either a copy of them or private.
_KEPT_METADATA = ("pkg.torch.onnx.name_scopes", "pkg.torch.onnx.class_hierarchy")


def can_export(obj: object) -> bool:
    """True for a module or an exported program; never imports torch, which made the object if it is one."""
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "nn"):
        return False
    return isinstance(obj, (torch.nn.Module, torch.export.ExportedProgram))


def export(
    obj: torch.nn.Module | torch.export.ExportedProgram,
    sample: Any,
    request: ExportRequest,
    *,
    dynamic_shapes: Any = None,
    weights: str | Path | None = None,
) -> ExportReport:
    """Write a PyTorch model as ONNX; see :func:`onnxplain.exporters.export` for the common arguments.

    Args:
        obj: A module, exported as it behaves in evaluation whatever mode it is in and left in that mode,
            or an exported program of a module that was in evaluation mode.
        sample: A tensor or array, a tuple of them, or a dict from argument name to tensor.
        request: What is asked for.
        dynamic_shapes: As ``torch.export.export`` takes it, for a module with more open axes than the batch.
        weights: A checkpoint to load into the module first: :func:`onnxplain.exporters.torch_weights.load_weights`.

    Raises:
        ExportError: PyTorch cannot export the model, or the file disagrees with it.
        InputError: The sample does not fit the model's arguments.
        OptionError: Opset outside 18 to 25, or an option that does not apply.
        OutputError: The file cannot be written.
    """
    check_options(obj, request, dynamic_shapes)
    if weights is not None:
        _load(obj, weights)
    return export_source(source_of(obj, sample), request, dynamic_shapes=dynamic_shapes)


def export_source(
    source: Source,
    request: ExportRequest,
    *,
    dynamic_shapes: Any = None,
    metadata: Mapping[str, str] | None = None,
    exporter: str | None = None,
    notes: Sequence[str] = (),
) -> ExportReport:
    """:func:`export`, where model and sample have been brought together.

    Args:
        source: Model and sample.
        request: What is asked for.
        dynamic_shapes: As in :func:`export`.
        metadata: What the file says of itself.
        exporter: Framework and version for the report; PyTorch's by default.
        notes: For the report.
    """
    with writing.staged(request.path) as staged, source.evaluating():
        outputs = _named_outputs(source.run(source.sample), request.output_names)
        traced = source.trace_sample(request.dynamic_batch)
        with quiet():
            program = source.convert(traced, request, dynamic_shapes)
            before = cleanup.count_operators(program.model)
            input_names = [value.name or "" for value in program.model.graph.inputs]
            _simplify(program, request.fold)
        model: ir.Model = program.model
        after = cleanup.count_operators(model)
        batched, more = _open_axes(model, source, request, renamed=dynamic_shapes is None)
        _publish(model, request, input_names, list(outputs))
        model.metadata_props.update(metadata or {})
        files = writing.write(model, staged, request.external_data)
        cases = _cases(source, model, batched, traced, outputs)
        agreement = verify.check_agreement(staged, cases, request.tolerance)
    return ExportReport(
        path=request.path,
        exporter=exporter or f"torch {sys.modules['torch'].__version__}",
        opset=request.opset,
        ir_version=model.ir_version,
        inputs=tuple(map(cleanup.describe, model.graph.inputs)),
        outputs=tuple(map(cleanup.describe, model.graph.outputs)),
        operators=dict(sorted(after.items())),
        folded=cleanup.folded(before, after),
        max_difference=agreement.max_difference,
        tolerance=agreement.tolerance,
        batch_sizes=_batch_sizes(cases, batched if any(batched) else source.batched),
        runtime=agreement.runtime,
        notes=(*notes, *more, *agreement.notes),
        files=files,
    )


exporters.add("torch", Exporter("torch.nn.Module, torch.export.ExportedProgram", can_export, export))


def check_options(obj: Any, request: ExportRequest, dynamic_shapes: Any) -> None:
    """Refuse what cannot be exported as asked for.

    Raises:
        ExportError: A package is missing.
        OptionError: The opset, or an option that does not apply.
    """
    import torch

    if request.opset not in OPSETS:
        raise OptionError(
            f"opset {request.opset} cannot be exported: PyTorch's exporter writes {OPSETS.start} to {OPSETS.stop - 1} "
            "soundly; 18 is served most widely"
        )
    if dynamic_shapes is not None and isinstance(obj, torch.export.ExportedProgram):
        raise OptionError("an exported program has its open axes already; give dynamic_shapes to torch.export.export")
    if importlib.util.find_spec("onnxscript") is None:
        raise ExportError("PyTorch exports through onnxscript, which is not installed; pip install 'onnxplain[torch]'")


def _load(obj: Any, weights: str | Path) -> None:
    import torch

    if isinstance(obj, torch.export.ExportedProgram):
        raise OptionError("an exported program has its weights already; give them to the module before it is exported")
    load_weights(obj, weights)


def _simplify(program: torch.onnx.ONNXProgram, fold: bool) -> None:
    """Resolve what is constant; with ``fold`` also everything that PyTorch's optimizer merges."""
    from onnx_ir.passes import common
    from onnxscript import optimizer

    if fold:
        program.optimize()
        return
    model = program.model
    if model.functions:
        common.InlinePass()(model)
    _name_transposed(model.graph)
    optimizer.fold_constants(model, onnx_shape_inference=True)
    for tidy in (
        common.RemoveUnusedNodesPass,
        common.RemoveUnusedFunctionsPass,
        common.RemoveUnusedOpsetsPass,
        common.OutputFixPass,  # an input returned as it is needs a node in between
    ):
        tidy()(model)


def _name_transposed(graph: ir.Graph) -> None:
    """Keep the name of a weight that folding will turn: ``fc.weight`` becomes ``fc.weight.T``, not ``val_7``."""
    names = set(graph.initializers)
    for node in graph:
        weight = node.inputs[0] if node.op_type == "Transpose" else None
        if weight is None or weight.name not in graph.initializers:
            continue
        name = f"{weight.name}.T"
        if name not in names and not node.outputs[0].is_graph_output():
            node.outputs[0].name = name
            names.add(name)


def _open_axes(
    model: ir.Model, source: Source, request: ExportRequest, *, renamed: bool
) -> tuple[list[bool], list[str]]:
    """Find the open batch axis, insist on it where it was asked for, and call it ``batch``.

    Args:
        renamed: False where the user named the axes with ``dynamic_shapes``.

    Returns:
        Which inputs have the axis, and notes for the report.
    """
    inputs = model.graph.inputs
    if len(inputs) != len(source.sample):
        names = ", ".join(value.name or "" for value in inputs)
        raise ExportError(
            f"PyTorch's exporter wrote {len(inputs)} inputs ({names}) for {len(source.sample)} tensors of the sample; "
            "leave out arguments that are no tensors"
        )
    symbol = cleanup.batch_symbol(model)
    batched = [symbol is not None and cleanup.first_axis(value) == symbol for value in inputs]
    pairs = zip(inputs, source.batched, batched, strict=True)
    fixed = [value.name or "" for value, wanted, got in pairs if wanted and not got]
    if request.dynamic_batch and renamed and fixed and (isinstance(source, ModuleSource) or symbol is None):
        raise ExportError(
            f"the model fixes the first axis of {', '.join(fixed)}, so the batch cannot be left open; take "
            "sizes from x.shape instead of numbers, export the program with dynamic_shapes, or set dynamic_batch=False"
        )
    if symbol is not None and renamed:
        cleanup.rename_axis(model, symbol, "batch")
    if symbol is not None and renamed and not request.dynamic_batch:
        return batched, ["the exported program leaves the batch open, and so does the file"]
    return batched, []


def _publish(model: ir.Model, request: ExportRequest, input_names: list[str], output_names: list[str]) -> None:
    """Versions and names of the finished graph, and nothing private in it."""
    inputs, outputs = model.graph.inputs, model.graph.outputs
    cleanup.set_versions(model, request.opset)
    cleanup.strip_private(model, _KEPT_METADATA)
    cleanup.rename_all(model, "input", inputs, request.input_names or input_names)
    shared = sorted({value.name or "" for value in inputs} & set(output_names))
    if shared:
        raise OptionError(f"{', '.join(shared)} would name an input and an output; give other output_names")
    cleanup.rename_all(model, "output", outputs, output_names)


def _cases(
    source: Source, model: ir.Model, batched: Sequence[bool], traced: Sequence[torch.Tensor], outputs: dict[str, Any]
) -> list[verify.Case]:
    """The sample, and a second one: of another batch size where the batch is open, else of other values."""
    rows = _rows(source.sample, batched)
    if any(batched):
        seen = (rows, _rows(traced, batched))
        tensors, answer = source.runnable([size for size in (3, 2, 4, 8, 16) if size not in seen], batched)
    else:
        tensors = source.varied(None, [tensor.ndim > 0 for tensor in source.sample])
        answer = source.run(tensors)
    second = dict(zip(outputs, _leaves(answer), strict=False))
    return [_case(model, source.sample, outputs), _case(model, tensors, second)]


def _case(model: ir.Model, tensors: Sequence[torch.Tensor], outputs: Mapping[str, torch.Tensor]) -> verify.Case:
    inputs = {value.name or "": to_numpy(tensor) for value, tensor in zip(model.graph.inputs, tensors, strict=True)}
    return verify.Case(inputs, {name: to_numpy(tensor) for name, tensor in outputs.items()})


def _rows(arrays: Sequence[Any], batched: Sequence[bool]) -> int:
    return next((int(array.shape[0]) for array, rows in zip(arrays, batched, strict=True) if rows), 0)


def _batch_sizes(cases: Sequence[verify.Case], batched: Sequence[bool]) -> tuple[int, ...]:
    sizes = [_rows(list(case.inputs.values()), batched) for case in cases] if any(batched) else []
    return tuple(dict.fromkeys(sizes))


def _leaves(outputs: Any) -> list[torch.Tensor]:
    """The tensors of a nested answer, in the order in which the exporter flattens it."""
    import torch
    from torch.utils import _pytree

    leaves = [leaf for leaf in _pytree.tree_leaves(outputs) if leaf is not None]
    other = [type(leaf).__name__ for leaf in leaves if not isinstance(leaf, torch.Tensor)]
    if other or not leaves:
        raise ExportError(
            f"the model returns {', '.join(other) or 'nothing'}; return tensors, or a tuple or dict of them"
        )
    return leaves


def _named_outputs(outputs: Any, names: tuple[str, ...] | None) -> dict[str, torch.Tensor]:
    leaves = _leaves(outputs)
    if names is not None:
        if len(names) != len(leaves):
            raise OptionError(
                f"output_names has {len(names)} names, the model has {len(leaves)} outputs; name each once"
            )
    elif len(leaves) == 1:
        names = ("output",)
    elif isinstance(outputs, Mapping) and len(outputs) == len(leaves):
        names = tuple(str(key) for key in outputs)
    else:
        names = tuple(f"output_{index}" for index in range(len(leaves)))
    return dict(zip(names, leaves, strict=True))
