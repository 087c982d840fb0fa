"""Loop and Scan for the reference evaluator, which serves only part of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun

Array = np.ndarray[Any, Any]


class _WithBody(OpRun):
    """A node that runs the graph inside it once per step."""

    op_domain = ""
    body: Any
    _run_body: Any

    def need_context(self) -> bool:
        """The body may read any value of the graphs around it."""
        return True

    def _once(self, values: list[Any], context: dict[str, Any] | None, bindings: Any) -> list[Any]:
        inputs = {**(context or {}), **dict(zip(self.body.input_names, values, strict=True))}
        return list(self._run_body(inputs, bindings=bindings))


class Scan(_WithBody):
    """The evaluator refuses other axes than 0, reversed directions, no steps at all, and the form of opset 8."""

    def _run(self, *args: Any, directions: Any = None, **attributes: Any) -> tuple[Array, ...]:
        if len(args) == len(self.body.input_names):
            return self._scan(*args, **attributes)
        # Opset 8: the lengths come first, and every sample of the batch is gone through by itself.
        lengths, *whole = args
        count, kept = len(whole) - attributes["num_scan_inputs"], []
        for n in range(len(whole[0])):
            steps = None if lengths is None else int(lengths[n])
            own = [x[n] if i < count else x[n][:steps] for i, x in enumerate(whole)]
            results = self._scan(*own, **{**attributes, "scan_input_directions": directions})
            total = whole[count].shape[1]
            kept.append([y if i < count else _filled(y, total) for i, y in enumerate(results)])
        return tuple(np.stack(column) for column in zip(*kept, strict=True))

    def _scan(
        self,
        *args: Array,
        context: Any = None,
        bindings: Any = None,
        num_scan_inputs: int = 1,
        scan_input_axes: Any = None,
        scan_input_directions: Any = None,
        scan_output_axes: Any = None,
        scan_output_directions: Any = None,
        **ignored: Any,
    ) -> tuple[Array, ...]:
        count = len(args) - num_scan_inputs
        states = list(args[:count])
        sequences = []
        for i, x in enumerate(args[count:]):
            steps = np.moveaxis(x, _at(scan_input_axes, i), 0)
            sequences.append(steps[::-1] if _at(scan_input_directions, i) else steps)
        kept: list[list[Array]] = [[] for _ in self.body.output_names[count:]]
        for step in zip(*sequences, strict=True):
            results = self._once([*states, *step], context, bindings)
            states = results[:count]
            for store, value in zip(kept, results[count:], strict=True):
                store.append(value)
        for i, store in enumerate(kept):
            joined = np.stack(store[::-1] if _at(scan_output_directions, i) else store) if store else np.zeros((0,))
            states.append(np.moveaxis(joined, 0, _at(scan_output_axes, i)) if store else joined)
        return tuple(states)


def _filled(y: Array, total: int) -> Array:
    """Zeros for the steps that a shorter sequence does not have."""
    return np.concatenate([y, np.zeros((total - len(y), *y.shape[1:]), y.dtype)])


def _at(numbers: Any, index: int) -> int:
    return int(numbers[index]) if numbers is not None and index < len(numbers) else 0


class Loop(_WithBody):
    """The evaluator joins scan outputs along their own first axis, and runs no step where the condition is left out."""

    def _run(
        self, trips: Any, condition: Any, *states: Any, context: Any = None, bindings: Any = None, **ignored: Any
    ) -> tuple[Any, ...]:
        now, count = list(states), len(states)
        kept: list[list[Array]] = [[] for _ in self.body.output_names[1 + count :]]
        limit = None if trips is None else int(np.asarray(trips).reshape(-1)[0])
        going, step = condition is None or bool(np.asarray(condition).reshape(-1)[0]), 0
        while going and (limit is None or step < limit):
            flag, *results = self._once([np.asarray(step, np.int64), np.asarray(going), *now], context, bindings)
            going, step, now = bool(np.asarray(flag).reshape(-1)[0]), step + 1, results[:count]
            for store, value in zip(kept, results[count:], strict=True):
                store.append(value)
        return (*now, *(np.stack(store) if store else np.zeros((0,)) for store in kept))


CONTROL: list[type[OpRun]] = [Scan, Loop]
