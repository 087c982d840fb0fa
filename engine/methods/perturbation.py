"""What all methods share that alter the input and look at the score, and never differentiate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from onnxplain.engine.explanation import Array
from onnxplain.engine.method import REDUCTIONS, Method, Parts, Plan, Run, choose, reduce_channels


class Perturbation(Method):
    """The subclass gives attributions; the map is their reduction over channels."""

    walks: ClassVar[bool] = True

    reduction: str = "sum"

    def __post_init__(self) -> None:
        choose("reduction", self.reduction, REDUCTIONS)

    @property
    def forward_only(self) -> bool:
        return True

    def build(self, plan: Plan) -> None:
        """The score alone, which every graph returns."""

    def parts(
        self, run: Run, attributions: Mapping[str, Array], errors: Mapping[str, Array] | None = None, **more: Any
    ) -> Parts:
        """The result in the inputs' own precision, with its map.

        Args:
            run: The run.
            attributions: Per input, float64.
            errors: Their standard errors, where the method knows them.
            more: Further parts.
        """
        typed = {n: a.astype(run.x[n].dtype) for n, a in attributions.items()}
        saliency = None
        if len(typed) == 1:
            ((name, array),) = typed.items()
            saliency = reduce_channels(array, run.labels[name], self.reduction)
        errors = {n: a.astype(run.x[n].dtype) for n, a in (errors or {}).items()}
        more.setdefault("signed", self.reduction == "sum")
        return Parts(typed, saliency, standard_errors=errors, **more)
