"""Finds the one onnxruntime that is installed, or says what to install.

onnxruntime and onnxruntime-gpu write into the same folder: with both installed the last one wins and
removing either breaks the other, so two owners are an error here, not a surprise later.
"""

from __future__ import annotations

import functools
import importlib
import re
import sys
from importlib.metadata import PackageNotFoundError, distributions, version
from typing import Any

from onnxplain.engine.errors import RuntimeMissingError

#: Oldest runtime that the engine's graphs are tested on.
OLDEST = (1, 19, 2)


#: Distributions of that name family that do not bring the ``onnxruntime`` folder.
_NO_RUNTIME = ("onnxruntime-extensions", "onnxruntime-genai", "onnxruntime-tools")


def owners() -> list[str]:
    """Distributions that own the ``onnxruntime`` folder, e.g. ``["onnxruntime-gpu"]``.

    Looked up by name, not by listing every file of every distribution, which takes a second.
    """
    found = set()
    for distribution in distributions():
        name = (distribution.metadata["Name"] or "").lower().replace("_", "-")
        if name == "onnxruntime" or (name.startswith("onnxruntime-") and name not in _NO_RUNTIME):
            found.add(name)
    return sorted(found)


def import_runtime() -> Any:
    """The ``onnxruntime`` module.

    Raises:
        RuntimeMissingError: None is installed, two are, it is broken, or it is too old.
    """
    if "onnxruntime" not in sys.modules:
        found = owners()
        if len(found) > 1:
            raise RuntimeMissingError(
                f"two packages own the onnxruntime folder ({', '.join(found)}), so neither works reliably; "
                f"uninstall both, then install one: pip uninstall {' '.join(found)} && pip install 'onnxplain[cpu]'"
            )
    try:
        module = importlib.import_module("onnxruntime")
    except ImportError as e:
        raise RuntimeMissingError(
            f"onnxruntime cannot be imported ({e}); install one runtime: pip install 'onnxplain[cpu]' or 'onnxplain[gpu]'"
        ) from None
    if not hasattr(module, "InferenceSession"):
        raise RuntimeMissingError(
            "the onnxruntime folder is empty or damaged (a second runtime package was removed?); "
            "reinstall it: pip install --force-reinstall onnxruntime"
        )
    if tuple(int(p) for p in re.findall(r"\d+", module.__version__)[:3]) < OLDEST:
        raise RuntimeMissingError(
            f"onnxruntime {module.__version__} is older than {'.'.join(map(str, OLDEST))}, the oldest that gives right "
            "gradients; upgrade it: pip install -U onnxruntime"
        )
    return module


def versions() -> dict[str, str]:
    """Versions of what a result depends on, for its provenance; read once, as every explanation carries them."""
    return dict(_versions())


@functools.cache
def _versions() -> dict[str, str]:
    result = {}
    for name in ("onnxplain", "onnx", "onnx-ir", "numpy", *owners()):
        try:
            result[name] = version(name)
        except PackageNotFoundError:
            continue
    return result
