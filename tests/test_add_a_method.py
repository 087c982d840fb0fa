"""The page on methods: its blocks run as a reader would run them, from the decorator and from an installed package."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from tiny_models import perceptron

import onnxplain as ox
from onnxplain.engine.errors import OptionError
from onnxplain.engine.method import METHODS

PAGE = Path(__file__).resolve().parent.parent / "docs" / "add-a-method.md"
BLOCKS = dict(re.findall(r"<!-- (\w+) -->\n```\w+\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL))
NEW = ("contrast", "two_points")


@pytest.fixture
def registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """What the page defines, once all its Python blocks ran; its methods are taken out again."""
    assert list(BLOCKS) == ["direct", "use", "points", "check", "entry"]
    monkeypatch.chdir(tmp_path)
    content: dict[str, Any] = {"__name__": "page"}
    try:
        for name in ("direct", "use", "points", "check"):
            exec(compile(BLOCKS[name], f"{PAGE.name}, {name}", "exec", dont_inherit=True), content)
        yield content
    finally:
        for name in NEW:
            METHODS.discard(name)


def test_no_block_is_left_out() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text.count("```python") + text.count("```toml") == len(BLOCKS)


def test_every_block_runs(registered: dict[str, Any]) -> None:
    found = {m["name"]: m for m in ox.methods()}
    assert set(NEW) <= set(found)
    assert found["contrast"]["options"] == {"reduction": "sum"}


def test_the_file_gives_what_the_call_gives(registered: dict[str, Any], tmp_path: Path) -> None:
    session = onnxruntime.InferenceSession(tmp_path / "contrast.onnx", providers=["CPUExecutionProvider"])
    x = ox.demo_input()
    e = ox.explain(ox.demo_model(), x, method="contrast", target=3)
    name = next(i.name for i in session.get_inputs() if i.name != "target")
    found = session.run(["attribution"], {name: x, "target": np.full(8, 3)})[0]
    np.testing.assert_allclose(found, next(iter(e.attributions.values())), rtol=1e-5, atol=1e-6)


def test_axioms_that_the_page_declares(registered: dict[str, Any]) -> None:
    """By hand, as the axiom tests found their methods before these two were there."""
    x, proto = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32), perceptron("Tanh")
    g = [ox.explain(proto, x, method="gradient", target=t).attributions["x"] for t in (0, 1)]
    e = ox.explain(proto, x, method="contrast", target=1)
    np.testing.assert_allclose(e.attributions["x"], (x - x.mean(axis=1, keepdims=True)) * g[1], rtol=1e-4, atol=1e-6)
    assert not e.attributions["x"][:, -1].any()
    with pytest.raises(OptionError, match="cannot be written as a file"):
        ox.compile(proto, method="two_points").ship()


def test_by_installed_entry_point(tmp_path: Path) -> None:
    """A distribution that is installed and does nothing else: its folder and its metadata on the path."""
    (tmp_path / "example_methods.py").write_text(BLOCKS["direct"])
    entries = tomllib.loads(BLOCKS["entry"])["project"]["entry-points"]["onnxplain.methods"]
    made = tmp_path / "example_methods-1.0.dist-info"
    made.mkdir()
    (made / "METADATA").write_text("Metadata-Version: 2.1\nName: example-methods\nVersion: 1.0\n")
    lines = [f"{name} = {module}" for name, module in entries.items()]
    (made / "entry_points.txt").write_text("\n".join(["[onnxplain.methods]", *lines, "bad = there_is_no_such_module"]))
    code = (
        "import sys\n"
        f"sys.path.insert(0, {str(tmp_path)!r}) if 'with' in sys.argv else None\n"
        "import onnxplain as ox\n"
        "from typer.testing import CliRunner\n"
        "from onnxplain.cli import app\n"
        "print('contrast' in [m['name'] for m in ox.methods()])\n"
        "print(CliRunner().invoke(app, ['methods', 'contrast']).output)\n"
    )
    run = subprocess.run([sys.executable, "-c", code, "with"], capture_output=True, text=True, check=True)
    assert run.stdout.startswith("True\n")
    assert "deviation from the sample's mean" in run.stdout.lower()
    # Another plug-in that is broken takes nothing with it, and is named once.
    assert run.stderr.count("plug-in 'bad' of the distribution 'example-methods' cannot be loaded") == 1
    alone = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert alone.stdout.startswith("False\n")
    assert alone.stderr == ""
