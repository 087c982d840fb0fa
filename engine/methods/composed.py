"""What methods share whose rules a user may mix: the option ``composite``."""

from __future__ import annotations

from typing import Any, ClassVar

from onnxplain.engine.method import Direct, Plan
from onnxplain.engine.propagation.catalogue import Kind
from onnxplain.engine.propagation.layers import mark_layers
from onnxplain.engine.propagation.recipes import Entries, composite


class ComposedMethod(Direct):
    """A method that takes a composite; the subclass says what its rules carry back.

    Args:
        composite: Which node has which rule: a preset's name, a TOML file or entries; see docs/composites.md.
    """

    carries: ClassVar[Kind] = "gradient"

    composite: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.composite is not None:
            entries = composite(self.composite)
            entries.require(self.carries, self.name)
            object.__setattr__(self, "composite", entries)

    @property
    def entries(self) -> Entries | None:
        """The composite, once it was read."""
        return self.composite if isinstance(self.composite, Entries) else None

    def options(self) -> dict[str, Any]:
        found = super().options()
        return found if self.entries is None else {**found, "composite": self.entries.plain()}

    def place_layers(self, plan: Plan) -> None:
        """Note which layers are the first and the last ones, before the walk."""
        if self.entries is not None:
            mark_layers(list(plan.rewriter.graph), [s.value for s in plan.subjects], [plan.seed.explained])

    def describe_entries(self, plan: Plan) -> list[str]:
        """Entries that served no node, after the walk."""
        if self.entries is None or plan.adjoints is None:
            return []
        return self.entries.describe(plan.adjoints, plan.rewriter.op.opset)
