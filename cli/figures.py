"""Results as pictures: one figure for one map, a page for several; whatever the kind of input.

Guarantee: the same results give the same bytes; every figure carries what was explained, and how well it proves
itself, in its caption and in its text metadata.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxplain.cli.results import Column, Results, position_names, target_text
from onnxplain.engine.errors import OutputError

if TYPE_CHECKING:
    import numpy as np

    from onnxplain.cli.samples import Samples
    from onnxplain.engine.explanation import Explanation
    from onnxplain.engine.render.grid import Cell

    Array = np.ndarray[Any, Any]

#: Maps on one page; more are unreadable, and belong into a folder.
MOST_MAPS = 120
#: Methods side by side; more of them go below one another.
SIDE_BY_SIDE = 6
#: Kinds that can be drawn.
DRAWN = ("picture", "series", "tokens", "table")


def page(results: Results, samples: Samples, places: Sequence[int], axes: Sequence[str | None]) -> bytes:
    """PNG of some samples by all methods.

    Args:
        results: The run.
        samples: With the arrays that a series is drawn from.
        places: Which samples.
        axes: What the axes of the model's input are.

    Raises:
        OutputError: Too many for one page, or nothing that can be drawn.
    """
    maps = len(places) * len(results.columns)
    if maps > MOST_MAPS:
        raise OutputError(f"{maps} maps do not fit on one page ({MOST_MAPS} at most); give a folder with -o")
    if results.kind == "picture":
        if len(places) == 1 and len(results.columns) > 1:
            return _sheet(results, places[0])
        lines = (len(results.columns) + SIDE_BY_SIDE - 1) // SIDE_BY_SIDE
        width = (len(results.columns) + lines - 1) // lines
        parts = [results.columns[i : i + width] for i in range(0, len(results.columns), width)]
        pages = [_pictures(results, places, part, title=i == 0) for i, part in enumerate(parts)]
        return pages[0] if len(pages) == 1 else _stacked(pages)
    draw = {"series": _series, "table": _table}.get(results.kind, _tokens)
    figures = [draw(results, samples, column, place, axes) for place in places for column in results.columns]
    return figures[0] if len(figures) == 1 else _stacked(figures)


def _metadata(results: Results, places: Sequence[int], columns: Sequence[Column]) -> dict[str, str]:
    """What a PNG says about itself to programs."""
    from onnxplain.engine.explanation import jsonable

    entries = []
    for column in columns:
        for place in places:
            explanation, row = column.of(place)
            sha = explanation.provenance.get("model_sha256", "")
            summary = explanation.summary(row)
            entries.append({"sample": results.samples[place].name, "model_sha256": sha, **summary})
    return {"onnxplain": json.dumps(jsonable(entries))}


def _caption(results: Results, column: Column, place: int) -> dict[str, Any]:
    explanation, row = column.of(place)
    target = target_text(results, explanation, row)
    return {
        "class_name": f"class {target}" if target.isdecimal() else target,
        "score": float(explanation.score[row]),
        "head": explanation.head,
        "method": column.title,
        "residual": None if explanation.residual is None else float(explanation.residual.relative[row]),
    }


def _warning(explanation: Explanation, row: int) -> str:
    residual = explanation.residual
    if residual is None or residual.relative[row] <= residual.tolerance:
        return ""
    return f"The residual is past the tolerance of {residual.tolerance:.0e}."


def _map(explanation: Explanation, row: int, kind: str) -> Array:
    wanted = 2 if kind == "picture" else 1
    if explanation.saliency is None or explanation.saliency.ndim != wanted + 1:
        shape = "none" if explanation.saliency is None else str(explanation.saliency.shape)
        raise OutputError(f"{explanation.method} gave no map that can be drawn (shape {shape}); write .npz or .json")
    return explanation.map(row)


def _pictures(results: Results, places: Sequence[int], columns: Sequence[Column], *, title: bool) -> bytes:
    from onnxplain.engine.render.grid import Row, grid
    from onnxplain.engine.render.overlay import figure_overlay

    model = Path(results.model.source.name).name
    if len(places) == 1 and len(columns) == 1:
        column, sample = columns[0], results.samples[places[0]]
        explanation, row = column.of(places[0])
        values = _map(explanation, row, "picture")
        return figure_overlay(
            _picture_of(results, places[0], values.shape), values, signed=explanation.signed, title=sample.name,
            note=_warning(explanation, row), metadata=_metadata(results, places, columns),
            **_caption(results, column, places[0]),
        )  # fmt: skip
    rows = []
    for place in places:
        cells = [_cell(results, column, place) for column in columns]
        caption = _caption(results, columns[0], place)
        line = _line(caption, columns)
        first = _map(*columns[0].of(place), "picture")
        picture = _picture_of(results, place, first.shape)
        rows.append(Row(picture, cells, label=results.samples[place].name, caption=line))
    panel = 256 if len(places) <= 12 else 160
    names = [column.title for column in columns]
    return grid(rows, names, title=model if title else "", panel=panel, metadata=_metadata(results, places, columns))


def _line(caption: dict[str, Any], columns: Sequence[Column]) -> str:
    """What was explained, where it is the same for all columns."""
    if any(column.number is not None for column in columns):
        return ""
    return f"{caption['class_name']}, {caption['head']} {caption['score']:.4g}"


def _cell(results: Results, column: Column, place: int) -> Cell:
    from onnxplain.engine.render.grid import Cell
    from onnxplain.engine.render.overlay import caption_text

    explanation, row = column.of(place)
    own = _caption(results, column, place)
    named = f"{own['class_name']}, {own['score']:.4g}" if column.number is not None else ""
    words = " · ".join(filter(None, (named, caption_text(residual=own["residual"]))))
    words += ", past the tolerance" if _warning(explanation, row) else ""
    return Cell(_map(explanation, row, "picture"), explanation.signed, words)


def _sheet(results: Results, place: int) -> bytes:
    """One picture by all methods, filled line by line."""
    from onnxplain.engine.render.sheet import sheet

    first = _map(*results.columns[0].of(place), "picture")
    caption = _caption(results, results.columns[0], place)
    return sheet(
        _picture_of(results, place, first.shape),
        [_cell(results, column, place) for column in results.columns],
        [column.title for column in results.columns],
        title=Path(results.model.source.name).name,
        input_label=results.samples[place].name,
        input_caption=_line(caption, results.columns),
        across=SIDE_BY_SIDE + 1,
        metadata=_metadata(results, [place], results.columns),
    )


def _picture_of(results: Results, place: int, shape: tuple[int, ...]) -> Array:
    """The sample's picture, or plain white where its array is none."""
    import numpy as np

    picture = results.samples[place].picture
    return np.full((*shape, 3), 255, np.uint8) if picture is None else picture


