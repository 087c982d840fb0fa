"""What commands print with: tables, one JSON document, and a progress bar that stays out of pipes.

Guarantees: no colour and no cursor codes where standard output is no terminal; ``--json`` puts exactly
one document on standard output, valid for any reader (numbers that JSON lacks become null).
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

#: Seconds after which work counts as long and shows a progress bar.
PATIENCE = 2.0


def console(*, stderr: bool = False) -> Console:
    """A console on the standard output of this moment; names with brackets are not markup."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


def table(*columns: str, numbers: Sequence[str] = (), shrink: str = "") -> Table:
    """A table without a frame.

    Args:
        columns: Headings.
        numbers: Those of them whose cells are aligned on the right.
        shrink: The one that gives way where the page is narrow; the others keep their cells whole.
    """
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for name in columns:
        made.add_column(name, justify="right" if name in numbers else "left", no_wrap=name != shrink, overflow="fold")
    return made


def show(*parts: RenderableType) -> None:
    """Print each part on standard output."""
    screen = console()
    for part in parts:
        screen.print(part)


def show_json(document: Any) -> None:
    """Print one JSON document."""
    typer.echo(json_text(document))


def json_text(document: Any) -> str:
    """JSON of plain data, indented; NaN and infinity become null."""
    return json.dumps(_finite(document), indent=2, ensure_ascii=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


class Steps:
    """Counts the steps of long work; the bar itself appears after :data:`PATIENCE` seconds."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.doing = total, 0, ""
        self.update: Any = None

    def begin(self, doing: str) -> None:
        """Name the step that starts now."""
        self.doing = doing
        self._tell()

    def finish(self) -> None:
        """Count one step."""
        self.done += 1
        self._tell()

    def at(self, done: int, total: int, doing: str) -> None:
        """So many of so many steps are done: for work that knows its own length."""
        self.done, self.total, self.doing = done, total, doing
        self._tell()

    def _tell(self) -> None:
        if self.update is not None:
            self.update()


@contextmanager
def progress(total: int) -> Iterator[Steps]:
    """A bar with elapsed and remaining time on standard error, for a terminal only."""
    steps = Steps(total)
    screen = console(stderr=True)
    if not screen.is_terminal:
        yield steps
        return
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=screen, transient=True)
    # One step tells nothing about how far it is: the bar then pulses.
    task = bar.add_task("", total=total if total > 1 else None)

    def update() -> None:
        total = steps.total if steps.total > 1 else None
        bar.update(task, description=steps.doing, completed=steps.done, total=total)

    steps.update = update
    timer = threading.Timer(PATIENCE, bar.start)
    timer.daemon = True
    timer.start()
    try:
        yield steps
    finally:
        timer.cancel()
        timer.join()
        bar.stop()
