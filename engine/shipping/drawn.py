"""Random draws inside a file: stored as they would be drawn outside, and drawn anew for each noisy copy around.

A method that averages another one over noisy copies gives each copy a seed of its own; so what draws says how, and the
wrapper stores the draws of every copy (:func:`onnxplain.engine.shipping.copies.ship_copies`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxplain.engine.errors import OptionError
from onnxplain.engine.graph.builder import PREFIX
from onnxplain.engine.graph.shapes import dims
from onnxplain.engine.method import Plan, Subject

#: Stored draws above this many bytes are refused: a file of that size helps nobody.
MOST_BYTES = 1 << 30

#: Where a plan's memo keeps them.
DRAWN = "drawn"


@dataclass(frozen=True)
class Drawn:
    """A table of random numbers.

    Attributes:
        value: As the graph has it.
        make: From a seed to the table.
    """

    value: ir.Value
    make: Callable[[int], Any]


def drawn(plan: Plan, make: Callable[[int], Any], dtype: ir.DataType | None, what: str = "draws") -> ir.Value:
    """Store what is drawn with the seed 0.

    Args:
        plan: The graph.
        make: From a seed to the table.
        dtype: Type of the table.
        what: What there are too many of, in words.

    Raises:
        OptionError: It takes more than a gigabyte.
    """
    table = np.asarray(make(0), None if dtype is None else dtype.numpy())
    check_bytes(table.nbytes, what)
    # A name of its own: equal small constants are one value otherwise.
    value = plan.rewriter.op.constant(table, dtype, name=f"{PREFIX}/drawn")
    plan.memo.setdefault(DRAWN, []).append(Drawn(value, make))
    return value


def check_bytes(size: int, what: str) -> None:
    """Refuse tables that are too large.

    Raises:
        OptionError: They are.
    """
    if size > MOST_BYTES:
        raise OptionError(f"the {what} would take {size / 1e9:.1f} GB in the file; give fewer")


def fixed_sizes(subject: Subject, why: str = "the draws are stored in the file") -> tuple[int, ...]:
    """Sizes of one sample.

    Raises:
        OptionError: They are open.
    """
    known = dims(subject.value)
    sizes = tuple(d for d in (known or ())[1:] if isinstance(d, int))
    if known is None or len(sizes) != len(known) - 1:
        raise OptionError(
            f"{why}, and the sizes of '{subject.name}' are open; give the model's input fixed sizes first "
            "(the batch may stay open)"
        )
    return sizes
