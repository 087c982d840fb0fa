"""One class for running a graph: by onnxruntime, or by the reference evaluator.

What ran is read back from the session: `get_available_providers()` lists what was compiled in, not
what loads, so a provider that was asked for and is not there afterwards is an error.
"""

from __future__ import annotations

import functools
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from onnxplain.engine.errors import OnnxplainError, SessionError
from onnxplain.engine.graph.builder import PREFIX
from onnxplain.engine.graph.model import to_proto
from onnxplain.engine.session.custom_ops import CustomOps, Implementations, implementations
from onnxplain.engine.session.providers import (
    REFERENCE,
    SHORT,
    ProviderSpec,
    check_available,
    missing_libraries,
    name_of,
    refusal,
    resolve,
)
from onnxplain.engine.session.runtime import import_runtime

CPU = SHORT["cpu"]

Arrays = dict[str, np.ndarray[Any, Any]]

#: Models above this size do not fit into one protobuf message and go through external data.
_PROTO_LIMIT = 1_800_000_000


#: The runtime's own way back to the CPU prints what went wrong and hides it from the caller.
_STRICT = {"enable_fallback": 0}


class OutOfTimeError(SessionError):
    """The reference evaluator took longer than it was allowed."""


#: When the reference evaluator has to be done, by the monotonic clock.
_DEADLINE: ContextVar[float] = ContextVar("deadline", default=float("inf"))


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Let the reference evaluator work no longer than that inside; looked at between two nodes.

    Past it, its runs raise :class:`OutOfTimeError`. onnxruntime cannot be stopped and is not.
    """
    token = _DEADLINE.set(min(_DEADLINE.get(), time.monotonic() + seconds))
    try:
        yield
    finally:
        _DEADLINE.reset(token)


def _in_time(run: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Run one node of the reference evaluator, unless time is over."""
    if time.monotonic() > _DEADLINE.get():
        raise OutOfTimeError("the reference evaluator is too slow for this model in the time that it is given")
    return run(*args, **kwargs)


class Session:
    """Runs one model.

    Args:
        model: The graph; it must not change afterwards.
        providers: See :func:`onnxplain.engine.session.providers.resolve`.
        threads: Threads inside an operator; 0 lets the runtime choose.
        custom_ops: What implements operators that the runtime does not have: paths of libraries, OpRun
            classes for the reference evaluator.

    Attributes:
        providers: Providers that the session really has, in order.
        absent: Providers that were asked for and did not load, and why; others of the list took their place.
        inputs, outputs: Names in the graph's order.
        threads: As given.

    Raises:
        SessionError: The runtime refuses the graph, or a provider that was asked for did not load.
    """

    def __init__(
        self,
        model: ir.Model,
        providers: str | Sequence[ProviderSpec] | None = None,
        *,
        threads: int = 0,
        custom_ops: CustomOps | None = None,
    ) -> None:
        self.inputs = [v.name or "" for v in model.graph.inputs]
        self.outputs = [v.name or "" for v in model.graph.outputs]
        self.threads = threads
        wanted = resolve(providers)
        extra = implementations(custom_ops)
        self._reference: Any = None
        self._session: Any = None
        self.absent: dict[str, str] = {}
        if wanted == [REFERENCE]:
            self._reference = _reference(model, extra)
            for node in self._reference.rt_nodes_:
                node.run = functools.partial(_in_time, node.run)
            self.providers = [REFERENCE]
            return
        runtime = import_runtime()
        check_available(wanted, runtime.get_available_providers())
        self.absent = missing_libraries(runtime, wanted)
        kept = [spec for spec in wanted if name_of(spec) not in self.absent]
        if not kept:
            raise SessionError(refusal(*next(iter(self.absent.items()))))
        self._session = _create(runtime, model, kept, threads, extra)
        self.providers = list(self._session.get_providers())
        for name in map(name_of, kept):
            if name not in self.providers:
                self.absent[name] = "its libraries, the driver or the device are missing or do not fit"
        if len(wanted) == 1 and self.absent:
            raise SessionError(refusal(*next(iter(self.absent.items()))))

    def run(self, feeds: Mapping[str, np.ndarray[Any, Any]], outputs: Sequence[str] | None = None) -> Arrays:
        """Run once.

        Args:
            feeds: Array per input name.
            outputs: Names to return; all by default.

        Raises:
            MemoryError: The runtime could not allocate memory; a smaller batch may fit.
            OutOfTimeError: The reference evaluator took longer than :func:`time_limit` allows.
            SessionError: It failed for another reason.
        """
        names = list(outputs) if outputs is not None else self.outputs
        with self.mapped_errors():
            if self._reference is not None:
                with warnings.catch_warnings(), np.errstate(all="ignore"):
                    warnings.simplefilter("ignore")
                    results = self._reference.run(names, dict(feeds))
            else:
                results = self._session.run(names, dict(feeds))
        return dict(zip(names, results, strict=True))

    @contextmanager
    def mapped_errors(self) -> Iterator[None]:
        """Whatever the runtime raises inside becomes MemoryError or SessionError."""
        try:
            yield
        except OutOfTimeError:
            raise
        except Exception as e:  # every runtime error, whatever its class
            text = str(e)
            if isinstance(e, MemoryError) or any(
                s in text.lower() for s in ("allocate memory", "bad_alloc", "out of memory")
            ):
                raise MemoryError(text) from None
            raise SessionError(f"the runtime failed on the rewritten graph: {_short(text)}") from e

    @property
    def onnxruntime(self) -> Any:
        """The runtime's own session; None where the reference evaluator runs."""
        return self._session

    @property
    def on_processor(self) -> bool:
        """Whether onnxruntime's own kernels for processors run all of it."""
        return self.providers == [CPU]

    def assignment(self) -> dict[str, int]:
        """How many nodes each provider runs, where the runtime tells (1.24 and newer); else empty."""
        counts: dict[str, int] = {}
        for provider, operators in self._assigned().items():
            counts[provider] = sum(operators.values())
        return counts

    def fallen(self) -> dict[str, int]:
        """Operators, and how many nodes of each, that the CPU runs although another provider comes first."""
        if not self.providers or self.providers[0] in (CPU, REFERENCE):
            return {}
        return {n: c for n, c in self._assigned().get(CPU, {}).items() if not n.startswith("Memcpy")}

    def _assigned(self) -> dict[str, dict[str, int]]:
        """Nodes per provider and operator."""
        describe = getattr(self._session, "get_provider_graph_assignment_info", None)
        if describe is None:
            return {}
        found: dict[str, dict[str, int]] = {}
        try:
            for part in describe():
                counts = found.setdefault(str(part.ep_name), {})
                for node in part.get_nodes():
                    counts[node.op_type] = counts.get(node.op_type, 0) + 1
            return found
        except Exception:  # the runtime refuses when recording is switched off
            return {}


