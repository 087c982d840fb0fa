"""Comparisons, boolean and bitwise operators, text: derivative 0 wherever it exists, and nobody expects another.

They choose (as the condition of a Where) and count; nothing about them is reported as lost sensitivity. The one
exception reads the bits of a number as another: what depends on the number then is not told by a gradient.
"""

from __future__ import annotations

from onnxplain.engine.rules.table import no_gradient

no_gradient(
    *("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"),
    *("And", "Or", "Xor", "Not"),
    *("BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitwiseNot", "BitShift"),
    *("IsNaN", "IsInf"),
    *("StringConcat", "StringNormalizer", "StringSplit", "RegexFullMatch", "TfIdfVectorizer", "ImageDecoder"),
    reported=False,
)
no_gradient(
    "BitCast", reported=True, remedy="bits read as another type have no derivative; explain a tensor in front of it"
)
