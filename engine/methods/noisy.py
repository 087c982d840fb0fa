"""Any method under input noise: what all methods share that average another one's results over noisy copies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxplain.engine import method as host
from onnxplain.engine.draws import seed_of
from onnxplain.engine.errors import OptionError
from onnxplain.engine.explanation import Array, Residual
from onnxplain.engine.graph.builder import Builder
from onnxplain.engine.method import Method, Parts, Plan, Run, reduce_channels
from onnxplain.engine.noise import add_by_sample, noisy_copies, widths
from onnxplain.engine.shipping.copies import ship_copies

#: Key of the map among the arrays that are averaged.
_MAP = ("map",)

#: Arrays of one result, by ("attribution", name) or ("map",).
_Arrays = dict[tuple[str, ...], Array]


class NoisyInput(Method):
    """Mean and variance of another method's result over noisy copies; targets are the clean input's.

    The subclass names the method (`base`) and what is made of mean and variance (`combine`). A map that is
    the reduction of the attributions is made from the combined attributions; one that is not (of FullGrad, of
    class activation maps) is combined itself.
    """

    walks: ClassVar[bool] = True

    draws: int = 25
    spread: float = 0.15

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise OptionError(f"draws={self.draws} must be at least 1")
        if not 0 <= self.spread < np.inf:
            raise OptionError(f"spread={self.spread} is not possible; give a share of the input's range, such as 0.15")
        self.base()

    def base(self) -> Method:
        """The method whose results are combined."""
        raise NotImplementedError

    def combine(self, mean: Array, variance: Array) -> Array:
        """The result from the mean over noisy copies and the (biased) variance."""
        raise NotImplementedError

    def emit(self, op: Builder, mean: ir.Value, variance: ir.Value) -> ir.Value:
        """What `combine` computes, as nodes."""
        raise NotImplementedError

    @property
    def averages(self) -> bool:
        """Whether the result is the plain mean, so that it keeps its sign and has a standard error."""
        return False

    @property
    def forward_only(self) -> bool:
        return self.base().forward_only

    @property
    def needs_one_chunk(self) -> bool:
        return self.base().needs_one_chunk

    @property
    def folds_normalization(self) -> bool:
        return self.base().folds_normalization

    def build(self, plan: Plan) -> None:
        self.base().build(plan)

    def ship(self, plan: Plan) -> None:
        ship_copies(plan, self.base(), self.draws, self.spread, None if self.averages else self.emit)

    def reduce(self, run: Run) -> Parts:
        inner = self.base()
        clean = inner.reduce(run)
        # Deviations from the clean result, so that a variance is no difference of two large means.
        start = _arrays(clean)
        first = {k: np.zeros(a.shape, dtype=np.float64) for k, a in start.items()}
        second = {k: np.zeros(a.shape, dtype=np.float64) for k, a in start.items()}
        proof = _Worst(len(run.score))
        for here, samples in self._noisy_runs(run, inner):
            found = inner.reduce(here)
            proof.add(found.residual, samples)
            for key, array in _arrays(found).items():
                moved = array.astype(np.float64) - start[key][samples]
                add_by_sample(first[key], samples, moved)
                add_by_sample(second[key], samples, moved**2)
        result, errors = {}, {}
        for key, array in start.items():
            shift = first[key] / self.draws
            variance = np.maximum(second[key] / self.draws - shift**2, 0.0)
            result[key] = self.combine(array + shift, variance).astype(array.dtype)
            if self.averages and self.draws > 1:
                errors[key] = np.sqrt(variance / (self.draws - 1)).astype(array.dtype)
        return self._parts(run, inner, clean, result, errors, proof)

    def _noisy_runs(self, run: Run, inner: Method) -> Iterator[tuple[Run, Array]]:
        """The inner method's runs at noisy points, and the samples that the points belong to.

        One pass of the graph per point: as many points together as fit into memory. A method that goes
        elsewhere from there may draw at random itself: one copy of the whole batch at a time, each with a seed
        of its own, keeps the draws at different copies apart, and the same whatever the memory.
        """
        count = len(run.score)
        deviation = {n: widths(x, self.spread) for n, x in run.x.items()}
        if inner.walks or inner.needs_one_chunk:
            block = count
        else:
            one = sum(a[:1].nbytes for a in (*run.x.values(), *run.outputs.values()))
            block = max(1, host.STAGING_BYTES // max(1, one))
        for start in range(0, count * self.draws, block):
            numbers = np.arange(start, min(start + block, count * self.draws))
            samples, turns = numbers % count, numbers // count
            points = noisy_copies(run.x, deviation, samples, turns, run.seed)
            yield run.at(points, samples, seed_of(run.seed, int(turns[0]))), samples

    def _parts(self, run: Run, inner: Method, clean: Parts, result: _Arrays, errors: _Arrays, proof: _Worst) -> Parts:
        attributions = {key[1]: a for key, a in result.items() if key != _MAP}
        saliency = result.get(_MAP)
        reduction = getattr(inner, "reduction", None)
        if reduction is not None and saliency is not None and set(attributions) == set(run.x):
            ((name, array),) = attributions.items()
            saliency = reduce_channels(array, run.labels[name], reduction)
        return Parts(
            attributions,
            saliency,
            residual=proof.residual(),
            signed=clean.signed and self.averages,
            notes=clean.notes,
            standard_errors={key[1]: a for key, a in errors.items() if key != _MAP},
        )


def _arrays(parts: Parts) -> _Arrays:
    found: _Arrays = {("attribution", n): a for n, a in parts.attributions.items()}
    return found | ({} if parts.saliency is None else {_MAP: parts.saliency})


class _Worst:
    """The worst check of each sample over its noisy copies."""

    def __init__(self, count: int) -> None:
        self.absolute, self.relative = np.zeros(count), np.zeros(count)
        self.last: Residual | None = None

    def add(self, residual: Residual | None, samples: Array) -> None:
        if residual is None:
            return
        self.last = residual
        for sample, absolute, relative in zip(samples, residual.absolute, residual.relative, strict=True):
            if relative >= self.relative[sample]:
                self.absolute[sample], self.relative[sample] = absolute, relative

    def residual(self) -> Residual | None:
        if self.last is None:
            return None
        of = f"{self.last.of} (the worst noisy copy's)"
        return Residual(self.absolute, self.relative, of, self.last.tolerance)