def _short(text: str) -> str:
    line = text.strip().splitlines()[0] if text.strip() else "no message"
    return line if len(line) <= 300 else line[:300] + "..."


def _create(runtime: Any, model: ir.Model, providers: list[ProviderSpec], threads: int, extra: Implementations) -> Any:
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    # Reusing one arena pattern holds about twice the memory of a reverse sweep and saves no time.
    options.enable_mem_pattern = False
    extra.register(options)
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    try:
        if (
            sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None)
            < _PROTO_LIMIT
        ):
            return runtime.InferenceSession(
                to_proto(model).SerializeToString(), options, providers=providers, **_STRICT
            )
        with tempfile.TemporaryDirectory(prefix="onnxplain-") as folder:
            path = Path(folder) / "model.onnx"
            ir.save(model, path, external_data="model.data")
            return runtime.InferenceSession(str(path), options, providers=providers, **_STRICT)
    except OnnxplainError:
        raise
    except Exception as e:  # every runtime error, whatever its class
        text = str(e)
        hint = ""
        if "NOT_IMPLEMENTED" in text or "Could not find an implementation" in text:
            hint = (
                "; this runtime has no kernel for that operator and type (float64 models: use providers=['reference'])"
            )
        elif "is not a registered function/op" in text:
            hint = "; name the library that implements it with custom_ops= (--custom-ops)"
        raise SessionError(f"onnxruntime refuses the rewritten graph: {_short(text)}{hint}") from e


def _reference(model: ir.Model, extra: Implementations) -> Any:
    from onnx.reference import ReferenceEvaluator

    from onnxplain.engine.session.reference_ops import CORRECTED

    proto: onnx.ModelProto = to_proto(model)
    _name_outputs(proto.graph, "")
    try:
        return ReferenceEvaluator(proto, new_ops=[*CORRECTED, *extra.evaluators])
    except Exception as e:  # it raises many kinds for what it lacks
        raise SessionError(f"the reference evaluator refuses the graph: {_short(str(e))}") from e


def _name_outputs(graph: onnx.GraphProto, prefix: str) -> None:
    """Name results that are left out: the evaluator would take the last of them for every operand that is left out."""
    for i, node in enumerate(graph.node):
        for j, name in enumerate(node.output):
            if not name:
                node.output[j] = f"{PREFIX}/unused/{prefix}{i}/{j}"
        for attribute in node.attribute:
            for k, inner in enumerate((*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs)):
                _name_outputs(inner, f"{prefix}{i}/{attribute.name}/{k}/")
