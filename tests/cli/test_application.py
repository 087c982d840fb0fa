"""The command as a whole: help, version, usage errors, exit codes, and what it does not import."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from command_line import call, refused

import onnxplain
from onnxplain.cli import app, application, main
from onnxplain.engine.errors import InputError, ResidualError

COMMANDS = sorted(str(c.name or c.callback.__name__) for c in app.registered_commands if c.callback)


def test_version() -> None:
    assert call("--version").stdout == f"onnxplain {onnxplain.__version__}\n"


def test_every_module_with_a_command_is_found() -> None:
    folder = Path(application.__file__).parent
    written = {path.stem for path in folder.glob("*.py") if "@app.command" in path.read_text(encoding="utf-8")}
    assert {command.callback.__name__ for command in app.registered_commands if command.callback} == written
    assert len(written) >= 14


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_eighty_columns_and_explains_every_option(command: str) -> None:
    result = call(command, "--help")
    assert result.exit_code == 0
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert "…" not in result.stdout
    assert command in {"demo", "doctor"} or f"\n onnxplain {command} " in result.stdout  # an example
    for option in typer.main.get_command(app).commands[command].params:  # type: ignore[attr-defined]
        assert option.help, f"{command} {option.name}"


def test_without_a_command_help_is_shown() -> None:
    result = call()
    assert result.exit_code == 0
    assert all(command in result.stdout for command in COMMANDS)


def test_unknown_command_and_missing_argument() -> None:
    assert "Did you mean 'explain'" in refused("explian")
    assert "MODEL" in refused("check")
    assert "INPUTS" in refused("explain", "m.onnx")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("bad input"), 2),
        (ResidualError("off by\nmuch"), 1),
        (MemoryError(), 2),
        (KeyboardInterrupt(), 130),
        (typer.Abort(), 130),
    ],
)
def test_exit_codes(error: BaseException, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise error

    assert application.guarded(fail) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == (0 if code == 130 else 1)


def test_a_defect_keeps_its_traceback() -> None:
    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        application.guarded(fail)


def test_console_script_leaves_by_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["onnxplain", "methods", "none"])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    assert capsys.readouterr().err.startswith("error: unknown method 'none'")


def test_help_needs_nothing_heavy() -> None:
    """In a process of its own: this one has imported everything."""
    heavy = ("onnx", "onnx_ir", "onnxruntime", "cv2", "matplotlib", "numpy", "torch")
    code = f"import sys, onnxplain.cli; print([name for name in {heavy!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_module_form() -> None:
    found = subprocess.run([sys.executable, "-m", "onnxplain", "--version"], capture_output=True, text=True, check=True)
    assert re.fullmatch(r"onnxplain \d+\.\d+\.\d+\n", found.stdout)
