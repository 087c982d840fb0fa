"""ONNX's own tests as models: collected, brought to float64, and in the two settings that are graded.

- ``shipped``: the suite's own model, whose axes, shapes, pads and bounds are graph inputs;
- ``frozen``: those operands, and all others that are no floats, are initializers, and models older than the
  working opset are converted up to it.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.backend.test.case.node import collect_testcases

Array = np.ndarray[Any, Any]
Setting = Literal["shipped", "frozen"]

SETTINGS: tuple[Setting, ...] = ("shipped", "frozen")

_FLOATS = {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16}
_NARROW = _FLOATS - {TensorProto.DOUBLE}

#: The oldest opset of which the evaluator has the operators; older models are converted up to it.
OLDEST = 7
#: Float operands that say how, not what: part of the model's structure when it is deployed.
STRUCTURAL: dict[str, tuple[int, ...]] = {
    "Resize": (1, 2), "Upsample": (1,), "Clip": (1, 2), "Pad": (2,), "Dropout": (1,), "OneHot": (1,), "Range": (0, 1, 2),
    "QuantizeLinear": (1,), "DequantizeLinear": (1,),
}  # fmt: skip


@dataclass(frozen=True)
class Sample:
    """One node test.

    Attributes:
        name: The suite's name.
        operator: What it tests, with domain unless that is ai.onnx.
        model: As shipped, with its own types.
        feeds: Its inputs.
        expected: Its outputs.
    """

    name: str
    operator: str
    model: onnx.ModelProto
    feeds: dict[str, Any]
    expected: list[Any]


@functools.cache
def samples() -> dict[str, list[Sample]]:
    """Tests by operator; bodies of functions spelt out (``_expanded``) are left out."""
    found: dict[str, list[Sample]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.random.seed(0)  # noqa: NPY002 - the suite draws from the global generator
        cases = collect_testcases(None)
    for case in cases:
        model = case.model
        if "_expanded" in case.name or model is None or not case.data_sets:
            continue
        if not any(is_float_info(v) for v in model.graph.input) or not any(
            is_float_info(v) for v in model.graph.output
        ):
            continue
        inputs, outputs = case.data_sets[0]
        feeds = {v.name: _array(x) for v, x in zip(model.graph.input, inputs, strict=True)}
        operator = _operator(case.name, model)
        expected = [_array(y) for y in outputs]
        found.setdefault(operator, []).append(Sample(case.name, operator, model, feeds, expected))
    return dict(sorted(found.items()))


@functools.cache
def exported(suite: str) -> tuple[Sample, ...]:
    """Tests of whole models that lie as files: ``pytorch-operator``, ``pytorch-converted``, ``simple``.

    Float weights become inputs, so that they are differentiated as well. Tests without a float on both sides are left out.
    """
    found = []
    for folder in sorted((Path(onnx.backend.test.__file__).parent / "data" / suite).iterdir()):
        if not (folder / "model.onnx").is_file():
            continue
        model = onnx.load(folder / "model.onnx")
        floats = [t for t in model.graph.initializer if t.data_type in _FLOATS]
        weights = {t.name: np.array(numpy_helper.to_array(t)) for t in floats}
        for tensor in floats:
            model.graph.initializer.remove(tensor)
        fixed = {t.name for t in model.graph.initializer}
        for value in [v for v in model.graph.input if v.name in fixed]:
            model.graph.input.remove(value)
        given = [v for v in model.graph.input if v.name not in weights]
        data = folder / "test_data_set_0"
        tensors = [_tensor_of(data / f"input_{i}.pb", v) for i, v in enumerate(given)]
        results = [_tensor_of(data / f"output_{i}.pb", v) for i, v in enumerate(model.graph.output)]
        known = {v.name for v in model.graph.input}
        model.graph.input.extend(
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for n, a in weights.items()
            if n not in known
        )
        if any(map(is_float_info, model.graph.input)) and any(map(is_float_info, model.graph.output)):
            feeds = {**weights, **{v.name: t for v, t in zip(given, tensors, strict=True)}}
            if any(_uninitialised(x) for x in feeds.values()):
                rng = np.random.default_rng(0)
                feeds = {
                    n: rng.normal(size=x.shape).astype(x.dtype) if _uninitialised(x) else x for n, x in feeds.items()
                }
                results = []
            found.append(Sample(folder.name, f"{suite}/{folder.name}", model, feeds, results))
    return tuple(found)


def _uninitialised(x: Any) -> bool:
    """Whether the suite wrote down whatever lay in memory: numbers that no difference can be taken of."""
    return isinstance(x, np.ndarray) and x.dtype.kind == "f" and bool(np.any(np.abs(x) > 1e30))


def _tensor_of(path: Path, value: onnx.ValueInfoProto) -> Any:
    """Content of a file of the suite; None for what is no tensor."""
    if value.type.WhichOneof("value") != "tensor_type":
        return None
    tensor = onnx.TensorProto()
    tensor.ParseFromString(path.read_bytes())
    return np.array(numpy_helper.to_array(tensor))  # a copy: the message, whose memory it may be, goes


def _array(data: Any) -> Any:
    return numpy_helper.to_array(data) if isinstance(data, onnx.TensorProto) else data


def _operator(name: str, model: onnx.ModelProto) -> str:
    """What a test is about: its only node, else the operator whose name the test bears."""
    nodes = [n for n in model.graph.node if n.op_type != "Constant"]
    chosen = nodes[-1]
    if len(nodes) > 1:
        plain = name.removeprefix("test_").replace("_", "")
        named = [n for n in nodes if plain.startswith(n.op_type.lower())]
        chosen = max(named, key=lambda n: len(n.op_type)) if named else chosen
    return f"{chosen.domain}::{chosen.op_type}" if chosen.domain else chosen.op_type


def is_float_info(value: onnx.ValueInfoProto) -> bool:
    return value.type.WhichOneof("value") == "tensor_type" and value.type.tensor_type.elem_type in _FLOATS


def variants(sample: Sample) -> Iterator[tuple[Setting, onnx.ModelProto]]:
    """The test in both settings, in its own types."""
    version = opset_of(sample.model)
    yield "shipped", sample.model
    made = frozen(sample.model, sample.feeds)
    yield "frozen", converted(modernised(made), 18) if 0 < version < 18 else made


def _retype(graph: onnx.GraphProto) -> None:
    """All float types become float64, those inside of subgraphs as well."""
    for value in (*graph.input, *graph.output, *graph.value_info):
        _retype_type(value.type)
    for tensor in graph.initializer:
        _retype_tensor(tensor)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _retype(attribute.g)
            elif attribute.type == onnx.AttributeProto.TENSOR:
                _retype_tensor(attribute.t)
            elif (
                attribute.name in ("to", "dtype", "output_dtype", "stash_type", "softmax_precision")
                and attribute.i in _NARROW
            ):
                if attribute.name != "stash_type":
                    attribute.i = TensorProto.DOUBLE
            elif attribute.name in ("value_float", "value_floats") and node.op_type == "Constant":
                values = np.asarray(attribute.floats if attribute.name.endswith("s") else attribute.f, np.float64)
                attribute.CopyFrom(helper.make_attribute("value", numpy_helper.from_array(values)))
            elif attribute.type == onnx.AttributeProto.TYPE_PROTO:
                _retype_type(attribute.tp)


def _retype_type(kind: onnx.TypeProto) -> None:
    which = kind.WhichOneof("value")
    if which == "tensor_type" and kind.tensor_type.elem_type in _NARROW:
        kind.tensor_type.elem_type = TensorProto.DOUBLE
    elif which == "sequence_type":
        _retype_type(kind.sequence_type.elem_type)
    elif which == "optional_type":
        _retype_type(kind.optional_type.elem_type)


def _retype_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.data_type in _NARROW:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))


def widened(array: Any) -> Any:
    if isinstance(array, list):
        return [widened(a) for a in array]
    kind = getattr(array, "dtype", None)
    return (
        np.asarray(array, np.float64) if kind is not None and str(kind) in ("float16", "float32", "bfloat16") else array
    )


def narrowed(array: Any) -> Any:
    if isinstance(array, list):
        return [narrowed(a) for a in array]
    data = np.asarray(array)
    return data.astype(np.float32) if data.dtype == np.float64 else data


def opset_of(model: onnx.ModelProto) -> int:
    return next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)


def converted(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """The model at ``opset``; itself where onnx's converter gives up, or leaves Scan in the form of opset 8."""
    if opset_of(model) < 9 and any(n.op_type == "Scan" for n in model.graph.node):
        return model
    try:
        return onnx.version_converter.convert_version(model, opset)
    except Exception:
        return model