def _series(results: Results, samples: Samples, column: Column, place: int, axes: Sequence[str | None]) -> bytes:
    from onnxplain.engine.render.overlay import caption_text
    from onnxplain.engine.render.series import figure_series

    explanation, row = column.of(place)
    # A class activation map is named after its layer; what is drawn is the input that the map lies over.
    signal = samples.feed(place, next(iter(explanation.attributions), ""))
    return figure_series(
        signal.T if axes[1] is None else signal, _map(explanation, row, "series"), signed=explanation.signed,
        title=results.samples[place].name, caption=caption_text(**_caption(results, column, place)),
        note=_warning(explanation, row), metadata=_metadata(results, [place], [column]),
    )  # fmt: skip


def _tokens(results: Results, samples: Samples, column: Column, place: int, axes: Sequence[str | None]) -> bytes:
    from onnxplain.engine.render.overlay import caption_text
    from onnxplain.engine.render.tokens import figure_tokens

    explanation, row = column.of(place)
    values = _map(explanation, row, "tokens")
    return figure_tokens(
        position_names(results, place, len(values)), values, signed=explanation.signed, scheme="auto",
        title=results.samples[place].name, caption=caption_text(**_caption(results, column, place)),
        note=_warning(explanation, row), metadata=_metadata(results, [place], [column]),
    )  # fmt: skip


def _table(results: Results, samples: Samples, column: Column, place: int, axes: Sequence[str | None]) -> bytes:
    from onnxplain.engine.render.bars import figure_bars
    from onnxplain.engine.render.overlay import caption_text

    explanation, row = column.of(place)
    values = _map(explanation, row, "table")
    cells = samples.feed(place, next(iter(explanation.attributions), ""))
    names = position_names(results, place, len(values))
    if cells.shape == values.shape:
        names = [f"{name} = {float(cell):.4g}" for name, cell in zip(names, cells, strict=True)]
    return figure_bars(
        names, values, signed=explanation.signed, title=results.samples[place].name,
        caption=caption_text(**_caption(results, column, place)), note=_warning(explanation, row),
        metadata=_metadata(results, [place], [column]),
    )  # fmt: skip


def _stacked(figures: Sequence[bytes]) -> bytes:
    """PNGs below one another on white."""
    import cv2
    import numpy as np

    from onnxplain.engine.render.png import encode, read_text

    pictures = [
        np.asarray(cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR_RGB), dtype=np.uint8) for png in figures
    ]
    width = max(picture.shape[1] for picture in pictures)
    rows = []
    for picture in pictures:
        row = np.full((picture.shape[0], width, 3), 255, np.uint8)
        row[:, : picture.shape[1]] = picture
        rows.append(row)
    texts = [json.loads(read_text(png)["onnxplain"]) for png in figures]
    return encode(np.concatenate(rows), {"onnxplain": json.dumps([entry for text in texts for entry in text])})
