"""The functions that a user types; ``onnxplain.explain`` and its kin."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, overload

from onnxplain.engine.explainer import CompiledExplainer
from onnxplain.engine.explanation import Explanation
from onnxplain.engine.graph.model import ModelSource
from onnxplain.engine.loading import Model, load
from onnxplain.engine.method import METHODS, create
from onnxplain.engine.session.batching import DEFAULT_BUDGET_MIB
from onnxplain.engine.session.custom_ops import CustomOps
from onnxplain.engine.session.providers import ProviderSpec
from onnxplain.engine.targets import Targets


def compile(  # noqa: A001 - the name of the contract
    model: ModelSource | Model,
    *,
    method: str = "fullgrad",
    output: str | None = None,
    head: str | None = None,
    wrt: str | Sequence[str] | None = None,
    layout: str = "auto",
    providers: str | Sequence[ProviderSpec] | None = None,
    threads: int | None = None,
    memory_mib: float = DEFAULT_BUDGET_MIB,
    quantisation: str = "straight_through",
    custom_ops: CustomOps | None = None,
    profile: str | None = None,
    **options: Any,
) -> CompiledExplainer:
    """Rewrite once and open one session, for many calls.

    Args:
        model: Path, bytes, proto or loaded model.
        method: Name from :func:`methods`.
        output, head, wrt, layout, providers, memory_mib, quantisation, custom_ops, profile: See
            :class:`CompiledExplainer`.
        threads: Threads inside an operator; 0 lets the runtime choose; by default those of a loaded model, else 0.
        options: The method's own.

    Raises:
        ModelError: The file cannot be used.
        OptionError: Unknown method, option or value.
        UnsupportedNodeError: A node between input and target has no sound rule.
        BlockedGradientError: No differentiable path leads from the input to the target.
        SessionError: The runtime refuses the rewritten graph.
        RuntimeMissingError: No usable onnxruntime.
    """
    configured = create(method, options)
    loaded = load(model, providers=providers, threads=threads or 0, custom_ops=custom_ops)
    return CompiledExplainer(
        loaded, configured, output=output, head=head, wrt=wrt, layout=layout, providers=providers, memory_mib=memory_mib,
        threads=threads, quantisation=quantisation, custom_ops=custom_ops, profile=profile,
    )  # fmt: skip


@overload
def explain(model: ModelSource | Model, x: Any, *, target: Targets, **options: Any) -> list[Explanation]: ...


@overload
def explain(
    model: ModelSource | Model,
    x: Any,
    *,
    method: str = "fullgrad",
    target: Any = None,
    output: str | None = None,
    head: str | None = None,
    wrt: str | Sequence[str] | None = None,
    layout: str = "auto",
    providers: str | Sequence[ProviderSpec] | None = None,
    threads: int | None = None,
    memory_mib: float = DEFAULT_BUDGET_MIB,
    quantisation: str = "straight_through",
    custom_ops: CustomOps | None = None,
    profile: str | None = None,
    seed: int = 0,
    strict: bool = False,
    **options: Any,
) -> Explanation: ...


def explain(
    model: ModelSource | Model,
    x: Any,
    *,
    method: str = "fullgrad",
    target: Any = None,
    output: str | None = None,
    head: str | None = None,
    wrt: str | Sequence[str] | None = None,
    layout: str = "auto",
    providers: str | Sequence[ProviderSpec] | None = None,
    threads: int | None = None,
    memory_mib: float = DEFAULT_BUDGET_MIB,
    quantisation: str = "straight_through",
    custom_ops: CustomOps | None = None,
    profile: str | None = None,
    seed: int = 0,
    strict: bool = False,
    **options: Any,
) -> Explanation | list[Explanation]:
    """Explain a batch: :func:`compile`, then one call.

    Args:
        model: Path, bytes, proto or loaded model.
        x: Array, batch first, or ``{input name: array}``.
        target: Class index, one per sample, tuple index, ``"argmax"`` or a ``Target``; by default the
            largest element of each sample's output. Several (``Target.top_k(3)``, or a list of ``Target``)
            give a list of explanations, one per target.
        seed: Of random draws.
        strict: Raise when the result does not prove itself.
        method, output, head, wrt, layout, providers, threads, memory_mib, quantisation, custom_ops, profile,
            options: See :func:`compile`.

    Raises:
        As :func:`compile` and :meth:`CompiledExplainer.__call__`.
    """
    explainer = CompiledExplainer(
        load(model, providers=providers, threads=threads or 0, custom_ops=custom_ops), create(method, options),
        output=output, head=head, wrt=wrt, layout=layout, providers=providers, memory_mib=memory_mib, threads=threads,
        quantisation=quantisation, custom_ops=custom_ops, profile=profile, lazily=True,
    )  # fmt: skip
    found: Explanation | list[Explanation] = explainer(x, target=target, seed=seed, strict=strict)
    return found


def methods() -> list[dict[str, Any]]:
    """All methods as data: name, summary, source, options with defaults, axioms, options for a quick look."""
    return [
        {
            "name": name,
            "summary": cls.summary,
            "source": cls.source,
            "options": {f.name: _default(f) for f in dataclasses.fields(cls)},  # type: ignore[arg-type]
            "axioms": sorted(cls.axioms),
            "variants": [{"options": dict(v.options), "axioms": sorted(v.axioms)} for v in cls.variants],
            "quick": dict(cls.quick),
        }
        for name, cls in METHODS
    ]


def _default(field: Any) -> Any:
    return field.default if field.default is not dataclasses.MISSING else field.default_factory()
