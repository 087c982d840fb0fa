"""What a verification found: one row per check, with its figures, and the nodes that a failure points at."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Verdict = Literal["pass", "fail", "undecided"]

#: Rows that say whether the gradient is the derivative; one of them has to pass.
GRADIENT_ROWS = ("gradient", "gradient in float64")


@dataclass(frozen=True)
class NodeFinding:
    """A node that disagrees with what it is checked against.

    Attributes:
        node, operator: As the file has them; for what a rule emitted, the node that computes it.
        tensor: Name of the tensor concerned.
        words: What disagrees, in a sentence.
        figures: The numbers.
    """

    node: str
    operator: str
    tensor: str
    words: str
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """One check.

    Attributes:
        name: Which one.
        verdict: ``pass``, ``fail``, or ``undecided`` where nothing can be said.
        words: The reason, in a sentence.
        figures: The numbers behind it.
        nodes: Which nodes disagree, the first one first.
    """

    name: str
    verdict: Verdict
    words: str
    figures: Mapping[str, Any] = field(default_factory=dict)
    nodes: tuple[NodeFinding, ...] = ()


@dataclass(frozen=True)
class VerifyReport:
    """The answer of :func:`onnxplain.verify`.

    Attributes:
        model: Its name.
        rows: One per check.
        provenance: What the figures depend on: model hash, versions, provider, target, seed.
    """

    model: str
    rows: tuple[Row, ...]
    provenance: Mapping[str, Any]

    @property
    def ok(self) -> bool:
        """Nothing failed, and the gradient was shown to be the derivative in at least one precision."""
        shown = any(r.verdict == "pass" for r in self.rows if r.name in GRADIENT_ROWS)
        return shown and not self.failed

    @property
    def failed(self) -> list[Row]:
        """The checks that failed."""
        return [row for row in self.rows if row.verdict == "fail"]

    @property
    def undecided(self) -> list[Row]:
        """The checks that could not be decided."""
        return [row for row in self.rows if row.verdict == "undecided"]

    def __getitem__(self, name: str) -> Row:
        """The row of that name."""
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)

    def to_dict(self) -> dict[str, Any]:
        """As plain data; numbers that are not finite are None."""
        plain: dict[str, Any] = _plain({"model": self.model, "ok": self.ok, **asdict(self)})
        return plain

    def to_json(self) -> str:
        """As one JSON document."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)

    def __str__(self) -> str:
        """One line per check."""
        lines = [f"{self.model}: {'ok' if self.ok else 'not verified'}"]
        for row in self.rows:
            lines.append(f"  {row.verdict:<10} {row.name}: {row.words}")
            lines += [f"             node '{n.node}' ({n.operator}): {n.words}" for n in row.nodes]
        return "\n".join(lines)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(v) for v in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
