"""``onnxplain operators``: how each ONNX operator is differentiated, and what is refused with its reason."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from onnxplain.cli import options as o
from onnxplain.cli.application import ANSWER_NO, app, complain
from onnxplain.cli.console import console, show_json, table


@app.command()
def operators(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Part of a name; all without it.")] = None,
    as_json: o.AsJson = False,
) -> None:
    """List the ONNX operators that are known. Exit code 1: none of that name.

    onnxplain operators Resize
    """
    import onnxplain

    known = onnxplain.operators()
    if name is not None:
        part = name.lower()
        known = [entry for entry in known if part in f"{entry['domain']}::{entry['operator']}".lower()]
    if as_json:
        show_json(known)
    elif known:
        for domain in dict.fromkeys(entry["domain"] for entry in known):
            _print_operators(domain, [e for e in known if e["domain"] == domain], whole=name is not None)
        _print_refusals(known)
        count = len(known)
        console().print(f"{count} operator{'s' * (count > 1)}; 'zero': flat wherever it has a derivative")
    if not known:
        if not as_json:
            complain(f"no operator has '{name}' in its name; run 'onnxplain operators' for all")
        raise typer.Exit(ANSWER_NO)


def _print_operators(domain: str, entries: list[dict[str, Any]], whole: bool) -> None:
    """One table per domain; ``whole`` shows all opsets at which an operator changed, else the first and the last."""
    made = table(domain, "opsets", "gradient", "bias terms", "remark", shrink="remark")
    for entry in entries:
        versions = [str(v) for v in entry["versions"]]
        shown = " ".join(versions) if whole else "..".join(dict.fromkeys([*versions[:1], *versions[-1:]]))
        made.add_row(entry["operator"], shown, entry["gradient"], "yes" if entry["bias"] else "no", entry["remedy"])
    console().print(made)
    console().print("")


def _print_refusals(entries: list[dict[str, Any]]) -> None:
    rows = [(entry, refusal) for entry in entries for refusal in entry["refused"]]
    if not rows:
        return
    made = table("refused", "reason", shrink="reason")
    for entry, refusal in rows:
        domain = "" if entry["domain"] == "ai.onnx" else f"{entry['domain']}::"
        words = f'"{refusal["message"]}": ' if refusal["message"] else ""
        made.add_row(f"{domain}{entry['operator']}", words + refusal["reason"])
    console().print(made)
    console().print("")
