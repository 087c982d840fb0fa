"""One method's explanations of some samples, with everything that a metric may ask about them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from onnxplain.engine import method as host
from onnxplain.engine.draws import generator
from onnxplain.engine.evaluation.scorer import Scorer
from onnxplain.engine.explanation import Array
from onnxplain.engine.places import spatial_axes

#: Explains other inputs by the same method with given targets: attributions and map.
Explain = Callable[[Array, Array], tuple[Array, Array]]


@dataclass(frozen=True)
class Origin:
    """How a case's method was configured, so that it can be run again elsewhere.

    Attributes:
        method, options: What explains.
        output, head, layout: As `compile` takes them.
    """

    method: str
    options: Mapping[str, Any]
    output: str | None = None
    head: str | None = None
    layout: str = "auto"


@dataclass
class Case:
    """What a metric measures.

    Attributes:
        scorer: The model.
        x: ``[N, ...]``: the clean inputs.
        target: ``[N]``: flat index of the explained class, fixed from the clean inputs.
        attribution: ``[N, ...]`` in the input's shape, or that of the layer for class activation maps.
        saliency: ``[N, places...]``: the map in the input's places.
        signed: Whether the map's sign means something.
        explain: The same method on other inputs.
        seed: Of random draws and of ties.
        masks: ``[N, places...]``: where the object is, if known.
        complete: The method's own residual, relative, ``[N]``; None without one.
        seconds: Time that an explanation took, per sample.
        head: The scalar that was explained; `scorer` may score another.
        origin: How the method was configured; None for maps that know nothing of the model.
    """

    scorer: Scorer
    x: Array
    target: Array
    attribution: Array
    saliency: Array
    signed: bool
    explain: Explain
    seed: int = 0
    masks: Array | None = None
    complete: Array | None = None
    seconds: float = 0.0
    head: str = "logit"
    origin: Origin | None = None
    _clean: dict[str, Array] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.x)

    @property
    def clean(self) -> Array:
        """Scores of the clean inputs, ``[N]``."""
        if "score" not in self._clean:
            self._clean["score"] = self.scorer.scores(self.x, self.target)
        return self._clean["score"]

    @property
    def exact(self) -> Case:
        """The same case, scored by the scalar that was explained: for metrics that compare sums with differences."""
        return replace(self, scorer=self.scorer.of(self.head), _clean={})

    @property
    def elementwise(self) -> bool:
        """Whether the attribution has the input's own shape, and not that of a layer."""
        return bool(self.attribution.shape == self.x.shape)

    @property
    def parts(self) -> Array:
        """Signed attribution in the input's shape, float64; of a layer's, the map, shared out among the channels."""
        if self.elementwise:
            return self.attribution.astype(np.float64)
        channels = self.x[0].size // self.count
        spread = self.over_input(self.by_place(self.saliency)).astype(np.float64) / channels
        return np.array(np.broadcast_to(spread, self.x.shape))

    @property
    def relevance(self) -> Array:
        """Signed attribution per place, ``[N, P]``: summed over channels."""
        channels = tuple(a for a in range(1, self.x.ndim) if a not in self.places)
        return self.by_place(self.parts.sum(axis=channels))

    @property
    def ranked(self) -> str:
        """For a metric's facts: which of the method's results `relevance` is."""
        return "attribution" if self.elementwise else "map"

    @property
    def places(self) -> list[int]:
        """The input's axes that the map has."""
        return list(spatial_axes(self.scorer.labels).values())

    @property
    def count(self) -> int:
        """Number of places: pixels, time steps, features."""
        return int(np.prod([self.x.shape[a] for a in self.places]))

    def by_place(self, values: Array) -> Array:
        """A map ``[N, places...]`` as rows ``[N, P]``."""
        return values.reshape(len(values), -1)

    def over_input(self, values: Array) -> Array:
        """Rows ``[B, P]`` over places in the shape of the input, of size one along other axes."""
        shape = [self.x.shape[a] if a in self.places else 1 for a in range(1, self.x.ndim)]
        return values.reshape(len(values), *shape)

    def order(self, *, absolute: bool = False) -> Array:
        """Places from the most to the least salient, ``[N, P]``; ties in an order that the seed draws.

        Args:
            absolute: Rank by magnitude; the same for maps without a sign.
        """
        rows = self.by_place(np.abs(self.saliency) if absolute else self.saliency)
        return np.stack(
            [np.lexsort((generator(self.seed, n).random(rows.shape[1]), -row)) for n, row in enumerate(rows)]
        )

    def scored(self, turns: int, alter: Callable[[Array, int, int], Array]) -> Array:
        """Scores of altered inputs, ``[N, turns]``.

        Args:
            turns: Alterations per sample.
            alter: From one clean input, its number and the turn to the altered input.
        """

        def make(samples: Array, numbers: Array) -> Array:
            return np.stack([alter(self.x[n], int(n), int(t)) for n, t in zip(samples, numbers, strict=True)])

        return self.evaluated(turns, make)

    def evaluated(
        self,
        turns: int,
        make: Callable[[Array, Array], Array],
        of: Callable[[Array, Array], Array] | None = None,
    ) -> Array:
        """Whatever is wanted of altered inputs, ``[N, turns]``; by default their scores.

        Args:
            turns: Alterations per sample.
            make: From samples' numbers ``[B]`` and turns ``[B]`` to altered inputs ``[B, ...]``, many at a time.
            of: From altered inputs and their samples' numbers to values ``[B]``.
        """
        found = np.zeros((len(self), turns))
        for samples, numbers in self._blocks(turns):
            points = make(samples, numbers).astype(self.x.dtype, copy=False)
            scored = of or (lambda given, rows: self.scorer.scores(given, self.target[rows]))
            found[samples, numbers] = scored(points, samples)
        return found

    def _blocks(self, turns: int) -> Iterator[tuple[Array, Array]]:
        block = max(1, host.STAGING_BYTES // max(1, self.x[:1].nbytes))
        pairs = np.arange(len(self) * turns)
        for first in range(0, len(pairs), block):
            part = pairs[first : first + block]
            yield part // turns, part % turns


@dataclass
class Measured:
    """What a metric found.

    Attributes:
        values: ``[N]``, float64; NaN where it is not defined for a sample.
        curves: Named curves: where on the horizontal axis ``[P]``, and values ``[N, P]``.
        facts: What else should be recorded (signed or absolute ranking, number of subsets, ...).
    """

    values: Array
    curves: dict[str, tuple[Array, Array]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
