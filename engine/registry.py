"""Named things that register themselves: methods, exporters, metrics. One class for all of them.

A registry imports its package on first use, so that one new file is all that a new entry takes, and
reads the entry points of other distributions, so that a plug-in is found without being imported here. A plug-in
that cannot be loaded is warned of, and nothing else is the worse for it.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from onnxplain.engine.discover import import_submodules, load_plugins
from onnxplain.engine.errors import OptionError

T = TypeVar("T")


class Registry(Generic[T]):
    """Entries of one kind by name.

    Args:
        kind: What an entry is called in messages ("method", "exporter").
        package: Dotted name of the package whose modules register themselves.
        group: Entry-point group from which other distributions' entries are loaded.
    """

    def __init__(self, kind: str, package: str, group: str) -> None:
        self.kind = kind
        self.package = package
        self.group = group
        self._entries: dict[str, T] = {}
        self._loaded = False

    def add(self, name: str, entry: T) -> T:
        """Register ``entry``; a second entry of the same name is an error naming both."""
        if name in self._entries:
            raise ValueError(f"{self.kind} '{name}' is registered twice: {self._entries[name]!r} and {entry!r}")
        self._entries[name] = entry
        return entry

    def discard(self, name: str) -> None:
        """Take an entry out again, as tests of plug-ins do."""
        self._entries.pop(name, None)

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator form of :meth:`add`."""
        return lambda entry: self.add(name, entry)

    def _load(self) -> None:
        if self._loaded:
            return
        import_submodules(importlib.import_module(self.package))
        load_plugins(self.group)
        self._loaded = True

    def get(self, name: str) -> T:
        """The entry of that name.

        Raises:
            OptionError: Unknown name; the message offers the nearest ones.
        """
        self._load()
        if name in self._entries:
            return self._entries[name]
        near = difflib.get_close_matches(str(name), self._entries, n=3) or sorted(self._entries)
        raise OptionError(f"unknown {self.kind} '{name}'; did you mean {', '.join(near)}?")

    def names(self) -> list[str]:
        """All names, sorted."""
        self._load()
        return sorted(self._entries)

    def __iter__(self) -> Iterator[tuple[str, T]]:
        self._load()
        return iter(sorted(self._entries.items()))
