"""The page on plug-ins: its blocks run one after the other, as a reader would run them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from onnxplain import rules

PAGE = Path(__file__).resolve().parent.parent / "docs" / "add-an-operator.md"


def test_every_block_runs() -> None:
    blocks = re.findall(r"<!-- (\w+) -->\n```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert [name for name, _ in blocks] == ["operator", "rule", "rule", "check", "check", "use"]
    content: dict[str, Any] = {}
    with rules.temporary():
        for name, code in blocks:
            exec(compile(code, f"{PAGE.name}, {name}", "exec"), content)


def test_no_python_block_is_left_out() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text.count("```python") == len(re.findall(r"<!-- \w+ -->\n```python", text))
