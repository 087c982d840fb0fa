"""Tells a malformed model from a defect of this package, once something went wrong in between.

Files are read tolerantly: what no rule and no pass looks at does not matter. So a node that means nothing
may get as far as a rule, which then fails in a way of its own. Whether that is the file's fault is asked of
those who define it: the standard's checker, and the runtime that is to run the model (it is run once, on
zeros). If neither objects, the error is ours and is left as it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from onnxplain.engine.errors import ModelFileError, OnnxplainError, RuntimeMissingError
from onnxplain.engine.graph.model import to_proto
from onnxplain.engine.graph.shapes import dims
from onnxplain.engine.session.session import Session

#: Models above this size are not given to the checker, which takes one message.
_LARGEST = 1 << 30

#: What a runtime says of models that it understands and cannot run.
_UNDERSTOOD = ("NOT_IMPLEMENTED", "Could not find an implementation", "is not a registered function/op")


@contextmanager
def blaming(model: ir.Model, name: str) -> Iterator[None]:
    """Turn errors of other kinds than this package's into one about the file, where the file is to blame.

    Args:
        model: The canonical model.
        name: What to call it.

    Raises:
        ModelFileError: Something failed inside, and the model is malformed.
    """
    try:
        yield
    except (OnnxplainError, MemoryError):
        raise
    except Exception as error:
        fault = fault_of(model)
        if fault is None:
            raise
        raise ModelFileError(
            f"{name}: the graph is malformed ({fault}); check it with onnx.checker, or export it again"
        ) from error


def fault_of(model: ir.Model) -> str | None:
    """What is wrong with a model, by the checker's or the runtime's word; None where both take it."""
    size = sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None)
    try:
        if size < _LARGEST:
            onnx.checker.check_model(to_proto(model), full_check=True)
        session = Session(model, threads=1)
        feeds = _zeros(model)
        if feeds is not None:
            session.run(feeds)
    except RuntimeMissingError:
        return None
    except Exception as error:  # the checker raises several kinds
        text = str(error)
        return None if any(word in text for word in _UNDERSTOOD) else _words(text)
    return None


def _zeros(model: ir.Model) -> dict[str, np.ndarray[Any, Any]] | None:
    """An input of zeros, open sizes being 2; None for inputs that are no small tensors."""
    feeds = {}
    for value in model.graph.inputs:
        known = dims(value)
        if known is None or value.dtype is None or not isinstance(value.type, ir.TensorType):
            return None
        sizes = [d if isinstance(d, int) else 2 for d in known]
        if any(d < 0 for d in sizes) or math.prod(sizes) > _LARGEST >> 6:
            return None
        feeds[value.name or ""] = np.zeros(sizes, value.dtype.numpy())
    return feeds


def _words(text: str) -> str:
    """The first line, without what this package says in front of the runtime's words."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    line = lines[0].split("rewritten graph: ")[-1] if lines else "no reason given"
    return line if len(line) <= 200 else line[:200] + "..."
