"""``onnxplain operators``: which ONNX operators can be differentiated, and which have full-gradient terms."""

from __future__ import annotations

from typing import Annotated

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
        made = table("operator", "gradient", "bias terms", "remark", shrink="remark")
        for entry in known:
            domain = "" if entry["domain"] == "ai.onnx" else f"{entry['domain']}::"
            bias = "yes" if entry["bias"] else "no"
            made.add_row(domain + entry["operator"], entry["gradient"], bias, entry["remedy"])
        console().print(made)
        count = len(known)
        console().print(f"\n{count} operator{'s' * (count > 1)}; 'zero': flat wherever it has a derivative")
    if not known:
        if not as_json:
            complain(f"no operator has '{name}' in its name; run 'onnxplain operators' for all")
        raise typer.Exit(ANSWER_NO)
