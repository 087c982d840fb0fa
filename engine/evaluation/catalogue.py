"""The metrics as data."""

from __future__ import annotations

import dataclasses
from typing import Any

from onnxplain.engine.evaluation.metric import METRICS


def metrics() -> list[dict[str, Any]]:
    """All metrics: name, summary, source, direction, options with defaults, whether they need masks."""
    return [
        {
            "name": name,
            "summary": cls.summary,
            "source": cls.source,
            "better": cls.better,
            "needs_masks": cls.needs_masks,
            "usual": cls.usual,
            "options": {f.name: f.default for f in dataclasses.fields(cls)},  # type: ignore[arg-type]
        }
        for name, cls in METRICS
    ]
