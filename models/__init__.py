"""What ships beside the code: preprocessing cards and one small trained network with pictures to try it on.

Paths only; nothing heavy is imported, and whoever needs a model or a card reads the file.
"""

from __future__ import annotations

import difflib
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from onnxplain.engine.errors import OptionError


class DemoSample(NamedTuple):
    """One picture of the demo and what it shows."""

    path: Path
    class_index: int
    class_name: str


def _folder(name: str) -> Path:
    return Path(str(files("onnxplain.models") / name))


def cards() -> dict[str, Path]:
    """The preprocessing cards that ship, name -> TOML file, sorted by name."""
    return {path.stem: path for path in sorted(_folder("cards").glob("*.toml"), key=lambda path: path.stem)}


def card_path(name: str) -> Path:
    """The file of one shipped card.

    Raises:
        OptionError: No card of that name; the message offers the nearest ones.
    """
    known = cards()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3) or sorted(known)
        raise OptionError(f"unknown preset '{name}'; did you mean {', '.join(near)}?")
    return known[name]


def demo_model() -> Path:
    """The demo network: Fashion-MNIST, ``image`` f32[N,1,28,28] in 0..1 -> ``logits`` f32[N,10]."""
    return _folder("demo") / "fashion-mnist.onnx"


def demo_labels() -> list[str]:
    """Class names of the demo network, in the order of its outputs."""
    return (_folder("demo") / "labels.txt").read_text(encoding="utf-8").split("\n")[:-1]


def demo_samples() -> list[DemoSample]:
    """The demo pictures (28 x 28, grey), in the order of their classes; a file is named after its class."""
    found = []
    for index, label in enumerate(demo_labels()):
        path = _folder("demo") / f"{label.lower().replace('/', '-').replace(' ', '-')}.png"
        if path.is_file():
            found.append(DemoSample(path, index, label))
    return found
