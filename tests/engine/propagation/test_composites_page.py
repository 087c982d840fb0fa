"""What docs/composites.md shows does what it says."""

from __future__ import annotations

import re
from pathlib import Path

import onnxplain as ox
from onnxplain.engine.propagation.recipes import PRESETS, composite

PAGE = Path(__file__).parents[3] / "docs" / "composites.md"


def snippet(name: str) -> str:
    found = re.search(rf"<!-- {name} -->\n```\w*\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None, f"the page has no block marked {name}"
    return found.group(1)


def test_python() -> None:
    exec(compile(snippet("python"), PAGE.name, "exec"), {})
    exec(compile(snippet("gradients"), PAGE.name, "exec"), {})


def test_toml(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(snippet("toml"))
    entries = composite(path).entries
    assert [e["rule"] for e in entries[:3]] == ["z_box", "gamma", "epsilon"]
    assert entries[3:] == PRESETS["epsilon_plus"]
    e = ox.explain(ox.demo_model(), ox.demo_input(), method="lrp", composite=path)
    assert e.residual is not None
    assert e.residual.ok


def test_command_line(tmp_path: Path) -> None:
    """The option of the shell lines, on a net and an array that are at hand."""
    import numpy as np
    import onnx
    from tiny_models import fullgrad_net
    from typer.testing import CliRunner

    from onnxplain.cli import app

    proto, x = fullgrad_net()
    onnx.save(proto, tmp_path / "net.onnx")
    np.save(tmp_path / "x.npy", x)
    (tmp_path / "mine.toml").write_text('[[rule]]\nrule = "z_plus"\n')
    for given in ("epsilon_plus", str(tmp_path / "mine.toml")):
        asked = [
            "explain",
            str(tmp_path / "net.onnx"),
            str(tmp_path / "x.npy"),
            "-m",
            "lrp",
            "-O",
            f"composite={given}",
        ]
        result = CliRunner().invoke(app, [*asked, "-o", str(tmp_path / "e.png")])
        assert result.exit_code == 0, result.output
        assert (tmp_path / "e.png").stat().st_size > 1000
    result = CliRunner().invoke(app, [*asked[:-1], "composite=epsilon_pluss"])
    assert result.exit_code == 2
    assert "no composite 'epsilon_pluss'" in " ".join(result.output.split())
