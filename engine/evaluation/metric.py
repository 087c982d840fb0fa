"""What a metric is: options, a direction, and a measurement."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from onnxplain.engine.errors import OptionError
from onnxplain.engine.evaluation.case import Case, Measured
from onnxplain.engine.method import checked_options
from onnxplain.engine.registry import Registry

#: Which direction is good; ``none`` where it depends on the question.
Better = Literal["higher", "lower", "none"]


class Metric:
    """Base of all metrics; a subclass is a dataclass whose fields are its options.

    Class attributes:
        summary: One line for lists.
        source: Paper and section.
        better: Which direction is good.
        needs_masks: Whether it needs to be told where the object is.
        usual: Whether it is measured unless others are named.
    """

    name: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    source: ClassVar[str] = ""
    better: ClassVar[Better] = "none"
    needs_masks: ClassVar[bool] = False
    usual: ClassVar[bool] = False

    def measure(self, case: Case) -> Measured:
        """One value per sample.

        Raises:
            OptionError: The case does not suit the metric.
        """
        raise NotImplementedError

    def options(self) -> dict[str, Any]:
        """All options with their values."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # type: ignore[arg-type]


METRICS: Registry[type[Metric]] = Registry("metric", "onnxplain.engine.metrics", "onnxplain.metrics")


def metric(name: str) -> Any:
    """Class decorator: make a dataclass of options and register it under ``name``."""

    def register(cls: type[Metric]) -> type[Metric]:
        cls.name = name
        return METRICS.add(name, dataclass(frozen=True, kw_only=True)(cls))

    return register


def create_metric(name: str, options: Mapping[str, Any] | None = None) -> Metric:
    """A configured metric.

    Raises:
        OptionError: Unknown metric or option, or a value that it refuses.
    """
    cls = METRICS.get(name)
    return cls(**checked_options(cls, "metric", name, options or {}))


def usual_metrics() -> list[str]:
    """Names of those that are measured unless others are named."""
    return [name for name, cls in METRICS if cls.usual]


def require_masks(case: Case, name: str) -> Any:
    """The case's masks.

    Raises:
        OptionError: It has none.
    """
    if case.masks is None:
        raise OptionError(f"metric '{name}' needs to know where the object is; give masks= or boxes with the data")
    return case.masks
