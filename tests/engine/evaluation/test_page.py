"""The report holds what was found, and can be read without a network."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from tiny_models import fullgrad_net

import onnxplain as ox
from onnxplain.engine.errors import OutputError
from onnxplain.engine.evaluation.agreement import pairwise
from onnxplain.engine.evaluation.page import Shown, write_page
from onnxplain.engine.evaluation.sanity import sanity


def samples() -> np.ndarray:  # type: ignore[type-arg]
    return np.random.default_rng(0).normal(size=(6, 1, 4, 4)).astype(np.float32)


def test_everything_is_on_the_page(tmp_path: Path) -> None:
    proto, _ = fullgrad_net()
    model = ox.load(proto)
    metrics = ox.evaluate(model, samples(), methods=["gradient", "random"], metrics=["deletion", "sparseness"])
    checked = sanity(model, samples(), methods=["gradient", "edges"], draws=1)
    picture = np.full((4, 4, 3), 128, np.uint8)
    shown = [
        Shown("boot <1>", "class 9", picture, {"gradient": (np.eye(4), True)}),
        Shown("no picture", "class 1", None, {"gradient": (np.arange(12.0), False)}),
    ]
    page = write_page(tmp_path / "r.html", model, metrics, checked, shown).read_text(encoding="utf-8")
    for heading in ("Verdicts", "Metrics", "Curves", "Maps", "Model", "Provenance"):
        assert f">{heading}</h2>" in page
    assert model.source.sha256 in page
    assert "boot &lt;1&gt;" in page
    assert page.count("data:image/png") == 3
    mean = metrics.result("gradient", "deletion").mean
    assert f"{mean:.3g}" in page
    for verdict in checked.verdicts.values():
        assert f'<span class="badge {verdict}">{verdict}</span>' in page
    assert not [a for a in re.findall(r'(?:src|href)="([^"]*)"', page) if not a.startswith(("data:", "#"))]


def test_agreement_of_methods(tmp_path: Path) -> None:
    a = np.random.default_rng(0).normal(size=(5, 8, 8))
    found = pairwise({"a_b": a, "twice": 2 * a, "minus": -a, "flat": 0 * a}, ("spearman", "top_k"))
    path = write_page(tmp_path / "r.html", ox.load(fullgrad_net()[0]), None, agreement=found)
    page = path.read_text(encoding="utf-8")
    section = page.partition(">Agreement</h2>")[2].partition("</section>")[0]
    assert "on average over 5" in section
    assert "share of the 10% most salient" in section
    first, second = re.findall(r"<tbody>(.*?)</tbody>", section)
    cells = [re.findall(r"<td[^>]*>([^<]*)</td>", row) for row in first.split("</tr>")]
    assert cells[:4] == [["", "", ""], ["1.00", "", ""], ["-1.00", "-1.00", ""], ["-", "-", "-"]]
    assert second.count(">1.00</td>") == 3  # by magnitude
    assert "1 a_<wbr>b</th>" in first


def test_agreement_needs_two_methods(tmp_path: Path) -> None:
    found = pairwise({"a": np.ones((2, 3, 3))}, ("spearman",))
    path = write_page(tmp_path / "r.html", ox.load(fullgrad_net()[0]), None, agreement=found)
    assert "Agreement</h2>" not in path.read_text(encoding="utf-8")


def test_parts_that_are_missing_have_no_section(tmp_path: Path) -> None:
    proto, _ = fullgrad_net()
    model = ox.load(proto)
    metrics = ox.evaluate(model, samples(), methods=["gradient"], metrics=["sparseness"])
    page = write_page(tmp_path / "r.html", model, metrics, title="Mine").read_text(encoding="utf-8")
    assert "<title>Mine</title>" in page
    for heading in ("Verdicts", "Curves", "Maps"):
        assert f">{heading}</h2>" not in page


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    proto, _ = fullgrad_net()
    with pytest.raises(OutputError, match="cannot write"):
        write_page(tmp_path / "none" / "r.html", ox.load(proto), None)
