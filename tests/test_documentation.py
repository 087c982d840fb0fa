"""The README's snippets do what it says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

ROOT = Path(__file__).resolve().parent.parent


def snippet(name: str) -> str:
    """The code block behind the marker ``<!-- name -->``."""
    text = (ROOT / "README.md").read_text()
    found = re.search(rf"<!-- {name} -->\n```\w*\n(.*?)```", text, re.DOTALL)
    assert found is not None, f"the README has no block marked {name}"
    return found.group(1)


def test_python_and_its_proof() -> None:
    exec(compile(snippet("python") + snippet("proof"), "README.md", "exec"), {})


def test_shell_line_prints_its_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxplain.cli import app

    command, *printed = snippet("shell").splitlines()
    monkeypatch.chdir(ROOT)
    arguments = shlex.split(command.removeprefix("$ onnxplain "))
    arguments[arguments.index("boot.png")] = str(tmp_path / "boot.png")
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    for line in printed:
        assert line in result.output.splitlines(), f"not printed: {line!r}"
    assert (tmp_path / "boot.png").stat().st_size > 10_000


def test_files_that_the_readme_names_exist() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", (ROOT / "README.md").read_text()):
        assert (ROOT / target).exists(), f"the README links to {target}"


def test_commands_are_documented() -> None:
    from onnxplain.cli import app

    readme = (ROOT / "README.md").read_text()
    help_text = CliRunner().invoke(app, ["--help"]).output
    for name in ("explain", "check", "verify", "export", "methods", "operators", "doctor", "demo"):
        assert name in help_text
        assert f"onnxplain {name}" in readme, f"the README does not show 'onnxplain {name}'"


def test_every_method_is_in_the_readme() -> None:
    import onnxplain as ox

    section = (ROOT / "README.md").read_text().split("## Methods\n")[1].split("\n## ")[0]
    assert set(re.findall(r"`(\w+)`", section)) >= {entry["name"] for entry in ox.methods()}
