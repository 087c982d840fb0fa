"""What each execution provider runs, as data: which forms a graph for it gets, and what would fall back to the CPU.

The lists are the providers' own documentation (:file:`profiles.toml` names page and version). A profile is no
promise of the provider's: it knows operators, not every limit on their types, sizes and attributes.
"""

from __future__ import annotations

import functools
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from onnxplain.engine.errors import OptionError
from onnxplain.engine.session.providers import REFERENCE, ProviderSpec

#: Nodes that a runtime removes when it loads a model, or never runs.
_FREE = frozenset({"Constant", "Identity"})


@dataclass(frozen=True)
class Profile:
    """One provider.

    Attributes:
        name: Short name, as on the command line.
        provider: onnxruntime's name.
        source, version: Where the list stands, and of which release.
        operators: What it runs, of the standard domain; None: whatever the runtime itself runs.
        without: Results that an operator does not return there, ``MaxPool/Indices``.
        portable: Whether it needs the plain forms; False takes onnxruntime's own fastest ones.
        newest_opset: The newest opset that it reads; 0 where nothing is known.
        notes: Limits that a list of names cannot say.
    """

    name: str
    provider: str
    source: str
    version: str
    portable: bool
    operators: frozenset[str] | None = None
    without: frozenset[str] = frozenset()
    newest_opset: int = 0
    notes: tuple[str, ...] = ()

    @property
    def lacks(self) -> frozenset[str]:
        """Standard operators, and results of operators, that it does not have."""
        return self.without if self.operators is None else self.without | (_standard() - self.operators)


@dataclass(frozen=True)
class Fallback:
    """Nodes of one kind that a provider leaves to the CPU.

    Attributes:
        operator: Its name, with the result that is lacking.
        count: How many nodes.
        nodes: Names of those that are the model's own; what was added has no names.
    """

    operator: str
    count: int
    nodes: tuple[str, ...] = ()


@functools.cache
def _standard() -> frozenset[str]:
    return frozenset(s.name for s in onnx.defs.get_all_schemas() if s.domain == "")


@functools.cache
def profiles() -> dict[str, Profile]:
    """All profiles by name, in the file's order."""
    table = tomllib.loads(Path(__file__).with_name("profiles.toml").read_text("utf-8"))
    return {name: _profile(name, dict(entry)) for name, entry in table.items()}


def _profile(name: str, entry: dict[str, Any]) -> Profile:
    operators = entry.pop("operators", None)
    without, notes = frozenset(entry.pop("without", ())), tuple(entry.pop("notes", ()))
    listed = None if operators is None else frozenset(operators.split())
    return Profile(name=name, operators=listed, without=without, notes=notes, **entry)


def profile_named(name: str) -> Profile:
    """The profile of that name.

    Raises:
        OptionError: There is none.
    """
    found = profiles().get(name.lower())
    if found is None:
        raise OptionError(f"profile '{name}' is not known; choose one of {', '.join(profiles())}")
    return found


def profile_of(providers: Sequence[ProviderSpec]) -> Profile:
    """The profile of the provider that comes first; plain forms for one that has none."""
    first = providers[0] if isinstance(providers[0], str) else providers[0][0]
    if first == REFERENCE:
        return profiles()["cpu"]
    known = next((p for p in profiles().values() if p.provider == first), None)
    return known or Profile(first, first, "", "", portable=True)


def fallbacks(model: ir.Model, profile: Profile) -> list[Fallback]:
    """What of a graph the provider would leave to the CPU, most frequent first.

    Args:
        model: The graph; bodies of Loop, Scan and If are looked into.
        profile: The provider.
    """
    if profile.operators is None:
        return []
    counts: Counter[str] = Counter()
    own: dict[str, list[str]] = {}
    for node in model.graph.all_nodes():
        what = _lacking(node, profile)
        if what:
            counts[what] += 1
            own.setdefault(what, []).extend([node.name] if node.name else [])
    return [Fallback(what, count, tuple(own[what])) for what, count in counts.most_common()]


def _lacking(node: ir.Node, profile: Profile) -> str:
    """What the provider lacks for a node, or nothing."""
    assert profile.operators is not None
    if node.domain not in ("", "ai.onnx"):
        return f"{node.domain}::{node.op_type}"
    if node.op_type in _FREE:
        return ""
    if node.op_type not in profile.operators:
        return node.op_type
    second = len(node.outputs) > 1 and (node.outputs[1].uses() or node.outputs[1].is_graph_output())
    return next((w for w in sorted(profile.without) if second and w.startswith(f"{node.op_type}/")), "")


def forms_for(profile: Profile | None, portable: bool | None) -> bool:
    """Whether a file gets the plain forms.

    Args:
        profile: What it is for; None: any runtime.
        portable: What was asked for; None: what the profile needs.

    Raises:
        OptionError: Fast forms for a provider that does not compute them rightly.
    """
    if portable is None:
        return profile is None or profile.portable
    if not portable and profile is not None and profile.portable:
        fast = ", ".join(p.name for p in profiles().values() if not p.portable)
        raise OptionError(
            f"portable=False takes forms that {profile.name} is not known to compute rightly; they are for {fast}; "
            "leave it out"
        )
    return portable


def reasons(fallen: Mapping[str, int], profile: Profile) -> dict[str, dict[str, object]]:
    """Why the CPU ran what another provider was asked to run: per operator the number of nodes, and the reason.

    Args:
        fallen: Operators that the CPU ran, and how many nodes of each.
        profile: Of the provider that came first.
    """
    listed = profile.operators
    found: dict[str, dict[str, object]] = {}
    for operator, count in fallen.items():
        why = "the provider left it to the CPU: a limit on types, sizes or attributes, or arithmetic on sizes"
        if listed is not None and operator not in listed:
            why = f"{profile.provider} does not run this operator ({profile.source}, {profile.version})"
        found[operator] = {"nodes": count, "why": why}
    return found
