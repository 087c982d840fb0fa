"""Batches of any size, in chunks that fit a memory budget; samples never mix.

The size of a chunk comes from the graph's own shapes and the number of threads, not from the memory that happens
to be free; when the runtime still runs out of memory the chunk is halved and tried again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import cached_property
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxplain.engine.errors import InputError, SessionError
from onnxplain.engine.graph.shapes import dims
from onnxplain.engine.session.session import Arrays, Session

#: Default memory budget for intermediate results.
DEFAULT_BUDGET_MIB = 1024

#: What goes through a processor at a time, per thread: more falls out of its cache, and every new session has to be
#: given the memory first. Measured in docs/performance.md.
_CACHED_MIB = 32


def sample_bytes(
    model: ir.Model, feeds: Mapping[str, np.ndarray[Any, Any]], batched: AbstractSet[str] | None = None
) -> int:
    """Bytes of all intermediate tensors for one sample: what a reverse sweep may keep at the same time.

    Args:
        model: The rewritten graph.
        feeds: The inputs that bind its symbolic sizes.
        batched: Names of the inputs whose first axis is the batch; all by default.
    """
    symbols: dict[str, int] = {}
    for value in model.graph.inputs:
        array = feeds.get(value.name or "")
        for i, d in enumerate(dims(value) or ()):
            if isinstance(d, str) and array is not None and i < array.ndim:
                symbols.setdefault(d, 1 if i == 0 and (batched is None or value.name in batched) else array.shape[i])
    total, last = 0, 0.0
    for node in model.graph:
        for value in node.outputs:
            known = dims(value)
            if known is not None:
                size: float = 1
                for d in known:
                    size *= d if isinstance(d, int) else symbols.get(d, 1) if d is not None else 1
                last = size * _item_bytes(value.dtype)
            # A size that is not known is taken to be that of the node before it.
            total += int(last)
    return max(total, 1)


def _item_bytes(dtype: ir.DataType | None) -> float:
    """Bytes of one element; of a label's text, those of the reference to it."""
    if dtype == ir.DataType.STRING:
        return 8
    return dtype.itemsize if dtype is not None else 4


def chunk_size(
    model: ir.Model,
    feeds: Mapping[str, np.ndarray[Any, Any]],
    budget_mib: float,
    batched: AbstractSet[str] | None = None,
) -> int:
    """How many samples go through at a time under the budget; at least one."""
    fixed = fixed_batch(model, batched)
    if fixed is not None:
        return fixed
    if budget_mib == float("inf"):
        return 2**31
    return max(1, int(budget_mib * 2**20 // sample_bytes(model, feeds, batched)))


def fixed_batch(model: ir.Model, batched: AbstractSet[str] | None = None) -> int | None:
    """The batch size that the model was exported with, or None where it is free.

    Args:
        model: The graph.
        batched: Names of the inputs whose first axis is the batch; the first input alone by default.
    """
    inputs = model.graph.inputs[:1] if batched is None else [v for v in model.graph.inputs if v.name in batched]
    for value in inputs:
        known = dims(value)
        if known and isinstance(known[0], int):
            return known[0]
    return None


class BatchRunner:
    """Runs a session over batches of any size.

    Args:
        session: What runs.
        model: The graph of the session, for sizes.
        batched: Names of the inputs whose first axis is the batch; others are passed whole.
        budget_mib: Memory for intermediate results, in MiB.
    """

    def __init__(
        self, session: Session, model: ir.Model, batched: Sequence[str], budget_mib: float = DEFAULT_BUDGET_MIB
    ) -> None:
        self.session = session
        self.model = model
        self.batched = frozenset(batched)
        self.budget_mib = budget_mib
        self._limit: int | None = None
        self._known: dict[Any, int] = {}

    def run(self, feeds: Mapping[str, np.ndarray[Any, Any]], outputs: Sequence[str] | None = None) -> Arrays:
        """All samples, chunk by chunk; results are joined along the batch.

        Raises:
            InputError: Batched inputs of different lengths, or a batch that a fixed-batch model cannot take.
            SessionError: The runtime failed, or one sample alone does not fit into memory.
        """
        parts = [part for _, part in self.chunks(feeds, outputs)]
        if len(parts) == 1:
            return parts[0]
        single = next((name for name, array in parts[0].items() if array.ndim == 0), None)
        if single is not None:
            raise SessionError(
                f"output '{single}' is one number for all samples, which chunks of the batch cannot be joined to; "
                "give a larger memory budget, or leave that output out"
            )
        return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}

    def chunks(
        self, feeds: Mapping[str, np.ndarray[Any, Any]], outputs: Sequence[str] | None = None
    ) -> Iterator[tuple[slice, Arrays]]:
        """Each chunk's place in the batch and its results, for callers that accumulate."""
        count = self._count(feeds)
        limit = min(self._limit or 2**31, self._chunk(feeds, outputs))
        fixed = fixed_batch(self.model, self.batched)
        if fixed is not None and count % fixed:
            raise InputError(
                f"the model takes batches of exactly {fixed}, and {count} samples do not divide into those; "
                "give a multiple of it, or export the model with a dynamic batch"
            )
        start = 0
        while start < count:
            place = slice(start, min(start + limit, count))
            part = {k: v[place] if k in self.batched else v for k, v in feeds.items()}
            try:
                result = self.session.run(part, outputs)
            except MemoryError as e:
                size = place.stop - place.start
                if size == 1 or fixed is not None:
                    what = "one sample alone does" if size == 1 else f"the model's fixed batch of {size} does"
                    raise SessionError(f"{what} not fit into memory ({e}); free memory or use another device") from e
                self._limit = limit = size // 2
                continue
            yield place, result
            start = place.stop

    def _chunk(self, feeds: Mapping[str, np.ndarray[Any, Any]], outputs: Sequence[str] | None) -> int:
        """Samples at a time: what the budget allows, and on a processor no more than what is quick there."""
        names = tuple(outputs) if outputs is not None else None
        key = names, tuple((n, a.shape[n in self.batched :]) for n, a in feeds.items())
        if key not in self._known:
            budget = self.budget_mib
            if budget != float("inf") and self.session.on_processor and self._joins(names):
                budget = min(budget, max(_CACHED_MIB * (self.session.threads or os.cpu_count() or 1), self._weights))
            self._known[key] = chunk_size(self.model, feeds, budget, self.batched)
        return self._known[key]

    def _joins(self, outputs: Sequence[str] | None) -> bool:
        """Whether the graph itself says that all outputs wanted are joined along the batch."""
        batch = {known[0] for v in self.model.graph.inputs if v.name in self.batched and (known := dims(v))}
        wanted = [v for v in self.model.graph.outputs if outputs is None or v.name in outputs]
        return all((known := dims(v)) and isinstance(known[0], str) and known[0] in batch for v in wanted)

    @cached_property
    def _weights(self) -> float:
        """MiB of the weights: fewer activations than that, and reading the weights is most of the work."""
        tensors = (v.const_value for v in self.model.graph.initializers.values())
        return sum(t.nbytes for t in tensors if t is not None) / 2**20

    def _count(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> int:
        lengths = {k: len(v) for k, v in feeds.items() if k in self.batched}
        if not lengths:
            return 1  # nothing is batched: one run
        if set(lengths.values()) == {0}:
            raise InputError("the inputs hold no sample; give at least one")
        if len(set(lengths.values())) != 1:
            raise InputError(f"the inputs have different numbers of samples ({lengths}); give all of them the same")
        return next(iter(lengths.values()))
