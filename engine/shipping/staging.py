"""How many points of a path, or noisy copies, a file evaluates at a time, and by what: the batch, or a loop.

Side by side in the batch is how the Python call evaluates them: the same kernels see the same numbers, and the file
gives the call's result to the last bits. In the body of a ``Loop`` onnxruntime computes convolutions by other kernels
(its blocked ones take weights of the same graph alone), so that sums round differently, and where two numbers next to
a kink differ by less than rounding the gradient may go the other way; some providers cannot load a loop at all. But a
loop needs the memory of one point, and its size does not grow with their number.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from onnxplain.engine.errors import OptionError
from onnxplain.engine.graph.shapes import dims
from onnxplain.engine.shipping.profiles import Profile

Points = int | Literal["auto", "batched", "loop"]

#: Where a plan's memo keeps it.
STAGING = "staging"

#: Memory for the points of one sample that lie side by side: what the Python call takes for a batch by default.
BUDGET_BYTES = 1 << 30

#: The most copies of the network that a file gets before a loop takes their place: loading takes longer
#: than running where there are many.
MOST_COPIES = 4


@dataclass(frozen=True)
class Staging:
    """What was asked for, and what it is decided by.

    Attributes:
        points: ``batched``: all side by side; a number: as many, and as many copies of the network as that takes;
            ``loop``: one at a time in a ``Loop``; ``auto``: as many as fit into `BUDGET_BYTES`, in a loop where that
            takes more than `MOST_COPIES` copies and the provider has one.
        batched: Names of the model's inputs whose first axis is the batch.
        profile: What the file is for.

    Raises:
        OptionError: Neither a word that is known nor a positive number.
    """

    points: Points = "auto"
    batched: Sequence[str] = ()
    profile: Profile | None = None

    def __post_init__(self) -> None:
        number = isinstance(self.points, int) and not isinstance(self.points, bool)
        if (number and int(self.points) < 1) or (not number and self.points not in ("auto", "batched", "loop")):
            raise OptionError(
                f"points={self.points!r} is not possible; give 'auto', 'batched', 'loop', or how many points lie side by side"
            )

    def at_once(self, count: int, nodes: Iterable[ir.Node], free: bool) -> int | None:
        """How many points lie side by side; None for a loop.

        Args:
            count: How many there are.
            nodes: What is evaluated at each of them.
            free: Whether the network takes a batch of another size.
        """
        if self.points == "loop":
            return None
        most = count if free else 1
        if self.points == "batched":
            return most
        if self.points == "auto":
            most = min(most, max(1, BUDGET_BYTES // point_bytes(nodes)))
            if math.ceil(count / most) > MOST_COPIES and self.has_loops:
                return None
        else:
            most = min(most, self.points)
        return math.ceil(count / math.ceil(count / most))  # pieces of the same size

    @property
    def has_loops(self) -> bool:
        """Whether the provider has a Loop, as far as is known."""
        return self.profile is None or "Loop" not in self.profile.lacks


def point_bytes(nodes: Iterable[ir.Node]) -> int:
    """Bytes of what the nodes compute for one sample: more than a run keeps of it and of its adjoints at a time."""
    total, last = 0, 0
    for node in nodes:
        for value in node.outputs:
            known = dims(value)
            if known is not None:
                item = value.dtype.itemsize if value.dtype is not None else 4
                last = int(math.prod(d if isinstance(d, int) else 1 for d in known) * item)
            total += last  # a size that is not known is taken to be that of the node before it
    return max(total, 1)
