"""Rule tables, one module per operator family. Importing a family registers its rules."""

from __future__ import annotations

import functools
import importlib

from onnxplain.engine.discover import RULE_PLUGINS, import_submodules, load_plugins


@functools.cache
def load_families() -> None:
    """Import every family of this package; the second call does nothing."""
    import_submodules(importlib.import_module(__name__))


def load_rules() -> None:
    """Import every family, then what other distributions registered; the second call does nothing."""
    load_families()
    load_plugins(RULE_PLUGINS)
