"""What is known of each operator: how it is served, since which opsets, and what is refused with its reason.

The Python call, the command line and the page of the documentation show this one table; the coverage test holds
every refusal that ONNX's own suite runs into against it.
"""

from __future__ import annotations

import functools
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from onnxplain.engine.rules import load_rules
from onnxplain.engine.rules.table import BIAS, FLAT, GRADIENT

Service = Literal["rule", "body", "split", "rewritten", "zero", "refused"]
Key = tuple[str, str]

#: What passes write in simpler operators, beside recurrent nets, sequences and what is split.
_REWRITTEN: dict[Key, str] = {
    ("", "Constant"): "",
    ("", "Dropout"): "gone at inference; in training mode the mask is drawn once",
    ("", "Scatter"): "",
    ("", "Upsample"): "",
    ("ai.onnx.ml", "ZipMap"): "read as the tensor of scores that enters it, which takes its place among the outputs",
}
_QUANTISED = "differentiated straight-through, or as a float shadow; see the option 'quantisation'"


@dataclass(frozen=True)
class Refusal:
    """What is refused, and why.

    Attributes:
        operator: Its name, with domain unless that is ai.onnx.
        says: Part of the message of the error.
        why: The reason, and what to do.
        pending: Whether a rule can be written and is only missing.
        beyond_suite: Whether no test of ONNX's own suite runs into it.
    """

    operator: str
    says: str
    why: str
    pending: bool = False
    beyond_suite: bool = False

    def covers(self, operator: str, message: str) -> bool:
        """Whether this is the entry for an operator's refusal."""
        return self.operator == operator and self.says in message


@functools.cache
def refusals() -> tuple[Refusal, ...]:
    """The table of refusals, in the file's order."""
    text = Path(__file__).with_name("refusals.toml").read_text("utf-8")
    return tuple(Refusal(**entry) for entry in tomllib.loads(text)["refusal"])


def operators() -> list[dict[str, Any]]:
    """All operators that are known, sorted by domain and name.

    Returns:
        Per operator ``domain``, ``operator``, ``versions`` (opsets at which the standard changed it; empty for
        operators that are none of the standard's), ``gradient`` (how it is served), ``bias`` (whether full-gradient
        terms are defined), ``remedy`` (a remark: what to do where sensitivity is lost) and ``refused`` (what of it is
        refused: ``message`` is part of the error's, ``reason`` says why). ``gradient`` is one of

        - ``rule``: a rule of its own;
        - ``body``: the function body that the standard defines it by;
        - ``split``: fused, quantised and classical operators in terms of simpler ones;
        - ``rewritten``: another form of it, in simpler operators;
        - ``zero``: its derivative is zero wherever it exists;
        - ``refused``: always.
    """
    found = _served()
    refused: dict[Key, list[dict[str, str]]] = {}
    for refusal in refusals():
        domain, _, name = refusal.operator.rpartition("::")
        refused.setdefault((domain, name), []).append({"message": refusal.says, "reason": refusal.why})
    versions = _versions()
    return [
        {
            "domain": key[0] or "ai.onnx",
            "operator": key[1],
            "versions": versions.get(key, []),
            "gradient": found[key][0] if key in found else "refused",
            "bias": found[key][1] if key in found else False,
            "remedy": found[key][2] if key in found else "",
            "refused": refused.get(key, []),
        }
        for key in sorted({*found, *refused})
    ]


def _served() -> dict[Key, tuple[Service, bool, str]]:
    """How, whether there are bias terms, and a remark; later lines win."""
    from onnxplain.engine.graph.passes import split_fused  # noqa: F401 - registers the splitters
    from onnxplain.engine.graph.passes.expand_functions import EXPANDED
    from onnxplain.engine.graph.passes.fused.table import SPLITTERS
    from onnxplain.engine.graph.passes.integer import INTEGER
    from onnxplain.engine.graph.passes.recurrent_cells import CELLS
    from onnxplain.engine.graph.passes.resolve_sequences import HANDLERS

    load_rules()
    biased = set(BIAS.operators())
    found: dict[Key, tuple[Service, bool, str]] = {key: ("zero", False, flat.remedy) for key, flat in FLAT.items()}
    found |= dict.fromkeys(SPLITTERS, ("split", True, ""))
    found |= dict.fromkeys(INTEGER, ("split", True, _QUANTISED))
    found |= {("", name): ("rewritten", True, "") for name in (*CELLS, *HANDLERS)}
    found |= {key: ("rewritten", True, remark) for key, remark in _REWRITTEN.items()}
    found |= dict.fromkeys(EXPANDED, ("body", True, ""))
    found |= {key: ("rule", key in biased, "") for key in GRADIENT.operators()}
    return found


@functools.cache
def _versions() -> dict[Key, list[int]]:
    """Opsets at which the standard changed each operator, as the installed onnx knows them."""
    import onnx

    found: dict[Key, list[int]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        found.setdefault(("" if schema.domain == "ai.onnx" else schema.domain, schema.name), []).append(
            schema.since_version
        )
    return {key: sorted(numbers) for key, numbers in found.items()}
