"""Which results a file returns beside the model's own outputs: all that the method has, or those asked for.

What nobody asks for is not computed: a map alone takes no residual's sums over all adjoints.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnxplain.engine.errors import OptionError
from onnxplain.engine.method import Plan

ATTRIBUTION, SALIENCY, RESIDUAL = "attribution", "saliency", "residual"

#: All that a file can return, in its order.
RESULTS = (ATTRIBUTION, SALIENCY, RESIDUAL)

#: Where a plan's memo has them.
_WANTED = "results"


def want(plan: Plan, results: Sequence[str] | None) -> None:
    """Note what the file is to return.

    Raises:
        OptionError: An unknown name, or none at all.
    """
    names = RESULTS if results is None else (results,) if isinstance(results, str) else tuple(results)
    unknown = [name for name in names if name not in RESULTS]
    if unknown or not names:
        what = f"'{unknown[0]}' is nothing that a file returns" if unknown else "results names nothing"
        raise OptionError(f"{what}; choose from {', '.join(RESULTS)}")
    plan.memo[_WANTED] = names


def wanted(plan: Plan, name: str) -> bool:
    """Whether somebody asks for this result: always outside files."""
    return name in plan.memo.get(_WANTED, RESULTS)


def shipped(plan: Plan) -> bool:
    """Whether the graph becomes a file, which returns its results and no parts of them."""
    return _WANTED in plan.memo
