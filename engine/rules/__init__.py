"""Rule tables, one module per operator family. Importing a family registers its rules."""

from __future__ import annotations

import functools
import importlib
from importlib.metadata import entry_points

from onnxplain.engine.discover import import_submodules

#: Entry-point group under which other distributions register rules for their operators.
ENTRY_POINTS = "onnxplain.rules"


@functools.cache
def load_rules() -> None:
    """Import every family, then what other distributions registered; the second call does nothing."""
    import_submodules(importlib.import_module(__name__))
    for point in entry_points(group=ENTRY_POINTS):
        point.load()
