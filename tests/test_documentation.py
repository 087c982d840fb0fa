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


def test_readme_links_every_page() -> None:
    readme = (ROOT / "README.md").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert f"](docs/{page.name})" in readme, f"the README does not link docs/{page.name}"


def test_options_of_the_readme_exist() -> None:
    from typer.main import get_command

    from onnxplain.cli import app

    commands = get_command(app).commands  # type: ignore[attr-defined]
    lines = re.findall(r"^(?:\$ )?onnxplain (\w+)(.*?)(?: {2,}#.*)?$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(lines) >= 10
    for name, rest in lines:
        known = {option for parameter in commands[name].params for option in parameter.opts}
        for option in re.findall(r"(?<!\S)--?[a-zA-Z][\w-]*", rest):
            assert option in known, f"'onnxplain {name}' has no {option}"


def test_commands_are_documented() -> None:
    from onnxplain.cli import app

    readme = (ROOT / "README.md").read_text()
    help_text = CliRunner().invoke(app, ["--help"]).output
    names = [command.name or command.callback.__name__ for command in app.registered_commands if command.callback]
    assert len(names) >= 14
    for name in names:
        assert name in help_text
        assert f"onnxplain {name}" in readme, f"the README does not show 'onnxplain {name}'"


def test_every_method_is_in_the_readme() -> None:
    import onnxplain as ox

    section = (ROOT / "README.md").read_text().split("## Methods\n")[1].split("\n## ")[0]
    assert set(re.findall(r"`(\w+)`", section)) >= {entry["name"] for entry in ox.methods()}
