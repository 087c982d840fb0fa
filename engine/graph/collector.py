"""Keeps Python's garbage collector out of where graphs are built.

Nodes and values refer to each other, so a graph is one large cycle, and all of it stays. While one is built,
the collector looks through the whole of it again each time it has grown by a quarter or so: work that finds
nothing, and that makes the time of building grow faster than the graph.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """No collection inside; also a decorator. Memory that is freed by reference counts is freed as ever."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
