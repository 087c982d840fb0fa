"""Finds what registers itself by being imported: modules of a package, and plug-ins of other distributions."""

from __future__ import annotations

import functools
import importlib
import pkgutil
import warnings
from importlib.metadata import entry_points
from types import ModuleType

#: Entry-point group under which other distributions register rules for operators.
RULE_PLUGINS = "onnxplain.rules"


def import_submodules(package: ModuleType) -> list[ModuleType]:
    """Import all direct submodules of ``package`` in alphabetical order and return them."""
    names = sorted(info.name for info in pkgutil.iter_modules(package.__path__))
    return [importlib.import_module(f"{package.__name__}.{name}") for name in names]


@functools.cache
def load_plugins(group: str) -> tuple[str, ...]:
    """Load every entry point of a group, once; gives the names of those that loaded.

    A plug-in that cannot be loaded is warned of and left out: what needs it is then refused by name, and
    everything else goes on working.
    """
    loaded = []
    for point in entry_points(group=group):
        try:
            point.load()
        except Exception as error:  # whatever somebody else's module raises
            owner = point.dist.name if point.dist is not None else "unknown"
            text = (str(error).splitlines() or [""])[0]
            warnings.warn(
                f"plug-in '{point.name}' of the distribution '{owner}' cannot be loaded ({type(error).__name__}: {text}), "
                "so what it registers is missing; update or uninstall that distribution",
                RuntimeWarning,
                stacklevel=2,
            )
        else:
            loaded.append(point.name)
    return tuple(loaded)
