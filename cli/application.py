"""The typer application that every command registers with, and how failures leave it.

One place decides exit codes, so that no command has to: 0 done; 1 the answer is "no"; 2 the request or
its input was bad; 130 interrupted. Whatever the package refuses, and every usage error, becomes one
``error: ...`` line on standard error; a traceback means a defect of this program.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from onnxplain import __version__
from onnxplain.engine.errors import OnnxplainError, ResidualError

BAD_REQUEST, ANSWER_NO, INTERRUPTED = 2, 1, 130


class Commands(TyperGroup):
    """The group of all commands; turns exceptions into exit codes."""

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        """Run; in standalone mode (the console script, and tests) leave by ``SystemExit``."""
        run = functools.partial(super().main, *args, **{**extra, "standalone_mode": False})
        if not standalone_mode:
            return run()
        sys.exit(guarded(run))


def guarded(run: Callable[[], Any]) -> int:
    """Run a command and return its exit code, with a line on standard error where it failed."""
    try:
        code = run()
    except OnnxplainError as error:
        complain(str(error))
        return ANSWER_NO if isinstance(error, ResidualError) else BAD_REQUEST
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except MemoryError:
        complain("not enough memory for this batch; give fewer samples at a time, or a smaller --memory")
        return BAD_REQUEST
    except Exception as error:
        usage = getattr(error, "format_message", None)  # typer's usage errors, whose base class is not public
        if usage is None:
            raise
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else "onnxplain"
        complain(f"{usage().rstrip('.')}; see '{path} --help'")
        return BAD_REQUEST
    return code if isinstance(code, int) else 0


def complain(message: str) -> None:
    """``error: ...`` on standard error, as one line."""
    sys.stderr.write("error: " + " ".join(message.split()) + "\n")


app = typer.Typer(
    name="onnxplain",
    cls=Commands,
    help="Explain the answers of any ONNX model, on the onnxruntime that serves it.",
    epilog="Try 'onnxplain demo' first: it needs no model and no network.",
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"onnxplain {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
