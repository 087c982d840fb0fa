"""What a plug-in needs to teach onnxplain an operator, and to check what it taught.

>>> from onnxplain import rules
>>> with rules.temporary():  # a plug-in registers for good; this example takes back what it did
...     @rules.elementwise("Square", domain="org.example")
...     def square(op, node):
...         return op.Mul(node.x(), 2.0)

Registered rules are found by domain, operator and version. A distribution that brings rules names the
module that registers them under the entry-point group ``onnxplain.rules``; it is then loaded wherever
onnxplain runs. ``docs/add-an-operator.md`` shows a whole plug-in.
"""

from __future__ import annotations

from onnxplain.engine.gradcheck import Gradcheck, gradcheck
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.plugins import (
    bias,
    elementwise,
    gradient,
    homogeneous,
    no_gradient,
    result,
    result_like,
    temporary,
)
from onnxplain.engine.rules.node import Primal as Node
from onnxplain.engine.rules.table import ZERO, Bias, only, zero

__all__ = [
    "ZERO",
    "Bias",
    "Builder",
    "Gradcheck",
    "Node",
    "bias",
    "elementwise",
    "gradcheck",
    "gradient",
    "homogeneous",
    "no_gradient",
    "only",
    "result",
    "result_like",
    "temporary",
    "zero",
]
