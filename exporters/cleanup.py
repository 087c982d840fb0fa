"""Brings an exported graph into the form in which it is published: names, versions, nothing private.

Frameworks leave the user's source paths in metadata and doc strings, invent names for outputs and open
axes, and pick versions by their own age. All of it is set here, on the in-memory graph.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence

import onnx_ir as ir

from onnxplain.engine.errors import ExportError, OptionError
from onnxplain.exporters.report import Folded, TensorInfo

# The IR version that came with each opset, but 10 for everything older than opset 23: onnxruntime 1.19
# and later load it. A newer one is taken only where the opset asks for a newer runtime anyway.
IR_VERSIONS: dict[int, int] = dict.fromkeys(range(13, 23), 10) | {23: 11, 24: 12, 25: 13}

# Operators that are layers to a user: when one of them has fewer nodes than in the network, its
# parameters live on in a neighbour. Plumbing (shapes, casts) is not worth a word.
LAYERS = (
    "BatchNormalization", "Conv", "ConvTranspose", "Gemm", "GroupNormalization", "InstanceNormalization",
    "LayerNormalization", "MatMul", "RMSNormalization",
)  # fmt: skip


def strip_private(model: ir.Model, keep: Collection[str]) -> None:
    """Remove doc strings and all metadata but the keys in ``keep`` (which only nodes may carry)."""
    model.doc_string = None
    model.metadata_props.clear()
    for graph in _graphs(model):
        graph.doc_string = None
        graph.metadata_props.clear()
        for value in _own_values(graph):
            value.doc_string = None
            value.metadata_props.clear()
            if value.const_value is not None:
                value.const_value.doc_string = None
        for node in graph:
            node.doc_string = None
            for key in [key for key in node.metadata_props if key not in keep]:
                del node.metadata_props[key]
            for attribute in node.attributes.values():
                attribute.doc_string = None


def set_versions(model: ir.Model, opset: int, others: Mapping[str, int] | None = None) -> None:
    """Write the IR version that belongs to ``opset``, and insist that the graph is of that opset.

    ``others``: domains that are accepted besides the default one, with the version that is written for each in use.

    Raises:
        ExportError: The framework left the graph at another opset, or uses functions of a foreign domain.
    """
    found = model.opset_imports.get("", 0)
    if found != opset:
        raise ExportError(f"the framework's exporter wrote opset {found}, not {opset}; ask for opset {found}")
    foreign = sorted(
        {node.domain for node in model.graph.all_nodes() if node.domain not in ("", "ai.onnx", *(others or {}))}
    )
    if foreign or model.functions:
        names = ", ".join(foreign or sorted({identifier[1] for identifier in model.functions}))
        raise ExportError(
            f"the exported graph needs operators that ONNX does not define ({names}); "
            "replace the layers that use them with standard ones"
        )
    for domain in [domain for domain in model.opset_imports if domain != ""]:
        del model.opset_imports[domain]
    used = {node.domain for node in model.graph.all_nodes()}
    model.opset_imports.update({domain: version for domain, version in (others or {}).items() if domain in used})
    model.ir_version = IR_VERSIONS[opset]


def rename(model: ir.Model, values: Sequence[ir.Value], names: Sequence[str]) -> None:
    """Give ``values`` (graph inputs or outputs) new names; another value of that name has to make way."""
    taken: dict[str, ir.Value] = {value.name: value for value in _all_values(model) if value.name}
    chosen = set(names)
    for value in values:  # first out of each other's way, so that names can be swapped
        if value.name in chosen:
            _make_way(value, taken)
    for value, name in zip(values, names, strict=True):
        if name in taken and taken[name] is not value:
            _make_way(taken[name], taken)
        taken.pop(value.name or "", None)
        value.name = name
        taken[name] = value


def rename_all(model: ir.Model, kind: str, values: Sequence[ir.Value], names: Sequence[str]) -> None:
    """Give all graph inputs or all outputs (``kind``) their names.

    Raises:
        OptionError: Too many names, or too few.
    """
    if len(values) != len(names):
        raise OptionError(f"{kind}_names has {len(names)} names, the model has {len(values)} {kind}s; name each once")
    rename(model, values, names)


def _make_way(value: ir.Value, taken: dict[str, ir.Value]) -> None:
    old = value.name or ""
    number = 1
    while f"{old}_{number}" in taken:
        number += 1
    del taken[old]
    value.name = f"{old}_{number}"
    taken[value.name] = value


def batch_symbol(model: ir.Model) -> str | None:
    """Name of the first input's first axis that is open; None where every input has a fixed first axis."""
    return next((axis for axis in map(first_axis, model.graph.inputs) if isinstance(axis, str)), None)


def first_axis(value: ir.Value) -> int | str | None:
    """Length or name of a value's first axis; None for a scalar or an unknown one."""
    shape = describe(value).shape
    return shape[0] if shape else None


def rename_axis(model: ir.Model, old: str, new: str) -> None:
    """Rename an open axis everywhere, also inside expressions such as ``2*s0``."""
    whole = re.compile(rf"\b{re.escape(old)}\b")
    for value in _all_values(model):
        if value.shape is None or value.shape.is_static():
            continue
        value.shape = ir.Shape(
            [ir.SymbolicDim(whole.sub(new, d.value)) if isinstance(d, ir.SymbolicDim) and d.value else d
             for d in value.shape]
        )  # fmt: skip


def describe(value: ir.Value) -> TensorInfo:
    """Name, type and shape of a graph input or output."""
    dtype = (
        "unknown"
        if value.dtype is None
        else "string"
        if value.dtype == ir.DataType.STRING
        else value.dtype.numpy().name
    )
    dims = value.shape.dims if value.shape is not None else ()
    return TensorInfo(value.name or "", dtype, tuple(d if isinstance(d, int) else d.value for d in dims))


def count_operators(model: ir.Model) -> Counter[str]:
    """Number of nodes by operator, in all subgraphs, without Constant nodes."""
    return Counter(node.op_type for node in model.graph.all_nodes() if node.op_type != "Constant")


def folded(before: Counter[str], after: Counter[str]) -> tuple[Folded, ...]:
    """The layers that lost nodes between two counts."""
    return tuple(Folded(name, before[name], after[name]) for name in LAYERS if after[name] < before[name])


def _graphs(model: ir.Model) -> Iterator[ir.Graph]:
    yield model.graph
    yield from model.graph.subgraphs()


def _own_values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs


def _all_values(model: ir.Model) -> Iterator[ir.Value]:
    for graph in _graphs(model):
        yield from _own_values(graph)
