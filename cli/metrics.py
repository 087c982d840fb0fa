"""``onnxplain metrics``: what explanations can be measured by, and the options of one measure."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from onnxplain.cli import options as o
from onnxplain.cli.application import app
from onnxplain.cli.console import console, show_json, table
from onnxplain.cli.methods import literal, meanings

#: A metric's direction in words.
_BETTER = {"higher": "higher is better", "lower": "lower is better", "none": "neither high nor low is better"}


@app.command()
def metrics(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="One metric, with all its options.")] = None,
    as_json: o.AsJson = False,
) -> None:
    """List the metrics for evaluations, or the options of one.

    onnxplain metrics sensitivity_n
    """
    import onnxplain
    from onnxplain.engine.evaluation.metric import METRICS
    from onnxplain.engine.explanation import jsonable

    known = onnxplain.metrics()
    if name is not None:
        METRICS.get(name)  # refuses an unknown name with the nearest ones
        known = [entry for entry in known if entry["name"] == name]
    if as_json:
        show_json(jsonable(known))
    elif name is not None:
        _show_one(known[0], meanings(METRICS.get(name).__doc__ or ""))
    else:
        made = table("metric", "better", "what it is", shrink="what it is")
        for entry in known:
            made.add_row(entry["name"], entry["better"], entry["summary"])
        console().print(made)
        console().print("\nonnxplain metrics NAME shows the options of one")


def _show_one(entry: dict[str, Any], words: dict[str, str]) -> None:
    from rich.text import Text

    screen = console()
    screen.print(Text.assemble((entry["name"], "bold"), f": {entry['summary']}"))
    screen.print(f"source: {entry['source']}")
    screen.print(_BETTER[entry["better"]] + ("; needs masks or boxes" if entry["needs_masks"] else ""))
    screen.print("measured unless others are named" if entry["usual"] else "measured where it is named")
    screen.print()
    if not entry["options"]:
        screen.print("no options")
        return
    made = table("option", "default", "meaning", shrink="meaning")
    for option, default in entry["options"].items():
        made.add_row(option, literal(default), words.get(option, ""))
    screen.print(made)
