"""The model as metrics see it: scores of fixed targets at any input, in batches."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np

from onnxplain.engine.errors import OptionError
from onnxplain.engine.explanation import Array
from onnxplain.engine.heads import HEADS
from onnxplain.engine.inputs import validate_feeds
from onnxplain.engine.loading import Model
from onnxplain.engine.places import Labels, input_labels
from onnxplain.engine.rewrite import Rewriter
from onnxplain.engine.session.batching import DEFAULT_BUDGET_MIB, BatchRunner
from onnxplain.engine.session.session import Session


class Scorer:
    """Scores of chosen classes; nothing is differentiated, and int8 stays int8.

    Args:
        model: The loaded model, with one float input whose first axis is the batch.
        output: The explained output; the first float one by default.
        head: Which scalar a score is: ``probability`` (what most protocols look at), ``logit``, ...
        layout: Axes of the input.
        memory_mib: Budget of a batch.

    Attributes:
        name: The input that is altered.
        labels: Its axes.
    """

    def __init__(
        self,
        model: Model,
        output: str | None = None,
        head: str = "probability",
        layout: str = "auto",
        memory_mib: float = DEFAULT_BUDGET_MIB,
    ) -> None:
        if head not in HEADS:
            raise OptionError(f"unknown head '{head}'; choose one of {', '.join(HEADS)}")
        self.model, self.head = model, head
        self.output, self.layout, self._memory_mib = output, layout, memory_mib
        self._others: dict[str, Scorer] = {head: self}
        floats = [v for v in model.inputs if v.dtype.startswith("float") or v.dtype in ("double", "bfloat16")]
        if len(model.inputs) != 1 or len(floats) != 1:
            inputs = ", ".join(f"'{v.name}' ({v.dtype})" for v in model.inputs)
            raise OptionError(
                f"evaluation alters the model's one input of floats, and the model has {inputs}; export it with one"
            )
        self.name = floats[0].name
        rewriter = Rewriter(model.canonical, keep_quantised=True)
        self.labels: Labels = input_labels(rewriter.value(self.name), layout)
        seed = rewriter.seed(output, head, "index")  # type: ignore[arg-type]
        names = {
            "score": rewriter.add_output("score", seed.score, ("N",)),
            "explained": rewriter.add_output("explained", seed.explained, seed.explained.shape),
        }
        assert seed.index is not None
        names["index"] = rewriter.add_output("index", seed.index, ("N",))
        built = rewriter.finish()
        session = Session(built, model.providers, threads=model.threads, custom_ops=model.custom_ops)
        self._names, self._feed = names, seed.feed
        self._runner = BatchRunner(session, built, [v.name or "" for v in built.graph.inputs], memory_mib)

    def of(self, head: str) -> Scorer:
        """A scorer of the same output under another head; made once."""
        if head not in self._others:
            self._others[head] = Scorer(self.model, self.output, head, self.layout, self._memory_mib)
            self._others[head]._others = self._others
        return self._others[head]

    def scores(self, x: Array, targets: Array) -> Array:
        """Score of each row's own target, ``[N]``, float64.

        Args:
            x: ``[N, ...]``.
            targets: ``[N]``: flat indices.
        """
        wanted = self._names["score"]
        feeds = {self.name: self._typed(x), self._feed: np.asarray(targets, dtype=np.int64)}
        return np.asarray(self._runner.run(feeds, [wanted])[wanted], dtype=np.float64).reshape(-1)

    def outputs(self, x: Array) -> Array:
        """The explained output itself, ``[N, ...]``, float64: logits, probabilities, as the head says."""
        wanted = self._names["explained"]
        feeds = {self.name: self._typed(x), self._feed: np.full(len(x), -1, dtype=np.int64)}
        return np.asarray(self._runner.run(feeds, [wanted])[wanted], dtype=np.float64)

    def classes(self, x: Array) -> Array:
        """The class that the model answers, ``[N]``: flat index of the largest element."""
        wanted = self._names["index"]
        feeds = {self.name: self._typed(x), self._feed: np.full(len(x), -1, dtype=np.int64)}
        return np.asarray(self._runner.run(feeds, [wanted])[wanted], dtype=np.int64).reshape(-1)

    def checked(self, x: Any) -> Array:
        """Inputs as the model takes them.

        Raises:
            InputError: Wrong shape, type, NaN or infinity.
        """
        given: Mapping[str, Any] = x if isinstance(x, Mapping) else {self.name: x}
        return np.asarray(validate_feeds(dict(given), self.model.declared())[self.name])

    @cached_property
    def _dtype(self) -> Any:
        return self.model.declared()[self.name][0]

    def _typed(self, x: Array) -> Array:
        return np.ascontiguousarray(x).astype(self._dtype, copy=False)
