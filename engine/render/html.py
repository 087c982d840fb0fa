"""Pieces of a self-contained HTML page: escaping, pictures inside the file, tables, curves as SVG.

Guarantee: nothing is fetched when the page is opened, and whatever text goes in is shown as text.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

STYLE = """
:root { color-scheme: light dark; --ink: #1d2129; --soft: #5b6472; --line: #d9dee5; --ground: #fff; --band: #f5f7f9;
  --good: #0a7a4b; --bad: #b3261e; --open: #8a6100; }
@media (prefers-color-scheme: dark) { :root { --ink: #e7eaee; --soft: #a3acb9; --line: #39414d; --ground: #14171c;
  --band: #1c2027; --good: #4cc38a; --bad: #ff8a80; --open: #e5b454; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 1.5rem 1rem 4rem; font: 1rem/1.5 system-ui, sans-serif;
  color: var(--ink); background: var(--ground); }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; } h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; }
p { max-width: 46rem; } .soft { color: var(--soft); } .small { font-size: .875rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .35rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; color: var(--soft); white-space: nowrap; } td.number, th.number { text-align: right; }
tr:nth-child(even) td { background: var(--band); } .best { font-weight: 700; }
.badge { display: inline-block; padding: 0 .5rem; border-radius: 1rem; border: 1px solid currentColor; font-weight: 600; }
.pass { color: var(--good); } .fail { color: var(--bad); } .undecided { color: var(--open); }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); gap: 1rem; margin: .5rem 0 1.5rem; }
figure { margin: 0; } figure img, figure svg { width: 100%; height: auto; image-rendering: auto; border-radius: .25rem; }
figcaption { font-size: .875rem; color: var(--soft); } .curves { grid-template-columns: repeat(auto-fill, minmax(20rem, 1fr)); }
.matrices { display: flex; flex-wrap: wrap; gap: 1.25rem; margin: .5rem 0 1.5rem; } .matrices figure { max-width: 100%; }
.matrices figcaption { max-width: 18rem; }
table.matrix { width: auto; font-size: .8rem; } .matrix th { white-space: normal; text-align: center; }
.matrix th[scope=row] { text-align: left; min-width: 6.5rem; max-width: 8rem; padding-left: 0; }
.matrix th, .matrix td { padding: .3rem .25rem; vertical-align: middle; } .matrix td { text-align: center; min-width: 2.2rem; }
.matrix td, .matrix tr:nth-child(even) td { background: none; }
dl.list { margin: 1rem 0; } .list dt { margin-top: .75rem; font-weight: 600; } .list dd { margin: .1rem 0 0 1rem; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--band); padding: 1rem; border-radius: .25rem; }
nav a { margin-right: 1rem; } a { color: inherit; }
@media print { body { max-width: none; padding: 0; } nav { display: none; } h2 { break-after: avoid; }
  figure, tr { break-inside: avoid; } }
