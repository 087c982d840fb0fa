"""scikit-learn estimators and pipelines to ONNX: scores as tensors, names of features and classes in the file.

skl2onnx does the translation. Around it, this module decides what that leaves to chance: versions, an open batch,
tensors in the place of dictionaries (ZipMap), names of inputs and outputs; and it holds every output against
scikit-learn's own.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import logging
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxplain.engine.errors import ExportError, OptionError
from onnxplain.engine.graph.passes.function_opsets import FunctionOpsetsPass
from onnxplain.engine.inputs import FEATURES_KEY, LABELS_KEY
from onnxplain.exporters import Exporter, ExportReport, ExportRequest, cleanup, exporters, verify, writing
from onnxplain.exporters.sklearn_files import EXTRA, first_line, is_model, load
from onnxplain.exporters.sklearn_models import (
    Answers,
    Table,
    answers_of,
    describe,
    final,
    selected,
    table_of,
    without_probabilities,
)

Array = npt.NDArray[Any]
#: skl2onnx is tested up to 21 by its makers; ai.onnx.ml 3 is what every supported onnxruntime runs.
OPSETS = range(13, 22)
ML, ML_OPSET = "ai.onnx.ml", 3
SCORES = ("probabilities", "decision")
DTYPES = ("float32", "float64")
_TREES = "trees have no gradient; explain the file by shapley_sampling, kernel_shap or occlusion"
_SVM = "the gradient of these probabilities is not served; scores='decision' exports decision values, which have one"


def can_export(obj: object) -> bool:
    """True for scikit-learn estimators, and paths of their files; never imports scikit-learn."""
    if isinstance(obj, (str, Path)):
        return is_model(Path(obj))
    base = sys.modules.get("sklearn.base")
    return base is not None and not isinstance(obj, type) and isinstance(obj, base.BaseEstimator)


def export(
    obj: Any,
    sample: Any,
    request: ExportRequest,
    *,
    scores: str = "probabilities",
    dtype: str = "float32",
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
) -> ExportReport:
    """Write a scikit-learn model as ONNX; see :func:`onnxplain.exporters.export` for the common arguments.

    Args:
        obj: A fitted estimator or pipeline, or the path of a ``.joblib``, ``.pkl``, ``.pickle`` or ``.skops`` file.
            Reading a pickle runs the code in it.
        sample: ``[rows, columns]``, a data frame, a dict from input to column or block of columns, or a tuple of
            blocks; None draws rows like those that the model remembers. Numbers are one input ``X``; columns of
            different kinds are one input each.
        request: What is asked for; there is nothing that ``fold`` could merge.
        scores: What a classifier gives beside its label: ``probabilities`` where it has them, or ``decision`` values.
        dtype: ``float64`` for models that need it, Gaussian processes with little noise above all.
        seed: Seed of drawn rows.
        options: Further options of skl2onnx's converter of the last estimator.

    Raises:
        ExportError: The model cannot be translated, or the file disagrees with it.
        InputError: The sample does not fit the model.
        OptionError: Opset outside 13 to 21, or an unknown option.
        OutputError: The file cannot be written.
    """
    _check(request, scores, dtype)
    with writing.staged(request.path) as staged, quiet():
        model = load(Path(obj)) if isinstance(obj, (str, Path)) else obj
        if isinstance(obj, (str, Path)) and not can_export(model):
            raise ExportError(f"'{obj}' holds an object of type {type(model).__name__}, which is no scikit-learn model")
        table = table_of(model, sample, dtype, seed)
        answers = answers_of(model, scores == "decision")
        expected = table.run(answers, table.blocks)
        graph = _translate(table, answers, request, dict(options or {}))
        _publish(graph, table, answers, request)
        files = writing.write(graph, staged, request.external_data)
        cases, left_out = _cases(graph, table, answers, expected, request)
        agreement = _agreement(staged, cases, request, dtype)
    operators = cleanup.count_operators(graph)
    return ExportReport(
        path=request.path,
        exporter=_exporter(),
        opset=request.opset,
        ir_version=graph.ir_version,
        inputs=tuple(map(cleanup.describe, graph.graph.inputs)),
        outputs=tuple(map(cleanup.describe, graph.graph.outputs)),
        operators=dict(sorted(operators.items())),
        folded=(),
        max_difference=agreement.max_difference,
        tolerance=agreement.tolerance,
        batch_sizes=tuple(dict.fromkeys(len(next(iter(case.inputs.values()))) for case in cases)),
        runtime=agreement.runtime,
        notes=(*_notes(graph, left_out), *agreement.notes),
        files=files,
    )


exporters.add(
    "sklearn",
    Exporter(
        "a scikit-learn estimator or pipeline, or the path of a .joblib, .pkl or .skops",
        can_export,
        export,
        draws_sample=True,
    ),
)


def _check(request: ExportRequest, scores: str, dtype: str) -> None:
    if request.opset not in OPSETS:
        raise OptionError(
            f"opset {request.opset} cannot be exported: skl2onnx writes {OPSETS.start} to {OPSETS.stop - 1} soundly; "
            "18 is served most widely"
        )
    if scores not in SCORES:
        raise OptionError(f"scores '{scores}' are unknown; use {' or '.join(SCORES)}")
    if dtype not in DTYPES:
        raise OptionError(f"dtype '{dtype}' is not offered; use {' or '.join(DTYPES)}")
    for module, package in (("sklearn", "scikit-learn"), ("skl2onnx", "skl2onnx")):
        if importlib.util.find_spec(module) is None:
            raise ExportError(f"scikit-learn models need {package}, which is not installed: {EXTRA}")


def _exporter() -> str:
    import skl2onnx
    import sklearn

    return f"scikit-learn {sklearn.__version__}, skl2onnx {skl2onnx.__version__}"


# ----- translation ------------------------------------------------------------------------------------


def _translate(table: Table, answers: Answers, request: ExportRequest, options: dict[str, Any]) -> ir.Model:
    """The model as skl2onnx writes it, with one input for each block of the table."""
    from skl2onnx import convert_sklearn

    model = without_probabilities(table.model) if "scores" in answers.functions else table.model
    last = final(model)
    options = _converter_options(last, answers, options)
    types = _input_types(table)
    try:
        with _plain_attributes():
            proto = convert_sklearn(
                model,
                "model",
                initial_types=[(f"i{k}" if not table.named else table.features[k], t) for k, t in enumerate(types)],
                target_opset={"": request.opset, ML: ML_OPSET},
                options={id(last): options} if options else None,
            )
    except Exception as error:  # converters raise whatever they like
        raise ExportError(
            f"skl2onnx cannot translate {describe(model)}: {_reason(error)}; replace that step, or export the "
            "part of the pipeline that can be"
        ) from error
    return _model_of(proto, table)


def _converter_options(last: Any, answers: Answers, wanted: dict[str, Any]) -> dict[str, Any]:
    """skl2onnx's options for the estimator that gives the answers.

    Raises:
        OptionError: It has no such option.
    """
    offered, options = _offered(last), {}
    if "zipmap" in offered:
        options["zipmap"] = False
    raw = hasattr(last, "predict_proba") or hasattr(last, "support_vectors_")
    if "scores" in answers.functions and raw and "raw_scores" in offered:
        options["raw_scores"] = True
    elif "scores" in answers.functions and hasattr(last, "predict_proba"):
        raise OptionError(f"skl2onnx writes no decision values for {describe(last)}; leave scores as they are")
    unknown = sorted(set(wanted) - offered)
    if unknown:
        has = ", ".join(sorted(offered)) or "none"
        raise OptionError(f"skl2onnx has no option {', '.join(unknown)} for {describe(last)}; it has {has}")
    return options | wanted


def _offered(last: Any) -> set[str]:
    """Options that skl2onnx's converter of an estimator has."""
    from skl2onnx._supported_operators import sklearn_operator_name_map
    from skl2onnx.common._registration import _converter_pool

    converter = _converter_pool.get(sklearn_operator_name_map.get(type(last), ""))
    return set((converter.get_allowed_options() if converter is not None else None) or {})


