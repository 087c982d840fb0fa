"""Tells a malformed model from a defect of this package, once something went wrong in between.

Files are read tolerantly: what no rule and no pass looks at does not matter. So a node that means nothing
may get as far as a rule, which then fails in a way of its own. Whether that is the file's fault is asked of
those who define it: the standard's checker, and the runtime that is to run the model. If neither objects,
the error is ours and is left as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import onnx
import onnx_ir as ir

from onnxplain.engine.errors import ModelFileError, OnnxplainError, RuntimeMissingError
from onnxplain.engine.graph.model import to_proto
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
        Session(model)
    except RuntimeMissingError:
        return None
    except Exception as error:  # the checker raises several kinds
        text = str(error)
        return None if any(word in text for word in _UNDERSTOOD) else _words(text)
    return None


def _words(text: str) -> str:
    """The line that says it: checkers put 'Bad node spec' and the like above it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    line = lines[0] if lines else "no reason given"
    return line if len(line) <= 200 else line[:200] + "..."
