"""`onnxplain roar`: trains, prints a table, writes what was asked for, and refuses before it works for hours."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import array, call, listing, refused, saved
from tiny_models import model, node


@pytest.fixture
def given(tmp_path: Path) -> tuple[Path, Path]:
    """A linear net that knows which of 16 places decides, and samples of 0..255."""
    w = np.zeros((16, 2))
    w[5] = [-1, 1]
    net = saved(
        model(
            [node("Flatten", "x", "f"), node("Gemm", "f w b", "y")],
            {"x": ["N", 1, 4, 4]}, {"y": ["N", 2]}, {"w": w, "b": np.array([0.5, -0.5])},
        ),
        tmp_path / "net.onnx",
    )  # fmt: skip
    x = np.random.default_rng(0).integers(0, 256, (300, 1, 4, 4), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", x=x, y=(x[:, 0, 1, 1] > 127).astype(int))
    return net, tmp_path / "data.npz"


QUICK = ("--fractions", "0.0625", "--trainings", 2, "--epochs", 6, "--lr", 0.05, "--scale", "1/255", "--threads", 1)


def test_table_and_files(given: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    result = call(
        "roar", *given, "-m", "gradient", *QUICK, "--mode", "roar,kar", "-o", out / "r.png", "-o", out / "r.csv"
    )
    assert result.exit_code == 0, result.output
    removed, kept = result.stdout.split("kar", 1)
    lines = [line.split()[0] for line in removed.splitlines() if line.startswith(("gradient", "random", "edges"))]
    assert lines[0] == "gradient"
    assert "higher is better" in kept
    assert result.stderr == ""
    assert set(listing(out)) == {"r.png", "r.csv"}


def test_json_goes_on_where_it_was(given: tuple[Path, Path], tmp_path: Path) -> None:
    request = ("roar", *given, "-m", "gradient", "--no-references", *QUICK, "--folder", tmp_path / "kept", "--json")
    first, again = (json.loads(call(*request).stdout) for _ in range(2))
    assert first["table"] == again["table"]
    assert [row["method"] for row in first["table"]] == ["gradient"]
    assert first["provenance"]["recipe"]["epochs"] == 6


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("-o", "r.txt"), "no known form"),
        (("--fractions", "some"), "is no number"),
        (("--scale", "1/0"), "is no number"),
        (("--mode", "road"), "choose from roar, kar, mask"),
        (("-m", "gradiant"), "did you mean gradient"),
        (("--optimiser", "sdg"), "unknown optimiser"),
        (("--fractions", "1.5"), "between 0 and 1"),
    ],
)
def test_bad_requests(given: tuple[Path, Path], options: tuple[str, ...], words: str) -> None:
    assert words in refused("roar", *given, "--scale", "1/255", *options)


def test_samples_without_classes(given: tuple[Path, Path], tmp_path: Path) -> None:
    assert "without their classes" in refused(
        "roar", given[0], array(tmp_path / "x.npy", np.zeros((4, 1, 4, 4), np.float32))
    )
