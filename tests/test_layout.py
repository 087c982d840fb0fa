"""The folders at the root are the subpackages, and nothing else can import them."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import onnxplain

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("cli", "engine", "exporters", "models")


@pytest.mark.parametrize("name", FOLDERS)
def test_each_link_is_its_folder(name: str) -> None:
    """The wheel is written from the real folders, so a copy in the place of a link would ship stale code."""
    link = ROOT / "src" / "onnxplain" / name
    assert link.is_symlink()
    assert not Path(link.readlink()).is_absolute(), "a link has to survive a clone to another place"
    assert link.samefile(ROOT / name)


@pytest.mark.parametrize("name", FOLDERS)
def test_each_folder_is_a_subpackage(name: str) -> None:
    spec = find_spec(f"onnxplain.{name}")
    assert spec is not None
    assert spec.origin is not None
    assert Path(spec.origin).name == "__init__.py"


def test_folders_are_not_importable_from_elsewhere(tmp_path: Path) -> None:
    code = (
        "import importlib.util, onnxplain\n"
        f"print([n for n in {FOLDERS!r} if importlib.util.find_spec(n) is not None])\n"
        "print(onnxplain.__version__)"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert run.stdout.split("\n")[:2] == ["[]", onnxplain.__version__]


def test_types_are_shipped() -> None:
    assert onnxplain.__file__ is not None
    assert (Path(onnxplain.__file__).parent / "py.typed").is_file()
