"""``onnxplain methods``: the attribution methods, and the options of one."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer

from onnxplain.cli import options as o
from onnxplain.cli.application import app
from onnxplain.cli.console import console, show_json, table


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="One method, with all its options.")] = None,
    as_json: o.AsJson = False,
) -> None:
    """List the methods for --method, or the options of one.

    onnxplain methods integrated_gradients
    """
    import onnxplain
    from onnxplain.engine.explanation import jsonable
    from onnxplain.engine.method import METHODS

    known = onnxplain.methods()
    if name is not None:
        METHODS.get(name)  # refuses an unknown name with the nearest ones
        known = [entry for entry in known if entry["name"] == name]
    if as_json:
        show_json(jsonable(known))
    elif name is not None:
        _show_one(known[0], meanings(METHODS.get(name).__doc__ or ""))
    else:
        made = table("method", "what it is", shrink="what it is")
        for entry in known:
            made.add_row(entry["name"], entry["summary"])
        console().print(made)
        console().print("\nonnxplain methods NAME shows the options of one")


def _show_one(entry: dict[str, Any], words: dict[str, str]) -> None:
    from rich.text import Text

    screen = console()
    screen.print(Text.assemble((entry["name"], "bold"), f": {entry['summary']}"))
    screen.print(f"source: {entry['source']}")
    screen.print(f"axioms: {', '.join(entry['axioms']) or 'none claimed'}")
    screen.print()
    if not entry["options"]:
        screen.print("no options")
        return
    made = table("option", "default", "meaning", shrink="meaning")
    for option, default in entry["options"].items():
        made.add_row(option, literal(default), words.get(option, ""))
    screen.print(made)
    screen.print("\ngiven as -O OPTION=VALUE")


def literal(value: Any) -> str:
    """A value as ``-O`` would take it."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(repr, value))}]"
    return str(value)


def meanings(docstring: str) -> dict[str, str]:
    """What a method's docstring says of each option, from its ``Args`` section."""
    _, _, section = docstring.partition("Args:\n")
    section = re.split(r"\n\s*\n", section)[0]
    found: dict[str, str] = {}
    names: list[str] = []
    margin = len(section) - len(section.lstrip(" "))
    for line in section.splitlines():
        start = re.match(rf" {{{margin}}}(\w+(?:, \w+)*): (.*)", line)
        if start:
            names = start[1].split(", ")
        for name in names:
            found[name] = f"{found.get(name, '')} {start[2] if start else line.strip()}".strip()
    # Markup for documentation tools means nothing on a terminal.
    return {name: re.sub(r":\w+:`~?([^`]*)`", r"\1", text).replace("``", "") for name, text in found.items()}
