"""The ``onnxplain`` command: thin over the Python surface, one file per command.

A command is a module of this package that registers a function with :data:`app`; it is found by being
there. What several commands share stands beside them (``options``, ``console``, ``samples``, ...).
Guarantee: nothing heavy is imported before a command runs, so that ``onnxplain --help`` is quick.
"""

from __future__ import annotations

import sys

from onnxplain.cli.application import app, guarded
from onnxplain.engine.discover import import_submodules

__all__ = ["app", "main"]

import_submodules(sys.modules[__name__])


def main() -> None:
    """Entry point of the console script; leaves by ``SystemExit``."""
    sys.exit(guarded(app))
