"""Boxes in every form, and which candidate a box means."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxplain.engine.detections import corners, intersection_over_union
from onnxplain.engine.errors import TargetError
from onnxplain.engine.targets import Answer, Target, settled

ROWS = np.array([[2.0, 4.0, 6.0, 10.0], [20.0, 20.0, 30.0, 40.0]])


@pytest.mark.parametrize(
    ("form", "box"),
    [("xyxy", [2, 4, 6, 10]), ("yxyx", [4, 2, 10, 6]), ("xywh", [2, 4, 4, 6]), ("cxcywh", [4, 7, 4, 6])],
)
def test_forms(form: str, box: list[float]) -> None:
    assert corners(np.array(box), form).tolist() == [2, 4, 6, 10]


def test_corners_come_in_order() -> None:
    assert corners(np.array([6, 10, 2, 4]), "xyxy").tolist() == [2, 4, 6, 10]
    with pytest.raises(TargetError, match="unknown form 'wh'"):
        corners(np.zeros(4), "wh")


def test_overlap() -> None:
    """Two squares of 4 that share a quarter: 1 of 4 + 4 - 1."""
    found = intersection_over_union(np.array([0, 0, 2, 2.0]), np.array([[1, 1, 3, 3.0], [0, 0, 2, 2], [5, 5, 5, 5]]))
    np.testing.assert_allclose(found, [1 / 7, 1, 0])


def settle(target: Target, **outputs: Any) -> Target:
    (found,) = settled([target], lambda: Answer(outputs, next(iter(outputs)), len(next(iter(outputs.values())))))
    return found


SCORES = np.array([[[0.1, 0.9, 0.2], [0.3, 0.1, 0.2]]])


@pytest.mark.parametrize("by_box", [True, False])
def test_scores_beside_the_boxes(by_box: bool) -> None:
    scores = SCORES if by_box else SCORES.transpose(0, 2, 1)
    target = settle(Target.box([2, 4, 6, 9], boxes="b", scores="s"), b=ROWS[None], s=scores)
    assert target.output == "s"
    assert scores.reshape(-1)[target.value[0]] == 0.9


@pytest.mark.parametrize("by_row", [True, False])
def test_scores_in_the_row_of_the_box(by_row: bool) -> None:
    """One output of [boxes, 4 + classes], or of [4 + classes, boxes] as newer detectors have it."""
    boxes = np.concatenate([ROWS] * 5)
    rows = np.concatenate([boxes, np.arange(30).reshape(10, 3)], axis=1)[None]
    output = rows if by_row else rows.transpose(0, 2, 1)
    target = settle(Target.box(ROWS[1].tolist(), 2), y=output)
    assert output.reshape(-1)[target.value[0]] == 5
    best = settle(Target.box(ROWS[1].tolist(), first_class=5), y=output)
    assert output.reshape(-1)[best.value[0]] == 5


def test_refusals() -> None:
    with pytest.raises(TargetError, match="four numbers"):
        settle(Target.box([1, 2, 3]), y=ROWS[None])
    with pytest.raises(TargetError, match="class 7 is out of range"):
        settle(Target.box([2, 4, 6, 9], 7, boxes="b", scores="s"), b=ROWS[None], s=SCORES)
    with pytest.raises(TargetError, match="does not fit 2 boxes"):
        settle(Target.box([2, 4, 6, 9], boxes="b", scores="s"), b=ROWS[None], s=np.zeros((1, 5, 7)))
    with pytest.raises(TargetError, match="no output 'c'"):
        settle(Target.box([2, 4, 6, 9], boxes="c"), b=ROWS[None])
