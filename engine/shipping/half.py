"""A shipped file in half precision: weights and arithmetic in float16, inputs and outputs as they were."""

from __future__ import annotations

import onnx_ir as ir

from onnxplain.engine.errors import OptionError
from onnxplain.engine.graph.model import to_proto


def in_half_precision(model: ir.Model) -> ir.Model:
    """The model with float16 inside; what it takes and returns keeps its type.

    Adjoints underflow where they are below 6e-8: gradients of probabilities are not worth much in float16, those of
    logits usually are.

    Raises:
        OptionError: The runtime's converter is not installed, or cannot convert the graph.
    """
    try:
        from onnxruntime.transformers.float16 import convert_float_to_float16
    except ImportError:
        raise OptionError(
            "half precision needs the converter of the package onnxruntime (onnxruntime.transformers), which this "
            "runtime lacks; install onnxruntime, or leave it out"
        ) from None
    try:
        converted = convert_float_to_float16(to_proto(model), keep_io_types=True, disable_shape_infer=True)
    except Exception as error:  # the converter raises plain ValueError and Exception
        raise OptionError(f"the graph cannot be converted to half precision ({error}); leave it out") from None
    result: ir.Model = ir.from_proto(converted)
    result.metadata_props.update(model.metadata_props)
    return result
