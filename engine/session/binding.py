"""Arrays that stay where a session computes, from one run to the next.

A run by names copies every input to the device and every result back. Where a result is the next run's input, as the
weights of a training step are, that is two copies of everything per step for nothing. Here such arrays are bound: see
https://onnxruntime.ai/docs/api/python/api_summary.html (IOBinding, OrtValue).

Guaranteed: the numbers are those of a run by names, and an array that was handed over is copied before it is bound, so
that changing it afterwards changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onnxplain.engine.session.providers import ProviderSpec, device_of
from onnxplain.engine.session.runtime import import_runtime
from onnxplain.engine.session.session import Session

Array = np.ndarray[Any, Any]


class Held:
    """An array on a session's device.

    Args:
        value: The runtime's own value, or an array where the reference evaluator runs.
    """

    def __init__(self, value: Any) -> None:
        self.value = value

    def array(self) -> Array:
        """A copy on the processor."""
        return np.array(self.value if isinstance(self.value, np.ndarray) else self.value.numpy())


class Binding:
    """Runs a session with inputs and outputs that stay on its device.

    Args:
        session: What runs.
        providers: What the session was asked for, with options, for the number of the device.

    Attributes:
        device: Kind and number of the device where arrays are held: that of the first provider that loaded.
    """

    def __init__(self, session: Session, providers: Sequence[ProviderSpec]) -> None:
        self.session = session
        self.device = device_of(session.providers, providers)

    def put(self, array: Array) -> Held:
        """Copy an array to the device."""
        if self.session.onnxruntime is None:
            return Held(np.array(array))
        kind, number = self.device
        return Held(import_runtime().OrtValue.ortvalue_from_numpy(np.array(array, order="C"), kind, number))

    def run(
        self, feeds: Mapping[str, Array | Held], outputs: Sequence[str], keep: Sequence[str] = ()
    ) -> dict[str, Array | Held]:
        """Run once.

        Args:
            feeds: Per input name an array, or what is held.
            outputs: Names to return.
            keep: Those of them that stay on the device.

        Returns:
            Arrays, and :class:`Held` for the names in ``keep``.

        Raises:
            MemoryError, SessionError: As :meth:`Session.run` does.
        """
        runtime = self.session.onnxruntime
        if runtime is None:
            plain = {n: f.array() if isinstance(f, Held) else f for n, f in feeds.items()}
            found = self.session.run(plain, outputs)
            return {n: Held(a) if n in keep else a for n, a in found.items()}
        with self.session.mapped_errors():
            bound = runtime.io_binding()
            for name, fed in feeds.items():
                if isinstance(fed, Held):
                    bound.bind_ortvalue_input(name, fed.value)
                else:
                    bound.bind_cpu_input(name, np.ascontiguousarray(fed))
            for name in outputs:
                bound.bind_output(name, *(self.device if name in keep else ("cpu", 0)))
            runtime.run_with_iobinding(bound)
            values = bound.get_outputs()
        return {n: Held(v) if n in keep else v.numpy() for n, v in zip(outputs, values, strict=True)}
