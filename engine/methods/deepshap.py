"""DeepSHAP: DeepLIFT averaged over a background set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from onnxplain.engine.background import background_rows
from onnxplain.engine.explanation import Array
from onnxplain.engine.method import Run, method
from onnxplain.engine.methods.differences import DifferenceMethod
from onnxplain.engine.propagation.difference import POINTS


@method("deepshap")
class DeepShap(DifferenceMethod):
    """The mean of DeepLIFT's contributions over all samples of a background; sums to ``f(x) - mean f(r)``.

    Args:
        background: An array of samples, one a row; the path of an ``.npy`` or ``.npz`` file of them (in an
            ``.npz``, one array per subject or a single one); a dictionary of arrays by subject; or any baseline
            (:mod:`onnxplain.engine.baselines`), noise by default because there is no data to take from.
        rule, fallback, threshold, points: As in ``deeplift``.
        reduction: Of channels, for the map.
    """

    summary: ClassVar[str] = "DeepLIFT averaged over a background set, an estimate of Shapley values"
    source: ClassVar[str] = "Lundberg and Lee 2017, arXiv 1705.07874, section 4.2"
    axioms: ClassVar[frozenset[str]] = frozenset({"completeness", "dummy", "linearity"})
    quick: ClassVar[Mapping[str, Any]] = {"background": "noise:3"}

    background: Any = "noise:10"
    rule: str = "rescale"
    fallback: str = "midpoint"
    threshold: float | None = None
    points: int = POINTS
    reduction: str = "sum"

    def references(self, run: Run) -> Sequence[Mapping[str, Array]]:
        rows, _ = background_rows(self.background, run)
        return [{n: array[i] for n, array in rows.items()} for i in range(len(next(iter(rows.values()))))]

    def stored(self) -> Any:
        given = self.background
        return list(given) if isinstance(given, np.ndarray) else given
