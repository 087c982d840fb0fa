"""Composites as users write them: entries of "where" and "which rule", in Python, TOML or by a name.

An entry is a table with any of ``operators``, ``names``, ``first``, ``last`` (all that are there have to
hold), the name of a ``rule`` and that rule's options. The first entry that holds for a node and whose rule
knows its operator serves it; what no entry serves is left to the method.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxplain.engine.backward import Adjoints, Lookup, gradients
from onnxplain.engine.errors import OptionError
from onnxplain.engine.propagation.catalogue import RULES, Kind, make_rule
from onnxplain.engine.propagation.composite import Composite, Predicate
from onnxplain.engine.propagation.layers import first_layers, last_layers, named, operators
from onnxplain.engine.rules import load_rules
from onnxplain.engine.rules.table import GRADIENT, GradientRule, Table

_WHERE = ("operators", "names", "first", "last")

_CONV = ("Conv", "ConvTranspose")
#: Sums, averages and dense layers are left to the epsilon rule of the method, which is also the norm rule.
_REST: tuple[dict[str, Any], ...] = ({"operators": ["BatchNormalization"], "rule": "pass"},)


def _layered(convolutions: Mapping[str, Any], first: Mapping[str, Any] | None = None) -> tuple[dict[str, Any], ...]:
    entries = [{"operators": list(_CONV), **convolutions}, *_REST]
    return ({"first": 1, **first}, *entries) if first is not None else tuple(entries)


#: Composites by name, with the rules and numbers that their users know from other tools.
PRESETS: dict[str, tuple[dict[str, Any], ...]] = {
    "epsilon_plus": _layered({"rule": "z_plus"}),
    "epsilon_plus_flat": _layered({"rule": "z_plus"}, {"rule": "flat"}),
    "epsilon_alpha2_beta1": _layered({"rule": "alpha_beta", "alpha": 2.0, "beta": 1.0}),
    "epsilon_alpha2_beta1_flat": _layered({"rule": "alpha_beta", "alpha": 2.0, "beta": 1.0}, {"rule": "flat"}),
    "epsilon_gamma_box": _layered({"rule": "gamma", "gamma": 0.25}, {"operators": list(_CONV), "rule": "z_box"}),
    "excitation_backprop": ({"rule": "z_plus"}, *_REST),
}


@dataclass(frozen=True)
class Entries:
    """A composite before it knows what serves the rest.

    Attributes:
        source: What the user gave, in words: a preset's name, a file, or ``entries``.
        entries: The entries as plain data.
    """

    source: str
    entries: tuple[dict[str, Any], ...]

    def plain(self) -> Any:
        """What stands for it in a record: a preset's name, or its entries."""
        return self.source if self.source in PRESETS else [dict(entry) for entry in self.entries]

    def composite(self, fallback: Lookup = gradients, defaults: Mapping[str, Any] | None = None) -> Composite:
        """The lookup for a walk, in front of ``fallback``; ``defaults`` are options that an entry does not give."""
        return Composite([_pair(_completed(entry, defaults or {})) for entry in self.entries], fallback)

    def require(self, kind: Kind, method: str) -> None:
        """Refuse rules that carry back something else than the method does.

        Raises:
            OptionError: There are such.
        """
        for entry in self.entries:
            rule = RULES[entry["rule"]]
            if rule.kind != kind:
                fits = ", ".join(sorted(r.name for r in RULES.values() if r.kind == kind))
                raise OptionError(
                    f"{self.source}: the rule '{rule.name}' carries {rule.kind} back, and {method} carries {kind}; "
                    f"its rules are {fits}"
                )

    def describe(self, adjoints: Adjoints, opset: int) -> list[str]:
        """Entries that served no node of a walk, in words."""
        pairs = [_pair(entry) for entry in self.entries]
        served = [0] * len(pairs)
        for node in adjoints.nodes:
            for index, (where, table) in enumerate(pairs):
                if where(node) and table.find(node.domain, node.op_type, node.version(opset)) is not None:
                    served[index] += 1
                    break
        loops = any(n.op_type in ("If", "Loop", "Scan") for n in adjoints.nodes)
        return [
            f"{self.source}: entry {index} ({_words(entry)}) served no node"
            for index, (entry, count) in enumerate(zip(self.entries, served, strict=True), 1)
            if not count and not loops and self.source not in PRESETS
        ]