def modernised(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model at :data:`OLDEST` or newer, with what onnx's converter gets wrong put right: a slope per channel."""
    if opset_of(model) >= OLDEST:
        return model
    made = converted(model, OLDEST)
    ranks = {v.name: len(v.type.tensor_type.shape.dim) for v in (*made.graph.input, *made.graph.value_info)}
    for node in list(made.graph.node):
        if node.op_type == "PRelu" and ranks.get(node.input[1]) == 1 and ranks.get(node.input[0], 0) > 2:
            axes = list(range(1, ranks[node.input[0]] - 1))
            wide = onnx.helper.make_node("Unsqueeze", [node.input[1]], [f"{node.input[1]}/wide"], axes=axes)
            made.graph.node.insert(0, wide)
            node.input[1] = wide.output[0]
    return made


def frozen(model: onnx.ModelProto, feeds: Mapping[str, Any]) -> onnx.ModelProto:
    """Operands that are no floats, and structural ones, as initializers."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    structural = {n.input[i] for n in made.graph.node for i in STRUCTURAL.get(n.op_type, ()) if i < len(n.input)}
    floats = [v for v in made.graph.input if is_float_info(v) and v.name not in structural]
    for value in list(made.graph.input):
        array = feeds[value.name]
        if value.type.WhichOneof("value") != "tensor_type" or (
            is_float_info(value) and (not floats or value in floats)
        ):
            continue
        tensor = _tensor(value, array)
        if tensor is not None:
            made.graph.initializer.append(tensor)
            made.graph.input.remove(value)
    return made


def _tensor(value: onnx.ValueInfoProto, array: Any) -> onnx.TensorProto | None:
    data = np.asarray(array)
    try:
        tensor = numpy_helper.from_array(data, value.name)
    except (TypeError, ValueError, NotImplementedError):
        return None
    return tensor if tensor.data_type == value.type.tensor_type.elem_type else None


def at_double(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in float64."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    _retype(made.graph)
    for function in made.functions:
        for node in function.node:
            for attribute in node.attribute:
                if attribute.name == "to" and attribute.i in _NARROW:
                    attribute.i = TensorProto.DOUBLE
    return made