def _model_of(proto: Any, table: Table) -> ir.Model:
    from onnx_ir.passes import common

    versions = {entry.domain: entry.version for entry in proto.opset_import}
    del proto.opset_import[:]  # skl2onnx writes some domains twice
    for domain, version in versions.items():
        proto.opset_import.add(domain=domain, version=version)
    model = ir.serde.deserialize_model(proto)
    if model.functions:
        FunctionOpsetsPass()(model)
        common.InlinePass()(model)
        model.functions.clear()
    for graph in (model.graph, *model.graph.subgraphs()):
        for value in graph.initializers.values():
            if value.const_value is not None:
                value.const_value = _owned(value.const_value)
    if table.named:
        _join_columns(model, table)
    return model


def _owned(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """The tensor apart from its protobuf, whose texts cannot be changed."""
    if tensor.dtype == ir.DataType.STRING:
        return ir.StringTensor(tensor.numpy(), shape=ir.Shape(tensor.numpy().shape), name=tensor.name)
    return ir.tensor(tensor.numpy(), dtype=tensor.dtype, name=tensor.name)


def _input_types(table: Table) -> list[Any]:
    """skl2onnx's types of the inputs: the blocks, or single columns where the model picks them by name."""
    from skl2onnx.common import data_types as t

    kinds = {"float32": t.FloatTensorType, "float64": t.DoubleTensorType, "int64": t.Int64TensorType}
    blocks = table.blocks.values()
    return [
        kinds.get(block.dtype.name, t.StringTensorType)([None, width])
        for block in blocks
        for width in ([1] * block.shape[1] if table.named else [block.shape[1]])
    ]


def _join_columns(model: ir.Model, table: Table) -> None:
    """One input per block in the place of one per column."""
    columns = list(model.graph.inputs)
    joined: list[ir.Value] = []
    for name, block in table.blocks.items():
        mine, columns = columns[: block.shape[1]], columns[block.shape[1] :]
        if len(mine) == 1:
            joined += mine
            continue
        whole = ir.Value(name=f"{name}_block", type=mine[0].type, shape=ir.Shape([None, len(mine)]))
        sizes = ir.tensor(np.ones(len(mine), np.int64), name="columns_sizes")
        node = ir.Node(
            "",
            "Split",
            [whole, ir.Value(name="columns_sizes", const_value=sizes, type=ir.TensorType(ir.DataType.INT64))],
            [ir.AttrInt64("axis", 1)],
            num_outputs=len(mine),
            name="columns",
        )
        model.graph.register_initializer(node.inputs[1])  # type: ignore[arg-type]
        for old, new in zip(mine, node.outputs, strict=True):
            new.type, new.shape, new.name = old.type, old.shape, f"{old.name}_column"
            old.replace_all_uses_with(new)
        first = model.graph[0] if len(model.graph) else None
        model.graph.insert_before(first, [node]) if first is not None else model.graph.append(node)
        joined.append(whole)
    model.graph.inputs.clear()
    model.graph.inputs.extend(joined)


@contextlib.contextmanager
def _plain_attributes() -> Iterator[None]:
    """Give `onnx` Python's numbers where skl2onnx hands it NumPy's, which newer releases of `onnx` refuse."""
    from skl2onnx.common import _container

    make_node = _container.make_node

    def plain(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            value = value.tolist()
        if isinstance(value, (list, tuple)):
            return [plain(item) for item in value]
        value = value.item() if isinstance(value, np.generic) else value
        return int(value) if isinstance(value, bool) else value

    def patient(*args: Any, **attributes: Any) -> Any:
        return make_node(*args, **{name: plain(value) for name, value in attributes.items()})

    _container.make_node = patient
    try:
        yield
    finally:
        _container.make_node = make_node


def _reason(error: BaseException) -> str:
    """The part of skl2onnx's message that says what is missing."""
    line = first_line(error)
    return line.partition(". It usually means")[0].partition("You may raise an issue")[0].strip().rstrip(".")[:300]


# ----- the finished graph -----------------------------------------------------------------------------


def _publish(model: ir.Model, table: Table, answers: Answers, request: ExportRequest) -> None:
    """Names, shapes and versions, and nothing private; names of features and classes as metadata."""
    graph = model.graph
    graph.name = "model"
    model.producer_name, model.producer_version, model.domain = "skl2onnx", None, None
    cleanup.strip_private(model, ())
    if model.opset_imports.get("", 0) <= request.opset:  # the newest that it needs: the same up to the one asked for
        model.opset_imports[""] = request.opset
    cleanup.set_versions(model, request.opset, {ML: ML_OPSET})
    _flat_label(model)
    if len(graph.outputs) != len(answers.functions):
        found = ", ".join(value.name or "" for value in graph.outputs)
        raise ExportError(f"skl2onnx wrote the outputs {found}, not {', '.join(answers.functions)}; leave out options")
    own = list(table.blocks)
    outputs = [f"{name}_output" if name in own else name for name in answers.functions]
    cleanup.rename_all(model, "input", graph.inputs, request.input_names or own)
    cleanup.rename_all(model, "output", graph.outputs, request.output_names or outputs)
    rows = "batch" if request.dynamic_batch else len(next(iter(table.blocks.values())))
    for value, block in zip(graph.inputs, table.blocks.values(), strict=True):
        value.shape = ir.Shape([rows, block.shape[1]])
    for value in graph.outputs:
        if value.shape is not None and len(value.shape):
            value.shape = ir.Shape([rows, *value.shape[1:]])
    model.metadata_props["scikit-learn"] = describe(table.model)
    width = graph.outputs[-1].shape[-1] if graph.outputs[-1].shape is not None else None
    numbered = answers.classes == tuple(map(str, range(len(answers.classes))))  # says no more than the index does
    if answers.classes and not numbered and width in (len(answers.classes), None):
        model.metadata_props[LABELS_KEY] = json.dumps(list(answers.classes))
    if table.features:
        model.metadata_props[FEATURES_KEY] = json.dumps(list(table.features))


def _flat_label(model: ir.Model) -> None:
    """Labels as ``[rows]``: some converters write ``[rows, 1]`` or ``[1, rows]``."""
    label = model.graph.outputs[0]
    known = label.shape
    if len(model.graph.outputs) == 1 or known is None or len(known) == 1:
        return
    flat = ir.Value(name="flat_label_shape", const_value=ir.tensor(np.array([-1], np.int64), name="flat_label_shape"))
    model.graph.register_initializer(flat)
    node = ir.Node("", "Reshape", [label, flat], name="flat_label")
    model.graph.append(node)
    (new,) = node.outputs
    new.name, new.type, new.shape = "label_flat", label.type, ir.Shape([None])
    model.graph.outputs[0] = new


def _cases(
    model: ir.Model, table: Table, answers: Answers, expected: dict[str, Array], request: ExportRequest
) -> tuple[list[verify.Case], int]:
    """The sample and other rows; those whose label hangs on rounding left out, and their number."""
    rows = len(next(iter(table.blocks.values())))
    other = table.varied(next(n for n in (3, 2, 4) if n != rows) if request.dynamic_batch else rows)
    cases: list[verify.Case] = []
    left_out = 0
    for blocks, found in ((table.blocks, expected), (other, table.run(answers, other))):
        keep = np.asarray(selected(found))
        if request.dynamic_batch and not keep.all():
            if not keep.any() and cases:
                continue
            left_out += int((~keep).sum())
            keep = keep if keep.any() else ~keep
            blocks, found = ({k: v[keep] for k, v in d.items()} for d in (blocks, found))
        feeds = zip(model.graph.inputs, blocks.values(), strict=True)
        pairs = zip(model.graph.outputs, found.values(), strict=True)
        cases.append(
            verify.Case(
                {value.name or "": np.ascontiguousarray(block) for value, block in feeds},
                {value.name or "": _in_form(array, value) for value, array in pairs},
            )
        )
    return cases, left_out


def _agreement(path: Path, cases: list[verify.Case], request: ExportRequest, dtype: str) -> verify.Agreement:
    try:
        return verify.check_agreement(path, cases, request.tolerance)
    except ExportError as error:
        what = str(error).partition("; look for")[0]
        if what == str(error) or dtype == "float64":
            raise
        raise ExportError(
            f"{what}; scikit-learn computes in float64: dtype='float64' may agree, and rows off the places where trees and "
            "neighbours change"
        ) from error


def _in_form(array: Array, value: ir.Value) -> Array:
    """scikit-learn's answer in the shape and type of the file's: a binary decision value is [-s, s] there."""
    if value.dtype == ir.DataType.STRING:
        return array.astype(str).astype(object)
    count = len(value.shape) if value.shape is not None else 2
    wide = array.reshape(len(array), -1) if count == 2 else array
    width = value.shape[-1] if value.shape is not None and count == 2 else None
    if width == 2 and wide.shape[1] == 1:
        wide = np.concatenate([-wide, wide], axis=1)
    return wide.astype(value.dtype.numpy() if value.dtype is not None else np.float32)


def _notes(model: ir.Model, left_out: int) -> list[str]:
    notes = []
    nodes = list(model.graph.all_nodes())
    if any(node.op_type.startswith("TreeEnsemble") for node in nodes):
        notes.append(_TREES)
    if any(node.op_type == "SVMClassifier" and "prob_a" in node.attributes for node in nodes):
        notes.append(_SVM)
    if left_out:
        notes.append(f"rows of the comparison that have two classes level, and were left out: {left_out}")
    return notes


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the translators' warnings, prints and log lines away from the user; what matters is in the report."""
    logger, sink = logging.getLogger("skl2onnx"), io.StringIO()
    level = logger.level
    with warnings.catch_warnings(), contextlib.redirect_stdout(sink):
        warnings.simplefilter("ignore")
        logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            logger.setLevel(level)
