"""Pages: text stays text, nothing is fetched, every tag is closed."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np

from onnxplain.engine.render import html

VOID = {"meta", "img", "br", "link", "hr", "input"}


class Strict(HTMLParser):
    """Notes tags that are closed in the wrong order, and all text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def parsed(document: str) -> Strict:
    parser = Strict()
    parser.feed(document)
    parser.close()
    assert parser.open == []
    return parser


def test_text_stays_text() -> None:
    evil = "<script>alert('x')</script> & \"more\""
    document = html.page(evil, {evil: html.table([evil], [[evil]])}, html.badge(evil))
    found = parsed(document)
    assert "<script" not in document
    assert found.text.count("<script>") == 7, "title, heading, lead, link, section, column and cell"
    assert html.text("a<b") == "a&lt;b"


def test_nothing_is_fetched() -> None:
    picture = np.zeros((4, 4, 3), np.uint8)
    drawing = html.curves({"one": (np.arange(3), np.arange(3.0))}, "share", "a curve")
    document = html.page("p", {"s": html.figure(html.image(picture, "black"), "a picture") + drawing})
    parsed(document)
    for address in re.findall(r'(?:src|href)="([^"]*)"', document):
        assert address.startswith(("data:", "#")), address
    assert "@import" not in document
    assert "<script" not in document


def test_curves_are_the_same_twice() -> None:
    lines = {"a": (np.arange(4) / 3, np.array([1.0, 0.5, 0.2, 0.1])), "b": (np.arange(4) / 3, np.ones(4))}
    assert html.curves(lines, "x", "t") == html.curves(lines, "x", "t")


def test_numbers_stand_right_and_markup_is_kept() -> None:
    made = html.table(["name", "n"], [["a", html.Markup("<b>1</b>")]], numbers=["n"])
    assert '<td class="number"><b>1</b></td>' in made
    assert "<td >a</td>" in made
