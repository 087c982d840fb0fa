"""DeepLIFT: contributions of differences from a reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from onnxplain.engine.explanation import Array
from onnxplain.engine.method import Run, Variant, method
from onnxplain.engine.methods.differences import DifferenceMethod
from onnxplain.engine.paths import baseline_sets
from onnxplain.engine.propagation.difference import POINTS


@method("deeplift")
class DeepLift(DifferenceMethod):
    """Contributions ``multiplier * (x - x')`` that sum to ``f(x) - f(x')``, by a second forward pass on x'.

    Args:
        rule: ``rescale``; ``reveal_cancel``, which keeps positive and negative parts apart in front of
            activations; ``genomics_default``: that behind dense layers, and rescale behind convolutions.
        baseline: The reference x': see :mod:`onnxplain.engine.baselines`; contributions against several are
            averaged. With several inputs, a dictionary by input name; inputs that it does not name get zero.
        fallback: Where z and z' (nearly) agree, an activation's slope at their ``midpoint``, or at the ``reference``.
        threshold: ``|z - z'|`` up to which it is taken; None: as little as the type's digits allow.
        points: Between both passes, for operators that have no rule of their own (recurrent layers of open
            length, loops).
        reduction: Of channels, for the map.
    """

    summary: ClassVar[str] = "contributions of differences from a reference, summing to the change of the score"
    source: ClassVar[str] = "Shrikumar et al. 2017, arXiv 1704.02685; the modified-gradient framework, arXiv 1711.06104"
    axioms: ClassVar[frozenset[str]] = frozenset({"completeness", "dummy", "linearity", "sensitivity", "symmetry"})
    variants: ClassVar[tuple[Variant, ...]] = (
        Variant({"rule": "reveal_cancel"}, axioms),
        Variant({"rule": "genomics_default"}, axioms),
    )

    rule: str = "rescale"
    baseline: Any = "zero"
    fallback: str = "midpoint"
    threshold: float | None = None
    points: int = POINTS
    reduction: str = "sum"

    def references(self, run: Run) -> Sequence[Mapping[str, Array]]:
        return baseline_sets(self.baseline, run)

    def stored(self) -> Any:
        return self.baseline
