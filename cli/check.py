"""``onnxplain check``: can this model be explained? All obstacles at once, without running it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onnxplain.cli import options as o
from onnxplain.cli.application import ANSWER_NO, app
from onnxplain.cli.console import console, show_json, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnxplain.engine.check import CheckReport, Obstacle
    from onnxplain.engine.shipping.profiles import Fallback


@app.command()
def check(
    model: o.ModelFile,
    output: o.Output = None,
    wrt: o.Wrt = None,
    profile: Annotated[
        str | None,
        typer.Option(
            "--provider-profile",
            metavar="NAME",
            show_default=False,
            help="Also say what a file for cpu, cuda, tensorrt, openvino, coreml or web would leave to the CPU.",
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            "-m",
            metavar="NAME",
            show_default=False,
            help="Ask about this method, and what else it refuses; a file computes fullgrad by default.",
        ),
    ] = None,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
) -> None:
    """Say whether a model can be explained, and what stands in the way. Exit code 0: yes, 1: no.

    onnxplain check net.onnx --provider-profile tensorrt
    """
    import onnxplain
    from onnxplain.engine.method import METHODS

    if method is not None:
        METHODS.get(method)  # refuses an unknown name, with a profile or without
    report = onnxplain.check(model, target=output, wrt=wrt or None, profile=profile, method=method)
    if as_json:
        show_json({"model": str(model), **report.to_dict()})
    elif not quiet:
        show_report(report, model)
    if not report.ok:
        raise typer.Exit(ANSWER_NO)


def show_report(report: CheckReport, model: Path) -> None:
    """Print the report, the verdict last, where a reader looks for it."""
    from rich.text import Text

    screen = console()
    facts = {
        "model": f"{model.name}, {report.nodes} nodes, opset {report.opset[0]}"
        + (f" (rewritten at {report.opset[1]})" if report.opset[1] != report.opset[0] else ""),
        "from": ", ".join(report.wrt) or "-",
        "to": report.output + (f", which ends in {report.head}" if report.head else ""),
        "open sizes": "; ".join(f"{n}: {', '.join(sizes)}" for n, sizes in report.dynamic.items() if sizes) or "none",
    }
    if report.quantised:
        facts["quantised"] = "yes; gradients pass its rounding straight through, and results say so"
    made = table("", "", shrink="")
    made.show_header = False
    for name, text in facts.items():
        made.add_row(Text(name, style="bold"), text)
    screen.print(made)
    screen.print()
    if report.operators:
        _show_operators(report)
    _show_places("in the way", report.obstacles)
    _show_places("the gradient ends at", report.blocked)
    _show_places("no full-gradient terms at", report.incomplete)
    for note in report.notes:
        screen.print(f"note: {note}", style="dim")
    if report.profile and report.ok:
        show_fallbacks(report.fallbacks, report.profile)
    screen.print(Text.assemble(("ok: ", "bold green") if report.ok else ("no: ", "bold red"), _verdict(report)))


def _verdict(report: CheckReport) -> str:
    if report.problem:
        return report.problem
    if not report.ok:
        count, whom = len(report.obstacles), report.method or "an explanation"
        return f"{count} node{'s' * (count > 1)} in the way of {whom}"
    if not all(o.gradient for o in report.operators):
        return f"{report.method} can be computed, without the rules that are missing above"
    part = ", except for the part behind the nodes named above" if report.blocked else ""
    terms = "; full-gradient terms are not defined at the nodes named above" if report.incomplete else ""
    return f"every operator on the way has a rule{part}{terms}"


def _show_operators(report: CheckReport) -> None:
    from rich.text import Text

    made = table("operator", "nodes", "gradient", "bias terms", numbers=("nodes",), shrink="operator")
    for status in report.operators:
        gradient = Text("rule", style="green") if status.gradient else Text("MISSING", style="bold red")
        made.add_row(status.operator, str(status.count), gradient, "yes" if status.bias else "no")
    console().print(made)
    console().print()


def _show_places(title: str, places: list[Obstacle]) -> None:
    screen = console()
    for place in places:
        screen.print(f"{title}: {place.node} ({place.operator}): {place.reason}; {place.remedy}", style="yellow")
    if places:
        screen.print()


def show_fallbacks(found: Sequence[Fallback], name: str) -> None:
    """Print what a provider would leave to the CPU, and where that is known from."""
    from onnxplain.engine.shipping.profiles import profile_named

    screen, profile = console(), profile_named(name)
    for entry in found:
        own = f" ({', '.join(entry.nodes[:3])}{', ...' if len(entry.nodes) > 3 else ''})" if entry.nodes else ""
        screen.print(f"falls back to the CPU: {entry.operator} x {entry.count}{own}", style="yellow")
    if not found:
        screen.print(f"on {profile.provider}: no operator falls back to the CPU")
    screen.print(f"as told by {profile.source}, {profile.version}", style="dim")
    for note in profile.notes:
        screen.print(f"note: {note}", style="dim")
    screen.print()
