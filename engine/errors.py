"""The whole error tree. Every message says what is wrong, why, and what to do.

::

    OnnxplainError                      anything this project refuses to do
    ├── ModelError                      the file is no usable ONNX model
    │   ├── ModelFileError              not found, not ONNX, truncated, external data missing or outside the folder
    │   └── UnsupportedVersionError     opset or IR version outside the supported range
    ├── UnsupportedNodeError            an operator between input and target has no sound rule
    ├── BlockedGradientError            no differentiable path leads from the input to the target
    ├── InputError                      wrong input name, rank, dtype, NaN or infinity, unreadable picture
    ├── TargetError                     target index, output or head that the model does not have
    ├── OptionError                     unknown method, unknown option, value out of range
    ├── OutputError                     a result cannot be written where it was asked for
    ├── RuntimeMissingError             no onnxruntime, or two packages that own its folder
    ├── SessionError                    the runtime refused or failed to run the rewritten graph
    ├── RuleError                       a plug-in's rule cannot be registered, or differs from the derivative
    ├── ExportError                     a framework model cannot be exported, or the export disagrees with it
    └── ResidualError                   strict mode: a result does not prove itself within tolerance

The command line turns each of them into one or two lines on standard error; `ResidualError` means
exit code 1 (the answer is "no"), all others exit code 2 (the request or its input was bad).
"""

from __future__ import annotations


class OnnxplainError(Exception):
    """Base of everything that this package raises on purpose."""


class ModelError(OnnxplainError):
    """The model cannot be used."""


class ModelFileError(ModelError):
    """The file, or the external data it points to, cannot be read as an ONNX model."""


class UnsupportedVersionError(ModelError):
    """The opset or IR version is outside the range that is supported."""


class UnsupportedNodeError(OnnxplainError):
    """A node between input and target has no sound rule.

    Args:
        node: Name of the node (or of its first output when it has none).
        operator: ``domain::op_type``; the default domain is written without prefix.
        reason: Why the node cannot be served.
        hint: What the user can do about it.
    """

    def __init__(self, node: str, operator: str, reason: str, hint: str = "") -> None:
        self.node = node
        self.operator = operator
        self.reason = reason
        self.hint = hint
        tail = f"; {hint}" if hint else ""
        super().__init__(f"node '{node}' ({operator}): {reason}{tail}")


class BlockedGradientError(OnnxplainError):
    """No differentiable path leads from the asked-for tensors to the target."""


class InputError(OnnxplainError, ValueError):
    """An input array, picture or name does not fit the model."""


class TargetError(OnnxplainError, ValueError):
    """The target, output or head does not exist on this model."""


class OptionError(OnnxplainError, ValueError):
    """A method, option or option value does not exist."""


class OutputError(OnnxplainError):
    """A result cannot be written."""


class RuntimeMissingError(OnnxplainError):
    """onnxruntime is missing, or two packages claim its folder."""


class SessionError(OnnxplainError):
    """The runtime refused or failed to run a graph."""


class RuleError(OnnxplainError):
    """A rule that a plug-in brings cannot be registered, or is not the operator's derivative."""


class ExportError(OnnxplainError):
    """A framework model cannot be exported, or its export gives other outputs."""


class ResidualError(OnnxplainError):
    """Strict mode: a result's own check lies outside the tolerance."""
