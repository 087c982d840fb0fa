"""Small results of many layers, taken together by one node.

A runtime orders nodes depth first from the outputs, the operand that was emitted last first. Results that are
joined kind by kind (all totals, then all extremes) make it read every adjoint once per kind, long after it was
made. Operands of one node, emitted layer by layer, are computed layer by layer, last layer first: as the reverse
sweep goes, so that an adjoint is still in the cache when it is read again, and its memory is free sooner.
"""

from __future__ import annotations

from collections.abc import Hashable

import onnx_ir as ir

from onnxplain.engine.graph.builder import Builder


class Gathering:
    """Joins what is put in by one Concat, and hands it out by key.

    Args:
        op: Where to emit.
    """

    def __init__(self, op: Builder) -> None:
        self._op = op
        self._parts: dict[Hashable, list[tuple[ir.Value, int]]] = {}
        self._handed: dict[Hashable, ir.Value] | None = None

    def put(self, key: Hashable, value: ir.Value, size: int) -> None:
        """Take ``[N, 1, size]``. Layers come in forward order."""
        assert self._handed is None, "everything was handed out"
        self._parts.setdefault(key, []).append((value, size))

    def hand_out(self) -> dict[Hashable, ir.Value]:
        """Per key ``[N, 1, sum of sizes]``, in the order of the puts; the join is emitted on the first call."""
        if self._handed is None:
            self._handed = self._joined()
        return self._handed

    def _joined(self) -> dict[Hashable, ir.Value]:
        parts = [value for group in self._parts.values() for value, _ in group]
        if not parts:
            return {}
        whole = parts[0] if len(parts) == 1 else self._op.Concat(*parts, axis=2)
        if len(self._parts) == 1:
            return dict.fromkeys(self._parts, whole)
        sizes = [sum(size for _, size in group) for group in self._parts.values()]
        return dict(zip(self._parts, self._op.emit("Split", [whole, sizes], len(sizes), axis=2), strict=True))
