"""Comparisons, boolean and bitwise operators: derivative 0 wherever it exists, and nobody expects another.

They choose (as the condition of a Where) and count; nothing about them is reported as lost sensitivity.
"""

from __future__ import annotations

from onnxplain.engine.rules.table import no_gradient

no_gradient(
    *("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"),
    *("And", "Or", "Xor", "Not"),
    *("BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitwiseNot", "BitShift"),
    *("IsNaN", "IsInf"),
    reported=False,
)
