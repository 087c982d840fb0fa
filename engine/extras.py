"""Optional packages, imported where they are needed and named where they are missing."""

from __future__ import annotations

import importlib
from typing import Any

from onnxplain.engine.errors import OptionError

#: Distribution and extra by module.
_WHERE = {
    "skimage": ("scikit-image", "superpixels"),
    "sklearn": ("scikit-learn", "superpixels"),
    "scipy": ("scipy", "evaluate"),
}


def optional(module: str, purpose: str, instead: str) -> Any:
    """A module of an optional package.

    Args:
        module: Dotted name.
        purpose: What it is needed for, as the subject of a sentence.
        instead: What can be done without it, as an imperative.

    Raises:
        OptionError: The package is not installed.
    """
    distribution, extra = _WHERE[module.partition(".")[0]]
    try:
        return importlib.import_module(module)
    except ImportError:
        raise OptionError(
            f"{purpose} needs {distribution}, which is not installed: pip install 'onnxplain[{extra}]', or {instead}"
        ) from None
