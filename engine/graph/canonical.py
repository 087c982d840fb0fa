"""Source model -> canonical graph: the form that every rule may rely on.

Nodes stand in topological order at one opset (18 unless the model needs a newer one), attributes carry
their defaults, functions are inlined (those that a plug-in has a rule for excepted), constants are
initializers, paddings are numbers, Dropout and Identity are gone, and every value has the best type and
shape that could be inferred. The model's inputs, outputs and values keep their names; its outputs keep
their values.
"""

from __future__ import annotations

import logging

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common

from onnxplain.engine.errors import ModelFileError, OnnxplainError
from onnxplain.engine.graph.captures import subgraphs, walk
from onnxplain.engine.graph.collector import uncollected
from onnxplain.engine.graph.custom import is_kept
from onnxplain.engine.graph.model import RUNTIME_IR, SourceModel
from onnxplain.engine.graph.passes.cast_like import CastLikePass
from onnxplain.engine.graph.passes.custom_operators import CustomOperatorsPass, SetFunctionsAsidePass
from onnxplain.engine.graph.passes.expand_functions import ExpandFunctionsPass
from onnxplain.engine.graph.passes.expand_training import ExpandTrainingPass
from onnxplain.engine.graph.passes.explicit_pads import ExplicitPadsPass
from onnxplain.engine.graph.passes.fold_constants import FoldConstantsPass
from onnxplain.engine.graph.passes.function_opsets import FunctionOpsetsPass
from onnxplain.engine.graph.passes.fused.table import CONTRIB
from onnxplain.engine.graph.passes.infer_shapes import InferAgainPass, InferShapesPass
from onnxplain.engine.graph.passes.inline_if import InlineIfPass
from onnxplain.engine.graph.passes.loop_states import LoopStatesPass
from onnxplain.engine.graph.passes.lower_recurrent import LowerRecurrentPass
from onnxplain.engine.graph.passes.matrix_vector import MatrixVectorPass
from onnxplain.engine.graph.passes.remove_dropout import RefuseTrainingPass, RemoveDropoutPass
from onnxplain.engine.graph.passes.remove_identity import OwnOutputsPass, RemoveIdentityPass
from onnxplain.engine.graph.passes.remove_unused import RemoveUnusedPass
from onnxplain.engine.graph.passes.resolve_sequences import DeclareSequencesPass, ResolveSequencesPass
from onnxplain.engine.graph.passes.spelt_sigmoid import SpeltSigmoidPass
from onnxplain.engine.graph.passes.spelt_softmax import SpeltSoftmaxPass
from onnxplain.engine.graph.passes.split_fused import SplitFusedPass
from onnxplain.engine.graph.passes.upgrade_opset import UpgradeOpsetPass
from onnxplain.engine.graph.passes.where_needed import (
    WhereNeededPass,
    has_bodies,
    has_constants,
    has_functions,
    is_unsorted,
)
from onnxplain.engine.graph.passes.whole_slices import WholeSlicesPass
from onnxplain.engine.graph.shapes import dims, set_dims

logging.getLogger("onnx_ir").setLevel(logging.ERROR)  # its passes log shapes that it cannot infer


#: Domains whose operators' results are inferred, by the standard or by this package's passes.
_INFERRED = frozenset({"", "ai.onnx", CONTRIB})

Functions = dict[ir.OperatorIdentifier, ir.Function]


def _passes(training: bool, aside: Functions) -> list[ir.passes.PassBase]:
    return [
        WhereNeededPass(is_unsorted, common.TopologicalSortPass()),
        common.RemoveInitializersFromInputsPass(),
        FunctionOpsetsPass(),
        WhereNeededPass(has_functions, common.InlinePass(lambda function: not is_kept(function.domain, function.name))),
        SetFunctionsAsidePass(aside),
        WhereNeededPass(has_constants, common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)),
        WholeSlicesPass(),
        InferShapesPass(),
        ExpandFunctionsPass(),
        UpgradeOpsetPass(),
        SplitFusedPass(),
        CustomOperatorsPass(aside),
        common.AddDefaultAttributesPass(),
        *(() if training else (RefuseTrainingPass(),)),
        RemoveDropoutPass(),
        ExpandTrainingPass(),
        RemoveIdentityPass(),
        RemoveUnusedPass(),
        InferAgainPass(),
        DeclareSequencesPass(),
        CastLikePass(),
        FoldConstantsPass(),
        InlineIfPass(),
        MatrixVectorPass(),
        SpeltSigmoidPass(),
        SpeltSoftmaxPass(),
        ResolveSequencesPass(),
        LowerRecurrentPass(),
        LoopStatesPass(),
        ExplicitPadsPass(),
        DeclareSequencesPass(),
        OwnOutputsPass(),
        WhereNeededPass(has_bodies, common.LiftSubgraphInitializersToMainGraphPass()),
        RemoveUnusedPass(),
        common.NameFixPass(),
    ]


@uncollected()
def canonicalise(source: SourceModel, *, training: bool = False) -> ir.Model:
    """A canonical copy of the model; the source stays as it is.

    Args:
        source: The model as read.
        training: Take nodes in training mode: their derivative is well defined, an explanation of them is not.

    Raises:
        ModelFileError: The graph is malformed.
        UnsupportedNodeError: A node can never be served (without ``training``: Dropout or BatchNormalization in training mode).
    """
    model = source.to_ir()
    _forget_declared_shapes(model)
    aside: Functions = {}
    for one in _passes(training, aside):
        try:
            one(model)
        except OnnxplainError:
            raise
        except Exception as e:  # onnx_ir wraps what a pass raises; ours come back unwrapped
            cause = e.__cause__
            if isinstance(cause, OnnxplainError):
                raise cause from None
            raise ModelFileError(
                f"{source.name}: the graph cannot be brought into canonical form "
                f"({_name(one)}: {cause or e}); check it with onnx.checker"
            ) from e
    model.functions.update(aside)
    model.ir_version = ir_version_for(model.graph.opset_imports)
    return model


def _name(one: ir.passes.PassBase) -> str:
    return type(one.general if isinstance(one, WhereNeededPass) else one).__name__


def _forget_declared_shapes(model: ir.Model) -> None:
    """Drop the shapes that the file notes for computed values; they are inferred again from the inputs.

    Files whose inputs were made dynamic by hand often still note the old batch size everywhere else, and
    a batch of 1 that is not one would turn every gradient that is summed over it wrong, without a word.
    What no inference knows, results of other domains' operators, keeps its rank and no sizes.
    Paddle's exporter calls every size that it does not know ``?``: no symbol, or height would be width.
    """
    for fed in model.graph.inputs:
        sizes = dims(fed)
        if sizes is not None and "?" in sizes:
            set_dims(fed, [None if d == "?" else d for d in sizes])
    for node in walk(model.graph):
        if node.op_type == "STFT" and "onesided" not in node.attributes:
            # The standard's inference takes a default that is left out for 0, and finds twice the bins.
            node.attributes["onesided"] = ir.AttrInt64("onesided", 1)
        known = node.domain in _INFERRED
        for value in (*node.outputs, *(v for graph in subgraphs(node) for v in graph.inputs)):
            value.shape = None if known or value.shape is None else ir.Shape([None] * len(value.shape))


def ir_version_for(opsets: dict[str, int]) -> int:
    """The oldest IR version that can carry these opsets: what the most runtimes load."""
    imports = [onnx.helper.make_opsetid(d, v) for d, v in opsets.items() if d in ("", "ai.onnx", "ai.onnx.ml")]
    return min(max(8, onnx.helper.find_min_ir_version_for(imports, ignore_unknown=True)), RUNTIME_IR)