"""


def text(value: Any) -> str:
    """``value`` as text for a page."""
    return html.escape(str(value))


def page(title: str, sections: Mapping[str, str], lead: str = "") -> str:
    """A whole document.

    Args:
        title: Its heading.
        sections: Content per heading, HTML.
        lead: HTML below the heading.
    """
    links = " ".join(f'<a href="#s{i}">{text(name)}</a>' for i, name in enumerate(sections))
    body = "\n".join(
        f'<section aria-labelledby="s{i}"><h2 id="s{i}">{text(name)}</h2>\n{content}</section>'
        for i, (name, content) in enumerate(sections.items())
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{STYLE}</style></head>\n<body><header><h1>{text(title)}</h1>{lead}"
        f'<nav aria-label="Sections">{links}</nav></header>\n<main>{body}</main></body></html>\n'
    )


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], numbers: Sequence[str] = ()) -> str:
    """A table; cells are text unless they are :class:`Markup`.

    Args:
        columns: Headings.
        rows: Cells.
        numbers: Columns that are set to the right.
    """
    kind = ['class="number"' if c in numbers else "" for c in columns]
    head = "".join(f'<th scope="col" {k}>{text(c)}</th>' for c, k in zip(columns, kind, strict=True))
    lines = []
    for row in rows:
        cells = [c if isinstance(c, Markup) else text(c) for c in row]
        lines.append("<tr>" + "".join(f"<td {k}>{c}</td>" for c, k in zip(cells, kind, strict=True)) + "</tr>")
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def matrix(names: Sequence[str], values: Array, caption: str) -> str:
    """A symmetric table of numbers from -1 to 1, its lower half; shades help to read it, and nothing hangs on them.

    Args:
        names: Of rows and columns; columns have the numbers of the rows, so that a phone has room for them.
        values: ``[M, M]``; NaN is shown as a dash.
        caption: Words below it.
    """
    head = "".join(f'<th scope="col">{number + 1}</th>' for number in range(len(names) - 1))
    lines = []
    for i, name in enumerate(names):
        words = text(name).replace("_", "_<wbr>")
        cells = "".join(_shaded(float(v)) for v in values[i, :i]) + "<td></td>" * (len(names) - 1 - i)
        lines.append(f'<tr><th scope="row">{i + 1} {words}</th>{cells}</tr>')
    inside = f"<thead><tr><td></td>{head}</tr></thead><tbody>{''.join(lines)}</tbody>"
    return figure(f'<div class="scroll"><table class="matrix">{inside}</table></div>', caption)


def _shaded(value: float) -> str:
    if not np.isfinite(value):
        return "<td>-</td>"
    hue = "10, 122, 75" if value > 0 else "179, 38, 30"
    return f'<td style="background: rgba({hue}, {min(abs(value), 1) / 2:.2f})">{round(value, 2) + 0.0:.2f}</td>'


def entries(items: Mapping[str, Sequence[str]]) -> str:
    """Headings (HTML) with lines of text below each; it wraps where a table would be too wide."""
    parts = [f"<dt>{head}</dt>" + "".join(f"<dd>{text(line)}</dd>" for line in lines) for head, lines in items.items()]
    return f'<dl class="list">{"".join(parts)}</dl>'


class Markup(str):
    """Text that is HTML already."""


def badge(word: str) -> Markup:
    """A verdict."""
    return Markup(f'<span class="badge {text(word)}">{text(word)}</span>')


def figure(content: str, caption: str) -> str:
    """A picture with words below it."""
    return f"<figure>{content}<figcaption>{text(caption)}</figcaption></figure>"


def image(rgb: Array, description: str) -> str:
    """A picture inside the page.

    Args:
        rgb: uint8 ``(H, W, 3)``.
        description: For those who cannot see it.
    """
    from onnxplain.engine.render.png import encode

    data = base64.b64encode(encode(np.ascontiguousarray(rgb, dtype=np.uint8))).decode()
    return f'<img alt="{text(description)}" loading="lazy" src="data:image/png;base64,{data}">'


def curves(lines: Mapping[str, tuple[Array, Array]], label: str, title: str) -> str:
    """Curves as one SVG drawing.

    Args:
        lines: Horizontal and vertical values per name.
        label: Of the horizontal axis.
        title: Of the drawing.
    """
    import matplotlib as mpl

    with mpl.rc_context({"svg.hashsalt": title}):  # identifiers inside the drawing are drawn at random otherwise
        return _drawn(lines, label, title)


def _drawn(lines: Mapping[str, tuple[Array, Array]], label: str, title: str) -> str:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(5.2, 3.4), layout="constrained")
    FigureCanvasSVG(drawing)
    axes = drawing.add_subplot()
    for number, (name, (x, y)) in enumerate(lines.items()):
        style = ("-", "--", "-.", ":")[number // 10 % 4]
        axes.plot(x, y, style, marker="o" if len(x) < 12 else "", markersize=3, label=name)
    axes.set_xlabel(label)
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, framealpha=0.6)
    stream = io.StringIO()
    drawing.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return stream.getvalue()[stream.getvalue().index("<svg") :]
