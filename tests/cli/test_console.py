"""Progress on terminals only, and JSON that any reader takes."""

from __future__ import annotations

import io
import json
import sys
import time

import pytest

from onnxplain.cli import console
from onnxplain.cli.outputs import file_name


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def run_slowly(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, patience: float) -> str:
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(console, "PATIENCE", patience)
    with console.progress(2) as steps:
        steps.begin("first")
        time.sleep(0.2)
        steps.finish()
        steps.begin("second")
        time.sleep(0.2)
    return stream.getvalue()


def test_long_work_shows_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "second" in run_slowly(monkeypatch, Terminal(), patience=0.05)


def test_short_work_and_pipes_show_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    short = run_slowly(monkeypatch, Terminal(), patience=60)
    assert "first" not in short
    assert "second" not in short
    assert run_slowly(monkeypatch, io.StringIO(), patience=0.05) == ""


def test_an_error_ends_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    with pytest.raises(ValueError, match="inside"), console.progress(1):
        raise ValueError("inside")
    assert stream.getvalue().count("\x1b[?25l") == stream.getvalue().count("\x1b[?25h")


def test_json_has_no_nan() -> None:
    text = console.json_text({"a": float("nan"), "b": [float("inf"), 1.5], "c": "é"})
    assert json.loads(text) == {"a": None, "b": [None, 1.5], "c": "é"}
    assert "é" in text


def test_file_names_are_plain_and_unique() -> None:
    used: set[str] = set()
    names = [file_name(name, used) for name in ("a/b.png", "a-b.jpg", "x.npy[3]", "../../etc.png", "ü 1.png", "...")]
    assert names == ["a-b.png", "a-b-2.png", "x-3.png", "etc.png", "ü-1.png", "sample.png"]


def test_work_may_learn_its_length_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(console, "PATIENCE", 0.05)
    with console.progress(1) as steps:
        for done in range(4):
            steps.at(done, 4, f"part {done}")
            time.sleep(0.15)
    assert steps.total == 4
    assert "part 3" in stream.getvalue()