def composite(given: Any) -> Entries:
    """A composite by name, from a file, or from entries.

    Args:
        given: The name of a preset, the path of a TOML file, a sequence of entries, or a mapping with the
            key ``rule`` (its entries) and maybe ``base`` (a preset whose entries stand behind them).

    Raises:
        OptionError: No such preset or file, or entries that are not possible; the message names the entry.
    """
    if isinstance(given, Entries):
        return given
    if isinstance(given, (str, os.PathLike)):
        text = os.fspath(given)
        if text in PRESETS:
            return _checked(text, PRESETS[text])
        return _from_file(Path(text))
    if isinstance(given, Mapping):
        return _from_document("composite", given)
    if isinstance(given, Sequence):
        return _checked("composite", given)
    raise OptionError(
        f"composite={given!r} is not possible; give the name of a preset, a TOML file or a list of entries"
    )


def _from_file(path: Path) -> Entries:
    if path.suffix != ".toml":
        raise OptionError(f"there is no composite '{path}'; choose one of {', '.join(PRESETS)}, or give a .toml file")
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise OptionError(f"the composite {path} cannot be read: {e.strerror or e}; check the path") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise OptionError(f"the composite {path} is not TOML: {e}") from None
    return _from_document(str(path), document)


def _from_document(source: str, document: Mapping[str, Any]) -> Entries:
    unknown = sorted(set(document) - {"rule", "base"})
    if unknown:
        raise OptionError(f"{source}: unknown key '{unknown[0]}'; a composite has 'base' and [[rule]] entries")
    entries, base = document.get("rule", []), document.get("base")
    if base is not None and (not isinstance(base, str) or base not in PRESETS):
        raise OptionError(f"{source}: base={base!r} is no preset; choose one of {', '.join(PRESETS)}")
    if not isinstance(entries, Sequence) or isinstance(entries, str) or not (entries or base):
        raise OptionError(f'{source}: there is no entry; write [[rule]] with rule = "epsilon" in it, for example')
    return _checked(source, [*entries, *(PRESETS[base] if base is not None else ())])


def _checked(source: str, entries: Sequence[Any]) -> Entries:
    if not entries:
        raise OptionError(f"{source}: there is no entry; give at least one")
    found = []
    for index, entry in enumerate(entries, 1):
        try:
            if not isinstance(entry, Mapping) or not isinstance(entry.get("rule"), str):
                raise OptionError(f"it names no rule; the rules are {', '.join(sorted(RULES))}")
            _pair(entry)
        except OptionError as e:
            raise OptionError(f"{source}, entry {index}: {e}") from None
        found.append(dict(entry))
    return Entries(source, tuple(found))


def _completed(entry: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    known = RULES[entry["rule"]].options()
    return {**{k: v for k, v in defaults.items() if k in known}, **entry}


def _pair(entry: Mapping[str, Any]) -> tuple[Predicate, Table[GradientRule]]:
    options = {k: v for k, v in entry.items() if k not in (*_WHERE, "rule")}
    serves, table = make_rule(entry["rule"], options)
    holds = [serves, *_predicates(entry)]
    return (lambda node: all(one(node) for one in holds)), table


def _predicates(entry: Mapping[str, Any]) -> list[Predicate]:
    load_rules()
    found: list[Predicate] = []
    for key, make in (("operators", operators), ("names", named)):
        if key in entry:
            given = entry[key]
            given = [given] if isinstance(given, str) else given
            if not isinstance(given, Sequence) or not given or not all(isinstance(v, str) for v in given):
                raise OptionError(f"{key}={entry[key]!r} is not possible; give a list of names")
            unknown = [v for v in given if key == "operators" and ("", v) not in GRADIENT.operators()]
            if unknown:
                raise OptionError(f"there is no operator '{unknown[0]}'; see 'onnxplain operators'")
            found.append(make(*given))
    for key, place in (("first", first_layers), ("last", last_layers)):
        if key in entry:
            count = int(entry[key]) if isinstance(entry[key], (bool, int)) else 0
            if count < 1:
                raise OptionError(f"{key}={entry[key]!r} is not possible; give the number of layers, from 1")
            found.append(place(count))
    return found


def _words(entry: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in entry.items())
